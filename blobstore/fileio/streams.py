"""Binary file objects: a file on disk that was opened in Python, or anything that reads and seeks."""

from __future__ import annotations

import io
import operator
import os
import stat
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from blobstore.errors import TruncatedError, UsageError, in_file
from blobstore.fileio.copied import CopiedSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from blobstore.fileio.types import BinaryFile, ReadInto, SourceAccess

# An object has one position, whoever reads it: all sources of one take turns.
_locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


class StreamSource(CopiedSource):
    """A file object, read by seeking and reading, in one thread at a time. Every view is a copy."""

    what = "is not a file on disk"
    has_path = False
    in_memory = False
    device = None
    access: SourceAccess = "read"

    def __init__(self, stream: BinaryFile, *, path: str, writable: bool = False) -> None:
        """Read a stream, which isn't closed by this.

        Args:
            stream: What is read; its position changes.
            path: What errors call it.
            writable: Whether views can be written to.

        Raises:
            UsageError: ``needs-seek``; ``bad-file`` for what can't be read, or gives text; ``closed``.
        """
        self.path = path
        self.writable = writable
        self._stream: BinaryFile | None = stream
        self._lock = _lock_of(stream)
        with self._lock:
            self.size: int = _size_of(stream, path)
            _check_reads(stream, path)

    @contextmanager
    def reading(self) -> Iterator[ReadInto]:
        """Yield a `read_into` that works until the ``with`` block ends, even if this is closed meanwhile.

        Raises:
            UsageError: ``closed``.
        """
        stream = self._stream
        if stream is None:
            raise UsageError("closed", "this file was closed")

        def read(buffer: memoryview, offset: int) -> None:
            with self._lock, in_file(self.path):
                _read_into(stream, buffer, offset)

        yield read

    def is_at(self, path: str | PathLike[str]) -> bool:  # noqa: ARG002 (as for files)
        """Return False: it may be what a path names, or not."""
        return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Yield None: a stream may have a descriptor, but its bytes need not be those of the stream (gzip)."""
        yield None

    def close(self) -> None:
        """Let go of the stream, which stays open."""
        self._stream = None


def descriptor_of(stream: Any) -> int | None:  # noqa: ANN401 (anything may be given)
    """Return a new descriptor of the regular file that a file object of Python reads; None for all others.

    Others may have a ``fileno`` as well, but of a file with other bytes: a gzip stream has that of the compressed file.

    Raises:
        UsageError: ``bad-file`` for a file that is open for writing only; ``closed``.
    """
    raw: Any = stream
    if (type(stream).__module__, type(stream).__name__) == ("tempfile", "_TemporaryFileWrapper"):
        raw = stream.file
    if type(raw) in (io.BufferedReader, io.BufferedRandom, io.BufferedWriter):
        raw = raw.raw
    if type(raw) is not io.FileIO:
        return None
    if raw.closed:
        raise UsageError("closed", "the file object is closed")
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        return None
    if not raw.readable():
        raise UsageError("bad-file", "the file object is open for writing only: open it with mode 'rb'")
    if raw.writable():
        stream.flush()  # bytes that were written to it may wait
    return os.dup(raw.fileno())


def _lock_of(stream: BinaryFile) -> threading.Lock:
    try:
        with _locks_guard:
            return _locks.setdefault(stream, threading.Lock())
    except TypeError:  # it can't be a key, or has no weak references
        return threading.Lock()


def _size_of(stream: BinaryFile, path: str) -> int:
    _check_open(stream)
    try:
        return operator.index(stream.seek(0, os.SEEK_END))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        what = f"{path} can't seek ({error}): pass a path, or all of its bytes"
        raise UsageError("needs-seek", what) from None


def _check_reads(stream: BinaryFile, path: str) -> None:
    try:
        start = stream.read(0)
    except (io.UnsupportedOperation, AttributeError) as error:
        raise UsageError("bad-file", f"{path} can't be read ({error}): open it with mode 'rb'") from None
    if isinstance(start, str):
        raise UsageError("bad-file", f"{path} is a text file: open it with mode 'rb'")


def _check_open(stream: BinaryFile) -> None:
    if getattr(stream, "closed", False):
        raise UsageError("closed", "the file object was closed by its owner: it must stay open while it is read")


def _read_into(stream: BinaryFile, buffer: memoryview, offset: int) -> None:
    done = 0
    _check_open(stream)
    try:
        stream.seek(offset)
        while done < len(buffer):
            given = stream.read(len(buffer) - done)
            piece = memoryview(b"" if given is None else given).cast("B")
            if not piece:
                break
            if len(piece) > len(buffer) - done:
                what = f"read({len(buffer) - done}) gave {len(piece)} bytes: that is not a binary file object"
                raise UsageError("bad-file", what)
            buffer[done : done + len(piece)] = piece
            done += len(piece)
    except ValueError:
        _check_open(stream)  # another thread may have closed it
        raise
    if done < len(buffer):
        what = f"the file ends at {offset + done}, {len(buffer) - done} bytes too early: it was truncated while open"
        raise TruncatedError("short-read", what, offset + done)
