"""The container's constants and arithmetic: sizes → offsets, file size.

Spec: spec/sbs.md, Fields.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from blobstore.fileio.types import Array

MAGIC = 0x0A534253  # "SBS\n"
MAGIC_BYTES = MAGIC.to_bytes(4, "little")  # every file begins with them
BLOB_ALIGN = 256
FILE_ALIGN = 65536
_ALIGN_BITS = 8
KEY_NBYTES = 16
MAX_BLOBS = 1 << 20  # in a file
MAX_PORTABLE_BLOBS = 16383  # what every gemma.cpp reads: a file that it runs has no more, unless that is asked for

HEADER = struct.Struct("<IIQ")  # magic, count, file size
RECORD_NBYTES = 32  # a key and a range per blob
PLACEHOLDER = HEADER.pack(MAGIC, 0, FILE_ALIGN)


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is not less than ``value``."""
    return -(-value // multiple) * multiple


def padded_directory_nbytes(count: int) -> int:
    """Return the size of a header with the directory of ``count`` blobs, rounded up to the blobs' alignment."""
    return round_up(HEADER.size + RECORD_NBYTES * count, BLOB_ALIGN)


def payload_start(version: int, count: int) -> int:
    """Return the offset of the first blob."""
    return BLOB_ALIGN if version == 2 else padded_directory_nbytes(count)


def blob_ends(start: int, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where the padding of each blob ends; blob i + 1 begins at ``ends[i]``.

    Args:
        start: Offset of the first blob.
        sizes: Sizes in bytes, shape (count,); their sum fits into 63 bits.
    """
    return np.cumsum(padded_sizes(sizes)) + start


def padded_sizes(sizes: Array) -> Array:
    """Return each blob's size with its padding; any integer dtype."""
    padded: Array = sizes + (BLOB_ALIGN - 1)
    padded >>= _ALIGN_BITS  # no division
    padded <<= _ALIGN_BITS
    return padded


def file_size(version: int, count: int, payload_end: int) -> int:
    """Return the size of the whole file, given where the padding of its last blob ends."""
    tail = padded_directory_nbytes(count) if version == 2 else 0
    return round_up(payload_end + tail, FILE_ALIGN)
