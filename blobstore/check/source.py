"""A checkpoint before its conversion: the conversion's own preflight, as findings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blobstore.check.findings import Finding
from blobstore.convert.checkpoint import open_checkpoint
from blobstore.convert.choose import choose_plan, has_chat_template, tokenizer_beside
from blobstore.convert.run import measure_scales
from blobstore.errors import BlobStoreError, CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blobstore.convert.gemma_plan import Choices

_REFUSED = "blobstore convert refuses it"


def check_checkpoint(
    path: str, kind: str, choices: Choices, *, progress: Callable[[int], None] = lambda _: None
) -> Iterator[Finding]:
    """Yield what keeps a checkpoint from being converted, and what its conversion would tell.

    All values are read where the chosen type can't hold every one.

    Args:
        path: As `open_checkpoint` takes it.
        kind: As `choose_plan` takes it.
        choices: Of the conversion.
        progress: Called with how many bytes more of the new file were looked at.

    Raises:
        OSError: A file can't be read.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    try:
        with open_checkpoint(path) as checkpoint:
            plan = choose_plan(
                checkpoint,
                kind,
                choices,
                tokenizer=tokenizer_beside(folder, None),
                chat_template=has_chat_template(folder),
            )
            for text in plan.notes:
                yield Finding("note", "conversion", path, text, "none", "none needed")
            measure_scales(plan, checkpoint, progress)
    except CheckpointError as error:
        for reason, name, message in error.faults or [(error.reason, error.path or path, error.message)]:
            yield _refusal(reason, name, message)
    except BlobStoreError as error:
        yield _refusal(error.reason, error.path or path, error.message)


def _refusal(reason: str, name: str, message: str) -> Finding:
    return Finding("error", reason, name, message, _REFUSED, "see the message")
