"""What is said about one code."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A code in words.

    Attributes:
        cause: What it means, and what brings it about.
        fix: What to do; empty for a code that is only a finding's, whose fix `blobstore.checking.codes` has.
    """

    cause: str
    fix: str = ""
