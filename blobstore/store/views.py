"""The plain tensors of an open file as arrays: whoever looks up many of them gets them listed, at once."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import FormatError
from blobstore.store.catalog import PER_LOOKUP, IndexCatalog
from blobstore.store.plain import Listed, is_plain

if TYPE_CHECKING:
    from blobstore.container.reader import BlobReader
    from blobstore.fileio.types import Array
    from blobstore.store.plain import View
    from blobstore.store.vocabulary import By, Vocabularies


class Views:
    """Views of the tensors of a file that numpy can view as they are stored, by name."""

    def __init__(self, reader: BlobReader, vocabularies: Vocabularies, by: By) -> None:
        """View a file, in one of its vocabularies."""
        self._reader = reader
        self._vocabularies = vocabularies
        self._by: By = by
        self._count = vocabularies.count
        self._lookups = count()
        self._listed: dict[str, View] | None = None

    def get(self, name: str) -> Array | None:
        """Return a plain tensor, writable if the map is; None for any other.

        None as well for the first few, for which it is faster to look at their entries than to list all.

        Raises:
            TruncatedError, UsageError: As `at`.
        """
        try:
            view = self._listed[name]  # type: ignore[index]
        except (KeyError, TypeError):
            return self.get(name) if self._list() else None
        return self.at(view)

    def at(self, view: View) -> Array:
        """Return a plain tensor.

        Raises:
            TruncatedError: ``short-read`` with plain reads when the file has shrunk.
            UsageError: ``closed``.
        """
        shape, dtype, offset = view
        whole = self._reader.whole
        if whole is None:  # it is read, or was closed
            whole, offset = self._reader.view(offset, math.prod(shape) * dtype.itemsize), 0
        return np.ndarray(shape, dtype, whole, offset)

    def listed(self) -> Listed:
        """Return all tensors, those that are plain by columns.

        Raises:
            FormatError: As `Store.infos`.
        """
        catalog = self._vocabularies.by(self._by)
        if not isinstance(catalog, IndexCatalog):
            return Listed.of(catalog)
        plain, names = catalog.plain(), catalog.names
        others = [] if len(plain) == len(names) else [info for info in catalog if not is_plain(info)]
        return Listed(names, plain, others)

    def _list(self) -> bool:
        """List what can be viewed if it is worth it by now → whether that was done."""
        if self._listed is not None or next(self._lookups) < self._count // PER_LOOKUP:
            return False
        _ = self._vocabularies.by(self._by)  # what is wrong with that concerns every look-up
        self._listed = {}
        with suppress(FormatError):  # a look-up says what is wrong, and only of what it needs
            self._listed = self.listed().plain.views()
        return True
