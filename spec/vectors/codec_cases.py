"""The cases of codecs.json: inputs, stored bytes and outputs as bit patterns, and what must be refused."""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from codec_writer import (
    CODECS,
    MXFP4_RESERVED,
    SFP_LARGEST,
    SFP_RESERVED,
    decode_sfp,
    number,
    rounded,
    sfp_code,
    sfp_scale,
    word_bytes,
    words_of,
)
from gemma_writer import toc, toc_entry
from sbs_writer import payload, stored_nbytes

Fact = dict[str, Any]

# What gemma.cpp's own compressor produced at commit 3ed403e: SHA-256 of the input (f32), of the stored bytes, and of
# the output (f32, before the scale). Inputs that follow a rule are generated here, and must give the other two hashes.
GEMMA = [
    ("sfp-every-bf16", "sfp", 32738, "3f800000",
     "3ca29a0f6c6722f9d20ba822f1ba0aca572dd51aa31e8be03f69f753f20acf7b",
     "7ee782688f471630653bd1f73baa726493d047b8312513ce36d69d1aad4f3ffb",
     "501c35179889d6e95aa245f456a7ca32f9dd9cd06d7cf85c169644194b323755"),
    ("sfp-low-bits", "sfp", 8192, "3f800000",
     "f80324ad56ecf70e2149cd8b7943e3418e5ee4c4cc0dafea6fa09430cb2bc33e",
     "135df0a95a41c21a7470e554261895ccde7303a9b3800ccc671199039c57b699",
     "f03feabf8d908e7619368162b88a6dfadb18c58a9ce562fe78de5a11feffb052"),
    ("sfp-scaled", "sfp", 5000, "40b143d3",
     "69d552640c4d395a13dd45f82045a6d77a3a2914a97672e5ea10318f88feadf1",
     "3b5c06d98b1d3d05ec4c6d8bc76bf04b88c911c7d91433e88d7cee9f57cc8d83",
     "5e3d75d1746d5d44039adf857599cd12a5e2a0ef456f8e636f5e5fb36af5c843"),
    ("sfp-odd", "sfp", 77, "3f800000",
     "60b2ef04cf98d1deadaa7cc19da8d6500d03053a4fa51fa93168ca6df8e1793a",
     "61dde6b83d6d9ee71314ff06a1615b39d8f95bf2e94f16459e261d7130bb5483",
     "ab405c99ce402b335abaae1137d49e433437a49026be9f7dac9a19b7e37ffc32"),
    ("bf16-bits", "bf16", 12014, "3f800000",
     "ac39021d4f6bd3fffcd278eb28a0074afb66c84a729fd1bacc821e3ea3a4bd94",
     "a4320c02d8711f36963062d98ad22b5ec67973a49bf27d5a57a15e2cdadab537",
     "c63ce066497de025be388efbe600d77018fec9dc96c565b8a1f5fe8e6a1480f0"),
    ("f32-plain", "f32", 300, "3f800000",
     "f9a0907d0d46a494fdc48683fc80fddc7a398e96ae4065b192e80f0c31350a38",
     "f9a0907d0d46a494fdc48683fc80fddc7a398e96ae4065b192e80f0c31350a38",
     "f9a0907d0d46a494fdc48683fc80fddc7a398e96ae4065b192e80f0c31350a38"),
    ("i8-128", "i8", 128, "3f800000",
     "5ca226961b0db2c0c8c578e270f28e091e310b739e2f6f0be77bcd166f42fc58",
     "d220516023a2a671b492cbd0ee7e6a90f7f22b70c6d7aba4b0fd4bc594c35539",
     "de9f541ec8b25c2caabda76276fe94e4dedf2292e829e48d8acdd89ff8d05dfd"),
    ("i8-256", "i8", 256, "3f800000",
     "a5b84a786514650d4dae2a527a967cb11d23e794aea484314c619d7b098efc20",
     "90c074f25d8c8bc8d989d8fbab8ce18de241047fd718d7a7d66afd698f839846",
     "64f836c72bae0f580e1e85bb7c14af65fbf1246c3ff50e0f72229ee326548f72"),
    ("i8-1000", "i8", 1000, "3f800000",
     "ccda547eb85bb516a8b1ea2569c3e34067edafb3ccf2749dc685b69d74c9246e",
     "0d4644fbb24eebcd57f30f880407b7d8161e1dc7aa0fda225fd8db316a337fa7",
     "e0d0d3a0e7155573a3b5cb2c938619b575a5ea9ca119376c6952429825328c2e"),
    ("i8-1", "i8", 1, "3f800000",
     "397f3d5b34c370143877b4e90507cb8114f2cdeffbe38a9755095e690d0b90ae",
     "04e45b75e02c69a622451ebf7383090f5fda87dfb4447536acf17245fb1df9fd",
     "a137560a13c6c6f241064624e16ac18226628f145f0499b02f5a8c0b9ce85f96"),
    ("i8-127", "i8", 127, "3f800000",
     "2fecf26366021021a65e95ae7cc738625615eed8996b954abaaf0600ddcbe688",
     "9a79406da0ca09de7c24dc98963df47e4be6ba283684656a39ac1a0379211454",
     "2dc6cbed3287c2579321b19bdda3dd297d2f58ddd4d0462c65d6613c6f4a1337"),
    ("i8-129", "i8", 129, "3f800000",
     "333a74ffb84740c28c362593d020887d2e213ebe186537c133eb38b8651165f2",
     "dc15ba36ccc69ff878f7939232075b0b4137b7e7aaf082dc539204abb890dc6f",
     "20db739cd0bd840411a4fc642363e0249ca82cd150bd62fca5c7781241b2cf5d"),
    ("i8-4096", "i8", 4096, "3f800000",
     "68425e0bfdae6da46bd9ab5e721b5d441a02089e3e625cb56aa599e47909564a",
     "031e80c7b805971cbd2efe3b4b7d8f75e933d5fe1f7dff81066c173f7cbb8da6",
     "3f8143cf7260e15bd694d50f4644379a20e3c263fd46b483cdf237ed01181e47"),
    ("i8-constant", "i8", 200, "3f800000",
     "d3d6c9c6d270231182111ee4ca46a3327a759c6b811f0c1a93ea92f1908166ca",
     "3b80f5553642e723e9d84d6fa89ade2dff043801efcd44cf64ab497b316c2994",
     "e835aec23f0e3fe77a414688f9af8f647eb4fbc7cc0678a9493a6ee605427c2b"),
    ("i8-zeros", "i8", 130, "3f800000",
     "20aa497d9bd4c19e851e3df6e386700faada213db38acf7679f6365832830b3d",
     "7381737a6f42adaed297d2725f810c0e3186aeaadee403201905b5a99fc8ac52",
     "20aa497d9bd4c19e851e3df6e386700faada213db38acf7679f6365832830b3d"),
    ("nuq-256", "nuq", 256, "3f800000",
     "c86df15dad168e7ff3ca83f9f458578ff68622973dd26db7f7fd8e2afa6e963d",
     "6e70226adeb3af887a283b7a4d95e26346d7fda33d6dc1ba4c0845afd455a3dc",
     "36ec84f0c9f4c7545a93936d3cada79588088c8f3a7f67a7d2cae9139685b533"),
    ("nuq-1024", "nuq", 1024, "3f800000",
     "1e1b3e4288c00e528e89fa16806b8e4eeef43f5d9b64f81ed54948c53b55ffa4",
     "476f3f331835843cc59fa1a1304c00f17414ac0a95bdbe64f0b203a0abae0492",
     "e70e4a26ec19d1c1554c6f15c8b112ac8ab3ad8ead61c2497401bb2e5d1dd316"),
    ("nuq-1000", "nuq", 1000, "3f800000",
     "fc53b3d489b53934a10ef33171e6c7a04b8a347d20a83c882e9c85b29ca3c78b",
     "e26f092037909e63764a01abdc0f18fb1f516f8a96d4f7312dc500966e8a1c17",
     "c09dc33b417beb2a4f8fc1205ad143267f73631a2061b615f8273c9e054c9897"),
    ("nuq-64", "nuq", 64, "3fd49616",
     "e8760ccdbf0cdd66c242e5ac8c0c074b7604eb096ed94e103a4a273cf42fcb33",
     "4ccce2206c27bddc75477c69dbc1d652b9d237b30c6efd38557621c042439575",
     "4432f52bc9fa5372246cdbc9d50218b1b2c43f386001f8c291161896b22c1072"),
]  # fmt: skip
PATTERNS = [pattern for pattern in range(1 << 16) if number((pattern & 0x7FFF) << 16) <= SFP_LARGEST]
RULES = {
    "sfp-every-bf16": (
        "every finite bf16 pattern of magnitude at most 1.875, in the order of the pattern",
        [pattern << 16 for pattern in PATTERNS],
    ),
    "i8-constant": ("200 times 0.25", 200 * words_of(0.25)),
    "i8-zeros": ("130 zeros", [0] * 130),
}


