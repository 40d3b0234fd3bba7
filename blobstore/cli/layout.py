"""Tables as they are laid out on a terminal: columns that fit, and names that are shortened."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.cli.shortening import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_GAP = "  "  # between columns
_INDENT = "    "  # of what is below a row
LEAST_NAME = 20  # a shorter name is hard to read: it gets a line of its own
_GOOD_NAME = 40  # so much of a name is worth more than a column that can also be below the row
_MORE = "more"  # a column of words, which need no heading


@dataclass(frozen=True)
class Table:
    """Cells as text, and where they go on a terminal."""

    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    names: Sequence[str]
    right: Sequence[str]
    length: Callable[[str], int]

    def _column(self, title: str) -> list[str]:
        i = self.columns.index(title)
        return [row[i] for row in self.cells]

    def _width(self, title: str) -> int:
        return max(map(self.length, [title, *self._column(title)]))

    def fit(self, width: int, spare: Sequence[str], below: Sequence[str], *, first: int) -> list[str]:
        """Return the columns that are in the rows: as many as fit a width."""
        widths = {title: self._width(title) for title in self.columns[first:]}
        kept = list(widths)

        def too_wide(name: int) -> bool:
            needed = sum(min(widths[title], name) if title in self.names else widths[title] for title in kept)
            return needed + len(_GAP) * (len(kept) - 1) > width

        for titles, name in ((spare, width), (below, _GOOD_NAME)):
            for title in titles:
                if too_wide(name):
                    kept.remove(title)
        return kept

    def lines(
        self, width: int, kept: Sequence[str], below: Sequence[str], *, grouped: bool, rule: str
    ) -> Iterable[tuple[str, str]]:
        """Yield the table's lines, and the style of each."""
        columns = {title: self._column(title) for title in kept}
        widths = {title: self._width(title) for title in kept}
        alone = None  # a column of names that has a line of its own
        for title in kept:
            if title in self.names:
                left = width - sum(widths[other] + len(_GAP) for other in kept if other != title)
                if left < min(widths[title], LEAST_NAME):
                    alone, left = title, width
                columns[title] = shortened(columns[title], left, self.length)
                widths[title] = min(widths[title], max(left, self.length(title)))
        inside = [title for title in kept if title != alone]
        yield "", ""
        yield self._line({title: title for title in inside}, inside, widths), "bold"
        yield rule * min(width, sum(widths[title] + len(_GAP) for title in inside) - len(_GAP)), ""
        group = None
        for i, row in enumerate(self.cells):
            if grouped and row[0] != group:
                yield from (("", ""),) if group is not None else ()
                group = row[0]
                yield shortened([group], width, self.length)[0], "bold"
            if alone:
                yield columns[alone][i], ""
            yield self._line({title: columns[title][i] for title in inside}, inside, widths), ""
            more = "; ".join(self._below(row, title) for title in below if row[self.columns.index(title)] != "-")
            yield from ((_INDENT + line, "") for line in _wrapped(more, width - len(_INDENT), self.length))
        yield "", ""

    def _below(self, row: Sequence[str], title: str) -> str:
        cell = row[self.columns.index(title)]
        return cell if title == _MORE else f"{title} {cell}"

    def _line(self, cells: dict[str, str], inside: Sequence[str], widths: dict[str, int]) -> str:
        texts = []
        for title in inside:
            fill = " " * (widths[title] - self.length(cells[title]))
            texts.append(fill + cells[title] if title in self.right else cells[title] + fill)
        return _GAP.join(texts).rstrip()


def _wrapped(text: str, width: int, length: Callable[[str], int] = len) -> list[str]:
    """Return lines of whole words; a word that is longer than a line is shortened."""
    words = " ".join(shortened([word], width, length)[0] for word in text.split(" "))
    return textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False)
