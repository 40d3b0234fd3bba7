"""What commands share: arguments, where their output goes, notes and JSON."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from blobstore.cli.formatting import shown
from blobstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

FILES = "an .sbs file, a .safetensors file, its index, a .gguf, .bin or .pt file, or a folder with one of these"


class Quiet:
    """Whether notes and progress are left out: ``--quiet``, set once for the whole command line.

    Attributes:
        on: Whether it was given.
    """

    on = False


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a command with its help, an example at the end, and the function that it runs."""
    parser = commands.add_parser(
        name,
        help=text[0].lower() + text[1:].partition("\n")[0].partition(". ")[0].removesuffix("."),
        description=text,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.register("type", None, _text)  # for all arguments without a type of their own
    # No default: a command inside another would set it back.
    parser.add_argument(
        "-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="print no notes, and show no progress"
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def _text(value: str) -> str:
    """Refuse an empty text, which an unset shell variable gives: it means neither "left out" nor "this folder"."""
    if not value:
        raise argparse.ArgumentTypeError("it is empty: is a shell variable not set?")
    return value


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_base(parser: argparse.ArgumentParser) -> None:
    """Add ``--base``, for commands that read tensors."""
    parser.add_argument("--base", metavar="OTHER", help="the file that a packed file is the difference to")


def add_adapters(parser: argparse._ActionsContainer) -> None:
    """Add ``--adapter``, for commands that read a model's tensors."""
    parser.add_argument(
        "--adapter",
        dest="adapters",
        metavar="LORA",
        action="append",
        default=[],
        help="the folder of a LoRA adapter to merge; several are merged in their order",
    )


def output_of(options: argparse.Namespace, output: str, *, streams: bool = True) -> str | BinaryIO:
    """Return where a command writes: a path, or standard output for ``-``.

    Args:
        options: The command's.
        output: As given.
        streams: Whether it can write from front to back, without seeking.

    Raises:
        UsageError: ``no-stream``; ``not-a-file`` for another name of standard output; ``two-ways`` with ``--json``;
            ``no-stdout`` where it is closed; ``terminal``.
    """
    if output != "-":
        if _is_standard_output(output):
            way = "-, as in -o -, writes there" if streams else "this needs a file: -o OUT"
            raise UsageError("not-a-file", f"{output!r} is standard output: {way}")
        return output
    if not streams:
        raise UsageError("no-stream", "- is standard output, but this needs a file: -o OUT (./- is a file called -)")
    if getattr(options, "json", False):
        raise UsageError("two-ways", "--json and a file can't both go to standard output: leave out one of them")
    if getattr(sys.stdout, "name", "") == os.devnull:
        raise UsageError("no-stdout", "standard output is closed: -o OUT")
    if sys.stdout.isatty():
        raise UsageError("terminal", "not writing bytes to a terminal: use -o OUT, or a pipe")
    sys.stdout.flush()
    return sys.stdout.buffer


def _is_standard_output(path: str) -> bool:
    """Whether a path, such as /dev/stdout, names standard output, and isn't a regular file."""
    try:
        named, ours = os.stat(path), os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # the path does not exist, or there is no descriptor
        return False
    return os.path.samestat(named, ours) and not stat.S_ISREG(named.st_mode)


def refuse_same(output: str | BinaryIO | None, file: str, fix: str) -> None:
    """Refuse to write to the file that is read, by whatever name, and say how to replace it.

    Raises:
        UsageError: ``same-file``.
    """
    with suppress(OSError):
        if isinstance(output, str) and os.path.samefile(output, file):
            raise UsageError("same-file", f"{output!r} is the file that is read: {fix}")


def tell(text: str, *, output: str) -> None:
    """Print a line for people; on standard error if the command's output goes to standard output."""
    print(text, file=sys.stderr if output == "-" else sys.stdout)


def tell_dry_run(output: str | None) -> None:
    """Print which file a dry run does not write."""
    if output is not None:
        note(f"a dry run: {'standard output' if output == '-' else output} is not written")


def print_each(results: Sequence[Any]) -> None:
    """Print the result for one file as JSON; for several files a list of them."""
    print_json(results if len(results) > 1 else results[0])


def print_json(value: Any) -> None:  # noqa: ANN401 (JSON is anything)
    """Print a value, such as the result of a function, as JSON.

    Text that isn't valid UTF-8 is escaped; numbers that JSON doesn't have, such as infinities, become text.
    """
    import json  # noqa: PLC0415 (1 ms, and most commands print none)

    sys.stdout.write(f"{json.dumps(_plain(value), indent=1, allow_nan=False)}\n")


def _plain(value: Any) -> Any:  # noqa: ANN401 (as above)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def note(text: str) -> None:
    """Print a note for the user, on standard error; none with ``--quiet``."""
    if Quiet.on:
        return
    with suppress(OSError):  # standard error may be closed or full: the note is not needed
        print(f"note: {shown(text)}", file=sys.stderr)
