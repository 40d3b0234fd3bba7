"""What was measured, put together: a row for each case of each format, cold or warm."""

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
UNTOLD = "whether a file was in the page cache is told only to those who may write to it: not known here"
SOME = 0.01  # of a file, in the cache or not in it: worth telling


@dataclass(frozen=True)
class Row:
    """One case of one format, cold or warm.

    Attributes:
        format, case: What was measured; ``title`` and ``what`` say it in words.
        cache: ``cold`` or ``warm``.
        nbytes: It concerns; None where bytes per second say nothing.
        samples: Of each run.
        median, fastest, slowest: Seconds.
        rate: Bytes per second, by the median.
        share: Of the rate of the yardstick ``share_of``: ``disk`` or ``memory``.
        ratio: How often longer than ours it takes: the median of the runs' own ratios.
        peak_nbytes, own_nbytes: The largest of the runs; see `Sample`.
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
    """All that was measured.

    Attributes:
        file, file_nbytes: Which.
        tensors, nbytes: That were measured, and their size.
        tensors_in_file: With bytes of their own.
        one: Name of the tensor that "first tensor" uses.
        room_nbytes: That the peers' files may have taken.
        machine: System, processors, versions.
        formats: Name → version of its library.
        disk, memory: The yardsticks in bytes per second, and which rows they are from.
        rows: Cases in order, yardsticks first.
        left_out: What isn't there, and why.
        notes: What one must know to read the numbers.
    """

    file: str
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
        """Note what is not measured, and why."""
        self.left_out.append({"name": name, "reason": reason})


def case_of(job: Job) -> Case:
    """Return what a job measures."""
    return CASES.get(job.case) or yardsticks.YARDSTICKS[job.case]


def tabulate(report: Report, samples: Sequence[tuple[Job, list[Sample]]]) -> None:
    """Make the rows of what was measured, each beside the yardstick and beside ours."""
    ways = {True: "cold", False: "warm"}
    rows = [
        row_of(job.format, case, ways[job.cold], job.wanted.nbytes if case.everything else None, taken)
        for job, taken in samples
        for case in (case_of(job),)
    ]
    report.disk = _fastest(one for one in rows if one.case in yardsticks.DISK and one.cache == "cold")
    report.memory = _fastest(one for one in rows if one.case == "copy")
    ours = {(one.case, one.cache): one for one in rows if one.format == OURS}
    report.rows = [_compared(one, report, ours.get((one.case, one.cache))) for one in rows]


def row_of(name: str, case: Case, way: str, nbytes: int | None, samples: list[Sample]) -> Row:
    """Return the row of what was measured, beside nothing yet.

    Args:
        name: Of the format.
        case: What was measured.
        way: ``cold`` or ``warm``.
        nbytes: It concerns, where bytes per second say something.
        samples: At least one.
    """
    seconds = [one.seconds for one in samples]
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
        peak_nbytes=max((one.peak_nbytes for one in samples if one.peak_nbytes is not None), default=None),
        own_nbytes=max((one.own_nbytes for one in samples if one.own_nbytes is not None), default=None),
    )


def _fastest(rows: Iterable[Row]) -> float | None:
    return max((one.rate for one in rows if one.rate is not None), default=None)


def _compared(row: Row, report: Report, ours: Row | None) -> Row:
    """Set a row beside the yardstick and beside ours."""
    share, of, limit = None, *(("disk", report.disk) if row.cache == "cold" else ("memory", report.memory))
    # Touching a byte of each page moves no bytes: cold the disk bounds it, warm nothing that is measured here does.
    if row.rate is not None and limit is not None and (row.cache == "cold" or row.case not in ("map", "mmap")):
        share = row.rate / limit
    ratio = ratio_of(row, ours) if ours and row.format != OURS else None
    return replace(row, share=share, share_of=None if share is None else of, ratio=ratio)


def ratio_of(row: Row, ours: Row) -> float:
    """Return how often longer a row took than ours: the median of the turns' own ratios."""
    pairs = zip(row.samples, ours.samples, strict=False)  # what takes long has fewer runs
    return statistics.median(theirs.seconds / own.seconds for theirs, own in pairs)


def add_notes(report: Report, infos: Sequence[TensorInfo]) -> None:
    """Add what one must know to read the numbers."""
    if len(infos) < report.tensors_in_file:
        report.notes.append(f"quick: {len(infos)} of {report.tensors_in_file} tensors, and as much of the file")
    encoded = sum(1 for one in infos if one.encoded or one.dtype is None)
    if encoded:
        report.notes.append(f"{encoded} encoded tensors are read as the bytes that are stored, not decoded")
    parts: dict[tuple[str, str], list[float]] = {}
    for row in report.rows:
        told = [one.cached_before for one in row.samples if one.cached_before is not None]
        parts.setdefault((row.format, row.cache), []).extend(told)
        if len(told) < len(row.samples) and UNTOLD not in report.notes:
            report.notes.append(UNTOLD)
    for (name, way), told in parts.items():
        if way == "cold" and max(told, default=0.0) >= SOME:
            why = "mapped by another process, or on a file system in memory"
            report.notes.append(f"cold runs of {name}: still {max(told):.0%} cached ({why})")
        if way == "warm" and min(told, default=1.0) <= 1 - SOME:
            report.notes.append(f"warm runs of {name}: only {min(told):.0%} cached, the system keeps no more")
