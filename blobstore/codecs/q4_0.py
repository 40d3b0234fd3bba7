"""q4_0, 4.5 bits per value: blocks of 32 values: a factor in bf16, then four bits per value. GGUF's Q4_0 has an f16.

Spec: spec/codecs.md, q4_0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from blobstore.codecs.blocks import HALF, decode_blocks, filled_up

if TYPE_CHECKING:
    import numpy.typing as npt

    from blobstore.fileio.types import Array, Bytes

LARGEST = np.uint32(0x7F7F7FFF).view(np.float32)  # larger magnitudes round to an infinity in bf16, and here as well
_HEAD = 2  # bytes of the factor
_NBYTES = _HEAD + HALF
_BF16 = np.dtype(ml_dtypes.bfloat16)
_BLOCK = np.dtype([("factor", np.uint16), ("codes", np.uint64), ("more", np.uint64)])


def encode_piece(values: Array, scale: float) -> Bytes:
    """Return the blocks' bytes. ``scale`` is 1: each block has its own factor.

    Args:
        values: Of magnitudes up to `LARGEST`.
        scale: Not used.
    """
    del scale
    return _encode_blocks(filled_up(values.astype(np.float32, copy=False)))


def decode_piece(data: Bytes, count: int, out: Array) -> None:
    """Decode the first ``count`` values of blocks into ``out``, float32."""
    decode_blocks(data, count, out, _NBYTES, _decode_blocks)


def _encode_blocks(blocks: npt.NDArray[np.float32]) -> Bytes:
    """Encode blocks, shape (n, 32) → (18 · n,)."""
    top = _first_of_largest_magnitude(blocks)
    with np.errstate(all="ignore"):
        factor = top / np.float32(-8)
        inverse = 1 / factor
    # Nothing but zeros, or values up to 2⁻¹²⁵, whose codes the runtime computes from infinities: zeros as well.
    none = ~np.isfinite(inverse)
    factor[none], inverse[none] = -0.0, 0.0
    scaled = blocks * inverse[:, None]
    scaled += np.float32(8.5)
    codes = scaled.astype(np.uint8)  # cut off, as in GGUF: halves are rounded up
    codes -= codes >> np.uint8(4)  # 16 becomes 15
    eights = codes.view(np.uint64)
    stored = np.empty(len(blocks), dtype=_BLOCK)
    stored["factor"] = factor.astype(_BF16).view(np.uint16)
    stored["codes"] = eights[:, 0] | eights[:, 2] << np.uint64(4)
    stored["more"] = eights[:, 1] | eights[:, 3] << np.uint64(4)
    return stored.view(np.uint8)


def _first_of_largest_magnitude(blocks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a value of each block, shape (n, 32) → (n,), with its sign."""
    places = np.abs(blocks).argmax(axis=1)
    return np.take_along_axis(blocks, places[:, None], axis=1)[:, 0]


def _decode_blocks(blocks: Bytes, out: npt.NDArray[np.float32]) -> None:
    """Decode blocks, shape (n, 18), into ``out``, shape (n, 32)."""
    packed = blocks[:, _HEAD:]
    with np.errstate(all="ignore"):  # foreign bytes may hold any factor; all are decoded
        factor = np.ascontiguousarray(blocks[:, :_HEAD]).view(_BF16).astype(np.float32)
        np.multiply((packed & 15).view(np.int8) - 8, factor, out=out[:, :HALF], dtype=np.float32)
        np.multiply((packed >> 4).view(np.int8) - 8, factor, out=out[:, HALF:], dtype=np.float32)
