"""Qwen3 in numpy: what it computes from the tensors of a checkpoint, and from those of gemma.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    import blobstore
    from blobstore.gemma import ModelConfig

    Array = npt.NDArray[Any]


def logits(tensors: Mapping[str, Array], config: Mapping[str, Any], tokens: Array) -> Array:
    """Return the logits at each of a prompt's positions, in f32, shape (tokens, vocabulary).

    Args:
        tensors: By the checkpoint's names; without a head, it is the embedding.
        config: Its config.json.
        tokens: Of the prompt.
    """
    weights = {name: array.astype(np.float32) for name, array in tensors.items()}
    embedding = weights["model.embed_tokens.weight"]
    x = embedding[tokens]
    for i in range(config["num_hidden_layers"]):
        layer = {name.removeprefix(f"model.layers.{i}."): array for name, array in weights.items()}
        x = x + _attention(_normed(x, layer["input_layernorm.weight"]), layer, config)
        h = _normed(x, layer["post_attention_layernorm.weight"])
        gate, up = h @ layer["mlp.gate_proj.weight"].T, h @ layer["mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ layer["mlp.down_proj.weight"].T
    return _normed(x, weights["model.norm.weight"]) @ weights.get("lm_head.weight", embedding).T


def _normed(x: Array, weight: Array) -> Array:
    rms: Array = np.sqrt(np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32) + np.float32(1e-6))
    return x / rms * weight


def _attention(x: Array, layer: Mapping[str, Array], config: Mapping[str, Any]) -> Array:
    size, count = config["head_dim"], len(x)
    heads = {part: x @ layer[f"self_attn.{part}_proj.weight"].T for part in "qkv"}
    q, k, v = (np.moveaxis(made.reshape(count, -1, size), 1, 0) for made in heads.values())
    q = _rotated(_normed(q, layer["self_attn.q_norm.weight"]), config["rope_theta"])
    k = _rotated(_normed(k, layer["self_attn.k_norm.weight"]), config["rope_theta"])
    shared = len(q) // len(k)
    scores = q @ np.repeat(k, shared, axis=0).transpose(0, 2, 1) * np.float32(size**-0.5)
    scores = np.where(np.tri(count, dtype=bool), scores, np.float32(-np.inf))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    made = weights @ np.repeat(v, shared, axis=0)
    joined: Array = np.moveaxis(made, 0, 1).reshape(count, -1)
    return joined @ layer["self_attn.o_proj.weight"].T


def _rotated(x: Array, base: float) -> Array:
    """Return heads, shape (heads, positions, size), rotated by their positions."""
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(x.shape[1]), float(base) ** (-np.arange(half) / half))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def weights_by_key(store: blobstore.Store, config: ModelConfig) -> dict[str, Array]:
    """Return the checkpoint's tensors as gemma.cpp computes with its own: norms as 1 + w, by spec/gemma.md."""
    keys = {key: store[key].astype(np.float32) for key in store}
    made = {"model.embed_tokens.weight": keys["c_embedding"], "model.norm.weight": 1 + keys["c_final_norm"][0]}
    if "lm_head" in keys:
        made["lm_head.weight"] = keys["lm_head"]
    for i, layer in enumerate(config.layer_configs):
        own = {key.removesuffix(f"_{i}"): array for key, array in keys.items() if key.endswith(f"_{i}")}
        if "qkv_ein" in own:
            queries, size = layer.heads * layer.qkv_dim, layer.qkv_dim
            own |= {"qkv1_w": own["qkv_ein"][:queries], "qkv2_w": own["qkv_ein"][queries:]}
            by_head = own["att_ein"].reshape(layer.heads, config.model_dim, size)
            own["att_w"] = np.moveaxis(by_head, 0, 1).reshape(config.model_dim, queries)
            own["gating1_w"], own["gating2_w"] = np.split(own["gating_ein"], 2)
        pairs = own["qkv2_w"].reshape(layer.kv_heads, 2, layer.qkv_dim, config.model_dim)
        parts = {
            "self_attn.q_proj": own["qkv1_w"],
            "self_attn.k_proj": pairs[:, 0].reshape(-1, config.model_dim),
            "self_attn.v_proj": pairs[:, 1].reshape(-1, config.model_dim),
            "self_attn.o_proj": own["att_w"],
            "self_attn.q_norm": 1 + own["query_norm"][0],
            "self_attn.k_norm": 1 + own["key_norm"][0],
            "input_layernorm": 1 + own["pre_att_ns"][0],
            "post_attention_layernorm": 1 + own["pre_ff_ns"][0],
            "mlp.gate_proj": own["gating1_w"],
            "mlp.up_proj": own["gating2_w"],
            "mlp.down_proj": own["linear_w"],
        }
        made |= {f"model.layers.{i}.{name}.weight": array for name, array in parts.items()}
    return made
