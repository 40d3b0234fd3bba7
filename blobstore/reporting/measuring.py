"""What the values of a tensor are like, and their histogram: of all of them, or of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blobstore.compare.statistics import Statistics, statistics
from blobstore.store.values import elements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.fileio.types import Array
    from blobstore.store.info import TensorInfo
    from blobstore.store.reader import Store

SAMPLED = 1 << 16  # values of a tensor in a sample, and at most as many in a histogram
BINS = 16
_RUN = 1 << 12  # elements read at once for a sample; a multiple of every encoding's group
_PIECE = 1 << 20  # elements read at once for all


@dataclass(frozen=True)
class Measured:
    """What the values of a tensor are like.

    Attributes:
        statistics: Of the values that were read.
        count: How many values were read.
        zeros: How many of them are 0.
        histogram: Number of values in each of `BINS` bins of equal width from the least to the largest, of at most
            2 × `SAMPLED` finite values; empty without any.
    """

    statistics: Statistics
    count: int
    zeros: int
    histogram: tuple[int, ...]


def measure(store: Store, info: TensorInfo, *, sample: bool) -> Measured | None:
    """Measure a tensor; None if it has no real values that this version can decode.

    Args:
        store: The file.
        info: A tensor of it.
        sample: Whether to read only 16 runs of 4,096 values, evenly spaced, of a tensor that has more.

    Raises:
        CodecError, FormatError, UsageError, OSError: As `blobstore.store.values.elements`.
    """
    if info.dtype is None or info.dtype.kind == "c":
        return None
    runs = _sampled(info.size) if sample else ((at, min(_PIECE, info.size - at)) for at in range(0, info.size, _PIECE))
    tally = _Tally(max(1, info.size // SAMPLED) if not sample else 1)
    found = statistics(tally.counted(elements(store, info, first, count) for first, count in runs))
    return Measured(found, tally.count, tally.zeros, _histogram(tally.kept, found))


def _sampled(size: int) -> list[tuple[int, int]]:
    """Return the runs of a sample, (first, count) each, from the beginning of the tensor to about its end."""
    if size <= SAMPLED:
        return [(0, size)]
    runs = SAMPLED // _RUN
    return [(place * (size - _RUN) // (runs - 1) // _RUN * _RUN, _RUN) for place in range(runs)]


class _Tally:
    """Counts pieces as they pass, and keeps every so-manieth value."""

    def __init__(self, step: int) -> None:
        self.count = self.zeros = 0
        self.kept: list[Array] = []
        self._step = step

    def counted(self, pieces: Iterator[Array]) -> Iterator[Array]:
        for piece in pieces:
            self.kept.append(piece[-self.count % self._step :: self._step].astype(np.float64))
            self.count += len(piece)
            self.zeros += len(piece) - int(np.count_nonzero(piece))
            yield piece


def _histogram(kept: list[Array], found: Statistics) -> tuple[int, ...]:
    if found.min is None or found.max is None:
        return ()
    with np.errstate(all="ignore"):  # foreign values may be anything
        values = np.concatenate(kept)
        values = values[np.isfinite(values)]
        low, high = float(found.min), float(found.max)
        # Scaled to 0 … 1 in halves: the distance of the largest float64s is none.
        width = high / 2 - low / 2
        places = (values / 2 - low / 2) / width * BINS if width > 0 else np.full(len(values), BINS // 2)
        counts = np.bincount(np.clip(places, 0, BINS - 1).astype(np.intp), minlength=BINS)
    return tuple(counts.tolist())
