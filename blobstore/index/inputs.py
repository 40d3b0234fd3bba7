"""Nothing that is read is replaced or removed by what is written, whatever it is called."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from blobstore.container.layout import MAGIC_BYTES
from blobstore.errors import BlobStoreError, UsageError
from blobstore.fileio.file_systems import stat_of
from blobstore.fileio.source import read_beginning
from blobstore.index import INDEX_MAGIC
from blobstore.index.locate import beside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike
    from typing import BinaryIO

    Path = str | PathLike[str]


def files_of(*stores: Path | BinaryIO | None) -> list[Any]:
    """Return the paths of .sbs files and of their indexes beside them; streams as they are."""
    files: list[Any] = []
    for one in stores:
        if isinstance(one, (str, bytes, os.PathLike)):
            files += [one, *beside(os.fsdecode(one))]
        elif one is not None:
            files.append(one)
    return files


def refuse_inputs(
    outputs: Iterable[Path | BinaryIO | None], inputs: Iterable[Path], *, folder: Path = "", but_ours: bool = True
) -> None:
    """Refuse outputs that are inputs: by path, by a link, or by another name of the same file.

    Args:
        outputs: What would be replaced, removed or (a stream) written to.
        inputs: What is read, or may be.
        folder: Of a checkpoint: all files in it are inputs.
        but_ours: Except for .sbs files and indexes, which no checkpoint consists of: they are results of earlier
            conversions.

    Raises:
        UsageError: ``same-file``.
    """
    present = [(one, found) for output in outputs for one, found in _present(output)]
    if not present:
        return
    read = {(found.st_dev, found.st_ino): os.fspath(one) for one in inputs if (found := stat_of(one))}
    around = {(found.st_dev, found.st_ino): one for one in _in(folder) if (found := stat_of(one))}
    for path, found in present:
        identity = (found.st_dev, found.st_ino)
        other = read.get(identity) or around.get(identity)
        if other is not None and (identity in read or not but_ours or not _is_ours(path)):
            alias = "" if other == path else f" (as {other!r})"
            raise UsageError("same-file", f"{path!r} would be lost: it is read{alias}; choose another output")


def _present(output: Path | BinaryIO | None) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what an output is called, and what there is; nothing for what is no file."""
    if isinstance(output, (str, bytes, os.PathLike)):
        path = os.fsdecode(output)
        found = stat_of(path)
        if found:
            yield path, found
        return
    try:
        found = os.fstat(output.fileno()) if output is not None else None
    except (OSError, ValueError, AttributeError):  # a stream without a descriptor
        return
    if found and stat.S_ISREG(found.st_mode):
        yield str(getattr(output, "name", "standard output")), found


def _in(folder: Path) -> Iterator[str]:
    if folder:
        with os.scandir(folder) as entries:
            yield from (one.path for one in entries)


def _is_ours(path: str) -> bool:
    """Whether a file is an .sbs file, or an index."""
    try:
        return bytes(read_beginning(path, len(INDEX_MAGIC))).startswith((MAGIC_BYTES, INDEX_MAGIC))
    except (OSError, BlobStoreError):
        return False
