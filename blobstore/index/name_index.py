"""`NameIndex`: an index, read in place."""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from operator import lt
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container.directory import KeyFinder, bad_key, key_words
from blobstore.container.keys import INDEX_KEY, decode_key
from blobstore.errors import FormatError, UsageError
from blobstore.index.names import encode_name
from blobstore.index.records import (
    ENTRY,
    ENTRY_FIELDS,
    HEADER,
    NO_BLOB,
    Entry,
    IndexedBlob,
    directory_digest,
    self_digest,
)
from blobstore.index.strict_json import parse_json, text_map
from blobstore.index.validate import Columns, Refusal, check_fields, check_names, check_reserved

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from blobstore.container.directory import Directory

_OWN_KEY = np.frombuffer(INDEX_KEY.encode().ljust(16, b"\0"), "<u8")
_FEW = 4  # look-ups that check one entry each; for more it is faster to check all entries once
_NAME_SPAN = struct.Struct("<IH")
_NAME_SPAN_AT = HEADER.itemsize + int(ENTRY.fields["name_offset"][1])  # type: ignore[index]
_REBUILD = "remove the index, or rebuild it with blobstore index build"


@dataclass(frozen=True, eq=False)
class NameIndex:
    """An index, read in place: nothing but the names is copied.

    Its layout was checked when it was opened. Its entries are checked before they are first used: those that a look-up
    touches, or all of them (`check`) when they are listed or when a name isn't found.

    Attributes:
        entries: Records of dtype `ENTRY`, sorted by the bytes of their names; not to be trusted before `check`.
        blobs: Records of dtype `BLOB`.
        dims: The pool of dimensions.
        names_pool: All names, each with a NUL after it.
        metadata_json: The metadata, as stored.
        has_digests: Whether it has the SHA-256 of each blob.
        store_nbytes, store_sha256: The store that an external index belongs to; None for an embedded one.
        raw: All of its bytes.
        path: Of the file that it is from; empty when it was parsed from memory.
    """

    entries: npt.NDArray[np.void]
    blobs: npt.NDArray[np.void]
    dims: npt.NDArray[np.uint64]
    names_pool: memoryview
    metadata_json: memoryview = field(repr=False)
    has_digests: bool
    store_nbytes: int | None
    store_sha256: bytes | None
    raw: memoryview = field(repr=False)
    path: str = ""
    _lookups: Iterator[int] = field(default_factory=count, init=False, repr=False)  # counts them

    @property
    def external(self) -> bool:
        """Whether it is a file of its own."""
        return self.store_nbytes is not None

    def check(self) -> None:
        """Check all that was not checked when it was opened.

        Raises:
            FormatError: Checks I7 to I15, and I20, of spec/index.md; offsets are from the beginning of the index.
        """
        _ = self.names, self.metadata

    @cached_property
    def names(self) -> list[str]:
        """All names as text, in the order of the entries. The first use checks all entries.

        Raises:
            FormatError: Checks I7 to I14, and I20.
        """
        columns, refusal = Columns(self.entries), Refusal()
        check_reserved(columns, refusal)
        names = check_names(columns, self.names_pool, self._names_start, refusal)
        check_fields(columns, self.blobs, self.dims, refusal)
        return names

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Text → text, as it was given.

        Raises:
            FormatError: Check I15.
        """
        try:
            return text_map(parse_json(bytes(self.metadata_json)))
        except ValueError as error:
            at = len(self.raw) - len(self.metadata_json)
            raise FormatError("index-metadata", f"the metadata is not a JSON object of strings: {error}", at) from None

    @property
    def _checked(self) -> bool:
        return "names" in self.__dict__

    @property
    def _names_start(self) -> int:
        return int(np.frombuffer(self.raw, HEADER, 1)[0]["names_offset"])

    def find(self, name: str) -> int:
        """Return the place of a name among the entries, or -1. The first few look-ups are binary searches in place.

        Raises:
            FormatError: An entry that it touched is invalid or, if the name isn't found, any entry: checks I7 to I14,
                and I20.
        """
        try:
            wanted = encode_name(name)
        except UsageError:
            return -1
        if self._checked or next(self._lookups) >= _FEW:
            place = bisect_left(self.names, name)
            return place if place < len(self.names) and self.names[place] == name else -1
        low, high = 0, len(self.entries)
        while low < high:
            middle = (low + high) // 2
            name_there = self._name_at(middle)
            if name_there < wanted:
                low = middle + 1
            elif name_there > wanted:
                high = middle
            else:
                self._check_one(middle, wanted)
                return middle
        _ = self.names  # a wrong order, too, makes the search fail
        return -1

    def _name_at(self, place: int) -> bytes:
        start, nbytes = _NAME_SPAN.unpack_from(self.raw, _NAME_SPAN_AT + ENTRY.itemsize * place)
        return bytes(self.names_pool[start : start + nbytes])

    def _check_one(self, place: int, name: bytes) -> None:
        """Check the entry that a search has found, and that no other entry has its name."""
        start, nbytes = _NAME_SPAN.unpack_from(self.raw, _NAME_SPAN_AT + ENTRY.itemsize * place)
        before = bytes(self.names_pool[start - 1 : start]) if start else b"\0"
        after = bytes(self.names_pool[start + nbytes : start + nbytes + 1])
        neighbours = [*([self._name_at(place - 1)] if place else ()), name]
        neighbours += [self._name_at(place + 1)] if place + 1 < len(self.entries) else []
        if before + after != b"\0\0" or not all(map(lt, neighbours, neighbours[1:])):
            _ = self.names  # raises the right error
        columns = Columns(self.entries[place : place + 1])
        refusal = Refusal(place, lambda _: name.decode())
        check_reserved(columns, refusal)
        check_fields(columns, self.blobs, self.dims, refusal)

    def entry(self, place: int) -> Entry:
        """Return one entry, at a place that `find` gave or of `names`."""
        fields = ENTRY_FIELDS.unpack_from(self.raw, HEADER.itemsize + ENTRY.itemsize * place)
        offset, nbytes, blob, _, _, element_type, codec, ndim, start, scale, _ = fields
        name, shape = self._name_at(place).decode(), tuple(self.dims[start : start + ndim].tolist())
        return Entry(name, None if blob == NO_BLOB else blob, offset, nbytes, element_type, shape, scale, codec)

    def all_entries(self) -> Iterator[Entry]:
        """Return all entries, in their order.

        Raises:
            FormatError: Checks I7 to I14, and I20.
        """
        columns = ("blob", "offset", "nbytes", "type", "dims_start", "ndim", "scale", "codec")
        dims = self.dims.tolist()
        rows = zip(self.names, *(self.entries[column].tolist() for column in columns), strict=True)
        return (
            Entry(
                name,
                None if blob == NO_BLOB else blob,
                offset,
                nbytes,
                element_type,
                tuple(dims[start : start + ndim]),
                *scale_and_codec,
            )
            for name, blob, offset, nbytes, element_type, start, ndim, *scale_and_codec in rows
        )

    def blob(self, place: int) -> IndexedBlob:
        """Return a row of the blob table."""
        row = self.blobs[place]
        digest = row["sha256"].tobytes() if self.has_digests else None
        return IndexedBlob(row["key"].tobytes().rstrip(b"\0"), int(row["nbytes"]), digest, int(row["unpacked_nbytes"]))

    def blob_of(self, key: bytes, place: int) -> IndexedBlob | None:
        """Return the row of the blob with this key; None if the table doesn't have it.

        Args:
            key: Without padding.
            place: Of the blob in the directory, which most often is its place in the table as well.
        """
        padded = np.frombuffer(key.ljust(16, b"\0"), np.uint8)
        if not (0 <= place < len(self.blobs) and np.array_equal(self.blobs["key"][place], padded)):
            place = self._rows.find(key)
        return self.blob(place) if place >= 0 else None

    @cached_property
    def _rows(self) -> KeyFinder:
        return KeyFinder(np.ascontiguousarray(self.blobs["key"]).reshape(-1).view("S16"))

    @property
    def packed_count(self) -> int:
        """How many blobs are packed."""
        return int(np.count_nonzero(self.blobs["unpacked_nbytes"]))

    def in_place(self, blob: int, directory: Directory) -> bool:
        """Whether a blob has the same place in a store's directory as in the table, and passes checks I17 to I19.

        If not, `places` finds it, or says what is wrong.
        """
        if blob >= len(directory):
            return False
        row, key = self.blobs[blob], directory.keys[blob]
        same = key == row["key"].tobytes().rstrip(b"\0") != INDEX_KEY.encode()
        return bool(same and directory.sizes[blob] == row["nbytes"])

    def places(self, directory: Directory) -> npt.NDArray[np.int64]:
        """Return the place of each blob of the table in a store's directory, shape (blob_count,).

        Raises:
            FormatError: Checks I17 to I19: ``index-key``, ``index-missing-blob``, ``index-blob-size``.
        """
        count = len(self.blobs)
        raw = np.ascontiguousarray(self.blobs["key"])
        words = raw.view("<u8")
        if (words[words[:, 0] == _OWN_KEY[0], 1] == _OWN_KEY[1]).any():
            raise FormatError("index-key", f"the index lists {INDEX_KEY!r}, itself")
        if count <= len(directory) and np.array_equal(words, key_words(directory.keys[:count])):
            places, sizes = np.arange(count, dtype=np.int64), directory.sizes[:count]
        else:  # a tool that ignores the index has rewritten the file in another order
            places = _look_up(raw, directory)
            sizes = directory.sizes[places]
        wrong = sizes.view(np.uint64) != self.blobs["nbytes"]
        if wrong.any():
            i = int(wrong.argmax())
            key, indexed, actual = decode_key(raw[i].tobytes()), int(self.blobs["nbytes"][i]), int(sizes[i])
            what = f"{key!r} has {indexed} bytes in the index, but {actual} in the file: {_REBUILD}"
            raise FormatError("index-blob-size", what)
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
        """Whether the index matches its own SHA-256: none of its bits has changed since it was written."""
        header = np.frombuffer(self.raw, HEADER, 1)[0]
        return bool(header["self_sha256"].tobytes() == self_digest(self.raw))


def _look_up(raw: npt.NDArray[np.uint8], directory: Directory) -> npt.NDArray[np.int64]:
    """Return the place of each key in a directory.

    Args:
        raw: The keys of an index's table, shape (blob_count, 16).
        directory: Of the store.

    Raises:
        FormatError: ``index-key``, ``index-missing-blob``.
    """
    bad = bad_key(raw)
    if bad is not None:
        raise FormatError("index-key", f"blob {bad} of the index: {raw[bad].tobytes()!r} is not a key")
    keys = raw.reshape(-1).view("S16")
    unique, repeats = np.unique(keys, return_counts=True)
    if (repeats > 1).any():
        key = decode_key(unique[int(repeats.argmax())])
        raise FormatError("index-key", f"the index lists the blob {key!r} twice")
    ranks = np.minimum(np.searchsorted(directory.keys, keys, sorter=directory.order), len(directory) - 1)
    places = directory.order[ranks].astype(np.int64)
    missing = directory.keys[places] != keys
    if missing.any():
        key = decode_key(keys[int(missing.argmax())])
        raise FormatError("index-missing-blob", f"the index lists {key!r}, but the file has no such blob: {_REBUILD}")
    return places
