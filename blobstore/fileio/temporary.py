"""Temporary files: their names, and which of them were abandoned."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress

from blobstore.fileio import system
from blobstore.fileio.locking import is_at, lock

_NAME = re.compile(r"\.blobstore-[0-9a-f]{16}\.tmp")
_FLAGS = os.O_RDONLY | system.BINARY | system.CAUTIOUS
_KEPT = 1  # seconds since 1970: marks a complete file that could not be moved to its target


def temporary_name() -> str:
    """Return a new name for a file that isn't complete yet."""
    return f".blobstore-{os.urandom(8).hex()}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a name has the form that `temporary_name` gives."""
    return _NAME.fullmatch(name) is not None


def keep_temporary(path: str) -> None:
    """Mark a temporary file as one that `abandoned` must not list or remove."""
    with suppress(OSError):
        os.utime(path, (_KEPT, _KEPT))


def abandoned(folder: str, *, remove: bool = False) -> list[str]:
    """Return the temporary files in a folder that no living writer or reader has open; remove them if asked."""
    try:
        with os.scandir(folder) as entries:
            paths = [entry.path for entry in entries if is_temporary(entry.name)]
    except OSError:
        return []
    return sorted(path for path in paths if _is_abandoned(path, remove=remove))


def _is_abandoned(path: str, *, remove: bool) -> bool:
    """Whether neither the writer of a temporary file nor a reader holds a lock on it."""
    try:
        fd = os.open(path, _FLAGS)
    except OSError:
        return False
    try:
        status = os.fstat(fd)
        free = stat.S_ISREG(status.st_mode) and int(status.st_mtime) != _KEPT
        free = free and lock(fd, wait=False) and is_at(path, fd)
        if free and remove:
            with suppress(OSError):
                os.unlink(path)  # while it is locked: a new file of this name would be another writer's
        return free
    finally:
        os.close(fd)
