"""The two vocabularies of a file: the names of its checkpoint, or the runtime's keys. Each lists every tensor once.

What a file's index lists is both at once: each key, and each name whose rows are one run of a blob.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from blobstore.codecs import element_types
from blobstore.container.keys import TOC_KEY
from blobstore.errors import FormatError, UsageError, in_file
from blobstore.index.metadata import REARRANGED
from blobstore.index.names import is_made_key, key_for
from blobstore.store.catalog import BlobCatalog, ListCatalog, open_catalog
from blobstore.store.info import PackedRange, TensorInfo, is_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blobstore.container.directory import Directory
    from blobstore.container.reader import BlobReader
    from blobstore.index import NameIndex
    from blobstore.store.arrangement import Arrangement
    from blobstore.store.catalog import Catalog

By = Literal["names", "keys"]


def check_by(by: By) -> None:
    """Refuse what is not one of the vocabularies.

    Raises:
        UsageError: ``bad-by``.
    """
    if by not in get_args(By):
        raise UsageError("bad-by", f"expected one of {', '.join(get_args(By))}, found {by!r}")


class Vocabularies:
    """What a file lists: all of it, and as either vocabulary.

    Attributes:
        entries: All of it, as the index, the toc or the keys have it.
        count: How many those are, or the blobs without an index.
    """

    def __init__(self, reader: BlobReader, index: NameIndex | None, *, use_index: bool) -> None:
        """Open a file's list; with ``use_index`` False its blobs, whatever describes them.

        Raises:
            FormatError: As `open_catalog`.
        """
        self._reader, self._index = reader, index
        self.count: int = len(reader) if index is None else len(index.entries)
        self.entries: Catalog = BlobCatalog(reader.directory)
        if use_index:
            self.entries = open_catalog(reader, reader.directory, index)

    def by(self, by: By) -> Catalog:
        """Return one of the vocabularies.

        Raises:
            FormatError: The index is damaged; ``rearranged-metadata``: its record of the checkpoint doesn't match the
                tensors.
        """
        with in_file(self._reader.path):
            return self._names if by == "names" else self._keys

    @cached_property
    def _names(self) -> Catalog:
        if self._index is None:
            return self.entries
        with in_file(self._index.path):
            try:
                arrangement = self._index.metadata.get(REARRANGED)
            except FormatError:
                self._index.check()  # another fault may come first in the specification's order
                raise
        if arrangement is not None:
            return CheckpointCatalog(self.entries, arrangement)
        return _without_covered_keys(self.entries, self._toc_keys) if self._toc_keys else self.entries

    @cached_property
    def _toc_keys(self) -> frozenset[str]:
        """The runtime's keys, as far as the file has a toc that can be read."""
        if TOC_KEY not in self._reader:
            return frozenset()
        from blobstore.gemma.toc import parse_toc  # noqa: PLC0415 (files without a toc open without it)

        with suppress(FormatError):
            return frozenset(entry.name for entry in parse_toc(self._reader[TOC_KEY]))
        return frozenset()

    def left_out(self, by: By) -> list[str]:
        """Return a line for each stored tensor that a vocabulary lacks: what the runtime doesn't know has no key."""
        if by == "names" or not self._toc_keys:
            return []
        names = (info.name for info in self.entries if is_made_key(info.key))
        return [f"{name!r} is not one of gemma.cpp's tensors, and has no key: by keys it is left out" for name in names]

    @cached_property
    def _keys(self) -> Catalog:
        if self._index is None:
            return ListCatalog([info._replace(name=info.key) for info in self.entries])
        return _key_catalog(self.entries, self._reader.directory, is_model=bool(self._toc_keys))


class CheckpointCatalog:
    """The tensors of the checkpoint that a file was converted from, and the tied head, which has a name of its own."""

    def __init__(self, entries: Catalog, arrangement: str) -> None:
        """Join what the index lists with the metadata's text of how the checkpoint was laid out.

        Raises:
            FormatError: ``rearranged-metadata``: it doesn't match the tensors.
        """
        from blobstore.store.arrangement import parse_arrangement  # noqa: PLC0415 (1 ms, and it needs ml_dtypes)

        self._entries = entries
        self.arrangement: Arrangement = parse_arrangement(arrangement, entries.find)
        self._holders = self.arrangement.holders()
        self._made: dict[str, TensorInfo] = {}  # gathered tensors: some are of thousands of blocks

    @cached_property
    def names(self) -> list[str]:
        """All names, sorted."""
        arrangement = self.arrangement
        kept = {info.name for info in self._entries if is_name(info, self._holders)}
        return sorted(kept | set(arrangement.blocks) | set(arrangement.aliases))

    def find(self, name: str) -> TensorInfo | None:
        """Return the tensor of this name, or None."""
        main = self.arrangement.aliases.get(name, name)
        if main in self.arrangement.blocks:
            if main not in self._made:
                self._made[main] = self._gathered(main)
            return self._made[main] if name == main else self._made[main]._replace(name=name)
        info = self._entries.find(name)
        if info is None or not is_name(info, self._holders):
            return None
        return info._replace(source_type=self.arrangement.type_of(name))

    def _gathered(self, name: str) -> TensorInfo:
        blocks = self.arrangement.blocks[name]
        holders = [block.stored for block in blocks]
        element_type = holders[0].type
        return TensorInfo(
            name=name,
            key=holders[0].key if len({holder.key for holder in holders}) == 1 else "",
            type=element_type,
            shape=self.arrangement.shapes[name],
            scale=1.0,
            offset=min(block.stored.offset + element_type.nbytes(block.at) for block in blocks),
            nbytes=sum(element_type.nbytes(block.element_count) for block in blocks),
            codec=0,
            blocks=blocks,
            source_type=self.arrangement.type_of(name),
        )

    def __iter__(self) -> Iterator[TensorInfo]:
        arrangement = self.arrangement
        # By columns: looking names up one by one takes five times as long.
        kept = {info.name: info for info in self._entries if is_name(info, self._holders)}
        for name in self.names:
            is_kept = name in kept and name not in arrangement.blocks and name not in arrangement.aliases
            info = kept[name]._replace(source_type=arrangement.type_of(name)) if is_kept else self.find(name)
            if info:
                yield info


