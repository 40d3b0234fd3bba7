from __future__ import annotations

import hashlib
import io
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

import blobstore
from blobstore.codecs import element_types
from blobstore.errors import BlobStoreError, UsageError
from tests.strategies import WriteOnly
from tests.tensor_strategies import Model, arrays, models, names, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blobstore.index.locate import IndexPlace

F32, U8 = element_types.BY_NAME["f32"], element_types.BY_NAME["u8"]
ONES = np.ones(3, dtype=np.float32)

both_places = pytest.mark.parametrize("index", ["embedded", "external"])


def left_in(folder: Path) -> set[str]:
    return set(os.listdir(folder))


# What is written.


@given(models())
def test_a_conforming_writer_would_make_the_same_file(tmp_path: Path, generator: Any, model: Model) -> None:  # noqa: ANN401
    path = tmp_path / "m.sbs"
    model.write(path)
    with blobstore.BlobReader(path) as reader:
        blobs = [(key.encode(), bytes(blob)) for key, blob in reader.items()]
    assert path.read_bytes() == generator.container(model.version, blobs)


@given(models(index="embedded"))
def test_a_stream_gets_the_same_bytes_as_a_file(tmp_path: Path, model: Model) -> None:
    path, stream = tmp_path / "m.sbs", io.BytesIO()
    assert model.write(stream) == model.write(path)
    assert stream.getvalue() == path.read_bytes()


@given(models())
def test_keys_are_those_of_the_names(tmp_path: Path, model: Model) -> None:
    keys = model.write(tmp_path / "m.sbs")
    assert {name: keys[name] for name in model.tensors} == {
        name: blobstore.key_for(name) if array.size else "" for name, array in model.tensors.items()
    }


@given(models())
def test_digests_are_those_of_the_stored_blobs(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    with blobstore.open(path) as store:
        assert store.index
        index = store.index
        assert (index.has_digests, index.external) == (model.digests, model.index == "external")
        rows = [index.blob(i) for i in range(len(index.blobs))]
        assert [row.key.decode() for row in rows] == [key for key in store.reader if key != "~index"]
        for row in rows:
            blob = bytes(store.reader[row.key.decode()])
            assert (row.nbytes, row.sha256) == (len(blob), hashlib.sha256(blob).digest() if model.digests else None)
        assert index.self_digest_holds()


@given(models())
def test_an_embedded_index_is_the_last_blob_and_an_external_one_is_beside(tmp_path: Path, model: Model) -> None:
    path, beside = tmp_path / "m.sbs", tmp_path / "m.sbs.idx"
    beside.unlink(missing_ok=True)
    model.write(path)
    with blobstore.BlobReader(path) as reader:
        assert (list(reader)[-1] == "~index") == (model.index == "embedded")
    assert beside.exists() == (model.index == "external")


@given(names, arrays())
def test_whatever_is_taken_can_be_read(tmp_path: Path, name: str, array: np.ndarray[Any, Any]) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path) as store:
        store.add(name, array)
    with blobstore.open(path) as read:
        assert read[name].tobytes() == stored_bytes(array)


@pytest.mark.parametrize("dims", [(2**57 - 1, 0), (0, 2**57), (2**31, 2**31, 0)])
def test_a_shape_that_no_reader_takes_is_refused(tmp_path: Path, dims: tuple[int, ...]) -> None:
    path = tmp_path / "m.sbs"
    try:
        with blobstore.create(path) as store:
            store.add("none", np.empty(dims, dtype=np.uint8))
    except UsageError as error:
        assert "'none'" in str(error)  # noqa: PT017 (either is right)
        assert left_in(tmp_path) == set()
    else:
        with blobstore.open(path) as read:
            assert read["none"].shape == dims


