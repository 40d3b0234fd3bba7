"""The models that the runtimes know: their specifiers and configs.

Spec: spec/gemma.md, Models.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from blobstore.errors import UsageError
from blobstore.gemma.enums import WEIGHTS, Model, WeightType, Wrapping
from blobstore.gemma.families.gemma2 import GEMMA2, PALIGEMMA2, gemma2, paligemma2
from blobstore.gemma.families.gemma3 import GEMMA3, GEMMA3_LM, gemma3, gemma3_lm
from blobstore.gemma.families.gemma4 import GEMMA4, gemma4
from blobstore.gemma.families.qwen3 import QWEN3, qwen3
from blobstore.gemma.families.t5gemma import T5GEMMA, t5gemma

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.gemma.config import ModelConfig

_PREFIXES = {
    Model.GEMMA2_2B: "gemma2-2b",
    Model.GEMMA2_9B: "9b",
    Model.GEMMA2_27B: "27b",
    Model.PALIGEMMA2_3B_224: "paligemma2-3b-224",
    Model.PALIGEMMA2_3B_448: "paligemma2-3b-448",
    Model.PALIGEMMA2_10B_224: "paligemma2-10b-224",
    Model.PALIGEMMA2_10B_448: "paligemma2-10b-448",
    Model.GEMMA3_270M: "gemma3-270m",
    Model.GEMMA3_1B: "gemma3-1b",
    Model.GEMMA3_4B: "gemma3-4b",
    Model.GEMMA3_12B: "gemma3-12b",
    Model.GEMMA3_27B: "gemma3-27b",
    Model.GEMMA3_4B_LM: "gemma3-4b-lm",
    Model.GEMMA3_12B_LM: "gemma3-12b-lm",
    Model.GEMMA3_27B_LM: "gemma3-27b-lm",
    Model.GEMMA4_26B_MOE: "gemma4-26b-moe",
    Model.GEMMA4_2B: "gemma4-2b",
    Model.GEMMA4_2B_LM: "gemma4-2b-lm",
    Model.GEMMA4_E4B: "gemma4-e4b",
    Model.GEMMA4_E4B_LM: "gemma4-e4b-lm",
    Model.DEEPSEEK4_FLASH: "deepseek4-flash",
    Model.T5GEMMA_S_S: "t5gemma-s-s",
    Model.QWEN3_600M: "qwen3-0_6b",
    Model.QWEN3_2B: "qwen3-2b",
    Model.QWEN3_4B: "qwen3-4b",
}
_SUFFIXES = {Wrapping.IT: "-it", Wrapping.PT: "-pt", Wrapping.VLM: "-vlm", Wrapping.PALIGEMMA: "-pg"}
# Each model, and what makes its config.
_MAKERS: dict[Model, Callable[[Model], ModelConfig]] = {
    **dict.fromkeys(GEMMA2, gemma2),
    **dict.fromkeys(GEMMA3, gemma3),
    **dict.fromkeys(PALIGEMMA2, paligemma2),
    **dict.fromkeys(GEMMA3_LM, gemma3_lm),
    **dict.fromkeys(GEMMA4, gemma4),
    **dict.fromkeys(T5GEMMA, t5gemma),
    **dict.fromkeys(QWEN3, qwen3),
}
_KNOWN = [_PREFIXES[model] for model in _MAKERS]
# The models that have one wrapping only.
_ONE_WRAPPING = dict.fromkeys(PALIGEMMA2, Wrapping.PALIGEMMA) | {
    model: Wrapping.VLM for model in GEMMA3 if model != Model.GEMMA3_270M
}
# The dimensions of the models whose layers are all alike.
DIMENSIONS = GEMMA2 | GEMMA3 | PALIGEMMA2 | QWEN3 | T5GEMMA


def model_config(model: Model, weight: WeightType, wrapping: Wrapping | None = None) -> ModelConfig:
    """Return a model's config as the runtime writes it; for Gemma 3, with the word that newer runtimes need.

    For Gemma 3 270M that word is 1, as in the published checkpoint; gemma.cpp's own config has 0.

    Args:
        model: One that has a config here: all but `Model.CUSTOM` and DeepSeek.
        weight: The narrowest type of its tensors.
        wrapping: IT or PT for the models that come in both forms, by default IT. The others have only one wrapping.

    Raises:
        UsageError: ``unknown-model``; ``bad-wrapping`` for one that the model doesn't have.
    """
    if model not in _MAKERS:
        what = f"the config of {_PREFIXES.get(model, model.name)} is not known here, only those of {', '.join(_KNOWN)}"
        raise UsageError("unknown-model", what)
    config, own = _MAKERS[model](model), _ONE_WRAPPING.get(model)
    if own is not None and wrapping not in (None, own):
        raise UsageError("bad-wrapping", f"{_PREFIXES[model]} has the wrapping {own.name.lower()}, and no other")
    if own is None and wrapping in (Wrapping.VLM, Wrapping.PALIGEMMA):
        raise UsageError("bad-wrapping", f"{_PREFIXES[model]} has no vision part: its wrapping is it or pt")
    chosen = own if own is not None else wrapping if wrapping is not None else Wrapping.IT
    return replace(config, weight=weight, wrapping=chosen)


def config_of(specifier: str) -> ModelConfig:
    """Return the config of a published model: ``gemma3-270m-sfp-it``, ``paligemma2-3b-224-bf16``, ``9b-sfp-pt``.

    Raises:
        UsageError: ``unknown-model``; the message lists those that are known.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.display_name, config.wrapping
        ('Gemma3_270M', <Wrapping.IT: 0>)
    """
    for model in sorted(_MAKERS, key=lambda model: -len(_PREFIXES[model])):  # the longest prefix first
        prefix = _PREFIXES[model]
        if not specifier.startswith(prefix + "-"):
            continue
        name, dash, ending = specifier.removeprefix(prefix + "-").partition("-")
        wrapping = next((wrapping for wrapping, suffix in _SUFFIXES.items() if suffix == dash + ending), None)
        if name in WEIGHTS and (wrapping is not None or not dash):
            return model_config(model, WEIGHTS[name], wrapping)
    known = ", ".join(_KNOWN)
    raise UsageError(
        "unknown-model",
        f"{specifier!r} is not a specifier: expected one of {known}, then -bf16, -sfp or -f32, then -it or -pt",
    )


def specifier_of(config: ModelConfig) -> str:
    """Return a model's name, weight type and wrapping, as in the names of the runtime's files.

    Raises:
        UsageError: ``unknown-model`` when the config doesn't name a known model, or a known weight type.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> blobstore.gemma.specifier_of(config.with_weight("bf16"))
        'gemma3-270m-bf16-it'
    """
    if config.model not in _PREFIXES or config.weight == WeightType.UNKNOWN or config.weight.is_newer:
        raise UsageError("unknown-model", f"{config.display_name!r} is not a model that has a specifier")
    ending = _SUFFIXES[config.wrapping] if config.wrapping in (Wrapping.IT, Wrapping.PT) else ""
    return f"{_PREFIXES[config.model]}-{config.weight.name.lower()}{ending}"


def is_gemma3(config: ModelConfig) -> bool:
    """Whether a config is of a Gemma 3, of any size, with or without a vision part."""
    return config.model in GEMMA3 or config.model in GEMMA3_LM
