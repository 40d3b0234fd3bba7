"""Refuse to replace or remove a file that is read, whatever its path."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from blobstore.container.layout import MAGIC_BYTES
from blobstore.errors import BlobStoreError, UsageError, without_secrets
from blobstore.fileio.file_systems import stat_of
from blobstore.fileio.places import absolute, exists
from blobstore.fileio.source import read_beginning
from blobstore.fileio.urls import connect, is_url, scheme_of
from blobstore.index.locate import beside
from blobstore.index.records import MAGIC as INDEX_MAGIC
from blobstore.index.sets import stores_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike
    from typing import BinaryIO

    Path = str | PathLike[str]


def path_of(output: Path | BinaryIO) -> str | None:
    """Return the path of an output as given, a URL without its secrets; None for a stream."""
    return without_secrets(os.fspath(output)) if isinstance(output, (str, os.PathLike)) else None


def files_of(*stores: Path | BinaryIO | None) -> list[Any]:
    """Return the paths of .sbs files, of their external indexes, and of the files of sets; streams as they are."""
    files: list[Any] = []
    for store in stores:
        if isinstance(store, (str, bytes, os.PathLike)):
            files += [store, *beside(os.fsdecode(store)), *stores_of(os.fsdecode(store))]
        elif store is not None:
            files.append(store)
    return files


def refuse_inputs(
    outputs: Iterable[Path | BinaryIO | None], inputs: Iterable[Path], *, folder: Path = "", except_ours: bool = True
) -> None:
    """Refuse outputs that are inputs: by path, by a link, or by another name of the same file.

    Args:
        outputs: Files that would be replaced or removed, and streams that would be written to.
        inputs: Files that are read, or may be.
        folder: Of a checkpoint: all files in it are inputs.
        except_ours: .sbs files and indexes in the folder are not inputs: no checkpoint contains them, they are results
            of earlier conversions.

    Raises:
        UsageError: ``same-file``.
    """
    outputs, inputs = [*outputs], [*inputs]
    for output in outputs:
        if is_url(output):
            _refuse_url(str(output), inputs, os.fspath(folder), except_ours=except_ours)
    existing = [named for output in outputs if (named := _existing(output))]
    if not existing:
        return
    read = {_identity(status): os.fspath(path) for path in inputs if (status := stat_of(path))}
    in_folder = {
        _identity(status): path for path in _files_in("" if is_url(folder) else folder) if (status := stat_of(path))
    }
    for path, identity in existing:
        input_path = read.get(identity) or in_folder.get(identity)
        if input_path is not None and (identity in read or not except_ours or not is_ours(path)):
            alias = "" if input_path == path else f" (as {input_path!r})"
            raise UsageError("same-file", f"{path!r} would be lost: it is read{alias}; choose another output")


def _refuse_url(url: str, inputs: Iterable[Path], folder: str, *, except_ours: bool) -> None:
    """Refuse a URL that is an input, or an object in a folder of inputs."""
    place = absolute(url)
    paths = [os.fspath(path) for path in inputs if is_url(path)]
    read = any(absolute(path) == place or _is_same(path, url) for path in paths)
    within = is_url(folder) and place.startswith(f"{absolute(folder)}/") and exists(url)
    if read or (within and not (except_ours and is_ours(url))):
        raise UsageError("same-file", f"{url!r} would be lost: it is read; choose another output")


def _is_same(a: str, b: str) -> bool:
    """Whether two URLs name the same object: memory://a/b and memory:///a/b do."""
    return scheme_of(a) == scheme_of(b) and connect(a) == connect(b)  # also the server


def _existing(output: Path | BinaryIO | None) -> tuple[str, tuple[int, int]] | None:
    """Return the path and identity of an output that exists; None for others, and for streams to no regular file."""
    if isinstance(output, (str, bytes, os.PathLike)):
        path = os.fsdecode(output)
        status = stat_of(path)
        return (path, _identity(status)) if status else None
    try:
        status = os.fstat(output.fileno()) if output is not None else None
    except (OSError, ValueError, AttributeError):  # a stream without a descriptor
        return None
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return str(getattr(output, "name", "standard output")), _identity(status)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _files_in(folder: Path) -> Iterator[str]:
    if folder:
        with os.scandir(folder) as entries:
            yield from (entry.path for entry in entries)


def is_ours(path: str) -> bool:
    """Whether a file is an .sbs file or an index."""
    try:
        return bytes(read_beginning(path, len(INDEX_MAGIC))).startswith((MAGIC_BYTES, INDEX_MAGIC))
    except (OSError, BlobStoreError):
        return False
