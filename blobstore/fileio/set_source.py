"""Files that lie one after another, as the bytes of one: each is opened when it is first read."""

from __future__ import annotations

import threading
from bisect import bisect_right
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING

from blobstore.errors import UsageError
from blobstore.fileio.copied import CountedSource
from blobstore.fileio.file_systems import stat_of
from blobstore.fileio.remote import RemoteSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from os import PathLike

    from blobstore.fileio.types import ByteSource, SourceAccess

    Open = Callable[[int], ByteSource]  # the number of a file → the file


_MOST_OPEN = 100  # files: each map takes a descriptor, and a process may have as few as 256
_MOST_ELSEWHERE = 16  # each holds its end, a MiB


class SetSource(CountedSource):
    """Some files as one. A view inside one of them is that file's own; nothing is read before it is asked for.

    A limited number of them stays open, besides those that views and ranges need. Any other is opened, and checked,
    again when it is read again.
    """

    what = "is a set of files"
    in_memory = False

    def __init__(
        self, own: ByteSource, paths: Sequence[str], sizes: Sequence[int], open_file: Open, *, writable: bool = False
    ) -> None:
        """Put files together.

        Args:
            own: The file that lists them, open; this takes it over.
            paths: Of the files.
            sizes: Of each, in bytes.
            open_file: Opens one of them, and checks it. No two threads open the same file at once.
            writable: Whether views can be written to.
        """
        super().__init__()
        self.path: str = own.path
        self.has_path: bool = own.has_path
        self.url: str = own.url if isinstance(own, RemoteSource) else ""
        self.access: SourceAccess = own.access
        self.writable = writable
        self.size: int = sum(sizes)
        self._own = own
        self._paths = paths
        self._starts = [0, *accumulate(sizes)]
        self._open_file = open_file
        # All below belongs to the lock.
        self._files: dict[int, ByteSource] = {}
        self._opening: dict[int, threading.Lock] = {}
        self._ahead: tuple[dict[int, list[tuple[int, int]]], ExitStack] | None = None

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
        if self._closed:
            raise UsageError("closed", "this file was closed")
        return self._file(number)

    def _file(self, number: int) -> ByteSource:
        file = self._files.get(number)
        if file is not None:
            self._read_ahead(number, file)
            return file
        with self._lock:
            opening = self._opening.setdefault(number, threading.Lock())
        with opening:
            file = self._files.get(number)
            if file is None:
                file = self._open_file(number)
                with self._lock:
                    if self._closed and not self._readers:
                        file.close()
                        raise UsageError("closed", "this file was closed")
                    most = _MOST_ELSEWHERE if self.url else _MOST_OPEN
                    while len(self._files) >= most:  # let go of, not closed: a range may need it
                        del self._files[next(iter(self._files))]
                    self._files[number] = file
        self._read_ahead(number, file)
        return file

    @contextmanager
    def reading_ahead(self, ranges: Iterable[tuple[int, int]]) -> Iterator[None]:
        """As `RemoteSource.reading_ahead`: of each file when it is first read, so that few files are fetched at once.

        Args:
            ranges: (offset, nbytes) of each.
        """
        if not self.url:
            yield
            return
        planned: dict[int, list[tuple[int, int]]] = {}
        for offset, nbytes in ranges:
            number, start = self.place(offset)
            planned.setdefault(number, []).append((start, nbytes))
        with ExitStack() as stack:
            with self._lock:
                is_ours = self._ahead is None  # the first one who announces knows most
                if is_ours:
                    self._ahead = (planned, stack)
            try:
                yield
            finally:
                if is_ours:
                    with self._lock:
                        self._ahead = None

    def _read_ahead(self, number: int, file: ByteSource) -> None:
        """Begin to fetch what was announced of a file, unless that was begun."""
        if self._ahead is None:
            return
        with self._lock:
            if self._ahead is not None and isinstance(file, RemoteSource):
                planned, stack = self._ahead
                if number in planned:
                    stack.enter_context(file.reading_ahead(planned.pop(number)))

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return these bytes: a view as the file makes it, or a copy if they are in several.

        Raises:
            TruncatedError: ``short-read``: a file has shrunk since it was opened.
            FormatError, UsageError, OSError: As `file`.
        """
        number, start = self.place(offset)
        if nbytes and offset + nbytes <= self._starts[number + 1]:  # no file is opened for nothing
            return self.file(number).view(start, nbytes)
        return super().view(offset, nbytes)

    def _read(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            number, start = self.place(offset + done)
            count = min(len(buffer) - done, self._starts[number + 1] - self._starts[number] - start)
            self._file(number).read_into(buffer[done : done + count], start)
            done += count

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

    def _let_go(self) -> None:
        with self._lock:
            files = [self._own, *self._files.values()]
            self._files.clear()
        for file in files:
            file.close()
