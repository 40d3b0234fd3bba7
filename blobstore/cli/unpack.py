"""``blobstore unpack``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.formatting import rate, shown, size
from blobstore.cli.output import add_base, add_command, add_json, note, output_of, print_json, tell
from blobstore.cli.progress import progress

if TYPE_CHECKING:
    import argparse

TEXT = "Restore the file that a packed one was made from, byte for byte."
EXAMPLE = """example:
  blobstore unpack model.packed.sbs -o model.sbs
  blobstore unpack tuned.packed.sbs -o tuned.sbs --base model.sbs

The new file must have the SHA-256 that was stored when it was packed; otherwise it is not written. If the original had
an index beside it, that is written too."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "unpack", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="a packed .sbs file")
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="the .sbs file to write; - is standard output"
    )
    add_base(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    target = output_of(options, options.output)
    with progress(None, "unpacking") as advance:
        done = blobstore.unpack(options.file, target, base=options.base, workers=options.workers, progress=advance)
    for text in done.notes:
        note(text)
    if options.json:
        print_json(done)
        return 0
    speed = rate(done.nbytes, done.seconds)
    # A new index has a SHA-256 of its own.
    same = "each file has its SHA-256 as before" if done.stores else f"SHA-256 {done.sha256} as before"
    what = f"{size(done.nbytes)}, {done.blobs} blobs unpacked, {same}"
    tell(f"{shown(done.output or '-')}: {what}, {done.seconds:.2f} s ({speed})", output=options.output)
    return 0
