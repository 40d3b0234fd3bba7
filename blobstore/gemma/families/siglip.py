"""SigLIP, the vision part of Gemma 3 and PaliGemma 2."""

from __future__ import annotations

from blobstore.gemma.config import LayerConfig, VitConfig
from blobstore.gemma.enums import LayerType


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
