"""The files beside a checkpoint's tensors that a file by name carries, so that its folder can be written again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.checkpoint.file_names import (
    MODEL_FILES,
    has_model_files,
    is_model_file,
    is_of_tokenizer,
    is_weights,
    why_unused,
)
from blobstore.checkpoint.told import LeftOut
from blobstore.errors import in_file
from blobstore.fileio.places import exists, file_size, is_folder, join, names_in
from blobstore.fileio.plain_files import open_one_of_many
from blobstore.fileio.temporary import is_temporary
from blobstore.fileio.urls import is_listed, is_url
from blobstore.index.file_names import file_name_fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.checkpoint.reader import Checkpoint

MODULE_WEIGHTS = "tensors of a module of sentence-transformers: convert this file by itself"


@dataclass(frozen=True)
class FileBeside:
    """A file beside a checkpoint's tensors.

    Attributes:
        name: In the checkpoint's folder, with ``/``.
        path: Of the file.
        nbytes: Its size.
    """

    name: str
    path: str
    nbytes: int


def files_beside(checkpoint: Checkpoint, *, wanted: bool = True) -> tuple[list[FileBeside], list[LeftOut]]:
    """Return the model's files beside a checkpoint's tensors, sorted by name, and those that aren't carried.

    They count among the files of the checkpoint from now on.

    Args:
        checkpoint: Open.
        wanted: Whether they are to be carried; otherwise they are only named.

    Raises:
        UsageError: ``not-a-file``: one of them is a folder, a pipe or a device.
        OSError: One of them can't be read.
    """
    files: list[FileBeside] = []
    names = sorted(_names_in(checkpoint.folder))
    left_out = [*_others_in(checkpoint.folder, names)]
    taken: dict[str, str] = {}
    own = filter(is_of_tokenizer, _names_in(checkpoint.tokenizer_folder)) if checkpoint.tokenizer_folder else ()
    for name in sorted({*names, *own}):
        if is_weights(name):
            left_out.append(LeftOut(name, "file", MODULE_WEIGHTS))
            continue
        path = checkpoint.beside(name)
        checkpoint.note_read(path)
        if not wanted:
            left_out.append(LeftOut(name, "file", "--no-files"))
            continue
        nbytes = _size_of(path)
        other = taken.setdefault(name.lower(), name)
        if other != name:
            left_out.append(LeftOut(name, "file", f"on some systems it is the same file as {other}"))
        elif not nbytes:
            left_out.append(LeftOut(name, "file", "it is empty"))
        elif nbytes > checkpoint.max_json_nbytes:
            left_out.append(LeftOut(name, "file", f"it has more than {checkpoint.max_json_nbytes} bytes"))
        else:
            files.append(FileBeside(name, path, nbytes))
    return files, left_out


def _others_in(folder: str, names: list[str]) -> Iterator[LeftOut]:
    """Yield what is left out of folders that have some of a model's files, given the names of those and of weights."""
    known = {*names}
    for inner in sorted({name.split("/")[0] for name in names if "/" in name and is_model_file(name)}):
        for file in sorted(names_in(join(folder, inner))):
            name = f"{inner}/{file}"
            if name not in known and not is_temporary(file):
                is_inner = is_folder(join(folder, inner, file))
                yield LeftOut(name + "/" * is_inner, "file", file_name_fault(name) or why_unused(file))


def _size_of(path: str) -> int:
    """Return the size of a file, without waiting for one that is a pipe."""
    if is_url(path):
        return file_size(path)
    with in_file(path), open_one_of_many(path) as source:
        return source.size


def _names_in(folder: str) -> Iterator[str]:
    """Yield the names of a model's files, and of the weights of its modules."""
    for name in names_in(folder) if is_listed(folder) else _known_in(folder):
        if is_model_file(name):
            yield name
        elif has_model_files(name):
            path = join(folder, name)
            inside = names_in(path) if is_folder(path) else []
            yield from (f"{name}/{file}" for file in inside if is_model_file(f"{name}/{file}") or is_weights(file))


def _known_in(folder: str) -> Iterator[str]:
    """Yield which of a model's files a folder has that can't be listed."""
    for name in MODEL_FILES:
        with suppress(PermissionError):  # which the checkpoint has noted
            if exists(join(folder, name)):
                yield name
