"""What the values of one tensor are like: smallest, largest, mean, deviation, and those that aren't finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blobstore.compare.values import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blobstore.fileio.types import Array


@dataclass(frozen=True)
class Statistics:
    """What the values of a tensor are like. The first four are of the finite values only; None without any.

    Attributes:
        min: The smallest.
        max: The largest.
        mean: Their mean, computed in float64.
        std: Their standard deviation, of all values (not of a sample); None if float64 can't hold its square.
        nan: Number of NaNs.
        inf: Number of infinities, of either sign.
    """

    min: int | float | None = None
    max: int | float | None = None
    mean: float | None = None
    std: float | None = None
    nan: int = 0
    inf: int = 0


def statistics(pieces: Iterable[Array]) -> Statistics:
    """Return the statistics of a tensor that is given in pieces; real numbers or truth values, shape (count,)."""
    count = nan = inf = 0
    mean = squares = 0.0
    least: list[int | float] = []
    most: list[int | float] = []
    with np.errstate(all="ignore"):  # foreign values may be anything
        for piece in pieces:
            for start in range(0, len(piece), BLOCK):
                block = piece[start : start + BLOCK]
                wide = block.astype(np.float64)
                finite = np.isfinite(wide)
                if not finite.all():
                    nans = int(np.count_nonzero(np.isnan(wide)))
                    nan, inf = nan + nans, inf + len(wide) - int(np.count_nonzero(finite)) - nans
                    block, wide = block[finite], wide[finite]
                if not len(wide):
                    continue
                exact = block if block.dtype.kind in "iu" else wide
                least, most = [min([*least, exact.min().item()])], [max([*most, exact.max().item()])]
                # The mean and the sum of squared distances from it, of two parts together (Chan, 1979).
                here = float(wide.mean())
                away = wide - here
                distance, total = here - mean, count + len(wide)
                squares += float(np.einsum("i,i->", away, away)) + distance * distance * count * len(wide) / total
                mean += distance * len(wide) / total
                count = total
    if not count:
        return Statistics(nan=nan, inf=inf)
    return Statistics(least[0], most[0], _finite(mean), _finite(math.sqrt(squares / count)), nan, inf)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
