"""What is compared: the tensors of an .sbs file or of a checkpoint, as names that lead to readable elements."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from blobstore.catalog import TensorInfo
from blobstore.codecs import decode, is_float_codec
from blobstore.convert.checkpoint import open_checkpoint
from blobstore.convert.export import named_tensors
from blobstore.convert.rearranged import Block, rows_from
from blobstore.elements import UNKNOWN, type_of
from blobstore.errors import CodecError, FormatError, in_file
from blobstore.layout import MAGIC
from blobstore.store import Store
from blobstore.transfer import FileRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from os import PathLike

    import numpy.typing as npt

    from blobstore.convert.checkpoint import Checkpoint
    from blobstore.elements import ElementType

    Array = npt.NDArray[Any]
    Bytes = npt.NDArray[np.uint8]

By = Literal["names", "keys"]
Unit = tuple[int, int, float]
_OWN_METADATA = "blobstore."


@dataclass(frozen=True)
class Facts:
    """How a tensor is stored.

    Attributes:
        type: Of its elements.
        shape: In C order.
        scales: By which decoded values are multiplied; more than one where several stored tensors make one.
        codec: 0 when the type says it all.
        nbytes: As stored.
    """

    type: ElementType
    shape: tuple[int, ...]
    scales: tuple[float, ...]
    codec: int
    nbytes: int


@dataclass(frozen=True)
class Run:
    """A tensor whose bytes lie in one piece in a file.

    Attributes:
        info: Where, and what they are.
        path: Of the file.
        fd: Of the file, open; not owned.
    """

    info: TensorInfo
    path: str
    fd: int

    @property
    def facts(self) -> Facts:
        """How it is stored."""
        info = self.info
        return Facts(info.type, info.shape, (info.scale,), info.codec, info.nbytes)

    @property
    def unit(self) -> Unit:
        """Type, codec and scale of what `read` gives: where two have the same, equal bytes are equal values."""
        return self.info.type.number, self.info.codec, self.info.scale

    @property
    def opaque(self) -> bool:
        """Whether it can't be decoded here: then its bytes are what is counted and read."""
        return self.info.dtype is None or self.info.type == UNKNOWN

    @property
    def count(self) -> int:
        """Elements, or bytes of an opaque one."""
        return self.info.nbytes if self.opaque else self.info.count

    def read(self, first: int, count: int) -> Bytes:
        """Return the stored bytes of some elements, the first of them at a group's border; of an opaque tensor, bytes.

        Raises:
            TruncatedError: ``short-read``: the file has shrunk.
        """
        start, nbytes = first, count
        if not self.opaque:
            start = self.info.type.nbytes(first)
            nbytes = self.info.type.nbytes(first + count) - start
        with in_file(self.path):
            return FileRange(self.fd, self.info.offset + start, nbytes).read()

    def values(self, raw: Bytes, count: int) -> Array:
        """Return what the bytes of ``count`` elements stand for: float32 where they are encoded or bf16.

        Raises:
            CodecError: The bytes are wrong.
        """
        try:
            with in_file(self.path):
                return _decoded(raw, self.info.type, count, self.info.scale)
        except CodecError as error:
            named = CodecError(error.reason, f"{self.info.name!r}: {error.message}")
            named.path = error.path
            raise named from None


@dataclass(frozen=True)
class Arranged:
    """A tensor that a file holds in blocks of others, with the values that these decode to.

    One row of it is held at least, whatever the count that is asked for.

    Attributes:
        path: Of the file.
        shape: In C order.
        blocks: That cover it.
        store: The file, open.
    """

    path: str
    shape: tuple[int, ...]
    blocks: tuple[Block, ...]
    store: Store

    def __post_init__(self) -> None:
        """Check that the blocks are of one type.

        Raises:
            FormatError: ``rearranged-metadata``.
            CodecError: They can't be decoded.
        """
        with in_file(self.path):
            kinds = {block.info.type for block in self.blocks}
            if len(kinds) > 1:
                what = f"a tensor of shape {list(self.shape)} is made of several types: {sorted(map(str, kinds))}"
                raise FormatError("rearranged-metadata", what)
            for block in self.blocks:
                self.store.elements(block.info, 0, 0)

    @cached_property
    def _kind(self) -> ElementType:
        dtypes = {block.info.dtype for block in self.blocks}
        # Some of an encoded tensor's blocks may have no scale, and are plain then.
        found = np.result_type(*(dtype for dtype in dtypes if dtype is not None))
        return type_of(found)

    @property
    def facts(self) -> Facts:
        """How it is stored."""
        first = self.blocks[0].info
        scales = tuple(sorted({block.info.scale for block in self.blocks}))
        nbytes = first.type.nbytes(self.count)
        return Facts(first.type, self.shape, scales, 0, nbytes)

    @property
    def unit(self) -> Unit:
        """As `Run.unit`, of the decoded values."""
        return self._kind.number, 0, 1.0

    @property
    def opaque(self) -> bool:
        """Never."""
        return False

    @property
    def count(self) -> int:
        """Elements."""
        return sum(block.rows * block.cols for block in self.blocks)

    def read(self, first: int, count: int) -> Bytes:
        """Return the decoded values of some elements, as bytes.

        Raises:
            CodecError: The stored bytes are wrong.
        """
        width = self.blocks[0].width
        row, end = first // width, -(-(first + count) // width)
        found = np.empty((end - row, width), dtype=self._kind.dtype)
        with in_file(self.path):
            for _, place, values in rows_from(self.blocks, self.store, row, end - row):
                found[place] = values
        skip = first - row * width
        return found.reshape(-1)[skip : skip + count].view(np.uint8)

    def values(self, raw: Bytes, count: int) -> Array:
        """As `Run.values`."""
        return _decoded(raw, self._kind, count)


