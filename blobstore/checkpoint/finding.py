"""Which files of a path are the checkpoint: one file, shards with their index, or shards without one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blobstore.checkpoint.adapters.reading import not_a_model
from blobstore.checkpoint.file_names import is_pickled, refuse_foreign, refuse_part
from blobstore.checkpoint.folders import hub_name, refuse_folder, snapshot_of
from blobstore.checkpoint.gguf.finding import gguf_at
from blobstore.checkpoint.shards import INDEX, SAFETENSORS, parse_shard_index, parse_shard_name, shard_sets
from blobstore.errors import CheckpointError
from blobstore.fileio.places import folder_of, forget_listings, is_absent, is_folder, join, name_in, names_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blobstore.checkpoint.shards import ShardSet

_SHOWN = 4


@dataclass(frozen=True)
class Family:
    """One way to save a checkpoint.

    Attributes:
        single: The usual name of its file, which transformers takes before any other.
        is_ours: Whether a file of a folder is of this kind, by its name.
    """

    single: str
    is_ours: Callable[[str], bool]

    @property
    def index(self) -> str:
        """The usual name of the index of several files."""
        return self.single + INDEX


_FAMILIES = (
    Family("model.safetensors", lambda name: name.endswith(SAFETENSORS)),
    Family("pytorch_model.bin", is_pickled),
)


@dataclass(frozen=True)
class Found:
    """The files of a checkpoint.

    Attributes:
        folder: Where its other files are, such as config.json.
        files: The paths of those that have its tensors, in the order of reading.
        weight_map: Tensor → name of its file, by the index; None without one.
        index: The path of the index; empty without one.
        is_gguf: Whether it is a .gguf file, the first if the model is split.
        part_of: How many files the checkpoint has if `files` is one of its shards; else 0.
        notes: What a user should know of the choice.
    """

    folder: str
    files: tuple[str, ...]
    weight_map: dict[str, str] | None = None
    index: str = ""
    is_gguf: bool = False
    part_of: int = 0
    notes: list[str] = field(default_factory=list)


def find_files(path: str, read: Callable[[str], bytes]) -> Found:
    """Find the files of a checkpoint.

    Args:
        path: As `open_checkpoint` takes it.
        read: Returns the contents of a small file.

    Raises:
        CheckpointError: ``no-checkpoint``, ``two-checkpoints``, ``not-safetensors``, ``bad-shard-index``,
            ``missing-shard``, ``adapter``; and what `read` raises.
        OSError: A folder can't be read.
    """
    forget_listings(path)
    if is_folder(path):
        folder, note = snapshot_of(path)
        found = _in_folder(folder, read)
        found.notes[:0] = [note] if note else []
        return found
    if hub_name(path):
        raise CheckpointError("no-checkpoint", hub_name(path))
    if gguf_at(path):
        return Found(folder_of(path), (path,), is_gguf=True)
    refuse_foreign(path)
    refuse_part(path)
    if path.lower().endswith(".json"):
        return _by_index(path, read)
    name = parse_shard_name(name_in(path))
    count = int(name.total) if name else 1
    return Found(folder_of(path), (path,), part_of=count if count > 1 else 0)


def _in_folder(folder: str, read: Callable[[str], bytes]) -> Found:
    names = sorted(names_in(folder))
    of_families = [(family, [name for name in names if family.is_ours(name)]) for family in _FAMILIES]
    for family, ours in of_families:
        indexes = [name for name in names if name.endswith(INDEX) and family.is_ours(name.removesuffix(INDEX))]
        if family.index in indexes or (len(indexes) == 1 and family.single not in ours):
            index = family.index if family.index in indexes else indexes[0]
            return _indexed(join(folder, index), family, ours, read)
        if family.single in ours:
            return _alone(folder, family.single, ours)
    if "adapter_config.json" in names:
        raise CheckpointError("adapter", f"{folder!r} {not_a_model(folder)}")
    some = [ours for _, ours in of_families if ours]
    if some:
        refuse_part(join(folder, some[0][0]))
    model = None if some else gguf_at(folder)
    if model:
        return Found(folder, (model,), is_gguf=True)
    return _unindexed(folder, some[0]) if some else refuse_folder(folder, names)


def _indexed(index: str, family: Family, ours: Sequence[str], read: Callable[[str], bytes]) -> Found:
    """Return the files that an index lists, unless they are gone and other files are not."""
    folder, name = folder_of(index), name_in(index)
    weight_map = parse_shard_index(index, read(index))
    listed = set(weight_map.values())
    shards = listed & set(ours)
    if family.single in ours and family.single not in listed and shards:
        raise _two_checkpoints(folder, family.single, f"the files that {name} lists, such as {min(shards)}")
    others = [one for one in ours if one not in listed]
    if family.single in others:
        instead = _alone(folder, family.single, ours)
    elif not shards and (_is_one(others) or any(one.is_complete for one in shard_sets(others))):
        instead = _unindexed(folder, others)
    else:
        return _by_index(index, read, weight_map)
    first = name_in(instead.files[0])
    taken = f"{first} is" if len(instead.files) == 1 else f"{first} and the other shards with it are"
    instead.notes.append(f"{name} is left out: no file that it lists is there; {taken} taken")
    return instead


def _by_index(path: str, read: Callable[[str], bytes], weight_map: dict[str, str] | None = None) -> Found:
    """Return the files that an index lists."""
    weight_map = parse_shard_index(path, read(path)) if weight_map is None else weight_map
    folder = folder_of(path)
    files = [join(folder, shard) for shard in sorted(set(weight_map.values()))]
    for file in files:
        refuse_foreign(file)
    missing = [name_in(file) for file in files if is_absent(file)]
    if missing:
        raise CheckpointError("missing-shard", f"{path!r} lists files that are missing: {', '.join(missing)}")
    return Found(folder, tuple(files), weight_map, path)


def _alone(folder: str, single: str, ours: Sequence[str]) -> Found:
    """Return the file of the usual name, unless there are shards of its name as well."""
    stem = os.path.splitext(single)[0]
    for shards in shard_sets(ours):
        if shards.first.stem == stem and shards.total > 1:
            raise _two_checkpoints(folder, single, f"shards, such as {shards.files[0]}")
    return Found(folder, (join(folder, single),))


def _two_checkpoints(folder: str, single: str, others: str) -> CheckpointError:
    what = f"{folder!r} has two checkpoints: {single}, which transformers would take, and {others}"
    fix = f"pass {join(folder, single)!r}, or move it out of the folder to use the others"
    return CheckpointError("two-checkpoints", f"{what}: {fix}")


def _unindexed(folder: str, ours: Sequence[str]) -> Found:
    """Return the only file of a folder, or the only set of shards."""
    sets = shard_sets(ours)
    if _is_one(ours):
        return Found(folder, (join(folder, ours[0]),))
    # Of n shards that are numbered from 0 to n, one is of another checkpoint.
    if len(sets) == 1 and len(ours) == len(sets[0].names) == len(sets[0].files):
        return _joined(folder, sets[0])
    what = f"it has {', '.join(ours[:_SHOWN])}{' …' if len(ours) > _SHOWN else ''}, but no index"
    raise CheckpointError("no-checkpoint", f"{folder!r}: {what} to say how they belong together: pass one file")


def _is_one(ours: Sequence[str]) -> bool:
    """Whether it is one file, and not a shard."""
    return len(ours) == 1 and not shard_sets(ours)


def _joined(folder: str, shards: ShardSet) -> Found:
    if not shards.is_complete:
        what = f"{folder!r} has {len(shards.files)} of {shards.total} files of a checkpoint: {shards.missing()}"
        raise CheckpointError("missing-shard", f"{what} missing: download the rest, or copy it there")
    files = tuple(join(folder, name) for name in shards.files)
    notes = [f"the folder has no index: all {shards.total} shards are joined"] if shards.total > 1 else []
    return Found(folder, files, notes=notes)
