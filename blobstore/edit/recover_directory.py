"""The directory of a broken file, as far as the file's own bytes, or an index beside it, still prove it.

Each way ends in the only directory consistent with the evidence. Blobs lie back to back, so their keys and sizes in
order make the whole directory; and something independent has to agree with it: a stated file size, digests, or the
place where the next part of the file begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container import layout
from blobstore.container.directory import build_directory, parse_directory
from blobstore.container.keys import INDEX_KEY
from blobstore.container.layout import BLOB_ALIGN, FILE_ALIGN, HEADER, MAGIC
from blobstore.edit.recover_toc import MOST_READ, directory_from_toc
from blobstore.errors import FormatError
from blobstore.fileio.ranges import CHUNK_NBYTES
from blobstore.index import INDEX_MAGIC, parse_head, parse_index
from blobstore.index.records import HEADER_NBYTES, directory_digest, self_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.container.directory import Directory
    from blobstore.fileio.types import ByteSource
    from blobstore.index import Head, NameIndex

_MAX_PAYLOAD = 1 << 62


@dataclass(frozen=True)
class RecoveredDirectory:
    """The directory that a broken file must have had.

    Attributes:
        how: What proves it, for people.
        directory: Where each blob lay. Those at the end may be cut off.
        index: The name index, if that is what proves it.
    """

    how: str
    directory: Directory
    index: NameIndex | None = None


def find_directory(source: ByteSource, external_index: memoryview | None) -> RecoveredDirectory | None:
    """Return the directory of a broken file, or None if nothing proves it.

    Tried in this order: a directory at its place; at the front of a version 1 that is cut off; before appended bytes;
    the index beside the file; an index inside a file whose directory is cut off; a ``toc`` inside such a file.

    Args:
        source: The broken file.
        external_index: The bytes of the index beside it, if there is one.
    """
    return (
        _at_its_place(source)
        or _at_the_front(source)
        or _before_the_end(source)
        or (_from_external_index(source, external_index) if external_index is not None else None)
        or _from_index_inside(source)
        or _from_toc_inside(source)
    )


def _at_its_place(source: ByteSource) -> RecoveredDirectory | None:
    try:
        return RecoveredDirectory("its directory, which is intact", parse_directory(source.view, source.size))
    except FormatError:
        return None


def _at_the_front(source: ByteSource) -> RecoveredDirectory | None:
    """Version 1 begins with its directory, and states the file's size."""
    if source.size < HEADER.size:
        return None
    magic, count, stated = HEADER.unpack(source.view(0, HEADER.size))
    known = HEADER.size + layout.RECORD_NBYTES * count
    if magic != MAGIC or not count or known > source.size:
        return None
    try:
        return RecoveredDirectory("its directory, at the front", parse_directory(source.view, stated))
    except FormatError:
        return None