def sha256(data: bytes) -> str:
    """In hex."""
    return hashlib.sha256(data).hexdigest()


def gemma_facts() -> Iterator[Fact]:
    """What gemma.cpp produced.

    Raises:
        ValueError: The code here produces something else.
    """
    for name, kind, n, scale_bits, given, stored, decoded in GEMMA:
        fact = {"name": name, "type": kind, "n": n, "scale_bits": scale_bits}
        fact |= {"input_sha256": given, "encoded_sha256": stored, "decoded_sha256": decoded}
        fact["toc"] = hexed(toc([toc_entry("x", kind, 1, n, number(int(scale_bits, 16)))]))
        if name in RULES:
            fact["rule"], words = RULES[name]
            made = encoded(kind, words)
            found = (len(words), sha256(word_bytes(words)), sha256(made), sha256(decoded_bytes(kind, made, n)))
            if found != (n, given, stored, decoded):
                raise ValueError(f"{name}: gemma.cpp made {fact}, we {found}")
        yield fact


def hexed(words: Sequence[int]) -> str:
    """Words as hex numbers."""
    return " ".join(f"{word:08x}" for word in words)


def encoded(kind: str, words: Sequence[int]) -> bytes:
    """The stored bytes."""
    encode = CODECS[kind].encode
    if not encode:
        raise ValueError(kind)
    return encode(words)


