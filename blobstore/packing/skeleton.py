"""What of a file isn't in its blobs: headers, directory, padding, its own index. With the blobs it is the file again.

Spec: spec/packed.md, Packed files.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import zstandard

from blobstore.container.directory import parse_directory
from blobstore.container.keys import INDEX_KEY
from blobstore.container.layout import HEADER
from blobstore.errors import FormatError, UsageError
from blobstore.index.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.container.directory import Directory
    from blobstore.container.reader import BlobReader

    Buffer = bytes | memoryview

_LEVEL = 9
# Headers, padding and directory are at most 287 bytes for each blob, and more than two of them stay; an index is seldom
# a tenth of itself.
_MAX_NBYTES, _MAX_RATIO = 16 << 20, 256
_MAX_FILE_NBYTES = (1 << 63) - 1
_SHA256_NBYTES = 32


@dataclass(frozen=True)
class Original:
    """The file that was packed, as the metadata of the packed one says.

    Attributes:
        nbytes: Its size.
        sha256: Of all of it, in hex.
        index: Where its name index was.
    """

    nbytes: int
    sha256: str
    index: Literal["embedded", "external", "none"]

    def to_text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Original:
        """Read it.

        Raises:
            FormatError: ``packed-metadata``.
        """
        try:
            raw = parse_json(text.encode())
            original = cls(raw["nbytes"], raw["sha256"], raw["index"])
            right = type(original.nbytes) is int and 0 < original.nbytes <= _MAX_FILE_NBYTES and len(raw) == 3
            right = right and len(bytes.fromhex(original.sha256)) == _SHA256_NBYTES
            right = right and original.index in ("embedded", "external", "none")
        except (ValueError, TypeError, LookupError):
            right = False
        if not right:
            raise FormatError("packed-metadata", f"what it says of the file that was packed can't be read: {text:.80}")
        return original


def ranges_outside(directory: Directory) -> Iterator[tuple[int, int]]:
    """Yield (offset, nbytes) of each run of a file that is in no blob but the index, in order."""
    own = directory.find(INDEX_KEY.encode())
    end = 0
    for place, (offset, nbytes) in enumerate(zip(directory.offsets.tolist(), directory.sizes.tolist(), strict=True)):
        if place != own:
            if offset > end:
                yield end, offset - end
            end = offset + nbytes
    if directory.file_size > end:
        yield end, directory.file_size - end


def take_skeleton(reader: BlobReader) -> bytes:
    """Return all of a file that is in no blob but the index, compressed."""
    parts = [bytes(reader.view(*one)) for one in ranges_outside(reader.directory)]
    return compressed(b"".join(parts))


def compressed(raw: bytes) -> bytes:
    """Return bytes as one zstd frame.

    Raises:
        UsageError: ``packed-skeleton``: they get so small that `decompressed` takes it for a bomb.
    """
    packed = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(raw)
    if len(raw) > _most(packed):
        what = f"{len(raw)} bytes of directory and index get {_MAX_RATIO} times smaller, which no reader would trust"
        raise UsageError("packed-skeleton", what)
    return packed


def _most(packed: Buffer) -> int:
    """Return how many bytes these may stand for: who reads them holds all at once."""
    return _MAX_NBYTES + _MAX_RATIO * len(packed)


def decompressed(raw: memoryview) -> bytes:
    """Return what `compressed` was given.

    Raises:
        FormatError: ``packed-skeleton``.
    """
    try:
        nbytes = zstandard.frame_content_size(raw)
        if not 0 <= nbytes <= _most(raw):
            said = f"for {nbytes} bytes" if nbytes >= 0 else "it doesn't say for how many"
            raise FormatError("packed-skeleton", f"{len(raw)} bytes are to stand {said}: at most {_most(raw)} may be")
        return zstandard.ZstdDecompressor().decompress(raw, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError("packed-skeleton", f"it is damaged: {error}") from None


def directory_in(skeleton: bytes, file_nbytes: int) -> Directory:
    """Return the directory that the file had.

    Raises:
        FormatError: ``packed-skeleton``, or what is wrong with the directory.
    """
    behind = len(skeleton) - file_nbytes  # of an offset in the part that is last in the file
    first_has_all = len(skeleton) >= HEADER.size and HEADER.unpack_from(skeleton)[1] != 0  # version 1

    def read(offset: int, nbytes: int) -> bytes:
        start = offset if first_has_all or offset < HEADER.size else behind + offset
        if start < 0 or start + nbytes > len(skeleton):
            raise FormatError("packed-skeleton", "it is too short for the directory of the file")
        return skeleton[start : start + nbytes]

    directory = parse_directory(read, file_nbytes)
    outside = sum(nbytes for _, nbytes in ranges_outside(directory))
    if outside != len(skeleton):
        what = f"{outside} bytes of the file were in no blob, {len(skeleton)} are kept"
        raise FormatError("packed-skeleton", what)
    return directory
