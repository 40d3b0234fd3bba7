"""Where the tensors of a T5Gemma come from: of the encoder, and of the decoder with its cross-attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.converting.hf_tensors import embedding_of
from blobstore.converting.pieces import rows_of
from blobstore.converting.sources.text import TextSources, by_head, weights_of_layer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blobstore.converting.pieces import Piece
    from blobstore.gemma.families.specs import TensorSpec

# The runtime's name without the part's letter → that of the same matrix in other families.
_MATRICES = {"qkv": "qkv_ein", "att": "att_ein", "gate": "gating_ein", "lin": "linear_w"}
_CROSS = {"dc_q": "q_proj", "dc_k": "k_proj", "dc_v": "v_proj"}
_NORMS = {
    "e_pre_att": "pre_self_attn_layernorm",
    "e_post_att": "post_self_attn_layernorm",
    "e_pre_ff": "pre_feedforward_layernorm",
    "e_post_ff": "post_feedforward_layernorm",
    "d_pre_sa": "pre_self_attn_layernorm",
    "d_post_sa": "post_self_attn_layernorm",
    "d_pre_ca": "pre_cross_attn_layernorm",
    "d_post_ca": "post_cross_attn_layernorm",
    "d_pre_ff": "pre_feedforward_layernorm",
    "d_post_ff": "post_feedforward_layernorm",
}


class T5GemmaSources(TextSources):
    """Where the tensors of a T5Gemma come from."""

    def keys(self, specs: Mapping[str, TensorSpec], layout: str) -> Iterator[str]:  # noqa: ARG002 (it has one)
        """Yield the keys of a file: all, as each slot has one form."""
        yield from specs

    def of_model(self, spec: TensorSpec) -> list[Piece]:
        """Return the pieces of a tensor that is not a layer's."""
        prefix = self._prefix(spec.key)
        if spec.key.endswith("embedding"):
            return self._rows_of_vocabulary(embedding_of(prefix), spec)
        return [rows_of(f"{prefix}norm.weight", spec.cols, 0, 1)]

    def of_layer(self, base: str, layer: int, spec: TensorSpec) -> list[Piece]:
        """Return the pieces of a layer's tensor."""
        prefix = f"{self._prefix(base)}layers.{layer}."
        if base in _NORMS:
            return [rows_of(f"{prefix}{_NORMS[base]}.weight", spec.cols, 0, 1)]
        if base in _CROSS:
            return [rows_of(f"{prefix}cross_attn.{_CROSS[base]}.weight", spec.cols, 0, spec.rows)]
        config = self._recognised.config
        size = config.layer_configs[0]  # of all layers
        if base == "dc_att":
            return by_head(f"{prefix}cross_attn.o_proj.weight", size, config.model_dim)
        return weights_of_layer(prefix, size, config.model_dim)[_MATRICES[base.partition("_")[2]]]

    def _prefix(self, key: str) -> str:
        return self._recognised.encoder if key.startswith("e") else self._recognised.text
