"""The tensors of a text layer, and what Gemma 4's layers have besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.gemma.enums import LayerType, PostNorm
from blobstore.gemma.families.gemma4 import EXPERT_HIDDEN, ROUTER_TYPES, is_reordered
from blobstore.gemma.families.specs import BY_ELEMENT, TensorSpec, vector, weight

if TYPE_CHECKING:
    from blobstore.gemma.config import LayerConfig, ModelConfig


def text_layer(i: int, layer: LayerConfig, width: int) -> list[TensorSpec]:
    """Return the tensors of a text layer.

    The layers of Gemma 4 that share keys and values have none of their own: the split form lacks these, and the stock
    form has rows that nothing reads.
    """
    has_keys = layer.kv_share_layer_idx < 0
    types = BY_ELEMENT if is_reordered(layer) else ()
    queries = layer.heads * layer.qkv_dim
    keys_values = 2 * layer.kv_heads * layer.qkv_dim
    hidden = layer.ff_hidden_dim
    att, qkv, gating = f"att_{i}", f"qkv_{i}", f"gating_{i}"
    specs = [
        weight(f"att_ein_{i}", layer.heads * width, layer.qkv_dim, slot=att, form="stock"),
        weight(f"att_w_{i}", width, queries, slot=att, form="split"),
        weight(f"qkv_ein_{i}", queries + keys_values, width, slot=qkv, form="stock", types=types),
        weight(f"qkv1_w_{i}", queries, width, slot=qkv, form="split"),
        weight(
            f"qkv2_w_{i}",
            keys_values,
            width,
            slot=qkv if has_keys else "",
            form="split" if has_keys else "",
            optional=not has_keys,
            types=types,
        ),
        weight(f"gating_ein_{i}", 2 * hidden, width, slot=gating, form="stock"),
        weight(f"gating1_w_{i}", hidden, width, slot=gating, form="split"),
        weight(f"gating2_w_{i}", hidden, width, slot=gating, form="split"),
        weight(f"linear_w_{i}", width, hidden),
        vector(f"pre_att_ns_{i}", width),
        vector(f"pre_ff_ns_{i}", width),
    ]
    if layer.post_norm == PostNorm.SCALE:
        specs += [vector(f"post_att_ns_{i}", width), vector(f"post_ff_ns_{i}", width)]
    if layer.use_qk_norm:
        specs += [vector(f"key_norm_{i}", layer.qkv_dim), vector(f"query_norm_{i}", layer.qkv_dim)]
    if layer.ff_biases and layer.type == LayerType.GEMMA:
        specs += [vector(f"ffw_gat_b_{i}", 2 * hidden, "f32"), vector(f"ffw_out_b_{i}", width, "f32")]
    return specs


def ple_tensors(config: ModelConfig) -> list[TensorSpec]:
    """Return what a Gemma 4 with embeddings for each layer has once: read, not run."""
    cols = sum(layer.ple_dim for layer in config.layer_configs)
    return [
        weight("ple_embeddings", config.vocab_size, cols),
        weight("ple_model_proj", cols, config.model_dim, floor="bf16"),
        vector("ple_proj_norm", config.ple_dim),
    ]


def gemma4_layer(i: int, layer: LayerConfig, width: int) -> list[TensorSpec]:
    """Return what a layer of Gemma 4 has besides `text_layer`; nothing for others: read, not run."""
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
        vector(f"router_scale_{i}", width, types=ROUTER_TYPES),
        vector(f"p_expert_sc_{i}", layer.num_experts, types=ROUTER_TYPES),
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
