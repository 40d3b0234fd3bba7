"""The families as data: what Hugging Face checkpoints call them and their tensors, and which models they have.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from blobstore.checkpoint.gguf.hf import GGUF_MODEL
from blobstore.converting.hf_values import short
from blobstore.errors import Fault
from blobstore.gemma.enums import Model, TokenizerKind
from blobstore.gemma.families.gemma2 import PALIGEMMA_IMAGES
from blobstore.gemma.families.qwen3 import QWEN3
from blobstore.index.names import MAX_LAYER

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    Shapes = Mapping[str, tuple[int, ...]]

# How exporters begin the names of a part's tensors: the first prefix that a checkpoint has is its own.
TEXT_PREFIXES = (
    "model.language_model.",
    "language_model.model.",
    "model.",
    "language_model.",  # models without a head, as AutoModel saves them
    "",
)
VISION_PREFIXES = (
    "model.vision_tower.vision_model.",
    "vision_tower.vision_model.",
    "model.vision_tower.",  # transformers 5
    "vision_tower.",
)
PROJECTOR_PREFIXES = ("model.multi_modal_projector.", "multi_modal_projector.")
HEADS = ("lm_head.weight", "language_model.lm_head.weight")
T5GEMMA_HEAD = "lm_head.out_proj.weight"
# The prefixes of an encoder and of a decoder, the second pair in models without a head, as AutoModel saves them.
T5GEMMA_PREFIXES = (("model.encoder.", "model.decoder."), ("encoder.", "decoder."))
# Tensors that the runtime doesn't need: how their names end → why.
UNUSED = {
    "rotary_emb.inv_freq": "gemma.cpp computes RoPE's frequencies itself",
    "rotary_emb_local.inv_freq": "gemma.cpp computes RoPE's frequencies itself",
    "position_ids": "gemma.cpp counts positions itself",
}
_VISION_HEAD = "head."  # behind the vision part's prefix
_WHY_VISION_HEAD = "the vision part's own head, which no Gemma uses"
MAX_HEADS = 1024  # far more than any model has: a plan has pieces for each, and a header can claim any number
MAX_LAYERS = MAX_LAYER + 1
SPARE_ROWS = 64  # rows that exporters append to the embedding of models with a vision part

HEADLESS = ("language_model.", "")  # of the prefixes of a text part: models saved without a head

GEMMA3 = ("gemma3", "gemma3-vision")
GEMMA4 = ("gemma4", "gemma4-experts")
WITH_VISION = ("gemma3-vision", "paligemma2")
WITHOUT_VISION = {"gemma3-vision": "gemma3", "paligemma2": "gemma2"}  # the family of the text part alone
# Each family's published models.
_GEMMA3_LARGE = (Model.GEMMA3_4B, Model.GEMMA3_12B, Model.GEMMA3_27B)
MODELS: dict[str, tuple[Model, ...]] = {
    "gemma2": (Model.GEMMA2_2B, Model.GEMMA2_9B, Model.GEMMA2_27B),
    "gemma3": (Model.GEMMA3_270M, Model.GEMMA3_1B, *_GEMMA3_LARGE),
    "gemma3-vision": _GEMMA3_LARGE,
    "paligemma2": tuple(PALIGEMMA_IMAGES),
    "t5gemma": (Model.T5GEMMA_S_S,),
    "qwen3": tuple(QWEN3),
}
# The label of a checkpoint whose dimensions no published model has: one under which every runtime computes correctly.
# 2025-10 takes the RoPE base of global layers from the label: 1e6 for all but 270M.
LABELS = {
    "gemma2": Model.GEMMA2_2B,
    "gemma3": Model.GEMMA3_1B,
    "gemma3-vision": Model.GEMMA3_4B,
    "paligemma2": Model.PALIGEMMA2_3B_224,
    "t5gemma": Model.T5GEMMA_S_S,
    "qwen3": Model.QWEN3_4B,  # without a head of its own
}
STOCK_ONLY = {"t5gemma": "T5Gemma"}  # families without a split layout, and what they are called
ONE_BASE_LABELS = LABELS | {"gemma3": Model.GEMMA3_270M}
# Families whose models may have an output head of their own: the label of those that need one.
HEAD_LABELS = {"qwen3": Model.QWEN3_2B}
# Families of later runtimes, whose files have both RoPE bases and every field.
LATER = ("qwen3",)
# What is not known of a family in gemma.cpp.
CAVEATS = {
    "qwen3": "what gemma.cpp needs of Qwen3 was read in its source, not run: how it scales the embedding, and whether"
    " it begins and wraps prompts as Qwen3 expects, is not established; compare its answers with transformers'",
}

TOKENIZERS = {"qwen3": TokenizerKind.BPE}  # of families whose tokenizer isn't SentencePiece

# model_type of config.json → the family.
_FAMILIES = {
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gemma3": "gemma3-vision",
    "paligemma": "paligemma2",
    "gemma4": "gemma4",
    "gemma4_text": "gemma4",
    "t5gemma": "t5gemma",
    "qwen3": "qwen3",
}
# The only class of these families that generates text; where `architectures` names another, it is converted by name.
_GENERATORS = {"qwen3": "Qwen3ForCausalLM"}
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
_BY_NAME = "--as names keeps every tensor"
_LAYER = re.compile(r"layers\.([0-9]{1,9})\.")


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
        return None, Fault("unsupported-model", _BIDIRECTIONAL, f"{what}; {_BY_NAME}")
    if model_type in _FAMILIES:
        return (None if why_by_name(config) else _FAMILIES[model_type]), None
    return None, _unsupported(model_type)


def _unsupported(model_type: str) -> Fault | None:
    """Return the fault of a Gemma that isn't converted for gemma.cpp; None for any other model."""
    name = model_type.removeprefix(GGUF_MODEL)
    if name in _FAMILIES:
        what = (
            f"this is a GGUF file of {name!r}, with names that are not known here: convert its Hugging Face checkpoint"
        )
        return Fault("unsupported-model", "general.architecture", f"{what}; {_BY_NAME}")
    return _not_run(f"{_unsupported_name(name)} ({name!r})") if "gemma" in name else None


