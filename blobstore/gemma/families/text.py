"""The tensors of a text layer, in all families without an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.gemma.enums import LayerType, PostNorm
from blobstore.gemma.families.gemma4 import is_reordered, is_sharing
from blobstore.gemma.families.specs import BY_ELEMENT, TensorSpec, vector, weight

if TYPE_CHECKING:
    from blobstore.gemma.config import LayerConfig


def text_layer_tensors(i: int, layer: LayerConfig, width: int) -> list[TensorSpec]:
    """Return the tensors of a text layer.

    The layers of Gemma 4 that share keys and values have none of their own: the split form lacks these, and the stock
    form has rows that nothing reads.
    """
    has_keys = not is_sharing(layer)
    types = BY_ELEMENT if is_reordered(layer) else ()
    queries = layer.heads * layer.qkv_dim
    keys_values = 2 * layer.kv_heads * layer.qkv_dim
    hidden = layer.ff_hidden_dim
    att, qkv, gating = f"att_{i}", f"qkv_{i}", f"gating_{i}"
    specs = [
        weight(f"att_ein_{i}", layer.heads * width, layer.qkv_dim, slot=att, form="stock"),
        weight(f"att_w_{i}", width, queries, slot=att, form="split"),
        weight(f"qkv_ein_{i}", queries + keys_values, width, slot=qkv, form="stock", types=types),
        weight(f"qkv1_w_{i}", queries, width, slot=qkv, form="split"),
        weight(
            f"qkv2_w_{i}",
            keys_values,
            width,
            slot=qkv if has_keys else "",
            form="split" if has_keys else "",
            optional=not has_keys,
            types=types,
        ),
        weight(f"gating_ein_{i}", 2 * hidden, width, slot=gating, form="stock"),
        weight(f"gating1_w_{i}", hidden, width, slot=gating, form="split"),
        weight(f"gating2_w_{i}", hidden, width, slot=gating, form="split"),
        weight(f"linear_w_{i}", width, hidden),
        vector(f"pre_att_ns_{i}", width),
        vector(f"pre_ff_ns_{i}", width),
    ]
    if layer.post_norm == PostNorm.SCALE:
        specs += [vector(f"post_att_ns_{i}", width), vector(f"post_ff_ns_{i}", width)]
    if layer.use_qk_norm:
        specs += [vector(f"key_norm_{i}", layer.qkv_dim), vector(f"query_norm_{i}", layer.qkv_dim)]
    if layer.ff_biases and layer.type == LayerType.GEMMA:
        specs += [vector(f"ffw_gat_b_{i}", 2 * hidden, "f32"), vector(f"ffw_out_b_{i}", width, "f32")]
    return specs
