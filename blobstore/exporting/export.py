"""Export a file: opened, planned, written, and what was done."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from blobstore.checkpoint.adapters.applying import open_adapters
from blobstore.errors import UsageError, without_secrets
from blobstore.exporting.choices import DTYPES
from blobstore.exporting.folder import aliases_to_write, folder_of, folders_for, plan_folder, tensors_in
from blobstore.exporting.plan import plan_export
from blobstore.exporting.run import in_the_way, run_export, superseded
from blobstore.fileio.paths import optional_path, path_text, path_texts, target_of
from blobstore.fileio.places import file_size
from blobstore.fileio.ranges import expect
from blobstore.fileio.sizes import parse_size
from blobstore.fileio.urls import is_url
from blobstore.gemma.newer import unknown_texts
from blobstore.index.carried import known_files
from blobstore.index.locate import lost_index
from blobstore.store.base import refuse_needless_base
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike
    from typing import BinaryIO

    from blobstore.exporting.plan import ExportPlan
    from blobstore.fileio.types import Paths, Progress
    from blobstore.store.vocabulary import By


@dataclass(frozen=True)
class Export:
    """The result of `export`.

    Attributes:
        input: The file, as given.
        output: As given; None for a stream.
        files: The files of tensors that were written: one, or the shards and their index.
        carried: The model's other files that lie beside them now, such as ``config.json``: only in a folder.
        removed: Files of an earlier export that were removed.
        tensors: How many were written.
        left_out: Names that were not written → the name of the same tensor that was.
        notes: What was left out or should be known, a line each.
        adapters: The adapters that were merged, as given, in their order.
        nbytes: Size of the files of tensors; for a stream, of the tensors.
        seconds: How long it took.

    Example:
        >>> blobstore.export("model.sbs", "exported.safetensors").files
        ('exported.safetensors',)
    """

    input: str
    output: str | None
    files: tuple[str, ...]
    carried: tuple[str, ...]
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
        carried: The names of the model's other files that `export` would write beside them: only into a folder.
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
    carried: tuple[str, ...]
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
    max_shard_size: int | str | None = None,
    force: bool = False,
    base: str | PathLike[str] | None = None,
    adapters: Paths = (),
    progress: Progress = lambda _: None,
) -> Export:
    """Write the tensors of an .sbs file as safetensors: all files are complete before one is replaced.

    Args:
        path: Of the .sbs file.
        output: The .safetensors file; of several, what their names are made of; or a URL or a binary stream, for one.
            Or a folder, one that exists or a path that ends with ``/``: it gets ``model.safetensors`` and the model's
            other files that the .sbs file carries, such as ``config.json``, so that transformers loads it.
        dtype: Of all floats, ``bf16``, ``f16`` or ``f32``; by default that of the checkpoint that the file was
            converted from where that is known, else as stored, and f32 for encoded ones.
        by: ``names``, or ``keys`` for the runtime's tensors under its keys.
        materialize_aliases: Write tied weights again under each of their names.
        max_shard_size: Begin another file rather than exceed this: bytes, or text such as ``"5GB"``.
        force: Remove files of an earlier export to the output that the new ones don't replace; in a folder, replace
            files of the same names.
        base: For a packed file: the file that it is the difference to.
        adapters: LoRA adapters that are merged into the tensors, as for `convert`.
        progress: Called with the number of further bytes written.

    Raises:
        UsageError: ``bad-choice``; ``bad-size``; ``no-tensors``, ``cannot-export``; ``superseded`` and, in a folder,
            ``would-replace``, unless `force`; ``needless-force`` for a stream; ``needless-base``; ``needs-path``,
            ``same-file``, ``bad-name``.
        CheckpointError: An adapter can't be merged, and why.
        FormatError: The file is wrong; ``files-list``, ``files-missing``: it doesn't have the files that it lists.
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
    with _planned(
        path, base, dtype, by, max_shard_size, output=target, materialize_aliases=materialize_aliases, adapters=given
    ) as (plan, store, notes, folder, also):
        expect(progress, plan.nbytes)
        place = output if folder is None else tensors_in(folder)
        with folders_for(folder, plan.files) if folder and not is_url(folder) else nullcontext():
            files, removed, carried = run_export(plan, store, place, force=force, also=also, progress=progress)
    return Export(
        input=without_secrets(path),
        output=target and without_secrets(target),
        files=tuple(map(without_secrets, files)),
        carried=tuple(carried),
        removed=tuple(removed),
        tensors=sum(map(len, plan.shards)),
        left_out=plan.left_out,
        notes=tuple(notes),
        adapters=given,
        nbytes=sum(map(file_size, files)) if files else plan.nbytes,
        seconds=time.perf_counter() - start,
    )


