"""Element types: number, name, bits, numpy dtype.

Spec: spec/index.md, Element types.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

_OF_ML_DTYPES = ("bfloat16", "float8_")  # what names of its types begin with


@dataclass(frozen=True, repr=False)
class ElementType:
    """One way to store a number.

    Attributes:
        number: In the index; numbers below 32 are the runtime's.
        name: As shown.
        bits: Per element, without the extra bytes of groups; 0 for a type that this version doesn't know.
        numpy: The name of the numpy dtype of the stored elements; None when they have to be decoded.
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
    numpy: str | None = None
    safetensors: str | None = None
    group: int = 0
    group_nbytes: int = 0
    whole: bool = False

    @cached_property
    def dtype(self) -> np.dtype[np.generic] | None:
        """The numpy dtype of the stored elements, little-endian; None when they have to be decoded."""
        if self.numpy is None:
            return None
        if self.numpy.startswith(_OF_ML_DTYPES):
            import ml_dtypes  # noqa: PLC0415 (4 ms, and files open and are listed without it)

            own: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, self.numpy))
            return own
        stored = np.dtype(self.numpy)
        # Elsewhere numpy's own: others with the same bits lack its format for buffers.
        return stored.newbyteorder("<") if sys.byteorder == "big" else stored

    def nbytes(self, count: int) -> int:
        """Return the stored size of ``count`` elements in bytes."""
        groups = -(-count // self.group) if self.group else 0
        stored = groups * self.group if self.whole else count
        return -(-stored * self.bits // 8) + groups * self.group_nbytes

    def __repr__(self) -> str:
        return self.name


_ALL = (
    ElementType(0, "unknown", 8, "uint8"),
    ElementType(1, "f32", 32, "float32", "F32"),
    ElementType(2, "bf16", 16, "bfloat16", "BF16"),
    ElementType(3, "sfp", 8),
    ElementType(4, "nuq", 4, group=256, group_nbytes=16),
    ElementType(5, "f64", 64, "float64", "F64"),
    ElementType(6, "u32", 32, "uint32", "U32"),
    ElementType(7, "u64", 64, "uint64", "U64"),
    ElementType(8, "i8", 8, group=128, group_nbytes=4),
    ElementType(9, "u16", 16, "uint16", "U16"),
    ElementType(10, "u8", 8, "uint8", "U8"),
    ElementType(11, "int8", 8, "int8", "I8"),
    ElementType(12, "q4_0", 4, group=32, group_nbytes=2, whole=True),
    ElementType(13, "mxfp4", 4, group=32, group_nbytes=1, whole=True),
    ElementType(32, "f16", 16, "float16", "F16"),
    ElementType(35, "i16", 16, "int16", "I16"),
    ElementType(37, "i32", 32, "int32", "I32"),
    ElementType(38, "i64", 64, "int64", "I64"),
    ElementType(39, "bool", 8, "bool", "BOOL"),
    ElementType(40, "f8_e4m3", 8, "float8_e4m3fn", "F8_E4M3"),
    ElementType(41, "f8_e5m2", 8, "float8_e5m2", "F8_E5M2"),
    ElementType(42, "c64", 64, "complex64", "C64"),
    ElementType(43, "f8_e8m0", 8, "float8_e8m0fnu", "F8_E8M0"),
    ElementType(44, "f8_e4m3fnuz", 8, "float8_e4m3fnuz", "F8_E4M3FNUZ"),
    ElementType(45, "f8_e5m2fnuz", 8, "float8_e5m2fnuz", "F8_E5M2FNUZ"),
    # Smaller than a byte: kept as stored. safetensors doesn't specify the order in which they are packed.
    ElementType(46, "f4", 4, safetensors="F4"),
    ElementType(47, "f6_e2m3", 6, safetensors="F6_E2M3"),
    ElementType(48, "f6_e3m2", 6, safetensors="F6_E3M2"),
)

BY_NUMBER = {entry.number: entry for entry in _ALL}
BY_NAME = {entry.name: entry for entry in _ALL}
PLAIN_FLOATS = ("bf16", "f16", "f32", "f64")  # names of those that weights are computed in
BY_SAFETENSORS = {entry.safetensors: entry for entry in _ALL if entry.safetensors}
# By the names of dtypes. "unknown" is read as bytes, but bytes are stored as u8.
_BY_NUMPY = {entry.numpy: entry for entry in _ALL if entry.numpy is not None and entry.number}
UNKNOWN = BY_NUMBER[0]
OWN_FROM = 32  # numbers below are the runtime's


def by_number(number: int) -> ElementType:
    """Return the type with this number; one that only a newer version knows is named ``type-N``."""
    return BY_NUMBER.get(number) or ElementType(number, f"type-{number}", 0)


_NUMPYS_OWN = {entry.dtype: entry for name, entry in _BY_NUMPY.items() if not name.startswith(_OF_ML_DTYPES)}


@cache
def _by_dtype() -> dict[np.dtype[np.generic] | None, ElementType]:
    return {entry.dtype: entry for entry in _BY_NUMPY.values()}


# The same as arrays, for many entries at once; a number beyond the table is an unknown type.
_SLOTS = max(BY_NUMBER) + 2
_BITS, _GROUP, _GROUP_NBYTES = (np.zeros(_SLOTS, dtype=np.int64) for _ in range(3))
_WHOLE, _PLAIN = (np.zeros(_SLOTS, dtype=np.bool_) for _ in range(2))
for _type in _ALL:
    _BITS[_type.number] = _type.bits
    _GROUP[_type.number] = _type.group
    _GROUP_NBYTES[_type.number] = _type.group_nbytes
    _WHOLE[_type.number] = _type.whole
    _PLAIN[_type.number] = _type.numpy is not None


def type_of(dtype: np.dtype[np.generic]) -> ElementType:
    """Return the element type that stores a numpy dtype unchanged.

    Raises:
        UsageError: ``unsupported-dtype``.
    """
    try:
        stored = dtype.newbyteorder("<")
        return _NUMPYS_OWN.get(stored) or _by_dtype()[stored]
    except (KeyError, TypeError):
        raise _unsupported(dtype) from None


def dtype_named(name: str) -> np.dtype[np.generic]:
    """Return the numpy dtype of this name, such as ``bfloat16``, if an element type stores it unchanged.

    Raises:
        UsageError: ``unsupported-dtype``.
    """
    dtype = _BY_NUMPY[name].dtype if name in _BY_NUMPY else None
    if dtype is None:
        raise _unsupported(name)
    return dtype


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
    known = ", ".join(entry.name for entry in _BY_NUMPY.values())
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
