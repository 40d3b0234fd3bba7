"""nuq, 4.5 bits per value: groups of 256 values: a table of 16 sfp codes, then four bits per value. Read only.

Spec: spec/codecs.md, nuq.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs import sfp

if TYPE_CHECKING:
    import numpy.typing as npt

    from blobstore.fileio.types import Array, Bytes

GROUP = 256
_TABLE = 16


def decode_piece(data: Bytes, count: int, out: Array) -> None:
    """Decode the first ``count`` values of groups into ``out``, float32.

    Raises:
        CodecError: ``sfp-reserved-code`` when a table has the code 0x80.
    """
    whole = count // GROUP
    step = _TABLE + GROUP // 2
    if whole:
        out[: whole * GROUP] = _decode_groups(data[: whole * step].reshape(whole, step)).reshape(-1)
    rest = count - whole * GROUP
    if rest:
        last = data[whole * step : whole * step + _TABLE + (rest + 1) // 2]
        out[whole * GROUP :] = _decode_groups(last.reshape(1, -1)).reshape(-1)[:rest]


def _decode_groups(groups: Bytes) -> npt.NDArray[np.float32]:
    """Decode groups of equal length, shape (n, 16 + bytes of indices) → (n, 2 · bytes of indices)."""
    tables = np.empty((len(groups), _TABLE), dtype=np.float32)
    codes = np.ascontiguousarray(groups[:, :_TABLE])
    sfp.decode_piece(codes.reshape(-1), codes.size, tables.reshape(-1))
    packed = groups[:, _TABLE:]
    indices = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(groups), -1)  # low nibble first
    return np.take_along_axis(tables, indices.astype(np.intp), axis=1)
