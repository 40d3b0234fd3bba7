"""The cases of packed.json: packed blobs and the bytes that they unpack to, and what must be refused."""

import hashlib
import struct
from typing import Any

from packed_writer import Packed, block, frame, marked_pairs, pairs, table, xxh64
from sbs_writer import payload

Fact = dict[str, Any]


def falling(seed: int, count: int) -> bytes:
    """Exponents like those of weights: 119, and each lower one half as often, down to 111."""
    return bytes(120 - ((one | 256) & -(one | 256)).bit_length() for one in payload(seed, count))


# Zstandard 1.5.7's frame for falling(7, 300): one block of literals, in Huffman codes.
HUFFMAN = bytes.fromhex(
    "28b52ffd642c002d0300328f1209d0a50349ee0700a0b5e995a4231c9e6d995694f5501813ee946d434cd29c2d3c5a4d9676a5f234611b3d3462ba2aa51bab6219b902688c9975ab1e4eb4a688b06472cced2b8c0d590709005a99f0e6422fb880b3cf3048b490497184d05cb90577cc27a1c9"
)
# Its frame for b"weights " forty times: a block with a match.
MATCH = bytes.fromhex("28b52ffd6440007d0000407765696768747320010035d5cb05f8278d86")


def words(*values: int) -> bytes:
    """16-bit values."""
    return struct.pack(f"<{len(values)}H", *values)


def bf16(exponents: bytes, rest: bytes) -> bytes:
    """Bit patterns from exponents, and from bytes of sign and mantissa."""
    pairs = zip(exponents, rest, strict=True)
    return words(*(exponent << 7 | low & 0x7F | (low & 0x80) << 8 for exponent, low in pairs))


EXAMPLE = Packed(words(0x3F80, 0xBFC0, 0x3F80, 0x3F00, 0x3F40), 2, signed=True, chunk=4)
WEIGHTS = Packed(bf16(falling(7, 300), payload(8, 300)), 2, signed=True)
BYTES = Packed(payload(1, 300), 1)
BASE = payload(2, 40)
NEAR = bytes(one ^ (place % 7 == 0) for place, one in enumerate(BASE))
SHA = hashlib.sha256(BASE).digest()
NANS = words(0x7F80, 0xFF80, 0x7FC0, 0xFFC0, 0x7F81, 0xFF81, 0x7FFF, 0xFFFF, 0x0001, 0x8001, 0x8000, 0)


def packed_vectors() -> dict[str, list[Fact]]:
    """All cases."""
    return {"packed_valid": valid(), "packed_invalid": invalid(), "packed_bases": bases()}


def fact(name: str, of: Packed, stored: bytes, said: str) -> Fact:
    """A valid case."""
    facts: Fact = {"name": name, "description": said, "width": of.width, "signed": of.signed, "chunk": of.chunk}
    if of.base is not None:
        facts |= {"base": of.base.hex(), "base_sha256": of.base_sha256.hex()}
    return facts | {"stored": stored.hex(), "bytes": of.data.hex()}


