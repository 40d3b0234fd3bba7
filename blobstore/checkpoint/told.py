"""What a user is told of a checkpoint or of its conversion, with the code of the finding that `check` makes of it."""

from __future__ import annotations

from typing import NamedTuple


class Told(NamedTuple):
    """One thing that is done to a checkpoint without being asked for.

    Attributes:
        code: Of the finding: one of `blobstore.checking.CODES`.
        subject: The tensor, the part of names or the key that it is about.
        message: One line.
    """

    code: str
    subject: str
    message: str
