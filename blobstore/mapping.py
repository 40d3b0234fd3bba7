"""A file → read-only memory: mapped, or by plain reads."""

from __future__ import annotations

import mmap
import os
import stat
import threading
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from blobstore.errors import TruncatedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

Access = Literal["mmap", "read"]

# Windows has neither: there one lock guards seek and read.
_preadv: Callable[[int, list[memoryview], int], int] | None = getattr(os, "preadv", None)


class ByteSource(Protocol):
    """Read-only bytes of one open file.

    Attributes:
        size: In bytes, when it was opened.
        access: How views are made.
    """

    size: int
    access: Access

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return bytes that must lie inside the file; valid as long as the view itself lives."""

    def fileno(self) -> int:
        """Return the open file's descriptor."""

    def close(self) -> None:
        """Let go of the file. Views stay valid."""


class PlainFile:
    """Every view is a copy of its own, read when asked for.

    For network drives, where a lost connection kills a process that maps, and for files that someone may truncate.
    """

    access: Access = "read"

    def __init__(self, fd: int) -> None:
        """Take over an open descriptor."""
        self._fd: int | None = fd
        self._lock = threading.Lock()
        self.size = os.fstat(fd).st_size

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return a copy of these bytes, read-only.

        Raises:
            TruncatedError: ``short-read`` when the file ends before it: it has shrunk since it was opened.
        """
        data = np.empty(nbytes, dtype=np.uint8).data
        read_into(self.fileno(), data, offset, self._lock)
        return data.toreadonly()

    def fileno(self) -> int:
        """Return the open file's descriptor."""
        if self._fd is None:
            raise UsageError("closed", "this file was closed")
        return self._fd

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            fd, self._fd = self._fd, None  # it is closed even when that fails
            os.close(fd)

    def __del__(self) -> None:
        # A store need not be closed: its views are what matters, and they don't need the descriptor.
        self.close()


class MappedFile(PlainFile):
    """Every view is the map itself: nothing is read until it is touched, nothing is copied."""

    access: Access = "mmap"

    def __init__(self, fd: int) -> None:
        """Take over an open descriptor of a file that isn't empty."""
        self._map: memoryview | None = None
        super().__init__(fd)
        try:
            self._map = memoryview(mmap.mmap(fd, self.size, access=mmap.ACCESS_READ))
        except ValueError:  # it has shrunk since its size was asked for
            raise TruncatedError(
                "short-read", f"the file had {self.size} bytes and has fewer: it was truncated"
            ) from None

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return these bytes of the map, read-only."""
        if self._map is None:
            raise UsageError("closed", "this file was closed")
        return self._map[offset : offset + nbytes]

    def close(self) -> None:
        """Let go of the map: it goes away with the last view of it."""
        self._map = None
        super().close()


def read_into(fd: int, target: memoryview, offset: int, lock: threading.Lock | None = None) -> None:
    """Fill ``target`` with the file's bytes from ``offset``.

    Raises:
        TruncatedError: ``short-read`` when the file ends before it.
    """
    done = 0
    while done < len(target):
        if _preadv:
            got = _preadv(fd, [target[done:]], offset + done)
        else:  # pragma: no cover (Windows)
            with lock or threading.Lock():
                os.lseek(fd, offset + done, os.SEEK_SET)
                chunk = os.read(fd, len(target) - done)
            got = len(chunk)
            target[done : done + got] = chunk
        if not got:
            raise TruncatedError(
                "short-read",
                f"the file ends at {offset + done}, {len(target) - done} bytes too early: it was truncated while open",
                offset + done,
            )
        done += got


def open_source(path: str | PathLike[str], access: Access = "mmap") -> ByteSource:
    """Open a file for reading.

    Raises:
        UsageError: ``bad-access`` for a word but ``mmap`` and ``read``; ``not-a-file`` for a folder, pipe or device.
        OSError: It can't be opened.
    """
    if access not in ("mmap", "read"):
        raise UsageError("bad-access", f"expected 'mmap' or 'read', found {access!r}")
    # A pipe would block at open, a folder can't be opened at all.
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise UsageError("not-a-file", f"expected a regular file, found {kind}")
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    # An empty file can't be mapped; its reader says what is missing.
    return PlainFile(fd) if access == "read" or not os.fstat(fd).st_size else MappedFile(fd)
