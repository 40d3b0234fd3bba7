"""What gemma.cpp computes with a T5Gemma, in numpy: from a file's keys and config, as its source reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    import blobstore
    from blobstore.gemma import LayerConfig, ModelConfig

    Array = npt.NDArray[Any]

_BASE, _EPSILON = 1e4, 1e-6


class Runtime:
    """A model of a file that is open by keys."""

    def __init__(self, store: blobstore.Store, config: ModelConfig) -> None:
        """Take the file and its config."""
        self._store, self._config = store, config

    def logits(self, prompt: Sequence[int], answer: Sequence[int]) -> Array:
        """Return the logits behind each token of an answer, which begins with BOS; all positions at once."""
        encoded = self._encoded(prompt)
        config, x = self._config, self._embedded("dec_embedding", answer)
        behind = np.arange(len(answer))[:, None] - np.arange(len(answer))
        layers = zip(config.decoder_layer_configs, config.decoder_attention_window_sizes, strict=True)
        for i, (layer, window) in enumerate(layers):
            seen = (behind >= 0) & ((behind < window) | (window >= config.max_seq_len))
            own = self._self_attention("d", i, layer, self._norm(x, f"d_pre_sa_{i}"), seen)
            x = x + self._norm(own, f"d_post_sa_{i}")
            crossed = self._cross_attention(i, layer, self._norm(x, f"d_pre_ca_{i}"), encoded)
            x = x + self._norm(crossed, f"d_post_ca_{i}")
            x = self._fed_forward("d", i, layer, x)
        return _capped(self._norm(x, "dec_final_norm") @ self._array("dec_embedding").T, config.final_cap)

    def _encoded(self, prompt: Sequence[int]) -> Array:
        config, x = self._config, self._embedded("enc_embedding", prompt)
        distance = abs(np.arange(len(prompt))[:, None] - np.arange(len(prompt)))
        layers = zip(config.encoder_layer_configs, config.encoder_attention_window_sizes, strict=True)
        for i, (layer, window) in enumerate(layers):
            seen = (distance <= window) | (window >= config.max_seq_len)
            own = self._self_attention("e", i, layer, self._norm(x, f"e_pre_att_{i}"), seen)
            x = self._fed_forward("e", i, layer, x + self._norm(own, f"e_post_att_{i}"))
        return self._norm(x, "enc_final_norm")

    def _array(self, key: str) -> Array:
        return np.asarray(self._store[key], dtype=np.float64)

    def _embedded(self, key: str, tokens: Sequence[int]) -> Array:
        return np.asarray(self._array(key)[list(tokens)] * self._config.model_dim**0.5)

    def _norm(self, x: Array, key: str) -> Array:
        return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + _EPSILON) * (1 + self._array(key)[0]))

    def _self_attention(self, part: str, i: int, layer: LayerConfig, x: Array, seen: Array) -> Array:
        """Queries are the first rows; then come, for each head, keys and values."""
        weights, queries = self._array(f"{part}_qkv_{i}"), layer.heads * layer.qkv_dim
        q = (x @ weights[:queries].T).reshape(len(x), layer.heads, layer.qkv_dim)
        kv = (x @ weights[queries:].T).reshape(len(x), layer.kv_heads, 2, layer.qkv_dim)
        attended = self._attention(_rotated(q), _rotated(kv[:, :, 0]), kv[:, :, 1], seen)
        return self._projected(f"{part}_att_{i}", layer, attended)

    def _cross_attention(self, i: int, layer: LayerConfig, x: Array, encoded: Array) -> Array:
        q = (x @ self._array(f"dc_q_{i}").T).reshape(len(x), layer.heads, layer.qkv_dim)
        k, v = (
            (encoded @ self._array(f"dc_{name}_{i}").T).reshape(len(encoded), layer.kv_heads, layer.qkv_dim)
            for name in "kv"
        )
        attended = self._attention(q, k, v, np.ones((len(x), len(encoded)), bool))
        return self._projected(f"dc_att_{i}", layer, attended)

    def _attention(self, q: Array, k: Array, v: Array, seen: Array) -> Array:
        k, v = (np.repeat(one, q.shape[1] // k.shape[1], axis=1) for one in (k, v))
        scores = _capped(np.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5, self._config.att_cap)
        weights = np.exp(np.where(seen, scores, -np.inf) - scores.max())
        weights /= weights.sum(-1, keepdims=True)
        return np.asarray(np.einsum("hqk,khd->qhd", weights, v))

    def _projected(self, key: str, layer: LayerConfig, heads: Array) -> Array:
        """Return the sum over heads; a head's weights are model_dim rows of qkv_dim columns."""
        weights = self._array(key).reshape(layer.heads, self._config.model_dim, layer.qkv_dim)
        return np.asarray(np.einsum("qhd,hwd->qw", heads, weights))

    def _fed_forward(self, part: str, i: int, layer: LayerConfig, x: Array) -> Array:
        weights, normed = self._array(f"{part}_gate_{i}"), self._norm(x, f"{part}_pre_ff_{i}")
        gate, up = normed @ weights[: layer.ff_hidden_dim].T, normed @ weights[layer.ff_hidden_dim :].T
        return x + self._norm((_gelu(gate) * up) @ self._array(f"{part}_lin_{i}").T, f"{part}_post_ff_{i}")


def _rotated(x: Array) -> Array:
    """Apply RoPE to halves: [positions, heads, dimensions]."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * _BASE ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def _capped(x: Array, cap: float) -> Array:
    return np.asarray(cap * np.tanh(x / cap)) if cap else x


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))))
