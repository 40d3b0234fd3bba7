"""Blobs as they were before they were packed: any range, decoded when it is asked for.

Spec: spec/packed.md; spec/index.md says which blobs are packed.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from blobstore.container.keys import encode_key
from blobstore.errors import FormatError, UsageError, in_file
from blobstore.fileio.hashing import digest_of
from blobstore.fileio.threads import in_order

if TYPE_CHECKING:
    from blobstore.compression.reader import Base, PackedReader
    from blobstore.container.reader import BlobReader
    from blobstore.fileio.types import Bytes
    from blobstore.index import IndexedBlob, NameIndex


_ALONE_NBYTES = 1 << 20  # less than this one thread decodes faster than several
_HASH_NBYTES = 4 << 20
_MOST_HELD = 2  # blobs: a reader goes from one to the next


class UnpackedBlobs:
    """The blobs of a file by key, packed ones unpacked."""

    def __init__(self, reader: BlobReader, index: NameIndex | None, base: UnpackedBlobs | None = None) -> None:
        """View a file.

        Args:
            reader: The file.
            index: Its name index, which says what is packed.
            base: The file that packed ones may be the difference to.
        """
        self.reader = reader
        self._index = index
        self._base = base
        self._opened: dict[str, PackedReader] = {}
        self._lock = threading.Lock()
        self._digests: dict[str, bytes] = {}

    def nbytes(self, key: str) -> int:
        """Return a blob's size.

        Raises:
            KeyNotFoundError: ``key-not-found``.
        """
        row = self._row(key)
        return row.unpacked_nbytes if row and row.unpacked_nbytes else self.reader.range(key)[1]

    def is_packed(self, key: str) -> bool:
        """Return whether a blob is packed: whether reading it makes a copy."""
        row = self._row(key)
        return bool(row and row.unpacked_nbytes)

    def _packed(self, key: str, unpacked_nbytes: int) -> PackedReader:
        """Return a packed blob's stream, opened.

        Raises:
            FormatError: ``packed-…``; ``packed-nbytes``: it stands for another number of bytes than the index says.
        """
        found = self._opened.get(key)
        if found is None:
            from blobstore.compression.reader import PackedReader  # noqa: PLC0415 (import blobstore stays cheap)

            try:
                found = PackedReader(self.reader[key])
            except FormatError as error:
                raise self._named(error, key) from None
            if found.nbytes != unpacked_nbytes:
                what = f"its stream stands for {found.nbytes} bytes, the index says {unpacked_nbytes}"
                raise FormatError("packed-nbytes", f"the packed blob {key!r}: {what}")
            with self._lock:
                self._opened[key] = found
                # Plain reads hold all of the stored bytes: not those of a whole file.
                while self.reader.access == "read" and len(self._opened) > _MOST_HELD:
                    del self._opened[next(iter(self._opened))]
        return found

    def read(self, key: str, start: int, nbytes: int, *, workers: int | None = None) -> memoryview:
        """Return some bytes of a blob: a view where it isn't packed.

        Args:
            key: Of the blob.
            start: The first byte.
            nbytes: How many, inside the blob.
            workers: Threads that decode; by default one for each core.

        Raises:
            FormatError: ``packed-…``: it is damaged.
            UsageError: ``needs-base``, ``wrong-base``: it is the difference to a file that isn't there, or another.
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
        """As `read`, of a blob that is packed and stands for so many bytes; to ``out``, shape (nbytes,), if given."""
        stream = self._packed(key, unpacked_nbytes)
        run = partial(in_order, workers=1 if nbytes < _ALONE_NBYTES else workers)
        try:
            return stream.read(start, start + nbytes, out=out, base=self._base_of(key, stream), run=run).data
        except FormatError as error:
            raise self._named(error, key) from None

    def read_as_base(self, key: str, start: int, stop: int) -> memoryview:
        """As `read`, from one byte to another, in this thread. Errors name this file, not the one that is packed."""
        with in_file(self.reader.path):
            return self.read(key, start, stop - start, workers=1)

    def sha256(self, key: str) -> bytes:
        """Return the SHA-256 of a blob, unpacked: as the index keeps it, else by reading all of it."""
        return self._kept_sha256(key) or self.read_sha256(key)

    def read_sha256(self, key: str) -> bytes:
        """Return the SHA-256 of a blob, unpacked, by reading all of it.

        Raises:
            FormatError: ``damaged-blob``: the index keeps another one; or as `read`.
        """
        if key not in self._digests:
            nbytes = self.nbytes(key)
            starts = range(0, nbytes, _HASH_NBYTES)
            self._digests[key] = digest_of(self.read(key, at, min(_HASH_NBYTES, nbytes - at)) for at in starts)
        if self._kept_sha256(key) not in (None, self._digests[key]):
            raise FormatError("damaged-blob", f"{key!r} is not what its SHA-256 in the index says: it is damaged")
        return self._digests[key]

    def _kept_sha256(self, key: str) -> bytes | None:
        row = self._row(key)
        return row.sha256 if row and not row.unpacked_nbytes and row.nbytes == self.nbytes(key) else None

    def _base_of(self, key: str, stream: PackedReader) -> Base | None:
        if stream.base_sha256 is None:
            return None
        if self._base is None:
            what = "is stored as the difference to another file: open(…, base=FILE), or --base FILE on the command line"
            raise UsageError("needs-base", f"{key!r} {what}")
        path = self._base.reader.path
        with in_file(path):
            right = key in self._base.reader and self._base.sha256(key) == stream.base_sha256
        if not right:
            raise UsageError("wrong-base", f"{path!r} is not the file that {key!r} is stored as the difference to")
        return partial(self._base.read_as_base, key)

    def _row(self, key: str) -> IndexedBlob | None:
        if self._index is None:
            return None
        encoded = encode_key(key)
        return self._index.blob_of(encoded, self.reader.directory.find(encoded))

    def _named(self, error: FormatError, key: str) -> FormatError:
        """Return an error of a stream as one of the file that it is in."""
        if error.path is not None:  # the base's
            return error
        at = self.reader.range(key)[0] + (error.offset or 0)
        return type(error)(error.reason, f"the packed blob {key!r}, at offset {at}: {error.message}", at)
