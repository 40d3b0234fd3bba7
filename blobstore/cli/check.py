"""``blobstore check``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from blobstore.check import asked_for, check_checkpoint, check_file, runs_in, runtimes_line
from blobstore.cli.abandoned import tell_abandoned
from blobstore.cli.findings import add_strict, print_findings, status_of
from blobstore.cli.formatting import shown
from blobstore.cli.output import add_command, add_json
from blobstore.cli.progress import progress
from blobstore.convert.gemma_plan import WEIGHTS, Choices
from blobstore.errors import UsageError
from blobstore.gemma.runtimes import NAMES

if TYPE_CHECKING:
    import argparse

TEXT = """Say what a runtime can't take in a file, or what keeps a checkpoint from being converted, before it stops."""
EXAMPLE = """example:
  blobstore check model.sbs
  blobstore check model.sbs --for gemma.cpp --strict      (in each of its states: 2025-10, 2026-04, later)
  blobstore check model.sbs --for gemma.cpp@2025-10
  blobstore check gemma-3-270m-it/ --weights sfp          (a checkpoint: what convert would refuse, values included)

A file: its structure, padding and index; then, for gemma.cpp, keys, config, tensors against the config, types,
tokenizer. It reads no weights: verify does that. Each finding has a code, the key or name that it is about, what
happens in gemma.cpp, and the way out. One line says which states of gemma.cpp run the file correctly. What only older
ones don't read is a note, and an error with --for. Exit status 1 when there is an error; with --strict also for a
warning.
Elsewhere than on a terminal a line for each finding, tab-separated: severity, code, subject, what, effect, remedy."""

_RUNTIME = "gemma.cpp"
_TARGETS = ("auto", _RUNTIME, *(f"{_RUNTIME}@{name}" for name in NAMES), "any")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "check", run, TEXT, EXAMPLE)
    parser.add_argument("path", metavar="FILE|CHECKPOINT", help="an .sbs file; or a checkpoint, as for convert")
    parser.add_argument(
        "--for",
        dest="target",
        choices=_TARGETS,
        default="auto",
        help="gemma.cpp: it is to run there, in all states or that of a date; any: a container by name; "
        "auto (default): what it is, in the states that know it",
    )
    parser.add_argument("--weights", choices=WEIGHTS, help="of a checkpoint's conversion (default: sfp)")
    add_strict(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    runtime, _, date = options.target.partition("@")
    runtimes = (date,) if date else NAMES if runtime == _RUNTIME else ()
    if _is_checkpoint(options.path):
        kind = {"auto": "auto", _RUNTIME: "gemma", "any": "names"}[runtime]
        with progress(None, "checking") as advance:
            choices = Choices(options.weights) if options.weights else Choices()
            found = list(check_checkpoint(options.path, kind, choices, progress=advance))
        if options.weights and any(one.code == "by-name" for one in found):
            what = f"--weights: {options.path!r} is converted by name, every tensor as it is: leave it out"
            raise UsageError("needless-flag", what)
        found = asked_for(found, runtimes) if runtimes else found
    elif options.weights:
        raise UsageError("needless-flag", "--weights is a choice of a conversion: it says nothing of an .sbs file")
    else:
        wanted = {"auto": None, _RUNTIME: True, "any": False}[runtime]
        found = check_file(options.path, for_runtime=wanted, runtimes=runtimes)
    tell_abandoned(options.path)
    line = runtimes_line(found, runtimes or NAMES)
    facts = {"runs_in": runs_in(found, runtimes or NAMES)} if line else {}
    print_findings(options, options.path, found, facts)
    if line and not options.json:
        print(f"{shown(options.path)}: {line}", file=sys.stderr)
    return status_of(found, strict=options.strict)


def _is_checkpoint(path: str) -> bool:
    return os.path.isdir(path) or path.lower().endswith((".safetensors", ".json"))