def _before_the_end(source: ByteSource) -> RecoveredDirectory | None:
    """A directory ends at a multiple of 64 KiB, with a header that states that very size."""
    headers = []
    for end in range(source.size // FILE_ALIGN * FILE_ALIGN, 0, -FILE_ALIGN):
        magic, count, stated = HEADER.unpack(source.view(end - HEADER.size, HEADER.size))
        if magic == MAGIC and 0 < count <= layout.MAX_BLOBS and stated == end:
            headers.append((end, count))
    # Such a header is neither a key nor a range of a blob, so it can't lie inside a directory. Candidates that contain
    # one are skipped unread, and the others don't overlap.
    for (end, count), (before, _) in pairwise([*headers, (0, 0)]):
        if before > end - HEADER.size - layout.RECORD_NBYTES * count:
            continue
        try:
            return RecoveredDirectory(
                f"its directory, before {source.size - end} appended bytes", parse_directory(source.view, end)
            )
        except FormatError:
            continue
    return None


def _from_external_index(source: ByteSource, raw: memoryview) -> RecoveredDirectory | None:
    """An external index lists all blobs in order, and has the digest of the directory that they make.

    The digests of the blobs prove that the index belongs to this file. Without digests, the header and the padding
    have to agree.
    """
    try:
        index = parse_index(raw, kind="external")
    except FormatError:
        return None
    for version in (2, 1):
        directory = _directory_of(version, index)
        if not directory or (index.header.store_nbytes, index.header.store_sha256) != (
            directory.file_size,
            directory_digest(directory),
        ):
            continue
        if index.has_digests or _has_header_and_padding(source, directory):
            return RecoveredDirectory("the index beside it", directory, index)
    return None


def _has_header_and_padding(source: ByteSource, directory: Directory) -> bool:
    """Whether a file, as far as it goes, has the header and the padding that this directory requires."""
    head = layout.PLACEHOLDER if directory.version == 2 else directory.header()
    if source.size < len(head) or bytes(source.view(0, len(head))) != head:
        return False
    gaps = ((offset, min(nbytes, source.size - offset)) for offset, nbytes in directory.gaps() if offset < source.size)
    return not any(np.frombuffer(source.view(*gap), np.uint8).any() for gap in gaps)


def _from_index_inside(source: ByteSource) -> RecoveredDirectory | None:
    """An index inside lists the blobs before it, which must end where it begins; and it has its own digest."""
    left: dict[int, int] = {}  # bit length of a size → how many bytes may still be read for indexes of such a size
    for offset in _aligned(source, INDEX_MAGIC):
        head = parse_head(source.view(offset, min(HEADER_NBYTES, source.size - offset)))
        # Cheap checks first: the first 160 bytes rule out most of what only begins like an index.
        if head is None or head.nbytes > source.size - offset:
            continue
        for nbytes, holds in ((head.sizes_nbytes, _ends_at), (head.nbytes, _is_whole)):
            of_size = nbytes.bit_length()
            left[of_size] = left.get(of_size, MOST_READ * source.size) - nbytes
            if left[of_size] < 0 or not holds(source, offset, head):
                break
        else:
            recovered = _from_index_at(source, offset, head.nbytes)
            if recovered:
                return recovered
    return None


def _ends_at(source: ByteSource, offset: int, head: Head) -> bool:
    """Whether the blobs that an index lists end where it begins."""
    sizes = np.frombuffer(source.view(offset + head.sizes_at, head.sizes_nbytes), "<u8")
    if not len(sizes) or sizes.astype(np.float64).sum() >= _MAX_PAYLOAD:
        return False
    return int(layout.blob_ends(BLOB_ALIGN, sizes.astype(np.int64))[-1]) == offset


def _is_whole(source: ByteSource, offset: int, head: Head) -> bool:
    """Whether an index matches its own SHA-256."""
    return bool(head.self_sha256 == self_digest(source.view(offset, head.nbytes)))


def _from_index_at(source: ByteSource, offset: int, nbytes: int) -> RecoveredDirectory | None:
    try:
        index = parse_index(source.view(offset, nbytes), kind="embedded")
    except FormatError:
        return None
    directory = _directory_of(2, index, nbytes)
    how = "the index inside it, which begins where the blobs that it lists end"
    return RecoveredDirectory(how, directory, index) if directory else None


def _directory_of(version: int, index: NameIndex, *own_nbytes: int) -> Directory | None:
    """Return the directory of the blobs that an index lists, and of its own blob at the end if it is inside."""
    rows = [index.blob(i) for i in range(len(index.blobs))]
    keys = [*(row.key for row in rows), *(INDEX_KEY.encode() for _ in own_nbytes)]
    sizes = [*(row.nbytes for row in rows), *own_nbytes]
    if not rows or sum(sizes) >= _MAX_PAYLOAD:
        return None
    directory = build_directory(version, keys, sizes)
    try:
        index.places(directory)
    except FormatError:  # an invalid key, or one that appears twice
        return None
    return directory


def _aligned(source: ByteSource, start: bytes) -> Iterator[int]:
    """Yield the multiples of 256 at which these bytes appear."""
    for at in range(0, source.size, CHUNK_NBYTES):
        piece = np.frombuffer(source.view(at, min(CHUNK_NBYTES, source.size - at)), dtype=np.uint8)
        whole = piece[: len(piece) // BLOB_ALIGN * BLOB_ALIGN].reshape(-1, BLOB_ALIGN)
        same = (whole[:, : len(start)] == np.frombuffer(start, np.uint8)).all(axis=1)
        yield from (at + BLOB_ALIGN * int(i) for i in np.flatnonzero(same))
        if len(piece) % BLOB_ALIGN and bytes(piece[len(whole) * BLOB_ALIGN :][: len(start)]) == start:
            yield at + len(whole) * BLOB_ALIGN


def _from_toc_inside(source: ByteSource) -> RecoveredDirectory | None:
    directory = directory_from_toc(source)
    how = "the toc inside it: config and tokenizer follow where the tensors that it lists end"
    return RecoveredDirectory(how, directory) if directory else None
