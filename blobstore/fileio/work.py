"""Work that is done shard by shard, in this process or, by an engine, on many machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from blobstore.fileio.types import Progress

Opened = TypeVar("Opened")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Work(Protocol[Opened, Result_co]):
    """Something to do for each shard. An engine sends it elsewhere: paths and choices, and no open files."""

    def open(self) -> AbstractContextManager[Opened]:
        """Open what all shards need; once in each process rather than for each shard."""

    def do(self, opened: Opened, number: int, progress: Progress) -> Result_co:
        """Do it for one shard: the same result, whoever does it and however often.

        Args:
            opened: What `open` gave.
            number: Of the shard, from 0.
            progress: To be called with the number of further bytes done.
        """


class Engine(Protocol):
    """Does some work for each shard."""

    def __call__(
        self, work: Work[Opened, Result], numbers: Sequence[int], progress: Progress
    ) -> Iterator[tuple[int, Result]]:
        """Yield the number and the result of each shard, in the order in which they are done."""


def do_here(work: Work[Opened, Result], numbers: Sequence[int], progress: Progress) -> Iterator[tuple[int, Result]]:
    """Do some work in this thread, one shard after the other: the simplest engine."""
    with work.open() as opened:
        for number in numbers:
            yield number, work.do(opened, number, progress)


def results(
    engine: Engine, work: Work[Opened, Result], numbers: Sequence[int], progress: Progress = lambda _: None
) -> list[Result]:
    """Let an engine do some work → the results, in the order of ``numbers``."""
    done = dict(engine(work, numbers, progress))
    return [done[number] for number in numbers]
