"""``blobstore info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blobstore.cli.abandoned import tell_abandoned
from blobstore.cli.output import FILES, add_command, add_json, note, print_each
from blobstore.cli.tables import print_fields

if TYPE_CHECKING:
    import argparse

EXAMPLE = """example:
  blobstore info model.sbs
  blobstore info gemma-3-270m-it/ model-Q4_K_M.gguf
  blobstore info model.sbs --json | jq .metadata

FILE is an .sbs file, a .safetensors file, its index, a .gguf file, a .bin or .pt file (which needs torch), or a folder
with one of these. --json prints an object; of several files, a list of objects."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "Show what files are: version, blobs, bytes, types, index, metadata. Checks the structure, reads no tensor."
    parser = add_command(commands, "info", run, text, EXAMPLE)
    parser.add_argument("files", metavar="FILE", nargs="+", help=FILES)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from blobstore.cli.contents import open_contents  # noqa: PLC0415 (``--help`` needs no numpy)
    from blobstore.cli.description import describe, lines_of  # noqa: PLC0415 (as above)

    described = []
    for path in options.files:
        with open_contents(path) as contents:
            described.append(describe(contents))
            for text in described[-1]["notes"]:
                note(text)
        tell_abandoned(path)
    if options.json:
        print_each(described)
    else:
        for place, facts in enumerate(described):
            if place:
                print()
            print_fields(lines_of(facts))
    return 1 if any(map(_is_damaged, described)) else 0


def _is_damaged(facts: dict[str, Any]) -> bool:
    return bool((facts["model"] and "fault" in facts["model"]) or facts.get("carried_fault"))
