"""What systems differ in. No other module asks which system it runs on, or whether the standard library has something.

The package is tested on Linux. What another system lacks is taken from this module by tests (``system.preadv = None``),
so every name is looked up when it is used: write ``system.preadv``, don't import the name.
"""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Whether a file that is open can't be replaced, moved or removed, as on Windows: it is closed first there.
OPEN_FILES_STAY: bool = os.name == "nt"

# Whether only a descriptor that is open for writing can be synced, as on Windows.
SYNC_WRITES: bool = os.name == "nt"

# --------------------------------------------------------------------------------------------------- flags of os.open

BINARY: int = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)  # bytes as they are; not for child processes
# For names that anyone may have given to anything: follows no link, waits for no pipe.
CAUTIOUS: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
UNNAMED: int = getattr(os, "O_TMPFILE", 0)  # a file without a name, in the folder that is opened (Linux); 0: none
DESCRIPTORS = "/proc/self/fd"  # where open files have names (Linux)

# ------------------------------------------------------------------------------------------- calls; None: there is none

preadv: Callable[[int, list[memoryview], int], int] | None = getattr(os, "preadv", None)
copy_file_range: Callable[[int, int, int, int, int], int] | None = getattr(os, "copy_file_range", None)
posix_fadvise: Callable[[int, int, int, int], None] | None = getattr(os, "posix_fadvise", None)
fdatasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
fchmod: Callable[[int, int], None] | None = getattr(os, "fchmod", None)
sync: Callable[[], None] | None = getattr(os, "sync", None)

try:
    import fcntl
except ImportError:  # Windows has other locks, which keep others from reading as well
    flock: Callable[[int, int], None] | None = None
    EXCLUSIVE = SHARED = AT_ONCE = 0
else:
    flock = fcntl.flock
    EXCLUSIVE, SHARED, AT_ONCE = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB


def sync_file(path: str) -> None:
    """Wait until a file's bytes are on the disk; on Windows only if this process may write to it."""
    try:
        fd = os.open(path, os.O_RDWR if SYNC_WRITES else os.O_RDONLY)
    except PermissionError:
        if not SYNC_WRITES:
            raise
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def chown(fd: int, user: int, group: int) -> None:
    """Give an open file to a user and a group, -1 for either that stays, where the system has owners and allows it."""
    with suppress(OSError, AttributeError):  # only root may change the user, others only to a group of theirs
        os.fchown(fd, user, group)


def user_may_write(path: str) -> bool:
    """Whether this process may write to a file, or the file is its user's."""
    return os.access(path, os.W_OK) or (hasattr(os, "geteuid") and os.stat(path).st_uid == os.geteuid())


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --------------------------------------------------------------------------------------------------------------- maps

# Without this flag the system reserves memory for a private map, and refuses one that is larger than the machine's
# memory. Some Pythons don't name the flag: its value is Linux's.
NORESERVE: int = getattr(
    mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64") else 0
)
# From Linux 5.14 on; Python doesn't name it yet. On other systems the number may mean another hint.
POPULATE_READ: int | None = getattr(mmap, "MADV_POPULATE_READ", 22 if sys.platform == "linux" else None)
ADVICE: dict[str, int | None] = {
    "all": getattr(mmap, "MADV_WILLNEED", None),
    "sequential": getattr(mmap, "MADV_SEQUENTIAL", None),
    "random": getattr(mmap, "MADV_RANDOM", None),
}
# Python's map keeps a descriptor of its own; from 3.13 on it can be told not to, on Windows from 3.15 on.
MAP_KEEPS_FILE: bool = sys.version_info < (3, 13) or os.name == "nt"


def private_map(fd: int, size: int, **options: Any) -> mmap.mmap:  # noqa: ANN401 (mmap's)
    """Map a file so that pages that are written become private to this process, and reserve no memory for them."""
    if NORESERVE:
        flags = mmap.MAP_PRIVATE | NORESERVE
        return mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE, **options)
    return mmap.mmap(fd, size, access=mmap.ACCESS_COPY, **options)
