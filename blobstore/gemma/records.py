"""The runtime's serialisation of records as 32-bit words, and its rule for growing them.

A record is a number of words that follow, then its fields in order; fields are only ever appended. So words beyond the
fields that are known here are skipped when reading, and fields that an older file lacks keep their defaults. What was
read is written back as it was: as many fields, and the words behind them.

Spec: spec/gemma.md, Fields.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import struct
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

from blobstore.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


MAX_STRING_WORDS = 64
MAX_VECTOR = 8 << 20
MAX_RECORDS = 65536  # in a vector: far more layers than any runtime takes, and each is an object of some 400 bytes here
_MAX_WORD = (1 << 32) - 1
_KIND, _WHEN = "kind", "when"


class OpenEnum(enum.IntEnum):
    """An enumeration that later versions of the runtime append to: an unknown number is a member called NEWER_<it>."""

    @classmethod
    def _missing_(cls, value: object) -> OpenEnum | None:
        if type(value) is not int or not 0 <= value <= _MAX_WORD:
            return None
        member = int.__new__(cls, value)
        member._name_ = f"NEWER_{value}"
        member._value_ = value
        return member

    @property
    def is_newer(self) -> bool:
        """Whether this version doesn't know the number."""
        return self not in type(self).__members__.values()


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
    def __init__(self, of: type[OpenEnum]) -> None:
        self._of = of

    def read(self, cursor: Cursor) -> OpenEnum:
        return self._of(cursor.word())

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        words.append(int(self._of(value)))


