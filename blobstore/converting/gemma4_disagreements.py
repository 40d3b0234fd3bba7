"""Where a Gemma 4's ``config.json`` and its tensors disagree: then one of the two belongs to another model.

Spec: spec/gemma.md, config.json of Gemma 4.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from blobstore.converting.gemma4_layers import experts_of, ple_dim_of
from blobstore.converting.hf_tensors import embedding_of
from blobstore.converting.hf_values import KEEPS_ALL, disagreement, short
from blobstore.converting.sources.gemma4 import PLE_EMBEDDINGS
from blobstore.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blobstore.converting.gemma4_layers import Layer, Text

    _OfLayers = Mapping[int, Mapping[str, Any]]  # what `per_layer_config` says, by layer

# What `per_layer_config` may say of a layer.
_OF_LAYER = ("head_dim", "num_key_value_heads")
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


def disagreements(text: Text, layers: list[Layer], rows: int) -> Iterator[Fault]:
    """Yield each disagreement.

    Args:
        text: The text part.
        layers: As its tensors are.
        rows: Of the embedding.
    """
    experts, width = experts_of(text)
    facts: dict[str, tuple[object, ...]] = {
        "hidden_size": (text.shapes[embedding_of(text.prefix)][1],),
        "num_hidden_layers": (len(layers),),
        "vocab_size": (rows,),
        "hidden_size_per_layer_input": (ple_dim_of(text),) if ple_dim_of(text) else (0, None),
        "enable_moe_block": (True,) if experts else (False, None),
    }
    if experts:
        facts |= {"num_experts": (experts,), "moe_intermediate_size": (width,)}
    if ple_dim_of(text):
        facts["vocab_size_per_layer_input"] = (rows,)
        table = text.shapes.get(f"{text.prefix}{PLE_EMBEDDINGS}", (rows,))
        if table[:1] != (rows,):
            what = f"it has {table[0] if table else 0} rows, the embedding {rows}: gemma.cpp has one vocabulary"
            yield Fault("shape", f"{text.prefix}{PLE_EMBEDDINGS}", what)
    for key, allowed in facts.items():
        if key in text.values and text.values.get(key) not in allowed:
            yield disagreement(key, text.values.get(key), allowed[0])
    own = _of_layers(text)
    yield from _layer_disagreements(text, layers, own)
    yield from _unknown_of_layers(text, own)


def _of_layers(text: Text) -> _OfLayers:
    """Return what ``per_layer_config`` says, by layer, as far as it can be read: its numbers may begin with zeros."""
    given = text.values.get("per_layer_config")
    items = given.items() if isinstance(given, dict) else ()
    return {int(key): item for key, item in items if _NUMBER.fullmatch(key) and isinstance(item, dict)}


def _unknown_of_layers(text: Text, known: _OfLayers) -> Iterator[Fault]:
    """Yield what ``per_layer_config`` says besides the heads of layers: gemma.cpp has the same for all layers."""
    given = text.values.get("per_layer_config")
    odd = next((item for item in known.values() if item.keys() - {*_OF_LAYER}), None)
    if odd is not None or len(known) != (0 if given is None else len(given) if isinstance(given, dict) else -1):
        what = f"config.json says {short(odd or given)}, expected only {' and '.join(_OF_LAYER)} of numbered layers"
        yield Fault("unsupported-config", "per_layer_config", f"{what}: {KEEPS_ALL}")


def _layer_disagreements(text: Text, layers: list[Layer], own: _OfLayers) -> Iterator[Fault]:
    """Compare what config.json says of each layer with its tensors; of each key, the first layer that differs."""
    seen: set[str] = set()
    for i, layer in enumerate(layers):
        found = {
            "num_attention_heads": layer.heads,
            "num_key_value_heads": layer.kv_heads,
            "head_dim": layer.size,
            "intermediate_size": layer.hidden,
        }
        for what, key, value in _claims(text, layer, own.get(i, {})):
            if value != found[what] and key not in seen:
                seen.add(key)
                yield disagreement(key, value, f"{found[what]} in layer {i}")


def _claims(text: Text, layer: Layer, said: Mapping[str, Any]) -> Iterator[tuple[str, str, object]]:
    """Yield what config.json says of a layer, ``said`` of it alone: of what, under which key, and the value."""
    values = text.values
    if "num_attention_heads" in values:
        yield "num_attention_heads", "num_attention_heads", values.get("num_attention_heads")
    if "intermediate_size" in values:
        wide = values.get("use_double_wide_mlp") is True and layer.source >= 0
        hidden = values.get("intermediate_size")
        yield "intermediate_size", "intermediate_size", 2 * hidden if wide and type(hidden) is int else hidden
    own = _own_claims(text, layer, said)
    for what in _OF_LAYER:
        key = own.get(what, what)
        if key == "per_layer_config":
            yield what, key, said[what]
        elif key in values:
            yield what, key, values.get(key)


def _own_claims(text: Text, layer: Layer, said: Mapping[str, Any]) -> dict[str, str]:
    """Return under which keys config.json says what a layer has of its own: two spellings of it."""
    values = text.values
    if "per_layer_config" in values:
        return {what: "per_layer_config" for what in _OF_LAYER if what in said}
    if not layer.is_global:
        return {}
    keys = {"head_dim": "global_head_dim"}
    if values.get("attention_k_eq_v") is True and values.get("num_global_key_value_heads") is not None:
        keys["num_key_value_heads"] = "num_global_key_value_heads"
    return keys
