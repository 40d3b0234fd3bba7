"""Repair the config of a model that newer runtimes would read wrongly; no tensor changes."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from blobstore.checking.runtime import has_one_base
from blobstore.container.keys import CONFIG_KEY
from blobstore.container.reader import BlobReader
from blobstore.converting.gemma_config import repaired
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import UsageError
from blobstore.gemma.config import ModelConfig
from blobstore.index.locate import find_index

if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from blobstore.fileio.types import Progress


@dataclass(frozen=True)
class Repaired:
    """What `repair` did.

    Attributes:
        path: Of the repaired file.
        changes: Each field of the config that was changed, with its old and new value. If it is empty, a target is a
            copy of the file, and the file itself is left alone.
    """

    path: str
    changes: dict[str, tuple[Any, Any]]


def repair(
    path: str | PathLike[str],
    target: str | PathLike[str] | BinaryIO | None = None,
    *,
    write: bool = True,
    progress: Progress = lambda _: None,
) -> Repaired:
    """Give a Gemma 3 file the field and the label that all runtimes need: findings ``global-rope``, ``rope-by-label``.

    Only the blob ``config`` changes, and its digest in the index. The file is replaced once the new one is complete.

    Args:
        path: Of the file.
        target: Path of the new file, or a binary stream; by default the file itself.
        write: False to only report the changes.
        progress: Called with the number of further bytes written.

    Raises:
        UsageError: ``no-config`` if the file isn't a model; as `rewrite`.
        FormatError: The file, its index or its config is invalid; ``damaged-blob``.
        OSError: Reading or writing failed; the target is untouched.
    """
    with BlobReader(path, access="read") as reader:
        if CONFIG_KEY not in reader:
            raise UsageError("no-config", f"{reader.path!r} has no {CONFIG_KEY!r}: it isn't a model for gemma.cpp")
        before = ModelConfig.from_bytes(reader[CONFIG_KEY])
        index = find_index(reader)
        after = repaired(before, one_base=has_one_base(index.metadata if index else {}))
    changes = {
        field.name: (getattr(before, field.name), getattr(after, field.name))
        for field in fields(before)
        if getattr(before, field.name) != getattr(after, field.name)
    }
    if write and (changes or target is not None):
        apply_edits(path, target, Edits(config=after.to_bytes() if changes else None), progress=progress)
    written = path if target is None else target
    return Repaired(os.fspath(written) if isinstance(written, (str, os.PathLike)) else "-", changes)
