"""``blobstore export``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.formatting import rate, shape, shown
from blobstore.cli.newer import tell_newer
from blobstore.cli.output import (
    add_base,
    add_command,
    add_json,
    note,
    output_of,
    print_json,
    refuse_needless_base,
    tell,
    tell_dry_run,
)
from blobstore.cli.progress import Stopwatch, progress
from blobstore.cli.tables import print_table
from blobstore.errors import UsageError
from blobstore.exporting.plan import DTYPES, plan_export
from blobstore.exporting.run import run_export

if TYPE_CHECKING:
    import argparse

EXAMPLE = """example:
  blobstore export model.sbs -o model.safetensors
  blobstore export model.sbs -o model.safetensors --materialize-aliases     (for Candle, which looks for lm_head.weight)
  blobstore export model.sbs -o model.safetensors --max-shard-size 5GB

A file that was converted from a checkpoint is exported under the checkpoint's names; bf16 weights bit for bit."""

_SIZE = re.compile(r"([0-9]+(?:[.][0-9]+)?) *([kMGT]?B)?")
_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "export", run, "Write the tensors of an .sbs file as safetensors.", EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument("-o", "--output", metavar="OUT", help="the .safetensors file to write; - is standard output")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="type of all floats (default: the source's if known, else as stored; f32 for encoded ones)",
    )
    parser.add_argument(
        "--by",
        choices=("names", "keys"),
        default="names",
        help="names (default); keys: the runtime's tensors under its keys",
    )
    parser.add_argument(
        "--materialize-aliases", action="store_true", help="write tied weights again under each of their names"
    )
    parser.add_argument("--max-shard-size", metavar="SIZE", help="split the output if it is larger: 5GB, 500MB")
    parser.add_argument(
        "--force", action="store_true", help="remove files of an earlier export to OUT that the new one doesn't replace"
    )
    add_base(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, write nothing")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if not options.dry_run and not options.output:
        raise UsageError("no-output", "choose where to write with -o OUT.safetensors, or look first with --dry-run")
    watch = Stopwatch()
    target = output_of(options, options.output) if options.output and not options.dry_run else ""
    with blobstore.open(options.file, access="read", base=options.base, by=options.by) as store:
        refuse_needless_base(store)
        plan = plan_export(
            store,
            dtype=options.dtype,
            materialize_aliases=options.materialize_aliases,
            max_shard_nbytes=_nbytes(options.max_shard_size) if options.max_shard_size else None,
        )
        tell_newer(store.reader)
        for name, kept in plan.left_out.items():
            note(f"{name} is the same as {kept} and is left out: --materialize-aliases writes both")
        tensors = [tensor for shard in plan.shards for tensor in shard]
        if options.dry_run:
            if options.json:
                print_json(
                    [{"name": tensor.name, "type": tensor.type.name, "shape": list(tensor.shape)} for tensor in tensors]
                )
            else:
                rows = [(tensor.name, tensor.type, shape(tensor.shape), tensor.nbytes) for tensor in tensors]
                print_table(("name", "type", "shape", "size"), rows, right=("size",), sizes=("size",))
            tell_dry_run(options.output)
            return 0
        with progress(plan.nbytes, "exporting") as advance:
            paths = run_export(plan, store, target, force=options.force, progress=advance)
    if options.json:
        facts = {"files": paths, "tensors": len(tensors), "nbytes": plan.nbytes, "left_out": plan.left_out}
        print_json({**facts, "seconds": round(watch.seconds, 3)})
    else:
        written = ", ".join(shown(path) for path in paths) or "-"
        tell(
            f"{written}: {len(tensors)} tensors, {plan.nbytes} bytes, {rate(plan.nbytes, watch.seconds)}",
            output=options.output,
        )
    return 0


def _nbytes(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    nbytes = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if not nbytes:
        raise UsageError("bad-size", f"{text!r} is not a size of at least a byte: expected 5GB, 500MB, 1000000")
    return nbytes
