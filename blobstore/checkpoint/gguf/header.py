"""The header of a .gguf file: its metadata and the list of its tensors, every count and offset checked.

Parsed here because the reader of the package gguf makes an array for each text of a vocabulary: 14 seconds and 700 MB
for a Gemma. Long arrays of the metadata are only located; `LongList.read` reads one. The rules are the format's
published ones: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blobstore.checkpoint.gguf.finding import MAGIC
from blobstore.checkpoint.gguf.types import BY_NUMBER, GgufType
from blobstore.errors import FormatError, TruncatedError
from blobstore.index.records import MAX_ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Read = Callable[[int, int], bytes | memoryview]  # (offset, nbytes) inside the file → these bytes


MAX_HEADER_NBYTES = 100_000_000
_MAX_LISTED = 64  # elements of an array that is kept as a list: vocabularies have 256,000
_MAX_KEYS, _MAX_TENSORS = 1 << 16, 1 << 18  # far more than any model has
_MAX_NDIM = 8
_MAX_DEPTH = 4  # of arrays in arrays
_WINDOW_NBYTES = 1 << 20
_SHOWN = 80
_VERSIONS = (2, 3)
_U32, _U64 = Struct("<I"), Struct("<Q")
_BOOL, _TEXT, _ARRAY = 7, 8, 9
# Number of a metadata type → its name and numpy's word for it.
_NUMBERS: dict[int, tuple[str, str]] = {
    0: ("uint8", "u1"),
    1: ("int8", "i1"),
    2: ("uint16", "<u2"),
    3: ("int16", "<i2"),
    4: ("uint32", "<u4"),
    5: ("int32", "<i4"),
    6: ("float32", "<f4"),
    _BOOL: ("bool", "u1"),
    10: ("uint64", "<u8"),
    11: ("int64", "<i8"),
    12: ("float64", "<f8"),
}
_TYPE_NAMES = {number: name for number, (name, _) in _NUMBERS.items()} | {_TEXT: "string", _ARRAY: "array"}


@dataclass(frozen=True, slots=True)
class GgufEntry:
    """One tensor of a .gguf file.

    Attributes:
        name: Its name.
        stored: Its type.
        shape: In C order, which is the reverse of GGUF's.
        offset: Of its first byte, from the beginning of the file.
        nbytes: Its size.
    """

    name: str
    stored: GgufType
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def type(self) -> str:
        """Name of its type: ``f32``, ``q4_k``."""
        return self.stored.name


@dataclass(frozen=True, slots=True)
class LongList:
    """An array of the metadata that is too long to be kept, or has arrays: where it is.

    Attributes:
        number: Of the type of its elements.
        count: How many.
        offset: Of the first element, from the beginning of the file.
        nbytes: Of all elements.
    """

    number: int
    count: int
    offset: int
    nbytes: int

    def __str__(self) -> str:
        return f"{self.count} values of type {_TYPE_NAMES[self.number]}"

    def read(self, read: Read) -> list[Any] | None:
        """Return its elements, texts or numbers, as plain values; None if they are arrays.

        Args:
            read: As `parse_header` takes it, of the same file.

        Raises:
            FormatError: ``gguf`` for what isn't text.
        """
        cursor = _Cursor(read, self.offset, self.offset + self.nbytes)
        return None if self.number == _ARRAY else _elements(cursor, self.number, self.count)


@dataclass(frozen=True)
class GgufHeader:
    """What a .gguf file says of itself.

    Attributes:
        version: Of the format.
        entries: Its tensors, in the order of their bytes.
        metadata: Key → a text, number, truth value, or list of such; a `LongList` for a long array, or one of arrays.
    """

    version: int
    entries: list[GgufEntry]
    metadata: dict[str, Any]


class _Cursor:
    """A place in the file that only moves forward, with the bytes that follow it."""

    def __init__(self, read: Read, at: int, end: int) -> None:
        self._read = read
        self._window: bytes | memoryview = b""
        self._start = at  # of the window
        self._end = end  # of the file
        self.at = at

    def take(self, nbytes: int) -> bytes:
        """Return the next bytes, and move behind them."""
        place = self.at - self._start
        if place + nbytes > len(self._window):
            self._check(nbytes)
            self._start, place = self.at, 0
            self._window = self._read(self.at, min(max(nbytes, _WINDOW_NBYTES), self._end - self.at))
        self.at += nbytes
        return bytes(self._window[place : place + nbytes])

    def skip(self, nbytes: int) -> None:
        """Move behind the next bytes, which are not read."""
        self._check(nbytes)
        self.at += nbytes

    def _check(self, nbytes: int) -> None:
        if nbytes > self._end - self.at:
            what = f"the file ends at {self._end}, inside what its header lists: truncated download?"
            raise TruncatedError("gguf", what, self._end)
        if self.at + nbytes > MAX_HEADER_NBYTES:
            what = f"its header is longer than {MAX_HEADER_NBYTES} bytes: is a count in it wrong?"
            raise FormatError("gguf", what, self.at)

    def u32(self) -> int:
        value: int = _U32.unpack(self.take(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack(self.take(8))[0]
        return value

    def text(self) -> str:
        at = self.at
        raw = self.take(self.u64())
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise FormatError("gguf", f"{raw[:_SHOWN]!r} is not UTF-8 text: {error.reason}", at) from None


def parse_header(read: Read, file_size: int) -> GgufHeader:
    """Check a .gguf file's header.

    Args:
        read: Given (offset, nbytes) inside the file, returns these bytes.
        file_size: In bytes.

    Raises:
        FormatError, TruncatedError: ``gguf``: it is wrong, of another version, or lists what the file doesn't have.
    """
    cursor = _Cursor(read, 0, file_size)
    if (magic := cursor.take(len(MAGIC))) != MAGIC:
        raise FormatError("gguf", f"expected {MAGIC!r} at offset 0, found {magic!r}: this is not a GGUF file", 0)
    version = cursor.u32()
    if version not in _VERSIONS:
        raise FormatError("gguf", f"it is {_other_version(version)}: convert it with a current llama.cpp", 4)
    tensors, keys = cursor.u64(), cursor.u64()
    if keys > _MAX_KEYS or tensors > _MAX_TENSORS:
        raise FormatError("gguf", f"it lists {tensors} tensors and {keys} keys: is the file damaged?", 8)
    metadata = dict(_metadata(cursor, keys))
    found = list(_tensors(cursor, tensors))
    alignment = _alignment(metadata)
    start = -(-cursor.at // alignment) * alignment
    entries = sorted((_entry(one, start, alignment) for one in found), key=lambda entry: (entry.offset, entry.nbytes))
    _check_layout(entries, file_size)
    return GgufHeader(version, entries, metadata)


def _other_version(version: int) -> str:
    if version and version & 0xFFFF == 0:
        return "a big-endian GGUF file, which blobstore doesn't read"
    return f"GGUF version {version}, and blobstore reads {' and '.join(map(str, _VERSIONS))}"


def _metadata(cursor: _Cursor, count: int) -> Iterator[tuple[str, Any]]:
    known: set[str] = set()
    for _ in range(count):
        key = _unique(cursor, known, "its metadata has {!r} twice")
        yield key, _value(cursor, cursor.u32())


def _unique(cursor: _Cursor, known: set[str], twice: str) -> str:
    """Read a name that isn't among those before it, and add it to them."""
    at = cursor.at
    name = cursor.text()
    if name in known:
        raise FormatError("gguf", twice.format(name[:_SHOWN]), at)
    known.add(name)
    return name


