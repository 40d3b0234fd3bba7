"""Repair the config of a model that newer runtimes would read wrongly; no tensor changes."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from blobstore.checking.runtime import has_one_base
from blobstore.container.keys import CONFIG_KEY
from blobstore.container.reader import BlobReader
from blobstore.converting.gemma_config import repaired
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import UsageError, without_secrets
from blobstore.fileio.paths import path_text, target_of
from blobstore.fileio.ranges import expect
from blobstore.gemma.config import ModelConfig
from blobstore.index.locate import find_index

if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from blobstore.fileio.types import Progress


@dataclass(frozen=True)
class Repair:
    """The result of `repair`.

    Attributes:
        input: The file, as given.
        output: The file that was written, as given; None for a stream, and where nothing was.
        changes: Each field of the config that is changed → its old and new value. If it is empty, an output is a copy
            of the file, and the file itself is left alone.
        nbytes: Size of the file that was written; 0 where none was, and for a stream.
        seconds: How long it took.

    Example:
        >>> done = blobstore.convert("checkpoint", "converted.sbs")
        >>> blobstore.repair("converted.sbs").changes
        {}
    """

    input: str
    output: str | None
    changes: dict[str, tuple[Any, Any]]
    nbytes: int
    seconds: float


def repair(
    path: str | PathLike[str],
    output: str | PathLike[str] | BinaryIO | None = None,
    *,
    dry_run: bool = False,
    progress: Progress = lambda _: None,
) -> Repair:
    """Give a Gemma 3 file the field and the label that all runtimes need: findings ``global-rope``, ``rope-by-label``.

    Only the blob ``config`` changes, and its digest in the index. The file is replaced once the new one is complete.

    Args:
        path: Of the file.
        output: Path or URL of the new file, or a binary stream; by default the file itself.
        dry_run: Only report the changes.
        progress: Called with the number of further bytes written.

    Raises:
        UsageError: ``no-config`` if the file isn't a model; ``same-file``; ``packed-file``; ``replaced`` when another
            writer has replaced the file meanwhile.
        FormatError: The file, its index or its config is invalid; ``damaged-blob``.
        OSError: Reading or writing failed; the output is untouched.

    Example:
        >>> done = blobstore.convert("checkpoint", "converted.sbs")
        >>> blobstore.repair("converted.sbs", dry_run=True).output is None
        True
    """
    path, output = path_text(path), None if output is None else target_of(output)
    start = time.perf_counter()
    with BlobReader(path, access="read") as reader:
        if CONFIG_KEY not in reader:
            raise UsageError("no-config", f"{reader.path!r} has no {CONFIG_KEY!r}: it isn't a model for gemma.cpp")
        before = ModelConfig.from_bytes(reader[CONFIG_KEY])
        index = find_index(reader)
        after = repaired(before, one_base=has_one_base(index.metadata if index else {}))
        expect(progress, reader.file_size)
        changes = {
            field.name: (_plain(getattr(before, field.name)), _plain(getattr(after, field.name)))
            for field in fields(before)
            if getattr(before, field.name) != getattr(after, field.name)
        }
        done = None
        if not dry_run and (changes or output is not None):
            # The same open file: another may have taken its place meanwhile.
            edits = Edits(config=after.to_bytes() if changes else None)
            done = apply_edits(path, output, edits, opened=reader, progress=progress)
    return Repair(
        input=without_secrets(path),
        output=done.output if done else None,
        changes=changes,
        nbytes=done.nbytes if done else 0,
        seconds=time.perf_counter() - start,
    )


def _plain(value: Any) -> Any:  # noqa: ANN401 (a field's value)
    return value.name if isinstance(value, IntEnum) else value
