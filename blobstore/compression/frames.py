"""Writing the frames of a packed blob: one zstd frame for each plane of a chunk.

A plane whose bytes lie close together is stored as pairs (`compression.nibbles`). One that doesn't shrink is copied,
which costs the 20 bytes or so of a frame; all others are coded almost entirely by Huffman codes.

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
    from collections.abc import Iterator, Sequence

    from blobstore.compression.planes import Layout
    from blobstore.fileio.types import Bytes


FASTEST, DENSEST = 0, 22
# Bits, for each level with pairs: rows of a matrix may differ in scale, and codes for fewer of them fit better.
_PAIRS_WINDOWS = {FASTEST: (16,), FASTEST + 1: (13, 16)}
_DESCRIPTOR_AT, _SINGLE_SEGMENT = 4, 0x20  # in a frame's header; the descriptor is followed by the window, if stated
_MAX_IDLE = 8  # workspaces that are kept, each of a MB or more


class Workspace:
    """Memory and compressors to make frames with, allocated once: page faults on new memory cost more than the work."""

    def __init__(self) -> None:
        """Begin empty."""
        self._splitters: dict[Layout, Splitter] = {}
        self._compressors: dict[tuple[int, int], zstandard.ZstdCompressor] = {}
        keep_memory()

    def splitter(self, layout: Layout, count: int) -> Splitter:
        """Return a splitter for a layout that takes at least ``count`` elements at once."""
        splitter = self._splitters.get(layout)
        if not splitter or splitter.count < count:
            splitter = Splitter(layout, aligned(2 * layout.width * count), bytearray(count))
            self._splitters[layout] = splitter
        return splitter

    def compressor(self, level: int, count: int) -> zstandard.ZstdCompressor:
        """Return a compressor for planes of up to ``count`` bytes."""
        return self._compressor(level, max(17, (count - 1).bit_length()))

    def pairs_compressors(self, level: int) -> list[zstandard.ZstdCompressor]:
        """Return compressors for pairs, of which the best is used; none for levels without pairs."""
        return [self._compressor(FASTEST, window) for window in _PAIRS_WINDOWS.get(level, ())]

    def _compressor(self, level: int, window: int) -> zstandard.ZstdCompressor:
        if (level, window) not in self._compressors:
            parameters = _parameters(level, window)
            self._compressors[level, window] = zstandard.ZstdCompressor(compression_params=parameters)
        return self._compressors[level, window]


_IDLE: list[Workspace] = []


@contextmanager
def borrowed_workspace() -> Iterator[Workspace]:
    """Lend a workspace to one job.

    Workspaces don't belong to threads: a caller that takes frames one by one may ask for another job's frames in
    between, or for the next frame in another thread.
    """
    try:
        workspace = _IDLE.pop()
    except IndexError:
        workspace = Workspace()
    try:
        yield workspace
    finally:
        if len(_IDLE) < _MAX_IDLE:
            _IDLE.append(workspace)


class PlaneWriter:
    """Compresses the planes at one place of several chunks, all with the first one's base."""

    def __init__(
        self, zstd: zstandard.ZstdCompressor, zstd_pairs: Sequence[zstandard.ZstdCompressor], marks: bytearray
    ) -> None:
        """Begin without a base.

        Args:
            zstd: Compresses the planes.
            zstd_pairs: Compress planes whose bytes lie close together, as pairs: all of them the first such plane, the
                best the others. Without any no plane is paired.
            marks: Buffer with at least as many bytes as a plane has.
        """
        self._zstd, self._zstd_pairs, self._marks = zstd, zstd_pairs, marks
        self._seeks_base = bool(zstd_pairs)
        self._base: int | None = None

    def frame(self, plane: Bytes) -> bytes:
        """Return a plane's frame; the plane is overwritten."""
        if self._seeks_base:
            self._base, self._seeks_base = find_base(plane), False
        pairs = None if self._base is None else pair(plane, self._base, self._marks)
        return self._zstd.compress(plane.data) if pairs is None else self._of_pairs(pairs)

    def _of_pairs(self, pairs: Bytes) -> bytes:
        frames = [zstd.compress(pairs.data) for zstd in self._zstd_pairs]
        if len(frames) > 1:
            best = min(range(len(frames)), key=lambda which: len(frames[which]))
            self._zstd_pairs, frames = self._zstd_pairs[best : best + 1], frames[best : best + 1]
        return _single_segment(frames[0])


def _single_segment(frame: bytes) -> bytes:
    """Return a frame with the header of a single segment, whose window is its content.

    zstd's library makes blocks no larger than the window, and for a smaller window than the content it states both.
    """
    descriptor = frame[_DESCRIPTOR_AT]
    if descriptor & _SINGLE_SEGMENT:
        return frame
    return b"".join(
        (frame[:_DESCRIPTOR_AT], bytes((descriptor | _SINGLE_SEGMENT,)), memoryview(frame)[_DESCRIPTOR_AT + 2 :])
    )


def _parameters(level: int, window: int) -> zstandard.ZstdCompressionParameters:
    """For planes of up to 2**window bytes, which fit into the window, so that frames are single segments."""
    checked = {"write_checksum": True, "write_content_size": True, "write_dict_id": False, "window_log": window}
    if level != FASTEST:
        return zstandard.ZstdCompressionParameters.from_level(level, source_size=1 << window, **checked)
    # The cheapest search for matches: they are rare, and Huffman coding alone gets nearly all of the gain.
    return zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, chain_log=6, search_log=1, **checked
    )
