"""Types of arguments and results, for signatures in all folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from mmap import mmap
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Access = Literal["auto", "mmap", "read"]
SourceAccess = Literal["mmap", "read", "memory"]
Prefetch = Literal["none", "all", "sequential", "random"]

# As numpy.typing has them, without importing it: 0.4 ms.
Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]
Bytes = np.ndarray[tuple[Any, ...], np.dtype[np.uint8]]
Buffer = bytes | bytearray | memoryview | mmap | np.ndarray[tuple[Any, ...], np.dtype[np.generic]]
Progress = Callable[[int], None]  # called with how many more bytes are done
ReadInto = Callable[[memoryview, int], None]  # fills a buffer with bytes from an offset on


class BinaryFile(Protocol):
    """A binary file object that can seek, such as ``open(path, "rb")`` or `io.BytesIO`.

    Example:
        >>> import io
        >>> file: blobstore.BinaryFile = io.BytesIO(blobstore.save({"w": np.ones(3)}))
        >>> blobstore.open(file)["w"]
        array([1., 1., 1.])
    """

    def read(self, nbytes: int, /) -> bytes | None:
        """Return up to ``nbytes`` bytes from the position on, and move it."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move the position, and return it."""


FilePath = str | bytes | PathLike[str] | PathLike[bytes]
Paths = FilePath | Iterable[FilePath]
Readable = FilePath | Buffer | BinaryFile  # which bytes are a path: `source.open_source`
Writable = FilePath | BinaryIO


class ByteSource(Protocol):
    """The bytes of one open file, which is never changed.

    Attributes:
        path: Of the file; or what is read instead, such as ``<bytes>``.
        has_path: Whether ``path`` is a path.
        in_memory: Whether these are the contents themselves, not a file or a file object.
        size: In bytes, when it was opened.
        access: How views are made: ``mmap`` and ``memory`` without a copy, ``read`` by reading.
        writable: Whether views can be written to; changes stay in this process.
        whole: All bytes, where a view is no copy, until this is closed; else None.

    Example:
        >>> with blobstore.BlobReader("model.sbs") as reader:
        ...     source: blobstore.ByteSource = reader.file_range("layer.bias").file
        ...     source.path, source.size == reader.file_size
        ('model.sbs', True)
    """

    path: str
    has_path: bool
    in_memory: bool
    size: int
    access: SourceAccess
    writable: bool
    whole: memoryview | None

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return bytes, which must lie inside the file; they stay valid as long as the view lives."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the file's bytes from ``offset`` on."""

    def reading(self) -> AbstractContextManager[ReadInto]:
        """Return a `read_into` for a ``with`` block, which works to its end even if another thread closes the file."""

    def is_at(self, path: str | PathLike[str]) -> bool:
        """Whether a path names this very file."""

    @property
    def device(self) -> int | None:
        """The device of its file system, ``st_dev``; None for what is not a file on disk."""

    def fileno(self) -> int:
        """Return the open file's descriptor. Another thread's `close` makes it invalid: see `held`.

        Raises:
            UsageError: ``no-descriptor``: it is not a file on disk.
        """

    def held(self) -> AbstractContextManager[int | None]:
        """Return the descriptor, or None, for a ``with`` block, during which no other thread's `close` frees it."""

    def close(self) -> None:
        """Let go of the file, now or when nobody holds it any more. Views stay valid."""
