"""Notes about what in a file is newer than every gemma.cpp known here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.cli.output import note
from blobstore.container.keys import describes_model

if TYPE_CHECKING:
    from collections.abc import Mapping


def tell_newer(blobs: Mapping[str, memoryview]) -> None:
    """Print a note for each of `unknown_texts`; `info` and `check` tell what only older versions don't read."""
    if not describes_model(blobs):
        return
    from blobstore.gemma.newer import unknown_texts  # noqa: PLC0415 (most files are containers by name)

    for text in unknown_texts(blobs):
        note(text)
