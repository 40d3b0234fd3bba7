"""Check a config: what gemma.cpp can't load or compute.

The rules are listed, with their sources, in spec/gemma.md, Rules of the runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checking.codes import CODES
from blobstore.checking.findings import finding, from_newer
from blobstore.checking.later_layers import check_later_layers
from blobstore.checking.vision import LANES, MATMUL_ROWS, MAX_COLUMNS, check_vision
from blobstore.container.keys import CONFIG_KEY
from blobstore.converting.gemma_config import lost_stops, right_label, runtime_faults
from blobstore.gemma.enums import LayerType, Model, WeightType
from blobstore.gemma.families.gemma4 import GEMMA4
from blobstore.gemma.models import is_gemma3
from blobstore.gemma.newer import newer_config
from blobstore.gemma.runtimes import OCTOBER
from blobstore.gemma.stacks import stacks_of, text_layers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.checking.findings import Finding
    from blobstore.gemma.config import LayerConfig, ModelConfig
    from blobstore.gemma.stacks import Stack

_MAX_QKV_DIM = 1024
_AVX2_VOCABULARY = 16
_SHORTEST_PROMPT = 10  # tokens: one of the user's, and the wrapping
# Sizes of the first layer, by which it allocates for all layers.
_ALIKE = ("ff_hidden_dim", "heads", "kv_heads", "qkv_dim", "post_qk")
# Models whose layers may differ, in the runtimes that run them.
_UNLIKE_MODELS = (*GEMMA4, Model.DEEPSEEK4_FLASH)


def check_config(config: ModelConfig, *, one_base: bool = False) -> Iterator[Finding]:
    """Yield what gemma.cpp can't load or compute, whatever the tensors are.

    Args:
        config: From the file.
        one_base: Whether the model is known to have one RoPE base for all layers.
    """
    for what, missing in (("model", config.model == Model.UNKNOWN), ("weight", config.weight == WeightType.UNKNOWN)):
        if missing:
            yield finding("config-model", f"config.{what}", f"the config names no {what}")
    if config.model == Model.CUSTOM:
        yield finding("custom-model", "config.model", "the config doesn't name a model of the runtime's own")
    yield from _rope(config, one_base=one_base)
    yield from _sizes(config)
    yield from _alike(config)
    yield from check_later_layers(config)
    yield from check_vision(config)
    for fault in runtime_faults(config):
        if fault.reason != "vocabulary":
            yield finding(fault.reason, "config", fault.message)
            continue
        effect = None
        if config.vocab_size % _AVX2_VOCABULARY:
            where = "machines with AVX2 or AVX-512" if config.vocab_size % MATMUL_ROWS == 0 else "all machines"
            effect = f"gemma.cpp stops when it samples, on {where}"
        yield finding(fault.reason, "config", fault.message, effect=effect)
    if config.trailing:
        what = f"{4 * len(config.trailing)} bytes follow the config's record"
        yield finding("config-trailing", CONFIG_KEY, what)
    yield from from_newer(newer_config(config))
    if config.weight == WeightType.NUQ:
        yield finding("nuq-weights", "config.weight", "the weights are nuq")
    if config.weight == WeightType.I8:
        yield finding("i8-weights", "config.weight", "the weights are i8")


def _rope(config: ModelConfig, *, one_base: bool) -> Iterator[Finding]:
    """Compare the RoPE bases that each runtime gives to the layers with those that a Gemma 3 needs."""
    subject = "config.use_global_timescale"
    if not is_gemma3(config):
        return
    by_label = config.model != Model.GEMMA3_270M  # as 2025-10 does
    if config.use_global_timescale == one_base:
        if one_base:
            yield finding("global-rope", subject, "it is 1, and the model has one RoPE base for all its layers")
        else:
            state = "is 0" if config.field_count > config.CORE else "is missing"
            what = f"the field {state}: Gemma 3's global layers have a RoPE base of 1,000,000"
            yield finding("global-rope", subject, what)
    if by_label == one_base and config.model <= OCTOBER.values[Model]:
        base = "1,000,000" if by_label else "10,000"
        what = f"2025-10 gives global layers of {config.model.name} a RoPE base of {base}, whatever the file says"
        better = not one_base and right_label(config) != config.model
        fix = "blobstore repair FILE sets the label that is right in all runtimes" if better else None
        yield finding("rope-by-label", "config.model", what, fix=fix)


def _sizes(config: ModelConfig) -> Iterator[Finding]:
    if not config.layer_configs:
        yield finding("config-sizes", "config.layer_configs", "there are none")
    for stack in stacks_of(config):
        yield from _stack(config, stack)
    if config.max_seq_len <= _SHORTEST_PROMPT:
        what = f"it is {config.max_seq_len}, but a prompt of one word has up to {_SHORTEST_PROMPT} tokens with wrapping"
        yield finding("sequence", "config.max_seq_len", what)
    for field, token in lost_stops(config).items():
        # In a batch of prompts of several lengths it pads the shorter ones with eos_id, without a check.
        more = "; with several prompts at a time it reads outside the embedding" if field == "eos_id" else ""
        effect = f"{CODES['stop-token'].effect}{more}"
        what = f"it is {token}, but the vocabulary has {config.vocab_size} tokens"
        yield finding("stop-token", f"config.{field}", what, effect=effect)


def _stack(config: ModelConfig, stack: Stack) -> Iterator[Finding]:
    """Yield what is wrong with the sizes of some layers."""
    name, count = f"config.{stack.name}", len(stack.layers)
    if count != stack.num_layers:
        what = f"{stack.name}num_layers is {stack.num_layers}, but there are {count} layer configs"
        effect = "none: gemma.cpp counts the layer configs"
        yield finding("config-sizes", f"{name}num_layers", what, severity="warning", effect=effect)
    if stack.name and not stack.layers:
        yield finding("config-sizes", f"{name}layer_configs", "there are none")
    if len(stack.windows) < count:
        what = f"{len(stack.windows)} windows for {count} layers"
        yield finding("config-sizes", f"{name}attention_window_sizes", what)
    for i, layer in enumerate(stack.layers):
        subject = f"{name}layer_configs[{i}]"
        for what in _layer_faults(layer):
            yield finding("config-sizes", subject, what)
        if layer.qkv_dim % LANES and OCTOBER.knows(config.model):
            what = f"qkv_dim is {layer.qkv_dim}, not a multiple of {LANES}"
            yield finding("config-sizes", subject, what, runtimes=(OCTOBER.name,))
        widths = {"model_dim": config.model_dim, "ff_hidden_dim": layer.ff_hidden_dim}
        widths["heads · qkv_dim"] = layer.heads * layer.qkv_dim
        yield from _columns(subject, widths)


def _layer_faults(layer: LayerConfig) -> Iterator[str]:
    if layer.qkv_dim > _MAX_QKV_DIM:
        yield f"qkv_dim is {layer.qkv_dim}, gemma.cpp's buffers hold {_MAX_QKV_DIM}"
    if not layer.heads or not layer.kv_heads or layer.heads % layer.kv_heads:
        yield f"{layer.heads} heads can't share {layer.kv_heads} kv_heads evenly"
    if layer.type == LayerType.VIT:
        yield "it isn't a text layer"


def _columns(subject: str, widths: dict[str, int]) -> Iterator[Finding]:
    """Yield each size of a layer that exceeds the columns of a matrix product."""
    for name, width in widths.items():
        if width > MAX_COLUMNS:
            yield finding("columns", subject, f"{name} is {width}: matrices have at most {MAX_COLUMNS} columns")


def _alike(config: ModelConfig) -> Iterator[Finding]:
    """Yield each layer whose sizes differ from the first layer's."""
    if config.model in _UNLIKE_MODELS or config.model.is_newer or not config.layer_configs:
        return
    first = config.layer_configs[0]
    for field, layers in text_layers_of(config).items():
        for i, layer in enumerate(layers):
            for name in _ALIKE:
                own, other = getattr(layer, name), getattr(first, name)
                if own != other:
                    what = f"its {name} is {own:d}, the first layer's {other:d}"
                    yield finding("unlike-layers", f"{field}[{i}]", what)
