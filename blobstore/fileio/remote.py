"""A file elsewhere that is read here and there: its end is fetched when it is opened, the rest when asked for."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import FormatError, TruncatedError, in_file
from blobstore.fileio.blocks import Blocks
from blobstore.fileio.copied import CountedSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    import numpy.typing as npt

    from blobstore.fileio.blocks import Block
    from blobstore.fileio.remote_object import RemoteObject
    from blobstore.fileio.types import SourceAccess

_TAIL_NBYTES = 1 << 20  # fetched when a file is opened: most directories and indexes are shorter
_GAP_NBYTES = 1 << 20  # between two ranges that one request brings
_BLOCK_NBYTES = 8 << 20  # of what is fetched ahead
_AT_ONCE = 8
_KEPT_NBYTES = 40 << 20  # of blocks that are fetched ahead; readers that want others make it 64 MiB
_MANY = 3  # blobs, one after another: the next will be wanted, too
_PADDING = 256  # between blobs, which nobody reads


@dataclass(frozen=True)
class _Planned:
    """Bytes to fetch, of which some are wanted."""

    start: int
    end: int
    wanted: int


class RemoteSource(CountedSource):
    """A file elsewhere, read by any threads. Views are copies.

    What is read alone is one request. Reads that follow each other are fetched ahead of the reader, about as much as it
    has read so far; so is what is announced by `reading_ahead`. Of both at most 64 MiB are held.
    """

    what = "lies elsewhere"
    has_path = False
    in_memory = False
    device = None
    access: SourceAccess = "read"

    def __init__(self, remote: RemoteObject, *, writable: bool = False) -> None:
        """Fetch the end of an object.

        Args:
            remote: The object.
            writable: Whether views can be written to.

        Raises:
            RemoteError, OSError: It can't be fetched.
        """
        super().__init__()
        self.path: str = remote.path
        self.url: str = remote.url
        self.size: int = remote.size
        self.writable = writable
        self._remote = remote
        self._tail_start = max(0, remote.size - _TAIL_NBYTES)
        self._tail: bytes | bytearray = remote.fetch(self._tail_start, remote.size) if remote.size else b""
        self._beginning = b""
        self._starts: npt.NDArray[np.int64] = np.empty(0, np.int64)
        # All below belongs to the lock.
        self._blocks = Blocks(_AT_ONCE, _KEPT_NBYTES)
        self._plan: deque[_Planned] = deque()
        self._announced = False
        self._read_to = -1
        self._ahead = 0  # bytes to fetch beyond a reader that goes on
        self._passed = 0  # blobs that such a reader went into
        self._limit = 0  # not to fetch beyond

    def expect(self, beginning: bytes) -> None:
        """Tell how the file has to begin, which is compared once something near its beginning is fetched.

        Raises:
            FormatError: ``bad-magic``, ``bad-placeholder``: that was fetched already.
        """
        if self._tail_start:
            self._beginning = beginning
        else:
            self._check_beginning(self._tail, beginning)

    def tell_blobs(self, starts: npt.NDArray[np.int64]) -> None:
        """Tell where blobs begin, shape (count,), ascending: who reads one may not want the next."""
        self._starts = starts

    def _check_beginning(self, data: bytes | bytearray, expected: bytes) -> None:
        if not data.startswith(expected):
            found = data[: len(expected)].hex(" ")
            what = f"the file's end is one of a file that begins with {expected.hex(' ')}, it begins with {found}"
            raise FormatError("bad-magic" if data[:4] != expected[:4] else "bad-placeholder", what, 0)

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return a copy of these bytes.

        Raises:
            TruncatedError: ``short-read``.
            UsageError: ``closed``.
            RemoteError, OSError: They can't be fetched; ``remote-changed``: the file is another one now.
        """
        with self.reading():
            if not self.writable and offset + nbytes <= self.size and nbytes:
                with in_file(self.path):
                    data, start = self._piece(offset, nbytes)
                if len(data) - start >= nbytes:
                    self._was_read(offset, nbytes)
                    piece = memoryview(data).toreadonly()[start : start + nbytes]
                    return piece if 2 * nbytes > len(data) else memoryview(bytes(piece))  # it keeps no more alive
            buffer = np.empty(nbytes, dtype=np.uint8).data
            self._read(buffer, offset)
        return buffer if self.writable else buffer.toreadonly()

    @contextmanager
    def reading_ahead(self, ranges: Iterable[tuple[int, int]]) -> Iterator[None]:
        """Fetch ranges ahead of their readers, in this order, near ones together, until the ``with`` block ends.

        Args:
            ranges: (offset, nbytes) of each.
        """
        plan = _plan(ranges, self._tail_start)
        with self._lock:
            is_ours = bool(plan) and not self._announced  # the first one who announces knows most
            if is_ours:
                self._plan, self._announced = plan, True
                self._fetch_ahead()
        try:
            yield
        finally:
            if is_ours:
                with self._lock:
                    self._plan.clear()
                    self._announced = False
                    self._blocks.clear()

    def _read(self, buffer: memoryview, offset: int) -> None:
        if offset + len(buffer) > self.size:
            what = f"the file ends at {self.size}, {offset + len(buffer) - self.size} bytes too early"
            raise TruncatedError("short-read", what, self.size)
        done = 0
        with in_file(self.path):
            while done < len(buffer):
                data, start = self._piece(offset + done, len(buffer) - done)
                piece = memoryview(data)[start : start + len(buffer) - done]
                buffer[done : done + len(piece)] = piece
                self._was_read(offset + done, len(piece))
                done += len(piece)

    def _piece(self, offset: int, nbytes: int) -> tuple[bytes | bytearray, int]:
        """Return bytes that were fetched, and where in them the one at an offset is."""
        if offset >= self._tail_start:
            return self._tail, offset - self._tail_start
        with self._lock:
            block = self._blocks.at(offset)
            if block is None:
                block = self._unannounced(offset, min(nbytes, self._tail_start - offset))
        try:
            return block.future.result(), offset - block.start
        except BaseException:
            with self._lock:
                self._blocks.forget(block)  # whoever reads it next tries again
            raise

    def _was_read(self, offset: int, nbytes: int) -> None:
        """Count bytes as read; forget a block that was read to its end, and fetch the next ones."""
        with self._lock:
            self._read_to = offset + nbytes
            block = self._blocks.at(offset)
            if block is not None:
                block.unread -= nbytes
                if block.unread <= 0:
                    self._blocks.forget(block)
            self._fetch_ahead()

    def _unannounced(self, offset: int, nbytes: int) -> Block:
        """Begin to fetch bytes that are neither there nor on their way."""
        planned = next((one for one in self._plan if one.start <= offset < one.end), None)
        if planned is not None:
            self._plan.remove(planned)
            return self._begin(planned)
        block = self._begin(_Planned(offset, offset + nbytes, nbytes))
        if not self._announced:
            goes_on = 0 <= offset - self._read_to < _PADDING and self._read_to >= 0
            self._ahead = min(max(2 * self._ahead, nbytes), _KEPT_NBYTES) if goes_on else 0
            end, begins = self._blob_at(offset)
            self._passed = self._passed + begins if goes_on else 0
            self._limit = self._tail_start if self._passed >= _MANY else min(end, self._tail_start)
            self._plan_on(block.end, block.end + self._ahead)
        self._fetch_ahead()
        return block

    def _plan_on(self, start: int, end: int) -> None:
        """Plan to fetch what a reader who goes on will read."""
        end = min(end, self._limit)
        self._plan = _plan([(start, end - start)] * (end - start > _PADDING), self._limit, unread=_PADDING)

    def _blob_at(self, offset: int) -> tuple[int, bool]:
        """Return where the next blob begins, and whether one begins at an offset."""
        place = int(np.searchsorted(self._starts, offset, "right"))
        end = int(self._starts[place]) if place < len(self._starts) else self.size
        return end, place > 0 and offset - int(self._starts[place - 1]) < _PADDING

    def _fetch_ahead(self) -> None:
        """Begin to fetch what is planned, as far as there is space."""
        if not self._plan and not self._announced and self._ahead and self._blocks:
            end = max(block.end for block in self._blocks)
            if 0 < end - self._read_to < self._ahead:  # the reader has come halfway
                self._ahead = min(2 * self._ahead, _KEPT_NBYTES)
                self._plan_on(end, self._read_to + self._ahead)
        while self._plan:
            held, first = self._blocks.nbytes, self._plan[0]
            if self._blocks.waiting >= _AT_ONCE or (held and held + first.end - first.start > _KEPT_NBYTES):
                return
            self._begin(self._plan.popleft())

    def _begin(self, planned: _Planned) -> Block:
        """Begin to fetch; forget what was fetched and wasn't read where there is no space for both."""
        # What is near the beginning is fetched with it, which is to be compared.
        start = 0 if self._beginning and planned.start <= _PADDING else planned.start
        return self._blocks.begin(self._fetch, start, planned.end, planned.wanted)

    def _fetch(self, start: int, end: int) -> bytes | bytearray:
        data = self._remote.fetch(start, end)
        if not start and self._beginning:
            self._check_beginning(data, self._beginning)
        return data

    def is_at(self, path: str | PathLike[str]) -> bool:
        """Whether a path is its URL, and still has this file."""
        return bool(self.url) and path == self.url and self._remote.is_unchanged()

    def _let_go(self) -> None:
        with self._lock:
            self._plan.clear()
            self._blocks.close()


def _plan(ranges: Iterable[tuple[int, int]], limit: int, *, unread: int = 0) -> deque[_Planned]:
    """Return what to fetch of (offset, nbytes) ranges, up to a limit: near ones together, in blocks.

    ``unread`` bytes of each range won't be read.
    """
    plan: deque[_Planned] = deque()
    for offset, nbytes in ranges:
        start, end = offset, min(offset + nbytes, limit)
        wanted = max(end - start - unread, 1)
        last = plan[-1] if plan else None
        if last and last.start <= start <= last.end + _GAP_NBYTES and last.end - last.start < _BLOCK_NBYTES:
            if end <= last.end:
                plan[-1] = _Planned(last.start, last.end, last.wanted + wanted)
                continue
            stop = min(max(end, last.end), last.start + _BLOCK_NBYTES)
            more = min(stop - start, wanted) if stop > start else 0
            plan[-1] = _Planned(last.start, max(stop, last.end), last.wanted + max(more, 0))
            start, wanted = max(start, stop), wanted - max(more, 0)
        for at in range(start, end, _BLOCK_NBYTES):
            stop = min(at + _BLOCK_NBYTES, end)
            plan.append(_Planned(at, stop, min(wanted, stop - at)))
            wanted -= stop - at
    return plan
