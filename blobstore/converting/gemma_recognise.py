"""Which of gemma.cpp's models a checkpoint is: from ``config.json``, and the names and shapes of its tensors.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from blobstore.converting.gemma_config import labelled, lost_stops, with_bases
from blobstore.converting.gemma_families import FAMILIES
from blobstore.converting.gemma_vision import image_token_faults, read_vision
from blobstore.converting.gemma_vocabulary import Vocabulary, read_vocabulary
from blobstore.converting.hf_config import LOCAL_BASE, read_settings
from blobstore.converting.hf_keys import text_of
from blobstore.converting.hf_tensors import (
    SPARE_ROWS,
    TEXT_PREFIXES,
    count_layers,
    embedding_of,
    has_vision,
    head_in,
    no_embedding,
    not_a_matrix,
    not_whole_heads,
    text_prefix_in,
    too_many_layers,
)
from blobstore.converting.hf_values import disagreement
from blobstore.errors import Fault
from blobstore.gemma.config import LayerConfig, ModelConfig, VitConfig
from blobstore.gemma.enums import QueryScale, WeightType
from blobstore.gemma.families.sizes import Dimensions
from blobstore.gemma.models import model_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blobstore.converting.gemma_vocabulary import Pieces
    from blobstore.converting.hf_config import Settings
    from blobstore.converting.hf_tensors import Shapes


@dataclass
class Recognised:
    """A checkpoint of a family.

    Attributes:
        family: Of `FAMILIES`.
        config: What the runtime gets, but for its weight type and wrapping.
        text: Prefix of the text part's tensors; of the decoder's in a model that has an encoder.
        vision: Prefix of the vision part's, or empty.
        projector: Prefix of the tensors between the two, or empty.
        encoder: Prefix of the encoder's, or empty.
        head: Name of the output head, when the checkpoint has one.
        own_head: Whether that is another tensor than the embedding.
        vocabulary: Which rows of the embedding are tokens.
        lost_vision: Whether config.json has a vision part, and the tensors have none.
        bases: RoPE's, of local layers and of global ones.
        keys_as_values: The layers without a projection to values, which have their keys' instead.
        faults: Everything that is wrong.
        notes: What a user should know.
    """

    family: str
    config: ModelConfig
    text: str
    vision: str = ""
    projector: str = ""
    encoder: str = ""
    head: str | None = None
    own_head: bool = False
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    lost_vision: bool = False
    bases: tuple[float, float] = (LOCAL_BASE, LOCAL_BASE)
    keys_as_values: frozenset[int] = frozenset()
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def embedding(self) -> str:
        """Name of the embedding; with an encoder, of the decoder's."""
        return embedding_of(self.text)

    @property
    def embeddings(self) -> list[str]:
        """Names of all embeddings."""
        return [self.embedding, *([embedding_of(self.encoder)] if self.encoder else [])]


def recognise(
    family: str,
    config: Mapping[str, Any],
    shapes: Shapes,
    generation: Mapping[str, Any] | None = None,
    pieces: Pieces | None = None,
    *,
    own_head: bool = False,
) -> Recognised | Fault:
    """Work out the model's dimensions from its tensors, and compare them with what ``config.json`` says.

    Args:
        family: From `family_of`.
        config: ``config.json``.
        shapes: Of all tensors, by name.
        generation: ``generation_config.json``, when there is one.
        pieces: Of the tokenizer, when there is one.
        own_head: Whether the output head is another tensor than the embedding.

    Returns:
        The model and everything that is wrong with it; one fault when the dimensions can't be worked out.
    """
    prefix = text_prefix(shapes)
    if isinstance(prefix, Fault):
        return prefix
    text_only = FAMILIES[family].text_only
    may_have_spare = text_only is not None
    has_lost_vision = may_have_spare and not has_vision(shapes)
    if text_only is not None and has_lost_vision:
        family = text_only
    may_see = may_have_spare and not has_lost_vision
    text_config = text_of(family, config)
    size = text_size(prefix, text_config, shapes)
    if isinstance(size, Fault):
        return size
    rows = shapes[embedding_of(prefix)][0]
    generation = generation or {}
    vocabulary = read_vocabulary(family, rows, config, generation, pieces, may_have_spare=may_have_spare)
    recognised = Recognised(family, ModelConfig(), prefix, vocabulary=vocabulary, lost_vision=has_lost_vision)
    recognised.head = head_in(shapes)
    recognised.own_head = own_head
    vision = _add_vision(recognised, config, shapes) if may_see else VitConfig()
    recognised.faults += disagreements(family, text_config, size, rows)
    settings = read_settings(family, config, generation, layers=size.layers)
    recognised.faults += settings.faults
    recognised.bases = settings.bases
    recognised.config = _config(recognised, size, vision, settings)
    recognised.notes += [*settings.notes, *stop_notes(recognised.config, vocabulary.tokens)]
    if may_see:
        recognised.faults += image_token_faults(config, recognised.config)
    return recognised


def text_prefix(shapes: Shapes) -> str | Fault:
    """Find the text part by its embedding, which has to be a matrix with a vocabulary."""
    prefix = text_prefix_in(shapes)
    if prefix is None:
        return no_embedding(TEXT_PREFIXES)
    embedding = embedding_of(prefix)
    return not_a_matrix(embedding, shapes[embedding]) or prefix


