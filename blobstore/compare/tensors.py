"""A tensor to compare: how it is stored, and any run of its bytes or elements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs import decode, is_float_codec
from blobstore.codecs.element_types import UNKNOWN, type_of
from blobstore.errors import CodecError, in_file
from blobstore.store.values import dtype_of, elements, stored

if TYPE_CHECKING:
    from blobstore.checkpoint.tensors import SourceTensor
    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Array, Bytes
    from blobstore.store.info import TensorInfo
    from blobstore.store.reader import Store


Unit = tuple[int, int, float]


@dataclass(frozen=True)
class Facts:
    """How a tensor is stored.

    Attributes:
        type: Element type.
        shape: In C order.
        scales: Factors of the decoded values; more than one if several stored tensors make up this one.
        codec: 0 if the element type alone says how to decode it, even if it is packed.
        nbytes: Stored size, before packing.
    """

    type: ElementType
    shape: tuple[int, ...]
    scales: tuple[float, ...]
    codec: int
    nbytes: int


@dataclass(frozen=True)
class Run:
    """A tensor whose bytes are contiguous in a file, or in an unpacked blob.

    Attributes:
        info: Where the bytes are, and their type.
        path: Of the file.
        data: The stored bytes, in the open file.
        store: The same file, open; None for a checkpoint, where nothing is packed.
    """

    info: TensorInfo
    path: str
    data: FileRange
    store: Store | None = None

    @property
    def facts(self) -> Facts:
        """How it is stored."""
        info = self.info
        return Facts(info.type, info.shape, (info.scale,), self._codec, info.element_nbytes)

    @property
    def _codec(self) -> int:
        """Codec of what `read` returns, which is unpacked."""
        return 0 if self.info.packed else self.info.codec

    @property
    def unit(self) -> Unit:
        """Type, codec and scale of what `read` returns: within one unit, equal bytes are equal values."""
        return self.info.type.number, self._codec, self.info.scale

    @property
    def opaque(self) -> bool:
        """Whether it can't be decoded here: then bytes, not elements, are counted and read."""
        return self.info.dtype is None or self.info.type == UNKNOWN

    @property
    def count(self) -> int:
        """Number of elements; of bytes if it is opaque."""
        return self.info.element_nbytes if self.opaque else self.info.size

    def read(self, first: int, count: int) -> Bytes:
        """Return the stored bytes of some elements; of an opaque tensor, some bytes.

        Args:
            first: The first element, at a group's boundary; of an opaque tensor, the first byte.
            count: Number of elements, or bytes.

        Raises:
            TruncatedError: ``short-read``: the file has shrunk.
            FormatError: ``packed-…``: it is packed, and damaged.
            UsageError: ``needs-base``: it is stored as the difference to a file that wasn't given.
        """
        start, nbytes = first, count
        if not self.opaque:
            start = self.info.type.nbytes(first)
            nbytes = self.info.type.nbytes(first + count) - start
        if self.store and self.info.packed:
            return np.frombuffer(stored(self.store, self.info, start, nbytes), np.uint8)
        with in_file(self.path):
            return self.data.part(start, nbytes).read()

    def values(self, raw: Bytes, count: int) -> Array:
        """Decode the bytes of ``count`` elements: to float32 if they are encoded or bf16.

        Raises:
            CodecError: The bytes are invalid.
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
    """A tensor that isn't one run of a file as the checkpoint had it: gathered, or narrowed; as the values read so.

    Reading holds at least one row in memory, whatever the count.

    Attributes:
        info: How it is read.
        store: The file, open.
    """

    info: TensorInfo
    store: Store

    def __post_init__(self) -> None:
        """Refuse a tensor that can't be decoded.

        Raises:
            CodecError: Why.
        """
        with in_file(self.store.path):
            dtype_of(self.info)

    @cached_property
    def _decoded_type(self) -> ElementType:
        return type_of(dtype_of(self.info))

    @property
    def facts(self) -> Facts:
        """How it is stored."""
        info = self.info
        if info.narrowed:  # as the checkpoint has it, not as gemma.cpp wants it
            return Facts(self._decoded_type, info.shape, (1.0,), 0, self._decoded_type.nbytes(info.size))
        scales = tuple(sorted({block.stored.scale for block in info.blocks}))
        return Facts(info.type, info.shape, scales, 0, info.nbytes)

    @property
    def unit(self) -> Unit:
        """As `Run.unit`, for the decoded values."""
        return self._decoded_type.number, 0, 1.0

    @property
    def opaque(self) -> bool:
        """Always False: what can't be decoded is refused when it is made."""
        return False

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.info.size

    def read(self, first: int, count: int) -> Bytes:
        """Return the decoded values of some elements, as bytes.

        Raises:
            CodecError: The stored bytes are invalid.
        """
        with in_file(self.store.path):
            return elements(self.store, self.info, first, count).view(np.uint8)

    def values(self, raw: Bytes, count: int) -> Array:
        """As `Run.values`."""
        return _decoded(raw, self._decoded_type, count)


@dataclass(frozen=True)
class Made:
    """A tensor of a checkpoint whose values are made as they are read."""

    source: SourceTensor

    @property
    def facts(self) -> Facts:
        """How a file by name stores it."""
        return Facts(self.source.type, self.source.shape, (1.0,), 0, self.source.nbytes)

    @property
    def unit(self) -> Unit:
        """As `Run.unit`."""
        return self.source.type.number, 0, 1.0

    @property
    def opaque(self) -> bool:
        """Always False: what is made has values."""
        return False

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.source.count

    def read(self, first: int, count: int) -> Bytes:
        """As `Run.read`.

        Raises:
            CodecError: ``not-finite``: a value is too large for the type.
        """
        return self.source.rounded(first, min(count, self.count - first))

    def values(self, raw: Bytes, count: int) -> Array:
        """As `Run.values`."""
        return _decoded(raw, self.source.type, count)


Tensor = Run | Arranged | Made


def _decoded(raw: Bytes, element_type: ElementType, count: int, scale: float = 1.0) -> Array:
    if is_float_codec(element_type):
        return decode(element_type, raw, count, scale=scale)
    # A bool is compared as a number: foreign bytes may be other than 0 and 1.
    return raw if element_type.name == "bool" else raw.view(element_type.dtype or np.uint8)
