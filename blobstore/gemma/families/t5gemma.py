"""T5Gemma: an encoder and a decoder, with layers like Gemma 2's.

Source: read in gemma.cpp's later configs, not run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from blobstore.gemma.enums import Model
from blobstore.gemma.families.sizes import Dimensions, in_full, layers_in_full, text_config, text_layer
from blobstore.gemma.families.specs import BY_ELEMENT, TensorSpec, vector, weight

if TYPE_CHECKING:
    from blobstore.gemma.config import LayerConfig, ModelConfig

T5GEMMA = {Model.T5GEMMA_S_S: Dimensions("T5Gemma_S_S", 8, 512, 1024, 8, 8, 64)}  # of the encoder, and of the decoder

# Of what the runtime splits or rearranges as it loads it; whether it can do that with i8 is not established.
_STOCK_TYPES = (*BY_ELEMENT, "i8")


def t5gemma(model: Model) -> ModelConfig:
    """Return the config of a T5Gemma: its layers are the decoder's, which are listed once more."""
    size = T5GEMMA[model]
    config = text_config(model, size, (t5gemma_layer(size),) * size.layers, (4096, 8192))
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


def t5gemma_layer(size: Dimensions) -> LayerConfig:
    """Return a layer of these dimensions, of the encoder or of the decoder."""
    (layer,) = layers_in_full((replace(text_layer(size), optimized_gating=False),))
    return layer


def t5gemma_tensors(config: ModelConfig) -> list[TensorSpec]:
    """Return the tensors of a T5Gemma, which come in the stock form only."""
    width = config.model_dim
    specs = [
        weight("enc_embedding", config.vocab_size, width, floor="bf16"),
        weight("dec_embedding", config.vocab_size, width, floor="bf16"),
        vector("enc_final_norm", width),
        vector("dec_final_norm", width),
    ]
    for i, layer in enumerate(config.encoder_layer_configs):
        specs += _layer("e", i, layer, width)
        specs += [vector(f"e_{norm}_{i}", width) for norm in ("pre_att", "post_att", "pre_ff", "post_ff")]
    for i, layer in enumerate(config.decoder_layer_configs):
        queries, keys = layer.heads * layer.qkv_dim, layer.kv_heads * layer.qkv_dim
        specs += _layer("d", i, layer, width)
        specs += [
            weight(f"dc_q_{i}", queries, width),
            weight(f"dc_k_{i}", keys, width),
            weight(f"dc_v_{i}", keys, width),
            weight(f"dc_att_{i}", layer.heads * width, layer.qkv_dim, types=_STOCK_TYPES),
        ]
        norms = ("pre_sa", "post_sa", "pre_ca", "post_ca", "pre_ff", "post_ff")
        specs += [vector(f"d_{norm}_{i}", width) for norm in norms]
    return specs


def _layer(part: str, i: int, layer: LayerConfig, width: int) -> list[TensorSpec]:
    rows = (layer.heads + 2 * layer.kv_heads) * layer.qkv_dim
    return [
        weight(f"{part}_qkv_{i}", rows, width, types=_STOCK_TYPES),
        weight(f"{part}_att_{i}", layer.heads * width, layer.qkv_dim, types=_STOCK_TYPES),
        weight(f"{part}_gate_{i}", 2 * layer.ff_hidden_dim, width, types=_STOCK_TYPES),
        weight(f"{part}_lin_{i}", width, layer.ff_hidden_dim),
    ]
