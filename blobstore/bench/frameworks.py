"""Files loaded as tensors of torch or jax, by ``load_file`` of each library, with every page used.

Some loads are lazy: their pages come from the file when they are first used. So both sides read a byte of each page.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
from dataclasses import dataclass
from importlib import util
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True)
class Loader:
    """A way to load a file.

    Attributes:
        framework: The module whose tensors it returns.
        module: The module whose ``load_file`` it is.
        format: ``blobstore`` or the peer whose files it reads.
        place: Tensor → the address and size of its values.
    """

    framework: str
    module: str
    format: str
    place: Callable[[Any], tuple[int, int]]

    @property
    def installed(self) -> bool:
        """Whether both are installed."""
        return all(util.find_spec(name.partition(".")[0]) is not None for name in (self.framework, self.module))


def _torch_place(tensor: Any) -> tuple[int, int]:  # noqa: ANN401 (torch's, an extra)
    return tensor.data_ptr(), tensor.nbytes


def _jax_place(array: Any) -> tuple[int, int]:  # noqa: ANN401 (jax's, an extra)
    return array.unsafe_buffer_pointer(), array.nbytes


LOADERS = {
    loader.module: loader
    for loader in (
        Loader("torch", "blobstore.torch", "blobstore", _torch_place),
        Loader("torch", "safetensors.torch", "safetensors", _torch_place),
        Loader("jax", "blobstore.jax", "blobstore", _jax_place),
        Loader("jax", "safetensors.flax", "safetensors", _jax_place),
    )
}


def work(name: str, path: str) -> Callable[[], object]:
    """Return the function to time: it loads a file on the CPU, touches every page, and returns the tensors.

    Args:
        name: Of one of `LOADERS`.
        path: A file of its format.
    """
    loader = LOADERS[name]
    load_file = importlib.import_module(loader.module).load_file

    def run() -> object:
        tensors = load_file(path)
        touch_pages(loader.place(tensor) for tensor in tensors.values())
        return tensors

    return run


def touch_pages(places: Iterable[tuple[int, int]]) -> int:
    """Read a byte of each page of some runs of this process's memory, each page once.

    Args:
        places: Address and size of each; they are joined into runs of pages first, so that thousands of small tensors
            cost little more than their pages.

    Returns:
        The number of pages.
    """
    runs = np.array([place for place in places if place[1]], np.int64).reshape(-1, 2)
    if not len(runs):
        return 0
    runs = runs[np.argsort(runs[:, 0])]
    first = runs[:, 0] // mmap.PAGESIZE
    last = np.maximum.accumulate((runs.sum(axis=1) - 1) // mmap.PAGESIZE)
    begins = np.flatnonzero(np.concatenate([[True], first[1:] > last[:-1] + 1]))
    ends = [*begins[1:] - 1, len(runs) - 1]
    pages = 0
    for begin, count in zip(first[begins].tolist(), (last[ends] - first[begins] + 1).tolist(), strict=True):
        memory = (ctypes.c_ubyte * (count * mmap.PAGESIZE)).from_address(begin * mmap.PAGESIZE)
        np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE].max()
        pages += count
    return pages
