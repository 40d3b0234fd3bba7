"""Small files beside tensors: read as a whole, and checked to be JSON objects."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blobstore.container.foreign import HEAD_NBYTES, foreign_format
from blobstore.errors import CheckpointError
from blobstore.fileio.source import read_beginning

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SMALL_NBYTES = 100_000_000


def read_small(path: str, most: int = MAX_SMALL_NBYTES) -> bytes:
    """Return the contents of a file.

    Raises:
        CheckpointError: ``too-large``: it has more than `most` bytes.
        UsageError: ``not-a-file``.
        OSError: It can't be read.
    """
    raw = bytes(read_beginning(path, most + 1))
    if len(raw) > most:
        raise CheckpointError("too-large", f"{path!r} has more than {most} bytes: is it another file?")
    return raw


def json_object(path: str, raw: bytes, reason: str, parse: Callable[[bytes], Any] = json.loads) -> dict[str, Any]:
    """Return the contents of a file that has to be a JSON object.

    Args:
        path: Of the file, for errors.
        raw: Its bytes.
        reason: The code of the error.
        parse: Not strict by default: published files have infinities.

    Raises:
        CheckpointError: It is something else, and what.
    """
    try:
        value = parse(raw)
    except (ValueError, RecursionError) as error:
        what = foreign_format(raw[:HEAD_NBYTES]) or f"not JSON: {error}"
        raise CheckpointError(reason, f"{path!r} is {what}") from None
    if not isinstance(value, dict):
        raise CheckpointError(reason, f"{path!r}: expected an object, found {type(value).__name__}")
    return value
