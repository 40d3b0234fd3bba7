"""Small models of the families, and what gemma.cpp and the specification say about them and others."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
import typing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
from hypothesis import strategies as st

from blobstore.gemma.config import ModelConfig
from blobstore.gemma.models import config_of
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from blobstore.gemma.config import LayerConfig
    from blobstore.gemma.records import Record

# ------------------------------------------------------------------------------------------------ the small models

WEIGHTS = ("bf16", "sfp", "f32")
FORMS = ("stock", "split")
# Weights and layouts of files that gemma.cpp runs: it hangs when it splits the stock form of i8.
RUNNABLE = [(weights, form) for weights in (*WEIGHTS, "i8") for form in FORMS if (weights, form) != ("i8", "stock")]
# A family's name in ../shared/vectors/convert, and the specifier of the model that the small one is cut down from.
FAMILIES = {
    "gemma2": "gemma2-2b-{}-pt",
    "gemma3": "gemma3-270m-{}-pt",
    "gemma3vlm": "gemma3-4b-{}",
    "paligemma2": "paligemma2-3b-224-{}",
}
ALL_FAMILIES = FAMILIES | {"qwen3": "qwen3-4b-{}-pt"}  # those of later runtimes, too
VISION = ("gemma3vlm", "paligemma2")
SPECIFIERS = (
    *("gemma2-2b-{}-it", "gemma2-2b-{}-pt", "9b-{}-it", "9b-{}-pt", "27b-{}-it", "27b-{}-pt"),
    *("paligemma2-3b-224-{}", "paligemma2-3b-448-{}", "paligemma2-10b-224-{}", "paligemma2-10b-448-{}"),
    *("gemma3-270m-{}-it", "gemma3-270m-{}-pt", "gemma3-1b-{}", "gemma3-4b-{}", "gemma3-12b-{}", "gemma3-27b-{}"),
)


@dataclass(frozen=True)
class Sizes:
    """What may differ between two models of a family."""

    vocabulary: int
    windows: tuple[int, ...]
    model_dim: int
    hidden: int
    heads: int
    kv_heads: int
    qkv_dim: int
    vision_layers: int = 2
    width: int = 64
    patch: int = 14
    image: int = 28
    vision_hidden: int = 96
    vision_heads: int = 4
    vision_kv_heads: int = 4
    vision_qkv: int = 16

    def applied(self, config: ModelConfig) -> ModelConfig:
        """Return the config with these sizes, and everything else as it is."""
        layer = replace(
            config.layer_configs[0],
            model_dim=self.model_dim,
            ff_hidden_dim=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            qkv_dim=self.qkv_dim,
        )
        vision = config.vit_config
        if vision.layer_configs:
            part = replace(
                vision.layer_configs[0],
                model_dim=self.width,
                ff_hidden_dim=self.vision_hidden,
                heads=self.vision_heads,
                kv_heads=self.vision_kv_heads,
                qkv_dim=self.vision_qkv,
            )
            vision = replace(
                vision,
                model_dim=self.width,
                seq_len=(self.image // self.patch) ** 2,
                num_scales=4 * self.vision_layers,
                patch_width=self.patch,
                image_size=self.image,
                layer_configs=(part,) * self.vision_layers,
            )
        return replace(
            config,
            num_layers=len(self.windows),
            model_dim=self.model_dim,
            vocab_size=self.vocabulary,
            layer_configs=(layer,) * len(self.windows),
            attention_window_sizes=self.windows,
            vit_config=vision,
        )


# Those of the checkpoints in ../shared/vectors/convert.
TINY = {
    "gemma2": Sizes(1024, (4096, 8192), 128, 256, 4, 2, 32),
    "gemma3": Sizes(1024, (512, 512, 512), 128, 256, 2, 1, 64),
    "gemma3vlm": Sizes(1024, (512, 512), 128, 256, 4, 2, 32, image=56),
    "paligemma2": Sizes(1024, (4096, 8192), 128, 256, 4, 2, 32),
}
# Smaller ones. All dimensions differ, even those that are the same in real models, so that mistaking one shows.
SMALL = Sizes(48, (512, 32768), 20, 28, 6, 3, 4, 2, 10, 2, 6, 22, 5, 7, 8)

sizes = st.builds(
    Sizes,
    st.integers(1, 99),
    st.lists(st.sampled_from([512, 1024, 32768]), min_size=1, max_size=4).map(tuple),
    *[st.integers(1, 40)] * 5,
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(5, 30),
    *[st.integers(1, 40)] * 4,
)
families = st.sampled_from(list(FAMILIES))
weights = st.sampled_from(WEIGHTS)
forms = st.sampled_from(FORMS)


def tiny(family: str, weight: str = "bf16") -> ModelConfig:
    """Return the config of a checkpoint in ../shared/vectors/convert."""
    return TINY[family].applied(config_of(FAMILIES[family].format(weight)))


def as_of_2025_10(raw: bytes) -> bytes:
    """Return a config as gemma.cpp wrote it until 2025-10: without use_global_timescale, where that is last and 1."""
    first, *words = unpacked(raw)
    return packed([first - 1, *words[:-1]]) if ModelConfig.from_bytes(raw).use_global_timescale else raw


def small(family: str, weight: str = "bf16") -> ModelConfig:
    """Return the config of a model of some ten kilobytes."""
    return SMALL.applied(config_of(FAMILIES[family].format(weight)))


# --------------------------------------------------------------------- what gemma.cpp wrote for them, at commit 3ed403e

# SHA-256 of `config` in ../shared/vectors/convert/tiny-<family>.expected.json; Gemma 3's is without our field.
CONFIG_SHA256 = {
    "gemma2 bf16": "6cbb8e13ff030212500d848090a8f2c14780b03579295442c8c6ad2f69d1a5f1",
    "gemma2 sfp": "c8ce399a7b97ae1b8fd19276aacd012dc6352db89e9de4212af0fbe0bf316627",
    "gemma2 f32": "e834c4cca73a08e1a43c7cb958e4d1b0dafd2d9016938d1dbff9de429072dc30",
    "gemma3 bf16": "9198414fabb4d5af5e8e8faeed34657dc6fea688efb12c3fba06ecd490d2491e",
    "gemma3 sfp": "0dc61518728430bc0dcd9a5321478a34a6c26e2dfbfce7f21f536315dc18b51d",
    "gemma3 f32": "142dce8dff61f889b3f63082e6f53389e60caaa5463c9d57f4ffb27f230a759c",
    "gemma3vlm bf16": "47d0eea52400803a2a70d95b690fe690674a04c8b03c5b0aac5271a187ede8aa",
    "gemma3vlm sfp": "783ba5ef5d174d4106e6a000ffa5a98c5ec93dfb7c95532eddd2726d063beed3",
    "gemma3vlm f32": "37aacb76f23591d31c45eb1f9ea73446126b2def276064f536cce249c0a66a5b",
    "paligemma2 bf16": "4ad81ebe4c5c7183f0c98772f68b53cb5a7830d54ea3ca7e1b38016b0efe995a",
    "paligemma2 sfp": "69450c8b60b3bcf9fa404176f612ff9bec1d12fa155e589a6dc75131e5e7066c",
    "paligemma2 f32": "c32ced174ff05427391306c7300fbd67910ad71b6e65d94c0571bf5183d20dff",
}
# SHA-256 of `toc`; all scales are 1.
TOC_SHA256 = {
    "gemma2 bf16 stock": "66861c390354f4803bceb4f37e370846d92ae65c175247ff6718f5f009bb83e7",
    "gemma2 bf16 split": "76bce8e7c5e0629d744ef44afe2b00f049f0e3ec5276c44d447c5d4d000a4d39",
    "gemma2 sfp stock": "6c45c28154175859138a2cde34ab132099021cb3a395f19b52cc6b1ca5bc34af",
    "gemma2 sfp split": "3ad2fa614256d31f1543601c342b24b90beceef738bd929e1b39f53513456f02",
    "gemma2 f32 stock": "1b60fa73849dad724060f124bd9cfd1abe71384ed8c4054be7cae16356fa8b9c",
    "gemma2 f32 split": "0ee30495aa9a70c5343a805ca6a50ee97ec451aa70d052d54141290eb6c1d267",
    "gemma3 bf16 stock": "0d6f341ba583b34bb8e5f037b401fb6ce307cdff7d1ed62b6200fa18461f9bf4",
    "gemma3 bf16 split": "a94b721d4402899ea9432973cbd2ce03579b0e7e189e80c376fcf04404b17ffb",
    "gemma3 sfp stock": "ca6a5d840eadc3486828371b7fb3665df560dbb1eb601a96478ac83b24e7dc26",
    "gemma3 sfp split": "65db89d2975cbc780efa8baa0acfbbcc4c8357a4841775763717d073e1fe994c",
    "gemma3 f32 stock": "2a5ca2674217dfed81293c2a7f7385b56fcd7572d7f74fbef55ebc72de82a5fd",
    "gemma3 f32 split": "d1b63097d452c74f72f1bd42f163c2d100eb3ed76a962bc29404da23ca4df0a0",
    "gemma3vlm bf16 stock": "9d17bf6c67145233214369fa2fea51c93a4dc4122a5b65c6cbd1957009df0f68",
    "gemma3vlm bf16 split": "ed0217cb3562e76d96ebc42ebe5e7ca48d9a8259903089ee2782f59bf054cdc2",
    "gemma3vlm sfp stock": "3c54354f5a0a60967d46d77e2728bc3b34ee96cd622249e0ae442501997b5448",
    "gemma3vlm sfp split": "3adf2c02f37c92d32fa8302e1b8827459598c7695bc6270e8861de5b01385bd8",
    "gemma3vlm f32 stock": "7bf1e63b12da4ac0070c81add91a4f4ce40fd374358101de35ddaf04a2fa0a41",
    "gemma3vlm f32 split": "c7408deffa65fe7ffd1657117cf624156039837bd50493dec64f6821795abdb8",
    "paligemma2 bf16 stock": "7e300a852602c0ab3be8bb480e3493b0cabd729ef38ab6185ad3706a856076de",
    "paligemma2 bf16 split": "4aa31c91182825be271361684fd31f18055da958c6d337104ddc2e34b47a4721",
    "paligemma2 sfp stock": "ff84a57f19c6bbd75ede13edd0d918dc4beb622422062981642b7b047d27202c",
    "paligemma2 sfp split": "555d3beb95bcd8a5f4a0d8367aff8b6f2851227814d9b254754e3fbbf7c912c6",
    "paligemma2 f32 stock": "55168091360c5d56db60e2743f4dcfc0295f479fe9ffadd2789dae38265f6924",
    "paligemma2 f32 split": "d6d280fb8889903a0fe8a16f30630735a87d0b9650e0516ee0803b84c91a61fa",
}

# ----------------------------------------------------------- which tensors a model has, by the table of spec/gemma.md


@dataclass(frozen=True)
class Row:
    """A tensor of a model; ``floor`` is empty where any weight type will do."""

    key: str
    rows: int
    cols: int
    floor: str

    def stored_type(self, weight: str) -> str:
        """Return what a converter stores it as."""
        if weight == "f32":
            return weight
        return self.floor or ("sfp" if weight in ("q4_0", "mxfp4") and self.cols % 32 else weight)


@dataclass(frozen=True)
class _Line:
    base: str
    rows: str
    cols: str
    floor: str
    there: str


# The order in which the exporter behind ../shared/vectors/convert writes a layer.
_LAYER_ORDER = (
    *("qkv_ein", "qkv1_w", "qkv2_w", "att_ein", "att_w", "gating_ein", "gating1_w", "gating2_w", "linear_w"),
    *("pre_att_ns", "post_att_ns", "pre_ff_ns", "post_ff_ns", "key_norm", "query_norm", "ffw_gat_b", "ffw_out_b"),
)
_BIASES = "text layers with ff_biases (none of the models above)"


@functools.cache
def _spec_lines() -> tuple[_Line, ...]:
    """Return the table under "Tensors", a line for each key."""
    text = (ROOT / "spec" / "gemma.md").read_text(encoding="utf-8")
    section = text.partition("\n## Tensors\n")[2].partition("\n## ")[0]
    lines: list[_Line] = []
    for row in section.splitlines():
        if not row.startswith("| ") or row.startswith("| key |"):
            continue
        keys, shapes, floors, there = (cell.strip() for cell in row.strip("|").split("|"))
        bases = keys.split(", ")
        for i, base in enumerate(bases):
            shape, floor = (_nth(cell, i, len(bases)) for cell in (shapes, floors))
            rows, cols = shape.split(" × ")
            lines.append(_Line(base, rows, cols, floor.replace("—", ""), there))
    known = {"always", "stock form", "split form", "every layer", "post_norm 1", "use_qk_norm", _BIASES}
    known |= {"vision", "vision, wrapping vlm", "vision layers", "T5Gemma", "encoder layers", "decoder layers"}
    known |= {"models 27 and 28"}
    assert known == {line.there for line in lines}, "the table of spec/gemma.md is not what this reads"
    return tuple(lines)


def _nth(cell: str, i: int, count: int) -> str:
    parts = cell.split(", ")
    assert len(parts) in (1, count), cell
    return parts[i] if len(parts) == count else parts[0]


def size_of(text: str, dims: dict[str, int]) -> int:
    """Evaluate ``(H + 2K)·d`` and the like."""
    text = re.sub(r"\(([^()]*)\)", lambda match: str(size_of(match[1], dims)), text)
    return sum(math.prod(_factor(factor, dims) for factor in term.split("·")) for term in text.split(" + "))


def _factor(text: str, dims: dict[str, int]) -> int:
    match = re.fullmatch(r"(\d*)([A-Za-z]?)", text)
    assert match, text
    return int(match[1] or 1) * (dims[match[2]] if match[2] else 1)


def spec_tensors(config: ModelConfig, form: str) -> list[Row]:
    """Return all tensors that a model has in one form, by the specification, in the exporter's order."""
    if config.is_encoder_decoder:
        return list(_t5gemma_rows(config))
    vision = config.vit_config
    has_vision = bool(vision.layer_configs)
    whole = {"D": config.model_dim, "V": config.vocab_size, "W": vision.model_dim}
    whole |= {"P": vision.patch_width, "S": vision.seq_len}
    there = {"always"}
    if has_vision:
        there |= {"vision"}
        there |= {"vision, wrapping vlm"} if config.wrapping.name == "VLM" else set()
    there |= {"models 27 and 28"} if config.model in (27, 28) else set()
    rows = list(_rows(there, whole, ""))
    for i, layer in enumerate(config.layer_configs):
        there = {"every layer", f"{form} form"}
        there |= {"post_norm 1"} if layer.post_norm == 1 else set()
        there |= {"use_qk_norm"} if layer.use_qk_norm else set()
        there |= {_BIASES} if layer.ff_biases else set()
        by_base = {row.key.removesuffix(f"_{i}"): row for row in _rows(there, whole | _dims(layer), f"_{i}")}
        assert set(by_base) <= set(_LAYER_ORDER)
        rows += [by_base[base] for base in _LAYER_ORDER if base in by_base]
    for i, layer in enumerate(vision.layer_configs):
        rows += _rows({"vision layers"}, whole | _dims(layer), f"_{i}")
    return rows


