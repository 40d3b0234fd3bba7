"""What gemma.cpp stores besides tensors: its config, its table of contents, and which tensors a model has.

Data and small pure functions; nothing below this package knows that Gemma exists. Spec: spec/gemma.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.fileio.later import imported_later

if TYPE_CHECKING:
    from blobstore.gemma.bpe import BpeTokenizer
    from blobstore.gemma.config import LayerConfig, ModelConfig, VitConfig
    from blobstore.gemma.enums import (
        Activation,
        AttentionVariant,
        LayerType,
        Model,
        PostNorm,
        PostQK,
        QueryScale,
        RouterScore,
        TokenizerKind,
        WeightType,
        Wrapping,
    )
    from blobstore.gemma.families.specs import TensorSpec
    from blobstore.gemma.models import config_of, specifier_of
    from blobstore.gemma.tensors import check_tensors, tensors_of
    from blobstore.gemma.toc import TocEntry, build_toc, parse_toc
    from blobstore.gemma.token_list import Token, TokenList, list_tokens

__all__ = [
    "Activation",
    "AttentionVariant",
    "BpeTokenizer",
    "LayerConfig",
    "LayerType",
    "Model",
    "ModelConfig",
    "PostNorm",
    "PostQK",
    "QueryScale",
    "RouterScore",
    "TensorSpec",
    "TocEntry",
    "Token",
    "TokenList",
    "TokenizerKind",
    "VitConfig",
    "WeightType",
    "Wrapping",
    "build_toc",
    "check_tensors",
    "config_of",
    "list_tokens",
    "parse_toc",
    "specifier_of",
    "tensors_of",
]

_HOMES = {
    "Activation": "enums",
    "AttentionVariant": "enums",
    "BpeTokenizer": "bpe",
    "LayerConfig": "config",
    "LayerType": "enums",
    "Model": "enums",
    "ModelConfig": "config",
    "PostNorm": "enums",
    "PostQK": "enums",
    "QueryScale": "enums",
    "RouterScore": "enums",
    "TensorSpec": "families.specs",
    "TocEntry": "toc",
    "Token": "token_list",
    "TokenList": "token_list",
    "TokenizerKind": "enums",
    "VitConfig": "config",
    "WeightType": "enums",
    "Wrapping": "enums",
    "build_toc": "toc",
    "check_tensors": "tensors",
    "config_of": "models",
    "list_tokens": "token_list",
    "parse_toc": "toc",
    "specifier_of": "models",
    "tensors_of": "tensors",
}

if not TYPE_CHECKING:  # so that type checkers find misspelt names
    # On first use: a file's toc is read without the configs, which take 70 ms to import.
    __getattr__ = imported_later(__name__, _HOMES)
