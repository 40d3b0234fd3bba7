"""The families as data: what config.json calls them, which models they have, and what is particular to each.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blobstore.checkpoint.gguf.hf import GGUF_MODEL
from blobstore.converting.hf_tensors import HEADLESS, head_in, text_prefix_in
from blobstore.converting.hf_values import KEEPS_ALL, short
from blobstore.errors import Fault
from blobstore.gemma.enums import Model, TokenizerKind
from blobstore.gemma.families.gemma2 import PALIGEMMA_IMAGES
from blobstore.gemma.families.qwen3 import QWEN3

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

GEMMA_PAD = ("<pad>", 0)
_READ = "what gemma.cpp needs of {} was read in its source, not run"


@dataclass(frozen=True)
class Family:
    """What is particular to a family; the defaults are those of most.

    Attributes:
        models: The published ones that are converted.
        label: The number of a model whose dimensions no published one has: one under which each runtime that runs the
            family computes correctly.
        model_types: What config.json calls it; none for a family that its tensors tell apart.
        one_base_label: `label` where all layers have one RoPE base; None for the same.
        head_label: `label` where the output head is not the embedding; None in a family without such models.
        text_only: The family of the text part alone; None without a vision part.
        is_late: Whether only runtimes of 2026 run it. Its files have every field of the config, both RoPE bases too.
        stock_only: What it is called, if it has no split layout.
        generator: Its only class that generates text: where ``architectures`` names another, it is converted by name.
        tokenizer: The kind that the runtime needs.
        pad: The token that vocabularies are padded with, which models don't produce, and its row in published models.
        caveat: What is not known of it in gemma.cpp.
    """

    models: tuple[Model, ...]
    label: Model
    model_types: tuple[str, ...] = ()
    one_base_label: Model | None = None
    head_label: Model | None = None
    text_only: str | None = None
    is_late: bool = False
    stock_only: str = ""
    generator: str = ""
    tokenizer: TokenizerKind = TokenizerKind.SENTENCE_PIECE
    pad: tuple[str, int] = GEMMA_PAD
    caveat: str = ""


_GEMMA3_LARGE = (Model.GEMMA3_4B, Model.GEMMA3_12B, Model.GEMMA3_27B)
FAMILIES = {
    "gemma2": Family((Model.GEMMA2_2B, Model.GEMMA2_9B, Model.GEMMA2_27B), Model.GEMMA2_2B, model_types=("gemma2",)),
    "gemma3": Family(
        (Model.GEMMA3_270M, Model.GEMMA3_1B, *_GEMMA3_LARGE),
        # 2025-10 takes the RoPE base of global layers from the label: 1e6 for all but 270M.
        Model.GEMMA3_1B,
        model_types=("gemma3_text",),
        one_base_label=Model.GEMMA3_270M,
    ),
    "gemma3-vision": Family(_GEMMA3_LARGE, Model.GEMMA3_4B, model_types=("gemma3",), text_only="gemma3"),
    "paligemma2": Family(
        tuple(PALIGEMMA_IMAGES), Model.PALIGEMMA2_3B_224, model_types=("paligemma",), text_only="gemma2"
    ),
    "gemma4": Family(
        (Model.GEMMA4_2B_LM, Model.GEMMA4_E4B_LM),
        Model.GEMMA4_2B_LM,
        model_types=("gemma4", "gemma4_text"),
        is_late=True,
        caveat=_READ.format("Gemma 4"),
    ),
    "gemma4-experts": Family(
        (Model.GEMMA4_26B_MOE,), Model.GEMMA4_26B_MOE, is_late=True, caveat=_READ.format("Gemma 4")
    ),
    "t5gemma": Family(
        (Model.T5GEMMA_S_S,),
        Model.T5GEMMA_S_S,
        model_types=("t5gemma",),
        is_late=True,
        stock_only="T5Gemma",
        caveat=_READ.format("T5Gemma"),
    ),
    "qwen3": Family(
        tuple(QWEN3),
        Model.QWEN3_4B,
        model_types=("qwen3",),
        head_label=Model.QWEN3_2B,
        is_late=True,
        generator="Qwen3ForCausalLM",
        tokenizer=TokenizerKind.BPE,
        pad=("<|fim_pad|>", 151662),
        caveat=f"{_READ.format('Qwen3')}: how it scales the embedding, and whether it begins and"
        " wraps prompts as Qwen3 expects, is not established; compare its answers with transformers'",
    ),
}
_OF_TYPE = {model_type: name for name, family in FAMILIES.items() for model_type in family.model_types}
# The beginning of model_type → the name of a model that gemma.cpp doesn't run.
_UNSUPPORTED = {
    "gemma": "Gemma 1, or another model of its architecture",
    "recurrent_gemma": "RecurrentGemma",
    "gemma3n": "Gemma 3n",
    "gemma4": "another kind of Gemma 4",
    "t5gemma": "T5Gemma",
    "t5gemma2": "T5Gemma 2",
    "t5_gemma_module": "an encoder or a decoder of T5Gemma alone",
    "shieldgemma2": "ShieldGemma 2",
    "vaultgemma": "VaultGemma",
}
_BIDIRECTIONAL = "use_bidirectional_attention"


def family_of(config: Mapping[str, Any]) -> tuple[str | None, Fault | None]:
    """Return the family that a ``config.json`` names, or None; and a fault when it is one that can't be converted."""
    model_type = config.get("model_type")
    text = config.get("text_config")
    text_type = text.get("model_type") if isinstance(text, dict) else None
    if model_type == "paligemma" and text_type in (None, "gemma"):
        return None, _not_run("PaliGemma 1", "use PaliGemma 2, or keep every tensor with --as names")
    if not isinstance(model_type, str):
        return None, None
    if model_type == "gemma3_text" and config.get(_BIDIRECTIONAL) is True:
        what = "config.json says True, as EmbeddingGemma's does: no gemma.cpp has bidirectional attention for text"
        return None, Fault("unsupported-model", _BIDIRECTIONAL, f"{what}; {KEEPS_ALL}")
    if model_type in _OF_TYPE:
        return (None if why_by_name(config) else _OF_TYPE[model_type]), None
    return None, _unsupported(model_type)


