"""What a converted file says of the checkpoint that it was made of: the metadata ``blobstore.rearranged``.

Foreign bytes, so everything is checked. Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.codecs.element_types import BY_NAME
from blobstore.errors import FormatError
from blobstore.index import shape_fault
from blobstore.index.metadata import REARRANGED
from blobstore.index.strict_json import parse_json, text_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Array
    from blobstore.store.info import TensorInfo
    from blobstore.store.reader import Store


_FLOATS = {name: BY_NAME[name] for name in ("bf16", "f16", "f32", "f64")}
_FLOAT_DTYPES = {kind.dtype for kind in _FLOATS.values()}
_PIECE_FIELDS = 9


@dataclass(frozen=True)
class Block:
    """Elements of a stored tensor, and where they belong in an exported one.

    Attributes:
        info: The stored tensor.
        at: First element in it.
        row, rows, col, cols: The block of the exported tensor, seen as a matrix of `width` columns.
        width: Columns of that matrix.
        arrange: What was done to the block when it was stored: empty, ``transpose`` or ``channels_last``.
        channels: Planes of each row, for ``channels_last``.
    """

    info: TensorInfo
    at: int
    row: int
    rows: int
    col: int
    cols: int
    width: int
    arrange: str = ""
    channels: int = 1

    @property
    def whole_rows(self) -> bool:
        """Whether the block is a run of the exported tensor."""
        return not self.arrange and self.col == 0 and self.cols == self.width

    @property
    def stored(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where its bytes begin and end (`TensorInfo.address`), as far as groups of a packed type have such places."""
        info, kind = self.info, self.info.type
        return info.address(kind.nbytes(self.at)), info.address(kind.nbytes(self.at + self.rows * self.cols))


def rows_from(
    blocks: Iterable[Block], store: Store, row: int, rows: int
) -> Iterator[tuple[Block, tuple[slice, slice], Array]]:
    """Yield what some rows of an exported tensor, seen as a matrix, are made of; only that is read.

    Args:
        blocks: Of the tensor.
        store: That holds them, open.
        row: The first of the rows.
        rows: How many.

    Yields:
        A block, the rows (counted from `row`) and columns that it fills, and the values for these; a view or a copy.

    Raises:
        CodecError: As `Store.elements`.
    """
    for block in blocks:
        low, high = max(row, block.row), min(row + rows, block.row + block.rows)
        if low < high:
            values = _block_rows(block, store, low - block.row, high - low)
            yield block, (slice(low - row, high - row), slice(block.col, block.col + block.cols)), values


def _block_rows(block: Block, store: Store, row: int, rows: int) -> Array:
    """Return rows of a block as they are in the exported tensor, shape (rows, block.cols)."""
    if block.arrange == "transpose":
        starts = range(block.at + row, block.at + row + block.rows * block.cols, block.rows)
        return np.stack([store.elements(block.info, start, rows) for start in starts], axis=1)
    flat = store.elements(block.info, block.at + row * block.cols, rows * block.cols)
    if block.arrange == "channels_last":
        return flat.reshape(rows, -1, block.channels).transpose(0, 2, 1).reshape(rows, block.cols)
    return flat.reshape(rows, block.cols)


