"""SHA-256 of blobs, computed in a thread beside the writing (hashlib lets go of the interpreter)."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blobstore.transfer import FileRange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_INLINE_NBYTES = 256 << 10  # below this a thread costs more than it saves


def digest_of(source: FileRange, progress: Callable[[int], None] = lambda _: None) -> bytes:
    """Return the SHA-256 of bytes of a file, 32 bytes; read through one buffer of at most 4 MiB.

    Raises:
        TruncatedError: ``short-read`` when the file ends too early.
    """
    digest = hashlib.sha256()
    for piece in source.chunks():
        digest.update(piece)
        progress(len(piece))
    return digest.digest()


class Hasher:
    """Digests of one blob after another."""

    def __init__(self) -> None:
        """Begin without any blob."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (import blobstore stays cheap)

        self._hashes: list[hashlib._Hash] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="blobstore-sha256")

    def begin(self) -> None:
        """Begin the next blob."""
        self._hashes.append(hashlib.sha256())

    def forget(self) -> None:
        """Forget the blob begun last."""
        self._hashes.pop()

    @contextmanager
    def updating(self, data: memoryview | FileRange) -> Iterator[None]:
        """Hash ``data`` while the block runs; it is done with at the end of the block.

        Raises:
            TruncatedError: A file is shorter than its range.
        """
        nbytes = data.nbytes
        if nbytes < _INLINE_NBYTES:
            _hash(self._hashes[-1], data)
            yield
            return
        job = self._pool.submit(_hash, self._hashes[-1], data)
        try:
            yield
        finally:
            # Also after an error: nothing may read the data any more when this returns.
            error = job.exception()
        if error:
            raise error

    def digests(self) -> list[bytes]:
        """Return all digests so far."""
        return [one.digest() for one in self._hashes]

    def close(self) -> None:
        """Let the thread end; nothing more is hashed."""
        self._pool.shutdown(wait=True)


def _hash(target: hashlib._Hash, data: memoryview | FileRange) -> None:
    for piece in data.chunks() if isinstance(data, FileRange) else (data,):
        target.update(piece)
