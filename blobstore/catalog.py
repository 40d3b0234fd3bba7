"""Directory and name index → one answer to "what is this tensor, and where"."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from blobstore import elements
from blobstore.keys import INDEX_KEY, RESERVED_KEYS, decode_key, encode_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.directory import Directory
    from blobstore.elements import ElementType
    from blobstore.index import NameIndex


@dataclass(frozen=True)
class TensorInfo:
    """What is known of one tensor.

    Attributes:
        name: Its full name.
        key: Of the blob that holds it; empty for a tensor without elements, which has none.
        type: How its elements are stored.
        shape: In C order.
        scale: Decoded values are multiplied by it.
        offset: Of its first byte, from the beginning of the file.
        nbytes: As stored.
        codec: 0 when the type says it all.
    """

    name: str
    key: str
    type: ElementType
    shape: tuple[int, ...]
    scale: float
    offset: int
    nbytes: int
    codec: int

    @property
    def dtype(self) -> np.dtype[np.generic] | None:
        """The numpy dtype that its values come in; None when this version can't decode them."""
        return self.type.dtype if self.codec == 0 else None


class Catalog:
    """The tensors of a file.

    With an index they are the index's; without one each blob that isn't the runtime's own is bytes under its key.
    """

    def __init__(self, directory: Directory, index: NameIndex | None) -> None:
        """Join a directory with the index that was made for it.

        Raises:
            FormatError: The index speaks of blobs that aren't there (``index-missing-blob``, ``index-blob-size``).
        """
        self._directory = directory
        self._index = index
        self._places = index.places(directory) if index else np.empty(0, dtype=np.int64)

    @cached_property
    def names(self) -> list[str]:
        """All names: sorted when there is an index, else in file order."""
        if self._index:
            return self._index.names
        return [key for key in self._directory.all_keys if key not in RESERVED_KEYS and key != INDEX_KEY]

    def find(self, name: str) -> TensorInfo | None:
        """Return what is known of a name, or None."""
        if self._index:
            place = self._index.find(name)
            return self._indexed(self._index, place) if place >= 0 else None
        if name in RESERVED_KEYS or name == INDEX_KEY:
            return None
        try:
            place = self._directory.find(encode_key(name))
        except ValueError:
            return None
        return self._plain(place) if place >= 0 else None

    def __iter__(self) -> Iterator[TensorInfo]:
        if self._index:
            index = self._index
            yield from (self._indexed(index, place) for place in range(len(index.entries)))
        else:
            yield from (info for info in map(self.find, self.names) if info)

    def _indexed(self, index: NameIndex, place: int) -> TensorInfo:
        entry = index.entry(place)
        key, start = "", 0
        if entry.blob is not None:
            at = int(self._places[entry.blob])
            key, start = decode_key(self._directory.keys[at]), int(self._directory.offsets[at])
        return TensorInfo(
            name=entry.name,
            key=key,
            type=elements.by_number(entry.type),
            shape=entry.shape,
            scale=entry.scale,
            offset=start + entry.offset,
            nbytes=entry.nbytes,
            codec=entry.codec,
        )

    def _plain(self, place: int) -> TensorInfo:
        offset, nbytes = self._directory.range(place)
        key = decode_key(self._directory.keys[place])
        return TensorInfo(key, key, elements.UNKNOWN, (nbytes,), 1.0, offset, nbytes, 0)
