"""How a checkpoint was laid out, as the file that was converted from it records: the metadata ``blobstore.rearranged``.

It is written and read here. What is read comes from outside, so everything is checked.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from blobstore.codecs.element_types import BY_NAME, PLAIN_FLOATS
from blobstore.errors import FormatError
from blobstore.index import shape_fault
from blobstore.index.metadata import REARRANGED
from blobstore.index.strict_json import are_sizes, parse_json, text_map
from blobstore.store.blocks import ARRANGEMENTS, Block
from blobstore.store.info import TensorInfo, is_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from blobstore.codecs.element_types import ElementType


_FLOATS = {name: BY_NAME[name] for name in PLAIN_FLOATS}
_FLOAT_DTYPES = {element_type.dtype for element_type in _FLOATS.values()}
_MAX_SIZE = 1 << 57

Find = Callable[[str], TensorInfo | None]  # a stored tensor of the file, by name


@dataclass(frozen=True)
class Arrangement:
    """The checkpoint that a file was converted from.

    Attributes:
        blocks: What each tensor is made of that isn't stored as one run, by the checkpoint's names; sorted by row.
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
        return self.other_types.get(self.aliases.get(name, name), self.common_type)

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


def parse_arrangement(text: str, find: Find) -> Arrangement:
    """Check the metadata's text.

    Args:
        text: Of the metadata.
        find: Returns a stored tensor of the file that has it, by name.

    Raises:
        FormatError: ``rearranged-metadata``: it can't be read, or doesn't match the file's tensors.
    """
    try:
        arrangement = _parse(parse_json(text.encode()), _FloatTensors(find))
    except FormatError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _wrong(f"it can't be read: {error!r:.200}") from None
    if _share_bytes(block for blocks in arrangement.blocks.values() for block in blocks):
        raise _wrong("two pieces share stored elements")
    holders = arrangement.holders()
    for alias, name in arrangement.aliases.items():
        same = _same_tensor(find(alias), find(name), gathered=name in arrangement.blocks)
        if name in arrangement.aliases or not same or not is_name(find(alias), holders):
            raise _wrong(f"{alias[:80]!r} is not another name of {name[:80]!r}")
    return arrangement


class _FloatTensors:
    """The float tensors of a file; each is looked up once, so that thousands of its blocks take little memory."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._infos: dict[str, TensorInfo] = {}

    def __getitem__(self, name: str) -> TensorInfo:
        if name not in self._infos:
            info = self._find(name)
            if info is None:
                raise _wrong(f"there is no tensor {name[:80]!r}")
            self._infos[name] = info
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
    if len({block.stored.type for block in blocks}) > 1:
        raise _wrong(f"the pieces of {name[:80]!r} have several types")
    return tuple(sorted(blocks, key=attrgetter("row", "col")))


def _parse_block(row: Any, tensors: _FloatTensors) -> Block[TensorInfo]:  # noqa: ANN401 (JSON is anything)
    if not isinstance(row, list) or len(row) != len(Block._fields):
        raise _wrong(f"a piece is not a list of {len(Block._fields)} fields")
    name, *_, arrange, channels = row
    if not isinstance(name, str) or not are_sizes([*row[1:-2], channels], _MAX_SIZE) or arrange not in ARRANGEMENTS:
        raise _wrong("a piece is not a name, sizes, an arrangement and a number of channels")
    block = Block(tensors[name], *row[1:])
    inside = block.col + block.cols <= block.width and block.at + block.element_count <= block.stored.size
    if not inside or min(block.rows, block.cols, channels) < 1 or block.cols % channels:
        raise _wrong(f"a piece of {name[:80]!r} is not inside it")
    return block


def _wrong(what: str) -> FormatError:
    return FormatError("rearranged-metadata", f"the metadata {REARRANGED!r}: {what}")


def _same_tensor(a: TensorInfo | None, b: TensorInfo | None, *, gathered: bool) -> bool:
    """Whether an alias is of its tensor's stored bytes, in one type, shape and scale.

    A gathered tensor has no entry that an alias could have, too.
    """
    if a is None or b is None:
        return a is b and gathered
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
