from __future__ import annotations

import errno
import hashlib
import io
import os
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore import BlobReader, BlobWriter, FileRange
from blobstore.container import layout
from blobstore.errors import KeyTooLongError, TruncatedError, UsageError
from blobstore.fileio import atomic, hashing, system
from tests import strategies
from tests.checkpoints import linux_only
from tests.memory import run_program
from tests.strategies import bytes_of, payload, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import ModuleType

    from blobstore.fileio.types import Buffer
    from tests.strategies import Blobs

    Data = Buffer | FileRange

LARGE = payload(1, 3 << 20)

both_versions = pytest.mark.parametrize("version", [1, 2])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sbs"


@pytest.fixture
def large(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a file that holds LARGE."""
    (tmp_path / "large").write_bytes(LARGE)
    fd = os.open(tmp_path / "large", os.O_RDONLY)
    yield fd
    os.close(fd)


def expected(generator: ModuleType, version: int, blobs: Blobs) -> bytes:
    """The file that the second implementation makes."""
    file: bytes = generator.container(version, [(bytes_of(key), data) for key, data in blobs])
    return file


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    ends = [*sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


# --------------------------------------------------------------------------------------------------- what is written


@given(strategies.versions, strategies.blob_lists())
def test_what_is_written_is_read(path: Path, version: int, blobs: Blobs) -> None:
    with BlobWriter(path, version=version, digests=True) as writer:
        for key, data in blobs:
            writer.add(key, data)
        assert writer.digests() == [hashlib.sha256(data).digest() for _, data in blobs]
    assert writer.keys == [key for key, _ in blobs]
    assert writer.encoded_keys == [bytes_of(key) for key, _ in blobs]
    assert writer.sizes == [len(data) for _, data in blobs]
    for access in ("mmap", "read"):
        with BlobReader(path, access=access) as reader:
            assert [(key, bytes(view)) for key, view in reader.items()] == blobs
            assert reader.version == version


@given(strategies.versions, strategies.blob_lists())
def test_two_implementations_write_the_same_file(generator: ModuleType, path: Path, version: int, blobs: Blobs) -> None:
    with BlobWriter(path, version=version) as writer:
        for key, data in blobs:
            writer.add(key, data)
    assert path.read_bytes() == expected(generator, version, blobs)


@given(strategies.versions, strategies.blob_lists())
def test_the_files_size_is_that_of_the_page(path: Path, version: int, blobs: Blobs) -> None:
    with BlobWriter(path, version=version) as writer:
        for key, data in blobs:
            writer.add(key, data)
    directory = (16 + 32 * len(blobs) + 255) // 256 * 256
    end = (256 if version == 2 else directory) + sum((len(data) + 255) // 256 * 256 for _, data in blobs)
    size = end + directory if version == 2 else end
    assert path.stat().st_size == (size + 65535) // 65536 * 65536


@both_versions
def test_a_file_may_have_16383_blobs(generator: ModuleType, path: Path, version: int) -> None:
    blobs = [(f"{i}", bytes([i & 255 or 1]) * (i % 300 + 1)) for i in range(16383)]
    with BlobWriter(path, version=version, max_blobs=len(blobs)) as writer:
        for key, data in blobs:
            writer.add(key, data)
        with pytest.raises(UsageError) as caught:
            writer.add("one more", b"x")
    assert str(caught.value) == (
        "too-many-blobs: 'one more' would be one more than the 16383 blobs that every gemma.cpp takes: "
        "max_blobs=1048576 is for the latest"
    )
    assert path.read_bytes() == expected(generator, version, blobs)


@both_versions
def test_more_blobs_are_written_when_it_is_asked_for(generator: ModuleType, path: Path, version: int) -> None:
    blobs = [(f"{i}", b"x") for i in range(16385)]
    with BlobWriter(path, version=version, max_blobs=len(blobs)) as writer:
        for key, data in blobs:
            writer.add(key, data)
        with pytest.raises(UsageError, match="one more than the 16385 blobs that this file may have"):
            writer.add("one more", b"x")
    assert path.read_bytes() == expected(generator, version, blobs)
    with BlobReader(path) as reader:
        assert list(reader) == [key for key, _ in blobs]


@given(st.integers(1, 2**20), versions)
def test_the_limit_does_not_change_the_file(
    generator: ModuleType, tmp_path: Path, max_blobs: int, version: int
) -> None:
    with BlobWriter(tmp_path / "store.sbs", version=version, max_blobs=max_blobs) as writer:
        writer.add("a", b"first")
    assert (tmp_path / "store.sbs").read_bytes() == expected(generator, version, [("a", b"first")])


@both_versions
@pytest.mark.parametrize("max_blobs", [0, -1, 2**20 + 1])
def test_a_limit_that_no_reader_has_is_refused(path: Path, version: int, max_blobs: int) -> None:
    with pytest.raises(UsageError, match="bad-max-blobs: a file has 1 to 1048576 blobs"):
        BlobWriter(path, version=version, max_blobs=max_blobs)
    assert not path.exists()


@given(st.data(), strategies.versions, strategies.blob_lists(4))
def test_a_blob_in_pieces_is_the_blob(
    generator: ModuleType, path: Path, data: st.DataObject, version: int, blobs: Blobs
) -> None:
    with BlobWriter(path, version=version, digests=True) as writer:
        for key, content in blobs:
            places = data.draw(st.lists(st.integers(0, 1 << 20), max_size=5))
            assert writer.add_chunks(key, iter(cut(content, places))) == len(content)
        assert writer.digests() == [hashlib.sha256(content).digest() for _, content in blobs]
    assert path.read_bytes() == expected(generator, version, blobs)


@given(st.data(), strategies.versions, strategies.blob_lists(4))
def test_a_blob_in_pieces_that_last_is_the_blob(
    generator: ModuleType, path: Path, data: st.DataObject, version: int, blobs: Blobs
) -> None:
    with BlobWriter(path, version=version, digests=True) as writer:
        for key, content in blobs:
            places = data.draw(st.lists(st.integers(0, 1 << 20), max_size=5))
            writer.add_chunks(key, cut(content, places), immutable=True)
    assert writer.digests() == [hashlib.sha256(content).digest() for _, content in blobs]
    assert path.read_bytes() == expected(generator, version, blobs)


@both_versions
def test_a_piece_is_done_with_before_the_next_is_asked_for(path: Path, version: int) -> None:
    buffer = bytearray(300_000)

    def pieces() -> Iterator[bytearray]:
        for i in range(5):
            buffer[:] = bytes([i + 1]) * len(buffer)
            yield buffer

    whole = b"".join(bytes([i + 1]) * len(buffer) for i in range(5))
    with BlobWriter(path, version=version, digests=True) as writer:
        writer.add_chunks("a", pieces())
        buffer[:] = bytes(len(buffer))
        assert writer.digests() == [hashlib.sha256(whole).digest()]
    with BlobReader(path) as reader:
        assert bytes(reader["a"]) == whole


changes = st.lists(
    st.one_of(st.just(None), st.tuples(strategies.keys, strategies.payloads, st.booleans(), st.booleans())), max_size=10
)


@given(st.tuples(strategies.versions, st.booleans()), changes, st.sampled_from([1, 1, 10]))
def test_what_is_taken_back_was_never_there(
    generator: ModuleType,
    tmp_path: Path,
    how: tuple[int, bool],
    changed: list[tuple[str, bytes, bool, bool] | None],
    times: int,
) -> None:
    """None undoes the last blob; a tuple is key, bytes, whether they are immutable, and whether they are in a file."""
    version, digests = how
    path, source = tmp_path / "store.sbs", tmp_path / "source"
    source.write_bytes(b"".join(change[1] * times for change in changed if change))
    kept: Blobs = []
    offset = 0
    with open(source, "rb") as file, BlobWriter(path, version=version, digests=digests) as writer:
        writer.add("~first", b"so that there is one")
        for change in changed:
            if change is None:
                if kept:
                    writer.undo_last()
                    kept.pop()
                continue
            key, data, immutable, from_file = change[0], change[1] * times, *change[2:]
            piece = FileRange(file.fileno(), offset, len(data)) if from_file else data
            offset += len(data)
            if key not in ["~first", *(before for before, _ in kept)]:
                writer.add_chunks(key, (piece,), immutable=immutable)
                kept.append((key, data))
        kept.insert(0, ("~first", b"so that there is one"))
        assert writer.keys == [key for key, _ in kept]
        assert writer.sizes == [len(data) for _, data in kept]
        if digests:
            assert writer.digests() == [hashlib.sha256(data).digest() for _, data in kept]
    assert path.read_bytes() == expected(generator, version, kept)


@both_versions
@pytest.mark.parametrize("digests", [True, False])
def test_large_blobs_are_taken_back_while_they_are_hashed_and_synced(
    generator: ModuleType, path: Path, large: int, monkeypatch: pytest.MonkeyPatch, *, version: int, digests: bool
) -> None:
    monkeypatch.setattr(atomic, "_SYNC_NBYTES", 1 << 20)
    if digests:
        slowly(monkeypatch)
    with BlobWriter(path, version=version, digests=digests) as writer:
        writer.add_chunks("a", (FileRange(large, 5, 2 << 20),), immutable=True)
        for _ in range(3):
            writer.add_chunks("b", (LARGE, FileRange(large, 0, len(LARGE))), immutable=True)
            writer.undo_last()
        writer.add_chunks("b", (LARGE[:-1],), immutable=True)
        writer.undo_last()
        writer.undo_last()
        writer.add("b", LARGE[7:])
        if digests:
            assert writer.digests() == [hashlib.sha256(LARGE[7:]).digest()]
    assert path.read_bytes() == expected(generator, version, [("b", LARGE[7:])])


def test_nothing_can_be_taken_back_from_a_stream_or_where_nothing_is(path: Path) -> None:
    writer = BlobWriter(io.BytesIO())
    writer.add("a", b"x")
    with pytest.raises(UsageError, match="needs-seek"):
        writer.undo_last()
    writer.close()
    writer = BlobWriter(path)
    with pytest.raises(UsageError, match="no-blobs"):
        writer.undo_last()
    writer.add("a", b"x")
    writer.close()
    with pytest.raises(UsageError, match="closed"):
        writer.undo_last()


@both_versions
def test_the_directory_of_the_blobs_so_far_is_the_files(path: Path, version: int) -> None:
    with BlobWriter(path, version=version) as writer:
        writer.add("a", b"x" * 300)
        writer.add("b", b"y")
        made = writer.directory()
    with BlobReader(path) as reader:
        assert made.to_bytes() == reader.directory.to_bytes()
        assert (made.version, made.file_size) == (version, reader.file_size)


@both_versions
def test_arrays_are_written_as_their_bytes(path: Path, version: int) -> None:
    values = np.arange(300_000, dtype=">f4").reshape(100, 3000)
    with BlobWriter(path, version=version) as writer:
        writer.add("array", values)
        writer.add("row", values[3])
        writer.add("scalar", np.array(2.5, dtype="<f8"))
    with BlobReader(path) as reader:
        assert bytes(reader["array"]) == values.tobytes()
        assert bytes(reader["row"]) == values[3].tobytes()
        assert bytes(reader["scalar"]) == b"\0\0\0\0\0\0\x04\x40"


# ----------------------------------------------------------------------------------------------------- from other files


def refuse(code: int) -> Callable[..., int]:
    def copy(*_: int) -> int:
        raise OSError(code, os.strerror(code))

    return copy


KERNELS = {
    "real": os.copy_file_range,
    "other-file-system": refuse(errno.EXDEV),
    "nothing": lambda *_: 0,
    "absent": None,
}


@both_versions
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("digests", [True, False])
def test_ranges_of_files_are_their_bytes(
    generator: ModuleType,
    path: Path,
    large: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    version: int,
    kernel: str,
    digests: bool,
) -> None:
    monkeypatch.setattr(system, "copy_file_range", KERNELS[kernel])
    ranges = [(0, 1), (5, 300), (1, 65536), (7, 2 << 20), (1000, (1 << 20) + 1)]
    blobs = [(f"{start}", LARGE[start : start + nbytes]) for start, nbytes in ranges]
    blobs.append(("mixed", LARGE[3:100_003] + b"between" + LARGE[:5]))
    with BlobWriter(path, version=version, digests=digests) as writer:
        for start, nbytes in ranges:
            writer.add(f"{start}", FileRange(large, start, nbytes))
        writer.add_chunks("mixed", [FileRange(large, 3, 100_000), b"between", FileRange(large, 0, 5)])
        if digests:
            assert writer.digests() == [hashlib.sha256(data).digest() for _, data in blobs]
    assert path.read_bytes() == expected(generator, version, blobs)


@both_versions
def test_blobs_are_copied_from_another_store(path: Path, tmp_path: Path, version: int) -> None:
    with BlobWriter(path, version=3 - version) as writer:
        writer.add("a", LARGE)
        writer.add("b", b"small")
    with BlobReader(path) as reader, BlobWriter(tmp_path / "copy.sbs", version=version) as writer:
        for key in reader:
            writer.add(key, FileRange(reader.fileno(), *reader.range(key)))
    with BlobReader(tmp_path / "copy.sbs") as copy:
        assert {key: bytes(view) for key, view in copy.items()} == {"a": LARGE, "b": b"small"}


def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delay the hashing, as a busy machine does."""
    hashed = hashing._hash

    def late(*args: object) -> None:
        time.sleep(0.05)
        hashed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(hashing, "_hash", late)


def test_a_source_is_not_needed_once_it_was_added(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By then its descriptor's number belongs to another file."""
    slowly(monkeypatch)
    contents = [payload(i, 300_000) for i in range(4)]
    with BlobWriter(path, digests=True) as writer:
        for i, content in enumerate(contents):
            (tmp_path / f"{i}").write_bytes(content)
            with open(tmp_path / f"{i}", "rb") as source:
                writer.add(f"{i}", FileRange(source.fileno(), 0, len(content)))
        assert writer.digests() == [hashlib.sha256(content).digest() for content in contents]


def test_digests_are_right_after_the_end_too(path: Path, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slowly(monkeypatch)
    with BlobWriter(path, digests=True) as writer:
        for i in range(4):
            writer.add(f"{i}", FileRange(large, i, 300_000))
    assert writer.digests() == [hashlib.sha256(LARGE[i : i + 300_000]).digest() for i in range(4)]


@both_versions
def test_a_source_that_ends_too_early_breaks_the_file_off(path: Path, large: int, version: int) -> None:
    with pytest.raises(TruncatedError, match="short-read"), BlobWriter(path, version=version) as writer:
        writer.add("a", FileRange(large, 1, len(LARGE)))
    assert not path.exists()


# ------------------------------------------------------------------------------------------------------------ streams


class Dribble(io.RawIOBase):
    """A raw stream that takes only a few bytes at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = bytearray()

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        self.taken += data[: self.most]
        return min(len(data), self.most)


def through_a_pipe(write: Callable[[io.FileIO], None]) -> bytes:
    """The bytes that arrive at the other end of a pipe."""
    reader, writer = os.pipe()
    received: list[bytes] = []

    def receive() -> None:
        with open(reader, "rb") as stream:
            received.append(stream.read())

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        with open(writer, "wb", buffering=0) as stream:
            write(stream)
    finally:
        thread.join()
    return received[0]


def write_to(stream: object, blobs: Blobs) -> None:
    with BlobWriter(stream, digests=True) as writer:  # type: ignore[arg-type]
        for key, data in blobs:
            writer.add(key, data)
        assert writer.digests() == [hashlib.sha256(data).digest() for _, data in blobs]


@given(strategies.blob_lists())
def test_a_pipe_gets_the_bytes_of_the_file(generator: ModuleType, blobs: Blobs) -> None:
    assert through_a_pipe(lambda stream: write_to(stream, blobs)) == expected(generator, 2, blobs)


@given(strategies.blob_lists(), st.integers(50, 5000))
def test_a_stream_that_takes_little_gets_the_bytes_of_the_file(generator: ModuleType, blobs: Blobs, most: int) -> None:
    stream = Dribble(most)
    write_to(stream, blobs)
    assert stream.taken == expected(generator, 2, blobs)


def test_a_stream_is_written_from_where_it_stands_and_stays_open(generator: ModuleType, large: int) -> None:
    stream = io.BytesIO(b"before")
    stream.seek(6)
    with BlobWriter(stream) as writer:
        writer.add("a", FileRange(large, 0, 2 << 20))
    stream.write(b"behind")
    assert stream.getvalue() == b"before" + expected(generator, 2, [("a", LARGE[: 2 << 20])]) + b"behind"


def test_a_stream_that_breaks_off_has_no_directory(path: Path) -> None:
    def write() -> None:
        with BlobWriter(stream) as writer:
            writer.add("a", LARGE)
            raise KeyboardInterrupt

    stream = io.BytesIO()
    with pytest.raises(KeyboardInterrupt):
        write()
    path.write_bytes(stream.getvalue())
    with pytest.raises(TruncatedError, match="no-directory"):
        BlobReader(path)


# ------------------------------------------------------------------------------------------------------------- misuse

KEY_37 = "model.layers.0.self_attn.q_proj.weigh"
LONE_SURROGATE = "\ud800"

REFUSED: list[tuple[str, Data, str]] = [
    ("", b"x", "bad-key: a key has at least one byte"),
    ("a\0b", b"x", r"bad-key: 'a\x00b' has a NUL byte, which pads keys"),
    (LONE_SURROGATE, b"x", r"bad-key: '\ud800' is not Unicode text: surrogates not allowed"),
    (
        KEY_37,
        b"x",
        f"key-too-long: '{KEY_37}' has 37 bytes, a key has at most 16: use blobstore.create, which maps long names",
    ),
    ("first", b"x", "duplicate-key: 'first' is already in the file"),
    ("a", b"", "empty-blob: 'a' has no bytes, a blob has at least one"),
    ("a", np.zeros((3, 0), np.float32), "empty-blob: 'a' has no bytes, a blob has at least one"),
    ("a", FileRange(0, 0, 0), "empty-blob: 'a' has no bytes, a blob has at least one"),
    (
        "a",
        np.zeros((4, 4))[:, 1],
        "not-contiguous: the array is not in C order: pass numpy.ascontiguousarray(array)",
    ),
    ("a", memoryview(b"abcd")[::2], "not-contiguous: the bytes do not lie in one piece: pass bytes(data)"),
    ("a", "text", "not-bytes: expected bytes or an array, found str"),  # type: ignore[list-item]
    ("a", None, "not-bytes: expected bytes or an array, found NoneType"),  # type: ignore[list-item]
    ("a", np.array([object()]), "not-bytes: an array of dtype object holds Python objects, not bytes"),
]


@both_versions
@pytest.mark.parametrize(
    ("key", "data", "message"),
    REFUSED,
    ids=[f"{message.partition(':')[0]}-{i}" for i, (_, _, message) in enumerate(REFUSED)],
)
def test_a_refused_blob_is_as_if_not_asked_for(
    generator: ModuleType, path: Path, *, version: int, key: str, data: Data, message: str
) -> None:
    with BlobWriter(path, version=version, digests=True) as writer:
        writer.add("first", b"1")
        with pytest.raises(UsageError) as caught:
            writer.add(key, data)
        with pytest.raises(UsageError):
            writer.add_chunks(key, iter([data]))
        writer.add("a", b"2")
        assert writer.digests() == [hashlib.sha256(content).digest() for content in (b"1", b"2")]
    assert str(caught.value) == message
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, KeyTooLongError) == message.startswith("key-too-long")
    assert path.read_bytes() == expected(generator, version, [("first", b"1"), ("a", b"2")])


@pytest.mark.parametrize("digests", [True, False])
def test_no_pieces_are_an_empty_blob(path: Path, *, digests: bool) -> None:
    with BlobWriter(path, digests=digests) as writer:
        with pytest.raises(UsageError, match="empty-blob: 'a' has no bytes, a blob has at least one"):
            writer.add_chunks("a", [])
        with pytest.raises(UsageError, match="empty-blob"):
            writer.add_chunks("a", [b"", np.zeros(0)])
        writer.add_chunks("a", [b"", b"x", b""])
    with BlobReader(path) as reader:
        assert bytes(reader["a"]) == b"x"


def test_keys_are_compared_by_their_bytes(path: Path) -> None:
    with BlobWriter(path) as writer:
        writer.add("\udcc3\udc9f", b"x")  # the bytes of ß
        with pytest.raises(UsageError, match="duplicate-key"):
            writer.add("ß", b"y")


@both_versions
def test_a_blob_that_breaks_off_gives_the_file_up(path: Path, version: int) -> None:
    def write() -> None:
        with BlobWriter(path, version=version) as writer:
            with pytest.raises(UsageError, match="not-bytes"):
                writer.add_chunks("a", [b"good", None])  # type: ignore[list-item]
            with pytest.raises(UsageError) as caught:
                writer.add("b", b"x")
            assert str(caught.value) == "closed: this writer is broken, nothing can be added"

    with pytest.raises(UsageError) as caught:
        write()
    assert str(caught.value) == "incomplete: a blob is incomplete after an error: this file can't be completed"
    assert not path.exists()


def test_an_error_of_the_pieces_own_gives_the_file_up(path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"good"
        raise RuntimeError

    writer = BlobWriter(path)
    with pytest.raises(RuntimeError):
        writer.add_chunks("a", pieces())
    with pytest.raises(UsageError, match="incomplete"):
        writer.close()
    assert writer.closed
    assert not path.exists()


def test_pieces_that_write_to_the_same_file_are_refused(path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"good"
        writer.add("b", b"x")

    writer = BlobWriter(path)
    with pytest.raises(UsageError, match="closed"):
        writer.add_chunks("a", pieces())
    writer.discard()
    assert not path.exists()


@both_versions
def test_a_file_without_blobs_does_not_appear(path: Path, version: int) -> None:
    writer = BlobWriter(path, version=version)
    for end in (writer.directory, writer.close):
        with pytest.raises(UsageError) as caught:
            end()
        assert str(caught.value) == "no-blobs: a container has at least one blob"
    assert writer.closed
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("version", [0, 3, -1, "2", None])
def test_another_version_is_refused(path: Path, version: int) -> None:
    with pytest.raises(UsageError) as caught:
        BlobWriter(path, version=version)
    assert str(caught.value) == f"bad-version: a container has version 1 or 2, not {version!r}"


def test_version_1_is_not_streamed(tmp_path: Path) -> None:
    with open(tmp_path / "written", "wb") as write_only, pytest.raises(UsageError) as caught:
        BlobWriter(write_only, version=1)
    assert str(caught.value) == (
        "needs-seek: version 1 begins with its directory, which is written last: that needs a stream that can seek and "
        "be read (io.BytesIO, or mode 'w+b'). Write version 2, or to a path"
    )
    with pytest.raises(UsageError, match="needs-seek"):
        through_a_pipe(lambda stream: BlobWriter(stream, version=1).discard())


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        BlobWriter(tmp_path)
    assert str(caught.value) == f"not-a-file: '{tmp_path}' is not a regular file and can't be replaced"


def test_digests_must_be_asked_for_at_the_beginning(path: Path) -> None:
    with BlobWriter(path) as writer:
        writer.add("a", b"x")
        with pytest.raises(UsageError) as caught:
            writer.digests()
    assert str(caught.value) == "no-digests: pass digests=True to BlobWriter"


@pytest.mark.parametrize(("end", "state"), [("close", "closed"), ("discard", "discarded")])
def test_nothing_is_added_after_the_end(path: Path, end: str, state: str) -> None:
    with BlobWriter(path) as writer:
        writer.add("a", b"x")
        getattr(writer, end)()
        writer.close()
        writer.discard()
        with pytest.raises(UsageError) as caught:
            writer.add("b", b"y")
    assert str(caught.value) == f"closed: this writer is {state}, nothing can be added"
    assert [entry.name for entry in path.parent.iterdir()] == ([path.name] if end == "close" else [])


def test_a_writer_says_whether_it_has_ended(path: Path) -> None:
    writer = BlobWriter(path)
    states = [writer.closed]
    writer.add("a", b"x")
    states.append(writer.closed)
    writer.close()
    states.append(writer.closed)
    assert states == [False, False, True]


def test_an_error_after_the_end_takes_nothing_back(path: Path) -> None:
    def write() -> None:
        with BlobWriter(path) as writer:
            writer.add("a", b"x")
            writer.close()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    with BlobReader(path) as reader:
        assert list(reader) == ["a"]


def test_what_is_handed_out_is_the_callers(path: Path) -> None:
    with BlobWriter(path) as writer:
        writer.add("a", b"x")
        writer.sizes.clear()
        writer.encoded_keys.clear()
        assert (writer.sizes, writer.encoded_keys) == ([1], [b"a"])


def test_no_thread_is_left_behind(path: Path) -> None:
    before = threading.active_count()
    for end in ("close", "discard"):
        writer = BlobWriter(path, digests=True)
        writer.add("a", LARGE)
        getattr(writer, end)()
        assert threading.active_count() == before


# ------------------------------------------------------------------------------------------------------------- memory

WRITE_200_MB = """
import os, sys
from blobstore import BlobWriter, FileRange
from blobstore.fileio import system

path, version, how = sys.argv[1:]
os.fsync = lambda fd: None  # the disk's speed is not measured
piece = bytes(1 << 20)
if how == "read":
    system.copy_file_range = None
with open(path + ".source", "wb") as source:
    source.truncate(200 << 20)
with open(path + ".source", "rb") as source, BlobWriter(path, version=int(version), digests=True) as writer:
    writer.add("first", piece)
    before = peak()
    if how == "chunks":
        writer.add_chunks("large", (piece for _ in range(200)))
    else:
        writer.add("large", FileRange(source.fileno(), 0, 200 << 20))
    writer.digests()
print(peak() - before)
"""


@linux_only
@pytest.mark.parametrize(("version", "how"), [(1, "chunks"), (2, "chunks"), (2, "kernel"), (2, "read")])
def test_memory_does_not_grow_with_the_file(path: Path, version: int, how: str) -> None:
    (grown,) = run_program(WRITE_200_MB, path, str(version), how)
    path.unlink()
    assert int(grown) < 24 << 20


@pytest.mark.parametrize("max_blobs", [1, layout.MAX_BLOBS])
def test_a_writer_may_take_up_to_the_most_blobs(tmp_path: Path, max_blobs: int) -> None:
    with BlobWriter(tmp_path / "m.sbs", max_blobs=max_blobs) as writer:
        writer.add("a", b"data")
        assert not writer.committed
    assert writer.committed


def test_a_stream_has_no_name_to_get() -> None:
    with BlobWriter(io.BytesIO()) as writer:
        writer.add("a", b"data")
    assert (writer.committed, writer.path, writer.target) == (False, "", None)
