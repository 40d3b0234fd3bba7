"""A file elsewhere that is mostly read from front to back: fetched in blocks ahead of the reader, each byte once."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blobstore.errors import TruncatedError, UsageError, in_file
from blobstore.fileio import plain_files
from blobstore.fileio.blocks import Blocks
from blobstore.fileio.copied import CopiedSource
from blobstore.fileio.remote_object import RemoteObject
from blobstore.fileio.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    from blobstore.fileio.blocks import Block
    from blobstore.fileio.types import ByteSource, ReadInto, SourceAccess

_BLOCK_NBYTES = 8 << 20
_AHEAD = 4  # blocks that are fetched at once
_KEPT_NBYTES = 64 << 20  # of all blocks, with those that are being fetched
_MANY = 3  # tensors that are read one after another: the next will be wanted, too
_HEAD_NBYTES = 256 << 10  # what the first request brings: most headers are shorter


class StreamedSource(CopiedSource):
    """A file elsewhere, read by any threads in any order, but fast where reads follow each other. Views are copies.

    Blocks are fetched ahead up to the end of the tensor that is being read, and beyond it where its beginning was
    reached by reading, too. At most 64 MiB are held.
    """

    what = "lies elsewhere"
    has_path = False
    in_memory = False
    device = None
    access: SourceAccess = "read"

    def __init__(self, url: str, *, writable: bool = False) -> None:
        """Look at the file, and fetch nothing.

        Args:
            url: Of the file.
            writable: Whether views can be written to.

        Raises:
            MissingExtraError, UsageError, RemoteError, OSError: It can't be reached.
            UsageError: ``not-a-file``; ``needs-size``: the server doesn't say how large it is.
        """
        self._object = RemoteObject(url, recheck=False)
        self._url = url
        self.path: str = self._object.path
        self.size: int = self._object.size
        self.writable = writable
        self._ends: list[int] = []
        self._begun: list[int] = []  # where tensors begin that were read, or are being read; ascending
        self._blocks = Blocks(_AHEAD + 1, _KEPT_NBYTES)
        self._lock = threading.RLock()
        self._closed = False
        self._last: Block | None = None  # the newest block that was read to its end

    def tell_ranges(self, ends: Iterable[int]) -> None:
        """Tell where tensors end: reading one doesn't mean that the next one is wanted."""
        self._ends = sorted(ends)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the file's bytes from ``offset`` on.

        Raises:
            TruncatedError, UsageError, RemoteError, OSError: As `view`.
        """
        if offset + len(buffer) > self.size:
            what = f"the file ends at {self.size}, {offset + len(buffer) - self.size} bytes too early"
            raise TruncatedError("short-read", what, self.size)
        done = 0
        with in_file(self.path):
            while done < len(buffer):
                block = self._block_at(offset + done, len(buffer) - done)
                done += self._copy(block, buffer[done:], offset + done)

    @contextmanager
    def reading(self) -> Iterator[ReadInto]:
        """Yield `read_into`."""
        yield self.read_into

    def is_at(self, path: str | PathLike[str]) -> bool:
        """Whether a path is its URL, and still has this file."""
        return path == self._url and self._object.is_unchanged()

    def close(self) -> None:
        """Let go of the file, and of what was fetched."""
        with self._lock:
            self._closed = True
            self._blocks.close()

    def _block_at(self, offset: int, nbytes: int) -> Block:
        """Return the block that has a byte, and begin to fetch what may be read after it."""
        with self._lock:
            if self._closed:
                raise UsageError("closed", "this file was closed")
            self._note_begun(offset)
            block = self._blocks.at(offset)
            if block is None:
                block = self._unannounced(offset, nbytes)
            self._blocks.use(block)
            self._fetch_ahead(block)
            return block

    def _unannounced(self, offset: int, nbytes: int) -> Block:
        """Begin to fetch bytes that were not fetched ahead."""
        if not self._ends and not offset:
            return self._new_block(offset, max(nbytes, _HEAD_NBYTES))
        last, place = self._last, bisect_right(self._ends, offset)
        at_an_end = place > 0 and self._ends[place - 1] == offset
        crossed = last.crossed + at_an_end if last is not None and last.end == offset else 0
        end = min(offset + _BLOCK_NBYTES, self._limit(offset, crossed))
        return self._new_block(offset, max(end, offset + min(nbytes, _BLOCK_NBYTES)), crossed)

    def _limit(self, offset: int, crossed: int) -> int:
        """Return up to where bytes behind an offset may be fetched unasked: not what was read already."""
        if crossed >= _MANY:
            place = bisect_right(self._begun, offset)
            return self._begun[place] if place < len(self._begun) else self.size
        place = bisect_right(self._ends, offset)
        return self._ends[place] if place < len(self._ends) else offset

    def _note_begun(self, offset: int) -> None:
        """Note that a tensor is being read from its beginning; the second time, all are read once more."""
        place = bisect_right(self._ends, offset)
        if not self._ends or (place and self._ends[place - 1] != offset):
            return
        at = bisect_right(self._begun, offset)
        if at and self._begun[at - 1] == offset:
            self._begun = [offset]
        else:
            self._begun.insert(at, offset)

    def _fetch_ahead(self, block: Block) -> None:
        limit = self._limit(block.start, block.crossed)
        end = block.end
        while True:  # what was fetched after it already
            following = next((one for one in self._blocks if one.start == end and one is not block), None)
            if following is None:
                break
            end = following.end
        for _ in range(_AHEAD):
            ahead = end - block.end
            if end >= limit or self._blocks.waiting >= _AHEAD or ahead >= _AHEAD * _BLOCK_NBYTES:
                return
            end = self._new_block(end, min(end + _BLOCK_NBYTES, limit), block.crossed).end

    def _new_block(self, start: int, end: int, crossed: int = 0) -> Block:
        """Begin to fetch a block, up to one that is there already; forget old ones to make room."""
        end = min([self.size, end, *(one.start for one in self._blocks if one.start > start)])
        return self._blocks.begin(self._object.fetch, start, end, end - start, crossed=crossed)

    def _copy(self, block: Block, buffer: memoryview, offset: int) -> int:
        """Copy what a block has of the wanted bytes → how many; forget a block that was read to its end."""
        try:
            data = block.future.result()
        except BaseException:
            with self._lock:  # whoever reads it next tries again
                self._blocks.forget(block)
            raise
        at = offset - block.start
        piece = memoryview(data)[at : at + len(buffer)]
        buffer[: len(piece)] = piece
        with self._lock:
            block.unread -= len(piece)
            if offset + len(piece) == block.end:
                self._last = block
                if block.unread <= 0 and block.start:
                    self._blocks.forget(block)
        return len(piece)

    def check_unchanged(self) -> None:
        """Refuse a file that is another one than when it was opened, by a listing if there is one: forget it before.

        Raises:
            RemoteError: ``remote-changed``, ``remote-missing``.
        """
        self._object.check_unchanged()


def open_one_of_many(path: str | PathLike[str]) -> ByteSource:
    """Open a file for plain reads, here or elsewhere; of those here few keep a descriptor.

    Raises:
        UsageError, MissingExtraError, RemoteError, OSError: As `StreamedSource` and `plain_files.open_one_of_many`.
    """
    return StreamedSource(os.fspath(path)) if is_url(path) else plain_files.open_one_of_many(path)


def tell_ranges(source: ByteSource, ends: Iterable[int]) -> None:
    """Tell a file where its tensors end, if it lies elsewhere."""
    if isinstance(source, StreamedSource):
        source.tell_ranges(ends)
