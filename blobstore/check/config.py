"""What gemma.cpp can't take in a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.check.findings import finding
from blobstore.gemma.config import LayerType, Model, WeightType
from blobstore.gemma.families import runtime_notes
from blobstore.keys import CONFIG_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.check.findings import Finding
    from blobstore.gemma.config import LayerConfig, ModelConfig

MATMUL_ROWS = 4  # that its matrix products take at a time
_MAX_QKV_DIM = 1024
_AVX2_LANES = 16


def check_config(config: ModelConfig) -> Iterator[Finding]:
    """Yield what gemma.cpp can't take in a config, whatever the tensors are."""
    for what, missing in (("model", config.model == Model.UNKNOWN), ("weight", config.weight == WeightType.UNKNOWN)):
        if missing:
            yield finding("config-model", f"config.{what}", f"the config names no {what}")
    yield from _config_sizes(config)
    for fault in runtime_notes(config):
        worse = fault.reason == "vocabulary" and config.vocab_size % _AVX2_LANES
        if worse:
            where = "machines with AVX2 or AVX-512" if config.vocab_size % MATMUL_ROWS == 0 else "all machines"
            effect = f"gemma.cpp stops when it samples, on {where}"
            yield finding(fault.reason, "config", fault.message, severity="error", effect=effect)
        else:
            yield finding(fault.reason, "config", fault.message)
    if config.newer:
        yield finding("newer-fields", CONFIG_KEY, f"{len(config.newer)} words stand behind the fields that are known")
    nested = [config.vit_config, *config.layer_configs, *config.vit_config.layer_configs]
    words = sum(len(record.newer) for record in nested)
    if words:
        yield finding("nested-fields", CONFIG_KEY, f"{words} words stand behind the known fields of inner records")
    if config.weight == WeightType.NUQ:
        yield finding("nuq-weights", "config.weight", "the weights are nuq")
    if config.weight == WeightType.I8:
        yield finding("i8-weights", "config.weight", "the weights are i8")


def _config_sizes(config: ModelConfig) -> Iterator[Finding]:
    if len(config.layer_configs) != config.num_layers:
        what = f"num_layers is {config.num_layers}, and there are {len(config.layer_configs)} layer configs"
        effect = "none: gemma.cpp counts the layer configs"
        yield finding("config-sizes", "config.num_layers", what, severity="warning", effect=effect)
    if not config.layer_configs:
        yield finding("config-sizes", "config.layer_configs", "there are none")
    if len(config.attention_window_sizes) < len(config.layer_configs):
        what = f"{len(config.attention_window_sizes)} windows for {len(config.layer_configs)} layers"
        yield finding("config-sizes", "config.attention_window_sizes", what)
    for i, layer in enumerate(config.layer_configs):
        for what in _layer_faults(config, layer):
            yield finding("config-sizes", f"config.layer_configs[{i}]", what)
    for i, layer in enumerate(config.vit_config.layer_configs):
        if layer.type != LayerType.VIT:
            yield finding("config-sizes", f"config.vit_config.layer_configs[{i}]", "it is no vision layer")


def _layer_faults(config: ModelConfig, layer: LayerConfig) -> Iterator[str]:
    if layer.qkv_dim > _MAX_QKV_DIM:
        yield f"qkv_dim is {layer.qkv_dim}, gemma.cpp has room for {_MAX_QKV_DIM}"
    if not layer.heads or not layer.kv_heads or layer.heads % layer.kv_heads:
        yield f"{layer.heads} heads do not share {layer.kv_heads} kv_heads evenly"
    if layer.type != LayerType.GEMMA:
        yield "it is no text layer"
    if layer.model_dim != config.model_dim:
        yield f"its model_dim is {layer.model_dim}, the model's {config.model_dim}"
