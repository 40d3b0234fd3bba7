"""`TensorInfo`: what a tensor is, and where its bytes lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blobstore import codecs
from blobstore.index import PACKED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from blobstore.codecs.element_types import ElementType
    from blobstore.store.blocks import Block


@dataclass(frozen=True)
class PackedRange:
    """Where a tensor lies in a packed blob.

    Attributes:
        start: Its first byte, among the unpacked bytes of the blob.
        nbytes: How many of these are the tensor's.
        blob_nbytes: How many unpacked bytes the blob stands for.

    Example:
        >>> blobstore.pack("model.sbs", "packed.sbs").blobs[0].packed
        True
        >>> blobstore.open("packed.sbs").info("layer.weight").packed
        PackedRange(start=0, nbytes=8192, blob_nbytes=8192)
    """

    start: int
    nbytes: int
    blob_nbytes: int


class _Fields(NamedTuple):
    """Those of `TensorInfo`. A tuple: a list of 16,000 is made seven times as fast as of frozen dataclasses."""

    name: str
    key: str
    type: ElementType
    shape: tuple[int, ...]
    scale: float
    offset: int
    nbytes: int
    codec: int
    packed: PackedRange | None = None
    blocks: tuple[Block[Any], ...] = ()  # of `TensorInfo`
    source_type: ElementType | None = None


class TensorInfo(_Fields):
    """What a file says about one tensor: a named tuple.

    Attributes:
        name: Its full name; its key in a store opened by keys.
        key: Of the blob that holds it; empty for a tensor without elements, which has no blob, and for one that is
            gathered from several blobs.
        type: How its elements are stored.
        shape: In C order.
        scale: Decoded values are multiplied by it. Of a gathered tensor: 1.0, each of its `blocks` has its own.
        offset: Of its first byte, from the beginning of the file. In a packed blob: of the blob's first byte.
        nbytes: How many bytes are stored. In a packed blob: of the whole blob.
        codec: 0 for elements as their type stores them, 1 in a packed blob.
        packed: Where it lies in a packed blob; None in any other. Reading a packed tensor makes a copy.
        blocks: What it is gathered from if it isn't stored as one run; else empty. Reading it makes a copy.
        source_type: The type that it had in the checkpoint that the file was converted from; None if that isn't known.

    Example:
        >>> info = blobstore.open("model.sbs").info("layer.weight")
        >>> info.shape, info.ndim, info.size, info.type, info.nbytes
        ((64, 32), 2, 2048, f32, 8192)
    """

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def place(self) -> tuple[object, ...]:
        """A key that is equal for two names of the same values."""
        if self.blocks:
            return *self.blocks, self.shape
        return *self.address(), self.nbytes, self.type.number, self.shape, self.scale, self.codec

    def address(self, start: int = 0) -> tuple[int, int]:
        """Return where a byte lies. Two tensors that have an address in common share that byte.

        Args:
            start: The byte, counted from the tensor's first one, unpacked.

        Returns:
            An offset in the file, and one in the unpacked bytes of the packed blob there.
        """
        return (self.offset, self.packed.start + start) if self.packed else (self.offset + start, 0)

    def stored_ranges(self) -> list[tuple[int, int]]:
        """Return where its bytes are in the file, (offset, nbytes) each: of a gathered tensor, those of each block."""
        if not self.blocks:
            return [(self.offset, self.nbytes)] if self.nbytes else []
        return [
            (block.stored.offset, block.stored.nbytes)
            if block.stored.packed
            else (
                block.stored.offset + block.stored.type.nbytes(block.at),
                block.stored.type.nbytes(block.element_count),
            )
            for block in self.blocks
        ]

    @property
    def element_nbytes(self) -> int:
        """Size of all elements as their type stores them; the stored size when the codec is unknown."""
        return self.packed.nbytes if self.packed else self.nbytes

    @property
    def encoded(self) -> bool:
        """Whether numpy can't view its bytes as its values: they have to be decoded, gathered or narrowed."""
        return self.type.dtype is None or self.scale != 1.0 or bool(self.blocks) or self._narrow is not None

    @property
    def narrowed(self) -> bool:
        """Whether its values are read in the checkpoint's type, which is narrower than the stored one."""
        return self._narrow is not None and self.dtype == self._narrow

    @property
    def _narrow(self) -> np.dtype[np.generic] | None:
        """The checkpoint's dtype if it is narrower than the stored one: the runtime takes some tensors only as f32."""
        source, stored = self.source_type, self.type.dtype
        if source is None or source.dtype is None or stored is None or not codecs.is_float_codec(self.type):
            return None
        return source.dtype if source.dtype.itemsize < stored.itemsize else None

    @property
    def dtype(self) -> np.dtype[np.generic] | None:
        """The numpy dtype of its values; None when this version can't decode them.

        The stored type's, float32 where it has to be decoded, and the checkpoint's where the file stores a wider one.
        """
        if self.codec not in (0, PACKED):
            return None
        if self.blocks:
            return self._gathered_dtype
        if self.type.dtype is None or self.scale != 1.0:
            return np.dtype(np.float32) if codecs.is_float_codec(self.type) else None
        return self._narrow or self.type.dtype

    @cached_property
    def _gathered_dtype(self) -> np.dtype[np.generic] | None:
        dtypes = {block.stored.dtype for block in self.blocks}
        if None in dtypes:
            return None
        # Some blocks of an encoded tensor may have no scale: they are plain.
        common = np.result_type(*(dtype for dtype in dtypes if dtype is not None))
        return self._narrow if self._narrow and len(dtypes) == 1 and common == self.type.dtype else common


def is_name(info: TensorInfo | None, holders: AbstractSet[str]) -> bool:
    """Whether what a file lists belongs to the checkpoint: not under a key, and not only to hold blocks.

    Args:
        info: It; None for what is gathered, and so isn't listed.
        holders: The names of what holds blocks.
    """
    return info is None or (info.name != info.key and info.name not in holders)


def outermost(infos: Iterable[TensorInfo]) -> Iterator[TensorInfo]:
    """Yield the stored tensors that aren't inside another, in the file's order: each stored byte once.

    Args:
        infos: Of one file, not gathered; those without bytes are left out.
    """
    end = (-1, -1)
    stored = (info for info in infos if info.nbytes)
    for info in sorted(stored, key=lambda info: (info.address(), -info.element_nbytes)):
        last = info.address(info.element_nbytes)
        if last > end:
            yield info
            end = last