def _without_covered_keys(entries: Catalog, toc_keys: frozenset[str]) -> Catalog:
    """Return what a model's index lists without the runtime's keys of blobs that have names for all of their bytes."""
    infos = list(entries)
    named: dict[str, list[TensorInfo]] = {}
    for info in infos:
        if info.name != info.key:
            named.setdefault(info.key, []).append(info)
    return ListCatalog(
        [info for info in infos if info.name not in toc_keys or not _is_covered(info, named.get(info.key, ()))]
    )


def _is_covered(whole: TensorInfo, parts: Iterable[TensorInfo]) -> bool:
    """Whether tensors cover all bytes of another in the same blob."""
    end = whole.address()
    for part in sorted(parts, key=TensorInfo.address):
        if part.address() > end:
            return False
        end = max(end, part.address(part.element_nbytes))
    return end >= whole.address(whole.element_nbytes)


def _key_catalog(entries: Catalog, directory: Directory, *, is_model: bool) -> Catalog:
    """Return a file's blobs that hold tensors, by key, as the runtime sees them.

    Several names may lead to a blob. The runtime's own, the key, says type and shape; else the first name of the whole
    blob; a blob of which only parts have names is bytes. A tensor without elements has no blob, and keeps its name.
    In a model for gemma.cpp keys that were made from names aren't the runtime's: those tensors are left out.

    Args:
        entries: What the index lists.
        directory: Of the file.
        is_model: Whether it is for gemma.cpp: has a toc.
    """
    ranges = dict(
        zip(directory.all_keys, zip(directory.offsets.tolist(), directory.sizes.tolist(), strict=True), strict=True)
    )
    chosen: dict[str, TensorInfo] = {}
    for info in entries:
        if not info.key:  # it has no elements
            chosen.setdefault(info.name, info)
            continue
        if is_model and is_made_key(info.key):
            continue
        offset, nbytes = ranges[info.key]
        unpacked_nbytes = info.packed.blob_nbytes if info.packed else 0
        is_whole = info.element_nbytes == (unpacked_nbytes or nbytes) and info.nbytes == nbytes
        if is_whole and (info.key not in chosen or info.name == info.key or not chosen[info.key].type.number):
            chosen[info.key] = info._replace(name=info.key)
        elif info.key not in chosen:
            chosen[info.key] = _as_bytes(info.key, offset, nbytes, unpacked_nbytes)
    return ListCatalog(sorted(chosen.values(), key=lambda info: info.offset))


def _as_bytes(key: str, offset: int, nbytes: int, unpacked_nbytes: int) -> TensorInfo:
    count = unpacked_nbytes or nbytes
    packed = PackedRange(0, count, count) if unpacked_nbytes else None
    return TensorInfo(key, key, element_types.UNKNOWN, (count,), 1.0, offset, nbytes, int(bool(packed)), packed)


def aliases_of(catalog: Catalog) -> dict[str, str]:
    """Return the names of tensors that have a main name as well, name → main name; see `Store.aliases`."""
    return dict(catalog.arrangement.aliases) if isinstance(catalog, CheckpointCatalog) else _aliases_among(catalog)


def _aliases_among(infos: Iterable[TensorInfo]) -> dict[str, str]:
    """Return names of the same stored tensor → its main name: the one that the key was made of, or else the first."""
    places: dict[tuple[object, ...], list[TensorInfo]] = {}
    for info in infos:
        if info.nbytes:
            places.setdefault(info.place, []).append(info)
    aliases: dict[str, str] = {}
    for same in places.values():
        main = next((info.name for info in same if key_for(info.name) == info.key), same[0].name)
        aliases |= {info.name: main for info in same if info.name != main}
    return aliases
