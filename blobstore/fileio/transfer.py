"""Bytes on their way from memory or another file into a file or stream."""

from __future__ import annotations

import errno
import io
import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from blobstore.errors import UsageError, in_file
from blobstore.fileio.atomic import write_all
from blobstore.fileio.descriptors import read_into

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from blobstore.fileio.source import ByteSource

    Buffer = bytes | bytearray | memoryview | mmap.mmap | npt.NDArray[np.generic]

CHUNK_NBYTES = 4 << 20  # the largest buffer that anything here holds
_GATHER_NBYTES = 1 << 20  # small writes are gathered up to this size
_SMALL_NBYTES = 64 << 10
_ZEROS = bytes(_SMALL_NBYTES)

_copy_file_range: Callable[[int, int, int, int, int], int] | None = getattr(os, "copy_file_range", None)
# What a system says when it can't copy between these two files. All else (no space, I/O error) is a real error.
_CANT_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.ETXTBSY}


@dataclass(frozen=True)
class FileRange:
    """Bytes of an open file, to be written elsewhere without passing through Python's memory.

    Attributes:
        file: Open for reading, and not owned: a descriptor, or what gives one while it is needed.
        offset: In bytes, from the beginning of the file.
        nbytes: How many.
    """

    file: int | ByteSource
    offset: int
    nbytes: int

    def __post_init__(self) -> None:
        """Check it."""
        if self.offset < 0 or self.nbytes < 0:
            raise UsageError("bad-range", f"{self.nbytes} bytes at offset {self.offset} are no range of a file")

    def part(self, start: int, nbytes: int) -> FileRange:
        """Return some of the bytes, or as many of them as there are from ``start`` on."""
        return FileRange(self.file, self.offset + start, min(nbytes, self.nbytes - start))

    def held(self) -> AbstractContextManager[int]:
        """Return the file's descriptor for the time of a ``with`` block.

        Raises:
            UsageError: ``closed``, ``replaced``.
        """
        return nullcontext(self.file) if isinstance(self.file, int) else self.file.held()

    def _read_into(self, target: memoryview, start: int) -> None:
        if isinstance(self.file, int):
            read_into(self.file, target, self.offset + start)
        else:
            self.file.read_into(target, self.offset + start)

    def read(self) -> npt.NDArray[np.uint8]:
        """Return all of the bytes, in memory of their own.

        Raises:
            TruncatedError: ``short-read`` when the file ends too early.
        """
        data = np.empty(self.nbytes, dtype=np.uint8)
        self._read_into(data.data, 0)
        return data

    def chunks(self) -> Iterator[memoryview]:
        """Yield the bytes piece by piece, in one buffer: each piece is valid until the next one is asked for.

        Raises:
            TruncatedError: ``short-read`` when the file ends too early.
        """
        buffer = np.empty(min(self.nbytes, CHUNK_NBYTES), dtype=np.uint8).data
        for done in range(0, self.nbytes, CHUNK_NBYTES):
            piece = buffer[: min(CHUNK_NBYTES, self.nbytes - done)]
            self._read_into(piece, done)
            yield piece


def flat_bytes(data: Buffer) -> memoryview:
    """View bytes-like data, or an array in C order, as flat bytes. No copy.

    Raises:
        UsageError: ``not-contiguous`` when the bytes don't lie in one piece in C order; ``not-bytes`` for others.
    """
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous:
            raise UsageError("not-contiguous", "the array is not in C order: pass numpy.ascontiguousarray(array)")
        if data.dtype.hasobject:
            raise UsageError("not-bytes", f"an array of dtype {data.dtype} holds Python objects, not bytes")
        return np.asarray(data).reshape(-1).view(np.uint8).data
    try:
        view = memoryview(data)
    except TypeError:
        raise UsageError("not-bytes", f"expected bytes or an array, found {type(data).__name__}") from None
    if not view.c_contiguous:
        raise UsageError("not-contiguous", "the bytes do not lie in one piece: pass bytes(data)")
    return view.cast("B") if view.nbytes else memoryview(b"")


class Sink:
    """A file or stream that is written from front to back. Small pieces are gathered, large ones go straight through.

    Attributes:
        position: Bytes taken so far.
    """

    def __init__(self, target: int | BinaryIO, path: str = "") -> None:
        """Write to a descriptor of a file (from its current position), or to a stream's ``write``.

        Args:
            target: The one or the other.
            path: Of the file, for errors.
        """
        self._path = path or "the output"
        self._fd = target if isinstance(target, int) else None
        self._stream: Any = None if isinstance(target, int) else target
        self._gathered = bytearray()
        self.position = 0

    def write(self, data: memoryview) -> None:
        """Take all of ``data``; it may be reused on return."""
        if len(data) < _SMALL_NBYTES:
            self._gathered += data
            if len(self._gathered) >= _GATHER_NBYTES:
                self.flush()
        else:
            self.flush()
            self._write(data)
        self.position += len(data)

    def zeros(self, count: int) -> None:
        """Write zero bytes."""
        for done in range(0, count, len(_ZEROS)):
            self.write(memoryview(_ZEROS)[: count - done])

    def copy(self, source: FileRange) -> None:
        """Write bytes of another file, inside the kernel where it can.

        Raises:
            TruncatedError: ``short-read`` when the source ends too early.
        """
        if source.nbytes < _SMALL_NBYTES or self._fd is None or _copy_file_range is None:
            done = 0
        else:
            self.flush()
            done = self._copy_in_kernel(source, self._fd, _copy_file_range)
        self.position += done
        for piece in source.part(done, source.nbytes).chunks():
            self.write(piece)

    def flush(self) -> None:
        """Hand what was gathered to the system."""
        gathered, self._gathered = self._gathered, bytearray()
        if gathered:
            self._write(memoryview(gathered))

    def _copy_in_kernel(self, source: FileRange, fd: int, copy: Callable[[int, int, int, int, int], int]) -> int:
        """Return how many bytes the kernel has copied: all, or as many as it could."""
        start = os.lseek(fd, 0, os.SEEK_CUR)
        done = 0
        while done < source.nbytes:
            want = min(source.nbytes - done, 1 << 30)
            try:
                with source.held() as other:
                    got = copy(other, fd, want, source.offset + done, start + done)
            except OSError as error:
                if error.errno in _CANT_COPY:
                    break
                if error.errno == errno.EIO:  # of either file: reading tells
                    source.part(done, CHUNK_NBYTES).read()
                with in_file(self._path):
                    raise
            if not got:  # the source's end, or a file system that says nothing: reading will tell
                break
            done += got
        os.lseek(fd, start + done, os.SEEK_SET)
        return done

    def _write(self, data: memoryview) -> None:
        with in_file(self._path):
            self._write_named(data)

    def _write_named(self, data: memoryview) -> None:
        if self._fd is not None:
            write_all(self._fd, data)
            return
        while data:
            wrote = self._stream.write(data)
            # Only raw streams write less than they are given, and say so; None from one of these is nothing.
            if wrote == 0 or (wrote is None and isinstance(self._stream, io.RawIOBase)):
                raise BlockingIOError(errno.EAGAIN, "the stream can't take more now, and may not be told to wait")
            data = data[len(data) if wrote is None else wrote :]


def move_down(fd: int, source: int, target: int, nbytes: int) -> None:
    """Move bytes inside a file to a lower offset; ranges may overlap."""
    if source < target:
        raise ValueError("bytes can only be moved to a lower offset")
    done = 0
    for piece in FileRange(fd, source, nbytes).chunks():
        os.lseek(fd, target + done, os.SEEK_SET)
        write_all(fd, piece)
        done += len(piece)
