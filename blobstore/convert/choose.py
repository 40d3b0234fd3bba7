"""Which conversion a checkpoint gets: for gemma.cpp, or by name."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from blobstore.container.layout import MAX_PORTABLE_BLOBS
from blobstore.convert.gemma_plan import Choices, is_gemma, looks_like_gemma, plan_for_gemma
from blobstore.convert.plan import Plan, plan_by_name
from blobstore.errors import BlobStoreError, CheckpointError, FormatError, UsageError
from blobstore.fileio.source import read_whole
from blobstore.gemma.tokenizer import count_pieces

if TYPE_CHECKING:
    from blobstore.checkpoint.reader import Checkpoint

KINDS = ("auto", "gemma", "names")
TOKENIZER = "tokenizer.model"
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def choose_plan(
    checkpoint: Checkpoint,
    kind: str,
    choices: Choices,
    *,
    tokenizer: bytes | None,
    chat_template: bool,
    room: int = MAX_PORTABLE_BLOBS - 1,
) -> Plan:
    """Plan a conversion: of a Gemma checkpoint for gemma.cpp, of any other by name; or as ``kind`` says.

    Raises:
        CheckpointError: It can't be converted so; the message says all that is wrong.
    """
    if kind == "gemma" or (kind == "auto" and (is_gemma(checkpoint) or looks_like_gemma(checkpoint))):
        return plan_for_gemma(checkpoint, choices, tokenizer=tokenizer, chat_template=chat_template)
    if kind == "auto" and any(".lora_" in name for name in checkpoint.tensors):
        what = "these are LoRA adapters: merge them into the model first (merge_and_unload); --as names keeps them"
        raise CheckpointError("adapter", what)
    return plan_by_name(checkpoint, room=room)


def tokenizer_beside(checkpoint: Checkpoint, given: str | None) -> bytes | None:
    """Return the bytes of the tokenizer that was given, or of the checkpoint's own, and count it among its files.

    Raises:
        UsageError: ``not-a-tokenizer`` when it is no SentencePiece model.
        OSError: What was given can't be read.
    """
    path = given or os.path.join(checkpoint.folder, TOKENIZER)
    if given is None and not os.path.lexists(path):
        return None
    checkpoint.note_read(path)
    raw = bytes(read_whole(path))
    try:
        count_pieces(raw)
    except FormatError as error:
        what = f"{path!r}: {error.message}; gemma.cpp wants tokenizer.model, not tokenizer.json"
        raise UsageError("not-a-tokenizer", what) from None
    return raw


def has_chat_template(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint's folder has a chat template, which instruction-tuned models come with."""
    folder = checkpoint.folder
    templates = [os.path.join(folder, name) for name in _TEMPLATES if os.path.exists(os.path.join(folder, name))]
    for one in templates:
        checkpoint.note_read(one)
    if templates:
        return True
    path = os.path.join(folder, "tokenizer_config.json")
    if not os.path.lexists(path):
        return False
    checkpoint.note_read(path)
    try:
        said = json.loads(bytes(read_whole(path)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BlobStoreError):
            raise
        return False
    return isinstance(said, dict) and bool(said.get("chat_template"))