def valid() -> list[Fact]:
    """What a reader must read."""
    plain = [
        ("example", EXAMPLE, "five values of bf16 in chunks of four, as on the page"),
        ("empty", Packed(b"", 2, signed=True), "no bytes, no frames"),
        ("tail-only", Packed(b"\x01\x02\x03", 4), "fewer bytes than an element has: no frames"),
        ("tail", Packed(payload(3, 23), 8, signed=True, chunk=1), "two elements, each a chunk, and seven bytes"),
        ("bytes", BYTES, "bytes that don't shrink"),
        ("bytes-of-one-value", Packed(bytes([7]) * 5000, 1, chunk=1 << 20), "a run; the largest chunk"),
        ("u16", Packed(payload(4, 64), 2, chunk=10), "integers: no sign is moved; the last chunk is shorter"),
        ("f32", Packed(payload(5, 64), 4, signed=True), "four planes"),
        ("f64", Packed(payload(6, 64), 8, signed=True, chunk=5), "eight planes"),
        ("nan", Packed(NANS, 2, signed=True), "infinities, NaNs with payloads, subnormals, zeros of both signs"),
        ("delta", Packed(NEAR, 2, signed=True, base=BASE, base_sha256=SHA, chunk=6), "most bytes are the base's"),
        ("delta-none", Packed(BASE, 1, base=BASE, base_sha256=SHA), "all bytes are the base's"),
        ("delta-tail", Packed(NEAR[:39], 4, base=BASE[:39], base_sha256=hashlib.sha256(BASE[:39]).digest()),
         "the last three bytes are those of the data, not a difference"),
    ]  # fmt: skip
    made = [fact(name, of, of.stream(), said) for name, of, said in plain]
    low = WEIGHTS.planes()[1]
    made.append(fact("huffman", WEIGHTS, WEIGHTS.stream([HUFFMAN, frame(low)]), "a frame of Huffman codes"))
    made += [fact(name, of, of.stream([frame(one) for one in contents]), said) for name, of, contents, said in paired()]
    repeated = Packed(b"weights " * 40, 1)
    made.append(fact("match", repeated, repeated.stream([MATCH]), "a frame with a match"))
    for width in (2, 4, 8):
        stored = BYTES.stream([frame(BYTES.data, size_width=width)])
        made.append(fact(f"size-{width}", BYTES, stored, f"a content size of {width} bytes"))
    made.append(fact("blocks", BYTES, BYTES.stream([frame(BYTES.data, pieces=7)]), "a frame of seven blocks"))
    return made


def paired() -> list[tuple[str, Packed, list[bytes], str]]:
    """Planes that are stored as pairs."""
    high, low = WEIGHTS.planes()
    odd = bytes([9, 12, 10, 23, 11, 9, 24])
    far = Packed(high[:20] + b"\0" + high[21:60] + b"\xff" + high[61:], 1)
    chunks = Packed(WEIGHTS.data, 2, signed=True, chunk=110)
    mixed = [pairs(one, 106) if place in (0, 4) else one for place, one in enumerate(chunks.planes())]
    around = Packed(bytes((one - 115) % 256 for one in high), 1)
    wide = Packed(
        struct.pack("<6I", 0x3F800000, 0xBF000001, 0x3F400002, 0x3F000003, 0x3F800005, 0x3E800004), 4, signed=True
    )
    first, *others = wide.planes()
    return [
        ("pairs", WEIGHTS, [pairs(high, 106), low], "exponents in pairs"),
        ("pairs-odd", Packed(odd, 1), [pairs(odd, 9)], "seven bytes: the middle one has no other half"),
        ("pairs-escapes", far, [pairs(far.data, 107)], "one byte is too small, one too large"),
        ("pairs-many-escapes", Packed(high, 1), [pairs(high, 117)], "one byte in nine escapes"),
        ("pairs-needless", far, [pairs(far.data, 107, [(0, far.data[0]), (33, far.data[33])])], "two needn't escape"),
        ("pairs-twice", far, [pairs(far.data, 107, [(60, 1), (60, 2)])], "three escapes at one place: the last counts"),
        ("pairs-marked", far, [marked_pairs(far.data, 107)], "the same two, marked"),
        ("pairs-marked-many", Packed(high, 1), [marked_pairs(high, 117)], "one byte in nine is marked"),
        ("pairs-around", around, [pairs(around.data, 250)], "a base from which codes lead around to 0"),
        ("pairs-chunks", chunks, mixed, "some chunks in pairs, others not; the last one is shorter"),
        ("pairs-f32", wide, [marked_pairs(first, 120), *others], "six elements: pairs have at least so many"),
    ]


