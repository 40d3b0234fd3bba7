"""What commands that look at a file say of what killed writers have left beside it."""

from __future__ import annotations

import os

from blobstore.cli.formatting import size
from blobstore.cli.output import note
from blobstore.fileio.atomic import abandoned


def tell_abandoned(path: str) -> None:
    """Tell the user."""
    folder = path if os.path.isdir(path) else os.path.dirname(os.path.realpath(path))
    for one in abandoned(folder):
        try:
            nbytes = os.lstat(one).st_size
        except FileNotFoundError:  # a writer has come meanwhile
            continue
        what = "left by a writer that was killed; the next one that writes to this folder removes it"
        note(f"{one!r}: {size(nbytes)}, {what}")
