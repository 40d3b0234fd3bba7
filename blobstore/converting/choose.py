"""Which conversion a checkpoint gets: for gemma.cpp, or by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checkpoint.tokenizer_files import has_chat_template, stored_tokenizer, tokenizer_beside
from blobstore.converting.gemma_families import family_of, is_headless, tokenizer_kind_of
from blobstore.converting.gemma_plan import is_gemma, looks_like_gemma, plan_for_gemma
from blobstore.converting.plan import Plan, plan_by_name
from blobstore.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.converting.choices import Choices

_HEADLESS = "the model was saved without its output head, as embedding models are"


def choose_plan(
    checkpoint: Checkpoint,
    kind: str,
    choices: Choices,
    *,
    tokenizer: str | None = None,
    tokenizer_of_file: bytes | None = None,
    files: bool = True,
) -> Plan:
    """Plan a conversion.

    Args:
        checkpoint: Open.
        kind: ``gemma`` for gemma.cpp, ``names`` by name; ``auto`` for gemma.cpp when it is a Gemma's or a Qwen3's.
        choices: For gemma.cpp.
        tokenizer: Path of a ``tokenizer.model`` or ``tokenizer.json``, by default one beside the checkpoint. It is read
            only for gemma.cpp: files by name have none.
        tokenizer_of_file: Of a file for gemma.cpp: taken where there is no other.
        files: As `plan_by_name` takes it; files for gemma.cpp carry none.

    Raises:
        CheckpointError: It can't be converted; the message says everything that is wrong. ``adapter`` for LoRA
            adapters; as `plan_for_gemma` and `plan_by_name`.
        MissingExtraError: ``missing-extra``: the tokenizer has to be made or changed, which needs protobuf.
        UsageError: ``not-a-tokenizer``; ``needless-flag`` for a tokenizer that isn't used.
        OSError: The tokenizer can't be read.
    """
    if kind == "gemma" or (kind == "auto" and (is_gemma(checkpoint) or looks_like_gemma(checkpoint))):
        tokenizer_kind = tokenizer_kind_of(checkpoint.config)
        found = tokenizer_beside(checkpoint, tokenizer, tokenizer_kind)
        if found is None and tokenizer_of_file is not None:
            found = stored_tokenizer(tokenizer_of_file, tokenizer_kind)
        template = has_chat_template(checkpoint)
        plan = plan_for_gemma(checkpoint, choices, tokenizer=found, chat_template=template)
    else:
        if kind == "auto" and any(".lora_" in name for name in checkpoint.tensors):
            base = f"blobstore convert BASE --adapter {checkpoint.folder or '.'}"
            raise CheckpointError("adapter", f"these are LoRA adapters: {base}; --as names keeps them as they are")
        if tokenizer is not None:
            raise needless_flags(["tokenizer"], checkpoint.path)
        plan = plan_by_name(checkpoint, files=files)
        family, _ = family_of(checkpoint.config)
        if kind == "auto" and family is not None and is_headless(family, checkpoint.tensors):
            plan.notes.append(f"{_HEADLESS}: converted by name; --as gemma makes a model that generates text")
    plan.left_out += checkpoint.files_left_out()  # known only now: planning reads some
    return plan


def needless_flags(names: Iterable[str], path: str) -> UsageError:
    """Return the error for options that only a conversion for gemma.cpp has."""
    flags = ", ".join(f"--{name}" for name in names)
    what = f"{flags}: {path!r} is converted by name, every tensor unchanged"
    return UsageError("needless-flag", f"{what}: leave it out, or ask for a file for gemma.cpp")
