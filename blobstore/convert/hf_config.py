"""What a Gemma checkpoint's ``config.json`` says besides dimensions.

A key that is missing has transformers' default for the family; for positions gemma.cpp's own number, which is less than
transformers' for Gemma 3. Spec: spec/gemma.md, config.json.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blobstore.convert.hf_keys import FIXED, TOLD, parts_of, unknown_keys
from blobstore.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOCAL_BASE, GLOBAL_BASE = 1e4, 1e6  # what every runtime computes with
_MAX_COUNT = (1 << 31) - 1
# A window as long as the sequence, which --seq_len may make longer, would mark a global layer; so this one never is.
ENDLESS = _MAX_COUNT
_SHOWN, _LONGEST = 12, 60
_KINDS = ("full_attention", "sliding_attention")
_ROPE = ("rope_type", "type", "rope_theta", "factor")


@dataclass(frozen=True)
class Defaults:
    """What is taken for keys that a family's config.json leaves out.

    Attributes:
        att_cap: Soft cap of attention; 0 for none.
        final_cap: Soft cap of logits; 0 for none.
        max_seq_len: Positions, as gemma.cpp's own files of the family have it.
        window: Of the layers with sliding attention.
        pattern: One layer of so many has full attention, the last of them.
        bases: RoPE's, of local layers and of global ones.
        stop: The runtime's own stop tokens.
    """

    att_cap: float
    final_cap: float
    max_seq_len: int
    window: int
    pattern: int
    bases: tuple[float, float]
    stop: tuple[int, int]


_GEMMA2 = Defaults(50.0, 30.0, 8192, 4096, 2, (LOCAL_BASE, LOCAL_BASE), (1, 107))
_GEMMA3 = Defaults(0.0, 0.0, 32768, 4096, 6, (LOCAL_BASE, GLOBAL_BASE), (1, 106))
DEFAULTS = {"gemma2": _GEMMA2, "paligemma2": _GEMMA2, "gemma3": _GEMMA3, "gemma3-vision": _GEMMA3}
QUERY_SCALAR = 256.0  # what transformers takes where it is missing


@dataclass
class Settings:
    """What a checkpoint says besides dimensions.

    Attributes:
        att_cap: Soft cap of attention; 0 for none.
        final_cap: Soft cap of logits; 0 for none.
        max_seq_len: Positions.
        windows: Of each layer; `max_seq_len` in global ones.
        query_scalar: Queries are divided by its square root; None where config.json doesn't say it.
        bases: RoPE's, of local layers and of global ones.
        stop: Two stop tokens.
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
    defaults = DEFAULTS[family]
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    reading = _Reading(text)
    length = reading.count("max_position_embeddings", defaults.max_seq_len)
    found = Settings(
        att_cap=reading.cap("attn_logit_softcapping", defaults.att_cap),
        final_cap=reading.cap("final_logit_softcapping", defaults.final_cap),
        max_seq_len=length,
        windows=reading.windows(defaults, layers, length),
        query_scalar=reading.number("query_pre_attn_scalar", QUERY_SCALAR, "head_dim, or hidden_size / heads")
        if "query_pre_attn_scalar" in text
        else None,
        bases=reading.bases(defaults),
        stop=(0, 0),
        faults=reading.faults,
        notes=reading.notes,
    )
    found.stop = reading.stop(defaults, config, generation)
    for part, said in parts_of(family, config):
        _fixed(part, said, family, found)
    unknown = sorted({f"{place}{key}" for place, key in unknown_keys(family, config)})
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        what = ", ".join(one if len(one) <= _LONGEST else one[:_LONGEST] + "…" for one in unknown[:_SHOWN])
        found.notes.append(f"config.json has keys that are not known here, and are not converted: {what}{more}")
    return found


def _fixed(part: str, said: Mapping[str, Any], family: str, found: Settings) -> None:
    for key, allowed in FIXED[part].items():
        if key not in said or said[key] in allowed:
            continue
        if key == "use_bidirectional_attention" and family == "paligemma2":
            continue  # its prefix is, in the runtime too
        value = short(said[key])
        if key in TOLD:
            found.notes.append(f"config.json says {key} {value}; {TOLD[key]}")
            continue
        what = f"config.json says {value}, every gemma.cpp computes with {allowed[0]}: --as names keeps every tensor"
        found.faults.append(Fault("unsupported-config", key, what))


