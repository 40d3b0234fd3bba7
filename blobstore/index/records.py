"""The layout of the index: each field is declared once, for reading and writing.

Spec: spec/index.md.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np

from blobstore.container.layout import round_up

if TYPE_CHECKING:
    import numpy.typing as npt

    from blobstore.container.directory import Directory

IndexKind = Literal["embedded", "external", "set"]

MAGIC = b"SBSINDEX"
VERSION = 1
NO_BLOB = 0xFFFFFFFF
MAX_NDIM = 32
MAX_ELEMENTS = (1 << 57) - 1  # times 64 bits this is below 2⁶³
ALIGN = 8
HAS_DIGESTS, EXTERNAL, SET = 1, 2, 4
KIND_FLAGS: dict[IndexKind, int] = {"embedded": 0, "external": EXTERNAL, "set": SET}
MAX_NAMES_NBYTES = (1 << 32) - 1
PACKED = 1  # the codec of a tensor in a packed blob

HEADER_FIELDS = struct.Struct("<8sIIQIIIIIIIIQQ32s32s24s")
HEADER_NBYTES = HEADER_FIELDS.size
SELF_DIGEST_AT = 104


class Header(NamedTuple):
    """The first 160 bytes, in order."""

    magic: bytes
    version: int
    flags: int
    nbytes: int
    entry_count: int
    blob_count: int
    shape_count: int
    dim_count: int
    store_count: int
    names_nbytes: int
    store_names_nbytes: int
    reserved: int
    metadata_nbytes: int
    store_nbytes: int
    store_sha256: bytes
    self_sha256: bytes
    padding: bytes

    @property
    def digest_count(self) -> int:
        """How many digests there are: one for each blob, or none."""
        return self.blob_count if self.flags & HAS_DIGESTS else 0


# As one record: they are few.
STORE = np.dtype([("nbytes", "<u8"), ("sha256", "u1", 32), ("first_blob", "<u4"), ("name_start", "<u4")])

# Section → type of its elements, and the field of `Header` that says how many there are.
SECTIONS: dict[str, tuple[np.dtype[Any], str]] = {
    "entry offset": (np.dtype("<u8"), "entry_count"),
    "entry nbytes": (np.dtype("<u8"), "entry_count"),
    "entry name_start": (np.dtype("<u4"), "entry_count"),
    "entry blob": (np.dtype("<u4"), "entry_count"),
    "entry shape": (np.dtype("<u4"), "entry_count"),
    "entry scale": (np.dtype("<f4"), "entry_count"),
    "entry type": (np.dtype("<u2"), "entry_count"),
    "entry codec": (np.dtype("<u2"), "entry_count"),
    "blob key": (np.dtype(("u1", 16)), "blob_count"),
    "blob nbytes": (np.dtype("<u8"), "blob_count"),
    "blob unpacked_nbytes": (np.dtype("<u8"), "blob_count"),
    "blob sha256": (np.dtype(("u1", 32)), "digest_count"),
    "shape start": (np.dtype("<u4"), "shape_count"),
    "dims": (np.dtype("<u8"), "dim_count"),
    "stores": (STORE, "store_count"),
    "names": (np.dtype("u1"), "names_nbytes"),
    "store names": (np.dtype("u1"), "store_names_nbytes"),
    "metadata": (np.dtype("u1"), "metadata_nbytes"),
}


_COUNTS = (*Header._fields, "digest_count")
_SIZES = [(name, dtype.itemsize, _COUNTS.index(counted_by)) for name, (dtype, counted_by) in SECTIONS.items()]
ENTRY_SECTIONS, BLOB_SECTIONS = (
    [name for name in SECTIONS if name.startswith(f"{table} ")] for table in ("entry", "blob")
)


def section_spans(header: Header) -> dict[str, tuple[int, int]]:
    """Return where each section is, from the counts in the header: (start, nbytes)."""
    spans = {}
    end = HEADER_NBYTES
    counts: tuple[Any, ...] = (*header, header.digest_count)
    for name, itemsize, counted_by in _SIZES:
        start, nbytes = round_up(end, ALIGN), itemsize * counts[counted_by]
        spans[name] = start, nbytes
        end = start + nbytes
    return spans


@dataclass(frozen=True, slots=True, eq=False)
class EntryColumns:
    """The entries, an array for each field, shape (count,) each; sorted by the bytes of their names.

    Attributes:
        offset: Of the first byte in the blob; in the unpacked bytes of a packed blob.
        nbytes: As the type stores it.
        name_start: Where the name begins in the section of names.
        blob: Place in the blob table, or `NO_BLOB`.
        shape: Place in the table of shapes.
        scale: Decoded values are multiplied by it.
        type: Number of the element type.
        codec: 0, or `PACKED`.
    """

    offset: npt.NDArray[np.uint64]
    nbytes: npt.NDArray[np.uint64]
    name_start: npt.NDArray[np.uint32]
    blob: npt.NDArray[np.uint32]
    shape: npt.NDArray[np.uint32]
    scale: npt.NDArray[np.float32]
    type: npt.NDArray[np.uint16]
    codec: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.offset)

    def part(self, start: int, stop: int) -> Self:
        """Return the columns of some entries."""
        if start == 0 and stop >= len(self):
            return self
        return type(self)(*(getattr(self, field.name)[start:stop] for field in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class BlobColumns:
    """The blob table, an array for each field.

    Attributes:
        key: Shape (count, 16), uint8, padded with zeros.
        nbytes: As stored, shape (count,).
        unpacked_nbytes: Of packed blobs, once unpacked; 0 for any other. Shape (count,).
        sha256: Of the stored bytes, shape (count, 32), uint8; shape (0, 32) in an index without digests.
    """

    key: npt.NDArray[np.uint8]
    nbytes: npt.NDArray[np.uint64]
    unpacked_nbytes: npt.NDArray[np.uint64]
    sha256: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.nbytes)


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


@dataclass(frozen=True, slots=True)
class SetStore:
    """One of the files of a set.

    Attributes:
        name: Of the file, in the folder of the set's index.
        nbytes: Of the file.
        sha256: As `store_digest`, 32 bytes.
        first_blob: Place of its first blob in the index's table.
        blob_count: How many blobs it has in the table: all but its own index.
    """

    name: str
    nbytes: int
    sha256: bytes
    first_blob: int
    blob_count: int


def self_digest(raw: memoryview) -> bytes:
    """Return the SHA-256 of an index's bytes, with zeros in place of the digest itself."""
    import hashlib  # noqa: PLC0415 (2.5 ms, and a file with an index inside opens without it)

    digest = hashlib.sha256(raw[:SELF_DIGEST_AT])
    digest.update(bytes(32))
    digest.update(raw[SELF_DIGEST_AT + 32 :])
    return digest.digest()


def directory_digest(directory: Directory) -> bytes:
    """Return the SHA-256 of a store's directory, 32 bytes, which binds an external index to the store."""
    import hashlib  # noqa: PLC0415 (as above)

    return hashlib.sha256(directory.to_bytes()).digest()


def store_digest(directory: Directory, self_sha256: bytes) -> bytes:
    """Return the SHA-256, 32 bytes, that binds the index of a set to a store, also to its values where it has digests.

    Args:
        directory: Of the store.
        self_sha256: Of its own index; empty without one.
    """
    import hashlib  # noqa: PLC0415 (as above)

    return hashlib.sha256(directory.to_bytes() + self_sha256).digest()


def shape_fault(shape: tuple[int, ...]) -> str | None:
    """Say why the index can't hold a shape (check I10); None if it can."""
    if len(shape) > MAX_NDIM:
        return f"has {len(shape)} dimensions, the limit is {MAX_NDIM}"
    if min(shape, default=0) < 0 or math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        return f"has shape {list(shape)}: dimensions can't be negative, and there must be fewer than 2⁵⁷ elements"
    return None
