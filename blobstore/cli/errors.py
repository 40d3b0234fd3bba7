"""Errors of a command: a line on standard error and, with ``--json``, a JSON object on standard output."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from blobstore.cli.formatting import shown
from blobstore.cli.output import print_json
from blobstore.errors import BlobStoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

_BUG = "a bug in blobstore, please report it; BLOBSTORE_TRACEBACK=1 shows where"


class WrongWordsError(Exception):
    """The words of a command line are wrong."""

    def __init__(self, parser: argparse.ArgumentParser, message: str) -> None:
        """Take what found it, and what is wrong."""
        super().__init__(message)
        self.parser = parser
        self.message = message

    def exit(self) -> NoReturn:
        """Print the usage and what is wrong, and end the program with status 2, as argparse does."""
        argparse.ArgumentParser.error(self.parser, self.message)


class Words(argparse.ArgumentParser):
    """A parser that raises an error, where argparse's ends the program at once."""

    def error(self, message: str) -> NoReturn:
        """Raise `WrongWordsError`."""
        raise WrongWordsError(self, message)


class Described(NamedTuple):
    """An error in words.

    Attributes:
        reason: A stable code.
        message: What happened.
        path: Of the file, if there is one.
        offset: In bytes; None unless it is a single place in the file.
        line: All of it for people.
        expected: Whether it isn't a fault of this program.
    """

    reason: str
    message: str
    path: str | None
    offset: int | None
    line: str
    expected: bool = True


def wants_json(words: Sequence[str]) -> bool:
    """Whether ``--json`` is among the words of a command line, for those that can't be parsed."""
    options = words[: words.index("--")] if "--" in words else words
    return any(word in ("--j", "--js", "--jso", "--json") for word in options)


def describe(error: BaseException) -> Described:
    """Return an error in words."""
    if isinstance(error, BlobStoreError):
        return Described(error.reason, error.message, error.path, getattr(error, "offset", None), str(error))
    if isinstance(error, WrongWordsError):
        return Described("wrong-usage", error.message, None, None, error.message)
    if isinstance(error, OSError):
        path = None if error.filename is None else str(error.filename)
        line = f"{path}: {error.strerror}" if path else error.strerror or str(error)
        return Described(_reason_of(error), error.strerror or str(error), path, None, line)
    if isinstance(error, MemoryError):
        what = f"out of memory: {shown(str(error)) or 'a tensor or a file does not fit'}"
        return Described("out-of-memory", what, None, None, what)
    if isinstance(error, KeyboardInterrupt):
        return Described("interrupted", "interrupted", None, None, "interrupted")
    what = f"{type(error).__name__}: {error}: {_BUG}"
    return Described("bug", what, None, None, what, expected=False)


def _reason_of(error: OSError) -> str:
    """Return ``file-not-found`` for a FileNotFoundError, and ``os`` where the system has no class for it."""
    words = re.findall("[A-Z]+(?![a-z])|[A-Z][a-z]*", type(error).__name__.removesuffix("Error"))
    return "-".join(words).lower()


def print_error(error: BaseException, *, in_json: bool) -> None:
    """Print an error: as JSON on standard output if a command was to print JSON, and for people on standard error."""
    described = describe(error)
    if in_json:
        fields = described._asdict()
        with suppress(OSError):  # standard output may be what is full or closed
            print_json({"error": {name: fields[name] for name in ("reason", "message", "path", "offset")}})
    if not isinstance(error, WrongWordsError):  # argparse prints it, with the usage
        with suppress(OSError):  # standard error may be full or closed; the exit status remains
            print(f"blobstore: {shown(described.line)}", file=sys.stderr)
