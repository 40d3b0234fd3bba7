"""Compare what files hold besides tensors: metadata, the runtime's own blobs, and a model's other files."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any

from blobstore.container.keys import CONFIG_KEY, RESERVED_KEYS, TOC_KEY
from blobstore.errors import FormatError
from blobstore.fileio.ranges import first_byte_between, first_difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from blobstore.fileio.ranges import FileRange
    from blobstore.gemma.config import ModelConfig
    from blobstore.store.reader import Store

_WEIGHT = "weight"  # the config's field for the weights' type
_SHOWN = 8
_MOST_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class OtherDifference:
    """A difference between two files that isn't in a tensor.

    Attributes:
        name: Key of the blob, or of the metadata.
        what: The difference, in words.
        storage_only: Whether it only concerns how tensors are stored, which comparing the tensors shows anyway.
    """

    name: str
    what: str
    storage_only: bool = False


@dataclasses.dataclass(frozen=True)
class FileDifference:
    """A difference between the files that go with a model.

    Attributes:
        name: Of the file.
        what: The difference, in words.
        in_both: Whether both sides have it.
    """

    name: str
    what: str
    in_both: bool


def file_differences(
    a: Mapping[str, FileRange], b: Mapping[str, FileRange], names: Iterable[str]
) -> Iterator[FileDifference]:
    """Yield each of these files that differs."""
    for name in sorted(names):
        if name not in a or name not in b:
            yield FileDifference(name, "only in the second" if name not in a else "only in the first", in_both=False)
            continue
        at = first_byte_between(a[name], b[name])
        if at is not None:
            yield FileDifference(name, f"byte {at} differs", in_both=True)


def metadata_differences(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[OtherDifference]:
    """Yield each metadata key whose text differs."""
    for key in sorted({*a, *b}):
        if a.get(key) != b.get(key):
            yield OtherDifference(key, _changed(a.get(key), b.get(key)))


def blob_differences(a: Store, b: Store) -> Iterator[OtherDifference]:
    """Yield each of the runtime's blobs (config, tokenizer, toc) that differs."""
    for key in sorted(RESERVED_KEYS):
        blob_a, blob_b = a.reader.get(key), b.reader.get(key)
        if blob_a is None or blob_b is None:
            if blob_a is not blob_b:
                yield OtherDifference(
                    key, "only in the second" if blob_a is None else "only in the first", key == TOC_KEY
                )
        elif bytes(blob_a) != bytes(blob_b):
            where = f"byte {first_difference(blob_a, blob_b)} differs"
            fields = _changed_fields(a, b) if key == CONFIG_KEY else {}
            shown = [f"{name} {change}" for name, change in list(fields.items())[:_SHOWN]]
            more = [f"{len(fields) - _SHOWN} more fields"] if len(fields) > _SHOWN else []
            yield OtherDifference(key, "; ".join([where, *shown, *more]), key == TOC_KEY or set(fields) == {_WEIGHT})


def _changed_fields(a: Store, b: Store) -> dict[str, str]:
    """Return the fields of the config that differ, and how; none if a config is damaged."""
    try:
        config_a, config_b = a.config, b.config
    except FormatError:
        return {}
    before, after = dict(_fields(config_a)), dict(_fields(config_b))
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: _changed(before.get(name), after.get(name)) for name in changed}


def _fields(value: ModelConfig | Any, name: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 (values of fields)
    """Yield every field by name; those of nested records by dotted names."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _fields(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, tuple):
        for place, item in enumerate(value):
            yield from _fields(item, f"{name}[{place}]")
    else:
        yield name, value.name.lower() if isinstance(value, enum.Enum) else repr(value)


def _changed(before: str | None, after: str | None) -> str:
    def short(text: str) -> str:
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"

    if before is None:
        return f"added: {short(str(after))}"
    return f"removed: {short(before)}" if after is None else f"{short(before)} → {short(after)}"
