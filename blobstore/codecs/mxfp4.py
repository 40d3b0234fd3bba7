"""mxfp4, 4.25 bits per value: blocks of 32 values: a power of two (e8m0), then an e2m1 float per value. Read only.

Spec: spec/codecs.md, mxfp4.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs.blocks import HALF, decode_blocks
from blobstore.errors import CodecError

if TYPE_CHECKING:
    import numpy.typing as npt

    from blobstore.fileio.types import Array, Bytes

RESERVED = 0xFF  # a NaN in e8m0
_NBYTES = 1 + HALF
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of codes 0 to 7; 8 to 15 are the same with a minus


def decode_piece(data: Bytes, count: int, out: Array) -> None:
    """Decode the first ``count`` values of blocks into ``out``, float32.

    Raises:
        CodecError: ``mxfp4-reserved-scale`` when a block has the scale 0xFF.
    """
    decode_blocks(data, count, out, _NBYTES, _decode_blocks)


def _decode_blocks(blocks: Bytes, out: npt.NDArray[np.float32]) -> None:
    """Decode blocks, shape (n, 17), into ``out``, shape (n, 32)."""
    if (blocks[:, 0] == RESERVED).any():
        raise CodecError("mxfp4-reserved-scale", "a block has the scale 0xFF, which has no value")
    scales, packed = np.take(_scales(), blocks[:, :1]), blocks[:, 1:]
    low, high = _values()
    with np.errstate(over="ignore"):  # 2¹²⁷ · 2 and more
        np.multiply(np.take(low, packed), scales, out=out[:, :HALF])
        np.multiply(np.take(high, packed), scales, out=out[:, HALF:])


@cache
def _values() -> npt.NDArray[np.float32]:
    """Return the values of the two codes in each byte, the low nibble's first, shape (2, 256)."""
    magnitudes = np.array(_MAGNITUDES, dtype=np.float32)
    values = np.concatenate([magnitudes, -magnitudes])
    return np.stack([np.tile(values, len(values)), np.repeat(values, len(values))])


@cache
def _scales() -> npt.NDArray[np.float32]:
    """Return the scale of each byte, shape (256,): 2^(byte − 127), but zero for 0, as the runtime has it."""
    return (np.arange(256, dtype=np.uint32) << np.uint32(23)).view(np.float32)
