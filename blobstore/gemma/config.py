"""The runtime's own description of a model, the blob ``config``.

Spec: spec/gemma.md, config.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from blobstore.codecs.element_types import by_number
from blobstore.errors import UsageError
from blobstore.gemma.records import (
    BOOL,
    F32,
    I32,
    STRING,
    U32,
    Cursor,
    OpenEnum,
    Record,
    bytes_of,
    choice,
    many,
    of,
    record,
    records,
    words_of,
)

HC_EPS = struct.unpack("<f", struct.pack("<f", 1e-6))[0]  # as 32 bits hold it


class Model(OpenEnum):
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
    CUSTOM = 19  # since 2026-03: all from the config
    GEMMA3_4B_LM = 20  # from here on since April 2026
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
    """How a prompt is wrapped: instruction-tuned, pre-trained, with images, PaliGemma."""

    IT = 0
    PT = 1
    VLM = 2
    PALIGEMMA = 3


class WeightType(OpenEnum):
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
    U16 = 9
    U8 = 10
    INT8 = 11
    Q4_0 = 12
    MXFP4 = 13


class QueryScale(OpenEnum):
    """What a query is multiplied by: 1 / √qkv_dim, 1 / √(model_dim / heads), or 1."""

    SQRT_KEY_SIZE = 0
    SQRT_MODEL_DIM_DIV_NUM_HEADS = 1
    ONE = 2


class PostNorm(OpenEnum):
    """Normalisation behind attention and feed-forward."""

    NONE = 0
    SCALE = 1


class LayerType(OpenEnum):
    """Text layer or vision layer."""

    GEMMA = 0
    VIT = 1
    DEEPSEEK_MLA = 2
    VIT_GEMMA4 = 3


class Activation(OpenEnum):
    """Of the feed-forward part."""

    GELU = 0
    SILU = 1


class PostQK(OpenEnum):
    """What follows the projections to queries and keys."""

    ROPE = 0
    HALF_ROPE = 1
    NORM_LOCAL_ROPE = 8


class AttentionVariant(OpenEnum):
    """Of DeepSeek's layers; dense in all others."""

    DENSE = 0
    CSA = 1
    HCA = 2


class RouterScore(OpenEnum):
    """How a mixture of experts scores them."""

    COMPAT = 0
    SOFTMAX = 1
    SIGMOID = 2
    SQRT_SOFTPLUS = 3


class TokenizerKind(OpenEnum):
    """What the blob ``tokenizer`` is."""

    SENTENCE_PIECE = 0
    BPE = 1


