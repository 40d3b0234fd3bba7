"""The runtime's own description of a model, the blob ``config``.

Spec: spec/gemma.md, config.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Self

from blobstore.elements import BY_NUMBER
from blobstore.errors import FormatError, UsageError
from blobstore.gemma.fields import (
    BOOL,
    F32,
    I32,
    STRING,
    U32,
    Cursor,
    Record,
    bytes_of,
    choice,
    many,
    of,
    record,
    records,
    words_of,
)


class Model(enum.IntEnum):
    """The models that the runtime knows."""

    UNKNOWN = 0
    GEMMA2_9B = 3
    GEMMA2_27B = 4
    GEMMA2_2B = 7
    PALIGEMMA2_3B_224 = 10
    PALIGEMMA2_3B_448 = 11
    PALIGEMMA2_10B_224 = 12
    PALIGEMMA2_10B_448 = 13
    GEMMA3_4B = 14
    GEMMA3_1B = 15
    GEMMA3_12B = 16
    GEMMA3_27B = 17
    GEMMA3_270M = 18


class Wrapping(enum.IntEnum):
    """How a prompt is wrapped: instruction-tuned, pre-trained, with images, PaliGemma."""

    IT = 0
    PT = 1
    VLM = 2
    PALIGEMMA = 3


class WeightType(enum.IntEnum):
    """Element types as the config names them."""

    UNKNOWN = 0
    F32 = 1
    BF16 = 2
    SFP = 3
    NUQ = 4
    F64 = 5
    U32 = 6
    U64 = 7
    I8 = 8


class QueryScale(enum.IntEnum):
    """What a query is multiplied by: 1 / √qkv_dim, or 1 / √(model_dim / heads)."""

    SQRT_KEY_SIZE = 0
    SQRT_MODEL_DIM_DIV_NUM_HEADS = 1


class PostNorm(enum.IntEnum):
    """Normalisation behind attention and feed-forward."""

    NONE = 0
    SCALE = 1


class LayerType(enum.IntEnum):
    """Text layer or vision layer."""

    GEMMA = 0
    VIT = 1


class Activation(enum.IntEnum):
    """Of the feed-forward part."""

    GELU = 0


class PostQK(enum.IntEnum):
    """What follows the projections to queries and keys."""

    ROPE = 0
    HALF_ROPE = 1


@dataclass(frozen=True, kw_only=True)
class LayerConfig(Record):
    """Dimensions of one layer."""

    model_dim: int = of(U32)
    unused_griffin_dim: int = of(U32)
    ff_hidden_dim: int = of(U32)
    heads: int = of(U32)
    kv_heads: int = of(U32)
    qkv_dim: int = of(U32)
    unused_conv1d_width: int = of(U32)
    ff_biases: bool = of(BOOL, default=False)
    unused_softmax_biases: bool = of(BOOL, default=False)
    optimized_gating: bool = of(BOOL, default=True)
    post_norm: PostNorm = choice(PostNorm.NONE)
    type: LayerType = choice(LayerType.GEMMA)
    activation: Activation = choice(Activation.GELU)
    post_qk: PostQK = choice(PostQK.ROPE)
    use_qk_norm: bool = of(BOOL, default=False)


@dataclass(frozen=True, kw_only=True)
class VitConfig(Record):
    """Dimensions of the vision part; without one ``layer_configs`` is empty."""

    model_dim: int = of(U32)
    seq_len: int = of(U32)
    num_scales: int = of(U32)
    patch_width: int = of(U32, 14)
    image_size: int = of(U32, 224)
    layer_configs: tuple[LayerConfig, ...] = records(LayerConfig)
    pool_dim: int = of(U32, 1)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Record):
    """A model's dimensions and choices, as stored in the blob ``config``.

    Frozen: use `dataclasses.replace` to change one. Fields are the runtime's, in its order.
    """

    model_family_version: int = of(U32, 1)
    display_name: str = of(STRING, "")
    model: Model = choice(Model.UNKNOWN)
    wrapping: Wrapping = choice(Wrapping.PT)
    weight: WeightType = choice(WeightType.UNKNOWN)
    num_layers: int = of(U32)
    model_dim: int = of(U32)
    vocab_size: int = of(U32)
    max_seq_len: int = of(U32)
    unused_num_tensor_scales: int = of(U32)
    att_cap: float = of(F32, 0.0)
    final_cap: float = of(F32, 0.0)
    absolute_pe: bool = of(BOOL, default=False)
    unused_use_local_attention: bool = of(BOOL, default=False)
    query_scale: QueryScale = choice(QueryScale.SQRT_KEY_SIZE)
    layer_configs: tuple[LayerConfig, ...] = records(LayerConfig)
    attention_window_sizes: tuple[int, ...] = many(U32)
    norm_num_groups: int = of(U32, 1)
    vit_config: VitConfig = record(VitConfig())
    pool_dim: int = of(U32, 1)
    eos_id: int = of(I32, 1)
    secondary_eos_id: int = of(I32, 1)
    scale_base_names: tuple[str, ...] = many(STRING)

    @classmethod
    def from_bytes(cls, raw: bytes | memoryview) -> Self:
        """Read a ``config`` blob.

        Raises:
            FormatError: ``fields-…``; ``config-trailing`` for words behind the record.
        """
        words = words_of(raw)
        cursor = Cursor(words, 0, len(words))
        config = cls.read(cursor)
        if cursor.position != len(words):
            at = 4 * cursor.position
            raise FormatError("config-trailing", f"{len(raw) - at} bytes stand behind the config, at offset {at}", at)
        return config

    def to_bytes(self) -> bytes:
        """Return the bytes of a ``config`` blob.

        Raises:
            UsageError: ``bad-field`` for a value that can't be stored.
        """
        words: list[int] = []
        self.write(words)
        return bytes_of(words)

    @classmethod
    def from_specifier(cls, specifier: str) -> ModelConfig:
        """Return the config of a published model: ``gemma3-270m-sfp-it``, ``paligemma2-3b-224-bf16``, ``9b-sfp-pt``.

        Raises:
            UsageError: ``unknown-model``; the message lists those that are known.
        """
        from blobstore.gemma.models import canonical_config  # noqa: PLC0415 (models are made of configs)

        return canonical_config(specifier)

    @property
    def specifier(self) -> str:
        """The model's name, weight type and wrapping, as the runtime's files are called.

        Raises:
            UsageError: ``unknown-model`` when the config names no model or no weight type.
        """
        if self.model not in PREFIXES or self.weight == WeightType.UNKNOWN:
            raise UsageError("unknown-model", f"{self.display_name!r} names no model that has a specifier")
        ending = SUFFIXES[self.wrapping] if self.wrapping in (Wrapping.IT, Wrapping.PT) else ""
        return f"{PREFIXES[self.model]}-{self.weight.name.lower()}{ending}"

    def with_weight(self, weight: str) -> Self:
        """Return the same config for another weight type, by its name: ``bf16``.

        Raises:
            UsageError: ``unknown-weight``.
        """
        return replace(self, weight=weight_type(weight))

    @property
    def weight_name(self) -> str:
        """The weight type's name: ``sfp``."""
        return BY_NUMBER[self.weight].name


