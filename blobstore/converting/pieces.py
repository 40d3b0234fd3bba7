"""Pieces of checkpoint tensors become the values of a new tensor, in its order, a chunk at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from blobstore.codecs import PIECE, encode_pieces, first_unfit, scale_for
from blobstore.errors import CodecError
from blobstore.fileio.threads import in_order
from blobstore.store.blocks import CHANNELS_LAST, MINUS_ONE, TRANSPOSE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.checkpoint.tensors import SourceTensor
    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Array, Bytes


_CHUNK_NBYTES = 1 << 20  # of the source, for one thread at a time


@dataclass(frozen=True)
class Piece:
    """A block of a checkpoint tensor that becomes rows of a new one.

    Attributes:
        source: The tensor's name; None for zeros.
        width: Columns of the source, seen as a matrix; for zeros, of the new rows.
        row: First row of the block.
        rows: How many.
        col: First column of the block.
        cols: How many.
        arrange: Empty for the block as it is; ``transpose``; ``channels_last``, where each row is an image whose
            `channels` planes become the last dimension; or ``minus_one``, where 1 is taken from each value.
        channels: Planes of each row.
        repeated: Whether its rows are stored elsewhere, too: these only fill up, or are the head that is tied.
    """

    source: str | None
    width: int
    row: int
    rows: int
    col: int = 0
    cols: int = 0
    arrange: str = ""
    channels: int = 1
    repeated: bool = False

    @property
    def whole_rows(self) -> bool:
        """Whether the block is a run of the source's bytes."""
        return self.source is not None and not self.arrange and self.col == 0 and self.cols == self.width

    @property
    def count(self) -> int:
        """Elements."""
        return self.rows * self.cols


def rows_of(source: str, width: int, row: int, rows: int) -> Piece:
    """Return whole rows of a tensor."""
    return Piece(source, width, row, rows, 0, width)


def minus_one(source: str, count: int) -> Piece:
    """Return a vector whose values are stored minus 1."""
    return Piece(source, count, 0, 1, 0, count, MINUS_ONE)


def stored_ranges(checkpoint: Checkpoint, pieces: Iterable[Piece], element_type: ElementType) -> list[FileRange] | None:
    """Return the ranges that are the new tensor's bytes as they are, or None when they have to be encoded."""
    ranges = []
    for piece in pieces:
        tensor = checkpoint.tensors.get(str(piece.source)) if piece.whole_rows else None
        if tensor is None or tensor.stored is None or tensor.type != element_type:
            return None
        item_nbytes = element_type.bits // 8
        ranges.append(tensor.stored.part(piece.row * piece.width * item_nbytes, piece.count * item_nbytes))
    return ranges


def scale_of(
    checkpoint: Checkpoint, pieces: Iterable[Piece], element_type: ElementType
) -> tuple[float, dict[str, str]]:
    """Return the scale that a type needs for all values, and for each source the first value that it can't hold."""
    scale, faults = 1.0, {}
    for piece in pieces:
        if piece.source is None or piece.source in faults:
            continue
        for load in _loads(checkpoint, piece):
            try:
                scale = max(scale, scale_for(element_type, load()))
            except CodecError:
                faults[piece.source] = _first_fault(checkpoint, piece.source, piece.width, element_type)
                break
    return scale, faults


