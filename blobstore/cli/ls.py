"""``blobstore ls``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blobstore.cli.output import FILES, add_base, add_command, add_json
from blobstore.errors import UsageError
from blobstore.fileio.urls import is_url

if TYPE_CHECKING:
    import argparse

EXAMPLE = """example:
  blobstore ls model.sbs
  blobstore ls model.sbs '*.layers.0.*' --sort size
  blobstore ls gemma-3-270m-it/ model-Q4_K_M.gguf
  blobstore ls model.sbs --stats --quiet | column -t
  blobstore ls model.sbs --keys
  blobstore ls tuned.packed.sbs --stats --base model.sbs

FILE is an .sbs file, a .safetensors file, its index, a .gguf file, or a folder with one of these. The last argument is
a pattern (*, ?, [abc]) unless it is the path of something.

On a terminal this is a table, with a line of totals; bytes that several names share count once. Elsewhere each tensor
is a tab-separated line, without a heading: name, key, type, shape, bytes, offset; then, if there are several files, the
file; then, with --stats, min, max, mean, std, number of NaNs, number of infinities. With --keys: key, bytes, offset,
and the file. What a format doesn't have is -.

--stats reads every tensor, in pieces. Minimum, maximum, mean and standard deviation are of the finite values. Quantised
tensors of .gguf files need the package gguf for that."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "List the tensors of files: name, key, type, shape, bytes, offset. Files can be .sbs, safetensors, GGUF."
    parser = add_command(commands, "ls", run, text, EXAMPLE)
    parser.usage = "blobstore ls [options] FILE [FILE ...] [GLOB]"
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help=f"{FILES}; GLOB: only names (with --keys: keys) that match"
    )
    parser.add_argument(
        "--keys", action="store_true", help="list all blobs of .sbs files by key, as a runtime sees them"
    )
    parser.add_argument(
        "--sort",
        choices=("name", "size", "offset"),
        help="name: layer 2 before layer 10; size: the largest first; offset: as in the file; each file on its own",
    )
    parser.add_argument(
        "--stats", action="store_true", help="also min, max, mean, std, NaNs and infinities of the values"
    )
    add_base(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    *files, last = options.files
    options.pattern = "*"
    if files and not (is_url(last) or os.path.lexists(last)):
        options.files, options.pattern = files, last
    if options.keys and options.stats:
        raise UsageError("needless-flag", "--stats is of tensors, and --keys lists blobs: leave out one of them")
    if options.base is not None and not options.stats:
        raise UsageError("needless-base", "--base goes with --stats, which alone reads values: leave it out")
    from blobstore.cli.listing import list_keys, list_names  # noqa: PLC0415 (``--help`` needs no numpy)

    return list_keys(options) if options.keys else list_names(options)