def why_by_name(config: Mapping[str, Any]) -> Fault | None:
    """Return why a model that is converted by name is none for gemma.cpp, though close to one; None for others."""
    model_type, classes = config.get("model_type"), config.get("architectures")
    if not isinstance(model_type, str) or not model_type.startswith("qwen"):
        return None
    wanted = _GENERATORS.get(model_type)
    if wanted is None:
        what = "of Qwen, gemma.cpp runs only dense text models of the third generation, 'qwen3'"
        return Fault("unsupported-model", "model_type", f"config.json says {short(model_type)}; {what}: {_BY_NAME}")
    if isinstance(classes, list) and classes and wanted not in classes:
        what = f"config.json says {short(classes)}; gemma.cpp runs only {wanted}"
        return Fault("unsupported-model", "architectures", f"{what}: {_BY_NAME}")
    return None


def is_headless(family: str, names: Container[str]) -> bool:
    """Whether a checkpoint was saved without its head, as embedding models of a family that has heads are."""
    if family not in HEAD_LABELS or any(head in names for head in HEADS):
        return False
    return next((prefix for prefix in TEXT_PREFIXES if embedding_of(prefix) in names), None) in HEADLESS


def tokenizer_kind_of(config: Mapping[str, Any]) -> TokenizerKind:
    """Return the kind of tokenizer that the runtime needs for the family that a ``config.json`` names."""
    family, _ = family_of(config)
    return TOKENIZERS.get(family or "", TokenizerKind.SENTENCE_PIECE)


def _not_run(name: str, fix: str = _BY_NAME) -> Fault:
    return Fault("unsupported-model", "model_type", f"this is {name}, which gemma.cpp doesn't run: {fix}")


def _unsupported_name(model_type: str) -> str:
    known = max((name for name in _UNSUPPORTED if model_type.startswith(name)), key=len, default="")
    if known == "gemma" and model_type != "gemma":
        return model_type  # a model that is newer than this list
    return _UNSUPPORTED.get(known, model_type)


def has_vision(names: Iterable[str]) -> bool:
    """Whether any tensor is of a vision part, or of the projector behind it."""
    return any(name.startswith((*VISION_PREFIXES, *PROJECTOR_PREFIXES)) for name in names)


def why_unused(name: str, vision: str) -> str:
    """Return why the runtime doesn't need a tensor; empty for one that is not known to be needless.

    Args:
        name: The tensor's.
        vision: Prefix of the vision part's tensors; empty without one.
    """
    if vision and name.startswith(vision + _VISION_HEAD):
        return _WHY_VISION_HEAD
    return next((why for ending, why in UNUSED.items() if name.endswith(ending)), "")


def embedding_of(prefix: str) -> str:
    """Return the name of the embedding in a text part with this prefix."""
    return f"{prefix}embed_tokens.weight"


def count_layers(prefix: str, names: Iterable[str]) -> int:
    """Return the number of layers that tensors with this prefix are of: one more than the largest number."""
    matches = (_LAYER.search(name) for name in names if name.startswith(prefix))
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def too_many_layers(name: str, count: int) -> Fault | None:
    """Return a fault of a model, or a part of one, that has more layers than the runtime takes."""
    if count <= MAX_LAYERS:
        return None
    what = f"the model has {count} layers, gemma.cpp takes at most {MAX_LAYERS}, numbered up to {MAX_LAYER}"
    return Fault("too-many-layers", name, what)
