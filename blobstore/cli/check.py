"""``blobstore check``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import blobstore
from blobstore.checkpoint.told import read_lines
from blobstore.cli.abandoned import tell_abandoned
from blobstore.cli.cluster import add_cluster, cluster_of, refuse_flags
from blobstore.cli.findings import add_strict, print_findings
from blobstore.cli.formatting import shown
from blobstore.cli.output import add_adapters, add_command, add_json, note, print_each
from blobstore.cli.progress import progress
from blobstore.converting.choices import WEIGHTS
from blobstore.gemma.versions import RUNTIME_CHOICES

if TYPE_CHECKING:
    import argparse

    from distributed import Client

    from blobstore.checking.checkup import Checkup
    from blobstore.fileio.types import Progress

TEXT = """Check what gemma.cpp would stop at in files, or what keeps checkpoints from being converted."""
EXAMPLE = """example:
  blobstore check model.sbs
  blobstore check model.sbs --for gemma.cpp --strict      (all of its versions: 2025-10, 2026-04, latest)
  blobstore check model.sbs --for gemma.cpp@2025-10
  blobstore check gemma-3-270m-it/ --weights sfp          (a checkpoint: what convert would refuse, including values)
  blobstore check gemma-3-270m-it/ --adapter lora/        (the same with a LoRA adapter merged)
  blobstore check *.sbs

For a file, it checks structure, padding and index; for gemma.cpp also keys, config, types, tokenizer, and the tensors
against the config. It reads no weights: verify does. Each finding has a code, the key or name that it is about, its
effect in gemma.cpp, and the fix. One line says which versions of gemma.cpp run the file correctly. A finding that only
concerns older versions is a note; with --for it is an error. Of a checkpoint, --for gemma.cpp@2025-10 says what convert
--runtime 2025-10 would refuse. Exit status 1 if there is an error; with --strict also if there is a warning.
On a terminal the findings are laid out for reading; elsewhere each is a tab-separated line: severity, code, subject,
message, effect, fix; then, if there are several files, the file. --json prints an object; of several files, a list
of objects. The exit status is the worst of them."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "check", run, TEXT, EXAMPLE)
    parser.add_argument(
        "files", metavar="FILE|CHECKPOINT", nargs="+", help="an .sbs file; or a checkpoint, as for convert"
    )
    parser.add_argument(
        "--for",
        dest="runtime",
        choices=RUNTIME_CHOICES,
        default="auto",
        help="gemma.cpp: all of its versions, or that of a date; any: not for gemma.cpp, a container by name; "
        "auto (default): whatever the file is for, in the versions that know its model",
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, help="type of the weights in a checkpoint's conversion (default: sfp)"
    )
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="a tokenizer.model or tokenizer.json for a checkpoint's conversion"
    )
    add_adapters(parser)
    add_strict(parser)
    add_cluster(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    results = []
    with cluster_of(options) as client:
        for path in options.files:
            with progress(None, "checking") as advance:
                done = _check(client, options, path, advance)
            tell_abandoned(path)
            results.append(done)
            if not options.json:
                for text in read_lines(done.read):
                    note(f"{done.input}: {text}")
                print_findings(path, done.findings, several=len(options.files) > 1)
                if done.runs:
                    print(f"{shown(done.input)}: {done.runs}", file=sys.stderr)
    if options.json:
        print_each(results)
    return 0 if all(done.ok for done in results) else 1


def _check(client: Client | None, options: argparse.Namespace, path: str, advance: Progress) -> Checkup:
    if client is None:
        return blobstore.check(
            path,
            for_=options.runtime,
            weights=options.weights,
            tokenizer=options.tokenizer,
            adapters=options.adapters,
            strict=options.strict,
            progress=advance,
        )
    refuse_flags(options, "weights", "tokenizer", "adapters")
    from blobstore import distributed  # noqa: PLC0415 (only with a cluster)

    return distributed.check(path, client=client, for_=options.runtime, strict=options.strict)
