"""What was measured, told: JSON with every run, and the parts of the two README.md that are written by it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks import charts, scaling
from benchmarks.measurement import OURS
from blobstore.bench.peers import PEERS
from blobstore.bench.report import SOME
from blobstore.bench.run import machine
from blobstore.cli.bench import spread
from blobstore.cli.formatting import duration, size
from blobstore.fileio.atomic import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from benchmarks.groups import Group
    from benchmarks.measurement import Result, Setting
    from blobstore.bench.report import Row

HERE = os.path.dirname(os.path.abspath(__file__))
_KEY = ("many-names", "many-process", "large-map", "large-load")  # of the chart in the top README.md
_PACK_KEY = tuple(f"pack-{what}-bf16-{way}" for what in ("normal", "MiniLM") for way in ("packed", "unpacked"))
_FORMATS = ", ".join(PEERS)


def to_json(measured: Sequence[tuple[Group, list[Result]]], setting: Setting, date: str) -> dict[str, Any]:
    """Return everything as JSON has it."""
    results = [one for _, found in measured for one in found]
    return {
        "date": date,
        "quick": setting.quick,
        "machine": machine() | {"memory_nbytes": _memory()},
        "versions": {name: peer.version for name, peer in PEERS.items() if peer.installed},
        "same": sorted(setting.same),
        "left_out": setting.left_out,
        "groups": [
            {"key": group.key, "title": group.title, "cases": [_case(one) for one in found]}
            for group, found in measured
        ],
        "slopes": [asdict(one) for one in scaling.fits(results)],
    }


def _memory() -> int | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _case(one: Result) -> dict[str, Any]:
    aims = [asdict(aim) | {"reached": aim.reached} for aim in one.aims]
    return {
        "key": one.key,
        "title": one.title,
        "what": one.what,
        "nbytes": one.nbytes,
        "series": one.series,
        "at": one.at,
        "smaller": dict(one.smaller),
        "sides": [_side(row) for row in one.rows],
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
        "seconds": [float(f"{one.seconds:.4g}") for one in row.samples],
        "cached_before": [one.cached_before for one in row.samples],
    }


# ------------------------------------------------------------------------------------------------------------ markdown


def aims_table(results: Iterable[Result]) -> str:
    """Return what was to be reached, and what was."""
    lines = ["| | blobstore | against | | times as fast | aim | |", "|---|---:|---|---:|---:|---:|---|"]
    for one in results:
        for aim in one.aims:
            theirs = one.row(aim.against)
            said = "reached" if aim.reached else "**not reached**"
            other = duration(theirs.median) if theirs else "-"
            ours = duration(one.rows[0].median)
            cells = (one.title, ours, aim.against, other, charts.times(aim.ratio), f"{aim.factor:g}×", said)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_OF_WEIGHTS = ("zipnn", "blosc2")  # what compresses weights as well as packing does


def losses(results: Iterable[Result]) -> str:
    """Return where another format was faster than ours, the worst first."""
    found = sorted(
        (row.ratio, one.title, row)
        for one in results
        for row in one.rows
        if (row.format in PEERS or row.format in _OF_WEIGHTS) and row.ratio is not None and row.ratio < 1
    )
    if not found:
        return "In no case was another format faster."
    lines = ["| case | faster than blobstore | takes | of blobstore's time |", "|---|---|---:|---:|"]
    lines += [f"| {title} | {row.format} | {duration(row.median)} | {ratio:.0%} |" for ratio, title, row in found]
    return "\n".join(lines)


def details(results: Sequence[Result]) -> str:
    """Return all numbers of a group, to be unfolded."""
    lines = [
        "| case | | median | min - max | ratio | bytes/s | peak | own | runs |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in results:
        for i, row in enumerate(one.rows):
            lines.append(_line(one.title if not i else "", row))
    table = "\n".join(lines)
    return f"<details><summary>All numbers</summary>\n\n{table}\n\n</details>"


def _line(title: str, row: Row) -> str:
    cells = (
        title,
        row.format,
        duration(row.median),
        spread(row),
        charts.times(row.ratio) if row.ratio is not None else "",
        f"{size(row.rate)}/s" if row.rate is not None else "",
        size(row.peak_nbytes) if row.peak_nbytes is not None else "",
        size(row.own_nbytes) if row.own_nbytes is not None else "",
        str(len(row.samples)),
    )
    return f"| {' | '.join(cells)} |"


def slopes(results: Sequence[Result]) -> str:
    """Return what a tensor or a byte costs."""
    of_bytes = any(one.nbytes for one in results)
    unit, times = ("GB", 1e9) if of_bytes else ("tensor", 1.0)
    lines = [f"| case | | to begin | each {unit} | grows as size to the power of |", "|---|---|---:|---:|---|"]
    for one in scaling.fits(results):
        power = f"{one.exponent:.2f}" + (": independent of it" if one.flat else "")
        each = duration(one.slope * times) if one.slope > 0 and not one.flat else "-"
        lines.append(f"| {one.series} | {one.side} | {duration(max(one.start, 0.0))} | {each} | {power} |")
    return "\n".join(lines)


def sections(measured: Sequence[tuple[Group, list[Result]]], told: dict[str, Any]) -> str:
    """Return what stands in benchmarks/README.md."""
    results = [one for _, found in measured for one in found]
    return "\n\n".join(
        [
            " ".join([_about(told), *_cache_notes(results)]),
            "### What was to be reached",
            aims_table(results),
            "### Where others are faster",
            losses(one for one in results if not one.series),
            *(text for group, found in measured if found for text in _section(group, found)),
        ]
    )


def _section(group: Group, found: Sequence[Result]) -> Iterator[str]:
    yield f"### {group.title}"
    if group.draw:
        yield f"![{group.title}](charts/{group.key}.png)"
    if any(one.series for one in found):
        yield slopes(found)
    yield details(found)


def _about(told: dict[str, Any]) -> str:
    about = told["machine"]
    memory = f", {size(about['memory_nbytes'])} of memory" if about["memory_nbytes"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    left_out = "".join(f" Left out: {name}: {why}." for name, why in told["left_out"].items())
    return (
        f"{told['date']}: {about['processors']} × {about['processor']}{memory}, {about['system']}; "
        f"Python {about['python']}, numpy {about['numpy']}, {versions}.{left_out} "
        f"Every run: [results/{told['date']}.json](results/{told['date']}.json)."
    )


def _cache_notes(results: Iterable[Result]) -> Iterator[str]:
    """Yield where the page cache wasn't as it should have been."""
    for one in results:
        for row in one.rows:
            told = [taken.cached_before for taken in row.samples if taken.cached_before is not None]
            if row.cache == "cold" and max(told, default=0.0) >= SOME:
                yield f"{one.title}, {row.format}: still {max(told):.0%} cached."
            if row.cache == "warm" and min(told, default=1.0) <= 1 - SOME:
                yield f"{one.title}, {row.format}: only {min(told):.0%} cached, there is no memory for more."


