"""Entries → the bytes of an index.

Spec: spec/index.md.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import UsageError
from blobstore.index.records import (
    ALIGN,
    BLOB,
    ENTRY,
    EXTERNAL,
    HAS_DIGESTS,
    HEADER,
    MAGIC,
    MAX_NAMES_NBYTES,
    NO_BLOB,
    SECTIONS,
    VERSION,
    directory_digest,
    section_sizes,
    self_digest,
    shape_fault,
)
from blobstore.keys import encode_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blobstore.directory import Directory
    from blobstore.index.name_index import NameIndex
    from blobstore.index.records import Entry, IndexedBlob

    Buffer = bytes | memoryview


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
        blobs: All blobs of the store but the index, in the directory's order. Either all have a digest or none.
        metadata: Text → text.
        store: The directory of the store, for an external index.

    Raises:
        UsageError: ``bad-name``, ``duplicate-name``, ``bad-metadata``, ``bad-shape``, ``names-too-long``.
    """
    encoded = sorted((encode_name(entry.name), i) for i, entry in enumerate(entries))
    for (one, i), (other, _) in pairwise(encoded):
        if one == other:
            raise UsageError("duplicate-name", f"{entries[i].name!r} is used twice")
    rows = []
    dims: list[int] = []
    shared: dict[tuple[int, ...], int] = {(): 0}
    position = 0
    for name, i in encoded:
        entry = entries[i]
        fault = shape_fault(entry.shape)
        if fault:
            raise UsageError("bad-shape", f"{entry.name!r} {fault}")
        if entry.shape not in shared:
            shared[entry.shape] = len(dims)
            dims.extend(entry.shape)
        blob = NO_BLOB if entry.blob is None else entry.blob
        start = shared[entry.shape]
        what = (entry.type, entry.codec, len(entry.shape), start, entry.scale, 0)
        rows.append((entry.offset, entry.nbytes, blob, position, len(name), *what))
        position += len(name) + 1
    if position > MAX_NAMES_NBYTES:
        raise UsageError(
            "names-too-long", f"all names together have {position} bytes, at most {MAX_NAMES_NBYTES} are possible"
        )
    table = np.zeros(len(blobs), dtype=BLOB)
    for i, row in enumerate(blobs):
        table["key"][i] = np.frombuffer(row.key.ljust(16, b"\0"), np.uint8)
        table["nbytes"][i], table["unpacked_nbytes"][i] = row.nbytes, row.unpacked_nbytes
        table["sha256"][i] = np.frombuffer(row.sha256 or bytes(32), np.uint8)
    has_digests = all(row.sha256 for row in blobs)
    names = b"".join(name + b"\0" for name, _ in encoded)
    records = np.array(rows, dtype=ENTRY)
    parts = (records.tobytes(), table.tobytes(), np.array(dims, "<u8").tobytes(), names, _dump_metadata(metadata or {}))
    return _assemble(parts, len(entries), len(blobs), len(dims), has_digests=has_digests, store=store)


def rebind_index(index: NameIndex, store: Directory | None) -> bytes:
    """Return the bytes of the same index, bound to a store (external) or to none (embedded)."""
    header = np.frombuffer(index.raw, HEADER, 1)[0]
    parts = tuple(
        bytes(index.raw[int(header[f"{name}_offset"]) :][:size]) for name, size in section_sizes(header).items()
    )
    counts = (int(header["entry_count"]), int(header["blob_count"]), int(header["dim_count"]))
    return _assemble(parts, *counts, has_digests=index.has_digests, store=store)


def unbind_index(raw: Buffer) -> bytes:
    """Return the bytes of an external index, bound to no store: beside any file it is stale."""
    unbound = bytearray(raw)
    header = np.frombuffer(unbound, HEADER, 1)
    header["store_nbytes"], header["store_sha256"] = 0, 0
    header["self_sha256"] = np.frombuffer(self_digest(memoryview(unbound)), np.uint8)
    return bytes(unbound)


def _assemble(
    parts: Sequence[bytes], entries: int, blobs: int, dims: int, *, has_digests: bool, store: Directory | None
) -> bytes:
    header = np.zeros((), dtype=HEADER)
    header["magic"], header["version"] = MAGIC, VERSION
    header["flags"] = HAS_DIGESTS * has_digests | EXTERNAL * (store is not None)
    header["entry_count"], header["blob_count"], header["dim_count"] = entries, blobs, dims
    header["names_nbytes"], header["metadata_nbytes"] = len(parts[3]), len(parts[4])
    if store is not None:
        header["store_nbytes"] = store.file_size
        header["store_sha256"] = np.frombuffer(directory_digest(store), np.uint8)
    body = bytearray()
    for name, part in zip(SECTIONS, parts, strict=True):
        body += bytes(-len(body) % ALIGN)
        header[f"{name}_offset"] = HEADER.itemsize + len(body)
        body += part
    header["nbytes"] = HEADER.itemsize + len(body)
    header["self_sha256"] = np.frombuffer(self_digest(memoryview(header.tobytes() + body)), np.uint8)
    return header.tobytes() + bytes(body)


def _dump_metadata(metadata: Mapping[str, str]) -> bytes:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise UsageError("bad-metadata", f"metadata is text → text, found {key!r} → {value!r}")
    text = json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("bad-metadata", f"metadata is not Unicode text: {error.reason}") from None
