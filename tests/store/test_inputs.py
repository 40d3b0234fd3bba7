"""What can be opened and written: paths of all kinds, file objects, bytes."""

from __future__ import annotations

import gc
import gzip
import io
import mmap
import os
import pickle
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.errors import BlobStoreError, FormatError, TruncatedError, UsageError
from blobstore.fileio.ranges import FileRange
from tests.strategies import BytesPath, WriteOnly, payload
from tests.tensor_strategies import Model, models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blobstore.fileio.types import Access


class Bare:
    """The least that can be read: no flags, no descriptor, few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self, nbytes: int) -> bytes:
        return self._stream.read(min(nbytes, 60_000))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)


class Excessive(Bare):
    """Gives more than was asked for."""

    def read(self, nbytes: int) -> bytes:
        return self._stream.read(nbytes + 1)


class Nowhere(Bare):
    """Doesn't say where it is."""

    def seek(self, offset: int, whence: int = 0) -> None:  # type: ignore[override]
        super().seek(offset, whence)


def zipped(path: Path) -> Any:  # noqa: ANN401 (a zip member)
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(path, "inside.sbs")
    return zipfile.ZipFile(archive).open("inside.sbs")


def gzipped(path: Path) -> Any:  # noqa: ANN401 (its fileno is that of the compressed file)
    Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    return gzip.open(f"{path}.gz")


def temporary(path: Path) -> Any:  # noqa: ANN401 (a wrapper)
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 (the test reads it)
    file.write(path.read_bytes())  # not flushed
    return file


def nameless(path: Path) -> Any:  # noqa: ANN401 (a file)
    file = tempfile.TemporaryFile()  # noqa: SIM115 (as above)
    file.write(path.read_bytes())
    return file


def mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


PATHS: dict[str, Callable[[Path], Any]] = {"str": str, "bytes": os.fsencode, "path": Path, "bytes-path": BytesPath}
ON_DISK: dict[str, Callable[[Path], Any]] = {
    "file": lambda path: open(path, "rb"),  # noqa: SIM115 (as above)
    "unbuffered": lambda path: open(path, "rb", buffering=0),  # noqa: SIM115
    "updated": lambda path: open(path, "r+b"),  # noqa: SIM115
    "named-temporary": temporary,
    "temporary": nameless,
}
STREAMS: dict[str, Callable[[Path], Any]] = {
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "zip": zipped,
    "gzip": gzipped,
    "bare": lambda path: Bare(path.read_bytes()),
}
CONTENTS: dict[str, Callable[[Path], Any]] = {
    "contents": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "array": lambda path: np.fromfile(path, np.uint8),
    "mmap": mapped,
}
OBJECTS = ON_DISK | STREAMS | CONTENTS
INPUTS = PATHS | OBJECTS

_made: list[Any] = []


def make(kind: str, path: Path) -> Any:  # noqa: ANN401 (an input of any kind)
    """The file at a path as one of these inputs; closed after the test."""
    _made.append(INPUTS[kind](path))
    return _made[-1]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    gc.collect()  # stores that view a map of a test's own
    while _made:
        file = _made.pop()
        if hasattr(file, "close") and not isinstance(file, mmap.mmap):
            file.close()


accesses = st.sampled_from(["auto", "read"])


def values_of(store: blobstore.Store) -> dict[str, Any]:
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in store.items()}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.sbs"
    blobstore.save_file({"a": np.arange(5000), "b": np.ones((3, 4), np.float32)}, path, {"x": "y"})
    return path


# Reading.


@given(models(index="embedded"), st.sampled_from(list(INPUTS)), accesses)
def test_all_inputs_give_what_the_file_holds(tmp_path: Path, model: Model, kind: str, access: Access) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    with blobstore.open(make(kind, path), access=access) as store:
        assert values_of(store) == model.expected()
        assert store.metadata == model.metadata
        loaded = store.load_all(workers=2)
    assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in loaded.items()} == model.expected()
    assert all(array.flags.writeable for array in loaded.values())


