"""Which conversion a checkpoint gets: for gemma.cpp, or by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.container.layout import MAX_PORTABLE_BLOBS
from blobstore.converting.gemma_plan import Choices, is_gemma, looks_like_gemma, plan_for_gemma
from blobstore.converting.plan import Plan, plan_by_name
from blobstore.errors import CheckpointError

if TYPE_CHECKING:
    from blobstore.checkpoint.reader import Checkpoint

KINDS = ("auto", "gemma", "names")


def choose_plan(
    checkpoint: Checkpoint,
    kind: str,
    choices: Choices,
    *,
    tokenizer: bytes | None,
    chat_template: bool,
    max_tensors: int = MAX_PORTABLE_BLOBS - 1,
) -> Plan:
    """Plan a conversion.

    Args:
        checkpoint: Open.
        kind: ``gemma`` for gemma.cpp, ``names`` by name; ``auto`` for gemma.cpp when it is a Gemma checkpoint.
        choices: For gemma.cpp.
        tokenizer: As `plan_for_gemma` takes it.
        chat_template: As `plan_for_gemma` takes it.
        max_tensors: As `plan_by_name` takes it.

    Raises:
        CheckpointError: It can't be converted; the message says everything that is wrong. ``adapter`` for LoRA
            adapters; as `plan_for_gemma` and `plan_by_name`.
    """
    if kind == "gemma" or (kind == "auto" and (is_gemma(checkpoint) or looks_like_gemma(checkpoint))):
        return plan_for_gemma(checkpoint, choices, tokenizer=tokenizer, chat_template=chat_template)
    if kind == "auto" and any(".lora_" in name for name in checkpoint.tensors):
        what = "these are LoRA adapters: merge them into the model first (merge_and_unload); --as names keeps them"
        raise CheckpointError("adapter", what)
    return plan_by_name(checkpoint, max_tensors=max_tensors)
