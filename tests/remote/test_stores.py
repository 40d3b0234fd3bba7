"""Stores elsewhere: what is read here, in few requests, or a typed error."""

from __future__ import annotations

import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore import FormatError, RemoteError, UsageError, cli
from blobstore.bench.run import Plan, bench
from blobstore.fileio import remote, remote_object
from blobstore.fileio.remote import RemoteSource
from blobstore.fileio.remote_object import RemoteObject
from tests.remote.counting import CountedFileSystem, clear, put

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "counted://bucket/model.sbs"
SIZE = 40_000
DATA = np.random.default_rng(0).bytes(SIZE)


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_object, "_WAITS", (0, 0))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that make many blocks of a small file."""
    for name, nbytes in {"_TAIL_NBYTES": 500, "_GAP_NBYTES": 300, "_BLOCK_NBYTES": 1000, "_KEPT_NBYTES": 5000}.items():
        monkeypatch.setattr(remote, name, nbytes)


def fetched() -> list[tuple[int, int]]:
    """Return what was asked for since the last time."""
    asked = [(start, end) for _, start, end in CountedFileSystem.fetched]
    CountedFileSystem.fetched.clear()
    return asked


def tensors() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1)
    made = {f"layer.{i}.weight": rng.integers(0, 99, (100, 333 + i), dtype=np.int32) for i in range(12)}
    return {**made, "embedding": rng.integers(0, 99, (9000, 100), dtype=np.int32), "scalar": np.array(3.0)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.sbs"
    blobstore.save_file(tensors(), path)
    put(URL, path)
    return path


reads = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 5000)), max_size=30)


@pytest.mark.usefixtures("small")
@given(reads, st.booleans(), st.booleans())
def test_any_reads_by_any_threads_give_the_files_bytes(
    reads: list[tuple[int, int]], announced: bool, writable: bool
) -> None:
    clear()
    fsspec.filesystem("counted").pipe_file("/bucket/model.sbs", DATA)
    wanted = [(offset, min(nbytes, SIZE - offset)) for offset, nbytes in reads]
    with RemoteSource(RemoteObject(URL), writable=writable) as source, ThreadPoolExecutor(4) as pool:
        source.tell_blobs(np.arange(0, SIZE, 700))
        with source.reading_ahead(wanted if announced else []):
            views = list(pool.map(lambda one: source.view(*one), wanted))
        assert [bytes(view) for view in views] == [DATA[offset : offset + nbytes] for offset, nbytes in wanted]
        assert all(view.readonly != writable for view, (_, nbytes) in zip(views, wanted, strict=True) if nbytes)


@pytest.mark.usefixtures("small")
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30), st.lists(st.integers(0, 900), min_size=30, max_size=30))
def test_announced_ranges_are_fetched_once_and_gaps_only_where_they_are_short(
    sizes: list[int], gaps: list[int]
) -> None:
    clear()
    fsspec.filesystem("counted").pipe_file("/bucket/model.sbs", DATA)
    ranges, at = [], 0
    for nbytes, gap in zip(sizes, gaps, strict=False):
        ranges.append((at, nbytes))
        at += nbytes + gap
    ranges = [(offset, nbytes) for offset, nbytes in ranges if offset + nbytes <= SIZE]
    with RemoteSource(RemoteObject(URL)) as source:
        fetched()
        with source.reading_ahead(ranges):
            for offset, nbytes in ranges:
                source.view(offset, nbytes)
                assert sum(block.end - block.start for block in source._blocks) <= 5000 + 1000
    asked = np.zeros(SIZE, int)
    for start, end in fetched():
        asked[start:end] += 1
        assert end - start <= 1000
    wanted = np.zeros(SIZE, bool)
    for offset, nbytes in ranges:
        wanted[offset : offset + nbytes] = True
    wanted[SIZE - 500 :] = False
    assert (asked <= 1).all()
    assert (asked[wanted] == 1).all()
    unwanted = asked.sum() - wanted.sum()
    assert unwanted <= 300 * len(ranges)


def test_a_store_is_opened_by_its_end_and_a_tensor_is_one_request(model: Path) -> None:
    here = tensors()
    with blobstore.open(URL) as store:
        assert sorted(store) == sorted(here)
        assert len(fetched()) == 1  # and one look at its size
        for name in ("layer.3.weight", "embedding"):
            offset, nbytes = store.reader.range(store.info(name).key)
            np.testing.assert_array_equal(store[name], here[name])
            asked = fetched()
            assert len(asked) <= 1
            assert all(offset <= start < end <= offset + nbytes for start, end in asked)
        rows = [8, 5, 7000, 5]
        np.testing.assert_array_equal(store.load("embedding", rows=rows), here["embedding"][rows])
        assert sum(end - start for start, end in fetched()) <= 4 * 400 + 3 * 400
    del model


@pytest.mark.usefixtures("model")
def test_everything_at_once_is_fetched_once() -> None:
    here = tensors()
    loaded = blobstore.load_file(URL)
    for name, array in here.items():
        np.testing.assert_array_equal(loaded[name], array)
    asked = sorted(fetched())
    assert sum(end - start for start, end in asked) <= CountedFileSystem().size("/bucket/model.sbs")
    assert len(asked) <= 6


def test_a_file_of_fsspec_and_a_pickled_store_are_read_as_the_url_is(model: Path) -> None:
    here = blobstore.load_file(model)
    for file in (fsspec.open(URL), fsspec.open(URL).open()):
        with blobstore.open(file) as store:
            assert store.reader.is_elsewhere
            np.testing.assert_array_equal(store["layer.1.weight"], here["layer.1.weight"])
    with blobstore.open(URL) as store:
        again = pickle.loads(pickle.dumps(store))  # noqa: S301 (made here)
        np.testing.assert_array_equal(again["layer.1.weight"], here["layer.1.weight"])
    with blobstore.open(f"file://{model}") as store:
        assert store.reader.access == "mmap"


def test_an_index_beside_a_url_is_found(tmp_path: Path) -> None:
    path = tmp_path / "beside.sbs"
    with blobstore.create(path, index="external") as writer:
        for name, array in tensors().items():
            writer[name] = array
    put("counted://bucket/beside.sbs", path)
    put("counted://bucket/beside.sbs.idx", Path(f"{path}.idx"))
    assert sorted(blobstore.open("counted://bucket/beside.sbs")) == sorted(tensors())


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "ls": lambda path: ["ls", path, "--json"],
    "info": lambda path: ["info", path, "--json"],
    "get": lambda path: ["get", path, "embedding", "-o", "out.npy"],
    "check": lambda path: ["check", path, "--json"],
    "verify": lambda path: ["verify", path, "--values", "--json"],
    "diff": lambda path: ["diff", path, "copy.sbs", "--json"],
    "export": lambda path: ["export", path, "-o", "out.safetensors", "--json"],
    "pack": lambda path: ["pack", path, "-o", "out.sbs", "--json"],
}
_DIFFERENT = ("input", "file", "path", "a", "access", "file_system", "seconds", "read", "read_a")  # from place to place


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_and_makes_the_same_of_a_url(
    command: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model.parent)
    Path("copy.sbs").write_bytes(model.read_bytes())

    def run(path: str) -> tuple[int, Any, dict[str, bytes]]:
        code = cli.main(COMMANDS[command](path))
        out = capsys.readouterr().out
        said = json.loads(out.replace(path, "PATH")) if out else None
        if isinstance(said, dict):
            said = {name: value for name, value in said.items() if name not in _DIFFERENT}
        made = {name: Path(name).read_bytes() for name in sorted(os.listdir()) if name.startswith("out")}
        for name in made:
            Path(name).unlink()
        return code, said, made

    assert run(URL) == run("model.sbs")


def test_a_file_that_begins_otherwise_is_refused_when_that_is_seen(model: Path) -> None:
    data = bytearray(model.read_bytes())
    data[0] ^= 1
    fsspec.filesystem("counted").pipe_file("/bucket/model.sbs", bytes(data))
    store = blobstore.open(URL)
    with pytest.raises(FormatError, match="bad-magic"):
        store.load_all()
    assert "bad-magic" in str(blobstore.check(URL).findings)


@pytest.mark.usefixtures("model")
def test_failures_are_tried_again_and_a_replaced_file_is_an_error() -> None:
    name = "layer.3.weight"
    with blobstore.open(URL) as store:
        CountedFileSystem.failures += [1, RuntimeError("502")]
        np.testing.assert_array_equal(store[name], tensors()[name])
        CountedFileSystem.failures += [9] * 3
        with pytest.raises(RemoteError, match="remote-short"):
            store["layer.4.weight"]
        CountedFileSystem.failures += [RuntimeError("of https://user:pass@host/?sig=secret")] * 3
        with pytest.raises(RemoteError, match="remote-failed") as failed:
            store["layer.5.weight"]
        assert not any(word in str(failed.value) for word in ("secret", "pass@"))
        CountedFileSystem.failures += [-5]  # more than was asked for
        data = store[name]
        fsspec.filesystem("counted").pipe_file("/bucket/model.sbs", bytes(store.reader.file_size))
        with pytest.raises(RemoteError, match="remote-changed"):
            store["layer.6.weight"]
        CountedFileSystem.store.clear()
        with pytest.raises((RemoteError, OSError)):
            store["layer.7.weight"]
        np.testing.assert_array_equal(data, tensors()[name])


@pytest.mark.usefixtures("model")
def test_one_closed_meanwhile_is_read_to_the_end() -> None:
    store = blobstore.open(URL)
    with store.reader.reading() as read:
        store.close()
        buffer = bytearray(100)
        read(memoryview(buffer), 300)
    assert any(buffer)
    with pytest.raises(UsageError, match="closed"):
        store["layer.1.weight"]
    assert not [thread for thread in threading.enumerate() if thread.name == "blobstore-fetch_8"]


@pytest.mark.usefixtures("model")
def test_what_cannot_be_done_with_a_url() -> None:
    with pytest.raises(UsageError, match="bad-access"):
        blobstore.open(URL, access="mmap")
    with pytest.raises(FileNotFoundError):
        blobstore.open("counted://bucket/none.sbs")
    with pytest.raises(UsageError, match="unknown-scheme"):
        blobstore.open("nosuch://bucket/none.sbs")
    with pytest.raises(UsageError, match="needs-path"):
        bench(Plan(URL))
