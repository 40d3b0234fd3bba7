"""How far values differ: counts, largest errors, cosine similarity."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from blobstore.fileio.types import Array


Number = int | float | complex
BLOCK = 1 << 15  # elements; a block's float64 values fit the cache
_SMALLEST = 5e-324  # the least positive float64
_LEAST_SQUARES = 1e-290  # a smaller sum may come from squares that have lost their digits
_MOST_U64 = (1 << 64) - 1


@dataclass(frozen=True)
class Tolerance:
    """Differences that don't count: |a − b| ≤ absolute + relative · |a|.

    Attributes:
        absolute: At least 0.
        relative: Of the first side's value, as in ``numpy.allclose``; at least 0.
    """

    absolute: float = 0.0
    relative: float = 0.0


@dataclass
class Values:
    """How the values of two tensors differ, over all or some elements.

    Everything is computed in float64. For two integer types the counts and `max_abs` are exact (except u64 with a
    signed type, which are compared as float64). Two NaNs are equal, as are infinities of one sign, and 0.0 and -0.0.

    Attributes:
        count: Elements compared.
        unequal: Of these, those that aren't equal.
        different: Of the unequal ones, those beyond the tolerance.
        not_finite: Of the different ones, those where a NaN or an infinity meets anything else. They have no error: the
            errors and sums below leave them out.
        max_abs: The largest |a − b|; for complex numbers the modulus.
        max_rel: The largest |a − b| / max(|a|, |b|), at most 2: 1 where one of them is 0.
        worst: Flat index of the first not finite one, else of the largest |a − b|; None where nothing differs.
        worst_values: The two values there.
        squares_a, squares_b, products: Sums of |a|², |b|² and a · b.
    """

    count: int = 0
    unequal: int = 0
    different: int = 0
    not_finite: int = 0
    max_abs: int | float = 0
    max_rel: float = 0.0
    worst: int | None = None
    worst_values: tuple[Number, Number] | None = None
    squares_a: float = field(default=0.0, repr=False)
    squares_b: float = field(default=0.0, repr=False)
    products: float = field(default=0.0, repr=False)

    @property
    def cosine(self) -> float | None:
        """Cosine similarity of the two as vectors; None if float64 can't hold a length's square."""
        if not self.unequal:
            return 1.0
        if not all(_LEAST_SQUARES <= square < math.inf for square in (self.squares_a, self.squares_b)):
            return None
        length = math.sqrt(self.squares_a) * math.sqrt(self.squares_b)
        return max(-1.0, min(1.0, self.products / length))

    def add(self, other: Values) -> None:
        """Add the measurements of the elements that follow."""
        if other.worst is not None and (
            self.worst is None
            or (other.not_finite and not self.not_finite)
            or (not self.not_finite and other.max_abs > self.max_abs)
        ):
            self.worst, self.worst_values = other.worst, other.worst_values
        self.count += other.count
        self.unequal += other.unequal
        self.different += other.different
        self.not_finite += other.not_finite
        self.max_abs = max(self.max_abs, other.max_abs)
        self.max_rel = max(self.max_rel, other.max_rel)
        self.squares_a += other.squares_a
        self.squares_b += other.squares_b
        self.products += other.products


def measure(a: Array, b: Array, first: int = 0, tolerance: Tolerance | None = None) -> Values:
    """Measure how two arrays differ.

    Args:
        a: Shape (count,), any dtype of numbers.
        b: The same shape, any dtype.
        first: Flat index of the first element.
        tolerance: Differences that don't count.

    Returns:
        The measurements of all elements; `Values.worst` counts from ``first``.
    """
    tolerance = tolerance or Tolerance()
    integer = _common_integer(a.dtype, b.dtype)
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    total = Values()
    with np.errstate(all="ignore"):  # foreign values may be anything
        for start in range(0, len(a), BLOCK):
            block_a, block_b = a[start : start + BLOCK], b[start : start + BLOCK]
            if integer:
                total.add(_integers(block_a.astype(integer), block_b.astype(integer), first + start, tolerance))
            else:
                total.add(_floats(block_a.astype(wide), block_b.astype(wide), first + start, tolerance))
    return total


def sum_of_squares(a: Array) -> float:
    """Return Σ |a|² over the finite values of an array, shape (count,)."""
    total = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, len(a), BLOCK):
            wide = a[start : start + BLOCK].astype(np.complex128 if a.dtype.kind == "c" else np.float64)
            square = _dot(wide, wide)
            if not math.isfinite(square):
                wide[~np.isfinite(wide)] = 0
                square = _dot(wide, wide)
            total += square
    return total


def _common_integer(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the 64-bit integer type that holds both; None if float64 is exact, or if there is none."""
    if a.kind not in "iu" or b.kind not in "iu" or max(a.itemsize, b.itemsize) < 8:
        return None
    common = np.result_type(a, b)
    return common if common.kind in "iu" else None


def _integers(a: Array, b: Array, first: int, tolerance: Tolerance) -> Values:
    # Modulo 2⁶⁴, the larger minus the smaller is the distance, signed or not.
    distance = np.where(a > b, a.view(np.uint64) - b.view(np.uint64), b.view(np.uint64) - a.view(np.uint64))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    if tolerance.relative:
        beyond = distance > tolerance.absolute + tolerance.relative * np.abs(wide_a)
    else:
        beyond = distance > np.uint64(min(int(tolerance.absolute), _MOST_U64))
    return _measured((a, b), (wide_a, wide_b), distance, beyond, first)


def _floats(a: Array, b: Array, first: int, tolerance: Tolerance) -> Values:
    distance = np.abs(a - b)
    odd = None
    if not np.isfinite(distance.max()):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        not_finite = ~(np.isfinite(a) & np.isfinite(b))
        odd = not_finite & ~same
        all_a, all_b = a, b
        a, b = np.where(not_finite, 0, a), np.where(not_finite, 0, b)
        distance = np.abs(a - b)
    beyond = None
    if tolerance.relative:
        beyond = distance > tolerance.absolute + tolerance.relative * np.abs(a)
    elif tolerance.absolute:
        beyond = distance > tolerance.absolute
    values = _measured((a, b), (a, b), distance, beyond, first)
    if odd is not None and odd.any():
        count, place = int(np.count_nonzero(odd)), int(odd.argmax())
        values.unequal += count
        values.different += count
        values.not_finite = count
        values.worst, values.worst_values = first + place, (all_a[place].item(), all_b[place].item())
    return values


def _measured(
    pair: tuple[Array, Array], wide: tuple[Array, Array], distance: Array, beyond: Array | None, first: int
) -> Values:
    """Put together the measurements of finite values; ``wide`` are the same as floats."""
    a, b = wide
    unequal = int(np.count_nonzero(distance != 0))
    values = Values(len(distance), unequal, unequal if beyond is None else int(np.count_nonzero(beyond)))
    values.squares_a, values.squares_b, values.products = _dot(a, a), _dot(b, b), _dot(a, b)
    if unequal:
        place = int(distance.argmax())
        values.max_abs = distance[place].item()
        values.worst, values.worst_values = first + place, (pair[0][place].item(), pair[1][place].item())
        largest = np.maximum(np.abs(a), np.abs(b))
        np.maximum(largest, _SMALLEST, out=largest)
        values.max_rel = float(np.divide(distance, largest, out=largest).max())
    return values


def _dot(a: Array, b: Array) -> float:
    """Return the real part of a dot product. Not by numpy.dot, whose own threads would get in the way of ours."""
    return float(np.einsum("i,i->", a.view(np.float64), b.view(np.float64)))
