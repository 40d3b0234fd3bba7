"""Run a plan: write the file that it describes."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from blobstore.codecs import are_finite, holds_any
from blobstore.container.layout import MAX_PORTABLE_BLOBS
from blobstore.converting.pieces import encoded_chunks, scale_of, stored_ranges
from blobstore.converting.plan import refusal
from blobstore.errors import CheckpointError, Fault, in_file
from blobstore.fileio.ranges import CHUNK_NBYTES, FileRange, reporting
from blobstore.fileio.urls import is_url
from blobstore.index.inputs import files_of
from blobstore.store.model_writer import ModelWriter
from blobstore.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from os import PathLike
    from typing import BinaryIO

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.checkpoint.tensors import SourceTensor
    from blobstore.converting.plan import Plan, PlannedTensor
    from blobstore.fileio.types import Bytes, Progress
    from blobstore.index.locate import IndexPlace

    Stored = Iterator[FileRange | Bytes]

_SMALL_NBYTES = 64 << 10  # tensors up to this size are read and written together with those after them


def run_plan(
    plan: Plan,
    checkpoint: Checkpoint,
    target: str | PathLike[str] | BinaryIO,
    *,
    version: int = 2,
    index: IndexPlace = "embedded",
    digests: bool = True,
    progress: Progress = lambda _: None,
) -> list[SourceTensor]:
    """Write the file that a plan describes. The memory it takes doesn't depend on the checkpoint's size.

    Args:
        plan: Made for this checkpoint.
        checkpoint: Open.
        target: A path, or a binary stream.
        version: Of the container.
        index: Where the name index goes.
        digests: Keep the SHA-256 of each blob.
        progress: Called with the number of bytes that were written since the last call.

    Returns:
        Of a model's sources that are made as they are read, or lie elsewhere, those whose values were not all finite
        when written.

    Raises:
        UsageError: ``same-file`` when the target is a file of the source; as `blobstore.create`.
        CheckpointError: ``disk-too-small``; ``cannot-convert`` for values that the chosen type can't hold.
        TruncatedError: A source file has shrunk.
        OSError: Reading or writing failed; the target is untouched.
    """
    check_target(plan, checkpoint, target)
    scales = measure_scales(plan, checkpoint)
    if plan.config is None:
        with StoreWriter(target, version=version, index=index, digests=digests, metadata=plan.metadata) as store:
            _write_named(plan.tensors, checkpoint, store, scales, progress)
            _write_names(plan, store)
            for file in plan.files:
                with in_file(file.path):
                    store.add_file(file.name, checkpoint.open_beside(file.path))
            checkpoint.check_unchanged()
        return []
    model = ModelWriter(
        target,
        plan.config,
        tokenizer=plan.tokenizer,
        version=version,
        index=index,
        digests=digests,
        metadata=plan.metadata,
        max_blobs=max(MAX_PORTABLE_BLOBS, plan.blob_count(embedded=index == "embedded")),
    )
    odd: dict[str, SourceTensor] = {}
    with model:
        for tensor in plan.tensors:
            scale = scales.get(tensor.name, 1.0)
            with _naming_source(tensor, checkpoint):
                data = reporting(_watched(tensor, checkpoint, scale, odd), progress)
                model.add_stored(tensor.key, data, tensor.type.name, scale=scale, immutable=True)
        _write_named(plan.extras, checkpoint, model.store, scales, progress)
        _write_names(plan, model.store)
        checkpoint.check_unchanged()
    return list(odd.values())


def check_target(
    plan: Plan, checkpoint: Checkpoint, target: str | PathLike[str] | BinaryIO, *, room: bool = True
) -> None:
    """Refuse a target that can't be written, before anything is read.

    Args:
        plan: Of the conversion.
        checkpoint: Open.
        target: A path, or a stream.
        room: Whether all of it has yet to be written.

    Raises:
        UsageError: ``same-file``.
        CheckpointError: ``disk-too-small``.
    """
    checkpoint.refuse_as_outputs(*files_of(target))
    if room:
        _check_disk(plan, target)


def unchecked_sources(plan: Plan, checkpoint: Checkpoint, *, made: bool = True) -> list[SourceTensor]:
    """Return the tensors that go into types which hold NaN and infinity: `measure_scales` does not refuse those.

    Args:
        plan: Of the conversion.
        checkpoint: Open.
        made: Also those that are made as they are read, or lie elsewhere, which may take long: `run_plan` looks at
            these, too.
    """
    kept = (tensor for tensor in [*plan.tensors, *plan.extras] if holds_any(tensor.type))
    names = dict.fromkeys(piece.source for tensor in kept for piece in tensor.pieces if piece.source is not None)
    sources = [checkpoint.tensors[name] for name in names]
    return [source for source in sources if made or not _is_slow(source)]


def _is_slow(source: SourceTensor) -> bool:
    """Whether a tensor must not be read just to look at it."""
    return source.stored is None or source.stored.is_elsewhere


def measure_scales(plan: Plan, checkpoint: Checkpoint, progress: Progress = lambda _: None) -> dict[str, float]:
    """Read all values that their new type may not be able to hold, before anything is written.

    Returns:
        The scale of each tensor that needs one other than 1, by name.

    Raises:
        CheckpointError: ``cannot-convert``: every tensor with such values, and where.
    """
    scales: dict[str, float] = {}
    faults: list[Fault] = []
    for tensor in [*plan.tensors, *plan.extras]:
        if not _may_not_fit(tensor, checkpoint):
            continue
        scale, values = scale_of(checkpoint, tensor.pieces, tensor.type)
        fix = "repair it" if holds_any(tensor.type) else "repair it, or convert with --weights bf16"
        faults += [Fault("not-finite", source, f"{what}: {fix}") for source, what in values.items()]
        if scale != 1.0:
            scales[tensor.name] = scale
        progress(tensor.nbytes)
    if faults:
        raise refusal(faults)
    return scales


def _may_not_fit(tensor: PlannedTensor, checkpoint: Checkpoint) -> bool:
    """Whether a tensor may have values that its new type can't hold."""
    sources = (piece.source for piece in tensor.pieces if piece.source)
    wide = any(checkpoint.tensors[name].type.name == "f64" for name in sources)
    return not holds_any(tensor.type) or (wide and tensor.type.name != "f64")


