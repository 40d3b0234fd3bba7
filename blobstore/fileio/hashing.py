"""SHA-256: of files, of pieces, and of blobs while they are written."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blobstore.errors import in_file
from blobstore.fileio.descriptors import open_regular
from blobstore.fileio.ranges import CHUNK_NBYTES, FileRange
from blobstore.fileio.threads import cores
from blobstore.fileio.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import ThreadPoolExecutor
    from os import PathLike

    from blobstore.fileio.types import Progress

_INLINE_NBYTES = 256 << 10  # below this a thread costs more than it saves
# How much memory may wait to be hashed before the writer waits: a caller's arrays, which exist anyway, or pieces made
# for the file, of which this number keeps all threads busy; smaller ones may be more.
_WAITING_NBYTES, _WAITING_PIECES = 256 << 20, 16
_WAITING_LITTLE = _WAITING_PIECES * CHUNK_NBYTES


def digest_of(source: FileRange | Iterable[memoryview], progress: Progress = lambda _: None) -> bytes:
    """Return the SHA-256 of a range of a file, or of pieces of anything, 32 bytes.

    A range is read through one buffer of at most 4 MiB.

    Raises:
        TruncatedError: ``short-read`` when the file ends too early.
    """
    digest = hashlib.sha256()
    _hash(digest, source, progress)
    return digest.digest()


def file_digest(path: str | PathLike[str]) -> bytes:
    """Return the SHA-256 of a whole file, 32 bytes.

    Raises:
        UsageError, OSError: As `open_regular`.
    """
    if is_url(path):
        from blobstore.fileio.streamed import StreamedSource  # noqa: PLC0415 (import blobstore stays cheap)

        with StreamedSource(os.fspath(path)) as source:
            source.tell_ranges([source.size])
            return digest_of(FileRange(source, 0, source.size))
    with in_file(os.fsdecode(path)), open(open_regular(path), "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _hash(digest: hashlib._Hash, source: FileRange | Iterable[memoryview], progress: Progress = lambda _: None) -> None:
    for piece in source.chunks() if isinstance(source, FileRange) else source:
        digest.update(piece)
        progress(len(piece))


class _Blob:
    """A digest, and the pieces still to be hashed: in order, by one thread at a time."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.waiting: deque[memoryview | FileRange] = deque()
        self.busy = False
        self.error: Exception | None = None