def _unsupported(model_type: str) -> Fault | None:
    """Return the fault of a Gemma that isn't converted for gemma.cpp; None for any other model."""
    name = model_type.removeprefix(GGUF_MODEL)
    if name in _OF_TYPE:
        what = (
            f"this is a GGUF file of {name!r}, with names that are not known here: convert its Hugging Face checkpoint"
        )
        return Fault("unsupported-model", "general.architecture", f"{what}; {KEEPS_ALL}")
    return _not_run(f"{_unsupported_name(name)} ({name!r})") if "gemma" in name else None


def why_by_name(config: Mapping[str, Any]) -> Fault | None:
    """Return why a model that is converted by name is none for gemma.cpp, though close to one; None for others."""
    model_type, classes = config.get("model_type"), config.get("architectures")
    if not isinstance(model_type, str) or not model_type.startswith("qwen"):
        return None
    if model_type not in _OF_TYPE:
        what = "of Qwen, gemma.cpp runs only dense text models of the third generation, 'qwen3'"
        return Fault("unsupported-model", "model_type", f"config.json says {short(model_type)}; {what}: {KEEPS_ALL}")
    wanted = FAMILIES[_OF_TYPE[model_type]].generator
    if isinstance(classes, list) and classes and wanted not in classes:
        what = f"config.json says {short(classes)}; gemma.cpp runs only {wanted}"
        return Fault("unsupported-model", "architectures", f"{what}: {KEEPS_ALL}")
    return None


def is_headless(family: str, names: Container[str]) -> bool:
    """Whether a checkpoint was saved without its head, as embedding models of a family that has heads are."""
    if FAMILIES[family].head_label is None or head_in(names) is not None:
        return False
    return text_prefix_in(names) in HEADLESS


def tokenizer_kind_of(config: Mapping[str, Any]) -> TokenizerKind:
    """Return the kind of tokenizer that the runtime needs for the family that a ``config.json`` names."""
    family, _ = family_of(config)
    return TokenizerKind.SENTENCE_PIECE if family is None else FAMILIES[family].tokenizer


def _not_run(name: str, fix: str = KEEPS_ALL) -> Fault:
    return Fault("unsupported-model", "model_type", f"this is {name}, which gemma.cpp doesn't run: {fix}")


def _unsupported_name(model_type: str) -> str:
    known = max((name for name in _UNSUPPORTED if model_type.startswith(name)), key=len, default="")
    if known == "gemma" and model_type != "gemma":
        return model_type  # a model that is newer than this list
    return _UNSUPPORTED.get(known, model_type)
