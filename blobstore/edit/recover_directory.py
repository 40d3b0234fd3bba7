"""The directory of a broken file, as far as the file's own bytes, or an index beside it, still prove it.

Each way ends in the only directory consistent with the evidence. Blobs lie back to back, so their keys and sizes in
order make the whole directory; and something independent has to agree with it: a stated file size, digests, or the
place where the next part of the file begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container import layout
from blobstore.container.directory import build_directory, parse_directory
from blobstore.container.keys import CONFIG_KEY, INDEX_KEY, NO_TOKENIZER, TOC_KEY, TOKENIZER_KEY
from blobstore.container.layout import BLOB_ALIGN, FILE_ALIGN, HEADER, MAGIC
from blobstore.errors import FormatError
from blobstore.fileio.ranges import CHUNK_NBYTES
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.toc import parse_toc
from blobstore.gemma.tokenizer import model_ends
from blobstore.index import INDEX_MAGIC, parse_head, parse_index
from blobstore.index.records import BLOB, directory_digest, self_digest
from blobstore.index.records import HEADER as INDEX_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.container.directory import Directory
    from blobstore.fileio.types import ByteSource
    from blobstore.index import Head, NameIndex

_WINDOW_NBYTES = 64 << 10
_RECORD_NBYTES = 256  # most records have fewer
_MAX_RECORD_WORDS = 1 << 16  # seven, at most 64 for a name, and what newer versions append
_MAX_CONFIG_NBYTES = 4 << 20
_MAX_PAYLOAD = 1 << 62
# Few bytes look like the beginning of a record by chance, but a hostile file may be full of them.
_MOST_TRIED, _MOST_FOLLOWED = 100, 4 * layout.MAX_BLOBS
# How much is read of what may be a table or an index, as a multiple of the file's size: work grows with the file. For
# indexes each power of two in size has a budget of its own, so that small candidates don't use up that of large ones.
_MOST_READ = 8


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
        index = parse_index(raw, external=True)
    except FormatError:
        return None
    for version in (2, 1):
        directory = _directory_of(version, index)
        if not directory or (index.store_nbytes, index.store_sha256) != (
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
        head = parse_head(source.view(offset, min(INDEX_HEADER.itemsize, source.size - offset)))
        # Cheap checks first: the first 192 bytes rule out most of what only begins like an index.
        if head is None or head.nbytes > source.size - offset:
            continue
        for nbytes, holds in ((head.blobs_nbytes, _ends_at), (head.nbytes, _is_whole)):
            of_size = nbytes.bit_length()
            left[of_size] = left.get(of_size, _MOST_READ * source.size) - nbytes
            if left[of_size] < 0 or not holds(source, offset, head):
                break
        else:
            recovered = _from_index_at(source, offset, head.nbytes)
            if recovered:
                return recovered
    return None


def _ends_at(source: ByteSource, offset: int, head: Head) -> bool:
    """Whether the blobs that an index lists end where it begins."""
    table = np.frombuffer(source.view(offset + head.blobs_offset, head.blobs_nbytes), BLOB)
    sizes = table["nbytes"]
    if not len(sizes) or sizes.astype(np.float64).sum() >= _MAX_PAYLOAD:
        return False
    return int(layout.blob_ends(BLOB_ALIGN, sizes.astype(np.int64))[-1]) == offset


def _is_whole(source: ByteSource, offset: int, head: Head) -> bool:
    """Whether an index matches its own SHA-256."""
    return bool(head.self_sha256 == self_digest(source.view(offset, head.nbytes)))


def _from_index_at(source: ByteSource, offset: int, nbytes: int) -> RecoveredDirectory | None:
    try:
        index = parse_index(source.view(offset, nbytes), external=False)
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
    """gemma.cpp writes tensors, ``config``, ``tokenizer``, ``toc``: the toc's tensors end where the config begins."""
    left = _MOST_READ * source.size
    for offset, end in _toc_candidates(source):
        left -= end - offset
        if left < 0:
            break
        raw = bytes(source.view(offset, end - offset))
        tensors = _listed_tensors(raw, source.size)
        if tensors is None:
            continue
        keys, sizes = tensors
        start = int(layout.blob_ends(BLOB_ALIGN, np.array(sizes, dtype=np.int64))[-1])
        left -= max(0, offset - start)
        config_nbytes, tokenizer_nbytes = _config_and_tokenizer(source, start, offset)
        if not tokenizer_nbytes:
            continue
        keys += [CONFIG_KEY.encode(), TOKENIZER_KEY.encode(), TOC_KEY.encode()]
        sizes += [config_nbytes, tokenizer_nbytes, len(raw)]
        if len(set(keys)) == len(keys):
            how = "the toc inside it: config and tokenizer follow where the tensors that it lists end"
            return RecoveredDirectory(how, build_directory(2, keys, sizes))
    return None


