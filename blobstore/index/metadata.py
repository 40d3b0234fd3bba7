"""Keys of the index's metadata that belong to this project.

Spec: spec/index.md, Metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blobstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OWN_METADATA = "blobstore."  # the prefix of all of them
MODEL_CHOICES = ("rope_bases", "vocabulary")  # of a conversion's choices, those that stay true of a changed file
CHOICES, REARRANGED = "blobstore.convert", "blobstore.rearranged"  # the choices of a conversion, and its source
PACKED_FROM, BASE = "blobstore.packed", "blobstore.base"  # the original of a packed file, and the base
ADAPTERS = "blobstore.adapters"  # those that were merged into the source
BASE_NAME = "blobstore.base_name"  # the base's file name when it was packed: a hint
FILES = "blobstore.files"  # the names of the files that it carries


def foreign_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata without the entries of this project."""
    return {key: value for key, value in metadata.items() if not key.startswith(OWN_METADATA)}


def model_choices(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return those of a conversion's choices that belong to the model; empty if there are none, or none can be read."""
    import json  # noqa: PLC0415 (files open without it)

    try:
        choices = json.loads(metadata.get(CHOICES, "{}"))
    except (ValueError, RecursionError):
        return {}
    return {name: choices[name] for name in MODEL_CHOICES if name in choices} if isinstance(choices, dict) else {}


def refuse_own(keys: Iterable[str]) -> None:
    """Refuse keys of this project's own, which say how a file was made: those of another file would be wrong.

    Raises:
        UsageError: ``reserved-key``.
    """
    for key in keys:
        if isinstance(key, str) and key.startswith(OWN_METADATA):
            what = f"{key!r}: keys that begin with {OWN_METADATA!r} are blobstore's own, leave it out"
            raise UsageError("reserved-key", what)
