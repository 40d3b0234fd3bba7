"""Buffers that are allocated once: page faults on new memory cost more than the work."""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import zstandard

from blobstore.compression.planes import WIDTHS, Layout, Merger

if TYPE_CHECKING:
    from blobstore.fileio.types import Bytes


_LINE = 64  # bytes of a cache line: numpy takes a seventh longer on vectors that lie across two
_MERGED_NBYTES = 1 << 18  # merged at once: the elements and their planes stay in the cache
_KEPT_NBYTES = 8 << 20  # the frames of two or three jobs


@cache
def keep_memory() -> None:
    """Make glibc keep freed memory for a few jobs' frames: freeing this much at once raises its limit.

    Otherwise the frames of every job are new pages, which cost half as much as the compression. Other C libraries are
    not affected.
    """
    bytes(_KEPT_NBYTES)


def aligned(nbytes: int) -> Bytes:
    """Return a new buffer that begins with a cache line."""
    buffer = np.empty(nbytes + _LINE, dtype=np.uint8)
    start = -buffer.ctypes.data % _LINE
    return buffer[start : start + nbytes]


class Scratch(threading.local):
    """A thread's buffers for decoding; a caller's code that runs meanwhile, such as one reading a base, shares them."""

    def __init__(self) -> None:
        """Allocate what a thread needs first."""
        self._planes = [np.empty(0, dtype=np.uint8) for _ in range(max(WIDTHS))]
        self._merged = aligned(2 * _MERGED_NBYTES)
        self._mergers: dict[Layout, Merger] = {}
        self.decompressor: zstandard.ZstdDecompressor = zstandard.ZstdDecompressor()
        keep_memory()

    def plane(self, nbytes: int, which: int) -> Bytes:
        """Return a buffer of at least ``nbytes`` for one of an element's planes, the same one every time."""
        if len(self._planes[which]) < nbytes:
            self._planes[which] = np.empty(nbytes, dtype=np.uint8)
        return self._planes[which]

    def merger(self, layout: Layout) -> Merger:
        """Return the merger for a layout; all use the same buffer."""
        if layout not in self._mergers:
            self._mergers[layout] = Merger(layout, self._merged)
        return self._mergers[layout]


SCRATCH = Scratch()
