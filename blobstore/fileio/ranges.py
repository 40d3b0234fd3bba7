"""Ranges of bytes: in a file, or in memory."""

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
CHUNK_NBYTES = 4 << 20  # read, hashed, decoded or compared at once: the largest buffer


@dataclass(frozen=True)
class FileRange:
    """Bytes of an open file, which can be copied elsewhere without passing through Python's memory.

    Attributes:
        file: Open for reading, not owned: a descriptor, or a source that gives one while it is needed.
        offset: In bytes, from the beginning of the file.
        nbytes: How many.

    Example:
        >>> with blobstore.BlobReader("model.sbs") as reader:
        ...     data = reader.file_range("layer.bias")
        ...     data.offset, data.nbytes, data.part(0, 4).read()
        (8448, 256, array([0, 0, 0, 0], dtype=uint8))
    """

    file: int | ByteSource
    offset: int
    nbytes: int

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            UsageError: ``bad-range`` for a negative offset or size.
        """
        if self.offset < 0 or self.nbytes < 0:
            raise UsageError("bad-range", f"{self.nbytes} bytes at offset {self.offset} are not a range of a file")

    @property
    def is_elsewhere(self) -> bool:
        """Whether reading is so slow that it must not be done twice: the bytes are neither in memory nor on a disk."""
        return not isinstance(self.file, int) and self.file.device is None and not self.file.in_memory

    def part(self, start: int, nbytes: int) -> FileRange:
        """Return a part of the bytes; shorter than ``nbytes`` where fewer follow ``start``.

        Raises:
            UsageError: ``bad-range`` when ``start`` is behind their end.
        """
        return FileRange(self.file, self.offset + start, min(nbytes, self.nbytes - start))

    def parts(self) -> Iterator[FileRange]:
        """Yield the bytes as ranges of 64 MiB, in order: progress is reported after each."""
        for start in range(0, self.nbytes, STEP_NBYTES):
            yield self.part(start, STEP_NBYTES)

    def held(self) -> AbstractContextManager[int | None]:
        """Return the file's descriptor for a ``with`` block; None without one.

        Raises:
            UsageError: ``closed``, ``replaced``.
        """
        return nullcontext(self.file) if isinstance(self.file, int) else self.file.held()

    def _read_into(self, buffer: memoryview, start: int) -> None:
        if isinstance(self.file, int):
            read_into(self.file, buffer, self.offset + start)
        else:
            self.file.read_into(buffer, self.offset + start)

    def read(self) -> Bytes:
        """Return a copy of all bytes.

        Raises:
            TruncatedError: ``short-read`` when the file ends too early.
        """
        data = np.empty(self.nbytes, dtype=np.uint8)
        self._read_into(data.data, 0)
        return data

    def chunks(self) -> Iterator[memoryview]:
        """Yield the bytes in pieces, all in one buffer: each is valid until the next one is asked for.

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


def expect(progress: Progress, nbytes: int) -> None:
    """Tell how many bytes `progress` will be called with in all, if it has a method ``expect`` for that, as bars do."""
    told = getattr(progress, "expect", None)
    if told is not None:
        told(nbytes)


def flat_bytes(data: Buffer) -> memoryview:
    """View bytes-like data, or an array in C order, as flat bytes. No copy.

    Raises:
        UsageError: ``not-contiguous`` when the bytes don't lie in one piece in C order; ``not-bytes`` otherwise.
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


def first_byte_between(a: FileRange, b: FileRange) -> int | None:
    """Return the place of the first byte that differs, or the length of the shorter one; None where all are equal.

    Raises:
        TruncatedError: ``short-read`` when a file ends too early.
    """
    done = 0
    for one, other in zip(a.chunks(), b.chunks(), strict=False):
        if one != other:
            return done + first_difference(one, other)
        done += len(one)
    return None if a.nbytes == b.nbytes else done


def first_difference(a: bytes | memoryview, b: bytes | memoryview) -> int:
    """Return the place of the first byte that differs, or the length of the shorter one."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(a), len(b)))
