"""URLs: what is one, and the file system that has it.

Credentials are the business of fsspec and its packages: none are read, logged or kept here.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from blobstore.errors import BlobStoreError, MissingExtraError, RemoteError, UsageError, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

# A letter alone would be a drive of Windows.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://", re.ASCII).match
_LOCAL = ("file", "local")
_UNLISTED = ("http", "https")
_GONE = (404, 410)  # of HTTP: there is nothing
_REFUSED = (401, 403)


def scheme_of(path: object) -> str:
    """Return the scheme of a URL in small letters; empty for a path of this machine and for anything else."""
    match = _SCHEME(path) if isinstance(path, str) else None
    if match is None or match[1].lower() in _LOCAL or os.path.lexists(match.string):
        return ""
    return match[1].lower()


def is_url(path: object) -> bool:
    """Whether something is a URL of what lies elsewhere: not a path, nor a name that a file here has."""
    return bool(scheme_of(path))


def is_listed(url: str) -> bool:
    """Whether folders of a URL's file system can be listed; the web's can't."""
    return scheme_of(url) not in _UNLISTED


def without_scheme(text: str) -> str:
    """Return the path that a ``file://`` URL names; anything else as it is."""
    match = _SCHEME(text)
    is_here = match is not None and match[1].lower() in _LOCAL and not os.path.lexists(text)
    return text[match.end() :] if match and is_here else text


def connect(url: str, *, own: bool = False) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Args:
        url: Of a file or a folder.
        own: A file system that nobody else uses, for a transaction.

    Raises:
        MissingExtraError: ``needs-remote``: fsspec, or its package for this scheme, isn't installed.
        UsageError: ``unknown-scheme``.
    """
    what = f"{without_secrets(url)!r} lies elsewhere"
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 (an extra)
    except ImportError:
        raise MissingExtraError("needs-remote", f"{what}, and fsspec isn't installed: pip install fsspec") from None
    options: dict[str, Any] = {"skip_instance_cache": True} if own else {}
    try:
        with reaching(url):
            file_system, path = url_to_fs(_with_small_scheme(url), **options)
    except ImportError as error:
        raise MissingExtraError("needs-remote", f"{what}, and its package isn't installed: {error}") from None
    return file_system, path


def _with_small_scheme(url: str) -> str:
    """Return a URL with its scheme in small letters, as fsspec knows it."""
    match = _SCHEME(url)
    return url[: match.end()].lower() + url[match.end() :] if match else url


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn what a file system raises into the system's errors and ours, which name the URL without its secrets.

    Raises:
        RemoteError: ``remote-failed``.
        UsageError: ``unknown-scheme``.
        OSError: It isn't there, or may not be read or written.
    """
    try:
        yield
    except (BlobStoreError, ImportError):
        raise
    except FileNotFoundError as error:
        if _was_reached(error):
            fix = "; a gated or private model needs a token: hf auth login" if scheme_of(url) == "hf" else ""
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT) + fix, without_secrets(url)) from None
        if getattr(error.__cause__, "status", 0) in _REFUSED:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), without_secrets(url)) from None
        raise _failed(error.__cause__ or error, url) from None
    except PermissionError as error:
        why = without_secrets(str(error)) or os.strerror(errno.EACCES)
        raise PermissionError(errno.EACCES, why, without_secrets(url)) from None
    except IsADirectoryError:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), without_secrets(url)) from None
    except Exception as error:  # noqa: BLE001 (each file system has errors of its own)
        text = without_secrets(str(error))
        if isinstance(error, ValueError) and text.startswith("Protocol not known"):
            raise UsageError("unknown-scheme", f"{without_secrets(url)!r}: fsspec has no file system for it") from None
        raise _failed(error, url) from None


def _was_reached(error: FileNotFoundError) -> bool:
    """Whether it is known that there is nothing: a file system of the web says so of all that fails."""
    cause: Any = error.__cause__
    if type(cause).__module__.split(".")[0] != "aiohttp":
        return True
    return getattr(cause, "status", 0) in _GONE


def _failed(error: BaseException, url: str) -> RemoteError:
    text = without_secrets(str(error))
    for secret in _secrets_of(url):  # packages quote parts of URLs
        text = text.replace(secret, "…")
    failure = RemoteError("remote-failed", f"{type(error).__name__}{f': {text}' if text else ''}")
    failure.path = without_secrets(url)
    return failure


def _secrets_of(url: str) -> list[str]:
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    user = place.rpartition("@")[0] if scheme != "hf" else ""
    return [secret for secret in (user, query) if secret]


def identity_in(info: dict[str, Any]) -> tuple[str, ...]:
    """Return what tells a file elsewhere from another one in its place: its size, and what is said of its contents."""
    known = ("size", "ETag", "etag", "LastModified", "Last-Modified", "last_modified", "mtime", "modified", "md5Hash")
    return tuple(str(info.get(name)) for name in (*known, "generation", "blob_id", "created"))
