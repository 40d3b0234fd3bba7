"""An .sbs file → safetensors: every tensor under its name, as readers of checkpoints want it.

Planned first: what each tensor is made of, and which file it goes to. Then streamed, one chunk after another.
"""

from __future__ import annotations

import json
import math
import os
import re
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from blobstore.checkpoint.safetensors import dump_header
from blobstore.codecs import PIECE, is_float_codec
from blobstore.codecs.element_types import BY_NAME
from blobstore.container.keys import TOC_KEY
from blobstore.errors import CodecError, FormatError, UsageError
from blobstore.export.arrangement import Block, Source, rows_from
from blobstore.fileio.atomic import AtomicFile, write_file
from blobstore.fileio.locking import turn_at
from blobstore.fileio.ranges import FileRange, flat_bytes
from blobstore.fileio.sink import Sink
from blobstore.fileio.source import read_whole
from blobstore.fileio.together import move_together
from blobstore.gemma.toc import odd_strides_in, stride_fault
from blobstore.index import PACKED
from blobstore.index.inputs import files_of, refuse_inputs
from blobstore.index.metadata import REARRANGED, foreign_metadata
from blobstore.index.names import key_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from os import PathLike
    from typing import BinaryIO

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Array, Progress
    from blobstore.store.catalog import TensorInfo
    from blobstore.store.reader import Store


DTYPES = ("bf16", "f16", "f32")
_CHUNK = 16 * PIECE  # elements
_PIECE_NBYTES = 4 << 20  # of what is packed
_BYTES = "blobstore get FILE NAME -o OUT gives its bytes"


@dataclass(frozen=True)
class Exported:
    """One tensor of the new checkpoint."""

    name: str
    type: ElementType
    shape: tuple[int, ...]
    blocks: tuple[Block, ...]

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
        left_out: Aliases that are not written, name → the name that stands for them.
    """

    shards: list[list[Exported]]
    metadata: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(one.nbytes for shard in self.shards for one in shard)


@dataclass(frozen=True)
class NamedTensors:
    """A file's tensors as a checkpoint has them.

    Attributes:
        names: All of them: the source's where the file knows it, the runtime's, or all that the file has.
        infos: What is stored, by any of its names; not what `source` says is made of blocks.
        source: What the file says of the checkpoint that it was made of; None when it doesn't, or by keys.
        aliases: Names for what has another name already → that name.
    """

    names: frozenset[str]
    infos: Mapping[str, TensorInfo]
    source: Source | None
    aliases: Mapping[str, str]


def named_tensors(store: Store, *, by_keys: bool = False) -> NamedTensors:
    """Return a file's tensors as a checkpoint has them, or (by keys) as the runtime has them.

    Raises:
        FormatError: ``rearranged-…``: what the file says of its source doesn't go with its tensors; ``toc-stride``:
            values of one are wrong.
    """
    for entry in odd_strides_in(store.reader):
        raise FormatError("toc-stride", f"{TOC_KEY!r} says that {stride_fault(entry)}")
    metadata = store.metadata
    source = None if by_keys or REARRANGED not in metadata else Source(store, metadata[REARRANGED])
    infos = {info.name: info for info in store.infos()}
    keys = {name for name, info in infos.items() if name == info.key}
    if by_keys:
        names = keys
    elif source:
        names = (set(infos) - keys - source.hidden) | set(source.blocks)
    else:
        names = set(infos)
    aliases: Mapping[str, str] = source.aliases if source else _aliases(infos[name] for name in names)
    return NamedTensors(frozenset(names), infos, source, aliases)


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
        dtype: Of all floats, ``bf16``, ``f16`` or ``f32``; by default what the source had where that is known, else
            the stored type where it is plain, else f32.
        by_keys: Take the runtime's tensors under their keys, not those of the source.
        materialize_aliases: Write a tensor once more for each other name that it has: readers such as Candle look for
            ``lm_head.weight`` and don't know of ties.
        max_shard_nbytes: Begin another file rather than exceed this.

    Raises:
        FormatError: ``rearranged-…``: what the file says of its source doesn't go with its tensors.
        CodecError: ``unknown-type``, ``unknown-codec``: a tensor can't be decoded here.
        UsageError: ``no-tensors``.
    """
    named = named_tensors(store, by_keys=by_keys)
    source, aliases = named.source, named.aliases
    metadata = store.metadata
    plan = ExportPlan([], foreign_metadata(metadata))
    chosen: list[Exported] = []
    for name in sorted(named.names):
        target = aliases.get(name, name)
        if target != name and not materialize_aliases:
            plan.left_out[name] = target
        elif source and target in source.blocks:
            kind = BY_NAME[dtype] if dtype else source.type_of(target)
            chosen.append(Exported(name, kind, source.shape_of(target), source.blocks[target]))
        else:
            info = named.infos[target]
            chosen.append(Exported(name, _type(info, dtype, source), info.shape, (_whole(info),)))
    if not chosen:
        raise UsageError("no-tensors", f"{store.path!r} has no tensors to export")
    plan.shards = _shards(chosen, max_shard_nbytes)
    return plan


