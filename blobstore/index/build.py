"""Entries → the bytes of an index.

Spec: spec/index.md.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.errors import UsageError
from blobstore.index.names import encode_name
from blobstore.index.records import (
    EXTERNAL,
    HAS_DIGESTS,
    HEADER_FIELDS,
    HEADER_NBYTES,
    KIND_FLAGS,
    MAGIC,
    MAX_NAMES_NBYTES,
    NO_BLOB,
    SECTIONS,
    SELF_DIGEST_AT,
    VERSION,
    Header,
    IndexedBlob,
    directory_digest,
    section_spans,
    self_digest,
    shape_fault,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from blobstore.container.directory import Directory
    from blobstore.container.writer import ContainerWriter
    from blobstore.fileio.types import Array
    from blobstore.index.name_index import NameIndex
    from blobstore.index.records import Entry, IndexKind

    Content = bytes | bytearray | memoryview | Array


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
    ordered = [entries[place] for place in order]
    pool, starts = pool_of([names[place] for place in order])
    shapes, dims, own_shapes = _pack_shapes(ordered)
    contents: dict[str, Content] = {
        "entry offset": np.array([entry.offset for entry in ordered], "<u8"),
        "entry nbytes": np.array([entry.nbytes for entry in ordered], "<u8"),
        "entry name_start": starts,
        "entry blob": np.array([NO_BLOB if entry.blob is None else entry.blob for entry in ordered], "<u4"),
        "entry shape": own_shapes,
        "entry scale": np.array([entry.scale for entry in ordered], "<f4"),
        "entry type": np.array([entry.type for entry in ordered], "<u2"),
        "entry codec": np.array([entry.codec for entry in ordered], "<u2"),
        "shape start": shapes,
        "dims": dims,
        "names": pool,
        "metadata": dump_metadata(metadata or {}),
    }
    contents |= _pack_blobs(blobs)
    return assemble(contents, "embedded" if store is None else "external", store=store)


def pool_of(names: Sequence[bytes]) -> tuple[bytes, Array]:
    """Return the section of names, which are sorted, and where each begins in it.

    Raises:
        UsageError: ``duplicate-name``, ``names-too-long``.
    """
    for name, following in pairwise(names):
        if name == following:
            raise UsageError("duplicate-name", f"{name.decode()!r} is used twice")
    pool = b"\0".join([*names, b""])
    if len(pool) > MAX_NAMES_NBYTES:
        raise UsageError(
            "names-too-long", f"the names have {len(pool)} bytes in total, the limit is {MAX_NAMES_NBYTES}"
        )
    lengths = np.fromiter(map(len, names), np.int64, len(names)) + 1
    return pool, (np.cumsum(lengths) - lengths).astype("<u4")


def pool_shapes(shapes: Iterable[tuple[int, ...]]) -> tuple[Array, Array]:
    """Return where each shape begins in the pool of dimensions, and the pool."""
    starts: list[int] = []
    dims: list[int] = []
    for shape in shapes:
        starts.append(len(dims))
        dims.extend(shape)
    return np.array(starts, "<u4"), np.array(dims, "<u8")


def _pack_shapes(entries: Sequence[Entry]) -> tuple[Array, Array, Array]:
    """Return the table of shapes, the pool of dimensions, and the place of each entry's shape."""
    places: dict[tuple[int, ...], int] = {}
    own = [places.setdefault(entry.shape, len(places)) for entry in entries]
    for shape, place in places.items():
        fault = shape_fault(shape)
        if fault:
            raise UsageError("bad-shape", f"{entries[own.index(place)].name!r} {fault}")
    return *pool_shapes(places), np.array(own, "<u4")


def _pack_blobs(blobs: Sequence[IndexedBlob]) -> dict[str, Content]:
    digests = [blob.sha256 for blob in blobs if blob.sha256]
    return {
        "blob key": b"".join([blob.key.ljust(16, b"\0") for blob in blobs]),
        "blob nbytes": np.array([blob.nbytes for blob in blobs], "<u8"),
        "blob unpacked_nbytes": np.array([blob.unpacked_nbytes for blob in blobs], "<u8"),
        "blob sha256": b"".join(digests) if len(digests) == len(blobs) else b"",
    }


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
    flags = index.header.flags & HAS_DIGESTS | EXTERNAL * (store is not None)
    header = _bound(index.header._replace(flags=flags), store)
    return _with_digest(bytearray(HEADER_FIELDS.pack(*header)) + index.raw[HEADER_NBYTES:])


def unbind_index(raw: bytes | bytearray | memoryview) -> bytes:
    """Return the bytes of an external index bound to no store: it is stale beside any file."""
    header = _bound(Header._make(HEADER_FIELDS.unpack_from(raw)), None)
    return _with_digest(bytearray(HEADER_FIELDS.pack(*header)) + raw[HEADER_NBYTES:])


def _bound(header: Header, store: Directory | None) -> Header:
    """Return a header that belongs to a store, or to none."""
    if store is None:
        return header._replace(store_nbytes=0, store_sha256=bytes(32))
    return header._replace(store_nbytes=store.file_size, store_sha256=directory_digest(store))


def assemble(contents: Mapping[str, Content], kind: IndexKind, *, store: Directory | None = None) -> bytes:
    """Return the bytes of an index.

    Args:
        contents: Section → its bytes or values; none are empty.
        kind: Of the index.
        store: What an external one is bound to.
    """
    views = {name: _flat(contents[name]) for name in SECTIONS if len(contents.get(name, b""))}
    counts: dict[str, Any] = dict.fromkeys((counted_by for _, counted_by in SECTIONS.values()), 0)
    for name, view in views.items():
        dtype, counted_by = SECTIONS[name]
        counts[counted_by] = len(view) // dtype.itemsize
    has_digests = counts.pop("digest_count") == counts["blob_count"]  # also without blobs
    empty = Header._make(HEADER_FIELDS.unpack(bytes(HEADER_NBYTES)))
    flags = KIND_FLAGS[kind] | HAS_DIGESTS * has_digests
    header = _bound(empty._replace(magic=MAGIC, version=VERSION, flags=flags, **counts), store)
    spans = section_spans(header)
    raw = bytearray(sum(spans["metadata"]))
    HEADER_FIELDS.pack_into(raw, 0, *header._replace(nbytes=len(raw)))
    for name, view in views.items():
        start, nbytes = spans[name]
        raw[start : start + nbytes] = view
    return _with_digest(raw)


def _flat(content: Content) -> memoryview:
    return (np.ascontiguousarray(content).data if isinstance(content, np.ndarray) else memoryview(content)).cast("B")


def _with_digest(raw: bytearray) -> bytes:
    """Return an index with its own digest in its place."""
    raw[SELF_DIGEST_AT : SELF_DIGEST_AT + 32] = self_digest(memoryview(raw))
    return bytes(raw)


def dump_metadata(metadata: Mapping[str, str]) -> bytes:
    """Return metadata as it is stored.

    Raises:
        UsageError: ``bad-metadata``.
    """
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise UsageError("bad-metadata", f"metadata is text → text, found {key!r} → {value!r}")
    text = json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("bad-metadata", f"metadata is not Unicode text: {error.reason}") from None
