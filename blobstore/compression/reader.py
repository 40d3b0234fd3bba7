"""Reading packed blobs: bytes, compressed without loss into a stream of which any range can be read.

The elements of a chunk are split into planes (`compression.planes`), and each plane is a zstd frame. Every frame has a
checksum, and so have header and table: a damaged byte is found when the part that it belongs to is read.
`compression.writer` writes.

Spec: spec/packed.md; the numbers P1 to P14 are its reader checks.
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from blobstore.compression.nibbles import paired_nbytes, unpair
from blobstore.compression.planes import WIDTHS, Layout
from blobstore.compression.workspace import SCRATCH
from blobstore.errors import FormatError, TruncatedError, UsageError
from blobstore.fileio.threads import one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from blobstore.fileio.types import Array, Buffer, Bytes

    Base = Callable[[int, int], Buffer]
    Run = Callable[[Iterable[Callable[[], Any]]], Iterable[Any]]

MAGIC = b"SBSPACKD"
VERSION = 1
DELTA = 1
MAX_CHUNK = 1 << 20  # elements

HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("flags", "<u4"),
        ("nbytes", "<u8"),
        ("width", "u1"),
        ("signed", "u1"),
        ("reserved", "<u2"),
        ("chunk", "<u4"),
        ("tail", "u1", 8),
        ("base_sha256", "u1", 32),
        ("reserved_2", "<u4"),
        ("crc32", "<u4"),
    ]
)
FRAME_NBYTES = np.dtype("<u4")
CRC_NBYTES = 4
_MIN_FRAME_NBYTES = 14  # magic, descriptor, size, a block of one byte, checksum

_JOB_NBYTES = 1 << 21  # decoded by one job: with less, two threads gain little

_U8 = np.dtype("u1")  # given a type instead, numpy would look up its dtype for every view
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_DESCRIPTOR = 0x24  # a single segment, with a checksum, without a dictionary
_SIZE_FIELD = 6  # the first bit of the width of the content size
_SIZE_WIDTHS = (1, 2, 4, 8)
_MOST_HEADER_NBYTES = 13


def stride(step: int, most: int) -> int:
    """Return how many bytes one job takes: one chunk of ``step`` bytes, or as many as fit into ``most`` bytes."""
    return step * max(1, most // step)


def base_elements(base: Base, first: int, last: int, layout: Layout) -> Array:
    """Return a base's elements, from byte ``first`` to byte ``last``.

    Raises:
        UsageError: ``wrong-base`` when the base has too few.
    """
    raw = np.frombuffer(base(first, last), dtype=np.uint8)
    if len(raw) != last - first:
        raise UsageError("wrong-base", f"the base gave {len(raw)} bytes from {first} to {last}")
    return raw.view(layout.dtype)


class PackedReader:
    """A packed blob. Header and table are checked at once, frames when they are read.

    Attributes:
        nbytes: Of the unpacked data.
        layout: How its elements are split.
        chunk_nbytes: Bytes that are decoded together. Reads that begin and end at multiples of it decode nothing
            twice.
        base_sha256: Of the data that this is the difference to, or None.
    """

    def __init__(self, raw: Buffer) -> None:
        """Check header and table. Only the table is copied; ``raw`` is kept.

        Args:
            raw: The whole stream.

        Raises:
            FormatError, TruncatedError: Checks P1 to P11 of spec/packed.md; ``offset`` is in the stream.
        """
        self._raw = np.frombuffer(raw, dtype=np.uint8).data
        header = _check_header(self._raw)
        self.nbytes: int = int(header["nbytes"])
        self.layout: Layout = Layout(int(header["width"]), signed=bool(header["signed"]))
        self.base_sha256: bytes | None = header["base_sha256"].tobytes() if header["flags"] & DELTA else None
        self._body = self.nbytes - self.nbytes % self.layout.width
        self._tail = header["tail"][: self.nbytes - self._body]
        self.chunk_nbytes: int = int(header["chunk"]) * self.layout.width
        self._starts = _check_table(self._raw, -(-self._body // self.chunk_nbytes) * self.layout.width)

    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        out: Buffer | None = None,
        base: Base | None = None,
        run: Run = one_by_one,
        job_nbytes: int = _JOB_NBYTES,
    ) -> Bytes:
        """Decode a range of bytes; only the chunks that it touches are read.

        Args:
            start: First byte.
            stop: One past the last byte; by default the end.
            out: Where to write as many bytes; by default a new array. Its contents after an error are unspecified.
            base: As given to `compress`; comparing its digest is up to the caller.
            run: As for `compress`: jobs may run in threads.
            job_nbytes: Decoded by one job, if that is at least one chunk.

        Returns:
            The bytes, as an array over ``out``.

        Raises:
            FormatError: ``packed-frame``, ``packed-data``, ``packed-pairs`` (checks P12 to P14).
            UsageError: ``packed-range`` for a range that is not inside, or an ``out`` of another size; ``needs-base``
                for a difference without a base, ``wrong-base`` for a base that is too short, ``needless-base`` for a
                base where there is no difference.
        """
        stop = self.nbytes if stop is None else stop
        if not 0 <= start <= stop <= self.nbytes:
            raise UsageError("packed-range", f"bytes {start} to {stop} are not inside {self.nbytes}")
        if base is None and self.base_sha256 is not None:
            raise UsageError("needs-base", "this is a difference: it can only be read with its base")
        if base is not None and self.base_sha256 is None:
            raise UsageError("needless-base", "this is not a difference, and has no base")
        buffer = np.empty(stop - start, dtype=np.uint8) if out is None else np.frombuffer(out, dtype=np.uint8)
        if len(buffer) != stop - start or not buffer.flags.writeable:
            raise UsageError("packed-range", f"{stop - start} writable bytes are needed, {len(buffer)} were given")
        if start < min(stop, self._body):
            for _ in run(self._read_jobs(start, min(stop, self._body), buffer, base, job_nbytes)):
                pass
        if stop > self._body:
            first = max(start, self._body)
            buffer[first - start :] = self._tail[first - self._body : stop - self._body]
        return buffer

    def _read_jobs(
        self, start: int, stop: int, buffer: Bytes, base: Base | None, job_nbytes: int
    ) -> Iterator[Callable[[], None]]:
        step = stride(self.chunk_nbytes, job_nbytes)
        for first in range(start - start % step, stop, step):
            low, high = max(first, start), min(first + step, stop)
            yield partial(self._read_chunks, low, high, buffer[low - start : high - start], base)

    def _read_chunks(self, start: int, stop: int, buffer: Bytes, base: Base | None) -> None:
        step = self.chunk_nbytes
        for first in range(start - start % step, stop, step):
            low, high = max(first, start), min(first + step, stop)
            self._read_chunk(first, low, high, buffer[low - start : high - start], base)

    def _read_chunk(self, first: int, low: int, high: int, buffer: Bytes, base: Base | None) -> None:
        """Decode bytes from ``low`` to ``high`` of the chunk that begins at ``first``."""
        layout, width = self.layout, self.layout.width
        count = (min(first + self.chunk_nbytes, self._body) - first) // width
        place = first // self.chunk_nbytes * width
        # All elements that the bytes touch.
        begin, end = (low - first) // width, -(-(high - first) // width)
        # Before SCRATCH holds anything: reading the base may use it, too.
        near = base_elements(base, first + begin * width, first + end * width, layout) if base else None
        planes = [self._plane(place + i, count, i)[begin:end] for i in range(width)]
        merger = SCRATCH.merger(layout)
        if len(buffer) == width * (end - begin):
            merger.merge(planes, buffer.view(layout.dtype), near)
        else:
            elements = np.empty(end - begin, layout.dtype)
            merger.merge(planes, elements, near)
            skipped = (low - first) % width
            buffer[:] = elements.view(_U8)[skipped : skipped + len(buffer)]

    def _plane(self, place: int, count: int, which: int) -> Bytes:
        """Decode a frame of a chunk's plane. Checks P12 to P14."""
        start, stop = self._starts[place], self._starts[place + 1]
        frame = self._raw[start:stop]
        nbytes = _content_nbytes(frame)
        if nbytes != count and (nbytes is None or nbytes not in paired_nbytes(count)):
            what = "has a header that is not allowed here" if nbytes is None else f"holds {nbytes} bytes for {count}"
            raise FormatError("packed-frame", f"frame {place} {what}", start)
        try:
            data = SCRATCH.decompressor.decompress(frame, max_output_size=count, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FormatError("packed-data", f"frame {place} is damaged: {error}", start) from None
        plane = np.frombuffer(data, _U8)
        if nbytes == count:
            return plane
        unpaired = unpair(plane, count, SCRATCH.plane(count, which))
        if unpaired is None:
            raise FormatError("packed-pairs", f"frame {place} holds invalid pairs: wrong escapes or unused code", start)
        return unpaired


def _check_header(raw: memoryview) -> np.void:
    """Checks P1 to P8."""
    needed = HEADER.itemsize + CRC_NBYTES
    if len(raw) < needed:
        raise TruncatedError("packed-truncated", f"a packed blob has at least {needed} bytes, this has {len(raw)}", 0)
    header: np.void = np.frombuffer(raw, HEADER, 1)[0]
    if bytes(raw[:8]) != MAGIC:
        raise FormatError("packed-magic", f"expected {MAGIC!r}, found {bytes(raw[:8])!r} at offset 0", 0)
    if header["version"] != VERSION:
        what = f"expected version {VERSION}, found {header['version']}: a newer blobstore may read it"
        raise FormatError("packed-version", what, 8)
    at = HEADER.itemsize - CRC_NBYTES
    if zlib.crc32(raw[:at]) != header["crc32"]:
        raise FormatError("packed-header", "the header is damaged: its CRC-32 doesn't match", at)
    if int(header["flags"]) & ~DELTA:
        raise FormatError("packed-flags", f"flags 0x{int(header['flags']):X} are not known", 12)
    width, signed = int(header["width"]), int(header["signed"])
    if width not in WIDTHS or signed > (width > 1):
        raise FormatError("packed-layout", f"width {width} with sign {signed} is not a layout", 24)
    if not 1 <= header["chunk"] <= MAX_CHUNK:
        raise FormatError("packed-chunk", f"a chunk has 1 to {MAX_CHUNK} elements, not {header['chunk']}", 28)
    unused = header["tail"][int(header["nbytes"]) % width :]
    baseless = not header["flags"] & DELTA and header["base_sha256"].any()
    if unused.any() or baseless or header["reserved"] or header["reserved_2"]:
        raise FormatError("packed-reserved", "reserved or unused bytes of the header are not 0", 26)
    return header


def _check_table(raw: memoryview, count: int) -> memoryview:
    """Checks P9 to P11 → where each of ``count`` frames starts, and where the last one ends."""
    end = len(raw) - CRC_NBYTES
    start = end - count * FRAME_NBYTES.itemsize
    # Python's integers can't wrap around. A frame has a minimum size.
    if start < HEADER.itemsize + count * _MIN_FRAME_NBYTES:
        raise TruncatedError("packed-table", f"{count} frames and their table do not fit into {len(raw)} bytes", 16)
    if zlib.crc32(raw[start:end]) != int.from_bytes(raw[end:], "little"):
        raise FormatError("packed-table-crc", "the table is damaged, or cut off: its CRC-32 doesn't match", start)
    starts = np.empty(count + 1, dtype=np.int64)
    starts[0] = HEADER.itemsize
    sizes = np.frombuffer(raw, FRAME_NBYTES, count, start)
    np.cumsum(sizes, dtype=np.int64, out=starts[1:])
    starts[1:] += HEADER.itemsize
    if sizes.min(initial=_MIN_FRAME_NBYTES) < _MIN_FRAME_NBYTES or starts[-1] != start:
        raise FormatError("packed-sizes", f"the frames end at {starts[-1]}, the table begins at {start}", start)
    return starts.data


def _content_nbytes(frame: memoryview) -> int | None:
    """Return the content size in a frame's header, or None if the header is not allowed."""
    header = frame[:_MOST_HEADER_NBYTES].tobytes()
    descriptor = header[4]
    if header[:4] != _ZSTD_MAGIC or descriptor & 0x3F != _DESCRIPTOR:
        return None
    width = _SIZE_WIDTHS[descriptor >> _SIZE_FIELD]
    return int.from_bytes(header[5 : 5 + width], "little") + (256 if width == 2 else 0)
