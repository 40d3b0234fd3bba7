"""A file → memory: mapped, or by plain reads."""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

from blobstore.errors import TruncatedError, UsageError
from blobstore.fileio.descriptors import PlainFile, ReopenedFile, open_regular
from blobstore.fileio.file_systems import file_system, is_remote
from blobstore.fileio.types import Access, Prefetch

if TYPE_CHECKING:
    from os import PathLike

    from blobstore.fileio.types import ByteSource


# A private map counts as memory that may be needed, so that one of more bytes than the machine has is refused, unless
# it is made with this flag. Some Pythons don't name it: its value is Linux's.
_NORESERVE: int = getattr(
    mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64") else 0
)


# Linux 5.14 has it; Python doesn't name it yet. Elsewhere the number may be another hint's.
_POPULATE_READ: int | None = getattr(mmap, "MADV_POPULATE_READ", 22 if sys.platform == "linux" else None)
_POPULATED_NBYTES = 64 << 20  # at a time: Python's other threads, and Ctrl-C, wait for each

# Python's map keeps a descriptor of its own, unless it is told not to (3.13).
_MAP_KEEPS_FILE = sys.version_info < (3, 13)


class MappedFile(ReopenedFile):
    """Every view is the map itself: nothing is read until it is touched, nothing is copied.

    A writable map is copy-on-write: pages that are written to become this process' own, and all views see them. It
    takes one descriptor.
    """

    access: Access = "mmap"

    def __init__(
        self, fd: int, *, path: str | PathLike[str] = "", writable: bool = False, prefetch: Prefetch = "none"
    ) -> None:
        """Take over an open descriptor of a file that isn't empty."""
        self._map: memoryview | None = None
        super().__init__(fd, path=path, writable=writable)
        try:
            mapped = _map(fd, self.size, writable=writable)
        except ValueError:  # it has shrunk since its size was asked for
            raise TruncatedError(
                "short-read", f"the file had {self.size} bytes and has fewer: it was truncated"
            ) from None
        self._map = memoryview(mapped)
        _advise(mapped, prefetch)
        if _MAP_KEEPS_FILE:
            self.rest()
        else:
            self._keep = True

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return these bytes of the map."""
        if self._map is None:
            raise UsageError("closed", "this file was closed")
        return self._map[offset : offset + nbytes]

    def close(self) -> None:
        """Let go of the map: it goes away with the last view of it."""
        self._map = None
        super().close()


def _map(fd: int, size: int, *, writable: bool) -> mmap.mmap:
    options: Any = {} if _MAP_KEEPS_FILE else {"trackfd": False}
    if writable and _NORESERVE:
        flags = mmap.MAP_PRIVATE | _NORESERVE
        return mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE, **options)
    return mmap.mmap(fd, size, access=mmap.ACCESS_COPY if writable else mmap.ACCESS_READ, **options)


def _advise(mapped: mmap.mmap, prefetch: Prefetch) -> None:
    """Tell the system how a map will be read. It is a hint: where there is no such thing, nothing happens."""
    names = {"none": "", "all": "MADV_WILLNEED", "sequential": "MADV_SEQUENTIAL", "random": "MADV_RANDOM"}
    advice: int | None = getattr(mmap, names[prefetch], None) if names[prefetch] else None
    if advice is None:
        return
    with suppress(OSError):
        if prefetch == "all" and _populated(mapped):
            return
        mapped.madvise(advice)


def _populated(mapped: mmap.mmap) -> bool:
    """Read all of a map and map its pages, where the system does that at one's request."""
    if _POPULATE_READ is None:
        return False
    size = len(mapped)
    try:
        for start in range(0, size, _POPULATED_NBYTES):
            mapped.madvise(_POPULATE_READ, start, min(_POPULATED_NBYTES, size - start))
    except OSError:
        return False
    return True


def open_source(
    path: str | PathLike[str], access: Access = "auto", *, writable: bool = False, prefetch: Prefetch = "none"
) -> ByteSource:
    """Open a file for reading.

    Args:
        path: Of a regular file.
        access: ``auto`` maps it, unless its file system is a network drive's.
        writable: Whether views in memory can be written to; the file stays as it is.
        prefetch: How a map will be read; without effect on plain reads.

    Raises:
        UsageError: ``bad-access`` for another word than those of `Access`, ``bad-prefetch`` than those of `Prefetch`;
            ``not-a-file`` for a folder, pipe or device.
        OSError: It can't be opened.
    """
    if access not in get_args(Access):
        raise UsageError("bad-access", f"expected one of {', '.join(get_args(Access))}, found {access!r}")
    if prefetch not in get_args(Prefetch):
        raise UsageError("bad-prefetch", f"expected one of {', '.join(get_args(Prefetch))}, found {prefetch!r}")
    fd = open_regular(path)
    if access == "auto" and is_remote(file_system(os.fstat(fd).st_dev)):
        access = "read"
    # An empty file can't be mapped; its reader says what is missing.
    if access == "read" or not os.fstat(fd).st_size:
        return PlainFile(fd, path=path, writable=writable)
    return MappedFile(fd, path=path, writable=writable, prefetch=prefetch)


def read_whole(path: str | PathLike[str]) -> memoryview:
    """Return all bytes of a small file; a copy.

    Raises:
        UsageError, TruncatedError, OSError: As `open_source` and `PlainFile.view`.
    """
    return read_beginning(path, sys.maxsize)


def read_beginning(path: str | PathLike[str], nbytes: int) -> memoryview:
    """Return a file's first bytes, or all of them where it has no more; a copy.

    Raises:
        UsageError, TruncatedError, OSError: As `read_whole`.
    """
    source = open_source(path, "read")
    try:
        return source.view(0, min(nbytes, source.size))
    finally:
        source.close()
