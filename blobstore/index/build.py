"""Entries → the bytes of an index.

Spec: spec/index.md.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container.layout import round_up
from blobstore.errors import UsageError
from blobstore.index.names import encode_name
from blobstore.index.records import (
    ALIGN,
    BLOB,
    ENTRY,
    ENTRY_FIELDS,
    EXTERNAL,
    HAS_DIGESTS,
    HEADER,
    MAGIC,
    MAX_NAMES_NBYTES,
    NO_BLOB,
    SECTIONS,
    VERSION,
    IndexedBlob,
    directory_digest,
    section_sizes,
    self_digest,
    shape_fault,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blobstore.container.directory import Directory
    from blobstore.container.writer import ContainerWriter
    from blobstore.index.name_index import NameIndex
    from blobstore.index.records import Entry

    Part = bytes | bytearray | memoryview


def build_index(
    entries: Sequence[Entry],
    blobs: Sequence[IndexedBlob],
    metadata: Mapping[str, str] | None = None,
    *,
    store: Directory | None = None,
) -> bytes:
    """Lay out an index.

    Args:
        entries: In any order.
        blobs: All blobs of the store but the index, in the order of its directory. Either all have a digest or none.
        metadata: Text → text.
        store: The directory of the store, if the index is external.

    Raises:
        UsageError: ``bad-name``, ``duplicate-name``, ``bad-metadata``, ``bad-shape``, ``names-too-long``.
    """
    names = [encode_name(entry.name) for entry in entries]
    order = sorted(range(len(entries)), key=names.__getitem__)
    _check_names(entries, names, order)
    records, dims, pool = _pack_entries(entries, names, order)
    del names, order  # 100 MB for a million tensors
    has_digests = all(blob.sha256 for blob in blobs)
    parts = (records, _pack_blobs(blobs), np.array(dims, "<u8").tobytes(), pool, _dump_metadata(metadata or {}))
    return _assemble(parts, len(entries), len(blobs), len(dims), has_digests=has_digests, store=store)


def _check_names(entries: Sequence[Entry], names: Sequence[bytes], order: Sequence[int]) -> None:
    """Refuse a name that is used twice, and names that are too long for their section."""
    for place, following in pairwise(order):
        if names[place] == names[following]:
            raise UsageError("duplicate-name", f"{entries[place].name!r} is used twice")
    total = sum(map(len, names)) + len(names)
    if total > MAX_NAMES_NBYTES:
        raise UsageError("names-too-long", f"the names have {total} bytes in total, the limit is {MAX_NAMES_NBYTES}")


def _pack_entries(
    entries: Sequence[Entry], names: Sequence[bytes], order: Sequence[int]
) -> tuple[bytearray, list[int], bytearray]:
    """Return the records of the entries, in this order, the pool of dimensions and that of names."""
    records = bytearray(ENTRY.itemsize * len(entries))
    dims: list[int] = []
    dims_starts: dict[tuple[int, ...], int] = {(): 0}
    pool = bytearray()
    for at, place in enumerate(order):
        entry, name = entries[place], names[place]
        fault = shape_fault(entry.shape)
        if fault:
            raise UsageError("bad-shape", f"{entry.name!r} {fault}")
        if entry.shape not in dims_starts:
            dims_starts[entry.shape] = len(dims)
            dims.extend(entry.shape)
        blob = NO_BLOB if entry.blob is None else entry.blob
        what = (entry.type, entry.codec, len(entry.shape), dims_starts[entry.shape], entry.scale, 0)
        ENTRY_FIELDS.pack_into(
            records, ENTRY.itemsize * at, entry.offset, entry.nbytes, blob, len(pool), len(name), *what
        )
        pool += name + b"\0"
    return records, dims, pool


def _pack_blobs(blobs: Sequence[IndexedBlob]) -> bytes:
    table = np.zeros(len(blobs), dtype=BLOB)
    for i, row in enumerate(blobs):
        table["key"][i] = np.frombuffer(row.key.ljust(16, b"\0"), np.uint8)
        table["nbytes"][i], table["unpacked_nbytes"][i] = row.nbytes, row.unpacked_nbytes
        table["sha256"][i] = np.frombuffer(row.sha256 or bytes(32), np.uint8)
    return table.tobytes()


def blob_table(
    writer: ContainerWriter, *, digests: bool, unpacked_nbytes: Mapping[int, int] | None = None
) -> list[IndexedBlob]:
    """Return the blob table of a store, for `build_index`.

    Args:
        writer: Has written all blobs but the index.
        digests: Include the SHA-256 of each blob; the writer was asked for them.
        unpacked_nbytes: Place of each packed blob → the size of what it stands for.
    """
    sha256 = writer.digests() if digests else [None] * len(writer.keys)
    rows = enumerate(zip(writer.encoded_keys, writer.sizes, sha256, strict=True))
    unpacked = unpacked_nbytes or {}
    return [IndexedBlob(*row, unpacked.get(place, 0)) for place, row in rows]


def rebind_index(index: NameIndex, store: Directory | None) -> bytes:
    """Return the bytes of the same index, bound to a store (external) or to no store (embedded)."""
    header = np.frombuffer(index.raw, HEADER, 1)[0]
    parts = tuple(
        bytes(index.raw[int(header[f"{name}_offset"]) :][:size]) for name, size in section_sizes(header).items()
    )
    counts = (int(header["entry_count"]), int(header["blob_count"]), int(header["dim_count"]))
    return _assemble(parts, *counts, has_digests=index.has_digests, store=store)


def unbind_index(raw: Part) -> bytes:
    """Return the bytes of an external index bound to no store: it is stale beside any file."""
    unbound = bytearray(raw)
    header = np.frombuffer(unbound, HEADER, 1)
    header["store_nbytes"], header["store_sha256"] = 0, 0
    header["self_sha256"] = np.frombuffer(self_digest(memoryview(unbound)), np.uint8)
    return bytes(unbound)


def _assemble(
    parts: Sequence[Part], entries: int, blobs: int, dims: int, *, has_digests: bool, store: Directory | None
) -> bytes:
    header = np.zeros((), dtype=HEADER)
    header["magic"], header["version"] = MAGIC, VERSION
    header["flags"] = HAS_DIGESTS * has_digests | EXTERNAL * (store is not None)
    header["entry_count"], header["blob_count"], header["dim_count"] = entries, blobs, dims
    header["names_nbytes"], header["metadata_nbytes"] = len(parts[3]), len(parts[4])
    if store is not None:
        header["store_nbytes"] = store.file_size
        header["store_sha256"] = np.frombuffer(directory_digest(store), np.uint8)
    pieces: list[Part] = []
    end = HEADER.itemsize
    for name, part in zip(SECTIONS, parts, strict=True):
        start = round_up(end, ALIGN)
        header[f"{name}_offset"] = start
        pieces += [bytes(start - end), part]
        end = start + len(part)
    header["nbytes"] = end
    digest = hashlib.sha256(header.tobytes())  # the digest itself is zeros in it
    for piece in pieces:
        digest.update(piece)
    header["self_sha256"] = np.frombuffer(digest.digest(), np.uint8)
    return b"".join([header.tobytes(), *pieces])


def _dump_metadata(metadata: Mapping[str, str]) -> bytes:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise UsageError("bad-metadata", f"metadata is text → text, found {key!r} → {value!r}")
    text = json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("bad-metadata", f"metadata is not Unicode text: {error.reason}") from None
