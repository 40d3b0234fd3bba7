"""Give a file that exists a name index, or move the index that it has."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from blobstore.container.directory import build_directory
from blobstore.container.keys import INDEX_KEY, encode_key
from blobstore.container.layout import max_blobs_from
from blobstore.container.reader import BlobReader
from blobstore.container.writer import ContainerWriter
from blobstore.edit.manifest import describe, manifest_of, refuse_packed
from blobstore.errors import FormatError, UsageError
from blobstore.fileio.hashing import digest_of
from blobstore.index import IndexedBlob, build_index, rebind_index
from blobstore.index.locate import external_path, find_index
from blobstore.index.sidecar import close_with_index, close_with_index_inside, write_index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from blobstore.container.directory import Directory
    from blobstore.edit.manifest import Manifest
    from blobstore.index import Entry, NameIndex


class Reindexed(NamedTuple):
    """Where the index is now, and how many names it has."""

    path: str
    names: int


class Rebuilt(NamedTuple):
    """Where a new index is, and what the one before it had that is gone.

    Attributes:
        path: Of the file that it is in.
        names: How many it has.
        lost: Names that only the one before had; None where they couldn't be read.
        changed: Names of both that have another type, shape or scale now.
        notes: What a user should know of that.
    """

    path: str
    names: int
    lost: int | None = 0
    changed: int = 0
    notes: tuple[str, ...] = ()


def attach_index(path: str | PathLike[str]) -> Reindexed:
    """Move the index beside a file into it. The file is written anew, then the index beside it removed.

    Raises:
        UsageError: ``has-index`` when there is one inside already; ``no-index`` when there is none beside it.
        FormatError: ``index-stale`` and others: it isn't this file's, or is wrong.
    """
    with BlobReader(path, access="read") as reader:
        if INDEX_KEY in reader:
            raise UsageError("has-index", f"{reader.path!r} has its index inside already")
        found = find_index(reader)
        if found is None:
            raise UsageError("no-index", f"there is no {external_path(path)!r}: blobstore index build makes one")
        with _rewritten(reader, rebind_index(found, None)) as writer:
            close_with_index_inside(writer, path, replaced=reader)
        return Reindexed(reader.path, len(found.names))


def detach_index(path: str | PathLike[str]) -> Reindexed:
    """Move the index out of a file into one beside it. The file is written anew, as if it never had one.

    Raises:
        UsageError: ``no-index`` when there is none inside; ``no-blobs`` when there would be nothing left.
    """
    with BlobReader(path, access="read") as reader:
        if INDEX_KEY not in reader:
            raise UsageError("no-index", f"{reader.path!r} has no index inside")
        found = find_index(reader)
        if found is None or len(reader) == 1:
            raise UsageError("no-blobs", f"{reader.path!r} has nothing but its index")
        directory = _without_index(reader)
        with _rewritten(reader, None) as writer:
            close_with_index(writer, path, rebind_index(found, directory), directory, replaced=reader)
        return Reindexed(external_path(path), len(found.names))


def build_for(path: str | PathLike[str], *, embed: bool = False, digests: bool = False, force: bool = False) -> Rebuilt:
    """Make an index for a file that has none, from its ``toc``; without one each blob under its key.

    The metadata of an index that was there is kept, as far as it can be read and is still true; its names aren't.

    Args:
        path: A .sbs file.
        embed: Put it inside (the file is written anew), not beside the file.
        digests: Read every blob, and keep its SHA-256.
        force: Replace an index that is there.

    Raises:
        UsageError: ``has-index``, unless ``force``; ``no-blobs`` when there is nothing but an index;
            ``packed-file``: it was made by `blobstore.pack`, whose index can't be built anew.
    """
    with BlobReader(path, access="read") as reader:
        outside = external_path(path)
        if not force and (INDEX_KEY in reader or os.path.exists(outside)):
            where = reader.path if INDEX_KEY in reader else outside
            raise UsageError("has-index", f"there is an index in {where!r}: --force builds it anew")
        refuse_packed(reader, None)
        with contextlib.suppress(FormatError):  # a wrong one says nothing, and is replaced
            refuse_packed(reader, find_index(reader))
        manifest = manifest_of(reader, None)
        if not manifest.blobs:
            raise UsageError("no-blobs", f"{reader.path!r} has nothing but its index")
        describe(manifest, reader)
        gone = _carry_over(reader, manifest, digests=digests)
        table = [_table_row(reader, blob.key, digests=digests) for blob in manifest.blobs]
        entries = manifest.entries or []
        inside = INDEX_KEY in reader
        if embed:
            with _rewritten(reader, build_index(entries, table, manifest.metadata)) as writer:
                close_with_index_inside(writer, path, replaced=reader)
            return Rebuilt(reader.path, len(entries), *gone)
        directory = _without_index(reader)
        raw = build_index(entries, table, manifest.metadata, store=directory)
        if inside:
            with _rewritten(reader, None) as writer:
                close_with_index(writer, path, raw, directory, replaced=reader)
        else:
            write_index(raw, reader)
        return Rebuilt(outside, len(entries), *gone)


def _carry_over(reader: BlobReader, manifest: Manifest, *, digests: bool) -> tuple[int | None, int, tuple[str, ...]]:
    """Give a file's new index the metadata of the one before it; return how many names are lost, changed, and notes."""
    fault = ""
    try:
        found = find_index(reader)
    except FormatError as error:
        found, fault = None, error.reason
        with contextlib.suppress(FormatError):  # its names, perhaps; its metadata may be whole
            found = find_index(reader, whole=False)
            manifest.metadata = dict(found.metadata) if found else {}
    if fault:
        manifest.forget_names()
        lost = (
            "its names are lost, and its metadata is kept" if manifest.metadata else "its names and metadata are lost"
        )
        return None, 0, (f"the index that was there can't be used ({fault}): {lost}",)
    if found is None:
        return 0, 0, ()
    manifest.metadata = dict(found.metadata)
    before = {one.name: _facts(one) for one in found.all_entries()}
    now = {one.name: _facts(one) for one in manifest.entries or ()}
    lost_names, changed = before.keys() - now, [name for name, fact in now.items() if before.get(name, fact) != fact]
    told = []
    if lost_names or changed:
        others = f", and {len(changed)} have another type, shape or scale" if changed else ""
        source = ": export gives tensors as they are stored" if manifest.forget_names() else ""
        told.append(f"{len(lost_names)} of the {len(before)} names that the index had are lost{others}{source}")
    return len(lost_names), len(changed), (*told, *_doubts(found, manifest, digests=digests))


