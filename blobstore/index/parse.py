"""Bytes from outside → a checked `NameIndex`.

Spec: spec/index.md; the numbers I1 to I15 are its reader checks.
"""

from __future__ import annotations

from operator import lt
from typing import TYPE_CHECKING

import numpy as np

from blobstore import elements
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
    MAX_ELEMENTS,
    MAX_NAMES_NBYTES,
    MAX_NDIM,
    NO_BLOB,
    SECTIONS,
    VERSION,
    section_sizes,
)
from blobstore.keys import MAX_NAME_NBYTES
from blobstore.layout import MAX_BLOBS, round_up
from blobstore.strictjson import parse_json, text_map

if TYPE_CHECKING:
    import numpy.typing as npt


_ONE = np.uint64(1)
_MAX_COUNT = np.uint64(MAX_ELEMENTS)
_SURELY_FITS = 2.0**56


def parse_index(raw: memoryview, *, external: bool) -> NameIndex:
    """Check an index's bytes. Nothing is copied but the names; ``raw`` is kept.

    Args:
        raw: All of it.
        external: Whether it came from a file of its own.

    Raises:
        FormatError, TruncatedError: Checks I1 to I15 of spec/index.md; offsets are from the index's beginning.
    """
    header = _check_header(raw, external=external)
    sizes = section_sizes(header)
    starts = _check_sections(raw, header, sizes)
    entries = np.frombuffer(raw, ENTRY, int(header["entry_count"]), starts["entries"])
    blobs = np.frombuffer(raw, BLOB, int(header["blob_count"]), starts["blobs"])
    dims = np.frombuffer(raw, "<u8", int(header["dim_count"]), starts["dims"])
    pool = raw[starts["names"] : starts["names"] + sizes["names"]]
    checker = _Checker(starts["entries"])
    _check_reserved(raw, header, starts, entries, blobs)
    names = _check_names(entries, pool, starts["names"], checker)
    counts = _check_dims(entries, dims, checker)
    _check_ranges(entries, blobs, counts, checker)
    metadata = _parse_metadata(bytes(raw[starts["metadata"] :]), starts["metadata"])
    return NameIndex(
        entries=entries,
        blobs=blobs,
        dims=dims,
        names_pool=pool,
        names=names,
        metadata=metadata,
        has_digests=bool(header["flags"] & HAS_DIGESTS),
        store_nbytes=int(header["store_nbytes"]) if external else None,
        store_sha256=header["store_sha256"].tobytes() if external else None,
        raw=raw,
    )


