"""Two bytes in one, for planes whose bytes lie close together, as exponents do.

Each byte becomes four bits, its distance from a base. Bytes that are further away, the escapes, follow: with their
places when they are few, or fewer than marks would be, which is fastest to read; otherwise in the order of the marks
that stand for them. Half as many symbols have to be coded, which is twice as fast, and a little denser, since codes of
whole bits lose less on larger symbols.

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

_U8, _GAP, _WORD = np.dtype("u1"), np.dtype("<u2"), np.dtype("u8")
_BITS, _ABOVE = np.uint8(15), np.uint8(16)
_WINDOW = 16  # values that need no escape
_PLACED, _MARKED = 0, 1
_MARK = np.uint8(15)
_ENDS = 2  # bytes of base and kind
_MOST_GAP = (1 << 16) - 1
_GLANCE = 64  # bytes of a plane that show quickly that it has too many values
_SAMPLE = 4096  # bytes of a plane that show where its values lie
# One byte in so many may escape. With more escapes pairs are larger than plain bytes, unless more than half of the
# bytes have one value: a code takes at least a bit per symbol, and pairs spend it on two bytes.
_PER_ESCAPE, _PER_ESCAPE_OF_MOST_ALIKE = 256, 32
# The base is raised while no more than one byte in so many needs an escape: rare values cost less as marked escapes
# than as pairs, each of which takes a code of at most 11 bits, and so from the codes of the others.
_PER_RARE = 512
_FEW, _FEWEST = 64, 16  # bytes beyond the marks that are placed rather than marked, and that are sought without numpy


def paired_nbytes(count: int) -> range:
    """Return how many bytes the pairs of ``count`` bytes may take: fewer than ``count``."""
    return range((count + 1) // 2 + _ENDS, count)


def find_base(plane: Bytes) -> int | None:
    """Return the base of a plane, estimated from a sample; None if its values are too far apart, or all equal."""
    if len(set(plane[:: len(plane) // _GLANCE | 1].tobytes())) > 2 * _WINDOW:
        return None
    sample = plane[:: len(plane) // _SAMPLE | 1]  # an odd step doesn't always meet the same columns of a matrix
    counts = np.bincount(sample, minlength=256)
    inside = _inside(counts, _WINDOW)
    base, largest = int(inside.argmax()), counts.max()
    per_escape = _PER_ESCAPE_OF_MOST_ALIKE if 2 * largest > len(sample) else _PER_ESCAPE
    if largest == len(sample) or len(sample) - inside[base] > len(sample) // per_escape:
        return None
    marked_inside = _inside(counts, int(_MARK))[: len(inside)]
    higher = np.flatnonzero(marked_inside >= len(sample) - len(sample) // _PER_RARE)
    return int(higher[-1]) if len(higher) else base


def _inside(counts: npt.NDArray[np.intp], window: int) -> npt.NDArray[np.intp]:
    """Return how many bytes are within ``window`` values of each base."""
    sums = counts.cumsum()
    inside: npt.NDArray[np.intp] = sums[window - 1 :].copy()
    inside[1:] -= sums[:-window]
    return inside


def pair(plane: Bytes, base: int, marks: bytearray) -> Bytes | None:
    """Merge the two halves of a plane into one, in place.

    Args:
        plane: Shape (n,); overwritten if there is a result.
        base: The smallest value that needs no escape.
        marks: Buffer of at least n bytes.

    Returns:
        Pairs, base, kind, escapes: the plane's first bytes, fewer than n; None if too many bytes need an escape.
    """
    count, half = len(plane), (len(plane) + 1) // 2
    np.subtract(plane, base, out=plane)
    kind, gaps = _MARKED, b""
    places = _reaching(_MARK, plane, marks)
    if len(places) <= count // _PER_ESCAPE:
        if len(places) <= _FEW:
            kind, places = _PLACED, places[plane[places] >= _ABOVE]
    else:
        further = _reaching(_ABOVE, plane, marks)
        if len(further) <= count // _PER_ESCAPE:
            kind, places = _PLACED, further
    if kind == _PLACED:
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


def unpair(paired: Bytes, count: int, buffer: Bytes) -> Bytes | None:
    """Undo `pair`.

    Args:
        paired: Pairs, base, kind, escapes; as many bytes as `paired_nbytes` allows.
        count: Bytes of the plane.
        buffer: At least ``count`` bytes, for the result.

    Returns:
        The plane, in ``buffer``; None if the pairs are invalid: unknown kind, a place outside, more or fewer marks than
        escapes, or an unused code of an odd plane that isn't 0.
    """
    half = (count + 1) // 2
    plane, escapes, kind = buffer[:count], paired[half + _ENDS :], paired[half + 1]
    if kind > _MARKED or (count % 2 and paired[half - 1] >= _ABOVE):
        return None
    np.bitwise_and(paired[:half], _BITS, out=plane[:half])
    np.floor_divide(paired[: count - half], _ABOVE, out=plane[half:])
    places: Places
    if kind == _MARKED:
        places = _places(plane == _MARK)
    else:
        gaps_nbytes = len(escapes) // (_GAP.itemsize + 1) * _GAP.itemsize
        gaps, escapes = escapes[:gaps_nbytes], escapes[gaps_nbytes:]
        places = gaps.view(_GAP).cumsum(dtype=np.int64)  # their sum can't overflow
    if len(places) != len(escapes) or (len(places) and places[-1] >= count):
        return None
    np.add(plane, paired[half], out=plane)
    plane[places] = escapes
    return plane


def _reaching(value: np.uint8, plane: Bytes, marks: bytearray) -> Places:
    """Return the places where a plane has this value or a larger one."""
    count = len(plane)
    np.greater_equal(plane, value, out=np.frombuffer(marks, np.bool_, count))
    # For a few places a search is faster than numpy.
    places: list[int] = []
    place = marks.find(1, 0, count)
    while place >= 0 and len(places) < _FEWEST:
        places.append(place)
        place = marks.find(1, place + 1, count)
    return np.array(places, np.intp) if place < 0 else _places(np.frombuffer(marks, np.bool_, count))


def _places(marked: npt.NDArray[np.bool_]) -> Places:
    """Return the places of what is marked: of eight at once, then in these, since few are."""
    if len(marked) % _WORD.itemsize:
        return np.flatnonzero(marked)
    words = marked.view(_WORD)
    found = (words != 0).nonzero()[0]
    inside = words[found].view(np.bool_).nonzero()[0]
    places: Places = (found[inside >> 3] << 3) + (inside & 7)
    return places


def _with_gaps(places: Places) -> tuple[Places, bytes]:
    """Return the places and the gaps between them, with redundant escapes inserted where a gap exceeds 65,535."""
    wide = places.copy()
    np.subtract(places[1:], places[:-1], out=wide[1:])
    if np.maximum.reduce(wide, initial=0) > _MOST_GAP:
        around = pairwise([0, *places.tolist()])
        bridges = [np.arange(last + _MOST_GAP, place, _MOST_GAP) for last, place in around if place > last + _MOST_GAP]
        return _with_gaps(np.sort(np.concatenate([places, *bridges])))
    return places, wide.astype(_GAP).tobytes()
