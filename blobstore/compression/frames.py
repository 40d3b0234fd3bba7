"""Writing the frames of a packed blob: one zstd frame for each plane of a chunk.

A plane whose bytes lie close together is held as pairs (`codecs.pairs`). One that doesn't shrink costs a frame's 20
bytes or so and is copied; all others are coded almost by Huffman alone.

Spec: spec/packed.md, Frames.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import zstandard

from blobstore.compression.nibbles import find_base, pair
from blobstore.compression.planes import Splitter
from blobstore.compression.workspace import aligned, keep_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.compression.planes import Layout
    from blobstore.fileio.types import Bytes


FASTEST, DENSEST = 0, 22
_MOST_FREE = 8  # workrooms that are kept, each of a MB or more


class Workroom:
    """What frames are made with and in, made once: what is new costs page faults, which cost more than the work."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._splitters: dict[Layout, Splitter] = {}
        self._compressors: dict[tuple[int, int], zstandard.ZstdCompressor] = {}
        keep_memory()

    def splitter(self, layout: Layout, count: int) -> Splitter:
        """Return one for a layout that splits at least ``count`` elements at once."""
        found = self._splitters.get(layout)
        if not found or found.count < count:
            found = Splitter(layout, aligned(2 * layout.width * count), bytearray(count))
            self._splitters[layout] = found
        return found

    def compressor(self, level: int, count: int) -> zstandard.ZstdCompressor:
        """Return the one for planes of up to ``count`` bytes."""
        window = max(17, (count - 1).bit_length())
        if (level, window) not in self._compressors:
            parameters = _parameters(level, window)
            self._compressors[level, window] = zstandard.ZstdCompressor(compression_params=parameters)
        return self._compressors[level, window]


_FREE: list[Workroom] = []


@contextmanager
def lent() -> Iterator[Workroom]:
    """Lend a workroom to one job.

    It is not a thread's own: who is given frames one by one may ask for another job's between two of them, or for the
    next one in another thread.
    """
    try:
        room = _FREE.pop()
    except IndexError:
        room = Workroom()
    try:
        yield room
    finally:
        if len(_FREE) < _MOST_FREE:
            _FREE.append(room)


class PlaneWriter:
    """Compresses the planes at one place of some chunks: the first one's base serves the others, too."""

    def __init__(self, zstd: zstandard.ZstdCompressor, marks: bytearray, *, is_paired: bool) -> None:
        """Say how.

        Args:
            zstd: Compresses them.
            marks: As many bytes as a plane has at most, to work in.
            is_paired: Whether planes whose bytes lie close together are held as pairs.
        """
        self._zstd, self._marks = zstd, marks
        self._seeks_base = is_paired
        self._base: int | None = None

    def frame(self, plane: Bytes) -> bytes:
        """Return a plane's frame; the plane is used up."""
        if self._seeks_base:
            self._base, self._seeks_base = find_base(plane), False
        pairs = None if self._base is None else pair(plane, self._base, self._marks)
        return self._zstd.compress((plane if pairs is None else pairs).data)


def _parameters(level: int, window: int) -> zstandard.ZstdCompressionParameters:
    """For planes of up to 2**window bytes: the window holds all of one, so frames are single segments."""
    checked = {"write_checksum": True, "write_content_size": True, "write_dict_id": False, "window_log": window}
    if level != FASTEST:
        return zstandard.ZstdCompressionParameters.from_level(level, source_size=1 << window, **checked)
    # The worst search for matches that there is: they are rare, and Huffman codes get nearly all that is to be had.
    return zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, chain_log=6, search_log=1, **checked
    )
