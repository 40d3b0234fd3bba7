"""Writing packed blobs.

A plane whose bytes lie close together is held as pairs (`codecs.pairs`). One that doesn't shrink costs a frame's 20
bytes or so and is copied; all others are coded almost by Huffman alone.

Spec: spec/packed.md.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import zstandard

from blobstore.codecs.packed import (
    CRC_NBYTES,
    DELTA,
    FRAME_NBYTES,
    HEADER,
    MAGIC,
    MAX_CHUNK,
    VERSION,
    base_elements,
    stride,
)
from blobstore.codecs.pairs import find_base, pair
from blobstore.codecs.planes import Layout, split
from blobstore.codecs.scratch import SCRATCH
from blobstore.errors import UsageError
from blobstore.parallel import one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blobstore.codecs.packed import Base, Buffer, Bytes, Run

    Job = Callable[[], list[bytes]]

CHUNK_NBYTES = 1 << 19  # work that stays in the cache; with less, two threads are in each other's way
FASTEST, DENSEST = 0, 22

_SAMPLE = 1 << 15  # elements of a chunk that tell about how well it is compressed


def compress(
    data: Buffer,
    layout: Layout,
    *,
    level: int = FASTEST,
    chunk: int | None = None,
    base: Base | None = None,
    base_sha256: bytes | None = None,
    run: Run = one_by_one,
) -> Iterator[Buffer]:
    """Compress bytes.

    Args:
        data: Any number of bytes; read, not kept.
        layout: How its elements are split.
        level: 0: fastest, by Huffman alone; 1 to 22: zstd's levels.
        chunk: Elements that are compressed together, and of which a reader decodes all or none; by default those of
            512 KiB.
        base: Gives the bytes from one offset to another of as many bytes that these resemble: only the difference is
            kept, and the same base is needed to read them.
        base_sha256: Of all of the base's bytes. With a base only, and then always.
        run: Runs jobs and yields their results in order; the jobs may run in threads, and only as many at a time are
            held as it takes ahead.

    Yields:
        The stream, in pieces. With the default chunk it is at most 0.1 % and 250 bytes larger than the data.

    Raises:
        UsageError: ``packed-level``, ``packed-chunk``; ``packed-base`` for a base without its digest, or the reverse,
            or one with too few bytes.
    """
    check_level(level)
    chunk = CHUNK_NBYTES // layout.width if chunk is None else chunk
    if not 1 <= chunk <= MAX_CHUNK:
        raise UsageError("packed-chunk", f"a chunk has 1 to {MAX_CHUNK} elements, not {chunk}")
    if (base is None) != (base_sha256 is None) or (base_sha256 is not None and len(base_sha256) != 32):
        raise UsageError("packed-base", "a base and its SHA-256, 32 bytes, go together")
    raw = np.frombuffer(data, dtype=np.uint8)
    body = len(raw) - len(raw) % layout.width
    header = np.zeros(1, dtype=HEADER)
    header["magic"], header["version"], header["nbytes"], header["chunk"] = MAGIC, VERSION, len(raw), chunk
    header["width"], header["signed"] = layout.width, layout.signed
    header["tail"][0, : len(raw) - body] = raw[body:]
    if base_sha256 is not None:
        header["flags"] = DELTA
        header["base_sha256"] = np.frombuffer(base_sha256, dtype=np.uint8)
    header["crc32"] = zlib.crc32(header.tobytes()[:-CRC_NBYTES])
    yield header.tobytes()
    sizes: list[int] = []
    for frames in run(_Compressor(layout, level, base).jobs(raw[:body], chunk * layout.width)):
        sizes += map(len, frames)
        yield from frames
    table = np.array(sizes, dtype=FRAME_NBYTES).tobytes()
    yield table + zlib.crc32(table).to_bytes(CRC_NBYTES, "little")


def check_level(level: int) -> None:
    """Refuse a level that there isn't.

    Raises:
        UsageError: ``packed-level``.
    """
    if not FASTEST <= level <= DENSEST:
        raise UsageError("packed-level", f"level {level} is none of {FASTEST} to {DENSEST}")


def sampled_ratio(data: Buffer, layout: Layout, *, level: int = FASTEST, base: Base | None = None) -> float:
    """Return about how many times smaller data gets, by parts of at most 8 chunks; 1.0 for less than an element."""
    raw = np.frombuffer(data, dtype=np.uint8)
    body, step = len(raw) - len(raw) % layout.width, CHUNK_NBYTES
    compressor = _Compressor(layout, level, base)
    starts = range(0, body, step)
    nbytes = packed = 0
    for start in starts[:: -(-len(starts) // 8) or 1]:
        piece = raw[start : min(start + _SAMPLE * layout.width, body)]
        nbytes += len(piece)
        packed += sum(map(len, compressor.chunks(piece, start, step)))
    return nbytes / packed if packed else 1.0


@dataclass(frozen=True)
class _Compressor:
    """How chunks are compressed."""

    layout: Layout
    level: int
    base: Base | None

    def jobs(self, body: Bytes, step: int) -> Iterator[Job]:
        """Yield jobs that return the frames of some chunks, each of ``step`` bytes."""
        most = stride(step)
        for start in range(0, len(body), most):
            yield partial(self.chunks, body[start : start + most], start, step)

    def chunks(self, body: Bytes, first: int, step: int) -> list[bytes]:
        """Return the frames of chunks, whose first byte is ``first`` of all."""
        elements, count = body.view(self.layout.dtype), step // self.layout.width
        room = SCRATCH.room(2 * step)
        ways = [_Way(self.level, count) for _ in range(self.layout.width)]
        frames: list[bytes] = []
        for start in range(0, len(elements), count):
            chunk = elements[start : start + count]
            if self.base:
                at = first + start * self.layout.width
                found = base_elements(self.base, at, at + chunk.nbytes, self.layout)
                chunk = np.bitwise_xor(chunk, found, out=room[step : step + chunk.nbytes].view(chunk.dtype))
            frames += [way.frame(plane) for way, plane in zip(ways, split(chunk, self.layout, room), strict=True)]
        return frames


class _Way:
    """How the planes at one place of some chunks are compressed: the first one's base serves the others, too."""

    def __init__(self, level: int, count: int) -> None:
        self._zstd = _ZSTD.compressor(level, count)
        self._is_first = True
        self._is_paired = level == FASTEST
        self._base: int | None = None

    def frame(self, plane: Bytes) -> bytes:
        """Return a plane's frame."""
        if self._is_first and self._is_paired:
            self._base = find_base(plane)
        self._is_first = False
        content = plane
        if self._base is not None:
            pairs = pair(plane, self._base, SCRATCH.pairs(len(plane)), SCRATCH.marks(len(plane)))
            content = plane if pairs is None else pairs
        return self._zstd.compress(content.data)


def _parameters(level: int, window: int) -> zstandard.ZstdCompressionParameters:
    """For planes of up to 2**window bytes: the window holds all of one, so frames are single segments."""
    checked = {"write_checksum": True, "write_content_size": True, "write_dict_id": False, "window_log": window}
    if level != FASTEST:
        return zstandard.ZstdCompressionParameters.from_level(level, source_size=1 << window, **checked)
    # The worst search for matches that there is: they are rare, and Huffman codes get nearly all that is to be had.
    return zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, chain_log=6, search_log=1, **checked
    )


class _Zstd(threading.local):
    """Compressors, made once for each thread."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], zstandard.ZstdCompressor] = {}

    def compressor(self, level: int, count: int) -> zstandard.ZstdCompressor:
        """Return the one for planes of up to ``count`` bytes."""
        window = max(17, (count - 1).bit_length())
        if (level, window) not in self._made:
            parameters = _parameters(level, window)
            self._made[level, window] = zstandard.ZstdCompressor(compression_params=parameters)
        return self._made[level, window]


_ZSTD = _Zstd()
