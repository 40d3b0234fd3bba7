"""``blobstore explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.cli.output import add_command, add_json, print_json
from blobstore.cli.tables import print_fields, print_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from blobstore.explaining import Explanation

EXAMPLE = """example:
  blobstore explain file-size
  blobstore explain
  blobstore explain --json | jq -r '.[].code'

Every error and every finding has a code that doesn't change, such as file-size. Without CODE all are listed: in a pipe
as lines of three columns, separated by tabs: the topic, the code, and what it means."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "Say what the code of an error or a finding means, what causes it, and what to do."
    parser = add_command(commands, "explain", run, text, EXAMPLE)
    parser.add_argument("code", metavar="CODE", nargs="?", help="the code; all are listed without it")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from blobstore.explaining import CODES, TOPICS, explain  # noqa: PLC0415 (``--help`` needs no tables)

    if options.code is not None:
        explanation = explain(options.code)
        if options.json:
            print_json(explanation)
        else:
            print_fields(_fields(explanation))
    elif options.json:
        print_json([explain(code) for code in CODES])
    else:
        rows = [(topic, code, entry.cause) for topic, entries in TOPICS.items() for code, entry in entries.items()]
        print_table(("topic", "code", "more"), rows, names=(), grouped=True, below=("more",))
    return 0


def _fields(explanation: Explanation) -> Iterator[tuple[str, str]]:
    yield "code", explanation.code
    yield "cause", explanation.cause
    if explanation.severity is not None and explanation.effect is not None:
        yield "effect", explanation.effect
        yield "finding", f"{explanation.severity}, of blobstore check or blobstore verify"
    yield "fix", explanation.fix
