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
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from blobstore.elements import ElementType

    Array = npt.NDArray[Any]
    Bytes = npt.NDArray[np.uint8]

WIDTHS = (1, 2, 4, 8)
_DTYPES = {width: np.dtype(f"<u{width}") for width in WIDTHS}


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
        return _DTYPES[self.width]


WHOLE = Layout(1)
_I16 = np.dtype("<i2")
_SEVEN, _EIGHT, _TO_SEVEN, _TO_EIGHT = np.uint16(7), np.uint16(8), np.uint16(1 << 7), np.uint16(1 << 8)
_SIGN, _MANTISSA = np.uint8(0x80), np.uint8(0x7F)
_SIGN_AND_MANTISSA = np.int16(0x807F - (1 << 16))
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
        As many planes as an element has bytes, each of shape (n,), in ``work``, and good until the next one is asked
        for; they may be changed.
    """
    if layout.width == 1:
        plane = work[: len(elements)]
        np.copyto(plane, elements)
        yield plane
    elif layout.width == 2:
        yield from _split_two_bytes(elements, work, signed=layout.signed)
    else:
        # By halves, through casts: numpy does them several times as fast as copies with a stride.
        half = Layout(layout.width // 2, signed=layout.signed)
        nbytes = half.width * len(elements)
        part, rest = work[:nbytes].view(half.dtype), work[nbytes:]
        # The distance in the elements' own dtype: so numpy works in no other.
        np.right_shift(elements, layout.dtype.type(8 * half.width), out=part, casting="unsafe")
        yield from split(part, half, rest)
        np.copyto(part, elements, casting="unsafe")
        yield from split(part, Layout(half.width), rest)


def merge(planes: Sequence[Bytes], layout: Layout, work: Bytes) -> Array:
    """Merge planes into elements.

    Args:
        planes: As `split` yields them, each of shape (n,).
        layout: The same as there.
        work: At least 2 · width · n bytes.

    Returns:
        Shape (n,), of the layout's dtype, in the first bytes of ``work``; with a width of 1 the plane itself.
    """
    if layout.width == 1:
        return planes[0]
    nbytes = layout.width * len(planes[0])
    out, rest = work[:nbytes].view(layout.dtype), work[nbytes : 2 * nbytes]
    if layout.width == 2:
        _merge_two_bytes(planes, out, rest, signed=layout.signed)
    else:
        half = layout.width // 2
        upper = merge(planes[:half], Layout(half, signed=layout.signed), rest)
        np.multiply(upper, out.dtype.type(1 << 4 * out.itemsize), out=out, dtype=out.dtype)
        np.bitwise_or(out, merge(planes[half:], Layout(half), rest), out=out)
    return out


def _split_two_bytes(elements: Array, work: Bytes, *, signed: bool) -> Iterator[Bytes]:
    plane, sign = work[: len(elements)], work[len(elements) : 2 * len(elements)]
    np.right_shift(elements, _SEVEN if signed else _EIGHT, out=plane, casting="unsafe")
    yield plane
    np.copyto(plane, elements, casting="unsafe")
    if signed:
        # A comparison and a product: numpy has them faster than a shift.
        np.less(elements.view(_I16), 0, out=sign.view(np.bool_))
        np.multiply(sign, _SIGN, out=sign)
        np.bitwise_and(plane, _MANTISSA, out=plane)
        np.bitwise_or(plane, sign, out=plane)
    yield plane


def _merge_two_bytes(planes: Sequence[Bytes], out: Array, work: Bytes, *, signed: bool) -> None:
    # A product: numpy widens for it while it works, and has it faster than a shift.
    np.multiply(planes[0], _TO_SEVEN if signed else _TO_EIGHT, out=out, dtype=np.uint16)
    if signed:
        # As signed numbers: the sign is extended up to bit 15.
        low = np.bitwise_and(planes[1].view(np.int8), _SIGN_AND_MANTISSA, out=work.view(np.int16), dtype=np.int16)
        np.bitwise_or(out, low.view(np.uint16), out=out)
    else:
        np.bitwise_or(out, planes[1], out=out)
