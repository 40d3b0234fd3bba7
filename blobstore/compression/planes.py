"""Byte planes: elements ↔ one array for each of their bytes, with a float's exponent in a single byte.

Of a float's bits only the exponent is far from random. It straddles two bytes, so the sign is moved below the eight
bits that follow it: bfloat16 becomes exponent | sign and mantissa.

Spec: spec/packed.md, Planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Array, Bytes


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
        """The unsigned integer of the element's width, little-endian."""
        return _DTYPES[self.width]


WHOLE = Layout(1)
_I8, _I16 = np.dtype("i1"), np.dtype("<i2")
_SEVEN, _EIGHT, _TO_SEVEN, _TO_EIGHT = np.uint16(7), np.uint16(8), np.uint16(1 << 7), np.uint16(1 << 8)
_SIGN, _MANTISSA = np.uint8(0x80), np.uint8(0x7F)
_SIGN_AND_MANTISSA = np.int16(0x807F - (1 << 16))
_LAYOUTS = {
    "f32": Layout(4, signed=True),
    "bf16": Layout(2, signed=True),
    "f16": Layout(2),  # its five exponent bits lie in one byte: moving the sign would gain 0.03 %
    "f64": Layout(8, signed=True),
    "c64": Layout(4, signed=True),
    "i16": Layout(2),
    "u16": Layout(2),
    "i32": Layout(4),
    "u32": Layout(4),
    "i64": Layout(8),
    "u64": Layout(8),
}


def layout_of(element_type: ElementType) -> Layout:
    """Return the layout that suits an element type; `WHOLE`, plain bytes, for types without planes."""
    return _LAYOUTS.get(element_type.name, WHOLE)


class Splitter:
    """Splits elements into planes, in buffers that are prepared once.

    It makes all planes at once, while the elements are in the cache.

    Attributes:
        count: How many elements it splits at most.
        marks: A byte for each of them, which callers may use until the next split: one buffer less in the cache.
    """

    def __init__(self, layout: Layout, buffer: Bytes, marks: bytearray) -> None:
        """Prepare the buffers.

        Args:
            layout: How elements are split.
            buffer: 2 · width bytes for each element that is split at once.
            marks: A byte for each.
        """
        self.count: int = len(marks)
        self.marks: bytearray = marks
        self._layout, self._sign = layout, np.frombuffer(marks, np.uint8)
        self._planes = [buffer[i * self.count : (i + 1) * self.count] for i in range(layout.width)]
        self._work = buffer[layout.width * self.count :]

    def split(self, elements: Array) -> list[Bytes]:
        """Split elements into planes.

        Args:
            elements: Shape (n,), of the layout's dtype, any alignment.

        Returns:
            As many planes as an element has bytes, from the highest to the lowest, each of shape (n,): views of the
            buffer, valid until the next split; they may be changed.
        """
        planes = [plane[: len(elements)] for plane in self._planes]
        self._split(elements, planes, self._work, signed=self._layout.signed)
        return planes

    def _split(self, elements: Array, planes: list[Bytes], work: Bytes, *, signed: bool) -> None:
        if len(planes) == 1:
            np.copyto(planes[0], elements)
        elif len(planes) == 2:
            upper, lower = planes
            np.right_shift(elements, _SEVEN if signed else _EIGHT, out=upper, casting="unsafe")
            np.copyto(lower, elements, casting="unsafe")
            if signed:
                # A comparison and a product are faster in numpy than a shift.
                sign = self._sign[: len(elements)]
                np.less(elements.view(_I16), 0, out=sign.view(np.bool_))
                np.multiply(sign, _SIGN, out=sign)
                np.bitwise_and(lower, _MANTISSA, out=lower)
                np.bitwise_or(lower, sign, out=lower)
        else:
            # By halves, through casts, which numpy does several times as fast as copies with a stride.
            half = len(planes) // 2
            nbytes = half * len(elements)
            part, rest = work[:nbytes].view(_DTYPES[half]), work[nbytes:]
            # The distance in the elements' own dtype, so that numpy doesn't convert them.
            np.right_shift(elements, elements.dtype.type(8 * half), out=part, casting="unsafe")
            self._split(part, planes[:half], rest, signed=signed)
            np.copyto(part, elements, casting="unsafe")
            self._split(part, planes[half:], rest, signed=False)


class Merger:
    """Merges planes into elements, in buffers that are prepared once.

    Making many short views would cost as much as the work. It works in the cache, then copies: a copy writes to other
    memory without reading it first.
    """

    def __init__(self, layout: Layout, buffer: Bytes) -> None:
        """Prepare the buffers.

        Args:
            layout: How the elements were split.
            buffer: 2 · width bytes for each element that is merged at once.
        """
        self._count = len(buffer) // (2 * layout.width)
        self._layout = layout
        nbytes = layout.width * self._count
        self._merged, rest = buffer[:nbytes].view(layout.dtype), buffer[nbytes : 2 * nbytes]
        if layout.width == 2:
            self._signed_low = rest.view(_I16)
            self._low = self._signed_low.view(layout.dtype)
        elif layout.width > 2:
            half = layout.width // 2
            self._upper, self._lower = Merger(Layout(half, signed=layout.signed), rest), Merger(Layout(half), rest)
            self._above = layout.dtype.type(1 << 8 * half)

    def merge(self, planes: Sequence[Bytes], out: Array, base: Array | None = None) -> None:
        """Merge planes into elements.

        Args:
            planes: As `Splitter.split` returns them, each of shape (n,).
            out: Shape (n,), of the layout's dtype, any alignment.
            base: XORed with the elements; shape and dtype as ``out``.
        """
        for start in range(0, len(out), self._count):
            block = slice(start, start + self._count)
            elements = self.block([plane[block] for plane in planes])
            if base is not None:
                elements = np.bitwise_xor(elements, base[block], out=self._merged[: len(elements)])
            out[block] = elements

    def block(self, planes: Sequence[Bytes]) -> Array:
        """Merge as many elements as fit into the buffer at once; they stay there until the next call."""
        if len(planes) == 1:
            return planes[0]
        count, half = len(planes[0]), len(planes) // 2
        merged: Array = self._merged[:count]
        low: Array = planes[-1]
        # Casts first: numpy widens operands through a buffer. Products are faster than shifts.
        if half > 1:
            np.copyto(merged, self._upper.block(planes[:half]))
            np.multiply(merged, self._above, out=merged)
            low = self._lower.block(planes[half:])
        elif self._layout.signed:
            np.copyto(merged, planes[0])
            np.multiply(merged, _TO_SEVEN, out=merged)
            # As signed numbers, which extends the sign up to bit 15.
            signed_low = self._signed_low[:count]
            np.copyto(signed_low, low.view(_I8))
            np.bitwise_and(signed_low, _SIGN_AND_MANTISSA, out=signed_low)
            low = self._low[:count]
        else:
            np.copyto(merged, planes[0])
            np.multiply(merged, _TO_EIGHT, out=merged)
        np.bitwise_or(merged, low, out=merged)
        return merged