def _t5gemma_rows(config: ModelConfig) -> Iterator[Row]:
    whole = {"D": config.model_dim, "V": config.vocab_size}
    yield from _rows({"T5Gemma"}, whole, "")
    for part, layers in (("encoder", config.encoder_layer_configs), ("decoder", config.decoder_layer_configs)):
        for i, layer in enumerate(layers):
            yield from _rows({f"{part} layers"}, whole | _dims(layer), f"_{i}")


def _dims(layer: LayerConfig) -> dict[str, int]:
    return {"F": layer.ff_hidden_dim, "H": layer.heads, "K": layer.kv_heads, "d": layer.qkv_dim}


def _rows(there: set[str], dims: dict[str, int], suffix: str) -> Iterator[Row]:
    for line in _spec_lines():
        if line.there in there:
            yield Row(line.base + suffix, size_of(line.rows, dims), size_of(line.cols, dims), line.floor)


def values_of(row: Row, seed: int = 0, *, top: float = 1.5) -> npt.NDArray[np.float32]:
    """Return random values of a tensor's shape, different for each key; the largest magnitude is near ``top``."""
    random = np.random.default_rng([seed, *row.key.encode()])
    return (random.uniform(-top, top, (row.rows, row.cols))).astype(np.float32)


# ------------------------------------------------------------------- random records, and a second writer of their words