# ---------------------------------------------------------------------------------------------------------- publishing


def publish(measured: Sequence[tuple[Group, list[Result]]], told: dict[str, Any]) -> None:
    """Write results, charts, and the parts of both README.md that are between markers."""
    write_json(os.path.join(HERE, "results", f"{told['date']}.json"), told)
    draw(measured, os.path.join(HERE, "charts"))
    results = [one for _, found in measured for one in found]
    replace_between_markers(os.path.join(HERE, "README.md"), sections(measured, told))
    replace_between_markers(os.path.join(HERE, "..", "README.md"), aims_table(results))


def write_json(path: str, told: dict[str, Any]) -> None:
    """Write results; whole or not at all."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    text = json.dumps(told, indent=1)
    text = re.sub(r"\[[-+.,e\d\s]+\]", lambda found: " ".join(found[0].split()), text)  # numbers in a line
    write_file(path, f"{text}\n".encode())


def draw(measured: Sequence[tuple[Group, list[Result]]], folder: str) -> None:
    """Write the chart of each group, and that of the top README.md."""
    os.makedirs(folder, exist_ok=True)
    for group, found in measured:
        if group.draw and found:
            charts.save(group.draw(found), os.path.join(folder, f"{group.key}.png"))
    results = {one.key: one for _, found in measured for one in found}
    if all(key in results for key in _KEY):
        charts.save(charts.bars([results[key] for key in _KEY]), os.path.join(folder, "key.png"))
    if all(key in results for key in _PACK_KEY):
        charts.save(charts.scatter([results[key] for key in _PACK_KEY]), os.path.join(folder, "pack-key.png"))


def replace_between_markers(path: str, text: str) -> None:
    """Replace what stands between ``<!-- benchmarks: begin -->`` and ``<!-- benchmarks: end -->``.

    Raises:
        ValueError: The markers aren't there.
    """
    with open(path, encoding="utf-8") as file:
        before = file.read()
    pattern = re.compile(r"(<!-- benchmarks: begin -->\n).*?(<!-- benchmarks: end -->)", re.DOTALL)
    after, count = pattern.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", before)
    if count != 1:
        raise ValueError(f"{path} has {count} places between markers, expected 1")
    write_file(path, after.encode())


__all__ = ["OURS", "draw", "publish", "sections", "to_json", "write_json"]
