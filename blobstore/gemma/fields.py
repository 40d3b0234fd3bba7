"""The runtime's serialisation of records as 32-bit words, and its rule for growing them.

A record is a number of words that follow, then its fields in order; fields are only ever appended. So words beyond the
fields that are known here are skipped when reading and kept for writing back, and fields that an older file lacks keep
their defaults.

Spec: spec/gemma.md, Fields.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import TYPE_CHECKING, Any, ClassVar, Self

from blobstore.errors import FormatError, UsageError

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Sequence


MAX_STRING_WORDS = 64
MAX_VECTOR = 65536
_KIND = "kind"


class Cursor:
    """A place in a sequence of words, and where the record that is being read ends."""

    def __init__(self, words: Sequence[int], position: int, end: int) -> None:
        """Begin at a position."""
        self.words, self.position, self.end = words, position, end

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


class Kind:
    """How one sort of field is read and written."""

    def read(self, cursor: Cursor) -> Any:  # noqa: ANN401 (each kind has its own type)
        """Read one value."""
        raise NotImplementedError

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401 (each kind has its own type)
        """Append one value's words; raises ValueError for one that can't be written."""
        raise NotImplementedError


class _U32(Kind):
    def read(self, cursor: Cursor) -> int:
        return cursor.word()

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        if int(value) != value or not 0 <= value < 1 << 32:
            raise ValueError(f"{value!r} is no unsigned 32-bit number")
        words.append(int(value))


class _I32(Kind):
    def read(self, cursor: Cursor) -> int:
        word = cursor.word()
        return word - (1 << 32) if word >> 31 else word

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        if int(value) != value or not -(1 << 31) <= value < 1 << 31:
            raise ValueError(f"{value!r} is no 32-bit number")
        words.append(int(value) & 0xFFFFFFFF)


class _F32(Kind):
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


class _Bool(Kind):
    def read(self, cursor: Cursor) -> bool:
        word = cursor.word()
        if word > 1:
            raise cursor.error("fields-bool", f"{word} is neither 0 nor 1")
        return bool(word)

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        if value not in (0, 1):
            raise ValueError(f"{value!r} is neither true nor false")
        words.append(int(value))


class _Enum(Kind):
    def __init__(self, of: type[enum.IntEnum]) -> None:
        self._of = of

    def read(self, cursor: Cursor) -> enum.IntEnum:
        word = cursor.word()
        try:
            return self._of(word)
        except ValueError:
            raise cursor.error("fields-enum", f"{word} is no {self._of.__name__}") from None

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        words.append(int(self._of(value)))


class _String(Kind):
    def read(self, cursor: Cursor) -> str:
        count = cursor.word()
        if count > MAX_STRING_WORDS:
            raise cursor.error("fields-string", f"a text of {count} words is longer than {MAX_STRING_WORDS}")
        raw = b"".join(cursor.word().to_bytes(4, "little") for _ in range(count))
        text = raw.rstrip(b"\0")
        if not text.isascii() or b"\0" in text or len(text) <= 4 * (count - 1):
            raise cursor.error("fields-string", f"{raw!r} is no ASCII text, filled with zeros to whole words")
        return text.decode("ascii")

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        if not value.isascii() or "\0" in value or len(value) > 4 * MAX_STRING_WORDS:
            raise ValueError(f"{value!r} is no ASCII text of at most {4 * MAX_STRING_WORDS} characters")
        raw = value.encode("ascii")
        raw += bytes(-len(raw) % 4)
        words.append(len(raw) // 4)
        words.extend(struct.unpack(f"<{len(raw) // 4}I", raw))


class _Vector(Kind):
    def __init__(self, of: Kind) -> None:
        self._of = of

    def read(self, cursor: Cursor) -> tuple[Any, ...]:
        count = cursor.word()
        # Each element has at least one word: a count beyond them is refused before anything is made for it.
        if count > MAX_VECTOR or count > cursor.end - cursor.position:
            raise cursor.error("fields-vector", f"{count} elements are more than a record has room for")
        return tuple(self._of.read(cursor) for _ in range(count))

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        if isinstance(value, str):
            raise ValueError(f"{value!r} is one text, not several")
        if len(value) > MAX_VECTOR:
            raise ValueError(f"{len(value)} elements are more than {MAX_VECTOR}")
        words.append(len(value))
        for one in value:
            self._of.write(one, words)


class _Record(Kind):
    def __init__(self, of: Callable[[], type[Record]]) -> None:
        self._of = of

    def read(self, cursor: Cursor) -> Record:
        return self._of().read(cursor)

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        value.write(words)


U32, I32, F32, BOOL, STRING = _U32(), _I32(), _F32(), _Bool(), _String()


def of(kind: Kind, default: Any = 0) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field of a record: how it is stored, and its value in files that don't have it yet."""
    return dataclasses.field(default=default, metadata={_KIND: kind})