def _watched(tensor: PlannedTensor, checkpoint: Checkpoint, scale: float, odd: dict[str, SourceTensor]) -> Stored:
    """Yield `stored_bytes`; add the sources that are slow to read to `odd`, if a value is not finite."""
    sources = {piece.source: checkpoint.tensors[piece.source] for piece in tensor.pieces if piece.source is not None}
    slow = {name: source for name, source in sources.items() if _is_slow(source)}
    dtype = tensor.type.dtype if slow and holds_any(tensor.type) else None
    for part in stored_bytes(tensor, checkpoint, scale):
        if dtype is None or (isinstance(part, FileRange) and not part.is_elsewhere):
            yield part
            continue
        for piece in _pieces_of(part):
            if not are_finite(piece.view(dtype)):
                odd |= slow
            yield piece


def _pieces_of(part: FileRange | Bytes) -> Iterator[Bytes]:
    """Yield bytes that stay as they are, read in pieces where they are in a file."""
    if not isinstance(part, FileRange):
        yield part
        return
    for start in range(0, part.nbytes, CHUNK_NBYTES):
        yield part.part(start, CHUNK_NBYTES).read()


def stored_bytes(tensor: PlannedTensor, checkpoint: Checkpoint, scale: float = 1.0) -> Stored:
    """Yield a planned tensor's bytes as they are to be stored, in pieces that stay as they are."""
    if not tensor.pieces:
        return checkpoint.tensors[tensor.name].parts()
    ranges = stored_ranges(checkpoint, tensor.pieces, tensor.type)
    if ranges is not None:
        return (part for source in ranges for part in source.parts())
    return encoded_chunks(checkpoint, tensor.pieces, tensor.type, scale)


def _check_disk(plan: Plan, target: str | PathLike[str] | BinaryIO) -> None:
    """Refuse to begin a file that the disk is too small for."""
    if not isinstance(target, (str, os.PathLike)) or is_url(target):
        return
    folder = os.path.dirname(os.path.realpath(os.fspath(target)))
    if not os.path.isdir(folder):
        return  # opening the target reports it
    free, needed = shutil.disk_usage(folder).free, plan.nbytes + sum(file.nbytes for file in plan.files)
    if needed > free:
        what = f"the file takes {needed} bytes, {folder!r} has {free} free: choose another folder"
        raise CheckpointError("disk-too-small", what)


def _write_named(
    tensors: Iterable[PlannedTensor],
    checkpoint: Checkpoint,
    store: StoreWriter,
    scales: Mapping[str, float],
    progress: Progress,
) -> None:
    for group, data in _grouped(tensors, checkpoint):
        tensor, *more = group
        with _naming_source(tensor, checkpoint):
            if data is not None and more:
                described = [(one.name, one.key, one.type, one.shape, one.nbytes) for one in group]
                store.add_adjacent(described, data.read().data)
                progress(data.nbytes)
                continue
            scale = scales.get(tensor.name, 1.0)
            pieces = reporting(stored_bytes(tensor, checkpoint, scale), progress)
            store.add_stored(tensor.name, pieces, tensor.type, tensor.shape, scale=scale, immutable=True)


def _grouped(
    tensors: Iterable[PlannedTensor], checkpoint: Checkpoint
) -> Iterator[tuple[list[PlannedTensor], FileRange | None]]:
    """Yield tensors that are written at once, with their bytes in the source: small ones that follow each other there.

    Any other tensor is yielded alone.
    """
    group: list[PlannedTensor] = []
    data: FileRange | None = None
    for tensor in tensors:
        stored = None if tensor.pieces else checkpoint.tensors[tensor.name].stored
        if stored is not None and not 0 < stored.nbytes <= _SMALL_NBYTES:
            stored = None
        if stored is not None and data is not None and _follows(stored, data):
            group.append(tensor)
            data = FileRange(data.file, data.offset, data.nbytes + stored.nbytes)
            continue
        if group:
            yield group, data
        group, data = [tensor], stored
    if group:
        yield group, data


def _follows(stored: FileRange, data: FileRange) -> bool:
    """Whether bytes lie right after others, which may grow by them."""
    follows = stored.offset == data.offset + data.nbytes and stored.file is data.file
    return follows and data.nbytes < CHUNK_NBYTES


def _write_names(plan: Plan, store: StoreWriter) -> None:
    for part in plan.parts:
        store.part(part.name, part.target, part.type, part.shape, offset=part.offset, scale=store.scale_of(part.target))
    for alias in plan.indexed_aliases:
        store.alias(alias.name, alias.target)


def _naming_source(tensor: PlannedTensor, checkpoint: Checkpoint) -> AbstractContextManager[None]:
    """Name the source's file in what goes wrong with it."""
    source = next((piece.source for piece in tensor.pieces if piece.source), tensor.name)
    return in_file(checkpoint.tensors[source].path if source in checkpoint.tensors else checkpoint.path)
