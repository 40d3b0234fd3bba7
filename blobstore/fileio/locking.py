"""Locks on files, between processes and threads. The system releases them when a process ends, however it ends."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from blobstore.errors import UsageError
from blobstore.fileio import system
from blobstore.fileio.file_systems import stat_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

_FLAGS = system.BINARY | system.CAUTIOUS


def lock(fd: int, *, wait: bool = True) -> bool:
    """Lock an open file exclusively until it is closed; return whether that was possible.

    False where somebody else holds the lock and ``wait`` is False, and where the system or file system has no locks.
    """
    if system.flock is None:
        return False
    try:
        system.flock(fd, system.EXCLUSIVE if wait else system.EXCLUSIVE | system.AT_ONCE)
    except OSError:
        return False
    return True


@contextmanager
def turn_at(path: str | PathLike[str]) -> Iterator[None]:
    """Wait until nobody else replaces a file or what belongs to it, and keep others out during the ``with`` block.

    The lock is on a separate file beside the file, or beside what a link points to. A process that is killed leaves an
    empty file, which the next one reuses and removes.

    Raises:
        UsageError: ``not-a-file``: the lock's name is taken by a folder, a link, a pipe.
        OSError: The folder can't be written to.
    """
    from hashlib import sha256  # noqa: PLC0415 (2.5 ms, and reading takes no such lock)

    folder, name = os.path.split(os.path.realpath(path))
    lock_path = os.path.join(folder, f".blobstore-{sha256(os.fsencode(name)).hexdigest()[:16]}.lock")
    try:
        fd = _take(lock_path)
    except OSError as error:
        status = stat_of(lock_path, follow_symlinks=False)
        if status and not stat.S_ISREG(status.st_mode):
            what = (
                f"{lock_path!r} is needed as the lock of {os.fspath(path)!r}, and is not a regular file: move it away"
            )
            raise UsageError("not-a-file", what) from None
        error.filename = os.fspath(path)  # the caller doesn't know the lock file
        raise
    try:
        yield
    finally:
        # Removed while it is locked, so that those that wait for it notice. Left behind, an empty file is harmless.
        remove, close = partial(os.unlink, lock_path), partial(os.close, fd)
        for step in (close, remove) if system.OPEN_FILES_STAY else (remove, close):
            with suppress(OSError):
                step()


def _take(lock_path: str) -> int:
    while True:
        try:
            fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
            # One that a crash leaves must not keep other users from writing, whatever the umask.
            with suppress(OSError):
                if system.fchmod:
                    system.fchmod(fd, 0o666)
        except PermissionError:  # it is another user's
            fd = os.open(lock_path, os.O_RDONLY | _FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            lock(fd)
            if is_at(lock_path, fd):
                return fd
        except BaseException:  # Ctrl-C while it waits, for instance
            os.close(fd)
            raise
        os.close(fd)


def is_at(path: str, fd: int) -> bool:
    """Whether a path still names this open file, not another one or none."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def share(fd: int) -> None:
    """Keep others from locking a file (`lock`) while it is open, unless it is locked already or there are no locks."""
    if system.flock:
        with suppress(OSError):
            system.flock(fd, system.SHARED | system.AT_ONCE)
