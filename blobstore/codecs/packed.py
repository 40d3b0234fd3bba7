"""Packed blobs: bytes, compressed without loss into one stream of which any range can be read.

The elements of a chunk are split into planes (`codecs.planes`), and each plane is one zstd frame. A plane that doesn't
shrink costs a frame's 20 bytes or so and is copied; all others are coded almost by Huffman alone. Every frame has a
checksum, and header and table have theirs: a damaged byte is found by reading what it belongs to.

Spec: spec/packed.md; the numbers P1 to P13 are its reader checks.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from blobstore.codecs.planes import WIDTHS, Layout, merge, split
from blobstore.errors import FormatError, TruncatedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Bytes = npt.NDArray[np.uint8]
    Buffer = bytes | bytearray | memoryview | Bytes
    Base = Callable[[int, int], Buffer]
    Job = Callable[[], list[bytes]]
    Run = Callable[[Iterable[Callable[[], Any]]], Iterable[Any]]

MAGIC = b"SBSPACKD"
VERSION = 1
DELTA = 1
MAX_CHUNK = 1 << 20  # elements
CHUNK = 1 << 17  # elements; planes of one zstd block, and work that stays in the cache
FASTEST, DENSEST = 0, 22

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
_FRAME_NBYTES = np.dtype("<u4")
_CRC_NBYTES = 4
_MIN_FRAME_NBYTES = 14  # magic, descriptor, size, a block of one byte, checksum

_SAMPLE = 1 << 15  # elements of a chunk that tell about how well it is compressed
_JOB_NBYTES = 1 << 20  # what one job compresses or reads: with less, two threads gain little

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_DESCRIPTOR = 0x24  # a single segment, with a checksum, without a dictionary
_SIZE_FIELD = 6  # from this bit on: how wide the content size is
_SIZE_WIDTHS = (1, 2, 4, 8)


def one_by_one(jobs: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """Run jobs in this thread."""
    return (job() for job in jobs)


# ------------------------------------------------------------------------------------------------------- compressing


def compress(
    data: Buffer,
    layout: Layout,
    *,
    level: int = FASTEST,
    chunk: int = CHUNK,
    base: Base | None = None,
    base_sha256: bytes | None = None,
    run: Run = one_by_one,
) -> Iterator[Buffer]:
    """Compress bytes.

    Args:
        data: Any number of bytes; read, not kept.
        layout: How its elements are split.
        level: 0: fastest, by Huffman alone; 1 to 22: zstd's levels.
        chunk: Elements that are compressed together, and of which a reader decodes all or none.
        base: Gives the bytes from one offset to another of as many bytes that these resemble: only the difference is
            kept, and the same base is needed to read them.
        base_sha256: Of all of the base's bytes. With a base only, and then always.
        run: Runs jobs and yields their results in order; the jobs may run in threads, and only as many at a time are
            held as it takes ahead.

    Yields:
        The stream, in pieces. It is at most 0.1 % and 200 bytes larger than the data.

    Raises:
        UsageError: ``packed-level``, ``packed-chunk``; ``packed-base`` for a base without its digest, or the reverse,
            or one with too few bytes.
    """
    check_level(level)
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
    header["crc32"] = zlib.crc32(header.tobytes()[:-_CRC_NBYTES])
    yield header.tobytes()
    sizes: list[int] = []
    for frames in run(_Compressor(layout, level, base).jobs(raw[:body], chunk * layout.width)):
        sizes += map(len, frames)
        yield from frames
    table = np.array(sizes, dtype=_FRAME_NBYTES).tobytes()
    yield table + zlib.crc32(table).to_bytes(_CRC_NBYTES, "little")


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
    body, step = len(raw) - len(raw) % layout.width, CHUNK * layout.width
    compressor = _Compressor(layout, level, base)
    starts = range(0, body, step)
    nbytes = packed = 0
    for start in starts[:: -(-len(starts) // 8) or 1]:
        piece = raw[start : min(start + _SAMPLE * layout.width, body)]
        nbytes += len(piece)
        packed += sum(map(len, compressor.frames(piece, start)))
    return nbytes / packed if packed else 1.0


@dataclass(frozen=True)
class _Compressor:
    """How chunks are compressed."""

    layout: Layout
    level: int
    base: Base | None

    def jobs(self, body: Bytes, step: int) -> Iterator[Job]:
        stride = _stride(step)
        for start in range(0, len(body), stride):
            yield partial(self._chunks, body[start : start + stride], start, step)

    def _chunks(self, body: Bytes, first: int, step: int) -> list[bytes]:
        return [
            frame
            for start in range(0, len(body), step)
            for frame in self.frames(body[start : start + step], first + start)
        ]

    def frames(self, piece: Bytes, start: int) -> list[bytes]:
        """Return the frames of a chunk, whose first byte is ``start`` of all."""
        elements = piece.view(self.layout.dtype)
        work = _THREAD.work(2 * elements.nbytes)
        if self.base:
            found = _base_elements(self.base, start, start + len(piece), self.layout)
            elements = np.bitwise_xor(elements, found, out=work[elements.nbytes :].view(self.layout.dtype))
        zstd = _THREAD.compressor(self.level, len(elements))
        return [zstd.compress(plane.data) for plane in split(elements, self.layout, work)]


def _stride(step: int) -> int:
    """Return how many bytes one job takes: whole chunks of ``step`` bytes."""
    return step * max(1, _JOB_NBYTES // step)


def _base_elements(base: Base, first: int, last: int, layout: Layout) -> Array:
    found = np.frombuffer(base(first, last), dtype=np.uint8)
    if len(found) != last - first:
        raise UsageError("packed-base", f"the base gave {len(found)} bytes from {first} to {last}")
    return found.view(layout.dtype)


@cache
def _parameters(level: int, count: int) -> zstandard.ZstdCompressionParameters:
    """For planes of ``count`` bytes, or up to that. The window holds all of one: so frames are single segments."""
    window = max(17, (count - 1).bit_length())
    checked = {"write_checksum": True, "write_content_size": True, "write_dict_id": False, "window_log": window}
    if level != FASTEST:
        return zstandard.ZstdCompressionParameters.from_level(level, source_size=count, **checked)
    # The worst search for matches that there is: they are rare, and Huffman codes get nearly all that is to be had.
    return zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, chain_log=6, search_log=1, **checked
    )


@cache
def _keep_memory() -> None:
    """Let glibc keep what a few jobs' frames need: it gives less back to the system once this much was freed at once.

    Without it every job's frames are new pages, which cost half as much as the compression. Elsewhere nothing happens.
    """
    bytes(4 * _JOB_NBYTES)


class _OfThread(threading.local):
    """What is made once for each thread."""

    def __init__(self) -> None:
        self._compressors: dict[tuple[int, int], zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()
        self._work = np.empty(0, dtype=np.uint8)
        _keep_memory()

    def work(self, nbytes: int) -> Bytes:
        """Return room that is there already: what is new costs page faults, which cost more than the work."""
        if len(self._work) < nbytes:
            self._work = np.empty(nbytes, dtype=np.uint8)
        return self._work[:nbytes]

    def compressor(self, level: int, count: int) -> zstandard.ZstdCompressor:
        """Return the one for planes of ``count`` bytes."""
        size = 1 << max(17, (count - 1).bit_length())
        if (level, size) not in self._compressors:
            parameters = _parameters(level, size)
            self._compressors[level, size] = zstandard.ZstdCompressor(compression_params=parameters)
        return self._compressors[level, size]


_THREAD = _OfThread()


# ----------------------------------------------------------------------------------------------------------- reading


class Packed:
    """A packed blob: its header and table are checked, its frames when they are read.

    Attributes:
        nbytes: How many bytes it stands for.
        layout: How its elements are split.
        chunk_nbytes: Bytes that are decoded together: reads from one multiple of it to another decode nothing twice.
        base_sha256: Of the bytes that it is the difference to, or None.
    """

    def __init__(self, raw: Buffer) -> None:
        """Check header and table. Nothing is copied but the table; ``raw`` is kept.

        Args:
            raw: The whole stream.

        Raises:
            FormatError, TruncatedError: Checks P1 to P11 of spec/packed.md; offsets are from the stream's beginning.
        """
        self._raw = np.frombuffer(raw, dtype=np.uint8).data
        header = _check_header(self._raw)
        self.nbytes = int(header["nbytes"])
        self.layout = Layout(int(header["width"]), signed=bool(header["signed"]))
        self.base_sha256: bytes | None = header["base_sha256"].tobytes() if header["flags"] & DELTA else None
        self._body = self.nbytes - self.nbytes % self.layout.width
        self._tail = header["tail"][: self.nbytes - self._body]
        self.chunk_nbytes = int(header["chunk"]) * self.layout.width
        self._starts = _check_table(self._raw, -(-self._body // self.chunk_nbytes) * self.layout.width)

    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        out: Buffer | None = None,
        base: Base | None = None,
        run: Run = one_by_one,
    ) -> Bytes:
        """Decode a range of bytes; only the chunks that it touches are looked at.

        Args:
            start: First byte.
            stop: Behind the last; the end unless given.
            out: Where to, as many bytes; allocated unless given. What is in it after an error is not specified.
            base: What was given to `compress`; its digest is the caller's to compare.
            run: As for `compress`: jobs may run in threads.

        Returns:
            The bytes, as an array over ``out``.

        Raises:
            FormatError: ``packed-frame``, ``packed-data`` (checks P12 and P13).
            UsageError: ``packed-range`` for what is not inside, or an ``out`` of another size; ``packed-base`` for a
                base that is missing, needless or short.
        """
        stop = self.nbytes if stop is None else stop
        if not 0 <= start <= stop <= self.nbytes:
            raise UsageError("packed-range", f"bytes {start} to {stop} are not inside of {self.nbytes}")
        if (base is None) != (self.base_sha256 is None):
            raise UsageError("packed-base", "a base is needed to read this" if base is None else "this has no base")
        target = np.frombuffer(bytearray(0) if out is None else out, dtype=np.uint8)
        if out is None:
            target = np.empty(stop - start, dtype=np.uint8)
        if len(target) != stop - start or not target.flags.writeable:
            raise UsageError("packed-range", f"{stop - start} writable bytes are needed, {len(target)} were given")
        if start < self._body:
            for _ in run(self._read_jobs(start, min(stop, self._body), target, base)):
                pass
        if stop > self._body:
            first = max(start, self._body)
            target[first - start :] = self._tail[first - self._body : stop - self._body]
        return target

    def _read_jobs(self, start: int, stop: int, target: Bytes, base: Base | None) -> Iterator[Callable[[], None]]:
        stride = _stride(self.chunk_nbytes)
        for first in range(start - start % stride, stop, stride):
            low, high = max(first, start), min(first + stride, stop)
            yield partial(self._read_chunks, low, high, target[low - start : high - start], base)

    def _read_chunks(self, start: int, stop: int, target: Bytes, base: Base | None) -> None:
        step = self.chunk_nbytes
        for first in range(start - start % step, stop, step):
            low, high = max(first, start), min(first + step, stop)
            self._read_chunk(first, low, high, target[low - start : high - start], base)

    def _read_chunk(self, first: int, low: int, high: int, target: Bytes, base: Base | None) -> None:
        """Decode bytes from ``low`` to ``high`` of the chunk that begins at ``first``."""
        width = self.layout.width
        count = (min(first + self.chunk_nbytes, self._body) - first) // width
        # All elements that the bytes touch.
        begin, end = (low - first) // width, -(-(high - first) // width)
        place = first // self.chunk_nbytes * width
        planes = (self._plane(place + i, count)[begin:end] for i in range(width))
        whole = (end - begin) * width == high - low
        elements = target.view(self.layout.dtype) if whole else np.empty(end - begin, dtype=self.layout.dtype)
        merge(planes, self.layout, elements, _THREAD.work(elements.nbytes))
        if base:
            found = _base_elements(base, first + begin * width, first + end * width, self.layout)
            np.bitwise_xor(elements, found, out=elements)
        if not whole:
            skip = low - first - begin * width
            target[:] = elements.view(np.uint8)[skip : skip + high - low]

    def _plane(self, place: int, count: int) -> Bytes:
        """Decode a frame. Checks P12 and P13."""
        start, stop = int(self._starts[place]), int(self._starts[place + 1])
        frame = self._raw[start:stop]
        found = _content_nbytes(frame)
        if found != count:
            what = (
                "has no header that is allowed here" if found is None else f"says it holds {found} bytes, not {count}"
            )
            raise FormatError("packed-frame", f"frame {place} {what}", start)
        try:
            data = _THREAD.decompressor.decompress(frame, max_output_size=count, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FormatError("packed-data", f"frame {place} is damaged: {error}", start) from None
        return np.frombuffer(data, dtype=np.uint8)


def _check_header(raw: memoryview) -> np.void:
    """Checks P1 to P8."""
    needed = HEADER.itemsize + _CRC_NBYTES
    if len(raw) < needed:
        raise TruncatedError("packed-truncated", f"a packed blob has at least {needed} bytes, this has {len(raw)}", 0)
    header: np.void = np.frombuffer(raw, HEADER, 1)[0]
    if bytes(raw[:8]) != MAGIC:
        raise FormatError("packed-magic", f"expected {MAGIC!r}, found {bytes(raw[:8])!r} at offset 0", 0)
    if header["version"] != VERSION:
        what = f"expected version {VERSION}, found {header['version']}: a newer blobstore may read it"
        raise FormatError("packed-version", what, 8)
    at = HEADER.itemsize - _CRC_NBYTES
    if zlib.crc32(raw[:at]) != header["crc32"]:
        raise FormatError("packed-header", "the header is damaged: its CRC-32 is another", at)
    if int(header["flags"]) & ~DELTA:
        raise FormatError("packed-flags", f"flags 0x{int(header['flags']):X} are not known", 12)
    width, signed = int(header["width"]), int(header["signed"])
    if width not in WIDTHS or signed > (width > 1):
        raise FormatError("packed-layout", f"width {width} with sign {signed} is no layout", 24)
    if not 1 <= header["chunk"] <= MAX_CHUNK:
        raise FormatError("packed-chunk", f"a chunk has 1 to {MAX_CHUNK} elements, not {header['chunk']}", 28)
    unused = header["tail"][int(header["nbytes"]) % width :]
    baseless = not header["flags"] & DELTA and header["base_sha256"].any()
    if unused.any() or baseless or header["reserved"] or header["reserved_2"]:
        raise FormatError("packed-reserved", "reserved or unused bytes of the header are not 0", 26)
    return header


def _check_table(raw: memoryview, count: int) -> npt.NDArray[np.int64]:
    """Checks P9 to P11 → where each of ``count`` frames starts, and where the last one ends."""
    end = len(raw) - _CRC_NBYTES
    start = end - count * _FRAME_NBYTES.itemsize
    # Python's integers can't wrap around; each frame has so many bytes at least.
    if start < HEADER.itemsize + count * _MIN_FRAME_NBYTES:
        raise TruncatedError("packed-table", f"{count} frames and their table do not fit into {len(raw)} bytes", 16)
    if zlib.crc32(raw[start:end]) != int.from_bytes(raw[end:], "little"):
        raise FormatError("packed-table-crc", "the table is damaged, or cut off: its CRC-32 is another", start)
    starts = np.empty(count + 1, dtype=np.int64)
    starts[0] = HEADER.itemsize
    sizes = np.frombuffer(raw, _FRAME_NBYTES, count, start)
    np.cumsum(sizes, dtype=np.int64, out=starts[1:])
    starts[1:] += HEADER.itemsize
    if sizes.min(initial=_MIN_FRAME_NBYTES) < _MIN_FRAME_NBYTES or starts[-1] != start:
        raise FormatError("packed-sizes", f"the frames end at {starts[-1]}, the table begins at {start}", start)
    return starts


def _content_nbytes(frame: memoryview) -> int | None:
    """Return the content size that a frame's header states, or None when the header is not as it has to be."""
    descriptor = frame[4]
    if bytes(frame[:4]) != _ZSTD_MAGIC or descriptor & 0x3F != _DESCRIPTOR:
        return None
    width = _SIZE_WIDTHS[descriptor >> _SIZE_FIELD]
    return int.from_bytes(frame[5 : 5 + width], "little") + (256 if width == 2 else 0)
