"""`BlobReader`: the blobs of a file, as a mapping from key to memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from blobstore.container.directory import parse_directory
from blobstore.container.keys import encode_key
from blobstore.container.suggest import close_to
from blobstore.errors import KeyNotFoundError, UsageError, in_file
from blobstore.fileio.closing import Closing
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.source import name_of, open_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from os import PathLike
    from typing import Self

    from blobstore.container.directory import Directory
    from blobstore.fileio.remote import RemoteSource
    from blobstore.fileio.types import Access, ByteSource, Prefetch, Readable, ReadInto, SourceAccess


def directory_in(source: ByteSource) -> Directory:
    """Read and check the directory of an open file.

    Raises:
        FormatError, TruncatedError: As `parse_directory`.
    """
    remote = _elsewhere(source)
    if remote is None:
        return parse_directory(source.view, source.size)
    directory = parse_directory(source.view, source.size, expect=remote.expect)
    remote.tell_blobs(directory.offsets)
    return directory


def _elsewhere(source: ByteSource) -> RemoteSource | None:
    """Return a file that lies elsewhere; None for one that is here."""
    if source.access != "read":
        return None
    from blobstore.fileio.remote import RemoteSource  # noqa: PLC0415 (1 ms, and most files are mapped)

    return source if isinstance(source, RemoteSource) else None


class BlobReader(Mapping[str, memoryview], Closing):
    """The blobs of a file, by key, in file order.

    Values are read-only views of the map (copies with ``access="read"``) and stay valid after `close`. Bytes of keys
    that are not UTF-8 become surrogates.

    Attributes:
        path: As given, as text; for a file object its name, or what it is: ``<BytesIO>``.
        directory: Where each blob lies; checked.

    Example:
        >>> with blobstore.BlobWriter("raw.sbs") as writer:
        ...     writer["weights"] = np.arange(6, dtype=np.float32)
        >>> reader = blobstore.BlobReader("raw.sbs")
        >>> list(reader), reader.range("weights"), reader.version
        (['weights'], (256, 24), 2)
        >>> np.frombuffer(reader["weights"], np.float32)[:3]
        array([0., 1., 2.], dtype=float32)
    """

    def __init__(
        self,
        path: Readable,
        *,
        access: Access = "auto",
        writable: bool = False,
        prefetch: Prefetch = "none",
    ) -> None:
        """Open a file and check its structure (not the contents of its blobs).

        Args:
            path: A .sbs file of version 1 or 2: its path, a binary file object that can seek, or its bytes; as for
                `blobstore.open`.
            access: ``mmap`` maps the file. ``read`` uses plain reads, for network drives and for files that may be
                truncated while they are open, which would kill a process that maps them. ``auto`` maps, unless the file
                is on a network drive.
            writable: Views can be written to. Only pages that are written to are copied, and changes stay in this
                process.
            prefetch: How the map will be read, as for `blobstore.open`.

        Raises:
            UsageError: ``bad-access``, ``bad-prefetch``, ``not-a-file``; ``bad-file``, ``needs-seek``, ``closed``.
            FormatError, TruncatedError: The file is invalid; ``reason`` is a code of spec/sbs.md.
            OSError: It can't be opened.
        """
        with in_file(name_of(path)):
            source = open_source(path, access, writable=writable, prefetch=prefetch)
            try:
                self._begin(path, source)
            except BaseException:
                source.close()
                raise

    def _begin(self, path: Readable, source: ByteSource) -> None:
        self.path: str = name_of(path)
        self._source: ByteSource = source
        self.directory: Directory = directory_in(source)

    @classmethod
    def of_source(cls, path: Readable, source: ByteSource) -> Self:
        """Return the blobs of a file that is open. This takes it over, unless it raises. For this package.

        Raises:
            FormatError, TruncatedError: As ``BlobReader(path)``.

        Example:
            >>> from blobstore.fileio.source import open_source
            >>> len(blobstore.BlobReader.of_source("model.sbs", open_source("model.sbs")))
            3
        """
        reader = cls.__new__(cls)
        reader._begin(path, source)  # noqa: SLF001 (the same class)
        return reader

    @property
    def version(self) -> int:
        """The container's version, 1 or 2.

        Example:
            >>> blobstore.BlobReader("model.sbs").version
            2
        """
        return self.directory.version

    @property
    def file_size(self) -> int:
        """The file's size in bytes.

        Example:
            >>> blobstore.BlobReader("model.sbs").file_size
            65536
        """
        return self.directory.file_size

    @property
    def access(self) -> SourceAccess:
        """How blobs are read: ``mmap`` or ``read``; ``memory`` for views of the bytes that this was opened from.

        Example:
            >>> blobstore.BlobReader("model.sbs", access="read").access
            'read'
        """
        return self._source.access

    @property
    def writable(self) -> bool:
        """Whether views can be written to; the file never changes.

        Example:
            >>> blobstore.BlobReader("model.sbs", writable=True).writable
            True
        """
        return self._source.writable

    @property
    def has_path(self) -> bool:
        """Whether this was opened by a path: an index may be beside the file then.

        Example:
            >>> blobstore.BlobReader("model.sbs").has_path
            True
        """
        return self._source.has_path

    @property
    def in_memory(self) -> bool:
        """Whether this was opened from the file's bytes, not from a path or a file object.

        Example:
            >>> blobstore.BlobReader(blobstore.save({"a": np.arange(3)})).in_memory
            True
        """
        return self._source.in_memory

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that the blobs are in: this one, or those of a set.

        Example:
            >>> blobstore.BlobReader("model.sbs").paths
            ('model.sbs',)
        """
        return (self.path,)

    def file_at(self, offset: int) -> tuple[str, int]:
        """Return which file has the byte at an offset, and where: the offsets of a set are counted over its files.

        Example:
            >>> blobstore.BlobReader("model.sbs").file_at(256)
            ('model.sbs', 256)
        """
        return self.path, offset

    def range(self, key: str) -> tuple[int, int]:
        """Return (offset, nbytes) of a blob in the file, both in bytes.

        Raises:
            KeyNotFoundError: ``key-not-found``; the message says which keys come close.

        Example:
            >>> blobstore.save_file({"a": np.arange(3)}, "a.sbs")
            >>> blobstore.BlobReader("a.sbs").range("a")
            (256, 24)
        """
        return self.directory.range(self._place(key))

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return bytes of the file, read-only.

        Raises:
            TruncatedError: ``short-read`` with ``access="read"`` when the file has shrunk.
            UsageError: ``outside`` when not all of them are in the file; ``closed``.

        Example:
            >>> blobstore.save_file({"a": np.arange(3, dtype=np.uint8)}, "a.sbs")
            >>> blobstore.BlobReader("a.sbs").view(256, 3).tolist()
            [0, 1, 2]
        """
        self._check_inside(offset, nbytes)
        with in_file(self.path):
            return self._source.view(offset, nbytes)

    @property
    def whole(self) -> memoryview | None:
        """All bytes of the file, if they can be viewed without a copy, at once, and this is open; else None.

        Example:
            >>> blobstore.BlobReader("model.sbs").whole.nbytes
            65536
        """
        return self._source.whole

    def file_range(self, key: str) -> FileRange:
        """Return where a blob's bytes lie, for copying; valid while this is open.

        Raises:
            KeyNotFoundError: ``key-not-found``.

        Example:
            >>> blobstore.save_file({"a": np.arange(3)}, "a.sbs")
            >>> with blobstore.BlobReader("a.sbs") as reader, blobstore.BlobWriter("copy.sbs") as writer:
            ...     writer["b"] = reader.file_range("a")
            >>> blobstore.BlobReader("copy.sbs").range("b")
            (256, 24)
        """
        return self.part_of_file(*self.range(key))

    def part_of_file(self, offset: int, nbytes: int) -> FileRange:
        """Return where bytes of the file lie, for copying; valid while this is open.

        Raises:
            UsageError: ``outside`` when not all of them are in the file.

        Example:
            >>> with blobstore.BlobReader("model.sbs") as reader:
            ...     bytes(reader.part_of_file(0, 3).read())
            b'SBS'
        """
        self._check_inside(offset, nbytes)
        return FileRange(self._source, offset, nbytes)

    def _check_inside(self, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.file_size:
            raise UsageError("outside", f"{nbytes} bytes at offset {offset} are not inside {self.file_size} bytes")

    def is_at(self, path: str | PathLike[str]) -> bool:
        """Whether a path names this very file.

        Example:
            >>> blobstore.BlobReader("model.sbs").is_at("./model.sbs")
            True
        """
        return self._source.is_at(path)

    @property
    def device(self) -> int | None:
        """The device of its file system, ``st_dev``; None for what is not a file on disk.

        Example:
            >>> import os
            >>> blobstore.BlobReader("model.sbs").device == os.stat("model.sbs").st_dev
            True
        """
        return self._source.device

    def fileno(self) -> int:
        """Return the open file's descriptor, for copying where no other thread closes it.

        Raises:
            UsageError: ``closed``; ``no-descriptor``: it is not a file on disk.

        Example:
            >>> import os
            >>> with blobstore.BlobReader("model.sbs") as reader:
            ...     os.fstat(reader.fileno()).st_size == reader.file_size
            True
        """
        return self._source.fileno()

    def held(self) -> AbstractContextManager[int | None]:
        """Return the descriptor, or None, for a ``with`` block, during which no other thread's `close` frees it.

        Raises:
            UsageError: ``closed``.

        Example:
            >>> import os
            >>> with blobstore.BlobReader("model.sbs").held() as descriptor:
            ...     os.fstat(descriptor).st_size
            65536
        """
        return self._source.held()

    def reading(self) -> AbstractContextManager[ReadInto]:
        """Return a function for a ``with`` block that fills a buffer with the file's bytes from an offset on.

        It works to the end of the block, even if another thread closes this meanwhile.

        Raises:
            UsageError: ``closed``.

        Example:
            >>> buffer = bytearray(3)
            >>> with blobstore.BlobReader("model.sbs").reading() as read_into:
            ...     read_into(memoryview(buffer), 0)
            >>> buffer
            bytearray(b'SBS')
        """
        return self._source.reading()

    def reading_ahead(self, ranges: Iterable[tuple[int, int]]) -> AbstractContextManager[None]:
        """Announce what will be read in a ``with`` block: a file elsewhere is asked for it ahead, in few requests.

        Args:
            ranges: (offset, nbytes) of each, in the order in which they will be read. Nothing else need be read.

        Example:
            >>> with blobstore.BlobReader("model.sbs") as reader, reader.reading_ahead([reader.range("layer.bias")]):
            ...     reader["layer.bias"].nbytes
            256
        """
        remote = _elsewhere(self._source)
        return remote.reading_ahead(ranges) if remote else nullcontext()

    @property
    def is_elsewhere(self) -> bool:
        """Whether this was opened by a URL, or from a file object that fetches ranges.

        Example:
            >>> blobstore.BlobReader("model.sbs").is_elsewhere
            False
        """
        return _elsewhere(self._source) is not None

    @property
    def url(self) -> str:
        """The URL that this was opened by; empty for a file here, and for a file object.

        Example:
            >>> blobstore.BlobReader("model.sbs").url
            ''
        """
        remote = _elsewhere(self._source)
        return remote.url if remote else ""

    def close(self) -> None:
        """Let go of the file; views stay valid until the last of them is gone.

        Example:
            >>> reader = blobstore.BlobReader("model.sbs")
            >>> bias = reader["layer.bias"]
            >>> reader.close()
            >>> bias.nbytes
            256
        """
        self._source.close()

    def _find(self, key: object) -> int:
        try:
            return self.directory.find(encode_key(key))  # type: ignore[arg-type]
        except UsageError:  # an invalid key is not in the file
            return -1

    def _place(self, key: str) -> int:
        place = self._find(key)
        if place < 0:
            hint = close_to(str(key), self.directory.all_keys)
            raise KeyNotFoundError("key-not-found", f"no blob has the key {key!r}{hint}")
        return place

    def __getitem__(self, key: str) -> memoryview:
        """Return a blob's bytes, read-only: a view, or with ``access="read"`` a copy.

        Raises:
            KeyNotFoundError: ``key-not-found``; the message says which keys come close.
            TruncatedError: ``short-read`` with ``access="read"`` when the file has shrunk.
            UsageError: ``closed``.
        """
        return self.view(*self.range(key))

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 (as a mapping's)
        """Return a blob, or ``default``; a missing key costs no search for similar ones.

        Raises:
            TruncatedError, UsageError: As ``reader[key]``.

        Example:
            >>> blobstore.BlobReader("model.sbs").get("config") is None
            True
        """
        place = self._find(key)
        return default if place < 0 else self.view(*self.directory.range(place))

    def __contains__(self, key: object) -> bool:
        return self._find(key) >= 0

    def __iter__(self) -> Iterator[str]:
        return iter(self.directory.all_keys)

    def __len__(self) -> int:
        return len(self.directory)

    def __repr__(self) -> str:
        return f"<BlobReader {self.path!r}: version {self.version}, {len(self)} blobs, {self.file_size} bytes>"
