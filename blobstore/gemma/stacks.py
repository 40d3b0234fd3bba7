"""The layers that the runtime computes one after the other: the text's, or those of an encoder and of a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from blobstore.gemma.config import LayerConfig, ModelConfig


class Stack(NamedTuple):
    """Layers that are computed one after the other.

    Attributes:
        name: How the names of their fields in the config begin: ``encoder_``, ``decoder_``, or nothing.
        num_layers: How many there are, as the config says.
        layers: The layers.
        windows: Their attention windows.
    """

    name: str
    num_layers: int
    layers: tuple[LayerConfig, ...]
    windows: tuple[int, ...]


def stacks_of(config: ModelConfig) -> tuple[Stack, ...]:
    """Return the stacks of a model: one, or the encoder's and the decoder's."""
    if not config.is_encoder_decoder:
        return (Stack("", config.num_layers, config.layer_configs, config.attention_window_sizes),)
    return tuple(
        Stack(
            name,
            getattr(config, f"{name}num_layers"),
            getattr(config, f"{name}layer_configs"),
            getattr(config, f"{name}attention_window_sizes"),
        )
        for name in ("encoder_", "decoder_")
    )


def text_layers_of(config: ModelConfig) -> dict[str, tuple[LayerConfig, ...]]:
    """Return all layers but a vision part's, by the field that holds them."""
    stacks = {f"config.{stack.name}layer_configs": stack.layers for stack in stacks_of(config)}
    return {"config.layer_configs": config.layer_configs} | stacks
