"""Which T5Gemma a Hugging Face checkpoint is: an encoder and a decoder, of one width.

This was read in the runtime's source, not run. Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from blobstore.converting.gemma_config import published_model
from blobstore.converting.gemma_families import FAMILIES
from blobstore.converting.gemma_recognise import Recognised, disagreements, stop_notes, text_size, with_settings
from blobstore.converting.gemma_vocabulary import read_vocabulary
from blobstore.converting.hf_config import LOCAL_BASE, QUERY_SCALAR, check_fixed, read_part, unknown_notes
from blobstore.converting.hf_keys_t5gemma import FIXED, MODULES, unknown_t5gemma_keys
from blobstore.converting.hf_tensors import T5GEMMA_HEAD, T5GEMMA_PREFIXES, embedding_of, no_embedding, not_a_matrix
from blobstore.converting.hf_values import KEEPS_ALL, disagreement
from blobstore.errors import Fault
from blobstore.gemma.config import ModelConfig, VitConfig
from blobstore.gemma.enums import WeightType
from blobstore.gemma.families.t5gemma import t5gemma_layer
from blobstore.gemma.models import model_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from blobstore.converting.gemma_vocabulary import Pieces
    from blobstore.converting.hf_config import Settings
    from blobstore.converting.hf_tensors import Shapes
    from blobstore.gemma.families.sizes import Dimensions

# What the runtime's config has once, for the encoder and the decoder: the key of config.json, and the setting.
_ONCE = {"attn_logit_softcapping": "att_cap", "max_position_embeddings": "max_seq_len"}
# The dimensions that both have in common: by them the runtime allocates.
_ALIKE = {
    "hidden_size": "model_dim",
    "intermediate_size": "hidden",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "qkv_dim",
}


@dataclass(frozen=True)
class _Module:
    """The encoder or the decoder: its object in config.json, and what its tensors say."""

    name: str
    prefix: str
    said: Mapping[str, Any]
    size: Dimensions
    rows: int

    def named(self, faults: Iterable[Fault]) -> Iterator[Fault]:
        """Yield faults of keys under the names that these have in config.json."""
        yield from (fault._replace(name=f"{self.name}.{fault.name}") for fault in faults)


def recognise_t5gemma(
    config: Mapping[str, Any],
    shapes: Shapes,
    generation: Mapping[str, Any] | None = None,
    pieces: Pieces | None = None,
) -> Recognised | Fault:
    """Work out the model's dimensions from its tensors, and compare them with what ``config.json`` says.

    Args:
        config: ``config.json``.
        shapes: Of all tensors, by name.
        generation: ``generation_config.json``, when there is one.
        pieces: Of the tokenizer, when there is one.

    Returns:
        The model and everything that is wrong with it; one fault when the dimensions can't be worked out, or when
        those of encoder and decoder differ.
    """
    modules = _modules(config, shapes)
    if isinstance(modules, Fault):
        return modules
    encoder, decoder = modules
    generation = generation or {}
    # Where it looks for <pad>, as in a text part.
    places = {**config, "text_config": decoder.said}
    vocabulary = read_vocabulary("t5gemma", decoder.rows, places, generation, pieces, may_have_spare=False)
    recognised = Recognised("t5gemma", ModelConfig(), decoder.prefix, encoder=encoder.prefix, vocabulary=vocabulary)
    recognised.head = T5GEMMA_HEAD if T5GEMMA_HEAD in shapes else None
    stop_places = {"generation_config.json": generation, "config.json": config, "its decoder": decoder.said}
    encoding = read_part("t5gemma", encoder.said, {}, layers=encoder.size.layers)
    decoding = read_part("t5gemma", decoder.said, stop_places, layers=decoder.size.layers)
    faults, notes = check_fixed(FIXED["t5gemma"], config)
    for module, settings in ((encoder, encoding), (decoder, decoding)):
        fixed, fixed_notes = check_fixed(FIXED["module"], module.said)
        faults += module.named([*settings.faults, *fixed, *_not_computed(module, settings)])
        notes += [*settings.notes, *fixed_notes]
    faults += encoder.named(_once(encoding, decoding))
    recognised.faults += faults
    recognised.config = _config(recognised, encoder, encoding, decoder, decoding)
    recognised.notes += dict.fromkeys([*notes, *unknown_notes(unknown_t5gemma_keys(config))])
    recognised.notes += stop_notes(recognised.config, vocabulary.tokens)
    return recognised


def _modules(config: Mapping[str, Any], shapes: Shapes) -> tuple[_Module, _Module] | Fault:
    """Return the encoder and the decoder."""
    prefixes = next((pair for pair in T5GEMMA_PREFIXES if any(embedding_of(one) in shapes for one in pair)), None)
    if prefixes is None:
        return no_embedding(prefix for pair in T5GEMMA_PREFIXES for prefix in pair)
    found = []
    for name, prefix in zip(MODULES, prefixes, strict=True):
        module = _module(name, prefix, config, shapes)
        if isinstance(module, Fault):
            return module
        found.append(module)
    encoder, decoder = found
    return _unlike(encoder, decoder) or (encoder, decoder)


def _module(name: str, prefix: str, config: Mapping[str, Any], shapes: Shapes) -> _Module | Fault:
    embedding, said = embedding_of(prefix), config.get(name)
    if not any(tensor.startswith(prefix) for tensor in shapes):
        what = f"the checkpoint has no {name}, no tensor of {prefix}*: gemma.cpp runs both parts together"
        return Fault("unsupported-model", name, f"{what}; {KEEPS_ALL}")
    if not isinstance(said, dict):
        return Fault("missing-config", name, f"config.json has no object {name!r}: is it this checkpoint's own?")
    shape = shapes.get(embedding)
    if shape is None:
        return Fault("missing-tensor", embedding, f"the checkpoint has no embedding of the {name}: is it complete?")
    fault = not_a_matrix(embedding, shape)
    if fault:
        return fault
    size = text_size(prefix, said, shapes)
    if isinstance(size, Fault):
        return size if "." in size.name else size._replace(name=f"{name}.{size.name}")
    return _Module(name, prefix, said, size, shape[0])


def _unlike(encoder: _Module, decoder: _Module) -> Fault | None:
    """Return a fault if encoder and decoder differ in what the runtime has once."""
    pairs = {key: (getattr(encoder.size, name), getattr(decoder.size, name)) for key, name in _ALIKE.items()}
    pairs["vocab_size"] = encoder.rows, decoder.rows
    unlike = [f"{key} {ours}, the decoder's {theirs}" for key, (ours, theirs) in pairs.items() if ours != theirs]
    if not unlike:
        return None
    what = f"it has {'; '.join(unlike)}: gemma.cpp runs a T5Gemma whose parts have the same dimensions"
    return Fault("unsupported-model", "encoder", f"{what}; {KEEPS_ALL}")


def _not_computed(module: _Module, settings: Settings) -> Iterator[Fault]:
    """Yield what a module's object says that isn't what its tensors say, or not what the runtime computes with."""
    yield from disagreements("t5gemma", module.said, module.size, module.rows)
    size, reported = module.size, {fault.name for fault in settings.faults}
    width = module.said.get("cross_attention_hidden_size")
    if width not in (None, size.model_dim):
        yield disagreement("cross_attention_hidden_size", width, size.model_dim)
    scalar = QUERY_SCALAR if settings.query_scalar is None else settings.query_scalar
    if scalar != size.qkv_dim and "query_pre_attn_scalar" not in reported:
        what = f"{scalar:g} is not head_dim, {size.qkv_dim}: the runtime has no other scale for T5Gemma; {KEEPS_ALL}"
        yield Fault("unsupported-config", "query_pre_attn_scalar", what)
    if settings.bases[0] != LOCAL_BASE:
        what = f"the RoPE base is {settings.bases[0]:g}: gemma.cpp computes T5Gemma with {LOCAL_BASE:g}; {KEEPS_ALL}"
        yield Fault("unsupported-config", "rope_theta", what)


def _once(encoding: Settings, decoding: Settings) -> Iterator[Fault]:
    """Yield the encoder's settings that differ from the decoder's, and that the runtime's config has once."""
    for key, name in _ONCE.items():
        ours, theirs = getattr(encoding, name), getattr(decoding, name)
        if ours != theirs:
            what = f"it is {ours:g}, the decoder's {theirs:g}: a file has one for both; {KEEPS_ALL}"
            yield Fault("unsupported-config", key, what)


def _config(
    recognised: Recognised, encoder: _Module, encoding: Settings, decoder: _Module, decoding: Settings
) -> ModelConfig:
    """Return the config of the published model, changed as the tensors and config.json say."""
    size = decoder.size
    base = model_config(FAMILIES["t5gemma"].label, WeightType.BF16)
    published = published_model("t5gemma", size, VitConfig())
    if published is None or encoder.size != size:
        what = "no published model that gemma.cpp knows has these dimensions"
        recognised.notes.append(f"{what}: the file is labelled {base.display_name}")
    layer = t5gemma_layer(size)
    layers = (layer,) * size.layers
    return replace(
        with_settings(base, layers, decoding, recognised.vocabulary),
        encoder_num_layers=encoder.size.layers,
        encoder_layer_configs=(layer,) * encoder.size.layers,
        encoder_attention_window_sizes=encoding.windows,
        decoder_num_layers=size.layers,
        decoder_layer_configs=layers,
        decoder_attention_window_sizes=decoding.windows,
    )
