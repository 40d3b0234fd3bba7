"""The records of the index: each is declared once, for reading and writing.

Spec: spec/index.md.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from blobstore.container.directory import Directory

MAGIC = b"SBSINDEX"
VERSION = 1
NO_BLOB = 0xFFFFFFFF
MAX_NDIM = 32
MAX_ELEMENTS = (1 << 57) - 1  # times 64 bits this is below 2⁶³
ALIGN = 8
HAS_DIGESTS, EXTERNAL = 1, 2
MAX_NAMES_NBYTES = (1 << 32) - 1

HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("flags", "<u4"),
        ("nbytes", "<u8"),
        ("entry_count", "<u4"),
        ("blob_count", "<u4"),
        ("dim_count", "<u8"),
        ("entries_offset", "<u8"),
        ("blobs_offset", "<u8"),
        ("dims_offset", "<u8"),
        ("names_offset", "<u8"),
        ("names_nbytes", "<u8"),
        ("metadata_offset", "<u8"),
        ("metadata_nbytes", "<u8"),
        ("store_nbytes", "<u8"),
        ("store_sha256", "u1", 32),
        ("self_sha256", "u1", 32),
        ("reserved", "u1", 24),
    ]
)
ENTRY = np.dtype(
    [
        ("offset", "<u8"),
        ("nbytes", "<u8"),
        ("blob", "<u4"),
        ("name_offset", "<u4"),
        ("name_nbytes", "<u2"),
        ("type", "<u2"),
        ("codec", "<u2"),
        ("ndim", "<u2"),
        ("dims_start", "<u4"),
        ("scale", "<f4"),
        ("reserved", "<u8"),
    ]
)
ENTRY_FIELDS = struct.Struct("<QQIIHHHHIfQ")  # the same as `ENTRY`: numpy is several times slower for single records
BLOB = np.dtype([("key", "u1", 16), ("nbytes", "<u8"), ("unpacked_nbytes", "<u8"), ("sha256", "u1", 32)])
PACKED = 1  # the codec of a tensor in a packed blob
SECTIONS = ("entries", "blobs", "dims", "names", "metadata")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says about one name.

    Attributes:
        name: Of the tensor.
        blob: Place of its blob in the index's table; None for a tensor without elements.
        offset: Of its first byte in the blob; in the unpacked bytes of a packed blob.
        nbytes: As its type stores it, also in a packed blob.
        type: Number of its element type, see `blobstore.codecs.element_types`.
        shape: In C order.
        scale: Decoded values are multiplied by it.
        codec: 0 for bytes as the type stores them, `PACKED` in a packed blob.
    """

    name: str
    blob: int | None
    offset: int
    nbytes: int
    type: int
    shape: tuple[int, ...]
    scale: float = 1.0
    codec: int = 0


@dataclass(frozen=True, slots=True)
class IndexedBlob:
    """A row of the index's blob table.

    Attributes:
        key: Without padding.
        nbytes: As stored.
        sha256: Of the stored bytes; None in an index without digests.
        unpacked_nbytes: Size of a packed blob once it is unpacked; 0 for any other.
    """

    key: bytes
    nbytes: int
    sha256: bytes | None = None
    unpacked_nbytes: int = 0


def section_sizes(header: np.void) -> dict[str, int]:
    """Return the size of each section in bytes, from the counts in the header."""
    return {
        "entries": int(header["entry_count"]) * ENTRY.itemsize,
        "blobs": int(header["blob_count"]) * BLOB.itemsize,
        "dims": int(header["dim_count"]) * 8,
        "names": int(header["names_nbytes"]),
        "metadata": int(header["metadata_nbytes"]),
    }


def self_digest(raw: memoryview) -> bytes:
    """Return the SHA-256 of an index's bytes, with zeros in place of the digest itself."""
    start, nbytes = int(HEADER.fields["self_sha256"][1]), 32  # type: ignore[index]
    digest = hashlib.sha256(raw[:start])
    digest.update(bytes(nbytes))
    digest.update(raw[start + nbytes :])
    return digest.digest()


def directory_digest(directory: Directory) -> bytes:
    """Return the SHA-256 of a store's directory, 32 bytes, which binds an external index to the store."""
    return hashlib.sha256(directory.to_bytes()).digest()


def shape_fault(shape: tuple[int, ...]) -> str | None:
    """Say why the index can't hold a shape (check I10); None if it can."""
    if len(shape) > MAX_NDIM:
        return f"has {len(shape)} dimensions, the limit is {MAX_NDIM}"
    if min(shape, default=0) < 0 or math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        return f"has shape {list(shape)}: dimensions can't be negative, and there must be fewer than 2⁵⁷ elements"
    return None
