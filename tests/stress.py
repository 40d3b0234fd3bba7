"""Writers, editors and readers of the same file, for minutes, while some of them are killed: ``make stress``.

A script. Each version of the file encodes one number in its names and in its data, and all have equal directories, so
the index of one would fit any other. The script fails if a reader sees the data of one version with the names of
another, or anything but the whole file, ``index-stale`` and ``replaced``.
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
from blobstore.edit.reindex import attach_index, build_index, detach_index
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import BlobStoreError
from blobstore.fileio.temporary import abandoned

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.index.locate import IndexPlace

PLACES: tuple[IndexPlace, ...] = ("external", "embedded", "none")
VARIANTS = 4  # of names and types


def write(path: Path, number: int, index: IndexPlace) -> None:
    """Write a file that encodes a number."""
    dtypes = (np.int32, np.float32, np.uint32, np.int32)
    with blobstore.create(path, index=index) as store:
        for key in ("a", "b"):
            values = np.full(30_000, number, dtypes[number % VARIANTS])
            if index == "none":
                store.add_blob(f"{key}{number % VARIANTS}", values)
            else:
                store.add(f"{key}{number % VARIANTS}", values)


def read(path: Path) -> None:
    """Read a file.

    Raises:
        ValueError: It is a mixture.
    """
    with blobstore.open(path, access=random.choice(("read", "mmap"))) as store:
        if store.index is None or any(info.dtype == np.uint8 for info in store.infos()):  # or an index of keys
            return
        numbers = {int(array[i]) for array in store.values() for i in (0, -1)} if random.random() < 0.5 else set()
        numbers |= {int(array[0]) for array in store.load_all().values()}
        names = {int(name[1:]) for name in store if name[0] in "ab"}
    if len(numbers) != 1 or names != {number % VARIANTS for number in numbers}:
        raise ValueError(f"{path} has the numbers {sorted(numbers)} under names of {sorted(names)}")


def write_any(path: Path) -> None:
    """Write any version of the file."""
    write(path, random.randrange(1 << 20), random.choice(PLACES))


def edit(path: Path) -> None:
    """Change a file in place."""
    edits: tuple[Callable[[Path], object], ...] = (
        attach_index,
        detach_index,
        lambda path: apply_edits(path, None, Edits(set_metadata={"time": str(time.time())})),
        lambda path: apply_edits(path, None, Edits(index="external")),
        lambda path: apply_edits(path, None, Edits(version=1)),
        lambda path: apply_edits(path, None, Edits(version=2, sort=True)),
        lambda path: build_index(path, digests=True),
    )
    random.choice(edits)(path)


ROLES: dict[str, Callable[[Path], None]] = {"write": write_any, "edit": edit, "read": read}
# Reasons that a process may get because of the others; none says that a file is damaged.
EXPECTED = {"index-stale", "replaced", "has-index", "no-index", "no-blobs"}


def work(role: str, path: Path, seconds: float) -> None:
    """Do one thing again and again, and print how often."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            ROLES[role](path)
        except BlobStoreError as error:
            if error.reason not in EXPECTED:
                raise
        count += 1
    print(role, count, flush=True)


def main() -> int:
    """Run everything; returns 1 if anything was wrong."""
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
        for process in lasting:
            output = process.communicate()[0].split()
            statuses.append(process.returncode)
            if output:
                counts[output[0]] = counts.get(output[0], 0) + int(output[1])
        write(path, 1, "embedded")  # the next writer removes what killed ones left
        left = sorted(os.listdir(folder))
        read(path)
        faults = [*abandoned(folder), *(name for name in left if name != "m.sbs" and not name.endswith(".lock"))]
    print(f"{counts}, {kills} writers killed; left: {left}; statuses {statuses}")
    return 1 if any(statuses) or faults else 0


if __name__ == "__main__":
    sys.exit(main())
