"""Which Gemma 4 a checkpoint is: from ``config.json``, and the names and shapes of its tensors.

Read, not run. Spec: spec/gemma.md, Gemma 4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blobstore.container.layout import KEY_NBYTES
from blobstore.converting.gemma4_disagreements import disagreements
from blobstore.converting.gemma4_layers import Text, experts_of, ple_dim_of, read_layers
from blobstore.converting.gemma_config import with_bases
from blobstore.converting.gemma_families import FAMILIES
from blobstore.converting.gemma_recognise import Recognised, stop_notes, text_prefix, with_settings
from blobstore.converting.gemma_vocabulary import read_vocabulary
from blobstore.converting.hf_config import read_settings
from blobstore.converting.hf_keys import text_of
from blobstore.converting.hf_tensors import count_layers, embedding_of, head_in, too_many_layers
from blobstore.converting.hf_values import KEEPS_ALL, Values
from blobstore.converting.sources.gemma4 import has_vision_part
from blobstore.errors import Fault
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.enums import WeightType
from blobstore.gemma.families.gemma4 import EXPERT_HIDDEN, MAX_EXPERTS, is_sharing
from blobstore.gemma.models import model_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blobstore.converting.gemma4_layers import Layer
    from blobstore.converting.gemma_vocabulary import Pieces
    from blobstore.converting.hf_tensors import Shapes
    from blobstore.gemma.config import LayerConfig


def recognise_gemma4(
    config: Mapping[str, Any],
    shapes: Shapes,
    generation: Mapping[str, Any] | None = None,
    pieces: Pieces | None = None,
) -> Recognised | Fault:
    """Work out the layers from the tensors, and compare them with what ``config.json`` says.

    Args:
        config: ``config.json``.
        shapes: Of all tensors, by name.
        generation: ``generation_config.json``, when there is one.
        pieces: Of the tokenizer, when there is one.

    Returns:
        The model and everything that is wrong with it; one fault when the dimensions can't be worked out.
    """
    prefix = text_prefix(shapes)
    if isinstance(prefix, Fault):
        return prefix
    count = count_layers(prefix, shapes)
    fault = too_many_layers("num_hidden_layers", count)
    if fault:
        return fault
    values = Values(text_of("gemma4", config))
    settings = read_settings("gemma4", config, generation or {}, layers=count)
    shared = _count(values, "num_kv_shared_layers", 0)
    text = Text(prefix, values, shapes, settings, shared)
    layers = read_layers(text, count)
    family = _family(text)
    said = [*settings.faults, *values.faults]  # this may be why the tensors seem wrong
    if isinstance(layers, Fault):
        return said[0] if said else layers
    if isinstance(family, Fault):
        return said[0] if said else family
    rows = shapes[embedding_of(prefix)][0]
    vocabulary = read_vocabulary("gemma4", rows, config, generation or {}, pieces, may_have_spare=False)
    recognised = Recognised(family, ModelConfig(), prefix, vocabulary=vocabulary, bases=settings.bases)
    recognised.head = head_in(shapes)
    recognised.lost_vision = isinstance(config.get("vision_config"), dict) and not has_vision_part(shapes)
    recognised.keys_as_values = _keys_as_values(text, layers)
    recognised.faults += disagreements(text, layers, rows)
    _set_config(recognised, text, layers)
    recognised.faults += [*settings.faults, *values.faults]
    recognised.notes += [*settings.notes, *values.notes, *stop_notes(recognised.config, vocabulary.tokens)]
    recognised.notes += _notes(recognised)
    return recognised


def _count(values: Values, key: str, default: int) -> int:
    """Return a whole number, 0 for null."""
    value = values.get(key, default)
    return values.count(key, default) if value not in (None, 0) or value is False else 0


def _keys_as_values(text: Text, layers: list[Layer]) -> frozenset[int]:
    if not text.values.flag("attention_k_eq_v"):
        return frozenset()
    return frozenset(i for i, layer in enumerate(layers) if layer.is_global and layer.source < 0)


def _family(text: Text) -> str | Fault:
    """Return which of Gemma 4's families a model is of."""
    experts, width = experts_of(text)
    if experts and ple_dim_of(text):
        what = "it has experts and embeddings for each layer, and gemma.cpp runs no Gemma 4 that has both"
        return Fault("unsupported-model", "model_type", f"{what}: {KEEPS_ALL}")
    if experts and width != EXPERT_HIDDEN:
        what = f"its experts are {width} wide; gemma.cpp takes {EXPERT_HIDDEN} from the model's number"
        return Fault("unsupported-model", "moe_intermediate_size", f"{what}: {KEEPS_ALL}")
    return "gemma4-experts" if experts else "gemma4"


