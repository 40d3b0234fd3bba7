"""The runtime's records, and its rule for growing them.

A record is a count of words, then its fields in order; fields are only ever appended. So words beyond the fields that
are known here are skipped when reading, and fields that an older file lacks keep their defaults. What was read is
written back as it was: as many fields, and the words behind them.

Spec: spec/gemma.md, Fields.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

from blobstore.errors import UsageError
from blobstore.gemma.field_types import MAX_WORD, Cursor, EnumType, FieldType, VectorType

if TYPE_CHECKING:
    from blobstore.gemma.enums import OpenEnum

MAX_VECTOR = 8 << 20
MAX_RECORDS = 65536  # in a vector: far more layers than any runtime takes, and each is an object of some 400 bytes here
_TYPE, _WHEN = "type", "when"


def of(field_type: FieldType, default: Any = 0, *, when: str = "") -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field of a record.

    Args:
        field_type: How it is stored.
        default: Its value in files that don't have it yet.
        when: Name of a bool before it: the field is there only if that is true.
    """
    return dataclasses.field(default=default, metadata={_TYPE: field_type, _WHEN: when})


def choice(default: OpenEnum) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field that is a member of an enumeration."""
    return of(EnumType(type(default)), default)


def many(field_type: FieldType, *, when: str = "", limit: int = MAX_VECTOR) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field of several values, a tuple of at most so many."""
    return of(VectorType(field_type, limit), (), when=when)


def records(record_type: type[Record], *, when: str = "", limit: int = MAX_RECORDS) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field of several records, a tuple of at most so many."""
    return of(VectorType(_RecordType(record_type), limit), (), when=when)


def record(default: Record) -> Any:  # noqa: ANN401 (a dataclass field stands for its value)
    """Declare a field that is a record."""
    return of(_RecordType(type(default)), default)


def record_nbytes(beginning: bytes | memoryview) -> int:
    """Return how many bytes a record has, by its first four."""
    return 4 * (1 + int.from_bytes(beginning[:4], "little"))


class _RecordType(FieldType):
    def __init__(self, of: type[Record]) -> None:
        self._of = of

    def read(self, cursor: Cursor) -> Record:
        return self._of.read(cursor)

    def write(self, value: Any, words: list[int]) -> None:  # noqa: ANN401
        value.write(words)


class _Field(NamedTuple):
    """A declared field."""

    name: str
    type: FieldType
    when: str
    default: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Base of all records: frozen dataclasses whose fields are declared with `of` and its siblings.

    A record that is made here has the fields that every runtime reads (`CORE`), and more only up to the last one that
    isn't its default. One that was read is written with as many fields as it had.

    Attributes:
        newer: Words behind the last field that is known here, kept for writing back.
        extent: How many fields it has at least; None for no more than it needs.
    """

    newer: tuple[int, ...] = ()
    extent: int | None = None

    CORE: ClassVar[int] = 1 << 32  # all, where runtimes never differed
    _fields_cache: ClassVar[dict[type, list[_Field]]] = {}
    _empty_cache: ClassVar[dict[type, Record]] = {}

    @classmethod
    def fields(cls) -> list[_Field]:
        """Return the declared fields, in the order of the file."""
        fields = Record._fields_cache.get(cls)
        if fields is None:
            declared = [field for field in dataclasses.fields(cls) if _TYPE in field.metadata]
            fields = [
                _Field(field.name, field.metadata[_TYPE], field.metadata[_WHEN], field.default) for field in declared
            ]
            Record._fields_cache[cls] = fields
        return fields

    @property
    def field_count(self) -> int:
        """How many fields are written, counting those that a condition leaves out."""
        fields = self.fields()
        if self.newer:
            return len(fields)
        least = min(self.CORE, len(fields))
        count = least if self.extent is None else min(max(self.extent, 0), len(fields))
        changed = (i + 1 for i in range(count, len(fields)) if getattr(self, fields[i].name) != fields[i].default)
        return max(changed, default=count)

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read a record, and leave the cursor behind it.

        Raises:
            FormatError: ``fields-truncated``, ``fields-number``, ``fields-bool``, ``fields-string``,
                ``fields-vector``; the offset is in bytes.
        """
        count = cursor.word()
        if count > cursor.end - cursor.position:
            rest = cursor.end - cursor.position
            raise cursor.error("fields-truncated", f"{cls.__name__} says it has {count} words, {rest} follow")
        inner = Cursor(cursor.words, cursor.position, cursor.position + count)
        values: dict[str, Any] = {}
        extent = 0
        for name, field_type, when, _ in cls.fields():
            if not when or values[when]:
                if inner.position == inner.end:  # an older file
                    break
                values[name] = field_type.read(inner)
            extent += 1
        cursor.position = inner.end
        if not count:
            return cls._empty()
        # Other fields keep the class's defaults: this uses memory proportional to what is read.
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
        """Return a record without fields, always the same one: four bytes of a file are enough to ask for it."""
        if cls not in Record._empty_cache:
            Record._empty_cache[cls] = cls(extent=0)
        return cast("Self", Record._empty_cache[cls])

    def write(self, words: list[int]) -> None:
        """Append the record's words.

        Raises:
            UsageError: ``bad-field`` for a value that can't be stored.
        """
        start = len(words)
        words.append(0)
        for name, field_type, when, default in self.fields()[: self.field_count]:
            value = getattr(self, name)
            try:
                if not when or getattr(self, when):
                    field_type.write(value, words)
                elif value != default:
                    raise ValueError(f"it exists only when {when} is true")
            except (ValueError, TypeError, AttributeError) as error:
                raise UsageError("bad-field", f"{type(self).__name__}.{name}: {error}") from None
        if not all(type(word) is int and 0 <= word <= MAX_WORD for word in self.newer):
            raise UsageError("bad-field", f"{type(self).__name__}.newer: {self.newer} are not 32-bit words")
        words.extend(self.newer)
        words[start] = len(words) - start - 1
