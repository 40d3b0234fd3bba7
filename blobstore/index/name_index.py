"""`NameIndex`: a checked index, used as it lies in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from blobstore.directory import bad_key
from blobstore.errors import FormatError, UsageError
from blobstore.index.records import HEADER, NO_BLOB, Entry, IndexedBlob, directory_digest, self_digest
from blobstore.keys import INDEX_KEY, decode_key, encode_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from blobstore.directory import Directory

_OWN_KEY = np.frombuffer(INDEX_KEY.encode().ljust(16, b"\0"), "<u8")
_REBUILD = "remove the index or build it again with blobstore index build"


@dataclass(frozen=True, eq=False)
class NameIndex:
    """A checked index, used as it lies in memory.

    Attributes:
        entries: Records of dtype `ENTRY`, sorted by the name's bytes.
        blobs: Records of dtype `BLOB`.
        dims: The pool of dimensions.
        names_pool: All names, a NUL behind each.
        names: The same as text, in the order of the entries.
        metadata: What the user gave.
        has_digests: Whether the blobs' SHA-256 are there.
        store_nbytes, store_sha256: The store that an external index belongs to; None for an embedded one.
        raw: All of its bytes.
    """

    entries: npt.NDArray[np.void]
    blobs: npt.NDArray[np.void]
    dims: npt.NDArray[np.uint64]
    names_pool: memoryview
    names: list[str]
    metadata: dict[str, str]
    has_digests: bool
    store_nbytes: int | None
    store_sha256: bytes | None
    raw: memoryview = field(repr=False)

    @property
    def external(self) -> bool:
        """Whether it is a file of its own."""
        return self.store_nbytes is not None

    @cached_property
    def _spans(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
        return np.ascontiguousarray(self.entries["name_offset"]), np.ascontiguousarray(self.entries["name_nbytes"])

    def find(self, name: str) -> int:
        """Return the place of a name among the entries, or -1. A binary search: nothing is built for it."""
        try:
            wanted = encode_name(name)
        except UsageError:
            return -1
        starts, lengths = self._spans
        low, high = 0, len(starts)
        while low < high:
            middle = (low + high) // 2
            start = int(starts[middle])
            found = bytes(self.names_pool[start : start + int(lengths[middle])])
            if found < wanted:
                low = middle + 1
            elif found > wanted:
                high = middle
            else:
                return middle
        return -1

    def entry(self, place: int) -> Entry:
        """Return one entry."""
        row = self.entries[place]
        start, blob = int(row["dims_start"]), int(row["blob"])
        return Entry(
            name=self.names[place],
            blob=None if blob == NO_BLOB else blob,
            offset=int(row["offset"]),
            nbytes=int(row["nbytes"]),
            type=int(row["type"]),
            shape=tuple(self.dims[start : start + int(row["ndim"])].tolist()),
            scale=float(row["scale"]),
            codec=int(row["codec"]),
        )

    def all_entries(self) -> Iterator[Entry]:
        """Yield all entries, in their order."""
        columns = ("blob", "offset", "nbytes", "type", "dims_start", "ndim", "scale", "codec")
        dims = self.dims.tolist()
        rows = zip(self.names, *(self.entries[column].tolist() for column in columns), strict=True)
        for name, blob, offset, nbytes, kind, start, ndim, scale, codec in rows:
            shape = tuple(dims[start : start + ndim])
            yield Entry(name, None if blob == NO_BLOB else blob, offset, nbytes, kind, shape, scale, codec)

    def blob(self, place: int) -> IndexedBlob:
        """Return a row of the blob table."""
        row = self.blobs[place]
        digest = row["sha256"].tobytes() if self.has_digests else None
        return IndexedBlob(row["key"].tobytes().rstrip(b"\0"), int(row["nbytes"]), digest)

    def places(self, directory: Directory) -> npt.NDArray[np.int64]:
        """Return where each blob of the table stands in a store's directory, shape (blob_count,).

        Raises:
            FormatError: Checks I17 to I19: ``index-key``, ``index-missing-blob``, ``index-blob-size``.
        """
        raw = np.ascontiguousarray(self.blobs["key"])
        keys = raw.reshape(-1).view("S16")
        count = len(keys)
        places = np.arange(count, dtype=np.int64)
        low, high = raw.view("<u8").T
        if ((low == _OWN_KEY[0]) & (high == _OWN_KEY[1])).any():
            raise FormatError("index-key", f"the index speaks of {INDEX_KEY!r}, itself")
        if count > len(directory) or not np.array_equal(raw.view("<u8"), _words(directory.keys[:count])):
            bad = bad_key(raw)
            if bad is not None:
                raise FormatError("index-key", f"blob {bad} of the index: {raw[bad].tobytes()!r} is no key")
            # Written again in another order by a tool that knows no index: look every key up.
            unique, repeats = np.unique(keys, return_counts=True)
            if (repeats > 1).any():
                key = decode_key(unique[int(repeats.argmax())])
                raise FormatError("index-key", f"the index speaks of the blob {key!r} twice")
            order = np.argsort(directory.keys, kind="stable")
            found = np.minimum(np.searchsorted(directory.keys, keys, sorter=order), len(directory) - 1)
            places = order[found].astype(np.int64)
            missing = directory.keys[places] != keys
            if missing.any():
                key = decode_key(keys[int(missing.argmax())])
                raise FormatError(
                    "index-missing-blob", f"the index speaks of a blob {key!r}, the file has none: {_REBUILD}"
                )
        wrong = directory.sizes[places] != self.blobs["nbytes"].astype(np.int64)
        if wrong.any():
            i = int(wrong.argmax())
            has, says = int(directory.sizes[places[i]]), int(self.blobs["nbytes"][i])
            raise FormatError(
                "index-blob-size",
                f"the index says {says} bytes for {decode_key(keys[i])!r}, the file has {has}: {_REBUILD}",
            )
        return places

    def check_binding(self, directory: Directory) -> None:
        """Check that an external index belongs to this store.

        Raises:
            FormatError: Check I16, ``index-stale``.
        """
        if not self.external:
            return
        if self.store_nbytes != directory.file_size:
            what = f"a store of {self.store_nbytes} bytes, this one has {directory.file_size}"
        elif self.store_sha256 != directory_digest(directory):
            what = "a store with another directory"
        else:
            return
        raise FormatError("index-stale", f"this index was made for {what}: {_REBUILD}")

    def self_digest_holds(self) -> bool:
        """Whether the index's own SHA-256 is right: that none of its bits has changed since it was written."""
        header = np.frombuffer(self.raw, HEADER, 1)[0]
        return bool(header["self_sha256"].tobytes() == self_digest(self.raw))


def _words(keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint64]:
    """Keys as two words each, shape (count, 2): these compare faster than text."""
    return np.ascontiguousarray(keys).view("<u8").reshape(-1, 2)