texts = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=12) | st.text("a~", max_size=256)
texts |= st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=12)
u32s = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1])
i32s = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-1, -(2**31), 2**31 - 1])
f32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
newer_words = st.lists(u32s, max_size=3).map(tuple)
_HINTS: dict[type[Record], dict[str, Any]] = {}
_SIGNED = ("eos_id", "secondary_eos_id", "signed", "kv_share_layer_idx")
_NOT_STORED = ("newer", "extent", "trailing")
CORE = {"ModelConfig": 23, "LayerConfig": 15}  # fields of 2025-10; other records never grew


def field_hints(cls: type[Record]) -> dict[str, Any]:
    """Return the type of each stored field by name, in order."""
    if cls not in _HINTS:
        hints = get_type_hints(cls)
        names = [field.name for field in dataclasses.fields(cls)]
        _HINTS[cls] = {name: hints[name] for name in names if name not in _NOT_STORED}
    return _HINTS[cls]


def is_conditional(name: str) -> bool:
    """Whether a field is stored only for models with an encoder and a decoder."""
    return name.startswith(("encoder_", "decoder_"))


def default_of(cls: type[Record], name: str) -> object:
    """Return the value of a field in files that end before it."""
    return next(field.default for field in dataclasses.fields(cls) if field.name == name)


