"""Small Gemma 4 checkpoints as exporters write them, and the gemma.cpp tensors that have to be made of them.

The mapping is stated here once more, on whole arrays: by spec/gemma.md, without the package's plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.checkpoints import SINGLE, own, write_config, write_own
from tests.gemma_checkpoints import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.gemma_checkpoints import Array, Config

EXPERT = 704  # the runtime knows no other width
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Gemma4:
    """What a checkpoint is like; by default no two dimensions are the same.

    Attributes:
        types: Of layers: s for sliding attention, f for full.
        size: Of the heads of sliding layers.
        full_size: Of full ones.
        full_kv_heads: Of full ones, where it differs from the others' `kv_heads`.
        shared: So many of the last layers share keys and values.
        wide: How many times as wide these are.
        same: Whether full layers have no values of their own.
        ple: Width of a layer's own embeddings.
        window: Of sliding layers.
        length: Positions.
        prefix: Of the tensors' names.
        dtype: Of all tensors.
    """

    types: str = "sfsfsff"
    width: int = 20
    hidden: int = 28
    heads: int = 12
    kv_heads: int = 3
    size: int = 8
    full_size: int = 16
    full_kv_heads: int = 0
    shared: int = 3
    wide: int = 2
    same: bool = False
    ple: int = 4
    experts: int = 0
    used: int = 2
    window: int = 512
    length: int = 131072
    vocabulary: int = 96
    prefix: str = "model."
    dtype: str = "bf16"

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.types)

    def size_of(self, i: int) -> int:
        """Return the size of a layer's heads."""
        return self.full_size if self.types[i] == "f" else self.size

    def kv_heads_of(self, i: int) -> int:
        """Return how many heads of keys and values a layer has."""
        return self.full_kv_heads or self.kv_heads if self.types[i] == "f" else self.kv_heads

    def shares(self, i: int) -> bool:
        """Whether a layer has the keys and values of another."""
        return i >= self.layers - self.shared

    def hidden_of(self, i: int) -> int:
        """Return the width of a layer's feed-forward part."""
        return self.hidden * (self.wide if self.shares(i) else 1)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by its name."""
        shapes: dict[str, tuple[int, ...]] = {
            "embed_tokens.weight": (self.vocabulary, self.width),
            "norm.weight": (self.width,),
        }
        if self.ple:
            shapes |= {
                "embed_tokens_per_layer.weight": (self.vocabulary, self.layers * self.ple),
                "per_layer_model_projection.weight": (self.layers * self.ple, self.width),
                "per_layer_projection_norm.weight": (self.ple,),
            }
        for i in range(self.layers):
            shapes |= {f"layers.{i}.{name}": shape for name, shape in self._layer(i)}
        return {self.prefix + name: shape for name, shape in shapes.items()}

    def _layer(self, i: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        width, hidden, size = self.width, self.hidden_of(i), self.size_of(i)
        queries, keys = self.heads * size, self.kv_heads_of(i) * size
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield f"{norm}_layernorm.weight", (width,)
        yield "layer_scalar", (1,)
        yield "self_attn.q_proj.weight", (queries, width)
        yield "self_attn.q_norm.weight", (size,)
        yield "self_attn.o_proj.weight", (width, queries)
        if not self.shares(i):
            yield "self_attn.k_proj.weight", (keys, width)
            yield "self_attn.k_norm.weight", (size,)
            if not (self.same and self.types[i] == "f"):
                yield "self_attn.v_proj.weight", (keys, width)
        yield "mlp.gate_proj.weight", (hidden, width)
        yield "mlp.up_proj.weight", (hidden, width)
        yield "mlp.down_proj.weight", (width, hidden)
        if self.ple:
            yield "per_layer_input_gate.weight", (self.ple, width)
            yield "per_layer_projection.weight", (width, self.ple)
            yield "post_per_layer_input_norm.weight", (width,)
        if self.experts:
            yield "router.proj.weight", (self.experts, width)
            yield "router.scale", (width,)
            yield "router.per_expert_scale", (self.experts,)
            yield "pre_feedforward_layernorm_2.weight", (width,)
            yield "post_feedforward_layernorm_1.weight", (width,)
            yield "post_feedforward_layernorm_2.weight", (width,)
            yield "experts.gate_up_proj", (self.experts, 2 * EXPERT, width)
            yield "experts.down_proj", (self.experts, width, EXPERT)

    def tensors(self) -> dict[str, Array]:
        """Return random values, always the same for the same recipe."""
        random = np.random.default_rng(0)
        return {
            name: random.uniform(0.25, 1.75, shape).astype(np.float32).astype(DTYPES[self.dtype])
            for name, shape in self.shapes().items()
        }

    def config(self) -> Config:
        """Return what config.json says, as transformers 5.24 writes it of a text model."""
        full: Config = {"head_dim": self.full_size}
        if self.full_kv_heads:
            full["num_key_value_heads"] = self.full_kv_heads
        digits = len(str(max((i for i, kind in enumerate(self.types) if kind == "f"), default=0)))
        rope = {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"}
        return {
            "architectures": ["Gemma4ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attention_k_eq_v": self.same,
            "bos_token_id": 2,
            "dtype": "bfloat16",
            "enable_moe_block": self.experts > 0,
            "eos_token_id": 1,
            "final_logit_softcapping": None,
            "head_dim": self.size,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": self.width,
            "hidden_size_per_layer_input": self.ple,
            "initializer_range": 0.02,
            "intermediate_size": self.hidden,
            "layer_types": [FULL if kind == "f" else SLIDING for kind in self.types],
            "max_position_embeddings": self.length,
            "model_type": "gemma4_text",
            "moe_intermediate_size": EXPERT if self.experts else None,
            "num_attention_heads": self.heads,
            "num_experts": self.experts or None,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "num_kv_shared_layers": self.shared,
            "pad_token_id": 0,
            "per_layer_config": {f"{i:0{digits}}": full for i, kind in enumerate(self.types) if kind == "f"},
            "rms_norm_eps": 1e-06,
            "rope_parameters": {FULL: rope, SLIDING: {"rope_theta": 10000.0, "rope_type": "default"}},
            "sliding_window": self.window,
            "tie_word_embeddings": True,
            "top_k_experts": self.used if self.experts else None,
            "transformers_version": "5.24.0",
            "use_bidirectional_attention": None,
            "use_cache": True,
            "use_double_wide_mlp": self.wide == 2,
            "vocab_size": self.vocabulary,
            "vocab_size_per_layer_input": self.vocabulary if self.ple else 262144,
        }

    def write(self, folder: Path, tensors: Mapping[str, Array] | None = None, config: Config | None = None) -> Path:
        """Write the checkpoint, with the given tensors and config or the recipe's own, and return its folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_own(folder / SINGLE, own(self.tensors() if tensors is None else tensors), {"format": "pt"})
        write_config(folder, self.config() if config is None else config)
        return folder


