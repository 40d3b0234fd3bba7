"""The skeleton: all bytes of a file that are in none of its blobs but the index. With the blobs it makes the file.

Spec: spec/packed.md, Packed files.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, get_args

import zstandard

from blobstore.container.directory import parse_directory
from blobstore.container.keys import INDEX_KEY
from blobstore.container.layout import HEADER
from blobstore.errors import FormatError, UsageError
from blobstore.index.locate import IndexPlace
from blobstore.index.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.container.directory import Directory
    from blobstore.container.reader import BlobReader

    Buffer = bytes | memoryview

_LEVEL = 9
# Headers, padding and directory take at most 287 bytes for each blob, of which more than two stay when compressed; an
# index seldom gets ten times smaller.
_MAX_NBYTES, _MAX_RATIO = 16 << 20, 256
_MAX_FILE_NBYTES = (1 << 63) - 1
_SHA256_NBYTES = 32


@dataclass(frozen=True)
class Original:
    """What the metadata of a packed file says about the original.

    Attributes:
        nbytes: Its size.
        sha256: Of the whole file, in hex.
        index: Where its name index was.
    """

    nbytes: int
    sha256: str
    index: IndexPlace

    def to_text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Original:
        """Parse it.

        Raises:
            FormatError: ``packed-metadata``.
        """
        try:
            raw = parse_json(text.encode())
            original = cls(raw["nbytes"], raw["sha256"], raw["index"])
            right = type(original.nbytes) is int and 0 < original.nbytes <= _MAX_FILE_NBYTES and len(raw) == 3
            right = right and len(bytes.fromhex(original.sha256)) == _SHA256_NBYTES
            right = right and original.index in get_args(IndexPlace)
        except (ValueError, TypeError, LookupError):
            right = False
        if not right:
            raise FormatError("packed-metadata", f"what it says about the original can't be read: {text:.80}")
        return original


def ranges_outside(directory: Directory) -> Iterator[tuple[int, int]]:
    """Yield (offset, nbytes) of each run of bytes that is in no blob but the index, in order."""
    own_place = directory.find(INDEX_KEY.encode())
    end = 0
    for place, (offset, nbytes) in enumerate(zip(directory.offsets.tolist(), directory.sizes.tolist(), strict=True)):
        if place != own_place:
            if offset > end:
                yield end, offset - end
            end = offset + nbytes
    if directory.file_size > end:
        yield end, directory.file_size - end


def take_skeleton(reader: BlobReader) -> bytes:
    """Return all bytes of a file that are in no blob but the index, compressed."""
    parts = [bytes(reader.view(offset, nbytes)) for offset, nbytes in ranges_outside(reader.directory)]
    return compressed(b"".join(parts))


def compressed(raw: bytes) -> bytes:
    """Return bytes as one zstd frame.

    Raises:
        UsageError: ``packed-skeleton``: the frame would be so small that `decompressed` would take it for a bomb.
    """
    packed = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(raw)
    if len(raw) > _max_nbytes(packed):
        what = f"directory and index, {len(raw)} bytes, compress better than the limit of readers, {_MAX_RATIO} times"
        raise UsageError("packed-skeleton", what)
    return packed


def _max_nbytes(packed: Buffer) -> int:
    """Return how many bytes a frame may decompress to: readers hold all of them in memory."""
    return _MAX_NBYTES + _MAX_RATIO * len(packed)


def decompressed(raw: memoryview) -> bytes:
    """Return the bytes that `compressed` was given.

    Raises:
        FormatError: ``packed-skeleton``.
    """
    try:
        nbytes = zstandard.frame_content_size(raw)
        if not 0 <= nbytes <= _max_nbytes(raw):
            stated = f"{nbytes} bytes" if nbytes >= 0 else "a size that it doesn't state"
            what = f"{len(raw)} bytes decompress to {stated}: at most {_max_nbytes(raw)} are allowed"
            raise FormatError("packed-skeleton", what)
        return zstandard.ZstdDecompressor().decompress(raw, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError("packed-skeleton", f"it is damaged: {error}") from None


def directory_in(skeleton: bytes, file_nbytes: int) -> Directory:
    """Return the directory of the original.

    Raises:
        FormatError: ``packed-skeleton``, or the fault of the directory.
    """
    tail_shift = len(skeleton) - file_nbytes  # from an offset in the last run of the file to its place in the skeleton
    all_at_front = len(skeleton) >= HEADER.size and HEADER.unpack_from(skeleton)[1] != 0  # version 1

    def read(offset: int, nbytes: int) -> bytes:
        start = offset if all_at_front or offset < HEADER.size else tail_shift + offset
        if start < 0 or start + nbytes > len(skeleton):
            raise FormatError("packed-skeleton", "it is too short for the directory of the original")
        return skeleton[start : start + nbytes]

    directory = parse_directory(read, file_nbytes)
    outside = sum(nbytes for _, nbytes in ranges_outside(directory))
    if outside != len(skeleton):
        what = f"{outside} bytes of the original were in no blob, the skeleton has {len(skeleton)}"
        raise FormatError("packed-skeleton", what)
    return directory