def end_of(record: Record) -> int:
    """Return how many declared fields a record has: those of 2025-10, or up to the last that isn't its default."""
    names = list(field_hints(type(record)))
    end = CORE.get(type(record).__name__, len(names)) if record.extent is None else record.extent
    if record.newer:
        return len(names)
    for i in range(end, len(names)):
        if getattr(record, names[i]) != default_of(type(record), names[i]):
            end = i + 1
    # A record that ends where fields are left out might as well end behind them: it is read so.
    while 0 < end < len(names) and is_conditional(names[end]) and not record.is_encoder_decoder:  # type: ignore[attr-defined]
        end += 1
    return end


def settled(record: Any) -> Any:  # noqa: ANN401 (of the record's own type)
    """Return the record as it is read: with an extent only where a new one would end elsewhere."""
    end = end_of(record)
    return replace(record, extent=None if end == end_of(replace(record, extent=None)) else end)


def stored_fields(record: Record) -> list[str]:
    """Return the names of the fields that are written."""
    names = list(field_hints(type(record)))[: end_of(record)]
    return [name for name in names if not is_conditional(name) or record.is_encoder_decoder]  # type: ignore[attr-defined]


def records(
    cls: type[Record], *, newer: st.SearchStrategy[tuple[int, ...]] | None = None, extents: bool = False
) -> st.SearchStrategy[Any]:
    """Draw records with any values, inside other records too.

    Few of the fields that came after 2025-10 have a value of their own. When asked to, records have words of newer
    fields, and end behind any field.
    """
    values = {name: _values(hint, name, newer, extents) for name, hint in field_hints(cls).items()}
    names = list(values)
    core = CORE.get(cls.__name__, len(names))
    late = st.lists(st.sampled_from(names[core:]), max_size=3, unique=True) if names[core:] else st.just([])
    ends = st.none() | st.integers(0, len(names)) if extents else st.none()

    @st.composite
    def one(draw: st.DrawFn) -> Any:  # noqa: ANN401 (of the record's own type)
        extent = draw(ends)
        chosen = [name for name in [*names[:core], *draw(late)] if extent is None or names.index(name) < extent]
        drawn = {name: draw(values[name]) for name in chosen}
        if any(is_conditional(name) for name in chosen):
            drawn["is_encoder_decoder"] = True
        return settled(cls(**drawn, newer=() if newer is None else draw(newer), extent=extent))

    return one()


