"""Names of files that any system can have: of those that a store carries, and of the stores of a set.

Spec: spec/index.md, Files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_FILE_NAME_NBYTES = 255

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]*[A-Za-z0-9_+-])?"
_NAME = re.compile(f"{_PART}(?:/{_PART})?")
# Windows opens these instead of a file, whatever follows a dot.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def file_name_fault(name: str) -> str:
    """Say why a carried file can't have this name, which any system has to take; empty if it can."""
    if len(name) > MAX_FILE_NAME_NBYTES:
        return f"has more than {MAX_FILE_NAME_NBYTES} characters"
    if not _NAME.fullmatch(name):
        return (
            "is not the name of a file in a model's folder, or in a folder of it: "
            "letters, digits, '.', '_', '-' and '+', none of '.', '-' and '+' first, no '.' last"
        )
    if any(map(_DEVICE.fullmatch, name.split("/"))):
        return "is the name of a device on Windows"
    return ""


def file_clash(names: Iterable[str]) -> str:
    """Say which two files can't lie in one folder on every system; empty if all can."""
    places: dict[str, str] = {}
    for name in names:
        if name.lower() in places:
            return f"{places[name.lower()]!r} and {name!r}, which are one file on some systems"
        places[name.lower()] = name
    for name in places.values():
        folder = name.lower().rpartition("/")[0]
        if folder in places:
            return f"{places[folder]!r} and {name!r}: the first can't be a file and a folder"
    return ""
