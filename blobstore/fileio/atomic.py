"""A file that appears under its name only when it is complete."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from blobstore.errors import UsageError
from blobstore.fileio.closing import Completing
from blobstore.fileio.file_systems import stat_of
from blobstore.fileio.locking import is_at, is_temporary, lock, temporary_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

_fdatasync = getattr(os, "fdatasync", os.fsync)
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# What a system says that can't sync a folder, or open it for that. All else (no space, I/O error) is a real error.
_CANT_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EISDIR}
_KEPT = 1  # seconds since 1970: the time of a temporary file that holds what could not be put in its place


class Moving(Protocol):
    """A prepared file that `move_together` gives its name."""

    @property
    def path(self) -> str:
        """The target."""

    @property
    def committed(self) -> bool:
        """Whether the target is the new file."""

    def move(self) -> None:
        """Give it its name; after an error that can be tried again."""

    def keep(self) -> str:
        """Leave it, complete, under another name, and return that."""


class AtomicFile(Completing):
    """A new file in the target's folder, which `commit` moves to the target's name.

    Until then the target is untouched. An error leaves nothing behind. Neither does a killed process where the system
    has unnamed files (Linux), unless it dies in the moment between naming the complete file and moving it to the
    target; what it leaves elsewhere is removed by the next writer to that folder. A symbolic link is followed: the
    file that it names is replaced, unless the link itself is to be. A file that is replaced leaves its mode to the new
    one, and its owner where the system allows it; other new files obey the umask.

    Attributes:
        path: The target, as it was given: errors name it so.
    """

    def __init__(
        self, path: str | PathLike[str], *, like: str | PathLike[str] | None = None, follow: bool = True
    ) -> None:
        """Begin the file.

        Args:
            path: The target.
            like: A file, perhaps, whose mode and owner it gets where there is no target yet.
            follow: Replace what a link names; else the link, and what it names stays.

        Raises:
            UsageError: ``not-a-file`` when the target is a folder, pipe or device.
            OSError: The folder isn't there or can't be written to.
        """
        self.path = os.fspath(path)
        self._real = os.path.realpath(path) if follow else _place_of(path)  # also when the current folder changes
        there = stat_of(self._real, follow_symlinks=False)
        if there and not follow and stat.S_ISLNK(there.st_mode):
            there = None
        named = stat_of(path) if follow else None  # a link of /dev or /proc has a real path that names nothing
        if any(one and not stat.S_ISREG(one.st_mode) for one in (there, named)):
            raise UsageError("not-a-file", f"{self.path!r} is no regular file and can't be replaced")
        self._like = there or (stat_of(like) if like is not None else None)
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
        self._fd = -1
        with self._telling():
            abandoned(self._folder, remove=True)
            self._fd = self._create()

    @property
    def committed(self) -> bool:
        """Whether the target is the new file."""
        return self._committed

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
        with self._telling():
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
        self.prepare()
        try:
            self.move()
        except BaseException:
            self.discard()
            raise

    def prepare(self) -> None:
        """Make the file durable, so that `commit` has only to move it: for files that go together."""
        if self._prepared and self._fd >= 0:
            return
        try:
            with self._telling():
                self._join()
                if self._sync_error:  # the system tells of a lost write once only
                    raise self._sync_error
                self.fileno()  # or it is closed
                if not self._named:
                    self._name()
                self._take_over()
                os.fsync(self.fileno())
            self._prepared = True
        except BaseException:
            self.discard()
            raise

    def keep(self) -> str:
        """Leave the prepared file beside the target, complete, and return where: it can't take its place."""
        kept = f"{self._real}.new"
        while os.path.lexists(kept):
            kept = f"{self._real}.{os.urandom(4).hex()}.new"
        try:
            os.replace(self._temporary, kept)
        except OSError:
            kept = self._temporary
            with suppress(OSError):
                os.utime(kept, (_KEPT, _KEPT))
        self._named = False
        self._close()
        return kept

    def move(self) -> None:
        """Give the prepared file its name. After an error it is still there, prepared, unless it is `committed`."""
        with self._telling():
            if os.name == "nt":  # pragma: no cover (Windows moves nothing that is open)
                self._close()
            try:
                os.replace(self._temporary, self._real)
                self._committed = True
            finally:
                # An interrupt is raised when the call is done already.
                self._committed = self._committed or (self._fd >= 0 and is_at(self._real, self._fd))
                self._named = not self._committed
            self._close()  # now, since its lock keeps the temporary file from being removed as abandoned
            _sync_folder(self._folder)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Name the target in the system's errors: nobody knows the temporary file."""
        try:
            yield
        except OSError as error:
            if error.errno is not None:
                error.filename = self.path
                if error.filename2 is not None:
                    del error.filename2
            raise

    def write(self, data: memoryview) -> None:
        """Write all of ``data`` where the last write ended."""
        with self._telling():
            write_all(self.fileno(), data)

    def _take_over(self) -> None:
        """Give the file the owner and the mode of the one that it replaces, before anyone can see it."""
        if self._like is None or not hasattr(os, "fchmod"):
            return
        fd = self.fileno()
        for owner in ((-1, self._like.st_gid), (self._like.st_uid, -1)):
            with suppress(OSError):  # who isn't root may give a file to his own groups only
                os.fchown(fd, *owner)
        os.fchmod(fd, stat.S_IMODE(self._like.st_mode))  # last: a new owner takes some bits away

    def close(self) -> None:
        """Commit; what the ``with`` block does."""
        self.commit()

    def discard(self) -> None:
        """Give the file up. Does nothing after `commit`."""
        if not hasattr(self, "_fd"):  # refused before it was begun
            return
        if self._named:
            with suppress(OSError):
                os.unlink(self._temporary)
            self._named = False
        self._close()

    def _create(self) -> int:
        unnamed = getattr(os, "O_TMPFILE", 0)
        if unnamed and os.path.isdir("/proc/self/fd"):
            # Not every file system has unnamed files.
            with suppress(OSError):
                return os.open(self._folder, unnamed | os.O_RDWR | _BINARY, self._mode())
        return self._create_named()

    def _name(self) -> None:
        """Give the file the temporary name: an unnamed one can't replace another."""
        self._temporary = self._new_name()
        lock(self._fd)
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
                    sent = os.sendfile(self._fd, unnamed, done, size - done)
                    if not sent:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    done += sent
            finally:
                os.close(unnamed)
            os.fsync(self._fd)

    def _create_named(self) -> int:
        while True:
            self._temporary = self._new_name()
            fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, self._mode())
            self._named = True
            lock(fd)
            if is_at(self._temporary, fd):
                return fd
            os.close(fd)  # another one took it for abandoned before it was locked

    def _new_name(self) -> str:
        return os.path.join(self._folder, temporary_name())

    def _mode(self) -> int:
        """Return the mode to begin with: nobody else's as long as it isn't known whose it will be."""
        return 0o666 if self._like is None else stat.S_IRUSR | stat.S_IWUSR

    def _close(self) -> None:
        self._join()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _finalizing():
            self.discard()
        elif getattr(self, "_named", False):  # what is needed may be gone, and nobody could be told
            with suppress(Exception):
                os.unlink(self._temporary)