class Source:
    """What a converted file says of the checkpoint that it was made of. Foreign bytes: everything is checked."""

    def __init__(self, store: Store, text: str) -> None:
        """Read the metadata's text.

        Raises:
            FormatError: ``rearranged-metadata``: it can't be read, or doesn't go with the file's tensors.
        """
        self._store = store
        self._infos: dict[str, TensorInfo] = {}
        try:
            said = parse_json(text.encode())
            self.rearranged: Mapping[str, Any] = said["tensors"]
            self._most = _FLOATS[said["types"]["most"]]
            self._others = {name: _FLOATS[kind] for name, kind in said["types"]["others"].items()}
            self.blocks = {name: self._blocks(name, one) for name, one in self.rearranged.items()}
            self.aliases = text_map(said["aliases"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if isinstance(error, FormatError):
                raise
            raise _wrong(f"it can't be read: {error!r:.200}") from None
        if _share_bytes(block for blocks in self.blocks.values() for block in blocks):
            raise _wrong("two pieces are of the same stored elements")
        for alias, target in self.aliases.items():
            if target in self.aliases or not self._same(alias, target):
                raise _wrong(f"{alias[:80]!r} is not {target[:80]!r} by another name")
        # Rows that only the source has, kept under a name of their own.
        self.hidden = {one.info.name for blocks in self.blocks.values() for one in blocks}

    def _same(self, alias: str, target: str) -> bool:
        if alias not in self._store or target not in self._store:
            return False
        one, other = self._store.info(alias), self._store.info(target)
        return (one.address(), one.type, one.shape, one.scale) == (
            other.address(),
            other.type,
            other.shape,
            other.scale,
        )

    def type_of(self, name: str) -> ElementType:
        """Return the type that a tensor had in the source."""
        return self._others.get(name, self._most)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape that it had there."""
        return tuple(self.rearranged[name]["shape"])

    def _blocks(self, name: str, said: Any) -> tuple[Block, ...]:  # noqa: ANN401 (JSON is anything)
        shape, rows = said["shape"], said["pieces"]
        sound = _are_sizes(shape) and not shape_fault(tuple(shape)) and isinstance(rows, list) and bool(rows)
        blocks = tuple(self._block(row) for row in rows) if sound else ()
        if not sound or not _tile(blocks, math.prod(shape)):
            raise _wrong(f"it does not fit the tensor {name[:80]!r}")
        return blocks

    def _block(self, row: Any) -> Block:  # noqa: ANN401 (JSON is anything)
        sound = isinstance(row, list) and len(row) == _PIECE_FIELDS and isinstance(row[0], str)
        if not sound or not _are_sizes([*row[1:7], row[8]]):
            raise _wrong("a piece is no list of a name, sizes and an arrangement")
        block = Block(self._info(row[0]), *row[1:])
        inside = block.col + block.cols <= block.width and block.at + block.rows * block.cols <= block.info.count
        known = block.arrange in ("", "transpose", "channels_last")
        if not inside or not known or min(block.rows, block.cols, block.channels) < 1 or block.cols % block.channels:
            raise _wrong(f"a piece of {row[0][:80]!r} is not inside it")
        return block

    def _info(self, name: str) -> TensorInfo:
        # Kept, so that thousands of pieces of a tensor take little memory.
        if name not in self._infos:
            if name not in self._store:
                raise _wrong(f"there is no tensor {name[:80]!r}")
            info = self._infos[name] = self._store.info(name)
            if info.dtype not in _FLOAT_DTYPES:
                raise _wrong(f"{name[:80]!r} is {info.type}, no floats that can be decoded")
        return self._infos[name]


def _wrong(what: str) -> FormatError:
    return FormatError("rearranged-metadata", f"the metadata {REARRANGED!r}: {what}")


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 57 for one in value)


def _share_bytes(blocks: Iterable[Block]) -> bool:
    """Whether two blocks are of the same stored bytes: a small file could claim to be a checkpoint of any size."""
    return any(start < end for (_, end), (start, _) in pairwise(sorted(block.stored for block in blocks)))


def _tile(blocks: tuple[Block, ...], total: int) -> bool:
    """Whether blocks cover a tensor exactly: as runs of rows, as runs of columns of all rows, or as one block."""
    width = blocks[0].width
    if any(one.width != width for one in blocks) or not width or total % width:
        return False
    height = total // width
    if len(blocks) == 1:
        one = blocks[0]
        return (one.row, one.rows, one.col, one.cols) == (0, height, 0, width)
    if any(one.arrange for one in blocks):
        return False
    if all(one.whole_rows for one in blocks):
        runs, end = sorted((one.row, one.rows) for one in blocks), height
    elif all((one.row, one.rows) == (0, height) for one in blocks):
        runs, end = sorted((one.col, one.cols) for one in blocks), width
    else:
        return False
    place = 0
    for start, size in runs:
        if start != place:
            return False
        place += size
    return place == end
