"""Folders and files by their paths, here or elsewhere: what `os` and `os.path` say of a path, also said of a URL.

Paths elsewhere have slashes on all systems. A folder of the web can't be listed, but a file in it can be asked for.
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, Any

from blobstore.errors import UsageError, without_secrets
from blobstore.fileio.file_systems import is_missing
from blobstore.fileio.urls import connect, identity_in, is_listed, is_url, reaching, without_scheme

if TYPE_CHECKING:
    from collections.abc import Iterable


def join(folder: str, *names: str) -> str:
    """Return the path of what has a name in a folder, or in a folder of that one."""
    return posixpath.join(folder, *names) if is_url(folder) else os.path.join(folder, *names)


def folder_of(path: str) -> str:
    """Return the folder that a path is in; empty for the current one."""
    return posixpath.dirname(_plain(path)) if is_url(path) else os.path.dirname(without_scheme(path))


def name_in(path: str) -> str:
    """Return the last name of a path; of a URL, without what a question mark begins."""
    return posixpath.basename(_plain(path)) if is_url(path) else os.path.basename(without_scheme(path))


def absolute(path: str) -> str:
    """Return a path that means the same after the process has changed its folder."""
    return path.rstrip("/") if is_url(path) else os.path.abspath(without_scheme(path))


def is_folder(path: str) -> bool:
    """Whether a path is a folder; on the web, whether it ends with a slash.

    Raises:
        MissingExtraError, UsageError, RemoteError, OSError: As `connect` and `reaching`, for a URL.
    """
    if not is_url(path):
        return os.path.isdir(without_scheme(path))
    return _type_of(path) == "directory" if is_listed(path) else _plain(path).endswith("/")


def is_file(path: str) -> bool:
    """Whether a path is a file, or leads to one.

    Raises:
        MissingExtraError, UsageError, RemoteError, OSError: As `is_folder`.
    """
    return _type_of(path) == "file" if is_url(path) else os.path.isfile(without_scheme(path))


def exists(path: str) -> bool:
    """Whether something has this path, or a link to nothing.

    Raises:
        MissingExtraError, UsageError, RemoteError, OSError: As `is_folder`.
    """
    return _type_of(path) != "" if is_url(path) else os.path.lexists(without_scheme(path))


def is_absent(path: str) -> bool:
    """Whether a path names nothing, or a link to nothing; what can't be looked at is there."""
    return not exists(path) if is_url(path) else is_missing(without_scheme(path))


def names_in(folder: str) -> list[str]:
    """Return the names of what is in a folder, in any order; of the current one for an empty path.

    Raises:
        UsageError: ``no-listing``: it is on the web.
        MissingExtraError, RemoteError, OSError: It can't be listed.
    """
    if not is_url(folder):
        return os.listdir(without_scheme(folder) or os.curdir)
    if not is_listed(folder):
        what = f"{without_secrets(folder)!r} is a folder of the web, which can't be listed"
        fix = "pass a file in it: model.safetensors, or model.safetensors.index.json where there are several"
        raise UsageError("no-listing", f"{what}: {fix}")
    file_system, path = connect(folder)
    with reaching(folder):
        listed: Iterable[str] = file_system.ls(path, detail=False)
    names = [posixpath.basename(one.rstrip("/")) for one in listed if one.strip("/") != path.strip("/")]
    return [name for name in names if name]


def file_size(path: str) -> int:
    """Return the size of a file in bytes.

    Raises:
        MissingExtraError, UsageError, RemoteError, OSError: It can't be looked at.
    """
    if not is_url(path):
        return os.stat(without_scheme(path)).st_size
    file_system, place = connect(path)
    with reaching(path):
        return int(file_system.size(place))


def version_of(path: str) -> tuple[int, str]:
    """Return a file's size, and what changes when it is written again: times, or a tag; empty where nothing does.

    Raises:
        MissingExtraError, UsageError, RemoteError, OSError: It can't be looked at.
    """
    if not is_url(path):
        status = os.stat(without_scheme(path))
        # Programs that copy or unpack set the time back; nobody sets the second one.
        return status.st_size, f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    file_system, place = connect(path)
    with reaching(path):
        info = file_system.info(place)
    _, *said = identity_in(info)
    return int(info.get("size") or 0), " ".join(said) if any(one != "None" for one in said) else ""


def remove(path: str) -> None:
    """Remove a file.

    Raises:
        FileNotFoundError: There is none.
        MissingExtraError, UsageError, RemoteError, OSError: It can't be removed.
    """
    if not is_url(path):
        os.remove(without_scheme(path))
        return
    file_system, place = connect(path)
    with reaching(path):
        file_system.rm_file(place)


def forget_listings(path: str) -> None:
    """Look at folders anew: file systems remember what they were told of them."""
    if is_url(path) and is_listed(path):
        with reaching(path):
            connect(path)[0].invalidate_cache()


def _type_of(url: str) -> str:
    """Return ``file``, ``directory`` or ``other`` for what a URL names; empty if there is nothing."""
    if not is_listed(url) and _plain(url).endswith("/"):
        return "directory"
    file_system, path = connect(url)
    try:
        with reaching(url):
            info: dict[str, Any] = file_system.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return str(info.get("type", "other"))


def _plain(url: str) -> str:
    """Return a URL without what a question mark or a hash begins, on the web: elsewhere these may be in names."""
    return url if is_listed(url) else url.partition("?")[0].partition("#")[0]