def invalid() -> list[Fact]:
    """What a reader must refuse; cases with "read" only when the bytes are read."""
    right = EXAMPLE.stream()
    opened = [
        ("empty", "packed-truncated", b"", "nothing at all"),
        ("short", "packed-truncated", right[:83], "shorter than a header and the check of a table"),
        ("magic", "packed-magic", EXAMPLE.stream(header=EXAMPLE.header(magic=b"SBSINDEX")), "another magic"),
        ("version", "packed-version", EXAMPLE.stream(header=EXAMPLE.header(version=2)), "version 2"),
        ("header", "packed-header", EXAMPLE.stream(header=EXAMPLE.header(crc=0)), "another CRC of the header"),
        ("flags", "packed-flags", EXAMPLE.stream(header=EXAMPLE.header(flags=2)), "an unknown flag"),
        ("width", "packed-layout", EXAMPLE.stream(header=EXAMPLE.header(width=3)), "elements of three bytes"),
        ("width-0", "packed-layout", EXAMPLE.stream(header=EXAMPLE.header(width=0)), "elements of no bytes"),
        ("signed", "packed-layout", EXAMPLE.stream(header=EXAMPLE.header(signed=2)), "a sign of 2"),
        ("signed-byte", "packed-layout", BYTES.stream(header=BYTES.header(signed=1)), "a sign in single bytes"),
        ("chunk-0", "packed-chunk", EXAMPLE.stream(header=EXAMPLE.header(chunk=0)), "chunks of no elements"),
        ("chunk", "packed-chunk", BYTES.stream(header=BYTES.header(chunk=(1 << 20) + 1)), "too large chunks"),
        ("reserved", "packed-reserved", EXAMPLE.stream(header=EXAMPLE.header(reserved=1)), "a reserved field"),
        ("reserved-2", "packed-reserved", EXAMPLE.stream(header=EXAMPLE.header(reserved_2=1)), "the other one"),
        ("tail", "packed-reserved", EXAMPLE.stream(header=EXAMPLE.header(tail=b"\1")), "a tail that is none"),
        ("base", "packed-reserved", EXAMPLE.stream(header=EXAMPLE.header(base_sha256=SHA)), "a base without the flag"),
        ("nbytes", "packed-table", EXAMPLE.stream(header=EXAMPLE.header(nbytes=(1 << 64) - 2)), "2⁶⁴ − 2 bytes"),
        ("no-frames", "packed-table", EXAMPLE.stream([]), "neither frames nor their table"),
        ("cut", "packed-table-crc", right[:-5], "five bytes are missing at the end"),
        ("table", "packed-table-crc", right[:-1] + bytes([right[-1] ^ 1]), "another CRC of the table"),
        ("sizes", "packed-sizes", BYTES.header() + frame(BYTES.data) + table([len(frame(BYTES.data)) - 1]),
         "a byte between the frame and the table"),
        ("size-small", "packed-sizes",
         EXAMPLE.header() + bytes(56) + table([13, 15, 14, 14]), "a frame of 13 bytes"),
    ]  # fmt: skip
    made: list[Fact] = [{"name": name, "reason": reason, "description": said, "stored": stored.hex()}
            for name, reason, stored, said in opened]  # fmt: skip
    content = BYTES.data
    good = frame(content)
    head, body, checksum = good[:7], good[7:-4], good[-4:]
    wrong = struct.pack("<I", xxh64(content) & 0xFFFFFFFF ^ 1)
    read = [
        ("frame-magic", "packed-frame", b"\x27" + good[1:], "another magic"),
        ("frame-skippable", "packed-frame", b"\x50\x2a\x4d\x18" + struct.pack("<I", 300) + content, "a frame to skip"),
        ("frame-size", "packed-frame", frame(content + b"\0"), "a byte more than the plane has"),
        ("frame-bomb", "packed-frame", bytes.fromhex("28b52ffda400000080") + block(bytes(1 << 20), last=True, run=True)
         + bytes(4), "2 GiB, it says"),
        ("frame-no-checksum", "packed-frame", head[:4] + b"\x60" + head[5:] + body, "no checksum"),
        ("frame-dictionary", "packed-frame", head[:4] + b"\x65\x01" + head[5:] + body + checksum, "a dictionary"),
        ("frame-window", "packed-frame", head[:4] + b"\x44\x38" + head[5:] + body + checksum, "a window"),
        ("frame-unused", "packed-frame", head[:4] + b"\x74" + head[5:] + body + checksum, "the unused bit"),
        ("data-checksum", "packed-data", head + body + wrong, "another checksum"),
        ("data-flipped", "packed-data", head + body[:-1] + bytes([body[-1] ^ 1]) + checksum, "another last byte"),
        ("data-short", "packed-data", head + block(content[:299], last=True) + checksum, "fewer bytes than it says"),
        ("data-long", "packed-data", head + block(content + b"\0", last=True) + checksum, "more bytes than it says"),
        ("data-no-last", "packed-data", head + block(content, last=False) + checksum, "no last block"),
        ("data-behind", "packed-data", good + b"\0", "a byte behind the frame"),
        ("data-two", "packed-data", good + frame(b"more"), "another frame behind it"),
        ("data-cut", "packed-data", good[:-1], "a byte less"),
        ("frame-half", "packed-frame", frame(content[:150]), "as many bytes as pairs have without their base"),
        ("pairs-cut", "packed-pairs", frame(pairs(bytes(300), 0, [(7, 1)])[:-1]), "a part of an escape"),
        ("pairs-behind", "packed-pairs", frame(pairs(bytes(300), 0, [(300, 1)])), "an escape behind the last byte"),
        ("pairs-far", "packed-pairs", frame(pairs(bytes(300), 0, [(40_000, 1), (80_000, 1)])), "two far behind it"),
        ("pairs-kind", "packed-pairs", frame(pairs(bytes(300), 0, kind=2)), "escapes of another kind"),
        ("pairs-more", "packed-pairs", frame(marked_pairs(content, 9, bytes(5))), "more marks than escapes"),
        ("pairs-fewer", "packed-pairs", frame(marked_pairs(bytes(300), 0, b"\1")), "an escape that no mark asks for"),
    ]  # fmt: skip
    for name, reason, one, said in read:
        stored = BYTES.stream([one])
        made.append({"name": name, "reason": reason, "description": said, "read": True, "stored": stored.hex()})
    odd = Packed(bytes(301), 1)
    made.append({"name": "pairs-unused", "reason": "packed-pairs", "description": "a code of no byte", "read": True,
                 "stored": odd.stream([frame(pairs(odd.data, 0, unused=1))]).hex()})  # fmt: skip
    return made


