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
    from collections.abc import Iterator

    from blobstore.compression.planes import Layout
    from blobstore.fileio.types import Bytes


FASTEST, DENSEST = 0, 22
_PAIRS_WINDOW = 16  # bits: rows of a matrix differ in scale, and codes for fewer of them at once fit them better
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

    def pairs_compressor(self) -> zstandard.ZstdCompressor:
        """Return a compressor for pairs: each of its short blocks may have Huffman codes of its own."""
        return self._compressor(FASTEST, _PAIRS_WINDOW)

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
        self, zstd: zstandard.ZstdCompressor, zstd_pairs: zstandard.ZstdCompressor | None, marks: bytearray
    ) -> None:
        """Begin without a base.

        Args:
            zstd: Compresses the planes.
            zstd_pairs: Compresses planes whose bytes lie close together, as pairs; without it no plane is paired.
            marks: Buffer with at least as many bytes as a plane has.
        """
        self._zstd, self._zstd_pairs, self._marks = zstd, zstd_pairs, marks
        self._seeks_base = zstd_pairs is not None
        self._base: int | None = None

    def frame(self, plane: Bytes) -> bytes:
        """Return a plane's frame; the plane is overwritten."""
        if self._seeks_base:
            self._base, self._seeks_base = find_base(plane), False
        if self._zstd_pairs and self._base is not None:
            pairs = pair(plane, self._base, self._marks)
            if pairs is not None:
                return _single_segment(self._zstd_pairs.compress(pairs.data))
        return self._zstd.compress(plane.data)


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
