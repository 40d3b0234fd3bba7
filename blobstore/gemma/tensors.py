"""Which tensors a config implies, with their shapes and narrowest types, and whether a file has them.

Spec: spec/gemma.md, Tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.codecs.element_types import BY_NAME, as_element_type, by_number
from blobstore.errors import Fault
from blobstore.gemma.enums import LayerType, PostNorm, Wrapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from blobstore.codecs.element_types import ElementType
    from blobstore.gemma.config import LayerConfig, ModelConfig, VitConfig
    from blobstore.gemma.toc import TocEntry

# The types that weights may be stored in; nuq needs a special build of the runtime.
WEIGHT_TYPES = ("f32", "bf16", "sfp", "nuq", "i8")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a model has.

    Attributes:
        key: Its key, with the layer's number.
        rows: Every tensor is 2-D.
        cols: A vector is one row.
        floor: The narrowest type that the runtime takes: ``f32``, ``bf16``, or None for any weight type.
        slot: What it is part of. A file has all tensors of one form of each slot, and none of the other form.
        form: ``stock`` or ``split`` where there is a choice, else empty.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> spec = blobstore.gemma.tensors_of(config)[0]
        >>> spec.key, spec.rows, spec.cols, spec.allowed, spec.allows("sfp")
        ('c_embedding', 262144, 640, 'f32 or bf16', False)
    """

    key: str
    rows: int
    cols: int
    floor: str | None
    slot: str
    form: str = ""

    @property
    def allowed(self) -> str:
        """The types that the runtime takes, as text for messages."""
        return {"f32": "f32", "bf16": "f32 or bf16"}.get(self.floor or "", ", ".join(WEIGHT_TYPES))

    def allows(self, type: ElementType | str) -> bool:  # noqa: A002 (the field's word)
        """Whether the runtime takes the tensor in this type, given itself or its name.

        Raises:
            UsageError: ``unknown-type``: no element type has this name.
        """
        name = as_element_type(type).name
        return name in (WEIGHT_TYPES if self.floor is None else ("f32", self.floor))


def tensors_of(config: ModelConfig) -> list[TensorSpec]:
    """Return all tensors that a model may have, both forms of each slot, in the runtime's order.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> specs = blobstore.gemma.tensors_of(config)
        >>> [spec.key for spec in specs if spec.slot == "gating_0"]
        ['gating_ein_0', 'gating1_w_0', 'gating2_w_0']
    """
    specs = [
        _weight("c_embedding", config.vocab_size, config.model_dim, floor="bf16"),
        _vector("c_final_norm", config.model_dim),
    ]
    vision = config.vit_config
    if vision.layer_configs:
        specs += _vision_tensors(config, vision)
    for i, layer in enumerate(config.layer_configs):
        specs += _text_layer(i, layer, config.model_dim)
    for i, layer in enumerate(vision.layer_configs):
        specs += _vision_layer(i, layer, vision.model_dim)
    return specs


def check_tensors(config: ModelConfig, found: Mapping[str, TocEntry]) -> list[Fault]:
    """Compare a file's tensors, by key, with what its config implies.

    Returns:
        Every difference; an empty list when there is none. ``reason`` is ``missing``, ``both-forms``, ``unexpected``,
        ``shape``, ``type`` or ``weight``; ``name`` is the tensor's key, or ``config``. Where a tensor has two forms,
        ``both-forms`` names the first tensor that the file has of either, ``missing`` those that complete one form.

    Example:
        >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
        >>> store = blobstore.open("gemma.sbs")
        >>> found = {entry.name: entry for entry in blobstore.gemma.parse_toc(store.reader["toc"])}
        >>> blobstore.gemma.check_tensors(store.config, found)
        []
        >>> del found["c_final_norm"]
        >>> blobstore.gemma.check_tensors(store.config, found)
        [Fault(reason='missing', name='c_final_norm', message="'c_final_norm' is missing")]
    """
    specs = {spec.key: spec for spec in tensors_of(config)}
    faults = list(_wrong_forms(specs.values(), found))
    for key, entry in found.items():
        spec = specs.get(key)
        if spec is None:
            faults.append(Fault("unexpected", key, f"{key!r} is not a tensor of this model: the runtime ignores it"))
            continue
        if (entry.rows, entry.cols) != (spec.rows, spec.cols):
            message = f"{key!r} is {entry.rows} × {entry.cols}, the config says {spec.rows} × {spec.cols}"
            faults.append(Fault("shape", key, message))
        if not spec.allows(entry.type):
            faults.append(Fault("type", key, f"{key!r} is {entry.type}, the runtime takes {spec.allowed}"))
    narrowest = narrowest_type(entry.type for entry in found.values())
    if narrowest is not None and narrowest.number != config.weight:
        says = f"{config.weight:d}, not known here" if config.weight.is_newer else str(by_number(config.weight))
        message = f"the config says weights are {says}, the narrowest tensor is {narrowest}: the runtime stops"
        faults.append(Fault("weight", "config", message))
    return faults


def narrowest_type(types: Iterable[ElementType]) -> ElementType | None:
    """Return the type with the fewest bits, which the config must name; the first if there are several."""
    known = (element_type for element_type in types if element_type.bits)
    return min(known, key=lambda element_type: element_type.bits, default=None)


