"""The directory of a broken file, as far as the runtime's ``toc`` inside it still proves it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container import layout
from blobstore.container.directory import build_directory
from blobstore.container.keys import CONFIG_KEY, NO_TOKENIZER, TOC_KEY, TOKENIZER_KEY
from blobstore.container.layout import BLOB_ALIGN
from blobstore.errors import FormatError
from blobstore.fileio.ranges import CHUNK_NBYTES
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.enums import TokenizerKind
from blobstore.gemma.records import record_nbytes
from blobstore.gemma.toc import parse_toc
from blobstore.gemma.tokenizer import model_ends

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.container.directory import Directory
    from blobstore.fileio.types import ByteSource

_WINDOW_NBYTES = 64 << 10
_RECORD_NBYTES = 256  # most records have fewer
_MAX_RECORD_WORDS = 1 << 16  # seven, at most 64 for a name, and what newer versions append
_MAX_CONFIG_NBYTES = 4 << 20
# Few bytes look like the beginning of a record by chance, but a hostile file may be full of them.
_MOST_TRIED, _MOST_FOLLOWED = 100, 4 * layout.MAX_BLOBS
# How much is read of what may be a table or an index, as a multiple of the file's size: work grows with the file. For
# indexes each power of two in size has a budget of its own, so that small candidates don't use up that of large ones.
MOST_READ = 8


def directory_from_toc(source: ByteSource) -> Directory | None:
    """Return the directory that a ``toc`` inside a broken file proves, or None.

    gemma.cpp writes tensors, ``config``, ``tokenizer``, ``toc``: the toc's tensors end where the config begins.
    """
    left = MOST_READ * source.size
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
            return build_directory(2, keys, sizes)
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
    config, config_nbytes = _config(source, start, end)
    if config is None:
        return 0, 0
    offset = layout.round_up(start + config_nbytes, BLOB_ALIGN)
    return config_nbytes, _tokenizer_nbytes(source, offset, end, config.tokenizer_kind)


def _config(source: ByteSource, offset: int, end: int) -> tuple[ModelConfig | None, int]:
    """Return the config between two offsets, or None, and its size."""
    if offset + 4 > end:
        return None, 0
    nbytes = record_nbytes(source.view(offset, 4))
    if nbytes > min(end - offset, _MAX_CONFIG_NBYTES):
        return None, 0
    try:
        return ModelConfig.from_bytes(source.view(offset, nbytes)), nbytes
    except FormatError:
        return None, 0


def _tokenizer_nbytes(source: ByteSource, offset: int, end: int, kind: TokenizerKind) -> int:
    """Return the size of the tokenizer between two offsets, or 0. Its size isn't stored: zeros follow it."""
    if not offset < end:
        return 0
    raw = bytes(source.view(offset, end - offset))
    bare = raw.rstrip(b"\0")
    if bare == NO_TOKENIZER:
        return len(bare)
    least = max(len(bare), len(raw) - BLOB_ALIGN + 1)
    if kind == TokenizerKind.BPE:
        nbytes = record_nbytes(raw)
        return nbytes if least <= nbytes <= len(raw) else 0
    try:
        return next((nbytes for nbytes in model_ends(raw) if nbytes >= least), 0)
    except FormatError:
        return 0
