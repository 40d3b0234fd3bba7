"""Gemma 4: E2B and E4B, whose layers have embeddings of their own, and 26B, a mixture of experts.

Source: read in gemma.cpp's later configs, not run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blobstore.gemma.config import LayerConfig, VitConfig
from blobstore.gemma.enums import LayerType, Model, PostNorm, PostQK, QueryScale
from blobstore.gemma.families.sizes import Dimensions, in_full, text_config, text_layer
from blobstore.gemma.families.specs import TensorSpec, vector, weight

if TYPE_CHECKING:
    from blobstore.gemma.config import ModelConfig


@dataclass(frozen=True)
class Extent:
    """In what the layers of a Gemma 4 differ.

    Attributes:
        pattern: The last of every so many layers is global.
        shared: The last so many layers share keys and values with the last layer of their kind before them.
        shared_hidden: Width of the feed-forward part of these.
        global_kv_heads: Of global layers.
        window: Of the others.
        length: Positions.
    """

    pattern: int
    shared: int
    shared_hidden: int
    global_kv_heads: int
    window: int
    length: int


GEMMA4 = {
    Model.GEMMA4_2B: Dimensions("Gemma4_2B", 35, 1536, 6144, 8, 1, 256),
    Model.GEMMA4_2B_LM: Dimensions("Gemma4_2B_LM", 35, 1536, 6144, 8, 1, 256),
    Model.GEMMA4_E4B: Dimensions("Gemma4_E4B", 42, 2560, 10240, 8, 2, 256),
    Model.GEMMA4_E4B_LM: Dimensions("Gemma4_E4B_LM", 42, 2560, 10240, 8, 2, 256),
    Model.GEMMA4_26B_MOE: Dimensions("Gemma4_26B_MoE", 30, 2816, 2112, 16, 8, 256),
}
_E2B, _E4B = Extent(5, 20, 12288, 1, 512, 131072), Extent(6, 18, 10240, 2, 512, 131072)
EXTENTS = {
    Model.GEMMA4_2B: _E2B,
    Model.GEMMA4_2B_LM: _E2B,
    Model.GEMMA4_E4B: _E4B,
    Model.GEMMA4_E4B_LM: _E4B,
    Model.GEMMA4_26B_MOE: Extent(6, 0, 2112, 2, 1024, 32768),
}
WITH_VISION = frozenset({Model.GEMMA4_2B, Model.GEMMA4_E4B})  # whose tensors are not known here
PLE_DIM = 256  # width of a layer's own embeddings, in E2B and E4B
GLOBAL_QKV_DIM = 512
EXPERTS, EXPERTS_USED = 128, 8
EXPERT_HIDDEN = 704  # no field has it: the runtime takes it from the model's number
# The layers of 26B whose keys and values the runtime reorders as it loads them, by kv_heads and qkv_dim: a file has the
# keys of all heads before the values of all heads, not a head's values behind its keys. They are moved by whole
# elements, so that types with groups don't survive it.
_REORDERED = (2, 512)
_ROUTER_TYPES = ("bf16",)  # of its scales, which are used as they are
MAX_EXPERTS = 128  # for which the runtime has room


def gemma4(model: Model) -> ModelConfig:
    """Return the config of a Gemma 4."""
    size, extent = GEMMA4[model], EXTENTS[model]
    windows = (extent.window,) * (extent.pattern - 1) + (extent.length,)
    config = text_config(model, size, tuple(_layers(model, size, extent)), windows)
    config = replace(
        config,
        model_family_version=4,
        vocab_size=262144,
        query_scale=QueryScale.ONE,
        secondary_eos_id=106,
        use_global_timescale=True,
        partial_rotary_factor=0.25,
    )
    if model != Model.GEMMA4_26B_MOE:
        config = replace(config, ple_dim=PLE_DIM)
    if model in WITH_VISION:
        config = replace(config, vit_config=_vision())
    return in_full(config)


def is_sharing(layer: LayerConfig) -> bool:
    """Whether a layer has the keys and values of another."""
    return layer.kv_share_layer_idx >= 0


def is_reordered(layer: LayerConfig) -> bool:
    """Whether the runtime reorders the keys and values of a layer as it loads them."""
    return layer.num_experts > 0 and (layer.kv_heads, layer.qkv_dim) == _REORDERED


def _layers(model: Model, size: Dimensions, extent: Extent) -> list[LayerConfig]:
    local = replace(text_layer(size), post_qk=PostQK.NORM_LOCAL_ROPE, use_qk_norm=True, norm_v=True)
    if model == Model.GEMMA4_26B_MOE:
        local = replace(local, num_experts=EXPERTS, num_experts_per_datapoint=EXPERTS_USED)
    else:
        local = replace(local, ple_dim=PLE_DIM)
    own = size.layers - extent.shared
    kinds = [(i + 1) % extent.pattern == 0 for i in range(size.layers)]
    layers = []
    for i, is_global in enumerate(kinds):
        layer = local
        if is_global:
            layer = replace(layer, qkv_dim=GLOBAL_QKV_DIM, kv_heads=extent.global_kv_heads)
        if i >= own:
            source = max(j for j in range(own) if kinds[j] == is_global)
            layer = replace(layer, ff_hidden_dim=extent.shared_hidden, kv_share_layer_idx=source)
        layers.append(layer)
    return layers


def _vision() -> VitConfig:
    """Return its vision part, of which no Hugging Face names are known here."""
    layer = LayerConfig(
        model_dim=768,
        ff_hidden_dim=3072,
        heads=12,
        kv_heads=12,
        qkv_dim=64,
        post_norm=PostNorm.SCALE,
        type=LayerType.VIT_GEMMA4,
        use_qk_norm=True,
    )
    return VitConfig(
        model_dim=768, seq_len=2520, patch_width=16, image_size=896, layer_configs=(layer,) * 16, pool_dim=3
    )


def ple_tensors(config: ModelConfig) -> list[TensorSpec]:
    """Return what a Gemma 4 with embeddings for each layer has once: read, not run."""
    cols = sum(layer.ple_dim for layer in config.layer_configs)
    return [
        weight("ple_embeddings", config.vocab_size, cols),
        weight("ple_model_proj", cols, config.model_dim, floor="bf16"),
        vector("ple_proj_norm", config.ple_dim),
    ]


def gemma4_layer_tensors(i: int, layer: LayerConfig, width: int) -> list[TensorSpec]:
    """Return what a layer of Gemma 4 has besides `text_layer_tensors`; nothing for others: read, not run."""
    specs = []
    if layer.ple_dim:
        specs += [
            weight(f"ple_gate_{i}", layer.ple_dim, width),
            weight(f"ple_proj_{i}", width, layer.ple_dim),
            vector(f"post_ple_ns_{i}", width),
        ]
    if layer.norm_v:  # as in every Gemma 4
        specs.append(vector(f"skip_scale_{i}", 1, optional=True))
    if layer.num_experts:
        specs += _experts(i, layer, width)
    return specs


def _experts(i: int, layer: LayerConfig, width: int) -> list[TensorSpec]:
    specs = [
        weight(f"moe_router_{i}", layer.num_experts, width, floor="bf16"),
        vector(f"router_scale_{i}", width, types=_ROUTER_TYPES),
        vector(f"p_expert_sc_{i}", layer.num_experts, types=_ROUTER_TYPES),
        vector(f"pre_ffw2_ns_{i}", width),
        vector(f"post_ffw1_ns_{i}", width),
        vector(f"post_ffw2_ns_{i}", width),
    ]
    for expert in range(layer.num_experts):
        specs += [
            weight(f"gating1_w_{i}_{expert}", EXPERT_HIDDEN, width),
            weight(f"gating2_w_{i}_{expert}", EXPERT_HIDDEN, width),
            weight(f"linear_w_{i}_{expert}", width, EXPERT_HIDDEN),
        ]
    return specs