def _place_of(path: str | PathLike[str]) -> str:
    """Return the real path of the folder, and the name in it, which may be a link's."""
    folder, name = os.path.split(os.fspath(path))
    return os.path.join(os.path.realpath(folder), name)


def write_file(
    path: str | PathLike[str],
    data: bytes | memoryview,
    *,
    like: str | PathLike[str] | None = None,
    follow: bool = True,
) -> None:
    """Write a whole small file atomically; ``like`` and ``follow`` as `AtomicFile` has them."""
    with AtomicFile(path, like=like, follow=follow) as target:
        target.write(memoryview(data))


def move_together(*files: Moving) -> None:
    """Give prepared files their names, in this order.

    Raises:
        OSError: Nothing has changed; or the first ones have their names, and the message says under which names the
            others are kept, complete.
    """
    first: BaseException | None = None
    try:
        for one in files:
            try:
                one.move()
            except BaseException as error:
                if not any(other.committed for other in files):
                    raise
                first = first or error
                if not one.committed:  # what comes after it goes with it
                    break
        kept = [f"{one.keep()!r} is to be {one.path!r}" for one in files if not one.committed]
        if kept and isinstance(first, OSError):
            what = f"{first.strerror}; nothing is lost, move by hand what is complete: {', '.join(kept)}"
            raise OSError(first.errno, what, first.filename)
        if first:
            raise first
    finally:
        del first  # it knows this frame, which would know it: a cycle, that keeps what the callers have open


def abandoned(folder: str, *, remove: bool = False) -> list[str]:
    """Return the temporary files in a folder whose writers were killed, and which nobody reads; remove them if told."""
    try:
        with os.scandir(folder) as entries:
            names = [one.path for one in entries if is_temporary(one.name)]
    except OSError:
        return []
    return sorted(one for one in names if _is_abandoned(one, remove=remove))


def _is_abandoned(path: str, *, remove: bool) -> bool:
    """Whether nobody holds the lock that the writer, or a reader, of a temporary file has on it."""
    try:
        fd = os.open(path, os.O_RDONLY | _BINARY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        free = stat.S_ISREG(found.st_mode) and int(found.st_mtime) != _KEPT
        free = free and lock(fd, wait=False) and is_at(path, fd)
        if free and remove:
            with suppress(OSError):
                os.unlink(path)  # as long as it is locked: a new one of this name would be another's
        return free
    finally:
        os.close(fd)


def write_all(fd: int, data: memoryview) -> None:
    """Write all of ``data``, which one system call need not do."""
    while data:
        data = data[os.write(fd, data) :]


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
