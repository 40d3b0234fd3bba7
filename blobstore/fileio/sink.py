"""Writing bytes from memory or another file to a file or stream."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO

from blobstore.errors import UsageError, in_file
from blobstore.fileio import system
from blobstore.fileio.descriptors import write_all
from blobstore.fileio.ranges import CHUNK_NBYTES, FileRange
from blobstore.fileio.streams import StreamSource

if TYPE_CHECKING:
    from collections.abc import Callable

_GATHER_NBYTES = 1 << 20  # small writes are gathered up to this size
_SMALL_NBYTES = 64 << 10
_ZEROS = bytes(_SMALL_NBYTES)

# Errors of a system that can't copy between two files. Anything else (no space, I/O error) is a real error.
_CANT_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.ETXTBSY}


class Sink:
    """A file or stream that is written front to back. Small pieces are gathered, large ones are written at once.

    Attributes:
        position: Bytes written so far, with those still gathered.
    """

    def __init__(self, target: int | BinaryIO, path: str = "") -> None:
        """Begin at a file's current position, or with a stream.

        Args:
            target: The file's descriptor, or a stream with a ``write`` method.
            path: Of the file, for errors.
        """
        self._path = path or "the output"
        self._fd = target if isinstance(target, int) else None
        self._stream: Any = None if isinstance(target, int) else target
        self._gathered = bytearray()
        self.position: int = 0

    def write(self, data: memoryview) -> None:
        """Write all of ``data``; the caller may reuse it afterwards."""
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
        """Write bytes of another file, inside the kernel where possible.

        Raises:
            TruncatedError: ``short-read`` when the source ends too early.
        """
        if source.nbytes < _SMALL_NBYTES or self._fd is None or system.copy_file_range is None:
            done = 0
        else:
            self.flush()
            done = self._copy_in_kernel(source, self._fd, system.copy_file_range)
        self.position += done
        for piece in source.part(done, source.nbytes).chunks():
            self.write(piece)

    def flush(self) -> None:
        """Write what was gathered."""
        gathered, self._gathered = self._gathered, bytearray()
        if gathered:
            self._write(memoryview(gathered))

    def _copy_in_kernel(self, source: FileRange, fd: int, copy: Callable[[int, int, int, int, int], int]) -> int:
        """Return how many bytes the kernel has copied: all of them, or as many as it could."""
        start = os.lseek(fd, 0, os.SEEK_CUR)
        done = 0
        while done < source.nbytes:
            wanted = min(source.nbytes - done, 1 << 30)
            try:
                with source.held() as source_fd:
                    if source_fd is None:
                        break
                    copied = copy(source_fd, fd, wanted, source.offset + done, start + done)
            except OSError as error:
                if error.errno in _CANT_COPY:
                    break
                if error.errno == errno.EIO:  # in either file: reading raises it if it is the source's
                    source.part(done, CHUNK_NBYTES).read()
                with in_file(self._path):
                    raise
            if not copied:  # the source's end, or a file system that can't say why: reading raises the error, if any
                break
            done += copied
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
            try:
                written = self._stream.write(data)
            except ValueError:
                if getattr(self._stream, "closed", False):
                    what = "the stream was closed by its owner: it must stay open until the file is complete"
                    raise UsageError("closed", what) from None
                raise
            # Only raw streams write less than they are given; None from one of them means nothing was written.
            if written == 0 or (written is None and isinstance(self._stream, io.RawIOBase)):
                raise BlockingIOError(errno.EAGAIN, "the stream can't take more now, and can't be waited for")
            data = data[len(data) if written is None else written :]


def move(file: int | BinaryIO, start: int, new_start: int, nbytes: int, path: str = "") -> None:
    """Move bytes inside a file, or a stream that can seek, to another offset; the ranges may overlap."""
    if start == new_start:
        return
    source = file if isinstance(file, int) else StreamSource(file, path="the output")
    moved = FileRange(source, start, nbytes)
    steps = range(0, nbytes, CHUNK_NBYTES)
    for done in steps if new_start < start else reversed(steps):  # no byte is overwritten before it has been read
        for piece in moved.part(done, CHUNK_NBYTES).chunks():
            write_at(file, new_start + done, piece, path)


def write_at(file: int | BinaryIO, position: int, data: bytes | memoryview, path: str = "") -> None:
    """Write all of ``data`` at a position of a file, or of a stream that can seek; ``path`` is as for `Sink`."""
    seek(file, position)
    sink = Sink(file, path)
    sink.write(memoryview(data))
    sink.flush()


def seek(file: int | BinaryIO, position: int) -> None:
    """Set the position of a file, or of a stream that can seek."""
    if isinstance(file, int):
        os.lseek(file, position, os.SEEK_SET)
    else:
        file.seek(position)


def truncate(file: int | BinaryIO, nbytes: int) -> None:
    """Cut a file, or a stream that can seek, to a size."""
    if isinstance(file, int):
        os.ftruncate(file, nbytes)
    else:
        file.truncate(nbytes)


def position_in(stream: BinaryIO) -> int | None:
    """Return the position of a stream that can seek; None for one that can't.

    Raises:
        UsageError: ``not-empty`` when bytes follow the position.
    """
    try:
        position = stream.tell()
        end = stream.seek(0, os.SEEK_END)
        stream.seek(position)
    except (OSError, ValueError, AttributeError):  # a pipe; a stream that compresses
        return None
    if end > position:
        what = f"{end - position} bytes follow the position of the stream, and would follow the file that is written"
        raise UsageError("not-empty", f"{what}: truncate() it first, or write to another one")
    return position