@pytest.mark.parametrize("scale", [float("inf"), float("nan"), 1e39, -1e39])
@pytest.mark.parametrize("of_part", [False, True])
def test_a_scale_that_no_reader_takes_is_refused(tmp_path: Path, scale: float, of_part: bool) -> None:
    with pytest.raises(UsageError, match="'scaled'"), blobstore.create(tmp_path / "m.sbs") as store:  # noqa: PT012
        store.add("whole", ONES)
        if of_part:
            store.part("scaled", "whole", F32, (3,), scale=scale)
        else:
            store.add_stored("scaled", [ONES], F32, (3,), scale=scale)
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("shape", [(-1, 0), (-1, -3)])
def test_a_negative_dimension_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="'wrong'"), blobstore.create(tmp_path / "m.sbs") as store:
        store.add_stored("wrong", [ONES] if np.prod(shape) else [], F32, shape)
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("scale", [0.5, -3.0, 0.0, 2.0**-149])
def test_a_scale_is_kept(tmp_path: Path, scale: float) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path) as store:
        store.add_stored("a", [ONES], F32, (3,), scale=scale)
        store.alias("b", "a")
        store.part("c", "a", F32, (1,), scale=-scale)
    with blobstore.open(path) as read:
        assert [read.info(name).scale for name in "abc"] == [scale, scale, -scale]


