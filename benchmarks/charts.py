"""Results as charts: bars for cases, lines for sizes. At 8 inches shown in 800 pixels, a point is 1⅓ pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from benchmarks.measurement import OURS
from benchmarks.scaling import points, series_of
from blobstore.bench import plot
from blobstore.bench.peers import PEERS
from blobstore.cli.formatting import duration, size
from blobstore.fileio.atomic import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.measurement import Result
    from blobstore.bench.report import Row

    Figure = Any  # matplotlib's, an extra

_WIDTH, _DPI, _COLOURS = 8, 120, 64
_OURS, _THEIRS, _LIMIT = "#2f6db3", "#e8902f", "#b9b4ad"
_LINES = {
    "safetensors": ("#e8902f", "o"),
    "npz": ("#4b9b5f", "s"),
    "gguf": ("#b4436c", "^"),
    "hdf5": ("#7d5ba6", "v"),
    "lmdb": ("#7a7a7a", "D"),
}


def bars(results: Sequence[Result]) -> Figure:
    """Draw a panel for each case, a bar for each side."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)

    columns = min(2, len(results))
    pairs = [results[i : i + columns] for i in range(0, len(results), columns)]
    heights = [max(len(result.rows) for result in pair) * 0.27 + 0.62 for pair in pairs]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.35), layout="constrained")
    grid = figure.subplots(len(pairs), columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat[len(results) :]:
        axes.set_visible(False)
    for axes, result in zip(grid.flat, results, strict=False):
        plot.panel(axes, result.title, result.rows, label=_label, duration=duration, colour=_colour)
    _caption(figure, "median and range, log scale, shorter is better; × is the time against blobstore's")
    return figure


def _label(row: Row) -> str:
    return duration(row.median) + (f"  {times(row.ratio)}" if row.ratio is not None else "")


def times(ratio: float) -> str:
    """Return a ratio with two significant digits: 0.35×, 1.2×, 41×, 1,200×."""
    digits = float(f"{ratio:.2g}")
    return f"{digits:,.0f}×" if digits >= 10 else f"{digits:.2g}×"


def _colour(row: Row) -> str:
    return _OURS if row.format == OURS else _THEIRS if row.format in PEERS else _LIMIT


def rates(results: Sequence[Result]) -> Figure:
    """Draw the bytes per second of two sides for each case, and ours as a part of the third side's."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)

    figure = Figure(figsize=(_WIDTH, 0.48 * len(results) + 0.9), layout="constrained")
    axes = figure.subplots()
    for place, result in enumerate(results):
        ours, theirs, limit = result.rows
        for row, at, colour in ((ours, place - 0.2, _OURS), (theirs, place + 0.2, _THEIRS)):
            rate, low, high = ((result.nbytes or 0) / taken for taken in (row.median, row.slowest, row.fastest))
            spread = [[rate - low], [high - rate]]
            label = row.format if not place else ""
            axes.barh(at, rate, height=0.38, color=colour, xerr=spread, label=label, error_kw={"elinewidth": 0.8})
            text = f"{size(rate)}/s"
            text += f"  {limit.median / ours.median:.0%} of a copy" if row is ours else ""
            axes.annotate(text, (high, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(results)), [result.title for result in results], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.25, y=0.01)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda rate, _: f"{size(rate)}/s" if rate else "0")
    _plain(axes)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    _caption(figure, "median and range, longer is better")
    return figure


def _plain(axes: Any) -> None:  # noqa: ANN401 (matplotlib's)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


_WAYS = {
    "blobstore": (_OURS, "o"),
    "blobstore, 2 threads": (_OURS, "D"),
    "blobstore, new memory": (_OURS, "X"),
    "zipnn": ("#b4436c", "^"),
    "openzl Huffman": ("#6c56b3", "<"),
    "openzl FSE": ("#6c56b3", ">"),
    "blosc2": ("#4b9b5f", "s"),
    "zstd -1": ("#e8902f", "v"),
    "zstd -3": ("#e8902f", "<"),
    "zstd -19": ("#e8902f", ">"),
    "gzip -6": ("#7a7a7a", "P"),
}


def scatter(results: Sequence[Result]) -> Figure:
    """Draw the compression ratio against bytes per second, in and out; a row of panels for each type of bytes."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)

    # Only results that have something to compare with.
    by_title = {
        result.title: result
        for result in results
        if any(not name.startswith(OURS) for name in {*result.smaller} - {"limit"})
    }
    bytes_types = list(dict.fromkeys(title.rpartition(", ")[0] for title in by_title))
    figure = Figure(figsize=(_WIDTH, 2.1 * len(bytes_types) + 0.6), layout="constrained")
    grid = figure.subplots(len(bytes_types), 2, squeeze=False)
    for pair, bytes_type in zip(grid, bytes_types, strict=True):
        for axes, way in zip(pair, ("packed", "unpacked"), strict=True):
            _points(axes, by_title[f"{bytes_type}, {way}"])
            axes.set_title(f"{bytes_type}, {way}", loc="left", fontsize=10, fontweight="bold")
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.set_xticks([1e6, 1e7, 1e8, 1e9])
            axes.xaxis.set_major_formatter(lambda rate, _: f"{size(rate)}/s")
            axes.set_xlim(1e6, 5e9)
            axes.margins(y=0.15)
            _plain(axes)
    for axes in grid[:, 0]:
        axes.set_ylabel("times smaller", fontsize=9)
    legend: dict[str, Any] = {}
    for axes in grid.flat:
        legend |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return figure


def _points(axes: Any, result: Result) -> None:  # noqa: ANN401 (matplotlib's)
    for row in result.rows:
        colour, marker = _WAYS.get(row.format, (_LIMIT, "x"))
        if row.rate is not None:
            at = (row.rate, result.smaller[row.format])
            axes.plot(*at, linestyle="", color=colour, marker=marker, markersize=7, label=row.format)
    axes.axhline(result.smaller["limit"], color=_LIMIT, linewidth=1, linestyle="--", label="limit")


def lines(results: Sequence[Result]) -> Figure:
    """Draw time and peak memory of each series against the size."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)

    series = series_of(results)
    figure = Figure(figsize=(_WIDTH, 2.5 * len(series) + 0.5), layout="constrained")
    grid = figure.subplots(len(series), 2, squeeze=False)
    of_bytes = any(result.nbytes for result in results)
    for (left, right), (title, series_results) in zip(grid, series.items(), strict=True):
        _lines(left, f"{title}: time", series_results, lambda row: row.median, duration)
        _lines(right, f"{title}: peak memory", series_results, lambda row: row.peak_nbytes, size)
        for axes in (left, right):
            _size_axis(axes, series_results, of_bytes=of_bytes)
    sides = dict(zip(*reversed(grid[-1][0].get_legend_handles_labels()), strict=True))
    figure.legend(sides.values(), sides.keys(), loc="outside lower center", ncols=len(sides), fontsize=9, frameon=False)
    return figure


def _lines(
    axes: Any,  # noqa: ANN401 (matplotlib's)
    title: str,
    results: Sequence[Result],
    value: Callable[[Row], float | None],
    say: Callable[[float], str],
) -> None:
    for side, rows in points(results).items():
        shown = [(at, number) for at, row in rows if (number := value(row))]
        colour, marker = _LINES.get(side, (_OURS, "o") if side == OURS else (_LIMIT, "x"))
        ours = {"linewidth": 2.4, "zorder": 5} if side == OURS else {"linewidth": 1.3}
        axes.plot(*zip(*shown, strict=True), color=colour, marker=marker, markersize=4.5, label=side, **ours)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(
        min(low, (low * high) ** 0.5 / 10), max(high, (low * high) ** 0.5 * 10)
    )  # so that noise isn't magnified
    axes.yaxis.set_major_formatter(lambda one, _: say(one))
    axes.minorticks_off()
    _plain(axes)


def _size_axis(axes: Any, results: Sequence[Result], *, of_bytes: bool) -> None:  # noqa: ANN401 (matplotlib's)
    places = [result.at for result in results]
    axes.set_xticks(places, [size(float(f"{place:.1g}")) if of_bytes else f"{place:,}" for place in places])
    axes.set_xlabel("size of the file" if of_bytes else "tensors", fontsize=9)


def _caption(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=9, x=0.01, ha="left", color="#555555")


def save(figure: Figure, path: str) -> None:
    """Write a figure as a small PNG with few colours."""
    from PIL import Image  # noqa: PLC0415 (matplotlib's own dependency)

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    image = Image.open(buffer).convert("RGB").quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE)
    image.save(small, format="PNG", optimize=True)
    write_file(path, small.getvalue())
