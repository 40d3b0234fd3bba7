from __future__ import annotations

import gc
import mmap
import os
import tracemalloc
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

import blobstore
from blobstore import codecs
from blobstore.codecs import mxfp4
from blobstore.codecs.element_types import BY_NAME
from blobstore.container.directory import build_directory
from blobstore.errors import BlobStoreError, CodecError, FormatError, NameNotFoundError, UsageError
from blobstore.index import Entry, IndexedBlob, build_index, open_index
from blobstore.index.records import EXTERNAL
from blobstore.store.reader import Store
from blobstore.store.values import elements, stored
from tests.index.test_name_index import SEEDS
from tests.strategies import bytes_of, payload
from tests.tensor_strategies import Model, models, mutated

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from blobstore.fileio.types import Access

both_accesses = pytest.mark.parametrize("access", ["mmap", "read"])
accesses = st.sampled_from(["mmap", "read"])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file of three tensors, an alias, and a blob of the runtime."""
    path = tmp_path / "small.sbs"
    with blobstore.create(path, metadata={"format": "pt"}) as store:
        store.add_blob("config", b"a config")
        store.add("model.embed_tokens.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
        store.add("model.layers.0.mlp.up_proj.weight", np.arange(8, dtype=np.int64))
        store.add("model.layers.0.empty", np.zeros((0, 4), dtype=np.int8))
        store.add("model.layers.10.mlp.up_proj.weight", np.arange(4, dtype=np.int8))
        store.add("scalar", np.float32(7))
        store.alias("zz.alias", "model.embed_tokens.weight")
    return path


def owner(array: np.ndarray[Any, Any]) -> object:
    """The object that owns an array's memory: the end of its chain of bases."""
    base: Any = array
    while getattr(base, "base", None) is not None:
        base = base.base
    return base.obj if isinstance(base, memoryview) else base


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


# Reading.


@pytest.mark.parametrize("dtype", [">f4", ">i8", ">c8"])
def test_a_single_value_in_the_other_byte_order_is_kept(tmp_path: Path, dtype: str) -> None:
    blobstore.save_file({"one": np.array(7.25, ">f4").astype(dtype)}, tmp_path / "one.sbs")
    with blobstore.open(tmp_path / "one.sbs") as store:
        assert store["one"] == np.array(7.25).astype(dtype)
        assert store["one"].shape == ()


@given(models(), accesses)
def test_every_name_reads_back_bit_for_bit(tmp_path: Path, model: Model, access: Access) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    with blobstore.open(path, access=access) as store:
        values = {name: (array.dtype, array.shape, array.tobytes()) for name, array in store.items()}
        assert values == model.expected()
        assert store.metadata == model.metadata
        assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in store.load_all().items()} == values


