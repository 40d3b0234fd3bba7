from __future__ import annotations

import errno
import io
import mmap
import os
from array import array
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import TruncatedError, UsageError
from blobstore.fileio import system
from blobstore.fileio.ranges import CHUNK_NBYTES, FileRange, flat_bytes
from blobstore.fileio.sink import Sink, move
from tests.strategies import payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blobstore.fileio.types import Buffer

    Copy = Callable[[int, int, int, int, int], int]

DATA = payload(1, 3 << 20)
LARGE = CHUNK_NBYTES + 12345


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").write_bytes(DATA)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    yield fd
    os.close(fd)


def content(fd: int) -> bytes:
    return os.pread(fd, 1 << 30, 0)


# ----------------------------------------------------------------------------------------------------- flat bytes

BITS = np.arange(256, dtype=np.uint8)
STRUCTURE = np.dtype([("a", "<u2"), ("b", "<f4")])


@pytest.mark.parametrize(
    "data",
    [
        b"abc",
        bytearray(b"abc"),
        memoryview(b"abc")[1:],
        BITS.view(np.float32).reshape(8, 8).data,
        array("d", [1.0, 2.0]),
        BITS.view(np.float32).reshape(4, 4, 4),
        BITS.view(ml_dtypes.bfloat16).reshape(2, 64),
        BITS.view(">i4"),
        BITS.view(bool),
        BITS.view("M8[s]"),
        BITS.view("S16"),
        BITS[:60].view(STRUCTURE),
        np.array(1.5),
        BITS.reshape(16, 16)[3:5],
        BITS.reshape(16, 16).T[:, 2:3].T,
        np.float32(1.5),
    ],
    ids=lambda data: f"{type(data).__name__}-{getattr(data, 'dtype', '')}-{getattr(data, 'shape', '')}",
)
def test_contiguous_data_is_viewed_flat(data: Buffer) -> None:
    flat = flat_bytes(data)
    assert flat.tobytes() == (data.tobytes() if isinstance(data, np.ndarray) else bytes(memoryview(data)))
    assert (flat.ndim, flat.format, flat.itemsize) == (1, "B", 1)


def test_nothing_is_copied() -> None:
    values = np.zeros(4, dtype=np.float32)
    array_view, buffer_view = flat_bytes(values), flat_bytes(values.data)
    values[:] = 1
    assert array_view == buffer_view == np.ones(4, dtype=np.float32).tobytes()


def test_a_map_is_viewed_flat(source: int) -> None:
    with mmap.mmap(source, 0, access=mmap.ACCESS_READ) as mapped, flat_bytes(mapped) as view:
        assert view == DATA


