"""Bytes that are read: of a file, without passing through Python's memory, or of an array."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from blobstore.errors import UsageError
from blobstore.fileio.descriptors import read_into

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from blobstore.fileio.types import Buffer, Bytes, ByteSource, Progress

    Piece = TypeVar("Piece", bound="FileRange | Bytes | memoryview")

STEP_NBYTES = 64 << 20  # copied between two reports of progress
CHUNK_NBYTES = 4 << 20  # read, hashed, decoded or compared at once: the largest buffer that anything holds


@dataclass(frozen=True)
class FileRange:
    """Bytes of an open file, to be written elsewhere without passing through Python's memory.

    Attributes:
        file: Open for reading, and not owned: a descriptor, or what gives one while it is needed.
        offset: In bytes, from the beginning of the file.
        nbytes: How many.
    """

    file: int | ByteSource
    offset: int
    nbytes: int

    def __post_init__(self) -> None:
        """Check it."""
        if self.offset < 0 or self.nbytes < 0:
            raise UsageError("bad-range", f"{self.nbytes} bytes at offset {self.offset} are no range of a file")

    def part(self, start: int, nbytes: int) -> FileRange:
        """Return some of the bytes, or as many of them as there are from ``start`` on."""
        return FileRange(self.file, self.offset + start, min(nbytes, self.nbytes - start))

    def parts(self) -> Iterator[FileRange]:
        """Yield the bytes as ranges of 64 MiB, in order: progress is reported after each."""
        for start in range(0, self.nbytes, STEP_NBYTES):
            yield self.part(start, STEP_NBYTES)

    def held(self) -> AbstractContextManager[int]:
        """Return the file's descriptor for the time of a ``with`` block.

        Raises:
            UsageError: ``closed``, ``replaced``.
        """
        return nullcontext(self.file) if isinstance(self.file, int) else self.file.held()

    def _read_into(self, target: memoryview, start: int) -> None:
        if isinstance(self.file, int):
            read_into(self.file, target, self.offset + start)
        else:
            self.file.read_into(target, self.offset + start)

    def read(self) -> Bytes:
        """Return all of the bytes, in memory of their own.

        Raises:
            TruncatedError: ``short-read`` when the file ends too early.
        """
        data = np.empty(self.nbytes, dtype=np.uint8)
        self._read_into(data.data, 0)
        return data

    def chunks(self) -> Iterator[memoryview]:
        """Yield the bytes piece by piece, in one buffer: each piece is valid until the next one is asked for.

        Raises:
            TruncatedError: ``short-read`` when the file ends too early.
        """
        buffer = np.empty(min(self.nbytes, CHUNK_NBYTES), dtype=np.uint8).data
        for done in range(0, self.nbytes, CHUNK_NBYTES):
            piece = buffer[: min(CHUNK_NBYTES, self.nbytes - done)]
            self._read_into(piece, done)
            yield piece


def reporting(pieces: Iterable[Piece], progress: Progress) -> Iterator[Piece]:
    """Yield pieces, and report the size of each once the next one is asked for."""
    for piece in pieces:
        yield piece
        progress(piece.nbytes)


def flat_bytes(data: Buffer) -> memoryview:
    """View bytes-like data, or an array in C order, as flat bytes. No copy.

    Raises:
        UsageError: ``not-contiguous`` when the bytes don't lie in one piece in C order; ``not-bytes`` for others.
    """
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous:
            raise UsageError("not-contiguous", "the array is not in C order: pass numpy.ascontiguousarray(array)")
        if data.dtype.hasobject:
            raise UsageError("not-bytes", f"an array of dtype {data.dtype} holds Python objects, not bytes")
        return np.asarray(data).reshape(-1).view(np.uint8).data
    try:
        view = memoryview(data)
    except TypeError:
        raise UsageError("not-bytes", f"expected bytes or an array, found {type(data).__name__}") from None
    if not view.c_contiguous:
        raise UsageError("not-contiguous", "the bytes do not lie in one piece: pass bytes(data)")
    return view.cast("B") if view.nbytes else memoryview(b"")
