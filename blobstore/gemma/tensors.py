"""Which tensors a config implies, with their shapes and narrowest types, and whether a file has them.

Spec: spec/gemma.md, Tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.codecs.element_types import BY_NAME, by_number
from blobstore.errors import Fault
from blobstore.gemma.families.gemma4 import gemma4_layer_tensors, ple_tensors
from blobstore.gemma.families.qwen3 import WITH_HEAD
from blobstore.gemma.families.siglip import vision_layer_tensors, vision_tensors
from blobstore.gemma.families.specs import WEIGHT_TYPES, TensorSpec, vector, weight
from blobstore.gemma.families.t5gemma import t5gemma_tensors
from blobstore.gemma.families.text import text_layer_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from blobstore.codecs.element_types import ElementType
    from blobstore.gemma.config import ModelConfig
    from blobstore.gemma.toc import TocEntry


def tensors_of(config: ModelConfig) -> list[TensorSpec]:
    """Return all tensors that a model may have, both forms of each slot, in the runtime's order.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> specs = blobstore.gemma.tensors_of(config)
        >>> [spec.key for spec in specs if spec.slot == "gating_0"]
        ['gating_ein_0', 'gating1_w_0', 'gating2_w_0']
    """
    if config.is_encoder_decoder:
        return t5gemma_tensors(config)
    specs = [
        weight("c_embedding", config.vocab_size, config.model_dim, floor="bf16"),
        vector("c_final_norm", config.model_dim),
    ]
    if config.model in WITH_HEAD:
        specs.append(weight("lm_head", config.vocab_size, config.model_dim))
    if config.ple_dim:
        specs += ple_tensors(config)
    vision = config.vit_config
    if vision.layer_configs:
        specs += vision_tensors(config, vision)
    for i, layer in enumerate(config.layer_configs):
        specs += text_layer_tensors(i, layer, config.model_dim)
        specs += gemma4_layer_tensors(i, layer, config.model_dim)
    for i, layer in enumerate(vision.layer_configs):
        specs += vision_layer_tensors(i, layer, vision.model_dim)
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
        if spec.optional:
            continue
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


def default_type(spec: TensorSpec, weight: str) -> ElementType:
    """Return the type that a converter stores a tensor in: that of the weights, or the next wider one without groups.

    If no wider one is taken it is bf16.
    """
    if spec.allows(weight) or (spec.floor is None and not spec.types and weight not in WEIGHT_TYPES):
        return BY_NAME[weight]  # the latter is refused later
    taken = (BY_NAME[name] for name in ("sfp", "bf16", "f32") if name in spec.taken)
    return next((wider for wider in taken if wider.bits > BY_NAME[weight].bits), BY_NAME["bf16"])


def is_wider(spec: TensorSpec, weight: str) -> bool:
    """Whether a tensor that has the type of most weights isn't stored in this one."""
    return spec.floor is None and "sfp" in spec.taken and not spec.allows(weight)
