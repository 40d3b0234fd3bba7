"""A second implementation of what gemma.cpp stores besides tensors, from spec/gemma.md alone, to be read beside it.

It shares no code with the package and needs nothing but Python. It checks nothing: with the right arguments it also
plants faults. Fields are named as on the page; those that the page calls "unused" are numbered in each record.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, replace
from dataclasses import fields as fields_of
from itertools import islice
from types import MappingProxyType
from typing import Any, ClassVar

from codec_writer import words_of
from sbs_writer import TYPES, stored_nbytes

Words = list[int]


# -------------------------------------------------------------------------------------------------------------- Fields


def text(value: str | bytes) -> Words:
    """The number of words, then the text, zero-padded to whole words."""
    raw = value.encode() if isinstance(value, str) else value
    n = -(-len(raw) // 4)
    return [n, *struct.unpack(f"<{n}I", raw.ljust(4 * n, b"\0"))]


def record(words: Sequence[int]) -> Words:
    """The number of words that follow, then the fields."""
    return [len(words), *words]


def vector(elements: Sequence[Words]) -> Words:
    """The number of elements, then their words."""
    return [len(elements), *(word for element in elements for word in element)]


def fields(value: object) -> Words:
    """The words of one field, by its Python type."""
    match value:
        case bool() | int():
            return [value & 0xFFFFFFFF]
        case float():
            return words_of(value)
        case str() | bytes():
            return text(value)
        case tuple():
            return vector([fields(one) for one in value])
        case Record():
            return value.words()
    raise TypeError(value)


def joined(values: Iterable[object]) -> Words:
    """The words of several fields."""
    return [word for value in values for word in fields(value)]


# -------------------------------------------------------------------------------------------------------------- config


@dataclass(frozen=True)
class Record:
    """A record, which may end after any field."""

    CORE: ClassVar[int] = 99  # how many fields all runtimes know; all, if they never differed
    CONDITIONAL: ClassVar[tuple[str, ...]] = ()  # stored only with is_encoder_decoder

    def words(
        self, end: int | None = None, newer: Sequence[int] = (), instead: Mapping[str, Words] = MappingProxyType({})
    ) -> Words:
        """The record of a writer for every runtime: the fields of 2025-10, and more up to the last non-default.

        Args:
            end: Write the fields up to this one instead.
            newer: Words after all fields.
            instead: Other words for some fields.
        """
        if end is None:
            different = [i for i, one in enumerate(fields_of(self), 1) if getattr(self, one.name) != default(one)]
            end = len(fields_of(self)) if newer else max([self.CORE, *different])
        names = [name for name in self.stored()[:end] if name]
        listed = (instead[name] if name in instead else fields(getattr(self, name)) for name in names)
        return record([*(word for words in listed for word in words), *newer])

    def stored(self) -> list[str]:
        """Names of the fields; empty for those that are left out."""
        left_out = () if getattr(self, "is_encoder_decoder", False) else self.CONDITIONAL
        return ["" if one.name in left_out else one.name for one in fields_of(self)]


def default(one: Field[Any]) -> object:
    """The value of a field when the record ends before it."""
    return one.default if one.default is not MISSING else Vit()


@dataclass(frozen=True)
class Layer(Record):
    """LayerConfig."""

    CORE: ClassVar[int] = 15

    model_dim: int = 0
    unused_1: int = 0
    ff_hidden_dim: int = 0
    heads: int = 0
    kv_heads: int = 0
    qkv_dim: int = 0
    unused_2: int = 0
    ff_biases: bool = False
    unused_3: bool = False
    optimized_gating: bool = True
    post_norm: int = 0
    type: int = 0
    activation: int = 0
    post_qk: int = 0
    use_qk_norm: bool = False
    norm_v: bool = False
    num_experts: int = 0
    num_experts_per_datapoint: int = 0
    ple_dim: int = 0
    kv_share_layer_idx: int = -1
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    rope_head_dim: int = 0
    v_head_dim: int = 0
    attention_variant: int = 0
    kv_compression_rate: int = 1
    indexer_heads: int = 0
    indexer_head_dim: int = 0
    indexer_top_k: int = 0
    num_shared_experts: int = 0
    sigmoid_gating: bool = False
    use_routing_bias: bool = False
    o_lora_rank: int = 0
    o_groups: int = 1
    swiglu_limit: float = 0.0
    route_scale: float = 1.0
    router_score: int = 0
    hash_routing: bool = False


@dataclass(frozen=True)
class WholeLayer(Layer):
    """LayerConfig as later runtimes write it, with all fields."""

    CORE: ClassVar[int] = 99


@dataclass(frozen=True)
class Vit(Record):
    """VitConfig."""

    model_dim: int = 0
    seq_len: int = 0
    num_scales: int = 0
    patch_width: int = 14
    image_size: int = 224
    layer_configs: tuple[Layer, ...] = ()
    pool_dim: int = 1


@dataclass(frozen=True)
class Config(Record):
    """ModelConfig."""

    CORE: ClassVar[int] = 23
    CONDITIONAL: ClassVar[tuple[str, ...]] = (
        "encoder_num_layers", "encoder_layer_configs", "encoder_attention_window_sizes",
        "decoder_num_layers", "decoder_layer_configs", "decoder_attention_window_sizes",
    )  # fmt: skip

    model_family_version: int = 1
    display_name: str = ""
    model: int = 0
    wrapping: int = 1
    weight: int = 0
    num_layers: int = 0
    model_dim: int = 0
    vocab_size: int = 0
    max_seq_len: int = 0
    unused_1: int = 0
    att_cap: float = 0.0
    final_cap: float = 0.0
    absolute_pe: bool = False
    unused_2: bool = False
    query_scale: int = 0
    layer_configs: tuple[Layer, ...] = ()
    attention_window_sizes: tuple[int, ...] = ()
    norm_num_groups: int = 1
    vit_config: Vit = field(default_factory=Vit)
    pool_dim: int = 1
    eos_id: int = 1
    secondary_eos_id: int = 1
    scale_base_names: tuple[str, ...] = ()
    use_global_timescale: bool = False
    partial_rotary_factor: float = 1.0
    ple_dim: int = 0
    hc_mult: int = 0
    rope_theta: float = 10000.0
    compress_rope_theta: float = 0.0
    yarn_orig_seq_len: int = 0
    yarn_factor: float = 1.0
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    hc_sinkhorn_iters: int = 20
    hc_eps: float = struct.unpack("<f", struct.pack("<f", 1e-6))[0]
    num_mtp_layers: int = 0
    tokenizer_kind: int = 0
    is_encoder_decoder: bool = False
    encoder_num_layers: int = 0
    encoder_layer_configs: tuple[Layer, ...] = ()
    encoder_attention_window_sizes: tuple[int, ...] = ()
    decoder_num_layers: int = 0
    decoder_layer_configs: tuple[Layer, ...] = ()
    decoder_attention_window_sizes: tuple[int, ...] = ()
    global_rope_theta: float = 1000000.0


# -------------------------------------------------------------------------------------------------------------- Models

IT, PT, VLM, PALIGEMMA = range(4)
SCALE_BASE_NAMES = ("att_ein", "qkv_ein", "gr_lin_x_w", "gr_lin_y_w", "gr_lin_out_w", "gr_gate_w", "gating_ein",
                    "linear_w")  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A row of the page's table, and the name that gemma.cpp displays; `vision`: the image size, 0 without vision."""

    number: int
    display_name: str
    layers: int
    model_dim: int
    ff_hidden_dim: int
    heads: int
    kv_heads: int
    qkv_dim: int
    vocabulary: int
    windows: tuple[int, ...]
    wrappings: tuple[int, ...]
    vision: int = 0

    @property
    def gemma3(self) -> bool:
        """The family of the model."""
        return self.display_name.startswith("Gemma3")


