"""Several prepared files that get their names together."""

from __future__ import annotations

from typing import Protocol


class PreparedFile(Protocol):
    """A complete, durable file that `move_together` gives its name."""

    @property
    def path(self) -> str:
        """The target."""

    @property
    def committed(self) -> bool:
        """Whether the target is the new file."""

    def move(self) -> None:
        """Give the file its name; after an error this can be tried again."""

    def keep(self) -> str:
        """Leave the file, complete, under another name, and return that name."""


def move_together(*files: PreparedFile) -> None:
    """Give prepared files their names, in this order.

    Raises:
        OSError: Nothing has changed; or the first files have their names, and the message says under which names the
            others are kept, complete.
    """
    first_error: BaseException | None = None
    try:
        for file in files:
            try:
                file.move()
            except BaseException as error:
                if not any(moved.committed for moved in files):
                    raise
                first_error = first_error or error
                if not file.committed:  # the files after it must not get ahead of it
                    break
        kept = [f"{file.keep()!r} is to be {file.path!r}" for file in files if not file.committed]
        if kept and isinstance(first_error, OSError):
            message = f"{first_error.strerror}; nothing is lost, rename the complete files by hand: {', '.join(kept)}"
            raise OSError(first_error.errno, message, first_error.filename)
        if first_error:
            raise first_error
    finally:
        del first_error  # it refers to this frame: a cycle, which would keep open what the callers have open