def _check_header(raw: memoryview, *, external: bool) -> np.void:
    """Checks I1 to I5."""
    if len(raw) < HEADER.itemsize:
        raise TruncatedError(
            "index-truncated", f"an index has at least {HEADER.itemsize} bytes, this has {len(raw)}", 0
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
        place = "in a file of its own" if external else "inside a store"
        raise FormatError("index-flags", f"flags 0x{flags:X} are not possible for an index {place}", 12)
    if int(header["nbytes"]) != len(raw):
        kind = TruncatedError if int(header["nbytes"]) > len(raw) else FormatError
        raise kind("index-nbytes", f"the header says {int(header['nbytes'])} bytes, there are {len(raw)}", 16)
    return header


def _check_sections(raw: memoryview, header: np.void, sizes: dict[str, int]) -> dict[str, int]:
    """Check I6 → where each section starts. Python's integers can't wrap around."""
    starts = {}
    end = HEADER.itemsize
    for name in SECTIONS:
        start, stated = round_up(end, ALIGN), int(header[f"{name}_offset"])
        if stated != start or start + sizes[name] > len(raw):
            at = int(HEADER.fields[f"{name}_offset"][1])  # type: ignore[index]
            what = f"offset {stated} with {sizes[name]} bytes, expected offset {start} in {len(raw)} bytes"
            raise FormatError("index-section", f"{name}: {what}", at)
        starts[name] = start
        end = start + sizes[name]
    if end != len(raw):
        raise FormatError("index-section", f"the metadata ends at {end}, the index at {len(raw)}", end)
    if sizes["names"] > MAX_NAMES_NBYTES:
        raise FormatError("index-section", f"names of {sizes['names']} bytes are too long", 72)
    if int(header["blob_count"]) > MAX_BLOBS:
        raise FormatError("index-section", f"{int(header['blob_count'])} blobs are more than a file can have", 28)
    return starts


def _check_reserved(
    raw: memoryview, header: np.void, starts: dict[str, int], entries: npt.NDArray[np.void], blobs: npt.NDArray[np.void]
) -> None:
    """Check I7."""
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
    _Checker(starts["entries"]).refuse("index-reserved", entries["reserved"] != 0, "its reserved field is not 0")
    if blobs["reserved"].any() or (not header["flags"] & HAS_DIGESTS and blobs["sha256"].any()):
        raise FormatError("index-reserved", "a blob's reserved field, or unused digest, is not 0", starts["blobs"])


class _Checker:
    """Refuses the first entry for which something is so."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._names: list[str] = []

    def refuse(self, reason: str, bad: npt.NDArray[np.bool_], what: str) -> None:
        if bad.any():
            place = int(bad.argmax())
            name = f" ({self._names[place][:80]!r})" if self._names else ""
            raise FormatError(reason, f"entry {place}{name}: {what}", self._start + ENTRY.itemsize * place)

    def named(self, names: list[str]) -> None:
        self._names = names


def _check_names(entries: npt.NDArray[np.void], pool: memoryview, start: int, checker: _Checker) -> list[str]:
    """Checks I8 and I9."""
    lengths = entries["name_nbytes"].astype(np.int64)
    checker.refuse(
        "index-name", (lengths == 0) | (lengths > MAX_NAME_NBYTES), f"a name has 1 to {MAX_NAME_NBYTES} bytes"
    )
    ends = np.cumsum(lengths + 1)
    checker.refuse(
        "index-name", entries["name_offset"] != ends - lengths - 1, "its name does not follow the one before"
    )
    if (int(ends[-1]) if len(ends) else 0) != len(pool):
        raise FormatError("index-name", f"the names have {len(pool)} bytes, the entries say otherwise", start)
    try:
        names = str(pool, "utf-8").split("\0")
    except UnicodeDecodeError as error:
        raise FormatError("index-name", f"a name is not UTF-8: {error.reason}", start + error.start) from None
    names.pop()  # behind the last NUL
    # As many NULs as names, and one at each end: so none is inside a name.
    if len(names) != len(entries) or np.frombuffer(pool, np.uint8)[ends - 1].any():
        raise FormatError("index-name", "a name has a NUL inside, or none behind it", start)
    checker.named(names)
    # Code points sort as their UTF-8 bytes do.
    if not all(map(lt, names, names[1:])):
        after = next(i for i in range(1, len(names)) if names[i] <= names[i - 1])
        what = "used twice" if names[after] == names[after - 1] else f"sorted behind {names[after - 1][:80]!r}"
        raise FormatError("index-order", f"entry {after} ({names[after][:80]!r}) is {what}", start)
    return names


def _check_dims(
    entries: npt.NDArray[np.void], dims: npt.NDArray[np.uint64], checker: _Checker
) -> npt.NDArray[np.int64]:
    """Check I10 → how many elements each entry has."""
    ndim, start = entries["ndim"].astype(np.int64), entries["dims_start"].astype(np.int64)
    checker.refuse("index-dims", ndim > MAX_NDIM, f"more than {MAX_NDIM} dimensions")
    checker.refuse("index-dims", start + ndim > len(dims), "its dimensions lie outside the pool")
    padded = np.append(dims, _ONE)  # behind the pool a 1, for axes that an entry doesn't have
    count = np.ones(len(entries), dtype=np.uint64)
    empty = np.zeros(len(entries), dtype=np.bool_)
    for axis in range(int(ndim.max(initial=0))):
        size = padded[np.where(ndim > axis, start + axis, len(dims))]
        if not size.all():
            empty |= size == 0
            size = np.maximum(size, _ONE)
        # Division is slow: it decides only where a product may be too large.
        if (count.astype(np.float64) * size).max(initial=0) > _SURELY_FITS:
            checker.refuse("index-dims", count > _MAX_COUNT // size, "its shape has too many elements")
        count *= size
    count[empty] = 0
    return count.astype(np.int64)


def _check_ranges(
    entries: npt.NDArray[np.void], blobs: npt.NDArray[np.void], counts: npt.NDArray[np.int64], checker: _Checker
) -> None:
    """Checks I11 to I14."""
    # Columns of their own: strided ones cost several times as much to work on.
    blob, nbytes, offset = (np.ascontiguousarray(entries[column]) for column in ("blob", "nbytes", "offset"))
    none, without = blob == NO_BLOB, counts == 0
    checker.refuse("index-blob", ~none & (blob >= len(blobs)), f"its blob is none of the table's {len(blobs)}")
    checker.refuse("index-blob", none & ~without, "a tensor with elements has a blob")
    sizes = np.append(blobs["nbytes"], np.uint64(0))  # behind the table a 0, for entries without a blob
    room = sizes[np.minimum(blob, len(blobs))]
    outside = (nbytes > room) | (offset > room - np.minimum(nbytes, room))
    checker.refuse("index-range", outside, "its bytes leave the blob")
    expected = elements.stored_nbytes(entries["type"], counts)
    # A size of 2⁶³ or more is negative here and equals none; -1 stands for a type that is not known.
    disagrees = (entries["codec"] == 0) & (expected >= 0) & (nbytes.view(np.int64) != expected)
    checker.refuse("index-shape", disagrees, "its bytes are not what shape and element type say")
    checker.refuse("index-shape", ~none & without, "a tensor without elements has no blob")
    checker.refuse("index-scale", ~np.isfinite(entries["scale"]), "its scale is not a finite number")


def _parse_metadata(raw: bytes, at: int) -> dict[str, str]:
    """Check I15."""
    try:
        return text_map(parse_json(raw))
    except ValueError as error:
        raise FormatError("index-metadata", f"the metadata is no JSON object of texts: {error}", at) from None
