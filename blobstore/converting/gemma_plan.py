"""The plan of the file that gemma.cpp runs: from a checkpoint and the user's choices.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from blobstore.checkpoint.tied import is_untied
from blobstore.checkpoint.told import Told
from blobstore.codecs.element_types import BY_NAME
from blobstore.converting.gemma_config import default_wrapping, runtime_faults, vocabulary_fault
from blobstore.converting.gemma_families import FAMILIES, family_of, is_headless, why_by_name
from blobstore.converting.gemma_names import add_names
from blobstore.converting.gemma_recognise import Recognised, recognise
from blobstore.converting.gemma_vocabulary import Pieces
from blobstore.converting.hf_tensors import HEADS, T5GEMMA_HEAD, T5GEMMA_PREFIXES, TEXT_PREFIXES, embedding_of
from blobstore.converting.hf_values import KEEPS_ALL, short
from blobstore.converting.plan import (
    Plan,
    PlannedTensor,
    plan_begun,
    refusal,
    too_many_blobs,
)
from blobstore.converting.recognise_gemma4 import recognise_gemma4
from blobstore.converting.recognise_t5gemma import recognise_t5gemma
from blobstore.converting.runtime_choice import as_chosen
from blobstore.converting.sources.comparing import Sources
from blobstore.converting.sources.foreign import foreign_tensors
from blobstore.errors import CheckpointError, Fault, listed
from blobstore.gemma.enums import WeightType, Wrapping
from blobstore.gemma.models import is_gemma3
from blobstore.gemma.runtimes import LATEST
from blobstore.gemma.tensors import default_type, is_wider, narrowest_type
from blobstore.index.metadata import CHOICES
from blobstore.store.blocks import MINUS_ONE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.converting.choices import Choices
    from blobstore.gemma.config import ModelConfig
    from blobstore.gemma.families.specs import TensorSpec
    from blobstore.tokenizer.fitting import FittingTokenizer

_WIDER_SHOWN = 4
# Of tensors that aren't stored in the chosen type, by whether their spec lists types.
_WHY_WIDER = {
    False: "not each of their rows begins at a block of 32 values",
    True: "gemma.cpp rearranges them as if values didn't share bytes",
}
# Of families whose layers are not as most.
_RECOGNISERS = {"gemma4": recognise_gemma4, "t5gemma": recognise_t5gemma}
_NO_HEAD = (
    "config.json says that the head isn't the embedding (tie_word_embeddings false), but no tensor is a head: is the"
    " checkpoint complete? gemma.cpp uses the embedding"
)
_DOUBT = ("missing-tensor", "shape", "config-disagrees")


def is_gemma(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is of a family that is converted for gemma.cpp, or would be if that were possible."""
    family, fault = family_of(checkpoint.config)
    return fault is not None or (family is not None and not is_headless(family, checkpoint.tensors))


def looks_like_gemma(checkpoint: Checkpoint) -> bool:
    """Whether the tensors of a checkpoint without a config.json have Gemma's names."""
    return not checkpoint.config and any(".pre_feedforward_layernorm." in name for name in checkpoint.tensors)


