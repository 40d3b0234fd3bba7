"""What becomes of each key of a checkpoint's ``config.json``: a table of all known keys.

Spec: spec/gemma.md, config.json.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from blobstore.converting.gemma_families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Fate(Enum):
    """What becomes of a key."""

    DIMENSION = "compared with the tensors"
    FIELD = "written into the file's config; a note where no field says it"
    FIXED = "fixed in the runtime: another value is refused, or noted where it makes little difference"
    CHOICE = "chooses family, wrapping or head"
    NO_EFFECT = "doesn't change what the model computes"


def fates(**names: str) -> dict[str, Fate]:
    """Return the fate of each name, given the names of each fate in one text."""
    return {name: Fate[fate] for fate, text in names.items() for name in text.split()}


COMMON = fates(
    NO_EFFECT="_name_or_path _attn_implementation_autoset architectures attn_implementation cache_implementation"
    " chunk_size_feed_forward dtype finetuning_task id2label initializer_range initializer_factor label2id"
    " output_attentions output_hidden_states problem_type return_dict torch_dtype torchscript transformers_version"
    " unsloth_fixed unsloth_version use_cache attention_dropout dropout pruned_heads tf_legacy_loss use_bfloat16"
    " tokenizer_class prefix task_specific_params auto_map pretraining_tp is_decoder hidden_act gradient_checkpointing"
    " sep_token_id decoder_start_token_id tie_encoder_decoder cross_attention_hidden_size add_cross_attention"
    " bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size"
    " exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length min_length"
    " no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values"
    " repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p",
    CHOICE="model_type",
)
# By part of config.json; in text-only models the one for text is all of it.
KEYS: dict[str, dict[str, Fate]] = {
    "text": COMMON
    | fates(
        DIMENSION="hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim"
        " vocab_size",
        FIELD="attn_logit_softcapping final_logit_softcapping sliding_window sliding_window_pattern"
        " _sliding_window_pattern layer_types max_position_embeddings query_pre_attn_scalar eos_token_id rope_theta"
        " rope_local_base_freq rope_parameters rope_scaling",
        FIXED="rms_norm_eps hidden_activation use_bidirectional_attention attention_bias is_encoder_decoder"
        " bos_token_id quantization_config",
        CHOICE="tie_word_embeddings",
        NO_EFFECT="pad_token_id num_image_tokens",
    ),
    "top": COMMON
    | fates(
        DIMENSION="text_config vision_config",
        FIELD="eos_token_id",
        FIXED="mm_tokens_per_image is_encoder_decoder bos_token_id quantization_config",
        CHOICE="tie_word_embeddings",
        NO_EFFECT="boi_token_index eoi_token_index image_token_index image_token_id boi_token_id eoi_token_id"
        " ignore_index pad_token_id num_hidden_layers vocab_size _vocab_size hidden_size projection_dim",
    ),
    "vision": COMMON
    | fates(
        DIMENSION="hidden_size intermediate_size num_hidden_layers patch_size image_size",
        FIELD="num_attention_heads",
        FIXED="num_channels layer_norm_eps hidden_act",
        NO_EFFECT="vision_use_head projector_hidden_act num_positions num_image_tokens projection_dim",
    ),
    "qwen3": COMMON
    | fates(
        DIMENSION="hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim"
        " vocab_size",
        FIELD="max_position_embeddings eos_token_id rope_theta rope_parameters",
        FIXED="hidden_act rms_norm_eps attention_bias is_encoder_decoder quantization_config rope_scaling"
        " use_sliding_window sliding_window max_window_layers layer_types",
        CHOICE="tie_word_embeddings architectures",
        NO_EFFECT="pad_token_id bos_token_id",
    ),
    # Its vision and audio parts are left out, with all that config.json says of them.
    "gemma4-text": COMMON
    | fates(
        DIMENSION="hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim"
        " vocab_size global_head_dim num_global_key_value_heads per_layer_config hidden_size_per_layer_input"
        " vocab_size_per_layer_input use_double_wide_mlp enable_moe_block num_experts moe_intermediate_size",
        FIELD="final_logit_softcapping sliding_window layer_types max_position_embeddings eos_token_id rope_parameters"
        " num_kv_shared_layers attention_k_eq_v top_k_experts",
        FIXED="rms_norm_eps hidden_activation use_bidirectional_attention attention_bias is_encoder_decoder"
        " bos_token_id quantization_config attn_logit_softcapping",
        CHOICE="tie_word_embeddings",
        NO_EFFECT="pad_token_id",
    ),
    "gemma4-top": COMMON
    | fates(
        DIMENSION="text_config",
        FIELD="eos_token_id",
        FIXED="is_encoder_decoder bos_token_id quantization_config",
        CHOICE="tie_word_embeddings vision_config",
        NO_EFFECT="audio_config boi_token_id eoi_token_id image_token_id video_token_id boa_token_id eoa_token_id"
        " eoa_token_index audio_token_id pad_token_id vision_soft_tokens_per_image",
    ),
}
_TOP: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False, None),
    "bos_token_id": (2, None),
    "quantization_config": (None,),
}
_TEXT = _TOP | {
    "hidden_activation": ("gelu_pytorch_tanh", "gelu_new"),
    "use_bidirectional_attention": (False, None),
    "attention_bias": (False, None),
    "rms_norm_eps": (1e-6,),
}
# The values of a key that agree with what the runtime computes; the default is the first.
FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    "text": _TEXT,
    "top": _TOP,
    "vision": {
        "num_channels": (3,),
        "layer_norm_eps": (1e-6,),
        "hidden_act": ("gelu_pytorch_tanh", "gelu_new"),
    },
    "qwen3": {
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False, None),
        "is_encoder_decoder": (False, None),
        "rms_norm_eps": (1e-6,),
        "quantization_config": (None,),
    },
    "gemma4-text": _TEXT
    | {
        "use_bidirectional_attention": (False, None, "vision"),  # of images, which the file doesn't take
        "attn_logit_softcapping": (None,),
    },
    "gemma4-top": _TOP,
}
# Other values of these are only noted: the file runs, with the runtime's own.
NOTED = {
    "rms_norm_eps": "every gemma.cpp computes with 1e-06",
    "layer_norm_eps": "every gemma.cpp computes with 1e-06",
    "bos_token_id": "every gemma.cpp begins a prompt with token 2",
    "decoder_start_token_id": "every gemma.cpp begins an answer with token 2",
    "quantization_config": "the tensors are converted as they are",
}
_USUAL_PARTS = ("top", "text")  # a config.json without its text_config, and that; or all of it, if it has none
_PARTS = {"gemma4": ("gemma4-top", "gemma4-text"), "qwen3": ("", "qwen3")}  # an empty name: never has a text_config
_PLACES = {"gemma4-text": "text_config.", "text": "text_config.", "vision": "vision_config."}


def text_of(family: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that is about text."""
    text = config.get("text_config")
    return text if isinstance(text, dict) and _PARTS.get(family, _USUAL_PARTS)[0] else config


def unknown_keys(family: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the place and the name of each key of a config.json that `KEYS` doesn't have."""
    for part, values in parts_of(family, config):
        place = "" if values is config else _PLACES[part]
        yield from ((place, key) for key in values if key not in KEYS[part])


def parts_of(family: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the parts of a config.json, by their names in `KEYS`."""
    text, vision = text_of(family, config), config.get("vision_config")
    top, inner = _PARTS.get(family, _USUAL_PARTS)
    if text is not config:
        yield top, config
    yield inner, text
    if isinstance(vision, dict) and FAMILIES[family].text_only is not None:
        yield "vision", vision
