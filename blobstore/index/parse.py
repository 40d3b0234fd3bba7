"""Foreign bytes → a `NameIndex`.

Spec: spec/index.md; I1 to I7, and I21, are its reader checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container.layout import MAX_BLOBS
from blobstore.errors import FormatError, TruncatedError
from blobstore.index.name_index import NameIndex
from blobstore.index.records import (
    BLOB_SECTIONS,
    ENTRY_SECTIONS,
    EXTERNAL,
    HAS_DIGESTS,
    HEADER_FIELDS,
    HEADER_NBYTES,
    KIND_FLAGS,
    MAGIC,
    SECTIONS,
    SET,
    VERSION,
    BlobColumns,
    EntryColumns,
    Header,
    section_spans,
)
from blobstore.index.stores import parse_stores

if TYPE_CHECKING:
    from blobstore.fileio.types import Array
    from blobstore.index.records import IndexKind

_FLAGS_END = 16
_FIELD_AT = {"nbytes": 16, "blob_count": 28, "shape_count": 32, "store_count": 40, "store_names_nbytes": 48}


def is_set(head: bytes | memoryview) -> bool:
    """Whether a file is the index of a set, from its first 16 bytes."""
    if len(head) < _FLAGS_END or bytes(head[:8]) != MAGIC:
        return False
    return bool(int.from_bytes(head[12:16], "little") & SET)


def parse_index(raw: memoryview, *, kind: IndexKind, path: str = "") -> NameIndex:
    """Parse an index and check all of it. Nothing is copied but the names; ``raw`` is kept.

    Args:
        raw: All of its bytes.
        kind: What it must be: inside a file, beside one, or of a set.
        path: Of the file that it is from; only noted.

    Raises:
        FormatError, TruncatedError: Checks I1 to I15, I20 and I21, of spec/index.md; offsets are from the beginning
            of the index.
    """
    index = open_index(raw, kind=kind, path=path)
    index.check()
    return index


def open_index(raw: memoryview, *, kind: IndexKind, path: str = "") -> NameIndex:
    """Parse an index and check its layout. Its entries and its metadata are checked when they are first used.

    Args:
        raw: All of its bytes; kept.
        kind: As for `parse_index`.
        path: Of the file that it is from; only noted.

    Raises:
        FormatError, TruncatedError: Checks I1 to I7, and I21.
    """
    header = _check_header(raw, len(raw), kind)
    spans = section_spans(header)
    _check_spans(len(raw), header, spans)
    _check_zeros(raw, header, spans)
    blobs = BlobColumns(*[_column(raw, name, *spans[name]) for name in BLOB_SECTIONS])
    return NameIndex(
        header=header,
        spans=spans,
        entries=EntryColumns(*[_column(raw, name, *spans[name]) for name in ENTRY_SECTIONS]),
        blobs=blobs,
        shape_starts=_column(raw, "shape start", *spans["shape start"]),
        dims=_column(raw, "dims", *spans["dims"]),
        stores=parse_stores(raw, spans, blobs) if kind == "set" else (),
        kind=kind,
        raw=raw,
        path=path,
    )


def _column(raw: memoryview, name: str, start: int, nbytes: int) -> Array:
    """View a section as an array; of 16 and 32 bytes each: shape (count, 16) or (count, 32)."""
    dtype = SECTIONS[name][0]
    # numpy doesn't take a dtype with a shape here, nor an empty array at the end of a buffer.
    base = dtype.base
    column = np.frombuffer(raw, base, nbytes // base.itemsize, start) if nbytes else np.empty(0, base)
    return column.reshape(-1, *dtype.shape) if dtype.shape else column


@dataclass(frozen=True)
class Head:
    """The header of an embedded index.

    Attributes:
        nbytes: Of the whole index.
        sizes_at: Where it has the sizes of the blobs, from the beginning of the index.
        sizes_nbytes: Of that section: 8 for each blob.
        self_sha256: Of the whole index.
    """

    nbytes: int
    sizes_at: int
    sizes_nbytes: int
    self_sha256: bytes


def parse_head(raw: memoryview) -> Head | None:
    """Parse the header of an embedded index; None if it is not one.

    Args:
        raw: The first 160 bytes of the index, or fewer if there are no more.
    """
    if len(raw) < HEADER_NBYTES:
        return None
    nbytes = Header._make(HEADER_FIELDS.unpack_from(raw)).nbytes
    try:
        header = _check_header(raw, nbytes, "embedded")
        spans = section_spans(header)
        _check_spans(nbytes, header, spans)
    except FormatError:
        return None
    return Head(nbytes, *spans["blob nbytes"], header.self_sha256)


def _check_header(raw: memoryview, nbytes: int, kind: IndexKind) -> Header:
    """Make checks I1 to I5 of an index of ``nbytes`` bytes, which begins with ``raw``."""
    if len(raw) < HEADER_NBYTES:
        raise TruncatedError(
            "index-truncated", f"an index has at least {HEADER_NBYTES} bytes, this one has {len(raw)}", 0
        )
    header = Header._make(HEADER_FIELDS.unpack_from(raw))
    if bytes(raw[:8]) != MAGIC:
        raise FormatError("index-magic", f"expected {MAGIC!r}, found {bytes(raw[:8])!r} at offset 0", 0)
    if header.version != VERSION:
        raise FormatError(
            "index-version", f"expected version {VERSION}, found {header.version}: a newer blobstore may read it", 8
        )
    if header.flags & ~HAS_DIGESTS != KIND_FLAGS[kind]:
        of = "the index of a set" if kind == "set" else f"an {kind} index"
        raise FormatError("index-flags", f"flags 0x{header.flags:X} are invalid for {of}", 12)
    if header.nbytes != nbytes:
        error_type = TruncatedError if header.nbytes > nbytes else FormatError
        raise error_type("index-nbytes", f"the header says {header.nbytes} bytes, there are {nbytes}", 16)
    return header


def _check_spans(nbytes: int, header: Header, spans: dict[str, tuple[int, int]]) -> None:
    """Make check I6. Python integers don't overflow."""

    def refuse(field: str, what: str) -> None:
        raise FormatError("index-section", what, _FIELD_AT[field])

    end = sum(spans["metadata"])
    if end != nbytes:
        refuse("nbytes", f"by its counts the index has {end} bytes, by its header {nbytes}")
    is_of_set = bool(header.flags & SET)
    if header.blob_count > MAX_BLOBS and not is_of_set:
        refuse("blob_count", f"{header.blob_count} blobs are more than a file can have")
    if header.shape_count > header.entry_count:
        refuse("shape_count", f"{header.shape_count} shapes are more than the {header.entry_count} entries have")
    if bool(header.store_count) != is_of_set:
        refuse("store_count", f"{header.store_count} stores: a set has one or more, and nothing else has any")
    if header.store_names_nbytes and not is_of_set:
        refuse("store_names_nbytes", "names of stores in an index that is not of a set")


def _check_zeros(raw: memoryview, header: Header, spans: dict[str, tuple[int, int]]) -> None:
    """Make check I7."""
    if header.reserved or any(header.padding):
        raise FormatError("index-reserved", "reserved bytes of the header are not 0", 52 if header.reserved else 136)
    if not header.flags & EXTERNAL and (header.store_nbytes or any(header.store_sha256)):
        raise FormatError("index-reserved", "an index that isn't external is bound to a store", 64)
    end = HEADER_NBYTES
    for name, (start, nbytes) in spans.items():
        if start != end and any(raw[end:start]):
            raise FormatError("index-reserved", f"the gap before {name} is not filled with zeros", end)
        end = start + nbytes
