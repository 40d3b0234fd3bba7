"""What Hugging Face checkpoints call their tensors, and what their names and shapes say.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from blobstore.converting.hf_values import KEEPS_ALL
from blobstore.errors import Fault
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
_LAYER = re.compile(r"layers\.([0-9]{1,9})\.")


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


def text_prefix_in(names: Container[str]) -> str | None:
    """Return the prefix of a checkpoint's text part, by its embedding; None without one."""
    return next((prefix for prefix in TEXT_PREFIXES if embedding_of(prefix) in names), None)


def head_in(names: Container[str]) -> str | None:
    """Return the name of a checkpoint's output head; None without one."""
    return next((name for name in HEADS if name in names), None)


def no_embedding(prefixes: Iterable[str]) -> Fault:
    """Return the fault of a checkpoint that has no embedding with any of these prefixes."""
    what = f"the checkpoint has no embedding, {' or '.join(map(embedding_of, prefixes))}: is it complete? {KEEPS_ALL}"
    return Fault("missing-tensor", "embed_tokens.weight", what)


def count_layers(prefix: str, names: Iterable[str]) -> int:
    """Return the number of layers that tensors with this prefix are of: one more than the largest number."""
    matches = (_LAYER.search(name) for name in names if name.startswith(prefix))
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def not_a_matrix(name: str, shape: tuple[int, ...]) -> Fault | None:
    """Return a fault of a tensor that has to be a matrix, and isn't, or is an empty one."""
    if len(shape) == 2 and min(shape) > 0:
        return None
    return Fault("shape", name, f"its shape is {list(shape)}, expected a matrix: is the checkpoint complete?")


def not_whole_heads(name: str, queries: int, keys: int, size: int) -> Fault | None:
    """Return a fault of so many rows of queries and of keys if they aren't heads of this size, or are too many."""
    if queries % size == 0 and keys % size == 0 and max(queries, keys) // size <= MAX_HEADS:
        return None
    what = f"{queries} rows of queries and {keys} of keys are not whole heads of {size} rows, at most {MAX_HEADS}"
    return Fault("shape", name, what)


def too_many_layers(name: str, count: int) -> Fault | None:
    """Return a fault of a model, or a part of one, that has more layers than the runtime takes."""
    if count <= MAX_LAYERS:
        return None
    what = f"the model has {count} layers, gemma.cpp takes at most {MAX_LAYERS}, numbered up to {MAX_LAYER}"
    return Fault("too-many-layers", name, what)
