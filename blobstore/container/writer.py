"""`ContainerWriter`: keys and bytes → a container, streaming.

Spec: spec/sbs.md, Writing.
"""

from __future__ import annotations

import io
import os
from contextlib import nullcontext
from itertools import accumulate
from typing import TYPE_CHECKING, Any, BinaryIO

from blobstore.container import layout
from blobstore.container.directory import build_directory
from blobstore.container.keys import decode_key, encode_key
from blobstore.errors import UsageError, in_file, without_secrets
from blobstore.fileio.closing import Completing
from blobstore.fileio.hashing import Hasher
from blobstore.fileio.paths import target_of
from blobstore.fileio.ranges import CHUNK_NBYTES, FileRange, flat_bytes
from blobstore.fileio.sink import Sink, move, position_in, seek, truncate, write_at
from blobstore.fileio.uploads import Upload, new_file
from blobstore.fileio.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blobstore.container.directory import Directory
    from blobstore.fileio.atomic import AtomicFile
    from blobstore.fileio.types import Buffer, Writable

    Data = Buffer | FileRange


_SMALL_NBYTES = 64 << 10
_SYNC_NBYTES = 8 << 20  # of a file whose disk isn't left idle; less is written at once
_ZEROS = memoryview(bytes(layout.BLOB_ALIGN))


