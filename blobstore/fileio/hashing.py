"""SHA-256 of blobs, computed in threads beside the writing (hashlib lets go of the interpreter)."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blobstore.fileio.ranges import FileRange
from blobstore.fileio.threads import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from blobstore.fileio.types import Progress

_INLINE_NBYTES = 256 << 10  # below this a thread costs more than it saves
# Memory that may wait for its hash before the writer waits for it: arrays of a caller's, which are there anyway, or
# pieces made for the file, of which so many are enough for all threads.
_WAITING_NBYTES, _WAITING_PIECES = 256 << 20, 16


def digest_of(source: FileRange | Iterable[memoryview], progress: Progress = lambda _: None) -> bytes:
    """Return the SHA-256 of bytes of a file, or of pieces of anything, 32 bytes.

    A file is read through one buffer of at most 4 MiB.

    Raises:
        TruncatedError: ``short-read`` when the file ends too early.
    """
    digest = hashlib.sha256()
    for piece in source.chunks() if isinstance(source, FileRange) else source:
        digest.update(piece)
        progress(len(piece))
    return digest.digest()


class _Blob:
    """A digest, and what it waits for: pieces are hashed in their order, by one thread at a time."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.waiting: deque[memoryview | FileRange] = deque()
        self.busy = False
        self.error: Exception | None = None


class Hasher:
    """Digests of one blob after another. One blob is one thread's work; several are hashed at once."""

    def __init__(self) -> None:
        """Begin without any blob."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (import blobstore stays cheap)

        self._blobs: list[_Blob] = []
        self._held = self._pieces = 0  # bytes of memory that wait, and in how many pieces
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="blobstore-sha256")

    def begin(self) -> None:
        """Begin the next blob."""
        self._blobs.append(_Blob())

    def forget(self) -> None:
        """Forget the blob begun last."""
        blob = self._blobs[-1]
        self._wait_until(lambda: not blob.busy)
        self._blobs.pop()

    @contextmanager
    def updating(self, data: memoryview | FileRange, *, immutable: bool = False) -> Iterator[None]:
        """Hash ``data`` while the block runs.

        Args:
            data: The next bytes of the blob begun last.
            immutable: They stay as they are until `digests`, `close` or `discard`, and are hashed by then; else by the
                end of the block.

        Raises:
            TruncatedError: A file is shorter than its range.
        """
        blob = self._blobs[-1]
        if data.nbytes < _INLINE_NBYTES and not blob.busy:
            _hash(blob.hash, data)
            yield
            return
        self._enqueue(blob, data)
        try:
            yield
        finally:
            # Also after an error: nothing may read the data any more when this returns.
            if not immutable:
                self._wait_until(lambda: not blob.busy)
        if blob.error:
            raise blob.error

    def digests(self) -> list[bytes]:
        """Return all digests so far.

        Raises:
            TruncatedError: A file is shorter than its range.
        """
        self._wait_until(lambda: not any(blob.busy for blob in self._blobs))
        for blob in self._blobs:
            if blob.error:
                raise blob.error
        return [blob.hash.digest() for blob in self._blobs]

    def close(self) -> None:
        """Hash what waits for it and let the threads end."""
        self._pool.shutdown(wait=True)

    def discard(self) -> None:
        """Let the threads end; what waits is not hashed any more, and nobody is to ask for digests."""
        with self._changed:
            for blob in self._blobs:
                blob.waiting.clear()
        self.close()

    def _enqueue(self, blob: _Blob, data: memoryview | FileRange) -> None:
        held = _held(data)
        if held:
            self._wait_until(lambda: not self._pieces or self._has_room(held))
        with self._changed:
            blob.waiting.append(data)
            self._held += held
            self._pieces += bool(held)
            if not blob.busy:
                blob.busy = True
                self._pool.submit(self._work, blob)

    def _work(self, blob: _Blob) -> None:
        """Hash what waits in a blob, until nothing does."""
        while True:
            with self._changed:
                if not blob.waiting:
                    blob.busy = False
                    self._changed.notify_all()
                    return
                data = blob.waiting.popleft()
            try:
                if not blob.error:
                    _hash(blob.hash, data)
            except Exception as error:  # noqa: BLE001 (raised where it is asked for)
                blob.error = error
            with self._changed:
                self._held -= _held(data)
                self._pieces -= bool(_held(data))
                self._changed.notify_all()

    def _has_room(self, nbytes: int) -> bool:
        return self._pieces < _WAITING_PIECES and self._held + nbytes <= _WAITING_NBYTES

    def _wait_until(self, reached: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(reached)


def _held(data: memoryview | FileRange) -> int:
    """Return how much memory is held by keeping ``data``."""
    return 0 if isinstance(data, FileRange) else data.nbytes


def _hash(target: hashlib._Hash, data: memoryview | FileRange) -> None:
    for piece in data.chunks() if isinstance(data, FileRange) else (data,):
        target.update(piece)
