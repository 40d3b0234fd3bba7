"""A file → memory: mapped, or by plain reads."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
import threading
import weakref
from collections import OrderedDict
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from blobstore.closing import Closing
from blobstore.errors import TruncatedError, UsageError, in_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from os import PathLike

Access = Literal["auto", "mmap", "read"]
Prefetch = Literal["none", "all", "sequential", "random"]

# Where a lost connection kills a process that maps; FUSE is mostly such drives, or buckets.
_REMOTE = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "gluster", "lustre", "beegfs", "gpfs", "ncpfs", "coda", "fuse.")

# Windows has neither: there one lock guards seek and read.
_preadv: Callable[[int, list[memoryview], int], int] | None = getattr(os, "preadv", None)


# A private map counts as memory that may be needed, so that one of more bytes than the machine has is refused, unless
# it is made with this flag. Some Pythons don't name it: its value is Linux's.
_NORESERVE: int = getattr(
    mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64") else 0
)


# Linux 5.14 has it; Python doesn't name it yet. Elsewhere the number may be another hint's.
_POPULATE_READ: int | None = getattr(mmap, "MADV_POPULATE_READ", 22 if sys.platform == "linux" else None)
_POPULATED_NBYTES = 64 << 20  # at a time: Python's other threads, and Ctrl-C, wait for each

# Python's map keeps a descriptor of its own, unless it is told not to (3.13).
_MAP_KEEPS_FILE = sys.version_info < (3, 13)
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_MOST_OPEN = 64  # files that are open only in case they are read again


class ByteSource(Protocol):
    """Bytes of one open file, which never changes by them.

    Attributes:
        path: Of the file.
        size: In bytes, when it was opened.
        access: How views are made: ``mmap`` or ``read``.
        writable: Whether views can be written to; what is written stays in this process.
    """

    path: str
    size: int
    access: Access
    writable: bool

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return bytes that must lie inside the file; valid as long as the view itself lives."""

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` with the file's bytes from ``offset``."""

    def is_at(self, path: str | PathLike[str]) -> bool:
        """Whether a path names this very file."""

    @property
    def device(self) -> int:
        """Of its file system, ``st_dev``."""

    def fileno(self) -> int:
        """Return the open file's descriptor, for as long as nobody else may close it: see `held`."""

    def held(self) -> AbstractContextManager[int]:
        """Return the descriptor for the time of a ``with`` block, in which no other thread's `close` frees it."""

    def close(self) -> None:
        """Let go of the file, at the latest when nobody holds it. Views stay valid."""


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
        self.path = os.path.abspath(path) if path else ""
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
            self._fd = _open_again(self.path, self._identity)
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


class MappedFile(ReopenedFile):
    """Every view is the map itself: nothing is read until it is touched, nothing is copied.

    A writable map is copy-on-write: pages that are written to become this process' own, and all views see them. It
    takes one descriptor.
    """

    access: Access = "mmap"

    def __init__(
        self, fd: int, *, path: str | PathLike[str] = "", writable: bool = False, prefetch: Prefetch = "none"
    ) -> None:
        """Take over an open descriptor of a file that isn't empty."""
        self._map: memoryview | None = None
        super().__init__(fd, path=path, writable=writable)
        try:
            mapped = _map(fd, self.size, writable=writable)
        except ValueError:  # it has shrunk since its size was asked for
            raise TruncatedError(
                "short-read", f"the file had {self.size} bytes and has fewer: it was truncated"
            ) from None
        self._map = memoryview(mapped)
        _advise(mapped, prefetch)
        if _MAP_KEEPS_FILE:
            self.rest()
        else:
            self._keep = True

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return these bytes of the map."""
        if self._map is None:
            raise UsageError("closed", "this file was closed")
        return self._map[offset : offset + nbytes]

    def close(self) -> None:
        """Let go of the map: it goes away with the last view of it."""
        self._map = None
        super().close()


def _map(fd: int, size: int, *, writable: bool) -> mmap.mmap:
    options: Any = {} if _MAP_KEEPS_FILE else {"trackfd": False}
    if writable and _NORESERVE:
        flags = mmap.MAP_PRIVATE | _NORESERVE
        return mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE, **options)
    return mmap.mmap(fd, size, access=mmap.ACCESS_COPY if writable else mmap.ACCESS_READ, **options)


def _advise(mapped: mmap.mmap, prefetch: Prefetch) -> None:
    """Tell the system how a map will be read. It is a hint: where there is no such thing, nothing happens."""
    names = {"none": "", "all": "MADV_WILLNEED", "sequential": "MADV_SEQUENTIAL", "random": "MADV_RANDOM"}
    advice: int | None = getattr(mmap, names[prefetch], None) if names[prefetch] else None
    if advice is None:
        return
    with suppress(OSError):
        if prefetch == "all" and _populated(mapped):
            return
        mapped.madvise(advice)


def _populated(mapped: mmap.mmap) -> bool:
    """Read all of a map and map its pages, where the system does that at one's request."""
    if _POPULATE_READ is None:
        return False
    size = len(mapped)
    try:
        for start in range(0, size, _POPULATED_NBYTES):
            mapped.madvise(_POPULATE_READ, start, min(_POPULATED_NBYTES, size - start))
    except OSError:
        return False
    return True


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


@cache
def file_system(device: int) -> str:
    """Return the kind of file system on a device (``st_dev``), such as ``ext4``; empty where the system doesn't say."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            return kind_of_mount(mounts, os.major(device), os.minor(device))
    except (OSError, AttributeError):  # not Linux
        return ""


def kind_of_mount(mounts: Iterable[str], major: int, minor: int) -> str:
    """Return the kind of a device's file system by the lines of ``/proc/self/mountinfo``; empty when it isn't there."""
    for line in mounts:
        mounted, _, rest = line.partition(" - ")
        fields = mounted.split()
        if len(fields) > 2 and fields[2] == f"{major}:{minor}":
            return rest.split(" ", 1)[0]
    return ""


def is_remote(kind: str) -> bool:
    """Whether a file system of this kind may go away while a file is mapped."""
    return kind.startswith(_REMOTE)


def open_source(
    path: str | PathLike[str], access: Access = "auto", *, writable: bool = False, prefetch: Prefetch = "none"
) -> ByteSource:
    """Open a file for reading.

    Args:
        path: Of a regular file.
        access: ``auto`` maps it, unless its file system is a network drive's.
        writable: Whether views in memory can be written to; the file stays as it is.
        prefetch: How a map will be read; without effect on plain reads.

    Raises:
        UsageError: ``bad-access`` for another word than those of `Access`, ``bad-prefetch`` than those of `Prefetch`;
            ``not-a-file`` for a folder, pipe or device.
        OSError: It can't be opened.
    """
    if access not in get_args(Access):
        raise UsageError("bad-access", f"expected one of {', '.join(get_args(Access))}, found {access!r}")
    if prefetch not in get_args(Prefetch):
        raise UsageError("bad-prefetch", f"expected one of {', '.join(get_args(Prefetch))}, found {prefetch!r}")
    fd = _open_regular(path)
    if access == "auto" and is_remote(file_system(os.fstat(fd).st_dev)):
        access = "read"
    # An empty file can't be mapped; its reader says what is missing.
    if access == "read" or not os.fstat(fd).st_size:
        return PlainFile(fd, path=path, writable=writable)
    return MappedFile(fd, path=path, writable=writable, prefetch=prefetch)


def open_one_of_many(path: str | PathLike[str]) -> ByteSource:
    """Open a file for plain reads which keeps no descriptor while others are read: a checkpoint may have thousands.

    Raises:
        UsageError, OSError: As `open_source`.
    """
    file = ReopenedFile(_open_regular(path), path=path)
    _open_files.add(file)
    return file


def _open_regular(path: str | PathLike[str]) -> int:
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
        return os.open(path, _FLAGS)


def read_whole(path: str | PathLike[str]) -> memoryview:
    """Return all bytes of a small file; a copy.

    Raises:
        UsageError, TruncatedError, OSError: As `open_source` and `PlainFile.view`.
    """
    return read_beginning(path, sys.maxsize)


def read_beginning(path: str | PathLike[str], nbytes: int) -> memoryview:
    """Return a file's first bytes, or all of them where it has no more; a copy.

    Raises:
        UsageError, TruncatedError, OSError: As `read_whole`.
    """
    source = open_source(path, "read")
    try:
        return source.view(0, min(nbytes, source.size))
    finally:
        source.close()