def _set_config(recognised: Recognised, text: Text, layers: list[Layer]) -> None:
    """Set the config: of the published model with these layers, or of the family, changed as config.json says."""
    settings, width = text.settings, text.shapes[recognised.embedding][1]
    family = FAMILIES[recognised.family]
    experts, _ = experts_of(text)
    used = _count(text.values, "top_k_experts", 0) if experts else 0
    if experts:
        recognised.faults += _expert_faults(len(layers), experts, used)
    like = replace(
        model_config(family.label, WeightType.BF16).layer_configs[0],
        model_dim=width,
        ple_dim=ple_dim_of(text),
        num_experts=experts,
        num_experts_per_datapoint=used,
    )
    own = tuple(_layer_config(layer, like) for layer in layers)
    model = next((model for model in family.models if model_config(model, WeightType.BF16).layer_configs == own), None)
    base = model_config(model or family.label, WeightType.BF16)
    if model is None:
        recognised.notes.append(f"no published model has these dimensions: the file is labelled {base.display_name}")
    config = replace(
        with_settings(base, own, settings, recognised.vocabulary),
        partial_rotary_factor=settings.rotary,
        ple_dim=ple_dim_of(text),
    )
    recognised.config = with_bases(config, recognised.family, settings.bases)


def _layer_config(layer: Layer, like: LayerConfig) -> LayerConfig:
    return replace(
        like,
        ff_hidden_dim=layer.hidden,
        heads=layer.heads,
        kv_heads=layer.kv_heads,
        qkv_dim=layer.size,
        kv_share_layer_idx=layer.source,
    )


def _expert_faults(layers: int, experts: int, used: int) -> Iterator[Fault]:
    if not 1 <= used <= experts:
        what = f"config.json says {used}, expected how many of the {experts} experts a token has"
        yield Fault("unsupported-config", "top_k_experts", what)
    if experts > MAX_EXPERTS:
        what = f"its layers have {experts} experts, gemma.cpp has room for {MAX_EXPERTS}"
        yield Fault("unsupported-model", "num_experts", f"{what}: {KEEPS_ALL}")
        return
    longest = f"gating1_w_{layers - 1}_{experts - 1}"
    if len(longest) > KEY_NBYTES:
        what = f"{layers} layers of {experts} experts need keys of {len(longest)} bytes, they have at most {KEY_NBYTES}"
        yield Fault("unsupported-model", "num_experts", f"{what}: {KEEPS_ALL}")


def _notes(recognised: Recognised) -> Iterator[str]:
    config = recognised.config
    sharing = [i for i, layer in enumerate(config.layer_configs) if is_sharing(layer)]
    if sharing:
        what = f"layers {sharing[0]} to {sharing[-1]} share the keys and values of others"
        yield f"{what}: their key_norm, which gemma.cpp requires and doesn't use, is zeros"
    if recognised.keys_as_values:
        which = ", ".join(map(str, sorted(recognised.keys_as_values)))
        yield f"layers {which} have no values of their own: the file has their keys twice"
    if config.final_cap:
        yield f"final_cap {config.final_cap:g} as in config.json; gemma.cpp's own config of Gemma 4 has none"
