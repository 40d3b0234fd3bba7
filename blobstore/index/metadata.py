"""Metadata of the index: whose is whose.

Spec: spec/index.md, Metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Of the metadata: this project's own begin so; what a conversion says of its choices and of its source; what a packed
# file says of the original, and of the base.
OWN_METADATA = "blobstore."
CHOICES, REARRANGED = "blobstore.convert", "blobstore.rearranged"
PACKED_FROM, BASE = "blobstore.packed", "blobstore.base"


def foreign_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata without this project's own."""
    return {key: value for key, value in metadata.items() if not key.startswith(OWN_METADATA)}
