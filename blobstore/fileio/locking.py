"""Locks on files, between processes and threads. The system drops them when a process ends, however it ends."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from blobstore.errors import UsageError
from blobstore.fileio.file_systems import stat_of

if os.name != "nt":  # Windows has others; nothing that is open can be replaced or removed there
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

_TEMPORARY = re.compile(r"\.blobstore-[0-9a-f]{16}\.tmp")
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def lock(fd: int, *, wait: bool = True) -> bool:
    """Lock an open file against all others that lock it, until it is closed; return whether that was possible.

    False where another holds the lock and this isn't to wait, and where the system or the file system has no locks.
    """
    if os.name == "nt":  # pragma: no cover
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def turn_at(path: str | PathLike[str]) -> Iterator[None]:
    """Wait until nobody else replaces a file, or what belongs to it, and keep others from it in the ``with`` block.

    The lock is on a file of its own beside the file (beside what a link to it names). A process that is killed leaves
    an empty file, which the next one takes and removes.

    Raises:
        UsageError: ``not-a-file``: the lock's name is taken by a folder, a link, a pipe.
        OSError: The folder can't be written to.
    """
    folder, name = os.path.split(os.path.realpath(path))
    place = os.path.join(folder, f".blobstore-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.lock")
    try:
        fd = _take(place)
    except OSError as error:
        found = stat_of(place, follow_symlinks=False)
        if found and not stat.S_ISREG(found.st_mode):
            what = f"{place!r} is the name of the lock on {os.fspath(path)!r}, and is no regular file: move it away"
            raise UsageError("not-a-file", what) from None
        error.filename = os.fspath(path)  # nobody knows the lock
        raise
    try:
        yield
    finally:
        with suppress(OSError):  # it is empty, and harmless where it is
            os.unlink(place)  # while it is locked: who waits for it sees that it isn't there any more
        with suppress(OSError):
            os.close(fd)


def _take(place: str) -> int:
    while True:
        try:
            fd = os.open(place, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
            # One that a crash leaves keeps nobody from writing, whatever the umask.
            with suppress(OSError, AttributeError):
                os.fchmod(fd, 0o666)
        except PermissionError:  # another user's
            fd = os.open(place, os.O_RDONLY | _FLAGS)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        lock(fd)
        if is_at(place, fd):
            return fd
        os.close(fd)


def is_at(path: str, fd: int) -> bool:
    """Whether a path names an open file, and not another one or none any more."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def temporary_name() -> str:
    """Return a new name for a file that isn't complete yet."""
    return f".blobstore-{os.urandom(8).hex()}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a name is one that `temporary_name` gives."""
    return _TEMPORARY.fullmatch(name) is not None


def share(fd: int) -> None:
    """Let nobody `lock` a file as long as it is open, where the system has locks and nobody has locked it yet."""
    if os.name != "nt":
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
