"""What is read by copying, and is no file on disk: what such sources have in common."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from blobstore.errors import UsageError
from blobstore.fileio.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from blobstore.fileio.types import ReadInto


class CopiedSource(Closing):
    """Bytes without a descriptor, of which a view is a copy."""

    what: ClassVar[str]  # it is, in errors
    path: str
    writable: bool
    whole: memoryview | None = None

    def reading(self) -> AbstractContextManager[ReadInto]:
        """Return a `read_into` for a ``with`` block, which works to its end even if this is closed meanwhile."""
        raise NotImplementedError

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return a copy of these bytes; errors as `read_into`."""
        data = np.empty(nbytes, dtype=np.uint8).data
        self.read_into(data, offset)
        return data if self.writable else data.toreadonly()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on.

        Raises:
            TruncatedError: ``short-read`` when there are too few.
            UsageError: ``closed``.
            FormatError, RemoteError, OSError: They can't be read.
        """
        with self.reading() as read:
            read(buffer, offset)

    def fileno(self) -> int:
        """Raise `UsageError`, ``no-descriptor``."""
        raise UsageError("no-descriptor", f"{self.path} {self.what}: it has no descriptor")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Yield None, as there is no descriptor."""
        yield None


class CountedSource(CopiedSource):
    """One that is let go of when it is closed, or when the last one who reads is done."""

    def __init__(self) -> None:
        """Begin without readers."""
        self._lock = threading.Lock()  # of these two, and of what the class guards with it
        self._readers = 0
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[ReadInto]:
        """Yield a `read_into` that works until the ``with`` block ends, even if this is closed meanwhile.

        Raises:
            UsageError: ``closed``.
        """
        with self._lock:
            if self._closed:
                raise UsageError("closed", "this file was closed")
            self._readers += 1
        try:
            yield self._read
        finally:
            with self._lock:
                self._readers -= 1
            self._end()

    def close(self) -> None:
        """Let go of it, now or when the last one who reads is done; views stay valid."""
        with self._lock:
            self._closed = True
        self._end()

    def _end(self) -> None:
        with self._lock:
            ended = self._closed and not self._readers
        if ended:
            self._let_go()

    def _read(self, buffer: memoryview, offset: int) -> None:
        raise NotImplementedError

    def _let_go(self) -> None:
        """Let go of what is held; called once more if it is closed once more."""
        raise NotImplementedError
