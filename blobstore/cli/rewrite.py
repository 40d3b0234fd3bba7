"""``blobstore rewrite``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.formatting import shown, size
from blobstore.cli.output import add_command, add_json, note, output_of, print_json, refuse_same, tell
from blobstore.cli.progress import progress
from blobstore.errors import UsageError
from blobstore.fileio.places import file_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

TEXT = "Rewrite a file with changes: version, names, metadata, fewer blobs, another order, clean padding."
EXAMPLE = """example:
  blobstore rewrite old.sbs -o new.sbs --container 2
  blobstore rewrite model.sbs -o text-only.sbs --drop 'vision_tower.*' --set license=apache-2.0
  blobstore rewrite model.sbs --in-place --rename model.norm.wight=model.norm.weight

The bytes of blobs are copied, and compared with their SHA-256 if the file has one. --drop takes patterns (*, ?, [abc])
for names and keys; the runtime's own blobs (config, tokenizer, toc) are dropped only by their exact keys. A blob is
dropped once none of its names is left. --rename takes a name or, if no tensor has that name, a key. The runtime's toc
is updated. OUT is replaced once the new file is complete, so an interruption leaves it as it was. If only the metadata
of an index beside the file changes, only that index is written."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "rewrite", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-o", "--output", metavar="OUT", help="the .sbs file to write; - is standard output")
    where.add_argument("--in-place", action="store_true", help="replace FILE once the new one is complete")
    parser.add_argument("--container", type=int, choices=(1, 2), help="version of the container (default: as in FILE)")
    parser.add_argument("--drop", metavar="GLOB", action="append", default=[], help="leave out tensors or blobs")
    parser.add_argument(
        "--rename", metavar="OLD=NEW", action="append", default=[], help="change a tensor's name, or a key"
    )
    parser.add_argument("--set", metavar="KEY=TEXT", action="append", default=[], help="set a metadata entry")
    parser.add_argument("--unset", metavar="KEY", action="append", default=[], help="remove a metadata entry")
    parser.add_argument("--sort", action="store_true", help="sort blobs by name (by key if there is no index)")
    parser.add_argument(
        "--index", choices=("embedded", "external", "none"), help="where the name index goes (default: where it is)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    target = None if options.in_place else output_of(options, options.output)
    refuse_same(target, options.file, "--in-place, instead of -o, replaces it")
    with progress(file_size(options.file), "writing") as advance:
        done = blobstore.rewrite(
            options.file,
            target,
            in_place=options.in_place,
            container=options.container,
            drop=options.drop,
            rename=_pairs("--rename", options.rename),
            set=_pairs("--set", options.set),
            unset=options.unset,
            sort=options.sort,
            index=options.index,
            progress=advance,
        )
    for text in done.notes:
        note(text)
    if options.json:
        print_json(done)
        return 0
    changes = [f"{len(done.dropped)} dropped"] * bool(done.dropped) + [f"{done.renamed} renamed"] * bool(done.renamed)
    what = [f"{done.blobs} blobs, {done.names} names", size(done.nbytes), *changes]
    tell(f"{shown(done.output or '-')}: {', '.join(what)}, {done.seconds:.2f} s", output=options.output or "")
    return 0


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in given:
        left, equals, right = pair.partition("=")
        if not equals or not left:
            raise UsageError("bad-pair", f"{option} {pair!r}: expected two texts with = between them")
        if left in pairs:
            raise UsageError("bad-pair", f"{option}: {left!r} is given twice")
        pairs[left] = right
    return pairs
