"""Types of arguments and results, for the signatures of all folders."""

from __future__ import annotations

from collections.abc import Callable
from mmap import mmap
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from os import PathLike

Access = Literal["auto", "mmap", "read"]
Prefetch = Literal["none", "all", "sequential", "random"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview | mmap | npt.NDArray[np.generic]
Progress = Callable[[int], None]  # told how many bytes more are done


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
