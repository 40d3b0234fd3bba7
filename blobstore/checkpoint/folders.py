"""What a folder or a name is that isn't a checkpoint, and the step to take; and the cache of a hub, which has one."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NoReturn

from blobstore.checkpoint.file_names import is_weights, refuse_foreign
from blobstore.errors import CheckpointError
from blobstore.fileio.places import absolute, folder_of, is_folder, join, names_in
from blobstore.fileio.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII).fullmatch
_STEP = re.compile(r"(?:checkpoint-|global_step)([0-9]+)").fullmatch
_STATES = "_model_states.pt"  # of one process
_SHOWN = 4


def hub_name(path: str) -> str:
    """Say what to do about a path that doesn't exist and looks like a model's name on a hub; empty for others."""
    if not _HUB_NAME(path) or os.path.lexists(os.path.dirname(path)):
        return ""
    if path.lower().endswith((".sbs", ".json", ".safetensors", ".bin", ".gguf")):
        return ""
    target = os.path.basename(path)
    what = f"there is no {path!r} here; if it is a model's name on the Hugging Face hub, download it first"
    return f"{what} (hf download {path} --local-dir {target}), then pass {target!r}"


def snapshot_of(folder: str) -> tuple[str, str]:
    """Return the folder of a model's files: of a hub's cache that of its snapshot, and a note which it is.

    Raises:
        CheckpointError: ``no-checkpoint``: the cache has several snapshots, and doesn't say which is current.
        OSError: A folder can't be read.
    """
    if is_url(folder):
        return folder, ""
    root = os.path.join(folder, "snapshots")
    if not os.path.isdir(root) or not os.path.isdir(os.path.join(folder, "blobs")):
        return folder, ""
    snapshots = sorted(name for name in os.listdir(root) if os.path.isdir(os.path.join(root, name)))
    current, lost = _current(folder), ""
    if current in snapshots:
        which = "the snapshot that refs/main names"
    elif len(snapshots) == 1:
        lost = f"; refs/main names {current!r}, which isn't there" if current else ""
        current, which = snapshots[0], "its only snapshot"
    elif snapshots:
        paths = ", ".join(repr(os.path.join(root, name)) for name in snapshots[:_SHOWN])
        what = f"{folder!r} is a hub's cache with {len(snapshots)} snapshots, and refs/main names none of them"
        raise CheckpointError("no-checkpoint", f"{what}: pass one, such as {paths}")
    else:
        raise CheckpointError("no-checkpoint", f"{folder!r} is a hub's cache without snapshots: download the model")
    return os.path.join(root, current), f"the folder is a hub's cache: snapshots/{current}, {which}, is taken{lost}"


def _current(folder: str) -> str:
    """Return the snapshot that a cache's refs/main names; empty without it."""
    path = os.path.join(folder, "refs", "main")
    if not os.path.isfile(path):
        return ""
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read(100).strip()


def refuse_folder(folder: str, names: Sequence[str]) -> NoReturn:
    """Refuse a folder that has no weights a conversion reads: say what it is, and the step to take.

    Args:
        folder: Its path.
        names: What is in it.

    Raises:
        CheckpointError: ``no-checkpoint``; ``not-safetensors`` for files of another format.
        OSError: A folder in it can't be read.
    """
    folders = {name: sorted(names_in(path)) for name in names if is_folder(path := join(folder, name))}
    what = (
        _distributed(folder, names, folders)
        or _deepspeed(folder, names, folders)
        or _of_trainer(folders)
        or _hub(folders)
    )
    if not what:
        for name in names:
            refuse_foreign(join(folder, name))
        what = (
            _with_checkpoints(folders)
            or "has no weights: no .safetensors or .gguf file, and none of PyTorch's (.bin, .pt, .pth, .ckpt)"
        )
    raise CheckpointError("no-checkpoint", f"{folder!r} {what}")


def _distributed(folder: str, names: Sequence[str], folders: Mapping[str, Sequence[str]]) -> str:
    """Recognise a checkpoint of torch.distributed, or a folder that has one, as FSDP writes it."""
    for name, inside in [("", names), *folders.items()]:
        if any(one.endswith(".distcp") for one in inside) and not name.startswith("optimizer"):
            where = f"has in {name}/" if name else "is"
            path = join(folder, name) if name else folder
            return f"{where} a checkpoint of torch.distributed: pass OUT of accelerate merge-weights {path} OUT"
    return ""


def _deepspeed(folder: str, names: Sequence[str], folders: Mapping[str, Sequence[str]]) -> str:
    if any(name.endswith(_STATES) for name in names):
        root = folder_of(absolute(folder))
    elif any(one.endswith(_STATES) for inside in folders.values() for one in inside):
        root = folder
    else:
        return ""
    script = join(root, "zero_to_fp32.py")
    return f"has DeepSpeed's states of a training: pass OUT of python {script} {root} OUT --safe_serialization"


def _of_trainer(folders: Iterable[str]) -> str:
    steps = sorted((int(step[1]), name) for name in folders if (step := _STEP(name)))
    shown = ", ".join(name for _, name in steps[-_SHOWN:])
    return f"has no model, but folders of a training's steps: pass one of them ({shown})" if steps else ""


def _hub(folders: Iterable[str]) -> str:
    models = [name for name in folders if name.startswith("models--")]
    return f"is a hub's cache of several models: pass one of them ({_some(models)})" if models else ""


def _with_checkpoints(folders: Mapping[str, Sequence[str]]) -> str:
    having = [
        name for name, inside in folders.items() if any(is_weights(one) or one.endswith(".gguf") for one in inside)
    ]
    return f"has no weights, but folders with weights: pass one of them ({_some(having)})" if having else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
