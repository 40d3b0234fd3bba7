"""NaN and infinities in a checkpoint: where new types hold them, nothing else refuses them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs import are_finite
from blobstore.fileio.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blobstore.checkpoint.tensors import SourceTensor
    from blobstore.fileio.types import Progress

_CHUNK = 1 << 19  # elements that a thread looks at


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
    if are_finite(values):
        return None
    with np.errstate(all="ignore"):
        return first + int(np.flatnonzero(~np.isfinite(values))[0])
