"""Foreign bytes → a `NameIndex`.

Spec: spec/index.md; I1 to I7 are its reader checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container.layout import MAX_BLOBS, round_up
from blobstore.errors import FormatError, TruncatedError
from blobstore.index.name_index import NameIndex
from blobstore.index.records import (
    ALIGN,
    BLOB,
    ENTRY,
    EXTERNAL,
    HAS_DIGESTS,
    HEADER,
    MAGIC,
    MAX_NAMES_NBYTES,
    SECTIONS,
    VERSION,
    section_sizes,
)

if TYPE_CHECKING:
    import numpy.typing as npt


def parse_index(raw: memoryview, *, external: bool, path: str = "") -> NameIndex:
    """Parse an index and check all of it. Nothing is copied but the names; ``raw`` is kept.

    Args:
        raw: All of its bytes.
        external: Whether it is from a file of its own.
        path: Of the file that it is from; only noted.

    Raises:
        FormatError, TruncatedError: Checks I1 to I15, and I20, of spec/index.md; offsets are from the beginning
            of the index.
    """
    index = open_index(raw, external=external, path=path)
    index.check()
    return index


def open_index(raw: memoryview, *, external: bool, path: str = "") -> NameIndex:
    """Parse an index and check its layout. Its entries and its metadata are checked when they are first used.

    Args:
        raw: All of its bytes; kept.
        external: Whether it is from a file of its own.
        path: Of the file that it is from; only noted.

    Raises:
        FormatError, TruncatedError: Checks I1 to I7, except the reserved fields of entries.
    """
    header = _check_header(raw, len(raw), external=external)
    sizes = section_sizes(header)
    starts = _check_sections(len(raw), header, sizes)
    blobs = np.frombuffer(raw, BLOB, int(header["blob_count"]), starts["blobs"])
    _check_reserved(raw, header, starts, blobs)
    return NameIndex(
        entries=np.frombuffer(raw, ENTRY, int(header["entry_count"]), starts["entries"]),
        blobs=blobs,
        dims=np.frombuffer(raw, "<u8", int(header["dim_count"]), starts["dims"]),
        names_pool=raw[starts["names"] : starts["names"] + sizes["names"]],
        metadata_json=raw[starts["metadata"] :],
        has_digests=bool(header["flags"] & HAS_DIGESTS),
        store_nbytes=int(header["store_nbytes"]) if external else None,
        store_sha256=header["store_sha256"].tobytes() if external else None,
        raw=raw,
        path=path,
    )


@dataclass(frozen=True)
class Head:
    """The header of an embedded index.

    Attributes:
        nbytes: Of the whole index.
        blobs_offset: Of its blob table, from the beginning of the index.
        blobs_nbytes: Of that table.
        self_sha256: Of the whole index.
    """

    nbytes: int
    blobs_offset: int
    blobs_nbytes: int
    self_sha256: bytes


def parse_head(raw: memoryview) -> Head | None:
    """Parse the header of an embedded index; None if it is not one.

    Args:
        raw: The first 192 bytes of the index, or fewer if there are no more.
    """
    if len(raw) < HEADER.itemsize:
        return None
    nbytes = int(np.frombuffer(raw, HEADER, 1)[0]["nbytes"])
    try:
        header = _check_header(raw, nbytes, external=False)
        sizes = section_sizes(header)
        starts = _check_sections(nbytes, header, sizes)
    except FormatError:
        return None
    return Head(nbytes, starts["blobs"], sizes["blobs"], header["self_sha256"].tobytes())


def _check_header(raw: memoryview, nbytes: int, *, external: bool) -> np.void:
    """Make checks I1 to I5 of an index of ``nbytes`` bytes, which begins with ``raw``."""
    if len(raw) < HEADER.itemsize:
        raise TruncatedError(
            "index-truncated", f"an index has at least {HEADER.itemsize} bytes, this one has {len(raw)}", 0
        )
    header: np.void = np.frombuffer(raw, HEADER, 1)[0]
    if bytes(raw[:8]) != MAGIC:
        raise FormatError("index-magic", f"expected {MAGIC!r}, found {bytes(raw[:8])!r} at offset 0", 0)
    version, flags = int(header["version"]), int(header["flags"])
    if version != VERSION:
        raise FormatError(
            "index-version", f"expected version {VERSION}, found {version}: a newer blobstore may read it", 8
        )
    if flags & ~(HAS_DIGESTS | EXTERNAL) or bool(flags & EXTERNAL) != external:
        place = "external" if external else "embedded"
        raise FormatError("index-flags", f"flags 0x{flags:X} are invalid for an {place} index", 12)
    if int(header["nbytes"]) != nbytes:
        error_type = TruncatedError if int(header["nbytes"]) > nbytes else FormatError
        raise error_type("index-nbytes", f"the header says {int(header['nbytes'])} bytes, there are {nbytes}", 16)
    return header


def _check_sections(nbytes: int, header: np.void, sizes: dict[str, int]) -> dict[str, int]:
    """Make check I6 → where each section starts. Python integers don't overflow."""
    starts = {}
    end = HEADER.itemsize
    for name in SECTIONS:
        start, stated = round_up(end, ALIGN), int(header[f"{name}_offset"])
        if stated != start or start + sizes[name] > nbytes:
            at = int(HEADER.fields[f"{name}_offset"][1])  # type: ignore[index]
            what = f"offset {stated} with {sizes[name]} bytes, expected offset {start} in {nbytes} bytes"
            raise FormatError("index-section", f"{name}: {what}", at)
        starts[name] = start
        end = start + sizes[name]
    if end != nbytes:
        raise FormatError("index-section", f"the metadata ends at {end}, the index at {nbytes}", end)
    if sizes["names"] > MAX_NAMES_NBYTES:
        raise FormatError(
            "index-section", f"the names have {sizes['names']} bytes, the limit is {MAX_NAMES_NBYTES}", 72
        )
    if int(header["blob_count"]) > MAX_BLOBS:
        raise FormatError("index-section", f"{int(header['blob_count'])} blobs are more than a file can have", 28)
    return starts


def _check_reserved(raw: memoryview, header: np.void, starts: dict[str, int], blobs: npt.NDArray[np.void]) -> None:
    """Make check I7, except of the entries."""
    if header["reserved"].any():
        raise FormatError("index-reserved", "reserved bytes of the header are not 0", 168)
    external = bool(header["flags"] & EXTERNAL)
    if not external and (header["store_nbytes"] or header["store_sha256"].any()):
        raise FormatError("index-reserved", "an embedded index is bound to a store", 96)
    end = HEADER.itemsize
    for name, size in section_sizes(header).items():
        if any(raw[end : starts[name]]):
            raise FormatError("index-reserved", f"the gap before {name} is not filled with zeros", end)
        end = starts[name] + size
    if not header["flags"] & HAS_DIGESTS and blobs["sha256"].any():
        raise FormatError("index-reserved", "a blob's unused digest is not 0", starts["blobs"])