class Hasher:
    """Hashes blobs in threads while they are written (hashlib releases Python's global lock).

    One blob is hashed by one thread; several blobs are hashed at once. `threads.in_order` would not do: jobs come while
    the caller writes, and the pieces of one blob depend on each other.
    """

    def __init__(
        self,
        *,
        waiting_nbytes: int = _WAITING_NBYTES,
        waiting_pieces: int = _WAITING_PIECES,
        waiting_little: int = _WAITING_LITTLE,
    ) -> None:
        """Begin with no blobs.

        Args:
            waiting_nbytes: How much memory may wait to be hashed before `updating` waits.
            waiting_pieces: In how many pieces.
            waiting_little: How much memory may wait in any number of pieces.
        """
        self._waiting_nbytes, self._waiting_pieces = waiting_nbytes, waiting_pieces
        self._waiting_little = waiting_little
        self._blobs: list[_Blob | bytes] = []  # a finished one is its digest, which takes a tenth of the memory
        self._held = self._pieces = 0  # bytes of memory that wait, and in how many pieces
        self._changed = threading.Condition()
        self._pool: ThreadPoolExecutor | None = None

    def begin(self) -> None:
        """Begin the next blob."""
        self._settle_last()
        self._blobs.append(_Blob())

    def add_small(self, blobs: Iterable[memoryview]) -> None:
        """Hash small blobs at once, each of them whole."""
        self._settle_last()
        sha256 = hashlib.sha256
        self._blobs += [sha256(blob).digest() for blob in blobs]

    def _settle_last(self) -> None:
        """Keep only the digest of the blob begun last, if it has been hashed."""
        blob = self._blobs[-1] if self._blobs else b""
        if isinstance(blob, _Blob) and not blob.busy and not blob.error:
            self._blobs[-1] = blob.digest.digest()

    def forget(self) -> None:
        """Forget the blob begun last."""
        blob = self._blobs[-1]
        if isinstance(blob, _Blob):
            self._wait_until(lambda: not blob.busy)
        self._blobs.pop()

    @property
    def _unfinished(self) -> list[_Blob]:
        return [blob for blob in self._blobs if isinstance(blob, _Blob)]

    @contextmanager
    def updating(self, data: memoryview | FileRange, *, immutable: bool = False) -> Iterator[None]:
        """Hash ``data`` while the block runs.

        Args:
            data: The next bytes of the blob begun last.
            immutable: The bytes don't change until `digests`, `close` or `discard`, and are hashed by then; otherwise
                they are hashed by the end of the block.

        Raises:
            TruncatedError: ``short-read`` when a file ends before its range does.
        """
        blob = self._blobs[-1]
        assert isinstance(blob, _Blob)  # noqa: S101 (begun by the caller)
        if data.nbytes < _INLINE_NBYTES and not blob.busy:
            _hash(blob.digest, data if isinstance(data, FileRange) else (data,))
            yield
            return
        self._enqueue(blob, data)
        try:
            yield
        finally:
            # Even after an error: once this returns, nothing may read the data any more.
            if not immutable:
                self._wait_until(lambda: not blob.busy)
        if blob.error:
            raise blob.error

    def digests(self) -> list[bytes]:
        """Return all digests so far.

        Raises:
            TruncatedError: ``short-read`` when a file ends before its range does.
        """
        unfinished = self._unfinished
        self._wait_until(lambda: not any(blob.busy for blob in unfinished))
        for blob in unfinished:
            if blob.error:
                raise blob.error
        return [blob if isinstance(blob, bytes) else blob.digest.digest() for blob in self._blobs]

    def close(self) -> None:
        """Hash what is waiting and end the threads."""
        if self._pool:
            self._pool.shutdown(wait=True)

    def discard(self) -> None:
        """End the threads without hashing what is waiting; `digests` must not be called any more."""
        with self._changed:
            for blob in self._unfinished:
                blob.waiting.clear()
        self.close()

    def _enqueue(self, blob: _Blob, data: memoryview | FileRange) -> None:
        held = _held(data)
        if held:
            self._wait_until(lambda: not self._pieces or self._may_wait(held))
        with self._changed:
            blob.waiting.append(data)
            self._held += held
            self._pieces += bool(held)
            if not blob.busy:
                blob.busy = True
                self._threads().submit(self._work, blob)

    def _threads(self) -> ThreadPoolExecutor:
        """Return the threads, which begin with the first blob that isn't small."""
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (5 ms, and small files need no threads)

            self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="blobstore-sha256")
        return self._pool

    def _work(self, blob: _Blob) -> None:
        """Hash a blob's waiting pieces until there are none."""
        while True:
            with self._changed:
                if not blob.waiting:
                    blob.busy = False
                    self._changed.notify_all()
                    return
                data = blob.waiting.popleft()
            try:
                if not blob.error:
                    _hash(blob.digest, data if isinstance(data, FileRange) else (data,))
            except Exception as error:  # noqa: BLE001 (raised by `updating` or `digests`)
                blob.error = error
            with self._changed:
                self._held -= _held(data)
                self._pieces -= bool(_held(data))
                self._changed.notify_all()

    def _may_wait(self, nbytes: int) -> bool:
        held = self._held + nbytes
        return held <= self._waiting_nbytes and (self._pieces < self._waiting_pieces or held <= self._waiting_little)

    def _wait_until(self, reached: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(reached)


def _held(data: memoryview | FileRange) -> int:
    """Return how many bytes of memory ``data`` keeps alive."""
    return 0 if isinstance(data, FileRange) else data.nbytes
