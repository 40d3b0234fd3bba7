"""Writing packed blobs: header, frames (`codecs.frame_writer`) and table.

Spec: spec/packed.md.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from blobstore.compression.frames import DENSEST, FASTEST, PlaneWriter, lent
from blobstore.compression.reader import (
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
from blobstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blobstore.compression.planes import Layout
    from blobstore.compression.reader import Base, Buffer, Run
    from blobstore.fileio.types import Bytes

CHUNK_NBYTES = 1 << 19  # work that stays in the cache; with less, two threads are in each other's way
_JOB_NBYTES = 1 << 22  # what one job compresses: a base is sought once in each
_SAMPLE = 1 << 15  # elements of a chunk that tell about how well it is compressed


def compress(
    data: Buffer,
    layout: Layout,
    *,
    level: int = FASTEST,
    chunk: int | None = None,
    base: Base | None = None,
    base_sha256: bytes | None = None,
    run: Run | None = None,
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
            held as it takes ahead. Without it each piece is made when it is asked for.

    Yields:
        The stream, in pieces. With the default chunk it is at most 0.1 % and 250 bytes larger than the data.

    Raises:
        UsageError: ``packed-level``, ``packed-chunk``; ``packed-base`` for a base without its digest, or the reverse;
            ``wrong-base`` for one with too few bytes.
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
    jobs = _Compressor(layout, level, base).jobs(raw[:body], chunk * layout.width)
    done: Iterable[Iterable[bytes]] = jobs if run is None else run(partial(list, job) for job in jobs)
    for frame in chain.from_iterable(done):
        sizes.append(len(frame))
        yield frame
        del frame  # so the next one may get the same memory, which is in the cache
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
        packed += sum(map(len, compressor.frames(piece, start, step)))
    return nbytes / packed if packed else 1.0


@dataclass(frozen=True)
class _Compressor:
    """How chunks are compressed."""

    layout: Layout
    level: int
    base: Base | None

    def jobs(self, body: Bytes, step: int) -> Iterator[Iterator[bytes]]:
        """Yield the frames of some chunks at a time, each chunk of ``step`` bytes."""
        taken = stride(step, _JOB_NBYTES)
        for start in range(0, len(body), taken):
            yield self.frames(body[start : start + taken], start, step)

    def frames(self, body: Bytes, first: int, step: int) -> Iterator[bytes]:
        """Yield the frames of chunks, whose first byte is ``first`` of all."""
        layout = self.layout
        elements, count = body.view(layout.dtype), step // layout.width
        with lent() as room:
            splitter, zstd = room.splitter(layout, count), room.compressor(self.level, count)
            is_paired = self.level == FASTEST
            writers = [PlaneWriter(zstd, splitter.marks, is_paired=is_paired) for _ in range(layout.width)]
            for start in range(0, len(elements), count):
                chunk = elements[start : start + count]
                if self.base:
                    at = first + start * layout.width
                    chunk = chunk ^ base_elements(self.base, at, at + chunk.nbytes, layout)
                for writer, plane in zip(writers, splitter.split(chunk), strict=True):
                    yield writer.frame(plane)
