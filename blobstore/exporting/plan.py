"""What goes into a checkpoint that an .sbs file is exported to, as data: which tensors, made of what, in which file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blobstore.codecs import is_float_codec
from blobstore.codecs.element_types import BY_NAME
from blobstore.container.keys import TOC_KEY
from blobstore.errors import FormatError, UsageError
from blobstore.exporting.arrangement import Block, parse_arrangement
from blobstore.gemma.toc import odd_strides_in, stride_fault
from blobstore.index.metadata import REARRANGED, foreign_metadata
from blobstore.index.names import key_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blobstore.codecs.element_types import ElementType
    from blobstore.exporting.arrangement import Arrangement
    from blobstore.store.info import TensorInfo
    from blobstore.store.reader import Store


DTYPES = ("bf16", "f16", "f32")
_FIX = "blobstore get FILE NAME -o OUT gives its bytes"


@dataclass(frozen=True)
class ExportedTensor:
    """One tensor of the new checkpoint."""

    name: str
    type: ElementType
    shape: tuple[int, ...]
    blocks: tuple[Block[TensorInfo], ...]

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
    """

    shards: list[list[ExportedTensor]]
    metadata: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for shard in self.shards for tensor in shard)


@dataclass(frozen=True)
class NamedTensors:
    """A file's tensors under the names of a checkpoint.

    Attributes:
        names: All of them: those of the checkpoint that the file was converted from, or of the runtime, or all names
            in the file.
        infos: What is stored, by each of its names; without the tensors that `arrangement` has blocks of.
        arrangement: How that checkpoint was laid out; None where the file doesn't say, or by keys.
        aliases: More names, name → the tensor's name.
    """

    names: frozenset[str]
    infos: Mapping[str, TensorInfo]
    arrangement: Arrangement | None
    aliases: Mapping[str, str]


def named_tensors(store: Store, *, by_keys: bool = False) -> NamedTensors:
    """Return a file's tensors under the names of a checkpoint, or (by keys) of the runtime.

    Raises:
        FormatError: ``rearranged-metadata``: the file's record of its checkpoint doesn't match its tensors;
            ``toc-stride``: values of a tensor are wrong.
    """
    for entry in odd_strides_in(store.reader):
        raise FormatError("toc-stride", f"{TOC_KEY!r} says that {stride_fault(entry)}")
    text = None if by_keys else store.metadata.get(REARRANGED)
    arrangement = None if text is None else parse_arrangement(text, store)
    infos = {info.name: info for info in store.infos()}
    keys = {name for name, info in infos.items() if name == info.key}
    if by_keys:
        names = keys
    elif arrangement:
        # A tensor that only holds blocks doesn't belong to the checkpoint.
        names = (set(infos) - keys - arrangement.holders()) | set(arrangement.blocks)
    else:
        names = set(infos)
    aliases = arrangement.aliases if arrangement else _aliases(infos[name] for name in names)
    return NamedTensors(frozenset(names), infos, arrangement, aliases)


def plan_export(
    store: Store,
    *,
    dtype: str | None = None,
    by_keys: bool = False,
    materialize_aliases: bool = False,
    max_shard_nbytes: int | None = None,
) -> ExportPlan:
    """Plan a checkpoint.

    Args:
        store: Open.
        dtype: Of all floats, ``bf16``, ``f16`` or ``f32``; by default the type in the checkpoint that the file was
            converted from where that is known, else the stored type where it is a plain one, else f32.
        by_keys: Take the runtime's tensors under their keys, not those of the checkpoint.
        materialize_aliases: Write a tensor once more for each other name that it has: readers such as Candle look for
            ``lm_head.weight`` and don't know of ties.
        max_shard_nbytes: Begin another file rather than exceed this.

    Raises:
        FormatError: As `named_tensors`.
        CodecError: ``unknown-type``, ``unknown-codec``: a tensor can't be decoded here.
        UsageError: ``no-tensors``; ``cannot-export``: a tensor can't be decoded, and has no type in safetensors.
    """
    named = named_tensors(store, by_keys=by_keys)
    plan = ExportPlan([], foreign_metadata(store.metadata))
    tensors: list[ExportedTensor] = []
    for name in sorted(named.names):
        main = named.aliases.get(name, name)
        if main != name and not materialize_aliases:
            plan.left_out[name] = main
        else:
            tensors.append(_exported(name, main, named, dtype))
    if not tensors:
        raise UsageError("no-tensors", f"{store.path!r} has no tensors to export")
    plan.shards = _shards(tensors, max_shard_nbytes)
    return plan


def _aliases(infos: Iterable[TensorInfo]) -> dict[str, str]:
    """Return names of the same stored tensor → its main name: the one that the key was made of, or else the first."""
    places: dict[tuple[object, ...], list[TensorInfo]] = {}
    for info in infos:
        if info.nbytes:
            places.setdefault(info.place, []).append(info)
    aliases: dict[str, str] = {}
    for same in places.values():
        main = next((info.name for info in same if key_for(info.name) == info.key), same[0].name)
        aliases |= {info.name: main for info in same if info.name != main}
    return aliases


def _exported(name: str, main: str, named: NamedTensors, dtype: str | None) -> ExportedTensor:
    """Return a tensor under a name, which may be an alias of its main name."""
    arrangement = named.arrangement
    if arrangement and main in arrangement.blocks:
        element_type = BY_NAME[dtype] if dtype else arrangement.type_of(main)
        return ExportedTensor(name, element_type, arrangement.shapes[main], arrangement.blocks[main])
    info = named.infos[main]
    return ExportedTensor(name, _exported_type(info, dtype, arrangement), info.shape, (_whole(info),))


def _whole(info: TensorInfo) -> Block[TensorInfo]:
    """Return a whole tensor as a block."""
    width = math.prod(info.shape[1:])
    return Block(info, 0, 0, info.shape[0] if info.shape else 1, 0, width, width)


def _exported_type(info: TensorInfo, dtype: str | None, arrangement: Arrangement | None) -> ElementType:
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
        if arrangement:
            return arrangement.type_of(info.name)
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
