"""Open files that are read by plain reads, and how many of them are open at once."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import weakref
from collections import OrderedDict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import TruncatedError, UsageError, in_file
from blobstore.fileio.closing import Closing
from blobstore.fileio.locking import is_temporary, share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

    from blobstore.fileio.types import Access

# Windows has neither: there one lock guards seek and read.
_preadv: Callable[[int, list[memoryview], int], int] | None = getattr(os, "preadv", None)

_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_MOST_OPEN = 64  # files that are open only in case they are read again


class PlainFile(Closing):
    """Every view is a copy of its own, read when asked for.

    For network drives, where a lost connection kills a process that maps, and for files that someone may truncate.
    """

    access: Access = "read"

    def __init__(self, fd: int, *, path: str | PathLike[str] = "", writable: bool = False) -> None:
        """Take over an open descriptor; ``path`` is where the file is, for errors."""
        self.writable = writable
        self._fd: int | None = fd
        self._holders = 0
        self._closed = False
        self._guard = threading.Lock()  # of the three above: a freed number is the next file's that is opened
        self._seeking = threading.Lock()
        self.path = os.fsdecode(path)
        self._place = os.path.abspath(path) if path else ""  # wherever this process works later
        self._identity = os.fstat(fd)
        self.size = self._identity.st_size

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return a copy of these bytes.

        Raises:
            TruncatedError: ``short-read`` when the file ends before it: it has shrunk since it was opened.
            UsageError: ``closed``.
        """
        data = np.empty(nbytes, dtype=np.uint8).data
        self.read_into(data, offset)
        return data if self.writable else data.toreadonly()

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` with the file's bytes from ``offset``.

        Raises:
            TruncatedError, UsageError: As `view`.
        """
        with self.held() as fd, in_file(self.path):
            read_into(fd, target, offset, self._seeking)

    def fileno(self) -> int:
        """Return the open file's descriptor, for as long as nobody else may close it: see `held`."""
        if self._closed or self._fd is None:
            raise UsageError("closed", "this file was closed")
        return self._fd

    @contextmanager
    def held(self) -> Iterator[int]:
        """Yield the descriptor: it stays this file's until the ``with`` block ends, whoever closes the file meanwhile.

        Raises:
            UsageError: ``closed``.
        """
        with self._guard:
            fd = self.fileno()
            self._holders += 1
        try:
            yield fd
        finally:
            self._let_go(holders=1)

    def is_at(self, path: str | PathLike[str]) -> bool:
        """Whether a path names this very file."""
        try:
            return os.path.samestat(os.stat(path), self._identity)
        except OSError:
            return False

    @property
    def device(self) -> int:
        """Of its file system, ``st_dev``."""
        return self._identity.st_dev

    def close(self) -> None:
        """Close the file, now or when the last one who holds it is done."""
        self._closed = True
        self._let_go()

    def _let_go(self, *, holders: int = 0) -> None:
        with self._guard:
            self._holders -= holders
            last = self._closed and not self._holders
            fd = self._fd if last else None
            if last:
                self._fd = None  # it is closed even when that fails
        if fd is not None:
            with in_file(self.path):
                os.close(fd)

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # A store need not be closed: its views are what matters, and they don't need the descriptor. When the process
        # ends, the system closes it; what is needed here may be gone.
        if hasattr(self, "_seeking") and not _finalizing():
            self.close()


class ReopenedFile(PlainFile):
    """A file that has a descriptor only while one is needed, so that any number of them may be in use.

    Of those that nobody reads at the moment, the last few that were read stay open.
    """

    def __init__(self, fd: int, *, path: str | PathLike[str], writable: bool = False) -> None:
        """Take over an open descriptor of the file at ``path``."""
        self._keep = False
        super().__init__(fd, path=path, writable=writable)

    def fileno(self) -> int:
        """Return a descriptor, which stays open until `close`: for copying where no other thread closes it.

        Raises:
            UsageError: ``closed``; ``replaced`` when there is another file at its path, and no way to this one.
        """
        with self._guard:
            self._keep = True
            return self._opened()

    @contextmanager
    def held(self) -> Iterator[int]:
        """Yield a descriptor: it stays this file's until the ``with`` block ends.

        Raises:
            UsageError: As `fileno`.
        """
        with self._guard:
            new = self._fd is None
            fd = self._opened()
            self._holders += 1
        try:
            if new:
                _open_files.add(self)
            yield fd
        finally:
            self._let_go(holders=1)

    def rest(self) -> None:
        """Give the descriptor back, if nobody holds it."""
        with self._guard:
            if self._holders or self._keep or self._fd is None:
                return
            fd, self._fd = self._fd, None
        with in_file(self.path):
            os.close(fd)

    @property
    def at_rest(self) -> bool:
        """Whether it has no descriptor."""
        return self._fd is None

    def _opened(self) -> int:
        if self._closed:
            raise UsageError("closed", "this file was closed")
        if self._fd is None:
            self._fd = _open_again(self._place, self._identity)
        return self._fd


class _OpenFiles:
    """The files that have a descriptor only in case they are read again: at most so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: OrderedDict[int, weakref.ref[ReopenedFile]] = OrderedDict()
        self._guard = threading.Lock()

    def add(self, file: ReopenedFile) -> None:
        """Count a file that was opened; others that rest too long are closed."""
        with self._guard:
            self._files[id(file)] = weakref.ref(file)
            self._files.move_to_end(id(file))
            extra = len(self._files) - self._most
            oldest = [self._files.popitem(last=False)[1] for _ in range(extra)]
        for one in oldest:
            found = one()
            if found is None:
                continue
            found.rest()
            if not found.at_rest:  # it is being read: it has its turn again
                with self._guard:
                    self._files.setdefault(id(found), one)


_open_files = _OpenFiles(_MOST_OPEN)


def _open_again(path: str, identity: os.stat_result) -> int:
    """Open the very file that was once opened at a path.

    Raises:
        UsageError: ``replaced``.
    """
    places = [path]
    # A file that was replaced or removed is reached through another descriptor of it, such as a map's.
    with suppress(OSError):
        places += [f"/proc/self/fd/{one}" for one in os.listdir("/proc/self/fd")]
    for one in places:
        with suppress(OSError):
            if not os.path.samestat(os.stat(one), identity):
                continue
            fd = os.open(one, _FLAGS)
            if os.path.samestat(os.fstat(fd), identity):
                return fd
            os.close(fd)
    raise UsageError("replaced", f"{path!r} was replaced or removed while it was open: open it again")


def open_regular(path: str | PathLike[str]) -> int:
    """Open a regular file for reading and return its descriptor.

    Raises:
        UsageError: ``not-a-file`` for a folder, pipe or device, and a link that leads to itself.
        OSError: It can't be opened.
    """
    # A pipe would block at open, a folder can't be opened at all.
    with in_file(os.fsdecode(path)):
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            if error.errno == errno.ELOOP:
                what = "expected a regular file, found a symbolic link that leads to itself"
                raise UsageError("not-a-file", what) from None
            raise
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
            raise UsageError("not-a-file", f"expected a regular file, found {kind}")
        fd = os.open(path, _FLAGS)
    if is_temporary(os.path.basename(os.path.realpath(os.fsdecode(path)))):
        share(fd)  # what is read is no rubbish
    return fd


def open_one_of_many(path: str | PathLike[str]) -> ReopenedFile:
    """Open a file for plain reads which keeps no descriptor while others are read: a checkpoint may have thousands.

    Raises:
        UsageError, OSError: As `open_regular`.
    """
    file = ReopenedFile(open_regular(path), path=path)
    _open_files.add(file)
    return file


def read_into(fd: int, target: memoryview, offset: int, lock: threading.Lock | None = None) -> None:
    """Fill ``target`` with the file's bytes from ``offset``.

    Raises:
        TruncatedError: ``short-read`` when the file ends before it.
    """
    done = 0
    while done < len(target):
        if _preadv:
            got = _preadv(fd, [target[done:]], offset + done)
        else:  # pragma: no cover (Windows)
            with lock or threading.Lock():
                os.lseek(fd, offset + done, os.SEEK_SET)
                chunk = os.read(fd, len(target) - done)
            got = len(chunk)
            target[done : done + got] = chunk
        if not got:
            raise TruncatedError(
                "short-read",
                f"the file ends at {offset + done}, {len(target) - done} bytes too early: it was truncated while open",
                offset + done,
            )
        done += got
