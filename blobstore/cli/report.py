"""``blobstore report``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.formatting import shown, size
from blobstore.cli.output import add_base, add_command, add_json, note, output_of, print_json, tell
from blobstore.cli.progress import progress

if TYPE_CHECKING:
    import argparse

TEXT = "Make a page that shows a file: findings, bytes by layer and type, layout, tensors, and what changed to another."
EXAMPLE = """example:
  blobstore report model.sbs -o model.html
  blobstore report model.sbs -o model.html --sample
  blobstore report base.sbs tuned.sbs -o tuned.html
  blobstore report tuned.sbs gemma-3-270m-it/ -o tuned.html --sample --json

The page is one HTML file. It needs no network, and runs nothing but its own scripts, whatever names and metadata the
file has. It shows what check and verify find; a treemap of the bytes by layer and type; where everything lies in the
file; and a table of the tensors, to sort and filter, with statistics and histograms. With OTHER it shows what diff
finds from FILE to OTHER, by layer, the largest differences first.

Everything is read: the file once for its digests and once for its values, and with OTHER both again. --sample reads
65,536 values of each larger tensor instead, which the page says; digests and OTHER are read in full all the same.

The plots are drawn by Bokeh, whose scripts become part of the page: pip install 'gemma-blobstore[report]'.
Without it the page has no plots.

Exit status 1 if check or verify finds an error; the page is written all the same, unless OTHER or
the base can't be opened."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "report", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="what to compare it with, as for diff")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the page; - is standard output")
    parser.add_argument("--sample", action="store_true", help="read only 65,536 values of each larger tensor")
    add_base(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    output = output_of(options, options.output)
    with progress(None, "reading") as advance:
        done = blobstore.report(
            options.file,
            options.other,
            output=output,
            sample=options.sample,
            base=options.base,
            progress=advance,
        )
    for text in done.notes:
        note(text)
    if options.json:
        print_json(done)
    else:
        counts = Counter(finding.severity for finding in done.findings)
        found = (
            ", ".join(f"{count} {severity}{'s' * (count > 1)}" for severity, count in counts.items()) or "no findings"
        )
        text = f"{shown(options.output)}: {size(done.nbytes)}, {done.tensors} tensors, {found} in {done.seconds:.1f} s"
        tell(text, output=options.output)
    return 0 if done.ok else 1
