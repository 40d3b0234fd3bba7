"""Hugging Face checkpoints of the Gemma families: what they are called, and which model they are.

Facts only, no weights: from ``config.json`` and the tensors' names and shapes. Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from blobstore.convert.hf_config import DEFAULTS, GLOBAL_BASE, LOCAL_BASE, QUERY_SCALAR, read_settings, short
from blobstore.errors import Fault
from blobstore.gemma.config import LayerConfig, ModelConfig, VitConfig
from blobstore.gemma.enums import LayerType, Model, QueryScale, WeightType, Wrapping
from blobstore.gemma.models import DIMENSIONS, PALIGEMMA_IMAGES, Dimensions, dimensions_of, is_gemma3, model_config
from blobstore.index.names import MAX_LAYER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blobstore.convert.hf_config import Settings

    Shapes = Mapping[str, tuple[int, ...]]

TEXT_PREFIXES = ("model.language_model.", "language_model.model.", "model.")
VISION_PREFIXES = ("model.vision_tower.vision_model.", "vision_tower.vision_model.")
PROJECTOR_PREFIXES = ("model.multi_modal_projector.", "multi_modal_projector.")
HEADS = ("lm_head.weight", "language_model.lm_head.weight")
MAX_HEADS = 1024  # far more than any model has; a plan has pieces for each, and a header can claim any number
SPARE_ROWS = 64  # rows of the embedding that exporters of models with a vision part append

WITH_VISION = ("gemma3-vision", "paligemma2")

# What a config.json says it is → the family, or why there is none here.
_FAMILIES = {
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gemma3": "gemma3-vision",
    "paligemma": "paligemma2",
}
_NAMES = {
    "gemma": "Gemma 1, or another model of its architecture",
    "recurrent_gemma": "RecurrentGemma",
    "gemma3n": "Gemma 3n",
    "gemma4": "Gemma 4",
    "t5gemma": "T5Gemma",
    "shieldgemma2": "ShieldGemma 2",
    "vaultgemma": "VaultGemma",
}
# The label of a checkpoint of other dimensions than any published model's: the one under which every runtime decides
# rightly. 2025-10 takes the RoPE base of global layers from it: 1e6, but for 270M.
_LABELS = {
    "gemma2": Model.GEMMA2_2B,
    "gemma3": Model.GEMMA3_1B,
    "gemma3-vision": Model.GEMMA3_4B,
    "paligemma2": Model.PALIGEMMA2_3B_224,
}
_ONE_BASE_LABELS = {"gemma3": Model.GEMMA3_270M}
_OWN_STOPS = {token for defaults in DEFAULTS.values() for token in defaults.stop}
_GEMMA3_LARGE = (Model.GEMMA3_4B, Model.GEMMA3_12B, Model.GEMMA3_27B)
_MODELS = {
    "gemma2": (Model.GEMMA2_2B, Model.GEMMA2_9B, Model.GEMMA2_27B),
    "gemma3": (Model.GEMMA3_270M, Model.GEMMA3_1B, *_GEMMA3_LARGE),
    "gemma3-vision": _GEMMA3_LARGE,
    "paligemma2": tuple(PALIGEMMA_IMAGES),
}
_LAYER = re.compile(r"layers\.([0-9]{1,9})\.")
_MAX_LAYERS = MAX_LAYER + 1


@dataclass
class Recognised:
    """A checkpoint of a family.

    Attributes:
        family: ``gemma2``, ``gemma3``, ``gemma3-vision``, ``paligemma2``.
        config: What the runtime gets, but for its weight type and wrapping.
        bases: RoPE's, of local layers and of global ones.
        text: Prefix of the text part's tensors.
        vision: Prefix of the vision part's, or empty.
        projector: Prefix of what stands between them, or empty.
        head: Name of the output head, when the checkpoint has one.
        faults: All that is wrong.
        notes: What a user should know.
    """

    family: str
    config: ModelConfig
    text: str
    vision: str = ""
    projector: str = ""
    head: str | None = None
    bases: tuple[float, float] = (LOCAL_BASE, LOCAL_BASE)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def family_of(config: Mapping[str, Any]) -> tuple[str | None, Fault | None]:
    """Return the family that a ``config.json`` names, or None; and a fault when it is one that can't be converted."""
    kind = config.get("model_type")
    text = config.get("text_config")
    inner = text.get("model_type") if isinstance(text, dict) else None
    if kind == "paligemma" and inner in (None, "gemma"):
        return None, Fault(
            "unsupported-model", "model_type", "this is PaliGemma 1, which gemma.cpp doesn't run: PaliGemma 2"
        )
    if not isinstance(kind, str):
        return None, None
    if kind in _FAMILIES:
        return _FAMILIES[kind], None
    if "gemma" in kind:
        known = max((one for one in _NAMES if kind.startswith(one)), key=len, default="")
        name = _NAMES.get(known, kind) if known != "gemma" or kind == "gemma" else kind
        return None, Fault("unsupported-model", "model_type", f"this is {name} ({kind!r}), which gemma.cpp doesn't run")
    return None, None