Tensor = Run | Arranged


def _decoded(raw: Bytes, kind: ElementType, count: int, scale: float = 1.0) -> Array:
    if is_float_codec(kind):
        return decode(kind, raw, count, scale=scale)
    # A bool is a number here: foreign bytes may be others than 0 and 1.
    return raw if kind.name == "bool" else raw.view(kind.dtype or np.uint8)


@dataclass(frozen=True)
class Side:
    """One of two things that are compared. `open_side` makes one.

    Attributes:
        path: As given.
        by: What its tensors are called by; a checkpoint has only names.
        tensors: Each tensor once, by name.
        aliases: More names, name → one of `tensors`.
        metadata: Without this project's own.
        store: The .sbs file; None for a checkpoint.
        notes: What a user should know: what was left out, and why.
    """

    path: str
    by: By
    tensors: Mapping[str, Tensor]
    aliases: Mapping[str, str]
    metadata: Mapping[str, str]
    store: Store | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self.tensors) | frozenset(self.aliases)

    @property
    def nbytes(self) -> int:
        """Of all tensors, as stored."""
        return sum(one.facts.nbytes for one in self.tensors.values())

    @cached_property
    def _others(self) -> dict[str, list[str]]:
        others: dict[str, list[str]] = {}
        for alias, target in self.aliases.items():
            others.setdefault(target, [target]).append(alias)
        return others

    def same_as(self, name: str) -> list[str]:
        """Return all names of the tensor that has this one, itself among them."""
        return self._others.get(self.aliases.get(name, name), [name])

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.aliases.get(name, name)]

    def by_keys(self) -> Side:
        """Return the same file by the runtime's keys; a checkpoint as it is."""
        return self if self.store is None else _side_of_store(self.store, "keys")


@contextmanager
def open_side(path: str | PathLike[str], by: By = "names") -> Iterator[Side]:
    """Open an .sbs file or a checkpoint, whichever it is, for the time of a ``with`` block.

    Args:
        path: An .sbs file; or a .safetensors file, a ``model.safetensors.index.json``, a folder with either.
        by: ``names``: an .sbs file that was converted from a checkpoint has the tensors of that, rearranged ones put
            back; ``keys``: its tensors are its blobs, as the runtime sees them.

    Raises:
        FormatError, TruncatedError, CheckpointError: It is neither, or is wrong.
        CodecError: A rearranged tensor can't be decoded.
        OSError: It can't be read.
    """
    path = os.fspath(path)
    if _is_store(path):
        # Plain reads: a map of a large file would count as this process's memory.
        with Store(path, access="read") as store:
            yield _side_of_store(store, by)
    else:
        with open_checkpoint(path) as checkpoint:
            yield _side_of_checkpoint(checkpoint)


@contextmanager
def open_sides(a: str | PathLike[str], b: str | PathLike[str], by: By | None = None) -> Iterator[tuple[Side, Side]]:
    """Open two sides, by default by names, unless the two have only keys in common.

    Raises:
        BlobStoreError, OSError: As `open_side`.
    """
    with open_side(a, by or "names") as one, open_side(b, by or "names") as other:
        keyed = one, other
        if by is None and not one.names & other.names:
            keyed = one.by_keys(), other.by_keys()
        yield keyed if keyed[0].names & keyed[1].names else (one, other)


def _is_store(path: str) -> bool:
    if os.path.isdir(path):
        return False
    if path.lower().endswith(".sbs") or not os.path.isfile(path):
        return path.lower().endswith(".sbs")
    with open(path, "rb") as file:
        return file.read(4) == MAGIC.to_bytes(4, "little")


def _side_of_store(store: Store, by: By) -> Side:
    metadata = _foreign(store.metadata)
    if by == "keys" and store.index:
        return Side(store.path, by, _by_keys(store), {}, metadata, store)
    with in_file(store.path):
        named = named_tensors(store)
    aliases = {name: target for name, target in named.aliases.items() if {name, target} <= named.names}
    tensors: dict[str, Tensor] = {}
    for name in named.names - set(aliases):
        if named.source and name in named.source.blocks:
            shape, blocks = named.source.shape_of(name), named.source.blocks[name]
            tensors[name] = Arranged(store.path, shape, blocks, store)
        else:
            tensors[name] = Run(named.infos[name], store.path, store.reader.fileno())
    return Side(store.path, by, tensors, aliases, metadata, store)


def _by_keys(store: Store) -> dict[str, Tensor]:
    """Return the tensor that each blob is, by its key; what has no elements has no blob, and keeps its name."""
    tensors: dict[str, Tensor] = {}
    for info in store.infos():
        key = info.key or info.name
        whole = not info.key or store.reader.range(key) == (info.offset, info.nbytes)
        # Of several names for a blob the runtime's own says the shape that the runtime sees.
        if whole and (key not in tensors or info.name == key):
            tensors[key] = Run(info, store.path, store.reader.fileno())
    return tensors


def _side_of_checkpoint(checkpoint: Checkpoint) -> Side:
    tensors: dict[str, Tensor] = {}
    for name, one in checkpoint.tensors.items():
        info = TensorInfo(name, "", one.type, one.shape, 1.0, one.offset, one.nbytes, 0)
        tensors[name] = Run(info, checkpoint.file_of(name), checkpoint.range(name).fd)
    metadata = _foreign(checkpoint.metadata)
    return Side(checkpoint.path, "names", tensors, {}, metadata, notes=tuple(checkpoint.notes))


def _foreign(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.startswith(_OWN_METADATA)}
