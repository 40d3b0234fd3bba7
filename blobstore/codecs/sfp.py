"""sfp, "switching floating point", 8 bits: a sign, and 3 mantissa bits from 2⁻⁷ up, 2 below.

Both directions are table look-ups: a code for each of the 65,536 bfloat16 patterns, and a pattern for each code; codes
are looked up in pairs.

Spec: spec/codecs.md, sfp.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import CodecError

if TYPE_CHECKING:
    import numpy.typing as npt

    from blobstore.fileio.types import Array, Bytes

LARGEST = np.float32(1.875)
RESERVED = 0x80  # would be minus zero

# Biased exponents of f32: the lowest is 2⁻²³'s, and from 2⁻⁷ on a mantissa has three bits.
_LOWEST, _SWITCH = 127 - 23, 127 - 7
_FIRST_LARGE = 0x40  # code of 2⁻⁷
_ROUNDS_TO_SWITCH = (_SWITCH - 1 << 7) + 0x78  # 1.1111 · 2⁻⁸: from here on three bits are kept, which rounds up to 2⁻⁷


def scale_of(largest: np.float32) -> float:
    """Return the scale for values whose largest magnitude is this."""
    return float(largest / LARGEST) if largest > LARGEST else 1.0


def encode_piece(values: Array, scale: float) -> Bytes:
    """Return one code for each value divided by ``scale``; all values are finite.

    The lower half of an f32 is cut off before the look-up, not rounded.
    """
    if scale != 1.0:
        inverse = np.float32(1.0 / np.float64(scale))
        values = values.astype(np.float32) * inverse
        np.clip(values, -LARGEST, LARGEST, out=values)
    if values.dtype == np.float32:
        patterns = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    else:
        patterns = values.view(np.uint16)
    # mode="clip" makes it fast; nothing is out of range.
    return np.take(encoding_table(), patterns, mode="clip")


def decode_piece(data: Bytes, count: int, out: Array) -> None:
    """Decode ``count`` codes into ``out``, float32 or bfloat16; both are exact.

    Raises:
        CodecError: ``sfp-reserved-code`` when a code is 0x80.
    """
    codes = data[:count]
    if (codes == RESERVED).any():  # where isn't known here: these may be values from anywhere in a tensor
        raise CodecError("sfp-reserved-code", "a code is 0x80, which has no value")
    if out.dtype == np.float32:
        np.take(_decoding_table_f32(), codes, out=out, mode="clip")
        return
    patterns = out.view(np.uint16)
    pairs = count // 2
    if pairs and not patterns.ctypes.data % 4:
        even = 2 * pairs
        np.take(_pair_table(), codes[:even].view(np.uint16), out=patterns[:even].view(np.uint32), mode="clip")
        codes, patterns = codes[even:], patterns[even:]
    np.take(decoding_table(), codes, out=patterns, mode="clip")


@cache
def encoding_table() -> Bytes:
    """Return the code of each bfloat16 pattern, shape (65536,); meaningful for magnitudes up to 1.875."""
    patterns = np.arange(1 << 16)
    # The lowest of the seven mantissa bits is ignored in rounding.
    magnitude = patterns & 0x7FFE

    def rounded(bits: int) -> npt.NDArray[np.int64]:
        half_up = (1 << (bits - 1)) - 1 + ((magnitude >> bits) & 1)
        return (magnitude + half_up) >> bits

    large = rounded(4) - (_SWITCH << 3) + _FIRST_LARGE
    small = rounded(5) - (_LOWEST << 2)
    # 1.0 · 2⁻²³ would get the code of zero: it is rounded up.
    small = np.where(small == 0, 1, np.maximum(small, 0))
    codes = np.where(magnitude >= _ROUNDS_TO_SWITCH, large, small) & 0x7F
    table = np.where(codes == 0, 0, codes | (patterns >> 8 & 0x80)).astype(np.uint8)
    table.flags.writeable = False
    return table


@cache
def decoding_table() -> npt.NDArray[np.uint16]:
    """Return the bfloat16 pattern of each code, shape (256,); 0x80 is zero here."""
    codes = np.arange(256)
    magnitude = codes & 0x7F
    large = (magnitude - _FIRST_LARGE << 4) + (_SWITCH << 7)
    small = (magnitude << 5) + (_LOWEST << 7)
    patterns = np.where(magnitude >= _FIRST_LARGE, large, small) | (codes & 0x80) << 8
    table = np.where(magnitude == 0, 0, patterns).astype(np.uint16)
    table.flags.writeable = False
    return table


@cache
def _decoding_table_f32() -> npt.NDArray[np.float32]:
    return (decoding_table().astype(np.uint32) << np.uint32(16)).view(np.float32)


@cache
def _pair_table() -> npt.NDArray[np.uint32]:
    """Return two patterns for each pair of codes: half as many look-ups."""
    single = decoding_table().astype(np.uint32)
    pairs = np.arange(1 << 16)
    table: npt.NDArray[np.uint32] = single[pairs & 0xFF] | single[pairs >> 8] << np.uint32(16)
    return table
