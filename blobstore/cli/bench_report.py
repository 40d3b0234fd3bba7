"""What ``blobstore bench`` has measured, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.bench.yardsticks import NAME as MACHINE
from blobstore.cli.formatting import duration, rate, size
from blobstore.cli.output import note
from blobstore.cli.tables import print_table

if TYPE_CHECKING:
    from blobstore.bench.report import Report, Row

_COLUMNS = ("case", "format", "cache", "median", "min - max", "ratio", "bytes/s", "of limit", "peak", "own", "pages")
_RIGHT = _COLUMNS[3:]
_SPARE = ("pages", "own", "peak", "of limit", "bytes/s")
_LIMITS = {"disk": "of disk", "memory": "of copy"}


def tell(report: Report) -> None:
    """Print a line for each case and format, then notes."""
    order = list(dict.fromkeys(_group(row) for row in report.rows))
    rows = sorted(report.rows, key=lambda row: (order.index(_group(row)), row.cache))  # formats next to each other
    print_table(_COLUMNS, [_cells(row) for row in rows], names=("format",), right=_RIGHT, grouped=True, spare=_SPARE)
    versions = ", ".join(f"{name} {version}" for name, version in report.formats.items())
    note(f"{what(report)}; {runs(report)}; first tensor: {report.one}; {versions}")
    for entry in report.left_out:
        note(f"left out: {entry['name']}: {entry['reason']}")
    for text in report.notes:
        note(text)


def _group(row: Row) -> str:
    """Return the case; the machine's limits are one group."""
    return MACHINE if row.format == MACHINE else row.title


def what(report: Report) -> str:
    """Return what was read, in words."""
    return f"{report.tensors} tensors, {size(report.nbytes)}"


def runs(report: Report) -> str:
    """Return how often each case ran, in words."""
    return f"{report.runs} run{'' if report.runs == 1 else 's'}"


def _cells(row: Row) -> tuple[str, ...]:
    pages = [sample.pages_after for sample in row.samples if sample.pages_after is not None]
    return (
        _group(row),
        row.title if row.format == MACHINE else row.format,
        row.cache,
        duration(row.median),
        spread(row),
        f"{row.ratio:.2f}" if row.ratio is not None else "-",
        rate(row.rate) if row.rate is not None else "-",
        _limit(row) or "-",
        size(row.peak_nbytes) if row.peak_nbytes is not None else "-",
        size(row.own_nbytes) if row.own_nbytes is not None else "-",
        str(max(pages)) if pages and row.cache == "cold" else "-",
    )


def spread(row: Row) -> str:
    """Return the fastest and the slowest run, with the unit once if both have the same."""
    fastest, slowest = duration(row.fastest), duration(row.slowest)
    number, unit = fastest.split(" ")
    return f"{number if slowest.endswith(f' {unit}') else fastest} - {slowest}"


def _limit(row: Row) -> str:
    return f"{row.share:.0%} {_LIMITS[row.share_of]}" if row.share is not None and row.share_of else ""


def label(row: Row) -> str:
    """Return the text beside a bar of the chart."""
    speed = rate(row.rate) if row.rate is not None else ""
    share = _limit(row) if row.format != MACHINE else ""
    ratio = f"{row.ratio:.2g}×" if row.ratio is not None else ""
    return "  ".join(part for part in (duration(row.median), ratio, speed, share) if part)
