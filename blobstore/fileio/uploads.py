"""A new file at its target, here or elsewhere, which appears there only when it is complete."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from blobstore.errors import UsageError, without_secrets
from blobstore.fileio.atomic import AtomicFile
from blobstore.fileio.closing import Completing
from blobstore.fileio.ranges import CHUNK_NBYTES
from blobstore.fileio.urls import connect, is_url, reaching, scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from os import PathLike

_BLOCK_NBYTES = 32 << 20  # one part of an upload
_BLOCKS = 1000  # after so many parts they get twice as large: S3 takes 10,000
_HELD_NBYTES = 64 << 20  # of a blob that may be undone, in memory; what is more waits on the disk


def new_file(path: str | PathLike[str], *, undoable: bool = False, durable: bool = True) -> AtomicFile | Upload:
    """Begin a new file at a path or a URL; ``undoable`` as for `Upload`, ``durable`` as for `AtomicFile`.

    Raises:
        UsageError, MissingExtraError, RemoteError, OSError: As `AtomicFile` and `Upload`.
    """
    return Upload(os.fspath(path), undoable=undoable) if is_url(path) else AtomicFile(path, durable=durable)


class Upload(Completing):
    """A new object elsewhere, written front to back; it appears when `commit` completes it, and replaces the old one.

    A part is uploaded in a thread while the next one is gathered: at most four of 32 MiB are held. An error, or Ctrl-C,
    leaves nothing. A process that is killed may leave parts of an unfinished upload, which no reader sees: a bucket's
    rule for those removes them.

    Attributes:
        path: The URL, as it was given.
    """

    def __init__(self, path: str, *, undoable: bool = False) -> None:
        """Begin the object.

        Args:
            path: Its URL.
            undoable: Whether what was written since the last `mark` can be taken back, and waits here until the next.

        Raises:
            MissingExtraError: ``needs-remote``.
            UsageError: ``unknown-scheme``; ``no-upload`` for a file system that can't hide an incomplete file.
            RemoteError, OSError: It can't be reached.
        """
        self._stream: Any = None  # first: `discard` may be called when this fails
        self._transaction: Any = None
        self.path = path
        self.committed: bool = False
        self._position = 0
        self._gathered = bytearray()
        self._thread: Any = None
        self._uploading: Future[None] | None = None
        self._block_nbytes = _BLOCK_NBYTES
        self._held: Any = _waiting_room() if undoable else None
        if path.endswith("/"):
            raise UsageError("not-a-file", f"{without_secrets(path)!r} is a folder: add the file's name")
        self._file_system, place = connect(path, own=True)
        with reaching(path):
            try:
                self._transaction = self._file_system.start_transaction()
                self._stream = self._file_system.open(place, "wb", block_size=_BLOCK_NBYTES)
            except NotImplementedError:
                raise _no_upload(path) from None
        if not _can_hide(self._stream):
            self.discard()
            raise _no_upload(path)

    @property
    def target(self) -> str:
        """The URL."""
        return self.path

    def output(self) -> BinaryIO:
        """Return what is written to: this object, as a stream."""
        return cast("BinaryIO", self)

    def write(self, data: memoryview | bytes) -> int:
        """Write all of ``data`` → its size.

        Raises:
            RemoteError, OSError: It can't be uploaded.
        """
        self._check_open()
        if self._held is not None:
            self._held.write(data)
        else:
            self._send(data)
        return len(data)

    def mark(self) -> None:
        """Send what `undo` could have taken back."""
        if self._held is None:
            return
        self._held.seek(0)
        while piece := self._held.read(CHUNK_NBYTES):
            self._send(piece)
        self._held.seek(0)
        self._held.truncate()

    def undo(self, nbytes: int) -> None:
        """Take back all that was written since the last `mark`, which has this size.

        Raises:
            UsageError: ``needs-seek``: some of it was sent.
        """
        if self._held is None or self._held.tell() != nbytes:
            raise UsageError("needs-seek", "what was uploaded can't be undone")
        self._held.seek(0)
        self._held.truncate()

    def wrote_up_to(self, position: int) -> None:
        """Do nothing, where a file is synced."""

    def sync_soon(self) -> None:
        """Do nothing, as above."""

    def prepare(self) -> None:
        """Upload the rest, so that only `move` is left."""
        self._check_open()
        try:
            self.mark()
            self._upload_gathered()
            self._wait()
            with reaching(self.path):
                self._stream.close()
        except BaseException:
            self.discard()
            raise

    def move(self) -> None:
        """Let the object appear. After an error it can't be tried again."""
        self._check_open()
        transaction, self._transaction = self._transaction, None
        try:
            with reaching(self.path):
                transaction.complete()
                self.committed = True
                connect(self.path)[0].invalidate_cache()  # what others know of its folder is old
        finally:
            self._end()

    def keep(self) -> str:
        """Give up the object, which can't be kept elsewhere."""
        self.discard()
        return self.path

    def commit(self) -> None:
        """Complete the object. Does nothing the second time."""
        if not self.committed:
            self.prepare()
            self.move()

    def close(self) -> None:
        """Commit, as the end of a ``with`` block does."""
        self.commit()

    def discard(self) -> None:
        """Give the object up, and what was uploaded of it. Does nothing after `commit`."""
        if self._stream is None:
            return
        transaction, self._transaction = self._transaction, None
        try:
            with suppress(Exception):
                self._wait()
            with suppress(Exception):  # the reason for giving up is what has to be told
                _forget(self._stream)
                if transaction is not None:
                    transaction.complete(commit=False)
        finally:
            self._end()

    def _send(self, data: memoryview | bytes) -> None:
        self._gathered += data
        if len(self._gathered) >= self._block_nbytes:
            self._upload_gathered()

    def _upload_gathered(self) -> None:
        """Begin to upload what was gathered, once the part before it is done."""
        self._wait()
        gathered, self._gathered = self._gathered, bytearray()
        self._position += len(gathered)
        if self._position > _BLOCKS * self._block_nbytes and hasattr(self._stream, "blocksize"):
            self._block_nbytes *= 2
            self._stream.blocksize = self._block_nbytes
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (import blobstore stays cheap)

            self._thread = ThreadPoolExecutor(1, thread_name_prefix="blobstore-upload")
        self._uploading = self._thread.submit(self._upload, gathered)

    def _upload(self, data: bytearray) -> None:
        with reaching(self.path):
            self._stream.write(data)

    def _wait(self) -> None:
        """Wait for the part that is being uploaded, and raise its error."""
        uploading, self._uploading = self._uploading, None
        if uploading is not None:
            uploading.result()

    def _check_open(self) -> None:
        if self._stream is None:
            raise UsageError("closed", f"{without_secrets(self.path)!r} was already written or given up")

    def _end(self) -> None:
        self._stream = None
        self._gathered = bytearray()
        if self._thread is not None:
            # Collected in its own thread, which can't wait for itself.
            self._thread.shutdown(wait=threading.current_thread() not in self._thread._threads)  # noqa: SLF001
        if self._held is not None:
            self._held.close()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _finalizing() and hasattr(self, "_stream"):
            self.discard()


