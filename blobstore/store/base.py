"""The file to which a packed file is stored as the difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.errors import UsageError
from blobstore.index.metadata import BASE

if TYPE_CHECKING:
    from blobstore.store.reader import Store


def refuse_needless_base(*stores: Store) -> None:
    """Refuse a base if none of the files is packed as the difference to another.

    Raises:
        UsageError: ``needless-base``.
    """
    if any(store.base_path is not None for store in stores) and not any(BASE in store.metadata for store in stores):
        paths = ", ".join(dict.fromkeys(repr(store.path) for store in stores))
        raise UsageError("needless-base", f"{paths}: not packed as the difference to another file: leave out --base")
