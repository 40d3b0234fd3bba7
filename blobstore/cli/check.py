"""``blobstore check``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from blobstore.checking import asked_for, check_checkpoint, check_file, runs_in, runtimes_line
from blobstore.cli.abandoned import tell_abandoned
from blobstore.cli.findings import add_strict, print_findings, status_of
from blobstore.cli.formatting import shown
from blobstore.cli.output import add_command, add_json
from blobstore.cli.progress import progress
from blobstore.converting.gemma_plan import WEIGHTS, Choices
from blobstore.errors import UsageError
from blobstore.gemma.runtimes import NAMES

if TYPE_CHECKING:
    import argparse

TEXT = """Check what gemma.cpp would stop at in a file, or what keeps a checkpoint from being converted."""
EXAMPLE = """example:
  blobstore check model.sbs
  blobstore check model.sbs --for gemma.cpp --strict      (all of its versions: 2025-10, 2026-04, later)
  blobstore check model.sbs --for gemma.cpp@2025-10
  blobstore check gemma-3-270m-it/ --weights sfp          (a checkpoint: what convert would refuse, including values)

For a file, it checks structure, padding and index; for gemma.cpp also keys, config, types, tokenizer, and the tensors
against the config. It reads no weights: verify does. Each finding has a code, the key or name that it is about, its
effect in gemma.cpp, and the fix. One line says which versions of gemma.cpp run the file correctly. A finding that only
concerns older versions is a note; with --for it is an error. Exit status 1 if there is an error; with --strict also if
there is a warning.
On a terminal the findings are laid out for reading; elsewhere each is a tab-separated line: severity, code, subject,
message, effect, fix."""

_RUNTIME = "gemma.cpp"
_RUNTIMES = ("auto", _RUNTIME, *(f"{_RUNTIME}@{name}" for name in NAMES), "any")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "check", run, TEXT, EXAMPLE)
    parser.add_argument("path", metavar="FILE|CHECKPOINT", help="an .sbs file; or a checkpoint, as for convert")
    parser.add_argument(
        "--for",
        dest="runtime",
        choices=_RUNTIMES,
        default="auto",
        help="gemma.cpp: all of its versions, or that of a date; any: not for gemma.cpp, a container by name; "
        "auto (default): whatever the file is for, in the versions that know its model",
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, help="type of the weights in a checkpoint's conversion (default: sfp)"
    )
    add_strict(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    runtime, _, date = options.runtime.partition("@")
    runtimes = (date,) if date else NAMES if runtime == _RUNTIME else ()
    if _is_checkpoint(options.path):
        kind = {"auto": "auto", _RUNTIME: "gemma", "any": "names"}[runtime]
        with progress(None, "checking") as advance:
            choices = Choices(options.weights) if options.weights else Choices()
            findings = list(check_checkpoint(options.path, kind, choices, progress=advance))
        if options.weights and any(finding.code == "by-name" for finding in findings):
            what = f"--weights: {options.path!r} is converted by name, every tensor unchanged: leave it out"
            raise UsageError("needless-flag", what)
        findings = asked_for(findings, runtimes) if runtimes else findings
    elif options.weights:
        raise UsageError(
            "needless-flag", "--weights is for converting a checkpoint, not for an .sbs file: leave it out"
        )
    else:
        for_runtime = {"auto": None, _RUNTIME: True, "any": False}[runtime]
        findings = check_file(options.path, for_runtime=for_runtime, runtimes=runtimes)
    tell_abandoned(options.path)
    line = runtimes_line(findings, runtimes or NAMES)
    facts = {"runs_in": runs_in(findings, runtimes or NAMES)} if line else {}
    print_findings(options, options.path, findings, facts)
    if line and not options.json:
        print(f"{shown(options.path)}: {line}", file=sys.stderr)
    return status_of(findings, strict=options.strict)


def _is_checkpoint(path: str) -> bool:
    return os.path.isdir(path) or path.lower().endswith((".safetensors", ".json"))