def _values(
    hint: Any,  # noqa: ANN401
    name: str,
    newer: st.SearchStrategy[tuple[int, ...]] | None,
    extents: bool,
) -> st.SearchStrategy[Any]:
    if typing.get_origin(hint) is tuple:
        return st.lists(_values(typing.get_args(hint)[0], name, newer, extents), max_size=3).map(tuple)
    if dataclasses.is_dataclass(hint):
        return records(typing.cast("type[Record]", hint), newer=newer, extents=extents)
    if issubclass(hint, enum.IntEnum):
        return st.sampled_from(hint) | u32s.map(hint)
    by_type = {bool: st.booleans(), int: i32s if name in _SIGNED else u32s, float: f32s, str: texts}
    return typing.cast("st.SearchStrategy[Any]", by_type[hint])


def configs(*, as_read: bool = False) -> st.SearchStrategy[ModelConfig]:
    """Draw any config; few are a model's. As read: of any writer, older or newer, with words behind the record."""
    if not as_read:
        return records(ModelConfig)
    read = records(ModelConfig, newer=newer_words, extents=True)
    return st.builds(lambda config, words: replace(config, trailing=words), read, newer_words)


Path = tuple[tuple[str, int | None], ...]  # field, place in its vector


@dataclass
class Node:
    """A record as words: a list for each field, in which records are nodes; `start` and `at` are set by `emitted`."""

    record: Record
    path: Path
    fields: dict[str, list[int | Node]]
    extra: list[int]
    start: int = -1
    at: dict[str, int] = dataclasses.field(default_factory=dict)

    def nodes(self) -> Iterator[Node]:
        """Yield this record and all records inside it."""
        yield self
        for words in self.fields.values():
            for word in words:
                if isinstance(word, Node):
                    yield from word.nodes()


