"""The header of a .safetensors file: parsed, and made.

Parsed here because safetensors' own numpy interface has no bfloat16, and because bytes are copied by range, not by
tensor. The rules are the format's published ones: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from blobstore.checkpoint.usual_header import SafetensorsEntry, read_usual
from blobstore.codecs.element_types import BY_SAFETENSORS, ElementType
from blobstore.errors import FormatError, TruncatedError, UsageError
from blobstore.index.records import MAX_ELEMENTS
from blobstore.index.strict_json import are_sizes, parse_json, text_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_HEADER_NBYTES = 100_000_000
_LENGTH_NBYTES = 8
_FIELDS = {"dtype", "shape", "data_offsets"}
_MAX_SHARED_SHAPES = 4096
_MAX_SIZE = 1 << 63  # of a dimension or an offset, exclusive


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a .safetensors file says of itself: its tensors, in the order of their bytes, and metadata."""

    entries: list[SafetensorsEntry]
    metadata: dict[str, str]


def parse_header(
    read: Callable[[int, int], bytes | memoryview], file_size: int, *, max_shared_shapes: int = _MAX_SHARED_SHAPES
) -> SafetensorsHeader:
    """Check a .safetensors file's header.

    Args:
        read: Given (offset, nbytes) inside the file, returns these bytes.
        file_size: In bytes.
        max_shared_shapes: How many shapes are remembered, so that tensors of one shape share it.

    Raises:
        FormatError, TruncatedError: ``safetensors-header``, ``safetensors-entry`` (one tensor's entry is wrong),
            ``safetensors-layout`` (holes, overlaps, bytes that belong to no tensor).
    """
    if file_size < _LENGTH_NBYTES:
        raise TruncatedError("safetensors-header", f"the file has {file_size} bytes, but its length alone takes 8", 0)
    length = int.from_bytes(read(0, _LENGTH_NBYTES), "little")
    if length > MAX_HEADER_NBYTES:
        message = f"a header of {length} bytes is more than {MAX_HEADER_NBYTES}: this is not a safetensors file"
        raise FormatError("safetensors-header", message, 0)
    start = _LENGTH_NBYTES + length
    if start > file_size:
        raise TruncatedError(
            "safetensors-header", f"a header of {length} bytes in a file of {file_size}: truncated download?", 0
        )
    first = bytes(read(_LENGTH_NBYTES, min(1, length)))
    if first != b"{":
        message = f"expected '{{' at offset 8, found {first!r}: this is not a safetensors file"
        raise FormatError("safetensors-header", message, 8)
    raw = bytes(read(_LENGTH_NBYTES, length))
    try:
        usual = read_usual(raw.decode(), start, max_shared_shapes)
    except ValueError:  # not UTF-8, which is told below
        usual = None
    if usual is not None:
        return _in_order(*usual, start, file_size)
    try:
        header = parse_json(raw, _Compact(max_shared_shapes))
        if not isinstance(header, dict) or isinstance(header.get("__metadata__"), tuple):
            header = parse_json(bytes(read(_LENGTH_NBYTES, length)))  # an object that only looks like a tensor's
        metadata = text_map(header.pop("__metadata__", {}))
    except ValueError as error:
        raise FormatError("safetensors-header", f"the header is wrong: {error}", _LENGTH_NBYTES) from None
    # An entry takes the memory of the JSON that it is made from.
    entries = [_parse_entry(name, header.pop(name), start) for name in list(header)]
    return _in_order(entries, metadata, start, file_size)


def _in_order(
    entries: list[SafetensorsEntry], metadata: dict[str, str], start: int, file_size: int
) -> SafetensorsHeader:
    """Return a header whose tensors are in the order of their bytes, which has been checked."""
    entries.sort(key=attrgetter("offset", "nbytes"))
    _check_layout(entries, start, file_size)
    return SafetensorsHeader(entries, metadata)