def plan_for_gemma(
    checkpoint: Checkpoint, choices: Choices, *, tokenizer: FittingTokenizer | None, chat_template: bool
) -> Plan:
    """Plan the file that gemma.cpp runs.

    Args:
        checkpoint: Open.
        choices: The user's.
        tokenizer: Its own or another, or None; fitted to the vocabulary.
        chat_template: Whether the checkpoint has one.

    Raises:
        CheckpointError: ``cannot-convert``, with ``faults``: everything that is wrong, at once.
        MissingExtraError: ``missing-extra``: the tokenizer has to be made or changed, which needs protobuf.
    """
    recognised = _recognised(checkpoint, tokenizer)
    is_default = choices.layout is None
    choices = choices.for_family(recognised.family)
    wrapping, why = _wrapping(recognised, choices, chat_template=chat_template)
    weight = WeightType(BY_NAME[choices.weights].number)
    config = as_chosen(replace(recognised.config, weight=weight, wrapping=wrapping), choices.runtime)
    sources = Sources(recognised, checkpoint, str(choices.layout))
    wider = [spec for spec, _ in sources.blobs if is_wider(spec, choices.weights)]
    faults = _faults(config, sources, pad=choices.pad)
    faults += _without_weights(sources, choices, wider)
    if faults:
        raise _refusal(faults)
    plan = plan_begun(checkpoint)
    plan.notes += recognised.notes
    family = FAMILIES[recognised.family]
    if family.caveat:
        plan.notes.append(family.caveat)
    if recognised.head is None and family.head_label is None and is_untied(checkpoint.config):
        plan.notes.append(_NO_HEAD)
    plan.told += _told(recognised)
    plan.left_out += sources.left_out
    plan.config = config
    if tokenizer is not None:
        fitted = tokenizer.fitted(recognised.vocabulary.tokens, recognised.vocabulary.padded)
        plan.tokenizer = fitted.raw
        plan.notes += fitted.notes
    plan.notes.append(f"wrapping {wrapping.name.lower()}: {why}")
    plan.notes += _notes(recognised, choices, wider, is_default=is_default)
    plan.tensors += _tensors(sources, choices)
    _set_weight(plan, config)
    add_names(plan, sources, choices.weights)
    plan.metadata[CHOICES] = _choices_text(recognised, config, choices)
    fault = too_many_blobs(plan.blob_count(embedded=True))
    if fault:
        raise _refusal([fault])
    return plan


def _set_weight(plan: Plan, config: ModelConfig) -> None:
    """Let the config name the narrowest type, which is not that of the weights where a tensor can't have it."""
    narrowest = narrowest_type(tensor.type for tensor in plan.tensors)
    if narrowest is not None and narrowest.number != config.weight:
        what = f"gemma.cpp takes some tensors in no other type: the config says that weights are {narrowest}"
        plan.notes.append(what)
        plan.config = replace(config, weight=WeightType(narrowest.number))


def _refusal(faults: list[Fault]) -> CheckpointError:
    return refusal(faults, fix=KEEPS_ALL)


def _recognised(checkpoint: Checkpoint, tokenizer: FittingTokenizer | None) -> Recognised:
    family, fault = family_of(checkpoint.config)
    if fault or family is None:
        raise _refusal([fault or _no_family(checkpoint)])
    shapes = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    pieces = None if tokenizer is None else Pieces(tokenizer.rows, tokenizer.find(FAMILIES[family].pad[0]))
    own_head = _has_own_head(checkpoint)
    reading = _RECOGNISERS.get(family) or partial(recognise, family, own_head=own_head)
    recognised = reading(checkpoint.config, shapes, checkpoint.generation, pieces)
    if isinstance(recognised, Fault):
        raise _refusal([*foreign_tensors(checkpoint), recognised])
    recognised.own_head = own_head
    return recognised


def _has_own_head(checkpoint: Checkpoint) -> bool:
    """Whether there is an output head that isn't the embedding."""
    tensors = checkpoint.tensors
    head = next((tensors[name] for name in (*HEADS, T5GEMMA_HEAD) if name in tensors), None)
    prefixes = (*TEXT_PREFIXES, *(decoder for _, decoder in T5GEMMA_PREFIXES))
    embedding = next((tensors[name] for name in map(embedding_of, prefixes) if name in tensors), None)
    return head is not None and embedding is not None and not head.same_bytes(embedding)


def _no_family(checkpoint: Checkpoint) -> Fault:
    if not checkpoint.config:
        what = "there is no config.json beside the tensors, which says what the model is: add the checkpoint's"
        return Fault("missing-config", "config.json", what)
    said = short(checkpoint.config.get("model_type"))
    what = f"config.json says {said}, which gemma.cpp doesn't run: {KEEPS_ALL}"
    return why_by_name(checkpoint.config) or Fault("unsupported-model", "model_type", what)


