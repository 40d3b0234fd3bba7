"""`BlobWriter`: keys and bytes → a container without an index, neither inside nor beside it."""

from __future__ import annotations

from blobstore.container.writer import ContainerWriter
from blobstore.index.sidecar import complete_file


class BlobWriter(ContainerWriter):
    """Write blobs under their keys, one after another; memory does not grow with the file.

    A context manager. The file appears under its name when the ``with`` block ends without an error, complete and
    durable; after an error the file that had the name before stays as it was. An index beside a file that is replaced
    is removed: it would give names to other data. Version 2 can also be written to any binary stream, even a pipe.
    After an error such a stream has no directory, and so is unreadable.

    Attributes:
        version: Of the container, 1 or 2.
        keys: Those added so far, in order.
    """

    def give_name(self) -> None:
        """Give the complete file its name, and remove an old index beside it."""
        if self.target is None:
            super().give_name()
        else:
            complete_file(self, self.target, "none", self.directory)
