"""Open, read and write regular files by their descriptors."""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from blobstore.errors import TruncatedError, UsageError, in_file
from blobstore.fileio import system
from blobstore.fileio.locking import share
from blobstore.fileio.temporary import is_temporary

if TYPE_CHECKING:
    from os import PathLike

_FLAGS = os.O_RDONLY | system.BINARY


def open_regular(path: str | PathLike[str]) -> int:
    """Open a regular file for reading and return its descriptor.

    Raises:
        UsageError: ``not-a-file`` for a folder, pipe or device, and for a symbolic link that leads to itself.
        OSError: It can't be opened.
    """
    refuse_irregular(path)
    with in_file(os.fsdecode(path)):
        fd = os.open(path, _FLAGS)
    name = os.fsdecode(path)
    if is_temporary(os.path.basename(os.path.realpath(name) if os.path.islink(name) else name)):
        share(fd)  # a file that is being read must not be removed as abandoned
    return fd


def refuse_irregular(path: str | PathLike[str]) -> None:
    """Refuse to open what isn't a regular file: opening a pipe would block, and a folder can't be opened at all.

    Raises:
        UsageError: ``not-a-file`` for a folder, pipe or device, and for a symbolic link that leads to itself.
        OSError: It can't be looked at.
    """
    with in_file(os.fsdecode(path)):
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            if error.errno == errno.ELOOP:
                message = "expected a regular file, found a symbolic link that leads to itself"
                raise UsageError("not-a-file", message) from None
            raise
        if not stat.S_ISREG(mode):
            found = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
            raise UsageError("not-a-file", f"expected a regular file, found {found}")


def reopen(path: str, identity: os.stat_result) -> int:
    """Open the very file that was opened at a path before.

    Raises:
        UsageError: ``replaced``.
    """
    paths = [path]
    # A file that was replaced or removed can be reached through another descriptor of it, such as a map's.
    with suppress(OSError):
        paths += [f"{system.DESCRIPTORS}/{number}" for number in os.listdir(system.DESCRIPTORS)]
    for candidate in paths:
        with suppress(OSError):
            if not os.path.samestat(os.stat(candidate), identity):
                continue
            fd = os.open(candidate, _FLAGS)
            if os.path.samestat(os.fstat(fd), identity):
                return fd
            os.close(fd)
    raise UsageError("replaced", f"{path!r} was replaced or removed while it was open: open it again")


def read_into(fd: int, buffer: memoryview, offset: int, lock: threading.Lock | None = None) -> None:
    """Fill ``buffer`` with the file's bytes from ``offset`` on.

    Raises:
        TruncatedError: ``short-read`` when the file ends before the buffer is full.
    """
    done = 0
    while done < len(buffer):
        if system.preadv:
            nbytes = system.preadv(fd, [buffer[done:]], offset + done)
        else:
            with lock or threading.Lock():
                os.lseek(fd, offset + done, os.SEEK_SET)
                chunk = os.read(fd, len(buffer) - done)
            nbytes = len(chunk)
            buffer[done : done + nbytes] = chunk
        if not nbytes:
            raise TruncatedError(
                "short-read",
                f"the file ends at {offset + done}, {len(buffer) - done} bytes too early: it was truncated while open",
                offset + done,
            )
        done += nbytes


def write_all(fd: int, data: memoryview) -> None:
    """Write all of ``data``; a single system call may write less."""
    while data:
        data = data[os.write(fd, data) :]
