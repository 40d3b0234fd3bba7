"""Notes about what in a file is newer than some gemma.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.cli.output import note
from blobstore.container.keys import CONFIG_KEY, TOC_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping


def newer_texts(blobs: Mapping[str, memoryview]) -> list[str]:
    """Return a line for each thing in a file that some version of gemma.cpp can't read."""
    if CONFIG_KEY not in blobs and TOC_KEY not in blobs:
        return []
    from blobstore.gemma import newer  # noqa: PLC0415 (most files are containers by name)

    return newer.newer_texts(blobs)


def tell_newer(blobs: Mapping[str, memoryview]) -> None:
    """Print a note for each of `newer_texts`."""
    for text in newer_texts(blobs):
        note(text)
