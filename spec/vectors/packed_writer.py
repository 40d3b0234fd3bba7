"""A second implementation of packed blobs, written from spec/packed.md alone, to be read beside it.

It shares no code with the package and needs nothing but Python. Its Zstandard frames have raw and run-length blocks,
which need no compressor; frames with compressed blocks are recorded in packed_cases.py. It checks nothing.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

WORD = (1 << 64) - 1
PRIMES = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)


def rotated(value: int, bits: int) -> int:
    """A 64-bit word rotated to the left."""
    value &= WORD
    return (value << bits | value >> (64 - bits)) & WORD


def xxh64(data: bytes) -> int:
    """The hash that ends a frame, with seed 0."""
    one, two, three, four, five = PRIMES

    def mixed(lane: int, word: int) -> int:
        return rotated(lane + word * two, 31) * one & WORD

    place, value = 0, five
    if len(data) >= 32:
        lanes = [one + two, two, 0, -one]
        while place + 32 <= len(data):
            lanes = [
                mixed(lane, word) for lane, word in zip(lanes, struct.unpack_from("<4Q", data, place), strict=True)
            ]
            place += 32
        value = sum(rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & WORD
        for lane in lanes:
            value = ((value ^ mixed(0, lane)) * one + four) & WORD
    value += len(data)
    while place + 8 <= len(data):
        value ^= mixed(0, struct.unpack_from("<Q", data, place)[0])
        value = rotated(value, 27) * one + four
        place += 8
    if place + 4 <= len(data):
        value ^= struct.unpack_from("<I", data, place)[0] * one
        value = rotated(value, 23) * two + three
        place += 4
    for byte in data[place:]:
        value = rotated((value & WORD) ^ byte * five & WORD, 11) * one
    value &= WORD
    for bits, prime in ((33, two), (29, three), (32, 1)):
        value = (value ^ value >> bits) * prime & WORD
    return value


def block(data: bytes, *, last: bool, run: bool = False) -> bytes:
    """A raw block, or one of a repeated byte."""
    head = last | run << 1 | len(data) << 3
    return head.to_bytes(3, "little") + (data[:1] if run else data)


def frame(data: bytes, *, size_width: int | None = None, runs: bool = True, pieces: int = 1) -> bytes:
    """A single-segment frame with a checksum."""
    width = size_width or (1 if len(data) < 256 else 2 if len(data) < 256 + 65536 else 4)
    size = (len(data) - (256 if width == 2 else 0)).to_bytes(width, "little")
    descriptor = {1: 0, 2: 1, 4: 2, 8: 3}[width] << 6 | 0x24
    step = -(-len(data) // pieces)
    blocks = b""
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        run = runs and len(piece) > 1 and len(set(piece)) == 1
        blocks += block(piece, last=start + step >= len(data), run=run)
    checksum = struct.pack("<I", xxh64(data) & 0xFFFFFFFF)
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + size + blocks + checksum


def planes(data: bytes, width: int, *, signed: bool) -> list[bytes]:
    """Planes of whole elements, from the highest byte to the lowest."""
    words = [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]
    if signed:
        low = 8 * width - 9  # where the sign moves to
        rest = (1 << low) - 1
        words = [(word << 1 & ~rest << 1 & (1 << 8 * width) - 1) | word >> 8 * width - 1 << low | word & rest
                 for word in words]  # fmt: skip
    return [bytes(word >> 8 * place & 0xFF for word in words) for place in reversed(range(width))]


def pairs(plane: bytes, base: int, more: Sequence[tuple[int, int]] = (), unused: int = 0, kind: int = 0) -> bytes:
    """The pairs of a plane with placed escapes; more escapes (place and byte) and an unused code may be added."""
    codes = [(one - base) % 256 for one in plane]
    needed = [(place, one) for place, one in enumerate(plane) if codes[place] > 15]
    escapes = sorted([*more, *needed], key=lambda one: one[0])
    gaps = [place - last for (last, _), (place, _) in zip([(0, 0), *escapes], escapes, strict=False)]
    tail = struct.pack(f"<{len(gaps)}H", *gaps) + bytes(one for _, one in escapes)
    return halves([code if code < 16 else 0 for code in codes], unused) + bytes([base, kind]) + tail


def marked_pairs(plane: bytes, base: int, escaped: bytes | None = None) -> bytes:
    """The pairs of a plane with marked escapes, which may be replaced by others."""
    codes = [min((one - base) % 256, 15) for one in plane]
    escapes = bytes(one for one, code in zip(plane, codes, strict=True) if code == 15)
    return halves(codes, 0) + bytes([base, 1]) + (escapes if escaped is None else escaped)


def halves(codes: Sequence[int], unused: int) -> bytes:
    """Codes of the lower half in the lower bits, of the upper half in the upper bits."""
    half = (len(codes) + 1) // 2
    upper = [*codes[half:], unused]
    return bytes(low | high << 4 for low, high in zip(codes[:half], upper, strict=False))


@dataclass(frozen=True)
class Packed:
    """A packed blob, in which faults can be planted.

    Attributes:
        data: The unpacked bytes.
        width: Bytes per element.
        signed: Whether the sign is moved.
        chunk: Elements per chunk.
        base: The base, if it is a difference.
        base_sha256: SHA-256 of the base.
    """

    data: bytes
    width: int
    signed: bool = False
    chunk: int = 1 << 17
    base: bytes | None = None
    base_sha256: bytes = bytes(32)

    def planes(self) -> list[bytes]:
        """All planes, in the order of their frames."""
        body = self.data[: len(self.data) - len(self.data) % self.width]
        if self.base is not None:
            body = bytes(one ^ other for one, other in zip(body, self.base, strict=False))
        step = self.chunk * self.width
        return [
            plane
            for start in range(0, len(body), step)
            for plane in planes(body[start : start + step], self.width, signed=self.signed)
        ]

    def header(self, **other: int | bytes) -> bytes:
        """The header; fields may be given other values."""
        tail = self.data[len(self.data) - len(self.data) % self.width :]
        fields: dict[str, int | bytes] = {
            "magic": b"SBSPACKD", "version": 1, "flags": int(self.base is not None), "nbytes": len(self.data),
            "width": self.width, "signed": int(self.signed), "reserved": 0, "chunk": self.chunk, "tail": tail,
            "base_sha256": self.base_sha256, "reserved_2": 0,
        }  # fmt: skip
        crc = other.pop("crc", None)
        head = struct.pack("<8sIIQBBHI8s32sI", *(fields | other).values())
        return head + struct.pack("<I", zlib.crc32(head) if crc is None else crc)

    def stream(self, frames: Sequence[bytes] | None = None, header: bytes | None = None) -> bytes:
        """The whole stream; frames and header may be replaced."""
        made = [frame(plane) for plane in self.planes()] if frames is None else frames
        return (self.header() if header is None else header) + b"".join(made) + table([len(one) for one in made])


def table(sizes: Sequence[int]) -> bytes:
    """The frames' sizes and their CRC."""
    made = struct.pack(f"<{len(sizes)}I", *sizes)
    return made + struct.pack("<I", zlib.crc32(made))
