"""A case as data, and its measurement: ours and the others take turns."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from blobstore.bench import measure
from blobstore.bench.cases import Case
from blobstore.bench.measure import Sample
from blobstore.bench.report import OURS, Row, ratio_of, row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LONG, _VERY_LONG = 1.0, 8.0  # seconds
_LONG_RUNS = 3


@dataclass(frozen=True)
class Setting:
    """How it is measured.

    Attributes:
        folder: For files, of tens of GB; emptied by those who fill it.
        quick: Tiny data, two runs, all in this process: whether it works, not how fast.
        tell: Called with what comes next.
        same: Formats that were found to hold the same bytes.
        left_out: What isn't measured → why.
    """

    folder: str
    quick: bool = False
    tell: Callable[[str], object] = print
    same: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One of those who take turns.

    Attributes:
        name: ``blobstore``, a format's, or what else is done.
        take: One measurement.
    """

    name: str
    take: Callable[[], Sample]


@dataclass(frozen=True)
class Aim:
    """What is to be reached: ours is at least ``factor`` times as fast as the side ``against``."""

    against: str
    factor: float


@dataclass(frozen=True)
class Measured:
    """A case that is to be measured.

    Attributes:
        key: Short, stable, unique.
        title: For people.
        what: All that is timed.
        sides: Ours first.
        nbytes: It concerns, where bytes per second say something.
        aims: What is to be reached.
        cold: Whether the files have left the page cache.
        runs: Of what takes less than a second; 3 of what takes longer, 1 of what takes more than 8 s.
        trial: Whether each side is done once before, and that doesn't count: what it imports in this process.
        series, at: Of several cases that differ in a size only: what they have in common, and the size.
        smaller: Of sides that compress: how many times smaller.
    """

    key: str
    title: str
    what: str
    sides: Sequence[Side]
    nbytes: int | None = None
    aims: Sequence[Aim] = ()
    cold: bool = False
    runs: int = 7
    trial: bool = False
    series: str = ""
    at: int = 0
    smaller: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reached:
    """An aim, and how often as fast as the other side ours was."""

    against: str
    factor: float
    ratio: float

    @property
    def reached(self) -> bool:
        """Whether it was reached."""
        return self.ratio >= self.factor


@dataclass(frozen=True)
class Result:
    """What was measured of a case.

    Attributes:
        key, title, what, nbytes, series, at, smaller: Of the case.
        rows: One for each side, ours first; a row's ``ratio`` is how often longer than ours it took.
        aims: With what was reached.
    """

    key: str
    title: str
    what: str
    nbytes: int | None
    rows: list[Row]
    aims: list[Reached] = field(default_factory=list)
    series: str = ""
    at: int = 0
    smaller: Mapping[str, float] = field(default_factory=dict)

    def row(self, name: str) -> Row | None:
        """Return the row of a side."""
        return next((one for one in self.rows if one.format == name), None)


def run(case: Measured, setting: Setting) -> Result:
    """Measure all sides in turns: a machine that slows down slows them all."""
    setting.tell(f"{case.key}: {case.title}")
    if case.trial:
        for side in case.sides:
            side.take()
    samples: dict[str, list[Sample]] = {one.name: [] for one in case.sides}
    for turn in range(2 if setting.quick else case.runs):
        for side in case.sides:
            taken = samples[side.name]
            slowest = max((one.seconds for one in taken), default=0.0)
            if turn < (1 if slowest > _VERY_LONG else _LONG_RUNS if slowest > _LONG else case.runs):
                taken.append(side.take())
    told = Case(case.key, case.title, case.what)
    way = "cold" if case.cold else "warm"
    rows = [row_of(name, told, way, case.nbytes, taken) for name, taken in samples.items()]
    ours = rows[0]
    rows = [ours, *(with_ratio(one, ours) for one in rows[1:])]
    ratios = {one.format: one.ratio for one in rows[1:]}
    aims = [Reached(one.against, one.factor, ratios[one.against] or 0.0) for one in case.aims if one.against in ratios]
    return Result(case.key, case.title, case.what, case.nbytes, rows, aims, case.series, case.at, case.smaller)


def with_ratio(row: Row, ours: Row) -> Row:
    """Return a row that says how often longer than ours it took."""
    return Row(**{**vars(row), "ratio": ratio_of(row, ours)})


def job(setting: Setting, name: str, told: measure.Job) -> Side:
    """Return a side that does a job of `blobstore.bench` in a process of its own (quick: in this one)."""
    return Side(name, partial(measure.measure if setting.quick else measure.take, told))


def here(name: str, work: Callable[[], object]) -> Side:
    """Return a side that runs something in this process."""

    def take() -> Sample:
        gc.collect()
        return Sample(**measure.timed(work))

    return Side(name, take)


def process(name: str, *arguments: str, says: str | None = None) -> Side:
    """Return a side that is a whole process of Python, from its start to its end.

    Args:
        name: Of the side.
        arguments: Of the interpreter.
        says: What it prints, where that is to be looked at.
    """

    def take() -> Sample:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start
        if says is not None and done.stdout.strip() != says:
            raise AssertionError(f"{name} says {done.stdout!r}, not {says!r}: nothing to compare")
        return Sample(seconds, None, None, None, None)

    return Side(name, take)


__all__ = ["OURS", "Aim", "Measured", "Reached", "Result", "Setting", "Side", "here", "job", "process", "run"]
