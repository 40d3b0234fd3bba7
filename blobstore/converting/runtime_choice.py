"""What a file has when it is made for one version of gemma.cpp, and not for as many as possible.

Spec: spec/gemma.md, Runtimes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from blobstore.gemma.families.gemma3 import GEMMA3_LM
from blobstore.gemma.families.sizes import in_full
from blobstore.gemma.models import model_config
from blobstore.gemma.runtimes import LATEST

if TYPE_CHECKING:
    from blobstore.gemma.config import ModelConfig

# The number that only the latest runtime knows, of the models that have another for all runtimes.
_TEXT_ONLY = {model: text_only for text_only, model in GEMMA3_LM.items()}


def as_chosen(config: ModelConfig, runtime: str | None) -> ModelConfig:
    """Return a config with the number that the chosen runtime's own file of the model has.

    Args:
        config: As every runtime that runs the model reads it.
        runtime: A name of `blobstore.gemma.runtimes`; None for as many as possible.
    """
    number = _TEXT_ONLY.get(config.model)
    if runtime != LATEST.name or number is None or config.vit_config.layer_configs:
        return config
    own = model_config(number, config.weight)
    return in_full(replace(config, model=number, display_name=own.display_name))
