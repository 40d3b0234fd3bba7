"""RoPE's bases in a checkpoint's ``config.json``: two spellings of them, and scalings.

Older exporters write ``rope_theta``, ``rope_local_base_freq`` and ``rope_scaling``, newer ones ``rope_parameters``,
with an object for each type of attention where the family has two bases. Spec: spec/gemma.md, config.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blobstore.converting.hf_values import KEEPS_ALL, as_f32, is_positive, short
from blobstore.errors import Fault, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blobstore.converting.hf_values import Values

    Bases = tuple[float, float]  # of local layers, of global ones

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_ATTENTION = (_GLOBAL, _LOCAL)
_OLD_KEYS = {_GLOBAL: "rope_theta", _LOCAL: "rope_local_base_freq"}
_KNOWN = ("rope_type", "type", "rope_theta", "factor", *_ATTENTION)
_PARTIAL = "partial_rotary_factor"
_SHOWN = 12


def read_bases(values: Values, defaults: Bases, *, partial: bool = False) -> Bases:
    """Return RoPE's bases, of local layers and of global ones.

    Args:
        values: The text part of config.json; faults and notes are added.
        defaults: The family's; different ones where it has two.
        partial: Whether global layers may rotate a part of the dimensions, as `read_rotary` reads it. Families that do
            are newer than the older spelling, which transformers doesn't read in theirs.
    """
    local_base, global_base = defaults
    has_two = local_base != global_base
    old_global, old_local = global_base, local_base
    if not partial:
        old_global = values.number(_OLD_KEYS[_GLOBAL], global_base)
        old_local = values.number(_OLD_KEYS[_LOCAL], local_base) if has_two else old_global
        _read_scaling(values, "rope_scaling", values.get("rope_scaling"))
    parameters = values.get("rope_parameters")
    if parameters is None:
        return as_f32(old_local), as_f32(old_global)
    if not isinstance(parameters, dict):
        values.refuse("rope_parameters", parameters, "an object")
        return defaults
    _check_parameters(values, parameters, has_two=has_two)
    new_global = _read_base(values, parameters, _GLOBAL, old_global, nested=has_two, partial=partial)
    if not has_two:
        return new_global, new_global
    return _read_base(values, parameters, _LOCAL, old_local, nested=True, partial=partial), new_global


def refuse_linear(values: Values) -> None:
    """Refuse a linear scaling, in a family whose own files in the runtime don't leave it out."""
    for place in ("rope_scaling", "rope_parameters"):
        outer = values.get(place)
        objects = [outer, *outer.values()] if isinstance(outer, dict) else []
        scalings = [inner for inner in objects if isinstance(inner, dict) and _type_of(inner) == "linear"]
        if any(inner.get("factor") != 1 for inner in scalings):
            what = f"config.json says 'linear'; no gemma.cpp scales positions this way: {KEEPS_ALL}"
            values.faults.append(Fault("unsupported-config", place, what))


def read_rotary(values: Values, default: float) -> float:
    """Return which part of the dimensions global layers rotate: as transformers, where the RoPE is proportional.

    Args:
        values: The text part of config.json; faults and notes are added.
        default: The family's, where config.json has no ``rope_parameters``.
    """
    parameters = values.get("rope_parameters")
    if parameters is None:
        return default
    inner = parameters.get(_GLOBAL) if isinstance(parameters, dict) else None
    if not isinstance(inner, dict) or _type_of(inner) != "proportional":
        return 1.0  # others are read, or refused, with the bases
    part = inner.get(_PARTIAL, 1.0)
    if is_positive(part) and part <= 1:
        return as_f32(part)
    values.refuse(f"rope_parameters.{_GLOBAL}.{_PARTIAL}", part, "a positive number up to 1")
    return default


def _check_parameters(values: Values, parameters: Mapping[str, Any], *, has_two: bool) -> None:
    """Check ``rope_parameters`` as a whole: its keys, and that a family with one base gets one."""
    if has_two or {*_ATTENTION} & {*parameters}:
        _note_unknown(values, "rope_parameters", parameters, _ATTENTION)
    nested = [parameters[key] for key in _ATTENTION if isinstance(parameters.get(key), dict)]
    if not has_two and len({short(inner.get("rope_theta")) for inner in nested}) > 1:
        what = "this family has one RoPE base for all layers, config.json has one for each type of attention"
        values.faults.append(Fault("unsupported-config", "rope_parameters", what))


def _read_base(
    values: Values,
    parameters: Mapping[str, Any],
    attention: str,
    default: float,
    *,
    nested: bool,
    partial: bool = False,
) -> float:
    """Read a base in the newer spelling: of an object for each type of attention where the family has two bases."""
    place, inner = "rope_parameters", parameters
    if nested or isinstance(parameters.get(attention), dict):
        place, inner = f"rope_parameters.{attention}", parameters.get(attention, {})
    if not isinstance(inner, dict) or (nested and not {*_ATTENTION} & {*parameters}):
        values.refuse(place, inner or parameters, "an object for each type of attention")
        return default
    _read_scaling(values, place, inner, partial=partial and attention == _GLOBAL)
    base = inner.get("rope_theta", default)
    if not is_positive(base):
        values.refuse(f"{place}.rope_theta", base, "a positive number")
        return default
    old_key = _OLD_KEYS[attention]
    old = base if partial else values.get(old_key, base)
    if old != base:
        what = f"config.json says {short(old)}, its {place}.rope_theta {short(base)}: which is right?"
        values.faults.append(Fault("config-disagrees", old_key, what))
    return as_f32(base)


def _read_scaling(
    values: Values,
    place: str,
    scaling: Any,  # noqa: ANN401 (JSON is anything)
    *,
    partial: bool = False,
) -> None:
    """Refuse scalings of positions other than a linear one, which gemma.cpp leaves out: a note says so.

    If a part of the dimensions may be rotated, transformers calls that a scaling, too, which may be linear besides.
    """
    if scaling is None:
        return
    if not isinstance(scaling, dict):
        values.refuse(place, scaling, "an object, or null")
        return
    _note_unknown(values, place, scaling, (*_KNOWN, _PARTIAL) if partial else _KNOWN)
    rope_type = _type_of(scaling)
    if partial and rope_type == "proportional":
        _read_linear(values, place, scaling.get("factor", 1.0))
    elif rope_type == "linear":
        _read_linear(values, place, scaling.get("factor"))
    elif rope_type != "default":
        what = f"config.json says {short(rope_type)}; no gemma.cpp scales positions this way"
        values.faults.append(Fault("unsupported-config", place, f"{what}: {KEEPS_ALL}"))


def _type_of(scaling: Mapping[str, Any]) -> Any:  # noqa: ANN401 (JSON is anything)
    return scaling.get("rope_type", scaling.get("type", "default"))


def _read_linear(values: Values, place: str, factor: Any) -> None:  # noqa: ANN401 (JSON is anything)
    if not is_positive(factor):
        values.refuse(f"{place}.factor", factor, "a positive number, by which positions are divided")
    elif factor != 1:
        what = f"{place} divides positions by {factor:g}; no gemma.cpp does, not even for its own files"
        values.notes.append(f"{what}: long prompts lose quality")


def _note_unknown(values: Values, place: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(short(key) for key in given if key not in known)
    if unknown:
        values.notes.append(f"{place} has unknown keys, which are not converted: {listed(unknown, _SHOWN)}")
