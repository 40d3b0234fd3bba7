"""A conversion as it was asked for: paths and choices, from which any machine makes the same plan."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.checkpoint.reader import open_checkpoint
from blobstore.converting.choices import KINDS, LAYOUTS, WEIGHTS, Choices
from blobstore.converting.choose import choose_plan, needless_flags
from blobstore.converting.shards import make_store, needed_division
from blobstore.errors import ClusterError, UsageError, without_secrets
from blobstore.fileio.sizes import parse_size
from blobstore.gemma.versions import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.converting.plan import Plan
    from blobstore.converting.shards import Division, Run
    from blobstore.fileio.types import Progress
    from blobstore.fileio.work import Engine
    from blobstore.index.locate import IndexPlace

_CHOICES = {"weights": WEIGHTS, "layout": LAYOUTS, "wrapping": ("it", "pt"), "runtime": NAMES}


@dataclass(frozen=True, kw_only=True, repr=False)  # a URL may have secrets, and Dask logs arguments
class Request:
    """The arguments of `blobstore.convert` that determine the bytes which it writes, by their names there."""

    source: str
    output: str | BinaryIO
    kind: str
    weights: str | None
    layout: str | None
    wrapping: str | None
    runtime: str | None
    tokenizer: str | None
    adapters: tuple[str, ...]
    pad: bool
    files: bool
    container: int = 2
    index: IndexPlace = "embedded"
    digests: bool = True
    max_shard_size: int | str | None = None

    @contextmanager
    def planned(self) -> Iterator[tuple[Plan, Checkpoint]]:
        """Plan the conversion → the plan and the open checkpoint.

        Raises:
            CheckpointError, UsageError, FormatError, TruncatedError, MissingExtraError, OSError: As for
                `blobstore.convert`.
        """
        chosen = {name: getattr(self, name) for name in _CHOICES}
        _check("as", self.kind, KINDS)
        for name, value in chosen.items():
            _check(name, value, _CHOICES[name])
        _check("index", self.index, ("embedded", "external"))
        choices = Choices(self.weights or "sfp", self.layout, self.wrapping, pad=self.pad, runtime=self.runtime)
        with open_checkpoint(self.source, adapters=self.adapters) as checkpoint:
            plan = choose_plan(checkpoint, self.kind, choices, tokenizer=self.tokenizer, files=self.files)
            # The runtime says how much a file by name may hold.
            needless = (name for name, value in chosen.items() if value is not None and name != "runtime")
            given = [*needless, *(["no-pad"] * (not self.pad))]
            if given and plan.config is None:
                raise needless_flags(given, self.source)
            choices.refuse_unusable()  # not before it is known that the model has another layout
            if not self.files and plan.config is not None:
                what = "--no-files: a file for gemma.cpp carries no files of the checkpoint"
                raise UsageError("needless-flag", f"{what}: leave it out, or --as names")
            yield plan, checkpoint

    def division(self, plan: Plan) -> Division | None:
        """Return how the plan is divided, if it is; errors as `needed_division`."""
        return needed_division(
            plan,
            self.output,
            max_shard_size=None if self.max_shard_size is None else parse_size(self.max_shard_size),
            runtime=self.runtime,
            version=self.container,
            index=self.index,
            digests=self.digests,
        )


def _check(name: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        raise UsageError("bad-choice", f"{name}: {value!r} is not one of {', '.join(allowed)}")


@dataclass(frozen=True)
class StoreConversion:
    """Makes each file of a set. Whoever does it makes the plan again, and it must be the same.

    Attributes:
        request: The conversion.
        plan_sha256: Of the division.
        resume: Whether complete files are kept.
    """

    request: Request
    plan_sha256: str
    resume: bool

    @contextmanager
    def open(self) -> Iterator[tuple[Plan, Checkpoint, Division]]:
        """Plan the conversion.

        Raises:
            ClusterError: ``other-source``: it is another plan.
            BlobStoreError, OSError: As `Request.planned`.
        """
        with self.request.planned() as (plan, checkpoint):
            division = self.request.division(plan)
            if division is None or division.plan_sha256 != self.plan_sha256:
                what = f"a worker finds other tensors or files in {without_secrets(self.request.source)!r}"
                raise ClusterError("other-source", f"{what}: all machines must see the same source under this path")
            yield plan, checkpoint, division

    def do(self, opened: tuple[Plan, Checkpoint, Division], number: int, progress: Progress) -> bool:
        """Make a file → whether it was kept; errors as `make_store`."""
        return make_store(*opened, number, resume=self.resume, progress=progress)


def write_with(engine: Engine, request: Request, division: Division, progress: Progress) -> Run:
    """Return what lets an engine make the files of a set."""

    def run(resume: bool) -> Iterable[bool]:  # noqa: FBT001 (as `make_store` has it)
        work = StoreConversion(request, division.plan_sha256, resume)
        return (kept for _, kept in engine(work, range(len(division.stores)), progress))

    return run
