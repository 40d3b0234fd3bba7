"""bf16: the upper half of an f32, rounded to nearest even. Subnormals and infinities are kept, a NaN stays a NaN.

Spec: spec/codecs.md, bf16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from blobstore.fileio.types import Array, Bytes


def encode_piece(values: Array, scale: float) -> Bytes:
    """Return two bytes for each value. ``scale`` is 1."""
    del scale
    with np.errstate(invalid="ignore"):  # any NaN stays a NaN
        return values.astype(ml_dtypes.bfloat16, copy=False).view(np.uint8)


def decode_piece(data: Bytes, count: int, out: Array) -> None:
    """Write ``count`` values into ``out``, float32 or bfloat16; both are exact, to the bit of a NaN."""
    bits = np.frombuffer(data, dtype="<u2", count=count)
    if out.dtype == np.float32:
        wide = out.view(np.uint32)
        wide[:] = bits
        wide <<= np.uint32(16)
    else:
        out.view(np.uint16)[:] = bits
