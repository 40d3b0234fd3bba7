"""A stored tensor's bytes and values: any run of them, viewed, decoded or gathered.

For this package only: users have `Store`.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from blobstore import codecs
from blobstore.errors import CodecError, FormatError, UsageError, in_file
from blobstore.store.blocks import CHANNELS_LAST, MINUS_ONE, TRANSPOSE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blobstore.container.reader import BlobReader
    from blobstore.fileio.types import Array, Bytes
    from blobstore.store.blobs import UnpackedBlobs
    from blobstore.store.blocks import Block
    from blobstore.store.info import TensorInfo
    from blobstore.store.vocabulary import Vocabularies

_GATHERED_AT_ONCE = 1 << 20  # elements: more would be held twice
_SHORT_ROW = 1 << 12  # elements: reading them takes less time than the call


class TensorFile(Protocol):
    """An open file, as far as reading values needs it: a `Store`.

    Attributes:
        path: Of the file, as given.
        reader: Its blobs, by key.
        unpacked: Its blobs as they were before packing.
        vocabularies: What it lists.
    """

    reader: BlobReader
    vocabularies: Vocabularies

    @property
    def path(self) -> str:
        """Of the file, as given."""

    @property
    def unpacked(self) -> UnpackedBlobs:
        """Its blobs as they were before packing."""


def stored_infos(store: TensorFile) -> Iterator[TensorInfo]:
    """Yield every tensor that a file lists, in whatever vocabulary: by names and by keys, parts and aliases, too."""
    return iter(store.vocabularies.entries)


def elements(store: TensorFile, info: TensorInfo, first: int, count: int) -> Array:
    """Return some elements of a tensor, shape (count,): a view where the file holds them as numpy does, else a copy.

    Args:
        store: The file.
        info: A tensor of it.
        first: The first element.
        count: How many; all inside the tensor.

    Raises:
        CodecError: ``unknown-type``, ``unknown-codec``, ``packed-type``, ``scaled-type``: this version can't decode it;
            ``sfp-reserved-code``, ``mxfp4-reserved-scale``: its bytes are wrong.
        FormatError: ``packed-…``: the packed blob is damaged.
        UsageError: As `stored`.
    """
    own = dtype_of(info)
    if not info.encoded:
        return _view(store, info, first, count)
    values = np.empty(count, dtype=own)
    fill(store, info, first, values)
    return values


def dtype_of(info: TensorInfo) -> np.dtype[np.generic]:
    """Return the dtype of a tensor's values.

    Raises:
        CodecError: ``unknown-type``, ``unknown-codec``, ``packed-type``, ``scaled-type``: it can't be decoded here.
    """
    dtype = info.dtype
    if dtype is None:
        raise _undecodable(info)
    return dtype


def fill(store: TensorFile, info: TensorInfo, first: int, out: Array) -> None:
    """Fill ``out``, shape (count,), C order, with a tensor's elements from ``first`` on, in the dtype of ``out``.

    Raises:
        As `elements`, for a tensor that can be decoded.
    """
    if info.blocks:
        _gather(store, info, first, out)
    elif info.type.dtype is None or info.scale != 1.0:
        _decode(store, info, first, out)
    elif info.packed and out.dtype == info.type.dtype and out.size:
        size = out.itemsize
        stored(store, info, first * size, len(out) * size, out=out.view(np.uint8))
    else:
        np.copyto(out, _view(store, info, first, len(out)), casting="unsafe")


def stored(store: TensorFile, info: TensorInfo, start: int, nbytes: int, *, out: Bytes | None = None) -> memoryview:
    """Return bytes of a tensor as its type stores them; a view, or a copy where it is packed.

    Args:
        store: The file.
        info: A tensor of it, not gathered.
        start: The first byte.
        nbytes: How many; all inside the tensor.
        out: What a packed tensor is unpacked to, shape (nbytes,); allocated unless given.

    Raises:
        FormatError: ``packed-…``: the packed blob is damaged.
        UsageError: ``needs-base``, ``wrong-base``: it is stored as the difference to a file that wasn't given.
    """
    if not info.packed:
        return store.reader.view(info.offset + start, nbytes)
    with in_file(store.path):
        try:
            place = (info.packed.blob_nbytes, info.packed.start + start, nbytes)
            return store.unpacked.read_packed(info.key, *place, out=out)
        except FormatError as error:
            if error.path not in (None, store.path):  # the base's
                raise
            raise type(error)(error.reason, f"{info.name!r}, in {error.message}", error.offset) from None
        except UsageError as error:
            if error.reason != "needs-base":
                raise
            raise UsageError(error.reason, f"{info.name!r}, blob {error.message}") from None


def rows_from(
    blocks: Sequence[Block[TensorInfo]], store: TensorFile, row: int, rows: int
) -> Iterator[tuple[Block[TensorInfo], tuple[slice, slice], Array]]:
    """Yield what some rows of a gathered tensor, seen as a matrix, are made of; only that is read.

    Args:
        blocks: Of the tensor, sorted by their first rows: one after another, or side by side.
        store: The file that holds them, open.
        row: The first of the rows.
        rows: How many.

    Yields:
        A block, the rows (counted from `row`) and columns that it fills, and the values for these; a view or a copy.

    Raises:
        CodecError: As `elements`.
    """
    side_by_side = blocks[-1].row == 0
    first = 0 if side_by_side else bisect_right(blocks, row, key=attrgetter("row")) - 1
    for block in islice(blocks, first, None):
        if block.row >= row + rows:
            break
        low, high = max(row, block.row), min(row + rows, block.row + block.rows)
        if low < high:
            values = _block_rows(block, store, low - block.row, high - low)
            yield block, (slice(low - row, high - row), slice(block.col, block.col + block.cols)), values


def _block_rows(block: Block[TensorInfo], store: TensorFile, row: int, rows: int) -> Array:
    """Return rows of a block as they are in the checkpoint's tensor, shape (rows, block.cols)."""
    if block.arrange == TRANSPOSE:
        return _transposed(block, store, row, rows)
    flat = elements(store, block.stored, block.at + row * block.cols, rows * block.cols)
    if block.arrange == MINUS_ONE:
        with np.errstate(all="ignore"):  # foreign bytes may hold any value
            return (flat.astype(np.float32, copy=False) + np.float32(1)).reshape(rows, block.cols)
    if block.arrange == CHANNELS_LAST:
        return flat.reshape(rows, -1, block.channels).transpose(0, 2, 1).reshape(rows, block.cols)
    return flat.reshape(rows, block.cols)