PLE = Gemma4()
MOE = Gemma4("sf", 16, 12, 4, 1, shared=0, wide=1, same=True, ple=0, experts=3)
# As in 26B: the runtime reorders the keys and values of full layers as it loads them.
REORDERED = Gemma4("sf", 16, 12, 4, 4, 8, 512, 2, shared=0, wide=1, same=True, ple=0, experts=2)
DENSE = Gemma4("ssf", 16, 12, 4, 4, 8, 32, 1, shared=0, wide=1, same=True, ple=0)  # as 31B
TINY = {"ple": PLE, "dense": DENSE, "moe": MOE, "moe-26b": REORDERED}
# The published ones.
E2B = Gemma4("ssssf" * 7, 1536, 6144, 8, 1, 256, 512, shared=20, ple=256, vocabulary=262144)
E4B = Gemma4("sssssf" * 7, 2560, 10240, 8, 2, 256, 512, shared=18, wide=1, ple=256, vocabulary=262144)
A4B = Gemma4(
    "sssssf" * 5,
    2816,
    2112,
    16,
    8,
    256,
    512,
    2,
    0,
    1,
    same=True,
    ple=0,
    experts=128,
    used=8,
    window=1024,
    length=262144,
    vocabulary=262144,
)


def arranged(recipe: Gemma4, tensors: Mapping[str, Array], layout: str) -> dict[str, Array]:
    """Return gemma.cpp's tensors by key, as matrices; norms in f32, others in the source's type."""
    named = {name.removeprefix(recipe.prefix): array for name, array in tensors.items()}
    made = {"c_embedding": named["embed_tokens.weight"], "c_final_norm": _shifted(named["norm.weight"])}
    if recipe.ple:
        made["ple_embeddings"] = named["embed_tokens_per_layer.weight"]
        made["ple_model_proj"] = named["per_layer_model_projection.weight"]
        made["ple_proj_norm"] = _shifted(named["per_layer_projection_norm.weight"])
    for i in range(recipe.layers):
        begin = f"layers.{i}."
        layer = {name.removeprefix(begin): array for name, array in named.items() if name.startswith(begin)}
        made |= {key.replace("#", str(i)): array for key, array in _layer(recipe, i, layer, layout).items()}
    return {key: array.reshape(1, -1) if array.ndim == 1 else array for key, array in made.items()}


