"""Sets elsewhere: few requests, nothing twice, and a store that is missing or another one is told."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pytest

import blobstore
from blobstore.errors import FormatError, RemoteError
from blobstore.fileio import remote, remote_object
from tests.checkpoints import write_peer
from tests.remote.counting import CountedFileSystem, clear, put
from tests.sets import save_set

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.fileio.types import Array

URL = "counted://sets/m.sbs"
COUNT = 30


def tensors() -> list[dict[str, Array]]:
    rng = np.random.default_rng(2)
    held: list[dict[str, Array]] = [
        {f"layer.{i}.{part}": rng.integers(0, 99, (40, 50 + i), dtype=np.int32) for part in "abc"} for i in range(COUNT)
    ]
    held[3]["none"] = np.zeros((0, 3))
    return held


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of a set, which are also at its URL; their ends are a small part of them."""
    monkeypatch.setattr(remote, "_TAIL_NBYTES", 42_000)  # the index and the padding that end a file of version 2
    monkeypatch.setattr(remote_object, "_WAITS", ())
    stores = save_set(tensors(), tmp_path / "m.sbs")
    put("counted://sets", tmp_path)
    CountedFileSystem.fetched.clear()
    return stores


def fetched() -> list[tuple[str, int, int]]:
    """Return what was asked for since the last time: name, first byte and end."""
    asked = [(path.rpartition("/")[2], start, end) for path, start, end in CountedFileSystem.fetched]
    CountedFileSystem.fetched.clear()
    return asked


def test_opening_and_listing_ask_for_the_index_once(stores: list[Path]) -> None:
    with blobstore.open(URL) as store:
        assert len(list(store)) == 3 * COUNT + 1
        assert {name for name, _, _ in fetched()} == {"m.sbs"}
        store["layer.7.b"]
        asked = fetched()
        assert {name for name, _, _ in asked} == {stores[7].name}
        assert len(asked) <= 2
        store["layer.7.a"]
        assert len(fetched()) <= 1


def test_all_of_it_is_loaded_and_nothing_fetched_twice() -> None:
    expected = {name: array for held in tensors() for name, array in held.items()}
    with blobstore.open(URL) as store:
        loaded = store.load_all()
    assert loaded.keys() == expected.keys()
    assert all(np.array_equal(loaded[name], array) for name, array in expected.items())
    asked = sorted(fetched())
    for (name, _, end), (other, start, _) in pairwise(asked):
        assert name != other or end <= start, (name, end, start)
    assert len(asked) <= 2 + 2 * COUNT


def test_a_store_that_is_missing_or_another_one_is_told(stores: list[Path]) -> None:
    elsewhere = CountedFileSystem()
    elsewhere.rm_file(f"/sets/{stores[2].name}")
    elsewhere.pipe_file(f"/sets/{stores[4].name}", stores[5].read_bytes())
    with blobstore.open(URL) as store:
        for name, reason in (("layer.2.a", "set-missing-store"), ("layer.4.a", "set-stale")):
            with pytest.raises(FormatError) as caught:
                store[name]
            assert caught.value.reason == reason
        assert store["layer.5.a"].shape == (40, 55)
        elsewhere.pipe_file(f"/sets/{stores[5].name}", bytes(stores[5].stat().st_size))
        with pytest.raises(RemoteError, match="remote-changed"):
            store["layer.5.b"]
    found = {(one.code, one.subject) for one in blobstore.check(URL).findings if one.severity == "error"}
    assert found >= {("set-missing-store", stores[2].name), ("set-stale", stores[4].name)}


def test_few_stores_keep_their_ends() -> None:
    with blobstore.open(URL) as store:
        for i in [*range(COUNT), *range(COUNT)]:
            assert store[f"layer.{i}.c"].shape == (40, 50 + i)
        assert len(store.reader._source._files) <= 16  # type: ignore[attr-defined]


def made(folder: str) -> dict[str, bytes]:
    elsewhere = fsspec.filesystem("memory")
    names = [path.rpartition("/")[2] for path in elsewhere.ls(folder, detail=False)]
    return {name: elsewhere.cat_file(f"{folder}/{name}") for name in names}


@pytest.mark.parametrize("stops_after", [None, 1, 60_000, 100_000])
def test_a_set_is_made_elsewhere_and_gone_on_with(tmp_path: Path, stops_after: int | None) -> None:
    clear()
    rng = np.random.default_rng(3)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_peer(folder / "model.safetensors", {f"t.{i}": rng.integers(0, 9, (60, 70), np.int32) for i in range(9)})
    here = tmp_path / "here"
    here.mkdir()
    blobstore.convert(folder, here / "m.sbs", max_shard_size="66kB")
    done = 0

    def stop(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if stops_after is not None and done >= stops_after:
            raise KeyboardInterrupt

    if stops_after is not None:
        with pytest.raises(KeyboardInterrupt):
            blobstore.convert(folder, "memory://made/m.sbs", max_shard_size="66kB", progress=stop)
        assert "m.sbs" not in made("/made")
    blobstore.convert(folder, "memory://made/m.sbs", max_shard_size="66kB", resume=stops_after is not None)
    assert made("/made") == {path.name: path.read_bytes() for path in here.iterdir()}