def bases() -> list[Fact]:
    """Faults of the base that is given for a stream, not of the stream."""
    near = Packed(NEAR, 2, signed=True, base=BASE, base_sha256=SHA, chunk=6).stream()
    same = Packed(BASE, 1, base=BASE, base_sha256=SHA).stream()
    cases: list[tuple[str, str, bytes, bytes | None, str]] = [
        ("none", "needs-base", near, None, "a difference, and no base"),
        ("empty", "wrong-base", near, b"", "a base of no bytes"),
        ("short", "wrong-base", near, BASE[:-1], "a byte too few"),
        ("long", "wrong-base", near, BASE + b"\0", "a byte too many"),
        ("flipped", "wrong-base", near, BASE[:-1] + bytes([BASE[-1] ^ 1]), "another last byte"),
        ("itself", "wrong-base", near, NEAR, "what the stream stands for"),
        ("same-flipped", "wrong-base", same, bytes([BASE[0] ^ 1]) + BASE[1:], "another first byte; all are the base's"),
        ("needless", "needless-base", BYTES.stream(), BYTES.data, "no difference, and a base of its size"),
    ]
    return [
        {"name": name, "reason": reason, "description": said, "stored": stored.hex()}
        | ({} if base is None else {"base": base.hex()})
        for name, reason, stored, base, said in cases
    ]
