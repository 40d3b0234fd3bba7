"""A file and the index beside it, completed together. No two files can be replaced at once.

Both are complete and durable before the first gets its name. Whoever comes between the two, or after a crash there,
finds an index that is stale, and is told so; never one that describes another file, nor a file without its names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blobstore.atomic import AtomicFile, write_all, write_file
from blobstore.errors import FormatError, UsageError
from blobstore.index import unbind_index
from blobstore.index_file import external_path, read_external
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
    beside = external_path(path)
    with AtomicFile(beside) as target:
        write_all(target.fileno(), memoryview(raw))
        writer.settle()
        target.settle()
        if not _has_index_inside(path):
            if os.path.isfile(beside):
                _unbind(beside, directory)
            else:
                write_file(beside, unbind_index(raw))
            writer.close()
    # As long as there is an index inside the old file, the one beside it is not looked at: it came first.
    writer.close()


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
    beside = external_path(path)
    if not os.path.isfile(beside):
        writer.close()
        return
    writer.settle()
    _unbind(beside, directory())
    writer.close()
    os.unlink(beside)


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
