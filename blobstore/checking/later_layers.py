"""Check what only layers of later runtimes have: the keys and values of other layers, and experts.

Source: read in gemma.cpp's later cache and mixture of experts, not run. Spec: spec/gemma.md, Rules of the runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checking.findings import finding
from blobstore.gemma.enums import Model
from blobstore.gemma.families.gemma4 import MAX_EXPERTS, is_sharing
from blobstore.gemma.runtimes import LATEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.checking.findings import Finding
    from blobstore.gemma.config import ModelConfig


def check_later_layers(config: ModelConfig) -> Iterator[Finding]:
    """Yield what the latest runtime can't compute of layers that share keys and values, or have experts."""
    for i in range(len(config.layer_configs)):
        subject = f"config.layer_configs[{i}]"
        for what in (_sharing_fault(config, i), _experts_fault(config, i)):
            if what:
                yield finding("config-sizes", subject, what, runtimes=(LATEST.name,))


def _sharing_fault(config: ModelConfig, i: int) -> str:
    layer = config.layer_configs[i]
    if not is_sharing(layer):
        return ""
    place = f"its kv_share_layer_idx is {layer.kv_share_layer_idx}"
    if layer.kv_share_layer_idx >= i:
        return f"{place}, which is not an earlier layer"
    source = config.layer_configs[layer.kv_share_layer_idx]
    if (source.kv_heads, source.qkv_dim) != (layer.kv_heads, layer.qkv_dim):
        return f"{place}, a layer with other kv_heads or another qkv_dim"
    return ""


def _experts_fault(config: ModelConfig, i: int) -> str:
    layer = config.layer_configs[i]
    if config.model != Model.GEMMA4_26B_MOE or not layer.num_experts:
        return ""
    if layer.num_experts > MAX_EXPERTS:
        return f"it has {layer.num_experts} experts, gemma.cpp's buffers hold {MAX_EXPERTS}"
    if not 1 <= layer.num_experts_per_datapoint <= layer.num_experts:
        return f"a token has {layer.num_experts_per_datapoint} of its {layer.num_experts} experts"
    return ""
