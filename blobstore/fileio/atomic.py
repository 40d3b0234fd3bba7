"""A new file that appears under its name only when it is complete."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from blobstore.errors import UsageError
from blobstore.fileio import system
from blobstore.fileio.closing import Completing
from blobstore.fileio.descriptors import write_all
from blobstore.fileio.file_systems import stat_of
from blobstore.fileio.locking import is_at, lock
from blobstore.fileio.temporary import abandoned, keep_temporary, temporary_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

_fdatasync = system.fdatasync
_SYNC_NBYTES = 128 << 20  # written between two syncs
# Errors of systems that can't sync a folder, or open it to do so. Anything else (no space, I/O error) is a real error.
_CANT_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EISDIR}


class AtomicFile(Completing):
    """A new file in the target's folder, which `commit` moves to the target's name.

    Until then the target is untouched. An error leaves nothing behind. Neither does a killed process where the system
    has unnamed files (Linux), unless it dies between naming the complete file and moving it to the target. What it
    leaves on other systems is removed by the next writer to that folder. A symbolic link is followed: the file that it
    points to is replaced, unless the link itself is to be. The new file takes the mode of the file that it replaces,
    and its owner where the system allows it; without one it obeys the umask.

    Attributes:
        path: The target, as it was given: errors name it so.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        like: str | PathLike[str] | None = None,
        follow: bool = True,
        durable: bool = True,
    ) -> None:
        """Begin the file.

        Args:
            path: The target.
            like: If there is no target yet, the file takes the mode and owner of this one, if it exists.
            follow: Replace the file that a link points to; otherwise the link, and the file that it points to stays.
            durable: Wait until file and name are on the disk. Otherwise the system writes them when it likes, and a
                crash of the machine before that may leave the old file, or an incomplete new one.

        Raises:
            UsageError: ``not-a-file`` when the target is a folder, pipe or device.
            OSError: The folder doesn't exist or can't be written to.
        """
        self.path: str = os.fspath(path)
        self._durable = durable
        self._absolute = os.path.abspath(self.path)
        self._real = os.path.realpath(path) if follow else _real_place(path)  # also when the current folder changes
        old = stat_of(self._real, follow_symlinks=False)
        if old and not follow and stat.S_ISLNK(old.st_mode):
            old = None
        named = stat_of(path) if follow else None  # the real path of a link in /dev or /proc may name nothing
        if any(status and not stat.S_ISREG(status.st_mode) for status in (old, named)):
            raise UsageError("not-a-file", f"{self.path!r} is not a regular file and can't be replaced")
        self._like = old or (stat_of(like) if like is not None else None)
        self._folder = os.path.dirname(self._real)
        if not os.path.isdir(self._folder):
            given = os.path.dirname(self.path)
            missing = self._folder if not given or os.path.isdir(given) else given  # where a link leads, or as given
            raise FileNotFoundError(errno.ENOENT, "no such folder", missing)
        self._temporary = ""
        self._named = False
        self._committed = False
        self._prepared = False
        self._syncing: threading.Thread | None = None
        self._sync_error: OSError | None = None
        self._synced = 0  # position up to which the disk was asked to write
        self._fd = -1
        self._identity: os.stat_result | None = None  # as long as it has no descriptor, but isn't moved
        with self._naming_target():
            abandoned(self._folder, remove=True)
            self._fd = self._create()

    @property
    def committed(self) -> bool:
        """Whether the target is the new file."""
        return self._committed

    @property
    def target(self) -> str:
        """The target: as it was given, unless the current folder has changed since; then absolute."""
        return self.path if os.path.abspath(self.path) == self._absolute else self._absolute

    def output(self) -> int:
        """Return what is written to: the descriptor."""
        return self.fileno()

    def fileno(self) -> int:
        """Return the descriptor, for reading and writing.

        Raises:
            UsageError: ``closed`` after `commit` or `discard`.
        """
        if self._fd < 0:
            raise UsageError("closed", f"{self.path!r} was already written or given up")
        return self._fd

    def wrote_up_to(self, position: int) -> None:
        """Call `sync_soon` if much was written since the last time; ``position`` goes back where a blob was undone."""
        self._synced = min(self._synced, position)
        if position - self._synced >= _SYNC_NBYTES:
            self._synced = position
            self.sync_soon()

    def sync_soon(self) -> None:
        """Start writing to disk what was written so far, in a thread; `commit` raises its error.

        Does nothing for a file that needn't be durable.
        """
        if not self._durable or (self._syncing and self._syncing.is_alive()):
            return
        with self._naming_target():
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
        """Complete the file and give it its name, replacing the target. Does nothing the second time.

        Raises:
            OSError: The target is unchanged; or it is the new file, but the system could not make its name durable.
        """
        if self._committed:
            return
        self.prepare()
        try:
            self.move()
        except BaseException:
            self.discard()
            raise

    def prepare(self) -> None:
        """Complete the file, so that only its move is left: for files that get their names together."""
        if self._prepared and self._fd >= 0:
            return
        try:
            with self._naming_target():
                self._join()
                if self._sync_error:  # the system reports a lost write only once
                    raise self._sync_error
                self.fileno()  # raises when the file is closed
                if not self._named:
                    self._name()
                self._take_over()
                if self._durable:
                    os.fsync(self.fileno())
            self._prepared = True
        except BaseException:
            self.discard()
            raise

    def keep(self) -> str:
        """Leave the prepared file beside the target, complete, and return its path: for when it can't be moved."""
        if system.OPEN_FILES_STAY:
            self._close()
        kept = f"{self._real}.new"
        while os.path.lexists(kept):
            kept = f"{self._real}.{os.urandom(4).hex()}.new"
        try:
            os.replace(self._temporary, kept)
        except OSError:
            kept = self._temporary
            keep_temporary(kept)
        self._named = False
        self._close()
        return kept

    def move(self) -> None:
        """Give the prepared file its name. After an error it is still prepared, unless it is `committed`."""
        with self._naming_target():
            if self._fd >= 0:
                self._identity = os.fstat(self._fd)
            if system.OPEN_FILES_STAY:
                self._close()
            try:
                os.replace(self._temporary, self._real)
                self._committed = True
            finally:
                # An interrupt may be raised after the call has succeeded.
                self._committed = self._committed or _is(self._real, self._identity)
                self._named = not self._committed
            self._close()  # only now: its lock keeps the temporary file from being removed as abandoned
            if self._durable:
                _sync_folder(self._folder)

    @contextmanager
    def _naming_target(self) -> Iterator[None]:
        """Name the target in the system's errors, not the temporary file."""
        try:
            yield
        except OSError as error:
            if error.errno is not None:
                error.filename = self.path
                if error.filename2 is not None:
                    del error.filename2
            raise

    def write(self, data: memoryview) -> None:
        """Write all of ``data`` at the current position."""
        with self._naming_target():
            write_all(self.fileno(), data)

    def _take_over(self) -> None:
        """Give the file the owner and mode of the one that it replaces, before anyone can see it."""
        if self._like is None:
            return
        fd = self.fileno()
        for owner in ((-1, self._like.st_gid), (self._like.st_uid, -1)):
            system.chown(fd, *owner)
        if system.fchmod:
            system.fchmod(fd, stat.S_IMODE(self._like.st_mode))  # last: changing the owner clears some bits

    def close(self) -> None:
        """Commit, as the end of a ``with`` block does."""
        self.commit()

    def discard(self) -> None:
        """Give the file up. Does nothing after `commit`."""
        if not hasattr(self, "_fd"):  # refused by __init__
            return
        if system.OPEN_FILES_STAY:
            self._close()
        if self._named:
            with suppress(OSError):
                os.unlink(self._temporary)
            self._named = False
        self._close()

    def _create(self) -> int:
        if system.UNNAMED and os.path.isdir(system.DESCRIPTORS):
            # Not every file system has unnamed files.
            with suppress(OSError):
                return os.open(self._folder, system.UNNAMED | os.O_RDWR | system.BINARY, self._mode())
        return self._create_named()

    def _name(self) -> None:
        """Give an unnamed file a temporary name: without a name it can't replace another file."""
        self._temporary = self._new_name()
        lock(self._fd)
        try:
            # src_dir_fd isn't needed for an absolute path, but makes Python call linkat, which follows the link.
            os.link(f"{system.DESCRIPTORS}/{self._fd}", self._temporary, src_dir_fd=self._fd, follow_symlinks=True)
            self._named = True
        except OSError:
            # Some sandboxes forbid linking. The file is complete: copy it, inside the kernel.
            unnamed, self._fd = self._fd, self._create_named()
            try:
                size, done = os.fstat(unnamed).st_size, 0
                while done < size:
                    sent = os.sendfile(self._fd, unnamed, done, size - done)
                    if not sent:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    done += sent
            finally:
                os.close(unnamed)

    def _create_named(self) -> int:
        while True:
            self._temporary = self._new_name()
            fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | system.BINARY, self._mode())
            self._named = True
            lock(fd)
            if is_at(self._temporary, fd):
                return fd
            os.close(fd)  # another writer removed it as abandoned before it was locked

    def _new_name(self) -> str:
        return os.path.join(self._folder, temporary_name())

    def _mode(self) -> int:
        """Return the mode to begin with: private until the file has its owner."""
        return 0o666 if self._like is None else stat.S_IRUSR | stat.S_IWUSR

    def _close(self) -> None:
        self._join()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _finalizing():
            self.discard()
        elif getattr(self, "_named", False):  # what `discard` needs may be gone, and no error could be reported
            with suppress(Exception):
                os.unlink(self._temporary)


def _is(path: str, identity: os.stat_result | None) -> bool:
    """Whether a path names the file that was found to be this one."""
    status = stat_of(path, follow_symlinks=False)
    return status is not None and identity is not None and os.path.samestat(status, identity)


def _real_place(path: str | PathLike[str]) -> str:
    """Return the real path of the folder, with the name in it, which may be a link's."""
    folder, name = os.path.split(os.fspath(path))
    return os.path.join(os.path.realpath(folder), name)


def write_file(
    path: str | PathLike[str],
    data: bytes | memoryview,
    *,
    like: str | PathLike[str] | None = None,
    follow: bool = True,
) -> None:
    """Write a whole small file atomically; ``like`` and ``follow`` are as in `AtomicFile`."""
    with AtomicFile(path, like=like, follow=follow) as file:
        file.write(memoryview(data))


def _sync_folder(folder: str) -> None:
    """Make a new name durable. Systems that can't sync a folder don't need it, or have nothing better."""
    try:
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _CANT_SYNC:
            raise
