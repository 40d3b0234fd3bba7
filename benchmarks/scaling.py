"""Scaling: time and memory against the number of tensors and the file's size; what a name or a byte costs."""

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
_PARTS = 64  # tensors in a file of `sizes`
_FLAT = 0.1  # below this exponent, time doesn't depend on the size
_SLOWEST = ("zarr",)  # a file for each tensor: minutes for thousands
_TOO_LARGE = ("zarr", "npz", "gguf", "hdf5", "lmdb")  # 8 GB each


def tensors(setting: Setting) -> Iterator[Result]:
    """Measure files of 1 to 16,382 small tensors."""
    for count in (1, 20, 100) if setting.quick else COUNTS:
        with files.written(setting, files.many(count), without=_SLOWEST) as made:
            for case, title, what in (
                ("names", "open, list all names", "and peak memory meanwhile"),
                ("first", "open, use one tensor", "in a process that has read another file before"),
            ):
                measured_case = Measured(
                    f"tensors-{case}-{count}", f"{title}: {count:,}", what, made.sides(case), series=title, at=count
                )
                yield run(measured_case, setting)


def sizes(setting: Setting) -> Iterator[Result]:
    """Measure files of 1 MB to 8 GB, of 64 tensors."""
    for nbytes in (1 << 18, 1 << 19, 1 << 20) if setting.quick else SIZES:
        with files.written(setting, files.few(nbytes, _PARTS), without=_TOO_LARGE) as made:
            for case, title, otherwise in (
                ("names", "open, list all names", None),
                ("map", "every page used", "read"),
                ("read", "load into own memory", None),
            ):
                sides = made.sides(case, otherwise=otherwise)
                if case == "read":
                    sides.append(made.machine("sequential-1"))
                measured_case = Measured(
                    f"size-{case}-{nbytes}",
                    f"{title}: {size(made.wanted.nbytes)}",
                    f"{_PARTS} tensors; formats that can't map load" if otherwise else f"{_PARTS} tensors",
                    sides,
                    None if case == "names" else made.wanted.nbytes,
                    series=title,
                    at=made.wanted.nbytes,
                )
                yield run(measured_case, setting)


@dataclass(frozen=True)
class Fit:
    """A line fitted to the measurements at several sizes.

    Attributes:
        series, side: What was measured.
        start, slope: Seconds, and seconds for each tensor or byte, by least squares of relative errors.
        exponent: Of the size: how time grows over the upper half of the sizes; 0 if it doesn't grow.
    """

    series: str
    side: str
    start: float
    slope: float
    exponent: float

    @property
    def flat(self) -> bool:
        """Whether time doesn't depend on the size."""
        return self.exponent < _FLAT


def series_of(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the results of each series, by size."""
    names = dict.fromkeys(result.series for result in results if result.series)
    return {
        name: sorted((result for result in results if result.series == name), key=lambda result: result.at)
        for name in names
    }


def points(results: Sequence[Result]) -> dict[str, list[tuple[int, Row]]]:
    """Return the sizes and rows of each side of a series."""
    sides = dict.fromkeys(row.format for result in results for row in result.rows)
    return {
        name: [(result.at, row) for result in results for row in result.rows if row.format == name] for name in sides
    }


def fits(results: Sequence[Result]) -> list[Fit]:
    """Return a line for each side of each series measured at three sizes or more."""
    return [
        _fit(series, side, rows)
        for series, series_results in series_of(results).items()
        for side, rows in points(series_results).items()
        if len(rows) > 2
    ]


def _fit(series: str, side: str, rows: Sequence[tuple[int, Row]]) -> Fit:
    sizes = np.array([at for at, _ in rows], np.float64)
    seconds = np.array([row.median for _, row in rows], np.float64)
    # Relative errors, or else the largest file alone would decide.
    matrix = np.stack([np.ones_like(sizes), sizes], axis=1) / seconds[:, None]
    (start, slope), *_ = np.linalg.lstsq(matrix, np.ones_like(seconds))
    half = len(rows) // 2
    exponent = np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)[0]
    return Fit(series, side, float(start), float(slope), float(exponent))
