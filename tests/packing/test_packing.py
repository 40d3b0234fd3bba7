"""`blobstore.pack` and `blobstore.unpack`: the file is restored byte for byte, and packed tensors read the same."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

import blobstore
from blobstore.codecs.element_types import BY_NAME
from blobstore.compression.writer import DEFAULT_CHUNK_NBYTES
from blobstore.container.keys import RESERVED_KEYS
from blobstore.container.reader import BlobReader
from blobstore.edit.reindex import build_index as build_for
from blobstore.errors import BlobStoreError, FormatError, UsageError
from blobstore.index import Entry, IndexedBlob, build_index
from blobstore.index.blob_writer import BlobWriter
from blobstore.index.locate import external_path, find_index
from blobstore.packing import pack as pack_module
from blobstore.packing.pack import pack
from blobstore.packing.unpack import original_of, unpack
from blobstore.store.blobs import UnpackedBlobs
from tests.checking.test_verify import write_small
from tests.conftest import VECTORS
from tests.edit.test_reindex import cleared, write_plain
from tests.packing_files import check_same_tensors, index_beside, is_name, there_and_back, tuned, weights, write_weights
from tests.strategies import Blobs, blob_lists, payload, versions
from tests.tensor_strategies import Model, models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blobstore.index.locate import IndexPlace

some = settings(max_examples=settings().max_examples // 2)  # each example waits for the disk several times
FILES = [
    path
    for folder in ("valid", "catalog_valid", "verify")
    for path in sorted((VECTORS / folder).glob("*.sbs"))
    if path.name not in {"index-packed.sbs", "keys.sbs"}  # packed already, or taken for packed
]
assert len(FILES) > 40

UP = "model.layers.0.mlp.up_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"


def write_weights_of(path: Path, count: int, index: IndexPlace) -> Path:
    """Write a file of some small tensors."""
    with blobstore.create(path, index=index) as store:
        for i in range(count):
            store.add(f"c_{i}x", weights(i, 99))
    return path


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack all tensors, even the small ones of tests, which only get larger."""
    monkeypatch.setattr(pack_module, "_WORTH", 1000.0)


def model_file(path: Path, **options: Any) -> Path:  # noqa: ANN401 (write_weights')
    """Write weights that get smaller, and tensors that don't."""
    tensors = {
        UP: weights(1, 30_000).reshape(100, 300),
        DOWN: weights(2, 30_000).reshape(300, 100),
        "c_noise": np.frombuffer(payload(3, 5000), np.uint8),
        "c_small": np.ones((2, 3), np.float32),
        "c_none": np.ones((0, 3), np.float32),
    }
    return write_weights(path, tensors, **options)


def packed_keys(path: Path) -> set[str]:
    """Return the keys of the blobs that are packed, by the index."""
    with blobstore.open(path) as store:
        return {info.key for info in store.infos() if info.packed}


