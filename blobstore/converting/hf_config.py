"""What a Gemma checkpoint's ``config.json`` says besides dimensions.

A key that is missing has transformers' default for the family; the number of positions has gemma.cpp's own, which is
less than transformers' for Gemma 3. Spec: spec/gemma.md, config.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blobstore.converting.hf_keys import FIXED, GEMMA4_FIXED, NOTED, parts_of, unknown_keys
from blobstore.converting.hf_rope import read_bases, read_rotary
from blobstore.converting.hf_values import MAX_COUNT, Values, short
from blobstore.errors import Fault, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LOCAL_BASE, GLOBAL_BASE = 1e4, 1e6  # what every runtime computes with
# A window as long as the sequence, which --seq_len may make longer, would mark a global layer; so this one never is.
ENDLESS = MAX_COUNT
_SHOWN, _LONGEST = 12, 60
_SLIDES = {"sliding_attention": True, "full_attention": False}


@dataclass(frozen=True)
class Defaults:
    """Values of the keys that a family's config.json leaves out.

    Attributes:
        att_cap: Soft cap of attention; 0 for none.
        final_cap: Soft cap of logits; 0 for none.
        max_seq_len: Positions, as gemma.cpp's own files of the family have it.
        window: Of the layers with sliding attention.
        pattern: The last of every so many layers has full attention.
        bases: RoPE's, of local layers and of global ones.
        stop: The runtime's own stop tokens.
        rotary: Which part of the dimensions global layers rotate.
    """

    att_cap: float
    final_cap: float
    max_seq_len: int
    window: int
    pattern: int
    bases: tuple[float, float]
    stop: tuple[int, int]
    rotary: float = 1.0


_GEMMA2 = Defaults(50.0, 30.0, 8192, 4096, 2, (LOCAL_BASE, LOCAL_BASE), (1, 107))
_GEMMA3 = Defaults(0.0, 0.0, 32768, 4096, 6, (LOCAL_BASE, GLOBAL_BASE), (1, 106))
_GEMMA4 = Defaults(0.0, 0.0, 131072, 512, 6, (LOCAL_BASE, GLOBAL_BASE), (1, 106), 0.25)
DEFAULTS = {
    "gemma2": _GEMMA2,
    "paligemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3-vision": _GEMMA3,
    "gemma4": _GEMMA4,
    "t5gemma": _GEMMA2,  # of the encoder, and of the decoder
}
QUERY_SCALAR = 256.0  # what transformers uses where it is missing


@dataclass
class Settings:
    """What a checkpoint says besides dimensions.

    Attributes:
        att_cap: Soft cap of attention; 0 for none.
        final_cap: Soft cap of logits; 0 for none.
        max_seq_len: Positions.
        windows: Of each layer; `max_seq_len` in global ones.
        query_scalar: Queries are divided by its square root; None where config.json leaves it out.
        bases: RoPE's, of local layers and of global ones.
        stop: Two stop tokens.
        rotary: Which part of the dimensions global layers rotate.
        faults: What can't be converted.
        notes: What a user should know.
    """

    att_cap: float
    final_cap: float
    max_seq_len: int
    windows: tuple[int, ...]
    query_scalar: float | None
    bases: tuple[float, float]
    stop: tuple[int, int]
    rotary: float = 1.0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def two_bases(self) -> bool:
        """Whether global layers have a RoPE base of their own."""
        return self.bases[0] != self.bases[1]


def read_settings(family: str, config: Mapping[str, Any], generation: Mapping[str, Any], *, layers: int) -> Settings:
    """Read what a checkpoint says besides dimensions.

    Args:
        family: Of `DEFAULTS`.
        config: ``config.json``.
        generation: ``generation_config.json``; empty without one.
        layers: Of the text part.
    """
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    stop_places = {"generation_config.json": generation, "config.json": config, "its text_config": text}
    settings = read_part(family, text, stop_places, layers=layers)
    for part, given in parts_of(family, config):
        # PaliGemma's prefix is bidirectional, in the runtime too.
        exempt = "use_bidirectional_attention" if family == "paligemma2" else ""
        faults, notes = check_fixed(
            {key: allowed for key, allowed in (FIXED | GEMMA4_FIXED)[part].items() if key != exempt}, given
        )
        settings.faults += faults
        settings.notes += notes
    settings.notes += unknown_notes(unknown_keys(family, config))
    return settings


def read_part(
    family: str, part: Mapping[str, Any], stop_places: Mapping[str, Mapping[str, Any]], *, layers: int
) -> Settings:
    """Read what the part of a config.json that describes some layers says besides dimensions.

    Args:
        family: Of `DEFAULTS`.
        part: The object.
        stop_places: The objects that may name stop tokens, by what they are called; the first that does counts. Empty
            for a part that writes no text.
        layers: How many there are.
    """
    defaults, values = DEFAULTS[family], Values(part)
    length = values.count("max_position_embeddings", defaults.max_seq_len)
    partial = defaults.rotary != 1.0
    return Settings(
        att_cap=values.cap("attn_logit_softcapping", defaults.att_cap),
        final_cap=values.cap("final_logit_softcapping", defaults.final_cap),
        max_seq_len=length,
        windows=_windows(values, defaults, layers, length),
        query_scalar=_query_scalar(values),
        bases=read_bases(values, defaults.bases, partial=partial),
        rotary=read_rotary(values, defaults.rotary) if partial else 1.0,
        stop=_stop_tokens(values, stop_places, defaults.stop) if stop_places else defaults.stop,
        faults=values.faults,
        notes=values.notes,
    )


def _query_scalar(values: Values) -> float | None:
    key = "query_pre_attn_scalar"
    return values.number(key, QUERY_SCALAR, "head_dim, or hidden_size / heads") if key in values else None


def _windows(values: Values, defaults: Defaults, layers: int, length: int) -> tuple[int, ...]:
    """Return each layer's window."""
    slides = _sliding_layers(values, defaults, layers)
    two_bases = defaults.bases[0] != defaults.bases[1]
    if values.get("sliding_window", defaults.window) is None:
        if two_bases and any(slides):
            expected = "a number: layers with sliding attention have a RoPE base of their own"
            values.refuse("sliding_window", None, expected)
        return (length,) * layers
    window = values.count("sliding_window", defaults.window)
    if window >= length and two_bases:
        window = ENDLESS
    return tuple(window if sliding else length for sliding in slides)


