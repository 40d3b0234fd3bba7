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
from blobstore.index.sets import stores_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    spans = _spans(stores_of(path) or [path], 0, nbytes)
    if case in DISK:
        parts = DISK.index(case) + 1
        return lambda: _read(spans, parts)
    if case == "mmap":
        return lambda: [_map(file, count) for file, _, count in spans]
    source = np.ones(min(_CHUNK, nbytes), np.uint8)
    if case == WRITE.key:
        page_cache.remove(written(path))
        return lambda: _write(written(path), source, nbytes)
    if case == "copy":
        target = np.zeros_like(source)
        target[:] = 2  # pages of zeros aren't allocated yet
        return lambda: _copy(source, target, nbytes)
    return lambda: _copy_to_new(source, nbytes)


def _spans(files: Sequence[str], start: int, stop: int) -> list[tuple[str, int, int]]:
    """Return some bytes of files that lie one after another: of each that has some, file, offset and count."""
    spans, begin = [], 0
    for file in files:
        end = begin + os.path.getsize(file)
        if max(start, begin) < min(stop, end):
            spans.append((file, max(start, begin) - begin, min(stop, end) - max(start, begin)))
        begin = end
    return spans


def _read(spans: Sequence[tuple[str, int, int]], parts: int) -> None:
    files, nbytes = [file for file, _, _ in spans], sum(count for _, _, count in spans)
    bounds = [nbytes * i // parts for i in range(parts + 1)]
    threads = [Thread(target=_drain, args=(_spans(files, a, b),)) for a, b in pairwise(bounds[1:])]
    for part in threads:
        part.start()
    _drain(_spans(files, 0, bounds[1]))
    for part in threads:
        part.join()


def _drain(spans: Sequence[tuple[str, int, int]]) -> None:
    for file, start, count in spans:
        fd = os.open(file, os.O_RDONLY)
        try:
            for _ in FileRange(fd, start, count).chunks():
                pass
        finally:
            os.close(fd)


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
