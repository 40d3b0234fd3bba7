"""The project's own benchmarks run: all cases, positive numbers, the same bytes in every format. No timing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import util
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import charts, groups, report, scaling
from benchmarks.measurement import Aim, Measured, Result, Setting, Side, Within, run
from blobstore.bench.measure import Sample
from blobstore.bench.peers import PEERS
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CASES = {
    "many": {
        *("many-names", "many-first", "many-first-cold", "many-names-process", "many-process"),
        *("many-infos", "many-lookup", "many-load"),
    },
    "walk": {"walk-100", "walk-again-100"},
    "minilm": {"minilm-open", "minilm-infos", "minilm-walk", "minilm-write", "minilm-write-default"},
    "large": {"large-views", "large-map", "large-load", "large-load-cold", "large-map-cold", "large-write"},
    "convert": {"convert"},
    "memory": {"memory-sfp-split", "memory-f32-stock", "memory-i8-split"},
    "startup": {"startup-version", "startup-help", "startup-ls", "startup-open", "startup-import"},
    "pack": {"pack-normal-bf16-packed", "pack-normal-bf16-unpacked", "pack-file", "unpack-file"},
}
AIMS = {
    "many-names": ["safetensors"],
    "many-first": ["safetensors", "lmdb"],
    "many-infos": ["safetensors"],
    "many-load": ["safetensors", "lmdb"],
    "walk-100": ["safetensors"],
    "minilm-write": ["safetensors"] * 2,
    "startup-version": [""],
    "startup-open": ["import numpy"],
    "large-views": ["safetensors"],
    "large-map": ["safetensors"],
    "large-load": ["safetensors", "copy to new memory"],
    "large-load-cold": ["sequential read", "sequential, 2 threads"],
    "large-map-cold": ["sequential read", "sequential, 2 threads"],
    "large-write": ["plain writes", "safetensors"],
}


def taking(*seconds: float) -> Callable[[], Sample]:
    """Return a measurement that takes these times, one after the other."""
    times = iter(seconds)
    return lambda: Sample(next(times), None, None, None, None)


@pytest.mark.slowly
def test_all_of_it_runs(tmp_path: Path) -> None:
    out, drawn = tmp_path / "out.json", tmp_path / "charts"
    options = ["--quick", "--json", str(out), "--tmp", str(tmp_path)]
    if util.find_spec("matplotlib"):
        options += ["--charts", str(drawn)]
    subprocess.run([sys.executable, "-m", "benchmarks", *options], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"out.json", "charts"}  # no file of a format is left
    results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert results["quick"] is True
    installed = {name for name, peer in PEERS.items() if peer.installed}
    assert set(results["same"]) == {"blobstore", *installed}
    assert set(results["left_out"]) & set(PEERS) == set(PEERS) - installed
    for framework in ("torch", "jax"):
        assert (f"loading with {framework}" in results["left_out"]) == (util.find_spec(framework) is None)
    assert [entry["key"] for entry in results["groups"]] == [entry.key for entry in groups.GROUPS]
    cases = {entry["key"]: {case["key"]: case for case in entry["cases"]} for entry in results["groups"]}
    assert all(cases[group] and set(cases[group]) >= wanted for group, wanted in CASES.items())
    for case in (entry for group in cases.values() for entry in group.values()):
        check_case(case)
    for key, against in AIMS.items():
        (case,) = [group[key] for group in cases.values() if key in group]
        measured = [name for name in against if name not in PEERS or PEERS[name].installed]
        assert [entry["against"] for entry in case["aims"]] == measured
    sides = {name for name in installed if name != "zarr"} | {"blobstore"}
    assert {entry["side"] for entry in results["slopes"] if entry["series"] == "open, use one tensor"} == sides
    if drawn.exists():
        names = {f"{entry.key}.png" for entry in groups.GROUPS if entry.draw} | {"key.png"}
        assert {entry.name for entry in drawn.iterdir()} == names
        assert all(entry.read_bytes().startswith(b"\x89PNG") for entry in drawn.iterdir())


def check_case(case: dict[str, Any]) -> None:
    names = [entry["name"] for entry in case["sides"]]
    assert names[0] == "blobstore"
    assert len(set(names)) == len(names) > 1
    for side in case["sides"]:
        assert 0 < side["fastest"] <= side["median"] <= side["slowest"]
        assert (side["ratio"] is None) == (side["name"] == "blobstore")
    assert not case["smaller"] or set(case["smaller"]) == {*names, "limit"}
    assert all(0.99 < entry < 20_000 for entry in case["smaller"].values())
    for aim in case["aims"]:
        times = aim["unit"].startswith("times")
        assert aim["reached"] == (aim["found"] >= aim["aim"] if times else aim["found"] <= aim["aim"])


def test_a_ratio_is_of_turns_and_an_aim_is_reached_by_it(tmp_path: Path) -> None:
    sides = [Side("blobstore", taking(1e-3, 2e-3, 4e-3)), Side("npz", taking(3e-3, 8e-3, 8e-3))]
    setting = Setting(str(tmp_path), tell=lambda _: None)
    aims = [Aim("npz", 3), Aim("npz", 3.1), Aim("not there", 1)]
    result = run(Measured("a", "a", "a", sides, aims=aims, runs=3), setting)
    assert result.rows[1].ratio == 3  # of 3, 4 and 2; the medians' own ratio is 4
    assert [(aim.aim, aim.reached) for aim in result.aims] == [(3, True), (3.1, False)]


@pytest.mark.parametrize(
    ("aim", "found", "reached"),
    [
        (Within(4e-3), 4e-3, True),
        (Within(3.9e-3), 4e-3, False),
        (Within(2e-3, "npz"), 2e-3, True),
        (Within(1.9e-3, "npz"), 2e-3, False),
        (Aim("npz", 0.66, best=True), 2 / 3, True),
        (Aim("npz", 0.67, best=True), 2 / 3, False),
    ],
)
def test_an_aim_in_seconds_or_of_the_fastest_runs(
    aim: Aim | Within, found: float, reached: bool, tmp_path: Path
) -> None:
    # The differences are 2, -0.5 and 2 ms; the medians' own is 1.
    sides = [Side("blobstore", taking(5e-3, 3e-3, 4e-3)), Side("npz", taking(3e-3, 3.5e-3, 2e-3))]
    case = Measured("a", "a", "a", sides, aims=[aim], runs=3)
    (got,) = run(case, Setting(str(tmp_path), tell=lambda _: None)).aims
    assert got.found == pytest.approx(found)
    assert got.reached == reached


def test_what_takes_long_has_fewer_runs(tmp_path: Path) -> None:
    sides = [Side("blobstore", taking(*[0.1] * 7)), Side("npz", taking(*[2] * 3)), Side("zarr", taking(9))]
    result = run(Measured("a", "a", "a", sides), Setting(str(tmp_path), tell=lambda _: None))
    assert [len(row.samples) for row in result.rows] == [7, 3, 1]


def at(size: int, seconds: float) -> Result:
    setting = Setting("", tell=lambda _: None)
    case = Measured(f"a-{size}", "a", "a", [Side("blobstore", taking(seconds))], runs=1, series="a", at=size)
    return run(case, setting)


@pytest.mark.parametrize(("start", "slope"), [(1e-3, 2e-7), (0.0, 1e-6), (5e-4, 0.0)])
def test_a_slope_is_found_again(start: float, slope: float) -> None:
    (fit,) = scaling.fits([at(size, start + slope * size) for size in scaling.COUNTS])
    assert fit.start == pytest.approx(start, abs=1e-9)
    assert fit.slope == pytest.approx(slope, abs=1e-12)
    assert fit.flat == (slope == 0)


def with_memory(size: int, nbytes: int) -> Result:
    setting = Setting("", tell=lambda _: None)
    side = Side("blobstore", lambda: Sample(1e-6 * size, nbytes, None, None, None))
    return run(Measured(f"a-{size}", "a", "a", [side], runs=1, series="a", at=size), setting)


@pytest.mark.parametrize(("exponent", "told"), [(1.0, 0), (1.05, 0), (1.2, 1)])
def test_what_grows_faster_than_the_size_is_a_fault(exponent: float, told: int) -> None:
    fits = scaling.fits([with_memory(size, round(100 * size**exponent)) for size in scaling.COUNTS])
    assert [fit.quantity for fit in fits] == ["time", "memory"]
    assert [fit.quantity for fit in fits if fit.too_fast] == ["memory"] * told
    text = report.faults(fits)
    assert text.count("**Fault**") == told
    assert ("memory of *a*" in text) == bool(told)


def compared(key: str, ours: float, theirs: float) -> Result:
    sides = [Side("blobstore", taking(ours)), Side("safetensors", taking(theirs)), Side("memory copy", taking(1e-9))]
    return run(Measured(key, key, "a", sides, runs=1), Setting("", tell=lambda _: None))


def test_the_first_page_has_five_rows_and_every_loss_is_listed() -> None:
    keys = [case for group in CASES.values() for case in group]
    results = [compared(key, 2e-3, 1e-3 if key == "many-load" else 4e-3) for key in keys]
    lines = report.readme_table(results).splitlines()[2:]
    assert len(lines) == 5
    assert "| many-load | 2 ms | 1 ms | 0.5× |" in lines
    losses = report.losses(results).splitlines()[2:]
    assert losses == ["| many-load | safetensors | 1 ms | 50% |"]  # the machine's limits aren't rivals
    with pytest.raises(KeyError):
        report.readme_table([result for result in results if result.key != "many-load"])


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(0.0456, "0.046×"), (0.999, "1×"), (1.26, "1.3×"), (9.96, "10×"), (41.4, "41×"), (1234, "1,200×")],
)
def test_a_ratio_in_words(ratio: float, text: str) -> None:
    assert charts.times(ratio) == text


def test_the_text_between_markers_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- benchmarks: begin -->\nold\n<!-- benchmarks: end -->\nb\n", encoding="utf-8")
    for text in ("new \\1", "newer"):
        report.replace_between_markers(str(path), text)
        expected = f"a\n<!-- benchmarks: begin -->\n\n{text}\n\n<!-- benchmarks: end -->\nb\n"
        assert path.read_text(encoding="utf-8") == expected
    (tmp_path / "none.md").write_text("a\n", encoding="utf-8")
    with pytest.raises(ValueError, match="0 places between markers"):
        report.replace_between_markers(str(tmp_path / "none.md"), "new")


@pytest.mark.parametrize("path", ["README.md", "benchmarks/README.md"])
def test_there_is_a_place_to_write_to(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.count("<!-- benchmarks: begin -->\n") == text.count("<!-- benchmarks: end -->") == 1
