"""Files from before 2025: no ``toc``, the type in a key's first letter, scales in a blob of their own.

Spec: spec/gemma.md, Reading a file.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs.element_types import BY_NAME
from blobstore.container.keys import SCALES_KEY
from blobstore.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blobstore.codecs.element_types import ElementType

TYPE_LETTERS = {"F": "f32", "B": "bf16", "$": "sfp", "2": "nuq", "I": "i8"}
# In the order in which the runtime takes one scale after another, inside a layer.
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
    """A tensor of such a file.

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
    """Return the tensors of a file from before 2025; empty when it is none.

    Args:
        blobs: Key and size of each blob.
        scales: The blob ``Fscales``, when there is one.

    Raises:
        FormatError: ``scales-count`` when there isn't one scale for each tensor that has one; ``scales-number``;
            ``letters-duplicate``.
    """
    found: list[tuple[str, str, ElementType, int]] = []
    for key, nbytes in blobs:
        name = key[1:]
        if key[:1] not in TYPE_LETTERS or _split(name) is None:
            continue
        kind = BY_NAME[TYPE_LETTERS[key[0]]]
        count = elements_in(kind, nbytes)
        if count:  # else the bytes are not what the letter says: a blob like others
            found.append((key, name, kind, count))
    twice = next((name for name, count in Counter(name for _, name, _, _ in found).items() if count > 1), None)
    if twice:
        raise FormatError("letters-duplicate", f"two blobs are the tensor {twice!r}, in different types")
    given = _scales_by_name([name for _, name, _, _ in found], scales) if found and scales is not None else {}
    return [LegacyTensor(key, name, kind, count, given.get(name, 1.0)) for key, name, kind, count in found]


def has_model_keys(keys: Iterable[str]) -> bool:
    """Whether some keys are those of a model's tensors: the embedding, and tensors of a layer."""
    found = {*keys}
    return "c_embedding" in found and any(one != "c_embedding" and _split(one) is not None for one in found)


def elements_in(kind: ElementType, nbytes: int) -> int:
    """Return how many elements of a type fill so many bytes exactly, the largest such number; 0 when none does."""
    bits_in_group = kind.group * kind.bits + 8 * kind.group_nbytes
    if kind.group:
        groups = -(-8 * nbytes // bits_in_group)
        count = (8 * nbytes - 8 * groups * kind.group_nbytes) // kind.bits
    else:
        count = 8 * nbytes // kind.bits
    return count if count > 0 and kind.nbytes(count) == nbytes else 0


def _split(name: str) -> tuple[str, int] | None:
    """Return a tensor's base name and its layer, -1 for a tensor of the whole model; None for what is no tensor."""
    if name in _MODEL_KEYS:
        return name, -1
    match = _LAYER.fullmatch(name)
    return (match[1], int(match[2])) if match and match[1] in _LAYER_BASES else None


def _scales_by_name(names: list[str], raw: bytes | memoryview) -> dict[str, float]:
    if len(raw) % 4:
        raise FormatError("scales-count", f"{SCALES_KEY!r} has {len(raw)} bytes, no whole number of f32")
    scales = np.frombuffer(raw, dtype="<f4")
    if not np.isfinite(scales).all():
        raise FormatError("scales-number", f"{SCALES_KEY!r} has a scale that is not finite")
    places = {name: place for name in names if (place := _split(name))}
    wanting = [name for name, (base, _) in places.items() if base in _SCALED]
    wanting.sort(key=lambda name: (places[name][1], _SCALED.index(places[name][0])))
    if len(wanting) != len(scales):
        what = f"{SCALES_KEY!r} has {len(scales)} scales for {len(wanting)} tensors that have one"
        raise FormatError("scales-count", f"{what}: use_index=False opens the file as bytes")
    return dict(zip(wanting, scales.tolist(), strict=True))
