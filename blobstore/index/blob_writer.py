"""`BlobWriter`: a container by its keys, with nothing beside it that would name other data."""

from __future__ import annotations

from blobstore.container.writer import ContainerWriter
from blobstore.index.sidecar import close_without_index


class BlobWriter(ContainerWriter):
    """Write blobs under their keys, one after another; memory does not grow with the file.

    A context manager. The file appears under its name when the ``with`` block ends without an error, complete and
    durable; on an error what had the name before stays as it was. An index beside the file that is replaced is
    removed: it would give names to other data. Version 2 can also be written to any binary stream, a pipe as well;
    such a stream is left without its directory, and so unreadable, when an error comes.

    Attributes:
        version: Of the container, 1 or 2.
        keys: What was added so far, in order.
    """

    def give_name(self) -> None:
        """Give the complete file its name, and remove an old index beside it."""
        if self.target is None:
            super().give_name()
        else:
            close_without_index(self, self.target, self.directory)
