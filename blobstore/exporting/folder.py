"""An export into a folder: the tensors, and beside them the model's files that the .sbs file carries."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from blobstore.checkpoint.adapters.applying import config_note
from blobstore.checkpoint.file_names import CONFIG, is_model_file
from blobstore.checkpoint.tied import head_of, why_tied

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blobstore.exporting.plan import ExportPlan
    from blobstore.store.reader import Store
_TENSORS = "model.safetensors"


def folder_of(output: str) -> str | None:
    """Return the folder that an output names: one that exists, or a path that ends with a separator; else None.

    A folder that is called as a file of tensors is not meant, unless a separator says so.
    """
    is_meant = os.path.isdir(output) and not output.endswith(".safetensors")
    return output if is_meant or output.endswith(("/", os.sep)) else None


def tensors_in(folder: str) -> str:
    """Return the path of the tensors in a folder, under the name that loaders look for."""
    return os.path.join(folder, _TENSORS)


def plan_folder(plan: ExportPlan, store: Store) -> Iterator[str]:
    """Add the files that a store carries to a plan → notes.

    Raises:
        FormatError: ``files-list``, ``files-missing``.
    """
    known = [name for name in store.files if is_model_file(name)]
    plan.files = {name: store.files.part_of_file(name) for name in known}
    if CONFIG in plan.files:
        plan.metadata.setdefault("format", "pt")  # transformers before version 5 refuses tensors without it
        config = _config(store)
        separated = any(head_of(target, config) == name for name, target in plan.separated.items())
        note = config_note(config, plan.resized, separated=separated)
        yield from [note] if note else []
    else:
        yield "it carries no config.json: copy that, and the tokenizer's files, from the checkpoint to load the folder"
    if plan.resized_by is not None and plan.resized_by.has_tokenizer:
        what = f"the tokenizer's files of the adapter {plan.resized_by.name!r}, which has other tokens, are left out"
        yield f"{what}: copy them into the folder"
    others = [name for name in store.files if name not in plan.files]
    if others:
        fix = f"blobstore get FILE {others[0]} -o {os.path.basename(others[0])}"
        yield f"{', '.join(others)} are left out, as no loader of models reads them: {fix}"


def aliases_to_write(store: Store) -> list[str]:
    """Return the aliases that a loader would miss: those that the carried config.json doesn't tie."""
    if CONFIG not in store.files:
        return []
    config = _config(store)
    if not why_tied(config):
        return [*store.aliases]
    return [name for name, target in store.aliases.items() if head_of(target, config) != name]


def _config(store: Store) -> dict[str, Any]:
    """Return the carried config.json; empty if it isn't a JSON object."""
    try:
        config = json.loads(bytes(store.files[CONFIG]))
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


@contextmanager
def folders_for(folder: str, names: Iterable[str]) -> Iterator[None]:
    """Make a folder, and those in it that files need; remove again what was made if the ``with`` block fails.

    Raises:
        OSError: A folder can't be made; the one above it has to be there.
    """
    made: list[str] = []
    inside = sorted({os.path.join(folder, name.split("/")[0]) for name in names if "/" in name})
    try:
        for path in (folder, *inside):
            if not os.path.isdir(path):
                os.mkdir(path)
                made.append(path)
        yield
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):  # another writer may have put something there
                os.rmdir(path)
        raise