@pytest.mark.parametrize(
    "data",
    [
        np.arange(4, dtype=np.int32).reshape(2, 2).view(np.matrix),
        np.ma.masked_array(np.arange(4, dtype=np.int32), mask=[False, True, False, True]),
        np.rec.array([(1, 2.0)], dtype=STRUCTURE),
    ],
    ids=["matrix", "masked", "record"],
)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_subclasses_of_arrays_are_their_bytes_too(data: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    flat = flat_bytes(data)
    assert isinstance(flat, memoryview)
    assert (flat.ndim, flat.nbytes) == (1, data.nbytes)
    assert flat.tobytes() == np.asarray(data).tobytes()


@pytest.mark.parametrize(
    "data",
    [BITS.view(">i4").data, BITS[:60].view(STRUCTURE).data, np.zeros((2, 2), "<f8").data],
    ids=["big-endian", "structure", "little-endian"],
)
def test_views_of_any_item_format_are_their_bytes(data: memoryview) -> None:
    assert flat_bytes(data) == data.tobytes()


@pytest.mark.parametrize("data", [b"", bytearray(), np.zeros((3, 0), np.float32), np.zeros((0, 2)).data])
def test_no_bytes_are_viewed_as_no_bytes(data: Buffer) -> None:
    assert not flat_bytes(data).tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (BITS[::2], "not-contiguous"),
        (BITS[::-1], "not-contiguous"),
        (BITS.reshape(16, 16).T, "not-contiguous"),
        (memoryview(b"abcd")[::2], "not-contiguous"),
        (BITS.reshape(16, 16).T.data, "not-contiguous"),
        (np.array([object()]), "not-bytes"),
        ("text", "not-bytes"),
        (5, "not-bytes"),
        (None, "not-bytes"),
        ([1, 2], "not-bytes"),
    ],
    ids=["step", "reversed", "transposed", "view", "view-of-transposed", "objects", "str", "int", "none", "list"],
)
def test_other_data_is_refused(data: Buffer, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        flat_bytes(data)
    assert caught.value.reason == reason


# ---------------------------------------------------------------------------------------------------- file ranges


@pytest.mark.parametrize("nbytes", [0, 1, CHUNK_NBYTES - 1, CHUNK_NBYTES, CHUNK_NBYTES + 1, 3 * CHUNK_NBYTES])
def test_a_range_comes_in_pieces_of_bounded_size(tmp_path: Path, nbytes: int) -> None:
    data = bytes(100) + payload(2, 70_000) * (3 * CHUNK_NBYTES // 70_000 + 1)
    (tmp_path / "file").write_bytes(data)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    pieces = [bytes(piece) for piece in FileRange(fd, 100, nbytes).chunks()]
    os.close(fd)
    assert b"".join(pieces) == data[100 : 100 + nbytes]
    assert all(1 <= len(piece) <= CHUNK_NBYTES for piece in pieces)


def test_a_range_beyond_the_file_is_refused(source: int) -> None:
    with pytest.raises(TruncatedError, match=f"short-read: the file ends at {len(DATA)}, 1 bytes too early"):
        list(FileRange(source, 10, len(DATA) - 9).chunks())


# ----------------------------------------------------------------------------------------------------------- sink


class Dribble(io.RawIOBase):
    """A raw stream that takes only a few bytes at a time, as a pipe may."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        self.taken += data[: self.most]
        return min(len(data), self.most)


class Silent:
    """A stream whose ``write`` returns None."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def write(self, data: memoryview) -> None:
        self.taken += data


pieces = st.lists(
    st.one_of(
        st.tuples(st.just("zeros"), st.sampled_from([0, 1, 255, 65536, 200_000])),
        st.tuples(st.sampled_from(["write", "copy"]), st.sampled_from([0, 1, 7, 65535, 65536, 300_000, 1 << 20])),
    ),
    max_size=12,
)


def send(sink: Sink, source: int, what: str, nbytes: int) -> bytes:
    if what == "zeros":
        sink.zeros(nbytes)
        return bytes(nbytes)
    if what == "copy":
        sink.copy(FileRange(source, 5, nbytes))
    else:
        buffer = bytearray(DATA[5 : 5 + nbytes])
        sink.write(memoryview(buffer))
        buffer[:] = bytes(nbytes)  # callers may reuse it
    return DATA[5 : 5 + nbytes]


@given(pieces)
@pytest.mark.parametrize("kind", ["file", "buffer", "raw", "silent"])
def test_all_that_is_sent_arrives_in_order(source: int, target: int, kind: str, pieces: list[tuple[str, int]]) -> None:
    stream = {"file": None, "buffer": io.BytesIO(), "raw": Dribble(99_991), "silent": Silent()}[kind]
    os.ftruncate(target, 0)
    os.lseek(target, 0, os.SEEK_SET)
    sink = Sink(target if stream is None else stream)  # type: ignore[arg-type]
    sent = b""
    for what, nbytes in pieces:
        sent += send(sink, source, what, nbytes)
        assert sink.position == len(sent)
    sink.flush()
    sink.flush()
    arrived = (
        content(target)
        if stream is None
        else stream.getvalue()
        if isinstance(stream, io.BytesIO)
        else bytes(stream.taken)
    )
    assert arrived == sent


def test_small_pieces_are_gathered_but_not_without_end() -> None:
    stream = io.BytesIO()
    sink = Sink(stream)
    for _ in range(3000):
        sink.write(memoryview(DATA)[:1000])
        assert sink.position - len(stream.getvalue()) <= 1 << 20
    assert len(stream.getvalue()) >= 1 << 20


def test_a_stream_that_would_block_loses_nothing_silently() -> None:
    """A raw non-blocking stream returns None when it took nothing."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb", buffering=0), open(writer, "wb", buffering=0) as stream:
        sink = Sink(stream)
        with pytest.raises(BlockingIOError):
            sink.write(memoryview(DATA))


def fail(code: int) -> Copy:
    def copy(*_: int) -> int:
        raise OSError(code, os.strerror(code))

    return copy


def nothing(*_: int) -> int:
    return 0


def some(source: int, target: int, nbytes: int, source_offset: int, target_offset: int) -> int:
    return os.copy_file_range(source, target, min(nbytes, 400_000), source_offset, target_offset)


def first_some_then(then: Copy) -> Copy:
    calls = iter([some])

    def copy(*args: int) -> int:
        return next(calls, then)(*args)

    return copy


KERNELS: dict[str, Callable[[], Copy | None]] = {
    "whole": lambda: os.copy_file_range,
    "pieces": lambda: some,
    "absent": lambda: None,
    "nothing": lambda: nothing,
    "other-file-system": lambda: fail(errno.EXDEV),
    "old-kernel": lambda: fail(errno.ENOSYS),
    "not-supported": lambda: fail(errno.EOPNOTSUPP),
    "not-permitted": lambda: fail(errno.EPERM),
    "some-then-nothing": lambda: first_some_then(nothing),
    "some-then-other-file-system": lambda: first_some_then(fail(errno.EXDEV)),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("nbytes", [1, 65535, 65536, 2 << 20])
def test_a_range_is_copied_whatever_the_kernel_can(
    source: int, target: int, nbytes: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "copy_file_range", KERNELS[kernel]())
    os.lseek(target, 1000, os.SEEK_SET)
    sink = Sink(target)
    sink.write(memoryview(b"before"))
    sink.copy(FileRange(source, 777, nbytes))
    sink.write(memoryview(b"behind"))
    sink.flush()
    assert content(target) == bytes(1000) + b"before" + DATA[777 : 777 + nbytes] + b"behind"
    assert sink.position == nbytes + 12


def test_a_large_range_goes_through_the_kernel(source: int, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = 0

    def counted(*args: int) -> int:
        nonlocal copied
        copied += (got := os.copy_file_range(*args))
        return got

    monkeypatch.setattr(system, "copy_file_range", counted)
    Sink(target).copy(FileRange(source, 0, 1 << 20))
    assert copied == 1 << 20


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT])
def test_a_real_error_of_the_kernel_is_not_hidden(
    source: int, target: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "copy_file_range", fail(code))
    with pytest.raises(OSError, match=os.strerror(code)):
        Sink(target).copy(FileRange(source, 0, 1 << 20))


@pytest.mark.parametrize("nbytes", [10, 1 << 20], ids=["small", "large"])
def test_a_range_that_ends_too_early_is_refused(source: int, target: int, nbytes: int) -> None:
    with pytest.raises(TruncatedError, match="short-read"):
        Sink(target).copy(FileRange(source, len(DATA) - nbytes + 1, nbytes))


# ------------------------------------------------------------------------------------------------------ move


@pytest.mark.parametrize("nbytes", [0, 1, 1000, LARGE])
@pytest.mark.parametrize(
    ("start", "end"), [(256, 0), (300, 299), (CHUNK_NBYTES, 5), (7, 7), (0, 256), (299, 300), (5, CHUNK_NBYTES)]
)
def test_bytes_are_moved_even_onto_themselves(target: int, start: int, end: int, nbytes: int) -> None:
    data = (DATA * 2)[:nbytes]
    os.pwrite(target, b"below" * 60, 0)
    os.pwrite(target, data, start)
    before = content(target)
    move(target, start, end, nbytes)
    assert content(target) == (before[:end].ljust(end, b"\0") + data + before[end + nbytes :] if nbytes else before)
