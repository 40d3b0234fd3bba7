"""The report: a row for each case of each format, cold or warm."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from blobstore.bench import yardsticks
from blobstore.bench.cases import CASES, Case, Ours

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blobstore.bench.measure import Job, Sample
    from blobstore.store.info import TensorInfo

OURS = Ours.name
UNKNOWN_CACHE = (
    "the system reports whether a file is in the page cache only to those who may write to it: not known here"
)
SOME = 0.01  # part of a file in the cache, or not in it, that is worth a note


@dataclass(frozen=True)
class Row:
    """One case of one format, cold or warm.

    Attributes:
        format, case: What was measured; in words: ``title``, ``what``.
        cache: ``cold`` or ``warm``.
        nbytes: Size of the data; None if bytes per second aren't meaningful.
        samples: One for each run.
        median, fastest, slowest: Seconds.
        rate: Bytes per second, by the median.
        share: Part of the rate of the yardstick ``share_of``: ``disk`` or ``memory``.
        ratio: Time divided by ours: the median of the runs' ratios.
        peak_nbytes, own_nbytes: Maximum over the runs; see `Sample`.
    """

    format: str
    case: str
    title: str
    what: str
    cache: str
    nbytes: int | None
    samples: list[Sample]
    median: float
    fastest: float
    slowest: float
    rate: float | None
    peak_nbytes: int | None
    own_nbytes: int | None
    share: float | None = None
    share_of: str | None = None
    ratio: float | None = None


@dataclass
class Report:
    """All measurements.

    Attributes:
        input, file_nbytes: The file and its size.
        tensors, nbytes: Number and size of the tensors measured.
        tensors_in_file: Number of tensors with bytes of their own.
        one: Name of the tensor that "first tensor" uses.
        runs: Of each measurement.
        room_nbytes: Disk space for the peers' files, at most.
        machine: System, processors, versions.
        formats: Name → version of its library.
        disk, memory: The yardsticks, in bytes per second.
        rows: Cases in order, yardsticks first.
        left_out: What wasn't measured, and why.
        notes: What to know when reading the numbers.
    """

    input: str
    file_nbytes: int
    tensors: int
    nbytes: int
    tensors_in_file: int
    one: str
    runs: int
    room_nbytes: int = 0
    machine: dict[str, str | int | None] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    disk: float | None = None
    memory: float | None = None
    rows: list[Row] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, name: str, reason: str) -> None:
        """Note what isn't measured, and why."""
        self.left_out.append({"name": name, "reason": reason})


def case_of(job: Job) -> Case:
    """Return what a job measures."""
    return CASES.get(job.case) or yardsticks.YARDSTICKS[job.case]


def tabulate(report: Report, samples: Sequence[tuple[Job, list[Sample]]]) -> None:
    """Make the report's rows, each compared with the yardstick and with ours."""
    ways = {True: "cold", False: "warm"}
    rows = [
        row_of(job.format, case, ways[job.cold], job.wanted.nbytes if case.everything else None, taken)
        for job, taken in samples
        for case in (case_of(job),)
    ]
    report.disk = _fastest(row for row in rows if row.case in yardsticks.DISK and row.cache == "cold")
    report.memory = _fastest(row for row in rows if row.case == "copy")
    ours = {(row.case, row.cache): row for row in rows if row.format == OURS}
    report.rows = [_compared(row, report, ours.get((row.case, row.cache))) for row in rows]


def row_of(name: str, case: Case, way: str, nbytes: int | None, samples: list[Sample]) -> Row:
    """Return a row that isn't compared with anything yet.

    Args:
        name: Of the format.
        case: What was measured.
        way: ``cold`` or ``warm``.
        nbytes: Size of the data, if bytes per second are meaningful.
        samples: At least one.
    """
    seconds = [sample.seconds for sample in samples]
    median = statistics.median(seconds)
    return Row(
        format=name,
        case=case.key,
        title=case.title,
        what=case.what,
        cache=way,
        nbytes=nbytes,
        samples=samples,
        median=median,
        fastest=min(seconds),
        slowest=max(seconds),
        rate=nbytes / median if nbytes is not None else None,
        peak_nbytes=max((sample.peak_nbytes for sample in samples if sample.peak_nbytes is not None), default=None),
        own_nbytes=max((sample.own_nbytes for sample in samples if sample.own_nbytes is not None), default=None),
    )


def _fastest(rows: Iterable[Row]) -> float | None:
    return max((row.rate for row in rows if row.rate is not None), default=None)


def _compared(row: Row, report: Report, ours: Row | None) -> Row:
    """Compare a row with the yardstick and with ours."""
    share, yardstick, limit = None, *(("disk", report.disk) if row.cache == "cold" else ("memory", report.memory))
    # Touching a byte of each page copies nothing: cold, the disk is the limit; warm, no yardstick is.
    if row.rate is not None and limit is not None and (row.cache == "cold" or row.case not in ("map", "mmap")):
        share = row.rate / limit
    ratio = ratio_of(row, ours) if ours and row.format != OURS else None
    return replace(row, share=share, share_of=None if share is None else yardstick, ratio=ratio)


def ratio_of(row: Row, ours: Row) -> float:
    """Return a row's time divided by ours: the median of the turns' ratios."""
    pairs = zip(row.samples, ours.samples, strict=False)  # slow cases have fewer runs
    return statistics.median(theirs.seconds / own.seconds for theirs, own in pairs)


def add_notes(report: Report, infos: Sequence[TensorInfo]) -> None:
    """Add notes on what to know when reading the numbers."""
    if len(infos) < report.tensors_in_file:
        report.notes.append(f"quick: {len(infos)} of {report.tensors_in_file} tensors, and as much of the file")
    encoded = sum(info.encoded or info.dtype is None for info in infos)
    if encoded:
        report.notes.append(f"{encoded} encoded tensors are read as stored bytes, not decoded")
    parts: dict[tuple[str, str], list[float]] = {}
    for row in report.rows:
        parts_cached = [sample.cached_before for sample in row.samples if sample.cached_before is not None]
        parts.setdefault((row.format, row.cache), []).extend(parts_cached)
        if len(parts_cached) < len(row.samples) and UNKNOWN_CACHE not in report.notes:
            report.notes.append(UNKNOWN_CACHE)
    for (name, way), parts_cached in parts.items():
        if way == "cold" and max(parts_cached, default=0.0) >= SOME:
            why = "mapped by another process, or on an in-memory file system"
            report.notes.append(f"cold runs of {name}: still {max(parts_cached):.0%} cached ({why})")
        if way == "warm" and min(parts_cached, default=1.0) <= 1 - SOME:
            report.notes.append(f"warm runs of {name}: only {min(parts_cached):.0%} cached, the system keeps no more")
