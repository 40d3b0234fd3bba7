"""Give an existing file a name index, or move the index that it has."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from blobstore.container.keys import INDEX_KEY, encode_key
from blobstore.container.layout import max_blobs_from
from blobstore.container.reader import BlobReader
from blobstore.container.writer import ContainerWriter
from blobstore.edit.manifest import describe, manifest_of, refuse_packed
from blobstore.errors import FormatError, UsageError, in_file
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


_FIX = "fetch the file again; if it was meant to change, --force without --digests drops the old digests"


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

    With ``force``, an index that is there is replaced: its metadata is kept, as far as it can be read and is still
    true; its names are not. Without, ``digests`` adds the digests that an index lacks, and the rest of it stays.

    No digest replaces another: where the index that was there has one, the blob must match it. If a blob was meant to
    change, build first with ``force`` and without ``digests``, which drops the old ones.

    Args:
        path: A .sbs file.
        embed: Put it inside (the file is rewritten), not beside the file.
        digests: Read every blob, and keep its SHA-256.
        force: Replace an index that is there.

    Raises:
        UsageError: ``has-index``, unless ``force``, or digests are missing; ``no-blobs`` when there is nothing but an
            index; ``packed-file``: it was made by `blobstore.pack`, whose index can't be rebuilt.
        FormatError: ``damaged-blob``: a blob does not match its digest. ``index-digest``: the index that lacks
            digests has changed since it was written.
    """
    with BlobReader(path, access="read") as reader:
        before, fault = _find_index(reader)
        if not force and (before or fault):
            if before is None or fault or not digests:
                where = before.path if before else fault and fault.path
                raise UsageError("has-index", f"{where!r} has an index already: --force rebuilds it")
            return _add_digests(reader, before, embed=embed)
        refuse_packed(reader, None if fault else before)
        manifest = manifest_of(reader, None)
        if not manifest.blobs:
            raise UsageError("no-blobs", f"{reader.path!r} has nothing but its index")
        describe(manifest, reader)
        if before:
            _carry_digests(manifest, before)
        lost, changed, notes = _carry_over(manifest, before, fault, digests=digests)
        where = _put(reader, manifest, before, embed=embed, digests=digests)
        return Rebuilt(where, len(manifest.entries or ()), lost, changed, notes)


def _add_digests(reader: BlobReader, index: NameIndex, *, embed: bool) -> Rebuilt:
    """Give an index the digests that it lacks; it stays where it is, unless it is to be embedded."""
    refuse_packed(reader, index)
    manifest = manifest_of(reader, index)
    if index.has_digests and all(blob.sha256 for blob in manifest.blobs):
        what = "has the SHA-256 of every blob: blobstore verify compares them, --force rebuilds it"
        raise UsageError("has-index", f"the index in {index.path!r} {what}")
    if not index.self_digest_holds():
        what = "the index has changed since it was written, and a new SHA-256 would hide that: --force rebuilds it"
        with in_file(index.path):
            raise FormatError("index-digest", what)
    where = _put(reader, manifest, index, embed=embed or not index.external, digests=True)
    return Rebuilt(where, len(manifest.entries or ()))


def _put(reader: BlobReader, manifest: Manifest, before: NameIndex | None, *, embed: bool, digests: bool) -> str:
    """Write a file's index, embedded or beside it; return the path of the file that holds it."""
    table = _table(reader, manifest, before, digests=digests)
    entries = manifest.entries or []

    def make_index(store: Directory | None) -> bytes:
        return build_index(entries, table, manifest.metadata, store=store)

    if embed:
        _rewrite(reader, "embedded", make_index)
        return reader.path
    if INDEX_KEY in reader:
        _rewrite(reader, "external", make_index)
    else:
        write_index(make_index(reader.directory), reader)
    return external_path(reader.path)


def _find_index(reader: BlobReader) -> tuple[NameIndex | None, FormatError | None]:
    """Return a file's index, and what is wrong with it: metadata and digests of a wrong one may be intact."""
    try:
        return find_index(reader), None
    except FormatError as error:
        with contextlib.suppress(FormatError):
            return find_index(reader, whole=False), error
        return None, error


