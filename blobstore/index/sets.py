"""A set of files, read as one: the blobs of all of them, by key.

Spec: spec/index.md, Sets; I22 to I24 are its reader checks.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from blobstore.container import layout
from blobstore.container.directory import Directory
from blobstore.container.keys import INDEX_KEY, SKELETON_INDEX_KEY, SKELETON_KEY, decode_key
from blobstore.container.reader import BlobReader, directory_in
from blobstore.errors import BlobStoreError, FormatError, UsageError, in_file, without_secrets
from blobstore.fileio.paths import path_text
from blobstore.fileio.places import absolute, folder_of, join
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.source import name_of, open_source, read_beginning
from blobstore.index.parse import is_set, open_index
from blobstore.index.records import HEADER_NBYTES, SELF_DIGEST_AT, store_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from blobstore.fileio.types import Access, ByteSource, FilePath, Prefetch, Readable
    from blobstore.index.name_index import NameIndex
    from blobstore.index.records import SetStore

_OF_ONE_FILE = (INDEX_KEY, SKELETON_KEY, SKELETON_INDEX_KEY)  # they describe a file, not the set
_OF_ONE_FILE_KEYS = np.array([key.encode() for key in _OF_ONE_FILE], f"S{layout.KEY_NBYTES}")
_FEWER = "each file that views are kept of takes one: raise the limit (ulimit -n), or open with access='read'"
_HEAD_NBYTES = 16  # tell that it is the index of a set
_VERSION = 2  # of the stores of a set


def open_reader(
    path: Readable, *, access: Access = "auto", writable: bool = False, prefetch: Prefetch = "none"
) -> BlobReader:
    """Open a file, or a set of files by the path of its index; arguments and errors as `BlobReader`.

    Raises:
        FormatError: ``index-…`` as well: the index of a set is wrong.
    """
    with in_file(name_of(path)):
        source = open_source(path, access, writable=writable, prefetch=prefetch)
        try:
            return BlobReader.of_source(path, source)
        except FormatError as error:
            if error.reason != "bad-magic" or not is_path(path) or not is_set(source.view(0, _HEAD_NBYTES)):
                source.close()
                raise
        except BaseException:
            source.close()
            raise
    # It isn't opened twice: it may be far away.
    return SetReader(path, access=access, writable=writable, prefetch=prefetch, own=source)


def is_path(path: Readable) -> TypeGuard[FilePath]:
    """Whether what is to be read is given by its path, and not by its bytes or a file object."""
    return isinstance(path, (str, os.PathLike)) or (isinstance(path, bytes) and b"\0" not in path)


def is_set_at(path: Readable) -> bool:
    """Whether the index of a set is at a path; False for whatever is not a path, or can't be read."""
    if not is_path(path):
        return False
    try:
        return is_set(read_beginning(os.fsdecode(path), _HEAD_NBYTES))
    except (OSError, BlobStoreError):
        return False


def stores_of(path: str) -> list[str]:
    """Return the paths of the files of a set; an empty list for whatever isn't the index of one."""
    if not is_set_at(path):
        return []
    with suppress(OSError, BlobStoreError), SetReader(path, access="read") as reader:
        return list(reader.paths)
    return []


def refuse_set(path: Readable, fix: str) -> None:
    """Refuse a set where only a file will do.

    Args:
        path: Of the file.
        fix: What to do with a set instead.

    Raises:
        UsageError: ``set-not-file``.
    """
    if is_set_at(path):
        raise UsageError("set-not-file", f"{name_of(path)!r} is the index of a set of files: {fix}")


@dataclass(frozen=True)
class _Opener:
    """Opens the files of a set. It doesn't know the reader: a circle would keep files open until it is collected."""

    path: str
    index: NameIndex
    files: list[str]
    shown: list[str]
    access: Access
    writable: bool
    prefetch: Prefetch

    def open(self, number: int) -> ByteSource:
        """Open one of the files, with checks I22 to I24."""
        store, path = self.index.stores[number], self.shown[number]
        with in_file(path):
            try:
                source = open_source(
                    self.files[number],
                    self.access,
                    writable=self.writable,
                    prefetch=self.prefetch,
                    one_of_many=True,
                )
            except (OSError, UsageError) as error:
                raise self._as_given(number, error) from None
            source.path = path
            try:
                check_store(source, self.index, store)
            except BaseException:
                source.close()
                raise
        return source

    def _as_given(self, number: int, error: OSError | UsageError) -> Exception:
        """Return why one of the files can't be opened, with its path as the set's was given."""
        place = f"store {number + 1} of {len(self.files)} of the set {self.path!r}"
        if isinstance(error, FileNotFoundError):
            return FormatError("set-missing-store", f"{place} is missing: put it back")
        if isinstance(error, UsageError) and error.reason == "not-a-file":
            return FormatError("set-missing-store", f"{place} is missing, there is something else: {error.message}")
        if isinstance(error, OSError):
            error.filename = self.shown[number]
            if error.errno == errno.EMFILE:
                error.strerror = f"{error.strerror}: {_FEWER}"
        return error


