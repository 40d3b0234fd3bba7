"""Two tensors, a chunk at a time: bytes first, values where the bytes differ."""

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

CHUNK = 8 * PIECE  # elements: at most 4 MB of each side, and its decoded values
_PROBED = 4096  # elements at the beginning, and near the end


def chunk_differences(a: Tensor, b: Tensor, tolerance: Tolerance | None = None) -> Iterator[tuple[int, Values | None]]:
    """Compare two tensors of one shape in chunks of `CHUNK` elements, in two threads.

    Yields:
        The first element of each chunk, and how its values differ; None where type, scale and every bit are the same.

    Raises:
        BlobStoreError: A file has shrunk, or its bytes can't be decoded.
    """
    starts = range(0, a.count, CHUNK)
    jobs = (partial(_chunk, a, b, first, tolerance) for first in starts)
    # Most tensors of a small model are one chunk, and threads cost more than that.
    results = in_order(jobs) if len(starts) > 1 else (job() for job in jobs)
    yield from zip(starts, results, strict=True)


def values_of(a: Tensor, b: Tensor, tolerance: Tolerance | None, progress: Progress) -> Values | None:
    """Return how the values of two tensors of one shape differ; None where every bit is the same.

    Args:
        a: Not opaque.
        b: The same shape.
        tolerance: What doesn't count as different.
        progress: Called with how many bytes more of both have been read.
    """
    found: Values | None = None
    equal = []
    for first, chunk in chunk_differences(a, b, tolerance):
        if chunk is None:
            equal.append(first)
        else:
            found = found or Values()
            found.add(chunk)
        progress(sum(one.facts.nbytes * min(CHUNK, one.count - first) // one.count for one in (a, b)))
    if found is None:
        return None
    found.count = a.count
    if found.unequal:
        # The cosine is of the whole tensors: what is equal was not decoded yet.
        for square in in_order(partial(_squares, a, first) for first in equal):
            found.squares_a += square
            found.squares_b += square
            found.products += square
    return found


def first_byte(a: Tensor, b: Tensor) -> int | None:
    """Return the first byte in which two opaque tensors differ; None where they are the same."""
    for _, chunk in chunk_differences(a, b):
        if chunk is not None:
            return chunk.worst
    return min(a.count, b.count) if a.count != b.count else None


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one type and shape have the same values, bit for bit. Reads up to the first difference."""
    return a.count == b.count and all(chunk is None for _, chunk in chunk_differences(a, b))


def probe(tensor: Tensor) -> bytes:
    """Return a digest of some of a tensor's values, which those with the same values have in common."""

    def pieces() -> Iterator[memoryview]:
        for first in dict.fromkeys((0, max(0, tensor.count - _PROBED) // PIECE * PIECE)):  # at a group's border
            count = min(_PROBED, tensor.count - first)
            raw = tensor.read(first, count)
            yield flat_bytes(raw if tensor.opaque else tensor.values(raw, count))

    return digest_of(pieces())


def content_digests(tensor: Tensor, *, decoded: bool) -> tuple[bytes, bytes]:
    """Return digests of what `same_bits` compares: of all bytes as they are read, and of the values and their type.

    Args:
        tensor: Read once.
        decoded: Whether the second is asked for; it is empty otherwise.
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


def _chunk(a: Tensor, b: Tensor, first: int, tolerance: Tolerance | None) -> Values | None:
    count = min(CHUNK, a.count - first, b.count - first)
    one, other = a.read(first, count), b.read(first, count)
    if a.opaque or b.opaque:
        if _equal(one, other):
            return None
        unequal = one != other
        return Values(count, int(np.count_nonzero(unequal)), worst=first + int(unequal.argmax()))
    if a.unit == b.unit and _equal(one, other):
        return None
    decoded, against = a.values(one, count), b.values(other, count)
    if decoded.dtype == against.dtype and a.unit != b.unit and _equal(decoded.view(np.uint8), against.view(np.uint8)):
        return None
    return measure(decoded, against, first, tolerance)


def _squares(a: Tensor, first: int) -> float:
    count = min(CHUNK, a.count - first)
    return sum_of_squares(a.values(a.read(first, count), count))


def _equal(a: Bytes, b: Bytes) -> bool:
    """Whether bytes are the same; eight at a time."""
    whole = len(a) // 8 * 8
    return bool(
        np.array_equal(a[:whole].view(np.uint64), b[:whole].view(np.uint64)) and np.array_equal(a[whole:], b[whole:])
    )
