"""The runtime's own description of a model: the blob ``config``.

Spec: spec/gemma.md, config.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from blobstore.codecs.element_types import by_number
from blobstore.errors import UsageError
from blobstore.gemma.enums import (
    Activation,
    AttentionVariant,
    LayerType,
    Model,
    PostNorm,
    PostQK,
    QueryScale,
    RouterScore,
    TokenizerKind,
    WeightType,
    Wrapping,
    weight_type,
)
from blobstore.gemma.field_types import BOOL, F32, I32, STRING, U32, Cursor, bytes_of, words_of
from blobstore.gemma.records import Record, choice, many, of, record, records

HC_EPS = struct.unpack("<f", struct.pack("<f", 1e-6))[0]  # rounded to 32 bits


@dataclass(frozen=True, kw_only=True)
class LayerConfig(Record):
    """Dimensions of one layer. Runtimes up to 2026-04 stop at a record with more than its first 15 fields.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> layer = config.layer_configs[0]
        >>> layer.heads, layer.kv_heads, layer.qkv_dim
        (4, 1, 256)
    """

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
    """Dimensions of the vision part; ``layer_configs`` is empty in a model without one.

    Example:
        >>> config = blobstore.gemma.config_of("paligemma2-3b-224-bf16")
        >>> vision = config.vit_config
        >>> vision.image_size, vision.patch_width, len(vision.layer_configs)
        (224, 14, 27)
    """

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

    Frozen: use `dataclasses.replace` to change one. The fields are the runtime's, in its order. The first 23 are those
    of 2025-10; later ones are written only up to the last that isn't its default.

    Attributes:
        trailing: Words behind the record, which runtimes ignore; kept for writing back.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> config.num_layers, config.model_dim, config.vocab_size
        (18, 640, 262144)
        >>> import dataclasses
        >>> longer = dataclasses.replace(config, max_seq_len=65536)
        >>> blobstore.gemma.ModelConfig.from_bytes(longer.to_bytes()) == longer
        True
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

        Example:
            >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
            >>> blobstore.gemma.ModelConfig.from_bytes(blobstore.BlobReader("gemma.sbs")["config"]).num_layers
            2
        """
        words = words_of(raw)
        cursor = Cursor(words, 0, len(words))
        config = cls.read(cursor)
        trailing = words[cursor.position :]
        return replace(config, trailing=trailing) if trailing else config

    def to_bytes(self) -> bytes:
        """Return the bytes of a ``config`` blob.

        Raises:
            UsageError: ``bad-field`` for a value that can't be stored.

        Example:
            >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
            >>> len(config.to_bytes()) % 4
            0
        """
        words: list[int] = []
        self.write(words)
        try:
            return bytes_of([*words, *self.trailing])
        except struct.error:
            raise UsageError("bad-field", f"ModelConfig.trailing: {self.trailing} are not 32-bit words") from None

    def with_weight(self, weight: str) -> Self:
        """Return the same config with another weight type, by its name: ``bf16``.

        Raises:
            UsageError: ``unknown-weight``.

        Example:
            >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
            >>> config.with_weight("bf16").weight
            <WeightType.BF16: 2>
        """
        return replace(self, weight=weight_type(weight))

    @property
    def weight_name(self) -> str:
        """The weight type's name: ``sfp``.

        Example:
            >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
            >>> config.weight_name
            'sfp'
        """
        return by_number(self.weight).name