GEMMA2_2B = Model(7, "Gemma2_2B", 26, 2304, 9216, 8, 4, 256, 256000, (4096, 8192), (IT, PT))
GEMMA2_9B = Model(3, "Gemma2_9B", 42, 3584, 14336, 16, 8, 256, 256000, (4096, 8192), (IT, PT))
SMALL, LARGE = (5 * (512,) + (32768,), 5 * (1024,) + (32768,))


def _paligemma2(like: Model, number: int, name: str, image_size: int) -> Model:
    return replace(like, number=number, display_name=name, vocabulary=257152, wrappings=(PALIGEMMA,), vision=image_size)


MODELS = {
    "gemma2-2b": GEMMA2_2B,
    "9b": GEMMA2_9B,
    "27b": Model(4, "Gemma2_27B", 46, 4608, 36864, 32, 16, 128, 256000, (4096, 8192), (IT, PT)),
    "paligemma2-3b-224": _paligemma2(GEMMA2_2B, 10, "PaliGemma2_3B_224", 224),
    "paligemma2-3b-448": _paligemma2(GEMMA2_2B, 11, "PaliGemma2_3B_448", 448),
    "paligemma2-10b-224": _paligemma2(GEMMA2_9B, 12, "PaliGemma2_10B_224", 224),
    "paligemma2-10b-448": _paligemma2(GEMMA2_9B, 13, "PaliGemma2_10B_448", 448),
    "gemma3-270m": Model(18, "Gemma3_270M", 18, 640, 2048, 4, 1, 256, 262144, SMALL, (IT, PT)),
    "gemma3-1b": Model(15, "Gemma3_1B", 26, 1152, 6912, 4, 1, 256, 262144, SMALL, (VLM,)),
    "gemma3-4b": Model(14, "Gemma3_4B", 34, 2560, 10240, 8, 4, 256, 262144, LARGE, (VLM,), 896),
    "gemma3-12b": Model(16, "Gemma3_12B", 48, 3840, 15360, 16, 8, 256, 262144, LARGE, (VLM,), 896),
    "gemma3-27b": Model(17, "Gemma3_27B", 62, 5376, 21504, 32, 16, 128, 262144, LARGE, (VLM,), 896),
}


