"""Check a config's vision part: what gemma.cpp can't run with images. Text prompts run all the same.

The rules are listed, with their sources, in spec/gemma.md, Rules of the runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checking.findings import finding
from blobstore.gemma.enums import LayerType, Wrapping
from blobstore.gemma.runtimes import OCTOBER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.checking.findings import Finding
    from blobstore.gemma.config import LayerConfig, ModelConfig

# Sizes that are fixed in gemma.cpp, for text layers as well.
MATMUL_ROWS = 4  # a matrix product takes this many at a time
MAX_COLUMNS = 36 * 1024  # of a matrix product
LANES = 8  # floats in an AVX2 vector: 2025-10 reads queries in multiples of it
_PATCH = 14
_MAX_PATCHES = 4096  # rows of a matrix product
_POOLED_PATCHES, _POOL = 4096, 4  # the pooling of the wrapping vlm
_ALIKE = ("ff_hidden_dim", "heads", "qkv_dim")


def check_vision(config: ModelConfig) -> Iterator[Finding]:
    """Yield what goes wrong with an image, for files with a SigLIP vision part."""
    vision = config.vit_config
    if not vision.layer_configs or any(layer.type == LayerType.VIT_GEMMA4 for layer in vision.layer_configs):
        return
    for field, what in _faults(config):
        yield finding("vision-config", f"config.{field}", what)
    for i, layer in enumerate(vision.layer_configs):
        subject = f"config.vit_config.layer_configs[{i}]"
        for what in _layer_faults(config, layer):
            yield finding("vision-config", subject, what)
        if config.wrapping == Wrapping.VLM and (layer.qkv_dim % LANES or not layer.qkv_dim):
            what = f"qkv_dim is {layer.qkv_dim}, not a multiple of {LANES}"
            yield finding("vision-config", subject, what, runtimes=(OCTOBER.name,))
    yield finding("image-prompts", "config.vit_config", "the model takes images")


def _faults(config: ModelConfig) -> Iterator[tuple[str, str]]:
    vision = config.vit_config
    if config.wrapping not in (Wrapping.VLM, Wrapping.PALIGEMMA):
        yield "wrapping", f"it is {config.wrapping.name.lower()}, but a model with a vision part has vlm or paligemma"
    yield from _patches(config)
    tokens = vision.seq_len // max(vision.pool_dim, 1) ** 2
    if config.max_seq_len <= tokens:
        yield "max_seq_len", f"it is {config.max_seq_len}, but an image takes {tokens} tokens"
    for name, rows in (("vit_config.model_dim", vision.model_dim), ("model_dim", config.model_dim)):
        if rows % MATMUL_ROWS:
            yield name, f"{rows} is not a multiple of {MATMUL_ROWS}"
    if vision.model_dim > MAX_COLUMNS:
        yield "vit_config.model_dim", f"{vision.model_dim}: matrices have at most {MAX_COLUMNS} columns"


def _patches(config: ModelConfig) -> Iterator[tuple[str, str]]:
    vision = config.vit_config
    pooled = config.wrapping == Wrapping.VLM
    if vision.patch_width != _PATCH:
        yield (
            "vit_config.patch_width",
            f"it is {vision.patch_width}, but gemma.cpp cuts images into patches of {_PATCH}",
        )
    if vision.image_size % _PATCH or vision.seq_len != (vision.image_size // _PATCH) ** 2:
        what = f"{vision.seq_len} patches for an image of {vision.image_size}: expected (image_size / {_PATCH})²"
        yield "vit_config.seq_len", what
    if pooled and (vision.seq_len, vision.pool_dim) != (_POOLED_PATCHES, _POOL):
        what = f"{vision.seq_len} patches, pooled by {vision.pool_dim}: Gemma 3's are {_POOLED_PATCHES}, by {_POOL}"
        yield "vit_config.pool_dim", what
    if not pooled and vision.pool_dim != 1:
        yield "vit_config.pool_dim", f"it is {vision.pool_dim}, but only Gemma 3's patches are pooled: expected 1"
    if vision.seq_len > _MAX_PATCHES:
        yield "vit_config.seq_len", f"{vision.seq_len} patches, gemma.cpp's buffers hold {_MAX_PATCHES}"


def _layer_faults(config: ModelConfig, layer: LayerConfig) -> Iterator[str]:
    first = config.vit_config.layer_configs[0]
    if layer.type != LayerType.VIT:
        yield "it isn't a vision layer"
    if layer.kv_heads != layer.heads or not layer.heads:
        yield f"{layer.heads} heads and {layer.kv_heads} kv_heads: vision layers have equally many"
    for name in ("3 · heads · qkv_dim", "ff_hidden_dim"):
        rows = layer.ff_hidden_dim if name == "ff_hidden_dim" else 3 * layer.heads * layer.qkv_dim
        if rows % MATMUL_ROWS:
            yield f"{name} is {rows}, not a multiple of {MATMUL_ROWS}"
    for name, width in (("ff_hidden_dim", layer.ff_hidden_dim), ("heads · qkv_dim", layer.heads * layer.qkv_dim)):
        if width > MAX_COLUMNS:
            yield f"{name} is {width}: matrices have at most {MAX_COLUMNS} columns"
    for name in _ALIKE:
        own, wanted = getattr(layer, name), getattr(first, name)
        if own != wanted:
            yield f"its {name} is {own}, the first layer's {wanted}"
