"""Names of tensors without what training wrapped the model in: parts of names that no module of the model has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blobstore.checkpoint.told import Told
from blobstore.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

# What torch calls a wrapped module inside its wrapper: never a name that someone gave, wherever it stands.
SEGMENTS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
}
# These may be names of a model's own modules, too: only where all tensors have them are they a wrapper's.
_PREFIXES = {"module.": "DataParallel or DeepSpeed", "base_model.model.": "peft"}
_ADAPTER = (".lora_", ".base_layer.", ".modules_to_save.")  # names that belong to peft as they are


@dataclass
class Unwrapped:
    """Names without wrappers.

    Attributes:
        names: The names as they were → as they are without wrappers, for those that change.
        told: What was taken off, and what had put it there.
    """

    names: dict[str, str] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)


def unwrap(names: Iterable[str]) -> Unwrapped:
    """Take wrappers off the names of a checkpoint's tensors. Adapters keep theirs.

    Raises:
        CheckpointError: ``name-clash``: two tensors have the same name without them.
    """
    given = list(names)
    done = Unwrapped()
    if any(part in name for name in given for part in _ADAPTER):
        return done
    new = given
    for segment, tool in SEGMENTS.items():
        has = [name for name in new if f".{segment}" in f".{name}"]
        if has:
            done.told.append(_told(segment, tool, len(has), len(new)))
            new = [_without(name, segment) for name in new]
    while prefix := next((one for one in _PREFIXES if new and all(_has_more(name, one) for name in new)), ""):
        done.told.append(_told(prefix, _PREFIXES[prefix], len(new), len(new)))
        new = [name.removeprefix(prefix) for name in new]
    done.names = {old: name for old, name in zip(given, new, strict=True) if old != name}
    _refuse_clash(given, new)
    return done


def _has_more(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name != prefix


def _without(name: str, segment: str) -> str:
    """Return a name without a segment, which ends with a dot and begins the name or stands behind a dot."""
    bare = f".{name}"
    while f".{segment}" in bare:  # one pass doesn't see two that share a dot
        bare = bare.replace(f".{segment}", ".")
    return bare[1:]


def _told(part: str, tool: str, count: int, total: int) -> Told:
    where = f"all {total} names" if count == total else f"{count} of {total} names"
    return Told("wrapped-names", part, f"{part!r} is taken off {where} of tensors: {tool} had put it there")


def _refuse_clash(given: list[str], new: list[str]) -> None:
    owners: dict[str, str] = {}
    for old, name in zip(given, new, strict=True):
        if owners.setdefault(name, old) != old:
            what = f"{owners[name]!r} and {old!r} are both {name!r} without the names of wrappers: rename one"
            raise CheckpointError("name-clash", what)