def _first_fault(checkpoint: Checkpoint, source: str, width: int, element_type: ElementType) -> str:
    """Say which is the first value of a source that a type can't hold, and where it is."""
    shape = checkpoint.tensors[source].shape
    start = 0
    for load in _loads(checkpoint, rows_of(source, width, 0, math.prod(shape) // width)):
        values = load()
        place = first_unfit(element_type, values)
        if place is not None:
            index = [int(i) for i in np.unravel_index(start + place, shape)]
            return f"it has {float(values[place])} at index {index}, which {element_type} can't hold"
        start += len(values)
    return f"it has values that {element_type} can't hold"


def encoded_chunks(
    checkpoint: Checkpoint, pieces: Sequence[Piece], element_type: ElementType, scale: float
) -> Iterator[Bytes]:
    """Yield the new tensor's stored bytes; chunks are read and encoded in threads, and come in order."""
    group = element_type.group or 1
    loads = (load for piece in pieces for load in _loads(checkpoint, piece, group))
    if any((piece.cols or piece.width) % group for piece in pieces):
        # Groups run across rows, and so across pieces: values are cut at groups' ends instead.
        for values in _regrouped(loads):
            yield from encode_pieces(element_type, values, scale)
        return
    yield from in_order(partial(_encode, element_type, scale, load) for load in loads)


def _encode(element_type: ElementType, scale: float, load: Callable[[], Array]) -> Bytes:
    return np.concatenate(list(encode_pieces(element_type, load(), scale)))


def _loads(checkpoint: Checkpoint, piece: Piece, group: int = 1) -> Iterator[Callable[[], Array]]:
    """Yield a function for each chunk of a piece, in the new tensor's order, that reads it as a flat array.

    Where rows are made of whole groups of so many elements, so are the chunks.
    """
    if piece.source is None:
        yield partial(np.zeros, piece.rows * piece.width, np.float32)
        return
    tensor = checkpoint.tensors[piece.source]
    if piece.arrange == TRANSPOSE:
        yield partial(_read_block, tensor, piece)  # only the projector of the vision part, which is small
        return
    most = max(1, _CHUNK_NBYTES * 8 // tensor.type.bits // group) * group
    rows = max(1, most // piece.width)
    if piece.whole_rows:
        # Of what is made, whole rows: making one may take all of it.
        step = most if tensor.stored else rows * piece.width
        start, end = piece.row * piece.width, piece.row * piece.width + piece.count
        yield from (partial(tensor.read, first, min(step, end - first)) for first in range(start, end, step))
        return
    for row in range(piece.row, piece.row + piece.rows, rows):
        part = replace(piece, row=row, rows=min(rows, piece.row + piece.rows - row))
        yield partial(_read_block, tensor, part)


def _read_block(tensor: SourceTensor, piece: Piece) -> Array:
    values = tensor.read(piece.row * piece.width, piece.rows * piece.width)
    block = values.reshape(piece.rows, piece.width)[:, piece.col : piece.col + piece.cols]
    if piece.arrange == TRANSPOSE:
        block = block.T
    elif piece.arrange == CHANNELS_LAST:
        block = block.reshape(piece.rows, piece.channels, -1).transpose(0, 2, 1)
    elif piece.arrange == MINUS_ONE:
        block = _minus_one(block)
    return np.ascontiguousarray(block).reshape(-1)


def _minus_one(values: Array) -> Array:
    """Return values minus 1: in f32, from f64 in f64, so that one beyond f32 isn't hidden."""
    wide = values.dtype if values.dtype.itemsize > np.dtype(np.float32).itemsize else np.dtype(np.float32)
    with np.errstate(all="ignore"):
        return values.astype(wide) - wide.type(1)


def comes_back(tensor: SourceTensor) -> bool:
    """Whether a vector that is stored minus 1, in f32, is read back bit for bit.

    Values that are closer to 0 than 2⁻¹⁷ are not, and of those that were f32 most below ½.
    """
    values = tensor.read(0, math.prod(tensor.shape))
    with np.errstate(all="ignore"):
        stored = _minus_one(values).astype(np.float32)
        return (stored + np.float32(1)).astype(values.dtype).tobytes() == values.tobytes()


def fits_bf16(tensor: SourceTensor) -> bool:
    """Whether bf16 holds all values of a vector."""
    values = tensor.read(0, math.prod(tensor.shape))
    with np.errstate(all="ignore"):
        return values.astype(ml_dtypes.bfloat16).astype(values.dtype).tobytes() == values.tobytes()


def _regrouped(loads: Iterable[Callable[[], Array]]) -> Iterator[Array]:
    """Yield the values in arrays that end where a group ends, but for the last."""
    rest = np.empty(0, dtype=np.float32)
    for load in loads:
        rest = np.concatenate([rest, load().astype(np.float32)])
        whole = len(rest) // PIECE * PIECE
        if whole:
            yield rest[:whole]
            rest = rest[whole:]
    if len(rest):
        yield rest
