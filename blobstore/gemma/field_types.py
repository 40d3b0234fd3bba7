"""How the runtime serialises single values: as 32-bit words.

Spec: spec/gemma.md, Fields.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from blobstore.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from enum import IntEnum

MAX_WORD = (1 << 32) - 1
MAX_STRING_WORDS = 64
_PACKED = [struct.Struct(f"<{count}I") for count in range(MAX_STRING_WORDS + 1)]  # so many words as bytes
_SHOWN_NBYTES = 40  # of bytes that can't be stored


class Cursor:
    """A position in a sequence of words, and where the record that is being read ends."""

    def __init__(self, words: Sequence[int], position: int, end: int) -> None:
        """Begin at a position."""
        self.words: Sequence[int] = words
        self.position: int = position
        self.end: int = end

    def word(self) -> int:
        """Return the next word.

        Raises:
            FormatError: ``fields-truncated`` when the record ends before it.
        """
        if self.position >= self.end:
            what = f"a record ends at word {self.end}, inside a field"
            raise self.error("fields-truncated", what, self.position)
        word = self.words[self.position]
        self.position += 1
        return word

    def error(self, reason: str, message: str, at: int | None = None) -> FormatError:
        """Return an error that says where: at a word, by default the one that was read last."""
        offset = 4 * (self.position - 1 if at is None else at)
        return FormatError(reason, f"{message}, at offset {offset}", offset)


class FieldType:
    """How values of one type are read and written."""

    def read(self, cursor: Cursor) -> Any:  # noqa: ANN401 (each type has its own values)
        """Read one value.

        Raises:
            FormatError: ``fields-…``.
        """
        raise NotImplementedError

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401 (each type has its own values)
        """Append one value's words.

        Raises:
            ValueError: It can't be stored.
        """
        raise NotImplementedError

    def read_many(self, cursor: Cursor, count: int) -> tuple[Any, ...]:
        """Read so many values: at most as many as words follow.

        Raises:
            FormatError: ``fields-…``.
        """
        return tuple(self.read(cursor) for _ in range(count))


class _U32(FieldType):
    def read(self, cursor: Cursor) -> int:
        return cursor.word()

    def read_many(self, cursor: Cursor, count: int) -> tuple[int, ...]:
        start = cursor.position
        cursor.position += count
        return tuple(cursor.words[start : cursor.position])

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        if int(value) != value or not 0 <= value <= MAX_WORD:
            raise ValueError(f"{value!r} is not an unsigned 32-bit number")
        words.append(int(value))


class _I32(FieldType):
    def read(self, cursor: Cursor) -> int:
        word = cursor.word()
        return word - (1 << 32) if word >> 31 else word

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        if int(value) != value or not -(1 << 31) <= value < 1 << 31:
            raise ValueError(f"{value!r} is not a 32-bit number")
        words.append(int(value) & MAX_WORD)


class _F32(FieldType):
    def read(self, cursor: Cursor) -> float:
        value: float = struct.unpack("<f", struct.pack("<I", cursor.word()))[0]
        if not math.isfinite(value):
            raise cursor.error("fields-number", f"{value} is not finite")
        return value

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        if not math.isfinite(value):
            raise ValueError(f"{value} is not finite")
        try:
            words.append(struct.unpack("<I", struct.pack("<f", value))[0])
        except OverflowError:
            raise ValueError(f"{value} is beyond 32-bit floats") from None


class _Bool(FieldType):
    def read(self, cursor: Cursor) -> bool:
        word = cursor.word()
        if word > 1:
            raise cursor.error("fields-bool", f"{word} is neither 0 nor 1")
        return bool(word)

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        if value not in (0, 1):
            raise ValueError(f"{value!r} is neither true nor false")
        words.append(int(value))


class _String(FieldType):
    def read(self, cursor: Cursor) -> str:
        count = cursor.word()
        if count > MAX_STRING_WORDS:
            raise cursor.error("fields-string", f"a string of {count} words is longer than {MAX_STRING_WORDS}")
        raw = b"".join(cursor.word().to_bytes(4, "little") for _ in range(count))
        text = raw.rstrip(b"\0")
        if b"\0" not in text and len(text) > 4 * (count - 1):
            try:
                return text.decode()
            except UnicodeDecodeError:
                pass
        raise cursor.error("fields-string", f"{raw!r} is not UTF-8 text, padded with zeros to whole words")

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        raw = value.encode()  # a lone surrogate raises ValueError, too
        if b"\0" in raw or len(raw) > 4 * MAX_STRING_WORDS:
            raise ValueError(f"{value!r} is not text without NUL of at most {4 * MAX_STRING_WORDS} bytes")
        raw += bytes(-len(raw) % 4)
        words.append(len(raw) // 4)
        words.extend(struct.unpack(f"<{len(raw) // 4}I", raw))


class _Bytes(FieldType):
    """A string of any bytes but a whole word of zeros, and a zero at the end: what later runtimes take for text."""

    def read(self, cursor: Cursor) -> bytes:
        count = cursor.word()
        if count > MAX_STRING_WORDS:
            raise cursor.error("fields-string", f"a string of {count} words is longer than {MAX_STRING_WORDS}")
        if count > cursor.end - cursor.position:
            raise cursor.error("fields-truncated", f"a record ends at word {cursor.end}, inside a string", cursor.end)
        start = cursor.position
        cursor.position += count
        chunk = cursor.words[start : cursor.position]
        if 0 in chunk:
            raise cursor.error("fields-string", "a string has a word of zeros", start + chunk.index(0))
        return _PACKED[count].pack(*chunk).rstrip(b"\0")

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        fault = bytes_fault(value)
        if fault:
            raise ValueError(f"{value[:_SHOWN_NBYTES]!r} {fault}")
        packed = _packed(value)
        words.append(len(packed))
        words.extend(packed)


def _packed(value: bytes) -> tuple[int, ...]:
    """Return at most 256 bytes as words, the last one filled up with zeros."""
    count = -(-len(value) // 4)
    return _PACKED[count].unpack(value.ljust(4 * count, b"\0"))


def bytes_fault(value: bytes) -> str:
    """Return why bytes can't be a string of later runtimes; empty if they can."""
    if len(value) > 4 * MAX_STRING_WORDS:
        return f"has {len(value)} bytes: a string has at most {4 * MAX_STRING_WORDS}"
    if b"\0" in value and (value.endswith(b"\0") or 0 in _packed(value)):
        return "has a NUL at its end, or four in a row that are a word: a string ends there"
    return ""


