"""Where the name index of a file is: inside it (embedded), in a file of its own beside it (external), or nowhere."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, get_args

from blobstore.container.keys import INDEX_KEY
from blobstore.errors import FormatError, UsageError, in_file
from blobstore.fileio.source import read_whole
from blobstore.fileio.urls import is_listed
from blobstore.index.names import is_made_key
from blobstore.index.parse import open_index, parse_index
from blobstore.index.sets import SetReader

if TYPE_CHECKING:
    from os import PathLike

    from blobstore.container.directory import Directory
    from blobstore.container.reader import BlobReader
    from blobstore.index.name_index import NameIndex

_INDEX_KEY = INDEX_KEY.encode()

IndexPlace = Literal["embedded", "external", "none"]


def check_place(place: IndexPlace) -> None:
    """Refuse what is not one of the places.

    Raises:
        UsageError: ``bad-index``.
    """
    if place not in get_args(IndexPlace):
        raise UsageError("bad-index", f"expected one of {', '.join(get_args(IndexPlace))}, found {place!r}")


def find_index(reader: BlobReader, *, whole: bool = True) -> NameIndex | None:
    """Return the index inside a file or, when there is none inside, the one beside it.

    Args:
        reader: The file. Beside one that was opened from a file object or bytes no index is looked for.
        whole: Check all of the index. Otherwise its entries and its metadata are checked when they are first used.

    Raises:
        FormatError: The index is invalid, or was made for another file (``index-stale``); ``path`` names the file at
            fault.
    """
    if isinstance(reader, SetReader):
        if whole:
            with in_file(reader.path):
                reader.index.check()
        return reader.index
    directory = reader.directory
    # Most often it is the last blob, which is found without a search.
    is_last = directory.keys[-1] == _INDEX_KEY
    raw = reader.view(*directory.range(len(directory) - 1)) if is_last else reader.get(INDEX_KEY)
    if raw is not None:
        with in_file(reader.path):
            return (parse_index if whole else open_index)(raw, kind="embedded", path=reader.path)
    if not reader.has_path:
        return _find_elsewhere(reader, whole=whole) if reader.url else None
    index = _find_beside(reader, whole=whole)
    # An index may fit both the file that is open and the one that has taken its place, or have gone with the first.
    if not reader.is_at(reader.path):
        with in_file(index.path if index else reader.path):
            raise FormatError("index-stale", "the file was replaced while it was opened: open it again")
    return index


def _find_elsewhere(reader: BlobReader, *, whole: bool) -> NameIndex | None:
    """Return the index beside a URL: one request when there is none.

    On the web a query may be a signature, which is for one object only, and S3 has versions of one; elsewhere a "?" is
    part of the name.
    """
    if "?versionId=" in reader.url or ("?" in reader.url and not is_listed(reader.url)):
        return None
    with suppress(FileNotFoundError):
        return read_external(external_path(reader.url), reader.directory, whole=whole)
    return None


def _find_beside(reader: BlobReader, *, whole: bool) -> NameIndex | None:
    for path in beside(reader.path):
        with in_file(path), suppress(FileNotFoundError):
            if os.path.lexists(path) and not os.path.isdir(path):
                if os.path.islink(path) and not os.path.exists(path):
                    raise UsageError("not-a-file", "the index beside the file is a dangling link: remove it")
                return read_external(path, reader.directory, whole=whole)
    return None


def read_external(path: str, directory: Directory, *, whole: bool = True) -> NameIndex:
    """Read the external index of a store with this directory; ``whole`` as in `find_index`.

    Raises:
        FormatError: The index is invalid, or was made for another file (``index-stale``).
    """
    index = (parse_index if whole else open_index)(read_whole(path), kind="external", path=path)
    index.check_binding(directory)
    return index


def lost_index(reader: BlobReader) -> list[str]:
    """Say that a file without an index has had one; an empty list if nothing proves that.

    Keys that were made from names prove it: these names are only in an index.
    """
    if (
        isinstance(reader, SetReader)
        or INDEX_KEY in reader
        or (reader.has_path and any(map(os.path.isfile, beside(reader.path))))
    ):
        return []
    keys = sum(is_made_key(key) for key in reader)
    if not keys:
        return []
    what = f"its name index is lost: {keys} of its keys were made from names, which are only in the index"
    fix = f"put {external_path(reader.path)!r} back" if reader.has_path else "open the file by its path"
    return [f"{what}: if it was beside the file, {fix}"]


def place_of(index: NameIndex | None) -> IndexPlace:
    """Return where an index is; inside, for a set: so is that of a file with the same contents."""
    if index is None:
        return "none"
    return "external" if index.external else "embedded"


def external_path(path: str | PathLike[str]) -> str:
    """Return where the external index of a store is written: beside the file itself, not beside a link to it."""
    path = os.fspath(path)
    return f"{os.path.realpath(path) if os.path.islink(path) else path}.idx"


def beside(path: str | PathLike[str]) -> list[str]:
    """Return where the external index of a store is looked for: beside the path as given, then beside the file."""
    return list(dict.fromkeys((f"{os.fspath(path)}.idx", external_path(path))))
