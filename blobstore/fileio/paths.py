"""Paths as text."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from blobstore.errors import UsageError
from blobstore.fileio.urls import without_scheme

if TYPE_CHECKING:
    from typing import BinaryIO

    from blobstore.fileio.types import FilePath, Paths, Writable


def path_text(path: FilePath) -> str:
    """Return a path as text; bytes that don't decode become surrogates, as everywhere in Python.

    Raises:
        UsageError: ``not-a-file`` for one that contains a NUL, as no file's does; ``bad-file`` for what is no path.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise UsageError("bad-file", f"expected a path, found {type(path).__name__}")
    text = without_scheme(os.fsdecode(path))
    if "\0" in text:
        raise UsageError("not-a-file", f"{text!r} is not a path: it contains a NUL")
    return text


def optional_path(path: FilePath | None) -> str | None:
    """Return `path_text` of a path, and None for None."""
    return None if path is None else path_text(path)


def path_texts(paths: Paths) -> tuple[str, ...]:
    """Return `path_text` of each path, or of the only one.

    Raises:
        UsageError: As `path_text`; ``bad-file`` for what are no paths.
    """
    if isinstance(paths, (str, bytes, os.PathLike)):
        return (path_text(paths),)
    try:
        return tuple(map(path_text, paths))
    except TypeError:
        raise UsageError("bad-file", f"expected paths, found {type(paths).__name__}") from None


def target_of(output: Writable) -> str | BinaryIO:
    """Return where to write: a path as text, or a binary stream as it is.

    Raises:
        UsageError: As `path_text`; ``bad-target`` for what is neither a path nor a binary stream.
    """
    if isinstance(output, (str, bytes, os.PathLike)):
        return path_text(output)
    if not hasattr(output, "write"):
        raise UsageError("bad-target", f"expected a path or a binary stream, found {type(output).__name__}")
    stream: Any = output
    if isinstance(stream, io.TextIOBase):
        raise UsageError("bad-target", "expected a binary stream, found one of text: open it with mode 'wb'")
    return output
