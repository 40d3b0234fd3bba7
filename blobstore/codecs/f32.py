"""f32: stored unchanged.

Spec: spec/codecs.md, f32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from blobstore.fileio.types import Array, Bytes


def encode_piece(values: Array, scale: float) -> Bytes:
    """Return the values' bytes; bfloat16 is widened exactly. ``scale`` is 1."""
    del scale
    return values.astype("<f4", copy=False).view(np.uint8)


def decode_piece(data: Bytes, count: int, out: Array) -> None:
    """Copy ``count`` values into ``out``, float32."""
    out[:] = np.frombuffer(data, dtype="<f4", count=count)
