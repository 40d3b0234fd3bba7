"""Blocks of 32 values that are stored in full: the last one is filled up with zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.fileio.types import Array, Bytes

GROUP = 32
HALF = GROUP // 2  # byte j of the codes has those of values j, the low nibble, and j + 16


def decode_blocks(
    data: Bytes, count: int, out: Array, block_nbytes: int, decode: Callable[[Bytes, Array], None]
) -> None:
    """Decode the first ``count`` values of blocks into ``out``, float32.

    Args:
        data: The blocks, and what follows them.
        count: How many values.
        out: Shape (count,), C order.
        block_nbytes: Of one block.
        decode: Decodes blocks, shape (n, ``block_nbytes``), into floats, shape (n, 32).
    """
    whole = count // GROUP
    blocks = data[: -(-count // GROUP) * block_nbytes].reshape(-1, block_nbytes)
    decode(blocks[:whole], out[: whole * GROUP].reshape(whole, GROUP))
    rest = count - whole * GROUP
    if rest:
        last = np.empty((1, GROUP), dtype=np.float32)
        decode(blocks[whole:], last)
        out[whole * GROUP :] = last[0, :rest]


def filled_up(values: Array) -> Array:
    """Return values as blocks, shape (n, 32), the last one filled up with zeros."""
    lacking = -len(values) % GROUP
    if lacking:
        values = np.concatenate([values, np.zeros(lacking, dtype=values.dtype)])
    return values.reshape(-1, GROUP)
