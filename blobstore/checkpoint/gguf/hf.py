"""A Gemma 2, Gemma 3 or Qwen3 in a .gguf file: the names and the config.json that it has at Hugging Face.

llama.cpp's converter keeps their matrices as they are, and adds 1 to the weights of every norm of a Gemma.
Source: convert_hf_to_gguf.py and llama-model.cpp of https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    Fields = Mapping[str, Any]

GGUF_MODEL = "gguf-"  # begins the model_type of other Gemmas, whose tensors keep their names
_HEAD = "output.weight"
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Architecture:
    """What is particular to a model's kind.

    Attributes:
        model_type: Of config.json.
        adds_one: Whether norms are stored as 1 + weight.
        wide_layers: How many layers the model has whose queries are divided by the root of hidden_size / heads, not of
            head_dim: llama.cpp knows it by them. None if there is no such model.
        may_have_head: Whether models may have a head of their own.
        names: What differs from `_LAYER_NAMES`; a name without an equal stays as it is.
    """

    model_type: str
    adds_one: bool = True
    wide_layers: int | None = None
    may_have_head: bool = False
    names: Mapping[str, str | None] = field(default_factory=dict)


# By general.architecture.
ARCHITECTURES = {
    "gemma2": Architecture("gemma2", wide_layers=46),
    "gemma3": Architecture("gemma3_text", wide_layers=62),
    "qwen3": Architecture(
        "qwen3",
        adds_one=False,
        may_have_head=True,
        names={"ffn_norm": "post_attention_layernorm", "post_attention_norm": None, "post_ffw_norm": None},
    ),
}
_PLACE = re.compile(r"(?:blk\.([0-9]+)\.)?([a-z_]+)\.weight")
# Behind the architecture, such as "gemma3.": what has the same meaning in config.json.
_SETTINGS = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
    "rope.freq_base_swa": "rope_local_base_freq",
    "vocab_size": "vocab_size",
}
_TOKENS = {"tokenizer.ggml.bos_token_id": "bos_token_id", "tokenizer.ggml.padding_token_id": "pad_token_id"}
_STOPS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")


def hf_name(architecture: str, name: str) -> str | None:
    """Return what Hugging Face's checkpoints call a tensor, or None for one that they don't have.

    Args:
        architecture: Of `ARCHITECTURES`.
        name: Of the tensor in the file.
    """
    match = _PLACE.fullmatch(name)
    if not match:
        return None
    layer, own = match.groups()
    differing = ARCHITECTURES[architecture].names
    found = _NAMES.get(own) if layer is None else differing.get(own, _LAYER_NAMES.get(own))
    return found and f"{'' if layer is None else f'model.layers.{int(layer)}.'}{found}.weight"


def is_norm(name: str) -> bool:
    """Whether a tensor, by Hugging Face's name, is a norm."""
    return name.endswith("norm.weight")


def config_of(architecture: str, fields: Fields, names: Container[str]) -> dict[str, Any]:
    """Return a config.json with what the metadata says of the model.

    Values are taken as they are: whoever reads a config.json checks them.

    Args:
        architecture: Of `ARCHITECTURES`.
        fields: The metadata.
        names: Of the tensors in the file.
    """
    kind = ARCHITECTURES[architecture]
    own = {key.removeprefix(f"{architecture}."): value for key, value in fields.items()}
    config: dict[str, Any] = {"model_type": kind.model_type}
    config |= {name: own[key] for key, name in _SETTINGS.items() if key in own}
    config |= {name: fields[key] for key, name in _TOKENS.items() if key in fields}
    stops = [fields[key] for key in _STOPS if key in fields]
    if stops:
        config["eos_token_id"] = stops
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if type(heads) is int and type(width) is int and heads > 0:
        config.setdefault("head_dim", width // heads)
        if kind.wide_layers is not None:
            wide = config.get("num_hidden_layers") == kind.wide_layers
            config["query_pre_attn_scalar"] = width / heads if wide else config["head_dim"]
    if kind.may_have_head:
        config["tie_word_embeddings"] = _HEAD not in names
    return config | _windows(architecture, own, config) | _scaling(own)


def _windows(architecture: str, own: Fields, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return which layers have sliding attention: by default the family's own pattern."""
    pattern, layers = own.get("attention.sliding_window_pattern"), config.get("num_hidden_layers")
    if isinstance(pattern, list):
        return {"layer_types": ["sliding_attention" if slides else "full_attention" for slides in pattern]}
    if pattern is not None:
        return {"sliding_window_pattern": pattern}
    if architecture == "gemma3" and "sliding_window" not in config and type(layers) is int and 0 < layers < 1 << 16:
        return {"sliding_window": None, "layer_types": ["full_attention"] * layers}
    return {}


def _scaling(own: Fields) -> dict[str, Any]:
    kind, factor = own.get("rope.scaling.type"), own.get("rope.scaling.factor")
    if kind in (None, "none"):
        return {}
    return {"rope_scaling": {"rope_type": kind, "factor": factor}}
