"""The files beside a checkpoint's tensors that a file by name carries, so that its folder can be written again."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.checkpoint.file_names import is_weights
from blobstore.checkpoint.told import LeftOut
from blobstore.errors import in_file
from blobstore.fileio.plain_files import open_one_of_many
from blobstore.index.carried import file_name_fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.checkpoint.reader import Checkpoint

CONFIG = "config.json"
# What transformers and sentence-transformers read to load a model, its tokenizer and its processor; all of it is data.
_NAMES = frozenset({
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
})  # fmt: skip
# The modules of sentence-transformers, such as 1_Pooling, and chat templates beyond the default one.
_MODULE = re.compile("[0-9]+_[A-Za-z]+")
_IN_FOLDERS = re.compile(f"{_MODULE.pattern}/config\\.json|additional_chat_templates/[^/]+\\.jinja")
MODULE_WEIGHTS = "tensors of a module of sentence-transformers: convert this file by itself"


def is_model_file(name: str) -> bool:
    """Whether a file of this name belongs to a model, and is data: that is what conversions carry and exports write."""
    return not file_name_fault(name) and (name in _NAMES or _IN_FOLDERS.fullmatch(name) is not None)


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
    left_out: list[LeftOut] = []
    for name in sorted(_names_in(checkpoint.folder)):
        if is_weights(name):
            left_out.append(LeftOut(name, "file", MODULE_WEIGHTS))
            continue
        path = os.path.join(checkpoint.folder, *name.split("/"))
        checkpoint.note_read(path)
        if not wanted:
            left_out.append(LeftOut(name, "file", "--no-files"))
            continue
        nbytes = _size_of(path)
        if not nbytes:
            left_out.append(LeftOut(name, "file", "it is empty"))
        elif nbytes > checkpoint.max_json_nbytes:
            left_out.append(LeftOut(name, "file", f"it has more than {checkpoint.max_json_nbytes} bytes"))
        else:
            files.append(FileBeside(name, path, nbytes))
    return files, left_out


def _size_of(path: str) -> int:
    """Return the size of a file, without waiting for one that is a pipe."""
    with in_file(path), open_one_of_many(path) as source:
        return source.size


def _names_in(folder: str) -> Iterator[str]:
    """Yield the names of a model's files, and of the weights of its modules."""
    for name in os.listdir(folder or "."):
        if is_model_file(name):
            yield name
        elif _MODULE.fullmatch(name) or name == "additional_chat_templates":
            path = os.path.join(folder, name)
            inside = os.listdir(path) if os.path.isdir(path) else []
            yield from (f"{name}/{file}" for file in inside if is_model_file(f"{name}/{file}") or is_weights(file))
