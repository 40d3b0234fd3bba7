"""Read files under a limit of memory and time: a program of its own, for test_limits.

python -m tests.limited BASE FACTOR SECONDS

Each line of the input is a way of reading, a tab and a path; each line of the output is what came of it: ``read``, the
reason of the `BlobStoreError`, or ``!`` and the name of another exception. Each file is read in a fork, which may take
BASE bytes and FACTOR times the file's size more than it was born with.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import warnings
from typing import TYPE_CHECKING

import blobstore
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.exporting.plan import plan_export
from blobstore.gemma.config import ModelConfig  # noqa: F401 (not for the first time under the limit)
from blobstore.packing.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.fileio.types import Access

MOST = 500  # of many equal tensors so many are read


def read_store(path: str) -> None:
    """Open a store in both ways and read what it says of its tensors; of the tensors themselves what is small."""
    accesses: tuple[Access, ...] = ("mmap", "read")
    for access in accesses:
        with blobstore.open(path, access=access) as store:
            assert store.metadata is not None
            assert store.tokenizer is None or store.config is not None or len(store)
            for place, (name, info) in enumerate(zip(store, store.infos(), strict=True)):
                assert info.nbytes <= store.reader.file_size
                if place < MOST and info.dtype is not None and info.element_nbytes < 1 << 16:
                    assert store[name].shape == info.shape
            assert store.config is None or store.config.model_dim >= 0
            assert sum(math.prod(one.shape) for shard in plan_export(store).shards for one in shard) >= 0


def read_first(path: str) -> None:
    """Open a store with plain reads, and read the first byte of its first blob."""
    with blobstore.open(path, access="read") as store:
        assert store.load(next(iter(store)), rows=slice(0, 1)).shape == (1,)


def read_unpacked(path: str) -> None:
    """Unpack a packed file; threads would reserve more than they take."""
    unpack(path, f"{path}.unpacked", workers=1)


def read_checkpoint(path: str) -> None:
    """Open a checkpoint."""
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.nbytes >= 0


WAYS: dict[str, Callable[[str], None]] = {
    "store": read_store,
    "first": read_first,
    "unpack": read_unpacked,
    "checkpoint": read_checkpoint,
}


def address_space() -> int:
    """Bytes that the process has reserved."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def read_limited(way: str, path: str, base: int, factor: int, seconds: int) -> str:
    """Take on the limits, read a file, and return what came of it."""
    most = address_space() + base + factor * os.path.getsize(path)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    warnings.simplefilter("error")
    try:
        WAYS[way](path)
    except blobstore.BlobStoreError as error:
        return error.reason
    except Exception as error:  # noqa: BLE001 (whatever it is, the test is to name it)
        return f"!{type(error).__name__}"
    return "read"


def main() -> None:
    """Read all files of the input."""
    warnings.simplefilter("ignore")  # of a fork beside numpy's threads, which do nothing here
    limits = [int(one) for one in sys.argv[1:]]
    for line in sys.stdin.read().splitlines():
        child = os.fork()
        if not child:
            way, path = line.split("\t")
            os.write(1, f"{read_limited(way, path, *limits)}\n".encode())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            os.write(1, f"!signal-{os.WTERMSIG(status)}\n".encode())


if __name__ == "__main__":
    main()
