"""A report as a chart: a panel for each case, a bar for each format, cold and warm."""

from __future__ import annotations

import io
import math
import os
from importlib import util
from typing import TYPE_CHECKING, Any

from blobstore.bench import yardsticks
from blobstore.bench.cases import CASES
from blobstore.errors import MissingExtraError, UsageError
from blobstore.fileio.atomic import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blobstore.bench.report import Report, Row

SUFFIXES = (".png", ".svg", ".pdf")
_COLOURS = {"cold": "#2f6db3", "warm": "#e8902f"}
_GREY = {"cold": "#8b98a8", "warm": "#c9c2b8"}  # this machine's limits
_LIMITS = {
    "map": ("sequential-1", "mmap"),
    "read": ("sequential-1", "copy", "copy-new"),
}  # case → the yardsticks shown with it
_COLUMNS = 2
_LETTER, _NAMES = 0.066, 1.8  # inches: width of a label's letter; of names and gaps in a column
_TICK = 0.55  # least inches between ticks


def check(path: str) -> None:
    """Refuse now what `draw` would refuse after minutes of measuring.

    Raises:
        UsageError: ``bad-plot``: the suffix isn't one of `SUFFIXES`.
        MissingExtraError: ``no-matplotlib``.
        FileNotFoundError: The folder doesn't exist.
    """
    if not path.endswith(SUFFIXES):
        raise UsageError("bad-plot", f"{path!r}: expected a name that ends with {', '.join(SUFFIXES)}")
    if util.find_spec("matplotlib") is None:
        what = "matplotlib is not installed: pip install matplotlib"
        raise MissingExtraError("no-matplotlib", what)
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(2, "no such folder", folder)


def draw(
    report: Report, path: str, heading: str, label: Callable[[Row], str], duration: Callable[[float], str]
) -> None:
    """Write the chart.

    Args:
        report: What was measured.
        path: Ends with one of `SUFFIXES`.
        heading: Above it all.
        label: Returns the text beside a bar.
        duration: Formats seconds, for the axes.

    Raises:
        UsageError, MissingExtraError, OSError: As `check`; or the file can't be written.
    """
    check(path)
    from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)

    panels = [(case.title, _rows(report, key)) for key, case in CASES.items()]
    panels = [(title, rows) for title, rows in panels if rows]
    pairs = [panels[i : i + _COLUMNS] for i in range(0, len(panels), _COLUMNS)]
    heights = [max(len(rows) for _, rows in pair) * 0.19 + 0.75 for pair in pairs]
    figure = Figure(figsize=(11, sum(heights) + 0.9), dpi=110, layout="constrained")
    grid = figure.subplots(len(pairs), _COLUMNS, squeeze=False, height_ratios=heights)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, rows) in zip(grid.flat, panels, strict=False):
        panel(axes, title, rows, label=label, duration=duration, colour=_colour)
    figure.suptitle(heading, fontsize=11, x=0.01, ha="left")
    _legend(figure, report)
    save(figure, path)


def _rows(report: Report, case: str) -> list[Row]:
    """Return the rows of a panel: each format's cold row above its warm one; the machine's limits last."""
    limits = _LIMITS.get(case, ())
    chosen = [row for row in report.rows if row.case == case]
    chosen += [row for row in report.rows if row.format == yardsticks.NAME and row.case in limits]
    order = list(dict.fromkeys(_name(row) for row in chosen))
    return sorted(chosen, key=lambda row: (order.index(_name(row)), row.cache))


def _name(row: Row) -> str:
    return row.title if row.format == yardsticks.NAME else row.format


def panel(
    axes: Any,  # noqa: ANN401 (matplotlib's)
    title: str,
    rows: Sequence[Row],
    *,
    label: Callable[[Row], str],
    duration: Callable[[float], str],
    colour: Callable[[Row], str],
) -> None:
    """Draw one case; consecutive rows with the same name are close together."""
    _bars(axes, rows, label, colour)
    _log_axis(axes, rows, longest=max(len(label(row)) for row in rows) * _LETTER)
    axes.xaxis.set_major_formatter(lambda value, _: duration(value))
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _bars(axes: Any, rows: Sequence[Row], label: Callable[[Row], str], colour: Callable[[Row], str]) -> None:  # noqa: ANN401 (matplotlib's)
    """Draw a bar for each row, its label beside it, and its name once for consecutive rows."""
    places, ticks, names = [], [], []
    at = 0.0
    for i, row in enumerate(rows):
        new = i == 0 or _name(row) != _name(rows[i - 1])
        at += 1.5 if new and i else (1.0 if i else 0.0)
        places.append(at)
        if new:
            count = sum(_name(other) == _name(row) for other in rows)
            ticks.append(at + (count - 1) / 2)
            names.append(_name(row))
    colours = [colour(row) for row in rows]
    medians = [row.median for row in rows]
    spread = [[row.median - row.fastest for row in rows], [row.slowest - row.median for row in rows]]
    axes.barh(places, medians, height=0.92, color=colours, xerr=spread, error_kw={"elinewidth": 0.8, "alpha": 0.6})
    for place, row in zip(places, rows, strict=True):
        axes.annotate(
            label(row), (row.slowest, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(ticks, names, fontsize=9)


def _log_axis(axes: Any, rows: Sequence[Row], *, longest: float) -> None:  # noqa: ANN401 (matplotlib's)
    """Scale the time axis; ``longest`` is the width of the longest label in inches."""
    axes.set_xscale("log")
    # A log scale doesn't start at zero, so the shortest bar needs some length; the labels need space on the right.
    low, high = min(row.fastest for row in rows), max(row.slowest for row in rows)
    decades = max((high / low), 10.0)
    width = axes.figure.get_figwidth() / axes.get_subplotspec().get_gridspec().ncols - _NAMES
    left = low / decades**0.25
    bars = math.log10(high / left)
    shown = bars / max(1 - longest / width, 0.3)
    axes.set_xlim(left, left * 10**shown)
    # Ticks only under the bars, not under the labels.
    first, last = math.ceil(math.log10(left)), math.floor(math.log10(high * 1.05))
    step = math.ceil(_TICK * shown / width)
    axes.set_xticks([10.0**i for i in range(first, last + 1, step)])


def _colour(row: Row) -> str:
    return (_GREY if row.format == yardsticks.NAME else _COLOURS)[row.cache]


def save(figure: Any, path: str) -> None:  # noqa: ANN401 (matplotlib's)
    """Write a figure on white, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=os.path.splitext(path)[1][1:], facecolor="white")
    write_file(path, buffer.getvalue())


def _legend(figure: Any, report: Report) -> None:  # noqa: ANN401 (matplotlib's)
    from matplotlib.patches import Patch  # noqa: PLC0415 (an extra)

    ways = [way for way in _COLOURS if any(row.cache == way for row in report.rows)]
    patches = [Patch(color=_COLOURS[way], label=way) for way in ways]
    patches += [Patch(color=_GREY[way], label=f"this machine's limit, {way}") for way in ways]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=9, frameon=False)