def _facts(entry: Entry) -> tuple[object, ...]:
    return entry.type, entry.shape, entry.scale


def _doubts(index: NameIndex, manifest: Manifest, *, digests: bool) -> Iterator[str]:
    if index.has_digests and not digests:
        yield "the index had the SHA-256 of each blob, the new one has none: --digests makes them"
    if manifest.metadata and not index.self_digest_holds():
        yield "the index was not as it was written: look whether its metadata, which is kept, is right"


def _table_row(reader: BlobReader, key: str, *, digests: bool) -> IndexedBlob:
    blob = reader.file_range(key)
    return IndexedBlob(encode_key(key), blob.nbytes, digest_of(blob) if digests else None)


def _without_index(reader: BlobReader) -> Directory:
    """Return the directory that the file has once its index is gone."""
    blobs = [(encode_key(key), reader.range(key)[1]) for key in reader if key != INDEX_KEY]
    return build_directory(reader.version, [key for key, _ in blobs], [nbytes for _, nbytes in blobs])


@contextlib.contextmanager
def _rewritten(reader: BlobReader, index: bytes | None) -> Iterator[ContainerWriter]:
    """Write a file anew, with this index or none, to be closed in the ``with`` block."""
    with ContainerWriter(reader.path, version=reader.version, max_blobs=max_blobs_from(len(reader))) as writer:
        for key in reader:
            if key != INDEX_KEY:
                writer.add(key, reader.file_range(key))
        if index is not None:
            writer.add(INDEX_KEY, index)
        yield writer
