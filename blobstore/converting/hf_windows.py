"""How far back each layer sees, by a checkpoint's ``config.json``. Spec: spec/gemma.md, config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.converting.hf_values import KEEPS_ALL, MAX_COUNT
from blobstore.errors import Fault

if TYPE_CHECKING:
    from blobstore.converting.hf_values import Values

# A window as long as the sequence, which --seq_len may make longer, would mark a global layer; so this one never is.
ENDLESS = MAX_COUNT
_WINDOW, _FULL_LAYERS = 4096, 28  # transformers' defaults for Qwen3
_SLIDES = {"sliding_attention": True, "full_attention": False}


def gemma_windows(
    values: Values, layers: int, length: int, *, window: int, pattern: int, two_bases: bool
) -> tuple[int, ...]:
    """Return each layer's window, in a family where some slide.

    Args:
        values: The text part of config.json; faults and notes are added.
        layers: How many there are.
        length: The window of layers with full attention.
        window: Of the others, where config.json leaves it out.
        pattern: The last of every so many layers has full attention, where config.json leaves that out.
        two_bases: Whether global layers have a RoPE base of their own.
    """
    slides = _sliding_layers(values, pattern, layers)
    if values.get("sliding_window", window) is None:
        if two_bases and any(slides):
            expected = "a number: layers with sliding attention have a RoPE base of their own"
            values.refuse("sliding_window", None, expected)
        return (length,) * layers
    window = values.count("sliding_window", window)
    if window >= length and two_bases:
        window = ENDLESS
    return tuple(window if sliding else length for sliding in slides)


def full_windows(values: Values, layers: int, length: int) -> tuple[int, ...]:
    """Return each layer's window, in a family where all layers see everything: sliding ones are refused.

    In a Qwen3 the layers from ``max_window_layers`` on slide if ``use_sliding_window`` is true; in no published one.
    """
    types = values.get("layer_types")
    if types is not None:
        _refuse_sliding(values, "layer_types", sum(_known_types(values, types, layers) or ()))
        return (length,) * layers
    if values.flag("use_sliding_window") and values.get("sliding_window", _WINDOW) is not None:
        _refuse_sliding(values, "use_sliding_window", layers - values.count("max_window_layers", _FULL_LAYERS))
    return (length,) * layers


def _refuse_sliding(values: Values, key: str, count: int) -> None:
    if count > 0:
        what = f"{count} layers have sliding attention, and no gemma.cpp gives it to models of this family"
        values.faults.append(Fault("unsupported-config", key, f"{what}: {KEEPS_ALL}"))


def _sliding_layers(values: Values, pattern: int, layers: int) -> list[bool]:
    """Return whether each layer has sliding attention: by its type where config.json lists these, or by the pattern."""
    types = values.get("layer_types")
    if types is not None:
        known = _known_types(values, types, layers)
        if known is not None:
            return known
    key = "sliding_window_pattern" if "sliding_window_pattern" in values else "_sliding_window_pattern"
    pattern = values.count(key, pattern)
    return [(i + 1) % pattern != 0 for i in range(layers)]


def _known_types(values: Values, types: object, layers: int) -> list[bool] | None:
    """Return which layers' types slide; None, and a fault, for a value that isn't one type for each layer."""
    if not isinstance(types, list) or len(types) != layers or not all(isinstance(name, str) for name in types):
        values.refuse("layer_types", types, f"a list for {layers} layers")
        return None
    unknown = next((name for name in types if name not in _SLIDES), None)
    if unknown is not None:
        values.refuse("layer_types", unknown, "sliding_attention or full_attention")
        return None
    return [_SLIDES[name] for name in types]