def recognise(
    family: str, config: Mapping[str, Any], shapes: Shapes, generation: Mapping[str, Any] | None = None
) -> Recognised | Fault:
    """Work out the model's dimensions from its tensors, and compare them with what ``config.json`` says.

    Args:
        family: From `family_of`.
        config: ``config.json``.
        shapes: Of all tensors, by name.
        generation: ``generation_config.json``, when there is one.
    """
    text = next((one for one in TEXT_PREFIXES if f"{one}embed_tokens.weight" in shapes), None)
    if text is None:
        tried = " or ".join(f"{one}embed_tokens.weight" for one in TEXT_PREFIXES)
        return Fault("missing-tensor", "embed_tokens.weight", f"the checkpoint has no embedding, {tried}: is it whole?")
    embedding = f"{text}embed_tokens.weight"
    rows = shapes[embedding]
    if len(rows) != 2 or min(rows) < 1:
        return Fault(
            "shape", embedding, f"its shape is {list(rows)}, where a matrix is needed: is the checkpoint whole?"
        )
    spare = SPARE_ROWS if family in WITH_VISION else 0
    if rows[0] <= spare:
        what = f"it has {rows[0]} rows, and in models with a vision part the last {spare} are no vocabulary"
        return Fault("shape", embedding, what)
    said = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    faults: list[Fault] = []
    size = _text_size(text, said or {}, shapes, faults)
    if size is None:
        return faults[0]
    has_vision = family in WITH_VISION
    vocabulary = shapes[f"{text}embed_tokens.weight"][0] - (SPARE_ROWS if has_vision else 0)
    found = Recognised(family, ModelConfig(), text, faults=faults)
    found.head = next((one for one in HEADS if one in shapes), None)
    vision = VitConfig()
    if has_vision:
        found.vision = next((one for one in VISION_PREFIXES if f"{one}post_layernorm.weight" in shapes), "")
        found.projector = next((one for one in PROJECTOR_PREFIXES if any(n.startswith(one) for n in shapes)), "")
        if not found.vision or not found.projector:
            what = "vision_tower.vision_model" if not found.vision else "multi_modal_projector"
            faults.append(
                Fault("missing-tensor", what, f"the checkpoint has no {what}: a model with a vision part needs it")
            )
        else:
            vision = _vision(found, config.get("vision_config"), shapes)
    _compare(said or {}, size, vocabulary + (SPARE_ROWS if has_vision else 0), faults)
    settings = read_settings(family, config, generation or {}, layers=size.layers)
    faults += settings.faults
    found.config = _config(found, size, vocabulary, vision, settings)
    found.bases = settings.bases
    found.notes += settings.notes
    lost = [*dict.fromkeys(lost_stops(found.config).values())]
    if lost:
        what = f"the vocabulary has {vocabulary} tokens, and the model never stops at {' or '.join(map(str, lost))}"
        found.notes.append(f"{what}: is eos_token_id this checkpoint's own?")
    if has_vision:
        _compare_image_tokens(config, found.config, faults)
    return found


