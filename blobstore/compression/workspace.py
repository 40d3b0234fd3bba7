"""Room to work in, made once: what is new costs page faults, which cost more than the work."""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import zstandard

from blobstore.compression.planes import WIDTHS, Layout, Merger

if TYPE_CHECKING:
    from blobstore.fileio.types import Bytes


_LINE = 64  # bytes of a cache line: vectors that lie across two take numpy a seventh longer
_MERGED_NBYTES = 1 << 18  # what is merged at once: both it and what it is made of stay in the cache
_KEPT_NBYTES = 8 << 20  # what the frames of two or three jobs take


@cache
def keep_memory() -> None:
    """Let glibc keep what a few jobs' frames need: it gives less back to the system once this much was freed at once.

    Without it every job's frames are new pages, which cost half as much as the compression. Elsewhere nothing happens.
    """
    bytes(_KEPT_NBYTES)


def aligned(nbytes: int) -> Bytes:
    """Return new bytes from the beginning of a cache line on."""
    room = np.empty(nbytes + _LINE, dtype=np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + nbytes]


class Scratch(threading.local):
    """A thread's own, to decode in. A caller's code that runs meanwhile, as one that reads a base, may use the same."""

    def __init__(self) -> None:
        """Make what a thread needs first."""
        self._planes = [np.empty(0, dtype=np.uint8) for _ in range(max(WIDTHS))]
        self._merged = aligned(2 * _MERGED_NBYTES)
        self._mergers: dict[Layout, Merger] = {}
        self.decompressor = zstandard.ZstdDecompressor()
        keep_memory()

    def plane(self, nbytes: int, which: int) -> Bytes:
        """Return at least as many bytes, for each of an element's planes the same ones every time."""
        if len(self._planes[which]) < nbytes:
            self._planes[which] = np.empty(nbytes, dtype=np.uint8)
        return self._planes[which]

    def merger(self, layout: Layout) -> Merger:
        """Return one for a layout; all merge in the same room."""
        if layout not in self._mergers:
            self._mergers[layout] = Merger(layout, self._merged)
        return self._mergers[layout]


SCRATCH = Scratch()