def decoded_bytes(kind: str, stored: bytes, n: int) -> bytes:
    """The output, before the scale, as f32 in memory."""
    return word_bytes(CODECS[kind].decode(stored, n))


# --------------------------------------------------------------------------------------------------------------- cases


def noise(seed: int, n: int, centre: float = 0.0, size: float = 1.0) -> list[int]:
    """Random f32 between centre - size and centre + size."""
    integers = struct.unpack(f"<{n}i", payload(seed, 4 * n))
    return words_of(*(centre + size * integer / 2**31 for integer in integers))


def around(*words: int) -> list[int]:
    """Words with their neighbours below and above, and all of them with the opposite sign."""
    near = [word + step for word in words for step in (-1, 0, 1)]
    return near + [word | 1 << 31 for word in near]


def case(name: str, kind: str, said: str, words: Sequence[int], **more: object) -> Fact:
    """Values that are encoded and decoded."""
    stored = encoded(kind, words)
    scale = sfp_scale(words) if kind == "sfp" else 1.0
    return {
        "name": f"{kind}-{name}",
        "type": kind,
        "description": said,
        "n": len(words),
        "scale_bits": hexed(words_of(scale)),
        "input": word_bytes(words).hex(),
        "stored": stored.hex(),
        "decoded": decoded_bytes(kind, stored, len(words)).hex(),
    } | more


def from_f64(name: str, kind: str, said: str, values: Sequence[float]) -> Fact:
    """Values of more than 24 bits: rounded to f32 first."""
    return case(name, kind, said, words_of(*values), input_f64=struct.pack(f"<{len(values)}d", *values).hex())


def stored_case(name: str, kind: str, said: str, stored: bytes, n: int) -> Fact:
    """Bytes that are decoded."""
    return {
        "name": f"{kind}-{name}",
        "type": kind,
        "description": said,
        "n": n,
        "scale_bits": "3f800000",
        "stored": stored.hex(),
        "decoded": decoded_bytes(kind, stored, n).hex(),
    }


def cases() -> Iterator[Fact]:
    """All cases that can be decoded."""
    yield from plain_cases()
    yield from sfp_cases()
    yield from i8_cases()
    yield from nuq_cases()
    yield from q4_0_cases()
    yield from mxfp4_cases()