def refused(change: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        change()
    return caught.value.reason


# --------------------------------------------------------------------------------------------------- there and back


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("vector", FILES, ids=lambda path: path.name)
def test_each_vector_comes_back(tmp_path: Path, vector: Path) -> None:
    path = tmp_path / "m.sbs"
    shutil.copyfile(vector, path)
    if os.path.exists(external_path(vector)):
        shutil.copyfile(external_path(vector), external_path(path))
    packed, done = there_and_back(path)
    check_same_tensors(path, packed)
    with blobstore.open(path) as store:
        infos = [info for info in store.infos() if info.key and is_name(info.name)]
    kept = {info.key for info in infos if info.codec} | RESERVED_KEYS
    assert packed_keys(packed) == {info.key for info in infos} - kept
    assert {blob.key for blob in done.blobs if blob.key in packed_keys(packed)} == packed_keys(packed)


@pytest.mark.usefixtures("everything")
@some
@given(models())
def test_each_file_of_tensors_comes_back(tmp_path: Path, model: Model) -> None:
    path = cleared(tmp_path)
    model.write(path)
    packed, _ = there_and_back(path)
    check_same_tensors(path, packed)


@pytest.mark.usefixtures("everything")
@some
@given(blob_lists(6), versions)
def test_each_file_of_blobs_comes_back(tmp_path: Path, blobs: Blobs, version: int) -> None:
    path = cleared(tmp_path)
    write_plain(path, blobs, version)
    try:
        with blobstore.open(path):
            pass
    except FormatError as error:  # a blob has the key of the runtime's toc, and is not one
        with pytest.raises(FormatError, match=error.reason):
            pack(path, tmp_path / "packed.sbs")
        return
    packed, _ = there_and_back(path)
    check_same_tensors(path, packed)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("index", ["embedded", "external"])
@pytest.mark.parametrize("digests", [True, False])
def test_a_model_gets_smaller_and_comes_back(tmp_path: Path, version: int, index: IndexPlace, digests: bool) -> None:
    path = model_file(tmp_path / "m.sbs", version=version, index=index, digests=digests)
    packed, done = there_and_back(path)
    check_same_tensors(path, packed)
    packed_blobs = [blob for blob in done.blobs if blob.packed]
    assert [blob.names for blob in packed_blobs] == [(UP,), (DOWN,)]
    for blob in packed_blobs:
        assert blob.type == "bf16"
        assert blob.nbytes < 0.7 * blob.unpacked_nbytes
    with blobstore.open(packed) as store:
        assert original_of(store).index == index
        assert store.metadata["format"] == "pt"
        below = store.prefix("model.layers.0")
        assert below["mlp.up_proj.weight"].tobytes() == weights(1, 30_000).tobytes()
        assert bytes(below.raw("mlp.up_proj.weight")) == bytes(store.raw(UP))
        kept = store[UP]
    assert kept.tobytes() == weights(1, 30_000).tobytes()  # also after close


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("version", [1, 2])
def test_a_file_without_the_padding_at_its_end_comes_back(tmp_path: Path, version: int) -> None:
    path = tmp_path / "m.sbs"
    write_small(path, version)
    check_same_tensors(path, there_and_back(path)[0])


def with_index(path: Path, version: int, order: str) -> Path:
    """Write a file whose index is not where this package puts it, or whose table has another order or lacks a blob."""
    data = {"a": weights(1, 3000).tobytes(), "b": weights(2, 3000).tobytes(), "c": weights(3, 3000).tobytes()}
    listed = "ba" if "swapped" in order else "abc"[: 2 if "added" in order else 3]
    rows = [IndexedBlob(key.encode(), 6000, hashlib.sha256(data[key]).digest()) for key in listed]
    entries = [
        Entry(f"tensor.{key}", place, 0, 6000, BY_NAME["bf16"].number, (3000,)) for place, key in enumerate(listed)
    ]
    data["~index"] = build_index(entries, rows, {"a": "b"})
    keys = {"first": ["~index", "a", "b", "c"], "between": ["a", "~index", "b", "c"]}.get(
        order, ["a", "b", "c", "~index"]
    )
    with BlobWriter(path, version=version) as writer:
        for key in keys:
            writer.add(key, data[key])
    return path


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["first", "between", "last", "swapped", "added"])
def test_an_index_at_any_place_and_blobs_that_it_does_not_list_come_back(
    tmp_path: Path, version: int, order: str
) -> None:
    path = with_index(tmp_path / "m.sbs", version, order)
    packed, done = there_and_back(path)
    check_same_tensors(path, packed)
    known = {"a", "b"} if order in ("swapped", "added") else {"a", "b", "c"}
    assert {blob.key for blob in done.blobs if blob.packed} == known
    with BlobReader(packed) as reader:
        assert "c" in known or bytes(reader["c"]) == weights(3, 3000).tobytes()


def test_keys_that_are_not_text_come_back(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    write_plain(path, [("\udcff\udcfe", weights(1, 3000).tobytes()), ("c_text", weights(2, 3000).tobytes())])
    packed, done = there_and_back(path)
    check_same_tensors(path, packed)
    packed_blobs = [(blob.key, blob.packed, blob.type) for blob in done.blobs]
    assert packed_blobs == [("\udcff\udcfe", False, "unknown"), ("c_text", True, "unknown")]
    with blobstore.open(packed) as store:
        assert bytes(store.raw("\udcff\udcfe")) == weights(1, 3000).tobytes()


def test_aliases_and_parts_of_a_packed_blob_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path) as store:
        store.add(UP, weights(1, 4000).reshape(40, 100))
        store.alias("tied", UP)
        store.part("half", UP, BY_NAME["bf16"], (20, 100), offset=4000)
        store.part("odd", UP, BY_NAME["u8"], (7,), offset=1001)
        store.part("words", UP, BY_NAME["u32"], (10,), offset=1003)
    packed, _ = there_and_back(path)
    check_same_tensors(path, packed)
    with blobstore.open(packed) as store:
        assert {bool(info.packed) for info in store.infos()} == {True}
        assert store["half"].tobytes() == weights(1, 4000)[2000:].tobytes()
        assert store.info("tied").place == store.info(UP).place != store.info("half").place
        loaded = store.load_all()
        assert np.shares_memory(loaded["tied"], loaded[UP])


def test_packed_tensors_of_several_pieces_are_loaded_as_they_are_read(tmp_path: Path) -> None:
    """Tensors and parts of more than the 4 MiB that a thread decodes at a time."""
    path, count = tmp_path / "m.sbs", 5_000_000
    with blobstore.create(path) as store:
        store.add(UP, weights(1, count).reshape(1000, -1))
        store.alias("tied", UP)
        store.part("most", UP, BY_NAME["bf16"], (count - 50_001,), offset=2 * 50_001)
        store.part("odd", UP, BY_NAME["u8"], (2 * count - 5,), offset=3)
        store.add(DOWN, weights(2, 4_000_000))
    pack(path, tmp_path / "packed.sbs")
    with blobstore.open(tmp_path / "packed.sbs") as store:
        assert {bool(info.packed) for info in store.infos()} == {True}
        for workers in (1, 3):
            loaded = store.load_all(workers=workers)
            assert list(loaded) == list(store)
            for name, values in loaded.items():
                assert (values.dtype, values.shape) == (store[name].dtype, store[name].shape)
                assert values.tobytes() == store[name].tobytes()
            assert np.shares_memory(loaded["tied"], loaded[UP])
            assert not np.shares_memory(loaded[DOWN], loaded[UP])


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("piece", [999, 6000, 1 << 20])
def test_the_digest_of_a_packed_blob_is_that_of_its_unpacked_bytes(tmp_path: Path, piece: int) -> None:
    path = model_file(tmp_path / "m.sbs")
    pack(path, tmp_path / "packed.sbs")
    with BlobReader(path) as whole, BlobReader(tmp_path / "packed.sbs") as reader:
        index = find_index(reader)
        assert index
        blobs = UnpackedBlobs(reader, index)
        packed = [row.key.decode() for row in map(index.blob, range(len(index.blobs)))]
        assert any(map(blobs.is_packed, packed))
        for key in filter(blobs.is_packed, packed):
            assert (
                blobs.read_sha256(key, chunk_nbytes=piece) == blobs.sha256(key) == hashlib.sha256(whole[key]).digest()
            )


