"""Files that a store carries besides its tensors, and what becomes of them when a store is edited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from blobstore.container.keys import SKELETON_KEY
from blobstore.errors import BlobStoreError
from blobstore.index.carried import file_key
from blobstore.index.metadata import FILES

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.index.locate import IndexPlace

CONFIG, TOKENIZER = b'{"model_type": "llama"}', b'{"version": "1.0"}' * 400
CARRIED = {"1_Pooling/config.json": b"{}", "config.json": CONFIG, "tokenizer.json": TOKENIZER}
NAME = "model.layers.0.mlp.up_proj.weight"


def carrying(path: Path, *, index: IndexPlace = "embedded", digests: bool = True) -> Path:
    with blobstore.create(path, index=index, digests=digests, metadata={"license": "mit"}) as store:
        store[NAME] = np.arange(4096, dtype=np.float32).reshape(64, 64)
        for name, data in CARRIED.items():
            store.add_file(name, data)
        store["norm"] = np.ones(3, dtype=np.float32)
    return path


def carried(path: Path) -> dict[str, bytes]:
    with blobstore.open(path) as store:
        assert list(store) == [NAME, "norm"]
        return {name: bytes(data) for name, data in store.files.items()}


@pytest.mark.parametrize("index", ["embedded", "external"])
def test_files_are_read_as_they_were_written_and_are_no_tensors(tmp_path: Path, index: IndexPlace) -> None:
    path = carrying(tmp_path / "a.sbs", index=index)
    assert carried(path) == CARRIED
    with blobstore.open(path, access="read") as store:
        assert len(store.files) == 3
        assert "config.json" in store.files
        assert "norm" not in store.files
        assert store.files["config.json"].readonly
        assert bytes(store.raw("tokenizer.json")) == TOKENIZER
        assert bytes(store.files.part_of_file("config.json").read()) == CONFIG
        with pytest.raises(blobstore.NameNotFoundError):
            store.files["norm"]
        with pytest.raises(blobstore.NameNotFoundError, match=r"it is a file that is carried: store.files"):
            store["config.json"]
        with pytest.raises(blobstore.NameNotFoundError, match=r"did you mean 'config.json'"):
            store.raw("confg.json")
    assert blobstore.check(path, strict=True).ok
    assert blobstore.verify(path, strict=True).ok


def test_a_tensor_of_the_same_name_is_another_thing(tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "a.sbs") as store:
        store["config.json"] = np.ones(2, dtype=np.float32)
        store.add_file("config.json", CONFIG)
    with blobstore.open(tmp_path / "a.sbs") as store:
        assert bytes(store.files["config.json"]) == CONFIG
        assert store["config.json"].tolist() == [1, 1]
        assert store.raw("config.json").nbytes == 8


@pytest.mark.parametrize(
    "name",
    [
        *[
            "",
            ".",
            "..",
            "/a",
            "a/",
            "../a",
            "a/../b",
            "a/b/c",
            "a//b",
            "C:a",
            "a\\b",
            "a\0b",
            "a\n",
            "é",
            "a b",
            "x" * 256,
        ],
        *[".gitignore", "-rf", "a.", "a/.b", "nul", "NUL.txt", "Con/a", "a/com1.json", "lpt0"],
    ],
)
def test_names_that_some_system_takes_otherwise_are_refused(tmp_path: Path, name: str) -> None:
    with blobstore.create(tmp_path / "a.sbs") as store:
        store["a"] = np.ones(1)
        with pytest.raises(blobstore.UsageError) as caught:
            store.add_file(name, b"x")
        assert caught.value.reason == "bad-file-name"
    with blobstore.open(tmp_path / "a.sbs") as store:
        assert not store.files
        assert not store.metadata


@pytest.mark.parametrize("name", ["a.json", "A.JSON", "a.json/b", "1_pooling"])
def test_two_files_that_can_not_lie_in_one_folder_are_refused(tmp_path: Path, name: str) -> None:
    with blobstore.create(tmp_path / "a.sbs") as store:
        store.add_file("a.json", b"x")
        store.add_file("1_Pooling/b", b"x")
        with pytest.raises(blobstore.UsageError) as caught:
            store.add_file(name, b"x")
        assert caught.value.reason == "duplicate-file"
        with pytest.raises(blobstore.UsageError, match="empty-blob"):
            store.add_file("empty.json", b"")
    with blobstore.open(tmp_path / "a.sbs") as store:
        assert [*store.files] == ["1_Pooling/b", "a.json"]


def test_without_an_index_there_is_no_list_of_files(tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "a.sbs", index="none") as store:
        store["a"] = np.ones(1)
        with pytest.raises(blobstore.UsageError) as caught:
            store.add_file("config.json", CONFIG)
        assert caught.value.reason == "needs-index"


def test_metadata_of_another_file_does_not_bring_its_files(tmp_path: Path) -> None:
    path = carrying(tmp_path / "a.sbs")
    with blobstore.open(path) as store:
        metadata = store.metadata
    with blobstore.create(tmp_path / "b.sbs") as new:
        new.metadata.update(metadata)
        new["a"] = np.ones(1)
    with blobstore.open(tmp_path / "b.sbs") as store:
        assert store.metadata == {"license": "mit"}
        assert not store.files


@pytest.mark.parametrize("options", [{}, {"container": 1}, {"sort": True}, {"set": {"a": "b"}}, {"index": "external"}])
def test_a_rewritten_file_keeps_them(tmp_path: Path, options: dict[str, object]) -> None:
    path = carrying(tmp_path / "a.sbs")
    blobstore.rewrite(path, tmp_path / "b.sbs", **options)  # type: ignore[arg-type]
    assert carried(tmp_path / "b.sbs") == CARRIED
    assert blobstore.verify(tmp_path / "b.sbs", strict=True).ok


def test_a_file_is_dropped_by_its_exact_name(tmp_path: Path) -> None:
    path = carrying(tmp_path / "a.sbs")
    done = blobstore.rewrite(path, tmp_path / "b.sbs", drop="tokenizer.json")
    assert done.dropped == ("tokenizer.json",)
    assert carried(tmp_path / "b.sbs") == {name: data for name, data in CARRIED.items() if name != "tokenizer.json"}
    assert done.blobs == 4
    with pytest.raises(blobstore.UsageError, match="no-match"):
        blobstore.rewrite(path, tmp_path / "c.sbs", drop="*.json")
    blobstore.rewrite(path, tmp_path / "d.sbs", drop=[*CARRIED])
    with blobstore.open(tmp_path / "d.sbs") as store:
        assert store.metadata == {"license": "mit"}
    done = blobstore.rewrite(path, tmp_path / "e.sbs", unset=FILES)
    assert (done.blobs, done.dropped) == (2, tuple(sorted(CARRIED)))
    with pytest.raises(blobstore.UsageError, match="reserved-key"):
        blobstore.rewrite(path, tmp_path / "f.sbs", rename={file_key("config.json"): "c"})


def test_a_packed_file_carries_them_unpacked_and_unpacking_restores_the_file(tmp_path: Path) -> None:
    path = carrying(tmp_path / "a.sbs")
    blobstore.pack(path, tmp_path / "p.sbs")
    with blobstore.open(tmp_path / "p.sbs") as store:
        assert SKELETON_KEY in store.reader
    assert carried(tmp_path / "p.sbs") == CARRIED
    assert blobstore.check(tmp_path / "p.sbs").ok
    blobstore.unpack(tmp_path / "p.sbs", tmp_path / "u.sbs")
    assert (tmp_path / "u.sbs").read_bytes() == path.read_bytes()


def test_a_new_index_does_not_take_them_for_tensors(tmp_path: Path) -> None:
    path = carrying(tmp_path / "a.sbs", digests=False)
    blobstore.build_index(path, digests=True)
    assert carried(path) == CARRIED
    done = blobstore.build_index(path, force=True, digests=True)
    assert done.names == 2
    with blobstore.open(path) as store:
        assert {name: bytes(data) for name, data in store.files.items()} == CARRIED
    assert blobstore.verify(path, strict=True).ok


def test_a_damaged_file_is_named_and_recovering_leaves_it_out(tmp_path: Path) -> None:
    path = carrying(tmp_path / "a.sbs")
    raw = bytearray(path.read_bytes())
    raw[raw.index(TOKENIZER) + 7] ^= 1
    path.write_bytes(raw)
    (found,) = blobstore.verify(path).findings
    assert (found.code, found.names) == ("damaged-blob", ("tokenizer.json",))
    assert found.effect == "the file that was carried along has wrong contents"
    done = blobstore.recover(path, tmp_path / "b.sbs")
    assert [lost.names for lost in done.lost] == [("tokenizer.json",)]
    assert carried(tmp_path / "b.sbs") == {name: data for name, data in CARRIED.items() if name != "tokenizer.json"}
    assert blobstore.verify(tmp_path / "b.sbs", strict=True).ok


@pytest.mark.parametrize("what", ["object", "folder-above", "absolute", "nul", "hidden", "device", "case", "gone"])
def test_a_damaged_list_concerns_no_tensor_and_can_be_left_out(vectors: Path, tmp_path: Path, what: str) -> None:
    path = vectors / "verify" / f"files-{what}.sbs"
    reason = "files-missing" if what == "gone" else "files-list"
    with blobstore.open(path) as store:
        assert [name for name in store if store[name].size]
        with pytest.raises(BlobStoreError) as caught:
            _ = [bytes(data) for data in store.files.values()]
        assert caught.value.reason == reason
        assert caught.value.path == str(path)
    assert [found.code for found in blobstore.check(path).findings if found.severity == "error"] == [reason]
    blobstore.rewrite(path, tmp_path / "b.sbs", unset=FILES)
    assert blobstore.check(tmp_path / "b.sbs").ok