U32: FieldType = _U32()
I32: FieldType = _I32()
F32: FieldType = _F32()
BOOL: FieldType = _Bool()
STRING: FieldType = _String()
BYTES: FieldType = _Bytes()


class EnumType(FieldType):
    """The number of a member of an enumeration."""

    def __init__(self, of: type[IntEnum]) -> None:
        """Take the enumeration."""
        self._of = of

    def read(self, cursor: Cursor) -> IntEnum:
        """Read one member."""
        return self._of(cursor.word())

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        """Append the number of a member, which may be given by its number."""
        words.append(int(self._of(value)))


class VectorType(FieldType):
    """A number of values of one type, preceded by their count.

    Each has at least one word, so a larger count than that of the words that follow is refused, and nothing allocated.
    """

    def __init__(self, of: FieldType, limit: int) -> None:
        """Take the values' type, and how many there may be."""
        self._of = of
        self._limit = limit

    def read(self, cursor: Cursor) -> tuple[Any, ...]:
        """Read all values."""
        count = cursor.word()
        if count > self._limit or count > cursor.end - cursor.position:
            raise cursor.error("fields-vector", f"{count} elements are more than the record can hold")
        return self._of.read_many(cursor, count)

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        """Append the count and all values."""
        if isinstance(value, str):
            raise ValueError(f"{value!r} is one text, not several")
        if len(value) > self._limit:
            raise ValueError(f"{len(value)} elements are more than {self._limit}")
        words.append(len(value))
        for element in value:
            self._of.write(element, words)


def words_of(raw: bytes | memoryview) -> tuple[int, ...]:
    """Return bytes as 32-bit words.

    Raises:
        FormatError: ``fields-size`` when there are no bytes, or not whole words.
    """
    if not len(raw) or len(raw) % 4:
        raise FormatError("fields-size", f"{len(raw)} bytes are not a whole number of 32-bit words", 0)
    return struct.unpack(f"<{len(raw) // 4}I", raw)


def bytes_of(words: Sequence[int]) -> bytes:
    """Return 32-bit words as bytes."""
    return struct.pack(f"<{len(words)}I", *words)
