"""T5Gemma: an encoder and a decoder, with layers like Gemma 2's.

Source: read in gemma.cpp's later configs, not run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from blobstore.gemma.enums import Model
from blobstore.gemma.families.sizes import Dimensions, in_full, text_config, text_layer

if TYPE_CHECKING:
    from blobstore.gemma.config import ModelConfig

T5GEMMA = {Model.T5GEMMA_S_S: Dimensions("T5Gemma_S_S", 8, 512, 1024, 8, 8, 64)}  # of the encoder, and of the decoder


def t5gemma(model: Model) -> ModelConfig:
    """Return the config of a T5Gemma: its layers are the decoder's, which are listed once more."""
    size = T5GEMMA[model]
    layer = replace(text_layer(size), optimized_gating=False)
    config = text_config(model, size, (layer,) * size.layers, (4096, 8192))
    config = replace(
        config,
        vocab_size=256000,
        att_cap=50.0,
        final_cap=30.0,
        secondary_eos_id=107,
        is_encoder_decoder=True,
        encoder_num_layers=size.layers,
        encoder_layer_configs=config.layer_configs,
        encoder_attention_window_sizes=config.attention_window_sizes,
        decoder_num_layers=size.layers,
        decoder_layer_configs=config.layer_configs,
        decoder_attention_window_sizes=config.attention_window_sizes,
        global_rope_theta=1e4,
    )
    return in_full(config)