@given(models())
def test_names_are_listed_by_their_bytes(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    with blobstore.open(path) as store:
        assert list(store) == sorted(model.expected(), key=str.encode)
        assert [info.name for info in store.infos()] == list(store) == list(store.keys())
        assert len(store) == len(model.expected())
        assert all(name in store for name in model.expected())


@given(models(), accesses)
def test_info_says_where_the_bytes_lie_in_the_file(tmp_path: Path, model: Model, access: Access) -> None:
    path = tmp_path / "m.sbs"
    keys = model.write(path)
    raw = path.read_bytes()
    with blobstore.open(path, access=access) as store:
        for name, (dtype, shape, data) in model.expected().items():
            info = store.info(name)
            assert (info.name, info.key, info.dtype, info.shape, info.scale) == (name, keys[name], dtype, shape, 1.0)
            assert raw[info.offset : info.offset + info.nbytes] == data == bytes(store.raw(name))
            if name in model.tensors and data:
                assert (info.offset, info.nbytes) == store.reader.range(info.key)


@given(models())
def test_blobs_of_the_runtimes_own_are_reachable_but_not_listed(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    with blobstore.open(path) as store:
        for key, data in model.blobs.items():
            assert bytes(store.reader[key]) == data
            assert bytes(store.raw(key)) == data or key in store
        assert store.keys() == model.expected().keys()


@given(models(index="external"))
def test_an_external_index_leaves_a_plain_file(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "m.sbs"
    keys = model.write(path)
    with blobstore.open(path, use_index=False) as store:
        assert set(store) == {keys[name] for name in model.tensors if keys[name]}
        assert "~index" not in store.reader
        for name, array in model.tensors.items():
            assert not array.size or store[keys[name]].tobytes() == model.expected()[name][2]


def test_arrays_are_read_only_views_into_the_map(small: Path) -> None:
    with blobstore.open(small) as store:
        arrays = {name: array for name, array in store.items() if array.size}
        one_map = {id(owner(array)) for array in arrays.values()}
        assert len(one_map) == 1
        assert isinstance(owner(arrays["scalar"]), mmap.mmap)
        zero = address(arrays["scalar"]) - store.info("scalar").offset
        assert all(address(array) == zero + store.info(name).offset for name, array in arrays.items())
        for array in store.values():
            assert not array.flags.writeable
            assert not array.flags.owndata or not array.size
    with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
        arrays["scalar"].flags.writeable = True


@both_accesses
def test_elements_of_a_writable_store_can_be_written_to(small: Path, access: Access) -> None:
    before, name = small.read_bytes(), "model.embed_tokens.weight"
    with Store(small, access=access, writable=True) as store:
        info = store.info(name)
        written = elements(store, info, 0, 6)
        written[:] = 7
        assert store[name].flags.writeable is False
        assert store["zz.alias"].ravel().tolist() == (6 * [7] if access == "mmap" else list(range(6)))
    assert written.tolist() == 6 * [7]
    assert small.read_bytes() == before


def test_with_plain_reads_each_array_is_a_read_only_copy_of_its_own(small: Path) -> None:
    with blobstore.open(small, access="read") as store:
        first, second = store["scalar"], store["scalar"]
        assert not np.may_share_memory(first, second)
        assert not isinstance(owner(first), mmap.mmap)
        assert not any(array.flags.writeable for array in store.values())


def test_opening_and_viewing_copies_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"large": np.ones(1 << 21)}, path)
    with blobstore.open(path) as store:
        store["large"]
    tracemalloc.start()
    try:
        with blobstore.open(path) as store:
            assert store["large"][-1] == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 19


@both_accesses
def test_views_outlive_the_store_and_its_file(small: Path, access: Access) -> None:
    store = blobstore.open(small, access=access)
    array, raw = store["model.embed_tokens.weight"], store.raw("config")
    small.unlink()
    store.close()
    del store
    gc.collect()
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert bytes(raw) == b"a config"


@both_accesses
def test_a_closed_store_still_lists_but_does_not_read(small: Path, access: Access) -> None:
    store = blobstore.open(small, access=access)
    store.close()
    assert len(store) == 6
    assert store.info("scalar").shape == ()
    with pytest.raises(UsageError) as caught:
        store["scalar"]
    assert (caught.value.reason, caught.value.path) == ("closed", str(small))


def test_metadata_is_a_copy(small: Path) -> None:
    with blobstore.open(small) as store:
        store.metadata["format"] = "other"
        assert store.metadata == {"format": "pt"}


# A mapping.


def test_a_store_is_a_mapping_and_says_what_it_is(small: Path) -> None:
    with blobstore.open(small) as store:
        assert repr(store) == f"<Store {str(small)!r}: 6 tensors, {small.stat().st_size} bytes>"
        assert store.path == str(small)
        assert dict(store).keys() == set(store)
        assert store.get("missing") is None
        assert "missing" not in store
        assert not store.__contains__(7)
        assert "config" not in store


def test_a_prefix_shows_what_is_below_it(small: Path) -> None:
    with blobstore.open(small) as store:
        layer = store.prefix("model.layers.1")
        assert (list(layer), len(layer)) == ([], 0)
        layer = store.prefix("model.layers.0")
        assert list(layer) == ["empty", "mlp.up_proj.weight"]
        assert layer["mlp.up_proj.weight"].tolist() == list(range(8))
        assert layer.info("empty").name == "model.layers.0.empty"
        assert bytes(layer.raw("mlp.up_proj.weight")) == np.arange(8).tobytes()
        assert repr(layer) == f"<2 tensors below 'model.layers.0.' in {str(small)!r}>"
        assert not layer.__contains__(7)
        with pytest.raises(NameNotFoundError, match=r"'model\.layers\.0\.up'"):
            layer["up"]
        with pytest.raises(NameNotFoundError):
            layer.raw("config")


prefixes = st.sampled_from(["", "a", "a.", "a.b", "b", "model.layers.0", "config"])


@given(models(), prefixes, prefixes)
def test_a_prefix_of_a_prefix_is_one_prefix(tmp_path: Path, model: Model, first: str, second: str) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    with blobstore.open(path) as store:
        once, twice = store.prefix(f"{first.rstrip('.')}.{second}" if first else second), store.prefix(first)
        assert list(twice.prefix(second)) == list(once if second else twice)
        assert list(store.prefix("")) == list(store)


@given(st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=8, unique=True), prefixes)
def test_a_prefix_lists_exactly_what_it_has(tmp_path: Path, listed: list[str], prefix: str) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file(dict.fromkeys(listed, np.zeros(0)), path)
    with blobstore.open(path) as store:
        view = store.prefix(prefix)
        cut = prefix.rstrip(".") + "." if prefix else ""
        below = {name.removeprefix(cut) for name in listed if name.startswith(cut)}
        assert set(view) == {name for name in below if name in view}
        assert set(view) >= below - {""}
        assert all(view.info(name).name == cut + name for name in view)


