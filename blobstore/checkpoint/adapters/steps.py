"""What an adapter does to a tensor's values: each step takes some of its rows as float64, and returns them changed.

Spec: spec/adapters.md.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from blobstore.checkpoint.adapters.products import SIDE, Divided, bits_for, divided, product, row_sums
from blobstore.errors import CheckpointError, in_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blobstore.checkpoint.adapters.products import Doubles
    from blobstore.checkpoint.adapters.reading import AdapterTensor
    from blobstore.fileio.types import Array

_LARGEST = 2.0**128  # of a factor's elements, as large as those of float32
_KEPT = 6  # factors: a few tensors of the base become one new tensor
_BLOCK = 1 << 17  # elements that are computed at once, or at least `SIDE` rows

Kept = TypeVar("Kept")


class Factors:
    """The factors that were used last; a new tensor is made of at most a few."""

    def __init__(self) -> None:
        """Begin with none."""
        self._kept: OrderedDict[tuple[int, str], object] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, adapter: int, name: str, make: Callable[[], Kept]) -> Kept:
        """Return a factor: the kept one, or a new one. Threads wait for one another."""
        with self._lock:
            key = adapter, name
            if key not in self._kept:
                while len(self._kept) >= _KEPT:
                    self._kept.popitem(last=False)
                self._kept[key] = make()
            self._kept.move_to_end(key)
            return self._kept[key]  # type: ignore[return-value]  # of this key


class Step:
    """A change of a tensor's values.

    Attributes:
        replaces: Whether the values before don't matter.
    """

    replaces: ClassVar[bool] = False

    def apply(self, values: Doubles, first: int) -> Doubles:
        """Return the rows from `first` on, shape (rows, columns), changed; they may be changed in place."""
        raise NotImplementedError


@dataclass(frozen=True)
class LowRank(Step):
    """Adds the product of two factors, times a scale; with magnitudes, each row then gets its magnitude's norm.

    Attributes:
        adapter: Its place among the adapters.
        a: Shape (rank, columns of the base, or rows if `transposed`).
        b: Shape (rows of the base, or columns if `transposed`, rank).
        scale: What the product is multiplied by.
        factors: Where they are kept.
        transposed: Whether the base has the transposed matrix, as embeddings have.
        magnitude: Of each row, or None.
    """

    adapter: int
    a: AdapterTensor
    b: AdapterTensor
    scale: float
    factors: Factors
    transposed: bool = False
    magnitude: AdapterTensor | None = None

    def apply(self, values: Doubles, first: int) -> Doubles:
        """Add the product."""
        delta = product(self._left(first, len(values)), self._right())
        delta *= self.scale
        values += delta
        return values if self.magnitude is None else self._with_magnitude(values, self.magnitude, first)

    @property
    def _bits(self) -> int:
        return bits_for(self.a.shape[0])

    def _right(self) -> Divided:
        def make() -> Divided:
            whole = right.rows(0, right.shape[0])
            return divided(_finite(whole.T if self.transposed else whole, right), self._bits, by_row=False)

        right = self.b if self.transposed else self.a
        return self.factors.get(self.adapter, right.name, make)

    def _left(self, first: int, count: int) -> Divided:
        if self.transposed:
            # As stored: the rows of the base are columns of it, and an embedding has many.
            whole = self.factors.get(self.adapter, self.a.name, lambda: self.a.rows(0, self.a.shape[0]))
            return divided(_finite(whole[:, first : first + count].T, self.a), self._bits, by_row=True)
        return divided(_finite(self.b.rows(first, count), self.b), self._bits, by_row=True)

    def _with_magnitude(self, values: Doubles, magnitude: AdapterTensor, first: int) -> Doubles:
        norms = np.sqrt(row_sums(values * values))
        if not norms.all():
            row = first + int(np.flatnonzero(norms == 0)[0])
            what = f"row {row} of what {magnitude.name!r} is for is zero, and has no direction"
            raise CheckpointError("adapter-tensor", f"{what}: DoRA can't be merged into it")
        wanted = _finite(magnitude.rows(first, len(values)), magnitude)
        values *= wanted.reshape(-1, 1) / norms.reshape(-1, 1)
        return values


@dataclass(frozen=True)
class Bias(Step):
    """Adds a vector, times a scale, to one of the base."""

    vector: AdapterTensor
    scale: float

    def apply(self, values: Doubles, first: int) -> Doubles:
        """Add the vector."""
        values += _finite(self.vector.rows(first, len(values)), self.vector) * self.scale
        return values


@dataclass(frozen=True)
class Whole(Step):
    """Replaces all values."""

    tensor: AdapterTensor
    replaces: ClassVar[bool] = True

    def apply(self, values: Doubles, first: int) -> Doubles:
        """Replace them."""
        values[:] = self.tensor.rows(first, len(values))
        return values


@dataclass(frozen=True)
class Rows(Step):
    """Replaces some rows.

    Attributes:
        tensor: The rows.
        numbers: Which they are, ascending.
        places: Of each of these, its row in the tensor.
    """

    tensor: AdapterTensor
    numbers: tuple[int, ...]
    places: tuple[int, ...]

    def apply(self, values: Doubles, first: int) -> Doubles:
        """Replace those rows that are among them."""
        for at in range(bisect_left(self.numbers, first), bisect_left(self.numbers, first + len(values))):
            values[self.numbers[at] - first] = self.tensor.rows(self.places[at], 1)[0]
        return values


def _finite(values: Array, tensor: AdapterTensor) -> Doubles:
    """Return an adapter's values as float64, C order; refuse those that no model has."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        wide = np.ascontiguousarray(values, dtype=np.float64)
    if not (np.abs(wide) < _LARGEST).all():
        what = f"{tensor.name[:300]!r} has values that are not finite, or not below 2^128"
        with in_file(tensor.path):
            raise CheckpointError("adapter-tensor", f"{what}: its training has failed; take an earlier one")
    return wide


