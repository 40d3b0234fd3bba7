"""Where the tensors of a decoder come from: the embedding, the head, and the layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blobstore.converting.hf_tensors import why_unused
from blobstore.converting.pieces import Piece, minus_one, rows_of
from blobstore.gemma.families.specs import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blobstore.converting.gemma_recognise import Recognised
    from blobstore.gemma.config import LayerConfig
    from blobstore.gemma.families.specs import TensorSpec

_FORMS = {
    "stock": ("qkv_ein", "att_ein", "gating_ein"),
    "split": ("qkv1_w", "qkv2_w", "att_w", "gating1_w", "gating2_w"),
}


@dataclass(frozen=True)
class Naming:
    """What a family calls the tensors in which families differ.

    Attributes:
        norms: Of a layer: the runtime's name → the checkpoint's, without ``.weight``, in the order of published files.
        shifted: Whether norms are stored minus 1: the runtime multiplies by 1 + w, and transformers' model by w.
    """

    norms: dict[str, str]
    shifted: bool = False


_GEMMA = Naming(
    {
        "pre_att_ns": "input_layernorm",
        "post_att_ns": "post_attention_layernorm",
        "pre_ff_ns": "pre_feedforward_layernorm",
        "post_ff_ns": "post_feedforward_layernorm",
        "key_norm": "self_attn.k_norm",
        "query_norm": "self_attn.q_norm",
    }
)
_QWEN3 = Naming(
    {
        "pre_att_ns": "input_layernorm",
        "pre_ff_ns": "post_attention_layernorm",
        "key_norm": "self_attn.k_norm",
        "query_norm": "self_attn.q_norm",
    },
    shifted=True,
)
_GEMMA4 = Naming(_GEMMA.norms | {"post_ple_ns": "post_per_layer_input_norm"}, shifted=True)
# The experts have pre_ff_ns and post_ffw1_ns in the runtime, and the part that all tokens share pre_ffw2_ns and
# post_ffw2_ns: with transformers it is the other way round.
_GEMMA4_EXPERTS = Naming(
    _GEMMA4.norms
    | {
        "pre_ff_ns": "pre_feedforward_layernorm_2",
        "post_ffw1_ns": "post_feedforward_layernorm_2",
        "pre_ffw2_ns": "pre_feedforward_layernorm",
        "post_ffw2_ns": "post_feedforward_layernorm_1",
    },
    shifted=True,
)
_NAMINGS = {"qwen3": _QWEN3, "gemma4": _GEMMA4, "gemma4-experts": _GEMMA4_EXPERTS}  # others have Gemma's


class TextSources:
    """Where the tensors of a text part come from."""

    def __init__(self, recognised: Recognised) -> None:
        """Take a recognised checkpoint."""
        self._recognised = recognised
        self._naming = _NAMINGS.get(recognised.family, _GEMMA)

    def keys(self, specs: Mapping[str, TensorSpec], layout: str) -> Iterator[str]:
        """Yield the keys of a file, but for those of vision layers, in the order of published files.

        Args:
            specs: The tensors that the model may have, by key.
            layout: ``split`` or ``stock``.
        """
        first = ("c_embedding", "c_final_norm")
        yield from first
        yield from (key for key in specs if place_of(key).layer is None and key not in first)
        bases = (*_FORMS[layout], "linear_w", *self._naming.norms)
        for i in range(self._recognised.config.num_layers):
            yield from (key for key in (f"{base}_{i}" for base in bases) if key in specs)

    def of_model(self, spec: TensorSpec) -> list[Piece]:
        """Return the pieces of a tensor that is not a layer's."""
        if spec.key == "c_embedding":
            return self._rows_of_vocabulary(self._recognised.embedding, spec)
        if spec.key == "lm_head":
            if self._recognised.own_head:
                return self._rows_of_vocabulary(str(self._recognised.head), spec)
            embedding = self._rows_of_vocabulary(self._recognised.embedding, spec)
            return [replace(piece, repeated=True) for piece in embedding]
        return [self._norm(f"{self._recognised.text}norm.weight", spec)]

    def of_layer(self, base: str, layer: int, spec: TensorSpec) -> list[Piece]:
        """Return the pieces of a layer's tensor."""
        prefix = f"{self._recognised.text}layers.{layer}."
        config = self._recognised.config
        made = weights_of_layer(prefix, config.layer_configs[layer], config.model_dim)
        if base in made:
            return made[base]
        return [self._norm(f"{prefix}{self._naming.norms[base]}.weight", spec)]

    def why_unused(self, name: str) -> str:
        """Return why the runtime doesn't need a tensor of the checkpoint; empty for one that may be needed."""
        return why_unused(name, self._recognised.vision)

    def _norm(self, name: str, spec: TensorSpec) -> Piece:
        return minus_one(name, spec.cols) if self._naming.shifted else rows_of(name, spec.cols, 0, 1)

    def _rows_of_vocabulary(self, name: str, spec: TensorSpec) -> list[Piece]:
        vocabulary = self._recognised.vocabulary
        pad = replace(rows_of(name, spec.cols, vocabulary.pad, 1), repeated=True)
        return [rows_of(name, spec.cols, 0, vocabulary.tokens), *[pad] * vocabulary.padding]


def by_head(name: str, layer: LayerConfig, width: int) -> list[Piece]:
    """Return the columns of an output projection, head by head."""
    size = layer.qkv_dim
    return [Piece(name, layer.heads * size, 0, width, head * size, size) for head in range(layer.heads)]


def weights_of_layer(prefix: str, layer: LayerConfig, width: int) -> dict[str, list[Piece]]:
    """Return the pieces of a layer's matrices, in both forms, by the runtime's names.

    Args:
        prefix: Of the layer's tensors in the checkpoint.
        layer: Its dimensions.
        width: Of the model.
    """
    q, k, v, o = (f"{prefix}self_attn.{name}_proj.weight" for name in "qkvo")
    gate, up, down = (f"{prefix}mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
    size, hidden = layer.qkv_dim, layer.ff_hidden_dim
    queries = layer.heads * size
    query_rows = [rows_of(q, width, 0, queries)]
    pairs = [rows_of(name, width, head * size, size) for head in range(layer.kv_heads) for name in (k, v)]
    return {
        "qkv_ein": query_rows + pairs,
        "qkv1_w": query_rows,
        "qkv2_w": pairs,
        "att_ein": by_head(o, layer, width),
        "att_w": [rows_of(o, queries, 0, width)],
        "gating_ein": [rows_of(gate, width, 0, hidden), rows_of(up, width, 0, hidden)],
        "gating1_w": [rows_of(gate, width, 0, hidden)],
        "gating2_w": [rows_of(up, width, 0, hidden)],
        "linear_w": [rows_of(down, hidden, 0, width)],
    }
