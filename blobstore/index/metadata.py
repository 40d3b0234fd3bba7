"""Keys of the index's metadata that belong to this project.

Spec: spec/index.md, Metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

OWN_METADATA = "blobstore."  # the prefix of all of them
CHOICES, REARRANGED = "blobstore.convert", "blobstore.rearranged"  # the choices of a conversion, and its source
PACKED_FROM, BASE = "blobstore.packed", "blobstore.base"  # the original of a packed file, and the base
BASE_NAME = "blobstore.base_name"  # the base's file name when it was packed: a hint


def foreign_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata without the entries of this project."""
    return {key: value for key, value in metadata.items() if not key.startswith(OWN_METADATA)}
