"""What a user is told of a checkpoint or of its conversion: what was read, done without being asked for, left out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from blobstore.errors import listed
from blobstore.fileio.places import absolute, is_folder, join, name_in, names_in
from blobstore.fileio.temporary import is_temporary
from blobstore.fileio.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SHOWN = 3  # names


class Told(NamedTuple):
    """One thing that is done to a checkpoint without being asked for.

    Attributes:
        code: Of the finding: one of `blobstore.checking.CODES`.
        subject: The tensor, the part of names or the key that it is about.
        message: One line.
    """

    code: str
    subject: str
    message: str


@dataclass(frozen=True)
class LeftOut:
    """A tensor or a file of a checkpoint that a conversion doesn't use.

    Attributes:
        name: Of the tensor, or of the file in the checkpoint's folder.
        kind: Which of the two it is.
        why: The reason; the same text for all with the same reason.

    Example:
        >>> blobstore.preview_conversion("checkpoint").left_out
        ()
    """

    name: str
    kind: Literal["tensor", "file"]
    why: str


def lines_of(notes: Iterable[str], told: Iterable[Told], left_out: Iterable[LeftOut]) -> list[str]:
    """Return the notes, what is done without being asked for, and a line for each reason to leave something out."""
    return [*notes, *(item.message for item in told), *left_out_lines(left_out)]


def left_out_lines(left_out: Iterable[LeftOut]) -> Iterator[str]:
    """Yield a line for each reason to leave out tensors, and one for all files."""
    tensors: dict[str, list[str]] = {}
    files: dict[str, list[str]] = {}
    for item in left_out:
        (tensors if item.kind == "tensor" else files).setdefault(item.why, []).append(item.name)
    for why, names in tensors.items():
        what = "the tensor" if len(names) == 1 else f"{len(names)} tensors"
        yield f"left out {what} {listed([repr(name) for name in names], _SHOWN)}: {why}"
    if files:
        yield "left out " + "; ".join(f"{listed(names, _SHOWN)} ({why})" for why, names in files.items())


def unread_in(folder: str, read: Iterable[str]) -> Iterator[str]:
    """Yield the names of what is in a folder, folders with a slash, unless it, or some file in it, was read.

    Of a folder in which some file is read, the reader of that file tells what is left out.

    Args:
        folder: Its path.
        read: The absolute paths of files that were read.

    Raises:
        OSError: The folder can't be read.
    """
    begin = join(absolute(folder), "")
    known = {path[len(begin) :].split("/" if is_url(folder) else os.sep)[0] for path in read if path.startswith(begin)}
    for name in sorted(names_in(folder)):
        if name not in known and not is_temporary(name):
            yield name + "/" * is_folder(join(folder, name))


def read_lines(*checkpoints: Sequence[str]) -> Iterator[str]:
    """Yield a line for each checkpoint that says from which files its tensors come; none for an empty list of files."""
    for paths in filter(None, checkpoints):
        names = [name_in(path) for path in paths]
        if len(names) <= _SHOWN:
            yield f"read {', '.join(names)}"
        else:
            yield f"read {names[0]} … {names[-1]} ({len(names)} files)"
