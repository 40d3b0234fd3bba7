"""Catalogs: what the tensors of a file are, and where they lie, from its index, its toc or its keys."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from itertools import count, repeat
from typing import TYPE_CHECKING, Protocol

import numpy as np

from blobstore.codecs import element_types
from blobstore.container.keys import OWN_KEYS, RESERVED_KEYS, SCALES_KEY, TOC_KEY, decode_key, encode_key
from blobstore.container.layout import KEY_NBYTES
from blobstore.errors import FormatError, UsageError, in_file
from blobstore.index import PACKED
from blobstore.store.info import PackedRange, TensorInfo
from blobstore.store.plain import PlainTensors, plain_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from blobstore.container.directory import Directory
    from blobstore.index import NameIndex


_NO_TENSORS = RESERVED_KEYS | OWN_KEYS
PER_LOOKUP = 128  # entries that are listed in the time of about one look-up in place


class Catalog(Protocol):
    """The tensors of a file, whatever lists them."""

    @property
    def names(self) -> list[str]:
        """All names: sorted with an index, else in the file's order."""

    def find(self, name: str) -> TensorInfo | None:
        """Return the tensor of this name, or None."""

    def __iter__(self) -> Iterator[TensorInfo]:
        """Yield each tensor, in the order of the names."""


def open_catalog(blobs: Mapping[str, memoryview], directory: Directory, index: NameIndex | None) -> Catalog:
    """Return the catalog of a file: its index, else the runtime's ``toc``, else the keys of a file from before 2025.

    Without any of these, each blob is bytes under its key, except the runtime's own blobs and this project's.

    Args:
        blobs: Of the file.
        directory: Of the file.
        index: Its name index, if it has one.

    Raises:
        FormatError: The toc or the scales don't fit the file: ``toc-…``, ``fields-…``, ``scales-…``. An index is
            checked later.
    """
    if index:
        return IndexCatalog(directory, index)
    if TOC_KEY in blobs:
        return ListCatalog(_from_toc(directory, blobs[TOC_KEY]))
    old = _from_before_2025(directory, blobs.get(SCALES_KEY))
    return ListCatalog(old) if old else BlobCatalog(directory)


class IndexCatalog:
    """The tensors that a name index lists."""

    def __init__(self, directory: Directory, index: NameIndex) -> None:
        """Join a directory with its index. The index is checked when it is used."""
        self._directory = directory
        self._index = index
        self._lookups = count()
        self._rows: list[TensorInfo] | None = None

    @property
    def names(self) -> list[str]:
        """All names, sorted.

        Raises:
            FormatError: The index is wrong (``index-…``), or lists blobs that the file doesn't have.
        """
        with in_file(self._index.path):
            self._check()
            return self._index.names

    def _check(self) -> None:
        """Check all of the index, even parts that listing doesn't need: listing a file shows that it is damaged."""
        self._index.check()
        _ = self._places

    @cached_property
    def _places(self) -> npt.NDArray[np.int64]:
        return self._index.places(self._directory)

    def find(self, name: str) -> TensorInfo | None:
        """Return the tensor of this name, or None. The first few are found in place; for more, all are listed.

        Raises:
            FormatError: The index is wrong about this tensor; or it doesn't list the name, and is wrong anywhere.
        """
        with in_file(self._index.path):
            if self._rows is None and next(self._lookups) == len(self._index.entries) // PER_LOOKUP:
                with suppress(FormatError):  # of another tensor: this one may be right
                    self._check()
                    self._rows = list(self._list())
            if self._rows is None:
                return self._find_in_place(name)
            place = self._index.find(name)
            return self._rows[place] if place >= 0 else None

    def _find_in_place(self, name: str) -> TensorInfo | None:
        place = self._index.find_in_place(name)
        if place < 0:
            return None
        entry = self._index.entry(place)
        shape, kind = entry.shape, element_types.by_number(entry.type)
        if entry.blob is None:
            return TensorInfo(name, "", kind, shape, entry.scale, entry.offset, entry.nbytes, entry.codec)
        in_place = self._index.in_place(entry.blob, self._directory)
        blob = entry.blob if in_place else int(self._places[entry.blob])
        key, (start, _) = decode_key(self._directory.keys[blob]), self._directory.range(blob)
        if entry.codec != PACKED:
            return TensorInfo(name, key, kind, shape, entry.scale, start + entry.offset, entry.nbytes, entry.codec)
        row = self._index.blob(entry.blob)
        packed = PackedRange(entry.offset, entry.nbytes, row.unpacked_nbytes)
        return TensorInfo(name, key, kind, shape, entry.scale, start, row.nbytes, entry.codec, packed)

    def plain(self) -> PlainTensors:
        """Return the tensors that numpy can view as they are stored.

        Raises:
            FormatError: As `names`.
        """
        with in_file(self._index.path):
            self._check()
            return plain_tensors(self._index, self._directory, self._places)

    def __iter__(self) -> Iterator[TensorInfo]:
        if self._rows is not None:
            return iter(self._rows)
        with in_file(self._index.path):
            self._check()
            return self._list()

    def _list(self) -> Iterator[TensorInfo]:
        """Return all tensors, by columns: numpy is much slower at one item at a time. The index was checked."""
        index, entries, all_keys = self._index, self._index.entries, self._directory.all_keys
        places = self._places
        blobs = entries.blob.tolist()
        keys: list[str] = [*map(all_keys.__getitem__, places.tolist()), ""]
        starts, own = np.append(self._directory.offsets[places], 0), np.minimum(entries.blob, len(places))
        offsets, sizes = (entries.offset.astype(np.int64) + starts[own]).tolist(), entries.nbytes.tolist()
        packed: list[PackedRange | None] = [None] * len(blobs)
        for place in np.flatnonzero(entries.codec == PACKED).tolist():
            row, blob = index.entries, blobs[place]
            unpacked_nbytes = int(index.blobs.unpacked_nbytes[blob])
            packed[place] = PackedRange(int(row.offset[place]), sizes[place], unpacked_nbytes)
            offsets[place], sizes[place] = int(starts[blob]), int(index.blobs.nbytes[blob])
        types = entries.type.tolist()  # np.unique imports numpy.ma: 6 ms
        kinds = {number: element_types.by_number(number) for number in set(types)}
        columns = (
            index.names,
            map(keys.__getitem__, own.tolist()),
            map(kinds.__getitem__, types),
            map(index.shapes.__getitem__, entries.shape.tolist()),
            entries.scale.tolist(),
            offsets,
            sizes,
            entries.codec.tolist(),
            packed,
            repeat(()),
            repeat(None),
        )
        return map(TensorInfo._make, zip(*columns, strict=False))


