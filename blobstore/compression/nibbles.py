"""Two bytes in one, for planes whose bytes lie close together, as exponents do.

A byte stands for its distance from a base in four bits; bytes that are further away, which escape, follow: with their
places where they are few, for that is read at once, else in the order of the marks that stand for them. So half as many
symbols are coded: it is twice as fast, and a little denser, for a code of whole bits loses less on them.

Spec: spec/packed.md, Pairs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from blobstore.fileio.types import Bytes

    Places = npt.NDArray[np.signedinteger[Any]]

_U8, _GAP = np.dtype("u1"), np.dtype("<u2")
_BITS, _ABOVE = np.uint8(15), np.uint8(16)
_WINDOW = 16  # values that need not escape
_PLACED, _MARKED = 0, 1
_MARK = np.uint8(15)
_ENDS = 2  # bytes of base and kind
_MOST_GAP = (1 << 16) - 1
_GLANCE = 64  # bytes of a plane in which there are hardly so many values that its own can be few
_SAMPLE = 1024  # bytes of a plane that tell where its values lie
# Of how many bytes one may escape. More of them make the whole larger than it is without pairs, unless one value is
# most of all: a code has a bit for each symbol at least, and in pairs that is for two.
_PER_ESCAPE, _PER_ESCAPE_OF_MOST_ALIKE = 256, 32
_FEW = 64


def paired_nbytes(count: int) -> range:
    """Return how many bytes the pairs of ``count`` bytes can take: fewer than these themselves."""
    return range((count + 1) // 2 + _ENDS, count)


def find_base(plane: Bytes) -> int | None:
    """Return from where on nearly all of a plane's values lie, by a sample; None where they don't, or are all one."""
    if len(set(plane[:: len(plane) // _GLANCE | 1].tobytes())) > 2 * _WINDOW:
        return None
    sample = plane[:: len(plane) // _SAMPLE | 1]  # an odd step: not the same columns of rows of even length
    counts = np.bincount(sample, minlength=256)
    sums = counts.cumsum()
    inside = sums[_WINDOW - 1 :].copy()
    inside[1:] -= sums[:-_WINDOW]
    base, largest = int(inside.argmax()), counts.max()
    per_escape = _PER_ESCAPE_OF_MOST_ALIKE if 2 * largest > len(sample) else _PER_ESCAPE
    if largest == len(sample) or len(sample) - inside[base] > len(sample) // per_escape:
        return None
    return base


def pair(plane: Bytes, base: int, marks: bytearray) -> Bytes | None:
    """Put the two halves of a plane into one, in its place.

    Args:
        plane: Shape (n,); used up, when there is a result.
        base: The smallest value that needs no escape.
        marks: At least n bytes, to work in.

    Returns:
        Pairs, base, kind, escapes: the plane's first bytes, fewer than n; None where too many bytes need an escape.
    """
    count, half = len(plane), (len(plane) + 1) // 2
    np.subtract(plane, base, out=plane)
    kind, gaps = _PLACED, b""
    places = _reaching(_ABOVE, plane, marks)
    if len(places) > count // _PER_ESCAPE:
        kind, places = _MARKED, _reaching(_MARK, plane, marks)
    else:
        places, gaps = _with_gaps(places)
    nbytes = half + _ENDS + len(gaps) + len(places)
    if len(places) > count // _PER_ESCAPE_OF_MOST_ALIKE or nbytes not in paired_nbytes(count):
        np.add(plane, base, out=plane)
        return None
    escapes = plane[places] + base
    plane[places] = _MARK if kind == _MARKED else 0
    first, second = plane[: count - half], plane[half:]
    np.multiply(second, _ABOVE, out=second)
    np.bitwise_or(first, second, out=first)
    plane[half:nbytes] = np.frombuffer(bytes((base, kind)) + gaps + escapes.tobytes(), _U8)
    return plane[:nbytes]


def unpair(made: Bytes, count: int, room: Bytes) -> Bytes | None:
    """Undo `pair`.

    Args:
        made: Pairs, base, kind, escapes; as many bytes as `paired_nbytes` allows.
        count: Of the plane.
        room: At least ``count`` bytes, in which the result lies.

    Returns:
        The plane; None where these are no pairs: there is no such kind, a place lies outside, there are more or fewer
        marks than escapes, or the code that no byte of an odd plane has is not 0.
    """
    half = (count + 1) // 2
    plane, escapes, kind = room[:count], made[half + _ENDS :], made[half + 1]
    if kind > _MARKED or (count % 2 and made[half - 1] >= _ABOVE):
        return None
    np.bitwise_and(made[:half], _BITS, out=plane[:half])
    np.floor_divide(made[: count - half], _ABOVE, out=plane[half:])
    places: Places
    if kind == _MARKED:
        places = np.flatnonzero(plane == _MARK)
    else:
        behind = len(escapes) // (_GAP.itemsize + 1) * _GAP.itemsize
        gaps, escapes = escapes[:behind], escapes[behind:]
        places = gaps.view(_GAP).cumsum(dtype=np.int64)  # which no sum of theirs can leave
    if len(places) != len(escapes) or (len(places) and places[-1] >= count):
        return None
    np.add(plane, made[half], out=plane)
    plane[places] = escapes
    return plane


def _reaching(value: np.uint8, plane: Bytes, marks: bytearray) -> Places:
    """Return where a plane has a value, or a larger one."""
    count = len(plane)
    np.greater_equal(plane, value, out=np.frombuffer(marks, np.bool_, count))
    # A search is faster than numpy where it finds little.
    found: list[int] = []
    at = marks.find(1, 0, count)
    while at >= 0 and len(found) < _FEW:
        found.append(at)
        at = marks.find(1, at + 1, count)
    return np.array(found, np.intp) if at < 0 else np.flatnonzero(np.frombuffer(marks, np.bool_, count))


def _with_gaps(places: Places) -> tuple[Places, bytes]:
    """Return places and how far each is from the one before, with others between where that is too far to be said."""
    wide = places.copy()
    np.subtract(places[1:], places[:-1], out=wide[1:])
    if np.maximum.reduce(wide, initial=0) > _MOST_GAP:
        around = pairwise([0, *places.tolist()])
        bridges = [np.arange(last + _MOST_GAP, place, _MOST_GAP) for last, place in around if place > last + _MOST_GAP]
        return _with_gaps(np.sort(np.concatenate([places, *bridges])))
    return places, wide.astype(_GAP).tobytes()
