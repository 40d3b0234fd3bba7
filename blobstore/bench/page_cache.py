"""The page cache: how much of a file is in it, and how to drop and fill it."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import UsageError
from blobstore.fileio import system
from blobstore.fileio.ranges import FileRange
from blobstore.index.locate import external_path
from blobstore.index.sets import stores_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blobstore.fileio.types import Bytes

DROP_CACHES = "/proc/sys/vm/drop_caches"
CAN_DROP = system.posix_fadvise is not None


def files_of(path: str) -> list[str]:
    """Return a format's files at a path: one, with its index beside it; those of a set; or all files of a folder."""
    if os.path.isdir(path):
        return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    return [path, *(index for index in (external_path(path),) if os.path.isfile(index)), *stores_of(path)]


def prepare(path: str) -> None:
    """Sync a path's files to the disk: the system can't drop pages that are still to be written."""
    if os.path.isdir(path):
        if system.sync:
            system.sync()  # a folder may hold thousands of files
        return
    for file in files_of(path):
        system.sync_file(file)


def remove(path: str) -> None:
    """Remove a file, or a folder with its contents, if it exists."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def drop(files: Sequence[str], *, everything: bool = False) -> None:
    """Ask the system to drop the cached pages of these files; with ``everything`` those of all files.

    Pages that a process has mapped, and those of in-memory file systems, stay: see `resident` afterwards.
    """
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            if system.posix_fadvise:
                system.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    if everything:
        drop_everything()


def drop_everything() -> None:
    """Empty the page cache of the whole machine.

    Raises:
        UsageError: ``drop-caches`` if this process may not.
    """
    try:
        with open(DROP_CACHES, "w", encoding="ascii") as file:
            file.write("1")
    except OSError as error:
        what = f"{DROP_CACHES}: {error.strerror}: only root on Linux may empty the machine's page cache"
        raise UsageError("drop-caches", f"{what}; without --drop-caches only this file's pages are dropped") from None


def fill(files: Sequence[str]) -> None:
    """Read files into the page cache."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            for _ in FileRange(fd, 0, os.fstat(fd).st_size).chunks():
                pass
        finally:
            os.close(fd)


def resident(files: Sequence[str]) -> tuple[int, int] | None:
    """Return how many pages of these files are in the page cache, and how many they have.

    None if the system doesn't say: Linux only tells processes that may write to a file (its cache would reveal what
    others read), and tells all others that every page is cached.
    """
    if not CAN_DROP:
        return None
    cached = pages = 0
    for file in files:
        if not system.user_may_write(file):
            return None
        pages_cached = _resident(file)
        cached, pages = cached + int(pages_cached.sum()), pages + len(pages_cached)
    return cached, pages


def _resident(path: str) -> Bytes:
    """Return 1 for each cached page of a file, 0 for the others."""
    fd = os.open(path, os.O_RDONLY)
    try:
        nbytes = os.fstat(fd).st_size
        if not nbytes:
            return np.zeros(0, np.uint8)
        cached = np.zeros(-(-nbytes // mmap.PAGESIZE), np.uint8)
        with mmap.mmap(fd, nbytes, access=mmap.ACCESS_READ) as mapped:
            view = np.frombuffer(mapped, np.uint8)
            status = ctypes.CDLL(None, use_errno=True).mincore(
                ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(nbytes), ctypes.c_void_p(cached.ctypes.data)
            )
            del view  # the map can't be closed while there are views
    finally:
        os.close(fd)
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return np.bitwise_and(cached, 1, dtype=np.uint8)
