"""Writing packed blobs: header, frames (`compression.frames`) and table.

Spec: spec/packed.md.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from blobstore.compression.frames import DENSEST, FASTEST, PlaneWriter, borrowed_workspace
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
from blobstore.fileio.ranges import CHUNK_NBYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blobstore.compression.planes import Layout
    from blobstore.compression.reader import Base, Run
    from blobstore.fileio.types import Buffer, Bytes

DEFAULT_CHUNK_NBYTES = 1 << 19  # fits into the cache; with less, two threads get in each other's way
_SAMPLE = 1 << 15  # elements of a chunk from which its ratio is estimated


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
        level: 0: fastest, by Huffman alone; 1: with codes for fewer elements where they fit better, and zstd's level
                1 for bytes that aren't close together; 2 to 22: zstd's levels.
        chunk: Elements that are compressed together, of which a reader decodes all or none; by default 512 KiB.
        base: Returns the bytes from one offset to another of similar data of the same size: only the difference is
            stored, and the same base is needed to read it.
        base_sha256: Of all of the base's bytes; required with a base.
        run: Runs jobs, perhaps in threads, and yields their results in order; as many jobs are in memory as it takes
            ahead. Without it each piece is made when it is asked for.

    Yields:
        The stream, in pieces; with the default chunk at most 0.1 % and 250 bytes larger than the data.

    Raises:
        UsageError: ``packed-level``, ``packed-chunk``; ``packed-base`` for a base without its digest, or the reverse;
            ``wrong-base`` for a base with too few bytes.
    """
    check_level(level)
    chunk = DEFAULT_CHUNK_NBYTES // layout.width if chunk is None else chunk
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
    results: Iterable[Iterable[bytes]] = jobs if run is None else run(partial(list, job) for job in jobs)
    for frame in chain.from_iterable(results):
        sizes.append(len(frame))
        yield frame
        del frame  # so that the next one may get its memory, which is in the cache
    table = np.array(sizes, dtype=FRAME_NBYTES).tobytes()
    yield table + zlib.crc32(table).to_bytes(CRC_NBYTES, "little")


def check_level(level: int) -> None:
    """Refuse an unknown level.

    Raises:
        UsageError: ``packed-level``.
    """
    if not FASTEST <= level <= DENSEST:
        raise UsageError("packed-level", f"level {level} is not one of {FASTEST} to {DENSEST}")


def sampled_ratio(data: Buffer, layout: Layout, *, level: int = FASTEST, base: Base | None = None) -> float:
    """Estimate how many times smaller data gets, from parts of at most 8 chunks; 1.0 for less than an element."""
    raw = np.frombuffer(data, dtype=np.uint8)
    body, step = len(raw) - len(raw) % layout.width, DEFAULT_CHUNK_NBYTES
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
        """Yield jobs, each of which yields the frames of several chunks of ``step`` bytes."""
        job_nbytes = stride(step, CHUNK_NBYTES)  # a base is sought once per job
        for start in range(0, len(body), job_nbytes):
            yield self.frames(body[start : start + job_nbytes], start, step)

    def frames(self, body: Bytes, first: int, step: int) -> Iterator[bytes]:
        """Yield the frames of the chunks of ``body``, which begins at byte ``first`` of the data."""
        layout = self.layout
        elements, count = body.view(layout.dtype), step // layout.width
        with borrowed_workspace() as workspace:
            splitter, zstd = workspace.splitter(layout, count), workspace.compressor(self.level, count)
            zstd_pairs = workspace.pairs_compressors(self.level)
            writers = [PlaneWriter(zstd, zstd_pairs, splitter.marks) for _ in range(layout.width)]
            for start in range(0, len(elements), count):
                chunk = elements[start : start + count]
                if self.base:
                    at = first + start * layout.width
                    chunk = chunk ^ base_elements(self.base, at, at + chunk.nbytes, layout)
                for writer, plane in zip(writers, splitter.split(chunk), strict=True):
                    yield writer.frame(plane)
