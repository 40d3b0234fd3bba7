"""Gemma 2, and PaliGemma 2, which is a Gemma 2 with a vision part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from blobstore.gemma.enums import Model, QueryScale
from blobstore.gemma.families.siglip import vision_config
from blobstore.gemma.families.sizes import Dimensions, text_config, text_layer

if TYPE_CHECKING:
    from blobstore.gemma.config import ModelConfig

GEMMA2 = {
    Model.GEMMA2_2B: Dimensions("Gemma2_2B", 26, 2304, 9216, 8, 4, 256),
    Model.GEMMA2_9B: Dimensions("Gemma2_9B", 42, 3584, 14336, 16, 8, 256),
    Model.GEMMA2_27B: Dimensions("Gemma2_27B", 46, 4608, 36864, 32, 16, 128),
}
# The text part, and the size of images.
_PALIGEMMA2 = {
    Model.PALIGEMMA2_3B_224: (Model.GEMMA2_2B, 224),
    Model.PALIGEMMA2_3B_448: (Model.GEMMA2_2B, 448),
    Model.PALIGEMMA2_10B_224: (Model.GEMMA2_9B, 224),
    Model.PALIGEMMA2_10B_448: (Model.GEMMA2_9B, 448),
}
PALIGEMMA2 = {model: GEMMA2[text] for model, (text, _) in _PALIGEMMA2.items()}
PALIGEMMA_IMAGES = {model: image for model, (_, image) in _PALIGEMMA2.items()}
PALIGEMMA_VOCABULARY = 257152


def gemma2(model: Model) -> ModelConfig:
    """Return the config of a Gemma 2."""
    size = GEMMA2[model]
    layer = replace(text_layer(size), optimized_gating=False)
    config = text_config(model, size, (layer,) * size.layers, (4096, 8192))
    scale = QueryScale.SQRT_MODEL_DIM_DIV_NUM_HEADS if model == Model.GEMMA2_27B else QueryScale.SQRT_KEY_SIZE
    return replace(config, vocab_size=256000, att_cap=50.0, final_cap=30.0, secondary_eos_id=107, query_scale=scale)


def paligemma2(model: Model) -> ModelConfig:
    """Return the config of a PaliGemma 2."""
    text, image_size = _PALIGEMMA2[model]
    name = f"PaliGemma2_{'3B' if text == Model.GEMMA2_2B else '10B'}_{image_size}"
    return replace(
        gemma2(text),
        model=model,
        display_name=name,
        vocab_size=PALIGEMMA_VOCABULARY,
        vit_config=vision_config(image_size),
    )