def short(value: Any) -> str:  # noqa: ANN401 (JSON is anything)
    """Return a value for a message, which anybody's config.json must not make a long one."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


class _Reading:
    """Values of the text part, checked one by one."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._said = said
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def _bad(self, key: str, value: Any, expected: str) -> None:  # noqa: ANN401 (JSON is anything)
        what = f"config.json says {short(value)}, expected {expected}: is it this checkpoint's own?"
        self.faults.append(Fault("unsupported-config", key, what))

    def count(self, key: str, default: int) -> int:
        """Return a positive whole number."""
        value = self._said.get(key, default)
        if type(value) is int and 1 <= value <= _MAX_COUNT:
            return value
        self._bad(key, value, "a positive number")
        return default

    def number(self, key: str, default: float, expected: str = "a positive number") -> float:
        """Return a positive number."""
        value = self._said.get(key, default)
        if _is_positive(value):
            return float(value)
        self._bad(key, value, expected)
        return default

    def cap(self, key: str, default: float) -> float:
        """Return a soft cap, 0 for none."""
        value = self._said.get(key, default or None)
        return 0.0 if value is None else as_f32(self.number(key, default, "a positive number, or null for no cap"))

    def windows(self, defaults: Defaults, layers: int, length: int) -> tuple[int, ...]:
        """Return each layer's window."""
        sliding = self._sliding(defaults, layers)
        window = self._said.get("sliding_window", defaults.window)
        if window is None:
            if defaults.bases[0] != defaults.bases[1] and any(sliding):
                self._bad(
                    "sliding_window", window, "a number: layers with sliding attention have a RoPE base of their own"
                )
            return (length,) * layers
        window = self.count("sliding_window", defaults.window)
        if window >= length and defaults.bases[0] != defaults.bases[1]:
            window = ENDLESS
        return tuple(window if slides else length for slides in sliding)

    def _sliding(self, defaults: Defaults, layers: int) -> list[bool]:
        types = self._said.get("layer_types")
        if types is not None:
            known = {"sliding_attention": True, "full_attention": False}
            if isinstance(types, list) and len(types) == layers and all(isinstance(one, str) for one in types):
                other = next((one for one in types if one not in known), None)
                if other is None:
                    return [known[one] for one in types]
                self._bad("layer_types", other, "sliding_attention or full_attention")
            else:
                self._bad("layer_types", types, f"a list for {layers} layers")
        key = "sliding_window_pattern" if "sliding_window_pattern" in self._said else "_sliding_window_pattern"
        pattern = self.count(key, defaults.pattern)
        return [(i + 1) % pattern != 0 for i in range(layers)]

    def bases(self, defaults: Defaults) -> tuple[float, float]:
        """Return RoPE's bases, of local and of global layers."""
        local, whole = defaults.bases
        two = local != whole
        old = self.number("rope_theta", whole), self.number("rope_local_base_freq", local) if two else local
        self._scaling("rope_scaling", self._said.get("rope_scaling"))
        parameters = self._said.get("rope_parameters")
        if parameters is None:
            return (as_f32(old[1]), as_f32(old[0])) if two else (as_f32(old[0]),) * 2
        if not isinstance(parameters, dict):
            self._bad("rope_parameters", parameters, "an object")
            return defaults.bases
        if two or set(_KINDS) & set(parameters):
            self._extras("rope_parameters", parameters, _KINDS)
        thetas = [
            short(parameters[kind].get("rope_theta")) for kind in _KINDS if isinstance(parameters.get(kind), dict)
        ]
        if not two and len(set(thetas)) > 1:
            what = "this family has one RoPE base for all layers, config.json says one for each kind of attention"
            self.faults.append(Fault("unsupported-config", "rope_parameters", what))
        given = [self._base(parameters, "full_attention", old[0], nested=two)]
        given.append(self._base(parameters, "sliding_attention", old[1], nested=two) if two else given[0])
        return given[1], given[0]

    def _base(self, parameters: Mapping[str, Any], kind: str, default: float, *, nested: bool) -> float:
        """Read a base of the newer spelling: an object for each kind of layer where the family has two."""
        place = "rope_parameters"
        if nested or isinstance(parameters.get(kind), dict):
            place, said = f"rope_parameters.{kind}", parameters.get(kind, {})
        else:
            said = parameters
        if not isinstance(said, dict) or (nested and not {"full_attention", "sliding_attention"} & {*parameters}):
            self._bad(place, said or parameters, "an object for each kind of attention")
            return default
        self._scaling(place, said)
        base = said.get("rope_theta", default)
        if not _is_positive(base):
            self._bad(f"{place}.rope_theta", base, "a positive number")
            return default
        old = "rope_theta" if kind == "full_attention" else "rope_local_base_freq"
        if self._said.get(old, base) != base:
            what = f"config.json says {short(self._said[old])}, its {place}.rope_theta {short(base)}: which is right?"
            self.faults.append(Fault("config-disagrees", old, what))
        return as_f32(base)

    def _scaling(self, place: str, said: Any) -> None:  # noqa: ANN401 (JSON is anything)
        if said is None:
            return
        if not isinstance(said, dict):
            self._bad(place, said, "an object, or null")
            return
        self._extras(place, said, (*_ROPE, *_KINDS))
        kind = said.get("rope_type", said.get("type", "default"))
        if kind == "default":
            return
        if kind == "linear":
            if not _is_positive(said.get("factor")):
                self._bad(f"{place}.factor", said.get("factor"), "a positive number, by which positions are divided")
            elif said["factor"] != 1:
                what = f"{place} divides positions by {said['factor']:g}; every gemma.cpp, of any date, leaves them"
                self.notes.append(f"{what}, as in its own files: long prompts lose quality")
            return
        what = f"config.json says {short(kind)}; no gemma.cpp scales positions so: --as names keeps every tensor"
        self.faults.append(Fault("unsupported-config", place, what))

    def _extras(self, place: str, said: Mapping[str, Any], known: Sequence[str]) -> None:
        extra = sorted(short(key) for key in said if key not in known)
        if extra:
            what = ", ".join(extra[:_SHOWN])
            self.notes.append(f"{place} has keys that are not known here, and are not converted: {what}")

    def stop(self, defaults: Defaults, config: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, int]:
        """Return two stop tokens: those that are given, then the runtime's own."""
        places = {"generation_config.json": generation, "config.json": config, "its text_config": self._said}
        where = next((name for name, place in places.items() if place.get("eos_token_id") not in (None, [])), "")
        value = places[where]["eos_token_id"] if where else []
        given = value if isinstance(value, list) else [value]
        if not all(type(one) is int and 0 <= one < 1 << 31 for one in given):
            self._bad("eos_token_id", given, "one or more numbers of tokens")
            given = []
        tokens = list(dict.fromkeys([*given, *defaults.stop]))
        distinct = len(dict.fromkeys(given))
        if distinct > 2:
            left = ", ".join(str(one) for one in tokens[2:distinct])
            what = f"{where} names {distinct} stop tokens, a file has room for two"
            self.notes.append(f"{what}: {tokens[0]} and {tokens[1]} are written, {left} left out")
        elif given:
            own = "" if distinct == 2 else f", and {tokens[1]}, as in gemma.cpp's own files"
            said = " and ".join(str(one) for one in tokens[:distinct])
            self.notes.append(f"stop tokens: {said} by {where}{own}")
        else:
            self.notes.append(f"stop tokens: {tokens[0]} and {tokens[1]}, as in gemma.cpp's own files: none are given")
        return tokens[0], tokens[1]


def _is_positive(value: Any) -> bool:  # noqa: ANN401 (JSON is anything)
    return type(value) in (int, float) and 1e-37 < value < 1e38


def as_f32(value: float) -> float:
    """Return the nearest value that 32 bits hold."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded
