"""Report the measurements: JSON with every run, and the generated parts of the two README.md."""

from __future__ import annotations

import json
import os
import re
import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks import charts, scaling
from benchmarks.measurement import OURS
from blobstore.bench.peers import PEERS
from blobstore.bench.report import SOME
from blobstore.bench.run import machine
from blobstore.cli.bench_report import spread
from blobstore.cli.formatting import duration, size
from blobstore.fileio.atomic import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from benchmarks.groups import Group
    from benchmarks.measurement import Result, Setting
    from benchmarks.scaling import Fit
    from blobstore.bench.report import Row

HERE = os.path.dirname(os.path.abspath(__file__))
# The rows of the top README.md, all against one peer: what every user does with a file.
_README = ("many-names", "many-first", "many-load", "large-load", "large-write")
_README_PEER = "safetensors"
_KEY = ("many-names", "many-process", "large-map", "large-load")  # cases of the chart in the top README.md
_PACK_KEY = tuple(f"pack-{what}-bf16-{way}" for what in ("normal", "MiniLM") for way in ("packed", "unpacked"))


def to_json(measured: Sequence[tuple[Group, list[Result]]], setting: Setting, date: str) -> dict[str, Any]:
    """Return everything as JSON values."""
    results = [result for _, group_results in measured for result in group_results]
    return {
        "date": date,
        "quick": setting.quick,
        "machine": machine() | {"memory_nbytes": _memory()},
        "versions": {name: peer.version for name, peer in PEERS.items() if peer.installed},
        "same": sorted(setting.same),
        "left_out": setting.left_out,
        "groups": [
            {"key": group.key, "title": group.title, "cases": [_case(result) for result in group_results]}
            for group, group_results in measured
        ],
        "slopes": [asdict(fit) | {"too_fast": fit.too_fast} for fit in scaling.fits(results)],
    }


def _memory() -> int | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _case(result: Result) -> dict[str, Any]:
    aims = [asdict(aim) for aim in result.aims]
    return {
        "key": result.key,
        "title": result.title,
        "what": result.what,
        "nbytes": result.nbytes,
        "series": result.series,
        "at": result.at,
        "smaller": dict(result.smaller),
        "sides": [_side(row) for row in result.rows],
        "aims": aims,
    }


def _side(row: Row) -> dict[str, Any]:
    return {
        "name": row.format,
        "cache": row.cache,
        "median": row.median,
        "fastest": row.fastest,
        "slowest": row.slowest,
        "ratio": row.ratio,
        "peak_nbytes": row.peak_nbytes,
        "own_nbytes": row.own_nbytes,
        "minor_faults": _faults(row),
        "seconds": [float(f"{sample.seconds:.4g}") for sample in row.samples],
        "cached_before": [sample.cached_before for sample in row.samples],
    }


def _faults(row: Row) -> int | None:
    """Return a row's page faults without reads from a disk: the median of its runs."""
    counts = [sample.minor_faults for sample in row.samples if sample.minor_faults is not None]
    return round(statistics.median(counts)) if counts else None


# ------------------------------------------------------------------------------------------------------------ markdown


