"""``blobstore diff``."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.cli.formatting import shape, shown, size
from blobstore.cli.newer import tell_newer
from blobstore.cli.output import add_base, add_command, add_json, note, print_json
from blobstore.cli.progress import Stopwatch, progress
from blobstore.cli.tables import print_table
from blobstore.compare import Tolerance, compare, open_sides
from blobstore.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from blobstore.compare import Difference, Facts, Number, Side, Values

TEXT = "Compare two files, tensor by tensor: .sbs files, safetensors checkpoints, or one with the other."
EXAMPLE = """example:
  blobstore diff base/ finetuned/
  blobstore diff model-bf16.sbs gemma-3-270m-it/
  blobstore diff model-bf16.sbs model-sfp.sbs --tolerance 0.05

Every tensor that isn't the same gets a line: what has become of it from A to B, name, type, shape, how many elements
differ, the largest |a - b|, the largest |a - b| / max(|a|, |b|), cosine similarity of the whole tensors, and more in
words, such as where the largest |a - b| is. On a terminal a table; elsewhere tab-separated, a - for what there is not.
The last line is a summary. --json has all digits, and the two values of the largest |a - b|.

  values    some differ         shape     another shape (values are not compared)
  type      another type, every value is the same, or can't be decoded
  bytes     stored bytes or scale differ, every value is the same (0.0 and -0.0, two NaNs), or can't be decoded
  added     only in B           removed   only in A
  renamed   only in A, and the same type, shape and values are in B by a name that A doesn't have
  blob      config, tokenizer or toc of two .sbs files differ

These make the exit status 1. Shown, but no difference: metadata (blobstore's own is left out), and, with a tolerance,
close. Shown with --all: same, and alias: one more name for the same bytes, such as lm_head.weight, which a file may
lack.

With --tolerance T or --rtol R elements with |a - b| <= T + R * |a| don't count, and neither does how values are stored:
another type, other bytes of an equal value, toc, and the weights' type in config are no difference by themselves. A NaN
or an infinity against anything else always counts; two NaNs are the same.

An .sbs file that was converted from a Gemma checkpoint is compared by the names, and in the arrangement, of that
checkpoint, whatever its layout. Memory stays the same whatever the files' size."""

_COLUMNS = ("what", "name", "type", "shape", "differ", "max abs", "max rel", "cosine", "more")
_RIGHT = ("differ", "max abs", "max rel", "cosine")
_SHOWN_KINDS = ("same", "alias")  # with --all only


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "diff", run, TEXT, EXAMPLE)
    for name in ("A", "B"):
        parser.add_argument(
            name.lower(), metavar=name, help="an .sbs file, a .safetensors file, its index, or a folder with either"
        )
    parser.add_argument("--tolerance", metavar="T", type=float, help="compare values; |a - b| up to T doesn't count")
    parser.add_argument("--rtol", metavar="R", type=float, help="nor does what is up to R * |a| more")
    parser.add_argument(
        "--by",
        choices=("names", "keys"),
        help="what tensors of an .sbs file are called by (default: names; keys if they have only these in common)",
    )
    add_base(parser)
    parser.add_argument("--all", action="store_true", help="a line for what is the same too")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    watch = Stopwatch()
    tolerance = _tolerance(options)
    with open_sides(options.a, options.b, options.by, options.base) as (a, b):
        for side in (a, b):
            for text in side.notes:
                note(text)
            if side.store:
                tell_newer(side.store.reader)
        _tell_choice(options, a, b)
        with progress(a.nbytes + b.nbytes, "comparing") as advance:
            found = list(compare(a, b, tolerance=tolerance, progress=advance))
        nbytes, by = a.nbytes + b.nbytes, a.by
    differ = any(one.differs for one in found)
    listed = [one for one in found if options.all or one.kind not in _SHOWN_KINDS]
    counts = Counter(one.kind for one in found)
    if options.json:
        print_json(
            {
                "a": options.a,
                "b": options.b,
                "by": by,
                "tolerance": tolerance and {"absolute": tolerance.absolute, "relative": tolerance.relative},
                "differ": differ,
                "counts": counts,
                "nbytes": nbytes,
                "seconds": round(watch.seconds, 3),
                "entries": [_json(one) for one in listed],
            }
        )
        return int(differ)
    if listed:
        print_table(_COLUMNS, map(_row, listed), right=_RIGHT)
    state = "they differ" if differ else "no difference"
    counted = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing to compare"
    print(f"{shown(options.a)}, {shown(options.b)}: {state} ({counted}; {size(nbytes)} in {watch.seconds:.1f} s)")
    return int(differ)


