"""Opening a file for reading: mapped into memory, or by plain reads."""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

from blobstore.errors import TruncatedError, UsageError, without_secrets
from blobstore.fileio import system
from blobstore.fileio.descriptors import open_regular
from blobstore.fileio.file_systems import file_system, is_remote
from blobstore.fileio.paths import path_text
from blobstore.fileio.plain_files import PlainFile, ReopenedFile, keep_few_open
from blobstore.fileio.types import Access, Prefetch
from blobstore.fileio.urls import is_url

if TYPE_CHECKING:
    from os import PathLike

    from blobstore.fileio.types import ByteSource, Readable, SourceAccess

_POPULATED_NBYTES = 64 << 20  # in one call: Python's other threads, and Ctrl-C, wait until it returns


class MappedFile(ReopenedFile):
    """A file of which every view is the map itself: nothing is read before it is touched, and nothing is copied.

    A writable map is copy-on-write: pages that are written to become private to this process, and all views see the
    changes. It takes one descriptor.
    """

    access: SourceAccess = "mmap"

    def __init__(
        self,
        fd: int,
        *,
        path: str | PathLike[str] = "",
        has_path: bool = True,
        writable: bool = False,
        prefetch: Prefetch = "none",
    ) -> None:
        """Take over an open descriptor; the file must not be empty."""
        self.whole = None
        super().__init__(fd, path=path, has_path=has_path, writable=writable)
        try:
            mapped = _map(fd, self.size, writable=writable)
        except ValueError:  # it has shrunk since its size was read
            raise TruncatedError(
                "short-read", f"the file had {self.size} bytes and now has fewer: it was truncated"
            ) from None
        self.whole = memoryview(mapped)
        _advise(mapped, prefetch)
        if system.MAP_KEEPS_FILE:
            self.rest()
        else:
            self._keep = True

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return these bytes of the map; no copy."""
        if self.whole is None:
            raise UsageError("closed", "this file was closed")
        return self.whole[offset : offset + nbytes]

    def close(self) -> None:
        """Let go of the map, which lives as long as a view of it does."""
        self.whole = None
        super().close()


def _map(fd: int, size: int, *, writable: bool) -> mmap.mmap:
    options: Any = {} if system.MAP_KEEPS_FILE else {"trackfd": False}
    if writable:
        return system.private_map(fd, size, **options)
    return mmap.mmap(fd, size, access=mmap.ACCESS_READ, **options)


def _advise(mapped: mmap.mmap, prefetch: Prefetch) -> None:
    """Tell the system how a map will be read. A hint: systems without it do nothing."""
    advice = system.ADVICE.get(prefetch)
    if advice is None:
        return
    with suppress(OSError):
        if prefetch == "all" and _populate(mapped):
            return
        mapped.madvise(advice)


def _populate(mapped: mmap.mmap) -> bool:
    """Read all of a file and map its pages; return False where the system can't do that on request."""
    if system.POPULATE_READ is None:
        return False
    size = len(mapped)
    try:
        for start in range(0, size, _POPULATED_NBYTES):
            mapped.madvise(system.POPULATE_READ, start, min(_POPULATED_NBYTES, size - start))
    except OSError:
        return False
    return True


def open_source(
    file: Readable,
    access: Access = "auto",
    *,
    writable: bool = False,
    prefetch: Prefetch = "none",
    one_of_many: bool = False,
) -> ByteSource:
    """Open a file for reading.

    Args:
        file: The path of a regular file; a binary file object, which is read from its beginning, whatever its position;
            or the file's contents. ``bytes`` with a NUL are contents, as no path has one and every .sbs file and index
            has some; without one they are a path.
        access: ``auto`` maps a file on disk, unless it is on a network drive, views contents, and reads other objects.
        writable: Whether views can be written to; the file itself never changes.
        prefetch: How a map will be read; no effect on plain reads.
        one_of_many: Whether others are open as well: for plain reads, a path keeps no descriptor while others are read.

    Raises:
        UsageError: ``bad-access`` for a word that `Access` doesn't have, ``bad-prefetch`` for one that `Prefetch`
            doesn't have, and for ``mmap`` of what isn't a file on disk; ``not-a-file`` for a folder, pipe or device;
            ``bad-file`` for what is neither of the above; ``needs-seek``, ``closed``, for a file object.
        OSError: It can't be opened.
    """
    if access not in get_args(Access):
        raise UsageError("bad-access", f"expected one of {', '.join(get_args(Access))}, found {access!r}")
    if prefetch not in get_args(Prefetch):
        raise UsageError("bad-prefetch", f"expected one of {', '.join(get_args(Prefetch))}, found {prefetch!r}")
    if not isinstance(file, (str, os.PathLike)):
        if not isinstance(file, bytes) or b"\0" in file:
            return _open_object(file, access, writable=writable, prefetch=prefetch)
        if not file:
            raise UsageError("not-a-file", "b'' is neither a path nor a file's contents: was anything read?")
    path = path_text(file)
    if is_url(path):
        return _elsewhere(path, access, writable=writable)
    fd = open_regular(path)
    return _on_disk(fd, path, access, writable=writable, prefetch=prefetch, one_of_many=one_of_many)