def _aliases(infos: Iterable[TensorInfo]) -> dict[str, str]:
    """Return which names stand for the very bytes of another one: the one that its key was made of, or the first."""
    places: dict[tuple[object, ...], list[TensorInfo]] = {}
    for info in infos:
        if info.nbytes:
            places.setdefault(info.place, []).append(info)
    aliases: dict[str, str] = {}
    for same in places.values():
        main = next((one.name for one in same if key_for(one.name) == one.key), same[0].name)
        aliases |= {one.name: main for one in same if one.name != main}
    return aliases


def _whole(info: TensorInfo) -> Block:
    width = math.prod(info.shape[1:])
    return Block(info, 0, 0, info.shape[0] if info.shape else 1, 0, width, width)


def run_export(
    plan: ExportPlan,
    store: Store,
    path: str | PathLike[str] | BinaryIO,
    *,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> list[str]:
    """Write the files of a plan. They replace what had their names only when all are complete.

    While shards are replaced there is no index, which would put tensors of the old ones and the new ones together.

    Args:
        plan: Made for this store.
        store: Open.
        path: Of the file; of several, that which all their names are made of; or a binary stream, for one.
        force: Remove the files of an earlier export to this path that the new ones don't replace.
        progress: Called with how many bytes more were written.

    Returns:
        Their paths; none for a stream.

    Raises:
        CodecError: ``sfp-reserved-code``: stored bytes are wrong.
        UsageError: ``same-file``; ``needs-path`` for shards to a stream; ``superseded`` when there are files of an
            earlier export, by which readers would take the old tensors, and not ``force``; ``bad-name``.
        OSError: Writing failed.
    """
    if not isinstance(path, (str, os.PathLike)):
        if len(plan.shards) > 1:
            raise UsageError("needs-path", "shards are several files: a stream takes one, without --max-shard-size")
        _write_shard(plan.shards[0], plan.metadata, store, Sink(path), progress)
        return []
    path = os.fspath(path)
    index, shards = _names(path, len(plan.shards))
    old = superseded(path, len(plan.shards))
    refuse_inputs([*shards, index, *old], files_of(store.path, store.base_path))
    if old and not force:
        raise _left_over(old)
    if index:
        raw = _index_of(plan, shards)
    targets: list[AtomicFile] = []
    with ExitStack() as files:
        for one, shard in zip(shards, plan.shards, strict=True):
            targets.append(files.enter_context(AtomicFile(one)))
            _write_shard(shard, plan.metadata, store, Sink(targets[-1].fileno(), one), progress)
        if index:
            targets.append(files.enter_context(AtomicFile(index)))
            targets[-1].write(memoryview(raw))
        for target in targets:
            target.prepare()
        with turn_at(path):
            old = superseded(path, len(plan.shards))  # others may have come meanwhile
            if old and not force:
                raise _left_over(old)
            with _taken_away(index, targets):
                move_together(*targets)
            # The index first: without it the old shards are nobody's.
            for one in old:
                with suppress(FileNotFoundError):
                    os.unlink(one)
    return [*shards, index] if index else shards


@contextmanager
def _taken_away(index: str, targets: Sequence[AtomicFile]) -> Iterator[None]:
    """Take the old index of shards away while these are replaced; it comes back if none was."""
    index = os.path.realpath(index) if index else ""
    if not os.path.isfile(index):
        yield
        return
    old = read_whole(index)
    try:
        os.unlink(index)
        yield
    except BaseException:
        if not any(one.committed for one in targets):
            with suppress(OSError):
                write_file(index, old)
        raise


def _names(path: str, count: int) -> tuple[str, list[str]]:
    """Return the paths of an export's index, empty where there is none, and of its files."""
    if count == 1:
        return "", [path]
    stem = path.removesuffix(".safetensors")
    if not os.path.basename(stem):
        raise UsageError("bad-name", f"{path!r} has no name that those of shards could be made of: -o OUT.safetensors")
    return f"{stem}.safetensors.index.json", [f"{stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]


def superseded(path: str, count: int) -> list[str]:
    """Return the files of earlier exports to a path that one of ``count`` files doesn't replace, the index first."""
    index, shards = _names(path, count)
    new = {os.path.realpath(one) for one in (index, *shards) if one}
    found: dict[str, None] = {}
    for one in (
        (path, os.path.realpath(path)) if os.path.islink(path) else (path,)
    ):  # beside a link, and beside the file
        stem = one.removesuffix(".safetensors")
        folder, name = os.path.split(stem)
        shard = re.compile(re.escape(name) + r"-[0-9]{5}-of-[0-9]{5}\.safetensors")
        try:
            there = sorted(os.listdir(folder or "."))
        except OSError:  # writing says so
            continue
        others = [f"{name}.safetensors.index.json", os.path.basename(one), *filter(shard.fullmatch, there)]
        places = [os.path.join(folder, other) for other in others if other in there]
        found |= dict.fromkeys(place for place in places if not os.path.isdir(place))
    return [one for one in found if os.path.realpath(one) not in new]


def _left_over(old: Sequence[str]) -> UsageError:
    what = f"{', '.join(map(repr, old))} would stay beside the new files, and be read instead of them or with them"
    return UsageError("superseded", f"{what}: --force removes such files, or choose another output")


def _index_of(plan: ExportPlan, paths: list[str]) -> bytes:
    """Return the index of shards at these paths.

    Raises:
        UsageError: ``bad-name``: a path is no Unicode text.
    """
    names = {
        tensor.name: os.path.basename(one) for one, shard in zip(paths, plan.shards, strict=False) for tensor in shard
    }
    index = {"metadata": {"total_size": plan.nbytes}, "weight_map": dict(sorted(names.items()))}
    try:
        return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        what = f"{paths[0]!r} is no Unicode text, and an index of shards is: choose another name for the output"
        raise UsageError("bad-name", what) from None


def _write_shard(
    shard: list[Exported], metadata: Mapping[str, str], store: Store, sink: Sink, progress: Progress
) -> None:
    sink.write(memoryview(dump_header([(one.name, one.type, one.shape) for one in shard], metadata)))
    for tensor in shard:
        for piece in exported_bytes(tensor, store):
            if isinstance(piece, FileRange):
                sink.copy(piece)
            else:
                sink.write(flat_bytes(piece))
            progress(piece.nbytes)
    sink.flush()


def exported_bytes(tensor: Exported, store: Store) -> Iterator[FileRange | Array]:
    """Yield a tensor's bytes as they are to be written, in order."""
    if all(block.whole_rows for block in tensor.blocks):
        for block in sorted(tensor.blocks, key=lambda one: one.row):
            yield from _run(block, tensor.type, store)
        return
    width = tensor.blocks[0].width
    height = math.prod(tensor.shape) // width
    step = max(1, _CHUNK // width)
    for row in range(0, height, step):
        rows = min(step, height - row)
        values = np.empty((rows, width), dtype=tensor.type.dtype)
        for block, place, stored in rows_from(tensor.blocks, store, row, rows):
            values[place] = _converted(stored, tensor.type, block.info.name)
        yield values


def _run(block: Block, kind: ElementType, store: Store) -> Iterator[FileRange | Array]:
    info, count = block.info, block.rows * block.cols
    if info.type == kind and info.scale == 1.0:
        size = kind.bits
        start, nbytes = block.at * size // 8, count * size // 8
        if not info.packed:
            yield store.reader.part_of_file(info.offset + start, nbytes)
            return
        for done in range(0, nbytes, _PIECE_NBYTES):
            piece = store.stored(info, start + done, min(_PIECE_NBYTES, nbytes - done))
            yield np.frombuffer(piece, np.uint8)
        return
    yield from _pieces(block, kind, store)


def _pieces(block: Block, kind: ElementType, store: Store) -> Iterator[Array]:
    """Yield a block's elements as the exported type's bytes."""
    count = block.rows * block.cols
    for done in range(0, count, _CHUNK):
        values = store.elements(block.info, block.at + done, min(_CHUNK, count - done))
        yield np.ascontiguousarray(_converted(values, kind, block.info.name)).view(np.uint8)


def _converted(values: Array, kind: ElementType, name: str) -> Array:
    """Return values as a type's; refuses what it would make an infinity."""
    if values.dtype == kind.dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):  # a NaN is a NaN, whatever its bits
        converted = values.astype(kind.dtype)
        lost = np.isinf(converted.astype(np.float32)) & np.isfinite(values.astype(np.float64))
    if lost.any():
        what = f"{name!r} has {float(values[lost][0])}"
        raise CodecError("not-finite", f"{what}, which {kind} can't hold: export with --dtype f32")
    return converted


def _type(info: TensorInfo, dtype: str | None, source: Source | None) -> ElementType:
    kind = info.type
    if info.codec not in (0, PACKED) or not kind.bits:
        newer = f"stored with codec {info.codec}" if info.codec not in (0, PACKED) else f"{kind}"
        what = f"{info.name!r} is {newer}, which is newer than this version of blobstore"
        raise UsageError("cannot-export", f"{what}: {_BYTES}")
    is_float = is_float_codec(kind) or (kind.dtype is not None and kind.dtype.kind == "f")
    if dtype and is_float:
        return BY_NAME[dtype]
    if source and is_float:
        return source.type_of(info.name)
    if kind.safetensors and info.scale == 1.0:
        return kind
    if info.dtype is None:
        raise UsageError("cannot-export", f"{info.name!r} is {kind}, which can't be decoded here: {_BYTES}")
    return BY_NAME["u8"] if not kind.number else BY_NAME["f32"]


def _shards(tensors: list[Exported], limit: int | None) -> list[list[Exported]]:
    shards: list[list[Exported]] = [[]]
    size = 0
    for tensor in tensors:
        if limit and shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards
