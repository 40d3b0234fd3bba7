"""`Block`: a part of a tensor that is not stored as one run."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

Stored = TypeVar("Stored")

TRANSPOSE, CHANNELS_LAST, MINUS_ONE = "transpose", "channels_last", "minus_one"
ARRANGEMENTS = ("", TRANSPOSE, CHANNELS_LAST, MINUS_ONE)


class Block(NamedTuple, Generic[Stored]):
    """A run of elements of a stored tensor, and the block of a checkpoint's tensor that they are.

    The metadata of a converted file lists these fields, in this order (spec/gemma.md, Checkpoints).

    Attributes:
        stored: The stored tensor: its `TensorInfo`; its name while a file is written.
        at: First element of the run.
        row: First row of the block; the checkpoint's tensor is seen as a matrix of `width` columns.
        rows: How many.
        col: First column of the block.
        cols: How many.
        width: Columns of the matrix.
        arrange: What was done to the block when it was stored: empty for nothing, ``transpose``, ``channels_last``, or
            ``minus_one``, where the stored values are the block's minus 1.
        channels: Planes of each row, for ``channels_last``.

    Example:
        >>> block = blobstore.Block("qkv_ein_0", at=0, row=0, rows=2, col=0, cols=8, width=8)
        >>> block.element_count, block.whole_rows
        (16, True)
    """

    stored: Stored
    at: int
    row: int
    rows: int
    col: int
    cols: int
    width: int
    arrange: str = ""
    channels: int = 1

    @property
    def element_count(self) -> int:
        """How many elements it has."""
        return self.rows * self.cols

    @property
    def whole_rows(self) -> bool:
        """Whether the block is a run of the checkpoint's tensor as well."""
        return not self.arrange and self.col == 0 and self.cols == self.width