def choice(default: enum.IntEnum) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field that is one of an enumeration."""
    return of(_Enum(type(default)), default)


def many(kind: Kind) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field of several values, a tuple."""
    return of(_Vector(kind), ())


def records(kind: type[Record]) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field of several records, a tuple."""
    return of(_Vector(_Record(lambda: kind)), ())


def record(default: Record) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field that is a record."""
    return of(_Record(lambda: type(default)), default)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Base of all records: frozen dataclasses whose fields are declared with `of` and its siblings.

    Attributes:
        newer: Words behind the last field that is known here, kept for writing back.
    """

    newer: tuple[int, ...] = ()

    _kinds_cache: ClassVar[dict[type, list[tuple[str, Kind]]]] = {}

    @classmethod
    def _kinds(cls) -> list[tuple[str, Kind]]:
        kinds = Record._kinds_cache.get(cls)
        if kinds is None:
            kinds = [(one.name, one.metadata[_KIND]) for one in dataclasses.fields(cls) if _KIND in one.metadata]
            Record._kinds_cache[cls] = kinds
        return kinds

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read a record and leave the cursor behind it.

        Raises:
            FormatError: ``fields-truncated``, ``fields-number``, ``fields-bool``, ``fields-enum``, ``fields-string``,
                ``fields-vector``; the offset is in bytes.
        """
        count = cursor.word()
        if count > cursor.end - cursor.position:
            room = cursor.end - cursor.position
            raise cursor.error("fields-truncated", f"{cls.__name__} says it has {count} words, there are {room}")
        inner = Cursor(cursor.words, cursor.position, cursor.position + count)
        values: dict[str, Any] = {}
        for name, kind in cls._kinds():
            if inner.position == inner.end:  # an older file
                break
            values[name] = kind.read(inner)
        cursor.position = inner.end
        return cls(**values, newer=tuple(inner.words[inner.position : inner.end]))

    def write(self, words: list[int]) -> None:
        """Append the record's words.

        Raises:
            UsageError: ``bad-field`` for a value that can't be written.
        """
        start = len(words)
        words.append(0)
        for name, kind in self._kinds():
            try:
                kind.write(getattr(self, name), words)
            except (ValueError, TypeError, AttributeError) as error:
                raise UsageError("bad-field", f"{type(self).__name__}.{name}: {error}") from None
        if not all(0 <= word < 1 << 32 for word in self.newer):
            raise UsageError("bad-field", f"{type(self).__name__}.newer: {self.newer} are no 32-bit words")
        words.extend(self.newer)
        words[start] = len(words) - start - 1


def words_of(raw: bytes | memoryview) -> tuple[int, ...]:
    """Return bytes as 32-bit words.

    Raises:
        FormatError: ``fields-size`` when they aren't whole words, or none.
    """
    if not len(raw) or len(raw) % 4:
        raise FormatError("fields-size", f"{len(raw)} bytes are not a whole number of 32-bit words", 0)
    return struct.unpack(f"<{len(raw) // 4}I", raw)


def bytes_of(words: Sequence[int]) -> bytes:
    """Return 32-bit words as bytes."""
    return struct.pack(f"<{len(words)}I", *words)
