"""What the families have in common: dimensions, and the config that is made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blobstore.gemma.config import LayerConfig, ModelConfig
from blobstore.gemma.enums import PostNorm

if TYPE_CHECKING:
    from blobstore.gemma.enums import Model

# Tensors that had a scale in files before 2025; the runtime writes this list into every config.
SCALE_BASE_NAMES = (
    "att_ein",
    "qkv_ein",
    "gr_lin_x_w",
    "gr_lin_y_w",
    "gr_lin_out_w",
    "gr_gate_w",
    "gating_ein",
    "linear_w",
)


@dataclass(frozen=True)
class Dimensions:
    """The dimensions in which the models of a family differ."""

    display_name: str
    layers: int
    model_dim: int
    hidden: int
    heads: int
    kv_heads: int
    qkv_dim: int


def dimensions_of(config: ModelConfig) -> Dimensions:
    """Return the dimensions of a config's text part, by its first layer; `display_name` is empty."""
    layer = config.layer_configs[0] if config.layer_configs else LayerConfig()
    sizes = layer.ff_hidden_dim, layer.heads, layer.kv_heads, layer.qkv_dim
    return Dimensions("", len(config.layer_configs), config.model_dim, *sizes)


def text_layer(size: Dimensions) -> LayerConfig:
    """Return a layer of these dimensions, normalised after attention and after the feed-forward part."""
    return LayerConfig(
        model_dim=size.model_dim,
        ff_hidden_dim=size.hidden,
        heads=size.heads,
        kv_heads=size.kv_heads,
        qkv_dim=size.qkv_dim,
        post_norm=PostNorm.SCALE,
    )


def text_config(
    model: Model, size: Dimensions, layers: tuple[LayerConfig, ...], windows: tuple[int, ...]
) -> ModelConfig:
    """Return a config that repeats a pattern of attention windows; the last window is the whole sequence."""
    return ModelConfig(
        display_name=size.display_name,
        model=model,
        num_layers=size.layers,
        model_dim=size.model_dim,
        max_seq_len=windows[-1],
        layer_configs=layers,
        attention_window_sizes=tuple(windows[i % len(windows)] for i in range(size.layers)),
        eos_id=1,
        scale_base_names=SCALE_BASE_NAMES,
    )


def in_full(config: ModelConfig) -> ModelConfig:
    """Return a config with every field of later runtimes in it and its layers, as these write it."""
    return replace(
        config,
        extent=len(ModelConfig.fields()),
        layer_configs=layers_in_full(config.layer_configs),
        encoder_layer_configs=layers_in_full(config.encoder_layer_configs),
        decoder_layer_configs=layers_in_full(config.decoder_layer_configs),
        vit_config=replace(config.vit_config, layer_configs=layers_in_full(config.vit_config.layer_configs)),
    )


def layers_in_full(layers: tuple[LayerConfig, ...]) -> tuple[LayerConfig, ...]:
    """Return layers with every field of later runtimes."""
    return tuple(replace(layer, extent=len(LayerConfig.fields())) for layer in layers)
