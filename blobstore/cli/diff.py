"""``blobstore diff``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.checkpoint.told import read_lines
from blobstore.cli.formatting import shape, shown, size
from blobstore.cli.output import add_base, add_command, add_json, note, print_json
from blobstore.cli.progress import progress
from blobstore.cli.tables import print_table

if TYPE_CHECKING:
    import argparse

    from blobstore.compare.comparison import ComparedEntry, ComparedSide

TEXT = "Compare two files, tensor by tensor: .sbs files, checkpoints, or one with the other."
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
  file      config.json, tokenizer.json, …, which an .sbs file carries, has other bytes in the other

With any of these the exit status is 1. Shown, but not differences: such a file that only one of them has, metadata
(except blobstore's own), and, with a tolerance, close. Shown with --all: same; and alias, another name for the same
bytes, such as lm_head.weight, which one of the files may lack.

With --tolerance T or --rtol R, elements with |a - b| <= T + R * |a| don't count, and neither does how values are
stored: another type, other bytes for an equal value, toc, and the weight type in config are not differences by
themselves. A NaN or an infinity against anything else always counts; two NaNs are equal.

An .sbs file that was converted from a Gemma checkpoint is compared by that checkpoint's names and arrangement, whatever
its layout. Memory doesn't grow with the files."""

_COLUMNS = ("what", "name", "type", "shape", "differ", "max abs", "max rel", "cosine", "more")
_RIGHT = ("differ", "max abs", "max rel", "cosine")
_BELOW = ("more", "cosine", "max rel", "shape", "type")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "diff", run, TEXT, EXAMPLE)
    for name in ("A", "B"):
        parser.add_argument(
            name.lower(),
            metavar=name,
            help="an .sbs file, a .safetensors file, its index, a .gguf file, or a folder; .bin and .pt with torch",
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
    with progress(None, "comparing") as advance:
        done = blobstore.diff(
            options.a,
            options.b,
            tolerance=options.tolerance,
            rtol=options.rtol,
            by=options.by,
            base=options.base,
            all=options.all,
            progress=advance,
        )
    for text in (*read_lines(done.read_a, done.read_b), *done.notes):
        note(text)
    if options.json:
        print_json(done)
        return int(done.differ)
    if done.entries:
        print_table(_COLUMNS, map(_row, done.entries), right=_RIGHT, below=_BELOW)
    state = "they differ" if done.differ else "no difference"
    counted = ", ".join(f"{count} {kind}" for kind, count in done.counts.items()) or "nothing to compare"
    print(f"{shown(done.a)}, {shown(done.b)}: {state} ({counted}; {size(done.nbytes)} in {done.seconds:.1f} s)")
    return int(done.differ)


def _row(entry: ComparedEntry) -> tuple[object, ...]:
    values = entry.values
    measured: tuple[object, ...] = ("-",) * 4
    if values:
        cosine = "-" if values.cosine is None else f"{values.cosine:.6f}"
        measured = (values.different, _short(values.max_abs), _short(values.max_rel), cosine)
    types = _change([side.type for side in (entry.a, entry.b) if side])
    shapes = _change([shape(side.shape) for side in (entry.a, entry.b) if side])
    return (entry.kind, entry.name, types, shapes, *measured, "; ".join(_words(entry)) or "-")


def _change(texts: list[str]) -> str:
    """Return the text of both sides, or of the only one: ``bf16``, ``bf16 → sfp``."""
    return " → ".join(dict.fromkeys(texts)) or "-"


def _words(entry: ComparedEntry) -> list[str]:
    words = []
    if entry.other:
        words.append(f"is {entry.other} in B" if entry.kind == "renamed" else f"is {entry.other}")
    if entry.a and entry.b and entry.a.scales != entry.b.scales:
        words.append(f"scale {_scales(entry.a)} → {_scales(entry.b)}")
    if entry.a and entry.b and entry.a.codec != entry.b.codec:
        words.append(f"codec {entry.a.codec} → {entry.b.codec}")
    if entry.values and entry.values.not_finite:
        words.append(f"{entry.values.not_finite} where only one is finite, or the infinities differ")
    if entry.values and entry.values.worst is not None:
        words.append(f"most at {shape(entry.values.worst.index)}")
    return [*words, entry.detail] if entry.detail else words


def _scales(side: ComparedSide) -> str:
    return ", ".join(f"{scale:.6g}" for scale in side.scales)


def _short(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
