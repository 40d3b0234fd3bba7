"""``blobstore demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.cli.output import add_command, add_json

if TYPE_CHECKING:
    import argparse

EXAMPLE = """example:
  blobstore demo
  blobstore demo -o somewhere"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "Show all steps on a small model: make a Gemma 3 checkpoint, convert, verify, list and export it."
    parser = add_command(commands, "demo", run, text, EXAMPLE)
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", default="blobstore-demo", help="where to write (default: blobstore-demo)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns 1 if anything read back isn't what was written."""
    from blobstore.cli.demonstration import demonstrate  # noqa: PLC0415 (``--help`` needs no numpy)

    return demonstrate(options)
