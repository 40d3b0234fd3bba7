"""Find tensors that both files have, under names that only one of them has."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from blobstore.compare.chunks import content_digests, probe, same_bits
from blobstore.fileio.ranges import first_difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blobstore.compare.sides import Side
    from blobstore.compare.tensors import Facts

_Key = tuple[object, ...]


def find_renamed(a: Side, lost: Sequence[str], b: Side, new: Sequence[str]) -> dict[str, str]:
    """Return tensors that were renamed, name on the first side → name on the second.

    Only tensors of equal type, shape and scale are read, each of them at most twice.

    Args:
        a: The first side.
        lost: Names that only the first has.
        b: The second side.
        new: Names that only the second has.
    """
    wanted = {a[name].facts for name in lost}
    after: dict[tuple[Facts, bytes], list[str]] = {}
    for name in new:
        facts = b[name].facts
        if facts in wanted:
            after.setdefault((facts, probe(b[name])), []).append(name)
    possible = {facts for facts, _ in after}
    before: dict[tuple[Facts, bytes], list[str]] = {}
    for name in lost:
        facts = a[name].facts
        if facts in possible:
            before.setdefault((facts, probe(a[name])), []).append(name)
    renamed: dict[str, str] = {}
    for key, names in before.items():
        candidates = after.get(key, [])
        if len(names) == len(candidates) == 1:
            if same_bits(a[names[0]], b[candidates[0]]):
                renamed[names[0]] = candidates[0]
        elif candidates:
            renamed |= _matched(a, names, b, candidates)
    return renamed


def _matched(a: Side, names: Sequence[str], b: Side, candidates: Sequence[str]) -> dict[str, str]:
    """Match each name, in turn, with the candidate of the same values whose name has the longest common ending."""
    units = {b[candidate].unit for candidate in candidates}
    mixed = len(units | {a[name].unit for name in names}) > 1
    keys: list[list[_Key]] = []  # of each candidate: what it is found by
    same: dict[_Key, list[int]] = {}
    for place, candidate in enumerate(candidates):
        tensor = b[candidate]
        stored, values = content_digests(tensor, decoded=mixed)
        keys.append([(tensor.unit, "stored", stored), *([(tensor.unit, "values", values)] if mixed else [])])
        for key in keys[-1]:
            same.setdefault(key, []).append(place)
    endings = {key: Endings([candidates[place] for place in places], places) for key, places in same.items()}
    renamed = {}
    for name in names:
        tensor = a[name]
        stored, values = content_digests(tensor, decoded=mixed)
        # Within one unit the stored bytes are compared, between two the values.
        searched = [(unit, "stored", stored) if unit == tensor.unit else (unit, "values", values) for unit in units]
        best = max((endings[key].closest(name) for key in searched if key in endings), default=(-1, 0))
        if best[0] >= 0:
            place = -best[1]
            renamed[name] = candidates[place]
            for key in keys[place]:
                endings[key].remove(place)
    return renamed


class Endings:
    """Names, to find the one whose ending has most in common with another name; names can be removed."""

    def __init__(self, names: Iterable[str], places: Iterable[int]) -> None:
        """Hold names, each with its place; of several with equal endings the first place is found."""
        rows = sorted((_backwards(name), place) for name, place in zip(names, places, strict=True))
        self._endings = [ending for ending, _ in rows]
        self._row_of = {place: row for row, (_, place) in enumerate(rows)}
        count = len(rows)
        # For each row, the next and the previous row still there: itself until it is removed.
        self._after, self._before = list(range(count + 1)), list(range(count + 1))
        self._none = 1 + max(self._row_of, default=0)
        # The smallest place below each node of a binary tree, whose leaves are the rows.
        self._smallest = [self._none] * count + [place for _, place in rows]
        for node in range(count - 1, 0, -1):
            self._smallest[node] = min(self._smallest[2 * node : 2 * node + 2])

    def closest(self, name: str) -> tuple[int, int]:
        """Return how many bytes the endings share, and minus the place; (-1, 0) when no name is left."""
        ending = _backwards(name)
        row = bisect_left(self._endings, ending)
        after, before = _follow(self._after, row), _follow(self._before, row) - 1
        near = [neighbour for neighbour in (after, before) if 0 <= neighbour < len(self._endings)]
        if not near:
            return -1, 0
        # Those that share most with the name are neighbours, and one of them is next to the name.
        common = max(first_difference(ending, self._endings[neighbour]) for neighbour in near)
        shared = ending[:common]
        place = self._first(bisect_left(self._endings, shared), bisect_left(self._endings, shared + b"\xff"))
        return common, -place

    def remove(self, place: int) -> None:
        """Remove a name."""
        row = self._row_of[place]
        self._after[row] = row + 1
        self._before[row + 1] = row
        node = row + len(self._endings)
        self._smallest[node] = self._none
        while node > 1:
            node //= 2
            self._smallest[node] = min(self._smallest[2 * node : 2 * node + 2])

    def _first(self, low: int, high: int) -> int:
        """Return the smallest place of some rows."""
        smallest = self._none
        low, high = low + len(self._endings), high + len(self._endings)
        while low < high:
            if low % 2:
                smallest = min(smallest, self._smallest[low])
                low += 1
            if high % 2:
                high -= 1
                smallest = min(smallest, self._smallest[high])
            low, high = low // 2, high // 2
        return smallest


def _follow(links: list[int], row: int) -> int:
    """Return where a chain of links ends, and shorten it."""
    while links[row] != row:
        links[row] = links[links[row]]
        row = links[row]
    return row


def _backwards(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")[::-1]  # no byte of it is 0xFF
