"""Blobs as they were before packing: any range, decoded on demand.

Spec: spec/packed.md; spec/index.md says which blobs are packed.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from blobstore.container.keys import encode_key
from blobstore.errors import FormatError, UsageError, in_file
from blobstore.fileio.hashing import digest_of
from blobstore.fileio.ranges import CHUNK_NBYTES
from blobstore.fileio.threads import in_order
from blobstore.index.metadata import BASE_NAME

if TYPE_CHECKING:
    from blobstore.compression.reader import Base, PackedReader
    from blobstore.container.reader import BlobReader
    from blobstore.fileio.types import Bytes
    from blobstore.index import IndexedBlob, NameIndex


_ALONE_NBYTES = 1 << 20  # one thread decodes less than this faster than several
_MOST_SHOWN = 255  # characters of the base's name, which is a foreign text
_MOST_HELD = 2  # blobs: readers go from one to the next


class UnpackedBlobs:
    """The blobs of a file by key, packed ones unpacked. `Store.unpacked` makes it.

    Example:
        >>> _ = blobstore.pack("model.sbs", "packed.sbs")
        >>> with blobstore.open("packed.sbs") as store:
        ...     blobs = store.unpacked
        ...     blobs.is_packed("layer.weight"), blobs.nbytes("layer.weight"), len(blobs.read("layer.weight", 0, 16))
        (True, 8192, 16)
    """

    def __init__(self, reader: BlobReader, index: NameIndex | None, base: UnpackedBlobs | None = None) -> None:
        """View a file.

        Args:
            reader: The file.
            index: Its name index, which says which blobs are packed.
            base: The file that packed blobs may be the difference to.
        """
        self.reader = reader
        self._index = index
        self._base = base
        self._opened: dict[str, PackedReader] = {}
        self._lock = threading.Lock()
        self._digests: dict[str, bytes] = {}

    def nbytes(self, key: str) -> int:
        """Return a blob's size, unpacked.

        Raises:
            KeyNotFoundError: ``key-not-found``.
        """
        row = self._row(key)
        return row.unpacked_nbytes if row and row.unpacked_nbytes else self.reader.range(key)[1]

    def is_packed(self, key: str) -> bool:
        """Whether a blob is packed: reading it makes a copy."""
        row = self._row(key)
        return bool(row and row.unpacked_nbytes)

    def needs_base(self, key: str) -> bool:
        """Whether a blob is stored as the difference to one of another file.

        Raises:
            FormatError: ``packed-…``: its stream is damaged.
        """
        row = self._row(key)
        return bool(row and row.unpacked_nbytes and self._packed(key, row.unpacked_nbytes).base_sha256)

    def _packed(self, key: str, unpacked_nbytes: int) -> PackedReader:
        """Return a packed blob's stream, opened.

        Raises:
            FormatError: ``packed-…``; ``packed-nbytes``: stream and index differ about its unpacked size.
        """
        stream = self._opened.get(key)
        if stream is None:
            from blobstore.compression.reader import PackedReader  # noqa: PLC0415 (import blobstore stays cheap)

            try:
                stream = PackedReader(self.reader[key])
            except FormatError as error:
                raise self._named(error, key) from None
            if stream.nbytes != unpacked_nbytes:
                what = f"its stream stands for {stream.nbytes} bytes, the index says {unpacked_nbytes}"
                raise FormatError("packed-nbytes", f"the packed blob {key!r}: {what}")
            with self._lock:
                self._opened[key] = stream
                # With plain reads a stream holds all stored bytes of its blob: keep few of them.
                while self.reader.access == "read" and len(self._opened) > _MOST_HELD:
                    del self._opened[next(iter(self._opened))]
        return stream

    def read(self, key: str, start: int, nbytes: int, *, workers: int | None = None) -> memoryview:
        """Return some bytes of a blob; a view unless it is packed.

        Args:
            key: Of the blob.
            start: The first byte.
            nbytes: How many, inside the blob.
            workers: Threads that decode; by default one for each core.

        Raises:
            FormatError: ``packed-…``: it is damaged.
            UsageError: ``needs-base``, ``wrong-base``: it is stored as the difference to a file that wasn't given, or
                to another one than was given.
            KeyNotFoundError: ``key-not-found``.
        """
        row = self._row(key)
        if row and row.unpacked_nbytes:
            return self.read_packed(key, row.unpacked_nbytes, start, nbytes, workers=workers)
        return self.reader.view(self.reader.range(key)[0] + start, nbytes)

    def read_packed(
        self,
        key: str,
        unpacked_nbytes: int,
        start: int,
        nbytes: int,
        *,
        out: Bytes | None = None,
        workers: int | None = None,
    ) -> memoryview:
        """As `read`, for a packed blob of this unpacked size. ``out``, shape (nbytes,), takes the bytes if given.

        Raises:
            FormatError, UsageError, KeyNotFoundError: As `read`.
        """
        stream = self._packed(key, unpacked_nbytes)
        run = partial(in_order, workers=1 if nbytes < _ALONE_NBYTES else workers)
        try:
            return stream.read(start, start + nbytes, out=out, base=self._base_of(key, stream), run=run).data
        except FormatError as error:
            raise self._named(error, key) from None

    def read_as_base(self, key: str, start: int, stop: int) -> memoryview:
        """As `read`, for bytes ``start`` to ``stop``, in this thread. Errors name this file, not the packed one.

        Raises:
            FormatError, UsageError, KeyNotFoundError: As `read`.
        """
        with in_file(self.reader.path):
            return self.read(key, start, stop - start, workers=1)

    def sha256(self, key: str) -> bytes:
        """Return the SHA-256 of a blob, unpacked, 32 bytes: from the index, or else by reading all of it.

        Raises:
            FormatError, UsageError, KeyNotFoundError: As `read_sha256`.
        """
        return self._indexed_sha256(key) or self.read_sha256(key)

    def read_sha256(self, key: str, *, chunk_nbytes: int = CHUNK_NBYTES) -> bytes:
        """Return the SHA-256 of a blob, unpacked, 32 bytes, by reading all of it.

        Args:
            key: Of the blob.
            chunk_nbytes: How much to read at a time.

        Raises:
            FormatError: ``damaged-blob``: the index has another one; or as `read`.
            UsageError, KeyNotFoundError: As `read`.
        """
        if key not in self._digests:
            nbytes = self.nbytes(key)
            starts = range(0, nbytes, chunk_nbytes)
            chunks = (self.read(key, start, min(chunk_nbytes, nbytes - start)) for start in starts)
            self._digests[key] = digest_of(chunks)
        if self._indexed_sha256(key) not in (None, self._digests[key]):
            raise FormatError("damaged-blob", f"{key!r} doesn't have the SHA-256 that the index gives: it is damaged")
        return self._digests[key]

    def _indexed_sha256(self, key: str) -> bytes | None:
        row = self._row(key)
        return row.sha256 if row and not row.unpacked_nbytes and row.nbytes == self.nbytes(key) else None

    def _base_of(self, key: str, stream: PackedReader) -> Base | None:
        if stream.base_sha256 is None:
            return None
        if self._base is None:
            fix = "use open(…, base=FILE), or --base on the command line"
            raise UsageError("needs-base", f"{key!r} is stored as the difference to another file{self._hint()}: {fix}")
        path = self._base.reader.path
        with in_file(path):
            matches = key in self._base.reader and self._base.sha256(key) == stream.base_sha256
        if not matches:
            what = f"{key!r} is stored as the difference to another file than {path!r}{self._hint()}"
            raise UsageError("wrong-base", what)
        return partial(self._base.read_as_base, key)

    def _hint(self) -> str:
        """Return what the base was called when the file was packed, if that is known."""
        with suppress(FormatError):
            name = self._index.metadata.get(BASE_NAME) if self._index else None
            return f" (it was packed against {name[:_MOST_SHOWN]!r})" if name else ""
        return ""

    def _row(self, key: str) -> IndexedBlob | None:
        if self._index is None:
            return None
        encoded = encode_key(key)
        return self._index.blob_of(encoded, self.reader.directory.find(encoded))

    def _named(self, error: FormatError, key: str) -> FormatError:
        """Return a stream's error with the key of its blob, and its offset in the file."""
        if error.path is not None:  # the base's
            return error
        path, start = self.reader.file_at(self.reader.range(key)[0])
        offset = start + (error.offset or 0)
        named = type(error)(error.reason, f"the packed blob {key!r}, at offset {offset}: {error.message}", offset)
        named.path = path if path != self.reader.path else None
        return named