def _wrong_forms(specs: Iterable[TensorSpec], found: Mapping[str, TocEntry]) -> Iterator[Fault]:
    forms: dict[str, dict[str, list[str]]] = {}
    for spec in specs:
        forms.setdefault(spec.slot, {}).setdefault(spec.form, []).append(spec.key)
    for choices in forms.values():
        present = [key for keys in choices.values() for key in keys if key in found]
        if sum(any(key in found for key in keys) for keys in choices.values()) > 1:
            message = f"{', '.join(present)} are of two forms of the same tensor: the runtime stops"
            yield Fault("both-forms", present[0], message)
        missing = {form: [key for key in keys if key not in found] for form, keys in choices.items()}
        if all(missing.values()):
            # The form that has the most of its tensors is the intended one.
            intended = min(missing, key=lambda form: len(missing[form]) - len(choices[form]))
            instead = "".join(f" (or {', '.join(keys)})" for form, keys in choices.items() if form != intended)
            for key in missing[intended]:
                yield Fault("missing", key, f"{key!r} is missing{instead}")


def _weight(key: str, rows: int, cols: int, *, floor: str | None = None, slot: str = "", form: str = "") -> TensorSpec:
    return TensorSpec(key, rows, cols, floor, slot or key, form)


def _vector(key: str, cols: int, floor: str = "bf16") -> TensorSpec:
    return TensorSpec(key, 1, cols, floor, key)


def _text_layer(i: int, layer: LayerConfig, width: int) -> list[TensorSpec]:
    queries = layer.heads * layer.qkv_dim
    keys_values = 2 * layer.kv_heads * layer.qkv_dim
    hidden = layer.ff_hidden_dim
    att, qkv, gating = f"att_{i}", f"qkv_{i}", f"gating_{i}"
    specs = [
        _weight(f"att_ein_{i}", layer.heads * width, layer.qkv_dim, slot=att, form="stock"),
        _weight(f"att_w_{i}", width, queries, slot=att, form="split"),
        _weight(f"qkv_ein_{i}", queries + keys_values, width, slot=qkv, form="stock"),
        _weight(f"qkv1_w_{i}", queries, width, slot=qkv, form="split"),
        _weight(f"qkv2_w_{i}", keys_values, width, slot=qkv, form="split"),
        _weight(f"gating_ein_{i}", 2 * hidden, width, slot=gating, form="stock"),
        _weight(f"gating1_w_{i}", hidden, width, slot=gating, form="split"),
        _weight(f"gating2_w_{i}", hidden, width, slot=gating, form="split"),
        _weight(f"linear_w_{i}", width, hidden),
        _vector(f"pre_att_ns_{i}", width),
        _vector(f"pre_ff_ns_{i}", width),
    ]
    if layer.post_norm == PostNorm.SCALE:
        specs += [_vector(f"post_att_ns_{i}", width), _vector(f"post_ff_ns_{i}", width)]
    if layer.use_qk_norm:
        specs += [_vector(f"key_norm_{i}", layer.qkv_dim), _vector(f"query_norm_{i}", layer.qkv_dim)]
    if layer.ff_biases and layer.type == LayerType.GEMMA:
        specs += [_vector(f"ffw_gat_b_{i}", 2 * hidden, "f32"), _vector(f"ffw_out_b_{i}", width, "f32")]
    return specs


def _vision_tensors(config: ModelConfig, vision: VitConfig) -> list[TensorSpec]:
    width = vision.model_dim
    specs = [
        _vector("enc_norm_bias", width),
        _vector("enc_norm_scale", width),
        _vector("img_emb_bias", width, "f32"),
        _weight("img_emb_kernel", width, vision.patch_width * vision.patch_width * 3, floor="bf16"),
        _weight("img_pos_emb", vision.seq_len, width, floor="f32"),
        _vector("img_head_bias", config.model_dim, "f32"),
        _weight("img_head_kernel", config.model_dim, width, floor="bf16"),
    ]
    if config.wrapping == Wrapping.VLM:
        specs.append(_vector("mm_embed_norm", width))
    return specs


def _vision_layer(i: int, layer: LayerConfig, width: int) -> list[TensorSpec]:
    heads, size, hidden = layer.heads, layer.qkv_dim, layer.ff_hidden_dim
    return [
        _weight(f"attn_out_w_{i}", width, heads * size, floor="bf16"),
        _vector(f"attn_out_b_{i}", width, "f32"),
        _weight(f"qkv_ein_w_{i}", 3 * heads * size, width, floor="bf16"),
        _weight(f"qkv_ein_b_{i}", heads + 2 * layer.kv_heads, size, floor="f32"),
        _weight(f"linear_0_w_{i}", hidden, width, floor="bf16"),
        _vector(f"linear_0_b_{i}", hidden, "f32"),
        _weight(f"linear_1_w_{i}", width, hidden, floor="bf16"),
        _vector(f"linear_1_b_{i}", width, "f32"),
        _vector(f"ln_0_bias_{i}", width),
        _vector(f"ln_0_scale_{i}", width),
        _vector(f"ln_1_bias_{i}", width),
        _vector(f"ln_1_scale_{i}", width),
    ]


def default_type(spec: TensorSpec, weight: str) -> ElementType:
    """Return the type that a converter stores a tensor in: that of the weights, or the floor where it is wider."""
    if weight == "f32" or spec.floor is None:
        return BY_NAME[weight]
    return BY_NAME[spec.floor]