@pytest.mark.parametrize("kind", INPUTS)
def test_how_each_input_is_read(small: Path, kind: str) -> None:
    expected = "read" if kind in STREAMS else "memory" if kind in CONTENTS else "mmap"
    given_file = make(kind, small)
    with blobstore.BlobReader(given_file) as reader:
        assert (reader.access, reader.has_path) == (expected, kind in PATHS)
        assert reader["a"].readonly
    with blobstore.BlobReader(given_file, access="read") as reader:
        assert reader.access == "read"
        assert reader["a"].readonly
    with blobstore.BlobReader(given_file, writable=True) as reader:
        reader["a"][:] = bytes(40_000)
    with blobstore.open(given_file) as store:
        assert np.array_equal(store["a"], np.arange(5000))


@pytest.mark.parametrize("kind", INPUTS)
def test_what_errors_call_each_input(small: Path, kind: str) -> None:
    given_file = make(kind, small)
    names = {"zip": "inside.sbs", "gzip": f"{small}.gz", "named-temporary": str(getattr(given_file, "name", ""))}
    names |= {"temporary": "<BufferedRandom>", "BytesIO": "<BytesIO>", "bare": "<Bare>", "contents": "<bytes>"}
    names |= {kind: f"<{kind}>" for kind in ("bytearray", "memoryview", "mmap")} | {"array": "<ndarray>"}
    assert blobstore.open(given_file).path == names.get(kind, str(small))


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_file_is_read_from_its_beginning_wherever_the_object_stands(small: Path, kind: str) -> None:
    given_file = make(kind, small)
    if hasattr(given_file, "read"):
        given_file.seek(1234)
    assert set(blobstore.load_file(given_file)) == {"a", "b"}


def test_views_of_bytes_are_the_bytes(small: Path) -> None:
    data = bytearray(small.read_bytes())
    store = blobstore.open(data)
    array = store["a"]
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not array.flags.writeable
    store.close()
    assert array[7] == 7
    with pytest.raises(UsageError, match="closed"):
        store["a"]
    with pytest.raises(UsageError, match="closed"):
        store.load_all()


@pytest.mark.parametrize("kind", OBJECTS)
def test_no_index_is_looked_for_beside_an_object(small: Path, kind: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside.sbs"
    long = "a.name.that.needs.an.index"
    with blobstore.create(outside, index="external") as store:
        store[long] = np.arange(3)
    assert list(blobstore.open(outside)) == [long]
    assert list(blobstore.open(make(kind, outside))) == [blobstore.key_for(long)]
    assert small.exists()


@pytest.mark.parametrize("kind", OBJECTS)
def test_blobs_of_an_object_can_be_copied(small: Path, tmp_path: Path, kind: str) -> None:
    with blobstore.BlobReader(make(kind, small)) as reader, blobstore.BlobWriter(tmp_path / "copy") as writer:
        for key in reader:
            writer[key] = reader.file_range(key)
    assert (tmp_path / "copy").read_bytes() == small.read_bytes()


@pytest.mark.parametrize("kind", [*STREAMS, *CONTENTS])
def test_there_are_no_false_descriptors(small: Path, kind: str) -> None:
    with blobstore.BlobReader(make(kind, small)) as reader:
        with pytest.raises(UsageError, match="no-descriptor"):
            reader.fileno()
        with reader.held() as fd:
            assert fd is None
        assert reader.device is None
        assert not reader.is_at(small)
        with pytest.raises(UsageError, match="bad-access"):
            blobstore.open(make(kind, small), access="mmap")


@pytest.mark.parametrize("kind", ON_DISK)
@pytest.mark.parametrize("access", ["mmap", "read"])
def test_a_file_on_disk_stays_readable_when_its_object_is_closed_and_its_path_gone(
    small: Path, kind: str, access: Access
) -> None:
    given_file = make(kind, small)
    store = blobstore.open(given_file, access=access)
    given_file.close()
    small.unlink()
    assert np.array_equal(store["a"], np.arange(5000))
    assert np.array_equal(store.load_all()["a"], np.arange(5000))


@pytest.mark.parametrize("kind", ["BytesIO", "zip", "gzip"])
def test_a_stream_that_its_owner_closed_is_told_so(small: Path, kind: str) -> None:
    stream = make(kind, small)
    with blobstore.open(stream) as store:
        stream.close()
        with pytest.raises(UsageError, match="closed by its owner") as caught:
            store["a"]
        assert caught.value.path == store.path
    with pytest.raises(UsageError, match="closed"):
        blobstore.open(stream)


def test_a_file_that_is_closed_already_is_refused(small: Path) -> None:
    with open(small, "rb") as file:
        pass
    with pytest.raises(UsageError, match="closed"):
        blobstore.open(file)
    closed = mapped(small)
    closed.close()
    with pytest.raises(UsageError, match="closed"):
        blobstore.open(closed)


def test_closing_a_store_closes_no_object(small: Path) -> None:
    for kind in [*ON_DISK, *STREAMS]:
        given_file = make(kind, small)
        blobstore.open(given_file).close()
        given_file.seek(0)
        assert given_file.read(3) == b"SBS"


@pytest.mark.parametrize("kind", ["BytesIO", "zip", "file", "unbuffered", "bare"])
@pytest.mark.parametrize("access", ["auto", "read"])
def test_threads_read_one_object_at_once_through_several_stores(tmp_path: Path, kind: str, access: Access) -> None:
    path = tmp_path / "m.sbs"
    tensors = {f"t{i}": np.frombuffer(payload(i, 9000), np.uint8) for i in range(12)}
    blobstore.save_file(tensors, path)
    given_file = make(kind, path)
    stores = [blobstore.open(given_file, access=access) for _ in range(3)]

    def matches(number: int) -> bool:
        name = f"t{number % 12}"
        return np.array_equal(stores[number % 3][name], tensors[name])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(matches, range(400)))


