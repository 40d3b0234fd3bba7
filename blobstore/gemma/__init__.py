"""What gemma.cpp stores besides tensors: its config, its table of contents, and which tensors a model has.

Data and small pure functions; nothing below this package knows that Gemma exists. Spec: spec/gemma.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blobstore.gemma.config import (
        Activation,
        AttentionVariant,
        LayerConfig,
        LayerType,
        Model,
        ModelConfig,
        PostNorm,
        PostQK,
        QueryScale,
        RouterScore,
        TokenizerKind,
        VitConfig,
        WeightType,
        Wrapping,
    )
    from blobstore.gemma.models import config_of, specifier_of
    from blobstore.gemma.tensors import TensorFault, TensorSpec, check_tensors, tensors_of
    from blobstore.gemma.toc import TocEntry, build_toc, parse_toc

__all__ = [
    "Activation",
    "AttentionVariant",
    "LayerConfig",
    "LayerType",
    "Model",
    "ModelConfig",
    "PostNorm",
    "PostQK",
    "QueryScale",
    "RouterScore",
    "TensorFault",
    "TensorSpec",
    "TocEntry",
    "TokenizerKind",
    "VitConfig",
    "WeightType",
    "Wrapping",
    "build_toc",
    "check_tensors",
    "config_of",
    "parse_toc",
    "specifier_of",
    "tensors_of",
]

_HOMES = {
    "Activation": "config",
    "AttentionVariant": "config",
    "LayerConfig": "config",
    "LayerType": "config",
    "Model": "config",
    "ModelConfig": "config",
    "PostNorm": "config",
    "PostQK": "config",
    "QueryScale": "config",
    "RouterScore": "config",
    "TensorFault": "tensors",
    "TensorSpec": "tensors",
    "TocEntry": "toc",
    "TokenizerKind": "config",
    "VitConfig": "config",
    "WeightType": "config",
    "Wrapping": "config",
    "build_toc": "toc",
    "check_tensors": "tensors",
    "config_of": "models",
    "parse_toc": "toc",
    "specifier_of": "models",
    "tensors_of": "tensors",
}

if not TYPE_CHECKING:  # so that type checkers find misspelt names

    def __getattr__(name: str) -> object:
        """Import a public name on first use: a file's toc is read without the configs, which take 70 ms to import."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value
