"""blobstore bench measures every case, its numbers are consistent, peers hold the same bytes, no files are left."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore.bench import cases, cpp, frameworks, measure, page_cache, peers, plot, run, yardsticks
from blobstore.bench.cases import CASES
from blobstore.bench.peers import PEERS
from blobstore.bench.run import Plan, bench
from blobstore.cli import tables
from blobstore.cli.formatting import duration
from blobstore.codecs.element_types import BY_NAME
from blobstore.errors import BlobStoreError, MissingExtraError, UsageError
from tests.checkpoints import linux_only
from tests.cli.test_gemma import Cli, one_line
from tests.conftest import ROOT
from tests.gemma_checkpoints import convert, small_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    Rows = list[dict[str, Any]]

needs_cold = pytest.mark.skipif(not page_cache.CAN_DROP, reason="this system can't drop a file from its page cache")
TYPES = ("f32", "f16", "f64", "bf16", "u8", "i16", "u32", "i64", "bool", "c64", "f8_e4m3")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture(autouse=True)
def quickly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process and compile nothing, except in tests about that."""

    def build(_: str) -> str:
        raise BlobStoreError("no-compiler", "not in this test")

    if "slowly" not in request.keywords:
        monkeypatch.setattr(run, "take", measure.measure)
        monkeypatch.setattr(cpp, "build", build)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Types that numpy lacks, a scalar, an encoded tensor, an alias, an empty tensor, a strange name."""
    folder = tmp_path / "files"
    folder.mkdir()
    rng = np.random.default_rng(1)
    with blobstore.create(folder / "m.sbs") as target:
        for name in TYPES:
            dtype = BY_NAME[name].dtype
            assert dtype is not None
            raw = rng.integers(0, 2, (40, 33), np.uint8) if name == "bool" else rng.integers(0, 100, (40, 33), np.uint8)
            target.add(f"model.layers.0.{name}", raw.astype(dtype))
        target.add("scalar", np.float32(7))
        target.add("big", rng.integers(0, 255, 300_000, np.uint8))
        target.add("empty", np.zeros((0, 3), np.float32))
        target.add("ünïcode/with slash", np.arange(9, dtype=np.int32))
        target.alias("again", "big")
        sfp = BY_NAME["sfp"]
        target.add_stored("encoded", [np.arange(1, 101, dtype=np.uint8).data], sfp, (10, 10))
    return folder / "m.sbs"


def tensors_of(path: Path) -> tuple[blobstore.Store, list[tuple[str, Any]]]:
    store = blobstore.open(path)
    return store, [(info.name, cases.stored(store, info)) for info in cases.choose(store)]


def report_of(cli: Cli, path: Path, *options: str) -> dict[str, Any]:
    done = cli("bench", path, "--runs", "1", "--quick", "--json", *options)
    assert done.status == 0, done.err
    report: dict[str, Any] = json.loads(done.out)
    return report


# ------------------------------------------------------------------------------------------------------- what is told


@needs_cold
def test_every_case_is_measured_and_the_numbers_go_together(cli: Cli, store: Path) -> None:
    report = report_of(cli, store, "--against", "safetensors,npz")
    rows: Rows = report["rows"]
    measured = {(row["format"], row["case"], row["cache"]) for row in rows}
    both = ("cold", "warm")
    assert {("blobstore", case, way) for case in CASES for way in both} <= measured
    assert {(yardsticks.NAME, case, way) for case in yardsticks.DISK for way in both} <= measured
    assert {
        (name, case, way) for name in ("safetensors", "npz") for case in PEERS[name].cases for way in both
    } <= measured
    assert (yardsticks.NAME, "copy", "warm") in measured
    assert (yardsticks.NAME, "copy", "cold") not in measured
    assert len(measured) == len(rows)
    for row in rows:
        check_row(report, row, rows)


def check_row(report: dict[str, Any], row: dict[str, Any], rows: Rows) -> None:
    seconds = [sample["seconds"] for sample in row["samples"]]
    assert len(seconds) == report["runs"]
    assert 0 < row["fastest"] <= row["median"] <= row["slowest"]
    assert row["median"] == statistics.median(seconds)
    if row["rate"] is not None:
        assert row["rate"] == row["nbytes"] / row["median"]
    assert (row["share"] is None) == (row["share_of"] is None)
    if row["share"] is not None:
        assert row["share"] == row["rate"] / report[row["share_of"]]
        assert row["share_of"] == {"cold": "disk", "warm": "memory"}[row["cache"]]
    key = ("blobstore", row["case"], row["cache"])
    ours = [other for other in rows if (other["format"], other["case"], other["cache"]) == key]
    if not ours or row["format"] == "blobstore":
        assert row["ratio"] is None
    else:
        assert row["ratio"] == pytest.approx(row["median"] / ours[0]["median"])  # of one run


@needs_cold
@pytest.mark.slowly
def test_the_yardsticks_are_rows_themselves(cli: Cli, store: Path) -> None:
    report = report_of(cli, store)
    cold = [row["rate"] for row in report["rows"] if row["case"] in yardsticks.DISK and row["cache"] == "cold"]
    (copy,) = [row["rate"] for row in report["rows"] if row["case"] == "copy"]
    assert (report["disk"], report["memory"]) == (max(cold), copy)


def test_a_converted_gemma_file_is_measured_by_its_keys(cli: Cli, tmp_path: Path) -> None:
    plan = convert(small_recipe("gemma3").write(tmp_path / "c"), tmp_path / "g.sbs")
    report = report_of(cli, tmp_path / "g.sbs", "--against", "safetensors")
    assert (report["tensors"], report["tensors_in_file"]) == (len(plan.tensors), len(plan.tensors))
    assert {row["case"] for row in report["rows"]} >= set(cases.CASES)


def test_a_line_for_each_row_and_notes_beside(cli: Cli, store: Path) -> None:
    done = cli("bench", store, "--runs", "2", "--warm", "--quick")
    assert done.status == 0
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert {len(line) for line in lines} == {11}
    assert {line[2] for line in lines} == {"warm"}
    assert {case.title for case in CASES.values()} <= {line[0] for line in lines}
    assert "2 runs" in done.err
    assert "1 encoded tensors are read as stored bytes" in done.err


@pytest.mark.parametrize(("width", "kept"), [(60, ("a", "b", "c")), (31, ("a", "b")), (16, ("a",))])
def test_a_narrow_terminal_has_fewer_columns_and_says_so(
    width: int, kept: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ("group", "a", "b", "c")
    rows = [(group, *(f"{group}-{column * 8}" for column in columns[1:])) for group in ("x", "x", "y")]
    tables.print_table(columns, rows, grouped=True, spare=("c", "b"))
    captured = capsys.readouterr()
    shown = re.sub("\x1b\\[[0-9;]*m", "", captured.out).splitlines()
    assert all(len(line) <= width for line in shown)
    lines = [line.split() for line in shown if line.strip() and "─" not in line]
    cells = [[f"{group}-{column * 8}" for column in kept] for group in "xxy"]
    assert lines == [list(kept), ["x"], *cells[:2], ["y"], cells[2]]
    assert [name for name in "bc" if name in captured.err.partition("also shows:")[2]] == [
        c for c in "bc" if c not in kept
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4e-7, "0.4 µs"), (9.996e-4, "1 ms"), (0.0123, "12.3 ms"), (2, "2 s"), (1234, "1234 s")]
)
def test_a_duration_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@needs_cold
def test_only_cold(cli: Cli, store: Path) -> None:
    report = report_of(cli, store, "--cold")
    assert {row["cache"] for row in report["rows"]} == {"cold"}
    assert report["memory"] is None


@linux_only
@pytest.mark.slowly
def test_memory_is_that_of_the_case(cli: Cli, tmp_path: Path) -> None:
    nbytes = 64 << 20
    blobstore.save_file({"a": np.ones(nbytes, np.uint8)}, tmp_path / "m.sbs")
    rows = {
        row["case"]: row for row in report_of(cli, tmp_path / "m.sbs", "--warm")["rows"] if row["format"] == "blobstore"
    }
    assert rows["read"]["own_nbytes"] > 0.9 * nbytes
    assert rows["map"]["own_nbytes"] < 0.1 * nbytes
    assert rows["map"]["peak_nbytes"] > 0.9 * nbytes  # its mapped pages
    assert rows["open"]["peak_nbytes"] < 0.1 * nbytes


def test_quick_takes_what_fits(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "QUICK_NBYTES", 20_000)
    report = bench(Plan(str(store), runs=1, cold=False, quick=True))
    assert report.nbytes <= 20_000
    assert 0 < report.tensors < report.tensors_in_file
    assert any(note.startswith("quick: ") for note in report.notes)
    assert all(row.nbytes == report.nbytes for row in report.rows if row.nbytes is not None)


def test_of_tensors_that_all_are_too_large_one_is_taken(store: Path) -> None:
    with blobstore.open(store) as opened:
        (info,) = cases.choose(opened, 1)
    assert info.name == "scalar"


def test_tensors_that_share_bytes_count_once(store: Path) -> None:
    with blobstore.open(store) as opened:
        names = [info.name for info in cases.choose(opened)]
        assert len(names) == len(opened) - 2  # the alias, and the empty one
    assert ("big" in names) != ("again" in names)


# --------------------------------------------------------------------------------------------------------- page cache


@needs_cold
def test_a_file_leaves_the_page_cache_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(100 * mmap.PAGESIZE + 1))
    page_cache.prepare(str(path))
    page_cache.fill([str(path)])
    assert page_cache.resident([str(path)]) == (101, 101)
    page_cache.drop([str(path)])
    resident = page_cache.resident([str(path)])
    assert resident is not None
    if resident[0]:
        pytest.skip("this file system keeps its files in memory")
    page_cache.fill([str(path)])
    assert page_cache.resident([str(path)]) == (101, 101)


@needs_cold
def test_pages_that_stay_are_told(cli: Cli, store: Path) -> None:
    with open(store, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) >= 0  # mapped here: the system can't drop them
        report = report_of(cli, store, "--cold")
    assert any("cold runs of blobstore: still 100% cached" in note for note in report["notes"])


@linux_only
@needs_cold
@pytest.mark.slowly
def test_the_file_is_not_mapped_by_the_one_who_measures(store: Path) -> None:
    mapped: list[bool] = []

    def look(done: int, total: int, what: str) -> None:
        assert done < total
        if not what.startswith("writing"):
            mapped.append(str(store) in Path("/proc/self/maps").read_text(encoding="utf-8"))

    bench(Plan(str(store), runs=1, warm=False, against=["safetensors"], quick=True), look)
    assert mapped
    assert not any(mapped)


@needs_cold
def test_whose_cache_it_is_not_is_not_told(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert page_cache.resident([str(store)]) is None


def test_an_index_beside_the_file_belongs_to_it(store: Path) -> None:
    assert page_cache.files_of(str(store)) == [str(store)]
    (store.parent / "m.sbs.idx").write_bytes(b"")
    assert page_cache.files_of(str(store)) == [str(store), f"{store}.idx"]


def test_who_may_not_empty_the_machines_cache_is_told(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "CAN_DROP", True)
    monkeypatch.setattr(page_cache, "DROP_CACHES", str(store.parent / "no" / "such"))
    done = cli("bench", store, "--drop-caches")
    assert done.status == 2
    assert "drop-caches: " in one_line(done)


# ---------------------------------------------------------------------------------------------------------------- peers


@pytest.mark.parametrize("name", PEERS)
def test_peers_hold_the_same_bytes(name: str, store: Path, tmp_path: Path) -> None:
    peer = PEERS[name]
    if not peer.installed:
        pytest.skip(f"{peer.distribution} is not installed")
    path = str(tmp_path / f"peer{peer.suffix}")
    _, tensors = tensors_of(store)
    peer.write(path, tensors)
    assert peers.differing(peer, path, tensors) is None
    opened = peer.open(path)
    assert {name for name, _, _ in peer.entries(opened)} == {name for name, _ in tensors}
    for key, array in tensors:
        assert peer.entry(opened, key)[2] == array.shape
        assert peer.load(opened, key).tobytes() == array.tobytes()
    del opened  # LMDB opens a file once in a process
    changed = [(key, array if array.nbytes < 1000 else array.copy()) for key, array in tensors]
    changed[3][1].reshape(-1).view(np.uint8)[5] ^= 1
    assert peers.differing(peer, path, changed) == changed[3][0]


FORMATS = ("blobstore", "blobstore, plain reads", *PEERS)


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in FORMATS for case in measure.FORMATS[name].cases])
def test_each_case_of_each_format_runs(name: str, case: str, store: Path, tmp_path: Path) -> None:
    form = measure.FORMATS[name]
    path = str(store)
    opened, tensors = tensors_of(store)
    if isinstance(form, peers.Peer):
        if not form.installed:
            pytest.skip(f"{form.distribution} is not installed")
        path = str(tmp_path / f"peer{form.suffix}")
        form.write(path, tensors)
    wanted = cases.wanted_of(cases.choose(opened), opened)
    trial = str(tmp_path / "trial")
    form.write(trial, [("a", np.arange(1024, dtype=np.float32))])
    sample = measure.measure(measure.Job(name, case, path, trial, wanted, cold=False))
    assert sample.seconds > 0
    assert sample.cached_before in (1.0, None)


@pytest.mark.parametrize("case", sorted(cases.PREPARED))
def test_what_is_prepared_is_measured_apart(case: str, store: Path, tmp_path: Path) -> None:
    _, tensors = tensors_of(store)
    plain = {name: array for name, array in tensors if name != "encoded"}
    sbs, safetensors = tmp_path / "m.sbs", str(tmp_path / "m.safetensors")
    blobstore.save_file(plain, sbs)
    PEERS["safetensors"].write(safetensors, ((name, array) for name, array in plain.items()))
    path = safetensors if case == "convert" else str(sbs)
    wanted = cases.Wanted(list(plain), list(plain), "big", 1)
    work = cases.work(measure.FORMATS["blobstore"], case, path, wanted)
    assert not Path(cases.written(path)).exists()
    held: Any = work()
    if case == "convert" or case.startswith("write"):
        assert set(blobstore.load_file(cases.written(path))) == set(plain)
    if case == "into":
        assert {name: array.tobytes() for name, array in held[1].items()} == {
            name: array.tobytes() for name, array in plain.items()
        }


@pytest.mark.parametrize("name", frameworks.LOADERS)
def test_each_loader_loads_every_tensor(name: str, tmp_path: Path) -> None:
    loader = frameworks.LOADERS[name]
    if not loader.installed:
        pytest.skip(f"{loader.framework} is not installed")
    path = str(tmp_path / "m")
    tensors = {f"t{i}": np.full(5000, i, np.float32) for i in range(20)}
    measure.FORMATS[loader.format].write(path, tensors.items())
    loaded: Any = frameworks.work(name, path)()
    assert {key: np.asarray(value).tobytes() for key, value in loaded.items()} == {
        key: value.tobytes() for key, value in tensors.items()
    }
    trial = str(tmp_path / "trial")
    measure.FORMATS[loader.format].write(trial, [("a", np.arange(1024, dtype=np.float32))])
    wanted = cases.Wanted(list(tensors), list(tensors), "t1", 400_000)
    assert measure.measure(measure.Job(name, "load", path, trial, wanted, cold=False)).seconds > 0


@pytest.mark.skipif(sys.platform == "win32", reason="its page is 4 kB, its map 64 kB")
def test_each_page_is_touched_once_and_none_besides() -> None:
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 64 * page) as mapped:
        array = np.frombuffer(mapped, np.uint8)
        start = array.ctypes.data
        assert frameworks.touch_pages([]) == frameworks.touch_pages([(start, 0)]) == 0
        small = [(start + i * 16, 16) for i in range(2 * page // 16)]  # two pages of small ones
        apart = [(start + 10 * page + 1, 3 * page - 1), (start + 11 * page, 5), (start + 20 * page - 1, 2)]
        assert frameworks.touch_pages([*apart, *small, *small]) == 2 + 3 + 2
        del array


def test_types_that_a_format_lacks_are_named(cli: Cli, store: Path) -> None:
    report = report_of(cli, store, "--warm", "--against", "npz,safetensors")
    assert "npz has no bfloat16, float8_e4m3fn: stored as integers of the same width" in report["notes"]
    assert "safetensors has no float8_e4m3fn: stored as integers of the same width" in report["notes"]
    assert report["formats"]["npz"] == np.__version__


def test_peers_that_are_not_installed_are_left_out(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda name: None if name in ("gguf", "zarr", "h5py", "lmdb") else find(name)
    )
    report = report_of(cli, store, "--warm", "--against", "all")
    assert [entry["name"] for entry in report["left_out"] if entry["name"] in PEERS] == ["gguf", "hdf5", "zarr", "lmdb"]
    assert all("pip install " in entry["reason"] for entry in report["left_out"] if entry["name"] in PEERS)
    done = cli("bench", store, "--quick", "--runs", "1", "--warm", "--against", "gguf")
    assert (done.status, "left out: gguf: " in done.err) == (0, True)


def test_a_peer_that_cannot_hold_the_tensors_is_left_out(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise TypeError("no such type")

    monkeypatch.setattr(peers.Npz, "write", refuse)
    report = bench(Plan(str(store), runs=1, cold=False, against=["npz"], quick=True))
    assert {"name": "npz", "reason": "it can't hold these tensors: TypeError: no such type"} in report.left_out
    assert "npz" not in {row.format for row in report.rows}


def test_a_peer_that_gives_other_bytes_back_is_left_out(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = peers.Npz.write

    def wrong(self: peers.Npz, path: str, tensors: Any) -> None:  # noqa: ANN401
        right(self, path, ((name, np.zeros_like(array)) for name, array in tensors))

    monkeypatch.setattr(peers.Npz, "write", wrong)
    report = bench(Plan(str(store), runs=1, cold=False, against=["npz"], quick=True))
    assert "with other bytes" in next(entry["reason"] for entry in report.left_out if entry["name"] == "npz")


def test_a_peer_that_fails_loses_that_row_only(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = measure.measure

    def take(job: measure.Job) -> measure.Sample:
        if (job.format, job.case) == ("npz", "list"):
            raise BlobStoreError("bench-failed", "no reason")
        return right(job)

    monkeypatch.setattr(run, "take", take)
    report = bench(Plan(str(store), runs=2, cold=False, against=["npz"], quick=True))
    assert {"name": "npz, list, warm", "reason": "no reason"} in report.left_out
    assert {row.case for row in report.rows if row.format == "npz"} == {"open", "lookup", "first", "read"}


def test_what_does_not_fit_into_memory_is_left_out(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_available_memory", lambda: 1000)
    report = bench(Plan(str(store), runs=1, cold=False))
    assert "read" not in {row.case for row in report.rows}
    assert any("read everything" in entry["name"] for entry in report.left_out)


# ----------------------------------------------------------------------------------------------------------------- C++


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++ is installed")
@pytest.mark.slowly
def test_the_reader_in_cpp_opens_and_touches_the_same(cli: Cli, store: Path) -> None:
    report = report_of(cli, store, "--warm")
    rows = {row["case"]: row for row in report["rows"] if row["format"] == cpp.NAME}
    assert set(rows) == set(cpp.CASES)
    assert rows["map"]["nbytes"] == report["nbytes"]


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++ is installed")
@pytest.mark.slowly
def test_the_program_refuses_a_name_that_is_not_there(store: Path, tmp_path: Path) -> None:
    program = cpp.build(str(tmp_path))
    assert cpp.run(program, "map", str(store), ["big", "ünïcode/with slash"])["seconds"] > 0
    with pytest.raises(BlobStoreError, match="a name was not found"):
        cpp.run(program, "lookup", str(store), ["big", "no"])


@pytest.mark.slowly
def test_without_a_compiler_the_row_is_left_out(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    report = bench(Plan(str(store), runs=1, cold=False, quick=True))
    assert {"name": cpp.NAME, "reason": "no g++ is installed"} in report.left_out


def test_the_header_is_that_of_the_specification() -> None:
    folder = cpp.include_folder()
    assert folder
    assert (Path(folder) / "blobstore.hpp").read_bytes() == (ROOT / "spec" / "cpp" / "blobstore.hpp").read_bytes()


# ------------------------------------------------------------------------------------------------- what is left behind


def everything_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def test_temporary_files_are_gone(cli: Cli, store: Path) -> None:
    before = everything_below(store.parent)
    report_of(cli, store, "--warm", "--against", "npz,safetensors")
    assert everything_below(store.parent) == before


def test_temporary_files_are_gone_after_an_error(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything_below(store.parent)
    seen: set[str] = set()

    def fail(_: measure.Job) -> measure.Sample:
        seen.update(everything_below(store.parent))
        raise BlobStoreError("bench-failed", "blobstore, open: no reason")

    monkeypatch.setattr(run, "take", fail)
    done = cli("bench", store, "--warm", "--quick", "--against", "npz")
    assert done.status == 1
    assert "bench-failed: blobstore, open: no reason" in one_line(done)
    assert any(path.endswith("model.npz") for path in seen)
    assert everything_below(store.parent) == before


def test_a_process_that_fails_says_why(store: Path) -> None:
    wanted = cases.Wanted(["no"], ["no"], "no", 1)
    with pytest.raises(BlobStoreError, match=r"bench-failed: blobstore, first: .*name-not-found: no tensor") as caught:
        measure.take(measure.Job("blobstore", "first", str(store), str(store), wanted, cold=False))
    assert "\n" not in str(caught.value)


def test_files_go_where_they_are_told_to(cli: Cli, store: Path, tmp_path: Path) -> None:
    seen: set[str] = set()
    (tmp_path / "other").mkdir()

    def look(_done: int, _total: int, _what: str) -> None:
        seen.update(everything_below(tmp_path / "other"))

    bench(Plan(str(store), runs=1, cold=False, against=["npz"], folder=str(tmp_path / "other")), look)
    assert any(path.endswith("model.npz") for path in seen)
    assert not everything_below(tmp_path / "other")
    assert cli("bench", store, "--against", "npz", "--tmp", tmp_path / "no").status == 2


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows ends a process at once")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_no_folder(
    cli: Cli, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: list[str] = []

    def take(_: object) -> None:
        seen.extend(everything_below(tmp_path / "other"))
        signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr(run, "take", take)
    (tmp_path / "other").mkdir()
    before = signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        done = cli("bench", store, "--warm", "--quick", "--against", "npz", "--tmp", tmp_path / "other")
        assert signal.getsignal(getattr(signal, name)) is signal.SIG_DFL
    finally:
        signal.signal(getattr(signal, name), before)
    assert done.status == 128 + getattr(signal, name)
    assert seen
    assert not everything_below(tmp_path / "other")


def test_what_the_disk_has_no_room_for_is_refused(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    done = cli("bench", store, "--against", "npz")
    assert done.status == 2
    assert "disk-too-small: the other formats' files take up to " in one_line(done)


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--runs", "0"), "bad-runs"),
        (("--against", "safetensor"), "unknown-format"),
        (("--against", ",", "--tmp", "."), "no-formats"),
        (("--against", " "), "no-formats"),
        (("--warm", "--drop-caches"), "drop-caches"),
        (("--plot", "chart.txt"), "bad-plot"),
    ],
)
def test_mistakes_are_told_in_one_line(cli: Cli, store: Path, options: Sequence[str], reason: str) -> None:
    done = cli("bench", store, *options)
    assert done.status == 2
    assert f"{reason}: " in one_line(done)


def test_what_is_no_file_of_ours_is_refused(cli: Cli, tmp_path: Path) -> None:
    assert cli("bench", tmp_path / "no.sbs").status == 2
    (tmp_path / "x.sbs").write_bytes(bytes(100_000))
    done = cli("bench", tmp_path / "x.sbs")
    assert done.status == 1
    one_line(done)


def test_a_file_without_tensors_has_nothing_to_measure(tmp_path: Path) -> None:
    blobstore.save_file({"a": np.zeros(0, np.float32)}, tmp_path / "m.sbs")
    with pytest.raises(UsageError, match="no-tensors"):
        bench(Plan(str(tmp_path / "m.sbs")))


def test_where_nothing_can_be_dropped_cold_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "CAN_DROP", False)
    with pytest.raises(UsageError, match="no-cold"):
        bench(Plan(str(store)))
    assert bench(Plan(str(store), runs=1, cold=False, quick=True)).rows


# ---------------------------------------------------------------------------------------------------------------- chart


def test_without_matplotlib_nothing_is_measured(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    monkeypatch.setattr(run, "take", lambda _: pytest.fail("it was measured"))
    with pytest.raises(MissingExtraError, match=r"pip install matplotlib"):
        plot.check("chart.png")
    done = cli("bench", store, "--plot", store.parent / "chart.png")
    assert done.status == 1
    assert "no-matplotlib: " in one_line(done)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_chart(cli: Cli, store: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    out = store.parent / f"chart.{suffix}"
    report_of(cli, store, "--warm", "--against", "npz", "--plot", str(out))
    raw = out.read_bytes()
    assert raw.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert len(raw) > 10_000


def test_no_peer_is_imported_before_it_is_measured(tmp_path: Path) -> None:
    code = "import sys, blobstore.bench.run, blobstore.cli.bench_report; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    heavy = {"safetensors", "gguf", "h5py", "zarr", "matplotlib", "rich"}
    assert "blobstore.bench.run" in done.stdout.split()
    assert not heavy & {module.partition(".")[0] for module in done.stdout.split()}
