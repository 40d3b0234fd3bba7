"""How far values differ: counts, the largest errors, cosine similarity."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from blobstore.fileio.types import Array


Number = int | float | complex
_BLOCK = 1 << 15  # elements; a block's float64 values stay in the cache
_SMALLEST = 5e-324  # the least positive float64
_LEAST_SQUARES = 1e-290  # a sum below it may come from squares that have lost their digits
_MOST_U64 = (1 << 64) - 1


@dataclass(frozen=True)
class Tolerance:
    """What doesn't count: |a − b| ≤ absolute + relative · |a|.

    Attributes:
        absolute: Not below 0.
        relative: To the first side, as in ``numpy.allclose``; not below 0.
    """

    absolute: float = 0.0
    relative: float = 0.0


@dataclass
class Values:
    """How the values of two tensors differ, of all or of some elements.

    All is computed in float64; of two integers counts and `max_abs` are exact (but not of u64 against a signed type,
    which are taken as float64). Two NaNs are equal, as are infinities of one sign, and 0.0 and -0.0.

    Attributes:
        count: Elements compared.
        unequal: Of these.
        different: Of these, beyond the tolerance.
        not_finite: Of the different ones, those where a NaN or an infinity stands against something else. They have no
            error: all that follows is of the others.
        max_abs: The largest |a − b|; of complex numbers the modulus.
        max_rel: The largest |a − b| / max(|a|, |b|), at most 2: 1 where one of them is 0.
        worst: Flat index of the first not finite one, else of the largest |a − b|; None where nothing differs.
        worst_values: The two there.
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
        """Cosine similarity of the two as vectors; None where float64 can't hold a length's square."""
        if not self.unequal:
            return 1.0
        if not all(_LEAST_SQUARES <= square < math.inf for square in (self.squares_a, self.squares_b)):
            return None
        length = math.sqrt(self.squares_a) * math.sqrt(self.squares_b)
        return max(-1.0, min(1.0, self.products / length))

    def add(self, other: Values) -> None:
        """Take in what was measured of elements that follow."""
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
        tolerance: What doesn't count as different.

    Returns:
        Of all elements; `Values.worst` counts from ``first`` on.
    """
    tolerance = tolerance or Tolerance()
    whole = _common_integer(a.dtype, b.dtype)
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    found = Values()
    with np.errstate(all="ignore"):  # foreign values may be anything
        for start in range(0, len(a), _BLOCK):
            one, other = a[start : start + _BLOCK], b[start : start + _BLOCK]
            if whole:
                found.add(_integers(one.astype(whole), other.astype(whole), first + start, tolerance))
            else:
                found.add(_floats(one.astype(wide), other.astype(wide), first + start, tolerance))
    return found


def sum_of_squares(a: Array) -> float:
    """Return Σ |a|² of the finite values of an array, shape (count,)."""
    total = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, len(a), _BLOCK):
            wide = a[start : start + _BLOCK].astype(np.complex128 if a.dtype.kind == "c" else np.float64)
            square = _dot(wide, wide)
            if not math.isfinite(square):
                wide[~np.isfinite(wide)] = 0
                square = _dot(wide, wide)
            total += square
    return total


def _common_integer(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the 64-bit integer that holds both; None where float64 is exact, or all there is."""
    if a.kind not in "iu" or b.kind not in "iu" or max(a.itemsize, b.itemsize) < 8:
        return None
    common = np.result_type(a, b)
    return common if common.kind in "iu" else None


def _integers(a: Array, b: Array, first: int, tolerance: Tolerance) -> Values:
    # Modulo 2⁶⁴ the larger less the smaller is the distance, signed or not.
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
        loose = ~(np.isfinite(a) & np.isfinite(b))
        odd = loose & ~same
        seen_a, seen_b = a, b
        a, b = np.where(loose, 0, a), np.where(loose, 0, b)
        distance = np.abs(a - b)
    beyond = None
    if tolerance.relative:
        beyond = distance > tolerance.absolute + tolerance.relative * np.abs(a)
    elif tolerance.absolute:
        beyond = distance > tolerance.absolute
    found = _measured((a, b), (a, b), distance, beyond, first)
    if odd is not None and odd.any():
        count, place = int(np.count_nonzero(odd)), int(odd.argmax())
        found.unequal += count
        found.different += count
        found.not_finite = count
        found.worst, found.worst_values = first + place, (seen_a[place].item(), seen_b[place].item())
    return found


def _measured(
    pair: tuple[Array, Array], wide: tuple[Array, Array], distance: Array, beyond: Array | None, first: int
) -> Values:
    """Put together what was computed of finite values; `wide` are the same as floats."""
    a, b = wide
    unequal = int(np.count_nonzero(distance != 0))
    found = Values(len(distance), unequal, unequal if beyond is None else int(np.count_nonzero(beyond)))
    found.squares_a, found.squares_b, found.products = _dot(a, a), _dot(b, b), _dot(a, b)
    if unequal:
        place = int(distance.argmax())
        found.max_abs = distance[place].item()
        found.worst, found.worst_values = first + place, (pair[0][place].item(), pair[1][place].item())
        largest = np.maximum(np.abs(a), np.abs(b))
        np.maximum(largest, _SMALLEST, out=largest)
        found.max_rel = float(np.divide(distance, largest, out=largest).max())
    return found


def _dot(a: Array, b: Array) -> float:
    """Return the real part of a product. Not numpy.dot, whose own threads get in the way of ours."""
    return float(np.einsum("i,i->", a.view(np.float64), b.view(np.float64)))