def _sliding_layers(values: Values, defaults: Defaults, layers: int) -> list[bool]:
    """Return whether each layer has sliding attention: by its type where config.json lists these, or by the pattern."""
    types = values.get("layer_types")
    if types is not None:
        if isinstance(types, list) and len(types) == layers and all(isinstance(name, str) for name in types):
            unknown = next((name for name in types if name not in _SLIDES), None)
            if unknown is None:
                return [_SLIDES[name] for name in types]
            values.refuse("layer_types", unknown, "sliding_attention or full_attention")
        else:
            values.refuse("layer_types", types, f"a list for {layers} layers")
    key = "sliding_window_pattern" if "sliding_window_pattern" in values else "_sliding_window_pattern"
    pattern = values.count(key, defaults.pattern)
    return [(i + 1) % pattern != 0 for i in range(layers)]


def _stop_tokens(values: Values, places: Mapping[str, Mapping[str, Any]], defaults: tuple[int, int]) -> tuple[int, int]:
    """Return two stop tokens: those of the first place that has any, then the runtime's own."""
    where = next((name for name, place in places.items() if place.get("eos_token_id") not in (None, [])), "")
    value = places[where]["eos_token_id"] if where else []
    given = value if isinstance(value, list) else [value]
    if not all(type(token) is int and 0 <= token < 1 << 31 for token in given):
        values.refuse("eos_token_id", given, "one or more numbers of tokens")
        given = []
    given = list(dict.fromkeys(given))
    tokens = list(dict.fromkeys([*given, *defaults]))
    first, second = tokens[:2]
    if len(given) > 2:
        left = ", ".join(str(token) for token in given[2:])
        what = f"{where} names {len(given)} stop tokens, a file holds two"
        values.notes.append(f"{what}: {first} and {second} are written, {left} left out")
    elif given:
        own = "" if len(given) == 2 else f", and {second}, as in gemma.cpp's own files"
        shown = " and ".join(str(token) for token in tokens[: len(given)])
        values.notes.append(f"stop tokens: {shown} from {where}{own}")
    else:
        what = f"stop tokens: {first} and {second}, as in gemma.cpp's own files"
        values.notes.append(f"{what}: the checkpoint names none")
    return first, second


def check_fixed(fixed: Mapping[str, tuple[Any, ...]], given: Mapping[str, Any]) -> tuple[list[Fault], list[str]]:
    """Look for values other than those that the runtime computes with.

    Args:
        fixed: The values of each key that are right.
        given: A part of config.json.

    Returns:
        Faults; and notes where another value makes little difference.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    for key, allowed in fixed.items():
        if key not in given or given[key] in allowed:
            continue
        value = short(given[key])
        if key in NOTED:
            notes.append(f"config.json says {key} {value}; {NOTED[key]}")
            continue
        what = f"config.json says {value}, every gemma.cpp computes with {allowed[0]}: --as names keeps every tensor"
        faults.append(Fault("unsupported-config", key, what))
    return faults, notes


def unknown_notes(keys: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a line that names the unknown keys of a config.json, if any; given are the place and the name of each."""
    unknown = sorted({f"{place}{key}" for place, key in keys})
    if unknown:
        names = [name if len(name) <= _LONGEST else name[:_LONGEST] + "…" for name in unknown]
        yield f"config.json has unknown keys, which are not converted: {listed(names, _SHOWN)}"
