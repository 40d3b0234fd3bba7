"""`NameIndex`: an index, read in place."""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cached_property
from operator import lt
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container.directory import KeyFinder, bad_key, key_words
from blobstore.container.keys import INDEX_KEY, decode_key
from blobstore.errors import FormatError, UsageError
from blobstore.index.names import encode_name
from blobstore.index.records import (
    HAS_DIGESTS,
    NO_BLOB,
    SELF_DIGEST_AT,
    Entry,
    IndexedBlob,
    directory_digest,
    self_digest,
)
from blobstore.index.stores import key_twice
from blobstore.index.strict_json import parse_json, text_map
from blobstore.index.validate import Refusal, check_entries, check_names, check_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from blobstore.container.directory import Directory
    from blobstore.index.records import BlobColumns, EntryColumns, Header, IndexKind, SetStore

_OWN_KEY = np.frombuffer(INDEX_KEY.encode().ljust(16, b"\0"), "<u8")
_CHECKED = 4096  # entries at a time: what is temporary stays in the processor's cache
_START, _SPAN = struct.Struct("<I"), struct.Struct("<II")
_REBUILD = "remove the index, or rebuild it with blobstore index build"


@dataclass(frozen=True, eq=False)
class NameIndex:
    """An index, read in place: nothing but the names is copied.

    Its layout was checked when it was opened. Its entries are checked before they are first used: those that a look-up
    touches, or all of them (`check`) when they are listed or when a name isn't found.

    Attributes:
        header: Its fields.
        spans: Where each section is: name of the section → (start, nbytes).
        entries: A column for each field, sorted by the bytes of the names; not to be trusted before `check`.
        blobs: The blob table, a column for each field.
        shape_starts: Where each shape begins in `dims`, shape (count,).
        dims: The pool of dimensions.
        stores: The files of a set, in the order of their blobs; empty in any other index.
        kind: What it is: inside its file, beside it, or of a set.
        raw: All of its bytes.
        path: Of the file that it is from; empty when it was parsed from memory.
    """

    header: Header
    spans: dict[str, tuple[int, int]] = field(repr=False)
    entries: EntryColumns = field(repr=False)
    blobs: BlobColumns = field(repr=False)
    shape_starts: npt.NDArray[np.uint32] = field(repr=False)
    dims: npt.NDArray[np.uint64] = field(repr=False)
    stores: tuple[SetStore, ...]
    kind: IndexKind
    raw: memoryview = field(repr=False)
    path: str = ""

    @property
    def external(self) -> bool:
        """Whether it is a file of its own, beside its store."""
        return self.kind == "external"

    @property
    def is_set(self) -> bool:
        """Whether it is the index of a set."""
        return self.kind == "set"

    @cached_property
    def has_digests(self) -> bool:
        """Whether it has the SHA-256 of each blob."""
        return bool(self.header.flags & HAS_DIGESTS)

    def _section(self, name: str) -> memoryview:
        start, nbytes = self.spans[name]
        return self.raw[start : start + nbytes]

    @cached_property
    def names_pool(self) -> memoryview:
        """All names, each with a NUL after it."""
        return self._section("names")

    def check(self) -> None:
        """Check all that was not checked when it was opened.

        Raises:
            FormatError: Checks I8 to I15, and I20, of spec/index.md; offsets are from the beginning of the index.
        """
        _ = self.names, self.metadata

    @cached_property
    def names(self) -> list[str]:
        """All names as text, in the order of the entries. The first use checks all entries.

        Raises:
            FormatError: Checks I8 to I14, and I20.
        """
        refusal = Refusal(self.spans)
        names = check_names(self.entries, self.names_pool, self.spans["names"][0], refusal)
        starts = self.shape_starts.astype(np.int64)
        if (int(starts[0]) if len(starts) else len(self.dims)) != 0:
            what = "the first shape is not at the beginning of the dimensions"
            raise FormatError("index-dims", what, self.spans["shape start"][0])
        stops = np.concatenate((starts[1:], [len(self.dims)]))
        counts = check_shapes(starts, stops, self.dims, Refusal(self.spans, what="shape"))
        try:
            for first in range(0, len(self.entries), _CHECKED):
                entries = self.entries.part(first, first + _CHECKED)
                check_entries(entries, self.blobs, counts, entries.shape, refusal)
        except FormatError:
            check_entries(self.entries, self.blobs, counts, self.entries.shape, refusal)  # the first check comes first
            raise
        return names

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Text → text, as it was given.

        Raises:
            FormatError: Check I15.
        """
        raw = bytes(self._section("metadata"))
        if raw == b"{}":  # most often, and setting up the parser takes longer
            return {}
        try:
            return text_map(parse_json(raw))
        except ValueError as error:
            at = self.spans["metadata"][0]
            raise FormatError("index-metadata", f"the metadata is not a JSON object of strings: {error}", at) from None

    @property
    def _checked(self) -> bool:
        return "names" in self.__dict__

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """All shapes; an entry has the place of its own. Those of checked entries are checked."""
        starts, dims = self.shape_starts.tolist(), self.dims.tolist()
        return [tuple(dims[start:stop]) for start, stop in zip(starts, [*starts[1:], len(dims)], strict=False)]

    def find(self, name: str) -> int:
        """Return the place of a name among the entries, or -1; once all were checked, without a search in place.

        Raises:
            FormatError: An entry that it touched is invalid or, if the name isn't found, any entry: checks I8 to I14,
                and I20.
        """
        if not self._checked:
            return self.find_in_place(name)
        place = bisect_left(self.names, name)
        return place if place < len(self.names) and self.names[place] == name else -1

    def find_in_place(self, name: str) -> int:
        """As `find`, by a binary search in the bytes."""
        try:
            wanted = encode_name(name)
        except UsageError:
            return -1
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

    def _name_span(self, place: int) -> tuple[int, int]:
        """Return where a name begins and where its NUL is: an arbitrary place in a faulty index."""
        at = self.spans["entry name_start"][0] + _START.size * place
        if place + 1 < len(self.entries):
            start, after = _SPAN.unpack_from(self.raw, at)
        else:
            start, after = _START.unpack_from(self.raw, at)[0], len(self.names_pool)
        return start, max(after - 1, 0)

    def _name_at(self, place: int) -> bytes:
        start, stop = self._name_span(place)
        return bytes(self.names_pool[start:stop])

    def _check_one(self, place: int, name: bytes) -> None:
        """Check the entry that a search has found, and that no other entry has its name."""
        start, stop = self._name_span(place)
        before = bytes(self.names_pool[start - 1 : start]) if start else b"\0"
        after = bytes(self.names_pool[stop : stop + 1])
        neighbours = [*([self._name_at(place - 1)] if place else ()), name]
        neighbours += [self._name_at(place + 1)] if place + 1 < len(self.entries) else []
        in_order = bool(start) == bool(place) and all(map(lt, neighbours, neighbours[1:]))
        if before + after != b"\0\0" or not in_order:
            _ = self.names  # raises the right error
        refusal = Refusal(self.spans, place, lambda _: name.decode())
        entry = self.entries.part(place, place + 1)
        shape = int(entry.shape[0])
        counts, own = np.empty(0, np.int64), entry.shape
        if shape < len(self.shape_starts):
            starts, stops = (np.array([at], np.int64) for at in self._shape_span(shape))
            counts = check_shapes(starts, stops, self.dims, Refusal(self.spans, shape, what="shape"))
            own = np.zeros(1, np.uint32)
        check_entries(entry, self.blobs, counts, own, refusal)

    def _shape_span(self, shape: int) -> tuple[int, int]:
        stop = int(self.shape_starts[shape + 1]) if shape + 1 < len(self.shape_starts) else len(self.dims)
        return int(self.shape_starts[shape]), stop

    def entry(self, place: int) -> Entry:
        """Return one entry, at a place that `find` gave or of `names`."""
        columns = self.entries
        blob = int(columns.blob[place])
        return Entry(
            self._name_at(place).decode(),
            None if blob == NO_BLOB else blob,
            int(columns.offset[place]),
            int(columns.nbytes[place]),
            int(columns.type[place]),
            tuple(self.dims[slice(*self._shape_span(int(columns.shape[place])))].tolist()),
            float(columns.scale[place]),
            int(columns.codec[place]),
        )

    def all_entries(self) -> Iterator[Entry]:
        """Return all entries, in their order.

        Raises:
            FormatError: Checks I8 to I14, and I20.
        """
        names, shapes, columns = self.names, self.shapes, self.entries
        blobs: list[int | None] = columns.blob.tolist()
        for place in np.flatnonzero(columns.blob == NO_BLOB).tolist():
            blobs[place] = None
        fields = (columns.offset, columns.nbytes, columns.type, columns.scale, columns.codec)
        offsets, sizes, types, scales, codecs = (column.tolist() for column in fields)
        own_shapes = map(shapes.__getitem__, columns.shape.tolist())
        return map(Entry, names, blobs, offsets, sizes, types, own_shapes, scales, codecs)

    def blob(self, place: int) -> IndexedBlob:
        """Return a row of the blob table."""
        blobs = self.blobs
        digest = blobs.sha256[place].tobytes() if self.has_digests else None
        key = blobs.key[place].tobytes().rstrip(b"\0")
        return IndexedBlob(key, int(blobs.nbytes[place]), digest, int(blobs.unpacked_nbytes[place]))

    def blob_of(self, key: bytes, place: int) -> IndexedBlob | None:
        """Return the row of the blob with this key; None if the table doesn't have it.

        Args:
            key: Without padding.
            place: Of the blob in the directory, which most often is its place in the table as well.
        """
        padded = np.frombuffer(key.ljust(16, b"\0"), np.uint8)
        if not (0 <= place < len(self.blobs) and np.array_equal(self.blobs.key[place], padded)):
            place = self._rows.find(key)
        return self.blob(place) if place >= 0 else None

    @cached_property
    def _rows(self) -> KeyFinder:
        return KeyFinder(self.blobs.key.reshape(-1).view("S16"))

    @property
    def packed_count(self) -> int:
        """How many blobs are packed."""
        return int(np.count_nonzero(self.blobs.unpacked_nbytes))

    def in_place(self, blob: int, directory: Directory) -> bool:
        """Whether a blob has the same place in a store's directory as in the table, and passes checks I17 to I19.

        If not, `places` finds it, or says what is wrong.
        """
        if blob >= len(directory):
            return False
        key = self.blobs.key[blob].tobytes()
        same = directory.keys[blob] == key.rstrip(b"\0") != INDEX_KEY.encode()
        if self.is_set and bad_key(self.blobs.key[blob : blob + 1]) is not None:
            return False  # a set's directory is made from this table
        return bool(same and directory.sizes[blob] == self.blobs.nbytes[blob])

    def places(self, directory: Directory) -> npt.NDArray[np.int64]:
        """Return the place of each blob of the table in a store's directory, shape (blob_count,).

        Raises:
            FormatError: Checks I17 to I19: ``index-key``, ``index-missing-blob``, ``index-blob-size``.
        """
        count = len(self.blobs)
        raw = self.blobs.key
        words = raw.view("<u8")
        if np.count_nonzero(words[words[:, 0] == _OWN_KEY[0], 1] == _OWN_KEY[1]):
            raise FormatError("index-key", f"the index lists {INDEX_KEY!r}, itself")
        if self.is_set:
            _check_set_keys(raw)
        if count <= len(directory) and np.array_equal(words, key_words(directory.keys[:count])):
            places, sizes = np.arange(count, dtype=np.int64), directory.sizes[:count]
        else:  # a tool that ignores the index has rewritten the file in another order
            places = _look_up(raw, directory)
            sizes = directory.sizes[places]
        wrong = sizes.view(np.uint64) != self.blobs.nbytes
        if np.count_nonzero(wrong):
            i = int(wrong.argmax())
            key, indexed, actual = decode_key(raw[i].tobytes()), int(self.blobs.nbytes[i]), int(sizes[i])
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
        if self.header.store_nbytes != directory.file_size:
            what = f"a store of {self.header.store_nbytes} bytes, this one has {directory.file_size}"
        elif self.header.store_sha256 != directory_digest(directory):
            what = "a store with another directory"
        else:
            return
        raise FormatError("index-stale", f"this index was made for {what}: {_REBUILD}")

    def self_digest_holds(self) -> bool:
        """Whether the index matches its own SHA-256: none of its bits has changed since it was written."""
        return bytes(self.raw[SELF_DIGEST_AT : SELF_DIGEST_AT + 32]) == self_digest(self.raw)


def _check_set_keys(raw: npt.NDArray[np.uint8]) -> None:
    """Make check I17 of the keys of a set, shape (count, 16), except that none is the index's own.

    Raises:
        FormatError: ``index-key``.
    """
    bad = bad_key(raw)
    if bad is not None:
        raise FormatError("index-key", f"blob {bad} of the index: {raw[bad].tobytes()!r} is not a key")
    twice = key_twice(raw)
    if twice is not None:
        raise FormatError("index-key", f"two stores of the set have a blob {twice!r}")


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
