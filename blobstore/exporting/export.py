"""Export a file: opened, planned, written, and what was done."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.checkpoint.adapters.applying import open_adapters
from blobstore.errors import UsageError
from blobstore.exporting.plan import DTYPES, plan_export
from blobstore.exporting.run import run_export, superseded
from blobstore.fileio.paths import optional_path, path_text, path_texts, target_of
from blobstore.fileio.ranges import expect
from blobstore.gemma.newer import newer_texts
from blobstore.index.locate import lost_index
from blobstore.store.base import refuse_needless_base
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike
    from typing import BinaryIO

    from blobstore.checkpoint.adapters.applying import OpenAdapters
    from blobstore.exporting.plan import ExportPlan
    from blobstore.fileio.types import Paths, Progress
    from blobstore.store.vocabulary import By


@dataclass(frozen=True)
class Export:
    """The result of `export`.

    Attributes:
        input: The file, as given.
        output: As given; None for a stream.
        files: The files that were written: one, or the shards and their index.
        removed: Files of an earlier export that were removed.
        tensors: How many were written.
        left_out: Names that were not written → the name of the same tensor that was.
        notes: What was left out or should be known, a line each.
        adapters: The adapters that were merged, as given, in their order.
        nbytes: Size of the files; for a stream, of the tensors.
        seconds: How long it took.

    Example:
        >>> blobstore.export("model.sbs", "exported.safetensors").files
        ('exported.safetensors',)
    """

    input: str
    output: str | None
    files: tuple[str, ...]
    removed: tuple[str, ...]
    tensors: int
    left_out: dict[str, str]
    notes: tuple[str, ...]
    adapters: tuple[str, ...]
    nbytes: int
    seconds: float


@dataclass(frozen=True)
class TensorPreview:
    """A tensor that `export` would write.

    Attributes:
        name: Its name.
        type: Of its elements, such as ``bf16``.
        shape: Its shape.
        nbytes: In the new file.

    Example:
        >>> blobstore.preview_export("model.sbs", dtype="f16").tensors[0].type
        'f16'
    """

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class ExportPreview:
    """The result of `preview_export`: what `export` would write.

    Attributes:
        input: The file, as given.
        tensors: In the order of writing.
        shards: How many files they are divided among.
        superseded: Files of an earlier export to the output that `export` would refuse to leave, or remove.
        left_out: Names that would not be written → the name of the same tensor that would.
        notes: What is left out or should be known, a line each.
        adapters: The adapters that would be merged, as given, in their order.
        nbytes: Of all tensors.

    Example:
        >>> blobstore.preview_export("model.sbs").shards
        1
    """

    input: str
    tensors: tuple[TensorPreview, ...]
    shards: int
    superseded: tuple[str, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    adapters: tuple[str, ...]
    nbytes: int


def export(
    path: str | PathLike[str],
    output: str | PathLike[str] | BinaryIO,
    *,
    dtype: str | None = None,
    by: By = "names",
    materialize_aliases: bool = False,
    max_shard_nbytes: int | None = None,
    force: bool = False,
    base: str | PathLike[str] | None = None,
    adapters: Paths = (),
    progress: Progress = lambda _: None,
) -> Export:
    """Write the tensors of an .sbs file as safetensors: all files are complete before one is replaced.

    Args:
        path: Of the .sbs file.
        output: The .safetensors file; of several, what their names are made of; or a binary stream, for one.
        dtype: Of all floats, ``bf16``, ``f16`` or ``f32``; by default that of the checkpoint that the file was
            converted from where that is known, else as stored, and f32 for encoded ones.
        by: ``names``, or ``keys`` for the runtime's tensors under its keys.
        materialize_aliases: Write tied weights again under each of their names.
        max_shard_nbytes: Begin another file rather than exceed this.
        force: Remove files of an earlier export to the output that the new ones don't replace.
        base: For a packed file: the file that it is the difference to.
        adapters: LoRA adapters that are merged into the tensors, as for `convert`.
        progress: Called with the number of further bytes written.

    Raises:
        UsageError: ``bad-choice``; ``bad-size``; ``no-tensors``, ``cannot-export``; ``superseded`` unless `force`;
            ``needless-force`` for a stream; ``needless-base``; ``needs-path``, ``same-file``, ``bad-name``.
        CheckpointError: An adapter can't be merged, and why.
        FormatError: The file is wrong.
        CodecError: A value can't be decoded, or can't be held by `dtype`.
        OSError: Reading or writing failed; the output is untouched.

    Example:
        >>> blobstore.export("model.sbs", "tied.safetensors", materialize_aliases=True).left_out
        {}
    """
    path, output, base, given = path_text(path), target_of(output), optional_path(base), path_texts(adapters)
    start = time.perf_counter()
    target = output if isinstance(output, str) else None
    if force and target is None:
        raise UsageError(
            "needless-force", "--force removes files beside the output, and a stream has none: leave it out"
        )
    with (
        open_adapters(given) as opened,
        _planned(path, base, dtype, by, max_shard_nbytes, adapters=opened, materialize_aliases=materialize_aliases) as (
            plan,
            store,
        ),
    ):
        notes = _notes(plan, store)
        expect(progress, plan.nbytes)
        files, removed = run_export(plan, store, output, force=force, also=opened.files, progress=progress)
    return Export(
        input=path,
        output=target,
        files=tuple(files),
        removed=tuple(removed),
        tensors=sum(map(len, plan.shards)),
        left_out=plan.left_out,
        notes=tuple(notes),
        adapters=given,
        nbytes=sum(os.stat(file).st_size for file in files) if files else plan.nbytes,
        seconds=time.perf_counter() - start,
    )


def preview_export(
    path: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    dtype: str | None = None,
    by: By = "names",
    materialize_aliases: bool = False,
    max_shard_nbytes: int | None = None,
    base: str | PathLike[str] | None = None,
    adapters: Paths = (),
) -> ExportPreview:
    """Return what `export` would write, without writing it. Tensors are not read.

    Args:
        path: As for `export`.
        output: As for `export`; without it, files of an earlier export are not looked for.
        dtype: As for `export`.
        by: As for `export`.
        materialize_aliases: As for `export`.
        max_shard_nbytes: As for `export`.
        base: As for `export`.
        adapters: As for `export`.

    Raises:
        UsageError, FormatError, CodecError, OSError: As for `export`, but for values and for the output.

    Example:
        >>> preview = blobstore.preview_export("model.sbs", max_shard_nbytes=1)
        >>> preview.shards == len(preview.tensors)
        True
    """
    path, output, base, given = path_text(path), optional_path(output), optional_path(base), path_texts(adapters)
    with (
        open_adapters(given) as opened,
        _planned(path, base, dtype, by, max_shard_nbytes, adapters=opened, materialize_aliases=materialize_aliases) as (
            plan,
            store,
        ),
    ):
        notes = _notes(plan, store)
        old = superseded(output, len(plan.shards)) if output is not None else []
    if old:
        notes.append(f"{', '.join(map(repr, old))} of an earlier export would stay: --force removes such files")
    tensors = [tensor for shard in plan.shards for tensor in shard]
    return ExportPreview(
        input=path,
        tensors=tuple(TensorPreview(tensor.name, tensor.type.name, tensor.shape, tensor.nbytes) for tensor in tensors),
        shards=len(plan.shards),
        superseded=tuple(old),
        left_out=plan.left_out,
        notes=tuple(notes),
        adapters=given,
        nbytes=plan.nbytes,
    )


@contextmanager
def _planned(
    path: str | PathLike[str],
    base: str | PathLike[str] | None,
    dtype: str | None,
    by: By,
    max_shard_nbytes: int | None,
    *,
    adapters: OpenAdapters,
    materialize_aliases: bool,
) -> Iterator[tuple[ExportPlan, Store]]:
    """Plan an export → the plan and the open file."""
    if dtype is not None and dtype not in DTYPES:
        raise UsageError("bad-choice", f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if max_shard_nbytes is not None and max_shard_nbytes < 1:
        raise UsageError("bad-size", f"{max_shard_nbytes} is not a size of at least a byte")
    if adapters.adapters and by == "keys":
        what = "--adapter has the checkpoint's names, and --by keys exports the runtime's: leave out one of them"
        raise UsageError("two-ways", what)
    with Store(path, access="read", base=base, by=by) as store:
        refuse_needless_base(store)
        yield (
            plan_export(
                store,
                dtype=dtype,
                materialize_aliases=materialize_aliases,
                max_shard_nbytes=max_shard_nbytes,
                adapters=adapters.adapters,
            ),
            store,
        )


def _notes(plan: ExportPlan, store: Store) -> list[str]:
    notes = [*newer_texts(store.reader), *lost_index(store.reader), *store.vocabularies.left_out(store.by)]
    notes += plan.notes
    notes += [
        f"{name} is the same as {kept} and is left out: --materialize-aliases writes both"
        for name, kept in plan.left_out.items()
    ]
    return notes
