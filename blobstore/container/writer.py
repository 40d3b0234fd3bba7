"""`ContainerWriter`: keys and bytes → a container, streaming.

Spec: spec/sbs.md, Writing.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from blobstore.container import layout
from blobstore.container.directory import build_directory
from blobstore.container.keys import encode_key
from blobstore.errors import UsageError, in_file
from blobstore.fileio.atomic import AtomicFile
from blobstore.fileio.closing import Completing
from blobstore.fileio.hashing import Hasher
from blobstore.fileio.ranges import FileRange, flat_bytes
from blobstore.fileio.sink import Sink, move_down

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from blobstore.container.directory import Directory
    from blobstore.fileio.types import Buffer

    Data = Buffer | FileRange


_SYNC_NBYTES = 128 << 20  # how much may wait for the disk until the end


class ContainerWriter(Completing):
    """Write blobs one after another; memory does not grow with the file.

    It knows nothing of a name index: an old one beside the target stays. `blobstore.BlobWriter` removes it.

    A context manager. The file appears under its name when the ``with`` block ends without an error, complete and
    durable; on an error what had the name before stays as it was. Version 2 can also be written to any binary stream,
    a pipe as well; such a stream is left without its directory, and so unreadable, when an error comes.

    Attributes:
        version: Of the container, 1 or 2.
        keys: What was added so far, in order.
    """

    def __init__(
        self,
        target: str | PathLike[str] | BinaryIO,
        *,
        version: int = 2,
        digests: bool = False,
        max_blobs: int = layout.MAX_PORTABLE_BLOBS,
    ) -> None:
        """Begin a file.

        Args:
            target: A path, or a binary stream for version 2.
            version: 2, or 1 for runtimes from before 2025-07-31.
            digests: Hash what is written, for `digests`.
            max_blobs: How many blobs it takes: 16,383, as every gemma.cpp does, or up to 1,048,576, as readers and
                the newest gemma.cpp do.

        Raises:
            UsageError: ``bad-version``; ``bad-max-blobs``; ``bad-target``; ``needs-seek`` for version 1 to a stream;
                ``not-a-file``.
            OSError: The target's folder can't be written to.
        """
        if version not in (1, 2) or isinstance(version, bool):
            raise UsageError("bad-version", f"a container has version 1 or 2, not {version!r}")
        if not 1 <= max_blobs <= layout.MAX_BLOBS:
            raise UsageError("bad-max-blobs", f"a file has 1 to {layout.MAX_BLOBS} blobs, not {max_blobs!r}")
        self.version = version
        self._max_blobs = max_blobs
        self.keys: list[str] = []
        self._encoded: list[bytes] = []
        self._seen: set[bytes] = set()
        self._sizes: list[int] = []
        self._synced = 0
        self._hasher = Hasher() if digests else None
        self._file: AtomicFile | None = None
        self._state = "open"
        self._target = target
        if isinstance(target, (str, os.PathLike)):
            self._file = AtomicFile(target)
            self._sink = Sink(self._file.fileno(), self._file.path)
        elif not hasattr(target, "write"):
            raise UsageError("bad-target", f"expected a path or a binary stream, found {type(target).__name__}")
        elif version == 1:
            raise UsageError(
                "needs-seek", "version 1 begins with its directory, and a stream can't: write version 2, or to a path"
            )
        else:
            self._sink = Sink(target)
        # Version 1 can't know its first blob's offset yet: leave the most room, and move the blobs when all are there.
        self._start = layout.payload_start(version, max_blobs)
        if self._file and version == 1:
            os.lseek(self._file.fileno(), self._start, os.SEEK_SET)
        else:
            self._sink.write(memoryview(layout.PLACEHOLDER.ljust(self._start, b"\0")))

    def add(self, key: str, data: Data) -> None:
        """Write one blob.

        Args:
            key: 1 to 16 bytes as UTF-8 (other bytes as surrogates), not used before.
            data: Bytes-like, an array in C order, or a `FileRange`; not empty; not kept.

        Raises:
            UsageError: ``bad-key``, ``key-too-long``, ``duplicate-key``, ``too-many-blobs``, ``empty-blob``,
                ``not-contiguous``, ``not-bytes``; nothing was written then, and the writer goes on.
        """
        self.add_chunks(key, (data,))

    def add_chunks(
        self, key: str, chunks: Iterable[Data], *, nbytes: int | None = None, immutable: bool = False
    ) -> int:
        """Write one blob from pieces, each as `add` takes it.

        Args:
            key: As `add`.
            chunks: The pieces.
            nbytes: How many bytes they have together, when that is known, to be checked.
            immutable: No piece changes (and no file of one is closed) until `digests` or the end: they are hashed
                while later ones are written, several blobs at once. Else a piece is done with before the next is
                asked for.

        Returns:
            The blob's size in bytes.

        Raises:
            UsageError: As `add`; ``wrong-size`` when there are more or fewer than ``nbytes``. When it comes after the
                first piece the file is given up.
        """
        encoded = self._check(key)
        before = self._sink.position
        if self._hasher:
            self._hasher.begin()
        self._state = "broken"  # until the blob is whole
        for piece in chunks:
            try:
                self._put(piece, immutable=immutable)
            except UsageError:
                if self._sink.position == before:
                    self._reopen()
                raise
        written = self._sink.position - before
        if not written:
            self._reopen()
            raise UsageError("empty-blob", f"{key!r} has no bytes, a blob has at least one")
        if nbytes not in (None, written):
            raise UsageError("wrong-size", f"{key!r} was to have {nbytes} bytes, {written} were given")
        self._sink.zeros(-written % layout.BLOB_ALIGN)
        self._state = "open"
        self.keys.append(key)
        self._encoded.append(encoded)
        self._seen.add(encoded)
        self._sizes.append(written)
        return written

    @property
    def sizes(self) -> list[int]:
        """Bytes of each blob so far."""
        return list(self._sizes)

    @property
    def encoded_keys(self) -> list[bytes]:
        """The keys so far as bytes, without padding."""
        return list(self._encoded)

    def directory(self) -> Directory:
        """Return the directory of the blobs so far; there is at least one."""
        return build_directory(self.version, self._encoded, self._sizes)

    def undo_last(self) -> None:
        """Remove the blob that was added last, from a file.

        Raises:
            UsageError: ``needs-seek`` when this writes to a stream; ``no-blobs``; ``closed``.
        """
        if self._state != "open":
            raise UsageError("closed", f"this writer is {self._state}, nothing can be taken back")
        if self._file is None:
            raise UsageError("needs-seek", "what was written to a stream can't be taken back")
        if not self._sizes:
            raise UsageError("no-blobs", "there is no blob to take back")
        room = int(layout.padded_sizes(np.array(self._sizes[-1:]))[0])
        self._sink.flush()
        if self._hasher:
            self._hasher.forget()
        self._sink.position -= room
        self._synced = min(self._synced, self._sink.position)
        with in_file(self.path):
            end = os.lseek(self._file.fileno(), -room, os.SEEK_CUR)
            os.ftruncate(self._file.fileno(), end)
        self._seen.remove(self._encoded.pop())
        self.keys.pop()
        self._sizes.pop()

    @property
    def broken(self) -> bool:
        """Whether a blob broke off, so that the file can't be completed."""
        return self._state == "broken"

    @property
    def closed(self) -> bool:
        """Whether the file is complete or given up."""
        return self._state in ("closed", "discarded")

    def digests(self) -> list[bytes]:
        """Return the SHA-256 of each blob so far, 32 bytes each, in order.

        Raises:
            UsageError: ``no-digests`` when they were not asked for at the beginning.
        """
        if self._hasher is None:
            raise UsageError("no-digests", "pass digests=True to BlobWriter")
        return self._hasher.digests()

    def close(self) -> None:
        """Complete the file and give it its name. Called by the ``with`` block; does nothing the second time.

        Raises:
            UsageError: ``no-blobs`` when nothing was added; ``incomplete`` after a blob broke off. Nothing appears.
        """
        if self.closed:
            return
        self.prepare()
        try:
            self.give_name()
        except BaseException:
            self.discard()
            raise

    def give_name(self) -> None:
        """Give the complete file its name, at the end of `close`."""
        self.move()

    @property
    def target(self) -> str | PathLike[str] | None:
        """The path as given; None for a stream."""
        return self._target if isinstance(self._target, (str, os.PathLike)) else None

    @property
    def path(self) -> str:
        """The target; empty for a stream."""
        return self._file.path if self._file else ""

    @property
    def committed(self) -> bool:
        """Whether the target is the new file."""
        return self._file is not None and self._file.committed

    def move(self) -> None:
        """Give the prepared file its name, whatever is beside it. After an error that can be tried again."""
        if self.closed:
            return
        try:
            if self._file:
                self._file.move()
        finally:
            if self._file is None or self._file.committed:
                self._state = "closed"
                if self._hasher:
                    self._hasher.close()

    def keep(self) -> str:
        """Leave the prepared file beside the target, complete, and return where."""
        self._state = "closed"
        if self._hasher:
            self._hasher.close()
        return self._file.keep() if self._file else ""

    def prepare(self) -> None:
        """Write all but the file's name, which `close` gives it: for files that go together.

        Raises:
            UsageError: As `close`.
        """
        if self._state not in ("open", "broken"):
            return
        try:
            if self.broken:
                raise UsageError("incomplete", "an error broke off a blob: this file can't be completed")
            if not self._sizes:
                raise UsageError("no-blobs", "a container has at least one blob")
            directory = self.directory()
            with in_file(self.path):
                if self._file and self.version == 1:
                    self._finish_v1(directory, self._file.fileno())
                else:
                    self._finish_v2(directory)
            if self._file:
                self._file.prepare()
        except BaseException:
            self.discard()
            raise
        self._state = "prepared"

    def discard(self) -> None:
        """Give the file up: nothing appears, nothing is left behind."""
        if self._state != "closed":
            self._state = "discarded"
        try:
            if self._file:
                self._file.discard()
        finally:
            if self._hasher:
                self._hasher.discard()

    def _check(self, key: str) -> bytes:
        if self._state != "open":
            raise UsageError("closed", f"this writer is {self._state}, nothing can be added")
        encoded = encode_key(key)
        if encoded in self._seen:
            raise UsageError("duplicate-key", f"{key!r} is in the file already")
        if len(self._sizes) == self._max_blobs:
            who = "every gemma.cpp takes" if self._max_blobs == layout.MAX_PORTABLE_BLOBS else "this file may have"
            what = f"{key!r} would be one more than the {self._max_blobs} blobs that {who}"
            raise UsageError("too-many-blobs", what)
        return encoded

    def _put(self, data: Data, *, immutable: bool) -> None:
        source = data if isinstance(data, FileRange) else flat_bytes(data)
        with self._hasher.updating(source, immutable=immutable) if self._hasher else nullcontext():
            if isinstance(source, FileRange):
                self._sink.copy(source)
            else:
                self._sink.write(source)
        if self._file and self._sink.position - self._synced >= _SYNC_NBYTES:
            self._synced = self._sink.position
            self._file.sync_soon()

    def _reopen(self) -> None:
        """Nothing of the blob was written: go on as if it had not been asked for."""
        self._state = "open"
        if self._hasher:
            self._hasher.forget()

    def _finish_v2(self, directory: Directory) -> None:
        tail = directory.to_bytes() + directory.header()
        self._sink.zeros(directory.file_size - self._sink.position - len(tail))
        self._sink.write(memoryview(tail))
        self._sink.flush()

    def _finish_v1(self, directory: Directory, fd: int) -> None:
        self._sink.flush()
        start = layout.payload_start(1, len(directory))
        move_down(fd, self._start, start, self._sink.position)
        os.ftruncate(fd, directory.payload_end)
        os.ftruncate(fd, directory.file_size)
        os.lseek(fd, 0, os.SEEK_SET)
        head = Sink(fd, self.path)
        head.write(memoryview((directory.header() + directory.to_bytes()).ljust(start, b"\0")))
        head.flush()
