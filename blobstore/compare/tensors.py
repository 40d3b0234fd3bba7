"""A tensor that is compared: its bytes or elements, any run of them, and how it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs import decode, is_float_codec
from blobstore.codecs.element_types import UNKNOWN, type_of
from blobstore.errors import CodecError, FormatError, in_file
from blobstore.export.arrangement import rows_from

if TYPE_CHECKING:
    from blobstore.codecs.element_types import ElementType
    from blobstore.export.arrangement import Block
    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Array, Bytes
    from blobstore.store.info import TensorInfo
    from blobstore.store.reader import Store


Unit = tuple[int, int, float]


@dataclass(frozen=True)
class Facts:
    """How a tensor is stored.

    Attributes:
        type: Of its elements.
        shape: In C order.
        scales: By which decoded values are multiplied; more than one where several stored tensors make one.
        codec: 0 when the type says it all, also where it is packed.
        nbytes: As stored, before it was packed.
    """

    type: ElementType
    shape: tuple[int, ...]
    scales: tuple[float, ...]
    codec: int
    nbytes: int


@dataclass(frozen=True)
class Run:
    """A tensor whose bytes lie in one piece in a file, or in what a packed blob of it stands for.

    Attributes:
        info: Where, and what they are.
        path: Of the file.
        data: Its stored bytes, of the open file.
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
        """Of what `read` gives, which is unpacked."""
        return 0 if self.info.packed else self.info.codec

    @property
    def unit(self) -> Unit:
        """Type, codec and scale of what `read` gives: where two have the same, equal bytes are equal values."""
        return self.info.type.number, self._codec, self.info.scale

    @property
    def opaque(self) -> bool:
        """Whether it can't be decoded here: then its bytes are what is counted and read."""
        return self.info.dtype is None or self.info.type == UNKNOWN

    @property
    def count(self) -> int:
        """Elements, or bytes of an opaque one."""
        return self.info.element_nbytes if self.opaque else self.info.count

    def read(self, first: int, count: int) -> Bytes:
        """Return the stored bytes of some elements, the first of them at a group's border; of an opaque tensor, bytes.

        Raises:
            TruncatedError: ``short-read``: the file has shrunk.
            FormatError: ``packed-…``: it is packed, and damaged.
            UsageError: ``needs-base``: it is stored as the difference to a file that isn't given.
        """
        start, nbytes = first, count
        if not self.opaque:
            start = self.info.type.nbytes(first)
            nbytes = self.info.type.nbytes(first + count) - start
        if self.store and self.info.packed:
            return np.frombuffer(self.store.stored(self.info, start, nbytes), np.uint8)
        with in_file(self.path):
            return self.data.part(start, nbytes).read()

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
    blocks: tuple[Block[TensorInfo], ...]
    store: Store

    def __post_init__(self) -> None:
        """Check that the blocks are of one type.

        Raises:
            FormatError: ``rearranged-metadata``.
            CodecError: They can't be decoded.
        """
        with in_file(self.path):
            kinds = {block.stored.type for block in self.blocks}
            if len(kinds) > 1:
                what = f"a tensor of shape {list(self.shape)} is made of several types: {sorted(map(str, kinds))}"
                raise FormatError("rearranged-metadata", what)
            for block in self.blocks:
                self.store.elements(block.stored, 0, 0)

    @cached_property
    def _kind(self) -> ElementType:
        dtypes = {block.stored.dtype for block in self.blocks}
        # Some of an encoded tensor's blocks may have no scale, and are plain then.
        found = np.result_type(*(dtype for dtype in dtypes if dtype is not None))
        return type_of(found)

    @property
    def facts(self) -> Facts:
        """How it is stored."""
        first = self.blocks[0].stored
        scales = tuple(sorted({block.stored.scale for block in self.blocks}))
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
        return sum(block.element_count for block in self.blocks)

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
