"""The machine's limits, measured like the rest: reading the same file sequentially, and copying memory."""

from __future__ import annotations

import mmap
import os
from itertools import pairwise
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from blobstore.bench import page_cache
from blobstore.bench.cases import Case, touch, written
from blobstore.fileio.descriptors import write_all
from blobstore.fileio.ranges import FileRange

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.fileio.types import Bytes


NAME = "this machine"
_CHUNK = 64 << 20  # larger than the processor's caches

YARDSTICKS = {
    case.key: case
    for case in (
        Case("sequential-1", "sequential read", "read the file from front to back, in large chunks", everything=True),
        Case("sequential-2", "sequential, 2 threads", "the same, each half in a thread", everything=True),
        Case("mmap", "raw map and touch", "map the file, touch one byte of each page", everything=True),
        Case("copy", "memory copy", "copy as many bytes in memory, to the same place again and again", everything=True),
        Case("copy-new", "copy to new memory", "copy as many bytes into memory not used before", everything=True),
    )
}
DISK = ("sequential-1", "sequential-2")
# Used only by the project's own benchmarks: `blobstore bench` measures no writes.
WRITE = Case("plain-write", "plain writes", "write as many bytes in large chunks until they are on the disk")


def work(case: str, path: str, nbytes: int) -> Callable[[], object]:
    """Return the function to time; what it needs is prepared before."""
    if case in DISK:
        parts = DISK.index(case) + 1
        return lambda: _read(path, min(nbytes, os.path.getsize(path)), parts)
    if case == "mmap":
        return lambda: _map(path, nbytes)
    source = np.ones(min(_CHUNK, nbytes), np.uint8)
    if case == WRITE.key:
        page_cache.remove(written(path))
        return lambda: _write(written(path), source, nbytes)
    if case == "copy":
        target = np.zeros_like(source)
        target[:] = 2  # pages of zeros aren't allocated yet
        return lambda: _copy(source, target, nbytes)
    return lambda: _copy_to_new(source, nbytes)


def _read(path: str, nbytes: int, parts: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        bounds = [nbytes * i // parts for i in range(parts + 1)]
        ranges = [FileRange(fd, a, b - a) for a, b in pairwise(bounds)]
        threads = [Thread(target=_drain, args=(part,)) for part in ranges[1:]]
        for part in threads:
            part.start()
        _drain(ranges[0])
        for part in threads:
            part.join()
    finally:
        os.close(fd)


def _drain(source: FileRange) -> None:
    for _ in source.chunks():
        pass


def _map(path: str, nbytes: int) -> object:
    with open(path, "rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    return mapped, touch(mapped[:nbytes])


def _write(path: str, source: Bytes, nbytes: int) -> None:
    with open(path, "wb", buffering=0) as file:
        for done in range(0, nbytes, len(source)):
            write_all(file.fileno(), source[: nbytes - done].data)
        os.fsync(file.fileno())


def _copy(source: Bytes, target: Bytes, nbytes: int) -> Bytes:
    for done in range(0, nbytes, len(source)):
        count = min(len(source), nbytes - done)
        np.copyto(target[:count], source[:count])
    return target


def _copy_to_new(source: Bytes, nbytes: int) -> Bytes:
    target = np.empty(nbytes, np.uint8)
    for done in range(0, nbytes, len(source)):
        piece = target[done : done + len(source)]
        np.copyto(piece, source[: len(piece)])
    return target
