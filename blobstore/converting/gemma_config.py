"""The config of a file for gemma.cpp: its label, RoPE bases, stop tokens, wrapping, and what the runtime refuses.

Spec: spec/gemma.md, Checkpoints and Rules of the runtime.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from blobstore.converting.gemma_families import FAMILIES
from blobstore.converting.hf_config import DEFAULTS, GLOBAL_BASE, LOCAL_BASE
from blobstore.converting.hf_tensors import too_many_layers
from blobstore.errors import Fault
from blobstore.gemma.config import ModelConfig, VitConfig
from blobstore.gemma.enums import Model, Wrapping
from blobstore.gemma.families.gemma2 import PALIGEMMA_IMAGES
from blobstore.gemma.families.qwen3 import WITH_HEAD
from blobstore.gemma.families.sizes import Dimensions, dimensions_of
from blobstore.gemma.models import DIMENSIONS, is_gemma3
from blobstore.gemma.stacks import stacks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

VOCABULARY_STEP = 32  # on machines with AVX-512


def published_model(family: str, size: Dimensions, vision: VitConfig) -> Model | None:
    """Return the published model of a family that has these dimensions, or None."""
    for model in FAMILIES[family].models:
        if replace(DIMENSIONS[model], display_name="") != size:
            continue
        if family != "paligemma2" or PALIGEMMA_IMAGES[model] == vision.image_size:
            return model
    return None


def labelled(family: str, size: Dimensions, vision: VitConfig, *, two_bases: bool, own_head: bool) -> tuple[Model, str]:
    """Return the model number that a file gets, and why if no published model is the same; else an empty text.

    Args:
        family: Of `FAMILIES`.
        size: Of the text part.
        vision: The vision part, or an empty one.
        two_bases: Whether global layers have a RoPE base of their own.
        own_head: Whether the output head is another tensor than the embedding.
    """
    model = published_model(family, size, vision)
    row = FAMILIES[family]
    head_label = row.head_label if own_head else None
    if model is not None and (head_label is None or model in WITH_HEAD):
        return model, ""
    label = head_label or (None if two_bases else row.one_base_label) or row.label
    if model is None:
        return label, "no published model has these dimensions"
    return (
        label,
        f"gemma.cpp reads no lm_head for {DIMENSIONS[model].display_name}, and this model's isn't its embedding",
    )


def with_bases(config: ModelConfig, family: str, bases: tuple[float, float]) -> ModelConfig:
    """Return a config with RoPE's bases, of local layers and of global ones.

    `use_global_timescale` says whether these are two, and a Gemma 3 always has it. Bases that not every runtime
    computes with go into fields of later runtimes. Families of these have both fields, whatever the bases are.
    """
    local_base, global_base = bases
    if FAMILIES[family].is_late:
        return replace(config, rope_theta=local_base, global_rope_theta=global_base)
    config = replace(config, use_global_timescale=local_base != global_base)
    if local_base != LOCAL_BASE:
        config = replace(config, rope_theta=local_base)
    if global_base not in (local_base, GLOBAL_BASE):
        config = replace(config, global_rope_theta=global_base)
    if is_gemma3(config) and not config.use_global_timescale:
        names = [field.name for field in config.fields()]
        config = replace(config, extent=names.index("use_global_timescale") + 1)
    return config


def right_label(config: ModelConfig) -> Model:
    """Return the model number under which every runtime gives a Gemma 3's global layers their own RoPE base.

    Text-only files that are labelled 270M, but have other dimensions, were written by an earlier version of this
    project.
    """
    if config.model != Model.GEMMA3_270M or config.vit_config.layer_configs:
        return config.model
    return published_model("gemma3", dimensions_of(config), VitConfig()) or FAMILIES["gemma3"].label


def repaired(config: ModelConfig, *, one_base: bool = False) -> ModelConfig:
    """Return a Gemma 3's config with `use_global_timescale` and the label that it needs; others as they are.

    Args:
        config: As the file has it.
        one_base: Whether the model is known to have one RoPE base for all layers.
    """
    if not is_gemma3(config):
        return config
    if one_base:
        return replace(config, use_global_timescale=False)
    label = right_label(config)
    if label != config.model:
        config = replace(config, model=label, display_name=DIMENSIONS[label].display_name)
    return replace(config, use_global_timescale=True)


def runtime_faults(config: ModelConfig) -> Iterator[Fault]:
    """Yield what the runtime would stop at in a config that is otherwise right."""
    fault = vocabulary_fault(config.vocab_size)
    if fault:
        yield fault
    fault = too_many_layers("num_hidden_layers", max(len(stack.layers) for stack in stacks_of(config)))
    if fault:
        yield fault


def vocabulary_fault(rows: int) -> Fault | None:
    """Return what the runtime would stop at in a vocabulary of so many rows; None for one that it takes."""
    if rows % VOCABULARY_STEP == 0:
        return None
    stops = "gemma.cpp stops on machines with AVX-512, with top_k 1"
    what = f"a vocabulary of {rows} is not a multiple of {VOCABULARY_STEP}: {stops}; pad the embedding"
    return Fault("vocabulary", "embed_tokens.weight", what)


def lost_stops(config: ModelConfig) -> dict[str, int]:
    """Return the stop tokens that are outside the vocabulary, by field: the model never produces them.

    The runtime's own, which fill up where a checkpoint gives fewer, are left out: a small vocabulary lacks some.
    """
    stops = {"eos_id": config.eos_id, "secondary_eos_id": config.secondary_eos_id}
    own = _own_stops(config.model)
    return {name: token for name, token in stops.items() if not (0 <= token < config.vocab_size or token in own)}


def _own_stops(model: Model) -> set[int]:
    """Return the stop tokens that files get by default: of the model's family, or of all that every runtime knows."""
    late = [name for name, family in FAMILIES.items() if family.is_late and model in family.models]
    families = late or [name for name, family in FAMILIES.items() if not family.is_late]
    return {token for family in families for token in DEFAULTS[family].stop}


def default_wrapping(config: ModelConfig, *, has_chat_template: bool) -> tuple[Wrapping, str]:
    """Return how prompts are wrapped, and why."""
    if config.vit_config.layer_configs:
        return config.wrapping, "this model has one wrapping only"
    if config.model == Model.GEMMA3_1B and _is_published(config):
        return Wrapping.VLM, "published files of this model have it"
    if not has_chat_template:
        return Wrapping.PT, "the checkpoint has no chat template"
    return Wrapping.IT, "the checkpoint has a chat template"


def _is_published(config: ModelConfig) -> bool:
    """Whether the dimensions are those of the model that the config names."""
    return dimensions_of(config) == replace(DIMENSIONS[config.model], display_name="")
