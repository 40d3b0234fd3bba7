"""Files from before 2025: without ``toc``, with the type in a key's first letter and all scales in one blob.

Spec: spec/gemma.md, Reading a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs.element_types import BY_NAME
from blobstore.container.keys import SCALES_KEY
from blobstore.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blobstore.codecs.element_types import ElementType

TYPE_LETTERS = {"F": "f32", "B": "bf16", "$": "sfp", "2": "nuq", "I": "i8"}
# Those of a layer that have a scale, in the order in which the runtime takes the scales.
_SCALED = ("att_ein", "qkv_ein", "gating_ein", "linear_w")
_MODEL_KEYS = frozenset(
    (  # noqa: SIM905 (a list of literals reads worse)
        "c_embedding c_final_norm enc_norm_bias enc_norm_scale img_emb_bias img_emb_kernel img_head_bias "
        "img_head_kernel img_pos_emb mm_embed_norm"
    ).split()
)
_LAYER_BASES = frozenset(
    (  # noqa: SIM905
        "attn_out_w attn_out_b qkv_ein_w qkv_ein_b linear_0_w linear_0_b linear_1_w linear_1_b ln_0_bias ln_0_scale "
        "ln_1_bias ln_1_scale key_norm query_norm qkv1_w qkv2_w qkv_ein att_ein att_w attn_ob gating_ein gating1_w "
        "gating2_w linear_w pre_att_ns pre_ff_ns post_att_ns post_ff_ns ffw_gat_b ffw_out_b gr_lin_x_w gr_lin_x_b "
        "gr_lin_y_w gr_lin_y_b gr_lin_out_w gr_lin_out_b gr_conv_w gr_conv_b gr_gate_w gr_gate_b gr_a"
    ).split()
)
_LAYER = re.compile(r"(.+)_(0|[1-9][0-9]{0,2})", re.ASCII)


@dataclass(frozen=True)
class LegacyTensor:
    """A tensor of a file from before 2025.

    Attributes:
        key: As stored, with the letter.
        name: The key without it.
        type: What the letter says.
        count: Elements that the blob holds.
        scale: From the blob of scales; 1.0 without one.
    """

    key: str
    name: str
    type: ElementType
    count: int
    scale: float


def legacy_tensors(blobs: Iterable[tuple[str, int]], scales: bytes | memoryview | None) -> list[LegacyTensor]:
    """Return the tensors of a file from before 2025; an empty list for any other file.

    Args:
        blobs: Key and size of each blob.
        scales: The blob ``Fscales``; None without one.

    Raises:
        FormatError: ``scales-count`` when the scales are not as many as the tensors that need one; ``scales-number``;
            ``letters-duplicate``.
    """
    tensors: dict[str, LegacyTensor] = {}
    for key, nbytes in blobs:
        name = key[1:]
        if key[:1] not in TYPE_LETTERS or _split(name) is None:
            continue
        element_type = BY_NAME[TYPE_LETTERS[key[0]]]
        count = elements_in(element_type, nbytes)
        if not count:  # the bytes can't be of this type: it is another blob
            continue
        if name in tensors:
            raise FormatError("letters-duplicate", f"two blobs are the tensor {name!r}, in different types")
        tensors[name] = LegacyTensor(key, name, element_type, count, 1.0)
    if not tensors or scales is None:
        return list(tensors.values())
    by_name = _scales_by_name(list(tensors), scales)
    return [replace(tensor, scale=by_name.get(name, 1.0)) for name, tensor in tensors.items()]


def has_model_keys(keys: Iterable[str]) -> bool:
    """Whether keys include those of a model's tensors: the embedding, and at least one other."""
    names = {*keys}
    return "c_embedding" in names and any(name != "c_embedding" and _split(name) is not None for name in names)


def elements_in(element_type: ElementType, nbytes: int) -> int:
    """Return the largest number of elements of a type that take exactly so many bytes; 0 where there is none."""
    bits_in_group = element_type.group * element_type.bits + 8 * element_type.group_nbytes
    if element_type.group:
        groups = -(-8 * nbytes // bits_in_group)
        count = (8 * nbytes - 8 * groups * element_type.group_nbytes) // element_type.bits
    else:
        count = 8 * nbytes // element_type.bits
    return count if count > 0 and element_type.nbytes(count) == nbytes else 0


def _split(name: str) -> tuple[str, int] | None:
    """Return a tensor's base name and layer, which is -1 for a tensor of the whole model; None for any other name."""
    if name in _MODEL_KEYS:
        return name, -1
    match = _LAYER.fullmatch(name)
    return (match[1], int(match[2])) if match and match[1] in _LAYER_BASES else None


def _scales_by_name(names: list[str], raw: bytes | memoryview) -> dict[str, float]:
    """Return the scale of each tensor that has one, in the order in which the blob has them."""
    if len(raw) % 4:
        raise FormatError("scales-count", f"{SCALES_KEY!r} has {len(raw)} bytes, which are not a whole number of f32")
    scales = np.frombuffer(raw, dtype="<f4")
    if not np.isfinite(scales).all():
        raise FormatError("scales-number", f"{SCALES_KEY!r} has a scale that is not finite")
    places = {name: place for name in names if (place := _split(name))}
    scaled = [name for name, (base, _) in places.items() if base in _SCALED]
    scaled.sort(key=lambda name: (places[name][1], _SCALED.index(places[name][0])))
    if len(scaled) != len(scales):
        what = f"{SCALES_KEY!r} has {len(scales)} scales for {len(scaled)} tensors that need one"
        raise FormatError("scales-count", f"{what}: use_index=False opens the file as bytes")
    return dict(zip(scaled, scales.tolist(), strict=True))
