"""`CarriedFiles`: the files that a store carries besides its tensors, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.errors import FormatError, NameNotFoundError, in_file
from blobstore.store.by_identity import MappingByIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blobstore.container.reader import BlobReader
    from blobstore.fileio.ranges import FileRange


class CarriedFiles(MappingByIdentity[memoryview]):
    """A model's files beside its tensors, such as ``config.json``, by name. `Store.files` makes it.

    Values are read-only views, as those of `Store.raw`.

    Example:
        >>> with blobstore.create("small.sbs") as store:
        ...     store["w"] = np.ones(3)
        ...     store.add_file("config.json", b"{}")
        >>> {name: bytes(data) for name, data in blobstore.open("small.sbs").files.items()}
        {'config.json': b'{}'}
    """

    def __init__(self, reader: BlobReader, keys: Mapping[str, str]) -> None:
        """View some of a file's blobs, given the names and the keys."""
        self._reader = reader
        self._keys = keys

    def part_of_file(self, name: str) -> FileRange:
        """Return where a file's bytes lie.

        Raises:
            NameNotFoundError, FormatError: As ``files[name]``.

        Example:
            >>> with blobstore.create("small.sbs") as store:
            ...     store.add_file("config.json", b"{}")
            >>> blobstore.open("small.sbs").files.part_of_file("config.json").nbytes
            2
        """
        return self._reader.file_range(self._key(name))

    def _key(self, name: str) -> str:
        key = self._keys.get(name)
        if key is None:
            raise NameNotFoundError("name-not-found", f"{self._reader.path!r} carries no file {name!r}")
        if key not in self._reader:
            with in_file(self._reader.path):
                raise FormatError("files-missing", f"{name!r} is listed among its files, but there is no blob {key!r}")
        return key

    def __getitem__(self, name: str) -> memoryview:
        """Return the bytes of a file.

        Raises:
            NameNotFoundError: ``name-not-found``.
            FormatError: ``files-missing``: it is listed, and not there.
        """
        return self._reader[self._key(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<{len(self)} files in {self._reader.path!r}: {', '.join(self)}>"
