"""Gemma 3, with a vision part and without."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from blobstore.gemma.config import VitConfig
from blobstore.gemma.enums import Model
from blobstore.gemma.families.siglip import vision_config
from blobstore.gemma.families.sizes import Dimensions, in_full, text_config, text_layer

if TYPE_CHECKING:
    from blobstore.gemma.config import ModelConfig

GEMMA3 = {
    Model.GEMMA3_270M: Dimensions("Gemma3_270M", 18, 640, 2048, 4, 1, 256),
    Model.GEMMA3_1B: Dimensions("Gemma3_1B", 26, 1152, 6912, 4, 1, 256),
    Model.GEMMA3_4B: Dimensions("Gemma3_4B", 34, 2560, 10240, 8, 4, 256),
    Model.GEMMA3_12B: Dimensions("Gemma3_12B", 48, 3840, 15360, 16, 8, 256),
    Model.GEMMA3_27B: Dimensions("Gemma3_27B", 62, 5376, 21504, 32, 16, 128),
}
# Text only, in runtimes after April 2026: of which model.
GEMMA3_LM = {
    Model.GEMMA3_4B_LM: Model.GEMMA3_4B,
    Model.GEMMA3_12B_LM: Model.GEMMA3_12B,
    Model.GEMMA3_27B_LM: Model.GEMMA3_27B,
}
_SMALL_WINDOW = (Model.GEMMA3_270M, Model.GEMMA3_1B)
_NO_VISION = (Model.GEMMA3_270M, Model.GEMMA3_1B)


def gemma3(model: Model) -> ModelConfig:
    """Return the config of a Gemma 3, with the word that newer runtimes need."""
    size = GEMMA3[model]
    layer = replace(text_layer(size), use_qk_norm=True)
    window = 512 if model in _SMALL_WINDOW else 1024
    config = text_config(model, size, (layer,) * size.layers, (window,) * 5 + (32768,))
    config = replace(config, vocab_size=262144, secondary_eos_id=106, use_global_timescale=True)
    if model in _NO_VISION:
        return config
    return replace(config, vit_config=replace(vision_config(896), pool_dim=4))


def gemma3_lm(model: Model) -> ModelConfig:
    """Return the config of a Gemma 3 whose number says that it has no vision part.

    gemma.cpp's own lacks `use_global_timescale`, so that its files have the wrong RoPE base in global layers.
    """
    config = gemma3(GEMMA3_LM[model])
    name = f"{config.display_name}_LM"
    return in_full(replace(config, model=model, display_name=name, vit_config=VitConfig()))
