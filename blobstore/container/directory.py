"""Bytes → a validated `Directory`, version 1 or 2, and back. No I/O.

Spec: spec/sbs.md; S1 to S13 are its reader checks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.container import layout
from blobstore.container.foreign import HEAD_NBYTES, foreign_format
from blobstore.container.keys import decode_key
from blobstore.container.layout import BLOB_ALIGN, FILE_ALIGN, HEADER, KEY_NBYTES, MAGIC, MAX_BLOBS, RECORD_NBYTES
from blobstore.errors import FormatError, TruncatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from blobstore.fileio.types import Bytes

    Read = Callable[[int, int], bytes | memoryview]

_FEW = 64  # look-ups that cost less than sorting the keys
_HALVES_DIFFER = 1 << 15  # above this, two of so many halves would be equal by chance
_MIXED = 4096  # keys at a time
_FIRST_WORD = struct.Struct("<Q")
_MIX_LOW, _MIX_HIGH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, otherwise arbitrary


class KeyFinder:
    """Finds keys: among many first by comparing all of them, after some look-ups by a search in sorted order."""

    def __init__(self, keys: npt.NDArray[np.bytes_]) -> None:
        """Keep the keys, shape (count,), dtype S16."""
        self._keys = keys
        self._lookups = count()

    def find(self, key: bytes) -> int:
        """Return the first place of a key, given without its padding, or -1."""
        padded = key.ljust(KEY_NBYTES, b"\0")
        if len(padded) != KEY_NBYTES:
            return -1
        if next(self._lookups) < _FEW:
            # Comparing the first words of 16,383 keys takes microseconds: a few look-ups don't pay for sorting.
            places = (key_words(self._keys)[:, 0] == _FIRST_WORD.unpack_from(padded)[0]).nonzero()[0]
            if not len(places):
                return -1
        else:
            order, ordered = self._by_mixed
            mixed = _mix(np.frombuffer(padded, self._keys.dtype))[0]
            places = order[ordered.searchsorted(mixed) : ordered.searchsorted(mixed, "right")]
        places = places[self._keys[places] == padded.rstrip(b"\0")]
        return int(places[0]) if len(places) else -1

    @cached_property
    def _by_mixed(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
        """The places sorted by mixed key, and the mixed keys: a look-up takes microseconds, however many there are."""
        mixed = _mix(self._keys)
        order = np.argsort(mixed, kind="stable")
        return order, mixed[order]


@dataclass(frozen=True, eq=False)
class Directory:
    """Where each blob of a file lies. It has passed all reader checks.

    Attributes:
        version: 1 or 2.
        file_size: In bytes.
        keys: Shape (count,), dtype S16, without padding, in file order.
        offsets: Shape (count,), int64, in bytes from the beginning of the file.
        sizes: Shape (count,), int64, in bytes, without padding.
    """

    version: int
    file_size: int
    keys: npt.NDArray[np.bytes_]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def all_keys(self) -> list[str]:
        """All keys as text, in file order; bytes that are not UTF-8 are surrogates."""
        # No key has a NUL, and a NUL ends any ill-formed sequence: decoding all at once gives the same, faster.
        return b"\0".join(self.keys.tolist()).decode("utf-8", "surrogateescape").split("\0")

    def find(self, key: bytes) -> int:
        """Return the place of a key in file order, or -1."""
        return self._finder.find(key)

    @cached_property
    def order(self) -> npt.NDArray[np.intp]:
        """The places sorted by key."""
        return np.argsort(self.keys, kind="stable")

    @cached_property
    def _finder(self) -> KeyFinder:
        return KeyFinder(self.keys)

    def range(self, place: int) -> tuple[int, int]:
        """Return (offset, nbytes) of the blob at a place."""
        return int(self.offsets[place]), int(self.sizes[place])

    @property
    def payload_end(self) -> int:
        """The offset where the padding of the last blob ends."""
        offset, nbytes = self.range(len(self) - 1)
        return layout.round_up(offset + nbytes, BLOB_ALIGN)

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, nbytes) of each gap between header, directory and blobs; all of them are zeros."""
        tail = HEADER.size + RECORD_NBYTES * len(self)
        end = tail if self.version == 1 else HEADER.size
        for offset, nbytes in zip(self.offsets.tolist(), self.sizes.tolist(), strict=True):
            if offset > end:
                yield end, offset - end
            end = offset + nbytes
        stop = self.file_size if self.version == 1 else self.file_size - tail
        if stop > end:
            yield end, stop - end

    def to_bytes(self) -> bytes:
        """Return the stored directory: all keys, then all ranges, without the header."""
        ranges = np.stack([self.offsets, self.sizes], axis=1).astype("<u8")
        return self.keys.tobytes() + ranges.tobytes()

    def header(self) -> bytes:
        """Return the true header, 16 bytes."""
        return HEADER.pack(MAGIC, len(self), self.file_size)


