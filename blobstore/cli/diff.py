"""``blobstore diff``."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.cli.formatting import shape, shown, size
from blobstore.cli.newer import tell_newer
from blobstore.cli.output import add_base, add_command, add_json, note, print_json, refuse_needless_base
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

Each tensor that differs gets a line: the kind of difference from A to B, name, type, shape, how many elements differ,
the largest |a - b|, the largest |a - b| / max(|a|, |b|), cosine similarity of the whole tensors, and more in words,
such as where the largest |a - b| is. On a terminal this is a table; elsewhere it is tab-separated, with - for missing
values. The last line is a summary. --json has all digits, and the two values of the largest |a - b|.

  values    some differ         shape     the shapes differ (values are not compared)
  type      the types differ, and all values are equal or can't be decoded
  bytes     stored bytes or scales differ, and all values are equal (0.0 and -0.0, two NaNs) or can't be decoded
  added     only in B           removed   only in A
  renamed   only in A, and B has the same type, shape and values under a name that A doesn't have
  blob      config, tokenizer or toc of two .sbs files differ

With any of these the exit status is 1. Shown, but not differences: metadata (except blobstore's own), and, with a
tolerance, close. Shown with --all: same; and alias, another name for the same bytes, such as lm_head.weight, which one
of the files may lack.

With --tolerance T or --rtol R, elements with |a - b| <= T + R * |a| don't count, and neither does how values are
stored: another type, other bytes for an equal value, toc, and the weight type in config are not differences by
themselves. A NaN or an infinity against anything else always counts; two NaNs are equal.

An .sbs file that was converted from a Gemma checkpoint is compared by that checkpoint's names and arrangement, whatever
its layout. Memory doesn't grow with the files."""

_COLUMNS = ("what", "name", "type", "shape", "differ", "max abs", "max rel", "cosine", "more")
_RIGHT = ("differ", "max abs", "max rel", "cosine")
_BELOW = ("more", "cosine", "max rel", "shape", "type")
_SHOWN_KINDS = ("same", "alias")  # with --all only


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "diff", run, TEXT, EXAMPLE)
    for name in ("A", "B"):
        parser.add_argument(
            name.lower(), metavar=name, help="an .sbs file, a .safetensors file, its index, or a folder with either"
        )
    parser.add_argument("--tolerance", metavar="T", type=float, help="compare values; |a - b| up to T doesn't count")
    parser.add_argument(
        "--rtol", metavar="R", type=float, help="compare values; |a - b| up to R * |a| (plus T) doesn't count"
    )
    parser.add_argument(
        "--by",
        choices=("names", "keys"),
        help="compare tensors of an .sbs file by name or by key (default: names; keys if A and B share only these)",
    )
    add_base(parser)
    parser.add_argument("--all", action="store_true", help="also list what is the same")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    watch = Stopwatch()
    tolerance = _tolerance(options)
    with open_sides(options.a, options.b, options.by, options.base) as (a, b):
        _refuse_needless(options, a, b)
        for side in (a, b):
            for text in side.notes:
                note(text)
            if side.store:
                tell_newer(side.store.reader)
        _tell_choice(options, a, b)
        with progress(a.nbytes + b.nbytes, "comparing") as advance:
            differences = list(compare(a, b, tolerance=tolerance, progress=advance))
        nbytes, by = a.nbytes + b.nbytes, a.by
    differ = any(difference.differs for difference in differences)
    listed = [difference for difference in differences if options.all or difference.kind not in _SHOWN_KINDS]
    counts = Counter(difference.kind for difference in differences)
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
                "entries": [_json(difference) for difference in listed],
            }
        )
        return int(differ)
    if listed:
        print_table(_COLUMNS, map(_row, listed), right=_RIGHT, below=_BELOW)
    state = "they differ" if differ else "no difference"
    counted = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing to compare"
    print(f"{shown(options.a)}, {shown(options.b)}: {state} ({counted}; {size(nbytes)} in {watch.seconds:.1f} s)")
    return int(differ)


