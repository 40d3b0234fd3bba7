"""What each layer of a Gemma 4 is like, by its tensors: the layers of one model differ.

Spec: spec/gemma.md, Gemma 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.converting.hf_tensors import not_whole_heads
from blobstore.errors import Fault

if TYPE_CHECKING:
    from blobstore.converting.hf_config import Settings
    from blobstore.converting.hf_tensors import Shapes
    from blobstore.converting.hf_values import Values


@dataclass(frozen=True)
class Layer:
    """What one layer is like, by its tensors; its keys and values are another's if `source` is that layer's number."""

    heads: int
    kv_heads: int
    size: int
    hidden: int
    is_global: bool
    source: int


@dataclass(frozen=True)
class Text:
    """A text part: what is known before its layers are.

    Attributes:
        prefix: Of its tensors.
        values: What config.json says.
        shapes: Of all tensors.
        settings: What config.json says besides dimensions.
        shared: How many of the last layers share keys and values.
    """

    prefix: str
    values: Values
    shapes: Shapes
    settings: Settings
    shared: int

    def shape(self, layer: int, name: str) -> tuple[int, ...]:
        """Return the shape of a layer's tensor; empty if there is none, or if it has no elements."""
        shape = self.shapes.get(f"{self.prefix}layers.{layer}.{name}", ())
        return () if 0 in shape else shape

    def is_global(self, layer: int) -> bool:
        """Whether a layer has full attention."""
        return self.settings.windows[layer] == self.settings.max_seq_len


def read_layers(text: Text, count: int) -> list[Layer] | Fault:
    """Return so many layers; a fault when the dimensions of one can't be worked out."""
    layers: list[Layer] = []
    for i in range(count):
        layer = _layer(text, layers, i, own=count - text.shared)
        if isinstance(layer, Fault):
            return layer
        layers.append(layer)
    if not layers:
        return Fault("missing-tensor", f"{text.prefix}layers.0", "there are no layers: the checkpoint is incomplete")
    return layers


def _layer(text: Text, before: list[Layer], i: int, *, own: int) -> Layer | Fault:
    """Read a layer's dimensions from its tensors; ``own`` is how many layers have keys and values of their own."""
    needed = ["mlp.gate_proj.weight", "self_attn.q_proj.weight", "self_attn.q_norm.weight"]
    if i < own:
        needed.append("self_attn.k_proj.weight")
    for name in needed:
        if len(text.shape(i, name)) != (1 if "norm" in name else 2):
            subject = f"{text.prefix}layers.{i}.{name}"
            what = "it is missing, or its shape is not what a layer's is: the checkpoint is incomplete"
            return Fault("missing-tensor", subject, what)
    (size,), queries = text.shape(i, "self_attn.q_norm.weight"), text.shape(i, "self_attn.q_proj.weight")[0]
    hidden, is_global = text.shape(i, "mlp.gate_proj.weight")[0], text.is_global(i)
    source = -1
    if i < own:
        keys = text.shape(i, "self_attn.k_proj.weight")[0]
    else:
        source = max((j for j in range(max(own, 0)) if before[j].is_global == is_global), default=-1)
        if source < 0 or before[source].size != size:
            what = f"layer {i} shares keys and values, but no layer like it has its own"
            return Fault("unsupported-config", "num_kv_shared_layers", f"{what}: is config.json this checkpoint's own?")
        keys = before[source].kv_heads * size
    fault = not_whole_heads(f"{text.prefix}layers.{i}.self_attn.q_proj.weight", queries, keys, size)
    if fault:
        return fault
    return Layer(queries // size, keys // size, size, hidden, is_global, source)


def experts_of(text: Text) -> tuple[int, int]:
    """Return how many experts a layer has, and how wide they are; zeros without any."""
    shape = text.shape(0, "experts.gate_up_proj")
    return (shape[0], shape[1] // 2) if len(shape) == 3 else (0, 0)


def ple_dim_of(text: Text) -> int:
    """Return the width of a layer's own embeddings; 0 without any."""
    shape = text.shape(0, "per_layer_input_gate.weight")
    return shape[0] if len(shape) == 2 else 0
