"""Small Gemma checkpoints as the exporters write them, and the gemma.cpp tensors that have to be made of them.

The mapping is stated here once more, on whole arrays: by spec/gemma.md, without the package's plan.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.safetensors import dump_header
from blobstore.codecs.element_types import BY_NAME
from blobstore.converting.choices import Choices
from blobstore.converting.choose import choose_plan
from blobstore.converting.run import run_plan
from blobstore.gemma.enums import Model
from blobstore.gemma.models import config_of
from tests.checkpoints import SINGLE, own, write_config, write_index, write_own
from tests.models import ALL_FAMILIES, VISION, Sizes, spec_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.converting.plan import Plan
    from blobstore.gemma import ModelConfig
    from tests.models import Row

    Array = npt.NDArray[Any]
    Config = dict[str, Any]
    Facts = dict[str, tuple[str, tuple[int, ...], bytes]]

DTYPES = {"bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}
TOKENIZER = b"\n\x0e\n\x05<pad>\x15\x00\x00\x00\x00\x18\x03" * 9
SPARE = 64
QK_NORM = ("gemma3", "gemma3vlm", "qwen3")

Prefixes = tuple[str, str, str]  # of the text part, of the vision part, of the projector
TEXT_ONLY: Prefixes = ("model.", "", "")
OLD: Prefixes = ("language_model.model.", "vision_tower.vision_model.", "multi_modal_projector.")
NEW: Prefixes = ("model.language_model.", "model.vision_tower.vision_model.", "model.multi_modal_projector.")
WITH_VISION: list[Prefixes] = [
    (text, vision, projector)
    for text, vision, projector in itertools.product(*((old, new) for old, new in zip(OLD, NEW, strict=True)))
] + [(text, vision.replace("vision_model.", ""), projector) for text, vision, projector in (OLD, NEW)]  # transformers 5
VARIANTS = [
    *((family, TEXT_ONLY) for family in ALL_FAMILIES if family not in VISION),
    *((family, prefixes) for family in VISION for prefixes in WITH_VISION),
]
MODEL_TYPES = {"gemma2": "gemma2", "gemma3": "gemma3_text", "gemma3vlm": "gemma3", "paligemma2": "paligemma"}
MODEL_TYPES["qwen3"] = "qwen3"


@dataclass(frozen=True)
class Size:
    """Dimensions; by default no two are the same, so that mistaking one for another shows."""

    layers: int = 2
    width: int = 20
    hidden: int = 28
    heads: int = 6
    kv_heads: int = 3
    head: int = 4
    vocabulary: int = 96
    vision_layers: int = 2
    vision_width: int = 10
    vision_heads: int = 5
    vision_hidden: int = 22
    patch: int = 2
    side: int = 3


# With these dimensions groups of 128 values end where rows and heads do.
ALIGNED = Size(2, 128, 256, 4, 2, 32, 64, 2, 64, 4, 96, 14, 2)


@dataclass(frozen=True)
class Recipe:
    """What a checkpoint is like."""

    family: str
    prefixes: Prefixes = TEXT_ONLY
    dtype: str = "bf16"
    size: Size = field(default_factory=Size)
    shards: int = 1
    head: bool = False
    own_head: bool = False  # other than the embedding: only some families may have it
    chat_template: str = ""  # the name of the file that has it
    tokenizer: bytes | None = TOKENIZER
    top: float = 1.5
    seed: int = 0

    @property
    def vision(self) -> bool:
        """Whether it has a vision part."""
        return self.family in VISION

    @property
    def tokenizer_blob(self) -> bytes:
        """What gemma.cpp has to get as the tokenizer."""
        return b"unavailable" if self.tokenizer is None or self.family == "qwen3" else self.tokenizer

    @property
    def embedding(self) -> str:
        """Name of the embedding."""
        return f"{self.prefixes[0]}embed_tokens.weight"

    @property
    def head_name(self) -> str:
        """Name of the output head, which old exporters put beside the text part."""
        return "language_model.lm_head.weight" if self.prefixes[0] == OLD[0] else "lm_head.weight"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor but the head, by name."""
        text, vision, projector = self.prefixes
        size = self.size
        shapes: dict[str, tuple[int, ...]] = {
            self.embedding: (size.vocabulary + SPARE * self.vision, size.width),
            f"{text}norm.weight": (size.width,),
        }
        for layer in range(size.layers):
            shapes |= {f"{text}layers.{layer}.{name}": shape for name, shape in self._text_layer().items()}
        if self.vision:
            shapes |= {f"{vision}{name}": shape for name, shape in self._vision().items()}
            shapes |= {f"{projector}{name}": shape for name, shape in self._projector().items()}
        return shapes

    def _text_layer(self) -> dict[str, tuple[int, ...]]:
        size = self.size
        queries, keys = size.heads * size.head, size.kv_heads * size.head
        norms = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
        if self.family == "qwen3":
            del norms[2:]
        shapes: dict[str, tuple[int, ...]] = {f"{norm}_layernorm.weight": (size.width,) for norm in norms}
        shapes |= {
            "self_attn.q_proj.weight": (queries, size.width),
            "self_attn.k_proj.weight": (keys, size.width),
            "self_attn.v_proj.weight": (keys, size.width),
            "self_attn.o_proj.weight": (size.width, queries),
            "mlp.gate_proj.weight": (size.hidden, size.width),
            "mlp.up_proj.weight": (size.hidden, size.width),
            "mlp.down_proj.weight": (size.width, size.hidden),
        }
        if self.family in QK_NORM:
            shapes |= {f"self_attn.{letter}_norm.weight": (size.head,) for letter in "qk"}
        return shapes

    def _vision(self) -> dict[str, tuple[int, ...]]:
        size = self.size
        width, hidden = size.vision_width, size.vision_hidden
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.patch_embedding.weight": (width, 3, size.patch, size.patch),
            "embeddings.patch_embedding.bias": (width,),
            "embeddings.position_embedding.weight": (size.side**2, width),
            "post_layernorm.weight": (width,),
            "post_layernorm.bias": (width,),
        }
        layer: dict[str, tuple[int, ...]] = {}
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
            layer |= {f"{name}.weight": (width, width), f"{name}.bias": (width,)}
        layer |= {"mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,)}
        layer |= {"mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,)}
        for name in ("layer_norm1", "layer_norm2"):
            layer |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
        for i in range(size.vision_layers):
            shapes |= {f"encoder.layers.{i}.{name}": shape for name, shape in layer.items()}
        return shapes

    def _projector(self) -> dict[str, tuple[int, ...]]:
        width, text = self.size.vision_width, self.size.width
        if self.family == "paligemma2":
            return {"linear.weight": (text, width), "linear.bias": (text,)}
        return {"mm_input_projection_weight": (width, text), "mm_soft_emb_norm.weight": (width,)}

    def tensors(self) -> dict[str, Array]:
        """Return random values, always the same for the same recipe."""
        random = np.random.default_rng(self.seed)
        dtype = DTYPES[self.dtype]
        made: dict[str, Array] = {
            name: random.uniform(-self.top, self.top, shape).astype(np.float32).astype(dtype)
            for name, shape in self.shapes().items()
        }
        if self.head:
            made[self.head_name] = made[self.embedding]
        if self.own_head:
            made[self.head_name] = made[self.embedding][::-1].copy()
        return made

    def config(self) -> Config:
        """Return what config.json says."""
        size = self.size
        text: Config = {
            "model_type": "gemma3_text" if self.family.startswith("gemma3") else "gemma2",
            "hidden_size": size.width,
            "intermediate_size": size.hidden,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "head_dim": size.head,
            "vocab_size": size.vocabulary + SPARE * self.vision,
            "sliding_window": 512 if self.family.startswith("gemma3") else 4096,
            "query_pre_attn_scalar": size.head,
            "max_position_embeddings": 32768 if self.family.startswith("gemma3") else 8192,
        }
        if self.family == "qwen3":
            for key in ("sliding_window", "query_pre_attn_scalar"):
                del text[key]
            text |= {"max_position_embeddings": 40960, "rope_theta": 1000000, "tie_word_embeddings": not self.own_head}
        if not self.vision:
            return text | {"model_type": MODEL_TYPES[self.family]}
        vision = {
            "model_type": "siglip_vision_model",
            "hidden_size": size.vision_width,
            "intermediate_size": size.vision_hidden,
            "num_attention_heads": size.vision_heads,
            "num_hidden_layers": size.vision_layers,
            "patch_size": size.patch,
            "image_size": size.patch * size.side,
        }
        return {
            "model_type": MODEL_TYPES[self.family],
            "text_config": text,
            "vision_config": vision,
            "image_token_index": size.vocabulary,
        }

    def write(self, folder: Path, tensors: Mapping[str, Array] | None = None, config: Config | None = None) -> Path:
        """Write the checkpoint, with the given tensors and config or the recipe's own, and return its folder."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self.tensors() if tensors is None else tensors
        if self.shards == 1:
            write_own(folder / SINGLE, own(tensors), {"format": "pt"})
        else:
            weight_map: dict[str, str] = {}
            for shard in range(self.shards):
                file = f"model-{shard + 1:05}-of-{self.shards:05}.safetensors"
                some = {name: array for i, (name, array) in enumerate(tensors.items()) if i % self.shards == shard}
                write_own(folder / file, own(some), {"format": "pt"})
                weight_map |= dict.fromkeys(some, file)
            write_index(folder, weight_map)
        write_config(folder, self.config() if config is None else config)
        if self.tokenizer is not None:
            (folder / "tokenizer.model").write_bytes(self.tokenizer)
        if self.chat_template:
            text = json.dumps({"chat_template": "{{ bos_token }}"})
            (folder / self.chat_template).write_text(text)
        return folder

    def model_config(self, weight: str, wrapping: str = "pt") -> ModelConfig:
        """Return the config that gemma.cpp has to get."""
        size = self.size
        base = config_of(
            ALL_FAMILIES[self.family].format(weight).replace("-pt", f"-{wrapping}" if not self.vision else "-pt")
        )
        whole, local, every = (32768, 512, 6) if self.family.startswith("gemma3") else (8192, 4096, 2)
        if self.family == "qwen3":
            whole, every = 40960, 1
        windows = tuple(whole if (i + 1) % every == 0 else local for i in range(size.layers))
        config = replace(self._sizes(windows).applied(base), max_seq_len=whole)
        if self.own_head:  # a number whose models have a head of their own
            config = replace(config, model=Model.QWEN3_2B, display_name="Qwen3_1.7B")
        # No published size: a text-only Gemma 3 is labelled 1B, so that all runtimes give it both RoPE bases.
        is_text = self.family == "gemma3"
        return replace(config, model=Model.GEMMA3_1B, display_name="Gemma3_1B") if is_text else config

    def _sizes(self, windows: tuple[int, ...]) -> Sizes:
        """Return what of the config is the checkpoint's own."""
        size = self.size
        return Sizes(
            vocabulary=size.vocabulary,
            windows=windows,
            model_dim=size.width,
            hidden=size.hidden,
            heads=size.heads,
            kv_heads=size.kv_heads,
            qkv_dim=size.head,
            vision_layers=size.vision_layers,
            width=size.vision_width,
            patch=size.patch,
            image=size.patch * size.side,
            vision_hidden=size.vision_hidden,
            vision_heads=size.vision_heads,
            vision_kv_heads=size.vision_heads,
            vision_qkv=size.vision_width // size.vision_heads,
        )

    def rows(self, layout: str, weight: str = "bf16") -> list[Row]:
        """Return the tensors that gemma.cpp has to get, by the specification's table."""
        rows = spec_tensors(self.model_config(weight), layout)
        return [replace(row, floor="f32") if self.is_shifted(row.key) else row for row in rows]

    def is_shifted(self, key: str) -> bool:
        """Whether a tensor of gemma.cpp's is stored minus 1, and so as f32."""
        return self.family == "qwen3" and ("_norm" in key or key.startswith("pre_"))


T5GEMMA: Prefixes = ("model.decoder.", "model.encoder.", "")  # of the decoder, of the encoder


@dataclass(frozen=True)
class T5GemmaRecipe(Recipe):
    """A T5Gemma: an encoder and a decoder; `size.layers` is the decoder's, `encoder_layers` the encoder's."""

    family: str = "t5gemma"
    prefixes: Prefixes = T5GEMMA
    encoder_layers: int = 3

    @property
    def head_name(self) -> str:
        """Name of the output head."""
        return "lm_head.out_proj.weight"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor but the head, by name."""
        decoder, encoder, _ = self.prefixes
        size = self.size
        shapes: dict[str, tuple[int, ...]] = {}
        for prefix, layers in ((encoder, self.encoder_layers), (decoder, size.layers)):
            shapes[f"{prefix}embed_tokens.weight"] = (size.vocabulary, size.width)
            shapes[f"{prefix}norm.weight"] = (size.width,)
            for layer in range(layers):
                own = self._layer(crossed=prefix == decoder)
                shapes |= {f"{prefix}layers.{layer}.{name}": shape for name, shape in own.items()}
        return shapes

    def _layer(self, *, crossed: bool) -> dict[str, tuple[int, ...]]:
        attentions = ("self", "cross") if crossed else ("self",)
        text = {name: shape for name, shape in self._text_layer().items() if "norm" not in name}
        shapes = {
            name.replace("self_attn", f"{attention}_attn"): shape
            for attention in attentions
            for name, shape in text.items()
        }
        norms = [*(f"{attention}_attn" for attention in attentions), "feedforward"]
        return shapes | {
            f"{when}_{norm}_layernorm.weight": (self.size.width,) for norm in norms for when in ("pre", "post")
        }

    def config(self) -> Config:
        """Return what config.json says."""
        size = self.size
        module: Config = {
            "model_type": "t5_gemma_module",
            "hidden_size": size.width,
            "intermediate_size": size.hidden,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "head_dim": size.head,
            "vocab_size": size.vocabulary,
            "query_pre_attn_scalar": size.head,
        }
        return {
            "model_type": "t5gemma",
            "is_encoder_decoder": True,
            "encoder": module | {"num_hidden_layers": self.encoder_layers},
            "decoder": module | {"num_hidden_layers": size.layers, "cross_attention_hidden_size": size.width},
        }

    def model_config(self, weight: str, wrapping: str = "pt") -> ModelConfig:
        """Return the config that gemma.cpp has to get."""
        base = config_of(f"t5gemma-s-s-{weight}-{wrapping}")
        encoder, decoder = (
            self._sizes(((4096, 8192) * count)[:count]).applied(base)
            for count in (self.encoder_layers, self.size.layers)
        )
        parts = {
            f"{part}_{name}": getattr(config, name)
            for part, config in (("encoder", encoder), ("decoder", decoder))
            for name in ("num_layers", "layer_configs", "attention_window_sizes")
        }
        return replace(decoder, **parts)


def arranged(recipe: Recipe, tensors: Mapping[str, Array], layout: str) -> dict[str, Array]:
    """Return gemma.cpp's tensors by key, as matrices in the source's type; what is stored minus 1, in f32."""
    text, vision, projector = recipe.prefixes
    size = recipe.size
    made = {
        "c_embedding": tensors[recipe.embedding][: size.vocabulary],
        "c_final_norm": tensors[f"{text}norm.weight"],
    }
    if recipe.own_head:
        made["lm_head"] = tensors[recipe.head_name]
    for i in range(size.layers):
        layer = {n.removeprefix(f"{text}layers.{i}."): array for n, array in tensors.items()}
        made |= {f"{key}_{i}": array for key, array in _text_layer(layer, size, layout).items()}
    if recipe.vision:
        part = {n.removeprefix(vision): array for n, array in tensors.items()}
        made |= {
            "enc_norm_bias": part["post_layernorm.bias"],
            "enc_norm_scale": part["post_layernorm.weight"],
            "img_emb_bias": part["embeddings.patch_embedding.bias"],
            "img_emb_kernel": np.moveaxis(part["embeddings.patch_embedding.weight"], 1, 3),
            "img_pos_emb": part["embeddings.position_embedding.weight"],
        }
        if recipe.family == "paligemma2":
            made["img_head_kernel"] = tensors[f"{projector}linear.weight"]
            made["img_head_bias"] = tensors[f"{projector}linear.bias"]
        else:
            made["img_head_kernel"] = tensors[f"{projector}mm_input_projection_weight"].T
            made["img_head_bias"] = np.zeros(size.width, DTYPES[recipe.dtype])
            made["mm_embed_norm"] = tensors[f"{projector}mm_soft_emb_norm.weight"]
        for i in range(size.vision_layers):
            layer = {n.removeprefix(f"encoder.layers.{i}."): array for n, array in part.items()}
            made |= {f"{key}_{i}": array for key, array in _vision_layer(layer, size).items()}
    made |= {key: array.astype(np.float32) - 1 for key, array in made.items() if recipe.is_shifted(key)}
    return {key: _matrix(array) for key, array in made.items()}


def _matrix(array: Array) -> Array:
    """Return an array as gemma.cpp sees it: a vector is one row, and all dimensions but the first are columns."""
    return array.reshape(1, -1) if array.ndim == 1 else array.reshape(len(array), -1)


def _text_layer(layer: Mapping[str, Array], size: Size, layout: str) -> dict[str, Array]:
    width = size.width
    q, k, v, o = (layer[f"self_attn.{letter}_proj.weight"] for letter in "qkvo")
    gate, up = layer["mlp.gate_proj.weight"], layer["mlp.up_proj.weight"]
    # [K, 2, d, D]: for each head its k rows, then its v rows
    pairs = np.stack([array.reshape(size.kv_heads, size.head, width) for array in (k, v)], axis=1).reshape(-1, width)
    made = {
        "linear_w": layer["mlp.down_proj.weight"],
        "pre_att_ns": layer["input_layernorm.weight"],
        "pre_ff_ns": layer["post_attention_layernorm.weight"],
    }
    if "pre_feedforward_layernorm.weight" in layer:
        made |= {
            "post_att_ns": layer["post_attention_layernorm.weight"],
            "pre_ff_ns": layer["pre_feedforward_layernorm.weight"],
            "post_ff_ns": layer["post_feedforward_layernorm.weight"],
        }
    if "self_attn.k_norm.weight" in layer:
        made |= {"key_norm": layer["self_attn.k_norm.weight"], "query_norm": layer["self_attn.q_norm.weight"]}
    if layout == "split":
        return made | {"qkv1_w": q, "qkv2_w": pairs, "att_w": o, "gating1_w": gate, "gating2_w": up}
    heads = np.moveaxis(o.reshape(width, size.heads, size.head), 1, 0).reshape(size.heads * width, size.head)
    return made | {"qkv_ein": np.vstack([q, pairs]), "att_ein": heads, "gating_ein": np.vstack([gate, up])}


def _vision_layer(layer: Mapping[str, Array], size: Size) -> dict[str, Array]:
    heads, width = size.vision_heads, size.vision_width
    weights = [layer[f"self_attn.{letter}_proj.weight"].reshape(heads, -1, width) for letter in "qkv"]
    biases = [layer[f"self_attn.{letter}_proj.bias"].reshape(heads, -1) for letter in "qkv"]
    made = {
        "qkv_ein_w": np.stack(weights, axis=1).reshape(3 * width, width),
        "qkv_ein_b": np.stack(biases, axis=1).reshape(3 * heads, -1),
    }
    for key, name in (("attn_out", "self_attn.out_proj"), ("linear_0", "mlp.fc1"), ("linear_1", "mlp.fc2")):
        made |= {f"{key}_w": layer[f"{name}.weight"], f"{key}_b": layer[f"{name}.bias"]}
    for key, name in (("ln_0", "layer_norm1"), ("ln_1", "layer_norm2")):
        made |= {f"{key}_scale": layer[f"{name}.weight"], f"{key}_bias": layer[f"{name}.bias"]}
    return made


def facts_of(tensors: Mapping[str, Array]) -> Facts:
    """Return each tensor's type, shape and bytes."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    return {name: (names[array.dtype], array.shape, array.tobytes()) for name, array in tensors.items()}


def facts_in(path: Path | str) -> Facts:
    """Return the type, shape and bytes of each tensor in a checkpoint, as our own reader has them."""
    with open_checkpoint(path) as checkpoint:
        return {
            name: (entry.type.name, entry.shape, b"".join(bytes(part) for part in entry.chunks()))
            for name, entry in checkpoint.tensors.items()
        }


def plan_of(folder: Path, choices: Choices, kind: str = "auto", tokenizer: Path | None = None) -> Plan:
    """Plan as the command line does."""
    with open_checkpoint(folder) as checkpoint:
        return choose_plan(checkpoint, kind, choices, tokenizer=str(tokenizer) if tokenizer else None)


def convert(folder: Path, target: Path, choices: Choices | None = None, kind: str = "auto", **options: Any) -> Plan:  # noqa: ANN401 (run_plan's)
    """Convert as the command line does, and return the plan."""
    plan = plan_of(folder, choices or Choices(), kind)
    with open_checkpoint(folder) as checkpoint:
        run_plan(plan, checkpoint, target, **options)
    return plan


class HasShapes(Protocol):
    """What a checkpoint is like, as far as it has to be known to write one of zeros."""

    @property
    def dtype(self) -> str:
        """Of all tensors."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by its name."""

    def config(self) -> Config:
        """Return what config.json says."""


def write_sparse(folder: Path, recipe: HasShapes, config: Config | None = None) -> Path:
    """Write a checkpoint of zeros that takes no space on the disk, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    element_type = BY_NAME[recipe.dtype]
    shapes = recipe.shapes()
    header = dump_header([(name, element_type, shape) for name, shape in shapes.items()], {"format": "pt"})
    (folder / SINGLE).write_bytes(header)
    count = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    os.truncate(folder / SINGLE, len(header) + element_type.nbytes(count))
    write_config(folder, recipe.config() if config is None else config)
    return folder


@st.composite
def _sizes(draw: st.DrawFn) -> Size:
    small = st.integers(1, 5)
    kv_heads, vision_heads = draw(small), draw(small)
    return Size(
        layers=draw(st.integers(1, 7)),
        width=draw(st.integers(1, 40)),
        hidden=draw(st.integers(1, 40)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head=draw(st.integers(1, 40)),
        vocabulary=32 * draw(st.integers(1, 3)),
        vision_layers=draw(st.integers(1, 3)),
        vision_width=vision_heads * draw(small),
        vision_heads=vision_heads,
        vision_hidden=draw(st.integers(1, 30)),
        patch=draw(small),
        side=draw(small),
    )


sizes = st.one_of(st.just(Size()), st.just(ALIGNED), _sizes())


@st.composite
def recipes(draw: st.DrawFn, dtypes: tuple[str, ...] = ("bf16", "f16", "f32")) -> Recipe:
    """Any checkpoint."""
    family, prefixes = draw(st.sampled_from(VARIANTS))
    own_head = family == "qwen3" and draw(st.booleans())
    return Recipe(
        family,
        prefixes,
        dtype=draw(st.sampled_from(dtypes)),
        size=draw(sizes),
        shards=draw(st.sampled_from([1, 1, 2, 3])),
        head=not own_head and draw(st.booleans()),
        own_head=own_head,
        top=draw(st.sampled_from([1.5, 1.5, 9.0])),
        seed=draw(st.integers(0, 99)),
    )


def small_recipe(family: str, **changes: Any) -> Recipe:  # noqa: ANN401 (fields of a recipe)
    """Return a small checkpoint of a family, with the names that its newest exporters use."""
    if family == "t5gemma":
        return T5GemmaRecipe(**changes)
    return replace(Recipe(family, NEW if family in VISION else TEXT_ONLY), **changes)


def tokenizer(pieces: int) -> bytes:
    """Return a SentencePiece model with that many pieces, the first of type UNKNOWN."""
    texts = [b"<unk>", *(b"p%d" % i for i in range(1, pieces))]
    types = [2, *[1] * (pieces - 1)]
    bodies = [b"\x0a%c%s\x18%c" % (len(text), text, piece_type) for text, piece_type in zip(texts, types, strict=True)]
    return b"".join(b"\x0a%c%s" % (len(body), body) for body in bodies)


# Dimensions that the runtime takes: those of its vision part are fixed.
SOUND = Size(head=8, vision_width=40, vision_heads=5, vision_hidden=24, patch=14)
SOUND_SIZES = {"gemma3vlm": replace(SOUND, side=64)}


def sound_recipe(family: str) -> Recipe:
    """Return a checkpoint whose file gemma.cpp runs, with images too."""
    size = SOUND_SIZES.get(family, SOUND)
    return small_recipe(family, size=size, tokenizer=tokenizer(size.vocabulary))


def as_before(config: ModelConfig) -> ModelConfig:
    """Return a Gemma 3's config as of 3ed403e: without `use_global_timescale`, and unpublished sizes labelled 270M."""
    if not config.use_global_timescale:
        return config
    old = replace(config, use_global_timescale=False, extent=None)
    text = not config.vit_config.layer_configs
    return replace(old, model=Model.GEMMA3_270M, display_name="Gemma3_270M") if text else old
