"""Two bytes in one, for planes whose bytes lie close together, as exponents do.

A byte stands for its distance from a base, 0 to 14, in four bits; 15 says that the byte itself comes later. So half as
many symbols are coded: it is twice as fast, and a little denser, for a code of whole bits loses less on them.

Spec: spec/packed.md, Pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

_U8 = np.dtype("u1")
_ESCAPE, _BITS, _ABOVE = np.uint8(15), np.uint8(15), np.uint8(16)
_WINDOW = 15  # values that need no escape
_SAMPLE = 1024  # bytes of a plane that tell where its values lie
# Of how many bytes one may escape. More of them make the whole larger than it is without pairs, unless one value is
# most of all: a code has a bit for each symbol at least, and in pairs that is for two.
_PER_ESCAPE, _PER_ESCAPE_OF_MOST_ALIKE = 256, 32
_FEW = 64


def paired_nbytes(count: int) -> range:
    """Return how many bytes the pairs of ``count`` bytes can take: fewer than these themselves."""
    return range((count + 1) // 2 + 1, count)


def find_base(plane: Bytes) -> int | None:
    """Return from where on nearly all of a plane's values lie, by a sample; None where they don't, or are all one."""
    sample = plane[:: len(plane) // _SAMPLE | 1]  # an odd step: not the same columns of every row
    counts = np.bincount(sample, minlength=256)
    sums = counts.cumsum()
    inside = sums[_WINDOW - 1 :].copy()
    inside[1:] -= sums[:-_WINDOW]
    base, largest = int(inside.argmax()), counts.max()
    per_escape = _PER_ESCAPE_OF_MOST_ALIKE if 2 * largest > len(sample) else _PER_ESCAPE
    if largest == len(sample) or len(sample) - inside[base] > len(sample) // per_escape:
        return None
    return base


def pair(plane: Bytes, base: int, room: Bytes, marks: bytearray) -> Bytes | None:
    """Put the two halves of a plane into one.

    Args:
        plane: Shape (n,); used up, when there is a result.
        base: The smallest value that needs no escape.
        room: At least n bytes, in which the result lies.
        marks: At least n bytes, to work in.

    Returns:
        Pairs, base, escapes: fewer than n bytes; None where too many bytes need an escape.
    """
    count, half = len(plane), (len(plane) + 1) // 2
    np.subtract(plane, np.uint8(base), out=plane)
    np.greater_equal(plane, _ESCAPE, out=np.frombuffer(marks, np.bool_, count))
    places = _places(1, marks, count)
    nbytes = half + 1 + len(places)
    if len(places) > count // _PER_ESCAPE_OF_MOST_ALIKE or nbytes not in paired_nbytes(count):
        np.add(plane, np.uint8(base), out=plane)
        return None
    made = room[:nbytes]
    made[half] = base
    if len(places):
        np.add(plane[places], made[half], out=made[half + 1 :])
        plane[places] = _ESCAPE
    made[half - 1] = 0  # an odd one has no other half
    np.multiply(plane[half:], _ABOVE, out=made[: count - half])
    np.bitwise_or(made[:half], plane[:half], out=made[:half])
    return made


def unpair(made: Bytes, count: int, marks: bytearray) -> Bytes | None:
    """Undo `pair`.

    Args:
        made: Pairs, base, escapes; as many bytes as `paired_nbytes` allows.
        count: Of the plane.
        marks: At least ``count`` bytes; the result lies in it.

    Returns:
        The plane; None where these are no pairs: their escapes are more or fewer than those that follow, or the code
        that no byte of an odd plane has is not 0.
    """
    half = (count + 1) // 2
    plane = np.frombuffer(marks, _U8, count)
    np.bitwise_and(made[:half], _BITS, out=plane[:half])
    np.floor_divide(made[: count - half], _ABOVE, out=plane[half:])
    if count % 2 and made[half - 1] >= _ABOVE:
        return None
    base = made[half]
    if not _put(made[half + 1 :] - base, marks, plane):
        return None
    np.add(plane, base, out=plane)
    return plane


def _put(escapes: Bytes, marks: bytearray, plane: Bytes) -> bool:
    """Put as many values where 15 stands and return True, unless there are more or fewer of them."""
    if len(escapes) > _FEW:
        places = np.flatnonzero(plane == _ESCAPE)
        if len(places) != len(escapes):
            return False
        plane[places] = escapes
        return True
    # A search is faster than numpy where it finds little.
    value, count = int(_ESCAPE), len(plane)
    at = marks.find(value, 0, count)
    for escape in escapes.tolist():
        if at < 0:
            return False
        marks[at] = escape
        at = marks.find(value, at + 1, count)
    return at < 0


def _places(value: int, marks: bytearray, count: int) -> Sequence[int] | npt.NDArray[Any]:
    """Return where a value stands among the first bytes, by a search as long as it finds little."""
    found: list[int] = []
    at = marks.find(value, 0, count)
    while at >= 0:
        found.append(at)
        if len(found) > _FEW:
            return np.flatnonzero(np.frombuffer(marks, np.uint8, count) == value)
        at = marks.find(value, at + 1, count)
    return found
