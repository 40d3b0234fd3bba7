"""Writers, editors and readers of the same files, for minutes, while some of them are killed: ``make stress``.

A script. Each process works on files whose names and data tell one number, and whose directories are all equal, so that
an index of one file would fit any other. It fails when a reader meets data of one and names of another, or anything but
the whole file, ``index-stale`` and ``replaced``.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import blobstore
from blobstore.edit.reindex import attach_index, build_for, detach_index
from blobstore.edit.rewrite import Edits, rewrite
from blobstore.errors import BlobStoreError
from blobstore.fileio.temporary import abandoned

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.index.locate import IndexPlace

PLACES: tuple[IndexPlace, ...] = ("external", "embedded", "none")
KINDS = 4  # of names and types


def write(path: Path, number: int, index: IndexPlace) -> None:
    """Write a file that tells its number."""
    kinds = (np.int32, np.float32, np.uint32, np.int32)
    with blobstore.create(path, index=index) as store:
        for key in ("a", "b"):
            values = np.full(30_000, number, kinds[number % KINDS])
            if index == "none":
                store.add_blob(f"{key}{number % KINDS}", values)
            else:
                store.add(f"{key}{number % KINDS}", values)


def read(path: Path) -> None:
    """Read a file.

    Raises:
        ValueError: It is a mixture.
    """
    with blobstore.open(path, access=random.choice(("read", "mmap"))) as store:
        if store.index is None or any(one.dtype == np.uint8 for one in store.infos()):  # or an index of keys
            return
        numbers = {int(one[i]) for one in store.values() for i in (0, -1)} if random.random() < 0.5 else set()
        numbers |= {int(one[0]) for one in store.load_all().values()}
        names = {int(name[1:]) for name in store if name[0] in "ab"}
    if len(numbers) != 1 or names != {one % KINDS for one in numbers}:
        raise ValueError(f"{path} has the numbers {sorted(numbers)} under names of {sorted(names)}")


def write_any(path: Path) -> None:
    """Write one of all files."""
    write(path, random.randrange(1 << 20), random.choice(PLACES))


def edit(path: Path) -> None:
    """Change a file in place."""
    edits: tuple[Callable[[Path], object], ...] = (
        attach_index,
        detach_index,
        lambda one: rewrite(one, None, Edits(set_metadata={"time": str(time.time())})),
        lambda one: rewrite(one, None, Edits(index="external")),
        lambda one: rewrite(one, None, Edits(version=1)),
        lambda one: rewrite(one, None, Edits(version=2, sort=True)),
        lambda one: build_for(one, digests=True),
    )
    random.choice(edits)(path)


ROLES: dict[str, Callable[[Path], None]] = {"write": write_any, "edit": edit, "read": read}
# What a process may be told, since others are at work: not that a file is damaged.
TOLD = {"index-stale", "replaced", "has-index", "no-index", "no-blobs"}


def work(role: str, path: Path, seconds: float) -> None:
    """Do one thing again and again."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            ROLES[role](path)
        except BlobStoreError as error:
            if error.reason not in TOLD:
                raise
        count += 1
    print(role, count, flush=True)


def main() -> int:
    """Run all of it; returns 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--role", choices=ROLES)
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    if options.role:
        work(options.role, options.path, options.seconds)
        return 0
    counts: dict[str, int] = {}
    kills = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.sbs"
        write(path, 1, "external")

        def start(role: str, seconds: float) -> subprocess.Popen[str]:
            order = ["--role", role, "--path", str(path), "--seconds", str(seconds)]
            command = [sys.executable, "-m", "tests.stress", *order]
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        end = time.monotonic() + options.seconds
        lasting = [start(role, options.seconds) for role in ("write", "write", "edit", "edit", "read", "read")]
        while time.monotonic() < end:
            victim = start(random.choice(("write", "edit")), 60)
            time.sleep(random.uniform(0.5, 1.5))
            victim.kill()
            victim.communicate()
            kills += 1
        statuses = []
        for one in lasting:
            said = one.communicate()[0].split()
            statuses.append(one.returncode)
            if said:
                counts[said[0]] = counts.get(said[0], 0) + int(said[1])
        write(path, 1, "embedded")  # whoever comes next removes what the killed ones left
        left = sorted(os.listdir(folder))
        read(path)
        faults = [*abandoned(folder), *(one for one in left if one != "m.sbs" and not one.endswith(".lock"))]
    print(f"{counts}, {kills} writers killed; left: {left}; statuses {statuses}")
    return 1 if any(statuses) or faults else 0


if __name__ == "__main__":
    sys.exit(main())