def _listed_tensors(raw: bytes, file_nbytes: int) -> tuple[list[bytes], list[int]] | None:
    """Return the keys and sizes of a toc's tensors; None if it is no toc, or a file of this size can't have them."""
    try:
        entries = parse_toc(raw)
    except FormatError:
        return None
    keys, sizes = [entry.name.encode() for entry in entries], [entry.nbytes for entry in entries]
    if min(sizes) < 1 or sum(sizes) > file_nbytes or not all(0 < len(key) <= layout.KEY_NBYTES for key in keys):
        return None
    return keys, sizes


def _toc_candidates(source: ByteSource) -> Iterator[tuple[int, int]]:
    """Yield where a toc may begin and end, the last one first."""
    # Backwards: a candidate that runs into a record of a later one ends where that one ends, and is followed once.
    ends: dict[int, int] = {}  # where a record ends → where the last of the records after it ends
    ranges: dict[int, int] = {}
    left = _MOST_FOLLOWED
    for offset in reversed(_record_candidates(source)):
        passed = []
        end = offset
        for end in islice(_record_ends(source, offset), left):
            ranges.pop(end, None)  # what begins there is not the first record
            if end in ends:
                end = ends[end]  # noqa: PLW2901 (where all of them end)
                break
            passed.append(end)
        left -= len(passed) + 1
        ends.update(dict.fromkeys(passed, end))
        # Padding follows, unless it ends where a blob may begin.
        if end > offset and not (end % BLOB_ALIGN and any(source.view(end, min(4, source.size - end)))):
            ranges[offset] = end
        if left <= 0:
            break
    yield from islice(ranges.items(), _MOST_TRIED)


def _record_candidates(source: ByteSource) -> list[int]:
    """Return the multiples of 256 at which a record of a toc may begin."""
    offsets: list[int] = []
    for at in range(0, source.size - source.size % BLOB_ALIGN, CHUNK_NBYTES):
        nbytes = min(CHUNK_NBYTES, source.size - at) // BLOB_ALIGN * BLOB_ALIGN
        words = np.frombuffer(source.view(at, nbytes), dtype="<u4").reshape(-1, BLOB_ALIGN // 4)
        # A record: its number of words; the number of words of its name; the name; then at least type, bytes,
        # elements, rows and cols.
        fits = (words[:, 1] >= 1) & (words[:, 1] <= 4) & (words[:, 0] >= words[:, 1] + 6) & (words[:, 0] < 64)
        offsets += (at + BLOB_ALIGN * np.flatnonzero(fits)).tolist()
    return offsets


def _record_ends(source: ByteSource, offset: int) -> Iterator[int]:
    """Yield where each record from here on ends, until an empty one, which is padding, or an impossible one."""
    start, window, nbytes = offset, b"", 1 << 10  # most candidates are not records
    while offset + 4 <= source.size:
        if offset + 4 > start + len(window):
            start, window = offset, bytes(source.view(offset, min(nbytes, source.size - offset)))
            nbytes = 0
        count = int.from_bytes(window[offset - start : offset - start + 4], "little")
        offset += 4 + 4 * count
        if not 0 < count <= _MAX_RECORD_WORDS or offset > source.size:
            return
        # Read as much as most records have, for each one so far: of large records only the beginning is read.
        nbytes = min(nbytes + _RECORD_NBYTES, _WINDOW_NBYTES)
        yield offset


def _config_and_tokenizer(source: ByteSource, start: int, end: int) -> tuple[int, int]:
    """Return the sizes of the config at ``start``, and of the tokenizer between it and ``end``; 0 for a missing one."""
    config_nbytes = _config_nbytes(source, start, end)
    if not config_nbytes:
        return 0, 0
    return config_nbytes, _tokenizer_nbytes(source, layout.round_up(start + config_nbytes, BLOB_ALIGN), end)


def _config_nbytes(source: ByteSource, offset: int, end: int) -> int:
    """Return the size of the config between two offsets, or 0."""
    if offset + 4 > end:
        return 0
    nbytes = 4 * (1 + int.from_bytes(source.view(offset, 4), "little"))
    if nbytes > min(end - offset, _MAX_CONFIG_NBYTES):
        return 0
    try:
        ModelConfig.from_bytes(source.view(offset, nbytes))
    except FormatError:
        return 0
    return nbytes


def _tokenizer_nbytes(source: ByteSource, offset: int, end: int) -> int:
    """Return the size of the tokenizer between two offsets, or 0. Its size isn't stored: zeros follow it."""
    if not offset < end:
        return 0
    raw = bytes(source.view(offset, end - offset))
    bare = raw.rstrip(b"\0")
    if bare == NO_TOKENIZER:
        return len(bare)
    least = max(len(bare), len(raw) - BLOB_ALIGN + 1)
    try:
        return next((nbytes for nbytes in model_ends(raw) if nbytes >= least), 0)
    except FormatError:
        return 0
