"""A case as data, and its measurement: all sides take turns."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from contextlib import suppress
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
    """How to measure.

    Attributes:
        folder: For files, tens of GB; each group removes its own.
        quick: Tiny data, two runs, all in this process: whether it works, not how fast.
        tell: Called with what comes next.
        same: Formats checked to hold the same bytes.
        left_out: What isn't measured → why.
    """

    folder: str
    quick: bool = False
    tell: Callable[[str], object] = print
    same: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One of the sides that take turns.

    Attributes:
        name: ``blobstore``, a format, or what else is measured.
        take: Takes one measurement.
    """

    name: str
    take: Callable[[], Sample]


@dataclass(frozen=True)
class Aim:
    """An aim: ours is at least ``factor`` times as fast as the side ``against``.

    With ``best`` the fastest runs of both are compared: for limits of the machine, which other work only lengthens.
    ``side`` is another side of ours, if not the first.
    """

    against: str
    factor: float
    best: bool = False
    side: str = OURS

    def of(self, rows: Mapping[str, Row]) -> Reached | None:
        """Return what was reached; None if one of the sides wasn't measured."""
        ours, other = rows.get(self.side), rows.get(self.against)
        if ours is None or other is None:
            return None
        found = other.fastest / ours.fastest if self.best else ratio_of(other, ours)
        unit = "times, fastest runs" if self.best else "times"
        return Reached(self.side, self.against, found, self.factor, found >= self.factor, unit)


@dataclass(frozen=True)
class Within:
    """An aim: ours takes at most some ``seconds``; with a side ``against``, at most so many more than that one."""

    seconds: float
    against: str = ""

    def of(self, rows: Mapping[str, Row]) -> Reached | None:
        """Return what was reached; None if the other side wasn't measured."""
        ours = rows[OURS]
        if self.against and self.against not in rows:
            return None
        found = more_than(rows[self.against], ours) if self.against else ours.median
        unit = "seconds more" if self.against else "seconds"
        return Reached(OURS, self.against, found, self.seconds, found <= self.seconds, unit)


@dataclass(frozen=True)
class Measured:
    """A case to measure.

    Attributes:
        key: Short, stable, unique.
        title: For people.
        what: Everything that is timed.
        sides: Ours first.
        nbytes: Size of the data, if bytes per second are meaningful.
        aims: To be reached.
        cold: Whether the files are not in the page cache.
        runs: Of sides that take less than a second; slower ones get 3 runs, those of more than 8 s get 1.
        trial: Whether to run each side once before, uncounted, for what it imports in this process.
        series, at: For cases that only differ in a size: their common name, and the size.
        smaller: For sides that compress: the ratio.
    """

    key: str
    title: str
    what: str
    sides: Sequence[Side]
    nbytes: int | None = None
    aims: Sequence[Aim | Within] = ()
    cold: bool = False
    runs: int = 7
    trial: bool = False
    series: str = ""
    at: int = 0
    smaller: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reached:
    """What became of an aim.

    Attributes:
        side: The side of ours.
        against: The side that it was compared with; empty for none.
        found, aim: What was measured, and what was wanted: in ``unit``.
        reached: Whether it was reached.
        unit: ``times`` as fast, or ``times, fastest runs``; ``seconds``, or ``seconds more``.
    """

    side: str
    against: str
    found: float
    aim: float
    reached: bool
    unit: str


@dataclass(frozen=True)
class Result:
    """The measurements of a case.

    Attributes:
        key, title, what, nbytes, series, at, smaller: Of the case.
        rows: One for each side, ours first; a row's ``ratio`` is its time divided by ours.
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
        return next((row for row in self.rows if row.format == name), None)


def run(case: Measured, setting: Setting) -> Result:
    """Measure all sides in turns, so a machine that slows down slows them all."""
    setting.tell(f"{case.key}: {case.title}")
    if case.trial:
        for side in case.sides:
            side.take()
    samples: dict[str, list[Sample]] = {side.name: [] for side in case.sides}
    for turn in range(2 if setting.quick else case.runs):
        for side in case.sides:
            taken = samples[side.name]
            slowest = max((sample.seconds for sample in taken), default=0.0)
            if turn < (1 if slowest > _VERY_LONG else _LONG_RUNS if slowest > _LONG else case.runs):
                taken.append(side.take())
    measured_case = Case(case.key, case.title, case.what)
    way = "cold" if case.cold else "warm"
    rows = [row_of(name, measured_case, way, case.nbytes, taken) for name, taken in samples.items()]
    ours = rows[0]
    rows = [ours, *(with_ratio(row, ours) for row in rows[1:])]
    by_name = {row.format: row for row in rows}
    aims = [found for aim in case.aims if (found := aim.of(by_name))]
    return Result(case.key, case.title, case.what, case.nbytes, rows, aims, case.series, case.at, case.smaller)


def with_ratio(row: Row, ours: Row) -> Row:
    """Return a row with its time divided by ours as ``ratio``."""
    return Row(**{**vars(row), "ratio": ratio_of(row, ours)})


def more_than(row: Row, ours: Row) -> float:
    """Return how many seconds more ours takes than a row: the median of the turns' differences."""
    pairs = zip(row.samples, ours.samples, strict=False)
    return statistics.median(own.seconds - theirs.seconds for theirs, own in pairs)


def job(setting: Setting, name: str, task: measure.Job) -> Side:
    """Return a side that does a job of `blobstore.bench` in a process of its own (quick: in this one)."""
    return Side(name, partial(measure.measure if setting.quick else measure.take, task))


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
        says: What it must print, if that is to be checked.
    """

    def take() -> Sample:
        before = _faults_of_children()
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start
        minor, major = (after - count for after, count in zip(_faults_of_children(), before, strict=True))
        if says is not None and done.stdout.strip() != says:
            raise AssertionError(f"{name} prints {done.stdout!r}, not {says!r}: nothing to compare")
        return Sample(seconds, None, None, minor or None, major if minor else None)

    return Side(name, take)


def _faults_of_children() -> tuple[int, int]:
    """Return minor and major page faults of the processes that have ended; zeros where the system doesn't count."""
    with suppress(ImportError):
        import resource  # noqa: PLC0415 (not on Windows)

        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_minflt, used.ru_majflt
    return 0, 0


__all__ = [
    "OURS",
    "Aim",
    "Measured",
    "Reached",
    "Result",
    "Setting",
    "Side",
    "Within",
    "here",
    "job",
    "process",
    "run",
]