def _waiting_room() -> Any:  # noqa: ANN401 (a file, in memory as long as it is small)
    from tempfile import SpooledTemporaryFile  # noqa: PLC0415 (import blobstore stays cheap)

    return SpooledTemporaryFile(_HELD_NBYTES)


def _can_hide(stream: Any) -> bool:  # noqa: ANN401 (fsspec's)
    """Whether a file system's new file appears only when its transaction ends: `commit` and `discard` do something."""
    from fsspec.spec import AbstractBufferedFile  # noqa: PLC0415 (an extra)

    methods = [getattr(stream, name, None) for name in ("commit", "discard")]
    nothing = (None, AbstractBufferedFile.commit, AbstractBufferedFile.discard)
    return all(getattr(method, "__func__", method) not in nothing for method in methods)


def _no_upload(path: str) -> UsageError:
    what = f"{scheme_of(path)}:// takes no new file, or shows it before it is complete"
    return UsageError("no-upload", f"{without_secrets(path)!r}: {what}: write to a file here, and upload that")


def _forget(stream: Any) -> None:  # noqa: ANN401 (fsspec's)
    """Keep a stream that is given up from uploading the rest when it is collected."""
    if not getattr(stream, "closed", True) and hasattr(stream, "buffer"):
        stream.closed = True
