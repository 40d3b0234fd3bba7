"""Adapters merged into the tensors of a checkpoint, which are then made as they are read."""

from __future__ import annotations

import filecmp
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from blobstore.checkpoint.adapters.changes import BaseTensor
from blobstore.checkpoint.adapters.merging import base_note, plan_merge
from blobstore.checkpoint.adapters.reading import described, open_adapter
from blobstore.checkpoint.adapters.steps import Whole
from blobstore.checkpoint.file_names import is_of_tokenizer, why_unused
from blobstore.checkpoint.tensors import SourceTensor
from blobstore.checkpoint.tied import untied
from blobstore.checkpoint.told import LeftOut, unread_in
from blobstore.fileio.closing import Closing
from blobstore.fileio.places import file_size, is_file, join
from blobstore.fileio.source import read_whole
from blobstore.fileio.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from os import PathLike
    from typing import Any

    from blobstore.checkpoint.adapters.changes import Change
    from blobstore.checkpoint.adapters.reading import Adapter

_MAX_SPARE_ROWS = 64  # of an embedding, behind what the config.json of a vision model counts


@dataclass
class OpenAdapters(Closing):
    """Some open adapters, in the order in which they are merged.

    Attributes:
        adapters: At least one.
    """

    adapters: list[Adapter] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """As they were given."""
        return [adapter.path for adapter in self.adapters]

    @property
    def files(self) -> list[str]:
        """Their files."""
        return [path for adapter in self.adapters for path in adapter.files]

    @property
    def description(self) -> str:
        """What the metadata of a file that is made with them says: JSON."""
        return described(self.adapters)

    def close(self) -> None:
        """Close them."""
        for adapter in self.adapters:
            adapter.close()


def open_adapters(paths: Iterable[str | PathLike[str]]) -> OpenAdapters:
    """Open adapters.

    Raises:
        CheckpointError, FormatError, TruncatedError, OSError: As `open_adapter`; none is left open.
    """
    opened = OpenAdapters()
    try:
        for path in paths:
            opened.adapters.append(open_adapter(path))
    except BaseException:
        opened.close()
        raise
    return opened


@dataclass(frozen=True)
class Merged:
    """A checkpoint's tensors with adapters.

    Attributes:
        tensors: Those that are changed, or new.
        left_out: Of the adapters.
        notes: A line for each adapter, and for each thing that one should know.
        resized: Rows of an embedding of the base → rows that an adapter gives it.
        resized_by: The last adapter that does; None if none does.
    """

    tensors: list[SourceTensor]
    left_out: list[LeftOut]
    notes: list[str]
    resized: dict[int, int]
    resized_by: Adapter | None


def merged(
    adapters: Sequence[Adapter], tensors: Mapping[str, SourceTensor], ties: Mapping[str, str], called: Sequence[str]
) -> Merged:
    """Merge adapters into the tensors of a checkpoint.

    Args:
        adapters: Open as long as the tensors are read.
        tensors: Of the base, by name.
        ties: Names of the base without a tensor of their own → whose they share.
        called: What the base is called: its path, and what it says itself.

    Raises:
        CheckpointError: As `plan_merge`.
    """
    base = {name: BaseTensor(tensor.type, tensor.shape) for name, tensor in tensors.items()}
    merge = plan_merge(adapters, base, ties)
    notes = [*merge.notes, *filter(None, (base_note(adapter, called) for adapter in adapters))]
    made = [_tensor(name, change, tensors) for name, change in merge.changes.items()]
    left_out = [LeftOut(name, "tensor", why) for name, why in merge.unused.items()]
    return Merged(made, left_out, notes, merge.resized, merge.resized_by)


def config_note(config: dict[str, Any], resized: Mapping[int, int], *, separated: bool) -> str:
    """Return what to do to a config.json that is kept as it is, but whose model adapters change; or nothing.

    Args:
        config: Of the base.
        resized: Rows of an embedding of the base → rows that an adapter gives it.
        separated: Whether a head that shared the embedding is a tensor of its own now.
    """
    changes = []
    if resized_config(config, resized) != config:
        changes.append(f"vocab_size to {max(resized.values())}")
    if separated and untied(config) != config:  # else loaders take the embedding as the head, whatever the file has
        changes.append("tie_word_embeddings to false")
    what = "config.json is carried as it is: set its"
    return f"{what} {' and its '.join(changes)} in an exported folder" if changes else ""


def resized_config(config: dict[str, Any], resized: Mapping[int, int]) -> dict[str, Any]:
    """Return a base's config.json with the vocabulary that adapters give it, as the library that resized it does.

    Args:
        config: Of the base.
        resized: Rows of an embedding of the base → rows that an adapter gives it.
    """
    text = config.get("text_config")
    changed = config | ({"text_config": resized_config(text, resized)} if isinstance(text, dict) else {})
    size = config.get("vocab_size")
    for before, after in resized.items():
        if type(size) is int and 0 <= before - size <= _MAX_SPARE_ROWS:
            changed["vocab_size"] = after
    return changed


def _tensor(name: str, change: Change, tensors: Mapping[str, SourceTensor]) -> SourceTensor:
    if len(change.steps) == 1 and isinstance(change.steps[0], Whole):
        whole = change.steps[0].tensor
        if whole.type == change.type:
            return replace(whole.source, name=name)
    base = tensors[change.source or next(iter(tensors))]
    if not change.steps:
        return replace(base, name=name)
    return SourceTensor(name, change.type, change.shape, base.path, made=change.made(base.read))


def files_left_out(adapter: Adapter, base: str, read: Iterable[str], *, takes_tokenizer: bool) -> Iterator[LeftOut]:
    """Yield what of an adapter's folder nothing is made of, unless the base's folder has the same.

    Args:
        adapter: Open.
        base: The folder of the base.
        read: The absolute paths of files that were read.
        takes_tokenizer: Whether its tokenizer is taken.

    Raises:
        OSError: A folder or file can't be read.
    """
    for name in unread_in(adapter.folder, read):
        if _is_same(join(adapter.folder, name), join(base, name)):
            continue
        why = why_unused(name)
        if is_of_tokenizer(name) and not takes_tokenizer:
            why = f"tokenizer and chat template are taken from the base, not from the adapter {adapter.name!r}"
        yield LeftOut(f"{adapter.name}/{name}", "file", why)


def _is_same(path: str, other: str) -> bool:
    """Whether two paths are the same file or folder, or files with the same bytes."""
    if is_url(path) or is_url(other):
        both = is_file(path) and is_file(other) and file_size(path) == file_size(other)
        return both and read_whole(path) == read_whole(other)
    if os.path.isfile(path) and os.path.isfile(other):
        return filecmp.cmp(path, other, shallow=False)
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)
