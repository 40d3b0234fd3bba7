"""Give a file that exists a name index, or move the index that it has."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from blobstore.container.directory import build_directory
from blobstore.container.keys import INDEX_KEY, encode_key
from blobstore.container.layout import max_blobs_from
from blobstore.container.reader import BlobReader
from blobstore.container.writer import ContainerWriter
from blobstore.edit.manifest import describe, manifest_of, refuse_packed
from blobstore.errors import FormatError, UsageError, in_file
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
    from blobstore.index.locate import FoundIndex


_REMEDY = "fetch the file again; where it was meant to change, --force without --digests drops the old digests"


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
        with _rewritten(reader, rebind_index(found.content, None)) as writer:
            close_with_index_inside(writer, path, replaced=reader)
        return Reindexed(reader.path, len(found.content.names))


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
            close_with_index(writer, path, rebind_index(found.content, directory), directory, replaced=reader)
        return Reindexed(external_path(path), len(found.content.names))


def build_for(path: str | PathLike[str], *, embed: bool = False, digests: bool = False, force: bool = False) -> Rebuilt:
    """Make an index for a file that has none, from its ``toc``; without one each blob under its key.

    With ``force`` one that is there is replaced: its metadata is kept, as far as it can be read and is still true; its
    names aren't. Without, ``digests`` gives an index the digests that it lacks, and all else in it stays.

    No digest takes the place of another: where the index that was there has one, the blob is to be what it says. A blob
    that was meant to change is built with ``force`` and without ``digests`` first, which drops the old ones.

    Args:
        path: A .sbs file.
        embed: Put it inside (the file is written anew), not beside the file.
        digests: Read every blob, and keep its SHA-256.
        force: Replace an index that is there.

    Raises:
        UsageError: ``has-index``, unless ``force``, or digests are missing; ``no-blobs`` when there is nothing but an
            index; ``packed-file``: it was made by `blobstore.pack`, whose index can't be built anew.
        FormatError: ``damaged-blob``: a blob is not what its digest says. ``index-digest``: the index that lacks
            digests has changed since it was written.
    """
    with BlobReader(path, access="read") as reader:
        outside = external_path(path)
        before, fault = _find_index(reader)
        if not force and (before or INDEX_KEY in reader or os.path.exists(outside)):
            if before is None or fault or not digests:
                where = before.path if before else reader.path if INDEX_KEY in reader else outside
                raise UsageError("has-index", f"there is an index in {where!r}: --force builds it anew")
            return _add_digests(reader, before, embed=embed)
        refuse_packed(reader, None if fault else before)
        manifest = manifest_of(reader, None)
        if not manifest.blobs:
            raise UsageError("no-blobs", f"{reader.path!r} has nothing but its index")
        describe(manifest, reader)
        if before:
            _carry_digests(manifest, before.content)
        gone = _carry_over(manifest, before, fault, digests=digests)
        return Rebuilt(_put(reader, manifest, before, embed=embed, digests=digests), len(manifest.entries or ()), *gone)


def _add_digests(reader: BlobReader, before: FoundIndex, *, embed: bool) -> Rebuilt:
    """Give an index the digests that it lacks; where it is, unless it is to be inside."""
    refuse_packed(reader, before)
    manifest = manifest_of(reader, before.content)
    if before.content.has_digests and all(one.sha256 for one in manifest.blobs):
        what = "has the SHA-256 of every blob: blobstore verify compares them, --force builds it anew"
        raise UsageError("has-index", f"the index in {before.path!r} {what}")
    if not before.content.self_digest_holds():
        what = "the index has changed since it was written, which its new SHA-256 would hide: --force builds it anew"
        with in_file(before.path):
            raise FormatError("index-digest", what)
    embed = embed or not before.content.external
    return Rebuilt(_put(reader, manifest, before, embed=embed, digests=True), len(manifest.entries or ()))


def _put(reader: BlobReader, manifest: Manifest, before: FoundIndex | None, *, embed: bool, digests: bool) -> str:
    """Write a file's index, inside or beside it; return the path of the file that it is in."""
    table = _table(reader, manifest, before, digests=digests)
    entries = manifest.entries or []
    if embed:
        with _rewritten(reader, build_index(entries, table, manifest.metadata)) as writer:
            close_with_index_inside(writer, reader.path, replaced=reader)
        return reader.path
    directory = _without_index(reader)
    raw = build_index(entries, table, manifest.metadata, store=directory)
    if INDEX_KEY in reader:
        with _rewritten(reader, None) as writer:
            close_with_index(writer, reader.path, raw, directory, replaced=reader)
    else:
        write_index(raw, reader)
    return external_path(reader.path)


