"""Where the tensors of a Gemma 4 come from: embeddings of layers, experts, and layers that share keys and values.

Read, not run. Spec: spec/gemma.md, Gemma 4.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from blobstore.converting.pieces import Piece, rows_of
from blobstore.converting.sources.text import TextSources, weights_of_layer
from blobstore.gemma.families.gemma4 import is_reordered, is_sharing
from blobstore.gemma.families.specs import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from blobstore.gemma.config import LayerConfig
    from blobstore.gemma.families.specs import TensorSpec

# What the model has once: the runtime's name → the checkpoint's.
PLE_EMBEDDINGS = "embed_tokens_per_layer.weight"
_OF_MODEL = {
    "c_final_norm": "norm.weight",
    "ple_model_proj": "per_layer_model_projection.weight",
    "ple_proj_norm": "per_layer_projection_norm.weight",
}
_SHIFTED = ("c_final_norm", "ple_proj_norm")
# What a layer has as it is.
_OF_LAYER = {
    "ple_gate": "per_layer_input_gate.weight",
    "ple_proj": "per_layer_projection.weight",
    "skip_scale": "layer_scalar",
    "moe_router": "router.proj.weight",
    "router_scale": "router.scale",
    "p_expert_sc": "router.per_expert_scale",
}
# What the experts of a layer have: the checkpoint's name, how many experts' matrices one expert has in it, and which.
_OF_EXPERT = {
    "gating1_w": ("experts.gate_up_proj", 2, 0),
    "gating2_w": ("experts.gate_up_proj", 2, 1),
    "linear_w": ("experts.down_proj", 1, 0),
}
_EXPERTS = tuple({name for name, _, _ in _OF_EXPERT.values()})
# What a layer that shares keys and values doesn't compute.
_OF_KEYS = ("self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.k_norm.weight")
# The other parts of a checkpoint, behind what the names of all its tensors begin with, and why they are left out.
_VISION = "of the vision part: how gemma.cpp names its tensors is not known; the text model is converted"
_AUDIO = "of the audio part, which gemma.cpp doesn't have: the text model is converted"
_OTHER_PARTS = {"vision_tower.": _VISION, "embed_vision.": _VISION, "audio_tower.": _AUDIO, "embed_audio.": _AUDIO}


def why_other_part(name: str) -> str:
    """Return why a tensor of another part than text is left out; empty for one that is not of such a part."""
    return next((why for part, why in _OTHER_PARTS.items() if name.startswith((part, f"model.{part}"))), "")


def has_vision_part(names: Iterable[str]) -> bool:
    """Whether any tensor is of a Gemma 4's vision part."""
    return any(why_other_part(name) == _VISION for name in names)


def is_of_experts(name: str) -> bool:
    """Whether a checkpoint's tensor has the matrices of all experts of a layer."""
    return name.endswith(_EXPERTS)


class Gemma4Sources(TextSources):
    """Where the tensors of a Gemma 4 come from."""

    def keys(self, specs: Mapping[str, TensorSpec], layout: str) -> Iterator[str]:
        """Yield the keys of a file, in the order of the tensors that the model may have.

        Layers that share keys and values have their queries in the split form in both layouts: the stock form would
        have rows that nothing reads.
        """
        layers = self._recognised.config.layer_configs
        for key, spec in specs.items():
            base, layer, _ = place_of(key)
            shares = layer is not None and is_sharing(layers[layer])
            if shares and base in ("qkv_ein", "qkv2_w"):
                continue
            if spec.form in ("", layout) or (shares and base == "qkv1_w"):
                yield key

    def of_model(self, spec: TensorSpec) -> list[Piece]:
        """Return the pieces of a tensor that is not a layer's."""
        text = self._recognised.text
        if spec.key == "ple_embeddings":
            return self._rows_of_vocabulary(f"{text}{PLE_EMBEDDINGS}", spec)
        if spec.key not in _OF_MODEL:
            return super().of_model(spec)
        name = f"{text}{_OF_MODEL[spec.key]}"
        return [self._norm(name, spec) if spec.key in _SHIFTED else rows_of(name, spec.cols, 0, spec.rows)]

    def of_layer(self, base: str, layer: int, spec: TensorSpec) -> list[Piece]:
        """Return the pieces of a layer's tensor, or of one of its experts'."""
        prefix, expert = f"{self._recognised.text}layers.{layer}.", place_of(spec.key).expert
        if expert is not None:
            name, count, which = _OF_EXPERT[base]
            return [rows_of(f"{prefix}{name}", spec.cols, (expert * count + which) * spec.rows, spec.rows)]
        if base in _OF_LAYER:
            return [rows_of(f"{prefix}{_OF_LAYER[base]}", spec.cols, 0, spec.rows)]
        config = self._recognised.config
        own = config.layer_configs[layer]
        if base == "key_norm" and is_sharing(own):
            return [Piece(None, spec.cols, 0, 1, 0, spec.cols)]
        if base in ("qkv2_w", "qkv_ein"):
            pairs = self._keys_and_values(layer, own)
            return pairs if base == "qkv2_w" else weights_of_layer(prefix, own, config.model_dim)["qkv1_w"] + pairs
        return super().of_layer(base, layer, spec)

    def _keys_and_values(self, layer: int, own: LayerConfig) -> list[Piece]:
        """Return the rows of keys and values, by head, or all keys first where the runtime reorders them."""
        k, v = (f"{self._recognised.text}layers.{layer}.self_attn.{letter}_proj.weight" for letter in "kv")
        size, width = own.qkv_dim, own.model_dim
        has_values = layer not in self._recognised.keys_as_values
        each = own.kv_heads * size if is_reordered(own) else size  # rows of a piece
        pieces = []
        for row in range(0, own.kv_heads * size, each):
            pieces.append(rows_of(k, width, row, each))
            value = rows_of(v if has_values else k, width, row, each)
            pieces.append(replace(value, repeated=not has_values))
        return pieces

    def why_unused(self, name: str) -> str:
        """Return why the runtime doesn't need a tensor of the checkpoint; empty for one that may be needed."""
        if name in self._shared:
            return "these layers share the keys and values of other layers"
        return why_other_part(name) or super().why_unused(name)

    @cached_property
    def _shared(self) -> frozenset[str]:
        """The names of keys and values in layers that share those of others: some checkpoints have them."""
        sharing = [i for i, layer in enumerate(self._recognised.config.layer_configs) if is_sharing(layer)]
        return frozenset(f"{self._recognised.text}layers.{i}.{name}" for i in sharing for name in _OF_KEYS)
