"""A file's contents that are in memory already, read like a file."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import TruncatedError, UsageError
from blobstore.fileio.copied import CopiedSource
from blobstore.fileio.ranges import flat_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from blobstore.fileio.types import Buffer, ReadInto, SourceAccess


class MemorySource(CopiedSource):
    """A file's contents in memory. Views are the given bytes themselves, read-only; or copies, if they are to be."""

    what = "is in memory"
    has_path = False
    in_memory = True
    device = None

    def __init__(self, data: Buffer, *, path: str, copies: bool = False, writable: bool = False) -> None:
        """View the contents, which must not change.

        Args:
            data: The contents.
            path: What errors call them.
            copies: Whether each view is a copy.
            writable: Whether views can be written to; they are copies then.

        Raises:
            UsageError: ``not-bytes``, ``not-contiguous``.
        """
        self.path = path
        self.writable = writable
        self.access: SourceAccess = "read" if copies or writable else "memory"
        self._data: memoryview | None = flat_bytes(data).toreadonly()
        self.whole = self._data if self.access == "memory" else None
        self.size: int = len(self._data)

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return these bytes.

        Raises:
            UsageError: ``closed``.
        """
        if self.access == "memory":
            return self._contents()[offset : offset + nbytes]
        return super().view(offset, nbytes)

    @contextmanager
    def reading(self) -> Iterator[ReadInto]:
        """Yield a `read_into` that works until the ``with`` block ends, even if this is closed meanwhile.

        Raises:
            UsageError: ``closed``.
        """
        data = self._contents()
        yield lambda buffer, offset: _copy(data, buffer, offset)

    def is_at(self, path: str | PathLike[str]) -> bool:  # noqa: ARG002 (as for files)
        """Return False: no path names it."""
        return False

    def close(self) -> None:
        """Let go of the contents; views stay valid."""
        self._data = self.whole = None

    def _contents(self) -> memoryview:
        data = self._data
        if data is None:
            raise UsageError("closed", "this file was closed")
        return data


def _copy(data: memoryview, buffer: memoryview, offset: int) -> None:
    part = data[offset : offset + len(buffer)]
    if len(part) < len(buffer):
        missing = len(buffer) - len(part)
        raise TruncatedError("short-read", f"the contents end {missing} bytes too early", len(data))
    # Unlike an assignment to the buffer, numpy lets other threads run meanwhile.
    np.copyto(np.frombuffer(buffer, np.uint8), np.frombuffer(part, np.uint8))
