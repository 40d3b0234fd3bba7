"""A file and the index beside it, completed together. No two files can be replaced at once.

Both are complete and durable before the first gets its name. Whoever comes between the two, or after a crash there,
finds an index that is stale, and is told so; never one that describes another file, nor a file without its names.

A link to a file is followed, and the index put beside the file itself. A link in the index's place is replaced, not
followed: what it names may be another file's index.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from blobstore.container.keys import INDEX_KEY
from blobstore.container.reader import BlobReader
from blobstore.errors import FormatError, UsageError
from blobstore.fileio.atomic import AtomicFile, move_together, write_file
from blobstore.fileio.locking import turn_at
from blobstore.fileio.source import read_beginning
from blobstore.index import INDEX_MAGIC, unbind_index
from blobstore.index.inputs import refuse_inputs
from blobstore.index.locate import beside, external_path, read_external

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

    from blobstore.container.directory import Directory
    from blobstore.container.writer import ContainerWriter


def close_with_index(
    writer: ContainerWriter | AtomicFile,
    path: str | PathLike[str],
    raw: bytes,
    directory: Directory,
    *,
    replaced: BlobReader | None = None,
) -> None:
    """Complete a file and the index that belongs beside it.

    Args:
        writer: Of the file, with all its blobs.
        path: Of the file.
        raw: The index, bound to it.
        directory: Of the file.
        replaced: The file that is edited, where it is to be there still.

    Raises:
        UsageError: ``same-file`` when the index would take the file's place; ``replaced`` when another writer came
            first.
        OSError: Writing failed. Both are as they were, or the index is stale, or beside a file that has one inside; or
            the file is the new one, and the message says where its index is.
    """
    outside = external_path(path)
    refuse_inputs([outside], [path])
    with AtomicFile(outside, like=path, follow=False) as target:
        target.write(memoryview(raw))
        writer.prepare()
        target.prepare()
        with _turn_at(path, replaced):
            _drop_beside_link(path, directory)
            if _has_index_inside(path):
                # As long as it is there the one beside the file is not looked at: it comes first.
                target.move()
                writer.move()
                return
            with _stale(outside, directory, writer):
                if not os.path.isfile(outside):
                    write_file(outside, unbind_index(raw), like=path, follow=False)
                move_together(writer, target)


def close_with_index_inside(
    writer: ContainerWriter | AtomicFile, path: str | PathLike[str], *, replaced: BlobReader | None = None
) -> None:
    """Complete a file that has its index inside, and remove the one beside the file that it replaces.

    Raises:
        UsageError: ``replaced``, as `close_with_index`.
        OSError: Writing failed; the file is as it was.
    """
    writer.prepare()
    with _turn_at(path, replaced):
        writer.move()
        for one in beside(path):
            remove_index(one)


def close_without_index(
    writer: ContainerWriter | AtomicFile,
    path: str | PathLike[str],
    directory: Callable[[], Directory],
    *,
    replaced: BlobReader | None = None,
) -> None:
    """Complete a file that has no index at all, and remove the one beside the file that it replaces.

    Args:
        writer: Of the file, with all that is in it.
        path: Of the file.
        directory: Gives the file's.
        replaced: As `close_with_index`.

    Raises:
        UsageError: ``replaced``, as `close_with_index`.
        OSError: Writing failed. Both are as they were, or the index is stale.
    """
    writer.prepare()
    with _turn_at(path, replaced):
        outside = external_path(path)
        if os.path.islink(path):
            _drop_beside_link(path, directory())
        if not os.path.isfile(outside):
            writer.move()
            return
        with _stale(outside, directory(), writer):
            writer.move()
        remove_index(outside)


def write_index(raw: bytes, reader: BlobReader) -> None:
    """Write an index beside a file that stays as it is.

    Args:
        raw: The index, bound to it.
        reader: The file, open.

    Raises:
        UsageError: ``same-file``, ``replaced``: as `close_with_index`.
        OSError: Writing failed; the index is as it was.
    """
    refuse_inputs([external_path(reader.path)], [reader.path])
    with AtomicFile(external_path(reader.path), like=reader.path, follow=False) as target:
        target.write(memoryview(raw))
        target.prepare()
        with _turn_at(reader.path, reader):
            target.move()
            _drop_beside_link(reader.path, None)


@contextmanager
def _turn_at(path: str | PathLike[str], replaced: BlobReader | None) -> Iterator[None]:
    """Wait for one's turn to replace a file, which is to be the one that was read."""
    with turn_at(path):
        if replaced is not None and not replaced.is_at(path):
            what = f"{os.fspath(path)!r} was replaced by another writer while this one was at work: do it again"
            raise UsageError("replaced", what)
        yield


def remove_index(path: str) -> None:
    """Remove an index that belongs to nothing any more; another file of that name is left alone."""
    if _is_index(path):
        with suppress(FileNotFoundError):
            os.unlink(path)


def _is_index(path: str) -> bool:
    return os.path.isfile(path) and read_beginning(path, len(INDEX_MAGIC)) == INDEX_MAGIC


def _drop_beside_link(path: str | PathLike[str], directory: Directory | None) -> None:
    """Remove an index beside a link to the file, which is looked at before the one beside the file itself.

    Another file of that name stays: readers by way of the link name it.

    Args:
        path: Of the link; of a file there is nothing to do.
        directory: Of a new file that is to come, which the index may fit.
    """
    own = f"{os.fspath(path)}.idx"
    if os.path.islink(path) and own != external_path(path) and _is_index(own):
        if directory is not None:
            _unbind(own, directory)
        remove_index(own)


@contextmanager
def _stale(path: str, directory: Directory, writer: ContainerWriter | AtomicFile) -> Iterator[None]:
    """Make an old index stale while a file takes its new place, and after that; right again if the file stays.

    It may fit the new file as well, whose tensors are others in blobs of the same sizes.
    """
    old = _unbind(path, directory) if os.path.isfile(path) else None
    try:
        yield
    except BaseException:
        if old is not None and not writer.committed:
            with suppress(OSError):
                write_file(path, old, follow=False)
        raise


def _unbind(path: str, directory: Directory) -> memoryview | None:
    """Make an old index stale where it fits a new file; return what it was, or None where nothing had to be done."""
    try:
        index = read_external(path, directory)
    except FormatError:
        return None
    write_file(path, unbind_index(index.raw), follow=False)
    return index.raw


def _has_index_inside(path: str | PathLike[str]) -> bool:
    try:
        with BlobReader(path, access="read") as reader:
            return INDEX_KEY in reader
    except (FormatError, UsageError, FileNotFoundError, PermissionError):
        return False