def _refuse_needless(options: argparse.Namespace, a: Side, b: Side) -> None:
    """Refuse options that only apply to .sbs files, or to those packed as differences."""
    stores = [side.store for side in (a, b) if side.store]
    refuse_needless_base(*stores)
    if options.by is not None and not stores:
        what = f"neither {options.a!r} nor {options.b!r} is an .sbs file, and only these have keys"
        raise UsageError("needless-flag", f"--by: {what}: leave it out")


def _tolerance(options: argparse.Namespace) -> Tolerance | None:
    given = (options.tolerance, options.rtol)
    for value in given:
        if value is not None and not 0 <= value < math.inf:
            raise UsageError("bad-tolerance", f"{value} is not a tolerance: expected a number of at least 0")
    return None if given == (None, None) else Tolerance(*(value or 0.0 for value in given))


def _tell_choice(options: argparse.Namespace, a: Side, b: Side) -> None:
    if a.names and b.names and not a.names & b.names:
        hint = ""
        if any(side.store and not side.store.index for side in (a, b)):
            hint = (
                ": an .sbs file without a name index has only the runtime's keys; convert the other, and compare that"
            )
        note(f"{options.a} and {options.b} have no name in common{hint}")
    elif options.by is None and "keys" in (a.by, b.by):
        note("compared by the runtime's keys, as no name is in both; --by names compares by names regardless")


def _row(difference: Difference) -> tuple[object, ...]:
    values = difference.values
    measured: tuple[object, ...] = ("-",) * 4
    if values:
        cosine = "-" if values.cosine is None else f"{values.cosine:.6f}"
        measured = (values.different, _short(values.max_abs), _short(values.max_rel), cosine)
    types = _change([facts.type.name for facts in (difference.a, difference.b) if facts])
    shapes = _change([shape(facts.shape) for facts in (difference.a, difference.b) if facts])
    return (difference.kind, difference.name, types, shapes, *measured, "; ".join(_words(difference)) or "-")


def _change(texts: list[str]) -> str:
    """Return the text of both sides, or of the only one: ``bf16``, ``bf16 → sfp``."""
    return " → ".join(dict.fromkeys(texts)) or "-"


def _words(difference: Difference) -> list[str]:
    words = []
    if difference.other:
        words.append(f"is {difference.other} in B" if difference.kind == "renamed" else f"is {difference.other}")
    if difference.a and difference.b and difference.a.scales != difference.b.scales:
        words.append(f"scale {_scales(difference.a)} → {_scales(difference.b)}")
    if difference.a and difference.b and difference.a.codec != difference.b.codec:
        words.append(f"codec {difference.a.codec} → {difference.b.codec}")
    if difference.values and difference.values.not_finite:
        words.append(f"{difference.values.not_finite} where only one is finite, or the infinities differ")
    if difference.values and difference.values.worst is not None:
        words.append(f"most at {shape(_index(difference, difference.values.worst))}")
    return [*words, difference.detail] if difference.detail else words


def _scales(facts: Facts) -> str:
    return ", ".join(f"{scale:.6g}" for scale in facts.scales)


def _index(difference: Difference, place: int) -> list[int]:
    """Return where an element is in its tensor."""
    return [int(axis) for axis in np.unravel_index(place, difference.a.shape if difference.a else ())]


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _json(difference: Difference) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": difference.name, "kind": difference.kind, "differs": difference.differs}
    for side, facts in (("a", difference.a), ("b", difference.b)):
        if facts:
            entry[side] = {"type": facts.type.name, "shape": list(facts.shape), "scales": list(facts.scales)}
    if difference.other:
        entry["other"] = difference.other
    if difference.values:
        entry["values"] = _values_json(difference, difference.values)
    if difference.detail:
        entry["detail"] = difference.detail
    return entry


def _values_json(difference: Difference, values: Values) -> dict[str, Any]:
    worst = None
    if values.worst is not None and values.worst_values:
        worst = {
            "index": _index(difference, values.worst),
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