def _text_size(prefix: str, said: Mapping[str, Any], shapes: Shapes, faults: list[Fault]) -> Dimensions | None:
    """Read the text part's dimensions off its tensors; the head size from config.json where no shape tells it."""
    width = shapes[f"{prefix}embed_tokens.weight"][-1]
    layers = 1 + max((int(m[1]) for n in shapes if n.startswith(prefix) and (m := _LAYER.search(n))), default=-1)
    if layers > _MAX_LAYERS:
        faults.append(Fault("too-many-layers", "num_hidden_layers", too_many_layers(layers)))
        return None
    first = f"{prefix}layers.0."
    wanted = {one: f"{first}{one}.weight" for one in ("mlp.gate_proj", "self_attn.q_proj", "self_attn.k_proj")}
    for name in wanted.values():
        shape = shapes.get(name, ())
        if len(shape) != 2 or 0 in shape:
            faults.append(
                Fault("missing-tensor", name, f"{name!r} is missing, or is no matrix: the checkpoint isn't whole")
            )
            return None
    norm = shapes.get(f"{first}self_attn.q_norm.weight")
    head = norm[0] if norm else said.get("head_dim")
    if type(head) is not int or head < 1:
        what = "config.json has no head_dim, and no tensor tells it: add the checkpoint's config.json"
        faults.append(Fault("missing-config", "head_dim", what))
        return None
    hidden, queries, keys = (shapes[name][0] for name in wanted.values())
    if queries % head or keys % head or max(queries, keys) // head > MAX_HEADS:
        faults.append(
            Fault(
                "shape",
                wanted["self_attn.q_proj"],
                f"{queries} and {keys} rows are no whole heads of {head}, at most {MAX_HEADS}",
            )
        )
        return None
    return Dimensions("", layers, width, hidden, queries // head, keys // head, head)


def _vision(found: Recognised, said: Any, shapes: Shapes) -> VitConfig:  # noqa: ANN401 (JSON is anything)
    if not isinstance(said, dict):
        what = f"config.json says {short(said)}, expected an object: only it tells how many heads the vision part has"
        found.faults.append(Fault("missing-config", "vision_config", what))
        return VitConfig()
    at = found.vision
    kernel = shapes.get(f"{at}embeddings.patch_embedding.weight", ())
    positions = shapes.get(f"{at}embeddings.position_embedding.weight", ())
    hidden = shapes.get(f"{at}encoder.layers.0.mlp.fc1.weight", ())
    heads = said.get("num_attention_heads", 16)
    if "num_attention_heads" not in said:
        found.notes.append("vision_config doesn't say num_attention_heads: 16 are taken, as in published models")
    whole = (len(kernel), len(positions), len(hidden)) == (4, 2, 2) and 0 not in (*kernel, *positions, *hidden)
    if not whole or type(heads) is not int or not 1 <= heads <= MAX_HEADS:
        what = f"the vision part's tensors below {at!r} are not all there, or have other shapes"
        found.faults.append(Fault("missing-tensor", at, what))
        return VitConfig()
    width, patch = kernel[0], kernel[-1]
    layers = 1 + max(int(m[1]) for n in shapes if n.startswith(at) and (m := _LAYER.search(n)))
    if layers > _MAX_LAYERS:
        found.faults.append(Fault("too-many-layers", f"{at}encoder.layers", too_many_layers(layers)))
        return VitConfig()
    side = round(positions[0] ** 0.5)
    if side * side != positions[0] or width % heads:
        found.faults.append(
            Fault("shape", f"{at}embeddings", f"{positions[0]} patches, {width} wide in {heads} heads: odd")
        )
        return VitConfig()
    _compare_vision(said, (width, hidden[0], layers, patch, side * patch), found.faults)
    layer = LayerConfig(
        model_dim=width,
        ff_hidden_dim=hidden[0],
        heads=heads,
        kv_heads=heads,
        qkv_dim=width // heads,
        ff_biases=True,
        type=LayerType.VIT,
    )
    return VitConfig(
        model_dim=width,
        seq_len=positions[0],
        num_scales=4 * layers,
        patch_width=patch,
        image_size=side * patch,
        layer_configs=(layer,) * layers,
        pool_dim=4 if found.family == "gemma3-vision" else 1,
    )


def _compare(said: Mapping[str, Any], size: Dimensions, rows: int, faults: list[Fault]) -> None:
    """Compare config.json with the tensors: where they disagree, one of them belongs to another model."""
    facts = {
        "hidden_size": size.model_dim,
        "intermediate_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.qkv_dim,
        "vocab_size": rows,
    }
    for name, value in facts.items():
        # Vision models' configs give the vocabulary with or without the spare rows.
        allowed = (value, value - SPARE_ROWS) if name == "vocab_size" else (value,)
        if name in said and said[name] not in allowed:
            what = f"config.json says {name} {short(said[name])}, the tensors say {value}: they are of two models"
            faults.append(Fault("config-disagrees", name, what))


def _compare_vision(said: Mapping[str, Any], sizes: tuple[int, ...], faults: list[Fault]) -> None:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "patch_size", "image_size")
    for name, value in zip(names, sizes, strict=True):
        if name in said and said[name] != value:
            what = f"config.json says {short(said[name])}, the tensors say {value}: they are of two models"
            faults.append(Fault("config-disagrees", f"vision_config.{name}", what))


