"""SigLIP, the vision part of Gemma 3 and PaliGemma 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.gemma.config import LayerConfig, VitConfig
from blobstore.gemma.enums import LayerType, Wrapping
from blobstore.gemma.families.specs import TensorSpec, vector, weight

if TYPE_CHECKING:
    from blobstore.gemma.config import ModelConfig


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


def vision_tensors(config: ModelConfig, vision: VitConfig) -> list[TensorSpec]:
    """Return what the vision part has once."""
    width = vision.model_dim
    specs = [
        vector("enc_norm_bias", width),
        vector("enc_norm_scale", width),
        vector("img_emb_bias", width, "f32"),
        weight("img_emb_kernel", width, vision.patch_width * vision.patch_width * 3, floor="bf16"),
        weight("img_pos_emb", vision.seq_len, width, floor="f32"),
        vector("img_head_bias", config.model_dim, "f32"),
        weight("img_head_kernel", config.model_dim, width, floor="bf16"),
    ]
    if config.wrapping == Wrapping.VLM:
        specs.append(vector("mm_embed_norm", width))
    return specs


def vision_layer_tensors(i: int, layer: LayerConfig, width: int) -> list[TensorSpec]:
    """Return the tensors of a vision layer."""
    heads, size, hidden = layer.heads, layer.qkv_dim, layer.ff_hidden_dim
    return [
        weight(f"attn_out_w_{i}", width, heads * size, floor="bf16"),
        vector(f"attn_out_b_{i}", width, "f32"),
        weight(f"qkv_ein_w_{i}", 3 * heads * size, width, floor="bf16"),
        weight(f"qkv_ein_b_{i}", heads + 2 * layer.kv_heads, size, floor="f32"),
        weight(f"linear_0_w_{i}", hidden, width, floor="bf16"),
        vector(f"linear_0_b_{i}", hidden, "f32"),
        weight(f"linear_1_w_{i}", width, hidden, floor="bf16"),
        vector(f"linear_1_b_{i}", width, "f32"),
        vector(f"ln_0_bias_{i}", width),
        vector(f"ln_0_scale_{i}", width),
        vector(f"ln_1_bias_{i}", width),
        vector(f"ln_1_scale_{i}", width),
    ]