class BlobCatalog:
    """The blobs of a file that nothing describes: bytes under their keys."""

    def __init__(self, directory: Directory) -> None:
        """View a directory."""
        self._directory = directory

    @cached_property
    def names(self) -> list[str]:
        """All keys except the runtime's own and this project's, in file order."""
        return [key for key in self._directory.all_keys if key not in _NO_TENSORS]

    def find(self, name: str) -> TensorInfo | None:
        """Return the blob of this key as bytes, or None."""
        place = -1
        if name not in _NO_TENSORS:
            with suppress(UsageError):  # a name that can't be a key is not in the file
                place = self._directory.find(encode_key(name))
        if place < 0:
            return None
        offset, nbytes = self._directory.range(place)
        return TensorInfo(name, name, element_types.UNKNOWN, (nbytes,), 1.0, offset, nbytes, 0)

    def __iter__(self) -> Iterator[TensorInfo]:
        keys, offsets, sizes = (
            self._directory.all_keys,
            self._directory.offsets.tolist(),
            self._directory.sizes.tolist(),
        )
        return (
            TensorInfo(key, key, element_types.UNKNOWN, (nbytes,), 1.0, offset, nbytes, 0)
            for key, offset, nbytes in zip(keys, offsets, sizes, strict=True)
            if key not in _NO_TENSORS
        )


class ListCatalog:
    """A list that is made at once."""

    def __init__(self, infos: list[TensorInfo]) -> None:
        """Keep the list."""
        self._infos = {info.name: info for info in infos}

    @property
    def names(self) -> list[str]:
        """All names, in the list's order."""
        return list(self._infos)

    def find(self, name: str) -> TensorInfo | None:
        """Return the tensor of this name, or None."""
        return self._infos.get(name)

    def __iter__(self) -> Iterator[TensorInfo]:
        return iter(self._infos.values())


def _from_toc(directory: Directory, raw: memoryview) -> list[TensorInfo]:
    from blobstore.gemma.toc import odd_strides, parse_toc, stride_fault  # noqa: PLC0415 (files with an index open without it)

    try:
        entries = parse_toc(raw)
    except FormatError as error:
        raise FormatError(error.reason, f"in the blob {TOC_KEY!r}: {error.message}", error.offset) from None
    infos = []
    for entry in entries:
        name, shape = entry.name, (entry.rows, entry.cols)
        place = directory.find(name.encode())
        if place < 0:
            raise FormatError("toc-missing-blob", f"{TOC_KEY!r} lists {name!r}, but the file has no such blob")
        offset, nbytes = directory.range(place)
        if not entry.fits(nbytes):
            takes = f"takes {entry.nbytes} bytes" if entry.type.bits else "is not 1 to 2⁵⁷ − 1 elements"
            what = f"{name!r} is {entry.type}, {entry.rows} × {entry.cols}, which {takes}"
            raise FormatError("toc-size", f"{TOC_KEY!r} says that {what}; the blob has {nbytes}", offset)
        if odd_strides([entry]):
            raise FormatError("toc-stride", f"{TOC_KEY!r} says that {stride_fault(entry)}", offset)
        infos.append(TensorInfo(name, name, entry.type, shape, entry.scale, offset, nbytes, 0))
    return infos


def _from_before_2025(directory: Directory, scales: memoryview | None) -> list[TensorInfo]:
    from blobstore.gemma.legacy import TYPE_LETTERS, legacy_tensors  # noqa: PLC0415 (as above)

    letters = np.frombuffer("".join(TYPE_LETTERS).encode(), dtype=np.uint8)
    first = np.ascontiguousarray(directory.keys).view(np.uint8)[::KEY_NBYTES]
    places = np.flatnonzero(np.isin(first, letters)).tolist()
    blobs = [(decode_key(directory.keys[place]), directory.range(place)) for place in places]
    ranges = dict(blobs)
    return [
        TensorInfo(tensor.name, tensor.key, tensor.type, (tensor.count,), tensor.scale, *ranges[tensor.key], 0)
        for tensor in legacy_tensors([(key, nbytes) for key, (_, nbytes) in blobs], scales)
    ]