def dump_header(
    tensors: Iterable[tuple[str, ElementType, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return the bytes before those of the tensors, which follow in the same order without gaps.

    Raises:
        UsageError: ``no-safetensors-type`` when safetensors can't hold a tensor; ``duplicate-name``; ``bad-name``.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, element_type, shape in tensors:
        if element_type.safetensors is None:
            what = f"{name!r} is {element_type}, which safetensors can't hold: decode it"
            raise UsageError("no-safetensors-type", what)
        if name in header or name == "__metadata__":
            raise UsageError("duplicate-name", f"{name!r} is used twice, or reserved by safetensors")
        count = _product(shape)
        if count * element_type.bits % 8:
            what = f"{name!r}: {count} elements of {element_type} are not a whole number of bytes"
            raise UsageError("no-safetensors-type", what)
        end = position + element_type.nbytes(count)
        header[name] = {"dtype": element_type.safetensors, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise UsageError("bad-name", f"a name or the metadata is not Unicode text: {error.reason}") from None
    text += b" " * (-len(text) % _LENGTH_NBYTES)  # so that the first tensor is aligned
    return len(text).to_bytes(_LENGTH_NBYTES, "little") + text


class _Compact:
    """Turns a tensor's JSON object into (dtype, shape, begin, end), which halves the memory of many."""

    def __init__(self, max_shared_shapes: int) -> None:
        self._max_shared_shapes = max_shared_shapes
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # most tensors have the shape of another

    def __call__(self, value: dict[str, Any]) -> object:
        if _fault(value):
            return value
        shape = tuple(value["shape"])
        if len(self._shapes) < self._max_shared_shapes:
            shape = self._shapes.setdefault(shape, shape)
        return (BY_SAFETENSORS[value["dtype"]].safetensors, shape, *value["data_offsets"])


def _fault(value: object) -> str:
    """Return why a JSON value can't be a tensor's, whatever its name; empty when it can."""
    # Unknown fields are allowed, as they are in safetensors.
    if not isinstance(value, dict) or not value.keys() >= _FIELDS:
        return "expected dtype, shape and data_offsets"
    dtype = value["dtype"]
    if not isinstance(dtype, str):
        return "dtype must be a text"
    if dtype not in BY_SAFETENSORS:
        return f"dtype {dtype[:80]!r} is not known"
    shape, offsets = value["shape"], value["data_offsets"]
    if not are_sizes(shape, _MAX_SIZE) or not are_sizes(offsets, _MAX_SIZE) or len(offsets) != 2:
        return "shape and data_offsets must be lists of whole numbers, not below 0"
    return ""


def _parse_entry(name: str, value: object, start: int) -> SafetensorsEntry:
    def refuse(what: str) -> FormatError:
        return FormatError("safetensors-entry", f"{name[:80]!r}: {what}", _LENGTH_NBYTES)

    if not isinstance(value, tuple):
        raise refuse(_fault(value))
    dtype, shape, begin, end = value
    element_type = BY_SAFETENSORS[dtype]
    if _product(size or 1 for size in shape) > MAX_ELEMENTS:
        raise refuse("its shape has too many elements")
    count = _product(shape)
    nbytes = element_type.nbytes(count)
    if count * element_type.bits % 8 or end - begin != nbytes:
        what = f"{element_type.safetensors} of shape {str(list(shape))[:80]} takes {nbytes} bytes"
        raise refuse(f"{what}, data_offsets say {end - begin}")
    return SafetensorsEntry(name, element_type, shape, start + begin, end - begin)


def _check_layout(entries: list[SafetensorsEntry], start: int, file_size: int) -> None:
    end = start
    for entry in entries:
        if entry.offset != end:
            what = "overlaps the tensor before it" if entry.offset < end else "leaves a hole before it"
            raise FormatError("safetensors-layout", f"{entry.name[:80]!r} {what}", entry.offset)
        end += entry.nbytes
    if end > file_size:
        message = f"the tensors end at {end}, the file has {file_size} bytes: truncated download?"
        raise TruncatedError("safetensors-layout", message, file_size)
    if end < file_size:
        raise FormatError("safetensors-layout", f"{file_size - end} bytes at the end belong to no tensor", end)


def _product(sizes: Iterable[int]) -> int:
    """Return the product, or a number above the allowed maximum, without computing one of a thousand digits."""
    product = 1
    for size in sizes:
        product *= size
        if product > MAX_ELEMENTS:
            return MAX_ELEMENTS + 1
    return product
