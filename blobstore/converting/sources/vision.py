"""Where the tensors of a vision part come from: SigLIP, and the projector behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.converting.pieces import Piece, rows_of
from blobstore.store.blocks import CHANNELS_LAST, TRANSPOSE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.converting.gemma_recognise import Recognised
    from blobstore.gemma.families.specs import TensorSpec

_VISION_PLAIN = {
    "attn_out_w": "self_attn.out_proj.weight",
    "attn_out_b": "self_attn.out_proj.bias",
    "linear_0_w": "mlp.fc1.weight",
    "linear_0_b": "mlp.fc1.bias",
    "linear_1_w": "mlp.fc2.weight",
    "linear_1_b": "mlp.fc2.bias",
    "ln_0_bias": "layer_norm1.bias",
    "ln_0_scale": "layer_norm1.weight",
    "ln_1_bias": "layer_norm2.bias",
    "ln_1_scale": "layer_norm2.weight",
}


def vision_keys(layer: int) -> Iterator[str]:
    """Yield the keys of a layer, in the order of published files."""
    names = ["attn_out_w", "attn_out_b", "qkv_ein_w", "qkv_ein_b", *list(_VISION_PLAIN)[2:]]
    yield from (f"{name}_{layer}" for name in names)


def is_vision_layer(base: str) -> bool:
    """Whether a key without its number is of a vision layer."""
    return base in _VISION_PLAIN or base in ("qkv_ein_w", "qkv_ein_b")


class VisionSources:
    """Where the tensors of a vision part come from."""

    def __init__(self, recognised: Recognised) -> None:
        """Take a recognised checkpoint."""
        self._recognised = recognised

    def of_model(self, spec: TensorSpec) -> list[Piece]:
        """Return the pieces of a tensor that is not a layer's."""
        vision, projector = self._recognised.vision, self._recognised.projector
        plain = {
            "enc_norm_bias": f"{vision}post_layernorm.bias",
            "enc_norm_scale": f"{vision}post_layernorm.weight",
            "img_emb_bias": f"{vision}embeddings.patch_embedding.bias",
            "img_pos_emb": f"{vision}embeddings.position_embedding.weight",
            "mm_embed_norm": f"{projector}mm_soft_emb_norm.weight",
        }
        if spec.key in plain:
            return [rows_of(plain[spec.key], spec.cols, 0, spec.rows)]
        if spec.key == "img_emb_kernel":
            kernel = f"{vision}embeddings.patch_embedding.weight"
            return [Piece(kernel, spec.cols, 0, spec.rows, 0, spec.cols, CHANNELS_LAST, 3)]
        gemma3 = self._recognised.family == "gemma3-vision"
        if spec.key == "img_head_bias":
            bias = None if gemma3 else f"{projector}linear.bias"
            return [Piece(bias, spec.cols, 0, 1, 0, spec.cols)]
        if gemma3:
            weight = f"{projector}mm_input_projection_weight"
            return [Piece(weight, spec.rows, 0, spec.cols, 0, spec.rows, TRANSPOSE)]
        return [rows_of(f"{projector}linear.weight", spec.cols, 0, spec.rows)]

    def of_layer(self, base: str, layer: int, spec: TensorSpec) -> list[Piece]:
        """Return the pieces of a layer's tensor."""
        prefix = f"{self._recognised.vision}encoder.layers.{layer}."
        if base in _VISION_PLAIN:
            return [rows_of(f"{prefix}{_VISION_PLAIN[base]}", spec.cols, 0, spec.rows)]
        vit = self._recognised.config.vit_config.layer_configs[0]
        end = "weight" if base == "qkv_ein_w" else "bias"
        step = vit.qkv_dim if end == "weight" else 1  # a bias is a row of its own for each head
        return [
            rows_of(f"{prefix}self_attn.{name}_proj.{end}", spec.cols, head * step, step)
            for head in range(vit.heads)
            for name in "qkv"
        ]
