"""``blobstore repair``."""

from __future__ import annotations

import os
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from blobstore.checking.repair import repair
from blobstore.cli.formatting import shown
from blobstore.cli.output import add_command, add_json, output_of, print_json, refuse_same, tell
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
    target = output_of(options, options.output) if options.output and not options.dry_run else options.output
    refuse_same(target, options.file, "without -o it is replaced")
    with progress(os.stat(options.file).st_size, "writing") as advance:
        done = repair(options.file, target, write=not options.dry_run, progress=advance)
    changes = {name: (_plain(old), _plain(new)) for name, (old, new) in done.changes.items()}
    written = (bool(changes) or options.output is not None) and not options.dry_run
    if options.json:
        fields = {name: {"from": old, "to": new} for name, (old, new) in changes.items()}
        print_json({"input": options.file, "output": done.path if written else None, "changes": fields})
        return 0
    if not changes:
        state = f"nothing to repair, {f'copied to {shown(done.path)}' if written else 'nothing written'}"
        tell(f"{shown(options.file)}: {state}", output=options.output or "")
        return 0
    for name, (old, new) in changes.items():
        tell(f"config.{name}: {shown(str(old))} → {shown(str(new))}", output=options.output or "")
    state = "repaired, no tensor has changed" if written else "nothing written"
    tell(f"{shown(done.path)}: {state}", output=options.output or "")
    return 0


def _plain(value: Any) -> Any:  # noqa: ANN401 (a field's value)
    return value.name if isinstance(value, IntEnum) else value
