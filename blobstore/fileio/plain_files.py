"""Open files that are read by plain reads, and a limit on how many of them are open at once."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import UsageError, in_file
from blobstore.fileio.closing import Closing
from blobstore.fileio.descriptors import open_regular, read_into, reopen
from blobstore.fileio.file_systems import stat_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

    from blobstore.fileio.types import ReadInto, SourceAccess

_MAX_IDLE = 64  # files that stay open only in case they are read again


class PlainFile(Closing):
    """A file of which every view is a copy, read when the view is asked for.

    For network drives, where a lost connection kills a process that maps, and for files that may be truncated.
    """

    access: SourceAccess = "read"
    whole: memoryview | None = None

    def __init__(
        self, fd: int, *, path: str | PathLike[str] = "", has_path: bool = True, writable: bool = False
    ) -> None:
        """Take over an open descriptor; ``path`` is the file's, or (without ``has_path``) what errors call it."""
        self.has_path = has_path
        self.in_memory = False
        self.writable = writable
        self._fd: int | None = fd
        self._holders = 0
        self._closed = False
        # Guards these three: the number of a closed descriptor goes to the next file that is opened.
        self._guard = threading.Lock()
        self._seeking = threading.Lock()
        self.path: str = os.fsdecode(path)
        self._absolute_path = os.path.abspath(path) if path and has_path else ""  # the working directory may change
        self._identity = os.fstat(fd)
        self.size: int = self._identity.st_size

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return a copy of these bytes.

        Raises:
            TruncatedError: ``short-read`` when the file ends before them: it has shrunk since it was opened.
            UsageError: ``closed``.
        """
        data = np.empty(nbytes, dtype=np.uint8).data
        self.read_into(data, offset)
        return data if self.writable else data.toreadonly()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the file's bytes from ``offset`` on.

        Raises:
            TruncatedError, UsageError: As `view`.
        """
        with self.held() as fd, in_file(self.path):
            read_into(fd, buffer, offset, self._seeking)

    @contextmanager
    def reading(self) -> Iterator[ReadInto]:
        """Yield a `read_into` that works until the ``with`` block ends, even if the file is closed meanwhile.

        Raises:
            UsageError: ``closed``.
        """
        with self.held() as fd:
            yield partial(read_into, fd, lock=self._seeking)

    def fileno(self) -> int:
        """Return the open file's descriptor. Another thread's `close` makes it invalid: see `held`."""
        if self._closed or self._fd is None:
            raise UsageError("closed", "this file was closed")
        return self._fd

    @contextmanager
    def held(self) -> Iterator[int]:
        """Yield the descriptor, which stays open until the ``with`` block ends, even if the file is closed meanwhile.

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
        status = stat_of(path)
        return status is not None and os.path.samestat(status, self._identity)

    @property
    def device(self) -> int:
        """The device of its file system, ``st_dev``."""
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
                self._fd = None  # the descriptor is gone even when closing it fails
        if fd is not None:
            with in_file(self.path):
                os.close(fd)

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # A store need not be closed: its views are what matters, and they don't need the descriptor. When the process
        # ends, the system closes it; what this method needs may be gone by then.
        if hasattr(self, "_seeking") and not _finalizing():
            self.close()


class ReopenedFile(PlainFile):
    """A file that has a descriptor only while one is needed, so that any number of them may be in use.

    The few that were read last keep theirs.
    """

    def __init__(self, fd: int, *, path: str | PathLike[str], has_path: bool = True, writable: bool = False) -> None:
        """Take over an open descriptor of the file at ``path``; without ``has_path`` it is kept."""
        self._keep = not has_path
        super().__init__(fd, path=path, has_path=has_path, writable=writable)

    def fileno(self) -> int:
        """Return a descriptor, which stays open until `close`: for copying where no other thread closes it.

        Raises:
            UsageError: ``closed``; ``replaced`` when another file is at its path, and this one can't be reached.
        """
        with self._guard:
            self._keep = True
            return self._opened()

    @contextmanager
    def held(self) -> Iterator[int]:
        """Yield a descriptor, which stays open until the ``with`` block ends.

        Raises:
            UsageError: As `fileno`.
        """
        with self._guard:
            is_new = self._fd is None
            fd = self._opened()
            self._holders += 1
        try:
            if is_new:
                _open_files.add(self)
            yield fd
        finally:
            self._let_go(holders=1)

    def rest(self) -> None:
        """Close the descriptor, unless somebody holds it."""
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
            self._fd = reopen(self._absolute_path, self._identity)
        return self._fd


class _OpenFiles:
    """The files that have a descriptor only in case they are read again: a limited number."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._files: OrderedDict[int, weakref.ref[ReopenedFile]] = OrderedDict()
        self._guard = threading.Lock()

    def add(self, file: ReopenedFile) -> None:
        """Add a file that was opened; the ones opened longest ago are closed when there are too many."""
        with self._guard:
            self._files[id(file)] = weakref.ref(file)
            self._files.move_to_end(id(file))
            extra = len(self._files) - self._limit
            oldest = [self._files.popitem(last=False)[1] for _ in range(extra)]
        for reference in oldest:
            old = reference()
            if old is None:
                continue
            old.rest()
            if not old.at_rest:  # it is being read: it gets another turn
                with self._guard:
                    self._files.setdefault(id(old), reference)


_open_files = _OpenFiles(_MAX_IDLE)


def open_one_of_many(path: str | PathLike[str]) -> ReopenedFile:
    """Open a file for plain reads that keeps no descriptor while others are read: a checkpoint may have thousands.

    Raises:
        UsageError, OSError: As `open_regular`.
    """
    return keep_few_open(ReopenedFile(open_regular(path), path=path))


def keep_few_open(file: ReopenedFile) -> ReopenedFile:
    """Count a file among those of which only the ones that were read last keep a descriptor → the file."""
    _open_files.add(file)
    return file