def build_directory(version: int, keys: Sequence[bytes], sizes: Sequence[int]) -> Directory:
    """Lay out blobs of these sizes; the caller has checked keys and sizes, as `ContainerWriter` does."""
    count = len(keys)
    start = layout.payload_start(version, count)
    nbytes = np.array(sizes, dtype=np.int64)
    ends = layout.blob_ends(start, nbytes)
    offsets = np.concatenate([[start], ends[:-1]]).astype(np.int64)
    size = layout.file_size(version, count, int(ends[-1]))
    return Directory(version, size, np.array(keys, dtype=f"S{KEY_NBYTES}"), offsets, nbytes)


def parse_directory(read: Read, file_size: int, *, expect: Callable[[bytes], None] | None = None) -> Directory:
    """Check a file's headers and directory.

    Args:
        read: Returns the bytes at (offset, nbytes) inside the file; only used for headers and directory.
        file_size: The file's real size in bytes.
        expect: For a file that is far away: told how it has to begin, when that follows from its end and isn't read.

    Raises:
        FormatError, TruncatedError: A reader check of spec/sbs.md failed; ``reason`` is its code.
    """
    version, count, start = _locate(read if expect is None else _beginning_later(read, file_size, expect), file_size)
    table = np.frombuffer(read(start, RECORD_NBYTES * count), dtype=np.uint8)
    keys = _check_keys(table[: KEY_NBYTES * count].reshape(count, KEY_NBYTES), start)
    ranges = table[KEY_NBYTES * count :].view("<u8").reshape(count, 2)
    return _check_ranges(version, file_size, keys, ranges, start + KEY_NBYTES * count)


def _beginning_later(read: Read, file_size: int, expect: Callable[[bytes], None]) -> Read:
    """Return a `read` that doesn't read how a file begins if it ends as one of version 2, but tells that."""
    if file_size < BLOB_ALIGN + HEADER.size:
        return read
    magic, count, stated = HEADER.unpack(bytes(read(file_size - HEADER.size, HEADER.size)))
    if magic != MAGIC or not count or stated != file_size:
        return read
    head = HEADER.pack(MAGIC, 0, FILE_ALIGN)
    expect(head)
    return lambda offset, nbytes: read(offset, nbytes) if offset or nbytes != len(head) else head


def _locate(read: Read, file_size: int) -> tuple[int, int, int]:
    """Checks S1 to S7 → version, count, offset of the directory."""
    if file_size < HEADER.size:
        raise TruncatedError("truncated", f"the file has {file_size} bytes, a header alone has {HEADER.size}", 0)
    head = bytes(read(0, HEADER.size))
    magic, count, stated = HEADER.unpack(head)
    if magic != MAGIC:
        raise FormatError("bad-magic", _foreign(bytes(read(0, min(HEAD_NBYTES, file_size)))), 0)
    version, at = (1, 0) if count else (2, file_size - HEADER.size)
    if version == 2:
        if stated != FILE_ALIGN:
            raise FormatError("bad-placeholder", f"expected {FILE_ALIGN} at offset 8, found {stated}", 8)
        if file_size < BLOB_ALIGN + HEADER.size:
            raise TruncatedError("no-directory", f"a file of {file_size} bytes is too short for one: truncated?", 0)
        magic, count, stated = HEADER.unpack(bytes(read(at, HEADER.size)))
        if magic != MAGIC:
            raise TruncatedError(
                "no-directory",
                f"expected 0x{MAGIC:08X} (SBS) in the last 16 bytes, found 0x{magic:08X} at offset {at}: "
                "the directory at the end is missing: truncated download?",
                at,
            )
    if not 1 <= count <= MAX_BLOBS:
        raise FormatError("blob-count", f"expected 1 to {MAX_BLOBS} blobs, the header says {count}", at + 4)
    if stated != file_size:
        error = TruncatedError if stated > file_size else FormatError
        hint = "truncated download?" if stated > file_size else "something was appended"
        raise error("file-size", f"the header says {stated} bytes, the file has {file_size}: {hint}", at + 8)
    nbytes = RECORD_NBYTES * count
    start = HEADER.size if version == 1 else at - nbytes
    if start < (HEADER.size if version == 1 else BLOB_ALIGN) or start + nbytes > file_size:
        raise TruncatedError("directory-range", f"{count} blobs need {nbytes} bytes of directory, which don't fit", at)
    return version, count, start


def _check_keys(raw: Bytes, start: int) -> npt.NDArray[np.bytes_]:
    """Checks S8 and S9."""
    place = bad_key(raw)
    if place is not None:
        shown = raw[place].tobytes()
        raise FormatError(
            "bad-key", f"blob {place}: {shown!r} is not a key: 1 to 16 bytes, then zeros", start + KEY_NBYTES * place
        )
    keys = raw.reshape(-1).view(f"S{KEY_NBYTES}")
    place = repeated_key(keys)
    if place is not None:
        first = int(np.flatnonzero(keys == keys[place])[0])
        raise FormatError(
            "duplicate-key",
            f"{decode_key(keys[place])!r} is the key of blob {first} and of blob {place}",
            start + KEY_NBYTES * place,
        )
    return keys


