"""Notes about what killed writers have left beside a file."""

from __future__ import annotations

import os

from blobstore.cli.formatting import size
from blobstore.cli.output import note
from blobstore.fileio.temporary import abandoned


def tell_abandoned(path: str) -> None:
    """Print a note for each leftover in the folder."""
    folder = path if os.path.isdir(path) else os.path.dirname(os.path.realpath(path))
    for leftover in abandoned(folder):
        try:
            nbytes = os.lstat(leftover).st_size
        except FileNotFoundError:  # another writer has removed it meanwhile
            continue
        what = "left by a writer that was killed; the next writer to this folder removes it"
        note(f"{leftover!r}: {size(nbytes)}, {what}")
