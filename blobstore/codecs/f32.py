"""f32: as it is.

Spec: spec/codecs.md, f32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def encode_piece(values: npt.NDArray[Any], scale: float) -> npt.NDArray[np.uint8]:
    """Return the values' bytes; bfloat16 widens exactly. ``scale`` is 1."""
    del scale
    return values.astype("<f4", copy=False).view(np.uint8)


def decode_piece(data: npt.NDArray[np.uint8], count: int, out: npt.NDArray[Any]) -> None:
    """Copy ``count`` values into ``out``, float32."""
    out[:] = np.frombuffer(data, dtype="<f4", count=count)
