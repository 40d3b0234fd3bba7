"""The vision part of a Gemma 3 or PaliGemma 2: its dimensions, from the tensors' shapes and ``config.json``.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from blobstore.converting.hf_tensors import (
    MAX_HEADS,
    PROJECTOR_PREFIXES,
    VISION_PREFIXES,
    count_layers,
    too_many_layers,
)
from blobstore.converting.hf_values import disagreement, short
from blobstore.errors import Fault
from blobstore.gemma.config import LayerConfig, VitConfig
from blobstore.gemma.enums import LayerType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blobstore.converting.hf_tensors import Shapes
    from blobstore.gemma.config import ModelConfig

_HEADS = 16  # of published models, whose config.json may leave it out


@dataclass
class VisionPart:
    """The vision part of a checkpoint.

    Attributes:
        prefix: Of its tensors' names; empty when it is missing.
        projector: Prefix of the tensors between vision and text; empty when they are missing.
        config: Empty when a fault keeps it from being known.
        faults: Everything that is wrong.
        notes: What a user should know.
    """

    prefix: str = ""
    projector: str = ""
    config: VitConfig = field(default_factory=VitConfig)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Size(NamedTuple):
    """Dimensions; an image has side × side patches."""

    width: int
    hidden: int
    layers: int
    patch: int
    side: int
    heads: int


def read_vision(family: str, config: Any, shapes: Shapes) -> VisionPart:  # noqa: ANN401 (JSON is anything)
    """Work out the vision part's dimensions, and compare them with ``config.json``.

    Args:
        family: One with a vision part.
        config: ``vision_config`` of config.json.
        shapes: Of all tensors, by name.
    """
    part = VisionPart()
    part.prefix = next((prefix for prefix in VISION_PREFIXES if f"{prefix}post_layernorm.weight" in shapes), "")
    part.projector = next((p for p in PROJECTOR_PREFIXES if any(name.startswith(p) for name in shapes)), "")
    if not part.prefix or not part.projector:
        lost = "multi_modal_projector" if part.prefix else "vision_tower.vision_model"
        what = f"the checkpoint has no {lost}: a model with a vision part needs it"
        part.faults.append(Fault("missing-tensor", lost, what))
        return part
    if not isinstance(config, dict):
        what = f"config.json says {short(config)}, expected an object: only it says how many heads the vision part has"
        part.faults.append(Fault("missing-config", "vision_config", what))
        return part
    if "num_attention_heads" not in config:
        part.notes.append(f"vision_config has no num_attention_heads: {_HEADS} is used, as in published models")
    size = _read_size(part.prefix, config, shapes)
    if isinstance(size, Fault):
        part.faults.append(size)
        return part
    part.faults += _disagreements(config, size)
    part.config = _vit_config(size, pool_dim=4 if family == "gemma3-vision" else 1)
    return part


def _read_size(prefix: str, config: Mapping[str, Any], shapes: Shapes) -> _Size | Fault:
    kernel = shapes.get(f"{prefix}embeddings.patch_embedding.weight", ())
    positions = shapes.get(f"{prefix}embeddings.position_embedding.weight", ())
    hidden = shapes.get(f"{prefix}encoder.layers.0.mlp.fc1.weight", ())
    heads = config.get("num_attention_heads", _HEADS)
    is_whole = (len(kernel), len(positions), len(hidden)) == (4, 2, 2) and 0 not in (*kernel, *positions, *hidden)
    if not is_whole or type(heads) is not int or not 1 <= heads <= MAX_HEADS:
        what = f"tensors of the vision part below {prefix!r} are missing, or have unexpected shapes"
        return Fault("missing-tensor", prefix, what)
    layers = count_layers(prefix, shapes)
    fault = too_many_layers(f"{prefix}encoder.layers", layers)
    if fault:
        return fault
    width, patches = kernel[0], positions[0]
    side = math.isqrt(patches)
    if side * side != patches or width % heads:
        what = f"{patches} patches are not a square, or {width} columns are not {heads} heads of the same size"
        return Fault("shape", f"{prefix}embeddings", what)
    return _Size(width, hidden[0], layers, kernel[-1], side, heads)


def _disagreements(config: Mapping[str, Any], size: _Size) -> Iterator[Fault]:
    facts = {
        "hidden_size": size.width,
        "intermediate_size": size.hidden,
        "num_hidden_layers": size.layers,
        "patch_size": size.patch,
        "image_size": size.side * size.patch,
    }
    for name, value in facts.items():
        if name in config and config[name] != value:
            yield disagreement(f"vision_config.{name}", config[name], value)


def _vit_config(size: _Size, *, pool_dim: int) -> VitConfig:
    layer = LayerConfig(
        model_dim=size.width,
        ff_hidden_dim=size.hidden,
        heads=size.heads,
        kv_heads=size.heads,
        qkv_dim=size.width // size.heads,
        ff_biases=True,
        type=LayerType.VIT,
    )
    return VitConfig(
        model_dim=size.width,
        seq_len=size.side**2,
        num_scales=4 * size.layers,
        patch_width=size.patch,
        image_size=size.side * size.patch,
        layer_configs=(layer,) * size.layers,
        pool_dim=pool_dim,
    )


def image_token_faults(config: Mapping[str, Any], model: ModelConfig) -> Iterator[Fault]:
    """Compare how many tokens an image becomes: the runtime pools patches by a fixed factor."""
    vision = model.vit_config
    tokens = vision.seq_len // vision.pool_dim**2
    name = "mm_tokens_per_image"
    if vision.layer_configs and config.get(name, tokens) != tokens:
        what = f"config.json says {short(config[name])}, the runtime makes {tokens} tokens of {vision.seq_len} patches"
        yield Fault("unsupported-config", name, what)
