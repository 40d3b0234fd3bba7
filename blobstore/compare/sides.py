"""The two sides of a comparison: .sbs files or checkpoints, as names of tensors."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from blobstore.checkpoint.carried import files_beside
from blobstore.checkpoint.formats import is_sbs
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.compare.tensors import Arranged, Made, Run, Tensor
from blobstore.errors import UsageError
from blobstore.index.metadata import foreign_metadata
from blobstore.store.info import TensorInfo
from blobstore.store.reader import Store
from blobstore.store.vocabulary import By, aliases_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from os import PathLike

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.fileio.ranges import FileRange


@dataclass(frozen=True)
class Side:
    """One side of a comparison. `open_side` makes it.

    Attributes:
        path: As given.
        by: Whether tensors go by their names or by the runtime's keys; a checkpoint only has names.
        tensors: Each tensor once, by name.
        aliases: Further names, name → name in `tensors`.
        metadata: Without this project's own.
        files: Opens the model's other files, such as config.json → name → bytes.
        store: The .sbs file; None for a checkpoint.
        notes: What was left out, and why; for the user.
        read: The files that a checkpoint's tensors come from.
    """

    path: str
    by: By
    tensors: Mapping[str, Tensor]
    aliases: Mapping[str, str]
    metadata: Mapping[str, str]
    files: Callable[[], Mapping[str, FileRange]] = dict
    store: Store | None = None
    notes: tuple[str, ...] = ()
    read: tuple[str, ...] = ()

    @cached_property
    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self.tensors) | frozenset(self.aliases)

    @property
    def nbytes(self) -> int:
        """Size of all tensors, as stored."""
        return sum(tensor.facts.nbytes for tensor in self.tensors.values())

    @cached_property
    def _all_names(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for alias, name in self.aliases.items():
            names.setdefault(name, [name]).append(alias)
        return names

    def same_as(self, name: str) -> list[str]:
        """Return all names of the tensor with this name, including this name."""
        return self._all_names.get(self.aliases.get(name, name), [name])

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.aliases.get(name, name)]

    def reading_ahead(self) -> AbstractContextManager[None]:
        """Announce for a ``with`` block that all tensors will be read, in the order of their names."""
        if self.store is None or not self.store.reader.is_elsewhere:
            return nullcontext()
        reader, catalog = self.store.reader, self.store.vocabularies.by(self.by)
        return reader.reading_ahead(reader.range(info.key) for info in sorted(catalog, key=lambda info: info.name))

    def by_keys(self) -> Side:
        """Return the same file by the runtime's keys; a checkpoint unchanged."""
        return self if self.store is None else _side_of_store(self.store, "keys")


@contextmanager
def open_side(path: str | PathLike[str], by: By = "names", base: str | PathLike[str] | None = None) -> Iterator[Side]:
    """Open an .sbs file or a checkpoint for the duration of a ``with`` block.

    Args:
        path: An .sbs file, or a checkpoint as `open_checkpoint` takes it, also one shard.
        by: ``names``: an .sbs file that was converted from a checkpoint has the tensors of that checkpoint, in their
            original arrangement; ``keys``: its tensors are its blobs, as the runtime sees them.
        base: The file that a packed file is the difference to.

    Raises:
        FormatError, TruncatedError, CheckpointError: The file is neither, or is invalid.
        CodecError: A rearranged tensor can't be decoded.
        OSError: A file can't be read.
    """
    path = os.fspath(path)
    if _is_store(path):
        # Plain reads: mapped pages of a large file would count as this process's memory.
        with Store(path, access="read", base=base) as store:
            yield _side_of_store(store, by)
    else:
        with open_checkpoint(path, whole=False) as checkpoint:
            yield _side_of_checkpoint(checkpoint)


@contextmanager
def open_sides(
    a: str | PathLike[str], b: str | PathLike[str], by: By | None = None, base: str | PathLike[str] | None = None
) -> Iterator[tuple[Side, Side]]:
    """Open two sides, by default by names, or by keys if they have only these in common.

    Raises:
        UsageError: ``needless-base``: neither of them can be packed.
        BlobStoreError, OSError: As `open_side`.
    """
    with open_side(a, by or "names", base) as first, open_side(b, by or "names", base) as second:
        if base is not None and first.store is None and second.store is None:
            what = f"neither {first.path!r} nor {second.path!r} is an .sbs file: only these can need a base"
            raise UsageError("needless-base", what)
        by_keys = first, second
        if by is None and not first.names & second.names:
            by_keys = first.by_keys(), second.by_keys()
        yield by_keys if by_keys[0].names & by_keys[1].names else (first, second)


def _is_store(path: str) -> bool:
    return not os.path.isdir(path) and (path.lower().endswith(".sbs") or is_sbs(path))


def _side_of_store(store: Store, by: By) -> Side:
    catalog = store.vocabularies.by(by)
    aliases = aliases_of(catalog)
    tensors: dict[str, Tensor] = {}
    for info in catalog:
        if info.name not in aliases:
            tensors[info.name] = Arranged(info, store) if info.blocks or info.narrowed else _run(info, store)
    metadata = foreign_metadata(store.metadata)
    files = partial(_carried, store)
    return Side(store.path, by, tensors, aliases, metadata, files, store, notes=tuple(store.vocabularies.left_out(by)))


def _carried(store: Store) -> dict[str, FileRange]:
    return {name: store.files.part_of_file(name) for name in store.files}


def _beside(checkpoint: Checkpoint) -> dict[str, FileRange]:
    return {file.name: checkpoint.open_beside(file.path) for file in files_beside(checkpoint)[0]}


def _run(info: TensorInfo, store: Store) -> Run:
    return Run(info, store.path, store.reader.part_of_file(info.offset, info.nbytes), store)


def _side_of_checkpoint(checkpoint: Checkpoint) -> Side:
    tensors: dict[str, Tensor] = {}
    for name, source in checkpoint.tensors.items():
        if source.stored is None:
            tensors[name] = Made(source)
            continue
        info = TensorInfo(name, "", source.type, source.shape, 1.0, source.stored.offset, source.nbytes, 0)
        tensors[name] = Run(info, source.path, source.stored)
    metadata = foreign_metadata(checkpoint.metadata)
    files, read = partial(_beside, checkpoint), tuple(checkpoint.paths)
    return Side(checkpoint.path, "names", tensors, {}, metadata, files, notes=tuple(checkpoint.lines), read=read)
