"""The product of two low-rank factors, the same to the last bit whatever computes it.

A sum in floating point depends on its order, and each BLAS has its own. So each factor is divided into a high and a low
part of so few bits that every sum of their products is exact, in any order: an element of a factor is
``high + low + rest``, where high and low are whole multiples of a power of two, at most 2^bits times it, and
``rank · 2^(2 · bits) ≤ 2^53``. The product is ``high·high + (high·low + low·high)``. What is left out is below
``rank · 2^(-2 · bits)`` of the largest elements' product: 2^-40 at rank 64.

Spec: spec/adapters.md, The sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]

_MANTISSA = 53
_SMALLEST = -300  # exponents below are taken as this one, so that no product is too small for a double
_TILE = 1 << 18  # multiplications: OpenBLAS takes more than one thread for more
SIDE = 64  # rows of a tile, and the most that are summed up


class Divided(NamedTuple):
    """A factor in two parts; `low` is None where it is zero."""

    high: Doubles
    low: Doubles | None


def bits_for(rank: int) -> int:
    """Return of how many bits the parts are, so that a sum of `rank` products is exact."""
    return (_MANTISSA - (rank - 1).bit_length()) // 2


def divided(factor: Doubles, bits: int, *, by_row: bool) -> Divided:
    """Divide finite values into their parts.

    Args:
        factor: Shape (rows, columns).
        bits: As `bits_for` gives it.
        by_row: The largest element of each row decides what the parts are multiples of; otherwise that of all.
    """
    magnitude = np.abs(factor)
    top = magnitude.max(axis=1, keepdims=True, initial=0) if by_row else magnitude.max(initial=0)
    exponent = np.maximum(np.frexp(top)[1], _SMALLEST)
    high = _rounded(factor, exponent - bits)
    rest = factor - high
    if not rest.any():
        return Divided(high, None)
    return Divided(high, _rounded(rest, exponent - 2 * bits - 1))


def _rounded(values: Doubles, exponent: npt.NDArray[np.int32]) -> Doubles:
    """Round to whole multiples of 2^exponent; values are below 2^51 times that."""
    # In the binade of this number the doubles are that far apart.
    large = np.ldexp(1.5, exponent + _MANTISSA - 1)
    return (values + large) - large


def product(left: Divided, right: Divided) -> Doubles:
    """Return the product of two divided factors, shape (rows of left, columns of right), newly allocated."""
    result = _multiplied(left.high, right.high)
    low = None if right.low is None else _multiplied(left.high, right.low)
    if left.low is not None:
        other = _multiplied(left.low, right.high)
        low = other if low is None else np.add(low, other, out=low)
    return result if low is None else np.add(result, low, out=result)


def _multiplied(left: Doubles, right: Doubles) -> Doubles:
    """Multiply two parts, in tiles that are too small for BLAS to divide among threads of its own.

    The callers are threads already. BLAS's would wait for them and for one another, which takes most of the time on a
    machine that is busy.
    """
    rank, width = right.shape
    columns = max(SIDE, _TILE // (SIDE * min(rank, SIDE)))
    result = np.empty((len(left), width))
    for row in range(0, len(left), SIDE):
        for column in range(0, width, columns):
            tile = result[row : row + SIDE, column : column + columns]
            np.matmul(left[row : row + SIDE, :SIDE], right[:SIDE, column : column + columns], out=tile)
            for done in range(SIDE, rank, SIDE):
                part = left[row : row + SIDE, done : done + SIDE]
                tile += part @ right[done : done + SIDE, column : column + columns]
    return result


def row_sums(values: Doubles) -> Doubles:
    """Return the sum of each row: of both halves' sums, element by element, which is one order everywhere."""
    while values.shape[1] > 1:
        half = (values.shape[1] + 1) // 2
        sums = values[:, :half].copy()
        sums[:, : values.shape[1] - half] += values[:, half:]
        values = sums
    return values[:, 0]