def values_after(
    steps: Sequence[Step], shape: tuple[int, ...], read: Callable[[int, int], Array], first: int, count: int
) -> Array:
    """Return some of a tensor's elements after all steps.

    Args:
        steps: In their order.
        shape: Of the tensor after them; only the rows of a tensor that is replaced may differ from the base's.
        read: Given (first, count), returns elements of the base, flat.
        first: Of the wanted elements, in C order.
        count: How many.

    Returns:
        Shape (count,), new: float64 if the base has it, else float32. The same whatever `first` and `count` are.

    Raises:
        CheckpointError: ``adapter-tensor``: values of the adapter can't be used.
    """
    if not count:
        return np.empty(0, dtype=np.float32)
    width = math.prod(shape[1:])
    begin = max((place for place, step in enumerate(steps) if step.replaces), default=0)
    is_new = bool(steps) and steps[begin].replaces
    dtype = np.dtype(np.float32)
    result = np.empty(count, dtype=dtype)
    row, end = first // width, -(-(first + count) // width)
    block = max(1, _BLOCK // width // SIDE) * SIDE
    for start in range(row, end, block):
        rows = min(block, end - start)
        if is_new:
            values = np.empty((rows, width), dtype=np.float64)
        else:
            base = read(start * width, rows * width)
            if base.dtype.itemsize > dtype.itemsize:
                dtype = base.dtype
                result = result.astype(dtype)
            with np.errstate(invalid="ignore"):  # a signalling NaN
                values = base.astype(np.float64).reshape(rows, width)
        for step in steps[begin:]:
            values = step.apply(values, start)
        _place(result, values.reshape(-1), start * width - first)
    return result


def _place(result: Array, values: Doubles, at: int) -> None:
    """Put values, rounded, at a place of the result; what is outside of it is left out."""
    start, end = max(0, at), min(len(result), at + len(values))
    wanted = values[start - at : end - at]
    with np.errstate(over="ignore", invalid="ignore"):
        result[start:end] = wanted
    if (np.isinf(result[start:end]) & np.isfinite(wanted)).any():
        what = "the sum of the weights and the adapter is too large for float32"
        raise CheckpointError("adapter-tensor", f"{what}: its training has failed; take an earlier one")
