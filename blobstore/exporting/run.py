"""A planned export → .safetensors files, streamed one chunk after another."""

from __future__ import annotations

import json
import math
import os
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blobstore.checkpoint.file_names import CONFIG
from blobstore.checkpoint.safetensors import dump_header
from blobstore.checkpoint.shards import INTERRUPTED, SAFETENSORS, index_name, parse_shard_name, shard_name
from blobstore.codecs import PIECE
from blobstore.codecs.rounding import rounded
from blobstore.errors import UsageError
from blobstore.fileio.atomic import AtomicFile, write_file
from blobstore.fileio.locking import turn_at
from blobstore.fileio.plain_files import open_one_of_many
from blobstore.fileio.ranges import CHUNK_NBYTES, FileRange, first_byte_between, flat_bytes
from blobstore.fileio.sink import Sink
from blobstore.fileio.source import read_whole
from blobstore.fileio.together import move_together
from blobstore.fileio.uploads import new_file
from blobstore.fileio.urls import is_url
from blobstore.index.inputs import files_of, refuse_inputs
from blobstore.store.values import elements, rows_from, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike
    from typing import BinaryIO

    from blobstore.codecs.element_types import ElementType
    from blobstore.exporting.plan import ExportedTensor, ExportPlan
    from blobstore.fileio.types import Array, Progress
    from blobstore.store.blocks import Block
    from blobstore.store.info import TensorInfo
    from blobstore.store.reader import Store


_CHUNK = 16 * PIECE  # elements
_FIX = "export with --dtype f32"


# -------------------------------------------------------------------------------------------------------- the files


class Written(NamedTuple):
    """The paths that an export wrote, those of an earlier one that it removed, and of files beside the tensors."""

    files: list[str]
    removed: list[str]
    carried: list[str]