# Missing names.


@both_accesses
def test_a_missing_name_is_a_key_error_with_a_readable_text(small: Path, access: Access) -> None:
    with blobstore.open(small, access=access) as store:
        with pytest.raises(KeyError) as caught:
            store["model.layers.0.mlp.up_projection.weight"]
        assert isinstance(caught.value, NameNotFoundError)
        text = str(caught.value)
        assert text.startswith("name-not-found: no tensor has the name 'model.layers.0.mlp.up_projection.weight': did")
        assert "'model.layers.0.mlp.up_proj.weight'" in text


def test_nothing_is_suggested_when_no_name_is_near(small: Path) -> None:
    with blobstore.open(small) as store, pytest.raises(NameNotFoundError, match=r"the name 'qqqq'$"):
        store["qqqq"]


@pytest.mark.parametrize("name", ["lm_head.weight", "model.lm_head.weight"])
def test_for_the_head_of_a_tied_model_the_embedding_is_named(small: Path, name: str) -> None:
    with blobstore.open(small) as store, pytest.raises(NameNotFoundError, match=r"'model\.embed_tokens\.weight'$"):
        store[name]


@given(st.text(), st.booleans())
def test_any_missing_name_is_refused_in_the_same_way(vectors: Path, name: str, use_index: bool) -> None:
    with blobstore.open(vectors / "valid" / "index-aliases.sbs", use_index=use_index) as store:
        if name in {*store, *store.reader}:
            return
        for look in (store.__getitem__, store.info, store.raw):
            with pytest.raises(NameNotFoundError, match="name-not-found"):
                look(name)


def test_only_text_is_a_name(small: Path) -> None:
    with blobstore.open(small) as store, pytest.raises(NameNotFoundError, match="no tensor has the name 7"):
        store.info(7)  # type: ignore[arg-type]


# Files without an index, or with one that doesn't fit.