PREFIXES = {
    Model.GEMMA2_2B: "gemma2-2b",
    Model.GEMMA2_9B: "9b",
    Model.GEMMA2_27B: "27b",
    Model.PALIGEMMA2_3B_224: "paligemma2-3b-224",
    Model.PALIGEMMA2_3B_448: "paligemma2-3b-448",
    Model.PALIGEMMA2_10B_224: "paligemma2-10b-224",
    Model.PALIGEMMA2_10B_448: "paligemma2-10b-448",
    Model.GEMMA3_270M: "gemma3-270m",
    Model.GEMMA3_1B: "gemma3-1b",
    Model.GEMMA3_4B: "gemma3-4b",
    Model.GEMMA3_12B: "gemma3-12b",
    Model.GEMMA3_27B: "gemma3-27b",
}
SUFFIXES = {Wrapping.IT: "-it", Wrapping.PT: "-pt", Wrapping.VLM: "-vlm", Wrapping.PALIGEMMA: "-pg"}


def weight_type(name: str) -> WeightType:
    """Return the weight type of this name: ``sfp``.

    Raises:
        UsageError: ``unknown-weight``.
    """
    known = {one.name.lower(): one for one in WeightType if one}
    if name not in known:
        raise UsageError("unknown-weight", f"{name!r} is no type of weights: one of {', '.join(known)}")
    return known[name]
