"""Bytes on their way from memory or another file into a file or stream."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO

from blobstore.errors import in_file
from blobstore.fileio.atomic import write_all
from blobstore.fileio.ranges import CHUNK_NBYTES, FileRange

if TYPE_CHECKING:
    from collections.abc import Callable

_GATHER_NBYTES = 1 << 20  # small writes are gathered up to this size
_SMALL_NBYTES = 64 << 10
_ZEROS = bytes(_SMALL_NBYTES)

_copy_file_range: Callable[[int, int, int, int, int], int] | None = getattr(os, "copy_file_range", None)
# What a system says when it can't copy between these two files. All else (no space, I/O error) is a real error.
_CANT_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.ETXTBSY}


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
