"""Give an existing file a name index, or move the index that it has."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from blobstore.container.keys import INDEX_KEY, encode_key
from blobstore.container.layout import max_blobs_from
from blobstore.container.reader import BlobReader
from blobstore.container.writer import ContainerWriter
from blobstore.edit.manifest import describe, manifest_of, refuse_packed
from blobstore.errors import FormatError, UsageError
from blobstore.fileio.hashing import digest_of
from blobstore.index import IndexedBlob, build_index, rebind_index
from blobstore.index.locate import external_path, find_index
from blobstore.index.sidecar import close_with_index, write_index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from blobstore.container.directory import Directory
    from blobstore.edit.manifest import Manifest
    from blobstore.index import Entry, NameIndex
    from blobstore.index.locate import IndexPlace
    from blobstore.index.sidecar import MakeIndex


class Reindexed(NamedTuple):
    """The path of the file with the index, and the number of its names."""

    path: str
    names: int


class Rebuilt(NamedTuple):
    """Where a new index is, and what is lost from the previous one.

    Attributes:
        path: Of the file that it is in.
        names: How many it has.
        lost: How many names only the previous one had; None where they couldn't be read.
        changed: How many names of both have another type, shape or scale now.
        notes: What a user should know about that.
    """

    path: str
    names: int
    lost: int | None = 0
    changed: int = 0
    notes: tuple[str, ...] = ()


def attach_index(path: str | PathLike[str]) -> Reindexed:
    """Move the index beside a file into it. The file is rewritten, then the index beside it is removed.

    Raises:
        UsageError: ``has-index`` if it has one inside already; ``no-index`` if there is none beside it.
        FormatError: ``index-stale`` and others: it belongs to another file, or is invalid.
    """
    with BlobReader(path, access="read") as reader:
        if INDEX_KEY in reader:
            raise UsageError("has-index", f"{reader.path!r} has its index inside already")
        index = find_index(reader)
        if index is None:
            raise UsageError("no-index", f"{external_path(path)!r} does not exist: blobstore index build makes one")
        _rewrite(reader, "embedded", partial(rebind_index, index))
        return Reindexed(reader.path, len(index.names))


def detach_index(path: str | PathLike[str]) -> Reindexed:
    """Move the index of a file into one beside it. The file is rewritten, as if it had never had an index.

    Raises:
        UsageError: ``no-index`` if there is none inside; ``no-blobs`` if nothing would be left.
    """
    with BlobReader(path, access="read") as reader:
        if INDEX_KEY not in reader:
            raise UsageError("no-index", f"{reader.path!r} has no index inside")
        index = find_index(reader)
        if index is None or len(reader) == 1:
            raise UsageError("no-blobs", f"{reader.path!r} has nothing but its index")
        _rewrite(reader, "external", partial(rebind_index, index))
        return Reindexed(external_path(path), len(index.names))


def build_for(path: str | PathLike[str], *, embed: bool = False, digests: bool = False, force: bool = False) -> Rebuilt:
    """Make an index for a file that has none: from its ``toc``, or else with each blob under its key.

    The metadata of an index that was there is kept, as far as it can be read and is still true. Its names are not.

    Args:
        path: A .sbs file.
        embed: Put it inside (the file is rewritten), not beside the file.
        digests: Read every blob, and keep its SHA-256.
        force: Replace an index that is there.

    Raises:
        UsageError: ``has-index``, unless ``force``; ``no-blobs`` when there is nothing but an index;
            ``packed-file``: it was made by `blobstore.pack`, whose index can't be rebuilt.
    """
    with BlobReader(path, access="read") as reader:
        index_path = external_path(path)
        if not force and (INDEX_KEY in reader or os.path.exists(index_path)):
            where = reader.path if INDEX_KEY in reader else index_path
            raise UsageError("has-index", f"{where!r} has an index already: --force rebuilds it")
        refuse_packed(reader, None)
        with contextlib.suppress(FormatError):  # an invalid index says nothing, and is replaced
            refuse_packed(reader, find_index(reader))
        manifest = manifest_of(reader, None)
        if not manifest.blobs:
            raise UsageError("no-blobs", f"{reader.path!r} has nothing but its index")
        describe(manifest, reader)
        lost, changed, notes = _carry_over(reader, manifest, digests=digests)
        entries = manifest.entries or []
        table = [_table_row(reader, blob.key, digests=digests) for blob in manifest.blobs]

        def make_index(store: Directory | None) -> bytes:
            return build_index(entries, table, manifest.metadata, store=store)

        if embed:
            _rewrite(reader, "embedded", make_index)
        elif INDEX_KEY in reader:
            _rewrite(reader, "external", make_index)
        else:
            write_index(make_index(reader.directory), reader)
        return Rebuilt(reader.path if embed else index_path, len(entries), lost, changed, notes)


def _carry_over(reader: BlobReader, manifest: Manifest, *, digests: bool) -> tuple[int | None, int, tuple[str, ...]]:
    """Give a new index the metadata of the previous one → how many names are lost, how many changed, and notes."""
    try:
        index = find_index(reader)
    except FormatError as error:
        return None, 0, (_carry_over_metadata(reader, manifest, error.reason),)
    if index is None:
        return 0, 0, ()
    manifest.metadata = dict(index.metadata)
    before = {entry.name: _facts(entry) for entry in index.all_entries()}
    now = {entry.name: _facts(entry) for entry in manifest.entries or ()}
    lost = before.keys() - now
    changed = [name for name, facts in now.items() if before.get(name, facts) != facts]
    notes = []
    if lost or changed:
        others = f", and {len(changed)} have another type, shape or scale" if changed else ""
        source = ": export gives tensors as they are stored" if manifest.forget_names() else ""
        notes.append(f"{len(lost)} of the {len(before)} names that the index had are lost{others}{source}")
    return len(lost), len(changed), (*notes, *_doubts(index, manifest, digests=digests))


def _carry_over_metadata(reader: BlobReader, manifest: Manifest, reason: str) -> str:
    """Take the metadata of an invalid index, if it can be read → a note."""
    with contextlib.suppress(FormatError):
        index = find_index(reader, whole=False)
        manifest.metadata = dict(index.metadata) if index else {}
    manifest.forget_names()
    lost = "its names are lost, and its metadata is kept" if manifest.metadata else "its names and metadata are lost"
    return f"the index that was there can't be used ({reason}): {lost}"


def _facts(entry: Entry) -> tuple[object, ...]:
    return entry.type, entry.shape, entry.scale


def _doubts(index: NameIndex, manifest: Manifest, *, digests: bool) -> Iterator[str]:
    if index.has_digests and not digests:
        yield "the index had the SHA-256 of each blob, the new one has none: --digests makes them"
    if manifest.metadata and not index.self_digest_holds():
        yield "the index has changed since it was written: check that its metadata, which is kept, is right"


def _table_row(reader: BlobReader, key: str, *, digests: bool) -> IndexedBlob:
    blob = reader.file_range(key)
    return IndexedBlob(encode_key(key), blob.nbytes, digest_of(blob) if digests else None)


def _rewrite(reader: BlobReader, place: IndexPlace, make_index: MakeIndex) -> None:
    """Replace a file by one with the same blobs and another index."""
    with ContainerWriter(reader.path, version=reader.version, max_blobs=max_blobs_from(len(reader))) as writer:
        for key in reader:
            if key != INDEX_KEY:
                writer.add(key, reader.file_range(key))
        close_with_index(writer, place, make_index, replaced=reader)
