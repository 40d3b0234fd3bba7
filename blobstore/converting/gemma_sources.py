"""Where each of the runtime's tensors comes from in a Gemma checkpoint, and whether all of it is there.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from blobstore.checkpoint.told import LeftOut
from blobstore.codecs.element_types import PLAIN_FLOATS
from blobstore.converting.gemma_families import UNUSED, why_unused
from blobstore.converting.pieces import Piece, rows_of
from blobstore.errors import Fault
from blobstore.gemma.tensors import tensors_of
from blobstore.store.blocks import CHANNELS_LAST, TRANSPOSE

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.converting.gemma_recognise import Recognised
    from blobstore.gemma.families.specs import TensorSpec

_NORMS = {
    "pre_att_ns": "input_layernorm",
    "post_att_ns": "post_attention_layernorm",
    "pre_ff_ns": "pre_feedforward_layernorm",
    "post_ff_ns": "post_feedforward_layernorm",
    "key_norm": "self_attn.k_norm",
    "query_norm": "self_attn.q_norm",
}
_FORMS = {
    "stock": ("qkv_ein", "att_ein", "gating_ein"),
    "split": ("qkv1_w", "qkv2_w", "att_w", "gating1_w", "gating2_w"),
}
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
# What shows that weights are not plain: part of a tensor's name → what it is, and the fix.
_FOREIGN = {
    "lora_": "a LoRA adapter: pass its folder as --adapter, or merge it into the model first (merge_and_unload)",
    "base_layer.": "a model with unmerged adapters: merge them first (merge_and_unload)",
    ".qweight": "GPTQ or AWQ quantised: convert from the original checkpoint",
    ".qzeros": "GPTQ or AWQ quantised: convert from the original checkpoint",
    ".g_idx": "GPTQ quantised: convert from the original checkpoint",
    "absmax": "bitsandbytes quantised: convert from the original checkpoint",
    "quant_map": "bitsandbytes quantised: convert from the original checkpoint",
    "quant_state": "bitsandbytes quantised: convert from the original checkpoint",
    ".SCB": "bitsandbytes quantised: convert from the original checkpoint",
    "weight_scale": "FP8 with scales: convert from the original checkpoint",
    "input_scale": "FP8 with scales: convert from the original checkpoint",
}


def foreign_tensors(checkpoint: Checkpoint) -> Iterator[Fault]:
    """Find quantised and adapted weights."""
    if checkpoint.config.get("quantization_config"):
        what = "config.json has a quantization_config: convert from the original, unquantised checkpoint"
        yield Fault("quantised", "quantization_config", what)
    for name, entry in checkpoint.tensors.items():
        foreign = next((text for part, text in _FOREIGN.items() if part in name), None)
        if foreign:
            yield Fault("adapter" if "merge" in foreign else "quantised", name, f"this is {foreign}")
        elif entry.type.name not in PLAIN_FLOATS and not name.endswith(tuple(UNUSED)):
            what = f"stored as {entry.type}: quantised? Convert from the original checkpoint in bf16, f16 or f32"
            yield Fault("quantised", name, what)


class Sources:
    """Where each of the runtime's tensors comes from."""

    def __init__(self, recognised: Recognised, checkpoint: Checkpoint, layout: str) -> None:
        """Look at a checkpoint; ``layout`` is ``split`` or ``stock``."""
        self.recognised: Recognised = recognised
        self.checkpoint: Checkpoint = checkpoint
        self._layout = layout
        self.embedding: str = recognised.embedding
        layer = recognised.config.layer_configs[0]
        self._heads, self._kv, self._size = layer.heads, layer.kv_heads, layer.qkv_dim
        self._width, self._hidden = layer.model_dim, layer.ff_hidden_dim

    def blobs(self) -> Iterator[tuple[TensorSpec, list[Piece]]]:
        """Yield each tensor with its pieces, in the order of published files."""
        config = self.recognised.config
        specs = {spec.key: spec for spec in tensors_of(config)}
        keys = ["c_embedding", "c_final_norm", *(key for key in specs if key.startswith(("enc_", "img_", "mm_")))]
        for i in range(config.num_layers):
            names = [*_FORMS[self._layout], "linear_w", *_NORMS]
            keys += [f"{name}_{i}" for name in names if f"{name}_{i}" in specs]
        for i in range(len(config.vit_config.layer_configs)):
            names = ["attn_out_w", "attn_out_b", "qkv_ein_w", "qkv_ein_b", *list(_VISION_PLAIN)[2:]]
            keys += [f"{name}_{i}" for name in names]
        for key in keys:
            yield specs[key], self._pieces(specs[key])

    def faults(self) -> Iterator[Fault]:
        """Compare what the runtime needs with what the checkpoint has."""
        totals, widths = self._totals()
        for name, total in totals.items():
            fault = self._fault(name, total, widths[name])
            if fault:
                yield fault
        unused = {item.name for item in self.left_out()}
        yield from self._unexpected({*totals, *unused, self.recognised.head})
        yield from self._untied_head()

    def left_out(self) -> Iterator[LeftOut]:
        """Yield the tensors that the runtime doesn't need."""
        for name in self.checkpoint.tensors:
            why = why_unused(name, self.recognised.vision)
            if why:
                yield LeftOut(name, "tensor", why)

    def _unexpected(self, known: Container[str | None]) -> Iterator[Fault]:
        """Yield the tensors that nothing is made of; `foreign_tensors` has those that are quantised or adapters."""
        for name, entry in self.checkpoint.tensors.items():
            foreign = any(part in name for part in _FOREIGN) or entry.type.name not in PLAIN_FLOATS
            if name not in known and not foreign:
                what = "gemma.cpp has no place for it: is this another architecture? --as names keeps every tensor"
                yield Fault("unexpected-tensor", name, what)

    def _untied_head(self) -> Iterator[Fault]:
        head = self.recognised.head
        tensors = self.checkpoint.tensors
        if head and self.embedding in tensors and not tensors[head].same_bytes(tensors[self.embedding]):
            what = f"it differs from {self.embedding!r}, and gemma.cpp uses the embedding as the head"
            yield Fault("untied-head", head, f"{what}: this model can't run there; --as names keeps both")

    def _fault(self, name: str, total: int, width: int) -> Fault | None:
        """Compare a source with what is used of it."""
        entry = self.checkpoint.tensors.get(name)
        if entry is None:
            what = "it is missing: the checkpoint is incomplete; download it again, or its other shards"
            return Fault("missing-tensor", name, what)
        shape = _shape(name, total, width)
        if entry.shape != shape:
            what = f"its shape is {list(entry.shape)}, expected {list(shape)}: is config.json another model's?"
            return Fault("shape", name, what)
        return None

    def _totals(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return how many elements of each source are used, and its width. All have to be used, but for spare rows."""
        totals: dict[str, int] = {}
        widths: dict[str, int] = {}
        for _, pieces in self.blobs():
            for piece in pieces:
                if piece.source is not None and not piece.padding:
                    totals[piece.source] = totals.get(piece.source, 0) + piece.count
                    widths[piece.source] = piece.width
        vocabulary = self.recognised.vocabulary
        totals[self.embedding] += (vocabulary.rows - vocabulary.tokens) * self._width
        return totals, widths

    def _pieces(self, spec: TensorSpec) -> list[Piece]:
        base, _, layer = spec.key.rpartition("_")
        if layer.isdecimal():
            vision = base in _VISION_PLAIN or base in ("qkv_ein_w", "qkv_ein_b")
            return self._vision_layer(base, layer, spec) if vision else self._text_layer(base, layer, spec)
        return self._model(spec)

    def _model(self, spec: TensorSpec) -> list[Piece]:
        text, vision, projector = self.recognised.text, self.recognised.vision, self.recognised.projector
        plain = {
            "c_final_norm": f"{text}norm.weight",
            "enc_norm_bias": f"{vision}post_layernorm.bias",
            "enc_norm_scale": f"{vision}post_layernorm.weight",
            "img_emb_bias": f"{vision}embeddings.patch_embedding.bias",
            "img_pos_emb": f"{vision}embeddings.position_embedding.weight",
            "mm_embed_norm": f"{projector}mm_soft_emb_norm.weight",
        }
        if spec.key == "c_embedding":
            return self._embedding(spec)
        if spec.key in plain:
            return [rows_of(plain[spec.key], spec.cols, 0, spec.rows)]
        if spec.key == "img_emb_kernel":
            kernel = f"{vision}embeddings.patch_embedding.weight"
            return [Piece(kernel, spec.cols, 0, spec.rows, 0, spec.cols, CHANNELS_LAST, 3)]
        gemma3 = self.recognised.family == "gemma3-vision"
        if spec.key == "img_head_bias":
            bias = None if gemma3 else f"{projector}linear.bias"
            return [Piece(bias, spec.cols, 0, 1, 0, spec.cols)]
        if gemma3:
            weight = f"{projector}mm_input_projection_weight"
            return [Piece(weight, spec.rows, 0, spec.cols, 0, spec.rows, TRANSPOSE)]
        return [rows_of(f"{projector}linear.weight", spec.cols, 0, spec.rows)]

    def _embedding(self, spec: TensorSpec) -> list[Piece]:
        vocabulary = self.recognised.vocabulary
        pad = replace(rows_of(self.embedding, spec.cols, vocabulary.pad, 1), padding=True)
        return [rows_of(self.embedding, spec.cols, 0, vocabulary.tokens), *[pad] * vocabulary.padding]

    def _text_layer(self, base: str, layer: str, spec: TensorSpec) -> list[Piece]:
        prefix = f"{self.recognised.text}layers.{layer}."
        q, k, v, o = (f"{prefix}self_attn.{name}_proj.weight" for name in "qkvo")
        gate, up, down = (f"{prefix}mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
        width, size, queries = self._width, self._size, self._heads * self._size
        query_rows = [rows_of(q, width, 0, queries)]
        pairs = [rows_of(name, width, head * size, size) for head in range(self._kv) for name in (k, v)]
        made = {
            "qkv_ein": query_rows + pairs,
            "qkv1_w": query_rows,
            "qkv2_w": pairs,
            "att_ein": [Piece(o, queries, 0, width, head * size, size) for head in range(self._heads)],
            "att_w": [rows_of(o, queries, 0, width)],
            "gating_ein": [rows_of(gate, width, 0, self._hidden), rows_of(up, width, 0, self._hidden)],
            "gating1_w": [rows_of(gate, width, 0, self._hidden)],
            "gating2_w": [rows_of(up, width, 0, self._hidden)],
            "linear_w": [rows_of(down, self._hidden, 0, width)],
        }
        if base in made:
            return made[base]
        return [rows_of(f"{prefix}{_NORMS[base]}.weight", spec.cols, 0, 1)]

    def _vision_layer(self, base: str, layer: str, spec: TensorSpec) -> list[Piece]:
        prefix = f"{self.recognised.vision}encoder.layers.{layer}."
        if base in _VISION_PLAIN:
            return [rows_of(f"{prefix}{_VISION_PLAIN[base]}", spec.cols, 0, spec.rows)]
        vit = self.recognised.config.vit_config.layer_configs[0]
        end = "weight" if base == "qkv_ein_w" else "bias"
        step = vit.qkv_dim if end == "weight" else 1  # a bias is a row of its own for each head
        return [
            rows_of(f"{prefix}self_attn.{name}_proj.{end}", spec.cols, head * step, step)
            for head in range(vit.heads)
            for name in "qkv"
        ]


def _shape(name: str, total: int, width: int) -> tuple[int, ...]:
    """Return the shape that exporters give a tensor of so many elements."""
    if name.endswith("patch_embedding.weight"):
        side = math.isqrt(width // 3)
        return (total // width, 3, side, side)
    if name.endswith((".bias", "norm.weight", "norm1.weight", "norm2.weight")):
        return (total,)
    return (total // width, width)
