"""Where the blobs of a broken file lay: what its own bytes, or an index beside it, still prove.

Each way ends in a directory that could not be otherwise: blobs lie back to back, so keys and sizes in order are all of
it, and something independent has to agree (a stated file size, digests, a place where the next thing begins).
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

_SCAN_NBYTES = 4 << 20
_WINDOW_NBYTES = 64 << 10
_RECORD_NBYTES = 256  # more than most records have
_MAX_RECORD_WORDS = 1 << 16  # seven, a name of at most 64, and what newer versions have behind them
_MAX_CONFIG_NBYTES = 4 << 20
_MAX_PAYLOAD = 1 << 62
# A record's beginning is seldom found by chance; a hostile file may be full of them.
_MOST_TRIED, _MOST_FOLLOWED = 100, 4 * layout.MAX_BLOBS
# Bytes of the file that are read where a table or an index only may be, so many times the file's size: work grows with
# the file. Of an index it holds for each power of two by itself, so that small ones leave the large ones theirs.
_MOST_READ = 8


@dataclass(frozen=True)
class Evidence:
    """A directory that a broken file must have had.

    Attributes:
        how: What proves it, for people.
        directory: Where each blob lay. Those at the end may be cut off.
        index: The name index, where it was what proves it.
    """

    how: str
    directory: Directory
    index: NameIndex | None = None


def find_evidence(source: ByteSource, beside: memoryview | None) -> Evidence | None:
    """Return the first of these that proves where the blobs lay, or None.

    The directory at its place; at the front of a version 1 that is cut off; before something that was appended; the
    index beside the file; an index inside it, whose directory is cut off; a ``toc`` inside it.

    Args:
        source: The broken file.
        beside: The bytes of the index beside it, when there is one.
    """
    return (
        _at_its_place(source)
        or _at_the_front(source)
        or _before_the_end(source)
        or (_beside(source, beside) if beside is not None else None)
        or _index_inside(source)
        or _toc_inside(source)
    )


def _at_its_place(source: ByteSource) -> Evidence | None:
    try:
        return Evidence("its directory, which is whole", parse_directory(source.view, source.size))
    except FormatError:
        return None


def _at_the_front(source: ByteSource) -> Evidence | None:
    """Version 1 begins with its directory, and says how long the file was."""
    if source.size < HEADER.size:
        return None
    magic, count, stated = HEADER.unpack(source.view(0, HEADER.size))
    known = HEADER.size + layout.RECORD_NBYTES * count
    if magic != MAGIC or not count or known > source.size:
        return None
    try:
        return Evidence("its directory, at the front", parse_directory(source.view, stated))
    except FormatError:
        return None


def _before_the_end(source: ByteSource) -> Evidence | None:
    """A directory ends at a multiple of 64 KiB, with a header that says that very size."""
    found = []
    for end in range(source.size // FILE_ALIGN * FILE_ALIGN, 0, -FILE_ALIGN):
        magic, count, stated = HEADER.unpack(source.view(end - HEADER.size, HEADER.size))
        if magic == MAGIC and 0 < count <= layout.MAX_BLOBS and stated == end:
            found.append((end, count))
    # Such a header is neither a key nor a range of a blob, so no directory has one in it: they need not be read, and
    # the others don't overlap.
    for (end, count), (before, _) in pairwise([*found, (0, 0)]):
        if before > end - HEADER.size - layout.RECORD_NBYTES * count:
            continue
        try:
            return Evidence(f"its directory, before {source.size - end} bytes more", parse_directory(source.view, end))
        except FormatError:
            continue
    return None


def _beside(source: ByteSource, raw: memoryview) -> Evidence | None:
    """An index beside the file lists all blobs in order, and has the digest of the directory that they make.

    That it is this file's is proved by the blobs' digests; without any, the file must begin as that one did, and have
    zeros wherever that one had.
    """
    try:
        index = parse_index(raw, external=True)
    except FormatError:
        return None
    for version in (2, 1):
        directory = _laid_out(version, index)
        if not directory or (index.store_nbytes, index.store_sha256) != (
            directory.file_size,
            directory_digest(directory),
        ):
            continue
        if index.has_digests or _has_frame(source, directory):
            return Evidence("the index beside it", directory, index)
    return None


def _has_frame(source: ByteSource, directory: Directory) -> bool:
    """Whether a file begins as one with this directory does, and has its padding, as far as it goes."""
    head = layout.PLACEHOLDER if directory.version == 2 else directory.header()
    if source.size < len(head) or bytes(source.view(0, len(head))) != head:
        return False
    gaps = ((offset, min(nbytes, source.size - offset)) for offset, nbytes in directory.gaps() if offset < source.size)
    return not any(np.frombuffer(source.view(*gap), np.uint8).any() for gap in gaps)


def _index_inside(source: ByteSource) -> Evidence | None:
    """An index inside lists the blobs before it, which must end where it begins; it has a digest of itself."""
    left: dict[int, int] = {}  # number of bits of a size → bytes that may still be read for indexes of such sizes
    for offset in _aligned(source, INDEX_MAGIC):
        head = parse_head(source.view(offset, min(INDEX_HEADER.itemsize, source.size - offset)))
        # All that costs little comes first: what only begins like an index is found by its first 192 bytes.
        if head is None or head.nbytes > source.size - offset:
            continue
        for nbytes, holds in ((head.blobs_nbytes, _ends_at), (head.nbytes, _is_whole)):
            of_size = nbytes.bit_length()
            left[of_size] = left.get(of_size, _MOST_READ * source.size) - nbytes
            if left[of_size] < 0 or not holds(source, offset, head):
                break
        else:
            found = _index_at(source, offset, head.nbytes)
            if found:
                return found
    return None


def _ends_at(source: ByteSource, offset: int, head: Head) -> bool:
    """Whether the blobs that an index lists end where it begins."""
    table = np.frombuffer(source.view(offset + head.blobs_offset, head.blobs_nbytes), BLOB)
    sizes = table["nbytes"]
    if not len(sizes) or sizes.astype(np.float64).sum() >= _MAX_PAYLOAD:
        return False
    return int(layout.blob_ends(BLOB_ALIGN, sizes.astype(np.int64))[-1]) == offset


def _is_whole(source: ByteSource, offset: int, head: Head) -> bool:
    """Whether an index has its own SHA-256."""
    return bool(head.self_sha256 == self_digest(source.view(offset, head.nbytes)))


def _index_at(source: ByteSource, offset: int, nbytes: int) -> Evidence | None:
    try:
        index = parse_index(source.view(offset, nbytes), external=False)
    except FormatError:
        return None
    directory = _laid_out(2, index, nbytes)
    how = "the index inside it, which begins where the blobs that it lists end"
    return Evidence(how, directory, index) if directory else None


def _laid_out(version: int, index: NameIndex, *own_nbytes: int) -> Directory | None:
    """Return the directory of the blobs that an index lists, with its own at the end where it is inside."""
    rows = [index.blob(i) for i in range(len(index.blobs))]
    keys = [*(row.key for row in rows), *(INDEX_KEY.encode() for _ in own_nbytes)]
    sizes = [*(row.nbytes for row in rows), *own_nbytes]
    if not rows or sum(sizes) >= _MAX_PAYLOAD:
        return None
    directory = build_directory(version, keys, sizes)
    try:
        index.places(directory)
    except FormatError:  # a key that is none, or stands there twice
        return None
    return directory


def _aligned(source: ByteSource, start: bytes) -> Iterator[int]:
    """Yield the multiples of 256 at which these bytes stand."""
    for at in range(0, source.size, _SCAN_NBYTES):
        piece = np.frombuffer(source.view(at, min(_SCAN_NBYTES, source.size - at)), dtype=np.uint8)
        whole = piece[: len(piece) // BLOB_ALIGN * BLOB_ALIGN].reshape(-1, BLOB_ALIGN)
        same = (whole[:, : len(start)] == np.frombuffer(start, np.uint8)).all(axis=1)
        yield from (at + BLOB_ALIGN * int(i) for i in np.flatnonzero(same))
        if len(piece) % BLOB_ALIGN and bytes(piece[len(whole) * BLOB_ALIGN :][: len(start)]) == start:
            yield at + len(whole) * BLOB_ALIGN


def _toc_inside(source: ByteSource) -> Evidence | None:
    """gemma.cpp writes tensors, ``config``, ``tokenizer``, ``toc``: the toc's tensors end where the config begins."""
    left = _MOST_READ * source.size
    for offset, end in _toc_candidates(source):
        left -= end - offset
        if left < 0:
            break
        raw = bytes(source.view(offset, end - offset))
        try:
            entries = parse_toc(raw)
        except FormatError:
            continue
        keys, sizes = [entry.name.encode() for entry in entries], [entry.nbytes for entry in entries]
        if min(sizes) < 1 or not all(0 < len(key) <= layout.KEY_NBYTES for key in keys) or sum(sizes) > source.size:
            continue
        start = int(layout.blob_ends(BLOB_ALIGN, np.array(sizes, dtype=np.int64))[-1])
        left -= max(0, offset - start)
        config = _config_nbytes(source, start, offset)
        if not config:
            continue
        behind = layout.round_up(start + config, BLOB_ALIGN)
        tokenizer = _tokenizer_nbytes(source, behind, offset)
        if not tokenizer:
            continue
        keys += [CONFIG_KEY.encode(), TOKENIZER_KEY.encode(), TOC_KEY.encode()]
        sizes += [config, tokenizer, len(raw)]
        if len(set(keys)) == len(keys):
            how = "the toc inside it: config and tokenizer stand where the tensors that it lists end"
            return Evidence(how, build_directory(2, keys, sizes))
    return None


