"""The runtime's enumerations, as its config stores them.

Spec: spec/gemma.md, config.
"""

from __future__ import annotations

import enum

from blobstore.errors import UsageError
from blobstore.gemma.field_types import MAX_WORD


class OpenEnum(enum.IntEnum):
    """An enumeration that later versions of the runtime append to: an unknown number is a member, NEWER_<number>."""

    @classmethod
    def _missing_(cls, value: object) -> OpenEnum | None:
        if type(value) is not int or not 0 <= value <= MAX_WORD:
            return None
        member = int.__new__(cls, value)
        member._name_ = f"NEWER_{value}"
        member._value_ = value
        return member

    @property
    def is_newer(self) -> bool:
        """Whether this version doesn't know the number."""
        return self not in type(self).__members__.values()


class Model(OpenEnum):
    """The models that the runtime knows.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.model
        <Model.GEMMA3_270M: 18>
    """

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
    CUSTOM = 19  # since 2026-03: all dimensions come from the config
    GEMMA3_4B_LM = 20  # this and the following since April 2026
    GEMMA3_12B_LM = 21
    GEMMA3_27B_LM = 22
    GEMMA4_26B_MOE = 23
    GEMMA4_2B = 24
    DEEPSEEK4_FLASH = 25
    T5GEMMA_S_S = 26
    QWEN3_600M = 27
    QWEN3_2B = 28
    QWEN3_4B = 29
    GEMMA4_2B_LM = 30
    GEMMA4_E4B = 31
    GEMMA4_E4B_LM = 32


class Wrapping(OpenEnum):
    """How a prompt is wrapped: instruction-tuned, pre-trained, with images, PaliGemma.

    Example:
        >>> config = blobstore.gemma.config_of("paligemma2-3b-224-bf16")
        >>> config.wrapping
        <Wrapping.PALIGEMMA: 3>
    """

    IT = 0
    PT = 1
    VLM = 2
    PALIGEMMA = 3


class WeightType(OpenEnum):
    """Element types as the config names them.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.weight
        <WeightType.SFP: 3>
    """

    UNKNOWN = 0
    F32 = 1
    BF16 = 2
    SFP = 3
    NUQ = 4
    F64 = 5
    U32 = 6
    U64 = 7
    I8 = 8
    U16 = 9
    U8 = 10
    INT8 = 11
    Q4_0 = 12
    MXFP4 = 13


class QueryScale(OpenEnum):
    """What a query is multiplied by: 1 / √qkv_dim, 1 / √(model_dim / heads), or 1.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.query_scale
        <QueryScale.SQRT_KEY_SIZE: 0>
    """

    SQRT_KEY_SIZE = 0
    SQRT_MODEL_DIM_DIV_NUM_HEADS = 1
    ONE = 2


class PostNorm(OpenEnum):
    """Normalisation after attention and after the feed-forward part.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.layer_configs[0].post_norm
        <PostNorm.SCALE: 1>
    """

    NONE = 0
    SCALE = 1


class LayerType(OpenEnum):
    """Text layer or vision layer.

    Example:
        >>> config = blobstore.gemma.config_of("paligemma2-3b-224-bf16")
        >>> {layer.type for layer in config.vit_config.layer_configs}
        {<LayerType.VIT: 1>}
    """

    GEMMA = 0
    VIT = 1
    DEEPSEEK_MLA = 2
    VIT_GEMMA4 = 3


class Activation(OpenEnum):
    """Activation function of the feed-forward part.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.layer_configs[0].activation
        <Activation.GELU: 0>
    """

    GELU = 0
    SILU = 1


class PostQK(OpenEnum):
    """What follows the projections to queries and keys.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.layer_configs[0].post_qk
        <PostQK.ROPE: 0>
    """

    ROPE = 0
    HALF_ROPE = 1
    NORM_LOCAL_ROPE = 8


class AttentionVariant(OpenEnum):
    """Attention of DeepSeek's layers; dense in all others.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.layer_configs[0].attention_variant
        <AttentionVariant.DENSE: 0>
    """

    DENSE = 0
    CSA = 1
    HCA = 2


class RouterScore(OpenEnum):
    """How a mixture of experts scores its experts.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.layer_configs[0].router_score
        <RouterScore.COMPAT: 0>
    """

    COMPAT = 0
    SOFTMAX = 1
    SIGMOID = 2
    SQRT_SOFTPLUS = 3


class TokenizerKind(OpenEnum):
    """What the blob ``tokenizer`` is.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.tokenizer_kind
        <TokenizerKind.SENTENCE_PIECE: 0>
    """

    SENTENCE_PIECE = 0
    BPE = 1


_NOT_WEIGHTS = (WeightType.UNKNOWN, WeightType.U16, WeightType.U8, WeightType.INT8)
WEIGHTS = {weight.name.lower(): weight for weight in WeightType if weight not in _NOT_WEIGHTS}


def weight_type(name: str) -> WeightType:
    """Return the weight type of this name: ``sfp``.

    Raises:
        UsageError: ``unknown-weight``.
    """
    if name not in WEIGHTS:
        raise UsageError("unknown-weight", f"{name!r} is not a weight type: one of {', '.join(WEIGHTS)}")
    return WEIGHTS[name]
