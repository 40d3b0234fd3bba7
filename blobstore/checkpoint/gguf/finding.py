"""Which .gguf files are one model: a single one, or all parts of a split one."""

from __future__ import annotations

import re

from blobstore.checkpoint.file_names import is_weights
from blobstore.errors import CheckpointError, listed
from blobstore.fileio.places import folder_of, is_absent, is_file, is_folder, join, name_in, names_in
from blobstore.fileio.source import read_beginning
from blobstore.fileio.urls import is_listed, is_url

MAGIC = b"GGUF"
_EXTENSION = ".gguf"
_PART = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE | re.DOTALL)
_BESIDE = {
    "mmproj": "the vision part of a model, for llama.cpp: only the text model is converted",
    "imatrix": "statistics that llama.cpp quantises by, which no converted file has",
}
_MAX_PARTS = 9999
_SHOWN = 8


def parts_of(path: str) -> list[str]:
    """Return the paths of all parts of the model that a .gguf file is, or is a part of, in order.

    Raises:
        CheckpointError: ``missing-shard``: parts are missing.
    """
    match = _PART.fullmatch(name_in(path))
    count = int(match[3]) if match else 1
    if not match or not 1 <= int(match[2]) <= count <= _MAX_PARTS:
        return [path]
    extension, folder = path[-len(_EXTENSION) :], folder_of(path)
    names = [f"{match[1]}-{i + 1:05}-of-{match[3]}{extension}" for i in range(count)]
    missing = [name for name in names if is_absent(join(folder, name))]
    if missing:
        what = f"it is one of {count} parts, and the folder lacks {listed(missing, _SHOWN)}: download the rest"
        raise CheckpointError("missing-shard", f"{path!r}: {what}")
    return [join(folder, name) for name in names]


def gguf_at(path: str) -> str | None:
    """Return the .gguf file that a path is, or the one model of a folder with no other weights; None without any.

    A file that is named .safetensors is none, whatever it is: its name and its bytes disagree, which has to be told.

    Raises:
        CheckpointError: ``no-checkpoint``: a folder has several .gguf models, and nothing else.
        OSError: The path can't be read.
    """
    if not is_folder(path):
        return path if is_gguf(path) and not path.lower().endswith(".safetensors") else None
    models = models_in(path)
    if len(models) > 1:
        what = f"{path!r} has several GGUF models, {listed(models, _SHOWN)}"
        raise CheckpointError("no-checkpoint", f"{what}: pass one file")
    return join(path, models[0]) if models else None


def is_gguf(path: str) -> bool:
    """Whether a path is a file that is a GGUF file, by its first bytes, or has the name of one."""
    if not is_file(path):
        return False
    return path.lower().endswith(_EXTENSION) or bytes(read_beginning(path, len(MAGIC))) == MAGIC


def models_in(folder: str) -> list[str]:
    """Return the names of a folder's .gguf models, of a split one the first part; none if it has other weights."""
    names = sorted(names_in(folder))
    if any(map(is_weights, names)):
        return []
    models: dict[object, str] = {}
    for name in names:
        if name.lower().endswith(_EXTENSION) and not _why_beside(name):
            match = _PART.fullmatch(name)
            models.setdefault((match[1], match[3]) if match else name, name)
    return [*models.values()]


def beside(path: str) -> dict[str, str]:
    """Return the .gguf files beside a model that are no models of their own: name → what they are."""
    folder = folder_of(path)
    if is_url(folder) and not is_listed(folder):
        return {}
    names = sorted(names_in(folder))
    own = name_in(path)
    return {
        name: why for name in names if name != own and name.lower().endswith(_EXTENSION) and (why := _why_beside(name))
    }


def _why_beside(name: str) -> str:
    return next((why for part, why in _BESIDE.items() if part in name.lower()), "")