def test_stored_bytes_may_come_in_any_pieces_and_under_any_key(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "m.sbs"
    source.write_bytes(b"....from a file")
    with source.open("rb") as file, blobstore.create(path) as store:
        pieces: list[Any] = [b"abcd", bytearray(b"efgh"), ONES, blobstore.FileRange(file.fileno(), 4, 8)]
        assert store.add_stored("packed", iter(pieces), element_types.BY_NAME["f4"], (56,), key="any key") == "any key"
    with blobstore.open(path) as read:
        assert bytes(read.raw("packed")) == b"abcdefgh" + ONES.tobytes() + b"from a f"
        assert (read.info("packed").key, read.info("packed").type.name) == ("any key", "f4")


def test_a_type_may_be_given_by_its_name(tmp_path: Path) -> None:
    for path, f32, u8 in ((tmp_path / "types.sbs", F32, U8), (tmp_path / "names.sbs", "f32", "u8")):
        with blobstore.create(path) as store:
            store.add_stored("a", [ONES], f32, (3,))
            store.part("b", "a", u8, (2,), offset=4)
    assert (tmp_path / "names.sbs").read_bytes() == (tmp_path / "types.sbs").read_bytes()


@pytest.mark.parametrize("array", [[1.5, 2.5], 7, True, (1, 2), np.float32(3), memoryview(b"ab"), [[1], [2]]])
def test_what_numpy_can_see_as_an_array_is_written_as_that(tmp_path: Path, array: Any) -> None:  # noqa: ANN401
    path = tmp_path / "m.sbs"
    blobstore.save_file({"x": array}, path)
    loaded, expected = blobstore.load_file(path)["x"], np.asarray(array)
    assert (loaded.dtype, loaded.shape, loaded.tolist()) == (expected.dtype, expected.shape, expected.tolist())


def test_an_array_in_another_order_is_not_copied_whole(tmp_path: Path) -> None:
    large = np.zeros((2048, 2048))  # 32 MiB
    tracemalloc.start()
    try:
        with blobstore.create(tmp_path / "m.sbs") as store:
            store.add("turned", large.T)
            store.add("wide", np.broadcast_to(np.float64(1), (2048, 2048)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20


def test_pieces_come_in_order(tmp_path: Path) -> None:
    values = np.arange(3_000_000, dtype=np.int32).reshape(3, 1000, 1000)
    path = tmp_path / "m.sbs"
    turned = {"t": values.T, "r": values[::-1, :, ::-1], "b": values.astype(">i4"), "s": values[:, ::3]}
    blobstore.save_file(turned, path)
    with blobstore.open(path) as store:
        assert all(np.array_equal(store[name], array) for name, array in turned.items())


def test_metadata_can_be_set_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    given_first = {"a": "1"}
    with blobstore.create(path, metadata=given_first) as store:
        store.add("x", ONES)
        store.metadata["b"] = "2"
    with blobstore.open(path) as read:
        assert read.metadata == {"a": "1", "b": "2"}
    assert given_first == {"a": "1"}


def test_nothing_is_kept_of_an_array(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    values = np.zeros(1000)
    with blobstore.create(path) as store:
        store.add("first", values)
        values[:] = 1
        store.add("second", values)
    with blobstore.open(path) as read:
        assert (read["first"].sum(), read["second"].sum()) == (0, 1000)


# Files that can't be written.


@both_places
@pytest.mark.parametrize("version", [1, 2])
def test_tensors_without_elements_need_no_blobs(tmp_path: Path, index: IndexPlace, version: int) -> None:
    path = tmp_path / "m.sbs"
    make = blobstore.create(path, index=index, version=version)
    assert make.add("none", np.zeros((2, 0), dtype=ml_dtypes.bfloat16)) == ""
    if index == "external":
        with pytest.raises(UsageError, match="no-blobs"):
            make.close()
        assert left_in(tmp_path) == set()
        return
    make.close()
    with blobstore.open(path) as store:
        assert (store["none"].shape, store["none"].dtype) == ((2, 0), ml_dtypes.bfloat16)


@both_places
def test_an_error_in_the_block_leaves_what_was_there(tmp_path: Path, index: IndexPlace) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"old": ONES}, path)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), blobstore.create(path, index=index) as store:  # noqa: PT012
        store.add("new", ONES)
        raise ZeroDivisionError
    assert path.read_bytes() == before
    assert left_in(tmp_path) == {"m.sbs"}


@pytest.mark.parametrize("at", range(8))
@both_places
def test_a_system_that_fails_leaves_a_whole_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: IndexPlace, at: int
) -> None:
    calls = iter(range(100))

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            if next(calls) == at:
                raise OSError(28, "No space left on device")
            return real(*args, **options)

        return call

    for name in ("write", "replace", "link"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    path = tmp_path / "m.sbs"
    failed = False
    try:
        with blobstore.create(path, index=index) as store:
            store.add("a long name of a tensor", ONES)
    except OSError:
        failed = True
    monkeypatch.undo()
    assert left_in(tmp_path) <= {"m.sbs", "m.sbs.idx"}
    assert failed or path.exists()
    if path.exists():
        with blobstore.BlobReader(path) as reader:
            assert bytes(reader[blobstore.key_for("a long name of a tensor")]) == ONES.tobytes()


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": "\ud800"}])
@both_places
def test_with_wrong_metadata_the_file_is_discarded(tmp_path: Path, metadata: dict[str, str], index: IndexPlace) -> None:
    with (
        pytest.raises(UsageError, match="bad-metadata"),
        blobstore.create(tmp_path / "m.sbs", metadata=metadata, index=index) as store,
    ):
        store.add("a", ONES)
    assert left_in(tmp_path) == set()


@both_places
def test_after_as_many_blobs_as_a_file_can_have_the_writer_goes_on(tmp_path: Path, index: IndexPlace) -> None:
    path = tmp_path / "m.sbs"
    most = 20 - (index == "embedded")
    with blobstore.StoreWriter(path, index=index, digests=False, max_blobs=20) as store:
        for i in range(most):
            store.add(f"tensor.{i}", np.int8(1))
        with pytest.raises(UsageError, match=r"too-many-blobs: .*'one\.more"):
            store.add("one.more.than.there.can.be", np.int8(1))
        store.alias("another", "tensor.0")
        store.add("none", np.zeros(0))
    with blobstore.open(path) as read:
        assert len(read) == most + 2


# Misuse.


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"version": 3}, "bad-version"),
        ({"version": 0}, "bad-version"),
        ({"index": "inside"}, "bad-index"),
        ({"index": None}, "bad-index"),
        ({"metadata": {"license": "mit", "blobstore.convert": "{}"}}, "reserved-key"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        blobstore.create(tmp_path / "m.sbs", **options)
    assert caught.value.reason == reason
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize(("options", "reason"), [({"index": "external"}, "needs-path"), ({"version": 1}, "needs-seek")])
def test_a_stream_has_no_file_beside_it_and_may_not_be_read(options: dict[str, Any], reason: str) -> None:
    stream = WriteOnly()
    with pytest.raises(UsageError) as caught:
        blobstore.create(stream, **options)
    assert (caught.value.reason, stream.getvalue()) == (reason, b"")


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not-a-file"):
        blobstore.create(tmp_path)
    with pytest.raises(FileNotFoundError):
        blobstore.create(tmp_path / "missing" / "m.sbs")


class NoArray:
    def __array__(self, *_: object, **__: object) -> np.ndarray[Any, Any]:
        raise TypeError("Got unsupported ScalarType BFloat16")


UNSUPPORTED: dict[str, Any] = {
    "object": np.array([None]),
    "text": np.array(["x"]),
    "bytes": np.array([b"x"]),
    "datetime64": np.zeros(2, dtype="M8[s]"),
    "timedelta64": np.zeros(2, dtype="m8[s]"),
    "complex128": np.zeros(2, dtype=np.complex128),
    "clongdouble": np.zeros(2, dtype=np.clongdouble),
    "structured": np.zeros(2, dtype="i4,f4"),
    "void": np.zeros(2, dtype="V8"),
    "int4": np.zeros(2, dtype=ml_dtypes.int4),
    "float4": np.zeros(2, dtype=ml_dtypes.float4_e2m1fn),
    "float8_e3m4": np.zeros(2, dtype=ml_dtypes.float8_e3m4),
    "masked": np.ma.masked_array(np.zeros(2), mask=[True, False]),
    "masked, nothing hidden": np.ma.masked_array(np.zeros(2)),
    "ragged list": [[1], [2, 3]],
    "None": None,
    "a text": "abc",
    "an integer beyond 64 bits": 2**70,
    "no array at all": NoArray(),
}
if np.dtype(np.longdouble) != np.dtype(np.float64):
    UNSUPPORTED["longdouble"] = np.zeros(2, dtype=np.longdouble)

A_NAME = "model.layers.0.the.name"
Misuse = tuple[str, "Callable[[blobstore.StoreWriter], object]", str]

MISUSES: list[Misuse] = [
    ("bad-name", lambda store: store.add("", ONES), "a name has at least one character"),
    ("bad-name", lambda store: store.add("nul\0name", ONES), r"nul\\x00name"),
    ("bad-name", lambda store: store.add("\ud800name", ONES), r"\\ud800name"),
    ("bad-name", lambda store: store.add("long" * 1025, ONES), "'longlong"),
    ("bad-name", lambda store: store.alias("\0alias", "here"), r"\\x00alias"),
    ("bad-name", lambda store: store.part("\0part", "here", U8, (1,)), r"\\x00part"),
    ("bad-name", lambda store: store.add("\0none", ONES[:0]), r"\\x00none"),
    ("duplicate-name", lambda store: store.add("here", ONES), "'here'"),
    ("duplicate-name", lambda store: store.add("here", ONES[:0]), "'here'"),
    ("duplicate-name", lambda store: store.add("none", ONES), "'none'"),
    ("duplicate-name", lambda store: store.add("alias", ONES), "'alias'"),
    ("duplicate-name", lambda store: store.alias("here", "here"), "'here'"),
    ("duplicate-name", lambda store: store.part("here", "here", U8, (1,)), "'here'"),
    ("key-collision", lambda store: store.add("c_embedding", ONES), "'c_embedding' and 'other'"),
    ("key-collision", lambda store: store.add_stored(A_NAME, [ONES], F32, (3,), key="c_embedding"), f"'{A_NAME}'"),
    ("key-collision", lambda store: store.add("a_blob", ONES), "'a_blob'"),
    ("duplicate-key", lambda store: store.add_blob("config", b"x"), "'config'"),
    ("duplicate-key", lambda store: store.add_blob("here", b"x"), "'here'"),
    ("reserved-key", lambda store: store.add_blob("~index", b"x"), "'~index'"),
    ("reserved-key", lambda store: store.add_blob("~packed", b"x"), "'~packed'"),
    ("reserved-key", lambda store: store.add_stored(A_NAME, [ONES], F32, (3,), key="~index"), "'~index'"),
    ("key-too-long", lambda store: store.add_blob("x" * 17, b"x"), "xxx"),
    ("key-too-long", lambda store: store.add_stored(A_NAME, [ONES], F32, (3,), key="x" * 17), "xxx"),
    ("bad-key", lambda store: store.add_blob("", b"x"), "a key has at least one byte"),
    ("empty-blob", lambda store: store.add_blob("empty", b""), "'empty'"),
    ("not-bytes", lambda store: store.add_blob("text", "text"), "str"),  # type: ignore[arg-type]
    ("bad-shape", lambda store: store.add(A_NAME, np.zeros((1,) * 33)), f"'{A_NAME}' has 33"),
    ("bad-shape", lambda store: store.part(A_NAME, "here", U8, (1,) * 33), f"'{A_NAME}' has 33"),
    ("no-target", lambda store: store.alias(A_NAME, "later"), f"'{A_NAME}' refers to 'later'"),
    ("no-target", lambda store: store.alias(A_NAME, "config"), "'config'"),
    ("no-target", lambda store: store.part(A_NAME, "later", U8, (1,)), "'later'"),
    ("unknown-type", lambda store: store.add_stored(A_NAME, [ONES], "F32", (3,)), "'F32' is not an element type"),
    ("unknown-type", lambda store: store.part(A_NAME, "here", "F32", (3,)), "'F32' is not an element type"),
    ("outside", lambda store: store.part(A_NAME, "here", U8, (13,)), f"'{A_NAME}'.*'here', which has 12"),
    ("outside", lambda store: store.part(A_NAME, "here", U8, (2,), offset=11), f"'{A_NAME}'"),
    ("outside", lambda store: store.part(A_NAME, "here", U8, (1,), offset=12), f"'{A_NAME}'"),
    ("outside", lambda store: store.part(A_NAME, "here", U8, (1,), offset=-1), f"'{A_NAME}'"),
    ("bad-shape", lambda store: store.part(A_NAME, "here", U8, (0,)), f"'{A_NAME}'"),
    ("outside", lambda store: store.part(A_NAME, "none", U8, (1,)), f"'{A_NAME}'"),
    ("outside", lambda store: store.part(A_NAME, "here", U8, (2**50, 8)), f"'{A_NAME}'"),
]
MISUSES += [
    ("unsupported-dtype", lambda store, array=array: store.add(A_NAME, array), f"'{A_NAME}'")  # type: ignore[misc]
    for array in UNSUPPORTED.values()
]


@both_places
@pytest.mark.parametrize(
    ("reason", "misuse", "message"), MISUSES, ids=[f"{reason}-{i}" for i, (reason, _, _) in enumerate(MISUSES)]
)
def test_after_a_refusal_the_writer_goes_on(
    tmp_path: Path,
    index: IndexPlace,
    reason: str,
    misuse: Callable[[blobstore.StoreWriter], object],
    message: str,
) -> None:
    def prepare(store: blobstore.StoreWriter) -> None:
        store.add_blob("config", b"a config")
        store.add_blob("a_blob", b"a blob")
        store.add_stored("other", [ONES], F32, (3,), key="c_embedding")
        store.add("here", ONES)
        store.add("none", ONES[:0])
        store.alias("alias", "here")

    with blobstore.create(tmp_path / "m.sbs", index=index) as store:
        prepare(store)
        with pytest.raises(UsageError, match=message) as caught:
            misuse(store)
        assert caught.value.reason == reason
        store.add("last", ONES)
    with blobstore.create(tmp_path / "expected.sbs", index=index) as store:
        prepare(store)
        store.add("last", ONES)
    assert (tmp_path / "m.sbs").read_bytes() == (tmp_path / "expected.sbs").read_bytes()


@pytest.mark.parametrize("data", [[], [b"123"], [b"12345678"], [b"1234", b"5"]])
def test_after_bytes_of_the_wrong_size_the_file_is_discarded(tmp_path: Path, data: list[bytes]) -> None:
    store = blobstore.create(tmp_path / "m.sbs")
    store.add("before", ONES)
    with pytest.raises(UsageError, match=r"(wrong-size|empty-blob): 'short'"):
        store.add_stored("short", data, F32, (1,))
    if data:
        with pytest.raises(UsageError, match="closed"):
            store.add("after", ONES)
        assert left_in(tmp_path) == set()
    store.discard()


def test_closing_a_discarded_file_is_an_error(tmp_path: Path) -> None:
    store = blobstore.create(tmp_path / "m.sbs")
    with pytest.raises(UsageError, match="wrong-size"):
        store.add_stored("short", [b"123"], F32, (1,))
    with pytest.raises(BlobStoreError):
        store.close()
    assert left_in(tmp_path) == set()


def test_after_data_that_breaks_off_the_file_is_discarded(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"1234"
        raise ConnectionError("gone")

    with pytest.raises(UsageError, match="incomplete"), blobstore.create(tmp_path / "m.sbs") as store:  # noqa: PT012
        store.add("before", ONES)
        with pytest.raises(ConnectionError):
            store.add_stored("broken", pieces(), F32, (2,))
    assert left_in(tmp_path) == set()


AFTERWARDS: dict[str, Callable[[blobstore.StoreWriter], object]] = {
    "add": lambda store: store.add("new", ONES),
    "add, without elements": lambda store: store.add("new", ONES[:0]),
    "add_stored": lambda store: store.add_stored("new", [ONES], F32, (3,)),
    "add_blob": lambda store: store.add_blob("new", b"x"),
    "alias": lambda store: store.alias("new", "x"),
    "part": lambda store: store.part("new", "x", U8, (1,)),
}


@pytest.mark.parametrize("call", AFTERWARDS.values(), ids=AFTERWARDS)
@pytest.mark.parametrize("end", [blobstore.StoreWriter.close, blobstore.StoreWriter.discard])
def test_nothing_can_be_added_to_a_complete_or_discarded_file(
    tmp_path: Path, end: Callable[[blobstore.StoreWriter], None], call: Callable[[blobstore.StoreWriter], object]
) -> None:
    store = blobstore.create(tmp_path / "m.sbs")
    store.add("x", ONES)
    end(store)
    with pytest.raises(UsageError) as caught:
        call(store)
    assert caught.value.reason == "closed"


@both_places
def test_closing_twice_is_closing_once(tmp_path: Path, index: IndexPlace) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, index=index) as store:
        store.add("x", ONES)
        store.close()
        before = path.read_bytes()
        store.close()
        store.discard()
    assert path.read_bytes() == before


# Without an index.


@pytest.mark.parametrize("version", [1, 2])
def test_without_an_index_names_that_are_keys_give_a_plain_file(tmp_path: Path, version: int) -> None:
    path, plain = tmp_path / "m.sbs", tmp_path / "plain.sbs"
    with blobstore.create(path, version=version, index="none") as store:
        store.add_blob("config", b"a config")
        assert store.add("c_embedding", ONES) == "c_embedding"
        assert store.add("foo_998", ONES[::-1]) == "foo_998"
    with blobstore.BlobWriter(plain, version=version) as writer:
        blobs: dict[str, Any] = {"config": b"a config", "c_embedding": ONES, "foo_998": ONES}
        for key, data in blobs.items():
            writer.add(key, data)
    assert path.read_bytes() == plain.read_bytes()
    assert left_in(tmp_path) == {"m.sbs", "plain.sbs"}


ONLY_WITH_INDEX: dict[str, Callable[[blobstore.StoreWriter], object]] = {
    "a long name": lambda store: store.add("model.embed_tokens.weight", ONES),
    "a name that is unsafe as key": lambda store: store.add("foo_999", ONES),
    "another key": lambda store: store.add_stored("name", [ONES], F32, (3,), key="key"),
    "an alias": lambda store: store.alias("y", "x"),
    "a part": lambda store: store.part("y", "x", U8, (1,)),
    "a tensor without elements": lambda store: store.add("y", ONES[:0]),
}


@pytest.mark.parametrize("call", ONLY_WITH_INDEX.values(), ids=ONLY_WITH_INDEX)
def test_what_only_an_index_can_keep_is_refused_without_one(
    tmp_path: Path, call: Callable[[blobstore.StoreWriter], object]
) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, index="none") as store:
        store.add("x", ONES)
        with pytest.raises(UsageError) as caught:
            call(store)
        assert caught.value.reason == "needs-index"
    with blobstore.open(path) as read:
        assert list(read) == ["x"]


@pytest.mark.parametrize("nbytes", [[8, 4], [4, 8], [8, 8]])
def test_tensors_that_are_added_together_have_the_size_of_their_shape(tmp_path: Path, nbytes: list[int]) -> None:
    f32 = element_types.BY_NAME["f32"]
    with blobstore.create(tmp_path / "m.sbs") as store:
        tensors = [(name, name, f32, (2,), size) for name, size in zip("ab", nbytes, strict=True)]
        data = np.arange(4, dtype=np.float32)[: sum(nbytes) // 4]
        if nbytes == [8, 8]:
            store.add_adjacent(tensors, data)
        else:
            with pytest.raises(UsageError, match=r"wrong-size: '[ab]', f32 of shape \[2\]: 4 bytes"):
                store.add_adjacent(tensors, data)
            store.add("c", np.ones(1))
    with blobstore.open(tmp_path / "m.sbs") as read:
        assert sorted(read) == (["a", "b"] if nbytes == [8, 8] else ["c"])
