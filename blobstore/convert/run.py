"""Carry out a plan."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blobstore.errors import UsageError, in_file
from blobstore.store_writer import StoreWriter
from blobstore.transfer import FileRange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike
    from typing import BinaryIO

    from blobstore.convert.checkpoint import Checkpoint
    from blobstore.convert.plan import Plan
    from blobstore.store_writer import IndexPlace

    Progress = Callable[[int], None]

_STEP_NBYTES = 64 << 20  # progress is told after each


def run_plan(
    plan: Plan,
    checkpoint: Checkpoint,
    target: str | PathLike[str] | BinaryIO,
    *,
    version: int = 2,
    index: IndexPlace = "embedded",
    digests: bool = True,
    progress: Progress = lambda _: None,
) -> None:
    """Write the file that a plan describes. Memory stays the same whatever the checkpoint's size.

    Args:
        plan: Made for this checkpoint.
        checkpoint: Open.
        target: A path, or a binary stream.
        version: Of the container.
        index: Where the name index goes.
        digests: Keep the SHA-256 of each blob.
        progress: Called with how many bytes more have been written.

    Raises:
        UsageError: ``same-file`` when the target is the source; as `blobstore.create`.
        TruncatedError: A source file has shrunk.
        OSError: Reading or writing failed; the target is untouched.
    """
    if isinstance(target, (str, os.PathLike)) and checkpoint.is_source(target):
        raise UsageError("same-file", f"{os.fspath(target)!r} is the checkpoint itself: choose another name")

    with StoreWriter(target, version=version, index=index, digests=digests, metadata=plan.metadata) as store:
        for tensor in plan.tensors:
            pieces = _steps(checkpoint.range(tensor.name), progress)
            with in_file(checkpoint.file_of(tensor.name)):
                store.add_stored(tensor.name, pieces, tensor.type, tensor.shape)
        for alias in plan.aliases:
            store.alias(alias.name, alias.target)


def _steps(source: FileRange, progress: Progress) -> Iterator[FileRange]:
    for done in range(0, source.nbytes, _STEP_NBYTES):
        nbytes = min(_STEP_NBYTES, source.nbytes - done)
        yield FileRange(source.fd, source.offset + done, nbytes)
        progress(nbytes)
