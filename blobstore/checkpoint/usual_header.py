"""The headers that safetensors itself writes, read faster than any JSON; others are left to the parser."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from blobstore.codecs.element_types import BY_SAFETENSORS
from blobstore.index.records import MAX_NDIM, shape_fault
from blobstore.index.strict_json import parse_json, text_map

if TYPE_CHECKING:
    from blobstore.codecs.element_types import ElementType

# Names without escapes, counts that fit into 63 bits, no white space but at the end. The pattern remembers where each
# dimension ends, so it takes no more of them than a tensor can have.
_COUNT = "(?:0|[1-9][0-9]{0,17})"
_BEGINNING = re.compile(r'\{(?:"__metadata__":(\{[^{}]*\}),)?')
_ENTRY = re.compile(
    r'"([^"\\\x00-\x1f]*)":\{"dtype":"([A-Z0-9_]+)",'
    rf'"shape":\[((?:{_COUNT}(?:,{_COUNT}){{0,{MAX_NDIM - 1}}})?)\],'
    rf'"data_offsets":\[({_COUNT}),({_COUNT})\]\}}(?:,(?=")|\}} *\Z)'
)


class SafetensorsEntry(NamedTuple):
    """One tensor of a .safetensors file.

    Attributes:
        name: Its name.
        type: Its element type.
        shape: In C order.
        offset: Of its first byte, from the beginning of the file.
        nbytes: Its size.
    """

    name: str
    type: ElementType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_usual(text: str, start: int, max_shared: int) -> tuple[list[SafetensorsEntry], dict[str, str]] | None:
    """Return the entries of a header and its metadata; None if it isn't as safetensors writes it, or has a fault.

    Args:
        text: The header.
        start: Where the tensors begin in the file.
        max_shared: How many different shapes are remembered.
    """
    beginning = _BEGINNING.match(text)
    if beginning is None:
        return None
    try:
        metadata = text_map(parse_json((beginning[1] or "{}").encode()))
    except ValueError:
        return None
    known: dict[tuple[str, str], tuple[ElementType, tuple[int, ...], int]] = {}
    entries: list[SafetensorsEntry] = []
    position = beginning.end()
    for match in _ENTRY.finditer(text, position):
        name, dtype, shape_text, begin, end = match.groups()
        described = known.get((dtype, shape_text)) or _described(dtype, shape_text)
        if match.start() != position or described is None or int(end) - int(begin) != described[2]:
            return None
        if len(known) < max_shared:
            known[dtype, shape_text] = described
        position = match.end()
        entries.append(SafetensorsEntry(name, described[0], described[1], start + int(begin), described[2]))
    names = {entry.name for entry in entries}
    whole = position == len(text) and text.rstrip(" ").endswith("}}")
    return (entries, metadata) if whole and len(names) == len(entries) and "__metadata__" not in names else None


def _described(dtype: str, shape_text: str) -> tuple[ElementType, tuple[int, ...], int] | None:
    """Return an element type, a shape and the size of a tensor that has both; None if there is no such tensor."""
    element_type = BY_SAFETENSORS.get(dtype)
    shape = tuple(map(int, shape_text.split(","))) if shape_text else ()
    if element_type is None or shape_fault(shape):
        return None
    count = math.prod(shape)
    return (element_type, shape, element_type.nbytes(count)) if count * element_type.bits % 8 == 0 else None