def _compare_image_tokens(said: Mapping[str, Any], config: ModelConfig, faults: list[Fault]) -> None:
    """Compare how many tokens an image becomes; the runtime pools patches by a fixed factor."""
    vision = config.vit_config
    tokens = vision.seq_len // vision.pool_dim**2
    name = "mm_tokens_per_image"
    if vision.layer_configs and said.get(name, tokens) != tokens:
        what = f"config.json says {short(said[name])}, the runtime makes {tokens} of {vision.seq_len} patches"
        faults.append(Fault("unsupported-config", name, what))


def _config(found: Recognised, size: Dimensions, vocabulary: int, vision: VitConfig, settings: Settings) -> ModelConfig:
    """Return the config: a published model's where the dimensions are one's, with what the checkpoint says."""
    family, two_bases = found.family, settings.two_bases
    model = _known_model(family, size, vision)
    label = model or (_LABELS if two_bases else _LABELS | _ONE_BASE_LABELS)[family]
    base = model_config(label, WeightType.BF16)
    if model is None:
        found.notes.append(f"no published model has these dimensions: the file says that it is a {base.display_name}")
    layer = replace(
        base.layer_configs[0],
        model_dim=size.model_dim,
        ff_hidden_dim=size.hidden,
        heads=size.heads,
        kv_heads=size.kv_heads,
        qkv_dim=size.qkv_dim,
    )
    config = replace(
        base,
        num_layers=size.layers,
        model_dim=size.model_dim,
        vocab_size=vocabulary,
        max_seq_len=settings.max_seq_len,
        att_cap=settings.att_cap,
        final_cap=settings.final_cap,
        layer_configs=(layer,) * size.layers,
        attention_window_sizes=settings.windows,
        query_scale=_query_scale(settings.query_scalar, size, found),
        vit_config=vision,
        eos_id=settings.stop[0],
        secondary_eos_id=settings.stop[1],
    )
    return _with_bases(config, settings.bases, gemma3=family in ("gemma3", "gemma3-vision"))


def _with_bases(config: ModelConfig, bases: tuple[float, float], *, gemma3: bool) -> ModelConfig:
    """Say RoPE's bases: by the word that Gemma 3 needs, and where they are others, by fields of later runtimes."""
    local, whole = bases
    config = replace(config, use_global_timescale=local != whole)
    if local != LOCAL_BASE:
        config = replace(config, rope_theta=local)
    if whole not in (local, GLOBAL_BASE):
        config = replace(config, global_rope_theta=whole)
    if gemma3 and not config.use_global_timescale:
        word = [one.name for one in config.fields()].index("use_global_timescale")
        config = replace(config, extent=word + 1)
    return config


def right_label(config: ModelConfig) -> Model:
    """Return the model number under which every runtime gives a Gemma 3's global layers their own RoPE base.

    A file of text only that says 270M, and isn't, is one that an earlier version of this project wrote.
    """
    if config.model != Model.GEMMA3_270M or config.vit_config.layer_configs:
        return config.model
    return _known_model("gemma3", dimensions_of(config), VitConfig()) or _LABELS["gemma3"]


