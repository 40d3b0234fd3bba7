"""``blobstore convert``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from blobstore.checking import check_plan, runs_in, runtimes_line
from blobstore.checkpoint.beside import has_chat_template, tokenizer_beside
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.cli.formatting import rate, shape, shown
from blobstore.cli.output import add_command, add_json, note, output_of, print_json, tell_dry_run
from blobstore.cli.progress import Stopwatch, progress
from blobstore.cli.tables import print_table
from blobstore.container.layout import MAX_PORTABLE_BLOBS
from blobstore.converting.choose import KINDS, choose_plan
from blobstore.converting.gemma_plan import LAYOUTS, WEIGHTS, Choices
from blobstore.converting.run import run_plan
from blobstore.errors import UsageError
from blobstore.gemma.models import specifier_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from blobstore.checking import Finding
    from blobstore.converting.plan import Plan

EXAMPLE = """example:
  blobstore convert gemma-3-270m-it/ -o gemma3-270m-sfp-it.sbs          (a Gemma checkpoint: a file that gemma.cpp runs)
  blobstore convert gemma-3-270m-it/ -o out.sbs --weights bf16 --dry-run
  blobstore convert Llama-3.2-1B/ -o llama.sbs                          (any other: every tensor by name, unchanged)

SRC is a .safetensors file, a model.safetensors.index.json, or a folder with either; config.json, tokenizer.model and
the chat template are found beside it. Tied weights (lm_head.weight) get their name back."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "convert", run, "Convert a safetensors checkpoint into an .sbs file.", EXAMPLE)
    parser.add_argument(
        "source", metavar="SRC", help="a .safetensors file, a model.safetensors.index.json, or a folder with either"
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="the .sbs file to write; - is standard output")
    parser.add_argument(
        "--as",
        dest="kind",
        choices=KINDS,
        default="auto",
        help="gemma: a file that gemma.cpp runs; names: a container of all tensors; auto (default): depends on SRC",
    )
    gemma = parser.add_argument_group("for gemma.cpp")
    gemma.add_argument("--weights", choices=WEIGHTS, help="type of the weights (default: sfp, 8 bits)")
    gemma.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="split (default): loads faster, almost the checkpoint's order; stock: as in published files",
    )
    gemma.add_argument("--wrapping", choices=("it", "pt"), help="instruction-tuned or pre-trained (default: as SRC)")
    gemma.add_argument("--tokenizer", metavar="FILE", help="tokenizer.model, if it isn't beside SRC")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, write nothing")
    parser.add_argument(
        "--container", type=int, choices=(1, 2), default=2, help="version of the container (default: 2)"
    )
    parser.add_argument(
        "--index",
        choices=("embedded", "external"),
        default="embedded",
        help="put the name index into OUT (default), or into OUT.idx",
    )
    parser.add_argument("--no-digests", action="store_true", help="leave out the SHA-256 of each blob")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if not options.dry_run and not options.output:
        raise UsageError("no-output", "choose where to write with -o OUT.sbs, or look first with --dry-run")
    target = output_of(options, options.output) if options.output and not options.dry_run else ""
    given = {name: getattr(options, name) for name in ("weights", "layout", "wrapping") if getattr(options, name)}
    choices = Choices(**given)
    choices.refuse_unusable()
    with open_checkpoint(options.source) as checkpoint:
        plan = choose_plan(
            checkpoint,
            options.kind,
            choices,
            tokenizer=tokenizer_beside(checkpoint, options.tokenizer),
            chat_template=has_chat_template(checkpoint),
            max_tensors=MAX_PORTABLE_BLOBS - (options.index == "embedded"),
        )
        if plan.config is None:
            _refuse_needless(options)
        findings = list(check_plan(plan))
        for text in [*plan.notes, *_warnings(findings)]:
            note(text)
        if options.dry_run:
            _show_plan(plan, findings, as_json=options.json)
            tell_dry_run(options.output)
            return 0
        watch = Stopwatch()
        with progress(plan.nbytes, "converting") as advance:
            run_plan(
                plan,
                checkpoint,
                target,
                version=options.container,
                index=options.index,
                digests=not options.no_digests,
                progress=advance,
            )
    if options.output != "-":
        _report(options, plan, findings, watch.seconds)
    return 0


def _refuse_needless(options: argparse.Namespace) -> None:
    """Refuse options that only apply to a conversion for gemma.cpp."""
    given = [name for name in ("weights", "layout", "wrapping", "tokenizer") if getattr(options, name) is not None]
    if given:
        flags = ", ".join(f"--{name}" for name in given)
        what = f"{flags}: {options.source!r} is converted by name, every tensor unchanged"
        raise UsageError("needless-flag", f"{what}: leave it out, or --as gemma")


def _warnings(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the problems that the file will have in gemma.cpp, and the versions that run it correctly."""
    for finding in findings:
        if finding.severity != "note":
            yield f"{finding.code}: {finding.subject}: {finding.message}: {finding.effect}"
    line = runtimes_line(findings)
    if line:
        yield f"the file {line}"


def _show_plan(plan: Plan, findings: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        runs = list(runs_in(findings)) if plan.config else None
        print_json(plan.to_json() | {"notes": [*plan.notes, *_warnings(findings)], "runs_in": runs})
        return
    rows = [(tensor.name, tensor.key, tensor.type, shape(tensor.shape), tensor.nbytes) for tensor in plan.tensors]
    print_table(("name", "key", "type", "shape", "size"), rows, right=("size",), sizes=("size",), spare=("key",))
    for alias in plan.aliases:
        note(f"{alias.name} is another name for {alias.target}: {alias.why}")


def _report(options: argparse.Namespace, plan: Plan, findings: Sequence[Finding], seconds: float) -> None:
    nbytes = os.stat(options.output).st_size
    if options.json:
        aliases = [{"name": alias.name, "target": alias.target, "why": alias.why} for alias in plan.aliases]
        facts: dict[str, Any] = {
            "source": options.source,
            "output": options.output,
            "nbytes": nbytes,
            "tensors": len(plan.tensors),
        }
        facts["model"] = specifier_of(plan.config) if plan.config else None
        facts["runs_in"] = list(runs_in(findings)) if plan.config else None
        facts |= {"aliases": aliases, "notes": [*plan.notes, *_warnings(findings)], "seconds": round(seconds, 3)}
        print_json(facts)
        return
    names = len(plan.tensors) + len(plan.extras) + len(plan.parts) + len(plan.aliases)
    what = f"{specifier_of(plan.config)}, " if plan.config else "by name, not for gemma.cpp, "
    print(
        f"{shown(options.output)}: {what}{names} names, {nbytes} bytes, {seconds:.2f} s ({rate(plan.nbytes, seconds)})"
    )
    for alias in plan.aliases:
        print(f"  {shown(alias.name)} = {shown(alias.target)}: {alias.why}")
