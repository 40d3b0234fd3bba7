"""Give a file that exists a name index, or move the index that it has."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from blobstore.content import content_of, describe, refuse_packed
from blobstore.directory import build_directory
from blobstore.errors import FormatError, UsageError
from blobstore.hashing import digest_of
from blobstore.index import IndexedBlob, build_index, rebind_index
from blobstore.index_file import external_path, find_index
from blobstore.keys import INDEX_KEY, encode_key
from blobstore.layout import max_blobs_from
from blobstore.pair import close_with_index, close_with_index_inside, write_index
from blobstore.reader import BlobReader
from blobstore.writer import BlobWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from blobstore.directory import Directory


class Reindexed(NamedTuple):
    """Where the index is now, and how many names it has."""

    path: str
    names: int


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


def build_for(
    path: str | PathLike[str], *, embed: bool = False, digests: bool = False, force: bool = False
) -> Reindexed:
    """Make an index for a file that has none, from its ``toc``; without one each blob under its key.

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
        content = content_of(reader, None)
        if not content.blobs:
            raise UsageError("no-blobs", f"{reader.path!r} has nothing but its index")
        describe(content, reader)
        table = [_table_row(reader, blob.key, digests=digests) for blob in content.blobs]
        entries = content.entries or []
        inside = INDEX_KEY in reader
        if embed:
            with _rewritten(reader, build_index(entries, table)) as writer:
                close_with_index_inside(writer, path, replaced=reader)
            return Reindexed(reader.path, len(entries))
        directory = _without_index(reader)
        raw = build_index(entries, table, store=directory)
        if inside:
            with _rewritten(reader, None) as writer:
                close_with_index(writer, path, raw, directory, replaced=reader)
        else:
            write_index(raw, reader)
        return Reindexed(outside, len(entries))


def _table_row(reader: BlobReader, key: str, *, digests: bool) -> IndexedBlob:
    blob = reader.file_range(key)
    return IndexedBlob(encode_key(key), blob.nbytes, digest_of(blob) if digests else None)


def _without_index(reader: BlobReader) -> Directory:
    """Return the directory that the file has once its index is gone."""
    blobs = [(encode_key(key), reader.range(key)[1]) for key in reader if key != INDEX_KEY]
    return build_directory(reader.version, [key for key, _ in blobs], [nbytes for _, nbytes in blobs])


@contextlib.contextmanager
def _rewritten(reader: BlobReader, index: bytes | None) -> Iterator[BlobWriter]:
    """Write a file anew, with this index or none, to be closed in the ``with`` block."""
    with BlobWriter(reader.path, version=reader.version, max_blobs=max_blobs_from(len(reader))) as writer:
        for key in reader:
            if key != INDEX_KEY:
                writer.add(key, reader.file_range(key))
        if index is not None:
            writer.add(INDEX_KEY, index)
        yield writer
