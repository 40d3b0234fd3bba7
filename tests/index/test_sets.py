"""Sets: files that are read as one."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore import cli
from blobstore.errors import BlobStoreError, FormatError, UsageError
from blobstore.index.inputs import files_of
from blobstore.index.sets import SetReader, open_reader
from tests.conftest import VECTORS, vector_params
from tests.sets import join, save_set

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blobstore.fileio.types import Access, Array

TENSORS: list[dict[str, Array]] = [
    {f"layer.{i}.weight": np.arange(6, dtype=np.float32).reshape(2, 3) + i for i in range(4)},
    {f"layer.{i}.weight": np.arange(4, dtype=np.float16) + i for i in range(4, 7)} | {"none": np.zeros((0, 2))},
    {"model.embed_tokens.weight": np.arange(3000, dtype=np.int32)},
]
ALL = {name: array for held in TENSORS for name, array in held.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "m.sbs"
    save_set(TENSORS, path, metadata={"license": "any"}, aliases={"lm_head.weight": "model.embed_tokens.weight"})
    return path


def same(store: blobstore.Store) -> None:
    expected = ALL | {"lm_head.weight": ALL["model.embed_tokens.weight"]}
    assert list(store) == sorted(expected)
    for found in (store, dict(store.items()), store.load_all(), {name: store.load(name) for name in store}):
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
    assert store.metadata == {"license": "any"}
    assert store.aliases == {"lm_head.weight": "model.embed_tokens.weight"}


@pytest.mark.parametrize("access", ["auto", "read", "mmap"])
def test_a_set_is_one_store(path: Path, access: Access) -> None:
    with blobstore.open(path, access=access) as store:
        same(store)
        assert isinstance(store.reader, SetReader)
        assert [os.path.basename(file) for file in store.reader.paths] == [f"m-0000{i}-of-00003.sbs" for i in (1, 2, 3)]
    kept = store.reader.access
    with pytest.raises(UsageError, match="closed"):
        store.raw("layer.5.weight")
    assert kept == ("read" if access == "read" else "mmap")


def test_views_are_those_of_the_files(path: Path) -> None:
    store = blobstore.open(path)
    assert np.shares_memory(store["layer.1.weight"], store["layer.1.weight"])
    assert not store["layer.1.weight"].flags.writeable
    weight = store["layer.5.weight"]
    store.close()
    assert np.array_equal(weight, ALL["layer.5.weight"])


def test_only_the_file_that_has_a_tensor_is_opened(path: Path) -> None:
    os.remove(path.with_name("m-00002-of-00003.sbs"))
    with blobstore.open(path) as store:
        assert len(list(store)) == len(ALL) + 1
        assert np.array_equal(store["layer.0.weight"], ALL["layer.0.weight"])
        with pytest.raises(FormatError, match="set-missing-store: store 2 of 3 of the set") as caught:
            _ = store["layer.4.weight"]
        assert caught.value.path == str(path.with_name("m-00002-of-00003.sbs"))
        os.remove(path.with_name("m-00001-of-00003.sbs"))
    with blobstore.open(path) as store:
        assert store["none"].shape == (0, 2)
        assert bytes(store.raw("none")) == b""


@pytest.mark.parametrize("fact", vector_params("set_valid"))
@pytest.mark.parametrize("access", ["mmap", "read"])
def test_a_valid_set_is_read_as_the_manifest_says(fact: dict[str, Any], access: Access) -> None:
    path = VECTORS / "set_valid" / fact["file"]
    with blobstore.open(path, access=access) as store:
        reader, index = store.reader, store.index
        assert index
        assert isinstance(reader, SetReader)
        assert reader.paths == tuple(str(path.with_name(one["file"])) for one in fact["stores"])
        assert (store.metadata, index.has_digests) == (fact["metadata"], fact["digests"])
        assert index.self_digest_holds()
        starts = {key: reader.range(key)[0] for key in reader} | {"": 0}
        assert fact["entries"] == [
            {
                "name": info.name,
                "key": info.key or None,
                "offset": info.packed.start if info.packed else info.offset - starts[info.key],
                "nbytes": info.element_nbytes,
                "type": info.type.number,
                "shape": list(info.shape),
                "scale_bits": struct.pack(">f", info.scale).hex(),
                "codec": info.codec,
                "store": os.path.basename(reader.file_at(starts[info.key])[0]) if info.key else None,
            }
            for info in store.infos()
        ]
        for entry in fact["entries"]:
            assert len(store.raw(entry["name"])) == entry["nbytes"]
        assert set(store.files) == set(fact.get("files", {}))
        listed = [
            (blob["key_hex"], blob["nbytes"], blob["sha256"], one["file"], blob["offset"])
            for one in fact["stores"]
            for blob in one["blobs"]
            if bytes.fromhex(blob["key_hex"]) not in (b"~index", b"~packed", b"~packed.idx")
        ]
        assert listed == [
            (key.encode().hex(), len(view), hashlib.sha256(view).hexdigest(), os.path.basename(file), offset)
            for key, view in reader.items()
            for file, offset in [reader.file_at(starts[key])]
        ]


@pytest.mark.parametrize("fact", vector_params("set_valid"))
def test_a_valid_set_and_its_stores_have_no_faults(fact: dict[str, Any]) -> None:
    path = VECTORS / "set_valid" / fact["file"]
    for file in (path, *(path.with_name(one["file"]) for one in fact["stores"])):
        assert not [one for one in blobstore.verify(file).findings if one.severity == "error"]


@pytest.mark.parametrize("fact", vector_params("set_invalid"))
def test_the_fault_of_an_invalid_set_is_found(fact: dict[str, Any]) -> None:
    path = VECTORS / "set_invalid" / fact["file"]
    for report in (blobstore.check(path), blobstore.verify(path)):
        assert fact["reason"] in {one.code for one in report.findings if one.severity == "error"}


@pytest.mark.parametrize("fact", vector_params("set_valid"))
def test_the_index_of_a_valid_set_is_joined_from_its_stores(fact: dict[str, Any], tmp_path: Path) -> None:
    path = VECTORS / "set_valid" / fact["file"]
    join(tmp_path / "m.sbs", [path.with_name(one["file"]) for one in fact["stores"]], fact["metadata"])
    assert (tmp_path / "m.sbs").read_bytes() == path.read_bytes()


def read_all(path: Path, access: Access) -> None:
    with blobstore.open(path, access=access) as store:
        for name in store:
            store.raw(name)


@pytest.mark.parametrize("fact", vector_params("set_invalid"))
@pytest.mark.parametrize("access", ["mmap", "read"])
def test_invalid_vectors_are_refused_for_their_reason(fact: dict[str, Any], access: Access) -> None:
    with pytest.raises(BlobStoreError) as caught:
        read_all(VECTORS / "set_invalid" / fact["file"], access)
    assert caught.value.reason == fact["reason"]


def test_a_store_of_the_set_opens_alone(path: Path) -> None:
    with blobstore.open(path.with_name("m-00001-of-00003.sbs")) as store:
        assert list(store) == sorted(TENSORS[0])


def test_a_set_can_be_pickled_and_a_changed_one_is_refused(path: Path) -> None:
    with blobstore.open(path) as store:
        pickled = pickle.dumps(store)
    with pickle.loads(pickled) as again:  # noqa: S301 (our own)
        same(again)
    save_set(TENSORS[:2], path)
    with pytest.raises(UsageError, match="replaced"):
        pickle.loads(pickled)  # noqa: S301 (our own)


def test_threads_open_each_file_once(path: Path) -> None:
    with blobstore.open(path) as store, ThreadPoolExecutor(8) as pool:
        for name, array in zip(list(ALL) * 20, pool.map(store.__getitem__, list(ALL) * 20), strict=True):
            assert np.array_equal(array, ALL[name])


def test_the_folder_may_be_moved_and_the_working_directory_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = path.parent / "moved"
    moved.mkdir()
    for file in path.parent.glob("m*.sbs"):
        shutil.move(file, moved / file.name)
    monkeypatch.chdir(moved)
    store = blobstore.open("m.sbs")
    monkeypatch.chdir(moved.parent)
    same(store)


def test_all_files_of_a_set_are_inputs(path: Path) -> None:
    files = files_of(path)
    assert {str(path), *(str(file) for file in path.parent.glob("m-*"))} <= set(map(str, files))
    with open_reader(path) as reader:
        for file in path.parent.glob("m*"):
            assert reader.is_at(file)
        assert not reader.is_at(path.parent)


@given(st.integers(0, 3 * 65536 - 1), st.integers(0, 3 * 65536))
def test_bytes_of_a_set_are_those_of_its_files_one_after_another(offset: int, nbytes: int) -> None:
    folder = VECTORS / "set_valid" / "two"
    whole = b"".join((folder / f"m-0000{i}-of-00002.sbs").read_bytes() for i in (1, 2))
    with open_reader(folder / "m.sbs") as reader:
        if offset + nbytes > len(whole):
            with pytest.raises(UsageError, match="outside"):
                reader.view(offset, nbytes)
            return
        assert bytes(reader.view(offset, nbytes)) == whole[offset : offset + nbytes]
        assert reader.part_of_file(offset, nbytes).read().tobytes() == whole[offset : offset + nbytes]


@pytest.mark.parametrize("data", ["bytes", "stream"])
def test_the_index_of_a_set_without_its_folder_is_refused(path: Path, data: str) -> None:
    with (
        open(path, "rb") as file,
        pytest.raises(FormatError, match=r"bad-magic: .*a set by its path"),
    ):
        blobstore.open(file.read() if data == "bytes" else file)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are not listed here")
def test_a_store_that_nobody_needs_lets_go_of_its_files(path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        before = os.listdir("/proc/self/fd")
        store = blobstore.open(path)
        _ = [store[name] for name in list(ALL)]
        del store, _
        assert len(os.listdir("/proc/self/fd")) == len(before)
    finally:
        gc.enable()


@pytest.mark.parametrize(("numbers", "lacking"), [((1, 2, 3), ""), ((1, 3), "2"), ((2,), "1, 3")])
def test_files_that_a_set_lacks_are_told(tmp_path: Path, numbers: tuple[int, ...], lacking: str) -> None:
    stores = [tmp_path / f"m-0000{number}-of-00003.sbs" for number in numbers]
    for path in stores:
        blobstore.save_file({path.name: np.arange(3.0)}, path)
    notes = blobstore.join_stores(stores, tmp_path / "m.sbs").notes
    assert [f"without number {lacking} the set" in note for note in notes] == [True] * bool(lacking)


def test_an_index_is_made_anew_after_a_store_was_rewritten(tmp_path: Path) -> None:
    stores = [tmp_path / f"m-{number}.sbs" for number in (1, 2)]
    for number, path in enumerate(stores):
        blobstore.save_file({f"t.{number}": np.arange(3.0)}, path)
    blobstore.join_stores(stores, tmp_path / "m.sbs")
    blobstore.rewrite(stores[0], in_place=True, set={"a": "b"})
    with pytest.raises(FormatError, match="set-stale"), blobstore.open(tmp_path / "m.sbs") as store:
        store.raw("t.0")
    blobstore.join_stores(stores, tmp_path / "m.sbs")
    assert list(blobstore.load_file(tmp_path / "m.sbs")) == ["t.0", "t.1"]
    with pytest.raises(UsageError, match="same-file"):
        blobstore.join_stores(stores, stores[0])


def test_info_says_which_files_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores = [tmp_path / f"m-{number}.sbs" for number in (1, 2)]
    for path in stores:
        blobstore.save_file({path.name: np.arange(3.0)}, path)
    blobstore.join_stores(stores, tmp_path / "m.sbs")
    assert cli.main(["info", str(tmp_path / "m.sbs")]) == 0
    assert "missing" not in capsys.readouterr().err
    stores[1].unlink()
    assert cli.main(["info", str(tmp_path / "m.sbs")]) == 0
    assert f"note: '{stores[1]}' is missing" in capsys.readouterr().err


def _pack(source: Path, target: Path) -> None:
    blobstore.pack(source, target)


def _raw(source: Path, target: Path) -> None:  # noqa: ARG001 (as the others)
    with blobstore.BlobWriter(target) as writer:
        writer["key"] = b"1"


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "save_file": lambda _, target: blobstore.save_file({"x": np.ones(2)}, target),
    "index external": lambda source, target: blobstore.rewrite(source, target, index="external"),
    "BlobWriter": _raw,
    "pack": _pack,
    "unpack": lambda source, target: blobstore.unpack(source.with_name("packed.sbs"), target),
    "rewrite": blobstore.rewrite,
    "recover": blobstore.recover,
    "convert": lambda source, target: blobstore.convert(source.with_name("x.safetensors"), target),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_no_file_replaces_the_index_of_a_set_whose_files_would_stay_behind(tmp_path: Path, writer: str) -> None:
    save_set([{"a": np.ones(3, np.float32)}, {"b": np.ones(3, np.float32)}], tmp_path / "set.sbs")
    blobstore.save_file({"x": np.random.default_rng(1).normal(0, 0.02, 30000).astype(np.float32)}, tmp_path / "x.sbs")
    blobstore.pack(tmp_path / "x.sbs", tmp_path / "packed.sbs")
    blobstore.export(tmp_path / "x.sbs", tmp_path / "x.safetensors")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=r"set-not-file.*leave them behind"):
        WRITERS[writer](tmp_path / "x.sbs", tmp_path / "set.sbs")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
