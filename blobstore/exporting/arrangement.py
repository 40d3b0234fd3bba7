"""How a checkpoint was laid out, as the file that was converted from it records: the metadata ``blobstore.rearranged``.

It is written and read here. What is read comes from outside, so everything is checked.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from blobstore.codecs.element_types import BY_NAME
from blobstore.errors import FormatError
from blobstore.index import shape_fault
from blobstore.index.metadata import REARRANGED
from blobstore.index.strict_json import are_sizes, parse_json, text_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Array
    from blobstore.store.info import TensorInfo
    from blobstore.store.reader import Store


TRANSPOSE, CHANNELS_LAST = "transpose", "channels_last"
_ARRANGEMENTS = ("", TRANSPOSE, CHANNELS_LAST)
_FLOATS = {name: BY_NAME[name] for name in ("bf16", "f16", "f32", "f64")}
_FLOAT_DTYPES = {element_type.dtype for element_type in _FLOATS.values()}
_MAX_SIZE = 1 << 57

Stored = TypeVar("Stored")


class Block(NamedTuple, Generic[Stored]):
    """A run of elements of a stored tensor, and the block of a checkpoint's tensor that they are.

    The metadata lists these fields, in this order.

    Attributes:
        stored: The stored tensor: its name in the metadata, its `TensorInfo` once a file was read.
        at: First element of the run.
        row: First row of the block; the checkpoint's tensor is seen as a matrix of `width` columns.
        rows: How many.
        col: First column of the block.
        cols: How many.
        width: Columns of the matrix.
        arrange: What was done to the block when it was stored: empty for nothing, ``transpose`` or ``channels_last``.
        channels: Planes of each row, for ``channels_last``.
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


# ----------------------------------------------------------------------------------------------------- the metadata


@dataclass(frozen=True)
class Arrangement:
    """The checkpoint that a file was converted from.

    Attributes:
        blocks: What each tensor is made of that isn't stored as one run, by the checkpoint's names.
        shapes: Their shapes.
        aliases: More names of stored tensors, name → the tensor's name.
        common_type: The type that tensors had, but for those in `other_types`.
        other_types: The type that a tensor had, by name.
    """

    blocks: Mapping[str, tuple[Block[TensorInfo], ...]]
    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]
    common_type: ElementType
    other_types: Mapping[str, ElementType]

    def type_of(self, name: str) -> ElementType:
        """Return the type that a tensor had in the checkpoint."""
        return self.other_types.get(name, self.common_type)

    def holders(self) -> set[str]:
        """Return the names of the stored tensors that blocks are in."""
        return {block.stored.name for blocks in self.blocks.values() for block in blocks}


def dump_arrangement(
    rearranged: Mapping[str, tuple[tuple[int, ...], Sequence[Block[str]]]],
    types: Mapping[str, ElementType],
    aliases: Mapping[str, str],
) -> str:
    """Return the metadata's text.

    Args:
        rearranged: Shape and blocks of each tensor of the checkpoint that isn't stored as one run.
        types: The type of each tensor of the checkpoint; at least one.
        aliases: More names, name → the tensor's name.
    """
    common = Counter(types.values()).most_common(1)[0][0]
    others = {name: element_type.name for name, element_type in types.items() if element_type != common}
    record = {
        "tensors": {name: {"shape": shape, "pieces": blocks} for name, (shape, blocks) in rearranged.items()},
        "types": {"most": common.name, "others": others},
        "aliases": aliases,
    }
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def parse_arrangement(text: str, store: Store) -> Arrangement:
    """Check the metadata's text.

    Args:
        text: Of the metadata.
        store: The file that has it, open.

    Raises:
        FormatError: ``rearranged-metadata``: it can't be read, or doesn't match the file's tensors.
    """
    try:
        arrangement = _parse(parse_json(text.encode()), _FloatTensors(store))
    except FormatError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _wrong(f"it can't be read: {error!r:.200}") from None
    if _share_bytes(block for blocks in arrangement.blocks.values() for block in blocks):
        raise _wrong("two pieces share stored elements")
    for alias, name in arrangement.aliases.items():
        if name in arrangement.aliases or not _same_tensor(store, alias, name):
            raise _wrong(f"{alias[:80]!r} is not another name of {name[:80]!r}")
    return arrangement