def _value(cursor: _Cursor, number: int) -> Any:  # noqa: ANN401 (metadata is anything)
    if number != _ARRAY:
        return _elements(cursor, number, 1)[0]
    inner, count = cursor.u32(), cursor.u64()
    if count <= _MAX_LISTED and inner != _ARRAY:
        return _elements(cursor, inner, count)
    start = cursor.at
    _skip(cursor, inner, count, _MAX_DEPTH)
    return LongList(inner, count, start, cursor.at - start)


def _elements(cursor: _Cursor, number: int, count: int) -> list[Any]:
    if number == _TEXT:
        return [cursor.text() for _ in range(count)]
    if number not in _NUMBERS:
        raise _unknown_value(cursor, number)
    return _numbers(cursor, number, count)


def _numbers(cursor: _Cursor, number: int, count: int) -> list[Any]:
    dtype = np.dtype(_NUMBERS[number][1])
    at = cursor.at
    values = np.frombuffer(cursor.take(count * dtype.itemsize), dtype)
    if number == _BOOL:
        if values.size and values.max() > 1:
            raise FormatError("gguf", f"{values.max()} is not a truth value", at)
        return [bool(value) for value in values]
    # The shortest decimal number with these 32 bits is what was meant: 1e-06, not 9.999999974752427e-07.
    return [float(str(value)) for value in values] if dtype.char == "f" else values.tolist()