def plain_cases() -> Iterator[Fact]:
    """Plain floating-point types."""
    odd = [0, 1 << 31, 1, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000]
    nans = [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF80FFFF, 0x7FBFFFFF, 0x7FFFFFFF]
    yield case("odd", "f32", "zeros, subnormals, limits, infinities, NaNs: not a bit changes", [*odd, *nans])
    yield from_f64("f64", "f32", "rounded to nearest even", [1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-150, 1e-46, 1 / 3])
    halves = [word << 16 for word in (0, 0x8000, 1, 0x8001, 0x7F, 0x80, 0x3F80, 0xC049, 0x7F7F, 0x7F80, 0xFF80)]
    yield case("exact", "bf16", "values that it has", halves)
    ties = [0x3F808000, 0x3F818000, 0x3F828000, 0x42FE8000, 0x42FF8000, 0x00808000]
    yield case("ties", "bf16", "halfway between two, and one bit to each side", around(*ties))
    yield case("carries", "bf16", "rounding that carries into the exponent", around(0x3FFF8000, 0x00FF8000, 0x407FFFFE))
    small = [0x00008000, 0x00018000, 0x00010000, 0x007F8000, 0x007FFFFE]
    yield case("subnormals", "bf16", "results that are subnormal, become zero, or become normal", around(*small))
    yield case("overflow", "bf16", "from halfway behind the largest it is an infinity", around(0x7F7F8000, 0x7F7FFFFE))
    yield case("nan", "bf16", "a NaN stays a NaN: any one in `stored` will do", nans, any_nan=True)
    yield from_f64("f64", "bf16", "rounded to f32 first, then once more", [1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 / 3])
    patterns = struct.pack("<6H", 0x7FC0, 0x7F81, 0xFF81, 0x7FFF, 0x7F80, 0x0001)
    yield stored_case("nan-decoded", "bf16", "decoding changes no bit of a NaN", patterns, 6)


def sfp_cases() -> Iterator[Fact]:
    """Sfp: one byte per value, with a switch of precision."""
    codes = bytes(code for code in range(256) if code != SFP_RESERVED)
    yield case("every-code", "sfp", "what each code stands for comes back as that code", decode_sfp(codes, 255))
    low = [0, 1 << 31, 1, 0x807FFFFF, 0x00800000, 0xB37FFFFF]
    yield case("zeros", "sfp", "minus zero, subnormals and values that are too small: all become 0x00", low)
    # Exponent -1 and mantissa mmm1000 in bf16; then bits that are dropped or cleared, and the next patterns.
    ties = [126 << 7 | mantissa << 4 | 8 for mantissa in range(8)]
    near = [tie + step for tie in ties for step in (-2, -1, 0, 1, 2)]
    yield case(
        "ties-3-bits", "sfp", "ties of 3 bits; the lowest bit of bf16 does not break them", [p << 16 for p in near]
    )
    ties = [117 << 7 | mantissa << 5 | 16 for mantissa in range(4)]
    near = [tie + step | sign for sign in (0, 0x8000) for tie in ties for step in (-2, -1, 0, 1, 2)]
    yield case("ties-2-bits", "sfp", "ties of 2 bits, both signs", [p << 16 for p in near])
    cut = [tie << 16 | 0xFFFF for tie in (126 << 7 | 0x18, 126 << 7 | 0x78, 117 << 7 | 0x30, 117 << 7 | 0x10, 0x3FEF)]
    yield case("cut", "sfp", "the lower half of an f32 is cut off, not rounded", [*cut, 0x3F8FFFFF, 0xBF8FFFFF])
    switch = [pattern << 16 for pattern in range((119 << 7) + 0x50, (120 << 7) + 0x20)]
    yield case("switch", "sfp", "from 1.101 · 2^-8 to 1.01 · 2^-7: from 2 bits to 3, and the threshold", switch)
    small = [pattern << 16 for pattern in range((102 << 7) + 0x78, (104 << 7) + 0x48)]
    yield case("smallest", "sfp", "from 1.9375 · 2^-25 to 1.5625 · 2^-23: zero, then 1.25 · 2^-23", small)
    yield case("odd-number", "sfp", "an odd number of values", noise(300, 77, size=0.3))
    yield case("low-bits", "sfp", "random values whose scale is 1", noise(301, 300, size=1.875))
    yield case("largest", "sfp", "1.875 is no reason for a scale", words_of(1.875, -1.875, 1.75, 1e-3))
    yield case("scale-least", "sfp", "the next f32 is", [0x3FF00001, 0xBFF00000, *words_of(1.0, -0.5, 1e-3)])
    yield case("scale-negative", "sfp", "the largest magnitude is of a negative value", words_of(0.5, -3.0, 2.0, 1e-3))
    yield case("scaled", "sfp", "random values whose scale is not 1", noise(302, 300, size=10.0))
    said = "values that get another code when they are divided by the scale, not multiplied by its inverse"
    yield case("scaled-inverse", "sfp", said, near_boundaries(7.3))
    wide = words_of(*(sign * 2.0**e for e in range(-30, 12) for sign in (1, -1.3)))
    yield case("scaled-wide", "sfp", "magnitudes from 2^-30 to 2^11 under one scale", wide)
    huge = [0x7F7FFFFF, 0xFF7FFFFF, 0x7F000000, 0x7EFFFFFF, 0x00000001, 0x3F800000]
    yield case("scale-huge", "sfp", "the largest f32: 1 / scale is subnormal", huge)
    for i, value in enumerate((1.8751, -1.9, 3.7, -123.4, 1e12, -3.3e38)):
        yield case(f"alone-{i}", "sfp", "a single value, which is the largest", words_of(value))
    yield from_f64("f64", "sfp", "rounded to f32 before it is cut off", [1.0 - 2.0**-30, 1.5 + 2.0**-30, 1 / 3])


