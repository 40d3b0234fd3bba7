"""What the system says of a path, and which kind of file system it is on."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

# Where a lost connection kills a process that maps; FUSE is mostly such drives, or buckets.
_REMOTE = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "gluster", "lustre", "beegfs", "gpfs", "ncpfs", "coda", "fuse.")


def stat_of(path: str | PathLike[str], *, follow_symlinks: bool = True) -> os.stat_result | None:
    """Return what a path names; None where nothing is, or nothing that can be looked at."""
    try:
        return os.stat(path, follow_symlinks=follow_symlinks)
    except OSError:
        return None


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
