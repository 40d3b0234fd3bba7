"""What gemma.cpp stores besides tensors, once more: made from spec/gemma.md alone, to be read beside it.

It shares no code with the package and needs nothing but Python. It checks nothing: with the right arguments it plants
faults, too. Fields are named as on the page; those that it calls "unused" are numbered in each record.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace

from codec_writer import words_of
from sbs_writer import TYPES, stored_nbytes

Words = list[int]


# -------------------------------------------------------------------------------------------------------------- Fields


def text(value: str | bytes) -> Words:
    """Number of words, then the text, filled with zeros to whole words."""
    raw = value.encode() if isinstance(value, str) else value
    n = -(-len(raw) // 4)
    return [n, *struct.unpack(f"<{n}I", raw.ljust(4 * n, b"\0"))]


def record(words: Sequence[int]) -> Words:
    """Number of words that follow, then the fields'."""
    return [len(words), *words]


def vector(elements: Sequence[Words]) -> Words:
    """Number of elements, then their words."""
    return [len(elements), *(word for element in elements for word in element)]


def fields(value: object) -> Words:
    """The words of one field, by its type in Python."""
    match value:
        case bool() | int():
            return [value & 0xFFFFFFFF]
        case float():
            return words_of(value)
        case str():
            return text(value)
        case tuple():
            return vector([fields(one) for one in value])
        case Layer() | Vit() | Config():
            return value.words()
    raise TypeError(value)


def joined(values: Iterable[object]) -> Words:
    """The words of several fields."""
    return [word for value in values for word in fields(value)]


# -------------------------------------------------------------------------------------------------------------- config


@dataclass(frozen=True)
class Layer:
    """LayerConfig."""

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

    def words(self, end: int | None = None, newer: Sequence[int] = ()) -> Words:
        """The record; `end` fields of it when it is an older one, with words behind them when it is a newer one."""
        return record([*joined(astuple(self)[:end]), *newer])


@dataclass(frozen=True)
class Vit:
    """VitConfig."""

    model_dim: int = 0
    seq_len: int = 0
    num_scales: int = 0
    patch_width: int = 14
    image_size: int = 224
    layer_configs: tuple[Layer, ...] = ()
    pool_dim: int = 1

    def words(self, end: int | None = None, newer: Sequence[int] = ()) -> Words:
        """The record, as in Layer."""
        return record([*joined(list(vars(self).values())[:end]), *newer])


@dataclass(frozen=True)
class Config:
    """ModelConfig."""

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

    def words(self, end: int | None = None, newer: Sequence[int] = ()) -> Words:
        """The record, as in Layer."""
        return record([*joined(list(vars(self).values())[:end]), *newer])


# -------------------------------------------------------------------------------------------------------------- Models

IT, PT, VLM, PALIGEMMA = range(4)
SCALE_BASE_NAMES = ("att_ein", "qkv_ein", "gr_lin_x_w", "gr_lin_y_w", "gr_lin_out_w", "gr_gate_w", "gating_ein",
                    "linear_w")  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A row of the page's table, and the name that gemma.cpp displays; `vision`: the size of an image, 0 without."""

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
        """Which family it is of."""
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


def published(specifier: str) -> Config:
    """The config of a published model: its beginning, the weights' type, for some `-it` or `-pt`."""
    beginning = max((name for name in MODELS if specifier.startswith(name + "-")), key=len)
    weight, _, ending = specifier.removeprefix(beginning + "-").partition("-")
    model = MODELS[beginning]
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
    repeats = math.ceil(model.layers / len(model.windows))
    return Config(
        display_name=model.display_name,
        model=model.number,
        wrapping={"it": IT, "pt": PT, "": model.wrappings[0]}[ending],
        weight=TYPES[weight][0],
        num_layers=model.layers,
        model_dim=model.model_dim,
        vocab_size=model.vocabulary,
        max_seq_len=model.windows[-1],
        att_cap=0.0 if new else 50.0,
        final_cap=0.0 if new else 30.0,
        query_scale=int(beginning == "27b"),
        layer_configs=model.layers * (layer,),
        attention_window_sizes=(repeats * model.windows)[: model.layers],
        vit_config=vit(model),
        eos_id=1,
        secondary_eos_id=106 if new else 107,
        scale_base_names=SCALE_BASE_NAMES,
    )


def specifiers() -> list[str]:
    """All of them, for weights of sfp and bf16."""
    return [
        f"{beginning}-{weight}{ending}"
        for beginning, model in MODELS.items()
        for weight in ("sfp", "bf16")
        for ending in (("-it", "-pt") if model.wrappings == (IT, PT) else ("",))
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
    """What the toc says of a tensor."""
    number, bits, group, _ = TYPES[type_name]
    stored = stored_nbytes(type_name, (rows, cols)) if group > 1 else rows * cols
    return TocEntry(name, number, -(-bits // 8), stored, rows, cols, scale, cols)


def toc(entries: Iterable[TocEntry]) -> Words:
    """One record after another."""
    return [word for entry in entries for word in entry.words()]
