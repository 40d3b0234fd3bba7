"""Check a checkpoint before its conversion: the conversion's own checks, as findings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from blobstore.checking.config import check_config
from blobstore.checking.findings import Finding, finding, from_newer
from blobstore.checking.runtime import has_one_base, unpadded
from blobstore.checking.tensors import check_model, check_types
from blobstore.checking.tokenizer import check_tokens, no_tokenizer
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.converting.choose import choose_plan
from blobstore.converting.finite import not_finite
from blobstore.converting.run import measure_scales, unchecked_sources
from blobstore.errors import BlobStoreError, CheckpointError, Fault, without_secrets
from blobstore.gemma.enums import TokenizerKind
from blobstore.gemma.newer import newer_blobs
from blobstore.gemma.toc import toc_entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.checkpoint.tensors import SourceTensor
    from blobstore.converting.choices import Choices
    from blobstore.converting.plan import Plan
    from blobstore.fileio.types import Progress

_REFUSED = "blobstore convert refuses it"
_MESSAGE = "see the message"
_BY_NAME = f"{_MESSAGE}; or blobstore convert --as names, which keeps every tensor"


class Checked(NamedTuple):
    """What was found in a checkpoint, and the paths of the files that its tensors come from."""

    findings: list[Finding]
    read: list[str]


def check_checkpoint(
    path: str,
    kind: str,
    choices: Choices,
    *,
    tokenizer: str | None = None,
    adapters: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> Checked:
    """Find what keeps a checkpoint from being converted, and the notes of its conversion.

    All values of a model are read.

    Args:
        path: As `open_checkpoint` takes it.
        kind: As `choose_plan` takes it.
        choices: Of the conversion.
        tokenizer: As `choose_plan` takes it.
        adapters: That are merged.
        progress: Called with the number of further bytes of the new file checked.

    Raises:
        UsageError: ``needless-flag`` for a tokenizer that isn't used.
        OSError: A file can't be read.
    """
    findings: list[Finding] = []
    shown = without_secrets(path)
    read: list[str] = []
    try:
        with open_checkpoint(path, adapters=adapters) as checkpoint:
            read += checkpoint.paths
            plan = choose_plan(checkpoint, kind, choices, tokenizer=tokenizer)
            findings += [Finding("note", "conversion", shown, text, "none", "none needed") for text in plan.notes]
            findings += [finding(*told) for told in plan.told]
            findings += [finding(f"{item.kind}-left-out", item.name, item.why) for item in plan.left_out]
            findings += check_plan(plan, shown)
            findings += check_values(unchecked_sources(plan, checkpoint), progress)
            measure_scales(plan, checkpoint, progress)
            if plan.config is None:
                _make_all(checkpoint, progress)
    except CheckpointError as error:
        fix = _MESSAGE if kind == "names" or not error.faults else _BY_NAME
        findings += [_refusal(fault, fix) for fault in error.faults or [_fault_of(error, shown)]]
    except BlobStoreError as error:
        if error.reason == "needless-flag":
            raise
        findings.append(_refusal(_fault_of(error, shown), _MESSAGE))
    return Checked(findings, read)


def check_plan(plan: Plan, path: str, *, embedded: bool = True) -> Iterator[Finding]:
    """Yield what gemma.cpp can't load in the file that a plan makes; if by name, that it isn't a model.

    Args:
        plan: Of the conversion.
        path: Of its source.
        embedded: Whether the name index will be one of the blobs.
    """
    if plan.config is None:
        yield finding("by-name", path, f"converted by name: a container of {len(plan.tensors)} tensors, not a model")
    else:
        yield from from_newer(newer_blobs(plan.blob_count(embedded=embedded)))
        yield from check_config(plan.config, one_base=has_one_base(plan.metadata))
        toc = {
            tensor.key: toc_entry(tensor.key, tensor.type, tensor.shape[0], tensor.shape[1]) for tensor in plan.tensors
        }
        yield from check_types(toc.values())
        yield from check_model(plan.config, toc)
        if plan.tokenizer is None:
            name = "tokenizer.json" if plan.config.tokenizer_kind == TokenizerKind.BPE else "tokenizer.model"
            yield no_tokenizer(plan.config, f"there is no usable {name}: pass one with --tokenizer")
        else:
            yield from check_tokens(plan.tokenizer, plan.config, tokens=unpadded(plan.metadata, plan.config))


def check_values(sources: Iterable[SourceTensor], progress: Progress = lambda _: None) -> Iterator[Finding]:
    """Yield the tensors that have a NaN or an infinity, and that their new type keeps. All of their values are read.

    Args:
        sources: As `unchecked_sources` returns them.
        progress: Called with the number of further bytes looked at.
    """
    for found in not_finite(sources, progress):
        code = "not-a-number" if math.isnan(found.value) else "infinite"
        yield finding(code, found.name, found.message, severity="warning", fix="repair the checkpoint")


def _make_all(checkpoint: Checkpoint, progress: Progress) -> None:
    """Make all values of a conversion by name that are made as they are read, which may not be possible.

    Raises:
        CheckpointError, CodecError: As `SourceTensor.chunks`.
    """
    for tensor in checkpoint.tensors.values():
        if tensor.stored is None:
            for chunk in tensor.chunks():
                progress(chunk.nbytes)


def _fault_of(error: BlobStoreError, path: str) -> Fault:
    return Fault(error.reason, error.path or path, error.message)


def _refusal(fault: Fault, fix: str) -> Finding:
    return Finding("error", fault.reason, fault.name, fault.message, _REFUSED, fix)