def vit(model: Model) -> Vit:
    """The vision part of a model."""
    if not model.vision:
        return Vit()
    layer = Layer(1152, 0, 4304, 16, 16, 72, ff_biases=True, type=1)
    seq_len = (model.vision // 14) ** 2
    return Vit(1152, seq_len, 4 * 27, 14, model.vision, 27 * (layer,), 4 if model.gemma3 else 1)


def parted(specifier: str, beginnings: Iterable[str]) -> tuple[str, str, str]:
    """Prefix, weight type, and `it`, `pt` or nothing."""
    beginning = max((name for name in beginnings if specifier.startswith(name + "-")), key=len)
    weight, _, ending = specifier.removeprefix(beginning + "-").partition("-")
    return beginning, weight, ending


def of_row(model: Model) -> Config:
    """The config of a row of the table, without a weight type, and with its first wrapping."""
    new = model.gemma3
    layer = Layer(
        model.model_dim,
        0,
        model.ff_hidden_dim,
        model.heads,
        model.kv_heads,
        model.qkv_dim,
        optimized_gating=new,
        post_norm=1,
        use_qk_norm=new,
    )
    return of_layers(
        model.number,
        model.display_name,
        model.layers * (layer,),
        model.windows,
        wrapping=model.wrappings[0],
        vocab_size=model.vocabulary,
        att_cap=0.0 if new else 50.0,
        final_cap=0.0 if new else 30.0,
        query_scale=int(model.display_name == "Gemma2_27B"),
        vit_config=vit(model),
        secondary_eos_id=106 if new else 107,
    )


def of_layers(
    number: int,
    name: str,
    layers: tuple[Layer, ...],
    windows: tuple[int, ...],
    **others: Any,  # noqa: ANN401 (fields, each of its own type)
) -> Config:
    """A config of these layers, with a pattern of windows repeated over them."""
    return replace(
        Config(
            display_name=name,
            model=number,
            num_layers=len(layers),
            model_dim=layers[0].model_dim,
            max_seq_len=windows[-1],
            layer_configs=layers,
            attention_window_sizes=repeated(windows, len(layers)),
            scale_base_names=SCALE_BASE_NAMES,
        ),
        **others,
    )


def repeated(windows: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """The windows of this many layers."""
    return (math.ceil(layers / len(windows)) * windows)[:layers]


def chosen(config: Config, weight: str, ending: str) -> Config:
    """The config with its weight type and wrapping."""
    wrapping = {"it": IT, "pt": PT, "": config.wrapping}[ending]
    return replace(config, weight=TYPES[weight][0], wrapping=wrapping)


def published(specifier: str) -> Config:
    """The config of a published model, as of 2025-10."""
    beginning, weight, ending = parted(specifier, MODELS)
    return chosen(of_row(MODELS[beginning]), weight, ending)


def published_2026_04(specifier: str) -> Config:
    """As of 2026-04: one more field (24), which is always written."""
    model = MODELS[parted(specifier, MODELS)[0]]
    return replace(published(specifier), use_global_timescale=model.gemma3 and model.number != 18)


def written(specifier: str) -> Config:
    """What a writer for all runtimes writes: one more field for Gemma 3."""
    return replace(published(specifier), use_global_timescale=MODELS[parted(specifier, MODELS)[0]].gemma3)


def specifiers(weights: Sequence[str] = ("sfp", "bf16")) -> list[str]:
    """All published models, for some weight types."""
    return [
        f"{beginning}-{weight}{ending}"
        for beginning, model in MODELS.items()
        for weight in weights
        for ending in (("-it", "-pt") if model.wrappings == (IT, PT) else ("",))
    ]


# ------------------------------------------------------------------------- the models of later runtimes, as transcribed


def _lm(like: str, number: int) -> Config:
    """A larger Gemma 3 without its vision part."""
    model = MODELS[like]
    return of_row(replace(model, number=number, display_name=f"{model.display_name}_LM", wrappings=(IT, PT), vision=0))


def _gemma4(
    number: int, name: str, layers: Iterable[Layer], windows: tuple[int, ...], *, vision: Vit, ple: int
) -> Config:
    layers = (replace(one, post_norm=1, post_qk=8, use_qk_norm=True, norm_v=True, ple_dim=ple) for one in layers)
    return of_layers(
        number,
        name,
        tuple(layers),
        windows,
        model_family_version=4,
        wrapping=IT,
        vocab_size=262144,
        query_scale=2,
        vit_config=vision,
        secondary_eos_id=106,
        use_global_timescale=True,
        partial_rotary_factor=0.25,
        ple_dim=ple,
    )


def _small_gemma4(number: int, name: str, like: Layer, vision: Vit) -> Config:
    """E2B and E4B: later layers share the keys and values of an earlier layer whose heads have the same size."""
    layers, period, first, shared = (35, 5, 15, 12288) if like.model_dim == 1536 else (42, 6, 24, 10240)
    made: list[Layer] = []
    for i in range(layers):
        whole = i % period == period - 1
        one = replace(like, qkv_dim=512 if whole else 256)
        source = first - 1 if whole else first - 2
        made.append(one if i < first else replace(one, ff_hidden_dim=shared, kv_share_layer_idx=source))
    return _gemma4(number, name, made, (period - 1) * (512,) + (131072,), vision=vision, ple=256)


def _moe() -> Config:
    local = Layer(2816, 0, 2112, 16, 8, 256, num_experts=128, num_experts_per_datapoint=8)
    whole = replace(local, kv_heads=2, qkv_dim=512)
    return _gemma4(23, "Gemma4_26B_MoE", 5 * (*(5 * (local,)), whole), LARGE, vision=Vit(), ple=0)


def _qwen3(number: int, name: str, layers: int, *sizes: int) -> Config:
    model_dim, ff_hidden_dim, heads = sizes
    layer = Layer(model_dim, 0, ff_hidden_dim, heads, 8, 128, optimized_gating=False, activation=1, use_qk_norm=True)
    return of_layers(
        number,
        name,
        layers * (layer,),
        (32768,),
        wrapping=IT,
        vocab_size=151936,
        eos_id=151645,
        secondary_eos_id=151643,
        use_global_timescale=True,
        rope_theta=1e6,
    )


def _t5gemma() -> Config:
    layers, windows = 8 * (Layer(512, 0, 1024, 8, 8, 64, optimized_gating=False, post_norm=1),), (4096, 8192)
    two = {name: value for side in ("encoder", "decoder") for name, value in {
        f"{side}_num_layers": 8,
        f"{side}_layer_configs": layers,
        f"{side}_attention_window_sizes": repeated(windows, 8),
    }.items()}  # fmt: skip
    caps = {"att_cap": 50.0, "final_cap": 30.0, "secondary_eos_id": 107}
    two |= {"global_rope_theta": 10000.0}
    return of_layers(26, "T5Gemma_S_S", layers, windows, vocab_size=256000, is_encoder_decoder=True, **caps, **two)


def _deepseek4() -> Config:
    layer = Layer(
        *(4096, 0, 2048, 64, 1, 512),
        optimized_gating=False,
        type=2,
        activation=1,
        num_experts=256,
        num_experts_per_datapoint=6,
        kv_lora_rank=448,
        q_lora_rank=1024,
        rope_head_dim=64,
        v_head_dim=512,
        num_shared_experts=1,
        o_lora_rank=1024,
        o_groups=8,
        swiglu_limit=10.0,
        route_scale=1.5,
        router_score=3,
    )
    csa: dict[str, Any] = {"attention_variant": 1, "kv_compression_rate": 4}
    csa |= {"indexer_heads": 64, "indexer_head_dim": 128, "indexer_top_k": 512}
    hca: dict[str, Any] = {"attention_variant": 2, "kv_compression_rate": 128}
    layers = (
        replace(layer, **({} if i < 2 else hca if i % 2 else csa), hash_routing=i < 3, use_routing_bias=i >= 3)
        for i in range(43)
    )
    return of_layers(
        25,
        "DeepSeek4_Flash",
        tuple(layers),
        (128,),
        model_family_version=4,
        wrapping=IT,
        vocab_size=129280,
        max_seq_len=131072,
        hc_mult=4,
        compress_rope_theta=160000.0,
        yarn_orig_seq_len=65536,
        yarn_factor=16.0,
        num_mtp_layers=1,
        scale_base_names=(),
        global_rope_theta=10000.0,
    )


E2B, E4B = Layer(1536, 0, 6144, 8, 1), Layer(2560, 0, 10240, 8, 2)
VIT4 = Vit(768, 2520, 0, 16, 896, 16 * (Layer(768, 0, 3072, 12, 12, 64, post_norm=1, type=3, use_qk_norm=True),), 3)
LATE = {
    "gemma3-4b-lm": _lm("gemma3-4b", 20),
    "gemma3-12b-lm": _lm("gemma3-12b", 21),
    "gemma3-27b-lm": _lm("gemma3-27b", 22),
    "gemma4-26b-moe": _moe(),
    "gemma4-2b": _small_gemma4(24, "Gemma4_2B", E2B, VIT4),
    "deepseek4-flash": _deepseek4(),
    "t5gemma-s-s": _t5gemma(),
    "qwen3-0_6b": _qwen3(27, "Qwen3_0.6B", 28, 1024, 3072, 16),
    "qwen3-2b": _qwen3(28, "Qwen3_1.7B", 28, 2048, 6144, 16),
    "qwen3-4b": _qwen3(29, "Qwen3_4B", 36, 2560, 9728, 32),
    "gemma4-2b-lm": _small_gemma4(30, "Gemma4_2B_LM", E2B, Vit()),
    "gemma4-e4b": _small_gemma4(31, "Gemma4_E4B", E4B, VIT4),
    "gemma4-e4b-lm": _small_gemma4(32, "Gemma4_E4B_LM", E4B, Vit()),
}


def whole(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The layers with all their fields."""
    return tuple(WholeLayer(**vars(one)) for one in layers)


def published_later(specifier: str) -> Config:
    """The config of an older or a later model as later runtimes write it: all fields in all records."""
    beginning, weight, ending = parted(specifier, [*MODELS, *LATE])
    if beginning in LATE:
        config = chosen(LATE[beginning], weight, ending)
    else:
        config = published_2026_04(specifier)
        config = replace(config, global_rope_theta=1e6 if config.use_global_timescale else 1e4)
    vision = replace(config.vit_config, layer_configs=whole(config.vit_config.layer_configs))
    return replace(
        config,
        layer_configs=whole(config.layer_configs),
        vit_config=vision,
        encoder_layer_configs=whole(config.encoder_layer_configs),
        decoder_layer_configs=whole(config.decoder_layer_configs),
    )


def later_specifiers() -> list[str]:
    """All models of later runtimes, for sfp and bf16 weights."""
    return specifiers() + [
        f"{one}-{weight}-{ending}" for one in LATE for weight in ("sfp", "bf16") for ending in ("it", "pt")
    ]


# ----------------------------------------------------------------------------------------------------------------- toc


@dataclass(frozen=True)
class TocEntry:
    """A tensor."""

    name: str
    type: int
    element_bytes: int
    num_elements: int
    rows: int
    cols: int
    scale: float
    stride: int

    def words(self, newer: Sequence[int] = ()) -> Words:
        """The record."""
        return record([*joined(vars(self).values()), *newer])


def toc_entry(name: str, type_name: str, rows: int, cols: int, scale: float = 1.0) -> TocEntry:
    """The toc's record of a tensor."""
    number, bits, group, _ = TYPES[type_name]
    stored = stored_nbytes(type_name, (rows, cols)) if group > 1 else rows * cols
    return TocEntry(name, number, -(-bits // 8), stored, rows, cols, scale, cols)


def toc(entries: Iterable[TocEntry]) -> Words:
    """One record after another."""
    return [word for entry in entries for word in entry.words()]


# ----------------------------------------------------------------------------------------------------------- tokenizer

BYTE_FALLBACK, SPACES, BYTE_LEVEL = 1, 2, 4


@dataclass(frozen=True)
class Bpe(Record):
    """A BPE tokenizer."""

    flags: int = 0
    unk_id: int = 0
    tokens: tuple[str | bytes, ...] = ()
    merges: tuple[int, ...] = ()
    added_ids: tuple[int, ...] = ()


def bpe_of(words: Sequence[int]) -> Bpe:
    """The other direction: what a record says. Words behind its fields are skipped."""
    left = iter(words[1 : 1 + words[0]])

    def numbers(count: int) -> tuple[int, ...]:
        return tuple(islice(left, count))

    def vector_of_numbers() -> tuple[int, ...]:
        return numbers(next(left, 0))

    def token() -> bytes:
        found = vector_of_numbers()
        return struct.pack(f"<{len(found)}I", *found).rstrip(b"\0")

    flags, unk_id, count = numbers(3)
    tokens = tuple(token() for _ in range(count))
    return Bpe(flags, unk_id, tokens, vector_of_numbers(), vector_of_numbers())
