"""``blobstore rewrite``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blobstore.cli.formatting import shown, size
from blobstore.cli.output import add_command, add_json, note, output_of, print_json, tell
from blobstore.cli.progress import Stopwatch, progress
from blobstore.edit.rewrite import Edits, rewrite
from blobstore.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

TEXT = "Write a file anew with changes: version, names, metadata, fewer blobs, another order, clean padding."
EXAMPLE = """example:
  blobstore rewrite old.sbs -o new.sbs --container 2
  blobstore rewrite model.sbs -o text-only.sbs --drop 'vision_tower.*' --set license=apache-2.0
  blobstore rewrite model.sbs --in-place --rename model.norm.wight=model.norm.weight

A blob's bytes are copied, and compared with their SHA-256 where one was kept. --drop takes patterns (*, ?, [abc]) of
names and keys; the runtime's own blobs (config, tokenizer, toc) go only by their very key. A blob goes when none of its
names is left. --rename takes a name or, where no tensor has it, a key. The runtime's toc is kept in step.
The file that OUT names is replaced only by the complete new one, at whatever point this is interrupted; when only the
metadata of an index beside the file changes, only that index is written."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "rewrite", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-o", "--output", metavar="OUT", help="the .sbs file to write; - is standard output")
    where.add_argument("--in-place", action="store_true", help="replace FILE by the new one when that is complete")
    parser.add_argument(
        "--container", type=int, choices=(1, 2), help="version of the container (default: as FILE has it)"
    )
    parser.add_argument("--drop", metavar="GLOB", action="append", default=[], help="leave tensors or blobs out")
    parser.add_argument("--rename", metavar="OLD=NEW", action="append", default=[], help="a tensor's name, or a key")
    parser.add_argument("--set", metavar="KEY=TEXT", action="append", default=[], help="set a text of the metadata")
    parser.add_argument("--unset", metavar="KEY", action="append", default=[], help="remove a text of the metadata")
    parser.add_argument("--sort", action="store_true", help="order blobs by name (by key without an index)")
    parser.add_argument(
        "--index", choices=("embedded", "external", "none"), help="where the name index goes (default: where it is)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    target = None if options.in_place else output_of(options, options.output)
    edits = Edits(
        version=options.container,
        drop=tuple(options.drop),
        rename=_pairs("--rename", options.rename),
        set_metadata=_pairs("--set", options.set),
        unset_metadata=tuple(options.unset),
        sort=options.sort,
        index=options.index,
    )
    watch = Stopwatch()
    with progress(os.stat(options.file).st_size, "writing") as advance:
        done = rewrite(options.file, target, edits, progress=advance)
    for text in done.notes:
        note(text)
    streamed = options.output == "-"
    nbytes = 0 if streamed else os.stat(done.path).st_size
    if options.json:
        facts = {"output": done.path, "nbytes": nbytes, "blobs": done.blobs, "names": done.names}
        more = {"dropped": done.dropped, "renamed": done.renamed, "notes": done.notes}
        print_json({**facts, **more, "seconds": round(watch.seconds, 3)})
        return 0
    changes = [f"{len(done.dropped)} dropped"] * bool(done.dropped) + [f"{done.renamed} renamed"] * bool(done.renamed)
    what = [f"{done.blobs} blobs, {done.names} names", *[size(nbytes)] * (not streamed), *changes]
    tell(f"{shown(done.path)}: {', '.join(what)}, {watch.seconds:.2f} s", output=options.output or "")
    return 0


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for one in given:
        left, equals, right = one.partition("=")
        if not equals or not left:
            raise UsageError("bad-pair", f"{option} {one!r}: expected two texts with = between them")
        if left in pairs:
            raise UsageError("bad-pair", f"{option}: {left!r} is given twice")
        pairs[left] = right
    return pairs
