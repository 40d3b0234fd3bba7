"""The product of two factors: the same bits whatever order and parts it is computed in, and close to the exact one."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.checkpoint.adapters.products import bits_for, divided, product, row_sums
from tests.adapters import FLOATS, exact_product, exactly

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]


@st.composite
def factors(draw: st.DrawFn) -> tuple[Doubles, Doubles]:
    """Two factors, some with elements of very different sizes."""
    rows, rank, columns = (draw(st.integers(1, most)) for most in (5, 6, 5))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    spread = draw(st.sampled_from([0, 3, 40]))
    dtype = draw(st.sampled_from(FLOATS))
    with np.errstate(over="ignore"):
        left, right = (
            (rng.normal(size=shape) * np.exp2(rng.integers(-spread, 1, shape))).astype(dtype).astype(np.float64)
            for shape in ((rows, rank), (rank, columns))
        )
    return left, right


def multiplied(left: Doubles, right: Doubles) -> Doubles:
    bits = bits_for(left.shape[1])
    return product(divided(left, bits, by_row=True), divided(right, bits, by_row=False))


@given(pair=factors(), seed=st.integers(0, 1 << 30))
def test_the_order_of_the_sum_does_not_matter(pair: tuple[Doubles, Doubles], seed: int) -> None:
    left, right = pair
    order = np.random.default_rng(seed).permutation(left.shape[1])
    whole = multiplied(left, right)
    assert np.array_equal(multiplied(np.ascontiguousarray(left[:, order]), np.ascontiguousarray(right[order])), whole)
    rows = [multiplied(left[row : row + 1], right)[0] for row in range(len(left))]
    assert np.array_equal(np.array(rows), whole)


@given(pair=factors())
def test_the_product_is_close_to_the_exact_one(pair: tuple[Doubles, Doubles]) -> None:
    left, right = pair
    rank = left.shape[1]
    exact = exact_product(exactly(left), exactly(right))
    limits = np.abs(left).max(axis=1) * np.abs(right).max() * 4 * rank * 2.0 ** (-2 * bits_for(rank))
    for row, expected, limit in zip(multiplied(left, right), exact, limits, strict=True):
        for value, wanted in zip(row, expected, strict=True):
            assert abs(Fraction(float(value)) - wanted) <= Fraction(float(limit)) + abs(wanted) / (1 << 51)


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 64, 65, 1 << 20])
def test_sums_are_exact(rank: int) -> None:
    assert rank * 4 ** bits_for(rank) <= 1 << 53 < rank * 4 ** (bits_for(rank) + 2)


@given(factor=factors(), by_row=st.booleans())
def test_parts_are_whole_multiples(factor: tuple[Doubles, Doubles], by_row: bool) -> None:
    values = factor[0]
    bits = bits_for(4)
    high, low = divided(values, bits, by_row=by_row)
    low = np.zeros_like(values) if low is None else low
    for row in range(len(values)):
        top = np.exp2(np.frexp(np.abs(values[row] if by_row else values).max())[1])
        for part, unit in ((high[row], top * 0.5**bits), (low[row], top * 0.5 ** (2 * bits + 1))):
            counts = part / unit
            assert np.array_equal(counts, np.rint(counts))
            assert (np.abs(counts) <= 2**bits).all()
        assert (np.abs(values[row] - high[row] - low[row]) <= top * 0.25**bits / 4).all()


def test_zeros_and_what_is_too_small() -> None:
    zeros = np.zeros((2, 3))
    assert not multiplied(zeros, np.ones((3, 2))).any()
    tiny = np.full((1, 1), 2.0**-400)
    assert multiplied(tiny, tiny).tolist() == [[0.0]]


@given(count=st.integers(1, 20), seed=st.integers(0, 100))
def test_sums_of_rows(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-99, 99, (3, count)).astype(np.float64)
    before = values.copy()
    assert row_sums(values).tolist() == before.sum(axis=1).tolist()
    assert np.array_equal(values, before)
