"""Convert a checkpoint, and say what gemma.cpp makes of the new file: planned, checked, then written."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blobstore.checking.checkpoint import check_plan, check_values
from blobstore.checking.findings import runs_in, runtimes_line
from blobstore.checking.refusal import refuse_plan
from blobstore.converting.request import Request, write_with
from blobstore.converting.run import check_target, run_plan, unchecked_sources
from blobstore.converting.shards import write_set
from blobstore.errors import UsageError, listed, without_secrets
from blobstore.fileio.paths import optional_path, path_text, path_texts, target_of
from blobstore.fileio.places import file_size
from blobstore.fileio.ranges import expect
from blobstore.fileio.sizes import parse_size
from blobstore.gemma.models import specifier_of
from blobstore.gemma.newer import readers_notes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike
    from typing import BinaryIO

    from blobstore.checking.findings import Finding
    from blobstore.checkpoint.told import LeftOut
    from blobstore.converting.plan import Plan, PlannedAlias, PlannedTensor
    from blobstore.converting.shards import Division
    from blobstore.fileio.types import Paths, Progress
    from blobstore.fileio.work import Engine
    from blobstore.index.locate import IndexPlace

ConversionKind = Literal["auto", "gemma", "names"]
_SHOWN = 8


@dataclass(frozen=True)
class Conversion:
    """The result of `convert`.

    Attributes:
        input: The checkpoint, as given.
        output: The new file, as given; None for a stream.
        model: What gemma.cpp calls the model; None for a file by name.
        runs_in: The versions of gemma.cpp that run the file correctly; None for a file by name.
        tensors: How many tensors the new file has.
        names: How many names it has, for them and for parts of them.
        aliases: The names that share another tensor's bytes, such as a tied ``lm_head.weight``.
        left_out: Tensors and files of the checkpoint that aren't used, and why.
        carried: The checkpoint's other files, such as ``config.json``, that the new file carries.
        notes: What was chosen, left out or should be known, a line each.
        read: The files that the tensors come from.
        adapters: The adapters that were merged, as given, in their order.
        stores: The files of the set that was made, in its order; empty if it is one file.
        kept: How many of them an earlier run had completed.
        nbytes: Size of the new file, or of all files of the set; for a stream, of its tensors.
        seconds: How long it took.

    Example:
        >>> done = blobstore.convert("checkpoint", "converted.sbs", weights="bf16")
        >>> done.output, done.aliases[0].name
        ('converted.sbs', 'lm_head.weight')
    """

    input: str
    output: str | None
    model: str | None
    runs_in: tuple[str, ...] | None
    tensors: int
    names: int
    aliases: tuple[PlannedAlias, ...]
    left_out: tuple[LeftOut, ...]
    carried: tuple[str, ...]
    notes: tuple[str, ...]
    read: tuple[str, ...]
    adapters: tuple[str, ...]
    stores: tuple[str, ...]
    kept: int
    nbytes: int
    seconds: float


@dataclass(frozen=True)
class ConvertedTensor:
    """A tensor of the file that `convert` would write.

    Attributes:
        name: Its name.
        key: Of its blob; empty without elements.
        type: Of its elements, such as ``bf16``.
        shape: In the new file.
        nbytes: In the new file.
        sources: The checkpoint's tensors that it is made of.

    Example:
        >>> blobstore.preview_conversion("checkpoint", weights="bf16").tensors[0].type
        'bf16'
    """

    name: str
    key: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ConvertedPart:
    """A name for some bytes of a tensor of the file that `convert` would write.

    Attributes:
        name: The checkpoint's name.
        target: The tensor that holds the bytes.
        offset: Of the first byte in that tensor.
        type: Of the elements.
        shape: As in the checkpoint.

    Example:
        >>> blobstore.preview_conversion("checkpoint").parts[0].target
        'c_embedding'
    """

    name: str
    target: str
    offset: int
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PlannedStore:
    """A file of the set that `convert` would make.

    Attributes:
        tensors: How many it has.
        nbytes: Of its tensors.

    Example:
        >>> [store.tensors for store in blobstore.preview_conversion("checkpoint", as_="names").stores]
        []
    """

    tensors: int
    nbytes: int


@dataclass(frozen=True)
class ConversionPreview:
    """The result of `preview_conversion`: what `convert` would write.

    Attributes:
        input: The checkpoint, as given.
        model: What gemma.cpp calls the model; None for a file by name.
        wrapping: How gemma.cpp wraps prompts, such as ``it``; None for a file by name.
        runs_in: The versions of gemma.cpp that run the file correctly; None for a file by name.
        tensors: In the order of writing.
        extras: Tensors that gemma.cpp doesn't know, kept so that nothing is lost.
        parts: Names for parts of the tensors.
        aliases: Names that share another tensor's bytes.
        metadata: Text → text, as the name index will have it.
        left_out: Tensors and files of the checkpoint that aren't used, and why.
        carried: The checkpoint's other files, such as ``config.json``, that the new file would carry.
        notes: What was chosen, left out or should be known, a line each.
        read: The files that the tensors come from.
        adapters: The adapters that would be merged, as given, in their order.
        stores: How many tensors each file of a set would have, and their bytes; empty if it is one file.
        nbytes: Of all tensors.

    Example:
        >>> blobstore.preview_conversion("checkpoint").tensors[0].key
        'c_embedding'
    """

    input: str
    model: str | None
    wrapping: str | None
    runs_in: tuple[str, ...] | None
    tensors: tuple[ConvertedTensor, ...]
    extras: tuple[ConvertedTensor, ...]
    parts: tuple[ConvertedPart, ...]
    aliases: tuple[PlannedAlias, ...]
    metadata: dict[str, str]
    left_out: tuple[LeftOut, ...]
    carried: tuple[str, ...]
    notes: tuple[str, ...]
    read: tuple[str, ...]
    adapters: tuple[str, ...]
    stores: tuple[PlannedStore, ...]
    nbytes: int


def convert(
    source: str | PathLike[str],
    output: str | PathLike[str] | BinaryIO,
    *,
    as_: ConversionKind = "auto",
    weights: str | None = None,
    layout: str | None = None,
    wrapping: str | None = None,
    runtime: str | None = None,
    tokenizer: str | PathLike[str] | None = None,
    pad: bool = True,
    strict: bool = False,
    adapters: Paths = (),
    files: bool = True,
    container: int = 2,
    index: IndexPlace = "embedded",
    digests: bool = True,
    max_shard_size: int | str | None = None,
    resume: bool = False,
    progress: Progress = lambda _: None,
) -> Conversion:
    """Convert a checkpoint into an .sbs file. Memory doesn't grow with the checkpoint.

    Args:
        source: A .safetensors file, a ``model.safetensors.index.json``, or a folder with either, or with shards; the
            same of PyTorch's pickled files (``.bin``, ``.pt``, ``.pth``, ``.ckpt``), with torch; or a .gguf file.
            ``config.json``, the tokenizer's files and the chat template are found beside it; in a .gguf file, the
            metadata says what they do. Or the URL of one of these (``hf://``, ``s3://``, ``https://``, …), with the
            extra ``remote``: its tensors are streamed.
        output: The file to write, replaced only by a complete one, or its URL; or a binary stream.
        as_: ``gemma``: a file that gemma.cpp runs; ``names``: every tensor by name, unchanged; ``auto``: for gemma.cpp
            if it is a Gemma or Qwen3 checkpoint.
        weights: For gemma.cpp, the type of the weights: ``sfp`` (8 bits, the default), ``bf16``, ``f32``, ``i8`` or
            ``q4_0`` (4 bits, for the latest gemma.cpp only).
        layout: For gemma.cpp: ``split``, almost the checkpoint's order, or ``stock``; by default ``split``, which only
            T5Gemma doesn't have.
        wrapping: For gemma.cpp: ``it``, instruction-tuned, or ``pt``; by default as the source.
        runtime: For gemma.cpp: the version that has to run the file, ``2025-10``, ``2026-04`` or ``latest``; what it
            can't run is refused. By default the file is for the oldest version that can run the model, and those since.
        tokenizer: For gemma.cpp, a ``tokenizer.model``, taken as it is, or a ``tokenizer.json``; by default the one
            beside the source, with the tokens that were added to it. A model whose tokenizer is BPE needs the latter.
        pad: For gemma.cpp: repeat the row of the token for padding until the vocabulary is a multiple of 32; if false,
            refuse such a checkpoint.
        strict: Refuse a checkpoint that `check` has a warning for, such as a NaN.
        adapters: LoRA adapters of peft, one or several, that are merged in this order: folders with
            ``adapter_config.json`` and ``adapter_model.safetensors`` (``.bin`` needs torch).
        files: By name, carry the checkpoint's other files, such as ``config.json`` and the tokenizer's: `export` into a
            folder writes them back.
        container: Version of the container, 1 or 2.
        index: Where the name index goes: ``embedded``, or ``external`` for the file ``output.idx``.
        digests: Keep the SHA-256 of each blob.
        max_shard_size: By name, the most bytes of a file, such as ``"5GB"``: where one isn't enough, files
            ``output-00001-of-00008.sbs`` and so on are written, and their index to ``output``, which opens them as one.
            A tensor that is larger has a file of its own. A set is also made where there are more tensors than a file
            for ``runtime`` holds.
        resume: Go on with a set that an earlier call didn't complete: its files are kept if they match their digests.
        progress: Called with the number of further bytes written.

    Raises:
        CheckpointError: It can't be converted; ``faults`` has everything that is wrong.
        MissingExtraError: ``missing-extra``: it is pickled, and torch isn't installed, or is older than 2.6; it has
            quantised tensors in a .gguf file, and the package gguf isn't installed; or a SentencePiece model has to be
            made or changed, which needs protobuf.
        UsageError: ``bad-choice`` for an unknown option; ``needless-flag`` for one that the conversion doesn't have;
            ``not-a-tokenizer``, ``i8-stock``, ``stock-only``, ``same-file``; ``bad-size``; ``no-set`` for an output
            that can't be one; ``set-exists``, ``other-set``: files are in the way, or are of another conversion; as
            `create`.
        FormatError, TruncatedError: A file of the source is wrong.
        RemoteError: A URL can't be reached, or was replaced while it was read (``remote-changed``).
        OSError: Reading or writing failed; the output is untouched.

    Example:
        >>> blobstore.convert("checkpoint", "converted.sbs", weights="bf16").runs_in[-1]
        'latest'
    """
    request = Request(
        source=path_text(source),
        output=target_of(output),
        kind=as_,
        weights=weights,
        layout=layout,
        wrapping=wrapping,
        runtime=runtime,
        tokenizer=optional_path(tokenizer),
        adapters=path_texts(adapters),
        pad=pad,
        files=files,
        container=container,
        index=index,
        digests=digests,
        max_shard_size=max_shard_size,
    )
    return convert_as(request, strict=strict, resume=resume, progress=progress)


def convert_as(
    request: Request,
    *,
    strict: bool,
    resume: bool,
    engine: Engine | None = None,
    progress: Progress = lambda _: None,
) -> Conversion:
    """Convert a checkpoint; errors as `convert`.

    Args:
        request: What is to be converted to what.
        strict: As for `convert`.
        resume: As for `convert`.
        engine: Writes the files of a set, which it has to be.
        progress: As for `convert`.
    """
    start = time.perf_counter()
    output, index = request.output, request.index
    with request.planned() as (plan, checkpoint):
        check_target(plan, checkpoint, output, room=not resume)
        # What is made as it is read is looked at as it is written, unless that would be too late.
        sources = unchecked_sources(plan, checkpoint, made=strict)
        findings = [*check_plan(plan, checkpoint.path, embedded=index == "embedded"), *check_values(sources)]
        refuse_plan(plan, findings, strict=strict, runtime=request.runtime)
        expect(progress, plan.nbytes)
        division = request.division(plan)
        kept = 0
        if division:
            run = write_with(engine, request, division, progress) if engine else None
            kept = write_set(plan, checkpoint, division, resume=resume, run=run, progress=progress)
        elif resume and request.max_shard_size is None:
            what = "only a set is gone on with, and this is one file"
            raise UsageError("needless-flag", f"--resume: {what}: leave it out, or choose --max-shard-size")
        elif engine:
            what = "the result is one file, which one machine writes"
            raise UsageError("not-a-set", f"{what}: choose --max-shard-size, or leave out --processes and --scheduler")
        else:
            odd = run_plan(
                plan,
                checkpoint,
                output,
                version=request.container,
                index=index,
                digests=request.digests,
                progress=progress,
            )
            findings += check_values(odd)
    path = output if isinstance(output, str) else None
    files_made = [*((path,) if path else ()), *(division.stores if division else ())]
    return Conversion(
        input=without_secrets(request.source),
        output=None if path is None else without_secrets(path),
        model=specifier_of(plan.config) if plan.config else None,
        runs_in=runs_in(findings) if plan.config else None,
        tensors=len(plan.tensors) + len(plan.extras),
        names=len(plan.tensors) + len(plan.extras) + len(plan.parts) + len(plan.aliases),
        aliases=tuple(plan.aliases),
        left_out=tuple(plan.left_out),
        carried=tuple(file.name for file in plan.files),
        notes=(
            *plan.lines,
            *_set(plan, division, kept, request.max_shard_size),
            *_readers(plan, index, division),
            *_warnings(findings),
        ),
        read=tuple(map(without_secrets, checkpoint.paths)),
        adapters=tuple(map(without_secrets, request.adapters)),
        stores=tuple(map(without_secrets, division.stores)) if division else (),
        kept=kept,
        nbytes=plan.nbytes if path is None else sum(map(file_size, files_made)),
        seconds=time.perf_counter() - start,
    )


def preview_conversion(
    source: str | PathLike[str],
    *,
    as_: ConversionKind = "auto",
    weights: str | None = None,
    layout: str | None = None,
    wrapping: str | None = None,
    runtime: str | None = None,
    tokenizer: str | PathLike[str] | None = None,
    pad: bool = True,
    strict: bool = False,
    adapters: Paths = (),
    files: bool = True,
    index: IndexPlace = "embedded",
    max_shard_size: int | str | None = None,
) -> ConversionPreview:
    """Return what `convert` would write, without writing it. Of the tensors only heads and some norms are read.

    Args:
        source: As for `convert`.
        as_: As for `convert`.
        weights: As for `convert`.
        layout: As for `convert`.
        wrapping: As for `convert`.
        runtime: As for `convert`.
        tokenizer: As for `convert`.
        pad: As for `convert`.
        strict: As for `convert`, but for warnings about values.
        adapters: As for `convert`; they are read to hash them.
        files: As for `convert`.
        index: As for `convert`.
        max_shard_size: As for `convert`.

    Raises:
        CheckpointError, UsageError, FormatError, TruncatedError, MissingExtraError, OSError: As for `convert`, but for
            values that the type can't hold, and for the output.

    Example:
        >>> preview = blobstore.preview_conversion("checkpoint", as_="names")
        >>> preview.model is None, preview.tensors[0].key == blobstore.key_for(preview.tensors[0].name)
        (True, True)
    """
    request = Request(
        source=path_text(source),
        output="out.sbs",
        kind=as_,
        weights=weights,
        layout=layout,
        wrapping=wrapping,
        runtime=runtime,
        tokenizer=optional_path(tokenizer),
        adapters=path_texts(adapters),
        pad=pad,
        files=files,
        index=index,
        max_shard_size=max_shard_size,
    )
    with request.planned() as (plan, checkpoint):
        findings = list(check_plan(plan, checkpoint.path, embedded=index == "embedded"))
        refuse_plan(plan, findings, strict=strict, runtime=runtime)
        division = request.division(plan)
    return ConversionPreview(
        input=without_secrets(request.source),
        model=specifier_of(plan.config) if plan.config else None,
        wrapping=plan.config.wrapping.name.lower() if plan.config else None,
        runs_in=runs_in(findings) if plan.config else None,
        tensors=tuple(map(_tensor, plan.tensors)),
        extras=tuple(map(_tensor, plan.extras)),
        parts=tuple(
            ConvertedPart(part.name, part.target, part.offset, part.type.name, part.shape) for part in plan.parts
        ),
        aliases=tuple(plan.aliases),
        metadata=plan.metadata,
        left_out=tuple(plan.left_out),
        carried=tuple(file.name for file in plan.files),
        notes=(*plan.lines, *_readers(plan, index, division), *_warnings(findings)),
        read=tuple(map(without_secrets, checkpoint.paths)),
        adapters=tuple(map(without_secrets, request.adapters)),
        stores=tuple(
            PlannedStore(len(part), sum(plan.tensors[place].nbytes for place in part))
            for part in (division.tensors if division else ())
        ),
        nbytes=plan.nbytes,
    )


def _readers(plan: Plan, index: str, division: Division | None) -> list[str]:
    """Return which readers open a file by name that has many blobs; of a model's the findings say it."""
    if plan.config:
        return []
    counts = (
        [len(part) + 1 for part in division.tensors] if division else [plan.blob_count(embedded=index == "embedded")]
    )
    return readers_notes(max(counts))


def _set(plan: Plan, division: Division | None, kept: int, max_shard_size: int | str | None) -> Iterator[str]:
    """Yield what should be known of a set, or of the file that is enough."""
    if division is None:
        if max_shard_size is not None:
            yield "one file is enough for all tensors"
        return
    first, last = (os.path.basename(division.stores[place]) for place in (0, -1))
    again = f", {kept} of them kept" if kept else ""
    yield f"a set of {len(division.stores)} files, {first} to {last}{again}"
    limit = None if max_shard_size is None else parse_size(max_shard_size)
    large = [tensor.name for tensor in plan.tensors if limit is not None and tensor.nbytes > limit]
    if large:
        names = listed([repr(name) for name in large], _SHOWN, ", ")
        yield f"{names}: larger than --max-shard-size, in files of their own"


def _warnings(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the problems that the file will have in gemma.cpp, and the versions that run it correctly."""
    for finding in findings:
        if finding.severity != "note":
            yield f"{finding.code}: {finding.subject}: {finding.message}: {finding.effect}"
    line = runtimes_line(findings)
    if line:
        yield f"the file {line}"


def _tensor(tensor: PlannedTensor) -> ConvertedTensor:
    pieces = dict.fromkeys(piece.source for piece in tensor.pieces if piece.source)
    sources = tuple(pieces) if tensor.pieces else (tensor.name,)
    return ConvertedTensor(tensor.name, tensor.key, tensor.type.name, tensor.shape, tensor.nbytes, sources)
