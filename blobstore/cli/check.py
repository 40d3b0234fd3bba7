"""``blobstore check``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blobstore.check import check_checkpoint, check_file
from blobstore.cli.findings import add_strict, print_findings, status_of
from blobstore.cli.output import add_command, add_json, progress
from blobstore.convert.gemma_plan import WEIGHTS, Choices

if TYPE_CHECKING:
    import argparse

TEXT = """Say what a runtime can't take in a file, or what keeps a checkpoint from being converted, before it stops."""
EXAMPLE = """example:
  blobstore check model.sbs
  blobstore check model.sbs --for gemma.cpp --strict
  blobstore check gemma-3-270m-it/ --weights sfp          (a checkpoint: what convert would refuse, values included)

A file: its structure, padding and index; then, for gemma.cpp, keys, config, tensors against the config, types,
tokenizer. It reads no weights: verify does that. Each finding has a code, the key or name that it is about, what
happens in gemma.cpp, and the way out. Exit status 1 when there is an error; with --strict also for a warning.
Elsewhere than on a terminal a line for each finding, tab-separated: severity, code, subject, what, effect, remedy."""

_TARGETS = ("auto", "gemma.cpp", "any")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "check", run, TEXT, EXAMPLE)
    parser.add_argument("path", metavar="FILE|CHECKPOINT", help="an .sbs file; or a checkpoint, as for convert")
    parser.add_argument(
        "--for",
        dest="target",
        choices=_TARGETS,
        default="auto",
        help="gemma.cpp: it is to run there; any: a container by name; auto (default): what it is",
    )
    parser.add_argument("--weights", choices=WEIGHTS, default="sfp", help="of a checkpoint's conversion (default: sfp)")
    add_strict(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if _is_checkpoint(options.path):
        kind = {"auto": "auto", "gemma.cpp": "gemma", "any": "names"}[options.target]
        with progress(None, "checking") as advance:
            found = list(check_checkpoint(options.path, kind, Choices(options.weights), progress=advance))
    else:
        wanted = {"auto": None, "gemma.cpp": True, "any": False}[options.target]
        found = check_file(options.path, for_runtime=wanted)
    print_findings(options, options.path, found, {})
    return status_of(found, strict=options.strict)


def _is_checkpoint(path: str) -> bool:
    return os.path.isdir(path) or path.lower().endswith((".safetensors", ".json"))