class SetReader(BlobReader):
    """The blobs of a set. Their offsets are counted over its files, one after another.

    Attributes:
        index: Of the set; its layout was checked.
    """

    def __init__(
        self,
        path: Readable,
        *,
        access: Access = "auto",
        writable: bool = False,
        prefetch: Prefetch = "none",
        own: ByteSource | None = None,
    ) -> None:
        """Open a set by the path of its index. Its files are opened, and checked, when they are first read.

        ``own`` is the index, if it is open already; this takes it over.
        """
        from blobstore.fileio.set_source import SetSource  # noqa: PLC0415 (1 ms with what it imports, for sets only)

        given = path_text(path)  # type: ignore[arg-type]  # a file object has no folder
        self.path: str = name_of(path)
        folder = folder_of(given)
        real_folder = folder_of(absolute(given))  # the working directory may change
        with in_file(self.path):
            own = own or open_source(path, access)
            try:
                if not is_set(own.view(0, min(_HEAD_NBYTES, own.size))):  # before a large file is read as an index
                    raise FormatError("index-magic", "this is not the index of a set", 0)
                self.index: NameIndex = open_index(own.view(0, own.size), kind="set", path=self.path)
            except BaseException:
                own.close()
                raise
        stores = self.index.stores
        self._paths = [join(folder, store.name) for store in stores]
        self._shown = [without_secrets(path) for path in self._paths]
        files = [join(real_folder, store.name) for store in stores]
        opener = _Opener(self.path, self.index, files, self._shown, access, writable, prefetch)
        self._set = SetSource(own, files, [store.nbytes for store in stores], opener.open, writable=writable)
        self._source = self._set
        self.directory: Directory = _directory_of(self.index)

    @property
    def is_elsewhere(self) -> bool:
        """Whether this was opened by a URL."""
        return bool(self._set.url)

    @property
    def url(self) -> str:
        """The URL that this was opened by; empty for files here."""
        return self._set.url

    def reading_ahead(self, ranges: Iterable[tuple[int, int]]) -> AbstractContextManager[None]:
        """As `BlobReader.reading_ahead`, of each file when the first of its ranges is read."""
        return self._set.reading_ahead(ranges)

    def part_of_file(self, offset: int, nbytes: int) -> FileRange:
        """As `BlobReader.part_of_file`: of one of the files, so that the system can copy it."""
        self._check_inside(offset, nbytes)
        number, start = self._set.place(offset)
        file = self._set.file(number)
        return FileRange(file, start, nbytes) if start + nbytes <= file.size else FileRange(self._set, offset, nbytes)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of the set, in its order."""
        return tuple(self._paths)

    def file_at(self, offset: int) -> tuple[str, int]:
        """Return which file has the byte at an offset, a URL without its secrets, and where."""
        number, start = self._set.place(offset)
        return self._shown[number], start

    def fault_of(self, number: int) -> FormatError | OSError | None:
        """Return what is wrong with one of the files, if anything is: I22 to I24."""
        try:
            self._set.file(number)
        except (FormatError, OSError) as error:
            return error
        return None

    def _find(self, key: object) -> int:
        return -1 if key in _OF_ONE_FILE else super()._find(key)

    def __iter__(self) -> Iterator[str]:
        return (key for key in self.directory.all_keys if key not in _OF_ONE_FILE)

    def __len__(self) -> int:
        return len(self.directory) - int(np.isin(self.directory.keys, _OF_ONE_FILE_KEYS).sum())

    def __repr__(self) -> str:
        return f"<SetReader {self.path!r}: {len(self._paths)} files, {len(self)} blobs, {self.file_size} bytes>"


def check_store(source: ByteSource, index: NameIndex, store: SetStore) -> None:
    """Make checks I23 and I24 of one file of a set.

    Args:
        source: The file, open.
        index: Of the set.
        store: What it says about the file.

    Raises:
        FormatError: ``set-stale``, ``set-store``; as `parse_directory`.
    """
    fix = "put the right file back, or make the set's index anew"
    if source.size != store.nbytes:
        raise FormatError("set-stale", f"the set has it with {store.nbytes} bytes, it has {source.size}: {fix}")
    directory = directory_in(source)
    if digest_in(source, directory) != store.sha256:
        raise FormatError("set-stale", f"the set has another file in its place: {fix}")
    keys = index.blobs.key[store.first_blob : store.first_blob + store.blob_count]
    same = directory.version == _VERSION and len(directory) == store.blob_count + 1
    if same:
        sizes = index.blobs.nbytes[store.first_blob : store.first_blob + store.blob_count]
        own = decode_key(directory.keys[-1]) == INDEX_KEY
        same = own and np.array_equal(directory.keys[:-1], np.ascontiguousarray(keys).reshape(-1).view("S16"))
        same = same and np.array_equal(directory.sizes[:-1].view(np.uint64), sizes)
    if not same:
        raise FormatError("set-store", f"it doesn't have the blobs that the set's index lists, and an index: {fix}")


def digest_in(source: ByteSource, directory: Directory) -> bytes:
    """Return what `store_digest` is of a file with this directory."""
    own = b""
    if len(directory) and decode_key(directory.keys[-1]) == INDEX_KEY and directory.sizes[-1] >= HEADER_NBYTES:
        own = bytes(source.view(int(directory.offsets[-1]) + SELF_DIGEST_AT, 32))
    return store_digest(directory, own)


def _directory_of(index: NameIndex) -> Directory:
    """Return where all blobs of a set are, as far as its index says: its files, one after another."""
    sizes = index.blobs.nbytes.view(np.int64)
    ends = np.cumsum(layout.padded_sizes(sizes))
    starts = ends - layout.padded_sizes(sizes)
    bases, end = [], 0
    for store in index.stores:
        bases.append(end + layout.BLOB_ALIGN - int(starts[store.first_blob]))
        end += store.nbytes
    counts = [store.blob_count for store in index.stores]
    offsets = starts + np.repeat(np.array(bases, np.int64), counts)
    keys = index.blobs.key.reshape(-1).view(f"S{layout.KEY_NBYTES}")
    return Directory(_VERSION, end, keys, offsets, sizes)
