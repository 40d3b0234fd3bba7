"""The twelve models that every runtime knows, as configs.

Spec: spec/gemma.md, Models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from blobstore.errors import UsageError
from blobstore.gemma.config import LayerConfig, ModelConfig, VitConfig
from blobstore.gemma.enums import WEIGHTS, LayerType, Model, PostNorm, QueryScale, WeightType, Wrapping

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
# Tensors that had a scale in files before 2025; the runtime writes this list into every config.
SCALE_BASE_NAMES = (
    "att_ein",
    "qkv_ein",
    "gr_lin_x_w",
    "gr_lin_y_w",
    "gr_lin_out_w",
    "gr_gate_w",
    "gating_ein",
    "linear_w",
)
PALIGEMMA_VOCABULARY = 257152


@dataclass(frozen=True)
class Dimensions:
    """The dimensions in which the models of a family differ."""

    display_name: str
    layers: int
    model_dim: int
    hidden: int
    heads: int
    kv_heads: int
    qkv_dim: int


_GEMMA2 = {
    Model.GEMMA2_2B: Dimensions("Gemma2_2B", 26, 2304, 9216, 8, 4, 256),
    Model.GEMMA2_9B: Dimensions("Gemma2_9B", 42, 3584, 14336, 16, 8, 256),
    Model.GEMMA2_27B: Dimensions("Gemma2_27B", 46, 4608, 36864, 32, 16, 128),
}
_GEMMA3 = {
    Model.GEMMA3_270M: Dimensions("Gemma3_270M", 18, 640, 2048, 4, 1, 256),
    Model.GEMMA3_1B: Dimensions("Gemma3_1B", 26, 1152, 6912, 4, 1, 256),
    Model.GEMMA3_4B: Dimensions("Gemma3_4B", 34, 2560, 10240, 8, 4, 256),
    Model.GEMMA3_12B: Dimensions("Gemma3_12B", 48, 3840, 15360, 16, 8, 256),
    Model.GEMMA3_27B: Dimensions("Gemma3_27B", 62, 5376, 21504, 32, 16, 128),
}
_GEMMA3_LM = (Model.GEMMA3_4B_LM, Model.GEMMA3_12B_LM, Model.GEMMA3_27B_LM)  # text only, in runtimes after April 2026
# PaliGemma 2 is a Gemma 2 with a vision part: which one, and the size of its images.
_PALIGEMMA2 = {
    Model.PALIGEMMA2_3B_224: (Model.GEMMA2_2B, 224),
    Model.PALIGEMMA2_3B_448: (Model.GEMMA2_2B, 448),
    Model.PALIGEMMA2_10B_224: (Model.GEMMA2_9B, 224),
    Model.PALIGEMMA2_10B_448: (Model.GEMMA2_9B, 448),
}
PALIGEMMA_IMAGES = {model: image for model, (_, image) in _PALIGEMMA2.items()}
DIMENSIONS = _GEMMA2 | _GEMMA3 | {model: _GEMMA2[text] for model, (text, _) in _PALIGEMMA2.items()}
_KNOWN = [_PREFIXES[model] for model in DIMENSIONS]
_SMALL_WINDOW = (Model.GEMMA3_270M, Model.GEMMA3_1B)
_NO_VISION = (Model.GEMMA3_270M, Model.GEMMA3_1B)


def model_config(model: Model, weight: WeightType, wrapping: Wrapping | None = None) -> ModelConfig:
    """Return a model's config as the runtime writes it; for Gemma 3, with the word that newer runtimes need.

    For Gemma 3 270M that word is 1, as in the published checkpoint; gemma.cpp's own config has 0.

    Args:
        model: One of the twelve.
        weight: The narrowest type of its tensors.
        wrapping: IT or PT for the models that come in both forms, by default IT. The others have only one wrapping.

    Raises:
        UsageError: ``unknown-model``; ``bad-wrapping`` for one that the model doesn't have.
    """
    if model in _GEMMA2:
        config, own = _gemma2(model, _GEMMA2[model]), None
    elif model in _PALIGEMMA2:
        config, own = _paligemma2(model, *_PALIGEMMA2[model]), Wrapping.PALIGEMMA
    elif model in _GEMMA3:
        config, own = _gemma3(model, _GEMMA3[model]), None if model == Model.GEMMA3_270M else Wrapping.VLM
    else:
        what = f"the config of {_PREFIXES.get(model, model.name)} is not known here, only those of {', '.join(_KNOWN)}"
        raise UsageError("unknown-model", what)
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
    for model in DIMENSIONS:
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
    return config.model in _GEMMA3 or config.model in _GEMMA3_LM


def dimensions_of(config: ModelConfig) -> Dimensions:
    """Return the dimensions of a config's text part; `display_name` is empty."""
    layer = config.layer_configs[0] if config.layer_configs else LayerConfig()
    sizes = layer.ff_hidden_dim, layer.heads, layer.kv_heads, layer.qkv_dim
    return Dimensions("", len(config.layer_configs), config.model_dim, *sizes)