def repeated_key(keys: npt.NDArray[np.bytes_]) -> int | None:
    """Return the first place of a key that an earlier place has as well; None if all are different."""
    mixed = _mix(keys)
    # Cheap checks first: different keys rarely have an equal mixed key; if they are few, an equal half of it.
    if (len(mixed) > _HALVES_DIFFER or _repeats(mixed.view("<u4")[1::2])) and _repeats(mixed):
        order = np.argsort(keys, kind="stable")
        repeated = order[1:][keys[order[1:]] == keys[order[:-1]]]
        if len(repeated):
            return int(repeated.min())
    return None


def _repeats(values: npt.NDArray[np.unsignedinteger[Any]]) -> bool:
    ordered = np.sort(values)
    return bool(np.count_nonzero(ordered[1:] == ordered[:-1]))


def bad_key(raw: Bytes) -> int | None:
    """Return the first row of (count, 16) that is not a key (empty, or bytes after a NUL), or None."""
    is_zero = raw == 0
    rows: npt.NDArray[np.intp] | None = None
    if np.count_nonzero(is_zero) <= len(raw):  # most keys have no zeros: look at the others
        words = is_zero.reshape(-1).view(np.uint64)
        rows = (words[::2] | words[1::2]).nonzero()[0]
        if not len(rows):
            return None
        is_zero = is_zero[rows]
    used = ~is_zero.reshape(-1)
    bad = np.empty(len(used), np.bool_)
    np.greater(used[1:], used[:-1], out=bad[1:])  # a byte after a NUL
    np.logical_not(used[::KEY_NBYTES], out=bad[::KEY_NBYTES])  # no byte at all
    if not np.count_nonzero(bad):
        return None
    row = int(bad.argmax()) // KEY_NBYTES
    return row if rows is None else int(rows[row])


def _check_ranges(
    version: int, file_size: int, keys: npt.NDArray[np.bytes_], ranges: npt.NDArray[np.uint64], at: int
) -> Directory:
    """Checks S10 to S13."""

    def refuse(reason: str, bad: npt.NDArray[np.bool_], what: str) -> None:
        if np.count_nonzero(bad):
            place = int(bad.argmax())
            offset, nbytes = map(int, ranges[place])
            message = f"blob {place} ({decode_key(keys[place])!r}): offset {offset}, {nbytes} bytes: {what}"
            raise FormatError(reason, message, at + KEY_NBYTES * place)

    offsets, sizes = np.ascontiguousarray(ranges.T)
    room = np.subtract(
        np.uint64(file_size), offsets
    )  # temporary memory is reused: what is new to the process costs more
    refuse("empty-blob", sizes == 0, "a blob has at least one byte")
    outside = (offsets > np.uint64(file_size)) | (sizes > room)  # where the room wraps around, the first is true
    refuse("blob-range", outside, f"it is not inside the file of {file_size} bytes")
    # Inside a real file, whose size fits into 63 bits, no end can wrap around.
    ends = layout.padded_sizes(sizes)
    ends += offsets
    start = layout.payload_start(version, len(keys))
    expected = room
    expected[0], expected[1:] = start, ends[:-1]
    wrong = offsets != expected
    refuse("blob-offset", wrong, f"expected offset {int(expected[wrong.argmax()])}, blobs lie back to back")
    end = int(ends[-1])
    allowed_sizes = {layout.file_size(version, len(keys), end)} | ({end} if version == 1 else set())
    if file_size not in allowed_sizes:
        expected_sizes = " or ".join(map(str, sorted(allowed_sizes)))
        message = f"blobs end at {end}, which makes a file of {expected_sizes} bytes, it has {file_size}"
        raise FormatError("payload-end", message, end)
    return Directory(version, file_size, keys, offsets.view(np.int64), sizes.view(np.int64))


def key_words(keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint64]:
    """Return keys as two integers each, shape (count, 2), which compare faster than text."""
    return np.ascontiguousarray(keys).view("<u8").reshape(-1, 2)


def _mix(keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint64]:
    low, high = key_words(keys).T
    mixed = np.empty(len(low), np.uint64)
    for start in range(0, len(mixed), _MIXED):  # some at a time: memory that is new to the process costs more
        part = slice(start, start + _MIXED)
        np.add(np.multiply(low[part], _MIX_LOW), np.multiply(high[part], _MIX_HIGH), out=mixed[part])
    return mixed


def _foreign(head: bytes) -> str:
    magic = int.from_bytes(head[:4], "little")
    text = head[:4].decode("ascii") if head[:4].isalnum() else head[:4].hex(" ")
    known = foreign_format(head)
    hint = f": this is {known}" if known else ""
    if not hint and head[8:9] == b"{":
        hint = ": this is a safetensors file, use blobstore convert"
    return f"expected 0x{MAGIC:08X} (SBS), found 0x{magic:08X} ({text}) at offset 0{hint}"