@both_accesses
def test_without_an_index_blobs_are_bytes_under_their_keys(tmp_path: Path, access: Access) -> None:
    path = tmp_path / "plain.sbs"
    with blobstore.BlobWriter(path) as writer:
        for key in ("config", "tokenizer", "Fscales", "c_embedding", "\udcff"):
            writer.add(key, key.encode("utf-8", "surrogateescape"))
    with blobstore.open(path, access=access) as store:
        assert list(store) == ["c_embedding", "\udcff"]
        assert store["c_embedding"].tobytes() == b"c_embedding"
        assert store["\udcff"].dtype == np.uint8
        assert store["\udcff"].tolist() == [255]
        assert store.metadata == {}
        for key in ("config", "tokenizer", "Fscales"):
            assert key not in store
            assert bytes(store.raw(key)) == key.encode()


@both_accesses
@pytest.mark.parametrize(
    ("file", "name", "reason"),
    [
        ("index-unknown-type-and-codec", "type", "unknown-type"),
        ("index-unknown-type-and-codec", "codec", "unknown-codec"),
        ("index-element-types", "tensor.f4", "packed-type"),
        ("index-element-types", "tensor.f6_e2m3", "packed-type"),
        ("index-element-types", "tensor.f6_e3m2", "packed-type"),
    ],
)
def test_what_can_not_be_decoded_is_refused_by_name_and_raw_works(
    vectors: Path, access: Access, file: str, name: str, reason: str
) -> None:
    with blobstore.open(vectors / "valid" / f"{file}.sbs", access=access) as store:
        with pytest.raises(CodecError) as caught:
            store[name]
        assert caught.value.reason == reason
        assert repr(name) in str(caught.value)
        with pytest.raises(CodecError):
            store.load_all()
        assert len(store.raw(name)) == store.info(name).nbytes > 0


