"""A tensor of a checkpoint: bytes that lie in a file, or values that are made as they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs.rounding import rounded
from blobstore.errors import in_file
from blobstore.fileio.ranges import flat_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Array, Bytes

_CHUNK = 1 << 18  # elements of a made tensor


def _not_made(first: int, count: int) -> Array:
    raise NotImplementedError("a tensor is stored, or made")


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor of a checkpoint.

    Attributes:
        name: Its name.
        type: Of its elements, as a file by name stores them.
        shape: In C order.
        path: Of the file that it comes from.
        stored: Its bytes, as they lie in a file; None where values are made as they are read.
        made: Given (first, count) → a flat array of these elements, in C order, new for each call and of any float
            dtype: it is rounded once, to what the new file stores. Any thread may call it. It has to give the same
            values in every process, and whatever the runs that are asked for: `verify` makes them again.
    """

    name: str
    type: ElementType
    shape: tuple[int, ...]
    path: str
    stored: FileRange | None = None
    made: Callable[[int, int], Array] = _not_made

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size, as a file by name stores it."""
        return self.type.nbytes(self.count)

    def read(self, first: int, count: int) -> Array:
        """Return a run of elements: flat, newly read; without a dtype of numpy's as bytes.

        Raises:
            TruncatedError: ``short-read``: the file has shrunk.
        """
        if self.stored is None:
            return self.made(first, count)
        start, end = self.type.nbytes(first), self.type.nbytes(first + count)
        with in_file(self.path):
            return self.stored.part(start, end - start).read().view(self.type.dtype or np.uint8)

    def parts(self) -> Iterator[FileRange | Bytes]:
        """Yield the bytes that a file by name stores, in order.

        Raises:
            CodecError: ``not-finite``: a made value is too large for the type.
        """
        if self.stored is not None:
            yield from self.stored.parts()
        else:
            yield from self._made_bytes()

    def chunks(self) -> Iterator[memoryview]:
        """Yield the same in pieces of memory: each is valid until the next one is asked for."""
        if self.stored is not None:
            with in_file(self.path):
                yield from self.stored.chunks()
        else:
            yield from (flat_bytes(part) for part in self._made_bytes())

    def runs(self, most: int = _CHUNK) -> Iterator[tuple[int, int]]:
        """Yield (first, count) of runs of about so many elements: whole rows, unless one is longer."""
        width = math.prod(self.shape[1:]) if len(self.shape) > 1 else 1
        step = most if width > most else most // max(1, width) * width or most
        yield from ((first, min(step, self.count - first)) for first in range(0, self.count, step))

    def same_bytes(self, other: SourceTensor) -> bool:
        """Whether another tensor is equal in type, shape and every byte."""
        if (self.type, self.shape) != (other.type, other.shape):
            return False
        if self.stored is not None and other.stored is not None:
            return all(x == y for x, y in zip(self.chunks(), other.chunks(), strict=True))
        return all(
            np.array_equal(self.rounded(first, count), other.rounded(first, count)) for first, count in self.runs()
        )

    def rounded(self, first: int, count: int) -> Bytes:
        """Return the bytes that a file by name stores of a run of elements."""
        return rounded(self.read(first, count), self.type, self.name).view(np.uint8)

    def _made_bytes(self) -> Iterator[Bytes]:
        return (self.rounded(first, count) for first, count in self.runs())