def _skip(cursor: _Cursor, number: int, count: int, depth: int) -> None:
    if number in _NUMBERS:
        cursor.skip(count * np.dtype(_NUMBERS[number][1]).itemsize)
        return
    if number not in (_TEXT, _ARRAY):
        raise _unknown_value(cursor, number)
    if not depth:
        raise FormatError("gguf", f"its metadata has more than {_MAX_DEPTH} arrays in each other", cursor.at)
    for _ in range(count):
        if number == _TEXT:
            cursor.skip(cursor.u64())
        else:
            _skip(cursor, cursor.u32(), cursor.u64(), depth - 1)


def _unknown_value(cursor: _Cursor, number: int) -> FormatError:
    return FormatError("gguf", f"its metadata has a value of unknown type {number}", cursor.at)


class _Listed(NamedTuple):
    """A tensor as the header lists it: `at` is where, `offset` counts from the beginning of the data."""

    at: int
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def _tensors(cursor: _Cursor, count: int) -> Iterator[_Listed]:
    known: set[str] = set()
    for _ in range(count):
        at = cursor.at
        name = _unique(cursor, known, "it has two tensors named {!r}")
        ndim = cursor.u32()
        if ndim > _MAX_NDIM:
            what = f"{name[:_SHOWN]!r} has {ndim} dimensions, and blobstore reads up to {_MAX_NDIM}"
            raise FormatError("gguf", what, at)
        shape = tuple(cursor.u64() for _ in range(ndim))[::-1]
        yield _Listed(at, name, shape, cursor.u32(), cursor.u64())


def _alignment(metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or value < 1 or value & (value - 1):
        raise FormatError("gguf", f"general.alignment is {str(value)[:_SHOWN]}, expected a power of two")
    return value


def _entry(listed: _Listed, start: int, alignment: int) -> GgufEntry:
    def refuse(what: str) -> FormatError:
        return FormatError("gguf", f"{listed.name[:_SHOWN]!r}: {what}", listed.at)

    stored, shape = BY_NUMBER.get(listed.type), listed.shape
    if stored is None:
        raise refuse(f"its type has the number {listed.type}, which blobstore doesn't know: is it damaged, or newer?")
    if math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise refuse("its shape has too many elements")
    columns = shape[-1] if shape else 1
    if columns % stored.count:
        raise refuse(f"rows of {columns} values are not whole blocks of {stored.name}, which have {stored.count}")
    if listed.offset % alignment:
        raise refuse(f"its offset, {listed.offset}, is not a multiple of the alignment, {alignment}")
    nbytes = math.prod(shape) // stored.count * stored.nbytes
    return GgufEntry(listed.name, stored, shape, start + listed.offset, nbytes)


def _check_layout(entries: list[GgufEntry], file_size: int) -> None:
    """Refuse tensors that overlap, or lie behind the end of the file."""
    end = 0
    for entry in entries:
        if entry.offset < end:
            raise FormatError("gguf", f"{entry.name[:_SHOWN]!r} overlaps the tensor before it", entry.offset)
        end = max(end, entry.offset + entry.nbytes)
    if entries and end > file_size:
        what = f"the tensors end at {end}, the file has {file_size} bytes: truncated download?"
        raise TruncatedError("gguf", what, file_size)