def test_load_all_of_a_stream_ends_although_the_store_is_closed(small: Path) -> None:
    for kind in ("BytesIO", "contents"):
        store = blobstore.open(make(kind, small))
        with store.reader.reading() as read_into:
            store.close()
            buffer = bytearray(3)
            read_into(memoryview(buffer), 0)
        assert buffer == b"SBS"


def test_a_stream_that_shrinks_is_truncated(small: Path) -> None:
    stream = io.BytesIO(small.read_bytes())
    with blobstore.open(stream) as store:
        offset = store.info("a").offset
        stream.truncate(offset + 8)
        with pytest.raises(TruncatedError, match="short-read") as caught:
            store["a"]
        assert caught.value.offset == offset + 8
    source = blobstore.BlobReader(small.read_bytes())
    with pytest.raises(TruncatedError, match="short-read"):
        FileRange(source._source, source.file_size - 1, 2).read()


# Any bytes.


def error_of(opened: Callable[[], object]) -> tuple[type, str, object] | None:
    try:
        opened()
    except BlobStoreError as error:
        return type(error), error.reason, getattr(error, "offset", None)
    return None


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    raw = bytearray(blobstore.save({"a": np.arange(9), "long.name.of.a.tensor": np.ones(3)}, {"x": "y"}))
    for _ in range(draw(st.integers(0, 3))):
        directory = draw(st.booleans())
        raw[draw(st.integers(0, 1400)) - 1400 * directory] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.sampled_from([len(raw), len(raw), 0, 3, 15, 300, len(raw) - 1]))])