def repaired(config: ModelConfig, *, one_base: bool = False) -> ModelConfig:
    """Return a Gemma 3's config with the word and the label that it needs; others as they are.

    Args:
        config: As the file has it.
        one_base: Whether the model is known to have one RoPE base for all layers.
    """
    if not is_gemma3(config):
        return config
    if one_base:
        return replace(config, use_global_timescale=False)
    label = right_label(config)
    if label != config.model:
        config = replace(config, model=label, display_name=DIMENSIONS[label].display_name)
    return replace(config, use_global_timescale=True)


def _query_scale(scalar: float | None, size: Dimensions, found: Recognised) -> QueryScale:
    # Where both are the same number, the first one's name is as good.
    scales = {size.model_dim / size.heads: QueryScale.SQRT_MODEL_DIM_DIV_NUM_HEADS}
    scales[float(size.qkv_dim)] = QueryScale.SQRT_KEY_SIZE
    if scalar is None:
        if QUERY_SCALAR not in scales:
            what = f"config.json doesn't say query_pre_attn_scalar: head_dim is taken, {size.qkv_dim}"
            found.notes.append(f"{what}, as in gemma.cpp's own files; transformers takes {QUERY_SCALAR:g}")
        return scales.get(QUERY_SCALAR, QueryScale.SQRT_KEY_SIZE)
    if scalar not in scales and not any(one.name == "query_pre_attn_scalar" for one in found.faults):
        what = f"{scalar:g} is neither head_dim nor hidden_size / heads: the runtime has no such scale"
        found.faults.append(Fault("unsupported-config", "query_pre_attn_scalar", what))
    return scales.get(scalar, QueryScale.SQRT_KEY_SIZE)


def _known_model(family: str, size: Dimensions, vision: VitConfig) -> Model | None:
    for model in _MODELS[family]:
        if replace(DIMENSIONS[model], display_name="") != size:
            continue
        if family != "paligemma2" or PALIGEMMA_IMAGES[model] == vision.image_size:
            return model
    return None


def runtime_notes(config: ModelConfig) -> list[Fault]:
    """Return what the runtime would stop at in a config that is otherwise right."""
    faults = []
    if config.vocab_size % 32:
        stops = "gemma.cpp stops on machines with AVX-512, with top_k 1"
        what = f"a vocabulary of {config.vocab_size} is no multiple of 32: {stops}"
        faults.append(Fault("vocabulary", "embed_tokens.weight", f"{what}; pad the embedding"))
    layers = len(config.layer_configs)
    if layers > _MAX_LAYERS:
        faults.append(Fault("too-many-layers", "num_hidden_layers", too_many_layers(layers)))
    return faults


def too_many_layers(count: int) -> str:
    """Say that a model has more layers than the runtime takes."""
    return f"the model has {count} layers, and gemma.cpp takes {_MAX_LAYERS}, with numbers up to {MAX_LAYER}"


def lost_stops(config: ModelConfig) -> dict[str, int]:
    """Return the stop tokens that no row of the embedding has, by field: the model never says them.

    The runtime's own, which fill up where a checkpoint gives fewer, are left out: a small vocabulary lacks some.
    """
    stops = {"eos_id": config.eos_id, "secondary_eos_id": config.secondary_eos_id}
    return {name: token for name, token in stops.items() if not (0 <= token < config.vocab_size or token in _OWN_STOPS)}


def default_wrapping(config: ModelConfig, *, has_chat_template: bool) -> tuple[Wrapping, str]:
    """Return how prompts are wrapped, and why."""
    if config.vit_config.layer_configs:
        return config.wrapping, "this model has one wrapping only"
    if config.model == Model.GEMMA3_1B and _is_published(config):
        return Wrapping.VLM, "published files of this model have it"
    if not has_chat_template:
        return Wrapping.PT, "the checkpoint has no chat template"
    return Wrapping.IT, "the checkpoint has a chat template"


def _is_published(config: ModelConfig) -> bool:
    """Whether the dimensions are those of the model that the config names."""
    return dimensions_of(config) == replace(DIMENSIONS[config.model], display_name="")