def _toc_candidates(source: ByteSource) -> Iterator[tuple[int, int]]:
    """Yield where a toc may begin and end, the last first."""
    found: list[int] = []
    for at in range(0, source.size - source.size % BLOB_ALIGN, _SCAN_NBYTES):
        nbytes = min(_SCAN_NBYTES, source.size - at) // BLOB_ALIGN * BLOB_ALIGN
        words = np.frombuffer(source.view(at, nbytes), dtype="<u4").reshape(-1, BLOB_ALIGN // 4)
        # A record: so many words follow; a name of so many words; then at least type, bytes, elements, rows, cols.
        fits = (words[:, 1] >= 1) & (words[:, 1] <= 4) & (words[:, 0] >= words[:, 1] + 6) & (words[:, 0] < 64)
        found += (at + BLOB_ALIGN * np.flatnonzero(fits)).tolist()
    # From the last one on: where one comes upon a record of another, both end alike, and it is followed once.
    ends: dict[int, int] = {}  # where a record ends → where the last one does that follows it
    ranges: dict[int, int] = {}
    left = _MOST_FOLLOWED
    for offset in reversed(found):
        passed = []
        end = offset
        for end in islice(_record_ends(source, offset), left):
            ranges.pop(end, None)  # it follows a record
            if end in ends:
                end = ends[end]  # noqa: PLW2901 (where all of them end)
                break
            passed.append(end)
        left -= len(passed) + 1
        ends.update(dict.fromkeys(passed, end))
        # Where it doesn't end at a blob's border, padding follows.
        if end > offset and not (end % BLOB_ALIGN and any(source.view(end, min(4, source.size - end)))):
            ranges[offset] = end
        if left <= 0:
            break
    yield from islice(ranges.items(), _MOST_TRIED)


def _record_ends(source: ByteSource, offset: int) -> Iterator[int]:
    """Yield where each record from here on ends, up to an empty one, which is padding, or what can't be one."""
    start, window, nbytes = offset, b"", 1 << 10  # most that may begin here are none
    while offset + 4 <= source.size:
        if offset + 4 > start + len(window):
            start, window = offset, bytes(source.view(offset, min(nbytes, source.size - offset)))
            nbytes = 0
        count = int.from_bytes(window[offset - start : offset - start + 4], "little")
        offset += 4 + 4 * count
        if not 0 < count <= _MAX_RECORD_WORDS or offset > source.size:
            return
        # As much for each record as most have: of large ones no more is read than where they begin.
        nbytes = min(nbytes + _RECORD_NBYTES, _WINDOW_NBYTES)
        yield offset


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
    """Return the size of the tokenizer between two offsets, or 0. Where it ends isn't written: zeros follow."""
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