def tree(record: Record, path: Path = ()) -> Node:
    """Return a record's words, by the rules of spec/gemma.md."""
    hints = field_hints(type(record))
    fields = {name: list(_words(hints[name], name, getattr(record, name), path)) for name in stored_fields(record)}
    return Node(record, path, fields, list(record.newer))


def _words(hint: Any, name: str, value: Any, path: Path) -> Iterator[int | Node]:  # noqa: ANN401
    if typing.get_origin(hint) is tuple:
        yield len(value)
        inner = typing.get_args(hint)[0]
        for i, item in enumerate(value):
            if dataclasses.is_dataclass(inner):
                yield tree(item, (*path, (name, i)))
            else:
                yield from _words(inner, name, item, path)
    elif dataclasses.is_dataclass(hint):
        yield tree(value, (*path, (name, None)))
    elif hint is str:
        raw = value.encode()
        yield (len(raw) + 3) // 4
        yield from (int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4))
    elif hint is float:
        yield int(np.float32(value).view(np.uint32))
    else:
        yield int(value) % 2**32


def emitted(node: Node, out: list[int] | None = None) -> list[int]:
    """Return the words of a record, their number first; sets where each record and field begins."""
    out = [] if out is None else out
    node.start = len(out)
    out.append(0)
    for name, words in node.fields.items():
        node.at[name] = len(out)
        for word in words:
            if isinstance(word, Node):
                emitted(word, out)
            else:
                out.append(word)
    out += node.extra
    out[node.start] = len(out) - node.start - 1
    return out


def flat(words: list[int | Node]) -> list[int]:
    """Return one field's words as numbers."""
    out: list[int] = []
    for word in words:
        if isinstance(word, Node):
            emitted(word, out)
        else:
            out.append(word)
    return out


def packed(words: list[int]) -> bytes:
    """Return words as bytes."""
    return np.array(words, dtype="<u4").tobytes()


def unpacked(raw: bytes) -> list[int]:
    """Return bytes as words."""
    return [int(word) for word in np.frombuffer(raw, dtype="<u4")]


def with_at(record: Any, path: Path, new: Record) -> Any:  # noqa: ANN401 (of the record's own type)
    """Return a record with another one at a place inside it."""
    if not path:
        return new
    (name, i), *rest = path
    value = getattr(record, name)
    if i is None:
        return replace(record, **{name: with_at(value, tuple(rest), new)})
    return replace(record, **{name: (*value[:i], with_at(value[i], tuple(rest), new), *value[i + 1 :])})


def at_path(record: Any, path: Path) -> Any:  # noqa: ANN401 (of any record's type)
    """Return the record at a place inside another."""
    for name, i in path:
        value = getattr(record, name)
        record = value if i is None else value[i]
    return record


_ODD_WORDS = st.sampled_from([0, 1, 2, 3, 9, 64, 65, 256, 65536, 65537, 0x7F800000, 0x7FC00000, 0x80, 2**31, 2**32 - 1])


@st.composite
def mutated_words(draw: st.DrawFn, words: list[int]) -> list[int]:
    """Draw valid words with one to three faults; mostly the outermost record's count still matches."""
    out = list(words)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        at = draw(st.integers(0, max(0, len(out) - 1)))
        change = draw(st.sampled_from(["word", "word", "bump", "cut", "insert", "delete", "splice"]))
        if change == "word":
            out[at : at + 1] = [draw(_ODD_WORDS | u32s)]
        elif change == "bump":
            out[at : at + 1] = [(out[at] + draw(st.sampled_from([-1, 1]))) % 2**32] if out else [1]
        elif change == "cut":
            del out[at:]
        elif change == "insert":
            out[at:at] = draw(st.lists(_ODD_WORDS | u32s, min_size=1, max_size=3))
        elif change == "delete":
            del out[at : at + draw(st.integers(1, 4))]
        else:
            piece = out[at : at + draw(st.integers(1, 20))]
            out[at:at] = piece
    return out
