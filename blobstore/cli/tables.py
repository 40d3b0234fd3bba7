"""Tables: laid out on a terminal, tab-separated lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from blobstore.cli.formatting import shown, size
from blobstore.cli.output import note

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    names: Sequence[str] = ("name",),
    right: Sequence[str] = (),
    sizes: Sequence[str] = (),
    grouped: bool = False,
    spare: Sequence[str] = (),
    below: Sequence[str] = (),
) -> None:
    """Print a table on a terminal, and tab-separated lines without headings elsewhere.

    No line is longer than the terminal is wide. Cells are never broken: where the terminal is narrow, first the spare
    columns are left out, and those that can be are moved below the rows; then names are shortened in the middle.

    Args:
        columns: Their headings.
        rows: One cell for each column.
        names: Columns whose cells can be shortened.
        right: Columns to align to the right.
        sizes: Columns of bytes: sizes in words on a terminal, exact numbers elsewhere.
        grouped: On a terminal, print the first column as a line of its own above the rows, whenever it changes.
        spare: Columns to leave out if the terminal is narrow, the first ones first.
        below: Columns to print below the rows if the terminal is narrow, the first ones first.
    """
    if not sys.stdout.isatty():
        for row in rows:
            sys.stdout.write("\t".join(shown(str(cell)) for cell in row) + "\n")
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    from blobstore.cli.layout import Table

    console = Console()
    human = [title in sizes for title in columns]
    cells = [
        [
            size(cell) if words and isinstance(cell, int) else shown(str(cell))
            for cell, words in zip(row, human, strict=True)
        ]
        for row in rows
    ]
    table = Table(columns, cells, names, right, cell_len)
    kept = table.fit(console.width, spare, below, first=int(grouped))
    lines = table.lines(
        console.width,
        kept,
        [title for title in below if title not in kept],
        grouped=grouped,
        rule="-" if console.options.ascii_only else "─",
    )
    for text, style in lines:
        console.print(
            Text(text, style=style),
            no_wrap=True,
            overflow="ignore",
            crop=False,
        )
    left_out = [title for title in spare if title not in kept]
    if left_out:
        note(f"a wider terminal, or a pipe, also shows: {', '.join(left_out)}")


def print_wrapped(text: str, indent: int = 4) -> None:
    """Print a line; on a terminal as lines that end between words, all but the first with an indent."""
    if not sys.stdout.isatty():
        print(text)
        return
    import textwrap

    from rich.console import Console

    from blobstore.cli.layout import LEAST_NAME

    width = max(Console().width, indent + LEAST_NAME)
    lines = textwrap.wrap(
        text,
        width,
        subsequent_indent=" " * indent,
        break_long_words=True,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
        expand_tabs=False,
    )
    print("\n".join(lines))


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one line each; on a terminal long values take several."""
    listed = [(shown(name), shown(str(value))) for name, value in fields]
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        print_wrapped(f"{name:<{width}}  {value}", width + 2)
