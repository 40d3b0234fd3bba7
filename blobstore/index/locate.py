"""Where the name index of a file is: inside it, or in a file of its own beside it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.container.keys import INDEX_KEY
from blobstore.errors import FormatError, UsageError, in_file
from blobstore.fileio.source import read_whole
from blobstore.index import NameIndex, open_index, parse_index

if TYPE_CHECKING:
    from os import PathLike

    from blobstore.container.directory import Directory
    from blobstore.container.reader import BlobReader


@dataclass(frozen=True)
class FoundIndex:
    """A file's name index, and the path of the file that it stands in."""

    content: NameIndex
    path: str


def find_index(reader: BlobReader, *, whole: bool = True) -> FoundIndex | None:
    """Return the index inside a file or, when there is none inside, the one beside it.

    Args:
        reader: The file.
        whole: Check all of the index; else its entries and its metadata are checked when they are used.

    Raises:
        FormatError: It is wrong, or was made for another file (``index-stale``); ``path`` names the file at fault.
    """
    raw = reader.get(INDEX_KEY)
    if raw is not None:
        with in_file(reader.path):
            return FoundIndex(_parse(raw, external=False, whole=whole), reader.path)
    found = None
    for path in beside(reader.path):
        with in_file(path), suppress(FileNotFoundError):
            if os.path.lexists(path) and not os.path.isdir(path):
                if os.path.islink(path) and not os.path.exists(path):
                    raise UsageError("not-a-file", "the index beside the file is a link that leads nowhere: remove it")
                found = FoundIndex(read_external(path, reader.directory, whole=whole), path)
                break
    # An index may fit both the file that is open and the one that has taken its place, or have gone with the first.
    if not reader.is_at(reader.path):
        with in_file(found.path if found else reader.path):
            raise FormatError("index-stale", "the file was replaced while it was opened: open it again")
    return found


def read_external(path: str, directory: Directory, *, whole: bool = True) -> NameIndex:
    """Read an index that stands beside a store with this directory; ``whole`` as `find_index`.

    Raises:
        FormatError: It is wrong, or was made for another file (``index-stale``).
    """
    index = _parse(read_whole(path), external=True, whole=whole)
    index.check_binding(directory)
    return index


def _parse(raw: memoryview, *, external: bool, whole: bool) -> NameIndex:
    return (parse_index if whole else open_index)(raw, external=external)


def external_path(path: str | PathLike[str]) -> str:
    """Return where the external index of a store is written: beside the file itself, not beside a link to it."""
    path = os.fspath(path)
    return f"{os.path.realpath(path) if os.path.islink(path) else path}.idx"


def beside(path: str | PathLike[str]) -> list[str]:
    """Return where the external index of a store is looked for: beside the path as given, then beside the file."""
    return list(dict.fromkeys((f"{os.fspath(path)}.idx", external_path(path))))
