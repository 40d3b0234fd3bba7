"""What commands share: arguments, where their output goes, notes and JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from blobstore.cli.formatting import shown
from blobstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from blobstore.store.reader import Store


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a command with its help, an example at the end, and what it runs."""
    parser = commands.add_parser(
        name,
        help=text[0].lower() + text[1:].partition("\n")[0].partition(". ")[0].removesuffix("."),
        description=text,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_base(parser: argparse.ArgumentParser) -> None:
    """Add ``--base``, for commands that read tensors."""
    parser.add_argument("--base", metavar="OTHER", help="the file that a packed one is the difference to")


def output_of(options: argparse.Namespace, output: str, *, streams: bool = True) -> str | BinaryIO:
    """Return where a command writes: a path, or standard output for ``-``.

    Args:
        options: The command's.
        output: As given.
        streams: Whether it can write from front to back without looking back.

    Raises:
        UsageError: ``no-stream``; ``two-ways`` with ``--json``; ``terminal``.
    """
    if not output:
        raise UsageError("no-output", "the output has no name: is a variable of the shell empty?")
    if output != "-":
        return output
    if not streams:
        raise UsageError("no-stream", "- is standard output, and this needs a file: -o OUT (./- is a file called -)")
    if getattr(options, "json", False):
        raise UsageError("two-ways", "--json and a file can't both go to standard output: leave out one of the two")
    if getattr(sys.stdout, "name", "") == os.devnull:
        raise UsageError("no-stdout", "standard output is closed: -o OUT")
    if sys.stdout.isatty():
        raise UsageError("terminal", "bytes are not for a terminal: -o OUT, or pipe them on")
    sys.stdout.flush()
    return sys.stdout.buffer


def tell(text: str, *, output: str) -> None:
    """Print a line for people: where a command's output goes to standard output, on standard error."""
    print(text, file=sys.stderr if output == "-" else sys.stdout)


def refuse_needless_base(store: Store) -> None:
    """Refuse ``--base`` for a file that is no difference to another.

    Raises:
        UsageError: ``needless-base``.
    """
    from blobstore.index.metadata import BASE  # noqa: PLC0415 (needs numpy, which --version doesn't)

    if store.base_path is not None and BASE not in store.metadata:
        raise UsageError("needless-base", f"{store.path!r} is no difference to another file: leave out --base")


def print_json(value: Any) -> None:  # noqa: ANN401 (JSON is anything)
    """Print a value as JSON; what is no UTF-8 in it is escaped."""
    json.dump(value, sys.stdout, indent=1)
    sys.stdout.write("\n")


def note(text: str) -> None:
    """Tell the user something beside the data."""
    with suppress(OSError):  # whoever has closed or filled standard error doesn't want it
        print(f"note: {shown(text)}", file=sys.stderr)
