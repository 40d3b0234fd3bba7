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
_I8, _I16 = np.dtype("i1"), np.dtype("<i2")
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


class Splitter:
    """Splits elements into planes, in room that is made ready once.

    Attributes:
        count: How many elements it splits at most.
        marks: A byte for each of them, free until the next plane is asked for.
    """

    def __init__(self, layout: Layout, room: Bytes, marks: bytearray) -> None:
        """Make the room ready.

        Args:
            layout: Says how.
            room: Bytes to work in, the width for each element that is split at once.
            marks: One for each; `split` works in them, too: so less has to stay in the cache.
        """
        self.count, self.marks = len(marks), marks
        self._layout, self._plane, self._sign = layout, room, np.frombuffer(marks, np.uint8)
        if layout.width > 2:
            self._half = Layout(layout.width // 2, signed=layout.signed)
            nbytes = self._half.width * self.count
            self._part, rest = room[:nbytes].view(self._half.dtype), room[nbytes:]
            self._upper = Splitter(self._half, rest, marks)
            self._lower = Splitter(Layout(self._half.width), rest, marks)

    def split(self, elements: Array) -> Iterator[Bytes]:
        """Split elements into planes, from the highest byte to the lowest.

        Args:
            elements: Shape (n,), of the layout's dtype, any alignment.

        Yields:
            As many planes as an element has bytes, each of shape (n,), in the room, and good until the next one is
            asked for; they may be changed.
        """
        layout, count = self._layout, len(elements)
        plane = self._plane[:count]
        if layout.width == 1:
            np.copyto(plane, elements)
            yield plane
        elif layout.width == 2:
            np.right_shift(elements, _SEVEN if layout.signed else _EIGHT, out=plane, casting="unsafe")
            yield plane
            np.copyto(plane, elements, casting="unsafe")
            if layout.signed:
                # A comparison and a product: numpy has them faster than a shift.
                sign = self._sign[:count]
                np.less(elements.view(_I16), 0, out=sign.view(np.bool_))
                np.multiply(sign, _SIGN, out=sign)
                np.bitwise_and(plane, _MANTISSA, out=plane)
                np.bitwise_or(plane, sign, out=plane)
            yield plane
        else:
            # By halves, through casts: numpy does them several times as fast as copies with a stride.
            part = self._part[:count]
            # The distance in the elements' own dtype: so numpy works in no other.
            np.right_shift(elements, layout.dtype.type(8 * self._half.width), out=part, casting="unsafe")
            yield from self._upper.split(part)
            np.copyto(part, elements, casting="unsafe")
            yield from self._lower.split(part)


class Merger:
    """Merges planes into elements, in room that is made ready once: many short views cost as much as the work.

    It works in the cache and copies: a copy writes to memory that is not in it without reading it first.
    """

    def __init__(self, layout: Layout, room: Bytes) -> None:
        """Make the room ready.

        Args:
            layout: How the elements were split.
            room: Bytes to work in, 2 · width for each element that is merged at once.
        """
        self._count = len(room) // (2 * layout.width)
        self._layout = layout
        nbytes = layout.width * self._count
        self._merged, rest = room[:nbytes].view(layout.dtype), room[nbytes : 2 * nbytes]
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
            planes: As `split` yields them, each of shape (n,).
            out: Shape (n,), of the layout's dtype, any alignment.
            base: What the elements are XORed with; as `out`.
        """
        for start in range(0, len(out), self._count):
            block = slice(start, start + self._count)
            elements = self.block([plane[block] for plane in planes])
            if base is not None:
                elements = np.bitwise_xor(elements, base[block], out=self._merged[: len(elements)])
            out[block] = elements

    def block(self, planes: Sequence[Bytes]) -> Array:
        """Merge what fits into the room at once; it stays there until the next call."""
        if len(planes) == 1:
            return planes[0]
        count, half = len(planes[0]), len(planes) // 2
        merged: Array = self._merged[:count]
        low: Array = planes[-1]
        # Products: numpy widens for them while it works, and has them faster than shifts. It is told to what: version 1
        # goes by the values of scalars.
        if half > 1:
            np.multiply(self._upper.block(planes[:half]), self._above, out=merged, dtype=merged.dtype)
            low = self._lower.block(planes[half:])
        elif self._layout.signed:
            np.multiply(planes[0], _TO_SEVEN, out=merged, dtype=merged.dtype)
            # As signed numbers: the sign is extended up to bit 15.
            np.bitwise_and(low.view(_I8), _SIGN_AND_MANTISSA, out=self._signed_low[:count], dtype=_I16)
            low = self._low[:count]
        else:
            np.multiply(planes[0], _TO_EIGHT, out=merged, dtype=merged.dtype)
        np.bitwise_or(merged, low, out=merged)
        return merged