def _gemma2(model: Model, size: Dimensions) -> ModelConfig:
    layer = replace(_text_layer(size), optimized_gating=False)
    config = _text_config(model, size, layer, (4096, 8192))
    scale = QueryScale.SQRT_MODEL_DIM_DIV_NUM_HEADS if model == Model.GEMMA2_27B else QueryScale.SQRT_KEY_SIZE
    return replace(config, vocab_size=256000, att_cap=50.0, final_cap=30.0, secondary_eos_id=107, query_scale=scale)


def _gemma3(model: Model, size: Dimensions) -> ModelConfig:
    layer = replace(_text_layer(size), use_qk_norm=True)
    window = 512 if model in _SMALL_WINDOW else 1024
    config = _text_config(model, size, layer, (window,) * 5 + (32768,))
    config = replace(config, vocab_size=262144, secondary_eos_id=106, use_global_timescale=True)
    if model in _NO_VISION:
        return config
    return replace(config, vit_config=replace(vision_config(896), pool_dim=4))


def _paligemma2(model: Model, text: Model, image_size: int) -> ModelConfig:
    size = _GEMMA2[text]
    name = f"PaliGemma2_{'3B' if text == Model.GEMMA2_2B else '10B'}_{image_size}"
    return replace(
        _gemma2(text, size),
        model=model,
        display_name=name,
        vocab_size=PALIGEMMA_VOCABULARY,
        vit_config=vision_config(image_size),
    )


def vision_config(image_size: int) -> VitConfig:
    """Return the vision part of all models that have one: SigLIP, patches of 14 × 14."""
    width, patch, layers = 1152, 14, 27
    layer = LayerConfig(
        model_dim=width,
        ff_hidden_dim=4304,
        heads=16,
        kv_heads=16,
        qkv_dim=72,
        ff_biases=True,
        type=LayerType.VIT,
    )
    return VitConfig(
        model_dim=width,
        seq_len=(image_size // patch) ** 2,
        num_scales=4 * layers,
        patch_width=patch,
        image_size=image_size,
        layer_configs=(layer,) * layers,
    )


def _text_layer(size: Dimensions) -> LayerConfig:
    return LayerConfig(
        model_dim=size.model_dim,
        ff_hidden_dim=size.hidden,
        heads=size.heads,
        kv_heads=size.kv_heads,
        qkv_dim=size.qkv_dim,
        post_norm=PostNorm.SCALE,
    )


def _text_config(model: Model, size: Dimensions, layer: LayerConfig, windows: tuple[int, ...]) -> ModelConfig:
    """Return a config that repeats a pattern of attention windows; the last window is the whole sequence."""
    return ModelConfig(
        display_name=size.display_name,
        model=model,
        num_layers=size.layers,
        model_dim=size.model_dim,
        max_seq_len=windows[-1],
        layer_configs=(layer,) * size.layers,
        attention_window_sizes=tuple(windows[i % len(windows)] for i in range(size.layers)),
        eos_id=1,
        scale_base_names=SCALE_BASE_NAMES,
    )
