"""One object elsewhere: its size, and ranges of its bytes, as long as it is the one that was looked at first."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from blobstore.errors import RemoteError, UsageError, in_file, without_secrets
from blobstore.fileio.urls import connect, identity_in, reaching
from blobstore.fileio.web_ranges import names_contents, web_fetch

if TYPE_CHECKING:
    from blobstore.fileio.web_ranges import Fetch

_WAITS = (0.2, 1.0, 5.0)  # seconds before another try
_FINAL = ("remote-changed", "remote-missing", "needs-ranges")  # another try would end the same


class RemoteObject:
    """An object elsewhere, of which any threads fetch ranges.

    Another object in its place is refused. S3 does that itself, as each request names the one that is meant; answers of
    web servers say which one it is; elsewhere it is looked at again after each request.

    Attributes:
        url: Of the object; empty for one that was given as a file object.
        path: What errors call it, without secrets.
        size: In bytes.
    """

    def __init__(self, url: str, *, file: Any = None, recheck: bool = True) -> None:  # noqa: ANN401 (fsspec's)
        """Look at the object.

        Args:
            url: Of the object.
            file: Instead: a file of fsspec, whose ``fs`` and ``path`` count.
            recheck: Whether to look again after each request that couldn't name the object that is meant. Otherwise
                listings of its folder count, too, which their user forgets in time: one for hundreds of objects.

        Raises:
            MissingExtraError, UsageError, RemoteError, OSError: It can't be reached.
            UsageError: ``not-a-file``; ``needs-size``: the server doesn't say how large it is.
        """
        self._file_system, self._place = connect(url) if file is None else (file.fs, str(file.path))
        self.url: str = url if file is None else ""
        self.path: str = without_secrets(url or self._file_system.unstrip_protocol(self._place))
        self._recheck = recheck
        self._options: dict[str, str] = {}
        self._named = False  # whether each request or answer names the object that is meant
        protocols = self._file_system.protocol
        protocols = (protocols,) if isinstance(protocols, str) else protocols
        self._get: Fetch = self._cat
        if "s3" in protocols:
            info, self._get = self._of_s3()
        else:
            info = self._info()
        if info.get("type", "file") != "file":
            raise UsageError("not-a-file", f"{self.path!r} is not a file")
        if info.get("size") is None:
            what = f"{self.path!r}: the server doesn't say how large the file is: download it first"
            raise UsageError("needs-size", what)
        self.size: int = int(info["size"])
        self._identity = identity_in(info)
        if "http" in protocols:
            self._named = names_contents(info)
            self._get = web_fetch(self._file_system, self._place, info)
        elif self._get == self._cat:
            self._options = _plainly(self._file_system)

    def fetch(self, start: int, end: int) -> bytes | bytearray:
        """Return the bytes of a range; after a failure it is asked for again, some times.

        Raises:
            RemoteError: ``remote-failed``, ``remote-short``; ``remote-changed``, ``remote-missing``: the object was
                replaced or removed; ``needs-ranges``.
            OSError: It may not be read.
        """
        with in_file(self.path):
            for wait in _WAITS:
                try:
                    return self._fetch(start, end)
                except RemoteError as error:
                    if error.reason in _FINAL:
                        raise
                    time.sleep(wait)
            return self._fetch(start, end)

    def _fetch(self, start: int, end: int) -> bytes | bytearray:
        try:
            with reaching(self.url or self.path):
                data = self._get(start, end)
        except FileNotFoundError:
            raise RemoteError("remote-missing", "the file was removed while it was read") from None
        if len(data) > end - start:
            what = f"{len(data)} bytes came instead of the {end - start} at offset {start}"
            raise RemoteError("needs-ranges", f"{what}: the server doesn't serve ranges, download the file first")
        if len(data) != end - start:
            raise RemoteError("remote-short", f"{len(data)} bytes came of the {end - start} at offset {start}")
        if self._recheck and not self._named:
            self.check_unchanged()
        return data

    def check_unchanged(self) -> None:
        """Refuse an object that is another one than when it was first looked at.

        Raises:
            RemoteError: ``remote-changed``, ``remote-missing``.
        """
        with in_file(self.path):
            try:
                unchanged = self.is_unchanged()
            except FileNotFoundError:
                raise RemoteError("remote-missing", "the file was removed while it was read") from None
            if not unchanged:
                raise RemoteError("remote-changed", "the file was replaced while it was read: begin again")

    def is_unchanged(self) -> bool:
        """Whether the object is the one that was first looked at.

        Raises:
            RemoteError, OSError: It can't be looked at.
        """
        return identity_in(self._info()) == self._identity

    def _cat(self, start: int, end: int) -> bytes:
        data: bytes = self._file_system.cat_file(self._place, start=start, end=end, **self._options)
        return data

    def _info(self) -> dict[str, Any]:
        with suppress(Exception):  # not all can forget what they listed, and those that can't don't list
            if self._recheck:
                self._file_system.invalidate_cache(self._file_system._parent(self._place))  # noqa: SLF001 (has no other name)
        with reaching(self.url or self.path):
            info: dict[str, Any] = self._file_system.info(self._place)
        return info

    def _of_s3(self) -> tuple[dict[str, Any], Fetch]:
        """Return what S3 says of the object, and a function that fetches: s3fs's files name the object's ETag."""
        from fsspec.exceptions import FSTimeoutError  # noqa: PLC0415 (an extra)
        from s3fs.utils import FileExpired  # noqa: PLC0415 (an extra)

        with reaching(self.url or self.path):
            file = self._file_system.open(self._place, "rb", cache_type="none")
        self._named = True

        def fetch(start: int, end: int) -> bytes:
            try:
                data: bytes = file._fetch_range(start, end)  # noqa: SLF001 (fsspec's for its caches: keeps no position)
            except FileExpired:
                raise RemoteError("remote-changed", "the file was replaced while it was read: begin again") from None
            except FSTimeoutError as error:
                raise RemoteError("remote-failed", f"no answer: {error}") from None
            return data

        return file.details, fetch


def _plainly(file_system: Any) -> dict[str, str]:  # noqa: ANN401 (fsspec's)
    """Return the options with which `cat_file` asks for the wanted bytes only.

    Where it isn't a request of its own it opens a file, whose cache would fetch more than what is wanted.
    """
    from fsspec.spec import AbstractFileSystem  # noqa: PLC0415 (an extra)

    own = getattr(file_system.cat_file, "__func__", None)
    return {"cache_type": "none"} if own is AbstractFileSystem.cat_file else {}