def preview_export(
    path: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    dtype: str | None = None,
    by: By = "names",
    materialize_aliases: bool = False,
    max_shard_size: int | str | None = None,
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
        max_shard_size: As for `export`.
        base: As for `export`.
        adapters: As for `export`.

    Raises:
        UsageError, FormatError, CodecError, OSError: As for `export`, but for values and for the output.

    Example:
        >>> preview = blobstore.preview_export("model.sbs", max_shard_size=1)
        >>> preview.shards == len(preview.tensors)
        True
    """
    path, output, base, given = path_text(path), optional_path(output), optional_path(base), path_texts(adapters)
    with _planned(
        path, base, dtype, by, max_shard_size, output=output, materialize_aliases=materialize_aliases, adapters=given
    ) as (plan, _, notes, folder, _also):
        place = output if folder is None else tensors_in(folder)
        old = superseded(place, len(plan.shards)) if place is not None else []
        replaced = in_the_way(plan, place) if place is not None else []
    if old:
        notes.append(f"{', '.join(map(repr, old))} of an earlier export would stay: --force removes such files")
    if replaced:
        notes.append(f"{', '.join(map(repr, replaced))} would be replaced: --force replaces such files")
    tensors = [tensor for shard in plan.shards for tensor in shard]
    return ExportPreview(
        input=without_secrets(path),
        tensors=tuple(TensorPreview(tensor.name, tensor.type.name, tensor.shape, tensor.nbytes) for tensor in tensors),
        shards=len(plan.shards),
        carried=tuple(plan.files),
        superseded=tuple(old),
        left_out=plan.left_out,
        notes=tuple(notes),
        adapters=given,
        nbytes=plan.nbytes,
    )


@contextmanager
def _planned(
    path: str,
    base: str | None,
    dtype: str | None,
    by: By,
    max_shard_size: int | str | None,
    *,
    output: str | None,
    materialize_aliases: bool,
    adapters: tuple[str, ...],
) -> Iterator[_Planned]:
    """Plan an export, and open the file and its adapters."""
    if dtype is not None and dtype not in DTYPES:
        raise UsageError("bad-choice", f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if adapters and by == "keys":
        what = "--adapter has the checkpoint's names, and --by keys exports the runtime's: leave out one of them"
        raise UsageError("two-ways", what)
    with open_adapters(adapters) as opened, Store(path, access="read", base=base, by=by) as store:
        refuse_needless_base(store)
        folder = None if output is None else folder_of(output)
        fills = folder is not None and by == "names"
        plan = plan_export(
            store,
            dtype=dtype,
            materialize_aliases=materialize_aliases,
            needed_aliases=aliases_to_write(store) if fills else (),
            max_shard_nbytes=None if max_shard_size is None else parse_size(max_shard_size),
            adapters=opened.adapters,
        )
        plan.in_folder = folder is not None
        beside = list(plan_folder(plan, store)) if fills else list(_not_written(store))
        yield _Planned(plan, store, [*_notes(plan, store), *beside], folder, opened.files)


class _Planned(NamedTuple):
    """A planned export: the plan, the open file, notes, the folder that it goes to (or None), the files of adapters."""

    plan: ExportPlan
    store: Store
    notes: list[str]
    folder: str | None
    also: Sequence[str]


def _not_written(store: Store) -> Iterator[str]:
    """Say which files an export doesn't write, as they have no place beside one file, or in names of the runtime's."""
    files = known_files(store.index)
    if files:
        fix = "-o FOLDER/ writes them too" if store.by == "names" else "they don't go with the runtime's names"
        yield f"the file carries {', '.join(files)}: {fix}"


def _notes(plan: ExportPlan, store: Store) -> list[str]:
    notes = [*unknown_texts(store.reader), *lost_index(store.reader), *store.vocabularies.left_out(store.by)]
    notes += plan.notes
    notes += [
        f"{name} is the same as {kept} and is left out: --materialize-aliases writes both"
        for name, kept in plan.left_out.items()
    ]
    return notes
