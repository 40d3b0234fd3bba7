"""`BlobWriter`: keys and bytes → a container without an index, neither inside nor beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.container.keys import encode_key
from blobstore.container.writer import ContainerWriter
from blobstore.errors import UsageError
from blobstore.index.sidecar import complete_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Buffer


class BlobWriter(ContainerWriter):
    """Write blobs under their keys, one after another; memory does not grow with the file.

    A context manager. The file appears under its name when the ``with`` block ends without an error, complete and
    durable; after an error the file that had the name before stays as it was. An index beside a file that is replaced
    is removed: it would give names to other data. A binary stream is written from its position on: version 2 to any,
    even a pipe, version 1 to one that can seek and be read. After an error a stream has no directory, and so is
    unreadable.

    ``key in writer``, ``len(writer)`` and ``list(writer)`` are about the keys added so far.

    Attributes:
        version: Of the container, 1 or 2.
        keys: Those added so far, in order.

    Example:
        >>> with blobstore.BlobWriter("raw.sbs") as writer:
        ...     writer["config"] = bytes(8)
        ...     writer.add("weights", np.arange(6, dtype=np.float32))
        ...     "config" in writer, len(writer)
        (True, 2)
    """

    def __setitem__(self, key: str, data: Buffer | FileRange) -> None:
        """Write one blob, as `add` does; a key has one.

        Raises:
            UsageError: As `add`: ``duplicate-key`` for the second assignment.
        """
        self.add(key, data)

    def __contains__(self, key: object) -> bool:
        try:
            return encode_key(key) in self._seen  # type: ignore[arg-type]
        except UsageError:  # no file has such a key
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    def __bool__(self) -> bool:
        return True  # also without blobs: it is a writer

    def give_name(self) -> None:
        """Give the complete file its name, and remove an old index beside it.

        Example:
            >>> writer = blobstore.BlobWriter("raw.sbs")
            >>> writer["a"] = b"four"
            >>> writer.prepare()
            >>> writer.give_name()
            >>> list(blobstore.BlobReader("raw.sbs"))
            ['a']
        """
        if self.target is None:
            super().give_name()
        else:
            complete_file(self, self.target, "none", self.directory)