class _String(Kind):
    def read(self, cursor: Cursor) -> str:
        count = cursor.word()
        if count > MAX_STRING_WORDS:
            raise cursor.error("fields-string", f"a text of {count} words is longer than {MAX_STRING_WORDS}")
        raw = b"".join(cursor.word().to_bytes(4, "little") for _ in range(count))
        text = raw.rstrip(b"\0")
        if b"\0" not in text and len(text) > 4 * (count - 1):
            try:
                return text.decode()
            except UnicodeDecodeError:
                pass
        raise cursor.error("fields-string", f"{raw!r} is not UTF-8 text, filled with zeros to whole words")

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        raw = value.encode()  # a lone surrogate raises ValueError, too
        if b"\0" in raw or len(raw) > 4 * MAX_STRING_WORDS:
            raise ValueError(f"{value!r} is not text without NUL of at most {4 * MAX_STRING_WORDS} bytes")
        raw += bytes(-len(raw) % 4)
        words.append(len(raw) // 4)
        words.extend(struct.unpack(f"<{len(raw) // 4}I", raw))


class _Vector(Kind):
    def __init__(self, of: Kind) -> None:
        self._of = of

    @property
    def _most(self) -> int:
        return MAX_RECORDS if isinstance(self._of, _Record) else MAX_VECTOR

    def read(self, cursor: Cursor) -> tuple[Any, ...]:
        count = cursor.word()
        # Each element has at least one word: a count beyond them is refused before anything is made for it.
        if count > self._most or count > cursor.end - cursor.position:
            raise cursor.error("fields-vector", f"{count} elements are more than a record has room for")
        return tuple(self._of.read(cursor) for _ in range(count))

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        if isinstance(value, str):
            raise ValueError(f"{value!r} is one text, not several")
        if len(value) > self._most:
            raise ValueError(f"{len(value)} elements are more than {self._most}")
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


def of(kind: Kind, default: Any = 0, *, when: str = "") -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field of a record.

    Args:
        kind: How it is stored.
        default: Its value in files that don't have it yet.
        when: Name of a bool before it: the field is there only if that is true.
    """
    return dataclasses.field(default=default, metadata={_KIND: kind, _WHEN: when})


def choice(default: OpenEnum) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field that is one of an enumeration."""
    return of(_Enum(type(default)), default)


def many(kind: Kind, *, when: str = "") -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field of several values, a tuple."""
    return of(_Vector(kind), (), when=when)


def records(kind: type[Record], *, when: str = "") -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field of several records, a tuple."""
    return of(_Vector(_Record(lambda: kind)), (), when=when)


def record(default: Record) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field that is a record."""
    return of(_Record(lambda: type(default)), default)


class _Field(NamedTuple):
    """A declared field."""

    name: str
    kind: Kind
    when: str
    default: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Base of all records: frozen dataclasses whose fields are declared with `of` and its siblings.

    A record that is made here has the fields that every runtime reads (`CORE`), and more only up to the last one that
    isn't its default. One that was read is written with as many fields as it had.

    Attributes:
        newer: Words behind the last field that is known here, kept for writing back.
        extent: How many fields it has at least; None for no more than it takes.
    """

    newer: tuple[int, ...] = ()
    extent: int | None = None

    CORE: ClassVar[int] = 1 << 32  # all, where runtimes never differed
    _fields_cache: ClassVar[dict[type, list[_Field]]] = {}
    _empty_cache: ClassVar[dict[type, Record]] = {}

    @classmethod
    def fields(cls) -> list[_Field]:
        """Return the declared fields, in the order of the file."""
        found = Record._fields_cache.get(cls)
        if found is None:
            declared = [one for one in dataclasses.fields(cls) if _KIND in one.metadata]
            found = [_Field(one.name, one.metadata[_KIND], one.metadata[_WHEN], one.default) for one in declared]
            Record._fields_cache[cls] = found
        return found

    @property
    def field_count(self) -> int:
        """How many fields are written, those counted that a condition leaves out."""
        fields = self.fields()
        if self.newer:
            return len(fields)
        least = min(self.CORE, len(fields))
        count = least if self.extent is None else min(max(self.extent, 0), len(fields))
        changed = (i + 1 for i in range(count, len(fields)) if getattr(self, fields[i].name) != fields[i].default)
        return max(changed, default=count)

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read a record and leave the cursor behind it.

        Raises:
            FormatError: ``fields-truncated``, ``fields-number``, ``fields-bool``, ``fields-string``,
                ``fields-vector``; the offset is in bytes.
        """
        count = cursor.word()
        if count > cursor.end - cursor.position:
            room = cursor.end - cursor.position
            raise cursor.error("fields-truncated", f"{cls.__name__} says it has {count} words, there are {room}")
        inner = Cursor(cursor.words, cursor.position, cursor.position + count)
        values: dict[str, Any] = {}
        extent = 0
        for name, kind, when, _ in cls.fields():
            if not when or values[when]:
                if inner.position == inner.end:  # an older file
                    break
                values[name] = kind.read(inner)
            extent += 1
        cursor.position = inner.end
        if not count:
            return cls._empty()
        # Other fields keep their defaults, as the class has them: memory is in proportion to what is read.
        made = cls.__new__(cls)
        vars(made).update(values)
        if inner.position < inner.end:
            vars(made)["newer"] = tuple(inner.words[inner.position : inner.end])
        whole = extent == len(cls.fields()) <= cls.CORE  # nearly all of them, and a toc has many
        if not whole and made.field_count != extent:
            vars(made)["extent"] = extent
        return made

    @classmethod
    def _empty(cls) -> Self:
        """Return a record without fields; one for all, as four bytes of a file are enough to ask for it."""
        if cls not in Record._empty_cache:
            Record._empty_cache[cls] = cls(extent=0)
        return cast("Self", Record._empty_cache[cls])

    def write(self, words: list[int]) -> None:
        """Append the record's words.

        Raises:
            UsageError: ``bad-field`` for a value that can't be written.
        """
        start = len(words)
        words.append(0)
        for name, kind, when, default in self.fields()[: self.field_count]:
            value = getattr(self, name)
            try:
                if not when or getattr(self, when):
                    kind.write(value, words)
                elif value != default:
                    raise ValueError(f"it is there only when {when} is true")
            except (ValueError, TypeError, AttributeError) as error:
                raise UsageError("bad-field", f"{type(self).__name__}.{name}: {error}") from None
        if not all(type(word) is int and 0 <= word <= _MAX_WORD for word in self.newer):
            raise UsageError("bad-field", f"{type(self).__name__}.newer: {self.newer} are not 32-bit words")
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
