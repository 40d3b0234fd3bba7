"""Convert a checkpoint, and say what gemma.cpp makes of the new file: planned, checked, then written."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blobstore.checking.checkpoint import check_plan, check_values
from blobstore.checking.findings import runs_in, runtimes_line
from blobstore.checking.refusal import refuse_plan
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.container.layout import MAX_BLOBS
from blobstore.converting.choices import LAYOUTS, WEIGHTS, Choices
from blobstore.converting.choose import KINDS, choose_plan, needless_flags
from blobstore.converting.run import check_target, run_plan, unchecked_sources
from blobstore.errors import UsageError, without_secrets
from blobstore.fileio.paths import optional_path, path_text, path_texts, target_of
from blobstore.fileio.places import file_size
from blobstore.fileio.ranges import expect
from blobstore.gemma.models import specifier_of
from blobstore.gemma.newer import readers_notes
from blobstore.gemma.runtimes import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike
    from typing import BinaryIO

    from blobstore.checking.findings import Finding
    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.checkpoint.told import LeftOut
    from blobstore.converting.plan import Plan, PlannedAlias, PlannedTensor
    from blobstore.fileio.types import Paths, Progress
    from blobstore.index.locate import IndexPlace

ConversionKind = Literal["auto", "gemma", "names"]
_CHOICES = {"weights": WEIGHTS, "layout": LAYOUTS, "wrapping": ("it", "pt"), "runtime": NAMES}


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
        nbytes: Size of the new file; for a stream, of its tensors.
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
        progress: Called with the number of further bytes written.

    Raises:
        CheckpointError: It can't be converted; ``faults`` has everything that is wrong.
        MissingExtraError: ``missing-extra``: it is pickled, and torch isn't installed, or is older than 2.6; it has
            quantised tensors in a .gguf file, and the package gguf isn't installed; or a SentencePiece model has to be
            made or changed, which needs protobuf.
        UsageError: ``bad-choice`` for an unknown option; ``needless-flag`` for one that the conversion doesn't have;
            ``not-a-tokenizer``, ``i8-stock``, ``stock-only``, ``same-file``; as `create`.
        FormatError, TruncatedError: A file of the source is wrong.
        RemoteError: A URL can't be reached, or was replaced while it was read (``remote-changed``).
        OSError: Reading or writing failed; the output is untouched.

    Example:
        >>> blobstore.convert("checkpoint", "converted.sbs", weights="bf16").runs_in[-1]
        'latest'
    """
    source, output, tokenizer = path_text(source), target_of(output), optional_path(tokenizer)
    given = path_texts(adapters)
    start = time.perf_counter()
    choices = {"weights": weights, "layout": layout, "wrapping": wrapping, "runtime": runtime}
    with _planned(source, as_, choices, tokenizer, given, index=index, pad=pad, files=files) as (plan, checkpoint):
        check_target(plan, checkpoint, output)
        # What is made as it is read is looked at as it is written, unless that would be too late.
        sources = unchecked_sources(plan, checkpoint, made=strict)
        findings = [*check_plan(plan, checkpoint.path, embedded=index == "embedded"), *check_values(sources)]
        refuse_plan(plan, findings, strict=strict, runtime=runtime)
        expect(progress, plan.nbytes)
        odd = run_plan(plan, checkpoint, output, version=container, index=index, digests=digests, progress=progress)
        findings += check_values(odd)
    path = output if isinstance(output, str) else None
    return Conversion(
        input=without_secrets(source),
        output=None if path is None else without_secrets(path),
        model=specifier_of(plan.config) if plan.config else None,
        runs_in=runs_in(findings) if plan.config else None,
        tensors=len(plan.tensors) + len(plan.extras),
        names=len(plan.tensors) + len(plan.extras) + len(plan.parts) + len(plan.aliases),
        aliases=tuple(plan.aliases),
        left_out=tuple(plan.left_out),
        carried=tuple(file.name for file in plan.files),
        notes=(*plan.lines, *_readers(plan, index), *_warnings(findings)),
        read=tuple(map(without_secrets, checkpoint.paths)),
        adapters=tuple(map(without_secrets, given)),
        nbytes=plan.nbytes if path is None else file_size(path),
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

    Raises:
        CheckpointError, UsageError, FormatError, TruncatedError, MissingExtraError, OSError: As for `convert`, but for
            values that the type can't hold, and for the output.

    Example:
        >>> preview = blobstore.preview_conversion("checkpoint", as_="names")
        >>> preview.model is None, preview.tensors[0].key == blobstore.key_for(preview.tensors[0].name)
        (True, True)
    """
    source, tokenizer, given = path_text(source), optional_path(tokenizer), path_texts(adapters)
    choices = {"weights": weights, "layout": layout, "wrapping": wrapping, "runtime": runtime}
    with _planned(source, as_, choices, tokenizer, given, index=index, pad=pad, files=files) as (plan, checkpoint):
        findings = list(check_plan(plan, checkpoint.path, embedded=index == "embedded"))
        refuse_plan(plan, findings, strict=strict, runtime=runtime)
    return ConversionPreview(
        input=without_secrets(source),
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
        notes=(*plan.lines, *_readers(plan, index), *_warnings(findings)),
        read=tuple(map(without_secrets, checkpoint.paths)),
        adapters=tuple(map(without_secrets, given)),
        nbytes=plan.nbytes,
    )


@contextmanager
def _planned(
    source: str,
    kind: str,
    chosen: dict[str, str | None],
    tokenizer: str | None,
    adapters: tuple[str, ...],
    *,
    index: str,
    pad: bool,
    files: bool,
) -> Iterator[tuple[Plan, Checkpoint]]:
    """Plan a conversion → the plan and the open checkpoint."""
    _check("as", kind, KINDS)
    for name, value in chosen.items():
        _check(name, value, _CHOICES[name])
    _check("index", index, ("embedded", "external"))
    choices = Choices(
        chosen["weights"] or "sfp",
        chosen["layout"],
        chosen["wrapping"],
        pad=pad,
        runtime=chosen["runtime"],
    )
    with open_checkpoint(source, adapters=adapters) as checkpoint:
        plan = choose_plan(
            checkpoint,
            kind,
            choices,
            tokenizer=tokenizer,
            max_tensors=MAX_BLOBS - (index == "embedded"),
            files=files,
        )
        given = [name for name, value in chosen.items() if value is not None] + ["no-pad"] * (not pad)
        if given and plan.config is None:
            raise needless_flags(given, source)
        choices.refuse_unusable()  # not before it is known that the model has another layout
        if not files and plan.config is not None:
            what = "--no-files: a file for gemma.cpp carries no files of the checkpoint"
            raise UsageError("needless-flag", f"{what}: leave it out, or --as names")
        yield plan, checkpoint


def _check(name: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        raise UsageError("bad-choice", f"{name}: {value!r} is not one of {', '.join(allowed)}")


def _readers(plan: Plan, index: str) -> list[str]:
    """Return which readers open a file by name that has many blobs; of a model's the findings say it."""
    return [] if plan.config else readers_notes(plan.blob_count(embedded=index == "embedded"))


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