class ContainerWriter(Completing):
    """Writes blobs one after another; memory does not grow with the file.

    It doesn't handle name indexes: an old one beside the target stays. `blobstore.BlobWriter` removes it.

    A context manager. When the ``with`` block ends without an error, the file appears under its name, complete and
    durable; after an error the target is unchanged. Version 2 can also be written to any binary stream, such as a pipe,
    version 1 to one that can seek and be read, such as `io.BytesIO`. An error leaves a stream without its directory,
    and so unreadable.

    Attributes:
        version: Of the container, 1 or 2.
        keys: Of the blobs so far, in order.
    """

    def __init__(
        self,
        target: Writable,
        *,
        version: int = 2,
        digests: bool = False,
        max_blobs: int = layout.MAX_BLOBS,
        undoable: bool = False,
        durable: bool = True,
    ) -> None:
        """Begin a file.

        Args:
            target: A path or a URL; or a binary stream, which is written from its position on, and stays open.
            version: 2, or 1 for runtimes from before 2025-07-31.
            digests: Whether to hash what is written, for `digests`.
            max_blobs: How many blobs the file may have: up to 1,048,576, or 16,383 for a file that every gemma.cpp
                reads.
            undoable: Whether `undo_last` will be needed: at a URL, where the last blob then waits here.
            durable: Whether a file at a path is on the disk when it is complete, as for `blobstore.create`.

        Raises:
            UsageError: ``bad-version``; ``bad-max-blobs``; ``bad-target``; ``closed``; ``not-empty`` when bytes follow
                a stream's position; ``needs-seek`` for version 1 to a URL, or a stream that can't seek or be read;
                ``not-a-file``; ``no-upload``, ``unknown-scheme`` for a URL.
            MissingExtraError: ``needs-remote`` for a URL.
            RemoteError: A URL can't be reached.
            OSError: The target's folder can't be written to.
        """
        if version not in (1, 2) or isinstance(version, bool):
            raise UsageError("bad-version", f"a container has version 1 or 2, not {version!r}")
        if not 1 <= max_blobs <= layout.MAX_BLOBS:
            raise UsageError("bad-max-blobs", f"a file has 1 to {layout.MAX_BLOBS} blobs, not {max_blobs!r}")
        self.version = version
        self._max_blobs = max_blobs
        self._undoable = undoable
        self.keys: list[str] = []
        self._encoded: list[bytes] = []
        self._seen: set[bytes] = set()
        self._sizes: list[int] = []
        self._hasher = Hasher() if digests else None
        self._file: AtomicFile | Upload | None = None
        self._state = "open"
        self._begin = 0
        self._stream: Any = None
        target = target_of(target)
        if isinstance(target, str):
            if version == 1 and is_url(target):
                what = f"{without_secrets(target)!r}: version 1 begins with its directory, which is written last"
                raise UsageError("needs-seek", f"{what}, but uploads go front to back: write version 2")
            self._file = new_file(target, undoable=undoable, durable=durable)
            self._sink = Sink(self._file.output(), self._file.path)
        else:
            self._begin = _check_stream(target, version)
            self._stream = target
            self._sink = Sink(target)
        # Version 1 can't know its first blob's offset yet: leave the space that most files need, and move the blobs at
        # the end. 32 MiB for the largest directory would be held in a stream in memory.
        self._start = layout.payload_start(version, min(max_blobs, layout.MAX_PORTABLE_BLOBS))
        if version == 1:
            seek(self._output(), self._begin + self._start)
        else:
            self._sink.write(memoryview(layout.PLACEHOLDER.ljust(self._start, b"\0")))

    def add(self, key: str, data: Data) -> None:
        """Write one blob.

        Args:
            key: 1 to 16 bytes as UTF-8 (other bytes as surrogates), not used before.
            data: Bytes-like, an array in C order, or a `FileRange`; not empty; not kept.

        Raises:
            UsageError: ``bad-key``, ``key-too-long``, ``duplicate-key``, ``too-many-blobs``, ``empty-blob``,
                ``not-contiguous``, ``not-bytes``; nothing was written, and the writer can go on.

        Example:
            >>> with blobstore.BlobWriter("raw.sbs") as writer:
            ...     writer.add("a", b"four")
            ...     writer.keys, writer.sizes
            (['a'], [4])
        """
        self.add_chunks(key, (data,))

    def add_chunks(
        self, key: str, chunks: Iterable[Data], *, nbytes: int | None = None, immutable: bool = False
    ) -> int:
        """Write one blob from pieces, each as `add` takes it.

        Args:
            key: As `add`.
            chunks: The pieces.
            nbytes: Their total size, if known; it is checked.
            immutable: No piece changes (and no file of one is closed) until `digests` or the end: they are hashed
                while later ones are written, several blobs at once. Otherwise a piece is hashed before the next one is
                asked for.

        Returns:
            The blob's size in bytes.

        Raises:
            UsageError: As `add`; ``wrong-size`` for more or fewer bytes than ``nbytes``. After the first piece an error
                breaks the file.

        Example:
            >>> with blobstore.BlobWriter("raw.sbs") as writer:
            ...     writer.add_chunks("a", (bytes(1000) for _ in range(3)), nbytes=3000)
            3000
        """
        encoded = self._check(key)
        if isinstance(chunks, tuple) and len(chunks) == 1 and not isinstance(chunks[0], FileRange):
            source = flat_bytes(chunks[0])
            if 0 < len(source) < _SMALL_NBYTES and nbytes in (None, len(source)):
                self._add_small(key, encoded, source)
                return len(source)
        self._mark()
        before = self._sink.position
        if self._hasher:
            self._hasher.begin()
        self._state = "broken"  # until the blob is complete
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
            raise UsageError("wrong-size", f"{key!r} should have {nbytes} bytes, {written} were given")
        self._sink.zeros(-written % layout.BLOB_ALIGN)
        self._added(key, encoded, written)
        return written

    def _add_small(self, key: str, encoded: bytes, data: memoryview) -> None:
        """Write a small blob that is in one piece, as most of very many are: in a third of the time."""
        self._mark()
        self._state = "broken"
        if self._hasher:
            self._hasher.add_small((data,))
        nbytes = len(data)
        self._sink.write(data)
        self._sink.write(_ZEROS[: -nbytes % layout.BLOB_ALIGN])
        if self._file:
            self._file.wrote_up_to(self._sink.position)
        self._added(key, encoded, nbytes)

    def _added(self, key: str, encoded: bytes, nbytes: int) -> None:
        """Note a blob that is complete."""
        self._state = "open"
        self.keys.append(key)
        self._encoded.append(encoded)
        self._seen.add(encoded)
        self._sizes.append(nbytes)

    def add_adjacent(self, keys: Sequence[str], data: Buffer, sizes: Sequence[int]) -> None:
        """Write small blobs whose bytes follow each other in memory: as `add` for each, in a tenth of the time.

        Args:
            keys: As `add`.
            data: The bytes of all of them, or an array in C order; not kept.
            sizes: Of each, in bytes; none is 0, and ``data`` has as many as all of them.

        Raises:
            UsageError: As `add`; nothing was written.
            OSError: Writing failed; the file can't be completed after that.

        Example:
            >>> with blobstore.BlobWriter("raw.sbs") as writer:
            ...     writer.add_adjacent(["a", "b"], memoryview(b"fourmore"), [4, 4])
            ...     writer.keys, writer.sizes
            (['a', 'b'], [4, 4])
        """
        encoded = self._check_all(keys)
        source = flat_bytes(data)
        if min(sizes, default=1) <= 0 or sum(sizes) != len(source) or len(keys) != len(sizes):
            raise UsageError("wrong-size", f"{len(keys)} blobs of {sum(sizes)} bytes, {len(source)} were given")
        ends = list(accumulate(sizes))
        blobs = [source[end - nbytes : end] for end, nbytes in zip(ends, sizes, strict=True)]
        self._mark()
        self._state = "broken"
        if self._hasher:
            self._hasher.add_small(blobs)
        self._sink.write(source if all(nbytes % layout.BLOB_ALIGN == 0 for nbytes in sizes) else _padded(blobs))
        if self._file:
            self._file.wrote_up_to(self._sink.position)
        self._state = "open"
        self.keys += keys
        self._encoded += encoded
        self._seen.update(encoded)
        self._sizes += sizes

    @property
    def sizes(self) -> list[int]:
        """The sizes of the blobs so far, in bytes.

        Example:
            >>> with blobstore.BlobWriter("raw.sbs") as writer:
            ...     writer["a"] = b"four"
            ...     writer.sizes
            [4]
        """
        return list(self._sizes)

    @property
    def encoded_keys(self) -> list[bytes]:
        """The keys so far as bytes, without padding.

        Example:
            >>> with blobstore.BlobWriter("raw.sbs") as writer:
            ...     writer["a"] = b"four"
            ...     writer.encoded_keys
            [b'a']
        """
        return list(self._encoded)

    def directory(self) -> Directory:
        """Return the directory of the blobs so far.

        Raises:
            UsageError: ``no-blobs`` when nothing was added.

        Example:
            >>> with blobstore.BlobWriter("raw.sbs") as writer:
            ...     writer["a"] = b"four"
            ...     writer.directory().range(0)
            (256, 4)
        """
        if not self._sizes:
            raise UsageError("no-blobs", "a container has at least one blob")
        return build_directory(self.version, self._encoded, self._sizes)

    def undo_last(self) -> None:
        """Remove the blob that was added last, from a file.

        Raises:
            UsageError: ``needs-seek`` when this writes to a stream, or to a URL and isn't ``undoable``; ``no-blobs``;
                ``closed``.

        Example:
            >>> with blobstore.BlobWriter("raw.sbs") as writer:
            ...     writer["a"] = b"four"
            ...     writer["b"] = b"more"
            ...     writer.undo_last()
            ...     writer.keys
            ['a']
        """
        if self._state != "open":
            raise UsageError("closed", f"this writer is {self._state}, nothing can be undone")
        if self._file is None:
            raise UsageError("needs-seek", "a write to a stream can't be undone")
        if not self._sizes:
            raise UsageError("no-blobs", "there is no blob to undo")
        nbytes = layout.round_up(self._sizes[-1], layout.BLOB_ALIGN)
        self._sink.flush()
        if self._hasher:
            self._hasher.forget()
        self._sink.position -= nbytes
        with in_file(self.path):
            if isinstance(self._file, Upload):
                self._file.undo(nbytes)
            else:
                end = os.lseek(self._file.fileno(), -nbytes, os.SEEK_CUR)
                os.ftruncate(self._file.fileno(), end)
        self._seen.remove(self._encoded.pop())
        self.keys.pop()
        self._sizes.pop()

    @property
    def broken(self) -> bool:
        """Whether a blob is incomplete, so that the file can't be completed.

        Example:
            >>> writer = blobstore.BlobWriter("raw.sbs")
            >>> try:
            ...     writer.add_chunks("a", [b"four"], nbytes=5)
            ... except blobstore.UsageError as error:
            ...     error.reason, writer.broken
            ('wrong-size', True)
            >>> writer.discard()
        """
        return self._state == "broken"

    @property
    def closed(self) -> bool:
        """Whether the file was completed or given up.

        Example:
            >>> writer = blobstore.BlobWriter("raw.sbs")
            >>> writer["a"] = b"four"
            >>> writer.close()
            >>> writer.closed
            True
        """
        return self._state in ("closed", "discarded")

    def digests(self) -> list[bytes]:
        """Return the SHA-256 of each blob so far, 32 bytes each, in order.

        Raises:
            UsageError: ``no-digests`` when the writer was made without ``digests=True``.

        Example:
            >>> with blobstore.BlobWriter("raw.sbs", digests=True) as writer:
            ...     writer.add("a", b"four")
            ...     writer.digests()[0].hex()[:8]
            '04efaf08'
        """
        if self._hasher is None:
            raise UsageError("no-digests", "pass digests=True to BlobWriter")
        if self._file and self._state == "open" and self._sink.position >= _SYNC_NBYTES:
            # The disk can work while the rest is hashed.
            self._sink.flush()
            self._file.sync_soon()
        return self._hasher.digests()

    def close(self) -> None:
        """Complete the file and give it its name. The ``with`` block calls it; does nothing the second time.

        Raises:
            UsageError: ``no-blobs`` when nothing was added; ``incomplete`` when a blob is. No file appears.
            OSError: Writing failed. No file appears.

        Example:
            >>> writer = blobstore.BlobWriter("raw.sbs")
            >>> writer["a"] = b"four"
            >>> writer.close()
            >>> bytes(blobstore.BlobReader("raw.sbs")["a"])
            b'four'
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
    def target(self) -> str | None:
        """A path of the target, which means the same as at the beginning; None for a stream.

        Example:
            >>> with blobstore.BlobWriter("raw.sbs") as writer:
            ...     writer["a"] = b"four"
            ...     writer.target
            'raw.sbs'
        """
        return self._file.target if self._file else None

    @property
    def path(self) -> str:
        """The target's path; empty for a stream.

        Example:
            >>> with blobstore.BlobWriter("raw.sbs") as writer:
            ...     writer["a"] = b"four"
            ...     writer.path
            'raw.sbs'
        """
        return self._file.path if self._file else ""

    @property
    def committed(self) -> bool:
        """Whether the target is the new file.

        Example:
            >>> writer = blobstore.BlobWriter("raw.sbs")
            >>> writer["a"] = b"four"
            >>> writer.committed
            False
            >>> writer.close()
            >>> writer.committed
            True
        """
        return self._file is not None and self._file.committed

    def move(self) -> None:
        """Give the prepared file its name, whatever is beside it. After an error this can be tried again.

        Example:
            >>> writer = blobstore.BlobWriter("raw.sbs")
            >>> writer["a"] = b"four"
            >>> writer.prepare()
            >>> writer.move()
            >>> list(blobstore.BlobReader("raw.sbs"))
            ['a']
        """
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
        """Leave the prepared file beside the target, complete, and return its path.

        Example:
            >>> writer = blobstore.BlobWriter("raw.sbs")
            >>> writer["a"] = b"four"
            >>> writer.prepare()
            >>> list(blobstore.BlobReader(writer.keep()))
            ['a']
        """
        self._state = "closed"
        if self._hasher:
            self._hasher.close()
        return self._file.keep() if self._file else ""

    def prepare(self) -> None:
        """Complete the file except for its name, which `close` gives it: for files that get their names together.

        Raises:
            UsageError, OSError: As `close`.

        Example:
            >>> writers = [blobstore.BlobWriter("1.sbs"), blobstore.BlobWriter("2.sbs")]
            >>> for writer in writers:
            ...     writer["a"] = b"four"
            ...     writer.prepare()
            >>> for writer in writers:
            ...     writer.close()
        """
        if self._state not in ("open", "broken"):
            return
        try:
            if self.broken:
                raise UsageError("incomplete", "a blob is incomplete after an error: this file can't be completed")
            directory = self.directory()
            with in_file(self.path):
                if self.version == 1:
                    self._finish_v1(directory, self._output())
                else:
                    self._finish_v2(directory)
            if self._file:
                self._file.prepare()
        except BaseException:
            self.discard()
            raise
        self._state = "prepared"

    def discard(self) -> None:
        """Give the file up: no file appears, nothing is left behind.

        Example:
            >>> writer = blobstore.BlobWriter("raw.sbs")
            >>> writer["a"] = b"four"
            >>> writer.discard()
            >>> writer.closed, writer.committed
            (True, False)
        """
        if self._state != "closed":
            self._state = "discarded"
        try:
            if self._file:
                self._file.discard()
        finally:
            if self._hasher:
                self._hasher.discard()

    def _check_open(self) -> None:
        if self._state != "open":
            raise UsageError("closed", f"this writer is {self._state}, nothing can be added")

    def _check(self, key: str) -> bytes:
        self._check_open()
        encoded = encode_key(key)
        if encoded in self._seen:
            raise UsageError("duplicate-key", f"{key!r} is already in the file")
        if len(self._sizes) == self._max_blobs:
            raise one_too_many(key, self._max_blobs)
        return encoded

    def _check_all(self, keys: Sequence[str]) -> list[bytes]:
        """Check keys that are added together; there may be none."""
        self._check_open()
        encoded = [self._check(key) for key in keys]
        if len({*encoded}) < len(encoded):
            repeated = next(key for i, key in enumerate(encoded) if key in encoded[:i])
            raise UsageError("duplicate-key", f"{decode_key(repeated)!r} is given twice")
        if len(self._sizes) + len(keys) > self._max_blobs:
            raise one_too_many(keys[self._max_blobs - len(self._sizes)], self._max_blobs)
        return encoded

    def _mark(self) -> None:
        """Begin what `undo_last` can take back at a URL."""
        if self._undoable and isinstance(self._file, Upload):
            self._sink.flush()
            self._file.mark()

    def _put(self, data: Data, *, immutable: bool) -> None:
        if isinstance(data, FileRange) and data.is_elsewhere:
            # Read once, and not again to hash it.
            for start in range(0, data.nbytes, CHUNK_NBYTES):
                self._put(data.part(start, CHUNK_NBYTES).read(), immutable=True)
            return
        source = data if isinstance(data, FileRange) else flat_bytes(data)
        with self._hasher.updating(source, immutable=immutable) if self._hasher else nullcontext():
            if isinstance(source, FileRange):
                self._sink.copy(source)
            else:
                self._sink.write(source)
        if self._file:
            self._file.wrote_up_to(self._sink.position)

    def _reopen(self) -> None:
        """Go on as if the blob had not been added: nothing of it was written."""
        self._state = "open"
        if self._hasher:
            self._hasher.forget()

    def _finish_v2(self, directory: Directory) -> None:
        tail = directory.to_bytes() + directory.header()
        self._sink.zeros(directory.file_size - self._sink.position - len(tail))
        self._sink.write(memoryview(tail))
        self._sink.flush()

    def _output(self) -> int | BinaryIO:
        """Return what is written to: a descriptor or a stream."""
        return self._file.output() if self._file else self._stream

    def _finish_v1(self, directory: Directory, file: int | BinaryIO) -> None:
        self._sink.flush()
        start = layout.payload_start(1, len(directory))
        move(file, self._begin + self._start, self._begin + start, self._sink.position, self.path)
        truncate(file, self._begin + directory.payload_end)
        head = (directory.header() + directory.to_bytes()).ljust(start, b"\0")
        if isinstance(file, int):
            os.ftruncate(file, directory.file_size)
        else:  # not every stream grows when it is truncated
            write_at(file, self._begin + directory.payload_end, bytes(directory.file_size - directory.payload_end))
        write_at(file, self._begin, head, self.path)
        seek(file, self._begin + directory.file_size)


def _padded(blobs: Iterable[memoryview]) -> memoryview:
    """Return small blobs one after another, each with its padding."""
    zeros = bytes(layout.BLOB_ALIGN)
    pieces = (piece for blob in blobs for piece in (blob, zeros[: -len(blob) % layout.BLOB_ALIGN]))
    return memoryview(b"".join(pieces))


def one_too_many(name: str, max_blobs: int) -> UsageError:
    """Return the error for a blob that is one more than a file may have."""
    limit = {
        layout.MAX_PORTABLE_BLOBS: f"every gemma.cpp takes: max_blobs={layout.MAX_BLOBS} is for the latest",
        layout.MAX_BLOBS: "a file has at most: write several files",
    }.get(max_blobs, "this file may have")
    return UsageError("too-many-blobs", f"{name!r} would be one more than the {max_blobs} blobs that {limit}")


def _check_stream(stream: Any, version: int) -> int:  # noqa: ANN401 (anything may be given)
    """Return where a stream begins."""
    if getattr(stream, "closed", False):
        raise UsageError("closed", "the stream is closed")
    if isinstance(stream, (io.FileIO, io.BufferedReader)) and not stream.writable():
        raise UsageError("bad-target", "the stream is open for reading only: open it with mode 'wb'")
    begin = position_in(stream)
    if version == 1 and (begin is None or not _can_be_rearranged(stream)):
        what = "version 1 begins with its directory, which is written last: that needs a stream that can seek and be"
        raise UsageError("needs-seek", f"{what} read (io.BytesIO, or mode 'w+b'). Write version 2, or to a path")
    return begin or 0


def _can_be_rearranged(stream: Any) -> bool:  # noqa: ANN401 (as above)
    readable = getattr(stream, "readable", None)
    return hasattr(stream, "truncate") and readable is not None and bool(readable())
