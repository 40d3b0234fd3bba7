"""``blobstore repair``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.formatting import shown
from blobstore.cli.output import add_command, add_json, output_of, print_json, refuse_same, tell, tell_dry_run
from blobstore.cli.progress import progress

if TYPE_CHECKING:
    import argparse

TEXT = "Give a Gemma 3 file the config that every gemma.cpp since October 2025 needs; no tensor changes."
EXAMPLE = """example:
  blobstore repair gemma3-1b-sfp.sbs
  blobstore repair gemma3-1b-sfp.sbs -o repaired.sbs
  blobstore repair gemma3-1b-sfp.sbs --dry-run

Newer runtimes silently run files from before the field use_global_timescale existed with a wrong RoPE base: blobstore
check calls this global-rope. FILE is replaced once the new one is complete, so an interruption leaves it as it was. In
an index only the config's digest changes. Exit status 0, also if there is nothing to repair."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "repair", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file with a model for gemma.cpp")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="the .sbs file to write; - is standard output (default: FILE, in place)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would change, write nothing")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    target = None if options.output is None or options.dry_run else output_of(options, options.output)
    refuse_same(options.output, options.file, "without -o it is replaced")
    with progress(None, "writing") as advance:
        done = blobstore.repair(options.file, target, dry_run=options.dry_run, progress=advance)
    if options.json:
        print_json(done)
        return 0
    output = "" if options.dry_run else options.output or ""  # a dry run leaves standard output to the lines below
    for name, (old, new) in done.changes.items():
        tell(f"config.{name}: {shown(str(old))} → {shown(str(new))}", output=output)
    written = (bool(done.changes) or options.output is not None) and not options.dry_run
    if done.changes:
        state = "repaired, no tensor has changed" if written else "nothing written"
    else:
        state = f"nothing to repair, {f'copied to {shown(options.output)}' if written else 'nothing written'}"
    path = options.output if written and done.changes and options.output else options.file
    tell(f"{shown(path)}: {state}", output=output)
    if options.dry_run:
        tell_dry_run(options.output)
    return 0