@dataclass(frozen=True, kw_only=True)
class LayerConfig(Record):
    """Dimensions of one layer. Runtimes up to 2026-04 stop at a record of more than its first 15 fields."""

    CORE: ClassVar[int] = 15

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
    norm_v: bool = of(BOOL, default=False)
    num_experts: int = of(U32)
    num_experts_per_datapoint: int = of(U32)
    ple_dim: int = of(U32)
    kv_share_layer_idx: int = of(I32, -1)
    kv_lora_rank: int = of(U32)
    q_lora_rank: int = of(U32)
    rope_head_dim: int = of(U32)
    v_head_dim: int = of(U32)
    attention_variant: AttentionVariant = choice(AttentionVariant.DENSE)
    kv_compression_rate: int = of(U32, 1)
    indexer_heads: int = of(U32)
    indexer_head_dim: int = of(U32)
    indexer_top_k: int = of(U32)
    num_shared_experts: int = of(U32)
    sigmoid_gating: bool = of(BOOL, default=False)
    use_routing_bias: bool = of(BOOL, default=False)
    o_lora_rank: int = of(U32)
    o_groups: int = of(U32, 1)
    swiglu_limit: float = of(F32, 0.0)
    route_scale: float = of(F32, 1.0)
    router_score: RouterScore = choice(RouterScore.COMPAT)
    hash_routing: bool = of(BOOL, default=False)


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

    Frozen: use `dataclasses.replace` to change one. Fields are the runtime's, in its order. The first 23 are those of
    2025-10; more are written only as far as they aren't their defaults.

    Attributes:
        trailing: Words behind the record, which runtimes don't look at, kept for writing back.
    """

    CORE: ClassVar[int] = 23

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
    use_global_timescale: bool = of(BOOL, default=False)
    partial_rotary_factor: float = of(F32, 1.0)
    ple_dim: int = of(U32)
    hc_mult: int = of(U32)
    rope_theta: float = of(F32, 10000.0)
    compress_rope_theta: float = of(F32, 0.0)
    yarn_orig_seq_len: int = of(U32)
    yarn_factor: float = of(F32, 1.0)
    yarn_beta_fast: float = of(F32, 32.0)
    yarn_beta_slow: float = of(F32, 1.0)
    hc_sinkhorn_iters: int = of(U32, 20)
    hc_eps: float = of(F32, HC_EPS)
    num_mtp_layers: int = of(U32)
    tokenizer_kind: TokenizerKind = choice(TokenizerKind.SENTENCE_PIECE)
    is_encoder_decoder: bool = of(BOOL, default=False)
    encoder_num_layers: int = of(U32, when="is_encoder_decoder")
    encoder_layer_configs: tuple[LayerConfig, ...] = records(LayerConfig, when="is_encoder_decoder")
    encoder_attention_window_sizes: tuple[int, ...] = many(U32, when="is_encoder_decoder")
    decoder_num_layers: int = of(U32, when="is_encoder_decoder")
    decoder_layer_configs: tuple[LayerConfig, ...] = records(LayerConfig, when="is_encoder_decoder")
    decoder_attention_window_sizes: tuple[int, ...] = many(U32, when="is_encoder_decoder")
    global_rope_theta: float = of(F32, 1e6)
    trailing: tuple[int, ...] = ()

    @classmethod
    def from_bytes(cls, raw: bytes | memoryview) -> Self:
        """Read a ``config`` blob.

        Raises:
            FormatError: ``fields-…``.
        """
        words = words_of(raw)
        cursor = Cursor(words, 0, len(words))
        config = cls.read(cursor)
        behind = words[cursor.position :]
        return replace(config, trailing=behind) if behind else config

    def to_bytes(self) -> bytes:
        """Return the bytes of a ``config`` blob.

        Raises:
            UsageError: ``bad-field`` for a value that can't be stored.
        """
        words: list[int] = []
        self.write(words)
        try:
            return bytes_of([*words, *self.trailing])
        except struct.error:
            raise UsageError("bad-field", f"ModelConfig.trailing: {self.trailing} are not 32-bit words") from None

    def with_weight(self, weight: str) -> Self:
        """Return the same config for another weight type, by its name: ``bf16``.

        Raises:
            UsageError: ``unknown-weight``.
        """
        return replace(self, weight=weight_type(weight))

    @property
    def weight_name(self) -> str:
        """The weight type's name: ``sfp``."""
        return by_number(self.weight).name


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
    Model.GEMMA3_4B_LM: "gemma3-4b-lm",
    Model.GEMMA3_12B_LM: "gemma3-12b-lm",
    Model.GEMMA3_27B_LM: "gemma3-27b-lm",
    Model.GEMMA4_26B_MOE: "gemma4-26b-moe",
    Model.GEMMA4_2B: "gemma4-2b",
    Model.GEMMA4_2B_LM: "gemma4-2b-lm",
    Model.GEMMA4_E4B: "gemma4-e4b",
    Model.GEMMA4_E4B_LM: "gemma4-e4b-lm",
    Model.DEEPSEEK4_FLASH: "deepseek4-flash",
    Model.T5GEMMA_S_S: "t5gemma-s-s",
    Model.QWEN3_600M: "qwen3-0_6b",
    Model.QWEN3_2B: "qwen3-2b",
    Model.QWEN3_4B: "qwen3-4b",
}
SUFFIXES = {Wrapping.IT: "-it", Wrapping.PT: "-pt", Wrapping.VLM: "-vlm", Wrapping.PALIGEMMA: "-pg"}


def weight_type(name: str) -> WeightType:
    """Return the weight type of this name: ``sfp``.

    Raises:
        UsageError: ``unknown-weight``.
    """
    known = {one.name.lower(): one for one in WeightType if WeightType.UNKNOWN < one <= WeightType.I8}
    if name not in known:
        raise UsageError("unknown-weight", f"{name!r} is no type of weights: one of {', '.join(known)}")
    return known[name]
