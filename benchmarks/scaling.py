"""Time and memory against the number of tensors, and against the file's size; and what a name or a byte costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import files
from benchmarks.measurement import Measured, run
from blobstore.cli.formatting import size
from blobstore.container.layout import MAX_PORTABLE_BLOBS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.measurement import Result, Setting
    from blobstore.bench.report import Row

COUNTS = (1, 16, 256, 2048, MAX_PORTABLE_BLOBS - 1)  # one blob is the name index
SIZES = (1 << 20, 16 << 20, 256 << 20, 2 << 30, 8 << 30)
_PARTS = 64  # tensors of a file of the second kind
_FLAT = 0.1  # an exponent below it: it doesn't depend on the size
_SLOWEST = ("zarr",)  # a file for each tensor: minutes for thousands
_NO_ROOM = ("zarr", "npz", "gguf", "hdf5", "lmdb")  # 8 GB each


def tensors(setting: Setting) -> Iterator[Result]:
    """Measure files of 1 to 16,382 small tensors."""
    for count in (1, 20, 100) if setting.quick else COUNTS:
        with files.written(setting, files.many(count), without=_SLOWEST) as made:
            for case, title, what in (
                ("names", "open, list all names", "and peak memory meanwhile"),
                ("first", "open, use one tensor", "in a process that has read another file before"),
            ):
                told = Measured(
                    f"tensors-{case}-{count}", f"{title}: {count:,}", what, made.sides(case), series=title, at=count
                )
                yield run(told, setting)


def sizes(setting: Setting) -> Iterator[Result]:
    """Measure files of 1 MB to 8 GB, of 64 tensors."""
    for nbytes in (1 << 18, 1 << 19, 1 << 20) if setting.quick else SIZES:
        with files.written(setting, files.few(nbytes, _PARTS), without=_NO_ROOM) as made:
            for case, title, otherwise in (
                ("names", "open, list all names", None),
                ("map", "every page used", "read"),
                ("read", "load into own memory", None),
            ):
                sides = made.sides(case, otherwise=otherwise)
                if case == "read":
                    sides.append(made.machine("sequential-1"))
                told = Measured(
                    f"size-{case}-{nbytes}",
                    f"{title}: {size(made.wanted.nbytes)}",
                    f"{_PARTS} tensors; formats that can't map load" if otherwise else f"{_PARTS} tensors",
                    sides,
                    None if case == "names" else made.wanted.nbytes,
                    series=title,
                    at=made.wanted.nbytes,
                )
                yield run(told, setting)


@dataclass(frozen=True)
class Fit:
    """A line through what was measured at several sizes.

    Attributes:
        series, side: Of what.
        start, slope: Seconds, and seconds for each tensor or byte, by least squares of relative errors.
        exponent: Of the size, that time grows with from the middle of the sizes on: 0 when it doesn't grow.
    """

    series: str
    side: str
    start: float
    slope: float
    exponent: float

    @property
    def flat(self) -> bool:
        """Whether it doesn't depend on the size."""
        return self.exponent < _FLAT


def series_of(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the results of each series, by size."""
    names = dict.fromkeys(one.series for one in results if one.series)
    return {name: sorted((one for one in results if one.series == name), key=lambda one: one.at) for name in names}


def points(results: Sequence[Result]) -> dict[str, list[tuple[int, Row]]]:
    """Return the sizes and rows of each side of a series."""
    sides = dict.fromkeys(row.format for one in results for row in one.rows)
    return {name: [(one.at, row) for one in results for row in one.rows if row.format == name] for name in sides}


def fits(results: Sequence[Result]) -> list[Fit]:
    """Return a line for each side of each series that was measured at three sizes or more."""
    return [
        _fit(series, side, found)
        for series, ofit in series_of(results).items()
        for side, found in points(ofit).items()
        if len(found) > 2
    ]


def _fit(series: str, side: str, found: Sequence[tuple[int, Row]]) -> Fit:
    sizes = np.array([at for at, _ in found], np.float64)
    seconds = np.array([row.median for _, row in found], np.float64)
    # Relative errors: else the largest file alone would decide.
    matrix = np.stack([np.ones_like(sizes), sizes], axis=1) / seconds[:, None]
    (start, slope), *_ = np.linalg.lstsq(matrix, np.ones_like(seconds))
    half = len(found) // 2
    exponent = np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)[0]
    return Fit(series, side, float(start), float(slope), float(exponent))
