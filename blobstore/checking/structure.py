"""Open a file step by step, and collect everything that is wrong as findings instead of stopping at the first."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from blobstore.checking.findings import finding, from_error
from blobstore.container.keys import INDEX_KEY, decode_key
from blobstore.errors import FormatError, without_secrets
from blobstore.fileio.closing import Closing
from blobstore.fileio.work import do_here, results
from blobstore.index import INDEX_MAGIC
from blobstore.index.carried import files_in
from blobstore.index.locate import find_index, lost_index
from blobstore.index.sets import SetReader, open_reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    from blobstore.checking.findings import Finding
    from blobstore.container.reader import BlobReader
    from blobstore.fileio.types import Progress
    from blobstore.fileio.work import Engine
    from blobstore.index import NameIndex


@dataclass
class Opened(Closing):
    """A file, as far as it can be opened; a context manager.

    Attributes:
        path: As given.
        findings: What is wrong with it.
        reader: Its blobs, or None if the container is invalid.
        index: Its name index, or None if there is none or it is invalid.
        intact: The files of a set that can be read, if others can't. The set has no reader then.
    """

    path: str
    findings: list[Finding] = field(default_factory=list)
    reader: BlobReader | None = None
    index: NameIndex | None = None
    intact: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether there is an error, not only warnings."""
        return any(finding.severity == "error" for finding in self.findings)

    def close(self) -> None:
        """Close the file."""
        if self.reader:
            self.reader.close()


def open_checked(path: str | PathLike[str], *, engine: Engine = do_here) -> Opened:
    """Open a file and check its structure, padding and index: everything but the contents of its blobs.

    Args:
        path: Of the file, or of a set's index.
        engine: Checks the files of a set.

    Raises:
        OSError: The file can't be read.
        UsageError: ``not-a-file``.
    """
    opened = Opened(without_secrets(str(path)))
    try:
        # Plain reads: the file may be truncated meanwhile, which would kill a process that maps it.
        opened.reader = open_reader(path, access="read")
    except FormatError as error:
        opened.findings.append(from_error(error, error.path or opened.path))
        return opened
    try:
        if isinstance(opened.reader, SetReader):
            opened.findings += _index(opened.reader, opened)
            opened.findings += _stores(opened.reader, opened, engine)
        else:
            opened.findings += _padding(opened.reader)
            opened.findings += _index(opened.reader, opened)
    except FormatError as error:  # about its beginning: of a file elsewhere it isn't read at opening
        opened.findings.append(from_error(error, error.path or opened.path))
        opened.close()
        opened.reader = opened.index = None
    return opened


def _index(reader: BlobReader, opened: Opened) -> Iterator[Finding]:
    """Check a file's index, which becomes that of ``opened``."""
    try:
        index = find_index(reader)
        if index:
            index.places(reader.directory)
    except FormatError as error:
        yield from_error(error, error.path or INDEX_KEY)
        return
    opened.index = index
    if not index:
        yield from list(_misplaced_index(reader)) or _lost_index(reader)
        return
    yield from _files(reader, index)
    if not index.self_digest_holds():
        what = "the index's own SHA-256 doesn't match its bytes: it has changed since it was written"
        yield finding("index-digest", index.path, what)


def _stores(reader: SetReader, opened: Opened, engine: Engine) -> Iterator[Finding]:
    """Check each file of a set, against the set and by itself. A set that misses one can't be read as a whole."""
    checked = results(engine, StoreCheck(reader.url or reader.path), range(len(reader.paths)))
    intact = [path for path, (whole, _) in zip(reader.paths, checked, strict=True) if whole]
    for _, findings in checked:
        yield from findings
    if len(intact) < len(reader.paths):
        opened.close()
        opened.reader, opened.index, opened.intact = None, None, intact


@dataclass(frozen=True, repr=False)  # a URL may have secrets
class StoreCheck:
    """Checks each file of a set, against the set and by itself.

    Attributes:
        path: Of the set's index.
    """

    path: str

    def open(self) -> SetReader:
        """Open the set."""
        return SetReader(self.path, access="read")

    def do(self, opened: SetReader, number: int, progress: Progress) -> tuple[bool, list[Finding]]:  # noqa: ARG002 (a `Work`)
        """Return whether one file is that of the set, and the findings about it."""
        path, fault = opened.paths[number], opened.fault_of(number)
        if isinstance(fault, OSError):
            raise fault
        if fault:
            return False, [from_error(fault, os.path.basename(path))]
        with open_checked(path) as store:
            return True, list(in_store(path, store.findings))


def in_store(path: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield what was found in a file of a set, with the file's name."""
    name = os.path.basename(path)
    for found in findings:
        yield replace(found, subject=name if found.subject == path else f"{name}: {found.subject}")


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
    try:
        with reader.reading_ahead(reader.directory.gaps()):
            yield from _not_zero(reader)
    except FormatError as error:  # of a file elsewhere: how it begins was not known before
        yield from_error(error, error.path or reader.path)


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
