"""NaN and infinities in a checkpoint: where new types hold them, nothing else refuses them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from blobstore.fileio.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blobstore.checkpoint.tensors import SourceTensor
    from blobstore.fileio.types import Array, Progress

_CHUNK = 1 << 19  # elements that a thread looks at
# By dtype: an integer of the same size, the bits of a value but for its sign, and infinity's, which NaN exceeds.
_BITS: dict[np.dtype[Any], tuple[np.dtype[Any], Any, int]] = {
    np.dtype(ml_dtypes.bfloat16): (np.dtype(np.uint16), np.uint16(0x7FFF), 0x7F80),
    np.dtype(np.float16): (np.dtype(np.uint16), np.uint16(0x7FFF), 0x7C00),
    np.dtype(np.float32): (np.dtype(np.uint32), np.uint32(0x7FFFFFFF), 0x7F800000),
}


@dataclass(frozen=True)
class NotFinite:
    """The first value of a tensor that is not a number, or infinite.

    Attributes:
        name: The tensor's.
        value: It.
        index: Where it is.
    """

    name: str
    value: float
    index: tuple[int, ...]

    @property
    def message(self) -> str:
        """What is said of it."""
        return f"it has {self.value} at index {[*self.index]}"


def not_finite(tensors: Iterable[SourceTensor], progress: Progress = lambda _: None) -> Iterator[NotFinite]:
    """Yield the first value of each tensor that is not finite, for those that have one. All values are read.

    Args:
        tensors: Of floats.
        progress: Called with the number of further bytes looked at.
    """
    for tensor in tensors:
        jobs = (partial(_first, tensor, first, count) for first, count in tensor.runs(_CHUNK))
        place = next((place for place in in_order(jobs) if place is not None), None)
        if place is not None:
            value = float(tensor.read(place, 1)[0])
            yield NotFinite(tensor.name, value, tuple(int(i) for i in np.unravel_index(place, tensor.shape)))
        progress(tensor.nbytes)


def _first(tensor: SourceTensor, first: int, count: int) -> int | None:
    values = tensor.read(first, count)
    if not _any(values):
        return None
    with np.errstate(all="ignore"):
        return first + int(np.flatnonzero(~np.isfinite(values))[0])


def _any(values: Array) -> bool:
    """Whether a value is not finite: by its bits, which takes a fraction of the time."""
    if values.dtype not in _BITS:
        return not bool(np.isfinite(values).all())
    integer, mask, infinity = _BITS[values.dtype]
    return bool(np.bitwise_and(values.view(integer), mask).max() >= infinity)