@given(damaged() | st.binary(max_size=300))
def test_any_bytes_give_the_error_of_a_file_with_these_bytes(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "m.sbs"
    path.write_bytes(raw)
    expected = error_of(lambda: blobstore.load_file(path))
    assert error_of(lambda: blobstore.load(raw)) == expected
    for kind in ("bytearray", "BytesIO", "bare", "file", "gzip"):
        assert error_of(lambda kind=kind: blobstore.load_file(make(kind, path))) == expected, kind  # type: ignore[misc]
    if expected and issubclass(expected[0], FormatError):
        with pytest.raises(BlobStoreError) as caught:
            blobstore.load(raw)
        assert caught.value.path == "<memoryview>"


# What is refused.


@pytest.mark.parametrize(
    ("given_file", "reason"),
    [
        (b"", "not-a-file"),
        ("a\0b", "not-a-file"),
        (None, "bad-file"),
        (5, "bad-file"),
        ([1, 2], "bad-file"),
        (io.StringIO("text"), "bad-file"),
        (np.array([None]), "bad-file"),
        (Excessive(bytes(100)), "bad-file"),
        (Nowhere(bytes(100)), "needs-seek"),
        (np.zeros((300, 2), np.uint8)[:, 0], "not-contiguous"),
    ],
    ids=range(10),
)
def test_what_is_no_file_is_refused(given_file: Any, reason: str) -> None:  # noqa: ANN401 (anything)
    for opened in (blobstore.open, blobstore.BlobReader, blobstore.load_file):
        with pytest.raises(UsageError) as caught:
            opened(given_file)
        assert caught.value.reason == reason


def test_bytes_without_a_nul_are_a_path(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small.parent)
    assert set(blobstore.open(b"small.sbs")) == {"a", "b"}
    with pytest.raises(FileNotFoundError):
        blobstore.open(b"missing.sbs")
    with pytest.raises(FormatError):
        blobstore.open(memoryview(b"small.sbs"))


@pytest.fixture
def pipe() -> Iterator[BinaryIO]:
    reading, writing = os.pipe()
    os.close(writing)
    with open(reading, "rb") as file:
        yield file


def test_what_can_not_seek_is_refused(pipe: BinaryIO) -> None:
    class OnlyRead:
        def read(self, _: int) -> bytes:
            return b""

    for given_file in (pipe, OnlyRead()):
        with pytest.raises(UsageError, match="needs-seek"):
            blobstore.open(given_file)  # type: ignore[arg-type]


def test_what_can_not_be_read_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file, pytest.raises(UsageError, match=r"bad-file: .*writing only"):
        blobstore.open(file)
    with open(tmp_path / "a", encoding="utf-8") as text, pytest.raises(UsageError, match=r"bad-file: .*text"):
        blobstore.open(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", ["a.sbs", Path("a.sbs"), io.BytesIO(), None, 3], ids=lambda wrong: type(wrong).__name__
)
def test_load_takes_bytes_only(wrong: Any) -> None:  # noqa: ANN401 (as above)
    with pytest.raises(UsageError, match=r"not-bytes: .*load_file"):
        blobstore.load(wrong)


def test_the_base_of_a_difference_can_be_an_object(tmp_path: Path) -> None:
    before, after, packed = (tmp_path / name for name in ("before.sbs", "after.sbs", "packed.sbs"))
    weights = np.frombuffer(payload(1, 1 << 16), np.uint8)
    blobstore.save_file({"w": weights}, before)
    changed = weights.copy()
    changed[5] ^= 1
    blobstore.save_file({"w": changed}, after)
    blobstore.pack(after, packed, base=before)
    for kind in OBJECTS:
        for base in ("str", kind):
            with blobstore.open(make(kind, packed), base=make(base, before)) as store:
                assert np.array_equal(store["w"], changed)
                assert np.array_equal(store.load_all()["w"], changed)


# Writing.


@given(models(index="embedded"), st.sampled_from(["BytesIO", "w+b", "unbuffered", *PATHS]))
def test_all_outputs_get_the_same_bytes(tmp_path: Path, model: Model, kind: str) -> None:
    path, other = tmp_path / "m.sbs", tmp_path / "other.sbs"
    keys = model.write(path)
    if kind in PATHS:
        assert model.write(PATHS[kind](other)) == keys
    elif kind == "BytesIO":
        stream = io.BytesIO()
        assert model.write(stream) == keys
        assert stream.tell() == len(stream.getvalue())
        other.write_bytes(stream.getvalue())
    else:
        with open(other, "w+b", buffering=0 if kind == "unbuffered" else -1) as file:
            assert model.write(file) == keys
            assert values_of(blobstore.open(file)) == model.expected()
    assert other.read_bytes() == path.read_bytes()


@given(models(index="embedded"))
def test_a_stream_is_written_from_its_position(tmp_path: Path, model: Model) -> None:
    path, stream = tmp_path / "m.sbs", io.BytesIO(b"before")
    model.write(path)
    stream.seek(6)
    model.write(stream)
    assert stream.getvalue() == b"before" + path.read_bytes()
    assert stream.tell() == len(stream.getvalue())


@pytest.mark.parametrize("version", [1, 2])
def test_bytes_behind_a_stream_are_neither_kept_nor_lost(version: int) -> None:
    stream = io.BytesIO(b"behind")
    with pytest.raises(UsageError, match="not-empty: 6 bytes"):
        blobstore.create(stream, version=version)
    assert (stream.getvalue(), stream.tell()) == (b"behind", 0)


@pytest.mark.parametrize("version", [1, 2])
def test_a_stream_is_no_file_before_it_is_complete(version: int) -> None:
    stream = io.BytesIO()
    writer = blobstore.create(stream, version=version)
    writer["a"] = np.arange(100_000)
    with pytest.raises(FormatError):
        blobstore.open(memoryview(stream.getvalue()))
    writer.discard()
    with pytest.raises(FormatError):
        blobstore.open(memoryview(stream.getvalue()))


def test_outputs_that_can_not_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    closed = io.BytesIO()
    closed.close()
    with open(tmp_path / "a", "rb") as read_only, open(tmp_path / "a", "rb", buffering=0) as raw:
        wrong: list[tuple[Any, str]] = [(read_only, "bad-target"), (raw, "bad-target"), (closed, "closed")]
        wrong += [(io.StringIO(), "bad-target"), (7, "bad-target"), (bytearray(9), "bad-target")]
        wrong += [("a\0b", "not-a-file"), (b"a\0b", "not-a-file")]
        for output, reason in wrong:
            with pytest.raises(UsageError) as caught:
                blobstore.create(output)
            assert caught.value.reason == reason


def test_a_stream_that_is_closed_while_it_is_written_is_told_so() -> None:
    stream = io.BytesIO()
    writer = blobstore.create(stream)
    stream.close()
    with pytest.raises(UsageError, match="closed by its owner"):
        writer["a"] = np.zeros(1 << 20, np.uint8)
    writer.discard()


def test_compressed_streams_take_version_2_only(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs.gz"
    with gzip.open(path, "wb") as file:
        with pytest.raises(UsageError, match="needs-seek"):
            blobstore.create(file, version=1)  # type: ignore[arg-type]
        blobstore.save_file({"a": np.arange(4)}, file)  # type: ignore[arg-type]
    with gzip.open(path) as file:
        assert blobstore.load_file(file)["a"].tolist() == [0, 1, 2, 3]


def test_version_1_needs_to_read_what_it_wrote() -> None:
    with pytest.raises(UsageError, match="needs-seek"):
        blobstore.create(WriteOnly(), version=1)


@given(models(index="embedded"))
def test_what_is_saved_as_bytes_is_loaded_from_bytes(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "m.sbs"
    raw = blobstore.save(model.tensors, model.metadata)
    blobstore.save_file(model.tensors, path, model.metadata)
    assert type(raw) is bytes
    assert raw == path.read_bytes()
    loaded, expected = blobstore.load(raw), blobstore.load_file(path)
    assert list(loaded) == list(expected)
    assert all(loaded[name].tobytes() == expected[name].tobytes() for name in expected)
    assert pickle.loads(pickle.dumps(raw)) == raw  # noqa: S301 (our own bytes)


# Writers as mappings.


@given(models(index="embedded"))
def test_a_writer_knows_its_names(model: Model) -> None:
    with blobstore.create(io.BytesIO(), version=model.version) as writer:
        assert writer
        assert (len(writer), list(writer)) == (0, [])
        for number, (name, array) in enumerate(model.tensors.items()):
            assert name not in writer
            writer[name] = array
            assert name in writer
            assert len(writer) == number + 1
            with pytest.raises(UsageError) as caught:
                writer[name] = array
            assert caught.value.reason == "duplicate-name"
        for name, target in model.aliases.items():
            writer.alias(name, target)
        assert list(writer) == [*model.tensors, *model.aliases]
        assert 5 not in writer


def test_a_writer_of_blobs_knows_its_keys() -> None:
    with blobstore.BlobWriter(io.BytesIO()) as writer:
        assert writer
        assert len(writer) == 0
        writer["a"] = b"first"
        writer["\udcff"] = np.arange(3)
        assert list(writer) == ["a", "\udcff"]
        assert len(writer) == 2
        assert "a" in writer
        assert "\udcff" in writer
        assert not any(key in writer for key in ("b", "", "a" * 17, 5))
        with pytest.raises(UsageError, match="duplicate-key"):
            writer["a"] = b"second"
