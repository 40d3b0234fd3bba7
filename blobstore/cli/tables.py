"""Tables: laid out on a terminal, tab-separated lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from blobstore.cli.formatting import shown
from blobstore.cli.output import note

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_GAP = 3  # between columns


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    grouped: bool = False,
    spare: Sequence[str] = (),
) -> None:
    """Print a table on a terminal, and tab-separated lines without headings elsewhere.

    Args:
        columns: Their headings.
        rows: One cell for each column.
        right: Columns to align to the right.
        grouped: On a terminal, print the first column as a line of its own above the rows, whenever it changes.
        spare: Columns to leave out if the terminal is narrow, the first ones first.
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
        table.add_row(*(Text(line[i]) for i in kept))  # Text: names are not markup
    console.print(table)
    left_out = [column for column in spare if columns.index(column) not in kept]
    if left_out:
        note(f"a wider terminal, or a pipe, also shows: {', '.join(left_out)}")


def _fitting(
    columns: Sequence[str], lines: Sequence[Sequence[str]], width: int, spare: Sequence[str], *, first: int
) -> list[int]:
    """Return the indices of the columns that fit a width, leaving out as many of the spare ones as necessary."""
    widths = [max(len(line[i]) for line in [columns, *lines]) + _GAP for i in range(len(columns))]
    kept = list(range(first, len(columns)))
    for column in spare:
        if sum(widths[i] for i in kept) > width:
            kept.remove(columns.index(column))
    return kept


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one line each."""
    listed = [(shown(name), shown(str(value))) for name, value in fields]
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        print(f"{name:<{width}}  {value}")