def text_size(prefix: str, config: Mapping[str, Any], shapes: Shapes) -> Dimensions | Fault:
    """Read the text part's dimensions from its tensors, and the head size from config.json where no shape tells it."""
    layers = count_layers(prefix, shapes)
    fault = too_many_layers("num_hidden_layers", layers)
    if fault:
        return fault
    first = f"{prefix}layers.0."
    gate, query, key = (f"{first}{name}.weight" for name in ("mlp.gate_proj", "self_attn.q_proj", "self_attn.k_proj"))
    for name in (gate, query, key):
        shape = shapes.get(name, ())
        if len(shape) != 2 or 0 in shape:
            what = f"{name!r} is missing, or is not a matrix: the checkpoint is incomplete"
            return Fault("missing-tensor", name, what)
    norm = shapes.get(f"{first}self_attn.q_norm.weight")
    head = norm[0] if norm else config.get("head_dim")
    if type(head) is not int or head < 1:
        what = "config.json has no head_dim, and no tensor's shape tells it: add the checkpoint's config.json"
        return Fault("missing-config", "head_dim", what)
    width = shapes[embedding_of(prefix)][1]
    hidden, queries, keys = shapes[gate][0], shapes[query][0], shapes[key][0]
    fault = not_whole_heads(query, queries, keys, head)
    if fault:
        return fault
    return Dimensions("", layers, width, hidden, queries // head, keys // head, head)


def _add_vision(recognised: Recognised, config: Mapping[str, Any], shapes: Shapes) -> VitConfig:
    part = read_vision(recognised.family, config.get("vision_config"), shapes)
    recognised.vision, recognised.projector = part.prefix, part.projector
    recognised.faults += part.faults
    recognised.notes += part.notes
    return part.config


def disagreements(family: str, config: Mapping[str, Any], size: Dimensions, rows: int) -> Iterator[Fault]:
    """Compare config.json with the tensors: if they disagree, one of the two belongs to another model.

    Args:
        family: Of `FAMILIES`.
        config: The part of config.json that describes these layers.
        size: Of the layers, by their tensors.
        rows: Of the embedding.
    """
    spare = 0 if FAMILIES[family].is_late else SPARE_ROWS
    facts = {
        "hidden_size": size.model_dim,
        "intermediate_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.qkv_dim,
        "vocab_size": rows,
    }
    for name, value in facts.items():
        # Vision models' configs give the vocabulary with or without the spare rows.
        allowed = (value, value - spare) if name == "vocab_size" else (value,)
        if name in config and config[name] not in allowed:
            yield disagreement(name, config[name], value)


def _config(recognised: Recognised, size: Dimensions, vision: VitConfig, settings: Settings) -> ModelConfig:
    """Return the config of the published model with these dimensions, or of its family, changed as config.json says."""
    family = recognised.family
    label, why = labelled(family, size, vision, two_bases=settings.two_bases, own_head=recognised.own_head)
    base = model_config(label, WeightType.BF16)
    if why:
        recognised.notes.append(f"{why}: the file is labelled {base.display_name}")
    layer = replace(
        base.layer_configs[0],
        model_dim=size.model_dim,
        ff_hidden_dim=size.hidden,
        heads=size.heads,
        kv_heads=size.kv_heads,
        qkv_dim=size.qkv_dim,
    )
    config = with_settings(base, (layer,) * size.layers, settings, recognised.vocabulary)
    config = replace(config, query_scale=_query_scale(recognised, settings, size), vit_config=vision)
    return with_bases(config, family, settings.bases)


def with_settings(
    config: ModelConfig, layers: tuple[LayerConfig, ...], settings: Settings, vocabulary: Vocabulary
) -> ModelConfig:
    """Return a config with layers, at least one, and with what a checkpoint says that all families have."""
    return replace(
        config,
        num_layers=len(layers),
        model_dim=layers[0].model_dim,
        vocab_size=vocabulary.padded,
        max_seq_len=settings.max_seq_len,
        att_cap=settings.att_cap,
        final_cap=settings.final_cap,
        layer_configs=layers,
        attention_window_sizes=settings.windows,
        eos_id=settings.stop[0],
        secondary_eos_id=settings.stop[1],
    )


def _query_scale(recognised: Recognised, settings: Settings, size: Dimensions) -> QueryScale:
    usual, scalar = settings.usual_scalar, settings.query_scalar
    if usual is None:
        return QueryScale.SQRT_KEY_SIZE
    # Where both are the same number, either name will do.
    scales = {size.model_dim / size.heads: QueryScale.SQRT_MODEL_DIM_DIV_NUM_HEADS}
    scales[float(size.qkv_dim)] = QueryScale.SQRT_KEY_SIZE
    if scalar is None:
        if usual not in scales:
            what = f"config.json has no query_pre_attn_scalar: head_dim is used, {size.qkv_dim}"
            recognised.notes.append(f"{what}, as in gemma.cpp's own files; transformers uses {usual:g}")
        return scales.get(usual, QueryScale.SQRT_KEY_SIZE)
    is_reported = any(fault.name == "query_pre_attn_scalar" for fault in recognised.faults)
    if scalar not in scales and not is_reported:
        what = f"{scalar:g} is neither head_dim nor hidden_size / heads: the runtime has no such scale"
        recognised.faults.append(Fault("unsupported-config", "query_pre_attn_scalar", what))
    return scales.get(scalar, QueryScale.SQRT_KEY_SIZE)


def stop_notes(config: ModelConfig, vocabulary: int) -> Iterator[str]:
    """Yield a note on stop tokens outside the vocabulary."""
    lost = [*dict.fromkeys(lost_stops(replace(config, vocab_size=vocabulary)).values())]
    if lost:
        tokens = " or ".join(map(str, lost))
        what = f"the vocabulary has {vocabulary} tokens, and the model never stops at {tokens}"
        yield f"{what}: is eos_token_id this checkpoint's own?"