def _faults(config: ModelConfig, sources: Sources, *, pad: bool) -> list[Fault]:
    """Return everything that keeps a recognised checkpoint from being converted."""
    known = sources.recognised.faults
    faults = [*foreign_tensors(sources.checkpoint), *known, *runtime_faults(config)]
    unpadded = None if pad else vocabulary_fault(sources.recognised.vocabulary.tokens)
    if unpadded:
        faults.append(unpadded._replace(message=f"{unpadded.message}, or leave out --no-pad"))
    # While the dimensions are in doubt, whatever doesn't match them would be called unexpected.
    doubt = any(fault.reason in _DOUBT for fault in known)
    return [*faults, *(fault for fault in sources.faults() if fault.reason != "unexpected-tensor" or not doubt)]


def _wrapping(recognised: Recognised, choices: Choices, *, chat_template: bool) -> tuple[Wrapping, str]:
    own, why = default_wrapping(recognised.config, has_chat_template=chat_template)
    if choices.wrapping is None or recognised.config.vit_config.layer_configs:
        return own, why
    return Wrapping[choices.wrapping.upper()], "you chose it"


def _told(recognised: Recognised) -> Iterator[Told]:
    vocabulary = recognised.vocabulary
    if recognised.lost_vision:
        what = "config.json has a vision part, but no tensor is of one: the text model is converted"
        yield Told("no-vision", "vision_config", what)
    if vocabulary.spare_line:
        yield Told("spare-rows", recognised.embedding, vocabulary.spare_line)
    if vocabulary.padding:
        yield Told("padded-vocabulary", recognised.embedding, vocabulary.padding_line)


def _notes(recognised: Recognised, choices: Choices, wider: Sequence[TensorSpec], *, is_default: bool) -> Iterator[str]:
    stock_only = FAMILIES[recognised.family].stock_only
    if is_default and stock_only:
        yield f"layout stock: gemma.cpp has no other for {stock_only}"
    if choices.weights == "i8":
        yield "i8 is experimental in gemma.cpp, and its --to_bf16 1 stops at it"
    if choices.weights == "q4_0":
        yield f"q4_0 is read by gemma.cpp {LATEST.name} only, and this was not run: it was read in its source"
    for has_types, why in _WHY_WIDER.items():
        specs = [spec for spec in wider if bool(spec.types) == has_types]
        if specs:
            keys = listed([spec.key for spec in specs], _WIDER_SHOWN)
            yield f"{default_type(specs[0], choices.weights)}, not {choices.weights}, since {why}: {keys}"


def _without_weights(sources: Sources, choices: Choices, wider: Sequence[TensorSpec]) -> Iterator[Fault]:
    """Yield a fault if no tensor gets the type of the weights, which the config has to name."""
    if not wider or any(default_type(spec, choices.weights).name == choices.weights for spec, _ in sources.blobs):
        return
    what = f"no tensor can be {choices.weights}, whose blocks need a multiple of 32 columns"
    yield Fault("no-weights", wider[0].key, f"{what}, this one has {wider[0].cols}: use --weights sfp")


def _tensors(sources: Sources, choices: Choices) -> Iterator[PlannedTensor]:
    for spec, pieces in sources.blobs:
        # bf16 would lose bits of values below ½, and the checkpoint's could not be told from the file.
        is_shifted = any(piece.arrange == MINUS_ONE for piece in pieces)
        element_type = BY_NAME["f32"] if is_shifted else default_type(spec, choices.weights)
        nbytes = element_type.nbytes(spec.rows * spec.cols)
        yield PlannedTensor(spec.key, spec.key, element_type, (spec.rows, spec.cols), nbytes, tuple(pieces))


def _choices_text(recognised: Recognised, config: ModelConfig, choices: Choices) -> str:
    """Return what the file's metadata says of the choices that it was made with."""
    made: dict[str, object] = {"weights": choices.weights, "layout": choices.layout}
    made["wrapping"] = config.wrapping.name.lower()
    if recognised.vocabulary.padding:
        made["vocabulary"] = recognised.vocabulary.tokens
    if is_gemma3(config) and not config.use_global_timescale:
        made["rope_bases"] = recognised.bases  # otherwise the config might be one that lacks the field
    if config.model != recognised.config.model:
        made["runtime"] = choices.runtime
    return json.dumps(made, sort_keys=True)
