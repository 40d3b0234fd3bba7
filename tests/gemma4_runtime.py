"""What gemma.cpp computes for a Gemma 4, from a file's tensors and config: as its source was read, on whole arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.gemma.enums import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from blobstore.gemma import ModelConfig
    from blobstore.gemma.config import LayerConfig

    Values = npt.NDArray[np.float64]
    Tensors = Mapping[str, Values]


def logits(config: ModelConfig, tensors: Tensors, tokens: list[int]) -> Values:
    """Return the logits of each token of a prompt."""
    x = tensors["c_embedding"][tokens] * math.sqrt(config.model_dim)
    embeddings = np.zeros((len(config.layer_configs), len(tokens), 0))
    if config.ple_dim:
        embeddings = _own_embeddings(config, tensors, tokens, x)
    cache: dict[int, tuple[Values, Values]] = {}
    for i, layer in enumerate(config.layer_configs):
        own = {key.removesuffix(f"_{i}"): array for key, array in tensors.items() if key.endswith(f"_{i}")}
        experts = {
            (base, e): tensors[f"{base}_{i}_{e}"]
            for e in range(layer.num_experts)
            for base in ("gating1_w", "gating2_w", "linear_w")
        }
        h = _norm(x, own["pre_att_ns"])
        x = x + _norm(_attention(config, i, own, h, cache), own["post_att_ns"])
        x = x + _norm(_feed_forward(layer, own, experts, x), own["post_ff_ns"])
        if layer.ple_dim:
            gated = _gelu(x @ own["ple_gate"].T) * embeddings[i]
            x = x + _norm(gated @ own["ple_proj"].T, own["post_ple_ns"])
        x = x * own["skip_scale"][0, 0]
    out = _norm(x, tensors["c_final_norm"]) @ tensors["c_embedding"].T
    return config.final_cap * np.tanh(out / config.final_cap) if config.final_cap else out


def _own_embeddings(config: ModelConfig, tensors: Tensors, tokens: list[int], x: Values) -> Values:
    """Return the embeddings of each layer: [layers, tokens, ple_dim]."""
    shape = (len(tokens), len(config.layer_configs), config.ple_dim)
    projected = (x @ tensors["ple_model_proj"].T * config.model_dim**-0.5).reshape(shape)
    table = tensors["ple_embeddings"][tokens].reshape(shape) * math.sqrt(config.ple_dim)
    mixed: Values = (_norm(projected, tensors["ple_proj_norm"]) + table) * 0.5**0.5
    return mixed.swapaxes(0, 1)


def _norm(x: Values, weight: Values | None = None) -> Values:
    scaled: Values = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    return scaled if weight is None else scaled * (1 + weight.reshape(-1))


def _gelu(x: Values) -> Values:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    result: Values = 0.5 * x * (1 + np.tanh(inner))
    return result


def _attention(config: ModelConfig, i: int, own: Tensors, h: Values, cache: dict[int, tuple[Values, Values]]) -> Values:
    layer, count = config.layer_configs[i], len(h)
    window = config.attention_window_sizes[i]
    is_global = window == config.max_seq_len
    angles = _angles(config, layer.qkv_dim, count, is_global=is_global)
    q = _norm((h @ own["qkv1_w"].T).reshape(count, layer.heads, layer.qkv_dim), own["query_norm"])
    if layer.kv_share_layer_idx < 0:
        rows = own["qkv2_w"].reshape(2 * layer.kv_heads, layer.qkv_dim, -1)
        if config.model == Model.GEMMA4_26B_MOE and (layer.kv_heads, layer.qkv_dim) == (2, 512):
            rows = rows[[0, 2, 1, 3]]  # the loader's order
        both = np.einsum("tc,hdc->thd", h, rows)
        cache[i] = _rotate(_norm(both[:, ::2], own["key_norm"]), angles), _norm(both[:, 1::2])
    keys, values = cache[i if layer.kv_share_layer_idx < 0 else layer.kv_share_layer_idx]
    group = layer.heads // layer.kv_heads
    scores = np.einsum("qhd,khd->hqk", _rotate(q, angles), np.repeat(keys, group, axis=1))
    distance = np.arange(count)[:, None] - np.arange(count)[None, :]
    scores = np.where((distance >= 0) & (distance < window), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = np.einsum("hqk,khd->qhd", weights, np.repeat(values, group, axis=1))
    attended: Values = out.reshape(count, -1) @ own["att_w"].T
    return attended


def _angles(config: ModelConfig, size: int, count: int, *, is_global: bool) -> Values:
    base = config.global_rope_theta if is_global and config.use_global_timescale else config.rope_theta
    pairs = np.arange(size // 2)
    frequencies = base ** (-2.0 * pairs / size)
    if is_global:
        frequencies = np.where(pairs < config.partial_rotary_factor * size / 2, frequencies, 0)
    angles: Values = np.arange(count)[:, None, None] * frequencies
    return angles


def _rotate(x: Values, angles: Values) -> Values:
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _feed_forward(layer: LayerConfig, own: Tensors, experts: Mapping[tuple[str, int], Values], x: Values) -> Values:
    names = ("gating1_w", "gating2_w", "linear_w")
    shared = [own[name] for name in names]
    if not layer.num_experts:
        return _gated(_norm(x, own["pre_ff_ns"]), *shared)
    out = _norm(_gated(_norm(x, own["pre_ffw2_ns"]), *shared), own["post_ffw2_ns"])
    routed = np.zeros_like(x)
    scores = (_norm(x) * x.shape[-1] ** -0.5 * own["router_scale"].reshape(-1)) @ own["moe_router"].T
    probabilities = np.exp(scores - scores.max(axis=-1, keepdims=True))
    h = _norm(x, own["pre_ff_ns"])
    for t, row in enumerate(probabilities):
        chosen = np.argsort(-row)[: layer.num_experts_per_datapoint]
        for e in chosen:
            weight = row[e] / row[chosen].sum() * own["p_expert_sc"][0, e]
            routed[t] += weight * _gated(h[t], *(experts[name, int(e)] for name in names))
    return out + _norm(routed, own["post_ffw1_ns"])


def _gated(x: Values, gate: Values, up: Values, down: Values) -> Values:
    result: Values = (_gelu(x @ gate.T) * (x @ up.T)) @ down.T
    return result


def read(store: Any) -> dict[str, Values]:  # noqa: ANN401 (a store by keys)
    """Return all tensors of a file in f64."""
    return {key: array.astype(np.float64) for key, array in store.items()}
