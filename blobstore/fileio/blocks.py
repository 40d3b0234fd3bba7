"""Blocks of a file elsewhere that were fetched, or are being fetched, and the threads that fetch them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    Fetched = bytes | bytearray


@dataclass(eq=False)
class Block:
    """Bytes from ``start`` to ``end``; ``unread`` of them are still wanted."""

    start: int
    end: int
    future: Future[Fetched]
    unread: int
    crossed: int = 0  # ends of tensors that were crossed by reading on and on, to reach it


class Blocks:
    """The blocks of one file, in the order of their last use. The owner lets one thread in at a time."""

    def __init__(self, at_once: int, kept_nbytes: int) -> None:
        """Begin without blocks.

        Args:
            at_once: How many are fetched at once, at most.
            kept_nbytes: Beyond this, blocks that were fetched are forgotten, the oldest first.
        """
        self._at_once, self._kept_nbytes = at_once, kept_nbytes
        self._blocks: list[Block] = []
        self._pool: Any = None

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def __bool__(self) -> bool:
        return bool(self._blocks)

    @property
    def nbytes(self) -> int:
        """Of all blocks."""
        return sum(block.end - block.start for block in self._blocks)

    @property
    def waiting(self) -> int:
        """How many are being fetched."""
        return sum(not block.future.done() for block in self._blocks)

    def at(self, offset: int) -> Block | None:
        """Return the block that has a byte."""
        return next((block for block in self._blocks if block.start <= offset < block.end), None)

    def begin(
        self, fetch: Callable[[int, int], Fetched], start: int, end: int, unread: int, *, crossed: int = 0
    ) -> Block:
        """Begin to fetch a block; forget old ones to make room."""
        held = self.nbytes
        for old in list(self._blocks):
            if held + end - start <= self._kept_nbytes:
                break
            if old.future.done():
                self._blocks.remove(old)
                held -= old.end - old.start
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (import blobstore stays cheap)

            self._pool = ThreadPoolExecutor(self._at_once, thread_name_prefix="blobstore-fetch")
        block = Block(start, end, self._pool.submit(fetch, start, end), unread, crossed)
        self._blocks.append(block)
        return block

    def use(self, block: Block) -> None:
        """Make a block the last that is forgotten."""
        self._blocks.remove(block)
        self._blocks.append(block)

    def forget(self, block: Block) -> None:
        """Forget a block, if it is still there."""
        if block in self._blocks:
            self._blocks.remove(block)

    def clear(self) -> None:
        """Forget all."""
        self._blocks.clear()

    def close(self) -> None:
        """Forget all, and fetch nothing more."""
        self._blocks.clear()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