def aims_table(results: Iterable[Result]) -> str:
    """Return a table of the aims, and which were reached."""
    lines = ["| | blobstore | against | | found | aim | |", "|---|---:|---|---:|---:|---:|---|"]
    for result in results:
        rows = {row.format: row for row in result.rows}
        for aim in result.aims:
            found, wanted = _SAY[aim.unit]
            fastest = aim.unit == _FASTEST
            ours, theirs = (
                duration(row.fastest if fastest else row.median) if (row := rows.get(name)) else "-"
                for name in (aim.side, aim.against)
            )
            cells = (
                result.title + (aim.side.removeprefix(OURS) if aim.side != OURS else "") + (", fastest" * fastest),
                *(ours, aim.against or "-", theirs, found(aim.found), wanted(aim.aim)),
                "reached" if aim.reached else "**not reached**",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_FASTEST = "times, fastest runs"
# How what was found, and what was wanted, is told in each unit.
_SAY: dict[str, tuple[Callable[[float], str], Callable[[float], str]]] = {
    **dict.fromkeys(("times", _FASTEST), (charts.times, lambda factor: f"≥ {factor:g}×")),
    "seconds": (duration, lambda seconds: f"≤ {duration(seconds)}"),
    "seconds more": (
        lambda more: f"{duration(abs(more))} {'more' if more >= 0 else 'less'}",
        lambda seconds: f"≤ {duration(seconds)} more",
    ),
}


def readme_table(results: Iterable[Result]) -> str:
    """Return the rows that the top README.md has (`_README`)."""
    by_key = {result.key: result for result in results}
    lines = [f"| | blobstore | {_README_PEER} | times as fast |", "|---|---:|---:|---:|"]
    for key in _README:
        result = by_key[key]
        ours, theirs = result.rows[0], result.row(_README_PEER)
        if theirs is None or theirs.ratio is None:
            raise ValueError(f"{_README_PEER} isn't in {key!r}: README.md compares with it")
        cells = (result.title, duration(ours.median), duration(theirs.median), charts.times(theirs.ratio))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_RIVALS = {*PEERS, "zipnn", "blosc2", "openzl Huffman", "openzl FSE"}  # formats, and compressors of weights


def losses(results: Iterable[Result]) -> str:
    """Return a table of all cases in which another format was faster, the worst first."""
    faster = sorted(
        (row.ratio, result.title, row)
        for result in results
        for row in result.rows
        if row.format in _RIVALS and row.ratio is not None and row.ratio < 1
    )
    if not faster:
        return "In no case was another format faster."
    lines = ["| case | faster than blobstore | takes | of blobstore's time |", "|---|---|---:|---:|"]
    lines += [f"| {title} | {row.format} | {duration(row.median)} | {ratio:.0%} |" for ratio, title, row in faster]
    return "\n".join(lines)


def faults(fits: Iterable[Fit]) -> str:
    """Return what of ours grows faster than the size, each as a fault."""
    found = [fit for fit in fits if fit.side == OURS and fit.too_fast]
    lines = [
        f"- **Fault**: {fit.quantity} of *{fit.series}* grows as size to the power of {fit.exponent:.2f}."
        for fit in found
    ]
    return "\n".join(lines) or "No time and no memory of blobstore grows faster than the size."


def details(results: Sequence[Result]) -> str:
    """Return all numbers of a group, folded."""
    lines = [
        "| case | | median | min - max | ratio | bytes/s | peak | own | page faults | runs |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        for i, row in enumerate(result.rows):
            lines.append(_line(result.title if not i else "", row))
    table = "\n".join(lines)
    return f"<details><summary>All numbers</summary>\n\n{table}\n\n</details>"


def _line(title: str, row: Row) -> str:
    minor_faults = _faults(row)
    cells = (
        title,
        row.format,
        duration(row.median),
        spread(row),
        charts.times(row.ratio) if row.ratio is not None else "",
        f"{size(row.rate)}/s" if row.rate is not None else "",
        size(row.peak_nbytes) if row.peak_nbytes is not None else "",
        size(row.own_nbytes) if row.own_nbytes is not None else "",
        f"{minor_faults:,}" if minor_faults is not None else "",
        str(len(row.samples)),
    )
    return f"| {' | '.join(cells)} |"


def slopes(results: Sequence[Result]) -> str:
    """Return what of ours grows too fast, and tables of the time and memory that a tensor or a byte costs."""
    of_bytes = any(result.nbytes for result in results)
    per, times = ("GB", 1e9) if of_bytes else ("tensor", 1.0)
    fits = scaling.fits(results)
    parts = [faults(fits)]
    for quantity, say in (("time", duration), ("memory", size)):
        lines = [f"| {quantity} | | to begin | each {per} | grows as size to the power of |", "|---|---|---:|---:|---|"]
        for fit in fits:
            if fit.quantity == quantity:
                power = f"{fit.exponent:.2f}" + (
                    ": independent of it" if fit.flat else ": **faster**" if fit.too_fast else ""
                )
                each = say(fit.slope * times) if fit.slope > 0 and not fit.flat else "-"
                lines.append(f"| {fit.series} | {fit.side} | {say(max(fit.start, 0.0))} | {each} | {power} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def sections(measured: Sequence[tuple[Group, list[Result]]], facts: dict[str, Any]) -> str:
    """Return the generated part of benchmarks/README.md."""
    results = [result for _, group_results in measured for result in group_results]
    return "\n\n".join(
        [
            " ".join([_about(facts), *_cache_notes(results)]),
            "### Aims",
            aims_table(results),
            "### Where others are faster",
            losses(results),
            *(text for group, group_results in measured if group_results for text in _section(group, group_results)),
        ]
    )


def _section(group: Group, results: Sequence[Result]) -> Iterator[str]:
    yield f"### {group.title}"
    if group.draw:
        yield f"![{group.title}](charts/{group.key}.png)"
    if any(result.series for result in results):
        yield slopes(results)
    yield details(results)


def _about(facts: dict[str, Any]) -> str:
    about = facts["machine"]
    memory = f", {size(about['memory_nbytes'])} of memory" if about["memory_nbytes"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    left_out = "".join(f" Left out: {name}: {why}." for name, why in facts["left_out"].items())
    return (
        f"{facts['date']}: {about['processors']} × {about['processor']}{memory}, {about['system']}; "
        f"Python {about['python']}, numpy {about['numpy']}, {versions}.{left_out} "
        f"Every run: [results/{facts['date']}.json](results/{facts['date']}.json)."
    )


def _cache_notes(results: Iterable[Result]) -> Iterator[str]:
    """Yield the cases in which the page cache wasn't as it should have been."""
    for result in results:
        for row in result.rows:
            cached = [sample.cached_before for sample in row.samples if sample.cached_before is not None]
            if row.cache == "cold" and max(cached, default=0.0) >= SOME:
                yield f"{result.title}, {row.format}: still {max(cached):.0%} cached."
            if row.cache == "warm" and min(cached, default=1.0) <= 1 - SOME:
                yield f"{result.title}, {row.format}: only {min(cached):.0%} cached, there is no memory for more."


# ---------------------------------------------------------------------------------------------------------- publishing


def publish(measured: Sequence[tuple[Group, list[Result]]], facts: dict[str, Any]) -> None:
    """Write results, charts, and the parts of both README.md between the markers."""
    write_json(os.path.join(HERE, "results", f"{facts['date']}.json"), facts)
    draw(measured, os.path.join(HERE, "charts"))
    results = [result for _, group_results in measured for result in group_results]
    replace_between_markers(os.path.join(HERE, "README.md"), sections(measured, facts))
    replace_between_markers(os.path.join(HERE, "..", "README.md"), readme_table(results))


def write_json(path: str, facts: dict[str, Any]) -> None:
    """Write results, atomically."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    text = json.dumps(facts, indent=1)
    text = re.sub(r"\[[-+.,e\d\s]+\]", lambda match: " ".join(match[0].split()), text)  # numbers on one line
    write_file(path, f"{text}\n".encode())


def draw(measured: Sequence[tuple[Group, list[Result]]], folder: str) -> None:
    """Write the chart of each group, and that of the top README.md."""
    os.makedirs(folder, exist_ok=True)
    for group, group_results in measured:
        if group.draw and group_results:
            charts.save(group.draw(group_results), os.path.join(folder, f"{group.key}.png"))
    results = {result.key: result for _, group_results in measured for result in group_results}
    if all(key in results for key in _KEY):
        charts.save(charts.bars([results[key] for key in _KEY]), os.path.join(folder, "key.png"))
    if all(key in results for key in _PACK_KEY):
        charts.save(charts.scatter([results[key] for key in _PACK_KEY]), os.path.join(folder, "pack-key.png"))


def replace_between_markers(path: str, text: str) -> None:
    """Replace the text between ``<!-- benchmarks: begin -->`` and ``<!-- benchmarks: end -->``.

    Raises:
        ValueError: The file doesn't have the markers.
    """
    with open(path, encoding="utf-8") as file:
        before = file.read()
    pattern = re.compile(r"(<!-- benchmarks: begin -->\n).*?(<!-- benchmarks: end -->)", re.DOTALL)
    after, count = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", before)
    if count != 1:
        raise ValueError(f"{path} has {count} places between markers, expected 1")
    write_file(path, after.encode())


__all__ = ["OURS", "draw", "publish", "sections", "to_json", "write_json"]
