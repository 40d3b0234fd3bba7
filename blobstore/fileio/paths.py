"""Paths as text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blobstore.errors import UsageError

if TYPE_CHECKING:
    from blobstore.fileio.types import FilePath


def path_text(path: FilePath) -> str:
    """Return a path as text; bytes that don't decode become surrogates, as everywhere in Python.

    Raises:
        UsageError: ``not-a-file`` for one that contains a NUL, as no file's does.
    """
    text = os.fsdecode(path)
    if "\0" in text:
        raise UsageError("not-a-file", f"{text!r} is not a path: it contains a NUL")
    return text
