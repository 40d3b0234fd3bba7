"""The versions of gemma.cpp that files are made for, by date, and what each of them reads.

This was read in their sources, and tested with all but ``latest``. Spec: spec/gemma.md, Runtimes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.gemma import versions
from blobstore.gemma.config import LayerConfig, ModelConfig
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

if TYPE_CHECKING:
    from blobstore.gemma.enums import OpenEnum


@dataclass(frozen=True)
class Runtime:
    """A version of gemma.cpp.

    Attributes:
        name: Its date: ``2025-10``; ``latest`` stands for all that is known of versions after April 2026.
        config_fields: How many fields of the config it knows.
        layer_fields: How many fields of a layer it knows: it stops at a record with more.
        values: The last member that it knows of each enumeration.
        last_type: The largest number of an element type that it knows.
        max_blobs: How many blobs a file may have.
        max_vector: How many elements a vector may have.
        ascii_only: Whether it stops at strings that are not ASCII.
    """

    name: str
    config_fields: int
    layer_fields: int
    values: dict[type[OpenEnum], OpenEnum]
    last_type: int
    max_blobs: int
    max_vector: int
    ascii_only: bool

    def knows(self, value: OpenEnum) -> bool:
        """Whether it knows a value of an enumeration."""
        return not value.is_newer and value <= self.values[type(value)]


_OLD_VALUES: dict[type[OpenEnum], OpenEnum] = {
    Model: Model.GEMMA3_270M,
    Wrapping: Wrapping.PALIGEMMA,
    WeightType: WeightType.I8,
    QueryScale: QueryScale.SQRT_MODEL_DIM_DIV_NUM_HEADS,
    PostNorm: PostNorm.SCALE,
    LayerType: LayerType.VIT,
    Activation: Activation.GELU,
    PostQK: PostQK.HALF_ROPE,
    # Of fields that it doesn't have.
    AttentionVariant: AttentionVariant.DENSE,
    RouterScore: RouterScore.COMPAT,
    TokenizerKind: TokenizerKind.SENTENCE_PIECE,
}
_CORE_CONFIG, _CORE_LAYER = ModelConfig.CORE, LayerConfig.CORE
OCTOBER = Runtime(versions.OCTOBER, _CORE_CONFIG, _CORE_LAYER, _OLD_VALUES, 8, 16384, 65536, ascii_only=True)
APRIL = Runtime(
    versions.APRIL,
    _CORE_CONFIG + 1,
    _CORE_LAYER,
    _OLD_VALUES | {Model: Model.CUSTOM, WeightType: WeightType.INT8},
    11,
    16384,
    65536,
    ascii_only=True,
)
LATEST = Runtime(
    versions.LATEST,
    len(ModelConfig.fields()),
    len(LayerConfig.fields()),
    {enumeration: max(enumeration) for enumeration in _OLD_VALUES},
    13,
    1 << 20,
    8 << 20,
    ascii_only=False,
)
RUNTIMES = (OCTOBER, APRIL, LATEST)