def near_boundaries(largest: float) -> list[int]:
    """The largest value, and values for which division and multiplication fall on different sides of a boundary."""
    words = words_of(largest)
    scale = Fraction(sfp_scale(words))
    inverse = Fraction(rounded(1 / scale))
    for pattern in PATTERNS[(110 << 7) : 0x3FF0 : 2]:
        if sfp_code(pattern) != sfp_code(pattern - 1):
            nearest = words_of(rounded(Fraction(number(pattern << 16)) * scale))[0]
            for word in range(nearest - 3, nearest + 4):
                value = Fraction(number(word))
                quotient, product = words_of(rounded(value / scale), rounded(value * inverse))
                if sfp_code(quotient >> 16) != sfp_code(product >> 16):
                    words.append(word)
    return words


def i8_cases() -> Iterator[Fact]:
    """Groups of 128."""
    for n in (1, 2, 127, 128, 129, 256, 300):
        yield case(f"{n}", "i8", f"{n} random values", noise(320 + n, n))
    yield case("zeros", "i8", "nothing but zeros", [0] * 5)
    yield case("minus-zeros", "i8", "zeros of both signs", [1 << 31, 0, 1 << 31])
    yield case("constant", "i8", "one value, in more than one group", 130 * words_of(3.5))
    yield case("negative", "i8", "nothing above zero", noise(340, 130, -2.0))
    yield case("positive", "i8", "nothing below zero", noise(341, 130, 2.0))
    yield case(
        "offset", "i8", "an offset that is large beside the extent: bf16 takes much of it", noise(342, 130, 100.0)
    )
    yield case("offset-huge", "i8", "and here all of it: codes are clamped", noise(343, 130, 1e6))
    ties = [i + half for i in range(-3, 3) for half in (0.0, 0.5)]
    yield case(
        "ties", "i8", "255 from least to largest: s is 1, and halves are rounded to even", words_of(0, 255, *ties[6:])
    )
    clamped = words_of(-1.0, 1.0, 0.99, -0.99, 0.5)
    yield case("clamped", "i8", "codes beyond 127, since s and z are rounded to bf16", [*clamped, *noise(344, 100)])
    yield case("outlier", "i8", "one value far from all others", [*noise(345, 127), *words_of(1000.0)])
    yield case("large", "i8", "an extent near the largest that it can have", noise(346, 20, size=1.6e38))
    yield case("small", "i8", "an extent near the smallest", noise(347, 20, size=5e-36))
    yield from_f64("f64", "i8", "rounded to f32 first", [1 / 3, -1 / 3, 1e-10, 0.1])


