"""``blobstore export``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.formatting import rate, shape, shown
from blobstore.cli.output import (
    add_adapters,
    add_base,
    add_command,
    add_json,
    note,
    output_of,
    print_json,
    tell,
    tell_dry_run,
)
from blobstore.cli.progress import progress
from blobstore.cli.tables import print_table
from blobstore.errors import UsageError
from blobstore.exporting.choices import DTYPES

if TYPE_CHECKING:
    import argparse

    from blobstore.exporting.export import ExportPreview

EXAMPLE = """example:
  blobstore export model.sbs -o model.safetensors
  blobstore export model.sbs -o model.safetensors --materialize-aliases     (for Candle, which looks for lm_head.weight)
  blobstore export model.sbs -o model.safetensors --max-shard-size 5GB
  blobstore export llama.sbs -o Llama-3.2-1B/      (model.safetensors and what the file carries: config.json, tokenizer)
  blobstore export base.sbs --adapter lora/ -o merged.safetensors           (base.sbs with a LoRA adapter merged)

A file that was converted from a checkpoint is exported under the checkpoint's names; bf16 weights bit for bit."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "export", run, "Write the tensors of an .sbs file as safetensors.", EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="the .safetensors file to write, or a folder; - is standard output"
    )
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
        "--force",
        action="store_true",
        help="remove files of an earlier export to OUT that the new one doesn't replace; in a folder, replace files",
    )
    add_base(parser)
    add_adapters(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, write nothing")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if not options.dry_run and not options.output:
        raise UsageError("no-output", "choose where to write with -o OUT.safetensors, or look first with --dry-run")
    choices = {
        "dtype": options.dtype,
        "by": options.by,
        "materialize_aliases": options.materialize_aliases,
        "max_shard_size": options.max_shard_size,
        "base": options.base,
        "adapters": options.adapters,
    }
    if options.dry_run:
        output = None if options.output == "-" else options.output
        _show(options, blobstore.preview_export(options.file, output, **choices))
        return 0
    target = output_of(options, options.output)
    with progress(None, "exporting") as advance:
        done = blobstore.export(options.file, target, force=options.force, progress=advance, **choices)
    for text in done.notes:
        note(text)
    if options.json:
        print_json(done)
    else:
        speed = rate(done.nbytes, done.seconds)
        written = ", ".join(shown(path) for path in done.files) or "-"
        tell(f"{written}: {done.tensors} tensors, {done.nbytes} bytes, {speed}", output=options.output)
        if done.carried:
            names = ", ".join(shown(path) for path in done.carried)
            tell(f"{names}: the model's other files", output=options.output)
        for path in done.removed:
            tell(f"{shown(path)}: removed, of an earlier export", output=options.output)
    return 0


def _show(options: argparse.Namespace, preview: ExportPreview) -> None:
    for text in preview.notes:
        note(text)
    if options.json:
        print_json(preview)
    else:
        rows = [(tensor.name, tensor.type, shape(tensor.shape), tensor.nbytes) for tensor in preview.tensors]
        print_table(("name", "type", "shape", "size"), rows, right=("size",), sizes=("size",))
    if preview.carried:
        note(f"with {', '.join(preview.carried)}")
    tell_dry_run(options.output)
