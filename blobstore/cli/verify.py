"""``blobstore verify``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import blobstore
from blobstore.checkpoint.told import read_lines
from blobstore.cli.cluster import add_cluster, cluster_of, refuse_flags
from blobstore.cli.findings import add_strict, print_findings
from blobstore.cli.formatting import rate, shown, size
from blobstore.cli.output import add_adapters, add_base, add_command, add_json, note, output_of, print_each, tell
from blobstore.cli.progress import progress
from blobstore.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from typing import BinaryIO

    from distributed import Client

    from blobstore.checking.verification import Verification
    from blobstore.fileio.types import Progress

TEXT = "Verify files against their own digests, or a file against the checkpoint that it was made from."
EXAMPLE = """example:
  blobstore verify model.sbs
  blobstore verify *.sbs
  blobstore verify model.sbs --values                     (also looks for NaN and infinities)
  blobstore verify model.sbs --against gemma-3-270m-it/
  blobstore verify tuned.sbs --against gemma-3-270m-it/ --adapter lora/
  blobstore verify model.sbs --against gemma-3-270m-it/ --list --receipt model.receipt.json

Without --against it checks structure, padding and index, then the SHA-256 of every blob, and names each damaged tensor
and its bytes. It says if a file has no digests: blobstore index build FILE --digests adds them.

With --against the conversion is planned again from the source, and every byte of the file is compared with what the
source gives: copied bytes bit for bit, encoded ones by encoding the source again.

On a terminal the findings are laid out for reading; elsewhere each is a tab-separated line: severity, code, subject,
message, effect, fix; then, if there are several files, the file. --json prints an object; of several files, a list of
objects.

Exit status 1 if anything is wrong in any file; with --strict also if something could not be verified, and for
padding."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "verify", run, TEXT, EXAMPLE)
    parser.add_argument("files", metavar="FILE", nargs="+", help="an .sbs file; with --against only one")
    parser.add_argument("--quick", action="store_true", help="check only structure, padding and index")
    parser.add_argument("--values", action="store_true", help="also look for NaN and infinities in every tensor")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")
    add_cluster(parser)
    add_base(parser)
    add_strict(parser)
    source = parser.add_argument_group("against the source")
    source.add_argument("--against", metavar="SRC", help="the checkpoint: a file or folder, as for convert")
    source.add_argument(
        "--tokenizer", metavar="FILE", help="the tokenizer.model or tokenizer.json that convert was given"
    )
    add_adapters(source)
    source.add_argument("--list", action="store_true", help="print a line for each tensor (--json has them all)")
    source.add_argument(
        "--receipt",
        metavar="OUT",
        help="write digests of source and file, choices and versions as JSON; - is standard output",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.list and options.against is None:
        raise UsageError("no-source", "--list goes with --against SRC")
    several = len(options.files) > 1
    if several and options.against is not None:
        raise UsageError("one-file", "--against SRC is the source of one file: verify one after the other")
    receipt = output_of(options, options.receipt) if options.receipt is not None else None
    results = []
    with cluster_of(options) as client:
        for path in options.files:
            with progress(None, "verifying") as advance:
                done = _verify(client, options, path, receipt, advance)
            for text in (*read_lines(done.read), *done.notes):
                note(text)
            results.append(done)
            if not options.json:
                _tell(options, done, several=several)
    if options.json:
        print_each(results)
    return 0 if all(done.ok for done in results) else 1


def _verify(
    client: Client | None,
    options: argparse.Namespace,
    path: str,
    receipt: str | BinaryIO | None,
    advance: Progress,
) -> Verification:
    if client is None:
        return blobstore.verify(
            path,
            against=options.against,
            quick=options.quick,
            values=options.values,
            strict=options.strict,
            workers=options.workers,
            base=options.base,
            tokenizer=options.tokenizer,
            adapters=options.adapters,
            receipt=receipt,
            progress=advance,
        )
    refuse_flags(options, "workers", "base", "against", "tokenizer", "adapters", "receipt")
    quick, values, strict = options.quick, options.values, options.strict
    from blobstore import distributed  # noqa: PLC0415 (only with a cluster)

    return distributed.verify(path, client=client, quick=quick, values=values, strict=strict, progress=advance)


def _tell(options: argparse.Namespace, done: Verification, *, several: bool) -> None:
    if done.against is None:
        print_findings(done.input, done.findings, _summary(done), several=several)
    else:
        _tell_verdicts(options, done)


def _summary(done: Verification) -> str:
    if not done.compared:
        return ""
    speed = rate(done.nbytes, done.seconds)
    return f" ({done.compared} blobs of {size(done.nbytes)} against their SHA-256, {speed})"


def _tell_verdicts(options: argparse.Namespace, done: Verification) -> None:
    for verdict in done.verdicts if options.list else done.faults:
        state = "WRONG" if verdict.fault else "ok"
        row = f"{state}\t{verdict.how}\t{shown(verdict.name)}\t{shown(verdict.fault) or verdict.nbytes}"
        tell(row, output=options.receipt or "")
    how = Counter(verdict.how for verdict in done.verdicts)
    counted = f"{how['copied']} copied, {how['encoded']} encoded, {how['name']} other names, {how['blob']} blobs"
    counted += f", {how['file']} files" if how["file"] else ""
    state = f"{len(done.faults)} of {done.compared} are wrong" if done.faults else "everything matches the source"
    text = f"{shown(done.input)}: {state} ({counted}; {size(done.nbytes)} in {done.seconds:.1f} s)"
    tell(text, output=options.receipt or "")
