"""What two files have beside tensors: metadata, and the runtime's own blobs."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any

from blobstore.container.keys import CONFIG_KEY, RESERVED_KEYS, TOC_KEY
from blobstore.errors import FormatError
from blobstore.fileio.ranges import first_difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blobstore.gemma.config import ModelConfig
    from blobstore.store.reader import Store

_WEIGHT = "weight"  # the config's field that says the weights' type
_SHOWN = 8
_MOST_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class Other:
    """Something but a tensor that two files don't have in common.

    Attributes:
        name: Key of the blob, or of the metadata.
        what: In words.
        storage_only: Whether it says no more than how tensors are stored, which they are compared by themselves.
    """

    name: str
    what: str
    storage_only: bool = False


def metadata_differences(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Other]:
    """Yield each key of the metadata that isn't the same in both."""
    for key in sorted({*a, *b}):
        if a.get(key) != b.get(key):
            yield Other(key, _changed(a.get(key), b.get(key)))


def blob_differences(a: Store, b: Store) -> Iterator[Other]:
    """Yield each of the runtime's blobs (config, tokenizer, toc) that isn't the same in both."""
    for key in sorted(RESERVED_KEYS):
        one, other = a.reader.get(key), b.reader.get(key)
        if one is None or other is None:
            if one is not other:
                yield Other(key, "only in the second" if one is None else "only in the first", key == TOC_KEY)
        elif bytes(one) != bytes(other):
            where = f"byte {first_difference(one, other)} differs"
            fields = _changed_fields(a, b) if key == CONFIG_KEY else {}
            shown = [f"{name} {change}" for name, change in list(fields.items())[:_SHOWN]]
            more = [f"{len(fields) - _SHOWN} more fields"] if len(fields) > _SHOWN else []
            yield Other(key, "; ".join([where, *shown, *more]), key == TOC_KEY or set(fields) == {_WEIGHT})


def _changed_fields(a: Store, b: Store) -> dict[str, str]:
    """Return the fields of the config that differ, and how; none where one of them is damaged."""
    try:
        one, other = a.config, b.config
    except FormatError:
        return {}
    before, after = dict(_fields(one)), dict(_fields(other))
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: _changed(before.get(name), after.get(name)) for name in changed}


def _fields(value: ModelConfig | Any, name: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 (values of fields)
    """Yield every single field, those of records in it by dotted names."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _fields(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, tuple):
        for place, one in enumerate(value):
            yield from _fields(one, f"{name}[{place}]")
    else:
        yield name, value.name.lower() if isinstance(value, enum.Enum) else repr(value)


def _changed(before: str | None, after: str | None) -> str:
    def short(text: str) -> str:
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"

    if before is None:
        return f"added: {short(str(after))}"
    return f"removed: {short(before)}" if after is None else f"{short(before)} → {short(after)}"