def _carry_over(
    manifest: Manifest, before: NameIndex | None, fault: FormatError | None, *, digests: bool
) -> tuple[int | None, int, tuple[str, ...]]:
    """Give a new index the metadata of the previous one → how many names are lost, how many changed, and notes."""
    if fault:
        return None, 0, tuple(_carry_over_metadata(manifest, before, fault.reason, digests=digests))
    if before is None:
        return 0, 0, ()
    manifest.metadata = dict(before.metadata)
    old = {entry.name: _facts(entry) for entry in before.all_entries()}
    new = {entry.name: _facts(entry) for entry in manifest.entries or ()}
    lost = old.keys() - new
    changed = [name for name, facts in new.items() if old.get(name, facts) != facts]
    notes = []
    if lost or changed:
        others = f", and {len(changed)} have another type, shape or scale" if changed else ""
        source = ": export gives tensors as they are stored" if manifest.forget_names() else ""
        notes.append(f"{len(lost)} of the {len(old)} names that the index had are lost{others}{source}")
    return len(lost), len(changed), (*notes, *_doubts(before, manifest, digests=digests))


def _carry_over_metadata(manifest: Manifest, before: NameIndex | None, fault: str, *, digests: bool) -> Iterator[str]:
    """Take the metadata of an invalid index, if it can be read → notes."""
    with contextlib.suppress(FormatError):
        manifest.metadata = dict(before.metadata) if before else {}
    manifest.forget_names()
    lost = "its names are lost, and its metadata is kept" if manifest.metadata else "its names and metadata are lost"
    yield f"the index that was there can't be used ({fault}): {lost}"
    if digests and not any(blob.sha256 for blob in manifest.blobs):
        yield "the new digests are of the blobs as they are now: there were no old ones to compare them with"


def _carry_digests(manifest: Manifest, index: NameIndex) -> None:
    """Give blobs the digests that an index keeps of them, so that new ones are compared with these."""
    blobs = {(encode_key(blob.key), blob.nbytes): blob for blob in manifest.blobs}
    for row in map(index.blob, range(len(index.blobs))):  # one by one: a wrong row says nothing about the others
        blob = blobs.get((row.key, row.nbytes))
        if blob is not None:
            blob.sha256 = row.sha256


def _facts(entry: Entry) -> tuple[object, ...]:
    return entry.type, entry.shape, entry.scale


def _doubts(index: NameIndex, manifest: Manifest, *, digests: bool) -> Iterator[str]:
    if index.has_digests and not digests:
        yield "the index had the SHA-256 of each blob, the new one has none: --digests makes them"
    if manifest.metadata and not index.self_digest_holds():
        yield "the index has changed since it was written: check that its metadata, which is kept, is right"


def _table(reader: BlobReader, manifest: Manifest, before: NameIndex | None, *, digests: bool) -> list[IndexedBlob]:
    """Return the index's rows for the blobs of a file.

    Raises:
        FormatError: ``damaged-blob``: a blob does not match its digest in the previous index.
    """
    table = []
    for blob in manifest.blobs:
        source = reader.file_range(blob.key)
        digest = digest_of(source) if digests else None
        if digests:
            with in_file(reader.path):
                blob.check_digest(digest, names=partial(_names_of, before, blob.key), fix=_FIX)
        table.append(IndexedBlob(encode_key(blob.key), source.nbytes, digest))
    return table


def _names_of(index: NameIndex | None, key: str) -> list[str]:
    """Return the names that an index has for a blob, as far as they can be read."""
    if index is None:
        return []
    rows = {row for row in range(len(index.blobs)) if index.blob(row).key == encode_key(key)}
    with contextlib.suppress(FormatError):
        return [entry.name for entry in index.all_entries() if entry.blob in rows]
    return []


def _rewrite(reader: BlobReader, place: IndexPlace, make_index: MakeIndex) -> None:
    """Replace a file by one with the same blobs and another index."""
    with ContainerWriter(reader.path, version=reader.version, max_blobs=max_blobs_from(len(reader))) as writer:
        for key in reader:
            if key != INDEX_KEY:
                writer.add(key, reader.file_range(key))
        close_with_index(writer, place, make_index, replaced=reader)
