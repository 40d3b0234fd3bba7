"""Progress on standard error, and the time a command takes."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blobstore.cli.output import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID


class _Advance:
    """Advances a bar by bytes; its total may become known later."""

    def __init__(self, bar: Progress | None, task: TaskID | None) -> None:
        self._bar, self._task = bar, task

    def __call__(self, nbytes: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, nbytes)

    def expect(self, nbytes: int) -> None:
        """Take the total."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=nbytes)


@contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """Show a bar with bytes and rate while the block runs, if standard error is a terminal.

    Args:
        total: How many bytes there are to do; None if that is told later (`fileio.ranges.expect`), or isn't known.
        what: What is done.

    Yields:
        A function to call with the number of further bytes done.
    """
    if Quiet.on or not sys.stderr.isatty():
        yield _Advance(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield _Advance(bar, task)


@contextmanager
def steps() -> Iterator[Callable[[int, int, str], None]]:
    """Show how many steps are done, and the next one, while the block runs, if standard error is a terminal.

    Yields:
        A function to call with the number of steps done, the number of all steps, and the next one's name.
    """
    if Quiet.on or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)
