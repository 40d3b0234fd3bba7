"""``blobstore get``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.cli.output import add_base, add_command

if TYPE_CHECKING:
    import argparse

EXAMPLE = """example:
  blobstore get model.sbs model.norm.weight -o norm.npy
  blobstore get model.sbs tokenizer -o tokenizer.model
  blobstore get model.sbs tokenizer --json | jq '.tokens[106]'
  blobstore get llama.sbs tokenizer_config.json
  blobstore get model.sbs model.norm.weight | xxd | head
  blobstore get gemma.sbs qkv_ein_0 --by keys -o qkv.npy

If OUT ends in .npy, a numpy file is written; bfloat16 and 8-bit floats, which plain numpy can't read back, are written
as float32, exactly. Any other OUT, and standard output, gets the stored bytes. A tensor that gemma.cpp stores in
pieces, such as k_proj, has none of its own, and is written as .npy only. --json prints gemma.cpp's tokenizer as a list:
id, text and type of each token, and for BPE the ids that each merge joins."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "get",
        run,
        "Write one tensor, one blob by its key, or one file that is carried, to a file or standard output.",
        EXAMPLE,
    )
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument("name", metavar="NAME", help="a tensor's name, a blob's key, or a carried file's name")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="a .npy file, or any other for the stored bytes; - is standard output"
    )
    parser.add_argument(
        "--by",
        choices=("names", "keys"),
        default="names",
        help="names (default); keys: NAME is a key, and the tensor is as the runtime sees it",
    )
    add_base(parser)
    parser.add_argument("--json", action="store_true", help="print the tokens as JSON; NAME is tokenizer")
    parser.add_argument("--raw", action="store_true", help="write the stored bytes, whatever OUT's name")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from blobstore.cli.getting import print_tokens, write_one  # noqa: PLC0415 (``--help`` needs no numpy)

    return print_tokens(options) if options.json else write_one(options)
