"""``blobstore verify``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from blobstore.checking.verification import verify
from blobstore.cli.findings import add_strict, print_findings
from blobstore.cli.formatting import rate, shown, size
from blobstore.cli.output import add_base, add_command, add_json, note, output_of, print_json, tell
from blobstore.cli.progress import progress
from blobstore.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from blobstore.checking.verification import Verification

TEXT = "Verify a file against its own digests, or against the checkpoint that it was made from."
EXAMPLE = """example:
  blobstore verify model.sbs
  blobstore verify model.sbs --values                     (also looks for NaN and infinities)
  blobstore verify model.sbs --against gemma-3-270m-it/
  blobstore verify model.sbs --against gemma-3-270m-it/ --list --receipt model.receipt.json

Without --against it checks structure, padding and index, then the SHA-256 of every blob, and names each damaged tensor
and its bytes. It says if a file has no digests: blobstore index build FILE --digests adds them.

With --against the conversion is planned again from the source, and every byte of the file is compared with what the
source gives: copied bytes bit for bit, encoded ones by encoding the source again.

Exit status 1 if anything is wrong; with --strict also if something could not be verified, and for padding."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "verify", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument("--quick", action="store_true", help="check only structure, padding and index")
    parser.add_argument("--values", action="store_true", help="also look for NaN and infinities in every tensor")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")
    add_base(parser)
    add_strict(parser)
    source = parser.add_argument_group("against the source")
    source.add_argument("--against", metavar="SRC", help="the checkpoint: a file or folder, as for convert")
    source.add_argument("--tokenizer", metavar="FILE", help="tokenizer.model, if it isn't beside SRC")
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
    receipt = output_of(options, options.receipt) if options.receipt is not None else None
    with progress(None, "verifying") as advance:
        done = verify(
            options.file,
            against=options.against,
            quick=options.quick,
            values=options.values,
            strict=options.strict,
            workers=options.workers,
            base=options.base,
            tokenizer=options.tokenizer,
            receipt=receipt,
            progress=advance,
        )
    for text in done.notes:
        note(text)
    if options.json:
        print_json(done)
    elif done.against is None:
        print_findings(done.input, done.findings, _summary(done))
    else:
        _tell(options, done)
    return 0 if done.ok else 1


def _summary(done: Verification) -> str:
    if not done.compared:
        return ""
    speed = rate(done.nbytes, done.seconds)
    return f" ({done.compared} blobs of {size(done.nbytes)} against their SHA-256, {speed})"


def _tell(options: argparse.Namespace, done: Verification) -> None:
    for verdict in done.verdicts if options.list else done.faults:
        state = "WRONG" if verdict.fault else "ok"
        row = f"{state}\t{verdict.how}\t{shown(verdict.name)}\t{shown(verdict.fault) or verdict.nbytes}"
        tell(row, output=options.receipt or "")
    how = Counter(verdict.how for verdict in done.verdicts)
    counted = f"{how['copied']} copied, {how['encoded']} encoded, {how['name']} other names, {how['blob']} blobs"
    state = f"{len(done.faults)} of {done.compared} are wrong" if done.faults else "everything matches the source"
    text = f"{shown(done.input)}: {state} ({counted}; {size(done.nbytes)} in {done.seconds:.1f} s)"
    tell(text, output=options.receipt or "")
