"""The command line: ``blobstore COMMAND``. It only formats; the layers below do the work."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from blobstore import __version__
from blobstore.cli.errors import Words, WrongWordsError, describe, print_error, wants_json
from blobstore.cli.formatting import shown
from blobstore.cli.output import Quiet
from blobstore.errors import KeyNotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each is a module of this package, imported when it runs: most need little of what others import.
COMMANDS = (
    "info",
    "ls",
    "get",
    "convert",
    "check",
    "verify",
    "diff",
    "report",
    "export",
    "index",
    "rewrite",
    "recover",
    "repair",
    "pack",
    "unpack",
    "bench",
    "demo",
    "explain",
    "completion",
)
_ALONE = (["--version"], ["--include-dir"])  # words that no command belongs to
OK, FAULT, USAGE = 0, 1, 2
_USAGE_ERRORS = (
    UsageError,
    KeyNotFoundError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class _IncludeDir(argparse.Action):
    """Print the folder of the header for C++, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from blobstore.bench.cpp import include_folder  # noqa: PLC0415 (for this option only)

        print(include_folder())
        parser.exit()


def parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the command line, or of some of its commands."""
    top = Words(
        prog="blobstore",
        description="Read, write and convert gemma.cpp's weight files (.sbs).",
        epilog="Exit status: 0 success, 1 a fault was found, 2 wrong usage. COMMAND --help has examples.",
    )
    top.add_argument("--version", action="version", version=f"blobstore {__version__}")
    text = "print the folder of blobstore.hpp, the reader for C++, and of its CMake package, and exit"
    top.add_argument("--include-dir", action=_IncludeDir, nargs=0, help=text)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name in names:
        import_module(f"blobstore.cli.{name}").add_parser(commands)
    return top


def _needed(arguments: Sequence[str]) -> Sequence[str]:
    """Return the commands that a command line needs: its first word; for help and mistakes all."""
    if arguments[:1] in _ALONE:
        return ()
    return arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS


def _refuse_unknown(top: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Refuse a word that isn't a command, with those that come close."""
    word = arguments[0] if arguments else "-"
    if word not in COMMANDS and not word.startswith("-"):
        from blobstore.container.suggest import close_to  # noqa: PLC0415 (only for errors)

        hint = close_to(word, COMMANDS) or f": the commands are {', '.join(COMMANDS)}"
        top.error(f"{word!r} is not a command{hint}")


def _parsed(top: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. A command that takes several files takes them behind its options as well."""
    options, rest = top.parse_known_args(words)
    if rest:
        if not hasattr(options, "files") or not all(word and not word.startswith("-") for word in rest):
            options.parser.error(f"unrecognized arguments: {shown(' '.join(rest))}")
        options.files += rest
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name; those of this process by default.

    Returns:
        0 for success, 1 if a fault was found, 2 for wrong usage.
    """
    _prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    in_json = wants_json(words)
    try:
        top = parser(_needed(words))
        _refuse_unknown(top, words)
        options = _parsed(top, words)
        in_json = getattr(options, "json", False)
        Quiet.on = getattr(options, "quiet", False)
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError as error:
        status = _status_of(error)  # the reader has closed the pipe: blobstore ls … | head
    except WrongWordsError as error:
        print_error(error, in_json=in_json)
        error.exit()
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("BLOBSTORE_TRACEBACK") and not describe(error).expected:
            raise
        print_error(error, in_json=in_json)
        status = _status_of(error)
    _give_up_unwritten()
    return status


def _status_of(error: BaseException) -> int:
    import signal  # noqa: PLC0415 (only for errors)

    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, BrokenPipeError):  # as cat and others that don't catch the signal
        return 128 + getattr(signal, "SIGPIPE", 13)
    return USAGE if isinstance(error, _USAGE_ERRORS) else FAULT


def _prepare_streams() -> None:
    # Python has no stream at all if the shell closed it.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (lives as long as the process)
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # keys need not be UTF-8, and must not abort a listing


def _give_up_unwritten() -> None:
    """Leave nothing for Python to flush at exit: that would fail once more, with another message."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
