"""Types of arguments and results, for signatures in all folders."""

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
Progress = Callable[[int], None]  # called with how many more bytes are done


class ByteSource(Protocol):
    """The bytes of one open file, which is never changed.

    Attributes:
        path: Of the file.
        size: In bytes, when it was opened.
        access: How views are made: ``mmap`` or ``read``.
        writable: Whether views can be written to; changes stay in this process.
    """

    path: str
    size: int
    access: Access
    writable: bool

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return bytes, which must lie inside the file; they stay valid as long as the view lives."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the file's bytes from ``offset`` on."""

    def is_at(self, path: str | PathLike[str]) -> bool:
        """Whether a path names this very file."""

    @property
    def device(self) -> int:
        """The device of its file system, ``st_dev``."""

    def fileno(self) -> int:
        """Return the open file's descriptor. Another thread's `close` makes it invalid: see `held`."""

    def held(self) -> AbstractContextManager[int]:
        """Return the descriptor for a ``with`` block, during which no other thread's `close` frees it."""

    def close(self) -> None:
        """Let go of the file, now or when nobody holds it any more. Views stay valid."""
