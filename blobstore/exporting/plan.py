"""What goes into a checkpoint that an .sbs file is exported to, as data: which tensors, made of what, in which file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blobstore.checkpoint.adapters.changes import BaseTensor
from blobstore.checkpoint.adapters.merging import again, plan_merge
from blobstore.checkpoint.adapters.reading import parse_described
from blobstore.codecs import is_float_codec
from blobstore.codecs.element_types import BY_NAME
from blobstore.container.keys import TOC_KEY
from blobstore.errors import FormatError, UsageError
from blobstore.gemma.toc import odd_strides_in, stride_fault
from blobstore.index.metadata import ADAPTERS, foreign_metadata
from blobstore.store.blocks import Block
from blobstore.store.values import rows_from

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from blobstore.checkpoint.adapters.reading import Adapter
    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Array
    from blobstore.store.info import TensorInfo
    from blobstore.store.reader import Store

    Made = Callable[[int, int], Array]


_FIX = "blobstore get FILE NAME -o OUT gives its bytes"


@dataclass(frozen=True)
class ExportedTensor:
    """One tensor of the new checkpoint.

    Attributes:
        name: Its name.
        type: Of its elements.
        shape: In C order.
        blocks: Where its values are stored.
        made: Where adapters change them: given (first, count), returns elements, flat.
    """

    name: str
    type: ElementType
    shape: tuple[int, ...]
    blocks: tuple[Block[TensorInfo], ...]
    made: Made | None = None

    @property
    def nbytes(self) -> int:
        """In the new file."""
        return self.type.nbytes(math.prod(self.shape))


@dataclass
class ExportPlan:
    """What goes into which file.

    Attributes:
        shards: The tensors of each file, in order.
        metadata: Text → text, for the files' headers.
        left_out: Aliases that are not written, name → the name of the tensor that is.
        notes: What one should know of the adapters.
        in_folder: Whether it fills a folder: then nothing that lies there is replaced unasked.
        files: The model's other files, name → bytes, that are written beside the tensors.
        resized: Rows of an embedding of the file → rows that adapters give it.
        resized_by: The last adapter that does; None if none does.
        separated: Aliases that adapters make tensors of their own → what they were aliases of.
    """

    shards: list[list[ExportedTensor]]
    metadata: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    in_folder: bool = False
    files: dict[str, FileRange] = field(default_factory=dict)
    resized: dict[int, int] = field(default_factory=dict)
    resized_by: Adapter | None = None
    separated: dict[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for shard in self.shards for tensor in shard)


def plan_export(
    store: Store,
    *,
    dtype: str | None = None,
    materialize_aliases: bool = False,
    needed_aliases: Collection[str] = (),
    max_shard_nbytes: int | None = None,
    adapters: Sequence[Adapter] = (),
) -> ExportPlan:
    """Plan a checkpoint.

    Args:
        store: Open, by names or by keys.
        dtype: Of all floats, ``bf16``, ``f16`` or ``f32``; by default the type in the checkpoint that the file was
            converted from where that is known, else the stored type where it is a plain one, else f32.
        materialize_aliases: Write a tensor once more for each other name that it has: readers such as Candle look for
            ``lm_head.weight`` and don't know of ties.
        needed_aliases: Those that are written in any case.
        max_shard_nbytes: Begin another file rather than exceed this.
        adapters: Open; merged into the tensors, in their order.

    Raises:
        FormatError: ``rearranged-metadata``: the file's record of its checkpoint doesn't match its tensors;
            ``toc-stride``: values of a tensor are wrong.
        CodecError: ``unknown-type``, ``unknown-codec``: a tensor can't be decoded here.
        UsageError: ``no-tensors``; ``cannot-export``: a tensor can't be decoded, and has no type in safetensors.
        CheckpointError: As `plan_merge`.
    """
    for entry in odd_strides_in(store.reader):
        raise FormatError("toc-stride", f"{TOC_KEY!r} says that {stride_fault(entry)}")
    aliases = store.aliases
    plan = ExportPlan([], foreign_metadata(store.metadata))
    exported = {name: _exported(name, store, dtype) for name in sorted(store) if name not in aliases}
    if adapters:
        exported |= _adapted(plan, exported, store, adapters)
    for name in aliases:
        if name not in exported and not materialize_aliases and name not in needed_aliases:
            plan.left_out[name] = aliases[name]
        elif name not in exported:
            exported[name] = replace(exported[aliases[name]], name=name)
    tensors = [exported[name] for name in sorted(exported)]
    if not tensors:
        raise UsageError("no-tensors", f"{store.path!r} has no tensors to export")
    plan.shards = _shards(tensors, max_shard_nbytes)
    return plan


def _adapted(
    plan: ExportPlan, exported: Mapping[str, ExportedTensor], store: Store, adapters: Sequence[Adapter]
) -> dict[str, ExportedTensor]:
    """Return the tensors that adapters change, or add."""
    base = {name: BaseTensor(tensor.type, tensor.shape) for name, tensor in exported.items()}
    merge = plan_merge(adapters, base, store.aliases)
    plan.resized = merge.resized
    plan.resized_by = merge.resized_by
    plan.separated = {name: target for name, target in store.aliases.items() if name in merge.changes}
    before = parse_described(store.metadata.get(ADAPTERS, "[]")) or []
    plan.notes += [
        *merge.notes,
        *again(adapters, (adapter.get("weights") for adapter in before)),
        *(f"{name} is left out: {why}" for name, why in merge.unused.items()),
    ]
    adapted = {}
    for name, change in merge.changes.items():
        blocks = exported[change.source].blocks if change.source else ()
        adapted[name] = ExportedTensor(name, change.type, change.shape, blocks)
        if change.steps:
            made = change.made(partial(_elements, blocks, store))
            adapted[name] = replace(adapted[name], made=made)
    return adapted


def _elements(blocks: Sequence[Block[TensorInfo]], store: Store, first: int, count: int) -> Array:
    """Return elements of a stored tensor, of whole rows."""
    width = blocks[0].width
    parts = list(rows_from(blocks, store, first // width, count // width))
    values = np.empty(
        (count // width, width), dtype=max((part.dtype for _, _, part in parts), key=lambda dtype: dtype.itemsize)
    )
    for _, place, part in parts:
        values[place] = part
    return values.reshape(-1)


def _exported(name: str, store: Store, dtype: str | None) -> ExportedTensor:
    info = store.info(name)
    return ExportedTensor(name, _exported_type(info, dtype), info.shape, info.blocks or (_whole(info),))


def _whole(info: TensorInfo) -> Block[TensorInfo]:
    """Return a whole tensor as a block."""
    width = math.prod(info.shape[1:])
    return Block(info, 0, 0, info.shape[0] if info.shape else 1, 0, width, width)


def _exported_type(info: TensorInfo, dtype: str | None) -> ElementType:
    """Return the type that a stored tensor is exported in."""
    stored = info.type
    is_unknown = info.codec and not info.packed
    if is_unknown or not stored.bits:
        newer = f"stored with codec {info.codec}" if is_unknown else f"{stored}"
        what = f"{info.name!r} is {newer}, which is newer than this version of blobstore"
        raise UsageError("cannot-export", f"{what}: {_FIX}")
    if is_float_codec(stored) or (stored.dtype is not None and stored.dtype.kind == "f"):
        if dtype:
            return BY_NAME[dtype]
        if info.source_type:
            return info.source_type
    if stored.safetensors and info.scale == 1.0:
        return stored
    if info.dtype is None:
        raise UsageError("cannot-export", f"{info.name!r} is {stored}, which can't be decoded here: {_FIX}")
    return BY_NAME["u8"] if not stored.number else BY_NAME["f32"]


def _shards(tensors: Iterable[ExportedTensor], limit: int | None) -> list[list[ExportedTensor]]:
    """Divide tensors among files of at most so many bytes; a larger tensor gets a file of its own."""
    shards: list[list[ExportedTensor]] = [[]]
    nbytes = 0
    for tensor in tensors:
        if limit and shards[-1] and nbytes + tensor.nbytes > limit:
            shards.append([])
            nbytes = 0
        shards[-1].append(tensor)
        nbytes += tensor.nbytes
    return shards