def coded(name: str, count: int) -> bytes:
    """Return stored bytes of an element type that get smaller."""
    nbytes = BY_NAME[name].nbytes(count)
    return np.random.default_rng(5).integers(1, 30, nbytes, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_every_element_type_reads_the_same(tmp_path: Path, scale: float) -> None:
    path, count = tmp_path / "m.sbs", 3000
    numbers = {name: element_type.number for name, element_type in BY_NAME.items()}
    data = {f"c_{name}": coded(name, count) for name in numbers} | {"c_new": payload(1, 9) * 500}
    rows = [IndexedBlob(key.encode(), len(raw)) for key, raw in data.items()]
    shapes = dict.fromkeys(data, (count // 10, 10))
    numbers_by_key = {f"c_{name}": number for name, number in numbers.items()} | {"c_new": 999}
    entries = [
        Entry(f"of.{key}", place, 0, len(data[key]), numbers_by_key[key], shapes[key], scale)
        for place, key in enumerate(data)
    ]
    write_plain(path, [*data.items(), ("~index", build_index(entries, rows))])
    packed, done = there_and_back(path)
    assert all(blob.packed for blob in done.blobs)
    check_same_tensors(path, packed)


def test_another_codec_stays_as_it_is(tmp_path: Path) -> None:
    path, data = tmp_path / "m.sbs", weights(1, 3000).tobytes()
    entries = [Entry("a", 0, 0, 6000, 2, (3000,)), Entry("b", 0, 0, 6000, 2, (3000,), codec=7)]
    write_plain(path, [("k", data), ("~index", build_index(entries, [IndexedBlob(b"k", 6000)]))])
    packed, done = there_and_back(path)
    assert not done.blobs[0].packed
    check_same_tensors(path, packed)


@pytest.mark.parametrize("dtype", [np.uint8, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_sizes_around_a_chunks_border_come_back(tmp_path: Path, dtype: Any, more: int) -> None:  # noqa: ANN401
    raw = np.random.default_rng(3).integers(
        0, 30, 2 * DEFAULT_CHUNK_NBYTES + more * np.dtype(dtype).itemsize, dtype=np.uint8
    )
    path = write_weights(tmp_path / "m.sbs", {"c_a": raw.view(dtype)})
    packed, done = there_and_back(path)
    assert done.blobs[0].nbytes < 0.9 * done.blobs[0].unpacked_nbytes
    check_same_tensors(path, packed)


@pytest.mark.parametrize("level", [0, 1, 9, 22])
@pytest.mark.parametrize("workers", [None, 1, 3])
def test_any_level_and_number_of_threads_come_back(tmp_path: Path, level: int, workers: int | None) -> None:
    path = model_file(tmp_path / "m.sbs")
    packed, done = there_and_back(path, level=level, workers=workers)
    assert sum(blob.packed for blob in done.blobs) == 2
    first = packed.read_bytes()
    pack(path, packed, level=level)
    assert packed.read_bytes() == first  # the same bytes for any number of threads


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        ([UP], {UP}),
        (["model.layers.*"], {UP, DOWN}),
        (["*down_proj*", "c_*"], {DOWN}),
        (["c_small"], set()),
    ],
)
def test_only_what_is_chosen_is_packed(tmp_path: Path, only: list[str], chosen: set[str]) -> None:
    path = model_file(tmp_path / "m.sbs")
    packed, done = there_and_back(path, only=only)
    assert {name for blob in done.blobs if blob.packed for name in blob.names} == chosen
    check_same_tensors(path, packed)


def test_the_runtimes_own_blobs_stay_as_they_are(tmp_path: Path) -> None:
    path, text = tmp_path / "m.sbs", b"tokens " * 1000
    with blobstore.create(path) as store:
        store.add(UP, weights(1, 3000))
        store.add_blob("tokenizer", text)
    packed, done = there_and_back(path, only=["*"])
    assert [blob.names for blob in done.blobs] == [(UP,)]
    with blobstore.open(packed) as store:
        assert store.tokenizer == text


def test_progress_reports_every_byte(tmp_path: Path) -> None:
    path, packed = model_file(tmp_path / "m.sbs"), tmp_path / "p.sbs"
    reported: list[int] = []
    pack(path, packed, progress=reported.append)
    with BlobReader(path) as reader:
        assert sum(reported) == sum(reader.range(key)[1] for key in reader if key != "~index")
    reported.clear()
    unpack(packed, tmp_path / "b.sbs", progress=reported.append)
    assert sum(reported) == path.stat().st_size


def test_plain_reads_hold_the_stored_bytes_of_few_blobs(tmp_path: Path) -> None:
    count, nbytes = 12, 1 << 20
    tensors = {f"c_{i}x": weights(i, nbytes // 2) for i in range(count)}
    packed, _ = there_and_back(write_weights(tmp_path / "m.sbs", tensors))
    with blobstore.open(packed, access="read") as store:
        tracemalloc.start()
        try:
            for name, values in tensors.items():
                assert store[name].tobytes() == values.tobytes()
            assert tracemalloc.get_traced_memory()[1] < count * nbytes // 2
        finally:
            tracemalloc.stop()


def test_an_error_does_not_wait_for_hashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_weights(tmp_path / "m.sbs", {"c_a": weights(1, 4 << 20)})
    seen: list[int] = []
    begun = threading.Event()

    def slow(pieces: Iterator[memoryview]) -> None:
        for piece in pieces:
            begun.set()
            time.sleep(0.05)
            seen.append(len(piece))

    def interrupt(*_: object, **__: object) -> float:
        assert begun.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(pack_module, "digest_of", slow)
    monkeypatch.setattr(pack_module, "sampled_ratio", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pack(path, tmp_path / "p.sbs")
    assert sum(seen) < path.stat().st_size
    assert os.listdir(tmp_path) == ["m.sbs"]


# ---------------------------------------------------------------------------------------------- the index beside a file


def test_an_old_index_beside_the_target_never_describes_the_new_file(tmp_path: Path) -> None:
    path, packed, target = tmp_path / "m.sbs", tmp_path / "p.sbs", tmp_path / "t.sbs"
    write_plain(path, [("k", weights(1, 3000).tobytes())])
    pack(path, packed)
    write_plain(target, [("k", payload(1, 6000))])
    build_for(target)
    assert index_beside(target) is not None  # it would fit: the blobs have the same keys and sizes
    unpack(packed, target)
    assert target.read_bytes() == path.read_bytes()
    assert not os.path.exists(external_path(target))


def test_an_index_beside_the_target_goes_when_the_file_has_one_inside(tmp_path: Path) -> None:
    path, packed, target = model_file(tmp_path / "m.sbs"), tmp_path / "p.sbs", tmp_path / "t.sbs"
    pack(path, packed)
    model_file(target, index="external")
    unpack(packed, target)
    assert target.read_bytes() == path.read_bytes()
    assert not os.path.exists(external_path(target))


def test_an_external_index_is_written_where_a_reader_of_the_link_looks(tmp_path: Path) -> None:
    path, packed, link = model_file(tmp_path / "m.sbs", index="external"), tmp_path / "p.sbs", tmp_path / "link.sbs"
    pack(path, packed)
    (tmp_path / "real.sbs").write_bytes(b"old")
    link.symlink_to(tmp_path / "real.sbs")
    unpack(packed, link)
    check_same_tensors(path, link)
    assert (tmp_path / "real.sbs").read_bytes() == path.read_bytes()


# ------------------------------------------------------------------------------------------------------- never larger


def test_a_blob_that_does_not_get_smaller_stays_as_it_is(tmp_path: Path) -> None:
    path = write_weights(
        tmp_path / "m.sbs", {"c_noise": np.frombuffer(np.random.default_rng(1).bytes(300_000), np.uint8)}
    )
    packed, done = there_and_back(path)
    assert not done.blobs[0].packed
    assert done.nbytes <= done.unpacked_nbytes + 65536
    with BlobReader(path) as original, BlobReader(packed) as copy:
        assert bytes(original["c_noise"]) == bytes(copy["c_noise"])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("digests", [True, False])
def test_a_blob_of_which_only_the_samples_get_smaller_stays_as_it_is(
    tmp_path: Path, version: int, digests: bool
) -> None:
    chunks = 16
    random = np.random.default_rng(2).bytes(chunks * DEFAULT_CHUNK_NBYTES)
    data = np.frombuffer(random, np.uint8).reshape(chunks, -1).copy()
    data[::2, : DEFAULT_CHUNK_NBYTES // 200] = 0  # samples are every other chunk
    tensors = {"c_before": weights(1, 3000), "c_tricky": data, "c_behind": weights(2, 3000)}
    path = write_weights(tmp_path / "m.sbs", tensors, version=version, digests=digests)
    packed, done = there_and_back(path)
    assert [blob.packed for blob in done.blobs] == [True, False, True]
    with BlobReader(packed) as reader:
        assert bytes(reader["c_tricky"]) == data.tobytes()
    check_same_tensors(path, packed)


# -------------------------------------------------------------------------------------------------------------- deltas


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "base.sbs", {UP: weights(1, 30_000), DOWN: weights(2, 30_000)})


@pytest.fixture
def tune(tmp_path: Path) -> Path:
    tensors = {UP: tuned(weights(1, 30_000), 7), DOWN: tuned(weights(2, 30_000), 8), "c_more": weights(9, 5000)}
    return write_weights(tmp_path / "tune.sbs", tensors)


@pytest.mark.parametrize("index", ["embedded", "external"])
@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_a_fine_tune_is_kept_as_the_difference(
    tmp_path: Path, tune: Path, version: int, index: IndexPlace, digests: bool
) -> None:
    base = write_weights(
        tmp_path / "base.sbs",
        {DOWN: weights(2, 30_000), UP: weights(1, 30_000)},
        version=version,
        index=index,
        digests=digests,
    )
    packed, done = there_and_back(tune, base=base)
    assert {blob.names[0]: blob.delta for blob in done.blobs} == {UP: True, DOWN: True, "c_more": False}
    assert all(blob.nbytes < blob.unpacked_nbytes / 3 for blob in done.blobs if blob.delta)
    check_same_tensors(tune, packed, base)


def test_with_the_same_file_as_base_almost_nothing_is_left(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.sbs"
    shutil.copyfile(base, path)
    packed, done = there_and_back(path, base=base)
    assert all(blob.nbytes < 500 for blob in done.blobs)
    check_same_tensors(path, packed, base)


def test_a_base_can_be_packed_itself(base: Path, tune: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.sbs"
    pack(base, small)
    packed, done = there_and_back(tune, base=small)
    assert done.blobs[0].delta
    check_same_tensors(tune, packed, small)
    check_same_tensors(tune, packed, base)
    unpack(packed, tmp_path / "again.sbs", base=base)
    assert (tmp_path / "again.sbs").read_bytes() == tune.read_bytes()


def test_a_base_can_be_without_an_index(tmp_path: Path) -> None:
    base = tmp_path / "base.sbs"
    write_plain(base, [("c_a", weights(1, 30_000).tobytes())])
    tune = write_weights(tmp_path / "tune.sbs", {"c_a": tuned(weights(1, 30_000), 2)})
    packed, done = there_and_back(tune, base=base)
    assert done.blobs[0].delta
    check_same_tensors(tune, packed, base)


def reasons(packed: Path, base: Path | None) -> dict[str, str]:
    """Return the dtype of each tensor, or the reason why it can't be read; and the reason why unpacking fails."""
    outcomes = {}
    with blobstore.open(packed, base=base) as store:
        for name in store:
            try:
                outcomes[name] = f"{store[name].dtype}"
            except BlobStoreError as error:
                outcomes[name] = error.reason
    target = packed.with_name("never.sbs")
    with pytest.raises(BlobStoreError) as caught:
        unpack(packed, target, base=base)
    assert not target.exists()
    return outcomes | {"unpack": caught.value.reason}


def test_a_difference_needs_its_base(base: Path, tune: Path, tmp_path: Path) -> None:
    packed, _ = there_and_back(tune, base=base)
    wrong = {
        "needs-base": None,
        "wrong-base": write_weights(
            tmp_path / "other.sbs", {UP: tuned(weights(1, 30_000), 1), DOWN: tuned(weights(2, 30_000), 2)}
        ),
    }
    for reason, wrong_base in wrong.items():
        assert reasons(packed, wrong_base) == {UP: reason, DOWN: reason, "c_more": "bfloat16", "unpack": reason}
    sizes = {
        "longer": {UP: weights(1, 30_001), DOWN: weights(2, 30_001)},
        "shorter": {UP: weights(1, 29_999), DOWN: weights(2, 20)},
        "others": {"c_x": weights(1, 30_000)},
    }
    for name, tensors in sizes.items():
        for digests in (True, False):
            wrong_base = write_weights(tmp_path / f"{name}.sbs", tensors, digests=digests)
            outcomes = reasons(packed, wrong_base)
            assert (outcomes[UP], outcomes[DOWN], outcomes["unpack"]) == ("wrong-base",) * 3
    # A packed difference can be a base, but only with a base of its own.
    assert reasons(packed, packed)[UP] == "needs-base"


def test_a_base_that_differs_in_some_blobs_only_serves_for_the_others(base: Path, tune: Path, tmp_path: Path) -> None:
    packed, _ = there_and_back(tune, base=base)
    second_base = write_weights(tmp_path / "other.sbs", {UP: weights(1, 30_000), DOWN: weights(3, 30_000)})
    assert reasons(packed, second_base) == {
        UP: "bfloat16",
        DOWN: "wrong-base",
        "c_more": "bfloat16",
        "unpack": "wrong-base",
    }


def test_no_difference_to_a_damaged_base_is_made(base: Path, tune: Path, tmp_path: Path) -> None:
    with BlobReader(base) as reader, blobstore.open(base) as store:
        offset = reader.range(store.info(DOWN).key)[0]
    raw = bytearray(base.read_bytes())
    raw[offset + 17] ^= 1
    base.write_bytes(raw)
    with pytest.raises(FormatError, match="damaged-blob") as caught:
        pack(tune, tmp_path / "p.sbs", base=base)
    assert caught.value.path == str(base)
    assert not (tmp_path / "p.sbs").exists()


def test_a_damaged_base_that_is_packed_is_named(base: Path, tune: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.sbs"
    pack(base, small)
    packed, _ = there_and_back(tune, base=small)
    with blobstore.open(small) as store:
        info = store.info(UP)
    raw = bytearray(small.read_bytes())
    raw[info.offset + 200] ^= 1
    small.write_bytes(raw)
    with blobstore.open(packed, base=small) as store, pytest.raises(FormatError, match="packed-data") as caught:
        _ = store[UP]
    assert caught.value.path == str(small)
    with pytest.raises(FormatError, match="packed-data") as caught:
        pack(tune, tmp_path / "p.sbs", base=small)
    assert caught.value.path == str(small)


def test_a_useless_base_is_refused(tmp_path: Path, tune: Path) -> None:
    for name, tensors in {"unlike": {UP: weights(3, 30_000)}, "others": {"c_x": weights(1, 9)}}.items():
        useless_base = write_weights(tmp_path / f"{name}.sbs", tensors)
        with pytest.raises(UsageError, match="no-base-blobs"):
            pack(tune, tmp_path / "p.sbs", base=useless_base)
    assert not (tmp_path / "p.sbs").exists()


def test_a_base_is_never_replaced(base: Path, tune: Path) -> None:
    packed, _ = there_and_back(tune, base=base)
    before = base.read_bytes()
    assert refused(lambda: pack(tune, base, base=base)) == "same-file"
    assert refused(lambda: unpack(packed, base, base=base)) == "same-file"
    assert base.read_bytes() == before


# -------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize("name", [UP, "c_noise"])
def test_a_damaged_blob_is_not_packed(tmp_path: Path, name: str) -> None:
    path, target = model_file(tmp_path / "m.sbs"), tmp_path / "p.sbs"
    with blobstore.open(path) as store:
        offset = store.info(name).offset
    raw = bytearray(path.read_bytes())
    raw[offset + 3] ^= 4
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="damaged-blob") as caught:
        pack(path, target)
    assert caught.value.path == str(path)
    assert os.listdir(tmp_path) == ["m.sbs"]


def test_the_file_itself_is_never_the_target(tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.sbs")
    with pytest.raises(UsageError, match="same-file"):
        pack(path, path)
    pack(path, tmp_path / "p.sbs")
    (tmp_path / "link.sbs").symlink_to(tmp_path / "p.sbs")
    with pytest.raises(UsageError, match="same-file"):
        unpack(tmp_path / "p.sbs", tmp_path / "link.sbs")


def test_files_that_can_not_be_packed_or_unpacked_are_refused_and_nothing_appears(tmp_path: Path) -> None:
    path, packed, target = model_file(tmp_path / "m.sbs"), tmp_path / "p.sbs", tmp_path / "t.sbs"
    pack(path, packed)
    plain, hidden = tmp_path / "plain.sbs", tmp_path / "hidden.sbs"
    write_plain(plain, [("k", b"x")])
    with BlobReader(packed) as reader:  # a tool that ignores the index has dropped it
        write_plain(hidden, [(key, bytes(reader[key])) for key in reader if key != "~index"])
    assert refused(lambda: pack(packed, target)) == "already-packed"
    assert refused(lambda: pack(hidden, target)) == "already-packed"
    assert refused(lambda: pack(path, target, only=[UP, "nothing*"])) == "no-match"
    assert refused(lambda: unpack(path, target)) == "not-packed"
    assert refused(lambda: unpack(plain, target)) == "not-packed"
    assert refused(lambda: pack(plain, target, level=-1)) == refused(lambda: pack(plain, target, level=23))
    assert not target.exists()


@pytest.mark.parametrize("index", ["embedded", "external"])
def test_a_file_of_as_many_blobs_as_there_can_be_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: IndexPlace
) -> None:
    most = 20
    monkeypatch.setattr(pack_module, "MAX_BLOBS", most)
    spare = 2 if index == "embedded" else 3  # the new index, the skeleton, and the external index
    names = [f"c_{i}x" for i in range(most - spare)]
    there_and_back(write_weights(tmp_path / "m.sbs", {name: weights(1, 9) for name in names}, index=index))
    more = write_weights(tmp_path / "n.sbs", {name: weights(1, 9) for name in [*names, "c_more"]}, index=index)
    reported: list[int] = []
    assert refused(lambda: pack(more, tmp_path / "p.sbs", progress=reported.append)) == "too-many-blobs"
    assert not reported
