"""What becomes of each key of a T5Gemma checkpoint's ``config.json``: a table of all known keys.

Spec: spec/gemma.md, config.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blobstore.converting.hf_keys import COMMON, fates

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MODULES = ("encoder", "decoder")  # the objects of config.json that describe layers
# By part: `t5gemma` is config.json without its modules, `module` each of these.
KEYS = {
    "t5gemma": COMMON
    | fates(
        DIMENSION="encoder decoder",
        FIELD="eos_token_id",
        FIXED="is_encoder_decoder bos_token_id decoder_start_token_id quantization_config",
        CHOICE="tie_word_embeddings",
        NO_EFFECT="pad_token_id vocab_size dropout_rate classifier_dropout_rate",
    ),
    "module": COMMON
    | fates(
        DIMENSION="hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim"
        " vocab_size cross_attention_hidden_size query_pre_attn_scalar",
        FIELD="attn_logit_softcapping final_logit_softcapping sliding_window sliding_window_pattern"
        " _sliding_window_pattern layer_types max_position_embeddings eos_token_id rope_scaling",
        FIXED="rope_theta rope_parameters rms_norm_eps hidden_activation attention_bias is_encoder_decoder"
        " bos_token_id quantization_config",
        CHOICE="tie_word_embeddings",
        NO_EFFECT="pad_token_id dropout_rate classifier_dropout_rate",
    ),
}
# The values of a key that agree with what the runtime computes; the default is the first.
FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    "t5gemma": {
        "is_encoder_decoder": (True, None),
        "bos_token_id": (2, None),
        "decoder_start_token_id": (2, None),
        "quantization_config": (None,),
    },
    "module": {
        "hidden_activation": ("gelu_pytorch_tanh", "gelu_new"),
        "attention_bias": (False, None),
        "is_encoder_decoder": (False, None),
        "rms_norm_eps": (1e-6,),
        "bos_token_id": (2, None),
        "quantization_config": (None,),
    },
}


def unknown_t5gemma_keys(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the place and the name of each key of a config.json that `KEYS` doesn't have."""
    yield from (("", key) for key in config if key not in KEYS["t5gemma"])
    for module in MODULES:
        yield from ((f"{module}.", key) for key in config[module] if key not in KEYS["module"])
