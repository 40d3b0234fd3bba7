"""`TensorInfo`: what a tensor is, and where its bytes lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs import is_float_codec
from blobstore.index import PACKED

if TYPE_CHECKING:
    from blobstore.codecs.element_types import ElementType


@dataclass(frozen=True)
class TensorInfo:
    """What a file says about one tensor.

    Attributes:
        name: Its full name.
        key: Of the blob that holds it; empty for a tensor without elements, which has no blob.
        type: How its elements are stored.
        shape: In C order.
        scale: Decoded values are multiplied by it.
        offset: Of its first byte, from the beginning of the file. In a packed blob: of the blob's first byte.
        nbytes: How many bytes are stored. In a packed blob: of the whole blob.
        codec: 0 for elements as their type stores them, 1 in a packed blob.
        inside: In a packed blob: where the tensor begins among the unpacked bytes; else 0.
        inside_nbytes: In a packed blob: how many of the unpacked bytes are the tensor's; else 0.
        unpacked_nbytes: In a packed blob: how many unpacked bytes the blob stands for; else 0.
    """

    name: str
    key: str
    type: ElementType
    shape: tuple[int, ...]
    scale: float
    offset: int
    nbytes: int
    codec: int
    inside: int = 0
    inside_nbytes: int = 0
    unpacked_nbytes: int = 0

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def place(self) -> tuple[object, ...]:
        """A key that is equal for two names of the same values."""
        return *self.address(), self.nbytes, self.type.number, self.shape, self.scale, self.codec

    def address(self, start: int = 0) -> tuple[int, int]:
        """Return where a byte lies. Two tensors that have an address in common share that byte.

        Args:
            start: The byte, counted from the tensor's first one, unpacked.

        Returns:
            An offset in the file, and one in the unpacked bytes of the packed blob there.
        """
        return (self.offset, self.inside + start) if self.packed else (self.offset + start, 0)

    @property
    def packed(self) -> bool:
        """Whether its blob is packed: reading it makes a copy."""
        return self.codec == PACKED

    @property
    def element_nbytes(self) -> int:
        """Size of all elements as their type stores them; the stored size when the codec is unknown."""
        return self.inside_nbytes if self.packed else self.nbytes

    @property
    def encoded(self) -> bool:
        """Whether numpy can't view its bytes as its values: they have to be decoded."""
        return self.type.dtype is None or self.scale != 1.0

    @property
    def dtype(self) -> np.dtype[np.generic] | None:
        """The numpy dtype of its values; None when this version can't decode them."""
        if self.codec not in (0, PACKED):
            return None
        if self.encoded:
            return np.dtype(np.float32) if is_float_codec(self.type) else None
        return self.type.dtype
