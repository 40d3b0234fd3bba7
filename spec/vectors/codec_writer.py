"""A second implementation of the element codecs, written from spec/codecs.md alone, to be read beside it.

It shares no code with the package and needs nothing but Python. Values are f32 bit patterns ("words"), so they hide no
rounding. All arithmetic is exact, in fractions, and rounded where the page says so: slow, but unambiguous. It checks
nothing; the cases cover what an encoder or a decoder must refuse.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

Words = list[int]  # f32 bit patterns
INFINITY = 0x7F800000


def number(word: int) -> float:
    """The value of an f32 bit pattern."""
    return float(struct.unpack("<f", struct.pack("<I", word))[0])


def words_of(*values: float) -> Words:
    """The bit patterns of f32 values."""
    return [int(struct.unpack("<I", struct.pack("<f", value))[0]) for value in values]


def word_bytes(words: Sequence[int]) -> bytes:
    """Words as bytes in memory, little-endian."""
    return struct.pack(f"<{len(words)}I", *words)


def rounded(value: Fraction) -> float:
    """The f32 nearest to an exact value, ties to even; subnormals are kept, values too large become infinite."""
    if not value:
        return 0.0
    exponent = math.frexp(float(value))[1]  # |value| < 2**exponent, give or take a rounding of float()
    while abs(value) >= Fraction(2) ** exponent:
        exponent += 1
    while abs(value) < Fraction(2) ** (exponent - 1):
        exponent -= 1
    unit = Fraction(2) ** max(exponent - 24, -149)
    nearest = float(round(value / unit) * unit)  # round() of a fraction rounds to even; the product is exact
    if abs(nearest) >= 2.0**128:
        nearest = math.inf
    return math.copysign(nearest, value)


# ---------------------------------------------------------------------------------------------------------------- f32


def encode_f32(words: Sequence[int]) -> bytes:
    """As it is."""
    return word_bytes(words)


def decode_f32(data: bytes, n: int) -> Words:
    """As it is."""
    return list(struct.unpack_from(f"<{n}I", data))


# --------------------------------------------------------------------------------------------------------------- bf16


def bf16_pattern(word: int) -> int:
    """The upper half, rounded to nearest even. A NaN stays a NaN, here a quiet one."""
    if word & 0x7FFFFFFF > INFINITY:
        return word >> 16 | 0x40
    upper, lower = word >> 16, word & 0xFFFF
    return upper + (lower > 0x8000 or (lower == 0x8000 and upper & 1))


def bf16(value: float) -> float:
    """An f32 rounded to bf16."""
    return number(bf16_pattern(words_of(value)[0]) << 16)


def encode_bf16(words: Sequence[int]) -> bytes:
    """Two bytes for each value."""
    return struct.pack(f"<{len(words)}H", *map(bf16_pattern, words))


def decode_bf16(data: bytes, n: int) -> Words:
    """Append sixteen zero bits to each."""
    return [pattern << 16 for pattern in struct.unpack_from(f"<{n}H", data)]


# ---------------------------------------------------------------------------------------------------------------- sfp

SFP_LARGEST = 1.875
SFP_SMALLEST = Fraction(5, 4) / 2**23
SFP_SWITCH = Fraction(0b11111, 16) / 2**8  # 1.1111 · 2^-8
SFP_RESERVED = 0x80


def sfp_magnitude(code: int) -> Fraction:
    """The table of the page: the magnitude of the lower seven bits."""
    if code == 0:
        return Fraction(0)
    if code < 0x40:
        return (1 + Fraction(code % 4, 4)) * Fraction(2) ** (code // 4 - 23)
    return (1 + Fraction(code % 8, 8)) * Fraction(2) ** ((code - 64) // 8 - 7)


SFP_CODES = {sfp_magnitude(code): code for code in range(0x80)}


@cache
def sfp_word(code: int) -> int:
    """The f32 bit pattern of a code."""
    return words_of(float(sfp_magnitude(code & 0x7F)))[0] | (code & 0x80) << 24


@cache
def sfp_code(pattern: int) -> int:
    """The code of a bf16 pattern whose magnitude is at most 1.875: steps 2 to 4 of the page."""
    magnitude = Fraction(number((pattern & 0x7FFE) << 16))
    if not magnitude:
        return 0
    bits = 3 if magnitude >= SFP_SWITCH else 2
    exponent = math.frexp(float(magnitude))[1] - 1
    unit = Fraction(2) ** (exponent - bits)
    nearest = round(magnitude / unit) * unit
    if nearest < Fraction(2) ** -23:
        return 0
    return SFP_CODES[max(nearest, SFP_SMALLEST)] | (pattern >> 8 & 0x80)


def sfp_scale(words: Sequence[int]) -> float:
    """1.0, or m / 1.875 in f32, for the largest magnitude m."""
    largest = max((number(word & 0x7FFFFFFF) for word in words), default=0.0)
    return rounded(Fraction(largest) / Fraction(SFP_LARGEST)) if largest > SFP_LARGEST else 1.0


def encode_sfp(words: Sequence[int]) -> bytes:
    """One code for each value, divided by the scale that the values need."""
    scale = sfp_scale(words)
    if scale != 1.0:
        inverse = Fraction(rounded(Fraction(1.0 / scale)))  # the division is in f64
        scaled = [rounded(Fraction(number(word)) * inverse) for word in words]
        words = words_of(*(max(-SFP_LARGEST, min(value, SFP_LARGEST)) for value in scaled))
    return bytes(sfp_code(word >> 16) for word in words)


def decode_sfp(data: bytes, n: int) -> Words:
    """Before the scale."""
    return [sfp_word(code) for code in data[:n]]


# ----------------------------------------------------------------------------------------------------------------- i8


def encode_i8(words: Sequence[int]) -> bytes:
    """Groups of 128 values."""
    out = bytearray()
    for start in range(0, len(words), 128):
        values = [Fraction(number(word)) for word in words[start : start + 128]]
        extent = rounded(max(values) - min(values)) or 1.0
        s = rounded(255 / Fraction(extent))
        z = float(math.trunc(rounded(Fraction(rounded(-Fraction(s) * min(values))) - 128)))
        factor, zero = Fraction(bf16(s)), Fraction(bf16(z))
        out += encode_bf16(words_of(rounded(1 / Fraction(s)), z))
        for value in values:
            code = round(Fraction(rounded(factor * value + zero)))
            out += struct.pack("<b", max(-128, min(code, 127)))
    return bytes(out)


def decode_i8(data: bytes, n: int) -> Words:
    """Groups whose inverse scale and zero point are finite."""
    values = []
    for group in range(0, n, 128):
        at = group // 128 * 132
        inverse, zero = (Fraction(number(word)) for word in decode_bf16(data[at : at + 4], 2))
        shift = Fraction(rounded(-zero * inverse))
        codes = struct.unpack_from(f"<{min(128, n - group)}b", data, at + 4)
        values += [rounded(inverse * code + shift) for code in codes]
    return words_of(*values)


# ---------------------------------------------------------------------------------------------------------------- nuq


def decode_nuq(data: bytes, n: int) -> Words:
    """Groups of 256 values: a table of sfp codes, then an index for each value, the low nibble first."""
    words = []
    for group in range(0, n, 256):
        at = group // 256 * 144
        table = decode_sfp(data[at : at + 16], 16)
        for i in range(min(256, n - group)):
            packed = data[at + 16 + i // 2]
            words.append(table[packed >> 4 if i % 2 else packed & 15])
    return words


# --------------------------------------------------------------------------------------------------------------- q4_0


def product(a: float, b: float) -> float:
    """In f32; a zero has the sign of a product."""
    return math.copysign(rounded(Fraction(a) * Fraction(b)), math.copysign(1.0, a) * math.copysign(1.0, b))


def nibbles(codes: Sequence[int]) -> bytes:
    """Sixteen bytes of 32 codes."""
    return bytes(low | high << 4 for low, high in zip(codes[:16], codes[16:], strict=True))


def codes_of(packed: bytes) -> list[int]:
    """The 32 codes of sixteen bytes."""
    return [byte & 15 for byte in packed] + [byte >> 4 for byte in packed]


def encode_q4_0(words: Sequence[int]) -> bytes:
    """Blocks of 32 values; zeros fill the last."""
    out = bytearray()
    for start in range(0, len(words), 32):
        values = [number(word) for word in words[start : start + 32]]
        values += [0.0] * (32 - len(values))
        d = rounded(Fraction(max(values, key=abs)) / -8)  # max() returns the first
        inverse = rounded(1 / Fraction(d)) if d else math.inf
        if math.isinf(inverse):
            d, inverse = -0.0, 0.0
        out += encode_bf16(words_of(d))
        sums = (rounded(Fraction(product(value, inverse)) + Fraction(17, 2)) for value in values)
        out += nibbles([min(15, math.floor(total)) for total in sums])
    return bytes(out)


def decode_q4_0(data: bytes, n: int) -> Words:
    """Blocks whose factor is finite."""
    values = []
    for at in range(0, -(-n // 32) * 18, 18):
        d = number(decode_bf16(data[at : at + 2], 1)[0])
        values += [product(float(code - 8), d) for code in codes_of(data[at + 2 : at + 18])]
    return words_of(*values[:n])


# -------------------------------------------------------------------------------------------------------------- mxfp4

MXFP4_RESERVED = 0xFF


def decode_mxfp4(data: bytes, n: int) -> Words:
    """Blocks of 32 values: a power of two, then four bits for each."""
    values = []
    for at in range(0, -(-n // 32) * 17, 17):
        scale = Fraction(2) ** (data[at] - 127) if data[at] else Fraction(0)
        for code in codes_of(data[at + 1 : at + 17]):
            exponent, half = code >> 1 & 3, code & 1
            magnitude = (1 + Fraction(half, 2)) * 2**exponent / 2 if exponent else Fraction(half, 2)
            values.append(math.copysign(rounded(magnitude * scale), -1.0 if code & 8 else 1.0))
    return words_of(*values[:n])


# ----------------------------------------------------------------------------------------------------------- together


@dataclass(frozen=True)
class Codec:
    """Both directions of one type."""

    encode: Callable[[Sequence[int]], bytes] | None
    decode: Callable[[bytes, int], Words]


CODECS = {
    "f32": Codec(encode_f32, decode_f32),
    "bf16": Codec(encode_bf16, decode_bf16),
    "sfp": Codec(encode_sfp, decode_sfp),
    "i8": Codec(encode_i8, decode_i8),
    "nuq": Codec(None, decode_nuq),
    "q4_0": Codec(encode_q4_0, decode_q4_0),
    "mxfp4": Codec(None, decode_mxfp4),
}
