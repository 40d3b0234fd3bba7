"""Compare two tensors in chunks: bytes first, then values where the bytes differ."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs import PIECE
from blobstore.compare.values import Values, measure, sum_of_squares
from blobstore.fileio.hashing import digest_of
from blobstore.fileio.ranges import flat_bytes
from blobstore.fileio.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.compare.tensors import Tensor
    from blobstore.compare.values import Tolerance
    from blobstore.fileio.types import Bytes, Progress

CHUNK = 8 * PIECE  # elements: at most 4 MB from each side, and their decoded values
_PROBED = 4096  # elements at the beginning, and near the end


def chunk_differences(
    a: Tensor, b: Tensor, tolerance: Tolerance | None = None, chunk: int = CHUNK
) -> Iterator[tuple[int, Values | None]]:
    """Compare two tensors of one shape in chunks, in two threads.

    Args:
        a: The first tensor.
        b: The second tensor.
        tolerance: Differences that don't count.
        chunk: Elements in each chunk.

    Yields:
        The index of each chunk's first element, and how its values differ; None where type, scale and every bit are
        the same.

    Raises:
        BlobStoreError: A file has shrunk, or its bytes can't be decoded.
    """
    starts = range(0, a.count, chunk)
    jobs = (partial(_compare_chunk, a, b, range(first, first + chunk), tolerance) for first in starts)
    # Most tensors of a small model are a single chunk, for which threads cost more than they save.
    results = in_order(jobs) if len(starts) > 1 else (job() for job in jobs)
    yield from zip(starts, results, strict=True)


def values_of(
    a: Tensor, b: Tensor, tolerance: Tolerance | None, progress: Progress, chunk: int = CHUNK
) -> Values | None:
    """Return how the values of two tensors of one shape differ; None where every bit is the same.

    Args:
        a: The first tensor, not opaque.
        b: The second tensor, not opaque.
        tolerance: Differences that don't count.
        progress: Called with the number of further bytes read from both.
        chunk: Elements compared at once.
    """
    total: Values | None = None
    equal = []
    for first, values in chunk_differences(a, b, tolerance, chunk):
        if values is None:
            equal.append(first)
        else:
            total = total or Values()
            total.add(values)
        progress(sum(tensor.facts.nbytes * min(chunk, tensor.count - first) // tensor.count for tensor in (a, b)))
    if total is None:
        return None
    total.count = a.count
    if total.unequal:
        # The cosine is of whole tensors, and the equal chunks haven't been decoded yet.
        for square in in_order(partial(_squares, a, range(first, first + chunk)) for first in equal):
            total.squares_a += square
            total.squares_b += square
            total.products += square
    return total


def first_byte(a: Tensor, b: Tensor) -> int | None:
    """Return the first byte in which two opaque tensors differ; None where they are the same."""
    for _, values in chunk_differences(a, b):
        if values is not None:
            return values.worst
    return min(a.count, b.count) if a.count != b.count else None


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one type and shape have the same values, bit for bit; reads up to the first difference."""
    return a.count == b.count and all(values is None for _, values in chunk_differences(a, b))


def probe(tensor: Tensor) -> bytes:
    """Return a digest of some of a tensor's values; equal tensors have equal digests."""

    def chunks() -> Iterator[memoryview]:
        for first in dict.fromkeys((0, max(0, tensor.count - _PROBED) // PIECE * PIECE)):  # at a group's boundary
            count = min(_PROBED, tensor.count - first)
            raw = tensor.read(first, count)
            yield flat_bytes(raw if tensor.opaque else tensor.values(raw, count))

    return digest_of(chunks())


def content_digests(tensor: Tensor, *, decoded: bool) -> tuple[bytes, bytes]:
    """Return digests of what `same_bits` compares: of all bytes as read, and of the values and their type.

    Args:
        tensor: Read once.
        decoded: Whether to compute the second digest; otherwise it is empty.
    """
    stored, values = hashlib.sha256(), hashlib.sha256()
    for first in range(0, tensor.count, CHUNK):
        count = min(CHUNK, tensor.count - first)
        raw = tensor.read(first, count)
        stored.update(flat_bytes(raw))
        if decoded:
            array = raw if tensor.opaque else tensor.values(raw, count)
            values.update(b"" if first else str(array.dtype).encode())
            values.update(flat_bytes(array))
    return stored.digest(), values.digest() if decoded else b""


def _compare_chunk(a: Tensor, b: Tensor, elements: range, tolerance: Tolerance | None) -> Values | None:
    """Compare some elements; the last ones may lie beyond the end."""
    first, count = elements.start, min(len(elements), a.count - elements.start, b.count - elements.start)
    raw_a, raw_b = a.read(first, count), b.read(first, count)
    if a.opaque or b.opaque:
        if _equal(raw_a, raw_b):
            return None
        unequal = raw_a != raw_b
        return Values(count, int(np.count_nonzero(unequal)), worst=first + int(unequal.argmax()))
    if a.unit == b.unit and _equal(raw_a, raw_b):
        return None
    values_a, values_b = a.values(raw_a, count), b.values(raw_b, count)
    same_type = values_a.dtype == values_b.dtype
    if same_type and a.unit != b.unit and _equal(values_a.view(np.uint8), values_b.view(np.uint8)):
        return None
    return measure(values_a, values_b, first, tolerance)


def _squares(a: Tensor, elements: range) -> float:
    """Return the sum of squares of some elements; the last ones may lie beyond the end."""
    count = min(len(elements), a.count - elements.start)
    return sum_of_squares(a.values(a.read(elements.start, count), count))


def _equal(a: Bytes, b: Bytes) -> bool:
    """Whether all bytes are equal; compares eight at a time."""
    whole = len(a) // 8 * 8
    return bool(
        np.array_equal(a[:whole].view(np.uint64), b[:whole].view(np.uint64)) and np.array_equal(a[whole:], b[whole:])
    )