def _find_index(reader: BlobReader) -> tuple[FoundIndex | None, str]:
    """Return a file's index, and what is wrong with it: of a wrong one the metadata and the digests may be whole."""
    try:
        return find_index(reader), ""
    except FormatError as error:
        with contextlib.suppress(FormatError):
            return find_index(reader, whole=False), error.reason
        return None, error.reason


def _carry_over(
    manifest: Manifest, before: FoundIndex | None, fault: str, *, digests: bool
) -> tuple[int | None, int, tuple[str, ...]]:
    """Give a file's new index the metadata of the one before it; return how many names are lost, changed, and notes."""
    if fault:
        with contextlib.suppress(FormatError):
            manifest.metadata = dict(before.content.metadata) if before else {}
        manifest.forget_names()
        lost = (
            "its names are lost, and its metadata is kept" if manifest.metadata else "its names and metadata are lost"
        )
        told = [f"the index that was there can't be used ({fault}): {lost}"]
        if digests and not any(one.sha256 for one in manifest.blobs):
            told.append("the new digests are of the blobs as they are: none of before could be compared")
        return None, 0, tuple(told)
    if before is None:
        return 0, 0, ()
    manifest.metadata = dict(before.content.metadata)
    had = {one.name: _facts(one) for one in before.content.all_entries()}
    now = {one.name: _facts(one) for one in manifest.entries or ()}
    lost_names, changed = had.keys() - now, [name for name, fact in now.items() if had.get(name, fact) != fact]
    told = []
    if lost_names or changed:
        others = f", and {len(changed)} have another type, shape or scale" if changed else ""
        source = ": export gives tensors as they are stored" if manifest.forget_names() else ""
        told.append(f"{len(lost_names)} of the {len(had)} names that the index had are lost{others}{source}")
    return len(lost_names), len(changed), (*told, *_doubts(before.content, manifest, digests=digests))


def _carry_digests(manifest: Manifest, index: NameIndex) -> None:
    """Give blobs the digests that an index keeps of them, so that new ones are compared with these."""
    blobs = {(encode_key(one.key), one.nbytes): one for one in manifest.blobs}
    for row in map(index.blob, range(len(index.blobs))):  # one by one: a wrong row says nothing of the others
        blob = blobs.get((row.key, row.nbytes))
        if blob is not None:
            blob.sha256 = row.sha256


def _facts(entry: Entry) -> tuple[object, ...]:
    return entry.type, entry.shape, entry.scale


def _doubts(index: NameIndex, manifest: Manifest, *, digests: bool) -> Iterator[str]:
    if index.has_digests and not digests:
        yield "the index had the SHA-256 of each blob, the new one has none: --digests makes them"
    if manifest.metadata and not index.self_digest_holds():
        yield "the index was not as it was written: look whether its metadata, which is kept, is right"


def _table(reader: BlobReader, manifest: Manifest, before: FoundIndex | None, *, digests: bool) -> list[IndexedBlob]:
    """Return the index's rows of a file's blobs.

    Raises:
        FormatError: ``damaged-blob``: a blob is not what the index before says.
    """
    table = []
    for blob in manifest.blobs:
        source = reader.file_range(blob.key)
        found = digest_of(source) if digests else None
        if digests:
            with in_file(reader.path):
                blob.check_digest(found, names=partial(_names_of, before, blob.key), remedy=_REMEDY)
        table.append(IndexedBlob(encode_key(blob.key), source.nbytes, found))
    return table


def _names_of(found: FoundIndex | None, key: str) -> list[str]:
    """Return the names that an index has for a blob, as far as they can be read."""
    if found is None:
        return []
    rows = {row for row in range(len(found.content.blobs)) if found.content.blob(row).key == encode_key(key)}
    with contextlib.suppress(FormatError):
        return [one.name for one in found.content.all_entries() if one.blob in rows]
    return []


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
