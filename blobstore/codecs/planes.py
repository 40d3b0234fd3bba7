"""Byte planes: elements ↔ one array for each of their bytes, with the exponent of a float in one of them.

Of a float's bits only the exponent's are far from random. They straddle two bytes, so the sign is moved below the eight
bits that follow it: bfloat16 becomes exponent | sign and mantissa.

Spec: spec/packed.md, Planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from blobstore.elements import ElementType

    Array = npt.NDArray[Any]
    Bytes = npt.NDArray[np.uint8]

WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Layout:
    """How elements are split.

    Attributes:
        width: Bytes of an element, and how many planes there are: 1, 2, 4 or 8.
        signed: Whether the sign is moved below the eight bits that follow it; not with a width of 1.
    """

    width: int
    signed: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Unsigned integers of the element's width, little-endian."""
        return np.dtype(f"<u{self.width}")


WHOLE = Layout(1)
_LAYOUTS = {
    "f32": Layout(4, signed=True),
    "bf16": Layout(2, signed=True),
    "f16": Layout(2),  # five bits of exponent lie in one byte: moving the sign gains 0.03 %
    "f64": Layout(8, signed=True),
    "c64": Layout(4, signed=True),
    "i16": Layout(2),
    "u16": Layout(2),
    "i32": Layout(4),
    "u32": Layout(4),
    "i64": Layout(8),
    "u64": Layout(8),
}


def layout_of(kind: ElementType) -> Layout:
    """Return the layout that suits an element type: bytes as they are where its elements have no planes."""
    return _LAYOUTS.get(kind.name, WHOLE)


def split(elements: Array, layout: Layout, work: Bytes) -> Iterator[Bytes]:
    """Split elements into planes, from the highest byte to the lowest.

    Args:
        elements: Shape (n,), of the layout's dtype, any alignment.
        layout: Says how.
        work: At least width · n bytes, used while planes are taken.

    Yields:
        As many planes as an element has bytes, each of shape (n,) and good until the next one is asked for.
    """
    if layout.width == 1:
        yield elements
    elif layout.width == 2:
        yield from _split_pairs(elements, work, signed=layout.signed)
    else:
        # By halves, through casts: numpy does them several times as fast as copies with a stride.
        half, part, rest = _halves(layout, len(elements), work)
        np.right_shift(elements, _distance(elements), out=part, casting="unsafe")
        yield from split(part, half, rest)
        np.copyto(part, elements, casting="unsafe")
        yield from split(part, Layout(half.width), rest)


def merge(planes: Iterator[Bytes], layout: Layout, out: Array, work: Bytes) -> None:
    """Merge planes into elements.

    Args:
        planes: As `split` yields them, each of shape (n,), or longer; one is done with before the next is taken.
        layout: The same as there.
        out: Shape (n,), of the layout's dtype, any alignment.
        work: At least width · n bytes.
    """
    if layout.width == 1:
        np.copyto(out, next(planes))
    elif layout.width == 2:
        _merge_pairs(planes, out, work, signed=layout.signed)
    else:
        half, part, rest = _halves(layout, len(out), work)
        merge(planes, half, part, rest)
        np.multiply(part, out.dtype.type(1 << 4 * out.itemsize), out=out, dtype=out.dtype)
        merge(planes, Layout(half.width), part, rest)
        np.bitwise_or(out, part, out=out)


def _halves(layout: Layout, count: int, work: Bytes) -> tuple[Layout, Array, Bytes]:
    """Return the upper halves' layout, room for all upper or lower halves, and what is left."""
    half = Layout(layout.width // 2, signed=layout.signed)
    nbytes = half.width * count
    return half, work[:nbytes].view(half.dtype), work[nbytes:]


def _distance(elements: Array) -> np.generic:
    """How many bits the halves are apart, in the elements' dtype: so numpy works in no other."""
    bits: np.generic = elements.dtype.type(4 * elements.itemsize)
    return bits


def _split_pairs(elements: Array, work: Bytes, *, signed: bool) -> Iterator[Bytes]:
    plane, upper = work[: len(elements)], work[len(elements) : 2 * len(elements)]
    np.right_shift(elements, np.uint16(7 if signed else 8), out=plane, casting="unsafe")
    yield plane
    np.copyto(plane, elements, casting="unsafe")
    if signed:
        np.right_shift(elements, np.uint16(8), out=upper, casting="unsafe")
        # The upper byte's bit 7 instead of the lower one's.
        np.bitwise_xor(upper, plane, out=upper)
        np.bitwise_and(upper, np.uint8(0x80), out=upper)
        np.bitwise_xor(plane, upper, out=plane)
    yield plane


_SIGN_AND_MANTISSA = np.array(0x807F, np.uint16).view(np.int16)[()]


def _merge_pairs(planes: Iterator[Bytes], out: Array, work: Bytes, *, signed: bool) -> None:
    upper = work[: 2 * len(out)].view(np.uint16)
    # A product: numpy widens for it while it works, and has it faster than a shift.
    np.multiply(next(planes), np.uint16(1 << 7 if signed else 1 << 8), out=upper, dtype=np.uint16)
    if signed:
        low = next(planes).view(np.int8)
        # As signed numbers: the sign is extended up to bit 15.
        np.bitwise_and(low, _SIGN_AND_MANTISSA, out=out.view(np.int16), dtype=np.int16)
        np.bitwise_or(out, upper, out=out)
    else:
        np.bitwise_or(upper, next(planes), out=out)