def _shifted(array: Array) -> Array:
    shifted: Array = array.astype(np.float32) - 1
    return shifted


def _layer(recipe: Gemma4, i: int, layer: Mapping[str, Array], layout: str) -> dict[str, Array]:
    gate, up, o = (layer[f"{name}.weight"] for name in ("mlp.gate_proj", "mlp.up_proj", "self_attn.o_proj"))
    heads = np.vstack(np.split(o, recipe.heads, axis=1))
    made = {"gating1_w_#": gate, "gating2_w_#": up, "att_w_#": o}
    if layout == "stock":
        made = {"gating_ein_#": np.vstack([gate, up]), "att_ein_#": heads}
    made |= _attention(recipe, i, layer, layout)
    norms = {
        "pre_att_ns": "input_layernorm",
        "post_att_ns": "post_attention_layernorm",
        "pre_ff_ns": "pre_feedforward_layernorm",
        "post_ff_ns": "post_feedforward_layernorm",
        "query_norm": "self_attn.q_norm",
    }
    if recipe.ple:
        norms["post_ple_ns"] = "post_per_layer_input_norm"
        made["ple_gate_#"] = layer["per_layer_input_gate.weight"]
        made["ple_proj_#"] = layer["per_layer_projection.weight"]
    if recipe.experts:
        norms |= {"pre_ff_ns": "pre_feedforward_layernorm_2", "pre_ffw2_ns": "pre_feedforward_layernorm"}
        norms["post_ffw1_ns"], norms["post_ffw2_ns"] = (f"post_feedforward_layernorm_{n}" for n in (2, 1))
        made["moe_router_#"] = layer["router.proj.weight"]
        made["router_scale_#"], made["p_expert_sc_#"] = layer["router.scale"], layer["router.per_expert_scale"]
        for e, (both, down) in enumerate(zip(layer["experts.gate_up_proj"], layer["experts.down_proj"], strict=True)):
            made[f"gating1_w_#_{e}"], made[f"gating2_w_#_{e}"] = both[:EXPERT], both[EXPERT:]
            made[f"linear_w_#_{e}"] = down
    made |= {f"{key}_#": _shifted(layer[f"{name}.weight"]) for key, name in norms.items()}
    return made | {"linear_w_#": layer["mlp.down_proj.weight"], "skip_scale_#": layer["layer_scalar"]}


def _attention(recipe: Gemma4, i: int, layer: Mapping[str, Array], layout: str) -> dict[str, Array]:
    q = layer["self_attn.q_proj.weight"]
    if recipe.shares(i):
        return {"qkv1_w_#": q, "key_norm_#": np.zeros(recipe.size_of(i), DTYPES["bf16"])}
    k = layer["self_attn.k_proj.weight"]
    v = layer.get("self_attn.v_proj.weight", k)
    both = np.vstack([k, v])  # the keys of all heads, then their values
    heads, size = recipe.kv_heads_of(i), recipe.size_of(i)
    if not (recipe.experts and (heads, size) == (2, 512)):
        both = both.reshape(2, heads, size, -1).swapaxes(0, 1).reshape(both.shape)
    norm = {"key_norm_#": _shifted(layer["self_attn.k_norm.weight"])}
    if layout == "stock":
        return norm | {"qkv_ein_#": np.vstack([q, both])}
    return norm | {"qkv1_w_#": q, "qkv2_w_#": both}


def published_config(recipe: Gemma4, **changes: Any) -> Config:  # noqa: ANN401 (values of JSON)
    """Return the config.json of a published checkpoint: with vision and audio parts, and a soft cap of logits."""
    text = recipe.config() | {"final_logit_softcapping": 30.0} | changes
    top = {"model_type": "gemma4", "text_config": text, "eos_token_id": [1, 106], "tie_word_embeddings": True}
    tokens = dict.fromkeys(("boi_token_id", "eoi_token_id", "image_token_id", "video_token_id", "audio_token_id"), 9)
    return top | tokens | {"vision_config": {"model_type": "gemma4_vision"}, "audio_config": None, "boa_token_id": 9}