def _tolerance(options: argparse.Namespace) -> Tolerance | None:
    given = (options.tolerance, options.rtol)
    for one in given:
        if one is not None and not 0 <= one < math.inf:
            raise UsageError("bad-tolerance", f"{one} is no tolerance: a number from 0 on")
    return None if given == (None, None) else Tolerance(*(one or 0.0 for one in given))


def _tell_choice(options: argparse.Namespace, a: Side, b: Side) -> None:
    if a.names and b.names and not a.names & b.names:
        hint = ""
        if any(side.store and not side.store.index for side in (a, b)):
            hint = (
                ": an .sbs file without a name index knows only the runtime's keys; convert the other, and compare that"
            )
        note(f"{options.a} and {options.b} have no name in common{hint}")
    elif options.by is None and "keys" in (a.by, b.by):
        note("compared by the runtime's keys, since no name is in both; --by names compares by names all the same")


def _row(one: Difference) -> tuple[object, ...]:
    values = one.values
    measured: tuple[object, ...] = ("-",) * 4
    if values:
        cosine = "-" if values.cosine is None else f"{values.cosine:.6f}"
        measured = (values.different, _short(values.max_abs), _short(values.max_rel), cosine)
    kinds = _change([one.type.name for one in (one.a, one.b) if one])
    shapes = _change([shape(one.shape) for one in (one.a, one.b) if one])
    return (one.kind, one.name, kinds, shapes, *measured, "; ".join(_words(one)) or "-")


def _change(said: list[str]) -> str:
    """Return what both sides say, or the one side there is: ``bf16``, ``bf16 → sfp``."""
    return " → ".join(dict.fromkeys(said)) or "-"


def _words(one: Difference) -> list[str]:
    words = []
    if one.other:
        words.append(f"is {one.other} in B" if one.kind == "renamed" else f"is {one.other}")
    if one.a and one.b and one.a.scales != one.b.scales:
        words.append(f"scale {_scales(one.a)} → {_scales(one.b)}")
    if one.a and one.b and one.a.codec != one.b.codec:
        words.append(f"codec {one.a.codec} → {one.b.codec}")
    if one.values and one.values.not_finite:
        words.append(f"{one.values.not_finite} where only one is finite, or other infinities")
    if one.values and one.values.worst is not None:
        words.append(f"most at {shape(_index(one, one.values.worst))}")
    return [*words, one.detail] if one.detail else words


def _scales(facts: Facts) -> str:
    return ", ".join(f"{one:.6g}" for one in facts.scales)


def _index(one: Difference, place: int) -> list[int]:
    """Return where an element is in its tensor."""
    return [int(at) for at in np.unravel_index(place, one.a.shape if one.a else ())]


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _json(one: Difference) -> dict[str, Any]:
    said: dict[str, Any] = {"name": one.name, "kind": one.kind, "differs": one.differs}
    for side, facts in (("a", one.a), ("b", one.b)):
        if facts:
            said[side] = {"type": facts.type.name, "shape": list(facts.shape), "scales": list(facts.scales)}
    if one.other:
        said["other"] = one.other
    if one.values:
        said["values"] = _values_json(one, one.values)
    if one.detail:
        said["detail"] = one.detail
    return said


def _values_json(one: Difference, values: Values) -> dict[str, Any]:
    worst = None
    if values.worst is not None and values.worst_values:
        worst = {
            "index": _index(one, values.worst),
            "a": _number(values.worst_values[0]),
            "b": _number(values.worst_values[1]),
        }
    return {
        "count": values.count,
        "unequal": values.unequal,
        "different": values.different,
        "not_finite": values.not_finite,
        "max_abs": _number(values.max_abs),
        "max_rel": _number(values.max_rel),
        "cosine": values.cosine,
        "worst": worst,
    }


def _number(value: Number) -> int | float | str:
    """Return what JSON can hold: text for complex numbers, infinities and NaN."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else str(value)
