"""Element types: number, name, bits, numpy dtype.

Spec: spec/index.md, Element types.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from blobstore.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, repr=False)
class ElementType:
    """One way to store a number.

    Attributes:
        number: In the index; numbers below 32 are the runtime's.
        name: As shown.
        bits: Per element, without the extra bytes of groups; 0 for a type that this version doesn't know.
        dtype: The numpy dtype of the stored elements, little-endian; None when they have to be decoded.
        safetensors: Its name in safetensors files, or None.
        group: Elements per group, which has extra bytes; 0 when there are none.
        group_nbytes: The extra bytes of a group.
        whole: Whether the last group is stored in full, even if it has fewer elements.

    Example:
        >>> element_type = blobstore.open("model.sbs").info("layer.weight").type
        >>> element_type, element_type.bits, element_type.safetensors, element_type.nbytes(1000)
        (f32, 32, 'F32', 4000)
    """

    number: int
    name: str
    bits: int
    dtype: np.dtype[np.generic] | None = None
    safetensors: str | None = None
    group: int = 0
    group_nbytes: int = 0
    whole: bool = False

    def nbytes(self, count: int) -> int:
        """Return the stored size of ``count`` elements in bytes."""
        groups = -(-count // self.group) if self.group else 0
        stored = groups * self.group if self.whole else count
        return -(-stored * self.bits // 8) + groups * self.group_nbytes

    def __repr__(self) -> str:
        return self.name


def _plain(number: int, name: str, dtype: npt.DTypeLike, safetensors: str) -> ElementType:
    stored = np.dtype(dtype)
    if sys.byteorder == "big":  # elsewhere numpy's own: others with the same bits lack its format for buffers
        stored = stored.newbyteorder("<")
    return ElementType(number, name, stored.itemsize * 8, stored, safetensors)


_ALL = (
    ElementType(0, "unknown", 8, np.dtype(np.uint8)),
    _plain(1, "f32", np.float32, "F32"),
    _plain(2, "bf16", ml_dtypes.bfloat16, "BF16"),
    ElementType(3, "sfp", 8),
    ElementType(4, "nuq", 4, group=256, group_nbytes=16),
    _plain(5, "f64", np.float64, "F64"),
    _plain(6, "u32", np.uint32, "U32"),
    _plain(7, "u64", np.uint64, "U64"),
    ElementType(8, "i8", 8, group=128, group_nbytes=4),
    _plain(9, "u16", np.uint16, "U16"),
    _plain(10, "u8", np.uint8, "U8"),
    _plain(11, "int8", np.int8, "I8"),
    ElementType(12, "q4_0", 4, group=32, group_nbytes=2, whole=True),
    ElementType(13, "mxfp4", 4, group=32, group_nbytes=1, whole=True),
    _plain(32, "f16", np.float16, "F16"),
    _plain(35, "i16", np.int16, "I16"),
    _plain(37, "i32", np.int32, "I32"),
    _plain(38, "i64", np.int64, "I64"),
    _plain(39, "bool", np.bool_, "BOOL"),
    _plain(40, "f8_e4m3", ml_dtypes.float8_e4m3fn, "F8_E4M3"),
    _plain(41, "f8_e5m2", ml_dtypes.float8_e5m2, "F8_E5M2"),
    _plain(42, "c64", np.complex64, "C64"),
    _plain(43, "f8_e8m0", ml_dtypes.float8_e8m0fnu, "F8_E8M0"),
    _plain(44, "f8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz, "F8_E4M3FNUZ"),
    _plain(45, "f8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz, "F8_E5M2FNUZ"),
    # Smaller than a byte: kept as stored. safetensors doesn't specify the order in which they are packed.
    ElementType(46, "f4", 4, safetensors="F4"),
    ElementType(47, "f6_e2m3", 6, safetensors="F6_E2M3"),
    ElementType(48, "f6_e3m2", 6, safetensors="F6_E3M2"),
)

BY_NUMBER = {entry.number: entry for entry in _ALL}
BY_NAME = {entry.name: entry for entry in _ALL}
PLAIN_FLOATS = ("bf16", "f16", "f32", "f64")  # names of those that weights are computed in
BY_SAFETENSORS = {entry.safetensors: entry for entry in _ALL if entry.safetensors}
# "unknown" is read as bytes, but bytes are stored as u8.
_BY_DTYPE = {entry.dtype: entry for entry in _ALL if entry.dtype is not None and entry.number}
_DTYPES = {dtype.name: dtype for dtype in _BY_DTYPE}
UNKNOWN = BY_NUMBER[0]
OWN_FROM = 32  # numbers below are the runtime's


def by_number(number: int) -> ElementType:
    """Return the type with this number; one that only a newer version knows is named ``type-N``."""
    return BY_NUMBER.get(number) or ElementType(number, f"type-{number}", 0)


# The same as arrays, for many entries at once; a number beyond the table is an unknown type.
_SLOTS = max(BY_NUMBER) + 2
_BITS, _GROUP, _GROUP_NBYTES = (np.zeros(_SLOTS, dtype=np.int64) for _ in range(3))
_WHOLE, _PLAIN = (np.zeros(_SLOTS, dtype=np.bool_) for _ in range(2))
for _type in _ALL:
    _BITS[_type.number] = _type.bits
    _GROUP[_type.number] = _type.group
    _GROUP_NBYTES[_type.number] = _type.group_nbytes
    _WHOLE[_type.number] = _type.whole
    _PLAIN[_type.number] = _type.dtype is not None
DTYPES = {_type.number: _type.dtype for _type in _ALL if _type.dtype is not None}


def type_of(dtype: np.dtype[np.generic]) -> ElementType:
    """Return the element type that stores a numpy dtype unchanged.

    Raises:
        UsageError: ``unsupported-dtype``.
    """
    try:
        return _BY_DTYPE[dtype.newbyteorder("<")]
    except (KeyError, TypeError):
        raise _unsupported(dtype) from None


def dtype_named(name: str) -> np.dtype[np.generic]:
    """Return the numpy dtype of this name, such as ``bfloat16``, if an element type stores it unchanged.

    Raises:
        UsageError: ``unsupported-dtype``.
    """
    try:
        return _DTYPES[name]
    except KeyError:
        raise _unsupported(name) from None


def as_element_type(type: ElementType | str) -> ElementType:  # noqa: A002 (the field's word)
    """Return an element type, given itself or its name, ``"f32"`` for instance.

    Raises:
        UsageError: ``unknown-type``.
    """
    if isinstance(type, ElementType):
        return type
    if isinstance(type, str) and type in BY_NAME:
        return BY_NAME[type]
    raise UsageError("unknown-type", f"{type!r} is not an element type: use one of {', '.join(BY_NAME)}")


def _unsupported(dtype: object) -> UsageError:
    known = ", ".join(entry.name for entry in _BY_DTYPE.values())
    return UsageError("unsupported-dtype", f"no element type stores dtype {dtype}: convert to one of {known}")


def are_plain(numbers: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    """Return whether numpy can view elements of each of many types as they are stored; by their numbers."""
    return _PLAIN[np.minimum(numbers, _SLOTS - 1)]


def stored_nbytes(numbers: npt.NDArray[np.uint16], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the stored size in bytes of each of many tensors, -1 where the type is not known.

    Args:
        numbers: Type numbers, shape (n,).
        counts: Elements, shape (n,), each below 2⁵⁷.
    """
    slots = np.minimum(numbers, _SLOTS - 1).astype(np.intp)
    bits, group = _BITS[slots], _GROUP[slots]
    if np.count_nonzero(group):
        groups = -(-counts // np.maximum(group, 1))
        stored = np.where(_WHOLE[slots], groups * group, counts)
        nbytes = ((stored * bits + 7) >> 3) + groups * _GROUP_NBYTES[slots]
    else:
        nbytes = (counts * bits + 7) >> 3
    nbytes[bits == 0] = -1
    return nbytes
