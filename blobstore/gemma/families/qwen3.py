"""Qwen3, dense."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from blobstore.gemma.enums import Activation, Model, PostNorm, TokenizerKind
from blobstore.gemma.families.sizes import Dimensions, in_full, text_config, text_layer

if TYPE_CHECKING:
    from blobstore.gemma.config import ModelConfig

QWEN3 = {
    Model.QWEN3_600M: Dimensions("Qwen3_0.6B", 28, 1024, 3072, 16, 8, 128),
    Model.QWEN3_2B: Dimensions("Qwen3_1.7B", 28, 2048, 6144, 16, 8, 128),
    Model.QWEN3_4B: Dimensions("Qwen3_4B", 36, 2560, 9728, 32, 8, 128),
}
# Those whose files have a head of their own, even where it is tied.
WITH_HEAD = frozenset({Model.QWEN3_600M, Model.QWEN3_2B})
_LENGTH = 32768


def qwen3(model: Model) -> ModelConfig:
    """Return the config of a Qwen3.

    gemma.cpp's own says that the tokenizer is a SentencePiece model; its converter sets `tokenizer_kind`.
    """
    size = QWEN3[model]
    layer = replace(
        text_layer(size),
        optimized_gating=False,
        post_norm=PostNorm.NONE,
        activation=Activation.SILU,
        use_qk_norm=True,
    )
    config = text_config(model, size, (layer,) * size.layers, (_LENGTH,))
    config = replace(
        config,
        vocab_size=151936,
        eos_id=151645,
        secondary_eos_id=151643,
        use_global_timescale=True,
        rope_theta=1e6,
        tokenizer_kind=TokenizerKind.BPE,
    )
    return in_full(config)