def nuq_cases() -> Iterator[Fact]:
    """Groups of 256; gemma.cpp chooses their tables in a way that the specification leaves open."""
    for n in (1, 2, 3, 255, 256, 257, 512, 1000):
        stored = b""
        for group in range(0, n, 256):
            table = payload(360 + group, 16).replace(bytes([SFP_RESERVED]), b"\0")
            stored += table + payload(361 + group, -(-min(256, n - group) // 2))
        if len(stored) != stored_nbytes("nuq", (n,)):
            raise ValueError(n)
        yield stored_case(f"{n}", "nuq", f"{n} values; the upper half of an odd last byte means nothing", stored, n)


def q4_0_cases() -> Iterator[Fact]:
    """Blocks of 32."""
    for n in (1, 31, 32, 33, 64, 100):
        yield case(f"{n}", "q4_0", f"{n} random values; zeros fill the last block", noise(380 + n, n))
    yield case("zeros", "q4_0", "nothing but zeros: d is minus zero", [0, 1 << 31, 0])
    halves = words_of(-8.0, *(half / 2 for half in range(-16, 17)))
    yield case("ties", "q4_0", "d is 1: halves are rounded up, and codes beyond 15 are clamped", halves)
    yield case("ties-negative", "q4_0", "d is -1: the same from above", words_of(8.0, *map(number, halves[1:])))
    around_ties = [word for half in range(-15, 16, 2) for word in around(words_of(half / 2)[0])]
    blocks = [word for i in range(0, len(around_ties), 31) for word in [*words_of(-8.0), *around_ties[i : i + 31]]]
    yield case("near-ties", "q4_0", "halves, and the next value to each side", blocks)
    rest = noise(390, 62, size=2.9)
    equal = [*words_of(3.0, -3.0), *rest[:30], *words_of(-3.0, 3.0), *rest[30:60]]
    yield case("equal", "q4_0", "the first of two largest magnitudes gives d its sign", equal)
    yield case("outlier", "q4_0", "one value far from all others", [*noise(391, 31), *words_of(-1000.0)])
    yield case("rounded", "q4_0", "codes come from d in f32, values from d in bf16", [*words_of(0.7), *noise(392, 31)])
    thirds = words_of(*(i / 3 for i in range(-24, 8)))
    yield case("two-roundings", "q4_0", "product and sum are rounded one after the other", thirds)
    small = [0x01000000, 0x81800000, 0x00800000, 0x00000001, 0]
    yield case("subnormal", "q4_0", "d is subnormal", small)
    yield case("smallest", "q4_0", "the smallest d whose inverse is finite", [0x01000003, 0x00FFFFFF, 0x80800001])
    yield case("too-small", "q4_0", "below it: zeros", [0x01000002, 0x81000000, 0x00800000, 1])
    yield case("largest", "q4_0", "up to where d rounds beyond the largest value of bf16", [0x7F7F7FFF, 0xFF7F7FFF, 0])
    yield from_f64("f64", "q4_0", "rounded to f32 first", [1 / 3, -1 / 3, 1e-10, 0.1])
    for i, pattern in enumerate((0x3F80, 0xBE31, 0x0001, 0x8000, 0x7F7F)):
        stored = struct.pack("<H", pattern) + bytes(range(0, 256, 16)) + struct.pack("<H", pattern) + payload(393, 16)
        yield stored_case(f"factor-{i}", "q4_0", "any finite factor; zeros have its sign", stored, 47)


def mxfp4_cases() -> Iterator[Fact]:
    """Blocks of 32; how the runtime encodes them is not specified."""
    codes = bytes(code | (15 - code) << 4 for code in range(16))
    for scale in (0, 1, 2, 126, 127, 200, 253, 254):
        yield stored_case(f"scale-{scale}", "mxfp4", "every code under one scale", bytes([scale]) + codes, 32)
    for n in (1, 16, 17, 31, 33, 64, 100):
        stored = b"".join(bytes([100 + i]) + payload(394 + i, 16) for i in range(-(-n // 32)))
        yield stored_case(f"{n}", "mxfp4", f"{n} values; the rest of the last block means nothing", stored, n)


# ------------------------------------------------------------------------------------------------------------- refused

NAN, INFINITY = float("nan"), float("inf")


def errors() -> Iterator[Fact]:
    """What an encoder or a decoder must refuse."""
    yield from refused_values()
    yield from refused_bytes()


def refused_values() -> Iterator[Fact]:
    """What an encoder must refuse."""
    for kind in ("sfp", "i8", "q4_0"):
        for what, value in {"nan": NAN, "infinity": INFINITY, "minus-infinity": -INFINITY}.items():
            words = words_of(0.5, -1.0, 0.25, value, 3.0)
            yield refused(f"{kind}-{what}", kind, "not-finite", input=word_bytes(words).hex(), index=3)
        words = [0, 0xFF800001, 0x7F800000]
        yield refused(f"{kind}-nan-signalling", kind, "not-finite", input=word_bytes(words).hex(), index=1)
    for kind in ("f32", "bf16", "sfp", "i8", "q4_0"):
        for what, value in {"beyond": 1e39, "minus-beyond": -3.5e38}.items():
            data = struct.pack("<3d", 1.0, -3.39e38, value)
            yield refused(f"{kind}-f64-{what}", kind, "not-finite", input_f64=data.hex(), index=2)
    groups = {
        "extent-infinite": (-3e38, 3e38),
        "extent-small": (0.0, 1e-37),
        "extent-rounded": (0.0, 7.5e-37),  # s is 3.4e38, an infinity in bf16
        "extent-subnormal": (0.0, 2.0**-149),
        "constant-huge": (-3e38, -3e38),  # s is 255, and their product is infinite
        "zero-beyond-63-bits": (1e30, 1e30),
    }
    for what, values in groups.items():
        yield refused(f"i8-{what}", "i8", "i8-range", input=word_bytes(words_of(*values)).hex())
    words = [0x3F800000, 0x7F7F7FFF, 0xFF7F8000]
    yield refused("q4_0-beyond-bf16", "q4_0", "not-finite", input=word_bytes(words).hex(), index=2)


def refused_bytes() -> Iterator[Fact]:
    """What a decoder must refuse."""
    for what, stored in {"first": b"\x80\1\2", "last": b"\1\2\x80", "alone": b"\x80"}.items():
        yield refused(f"sfp-reserved-{what}", "sfp", "sfp-reserved-code", stored=stored.hex(), n=len(stored))
    for place in (0, 15):
        table = bytearray(range(1, 17))
        table[place] = SFP_RESERVED
        stored = bytes(table) + b"\x21"  # indices 1 and 2
        yield refused(f"nuq-reserved-{place}", "nuq", "sfp-reserved-code", stored=stored.hex(), n=2)
    stored = bytes(range(1, 17)) + bytes(128) + b"\x80" * 16 + b"\1"
    yield refused("nuq-reserved-second-group", "nuq", "sfp-reserved-code", stored=stored.hex(), n=257)
    for place, n in ((0, 1), (0, 33), (1, 33)):
        stored = b"\x7f" * 17 * place + bytes([MXFP4_RESERVED]) + b"\x7f" * 33
        yield refused(f"mxfp4-reserved-{place}-of-{n}", "mxfp4", "mxfp4-reserved-scale", stored=stored.hex(), n=n)
    counts_of = {"f32": (1, 3), "bf16": (1, 3), "sfp": (1, 3), "i8": (1, 128, 129), "nuq": (1, 3, 257)}
    for kind, counts in (counts_of | dict.fromkeys(("q4_0", "mxfp4"), (1, 32, 33))).items():
        for n in counts:
            full = b"\1" * stored_nbytes(kind, (n,))
            yield refused(f"{kind}-{n}-cut", kind, "wrong-size", stored=full[:-1].hex(), n=n)
        yield refused(f"{kind}-none", kind, "wrong-size", stored="", n=1)
    yield refused("i8-129-no-head", "i8", "wrong-size", stored=(b"\1" * 133).hex(), n=129)
    yield refused("nuq-257-no-table", "nuq", "wrong-size", stored=(b"\1" * 145).hex(), n=257)


def refused(name: str, kind: str, reason: str, **more: object) -> Fact:
    """One error."""
    return {"name": name, "type": kind, "reason": reason} | more


# -------------------------------------------------------------------------------------------------------- codecs.json


def codec_vectors() -> dict[str, list[Fact]]:
    """The lists of codecs.json."""
    starts = [(pattern, sfp_code(pattern)) for pattern in PATTERNS if pattern < 1 << 15]
    starts = [(p, code) for i, (p, code) in enumerate(starts) if not i or starts[i - 1][1] != code]
    return {
        "gemma_cpp": list(gemma_facts()),
        "sfp_codes": [
            {"code": f"{code:02x}", "bf16": f"{decode_sfp(bytes([code]), 1)[0] >> 16:04x}"}
            for code in range(256)
            if code != SFP_RESERVED
        ],
        "sfp_boundaries": [{"from": f"{pattern:04x}", "code": f"{code:02x}"} for pattern, code in starts],
        "cases": list(cases()),
        "errors": list(errors()),
    }
