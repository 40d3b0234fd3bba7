"""What a set is made of, noted beside it until it is complete: so that it can be gone on with."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from blobstore.errors import UsageError
from blobstore.fileio.places import folder_of, join, name_in, remove, version_of
from blobstore.fileio.source import read_whole
from blobstore.fileio.uploads import new_file

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Unfinished:
    """What the files of a set are written from.

    Attributes:
        plan: SHA-256 of all that determines their bytes, but the values.
        sources: The files that are read: name, size, and what changes when one is written again: a time, or a tag.
    """

    plan: str
    sources: tuple[tuple[str, int, str], ...]


def note_path(path: str) -> str:
    """Return where the note about an unfinished set is."""
    return join(folder_of(path), f".{name_in(path)}.unfinished")


def sources_of(paths: Iterable[str]) -> tuple[tuple[str, int, str], ...]:
    """Return what tells files from those that have replaced them, but for their folder."""
    return tuple((name_in(path), *version_of(path)) for path in paths)


def begin(path: str, unfinished: Unfinished) -> None:
    """Note what a set is made of, before its first file is written."""
    with new_file(note_path(path)) as file:
        file.write(memoryview(json.dumps(asdict(unfinished)).encode()))


def check_same(path: str, unfinished: Unfinished) -> bool:
    """Return whether a set was begun with the same plan and sources; False if none was begun.

    Raises:
        UsageError: ``other-set``: it was begun with others.
    """
    try:
        noted = json.loads(bytes(read_whole(note_path(path))))
        found = Unfinished(noted["plan"], tuple(map(tuple, noted["sources"])))
    except FileNotFoundError:
        return False
    except (ValueError, LookupError, TypeError, RecursionError) as error:
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
        remove(note_path(path))
