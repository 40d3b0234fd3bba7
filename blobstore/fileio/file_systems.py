"""What the system knows about a path, and the type of its file system."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

# File systems where a lost connection kills a process that maps; FUSE is mostly remote drives and buckets.
_REMOTE = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "gluster", "lustre", "beegfs", "gpfs", "ncpfs", "coda", "fuse.")


def stat_of(path: str | PathLike[str], *, follow_symlinks: bool = True) -> os.stat_result | None:
    """Return the status of what a path names; None if there is nothing, or it can't be looked at."""
    try:
        return os.stat(path, follow_symlinks=follow_symlinks)
    except OSError:
        return None


def is_missing(path: str | PathLike[str]) -> bool:
    """Whether a path names nothing, or a link to nothing; what can't be looked at is there."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


@cache
def file_system(device: int | None) -> str:
    """Return the type of a device's file system (``st_dev``), such as ``ext4``; empty where the system doesn't say."""
    if device is None:
        return ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            return mounted_type(mounts, os.major(device), os.minor(device))
    except (OSError, AttributeError):  # not Linux
        return ""


def mounted_type(mounts: Iterable[str], major: int, minor: int) -> str:
    """Return the type of a device's file system from the lines of ``/proc/self/mountinfo``; empty if not listed."""
    for line in mounts:
        mounted, _, rest = line.partition(" - ")
        fields = mounted.split()
        if len(fields) > 2 and fields[2] == f"{major}:{minor}":
            return rest.split(" ", 1)[0]
    return ""


def is_remote(type_name: str) -> bool:
    """Whether a file system of this type may go away while a file is mapped."""
    return type_name.startswith(_REMOTE)
