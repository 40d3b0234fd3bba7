"""``blobstore verify``."""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import blobstore
from blobstore.checking import verify_file
from blobstore.checkpoint.beside import has_chat_template, tokenizer_beside
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.cli.findings import add_strict, print_findings, status_of
from blobstore.cli.formatting import rate, shown, size
from blobstore.cli.output import (
    add_base,
    add_command,
    add_json,
    note,
    output_of,
    print_json,
    refuse_needless_base,
    tell,
)
from blobstore.cli.progress import Stopwatch, progress
from blobstore.converting.verify import plan_again, verify
from blobstore.errors import FormatError, UsageError
from blobstore.fileio.atomic import write_file
from blobstore.fileio.hashing import file_digest
from blobstore.fileio.threads import check_workers
from blobstore.index.inputs import files_of
from blobstore.index.metadata import CHOICES

if TYPE_CHECKING:
    import argparse
    from typing import BinaryIO

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.converting.verify import Verdict
    from blobstore.store.reader import Store

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
    source.add_argument("--list", action="store_true", help="print a line for each tensor")
    source.add_argument(
        "--receipt",
        metavar="OUT",
        help="write digests of source and file, choices and versions as JSON; - is standard output",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    alone = options.quick or options.values or options.strict or options.workers is not None
    with_source = options.tokenizer is not None or options.list or options.receipt is not None
    if options.against is None and with_source:
        raise UsageError("no-source", "--tokenizer, --list and --receipt go with --against SRC")
    if options.against is not None and alone:
        raise UsageError("two-ways", "--quick, --values, --workers and --strict don't go with --against")
    if options.base is not None and not (options.values or options.against):
        raise UsageError("needless-base", "--base goes with --values or --against: digests are of the stored bytes")
    if options.quick and options.workers is not None:
        raise UsageError(
            "needless-flag", "--workers is for comparing digests, which --quick leaves out: leave out one of them"
        )
    check_workers(options.workers)
    return _verify_alone(options) if options.against is None else _verify_against(options)


def _verify_alone(options: argparse.Namespace) -> int:
    watch = Stopwatch()
    if options.base is not None:
        with suppress(FormatError), blobstore.open(options.file, access="read", base=options.base) as store:
            refuse_needless_base(store)
    done = verify_file(
        options.file,
        quick=options.quick,
        values=options.values,
        base=options.base,
        workers=options.workers,
        bar=progress,
    )
    summary = ""
    if done.blobs:
        speed = rate(done.nbytes, watch.seconds)
        summary = f" ({done.blobs} blobs of {size(done.nbytes)} against their SHA-256, {speed})"
    facts = {"blobs": done.blobs, "nbytes": done.nbytes, "seconds": round(watch.seconds, 3)}
    print_findings(options, options.file, done.findings, facts, summary)
    return status_of(done.findings, strict=options.strict)


def _verify_against(options: argparse.Namespace) -> int:
    watch = Stopwatch()
    receipt = output_of(options, options.receipt) if options.receipt is not None else ""
    with (
        blobstore.open(options.file, access="read", base=options.base) as store,
        open_checkpoint(options.against) as checkpoint,
    ):
        refuse_needless_base(store)
        plan = plan_again(
            store,
            checkpoint,
            tokenizer=tokenizer_beside(checkpoint, options.tokenizer),
            chat_template=has_chat_template(checkpoint),
        )
        checkpoint.refuse_as_outputs(receipt or None, except_ours=False, also=files_of(options.file, options.base))
        for text in checkpoint.notes:
            note(text)
        with progress(plan.nbytes, "verifying") as advance:
            verdicts = list(verify(store, plan, checkpoint, progress=advance))
        faults = [verdict for verdict in verdicts if verdict.fault]
        facts = {
            "file": options.file,
            "against": options.against,
            "right": not faults,
            "compared": len(verdicts),
            "nbytes": sum(verdict.nbytes for verdict in verdicts),
            "faults": [{"name": verdict.name, "fault": verdict.fault} for verdict in faults],
        }
        if receipt:
            text = json.dumps(_receipt(facts, store, checkpoint), indent=1)  # ASCII: file names may be any bytes
            _write_receipt(text.encode() + b"\n", receipt)
    if options.json:
        print_json(facts)
    else:
        _tell(options, verdicts, watch.seconds)
    return 1 if faults else 0


def _write_receipt(raw: bytes, target: str | BinaryIO) -> None:
    if isinstance(target, str):
        write_file(target, raw)
    else:
        target.write(raw)


def _tell(options: argparse.Namespace, verdicts: list[Verdict], seconds: float) -> None:
    faults = [verdict for verdict in verdicts if verdict.fault]
    for verdict in verdicts if options.list else faults:
        state = "WRONG" if verdict.fault else "ok"
        row = f"{state}\t{verdict.how}\t{shown(verdict.name)}\t{shown(verdict.fault) or verdict.nbytes}"
        tell(row, output=options.receipt or "")
    how = Counter(verdict.how for verdict in verdicts)
    counted = f"{how['copied']} copied, {how['encoded']} encoded, {how['name']} other names, {how['blob']} blobs"
    state = f"{len(faults)} of {len(verdicts)} are wrong" if faults else "everything matches the source"
    nbytes = size(sum(verdict.nbytes for verdict in verdicts))
    text = f"{shown(options.file)}: {state} ({counted}; {nbytes} in {seconds:.1f} s)"
    tell(text, output=options.receipt or "")


def _receipt(facts: dict[str, Any], store: Store, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "blobstore": blobstore.__version__,
        "source": [{"file": os.path.basename(path), "sha256": file_digest(path).hex()} for path in checkpoint.paths],
        "target": {
            "file": os.path.basename(store.path),
            "nbytes": store.reader.file_size,
            "sha256": file_digest(store.path).hex(),
        },
        "choices": json.loads(store.metadata.get(CHOICES, "null")),
        "verified": facts["right"],
        "compared": facts["compared"],
        "faults": facts["faults"],
    }
