"""How much of a file lies in the page cache, and how it gets out of it and in."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import UsageError
from blobstore.fileio.ranges import FileRange
from blobstore.index.locate import external_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blobstore.fileio.types import Bytes

DROP_CACHES = "/proc/sys/vm/drop_caches"
CAN_DROP = hasattr(os, "posix_fadvise")


def files_of(path: str) -> list[str]:
    """Return the files that a format keeps under a path: one, with its index beside it, or all of a folder."""
    if os.path.isdir(path):
        return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    return [path, *(one for one in (external_path(path),) if os.path.isfile(one))]


def prepare(path: str) -> None:
    """Make a path's files durable: the system can't drop pages that are still to be written."""
    if os.path.isdir(path):
        os.sync()  # a folder may hold thousands of files
        return
    for one in files_of(path):
        fd = os.open(one, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def remove(path: str) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def drop(files: Sequence[str], *, everything: bool = False) -> None:
    """Ask the system to let go of the cached pages of these files, and with ``everything`` of all files.

    Pages that a process has mapped, and those of file systems that live in memory, stay: ask `resident` afterwards.
    """
    for one in files:
        fd = os.open(one, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    if everything:
        drop_everything()


def drop_everything() -> None:
    """Empty the page cache of the whole machine.

    Raises:
        UsageError: ``drop-caches`` when this process may not.
    """
    try:
        with open(DROP_CACHES, "w", encoding="ascii") as file:
            file.write("1")
    except OSError as error:
        what = f"{DROP_CACHES}: {error.strerror}: only root on Linux may empty the machine's page cache"
        raise UsageError("drop-caches", f"{what}; without --drop-caches this file's pages are dropped") from None


def fill(files: Sequence[str]) -> None:
    """Read them into the page cache."""
    for one in files:
        fd = os.open(one, os.O_RDONLY)
        try:
            for _ in FileRange(fd, 0, os.fstat(fd).st_size).chunks():
                pass
        finally:
            os.close(fd)


def resident(files: Sequence[str]) -> tuple[int, int] | None:
    """Return how many pages of these files are in the page cache, and how many they have.

    None where the system doesn't say: Linux tells only those who may write to a file (its cache gives away what
    others read), and answers "all" to everyone else.
    """
    if not CAN_DROP:
        return None
    cached = pages = 0
    for one in files:
        if not os.access(one, os.W_OK) and os.stat(one).st_uid != os.geteuid():
            return None
        found = _resident(one)
        cached, pages = cached + int(found.sum()), pages + len(found)
    return cached, pages


def _resident(path: str) -> Bytes:
    """Return 1 for each page of a file that is cached, else 0."""
    fd = os.open(path, os.O_RDONLY)
    try:
        nbytes = os.fstat(fd).st_size
        if not nbytes:
            return np.zeros(0, np.uint8)
        found = np.zeros(-(-nbytes // mmap.PAGESIZE), np.uint8)
        with mmap.mmap(fd, nbytes, access=mmap.ACCESS_READ) as mapped:
            view = np.frombuffer(mapped, np.uint8)
            status = ctypes.CDLL(None, use_errno=True).mincore(
                ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(nbytes), ctypes.c_void_p(found.ctypes.data)
            )
            del view  # the map can't be closed while it is viewed
    finally:
        os.close(fd)
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return np.bitwise_and(found, 1, dtype=np.uint8)
