"""Files that a store carries besides its tensors: their names, their keys, and the list of them in the metadata.

Spec: spec/index.md, Files.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from blobstore.errors import FormatError, UsageError
from blobstore.index.file_names import file_clash, file_name_fault
from blobstore.index.metadata import FILES
from blobstore.index.names import hashed_key
from blobstore.index.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blobstore.index.name_index import NameIndex

_SHOWN = 80


def file_key(name: str) -> str:
    """Return the key of the blob that holds a carried file. No tensor's key is made from the same bytes.

    Raises:
        UsageError: ``bad-file-name``.
    """
    fault = file_name_fault(name)
    if fault:
        raise UsageError("bad-file-name", f"{name[:_SHOWN]!r} {fault}")
    return hashed_key(b"\0" + name.encode())


def files_in(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the files that a store's metadata lists, name → key.

    Raises:
        FormatError: ``files-list``: it is not a list of such names.
    """
    text = metadata.get(FILES)
    if text is None:
        return {}
    try:
        names = parse_json(text.encode())
    except ValueError as error:
        raise FormatError("files-list", f"the metadata {FILES!r} is not JSON: {error}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError("files-list", f"the metadata {FILES!r} is not a list of file names")
    for name in names:
        fault = file_name_fault(name)
        if fault:
            raise FormatError("files-list", f"the metadata {FILES!r} lists {name[:_SHOWN]!r}, which {fault}")
    clash = file_clash(names)
    if clash:
        raise FormatError("files-list", f"the metadata {FILES!r} lists {clash}")
    return {name: file_key(name) for name in names}


def known_files(index: NameIndex | None) -> dict[str, str]:
    """Return the files that a store's index lists, name → key; none where the list can't be read."""
    with suppress(FormatError):
        return files_in(index.metadata) if index else {}
    return {}


def list_files(metadata: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return metadata that lists these files instead of those that it listed."""
    import json  # noqa: PLC0415 (files open without it)

    others = {key: value for key, value in metadata.items() if key != FILES}
    listed = sorted(names)
    return others | ({FILES: json.dumps(listed, separators=(",", ":"))} if listed else {})
