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
    """What is known of one tensor.

    Attributes:
        name: Its full name.
        key: Of the blob that holds it; empty for a tensor without elements, which has none.
        type: How its elements are stored.
        shape: In C order.
        scale: Decoded values are multiplied by it.
        offset: Of its first byte, from the beginning of the file; of its blob's, when that is packed.
        nbytes: As stored; of all of its blob, when that is packed.
        codec: 0 when the type says it all, 1 in a packed blob.
        inside: Of its first byte in what a packed blob stands for.
        inside_nbytes: How many bytes of it are the tensor's; 0 when it isn't packed.
        unpacked_nbytes: Of what a packed blob stands for; 0 when it isn't packed.
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
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def place(self) -> tuple[object, ...]:
        """What two names for the same values have in common."""
        return *self.address(), self.nbytes, self.type.number, self.shape, self.scale, self.codec

    def address(self, start: int = 0) -> tuple[int, int]:
        """Where a byte of it lies: two tensors that have one in common share their bytes.

        Args:
            start: The byte, of those that its type stores.

        Returns:
            An offset in the file, and one in what the packed blob there stands for.
        """
        return (self.offset, self.inside + start) if self.packed else (self.offset + start, 0)

    @property
    def packed(self) -> bool:
        """Whether its blob is packed: then its bytes come in a copy."""
        return self.codec == PACKED

    @property
    def element_nbytes(self) -> int:
        """Of all its elements, as its type stores them; what is stored when its codec is unknown."""
        return self.inside_nbytes if self.packed else self.nbytes

    @property
    def encoded(self) -> bool:
        """Whether its values are others than the bytes that its type stores, and have to be decoded."""
        return self.type.dtype is None or self.scale != 1.0

    @property
    def dtype(self) -> np.dtype[np.generic] | None:
        """The numpy dtype that its values come in; None when this version can't decode them."""
        if self.codec not in (0, PACKED):
            return None
        if self.encoded:
            return np.dtype(np.float32) if is_float_codec(self.type) else None
        return self.type.dtype
