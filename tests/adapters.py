"""Adapters on disk as peft saves them, bases for them, and what merging them has to give."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from blobstore.checkpoint.reader import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from tests.gemma_checkpoints import Recipe

    Array = npt.NDArray[Any]

PREFIX = "base_model.model."
LAYER = "model.layers.0.self_attn.q_proj"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q_proj"]}
FLOATS = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16))


def write_adapter(folder: Path, tensors: Mapping[str, Array], **config: Any) -> Path:  # noqa: ANN401 (JSON is anything)
    """Write an adapter, its names with peft's prefix, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({PREFIX + name: array for name, array in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder


def write_base(folder: Path, tensors: Mapping[str, Array], **config: Any) -> Path:  # noqa: ANN401
    """Write a checkpoint, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    return folder


def pair(module: str, out: int, width: int, rank: int = 2, seed: int = 0) -> dict[str, Array]:
    """Return the two factors of a linear module, of random values."""
    rng = np.random.default_rng(seed)
    return {
        f"{module}.lora_A.weight": rng.normal(size=(rank, width)).astype(np.float32),
        f"{module}.lora_B.weight": rng.normal(size=(out, rank)).astype(np.float32),
    }


def factors_of(recipe: Recipe, *modules: str) -> dict[str, Array]:
    """Return the factors of linear modules of a checkpoint, by the shapes of their weights."""
    factors: dict[str, Array] = {}
    for place, module in enumerate(modules):
        out, width = recipe.shapes()[f"{module}.weight"]
        factors |= pair(module, out, width, seed=place)
    return factors


def merged(base: Path, *adapters: Path) -> dict[str, Array]:
    """Return all tensors of a base with adapters merged, as a file by name stores them."""
    with open_checkpoint(base, adapters=adapters) as checkpoint:
        return {
            name: tensor.rounded(0, tensor.count).view(np.dtype(tensor.type.dtype)).reshape(tensor.shape)
            for name, tensor in checkpoint.tensors.items()
        }


def notes(base: Path, *adapters: Path) -> list[str]:
    """Return what is told of a base with adapters."""
    with open_checkpoint(base, adapters=adapters) as checkpoint:
        return checkpoint.lines


def exactly(array: Array) -> list[list[Fraction]]:
    """Return a matrix's values without rounding."""
    return [[Fraction(float(value)) for value in row] for row in array]


def exact_product(a: Sequence[Sequence[Fraction]], b: Sequence[Sequence[Fraction]]) -> list[list[Fraction]]:
    """Return the product of two matrices without rounding."""
    return [
        [sum((x * y for x, y in zip(row, column, strict=True)), Fraction()) for column in zip(*b, strict=True)]
        for row in a
    ]
