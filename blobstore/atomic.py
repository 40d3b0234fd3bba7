"""A file that appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from typing import TYPE_CHECKING

from blobstore.closing import Completing
from blobstore.errors import UsageError

if TYPE_CHECKING:
    from os import PathLike

_fdatasync = getattr(os, "fdatasync", os.fsync)
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# What a system says that can't sync a folder, or open it for that. All else (no space, I/O error) is a real error.
_CANT_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EISDIR}


class AtomicFile(Completing):
    """A new file in the target's folder, which `commit` moves to the target's name.

    Until then the target is untouched. An error leaves nothing behind; where the system has unnamed files (Linux),
    neither does a killed process, unless it dies in the moment between naming the complete file and moving it to the
    target. A symbolic link is followed: the file that it names is replaced. A file that is replaced leaves its mode to
    the new one, and its owner where the system allows it; other new files obey the umask.

    Attributes:
        path: The target.
    """

    def __init__(self, path: str | PathLike[str], *, like: str | PathLike[str] | None = None) -> None:
        """Begin the file.

        Args:
            path: The target.
            like: A file, perhaps, whose mode and owner it gets where there is no target yet.

        Raises:
            UsageError: ``not-a-file`` when the target is a folder, pipe or device.
            OSError: The folder isn't there or can't be written to.
        """
        self.path = os.path.realpath(os.fspath(path))
        if os.path.lexists(self.path) and not stat.S_ISREG(os.lstat(self.path).st_mode):
            raise UsageError("not-a-file", f"{self.path!r} is no regular file and can't be replaced")
        self._like = _stat(self.path) or (_stat(like) if like is not None else None)
        self._folder = os.path.dirname(self.path)
        if not os.path.isdir(self._folder):
            raise FileNotFoundError(errno.ENOENT, "no such folder", self._folder)
        self._temporary = os.path.join(self._folder, f".blobstore-{os.urandom(8).hex()}.tmp")
        self._named = False
        self._committed = False
        self._syncing: threading.Thread | None = None
        self._sync_error: OSError | None = None
        self._fd = -1
        self._fd = self._create()

    def fileno(self) -> int:
        """Return the descriptor, for reading and writing.

        Raises:
            UsageError: ``closed`` after `commit` or `discard`.
        """
        if self._fd < 0:
            raise UsageError("closed", f"{self.path!r} is written already, or was given up")
        return self._fd

    def sync_soon(self) -> None:
        """Let the disk take what was written so far while more is made; an error comes out in `commit`."""
        if self._syncing and self._syncing.is_alive():
            return
        self._join()
        self._syncing = threading.Thread(target=self._sync, args=(self.fileno(),), name="blobstore-sync")
        self._syncing.start()

    def _sync(self, fd: int) -> None:
        try:
            _fdatasync(fd)
        except OSError as error:
            self._sync_error = error

    def _join(self) -> None:
        if self._syncing:
            self._syncing.join()
            self._syncing = None

    def commit(self) -> None:
        """Make the file durable and give it its name. Takes the place of what had the name before; once.

        Raises:
            OSError: The target is as it was; or it is the new file, whose name the system could not make durable.
        """
        if self._committed:
            return
        self.settle()
        try:
            self._close()
            os.replace(self._temporary, self.path)
            self._named = False
            self._committed = True
        except BaseException:
            self.discard()
            raise
        _sync_folder(self._folder)

    def settle(self) -> None:
        """Make the file durable, so that `commit` has only to move it: for files that go together."""
        try:
            self._join()
            if self._sync_error:  # the system tells of a lost write once only
                raise self._sync_error
            self._take_over()
            os.fsync(self.fileno())
            if not self._named:
                self._name()
        except BaseException:
            self.discard()
            raise

    def _take_over(self) -> None:
        """Give the file the owner and the mode of the one that it replaces, before anyone can see it."""
        if self._like is None or not hasattr(os, "fchmod"):
            return
        fd = self.fileno()
        for owner in ((-1, self._like.st_gid), (self._like.st_uid, -1)):
            with contextlib.suppress(OSError):  # who isn't root may give a file to his own groups only
                os.fchown(fd, *owner)
        os.fchmod(fd, stat.S_IMODE(self._like.st_mode))  # last: a new owner takes some bits away

    def close(self) -> None:
        """Commit; what the ``with`` block does."""
        self.commit()

    def discard(self) -> None:
        """Give the file up. Does nothing after `commit`."""
        if not hasattr(self, "_fd"):  # refused before it was begun
            return
        try:
            self._close()
        finally:
            if self._named:
                with contextlib.suppress(OSError):
                    os.unlink(self._temporary)
                self._named = False

    def _create(self) -> int:
        unnamed = getattr(os, "O_TMPFILE", 0)
        if unnamed and os.path.isdir("/proc/self/fd"):
            # Not every file system has unnamed files.
            with contextlib.suppress(OSError):
                return os.open(self._folder, unnamed | os.O_RDWR | _BINARY, self._mode())
        return self._create_named()

    def _name(self) -> None:
        """Give the file the temporary name: an unnamed one can't replace another."""
        try:
            # The folder's descriptor isn't needed for an absolute path; it makes Python call linkat, which follows.
            os.link(f"/proc/self/fd/{self._fd}", self._temporary, src_dir_fd=self._fd, follow_symlinks=True)
            self._named = True
        except OSError:
            # Some sandboxes forbid it. All is written by now: copy it, inside the kernel.
            unnamed, self._fd = self._fd, self._create_named()
            try:
                size, done = os.fstat(unnamed).st_size, 0
                while done < size:
                    done += os.sendfile(self._fd, unnamed, done, size - done)
            finally:
                os.close(unnamed)
            os.fsync(self._fd)

    def _create_named(self) -> int:
        fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, self._mode())
        self._named = True
        return fd

    def _mode(self) -> int:
        """Return the mode to begin with: nobody else's as long as it isn't known whose it will be."""
        return 0o666 if self._like is None else stat.S_IRUSR | stat.S_IWUSR

    def _close(self) -> None:
        self._join()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.discard()


def write_file(path: str | PathLike[str], data: bytes | memoryview, *, like: str | PathLike[str] | None = None) -> None:
    """Write a whole small file atomically; ``like`` as `AtomicFile` has it."""
    with AtomicFile(path, like=like) as target:
        write_all(target.fileno(), memoryview(data))


def write_all(fd: int, data: memoryview) -> None:
    """Write all of ``data``, which one system call need not do."""
    while data:
        data = data[os.write(fd, data) :]


def _stat(path: str | PathLike[str]) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _sync_folder(folder: str) -> None:
    """Make a new name durable; systems that can't sync a folder don't need it or offer nothing better."""
    try:
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _CANT_SYNC:
            raise
