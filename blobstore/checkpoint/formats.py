"""What a path is: an .sbs file, a checkpoint in safetensors or PyTorch's pickled format, or a model in GGUF."""

from __future__ import annotations

from typing import Literal

from blobstore.container.foreign import HEAD_NBYTES, may_be_pytorch
from blobstore.container.layout import MAGIC_BYTES
from blobstore.fileio.places import is_file, is_folder
from blobstore.fileio.source import read_beginning

Format = Literal["sbs", "safetensors", "pytorch", "gguf"]

_BRACE = 8  # where the header of a safetensors file begins, behind its length


def format_of(path: str) -> Format:
    """Return what a path is: by its first bytes, unless its name says it; a folder by the weights that it has.

    A model's name on a hub, which no file has, is a checkpoint.
    """
    lower, folder = path.lower(), is_folder(path)
    if lower.endswith(".sbs") and not folder:
        return "sbs"
    from blobstore.checkpoint.folders import hub_name  # noqa: PLC0415 (2 ms, and most files are named .sbs)
    from blobstore.checkpoint.gguf.finding import is_gguf, models_in  # noqa: PLC0415 (as above)

    if folder:
        return "gguf" if models_in(path) else "safetensors"
    if lower.endswith(".json") or hub_name(path):
        return "safetensors"
    return "gguf" if is_gguf(path) else _by_its_bytes(path)


def is_sbs(path: str) -> bool:
    """Whether a path is an .sbs file, by its first bytes."""
    return is_file(path) and bytes(read_beginning(path, len(MAGIC_BYTES))) == MAGIC_BYTES


def _by_its_bytes(path: str) -> Format:
    from blobstore.checkpoint.file_names import is_pickled  # noqa: PLC0415 (as above)

    begins = bytes(read_beginning(path, HEAD_NBYTES)) if is_file(path) else b""
    if begins.startswith(MAGIC_BYTES):
        return "sbs"
    if is_pickled(path) and may_be_pytorch(begins):
        return "pytorch"
    return "safetensors" if begins[_BRACE : _BRACE + 1] == b"{" or path.lower().endswith(".safetensors") else "sbs"
