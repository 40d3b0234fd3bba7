"""What a checkpoint's ``config.json`` says besides dimensions.

A key that is missing has transformers' default for the family; the number of positions has gemma.cpp's own, which is
less than transformers' for Gemma 3. Spec: spec/gemma.md, config.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blobstore.converting.hf_keys import FIXED, KEYS, NOTED, parts_of, text_of, unknown_keys
from blobstore.converting.hf_rope import read_bases, read_rotary, refuse_linear
from blobstore.converting.hf_values import KEEPS_ALL, Values, short
from blobstore.converting.hf_windows import full_windows, gemma_windows
from blobstore.errors import Fault, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LOCAL_BASE, GLOBAL_BASE = 1e4, 1e6  # what every runtime computes with
QUERY_SCALAR = 256.0  # what transformers uses where it is missing
_SHOWN, _LONGEST = 12, 60


@dataclass(frozen=True)
class Defaults:
    """Values of the keys that a family's config.json leaves out.

    Attributes:
        att_cap: Soft cap of attention; 0 for none.
        final_cap: Soft cap of logits; 0 for none.
        max_seq_len: Positions, as gemma.cpp's own files of the family have it.
        window: Of the layers with sliding attention; None in a family that has none.
        pattern: The last of every so many layers has full attention.
        bases: RoPE's, of local layers and of global ones.
        stop: The runtime's own stop tokens.
        rotary: Which part of the dimensions global layers rotate.
        scalar: What transformers uses where query_pre_attn_scalar is missing; None in a family without that key, where
            it is head_dim.
        may_be_linear: Whether a linear scaling of positions is only noted: gemma.cpp's own files leave it out.
        ends_full: Whether the last layer has full attention, whatever config.json says, as transformers makes it.
    """

    att_cap: float
    final_cap: float
    max_seq_len: int
    window: int | None
    pattern: int
    bases: tuple[float, float]
    stop: tuple[int, int]
    rotary: float = 1.0
    scalar: float | None = QUERY_SCALAR
    may_be_linear: bool = True
    ends_full: bool = False


_GEMMA2 = Defaults(50.0, 30.0, 8192, 4096, 2, (LOCAL_BASE, LOCAL_BASE), (1, 107))
_GEMMA3 = Defaults(0.0, 0.0, 32768, 4096, 6, (LOCAL_BASE, GLOBAL_BASE), (1, 106))
_GEMMA4 = Defaults(0.0, 0.0, 131072, 512, 6, (LOCAL_BASE, GLOBAL_BASE), (1, 106), rotary=0.25, ends_full=True)
_QWEN3 = Defaults(
    0.0, 0.0, 32768, None, 1, (LOCAL_BASE, LOCAL_BASE), (151645, 151643), scalar=None, may_be_linear=False
)
DEFAULTS = {
    "gemma2": _GEMMA2,
    "paligemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3-vision": _GEMMA3,
    "gemma4": _GEMMA4,
    "gemma4-experts": _GEMMA4,
    "t5gemma": _GEMMA2,  # of the encoder, and of the decoder
    "qwen3": _QWEN3,
}


@dataclass
class Settings:
    """What a checkpoint says besides dimensions.

    Attributes:
        att_cap: Soft cap of attention; 0 for none.
        final_cap: Soft cap of logits; 0 for none.
        max_seq_len: Positions.
        windows: Of each layer; `max_seq_len` in global ones.
        query_scalar: Queries are divided by its square root; None where config.json leaves it out.
        usual_scalar: As in `Defaults`.
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
    usual_scalar: float | None
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
    text, parts = text_of(family, config), dict(parts_of(family, config))
    known = next(KEYS[part] for part, given in parts.items() if given is text)
    stop_places = {"generation_config.json": generation, "config.json": config, "its text_config": text}
    read = {key: value for key, value in text.items() if key in known}
    settings = read_part(family, read, stop_places, layers=layers)
    # PaliGemma's prefix is bidirectional, in the runtime too.
    exempt = "use_bidirectional_attention" if family == "paligemma2" else ""
    for part, given in parts.items():
        fixed = {key: allowed for key, allowed in FIXED[part].items() if key != exempt}
        faults, notes = check_fixed(fixed, given)
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
    if not defaults.may_be_linear:
        refuse_linear(values)
    length = values.count("max_position_embeddings", defaults.max_seq_len)
    partial = defaults.rotary != 1.0
    return Settings(
        att_cap=values.cap("attn_logit_softcapping", defaults.att_cap),
        final_cap=values.cap("final_logit_softcapping", defaults.final_cap),
        max_seq_len=length,
        windows=_windows(values, defaults, layers, length),
        query_scalar=_query_scalar(values, defaults),
        usual_scalar=defaults.scalar,
        bases=read_bases(values, defaults.bases, partial=partial),
        rotary=read_rotary(values, defaults.rotary) if partial else 1.0,
        stop=_stop_tokens(values, stop_places, defaults.stop) if stop_places else defaults.stop,
        faults=values.faults,
        notes=values.notes,
    )


def _query_scalar(values: Values, defaults: Defaults) -> float | None:
    key = "query_pre_attn_scalar"
    if key not in values:
        return None
    return values.number(key, defaults.scalar or 1.0, "head_dim, or hidden_size / heads")


def _windows(values: Values, defaults: Defaults, layers: int, length: int) -> tuple[int, ...]:
    if defaults.window is None:
        return full_windows(values, layers, length)
    two_bases = defaults.bases[0] != defaults.bases[1]
    windows = gemma_windows(
        values, layers, length, window=defaults.window, pattern=defaults.pattern, two_bases=two_bases
    )
    if not defaults.ends_full or windows[-1:] in ((), (length,)):
        return windows
    values.notes.append(
        "by config.json the last layer has sliding attention: it gets full attention, as in transformers"
    )
    return (*windows[:-1], length)


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
        left = listed([str(token) for token in given[2:]], _SHOWN)
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
        what = f"config.json says {value}, every gemma.cpp computes with {allowed[0]}: {KEEPS_ALL}"
        faults.append(Fault("unsupported-config", key, what))
    return faults, notes


def unknown_notes(keys: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a line that names the unknown keys of a config.json, if any; given are the place and the name of each."""
    unknown = sorted({f"{place}{key}" for place, key in keys})
    if unknown:
        names = [name if len(name) <= _LONGEST else name[:_LONGEST] + "…" for name in unknown]
        yield f"config.json has unknown keys, which are not converted: {listed(names, _SHOWN)}"