def _elsewhere(url: str, access: Access, *, file: Any = None, writable: bool) -> ByteSource:  # noqa: ANN401 (fsspec's)
    """Open a URL, or a file of fsspec."""
    from blobstore.fileio.remote import RemoteSource  # noqa: PLC0415 (import blobstore stays cheap)
    from blobstore.fileio.remote_object import RemoteObject  # noqa: PLC0415 (as above)

    if access == "mmap":
        what = f"{without_secrets(url) or name_of(file)!r} lies elsewhere, and can't be mapped: use access='auto'"
        raise UsageError("bad-access", what)
    return RemoteSource(RemoteObject(url, file=file), writable=writable)


def name_of(file: Readable) -> str:
    """Return what errors call a file: its path, or ``<bytes>`` and the like.

    Raises:
        UsageError: ``not-a-file`` for a path that no file can have.
    """
    if isinstance(file, (str, os.PathLike)) or (isinstance(file, bytes) and b"\0" not in file):
        return without_secrets(path_text(file))
    name = getattr(file, "name", None) or (getattr(file, "path", None) if _is_of_fsspec(file) else None)
    return os.fsdecode(name) if name and isinstance(name, (str, bytes)) else f"<{type(file).__name__}>"


def _on_disk(
    fd: int,
    path: str,
    access: Access,
    *,
    has_path: bool = True,
    writable: bool,
    prefetch: Prefetch,
    one_of_many: bool = False,
) -> ByteSource:
    """Take over the descriptor of a regular file."""
    if access == "auto" and is_remote(file_system(os.fstat(fd).st_dev)):
        access = "read"
    # An empty file can't be mapped; the caller reports what is missing.
    if access == "read" or not os.fstat(fd).st_size:
        if one_of_many:
            return keep_few_open(ReopenedFile(fd, path=path, has_path=has_path, writable=writable))
        return PlainFile(fd, path=path, has_path=has_path, writable=writable)
    return MappedFile(fd, path=path, has_path=has_path, writable=writable, prefetch=prefetch)


def _open_object(file: Any, access: Access, *, writable: bool, prefetch: Prefetch) -> ByteSource:  # noqa: ANN401 (as given)
    """Open contents or a file object."""
    from blobstore.fileio import memory, streams  # noqa: PLC0415 (import blobstore stays cheap)

    name = name_of(file)
    is_stream = not isinstance(file, mmap.mmap) and (hasattr(file, "read") or hasattr(file, "seek"))
    # A second descriptor has the same position: without preadv its reads would disturb those of the object.
    has_own_reads = access != "read" or system.preadv is not None
    if is_stream and has_own_reads and (fd := streams.descriptor_of(file)) is not None:
        return _on_disk(fd, name, access, has_path=False, writable=writable, prefetch=prefetch)
    if _is_of_fsspec(file):
        return _elsewhere("", access, file=file, writable=writable)
    if access == "mmap":
        raise UsageError("bad-access", f"{name} is not a file on disk, and can't be mapped: use access='auto'")
    if is_stream:
        return streams.StreamSource(file, path=name, writable=writable)
    try:
        return memory.MemorySource(file, path=name, copies=access == "read", writable=writable)
    except UsageError as error:
        if error.reason != "not-bytes":
            raise
        what = f"expected a path, a binary file object or a file's bytes, found {type(file).__name__}"
        raise UsageError("bad-file", what) from None
    except ValueError as error:
        raise UsageError("closed", f"{name}: {error}") from None


def _is_of_fsspec(file: Any) -> bool:  # noqa: ANN401 (as given)
    """Whether a file object is one of fsspec's, of which ranges can be asked for without moving its position."""
    has_ranges = hasattr(getattr(file, "fs", None), "cat_ranges") and isinstance(getattr(file, "path", None), str)
    is_packed = getattr(file, "compression", None) is not None
    return has_ranges and not is_packed and getattr(file, "mode", "rb") == "rb"


def read_whole(path: str | PathLike[str]) -> memoryview:
    """Return all bytes of a small file, as a copy.

    Raises:
        UsageError, TruncatedError, OSError: As `open_source` and `PlainFile.view`.
    """
    return read_beginning(path, sys.maxsize)


def read_beginning(path: str | PathLike[str], nbytes: int) -> memoryview:
    """Return a file's first bytes, or all of them if it has fewer, as a copy.

    Raises:
        UsageError, TruncatedError, OSError: As `read_whole`.
    """
    source: ByteSource
    if is_url(path):
        from blobstore.fileio.streamed import StreamedSource  # noqa: PLC0415 (import blobstore stays cheap)

        source = StreamedSource(os.fspath(path))
    else:
        source = open_source(path, "read")
    try:
        return source.view(0, min(nbytes, source.size))
    finally:
        source.close()
