"""How the command line prints: tables for people, tab-separated lines for pipes, JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from blobstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import BinaryIO

    from blobstore.store import Store

_STEP = 1000.0
_GAP = 3  # between columns of a table
_ROUNDS_UP = 999.5  # from here three digits would read 1e+03


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a command with its help, an example at the end, and what it runs."""
    parser = commands.add_parser(
        name,
        help=text[0].lower() + text[1:].partition("\n")[0].partition(". ")[0].removesuffix("."),
        description=text,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.register("type", None, _text)  # of all arguments that have no type of their own
    parser.set_defaults(run=run)
    return parser


def _text(value: str) -> str:
    """Refuse what an unset variable of the shell gives: it is neither left out nor the current folder."""
    if not value:
        raise argparse.ArgumentTypeError("it is empty: is a variable of the shell not set?")
    return value


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_base(parser: argparse.ArgumentParser) -> None:
    """Add ``--base``, for commands that read tensors."""
    parser.add_argument("--base", metavar="OTHER", help="the file that a packed one is the difference to")


def output_of(options: argparse.Namespace, output: str, *, streams: bool = True) -> str | BinaryIO:
    """Return where a command writes: a path, or standard output for ``-``.

    Args:
        options: The command's.
        output: As given.
        streams: Whether it can write from front to back without looking back.

    Raises:
        UsageError: ``no-stream``; ``not-a-file`` for another name of standard output; ``two-ways`` with ``--json``;
            ``terminal``.
    """
    if output != "-":
        if _is_standard_output(output):
            way = "-, as in -o -, writes there" if streams else "this needs a file: -o OUT"
            raise UsageError("not-a-file", f"{output!r} is standard output: {way}")
        return output
    if not streams:
        raise UsageError("no-stream", "- is standard output, and this needs a file: -o OUT (./- is a file called -)")
    if getattr(options, "json", False):
        raise UsageError("two-ways", "--json and a file can't both go to standard output: leave out one of the two")
    if getattr(sys.stdout, "name", "") == os.devnull:
        raise UsageError("no-stdout", "standard output is closed: -o OUT")
    if sys.stdout.isatty():
        raise UsageError("terminal", "bytes are not for a terminal: -o OUT, or pipe them on")
    sys.stdout.flush()
    return sys.stdout.buffer


def _is_standard_output(path: str) -> bool:
    """Whether a path, such as /dev/stdout, names standard output, and isn't a regular file."""
    try:
        named, ours = os.stat(path), os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # there is none, or it has no descriptor
        return False
    return os.path.samestat(named, ours) and not stat.S_ISREG(named.st_mode)


def refuse_same(output: str | BinaryIO | None, file: str, remedy: str) -> None:
    """Refuse to write to the file that is read, by whatever name, and say how it is replaced.

    Raises:
        UsageError: ``same-file``.
    """
    with suppress(OSError):
        if isinstance(output, str) and os.path.samefile(output, file):
            raise UsageError("same-file", f"{output!r} is the file that is read: {remedy}")


def tell(text: str, *, output: str) -> None:
    """Print a line for people: where a command's output goes to standard output, on standard error."""
    print(text, file=sys.stderr if output == "-" else sys.stdout)


def tell_dry_run(output: str | None) -> None:
    """Say which file a dry run does not write."""
    if output is not None:
        note(f"a dry run: {'standard output' if output == '-' else output} is not written")


def refuse_needless_base(*stores: Store) -> None:
    """Refuse ``--base`` for files of which none is the difference to another.

    Raises:
        UsageError: ``needless-base``.
    """
    from blobstore.keys import BASE

    if any(one.base_path is not None for one in stores) and not any(BASE in one.metadata for one in stores):
        paths = ", ".join(dict.fromkeys(repr(one.path) for one in stores))
        raise UsageError("needless-base", f"{paths}: not packed as the difference to another file: leave out --base")


def print_json(value: Any) -> None:  # noqa: ANN401 (JSON is anything)
    """Print a value as JSON; what is no UTF-8 in it is escaped."""
    json.dump(value, sys.stdout, indent=1)
    sys.stdout.write("\n")


def shown(text: str) -> str:
    """Return text that can't do anything to a terminal or a table: unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def size(nbytes: float) -> str:
    """Return a size for people: 1.3 GB."""
    if nbytes < _STEP:
        return f"{nbytes:.0f} bytes"
    for unit in ("kB", "MB", "GB", "TB"):
        nbytes /= _STEP
        if nbytes < _ROUNDS_UP:
            return f"{nbytes:.3g} {unit}"
    return f"{nbytes:.0f} TB"


def shape(dimensions: Sequence[int]) -> str:
    """Return a shape as ``[2, 3]``."""
    return f"[{', '.join(str(one) for one in dimensions)}]"


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    grouped: bool = False,
    spare: Sequence[str] = (),
) -> None:
    """Print a table on a terminal, and tab-separated lines without a heading elsewhere.

    Args:
        columns: Their headings.
        rows: As many cells each.
        right: Columns of numbers.
        grouped: On a terminal the first column isn't one: where it changes it is a line of its own above the rows.
        spare: Columns that a narrow terminal is left without, the first ones first.
    """
    if not sys.stdout.isatty():
        for row in rows:
            sys.stdout.write("\t".join(shown(str(cell)) for cell in row) + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    lines = [[shown(str(cell)) for cell in row] for row in rows]
    kept = _fitting(columns, lines, console.width, spare, first=int(grouped))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i in kept:
        table.add_column(columns[i], justify="right" if columns[i] in right else "left", overflow="fold")
    for before, line in zip([None, *lines], lines, strict=False):
        if grouped and (before is None or before[0] != line[0]):
            if before:
                table.add_section()
            table.add_row(Text(line[0], style="bold"))
        table.add_row(*(Text(line[i]) for i in kept))  # Text: names are no markup
    console.print(table)
    left_out = [column for column in spare if columns.index(column) not in kept]
    if left_out:
        note(f"a wider terminal, or a pipe, also has: {', '.join(left_out)}")


def _fitting(
    columns: Sequence[str], lines: Sequence[Sequence[str]], width: int, spare: Sequence[str], *, first: int
) -> list[int]:
    """Return the places of the columns that a width has room for, without as many of the spare ones as it takes."""
    widths = [max(len(line[i]) for line in [columns, *lines]) + _GAP for i in range(len(columns))]
    kept = list(range(first, len(columns)))
    for column in spare:
        if sum(widths[i] for i in kept) > width:
            kept.remove(columns.index(column))
    return kept


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print name and value, a line each."""
    listed = [(shown(name), shown(str(value))) for name, value in fields]
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        print(f"{name:<{width}}  {value}")


def note(text: str) -> None:
    """Tell the user something beside the data."""
    with suppress(OSError):  # whoever has closed or filled standard error doesn't want it
        print(f"note: {shown(text)}", file=sys.stderr)


@contextmanager
def progress(total: int | None, what: str, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a bar with bytes and rate while the block runs, when someone can see it.

    Yields:
        To be called with how many bytes more are done.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda nbytes: bar.advance(task, nbytes)


@contextmanager
def steps() -> Iterator[Callable[[int, int, str], None]]:
    """Show how many steps are done, and the next one, while the block runs, when someone can see it.

    Yields:
        To be called with how many are done, how many there are, and what comes next.
    """
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        """Start."""
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.perf_counter() - self._start
