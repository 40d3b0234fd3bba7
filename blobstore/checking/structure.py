"""Open a file step by step, and collect everything that is wrong as findings instead of stopping at the first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from blobstore.checking.findings import finding, from_error
from blobstore.container.keys import INDEX_KEY, decode_key
from blobstore.container.reader import BlobReader
from blobstore.errors import FormatError
from blobstore.fileio.closing import Closing
from blobstore.index import INDEX_MAGIC
from blobstore.index.carried import files_in
from blobstore.index.locate import find_index, lost_index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from blobstore.checking.findings import Finding
    from blobstore.index import NameIndex


@dataclass
class Opened(Closing):
    """A file, as far as it can be opened; a context manager.

    Attributes:
        path: As given.
        findings: What is wrong with it.
        reader: Its blobs, or None if the container is invalid.
        index: Its name index, or None if there is none or it is invalid.
    """

    path: str
    findings: list[Finding] = field(default_factory=list)
    reader: BlobReader | None = None
    index: NameIndex | None = None

    @property
    def broken(self) -> bool:
        """Whether there is an error, not only warnings."""
        return any(finding.severity == "error" for finding in self.findings)

    def close(self) -> None:
        """Close the file."""
        if self.reader:
            self.reader.close()


def open_checked(path: str | PathLike[str]) -> Opened:
    """Open a file and check its structure, padding and index: everything but the contents of its blobs.

    Raises:
        OSError: The file can't be read.
        UsageError: ``not-a-file``.
    """
    opened = Opened(str(path))
    try:
        # Plain reads: the file may be truncated meanwhile, which would kill a process that maps it.
        opened.reader = BlobReader(path, access="read")
    except FormatError as error:
        opened.findings.append(from_error(error, opened.path))
        return opened
    try:
        opened.findings += _padding(opened.reader)
        opened.index = find_index(opened.reader)
        if opened.index:
            opened.index.places(opened.reader.directory)
    except FormatError as error:
        opened.index = None
        opened.findings.append(from_error(error, error.path or INDEX_KEY))
        return opened
    if opened.index:
        opened.findings += _files(opened.reader, opened.index)
    if opened.index and not opened.index.self_digest_holds():
        what = "the index's own SHA-256 doesn't match its bytes: it has changed since it was written"
        opened.findings.append(finding("index-digest", opened.index.path, what))
    if not opened.index:
        opened.findings += list(_misplaced_index(opened.reader)) or _lost_index(opened.reader)
    return opened


def _files(reader: BlobReader, index: NameIndex) -> Iterator[Finding]:
    """Check that the files which the metadata lists are there."""
    try:
        files = files_in(index.metadata)
    except FormatError as error:
        yield finding("files-list", index.path, error.message)
        return
    for name, key in files.items():
        if key not in reader:
            yield finding("files-missing", name, f"it is listed among the files, but there is no blob {key!r}")


def _lost_index(reader: BlobReader) -> list[Finding]:
    return [finding("index-lost", reader.path, text) for text in lost_index(reader)]


def _padding(reader: BlobReader) -> Iterator[Finding]:
    with reader.reading_ahead(reader.directory.gaps()):
        yield from _not_zero(reader)


def _not_zero(reader: BlobReader) -> Iterator[Finding]:
    for offset, nbytes in reader.directory.gaps():
        wrong = np.flatnonzero(np.frombuffer(reader.view(offset, nbytes), dtype=np.uint8))
        if len(wrong):
            first, last = int(wrong[0]), int(wrong[-1])
            where = _neighbour(reader, offset)
            what = f"{len(wrong)} bytes at or after offset {offset + first} are not zero, in the padding {where}"
            yield finding("padding", where, what, offset=offset + first, nbytes=last - first + 1)


def _neighbour(reader: BlobReader, offset: int) -> str:
    directory = reader.directory
    place = int(np.searchsorted(directory.offsets, offset)) - 1
    return f"after {decode_key(directory.keys[place])!r}" if place >= 0 else "before the first blob"


def _misplaced_index(reader: BlobReader) -> Iterator[Finding]:
    """Look for an index under another key than its own: one flipped bit in the directory is enough to hide it."""
    for place, key in enumerate(reader):
        offset, nbytes = reader.directory.range(place)
        if bytes(reader.view(offset, min(nbytes, len(INDEX_MAGIC)))) == INDEX_MAGIC:
            what = f"the blob {key!r} is a name index, which belongs under {INDEX_KEY!r}: the key has changed"
            yield finding("index-misplaced", key, what, offset=offset, nbytes=nbytes)
