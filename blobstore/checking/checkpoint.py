"""Check a checkpoint before its conversion: the conversion's own checks, as findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checking.config import check_config
from blobstore.checking.findings import Finding, finding
from blobstore.checking.runtime import has_one_base
from blobstore.checking.tensors import check_model
from blobstore.checking.tokenizer import check_sentencepiece
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.converting.choose import choose_plan
from blobstore.converting.run import measure_scales
from blobstore.errors import BlobStoreError, CheckpointError, Fault
from blobstore.gemma.toc import toc_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.converting.gemma_plan import Choices
    from blobstore.converting.plan import Plan
    from blobstore.fileio.types import Progress

_REFUSED = "blobstore convert refuses it"


def check_checkpoint(
    path: str, kind: str, choices: Choices, *, read: list[str] | None = None, progress: Progress = lambda _: None
) -> Iterator[Finding]:
    """Yield what keeps a checkpoint from being converted, and the notes of its conversion.

    All values are read if the chosen type can't hold every one.

    Args:
        path: As `open_checkpoint` takes it.
        kind: As `choose_plan` takes it.
        choices: Of the conversion.
        read: A list that gets the paths of the files that tensors come from.
        progress: Called with the number of further bytes of the new file checked.

    Raises:
        OSError: A file can't be read.
    """
    try:
        with open_checkpoint(path) as checkpoint:
            if read is not None:
                read += checkpoint.paths
            plan = choose_plan(checkpoint, kind, choices)
            for text in plan.lines:
                yield Finding("note", "conversion", path, text, "none", "none needed")
            yield from check_plan(plan, path)
            measure_scales(plan, checkpoint, progress)
    except CheckpointError as error:
        for fault in error.faults or [_fault_of(error, path)]:
            yield _refusal(fault)
    except BlobStoreError as error:
        yield _refusal(_fault_of(error, path))


def check_plan(plan: Plan, path: str) -> Iterator[Finding]:
    """Yield what gemma.cpp can't load in the file that a plan makes of a path; if by name, that it isn't a model."""
    if plan.config is None:
        yield finding("by-name", path, f"converted by name: a container of {len(plan.tensors)} tensors, not a model")
    else:
        yield from check_config(plan.config, one_base=has_one_base(plan.metadata))
        toc = {
            tensor.key: toc_entry(tensor.key, tensor.type, tensor.shape[0], tensor.shape[1]) for tensor in plan.tensors
        }
        yield from check_model(plan.config, toc)
        if plan.tokenizer is not None:
            yield from check_sentencepiece(plan.tokenizer, plan.config)


def _fault_of(error: BlobStoreError, path: str) -> Fault:
    return Fault(error.reason, error.path or path, error.message)


def _refusal(fault: Fault) -> Finding:
    return Finding("error", fault.reason, fault.name, fault.message, _REFUSED, "see the message")
