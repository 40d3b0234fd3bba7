"""``blobstore recover``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.formatting import shown
from blobstore.cli.output import add_command, add_json, note, output_of, print_json, tell
from blobstore.cli.progress import progress
from blobstore.fileio.places import file_size

if TYPE_CHECKING:
    import argparse

    from blobstore.edit.recover import Recovery

TEXT = "Save what is intact in a broken file: truncated, with bytes appended, or with damaged blobs."
EXAMPLE = """example:
  blobstore recover model.sbs.part -o saved.sbs
  blobstore recover model.sbs.part -o saved.sbs --index model.sbs.idx

A version 2 file has its directory at the end, so a truncated one has lost it. The places of the blobs are then proved
by the index beside the file, or by an index or a toc inside it; without any of these, nothing can be saved. A version 1
file has its directory at the front. Blobs that are truncated, or don't match their SHA-256, are left out and named.
Exit status 0 if all blobs were saved, 1 if some are lost."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "recover", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="a broken .sbs file")
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="the .sbs file to write; - is standard output"
    )
    parser.add_argument("--index", metavar="IDX", help="the index of the complete file, if it isn't FILE.idx")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns 1 if something is lost."""
    target = output_of(options, options.output)
    with progress(2 * file_size(options.file), "recovering") as advance:
        done = blobstore.recover(options.file, target, index=options.index, progress=advance)
    for text in done.notes:
        note(text)
    if options.json:
        print_json(done)
    else:
        _tell(options.output, done)
    return 0 if done.ok else 1


def _tell(output: str, done: Recovery) -> None:
    note(f"the places of the blobs are proved by {done.how}")
    for blob in done.lost:
        row = ("lost", blob.key, blob.why, ", ".join(blob.names))
        tell("\t".join(shown(text) for text in row), output=output)
    verified = f"{done.verified} of them verified" if done.verified else "none of them could be verified: no digests"
    saved = f"{len(done.kept)} blobs saved ({verified}), {done.names} names; {len(done.lost)} blobs lost"
    tell(f"{shown(output)}: {saved}", output=output)
