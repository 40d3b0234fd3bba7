"""Files that lie one after another, as the bytes of one: each is opened when it is first read."""

from __future__ import annotations

import threading
from bisect import bisect_right
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import UsageError
from blobstore.fileio.closing import Closing
from blobstore.fileio.file_systems import stat_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from blobstore.fileio.types import ByteSource, ReadInto, SourceAccess

    Open = Callable[[int], ByteSource]  # the number of a file → the file


class SetSource(Closing):
    """Some files as one. A view inside one of them is that file's own; nothing is read before it is asked for."""

    has_path = True
    in_memory = False

    def __init__(
        self, own: ByteSource, paths: Sequence[str], sizes: Sequence[int], open_file: Open, *, writable: bool = False
    ) -> None:
        """Put files together.

        Args:
            own: The file that lists them, open; this takes it over.
            paths: Of the files.
            sizes: Of each, in bytes.
            open_file: Opens one of them, and checks it. It is called once for each, whatever the threads.
            writable: Whether views can be written to.
        """
        self.path = own.path
        self.access: SourceAccess = own.access
        self.writable = writable
        self.size = sum(sizes)
        self._own = own
        self._paths = paths
        self._starts = [0, *accumulate(sizes)]
        self._open_file = open_file
        self._files: dict[int, ByteSource] = {}
        self._opening = threading.Lock()
        self._closed = False

    def place(self, offset: int) -> tuple[int, int]:
        """Return which file an offset is in, and where there."""
        number = min(bisect_right(self._starts, offset) - 1, len(self._paths) - 1)
        return number, offset - self._starts[number]

    def file(self, number: int) -> ByteSource:
        """Return one of the files, open and checked.

        Raises:
            UsageError: ``closed``.
            FormatError, TruncatedError, OSError: As the function that opens it.
        """
        found = self._files.get(number)
        if found is not None and not self._closed:
            return found
        with self._opening:
            if self._closed:
                raise UsageError("closed", "this file was closed")
            if number not in self._files:
                self._files[number] = self._open_file(number)
            return self._files[number]

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return these bytes: a view as the file makes it, or a copy if they are in several.

        Raises:
            TruncatedError: ``short-read``: a file has shrunk since it was opened.
            FormatError, UsageError, OSError: As `file`.
        """
        number, start = self.place(offset)
        if offset + nbytes <= self._starts[number + 1]:
            return self.file(number).view(start, nbytes)
        data = np.empty(nbytes, dtype=np.uint8).data
        self.read_into(data, offset)
        return data if self.writable else data.toreadonly()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with bytes from ``offset`` on.

        Raises:
            TruncatedError, FormatError, UsageError, OSError: As `view`.
        """
        with self.reading() as read:
            read(buffer, offset)

    @contextmanager
    def reading(self) -> Iterator[ReadInto]:
        """Yield a `read_into` that works until the ``with`` block ends, even if this is closed meanwhile.

        Raises:
            UsageError: ``closed``.
        """
        if self._closed:
            raise UsageError("closed", "this file was closed")
        readers: dict[int, ReadInto] = {}
        guard = threading.Lock()
        with ExitStack() as stack:

            def reader(number: int) -> ReadInto:
                with guard:
                    if number not in readers:
                        readers[number] = stack.enter_context(self.file(number).reading())
                    return readers[number]

            def read(buffer: memoryview, offset: int) -> None:
                done = 0
                while done < len(buffer):
                    number, start = self.place(offset + done)
                    count = min(len(buffer) - done, self._starts[number + 1] - self._starts[number] - start)
                    reader(number)(buffer[done : done + count], start)
                    done += count

            yield read

    def is_at(self, path: str | PathLike[str]) -> bool:
        """Whether a path names the file that lists the others, or one of them."""
        if self._own.is_at(path):
            return True
        status = stat_of(path)
        others = (stat_of(other) for other in self._paths) if status else ()
        return any(
            other and (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino) for other in others if status
        )

    @property
    def device(self) -> int | None:
        """The device of the file system of the file that lists the others."""
        return self._own.device

    def fileno(self) -> int:
        """Raise `UsageError`, ``no-descriptor``."""
        raise UsageError("no-descriptor", f"{self.path!r} is a set of files: it has no descriptor of its own")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Yield None: there is no single descriptor."""
        yield None

    def close(self) -> None:
        """Let go of all files; views stay valid."""
        with self._opening:
            self._closed = True
            files = [self._own, *self._files.values()]
        for file in files:
            file.close()
