"""Weights that are not plain: quantised, or changed by adapters that aren't merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.codecs.element_types import PLAIN_FLOATS
from blobstore.converting.hf_tensors import UNUSED
from blobstore.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.checkpoint.tensors import SourceTensor

# What shows that weights are not plain: part of a tensor's name → what it is, and the fix.
_FOREIGN = {
    "lora_": "a LoRA adapter: pass its folder as --adapter, or merge it into the model first (merge_and_unload)",
    "base_layer.": "a model with unmerged adapters: merge them first (merge_and_unload)",
    ".qweight": "GPTQ or AWQ quantised: convert from the original checkpoint",
    ".qzeros": "GPTQ or AWQ quantised: convert from the original checkpoint",
    ".g_idx": "GPTQ quantised: convert from the original checkpoint",
    "absmax": "bitsandbytes quantised: convert from the original checkpoint",
    "quant_map": "bitsandbytes quantised: convert from the original checkpoint",
    "quant_state": "bitsandbytes quantised: convert from the original checkpoint",
    ".SCB": "bitsandbytes quantised: convert from the original checkpoint",
    "weight_scale": "FP8 with scales: convert from the original checkpoint",
    "input_scale": "FP8 with scales: convert from the original checkpoint",
}


def foreign_tensors(checkpoint: Checkpoint) -> Iterator[Fault]:
    """Find quantised and adapted weights."""
    if checkpoint.config.get("quantization_config"):
        what = "config.json has a quantization_config: convert from the original, unquantised checkpoint"
        yield Fault("quantised", "quantization_config", what)
    for name, entry in checkpoint.tensors.items():
        foreign = next((text for part, text in _FOREIGN.items() if part in name), None)
        if foreign:
            yield Fault("adapter" if "merge" in foreign else "quantised", name, f"this is {foreign}")
        elif entry.type.name not in PLAIN_FLOATS and not name.endswith(tuple(UNUSED)):
            what = f"stored as {entry.type}: quantised? Convert from the original checkpoint in bf16, f16 or f32"
            yield Fault("quantised", name, what)


def is_foreign(name: str, entry: SourceTensor) -> bool:
    """Whether `foreign_tensors` reports a tensor."""
    return any(part in name for part in _FOREIGN) or entry.type.name not in PLAIN_FLOATS