VALUES = np.random.default_rng(7).normal(0, 1, (37, 130)).astype(np.float32)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the same values in every encoded type, and in some types of numpy."""
    path = tmp_path_factory.mktemp("encoded") / "m.sbs"
    with blobstore.create(path) as store:
        for name in ("f32", "bf16", "sfp", "i8", "q4_0"):
            data, scale = codecs.encode(name, VALUES)
            store.add_stored(name, [data], BY_NAME[name], VALUES.shape, scale=scale)
        store.add_stored("mxfp4", [payload(8, 17 * 151).replace(b"\xff", b"\x80")], BY_NAME["mxfp4"], VALUES.shape)
        store.add_stored("scaled bf16", [VALUES.astype(bfloat16)], BY_NAME["bf16"], VALUES.shape, scale=3.0)
        store.add("f16", VALUES.astype(np.float16))
        store.add("i32", VALUES.astype(np.int32))
    return path


@both_accesses
@pytest.mark.parametrize("name", ["f32", "bf16", "sfp", "i8", "q4_0", "mxfp4", "scaled bf16"])
def test_an_encoded_tensor_reads_as_its_codec_decodes_it(encoded: Path, access: Access, name: str) -> None:
    with blobstore.open(encoded, access=access) as store:
        info = store.info(name)
        expected = codecs.decode(info.type, store.raw(name), VALUES.size, scale=info.scale).reshape(VALUES.shape)
        assert store[name].astype(np.float32).tobytes() == expected.tobytes()
        assert store[name].dtype == info.dtype == (bfloat16 if name == "bf16" else np.float32)
        assert not store[name].flags.writeable
        assert info.scale == 1.0 or info.encoded


@both_accesses
@pytest.mark.parametrize("shape", [(7, 64), (14, 32), (64, 7)], ids=str)
def test_of_4_bit_types_only_the_blocks_of_the_rows_are_read(
    tmp_path: Path, access: Access, shape: tuple[int, int]
) -> None:
    # A block that can't be decoded is noticed only by who reads it.
    stored = bytearray(b"\x7f" * 17 * 14)
    stored[17 * 6] = mxfp4.RESERVED
    with blobstore.create(tmp_path / "m.sbs") as store:
        store.add_stored("w", [stored], BY_NAME["mxfp4"], shape)
    concerned = {i for i in range(shape[0]) if i * shape[1] < 7 * 32 and (i + 1) * shape[1] > 6 * 32}
    with blobstore.open(tmp_path / "m.sbs", access=access) as store:
        for row in range(shape[0]):
            if row in concerned:
                with pytest.raises(CodecError, match="mxfp4-reserved-scale: 'w': "):
                    store.load("w", rows=slice(row, row + 1))
            else:
                assert (np.abs(store.load("w", rows=slice(row, row + 1))) == 6).all()
    assert 0 < len(concerned) < shape[0]


SLICES = [slice(None), slice(0, 1), slice(3, 9), slice(36, 99), slice(5, 5), slice(None, None, -1), slice(30, 2, -7)]


@both_accesses
@pytest.mark.parametrize("rows", [*SLICES, slice(1, None, 4)], ids=str)
@pytest.mark.parametrize("dtype", [None, np.float32, bfloat16, np.float64], ids=str)
def test_rows_are_those_of_the_whole_tensor(encoded: Path, access: Access, rows: slice, dtype: type | None) -> None:
    with blobstore.open(encoded, access=access) as store:
        for name in store:
            whole = store.load(name, dtype=dtype)
            part = store.load(name, dtype=dtype, rows=rows)
            assert part.tobytes() == whole[rows].tobytes()
            assert part.shape == whole[rows].shape
            assert part.dtype == whole.dtype == (dtype or store.info(name).dtype)
            assert part.flags.writeable


def test_rows_of_a_tensor_without_elements_are_not_walked_through(vectors: Path) -> None:
    with blobstore.open(vectors / "valid" / "index-no-elements.sbs") as store:
        most = 2**57 - 1
        assert store.info("none.large").shape == (most, 0)
        assert store.load("none.large", rows=slice(1, None)).shape == (most - 1, 0)
        assert store.load("none.large", rows=slice(None, None, -1)).shape == (most, 0)
        assert store.load("none.large", rows=slice(7, 3)).shape == (0, 0)


def test_a_single_value_has_no_rows(tmp_path: Path) -> None:
    blobstore.save_file({"x": np.float32(1)}, tmp_path / "m.sbs")
    with blobstore.open(tmp_path / "m.sbs") as store:
        assert store.load("x").tolist() == 1
        with pytest.raises(UsageError, match="no-rows: 'x'"):
            store.load("x", rows=slice(0, 1))


def test_a_wrong_code_is_reported_with_the_tensor(tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "m.sbs") as store:
        store.add_stored("x", [b"\x01\x80"], BY_NAME["sfp"], (2,))
    with blobstore.open(tmp_path / "m.sbs") as opened:
        with pytest.raises(CodecError, match="sfp-reserved-code: 'x'"):
            opened["x"]
        assert opened.load("x", rows=slice(0, 1)).tolist() == [1.25 * 2.0**-23]


def test_a_scale_where_numpy_reads_the_type_itself_is_not_dropped(tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "m.sbs") as store:
        store.add_stored("x", [b"\x01\x02"], BY_NAME["u8"], (2,), scale=2.0)
    with blobstore.open(tmp_path / "m.sbs") as opened, pytest.raises(CodecError, match="scaled-type: 'x'"):
        opened["x"]


def test_a_broken_toc_is_refused_and_the_blobs_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.BlobWriter(path) as writer:
        writer.add("toc", b"rubbish!")
    with pytest.raises(FormatError, match="in the blob 'toc'"):
        blobstore.open(path)
    with blobstore.open(path, use_index=False) as store:
        assert bytes(store.raw("toc")) == b"rubbish!"


@given(models(index="embedded"), st.data())
def test_a_foreign_rewrite_in_another_order_reads_the_same(tmp_path: Path, model: Model, data: st.DataObject) -> None:
    path, rewritten = tmp_path / "m.sbs", tmp_path / "rewritten.sbs"
    model.write(path)
    with blobstore.BlobReader(path) as reader, blobstore.BlobWriter(rewritten, version=3 - model.version) as writer:
        writer.add("added", b"x")
        for key in data.draw(st.permutations(list(reader))):
            writer.add(key, reader[key])
    with blobstore.open(rewritten) as store:
        assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in store.items()} == model.expected()


@pytest.mark.parametrize(
    ("size", "reason"), [(0, "index-missing-blob"), (7, "index-blob-size"), (9, "index-blob-size")]
)
def test_a_foreign_rewrite_that_drops_or_resizes_a_blob_is_refused(tmp_path: Path, size: int, reason: str) -> None:
    path, rewritten = tmp_path / "m.sbs", tmp_path / "rewritten.sbs"
    blobstore.save_file({"a": np.zeros(8), "b": np.zeros(8, dtype=np.int8)}, path)
    with blobstore.BlobReader(path) as reader, blobstore.BlobWriter(rewritten) as writer:
        for key, blob in reader.items():
            if key == "b" and size:
                writer.add(key, bytes(size))
            elif key != "b":
                writer.add(key, blob)
    with pytest.raises(FormatError, match="'b'") as caught, blobstore.open(rewritten) as store:
        assert store["b"].size
    assert (caught.value.reason, caught.value.path) == (reason, str(rewritten))
    with blobstore.open(rewritten, use_index=False) as store:
        assert store["a"].tobytes() == bytes(64)


@given(models(index="external"))
def test_a_stale_index_is_refused_and_can_be_left_out(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    index = (tmp_path / "m.sbs.idx").read_bytes()
    with blobstore.BlobReader(path, access="read") as reader, blobstore.BlobWriter(path) as writer:
        for key, blob in reader.items():
            writer.add(key, blob)
        writer.add("~added", b"x")
    (tmp_path / "m.sbs.idx").write_bytes(index)
    with pytest.raises(FormatError, match="index-stale") as caught:
        blobstore.open(path)
    assert caught.value.path == f"{path}.idx"
    with blobstore.open(path, use_index=False) as store:
        assert "~added" in store


def test_a_folder_beside_the_file_is_not_an_index(small: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.sbs"
    with blobstore.BlobWriter(plain) as writer:
        writer.add("a", b"x")
    (tmp_path / "plain.sbs.idx").mkdir()
    with blobstore.open(plain) as store:
        assert store.index is None
    with blobstore.open(small) as store:
        assert store.index


# Faults in an index, as a reader of the file sees them.


@both_accesses
@pytest.mark.parametrize(("name", "type_name"), [("newer", "type-14"), ("權重", "type-31")])
def test_a_type_that_a_later_runtime_has_is_listed_and_gives_its_bytes(
    vectors: Path, access: Access, name: str, type_name: str
) -> None:
    with blobstore.open(vectors / "catalog_valid" / "toc-newer-types.sbs", access=access) as store:
        info = store.info(name)
        assert (info.type.name, info.shape, info.dtype) == (type_name, (3, 87), None)
        assert store.raw(name) == store.reader[name]
        assert len(stored(store, info, 0, info.nbytes)) == info.nbytes
        for load in (partial(store.__getitem__, name), partial(store.load, name), store.load_all):
            with pytest.raises(CodecError, match=r"unknown-type: .* newer than this version .*: store\.raw"):
                load()


def check(store: blobstore.Store) -> None:
    """Fail unless every tensor that is listed lies inside its blob, and can be read."""
    for info in store.infos():
        assert store.info(info.name) == info
        start, nbytes = store.reader.range(info.key) if info.key else (0, 0)
        assert start <= info.offset <= info.offset + info.nbytes <= start + nbytes
        assert len(store.raw(info.name)) == info.nbytes
        try:
            array = store[info.name]
        except CodecError:
            assert info.dtype is None
            continue
        array_nbytes = 4 * info.size if info.encoded else info.nbytes
        assert (array.shape, array.dtype, array.nbytes) == (info.shape, info.dtype, array_nbytes)
        array.tobytes()


@settings(max_examples=4 * settings().max_examples)
@given(data=st.data(), seed=st.sampled_from(SEEDS), access=accesses)
def test_a_file_with_a_mutated_index_is_refused_or_reads_right(
    tmp_path: Path, generator: ModuleType, data: st.DataObject, seed: tuple[bytes, bool], access: Access
) -> None:
    raw, external = seed
    index = data.draw(mutated(raw))
    blobs = [(key, bytes(range(size)) if size < 256 else bytes(size)) for key, size in table_of(raw)]
    path = tmp_path / "m.sbs"
    path.write_bytes(generator.container(2, blobs if external else [*blobs, (b"~index", index)]))
    if external:
        path.with_name("m.sbs.idx").write_bytes(index)
    tracemalloc.start()
    try:
        with blobstore.open(path, access=access) as store:
            check(store)
    except BlobStoreError as error:
        assert error.path  # noqa: PT017 (most examples raise nothing else)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 500_000 + 60 * len(index) + 4 * sum(len(blob) for _, blob in blobs)


def table_of(raw: bytes) -> list[tuple[bytes, int]]:
    """Key and size of each blob that a valid index lists."""
    index = open_index(memoryview(raw), kind="external" if raw[12] & EXTERNAL else "embedded")
    return [(row.key, row.nbytes) for row in map(index.blob, range(len(index.blobs)))]


# Large.


@pytest.mark.parametrize("version", [1, 2])
def test_a_tensor_beyond_4_gib_is_read_through_the_map(tmp_path: Path, version: int) -> None:
    nbytes = 9 * 2**29 + 3
    index = build_index(
        [Entry("a.large.one", 0, 0, nbytes, 10, (nbytes,)), Entry("behind", 1, 0, 8, 10, (8,))],
        [IndexedBlob(b"~large", nbytes), IndexedBlob(b"b", 8)],
    )
    directory = build_directory(version, [b"~large", b"b", b"~index"], [nbytes, 8, len(index)])
    path = tmp_path / "sparse.sbs"
    with path.open("wb") as file:
        tail = directory.to_bytes() + directory.header()
        pieces = {
            0: directory.header() + directory.to_bytes() if version == 1 else b"SBS\n\0\0\0\0\0\0\1\0",
            directory.file_size - len(tail): tail if version == 2 else b"",
            int(directory.offsets[0]): b"first",
            int(directory.offsets[0]) + nbytes - 4: b"last",
            int(directory.offsets[1]): b"the next",
            int(directory.offsets[2]): index,
        }
        os.truncate(path, directory.file_size)
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
    assert path.stat().st_blocks * 512 < 1 << 20
    with blobstore.open(path) as store:
        large = store["a.large.one"]
        assert large.shape == (nbytes,)
        assert (large[:6].tobytes(), large[-5:].tobytes()) == (b"first\0", b"\0last")
        assert store["behind"].tobytes() == b"the next"
        assert store.info("behind").offset > 2**32


def test_16000_names_are_listed_and_found(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    count = 16_000
    with blobstore.create(path) as store:
        for i in range(count):
            store.add(f"model.layers.{i}.weight", np.array([i, i + 1], dtype=np.int32))
    with blobstore.open(path) as store:
        assert list(store) == sorted(f"model.layers.{i}.weight" for i in range(count))
        assert len(store) == count
        for i in (0, 9, 10, 9_999, count - 1):
            assert store[f"model.layers.{i}.weight"].tolist() == [i, i + 1]
        assert sum(info.nbytes for info in store.infos()) == 8 * count


@given(st.lists(st.text("ab\udcff", min_size=1, max_size=3), min_size=1, unique=True))
def test_keys_that_are_not_utf8_are_names_of_a_file_without_index(tmp_path: Path, listed: list[str]) -> None:
    path = tmp_path / "plain.sbs"
    with blobstore.BlobWriter(path) as writer:
        for key in listed:
            writer.add(key, bytes_of(key))
    with blobstore.open(path) as store:
        assert {name: array.tobytes() for name, array in store.items()} == {key: bytes_of(key) for key in listed}