def _transposed(block: Block[TensorInfo], store: TensorFile, row: int, rows: int) -> Array:
    """Return rows of a transposed block: columns of what is stored, which has a row for each of the block's columns."""
    values = np.empty((rows, block.cols), dtype=dtype_of(block.stored))
    # Short stored rows are read whole, many at once: one by one, a row each would take minutes and gigabytes.
    whole = block.rows <= _SHORT_ROW
    step = _GATHERED_AT_ONCE // block.rows if whole else 1
    for col in range(0, block.cols, step):
        cols = min(step, block.cols - col)
        start = block.at + col * block.rows
        if whole:
            run = elements(store, block.stored, start, cols * block.rows)
            values[:, col : col + cols] = run.reshape(cols, block.rows)[:, row : row + rows].T
        else:
            values[:, col] = elements(store, block.stored, start + row, rows)
    return values


def _gather(store: TensorFile, info: TensorInfo, first: int, out: Array) -> None:
    """Fill ``out`` with elements of a gathered tensor from ``first`` on, some whole rows at a time."""
    width = info.blocks[0].width
    step = max(1, _GATHERED_AT_ONCE // width) * width
    start, end = first, first + len(out)
    while start < end:
        stop = min(end, start - start % width + step)
        row, rows = start // width, -(-stop // width) - start // width
        whole = start % width == 0 and stop % width == 0
        part = out[start - first : stop - first]
        matrix = part.reshape(rows, width) if whole else np.empty((rows, width), dtype=out.dtype)
        for _, place, values in rows_from(info.blocks, store, row, rows):
            matrix[place] = values
        if not whole:
            part[:] = matrix.reshape(-1)[start - row * width :][: stop - start]
        start = stop


def _view(store: TensorFile, info: TensorInfo, first: int, count: int) -> Array:
    """View elements that are stored as numpy has them."""
    size = info.type.bits // 8
    if not count:
        return np.empty(0, dtype=info.type.dtype)
    return np.frombuffer(stored(store, info, first * size, count * size), dtype=info.type.dtype)


def _decode(store: TensorFile, info: TensorInfo, first: int, out: Array) -> None:
    """Decode elements. Only the groups that they are in are read."""
    element_type, count = info.type, len(out)
    group = element_type.group or 1
    start = first // group * group
    # Each group is stored with its table: from its first element on, the rest is stored as if it were alone.
    raw = stored(store, info, element_type.nbytes(start), element_type.nbytes(first + count - start))
    try:
        codecs.decode(element_type, raw, count, scale=info.scale, start=first - start, out=out)
    except CodecError as error:
        raise CodecError(error.reason, f"{info.name!r}: {error.message}") from None


def _undecodable(info: TensorInfo) -> CodecError:
    fix = f"store.raw({info.name!r}) gives its bytes"
    if info.codec and not info.packed:
        what = f"{info.name!r} is stored with codec {info.codec}, which this version of blobstore doesn't know"
        return CodecError("unknown-codec", f"{what}: {fix}")
    if not info.type.bits:
        what = f"{info.name!r} is {info.type}, an element type newer than this version of blobstore"
        return CodecError("unknown-type", f"{what}: {fix}")
    if info.type.dtype is None:
        what = f"{info.name!r} is {info.type}, smaller than a byte, which numpy can't view"
        return CodecError("packed-type", f"{what}: {fix}")
    return CodecError("scaled-type", f"{info.name!r} is {info.type} with scale {info.scale}: {fix}")
