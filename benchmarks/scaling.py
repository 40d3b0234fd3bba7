"""Scaling: time and memory against the number of tensors and the file's size; what a name or a byte costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import files
from benchmarks.measurement import Measured, run
from blobstore.cli.formatting import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.measurement import Result, Setting
    from blobstore.bench.report import Row

COUNTS = (100, 1_000, 10_000, 31_600, 100_000)
SIZES = (10**6, 10**7, 10**8, 316 * 10**6, 10**9)  # 10¹⁰ in two formats, and converted, would take 30 GB of disk
_PARTS = 64  # tensors in a file of `sizes`
_RUNS = 5
_FLAT = 0.1  # below this exponent, nothing depends on the size
_TOO_FAST = 1.1  # above this one, it grows faster than the size
_MANY = 10_000
_SLOWEST = ("zarr",)  # a file for each tensor: minutes for thousands
_SLOW = (*_SLOWEST, "gguf", "hdf5")  # more than 10 s to open 100,000
_TOO_LARGE = ("zarr", "npz", "gguf", "hdf5", "lmdb")  # a GB each
_FEW = ("safetensors", "lmdb")


def tensors(setting: Setting) -> Iterator[Result]:
    """Measure files of 100 to 100,000 small tensors."""
    for count in (10, 20, 100) if setting.quick else COUNTS:
        without = _SLOWEST if count <= _MANY else _SLOW
        with files.written(setting, files.many(count), without=without) as made:
            for case, title, sides in (
                ("open", "open", made.sides("open", only=_FEW)),
                ("names", "open, list all names", made.sides("names")),
                ("one", "open, use one tensor", made.sides("one")),
                ("read", "load all", made.sides("read", only=_FEW)),
                ("convert", "convert by name", made.converting()),
            ):
                if sides:
                    key, what = f"tensors-{case}-{count}", "in a process that has done it with another file before"
                    named = f"{title}: {count:,}"
                    yield run(Measured(key, named, what, sides, runs=_RUNS, series=title, at=count), setting)


def sizes(setting: Setting) -> Iterator[Result]:
    """Measure files of 1 MB to 1 GB, of 64 tensors."""
    for nbytes in (1 << 18, 1 << 19, 1 << 20) if setting.quick else SIZES:
        with files.written(setting, files.few(nbytes, _PARTS), without=_TOO_LARGE) as made:
            for case, title, sides in (
                ("open", "open", made.sides("open")),
                ("names", "open, list all names", made.sides("names")),
                ("one", "open, use one tensor", made.sides("one")),
                ("map", "every page used", made.sides("map", otherwise="read")),
                ("read", "load into own memory", [*made.sides("read"), made.machine("sequential-1")]),
                ("convert", "convert by name", made.converting()),
            ):
                if not sides:
                    continue
                measured_case = Measured(
                    f"size-{case}-{nbytes}",
                    f"{title}: {size(made.wanted.nbytes)}",
                    f"{_PARTS} tensors; formats that can't map load" if case == "map" else f"{_PARTS} tensors",
                    sides,
                    made.wanted.nbytes if case in ("map", "read", "convert") else None,
                    runs=_RUNS,
                    series=title,
                    at=made.wanted.nbytes,
                )
                yield run(measured_case, setting)


@dataclass(frozen=True)
class Fit:
    """A line fitted to the measurements at several sizes.

    Attributes:
        series, side: What was measured.
        quantity: ``time``, or ``memory``: the peak.
        start, slope: Seconds or bytes, and as many for each tensor or byte, by least squares of relative errors.
        exponent: Of the size: how the quantity grows over the upper half of the sizes; 0 if it doesn't grow. Of time,
            by the fastest runs: other work only lengthens them, and what it adds isn't growth.
    """

    series: str
    side: str
    quantity: str
    start: float
    slope: float
    exponent: float

    @property
    def flat(self) -> bool:
        """Whether it doesn't depend on the size."""
        return self.exponent < _FLAT

    @property
    def too_fast(self) -> bool:
        """Whether it grows faster than the size."""
        return self.exponent > _TOO_FAST


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


# For lines, and for exponents.
_QUANTITIES: dict[str, tuple[Callable[[Row], float | None], Callable[[Row], float | None]]] = {
    "time": (lambda row: row.median, lambda row: row.fastest),
    "memory": (lambda row: row.peak_nbytes, lambda row: row.peak_nbytes),
}


def fits(results: Sequence[Result]) -> list[Fit]:
    """Return lines for each side of each series measured at three sizes or more: of time, and of peak memory."""
    return list(_fits(results))


def _fits(results: Sequence[Result]) -> Iterator[Fit]:
    for series, series_results in series_of(results).items():
        for side, rows in points(series_results).items():
            for quantity, ways in _QUANTITIES.items():
                values, least = ([(at, number) for at, row in rows if (number := value(row))] for value in ways)
                if len(values) > 2:
                    yield _fit(series, side, quantity, values, least)


def _fit(
    series: str, side: str, quantity: str, values: Sequence[tuple[int, float]], least: Sequence[tuple[int, float]]
) -> Fit:
    sizes, numbers = (np.array(column, np.float64) for column in zip(*values, strict=True))
    # Relative errors, or else the largest file alone would decide.
    matrix = np.stack([np.ones_like(sizes), sizes], axis=1) / numbers[:, None]
    (start, slope), *_ = np.linalg.lstsq(matrix, np.ones_like(numbers))
    upper = np.log(np.array(least[len(least) // 2 :], np.float64))
    exponent = np.polyfit(upper[:, 0], upper[:, 1], 1)[0]
    return Fit(series, side, quantity, float(start), float(slope), float(exponent))
