"""What a set is made of, noted beside it until it is complete: so that it can be gone on with."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from blobstore.errors import UsageError
from blobstore.fileio.atomic import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Unfinished:
    """What the files of a set are written from.

    Attributes:
        plan: SHA-256 of all that determines their bytes, but the values.
        sources: The files that are read: name, size, and time of the last change in nanoseconds.
    """

    plan: str
    sources: tuple[tuple[str, int, int], ...]


def note_path(path: str) -> str:
    """Return where the note about an unfinished set is."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.unfinished")


def sources_of(paths: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """Return what tells files from those that have replaced them, but for their folder."""
    stats = ((path, os.stat(path)) for path in paths)
    return tuple((os.path.basename(path), status.st_size, status.st_mtime_ns) for path, status in stats)


def begin(path: str, unfinished: Unfinished) -> None:
    """Note what a set is made of, before its first file is written."""
    write_file(note_path(path), json.dumps(asdict(unfinished)).encode())


def check_same(path: str, unfinished: Unfinished) -> bool:
    """Return whether a set was begun with the same plan and sources; False if none was begun.

    Raises:
        UsageError: ``other-set``: it was begun with others.
    """
    try:
        with open(note_path(path), encoding="utf-8") as file:
            noted = json.load(file)
        found = Unfinished(noted["plan"], tuple(map(tuple, noted["sources"])))
    except FileNotFoundError:
        return False
    except (ValueError, LookupError, TypeError) as error:
        what = f"{note_path(path)!r} can't be read ({error!r:.80})"
        raise UsageError("other-set", f"{what}: remove it, and the files of the set, and begin anew") from None
    if found != unfinished:
        changed = "the source has changed" if found.plan == unfinished.plan else "with other options or another source"
        what = (
            f"{path!r} was begun {changed}" if found.plan != unfinished.plan else f"{changed} since {path!r} was begun"
        )
        raise UsageError("other-set", f"{what}: remove {note_path(path)!r} and the files of the set, and begin anew")
    return True


def forget(path: str) -> None:
    """Remove the note: the set is complete."""
    with suppress(FileNotFoundError):
        os.remove(note_path(path))
