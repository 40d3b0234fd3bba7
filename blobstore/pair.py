"""A file and the index beside it, completed together. No two files can be replaced at once.

Both are complete and durable before the first gets its name. Whoever comes between the two, or after a crash there,
finds an index that is stale, and is told so; never one that describes another file, nor a file without its names.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from blobstore.atomic import AtomicFile, write_all, write_file
from blobstore.errors import FormatError, UsageError
from blobstore.index import INDEX_MAGIC, unbind_index
from blobstore.index_file import beside, external_path, read_external
from blobstore.keys import INDEX_KEY
from blobstore.reader import BlobReader

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from blobstore.directory import Directory
    from blobstore.writer import BlobWriter


def close_with_index(
    writer: BlobWriter | AtomicFile, path: str | PathLike[str], raw: bytes, directory: Directory
) -> None:
    """Complete a file and the index that belongs beside it.

    Args:
        writer: Of the file, with all its blobs.
        path: Of the file.
        raw: The index, bound to it.
        directory: Of the file.

    Raises:
        OSError: Writing failed. Both are as they were, or the index is stale, or beside a file that has one inside.
    """
    outside = external_path(path)
    with AtomicFile(outside, like=path) as target:
        write_all(target.fileno(), memoryview(raw))
        writer.settle()
        target.settle()
        _drop_beside_link(path, directory)
        if not _has_index_inside(path):
            if os.path.isfile(outside):
                _unbind(outside, directory)
            else:
                write_file(outside, unbind_index(raw), like=path)
            writer.close()
    # As long as there is an index inside the old file, the one beside it is not looked at: it came first.
    writer.close()


def close_with_index_inside(writer: BlobWriter | AtomicFile, path: str | PathLike[str]) -> None:
    """Complete a file that has its index inside, and remove the one beside the file that it replaces.

    Raises:
        OSError: Writing failed; the file is as it was.
    """
    writer.close()
    for one in beside(path):
        remove_index(one)


def remove_index(path: str) -> None:
    """Remove an index that belongs to nothing any more; another file of that name is left alone."""
    with suppress(FileNotFoundError, IsADirectoryError):
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or file.read(len(INDEX_MAGIC)) != INDEX_MAGIC:
                return
        os.unlink(path)


def close_without_index(
    writer: BlobWriter | AtomicFile, path: str | PathLike[str], directory: Callable[[], Directory]
) -> None:
    """Complete a file that has no index at all, and remove the one beside the file that it replaces.

    Args:
        writer: Of the file, with all that is in it.
        path: Of the file.
        directory: Gives the file's.

    Raises:
        OSError: Writing failed. Both are as they were, or the index is stale.
    """
    outside = external_path(path)
    if os.path.islink(path):
        writer.settle()
        _drop_beside_link(path, directory())
    if not os.path.isfile(outside):
        writer.close()
        return
    writer.settle()
    _unbind(outside, directory())
    writer.close()
    remove_index(outside)


def _drop_beside_link(path: str | PathLike[str], directory: Directory) -> None:
    """Remove an index beside a link to the file, which is looked at before the one beside the file itself."""
    own = f"{os.fspath(path)}.idx"
    if not os.path.islink(path) or own == external_path(path) or not os.path.lexists(own):
        return
    if os.path.isfile(own) and not os.path.islink(own):
        _unbind(own, directory)
    os.unlink(own)


def _unbind(path: str, directory: Directory) -> None:
    """Make an old index stale when it fits a new file, whose tensors may be others in blobs of the same sizes."""
    try:
        index = read_external(path, directory)
    except FormatError:
        return
    write_file(path, unbind_index(index.raw))


def _has_index_inside(path: str | PathLike[str]) -> bool:
    try:
        with BlobReader(path, access="read") as reader:
            return INDEX_KEY in reader
    except (FormatError, UsageError, FileNotFoundError, PermissionError):
        return False