def run_export(
    plan: ExportPlan,
    store: Store,
    path: str | PathLike[str] | BinaryIO,
    *,
    force: bool = False,
    also: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> Written:
    """Write the files of a plan. They replace what had their names only when all are complete.

    While shards are replaced, their index says only that: any other, or none, would combine old ones and new ones. In a
    folder there is no config.json meanwhile.

    Args:
        plan: Made for this store.
        store: Open.
        path: Of the file; of several, that which all their names are made of; or a binary stream, for one. The plan's
            other files are written beside it; without any, a file of its name is replaced unasked.
        force: Remove the files of an earlier export to this path that the new ones don't replace, and replace what is
            in the way of the plan's other files.
        also: More files that are read, and not replaced.
        progress: Called with how many bytes more were written.

    Returns:
        Which files were written, none for a stream, which were removed, and which of the plan's are there now.

    Raises:
        CodecError: ``sfp-reserved-code``: stored bytes are wrong; ``not-finite``: a value is too large for its type.
        UsageError: ``same-file``; ``needs-path`` for shards to a stream; ``superseded`` when files of an earlier
            export would stay, from which readers would take the old tensors, and not ``force``; ``would-replace``
            when the plan fills a folder and other files are in the way, and not ``force``; ``bad-name``.
        OSError: Writing failed.
    """
    if not isinstance(path, (str, os.PathLike)):
        if len(plan.shards) > 1:
            raise UsageError("needs-path", "shards are several files: a stream takes one, without --max-shard-size")
        _write_shard(plan.shards[0], plan.metadata, store, Sink(path), progress)
        return Written([], [], [])
    path = os.fspath(path)
    if is_url(path):
        return _write_elsewhere(plan, store, path, also, progress)
    index, shards = _paths(path, len(plan.shards))
    old = superseded(path, len(plan.shards))
    beside = _beside(plan, path)
    refuse_inputs([*shards, index, *old, *beside], [*files_of(store.path, store.base_path), *also])
    _refuse_superseded(old, force=force)
    tensor_files = [*shards, index] if index else shards
    _refuse_in_the_way(in_the_way(plan, path), force=force)
    raw_index = _index_of(plan, shards) if index else b""
    with ExitStack() as stack:
        files: list[AtomicFile] = []
        for file_path, data in beside.items():
            files.append(stack.enter_context(AtomicFile(file_path)))
            sink = Sink(files[-1].fileno(), file_path)
            sink.copy(data)
            sink.flush()
        for shard_path, shard in zip(shards, plan.shards, strict=True):
            files.append(stack.enter_context(AtomicFile(shard_path)))
            _write_shard(shard, plan.metadata, store, Sink(files[-1].fileno(), shard_path), progress)
        if index:
            files.append(stack.enter_context(AtomicFile(index)))
            files[-1].write(memoryview(raw_index))
        for file in files:
            file.prepare()
        with turn_at(path):
            old = superseded(path, len(plan.shards))  # others may have come meanwhile
            _refuse_superseded(old, force=force)
            _refuse_in_the_way(in_the_way(plan, path), force=force)
            config = os.path.join(os.path.dirname(path), CONFIG)
            _replace(index, config if config in beside else "", files, old)
    return Written(tensor_files, old, [*beside])


def _write_elsewhere(plan: ExportPlan, store: Store, path: str, also: Sequence[str], progress: Progress) -> Written:
    """Write the only file of a plan at a URL."""
    if len(plan.shards) > 1 or plan.in_folder:
        what = f"{path!r}: a folder, or several files, appear at once, which objects elsewhere can't"
        raise UsageError("needs-path", f"{what}: name one file, without --max-shard-size, or export here and copy")
    refuse_inputs([path], [*files_of(store.path, store.base_path), *also])
    with new_file(path) as file:
        _write_shard(plan.shards[0], plan.metadata, store, Sink(file.output(), path), progress)
    return Written([path], [], [])


def _replace(index: str, config: str, files: Sequence[AtomicFile], old: Sequence[str]) -> None:
    """Move complete files to their names, and remove those of an earlier export that they don't replace.

    Readers begin with the index of shards, and with config.json: these come last.
    """
    with ExitStack() as stack:
        if index and any(os.path.lexists(file.path) for file in files):
            stack.enter_context(_meanwhile(index, INTERRUPTED, files))
        if config and os.path.isfile(config):
            stack.enter_context(_meanwhile(config, None, files))
        move_together(*sorted(files, key=lambda file: file.path in (index, config)))
    for path in old:  # the index first: without it no reader takes the old shards
        with suppress(FileNotFoundError):
            os.unlink(path)


@contextmanager
def _meanwhile(path: str, content: bytes | None, files: Sequence[AtomicFile]) -> Iterator[None]:
    """Put something in a file's place, or nothing, while others are replaced; undo that if none of them was."""
    path = os.path.realpath(path)
    old = read_whole(path) if os.path.isfile(path) else None
    try:
        _put(path, content)
        yield
    except BaseException:
        if not any(file.committed for file in files):
            with suppress(OSError):
                _put(path, old)
        raise


def _put(path: str, content: bytes | memoryview | None) -> None:
    """Give a file these contents; without any, remove it."""
    if content is None:
        os.unlink(path)
    else:
        write_file(path, content)


def _beside(plan: ExportPlan, path: str) -> dict[str, FileRange]:
    """Return the paths of the plan's files beside the tensors at this path, and their bytes."""
    return {os.path.join(os.path.dirname(path), *name.split("/")): data for name, data in plan.files.items()}


def in_the_way(plan: ExportPlan, path: str) -> list[str]:
    """Return the files of a folder that a plan with tensors at this path would replace by others."""
    if not plan.in_folder:
        return []
    index, shards = _paths(path, len(plan.shards))
    there = [file for file in (*shards, index) if file and os.path.lexists(file)]
    beside = _beside(plan, path)
    return there + [file for file, data in beside.items() if os.path.lexists(file) and not _has_bytes(file, data)]


def _has_bytes(path: str, data: FileRange) -> bool:
    with open_one_of_many(path) as source:
        return first_byte_between(FileRange(source, 0, source.size), data) is None


def _refuse_in_the_way(files: Sequence[str], *, force: bool) -> None:
    if files and not force:
        what = f"{', '.join(map(repr, files))} would be replaced"
        raise UsageError("would-replace", f"{what}: --force replaces such files, or choose another output")


def _paths(path: str, count: int) -> tuple[str, list[str]]:
    """Return the paths of an export's index, empty where there is none, and of its files."""
    if count == 1:
        return "", [path]
    stem = path.removesuffix(SAFETENSORS)
    if not os.path.basename(stem):
        raise UsageError("bad-name", f"{path!r} has no name to make those of shards from: -o OUT.safetensors")
    return index_name(stem), [shard_name(stem, number, count) for number in range(1, count + 1)]


def superseded(path: str, count: int) -> list[str]:
    """Return the files of earlier exports to a path that one of ``count`` files doesn't replace, the index first."""
    index, shards = _paths(path, count)
    new = {os.path.realpath(file) for file in (index, *shards) if file}
    places = [path, os.path.realpath(path)] if os.path.islink(path) else [path]  # beside a link, and beside its file
    earlier = dict.fromkeys(file for place in places for file in _exports_at(place))
    return [file for file in earlier if os.path.realpath(file) not in new]


def _exports_at(path: str) -> list[str]:
    """Return the files that exports to a path may have left, the index first."""
    folder, name = os.path.split(path)
    stem = name.removesuffix(SAFETENSORS)
    try:
        present = sorted(os.listdir(folder or "."))
    except OSError:  # writing will report it
        return []
    parts = [(one, parse_shard_name(one)) for one in present]
    shards = [one for one, shard in parts if shard and (shard.stem, shard.suffix) == (stem, SAFETENSORS)]
    names = [index_name(stem), name, *shards]
    paths = [os.path.join(folder, name) for name in names if name in present]
    return [path for path in paths if not os.path.isdir(path)]


def _refuse_superseded(files: Sequence[str], *, force: bool) -> None:
    if files and not force:
        what = (
            f"{', '.join(map(repr, files))} would stay beside the new files, and be read instead of them or with them"
        )
        raise UsageError("superseded", f"{what}: --force removes such files, or choose another output")


def _index_of(plan: ExportPlan, paths: list[str]) -> bytes:
    """Return the index of shards at these paths.

    Raises:
        UsageError: ``bad-name``: a path is not Unicode text.
    """
    names = {
        tensor.name: os.path.basename(path) for path, shard in zip(paths, plan.shards, strict=True) for tensor in shard
    }
    index = {"metadata": {"total_size": plan.nbytes}, "weight_map": dict(sorted(names.items()))}
    try:
        return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        what = f"{paths[0]!r} is not Unicode text, but an index of shards is: choose another name for the output"
        raise UsageError("bad-name", what) from None


def _write_shard(
    shard: list[ExportedTensor], metadata: Mapping[str, str], store: Store, sink: Sink, progress: Progress
) -> None:
    sink.write(memoryview(dump_header([(tensor.name, tensor.type, tensor.shape) for tensor in shard], metadata)))
    ranges = [(block.stored.offset, block.stored.nbytes) for tensor in shard for block in tensor.blocks]
    with store.reader.reading_ahead(ranges):
        for tensor in shard:
            for chunk in exported_bytes(tensor, store):
                if isinstance(chunk, FileRange):
                    sink.copy(chunk)
                else:
                    sink.write(flat_bytes(chunk))
                progress(chunk.nbytes)
    sink.flush()


# -------------------------------------------------------------------------------------------------- a tensor's bytes


def exported_bytes(tensor: ExportedTensor, store: Store) -> Iterator[FileRange | Array]:
    """Yield a tensor's bytes as they are to be written, in order."""
    if tensor.made is not None:
        yield from _made_bytes(tensor, tensor.made)
        return
    if all(block.whole_rows for block in tensor.blocks):
        for block in sorted(tensor.blocks, key=lambda block: block.row):
            yield from _run_bytes(block, tensor.type, store)
        return
    width = tensor.blocks[0].width
    height = math.prod(tensor.shape) // width
    step = max(1, _CHUNK // width)
    for row in range(0, height, step):
        rows = min(step, height - row)
        values = np.empty((rows, width), dtype=tensor.type.dtype)
        for block, place, block_values in rows_from(tensor.blocks, store, row, rows):
            values[place] = rounded(block_values, tensor.type, block.stored.name, _FIX)
        yield values


def _made_bytes(tensor: ExportedTensor, made: Callable[[int, int], Array]) -> Iterator[Array]:
    """Yield the bytes of a tensor that adapters change, some rows at a time."""
    width, count = math.prod(tensor.shape[1:]), math.prod(tensor.shape)
    step = max(1, _CHUNK // max(1, width)) * max(1, width)
    for first in range(0, count, step):
        values = made(first, min(step, count - first))
        yield rounded(values, tensor.type, tensor.name, _FIX)


def _run_bytes(block: Block[TensorInfo], element_type: ElementType, store: Store) -> Iterator[FileRange | Array]:
    """Yield the exported bytes of a block that is a run of the exported tensor: as they are stored, if possible."""
    info = block.stored
    if info.type != element_type or info.scale != 1.0:
        yield from _converted_chunks(block, element_type, store)
        return
    start, nbytes = block.at * element_type.bits // 8, block.element_count * element_type.bits // 8
    if not info.packed:
        yield store.reader.part_of_file(info.offset + start, nbytes)
        return
    for done in range(0, nbytes, CHUNK_NBYTES):
        unpacked = stored(store, info, start + done, min(CHUNK_NBYTES, nbytes - done))
        yield np.frombuffer(unpacked, np.uint8)


def _converted_chunks(block: Block[TensorInfo], element_type: ElementType, store: Store) -> Iterator[Array]:
    """Yield a block's elements as the exported type's bytes."""
    count = block.element_count
    for done in range(0, count, _CHUNK):
        values = elements(store, block.stored, block.at + done, min(_CHUNK, count - done))
        yield np.ascontiguousarray(rounded(values, element_type, block.stored.name, _FIX)).view(np.uint8)