class _FloatTensors:
    """The float tensors of a file; each is looked up once, so that thousands of its blocks take little memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._infos: dict[str, TensorInfo] = {}

    def __getitem__(self, name: str) -> TensorInfo:
        if name not in self._infos:
            if name not in self._store:
                raise _wrong(f"there is no tensor {name[:80]!r}")
            info = self._infos[name] = self._store.info(name)
            if info.dtype not in _FLOAT_DTYPES:
                raise _wrong(f"{name[:80]!r} is {info.type}: expected floats that can be decoded")
        return self._infos[name]


def _parse(record: Any, tensors: _FloatTensors) -> Arrangement:  # noqa: ANN401 (JSON is anything)
    rearranged, types = record["tensors"], record["types"]
    return Arrangement(
        common_type=_FLOATS[types["most"]],
        other_types={name: _FLOATS[type_name] for name, type_name in types["others"].items()},
        blocks={name: _parse_blocks(name, tensor, tensors) for name, tensor in rearranged.items()},
        shapes={name: tuple(tensor["shape"]) for name, tensor in rearranged.items()},
        aliases=text_map(record["aliases"]),
    )


def _parse_blocks(name: str, tensor: Any, tensors: _FloatTensors) -> tuple[Block[TensorInfo], ...]:  # noqa: ANN401
    shape, rows = tensor["shape"], tensor["pieces"]
    sound = are_sizes(shape, _MAX_SIZE) and not shape_fault(tuple(shape)) and isinstance(rows, list) and bool(rows)
    blocks = tuple(_parse_block(row, tensors) for row in rows) if sound else ()
    if not sound or not _tile(blocks, math.prod(shape)):
        raise _wrong(f"the pieces of {name[:80]!r} don't make a tensor of its shape")
    return blocks


def _parse_block(row: Any, tensors: _FloatTensors) -> Block[TensorInfo]:  # noqa: ANN401 (JSON is anything)
    if not isinstance(row, list) or len(row) != len(Block._fields):
        raise _wrong(f"a piece is not a list of {len(Block._fields)} fields")
    name, *_, arrange, channels = row
    if not isinstance(name, str) or not are_sizes([*row[1:-2], channels], _MAX_SIZE) or arrange not in _ARRANGEMENTS:
        raise _wrong("a piece is not a name, sizes, an arrangement and a number of channels")
    block = Block(tensors[name], *row[1:])
    inside = block.col + block.cols <= block.width and block.at + block.element_count <= block.stored.count
    if not inside or min(block.rows, block.cols, channels) < 1 or block.cols % channels:
        raise _wrong(f"a piece of {name[:80]!r} is not inside it")
    return block


def _wrong(what: str) -> FormatError:
    return FormatError("rearranged-metadata", f"the metadata {REARRANGED!r}: {what}")


def _same_tensor(store: Store, alias: str, name: str) -> bool:
    """Whether two names are of the same stored bytes, in one type, shape and scale."""
    if alias not in store or name not in store:
        return False
    a, b = store.info(alias), store.info(name)
    return (a.address(), a.type, a.shape, a.scale) == (b.address(), b.type, b.shape, b.scale)


def _share_bytes(blocks: Iterable[Block[TensorInfo]]) -> bool:
    """Whether two blocks share stored bytes: a small file could claim to be a checkpoint of any size."""
    return any(start < end for (_, end), (start, _) in pairwise(sorted(_addresses(block) for block in blocks)))


def _addresses(block: Block[TensorInfo]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where its bytes begin and end (`TensorInfo.address`), of packed groups as far as they have such places."""
    info = block.stored
    start, end = (info.type.nbytes(count) for count in (block.at, block.at + block.element_count))
    return info.address(start), info.address(end)


def _tile(blocks: tuple[Block[TensorInfo], ...], total: int) -> bool:
    """Whether blocks cover a tensor exactly: as one block, as runs of rows, or as runs of columns of all rows."""
    width = blocks[0].width
    if any(block.width != width for block in blocks) or not width or total % width:
        return False
    height = total // width
    if len(blocks) == 1:
        (block,) = blocks
        return (block.row, block.rows, block.col, block.cols) == (0, height, 0, width)
    if any(block.arrange for block in blocks):
        return False
    if all(block.whole_rows for block in blocks):
        return _are_end_to_end(((block.row, block.rows) for block in blocks), height)
    if all((block.row, block.rows) == (0, height) for block in blocks):
        return _are_end_to_end(((block.col, block.cols) for block in blocks), width)
    return False


def _are_end_to_end(runs: Iterable[tuple[int, int]], total: int) -> bool:
    """Whether runs (start, size), in some order, cover everything up to a total once."""
    end = 0
    for start, size in sorted(runs):
        if start != end:
            return False
        end += size
    return end == total


# ------------------------------------------------------------------------------------------------------- the values


def rows_from(
    blocks: Iterable[Block[TensorInfo]], store: Store, row: int, rows: int
) -> Iterator[tuple[Block[TensorInfo], tuple[slice, slice], Array]]:
    """Yield what some rows of a checkpoint's tensor, seen as a matrix, are made of; only that is read.

    Args:
        blocks: Of the tensor.
        store: The file that holds them, open.
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


def _block_rows(block: Block[TensorInfo], store: Store, row: int, rows: int) -> Array:
    """Return rows of a block as they are in the checkpoint's tensor, shape (rows, block.cols)."""
    if block.arrange == TRANSPOSE:
        starts = range(block.at + row, block.at + row + block.element_count, block.rows)
        return np.stack([store.elements(block.stored, start, rows) for start in starts], axis=1)
    flat = store.elements(block.stored, block.at + row * block.cols, rows * block.cols)
    if block.arrange == CHANNELS_LAST:
        return flat.reshape(rows, -1, block.channels).transpose(0, 2, 1).reshape(rows, block.cols)
    return flat.reshape(rows, block.cols)
