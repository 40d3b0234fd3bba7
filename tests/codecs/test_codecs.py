"""Properties of the element codecs; codecs/test_vectors.py compares them with gemma.cpp's results."""

from __future__ import annotations

import struct
import tracemalloc
from functools import cache
from typing import TYPE_CHECKING, Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from blobstore import codecs
from blobstore.codecs import PIECE, element_types, mxfp4, q4_0, sfp
from blobstore.errors import CodecError, UsageError
from tests.strategies import payload
from tests.tensor_strategies import LAYOUTS, arranged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    F32 = npt.NDArray[np.float32]

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype(np.float32), BF16, np.dtype(np.float16), np.dtype(np.float64)]
ENCODERS = ["f32", "bf16", "sfp", "i8", "q4_0"]
DECODERS = [*ENCODERS, "nuq", "mxfp4"]
GROUPS = {"i8": 128, "nuq": 256, "q4_0": 32, "mxfp4": 32}
FINITE = ["sfp", "i8", "q4_0"]  # hold no NaN and no infinity
# Sizes just below, at and above the borders of groups and pieces.
SIZES = [0, 1, 2, 127, 128, 129, 255, 256, 257, 1000]
LARGE_SIZES = [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE - 100, 2 * PIECE + 129]
LARGEST = float(np.finfo(np.float32).max)

encoders = pytest.mark.parametrize("codec", ENCODERS)
decoders = pytest.mark.parametrize("codec", DECODERS)
seeds = st.integers(0, 2**32)


# ------------------------------------------------------------------------------------------------------------- values


def random_values(seed: int, n: int, *, spread: int = 4, centre: float = 0.0) -> F32:
    """Values of both signs whose magnitudes span ``2 · spread`` binary exponents."""
    random = np.random.default_rng(seed)
    values = np.ldexp(random.uniform(-1, 1, n), random.integers(-spread, spread + 1, n))
    return (values + centre).astype(np.float32)


def in_limits(values: F32) -> bool:
    """Whether the error bounds of the page apply to these values for i8: nothing overflows on the way."""
    if values.size and np.abs(values).max() >= 2.0**127:
        return False
    for start in range(0, values.size, 128):
        group = values[start : start + 128].astype(np.float64)
        extent = (group.max() - group.min()) or 1.0
        if not 255 * 2.0**-126 <= extent <= LARGEST or 255 * abs(group.min()) / extent >= 2.0**31 - 2**10:
            return False
    return True


def takes(codec: str, values: F32) -> bool:
    """Whether a type holds these finite values."""
    if codec == "q4_0":
        return not (np.abs(values) > q4_0.LARGEST).any()
    return codec != "i8" or in_limits(values)


few_values = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40).map(
    lambda values: np.array(values, dtype=np.float32)
)
# Of one magnitude, of many magnitudes, far from zero; up to the limits of f32 (i8 has nearer ones).
many_values = st.builds(
    lambda seed, n, spread, centre, exponent: np.ldexp(
        random_values(seed, n, spread=spread, centre=centre), exponent, dtype=np.float32
    ),
    seeds,
    st.integers(1, 300),
    st.sampled_from([0, 1, 8, 25]),
    st.sampled_from([0.0, 1.0, -3.0, 100.0, -1e5]),
    st.sampled_from([-80, -30, -8, 0, 1, 20, 80]),
)
values_of_f32 = few_values | many_values


@cache
def stored_sample(codec: str, n: int) -> bytes:
    """The stored bytes of n ordinary values."""
    if codec == "nuq":
        # In tables as in indices, every byte except 0x80 is a code.
        data = payload(7, element_types.BY_NAME["nuq"].nbytes(n))
        return data.replace(b"\x80", b"\x42")
    if codec == "mxfp4":
        blocks = bytearray(payload(7, element_types.BY_NAME["mxfp4"].nbytes(n)))
        blocks[::17] = bytes(110 + scale % 16 for scale in blocks[::17])
        return bytes(blocks)
    values = random_values(n, n, spread=6)
    return codecs.encode(codec, np.minimum(np.abs(values), 1.0) * np.sign(values))[0].tobytes()


def bits(array: Array) -> Array:
    return array.view(f"u{array.dtype.itemsize}")


def same(a: Array, b: Array) -> bool:
    """Whether arrays are equal bit for bit, including signs of zero and payloads of NaN."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# ------------------------------------------------------------------------------- against the second implementation


@encoders
@given(values=values_of_f32)
def test_two_implementations_encode_the_same_bytes(generator: ModuleType, codec: str, values: F32) -> None:
    assume(takes(codec, values))
    stored, scale = codecs.encode(codec, values)
    second = generator.CODECS[codec]
    assert stored.tobytes() == second.encode(values.view(np.uint32).tolist())
    decoded = codecs.decode(codec, stored, values.size)
    assert decoded.view(np.uint32).tolist() == second.decode(stored.tobytes(), values.size)
    assert scale == 1.0 or codec == "sfp"


@pytest.mark.parametrize(("codec", "unwanted"), [("nuq", b"\x80"), ("mxfp4", b"\xff"), ("q4_0", b"\x7f")])
@given(n=st.integers(0, 700), seed=st.integers(0, 50))
def test_two_implementations_decode_the_same_bytes(
    generator: ModuleType, codec: str, unwanted: bytes, n: int, seed: int
) -> None:
    stored = payload(seed, element_types.BY_NAME[codec].nbytes(n)).replace(unwanted, b"\x00").replace(b"\xff", b"\x01")
    decoded = codecs.decode(codec, stored, n)
    assert decoded.view(np.uint32).tolist() == generator.CODECS[codec].decode(stored, n)


def test_every_bf16_pattern_is_encoded_as_the_second_implementation_does(generator: ModuleType) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    magnitudes = patterns & 0x7FFF
    words = patterns.astype(np.uint32) << np.uint32(16)
    alone = generator.CODECS["sfp"]
    fits = magnitudes <= 0x3FF0
    for dtype in (BF16, np.dtype(np.float32)):
        values = patterns.view(BF16) if dtype == BF16 else words.view(np.float32)
        stored, scale = codecs.encode("sfp", values[fits])
        assert scale == 1.0
        assert stored.tobytes() == alone.encode(words[fits].tolist())
        assert codecs.decode("sfp", stored, stored.size).view(np.uint32).tolist() == alone.decode(
            stored.tobytes(), stored.size
        )
        # Each of the others needs a scale of its own.
        for place in np.flatnonzero(~fits & (magnitudes < 0x7F80)):
            stored, scale = codecs.encode("sfp", values[place])
            assert stored.tolist() == [0x7F | patterns[place] >> 8 & 0x80]
            assert np.float32(scale) == np.abs(words[place : place + 1].view(np.float32))[0] / np.float32(1.875)
        for place in np.flatnonzero(magnitudes >= 0x7F80):
            with pytest.raises(CodecError, match=r"^not-finite: "):
                codecs.encode("sfp", values[place])


@pytest.mark.parametrize("sign", [0, 0x80000000])
def test_patterns_that_need_a_scale_are_encoded_as_the_second_implementation_does(
    generator: ModuleType, sign: int
) -> None:
    # Each exponent and each mantissa of bf16, some with low bits set below them, as the largest of four values.
    words = [sign | pattern << 16 | (0xFFFF if pattern % 3 else 0) for pattern in range(0x3FF1, 0x7F80, 5)]
    smaller = [0x3F800000, 0xBE99999A, 0x00000001]
    for word in words:
        values = np.array([word, *smaller], dtype=np.uint32)
        stored, _ = codecs.encode("sfp", values.view(np.float32))
        assert stored.tobytes() == generator.CODECS["sfp"].encode(values.tolist())


# ------------------------------------------------------------------------------------------- encoding what was decoded


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16], ids=str)
def test_every_sfp_code_comes_back(dtype: np.dtype[Any]) -> None:
    stored = np.array([code for code in range(256) if code != sfp.RESERVED], dtype=np.uint8)
    again, scale = codecs.encode("sfp", codecs.decode("sfp", stored, stored.size, dtype=dtype))
    assert (again.tobytes(), scale) == (stored.tobytes(), 1.0)


@given(values=values_of_f32)
def test_scaled_sfp_comes_back_with_its_scale(values: F32) -> None:
    assume(values.size and np.abs(values).max() > 1.875)
    stored, scale = codecs.encode("sfp", values)
    again, scale_again = codecs.encode("sfp", codecs.decode("sfp", stored, values.size, scale=scale))
    assert (again.tobytes(), scale_again) == (stored.tobytes(), scale)


def test_no_scale_changes_when_it_is_used_and_made_again() -> None:
    # All mantissas of the largest value, for two neighbouring exponents: the others behave the same.
    for exponent in (1, 2):
        largest = np.arange(1 << 23, 1 << 24, 1, dtype=np.float32) * np.float32(2.0 ** (exponent - 23))
        scale = largest / sfp.LARGEST
        assert np.array_equal(scale * sfp.LARGEST / sfp.LARGEST, scale)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16], ids=str)
def test_every_bf16_pattern_comes_back(dtype: np.dtype[Any]) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    number = (patterns & 0x7FFF) <= 0x7F80
    decoded = codecs.decode("bf16", patterns.view(np.uint8), patterns.size, dtype=dtype)
    if dtype == np.float32:
        assert (decoded.view(np.uint32) == patterns.astype(np.uint32) << np.uint32(16)).all()
    again, _ = codecs.encode("bf16", decoded[number])
    assert again.tobytes() == patterns[number].tobytes()


@given(words=st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_every_f32_comes_back(words: list[int]) -> None:
    stored = struct.pack(f"<{len(words)}I", *words)
    decoded = codecs.decode("f32", stored, len(words))
    assert decoded.tobytes() == stored
    assert codecs.encode("f32", decoded)[0].tobytes() == stored


@given(
    exponent=st.integers(-100, 100),
    zero=st.integers(-256, 256),
    codes=st.lists(st.lists(st.integers(-128, 127), max_size=126), min_size=1, max_size=3),
)
def test_i8_comes_back_where_scale_and_zero_point_are_exact(exponent: int, zero: int, codes: list[list[int]]) -> None:
    head = np.array([2.0**exponent, zero], dtype=BF16).tobytes()
    # All groups but the last are full, and each has the smallest and the largest code.
    full = [[*group, *[0] * (126 - len(group))] for group in codes[:-1]] + [codes[-1]]
    stored = b"".join(head + np.array([-128, 127, *group], dtype=np.int8).tobytes() for group in full)
    n = len(stored) - 4 * len(full)
    assert codecs.encode("i8", codecs.decode("i8", stored, n))[0].tobytes() == stored


@given(values=many_values)
def test_i8_in_general_stays_as_near_as_one_more_round_can_take_it(values: F32) -> None:
    assume(in_limits(values))
    once = codecs.decode("i8", codecs.encode("i8", values)[0], values.size)
    assume(in_limits(once))
    twice = codecs.decode("i8", codecs.encode("i8", once)[0], values.size)
    assert_within_i8_error(twice, once)


@given(values=values_of_f32)
def test_q4_0_comes_back(values: F32) -> None:
    largest = np.abs(np.pad(values, (0, -values.size % 32))).reshape(-1, 32).max(axis=1)  # of each block
    assume(takes("q4_0", values) and not ((largest > 0) & (largest < 2.0**-120)).any())
    stored, _ = codecs.encode("q4_0", values)
    again, _ = codecs.encode("q4_0", codecs.decode("q4_0", stored, values.size))
    assert again.tobytes() == stored.tobytes()


@given(
    factor=st.integers(0x0280, 0x7F00),
    sign=st.sampled_from([0, 0x8000]),
    codes=st.lists(st.integers(0, 15), min_size=31, max_size=31),
    place=st.integers(0, 31),
)
def test_any_q4_0_block_with_the_code_of_its_largest_value_comes_back(
    factor: int, sign: int, codes: list[int], place: int
) -> None:
    all_codes = np.insert(np.array(codes, dtype=np.uint8), place, 0)
    stored = struct.pack("<H", factor - 0x180 | sign) + (all_codes[:16] | all_codes[16:] << 4).tobytes()
    assert codecs.encode("q4_0", codecs.decode("q4_0", stored, 32))[0].tobytes() == stored


# ------------------------------------------------------------------------------------------------------- against GGUF


def ggufs(blocks: Array, kind: gguf.GGMLQuantizationType) -> Array:
    with np.errstate(over="ignore"):
        decoded: Array = gguf.quants.dequantize(blocks, kind)
    return decoded


@given(seed=seeds, exponent=st.integers(-6, 12), dtype=st.sampled_from(FLOATS), steps=st.sampled_from([0, 1, 6]))
def test_q4_0_is_ggufs_with_another_type_of_factor(seed: int, exponent: int, dtype: np.dtype[Any], steps: int) -> None:
    values = np.random.default_rng(seed).standard_normal((100, 32)).astype(dtype).astype(np.float32)
    values = np.round(values * steps) / np.float32(steps) if steps else values  # many halves, and zeros
    values = np.ldexp(values, exponent).astype(np.float32)
    theirs = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_0)
    ours = codecs.encode("q4_0", values)[0].reshape(100, 18)
    assert np.array_equal(ours[:, 2:], theirs[:, 2:])
    factors, f16 = (stored[:, :2].copy() for stored in (ours, theirs))
    # Each rounds the same number; where both hold it, as with values from bf16, these are equal.
    exact = f16.view(np.float16).astype(BF16).astype(np.float16).view(np.uint16) == f16.view(np.uint16)
    assert np.array_equal(factors.view(BF16)[exact], f16.view(np.float16).astype(BF16)[exact])
    assert exact.all() or dtype != BF16 or steps
    blocks = ours.copy()
    blocks[:, :2] = factors.view(BF16).astype(np.float16).view(np.uint8)
    held = (blocks[:, :2].copy().view(np.float16).astype(BF16) == factors.view(BF16)).all(axis=1)
    decoded = codecs.decode("q4_0", ours, values.size).reshape(100, 32)
    assert same(decoded[held], ggufs(blocks, gguf.GGMLQuantizationType.Q4_0)[held])
    assert held.mean() > 0.9


@given(payloads=st.binary(min_size=160, max_size=160))
@pytest.mark.parametrize("scale", [1, 2, 100, 127, 253, 254])
def test_mxfp4_is_ggufs(scale: int, payloads: bytes) -> None:
    packed = np.frombuffer(payloads, dtype=np.uint8).reshape(10, 16)
    blocks = np.concatenate([np.full((10, 1), scale, dtype=np.uint8), packed], axis=1)
    theirs = ggufs(blocks, gguf.GGMLQuantizationType.MXFP4)
    ours = codecs.decode("mxfp4", blocks, 320).reshape(10, 32)
    assert same(ours + np.float32(0), theirs)  # theirs has no minus zero
    # Of the others it gives 0 the scale 2⁻¹²⁷, the runtime zero.
    blocks[:, 0] = 0
    assert not codecs.decode("mxfp4", blocks, 320).any()
    assert np.abs(ggufs(blocks, gguf.GGMLQuantizationType.MXFP4)).max() <= 6 * 2.0**-127


@given(n=st.integers(1, 300), data=st.data())
def test_the_reserved_scale_of_an_mxfp4_block_is_refused_where_it_is_read(n: int, data: st.DataObject) -> None:
    stored = bytearray(stored_sample("mxfp4", n))
    block = data.draw(st.integers(0, (n - 1) // 32))
    stored[17 * block] = mxfp4.RESERVED
    with pytest.raises(CodecError, match=r"^mxfp4-reserved-scale: "):
        codecs.decode("mxfp4", stored, n)
    assert codecs.decode("mxfp4", stored, 32 * block).size == 32 * block
    if n > 32 * (block + 1):
        codecs.decode("mxfp4", stored, n - 32 * (block + 1), start=32 * (block + 1))


# -------------------------------------------------------------------------------------------------------------- errors


def distance(decoded: F32, values: F32) -> npt.NDArray[np.float64]:
    distance: npt.NDArray[np.float64] = np.abs(decoded.astype(np.float64) - values.astype(np.float64))
    return distance


def assert_within_i8_error(decoded: F32, values: F32) -> None:
    for start in range(0, values.size, 128):
        group = values[start : start + 128].astype(np.float64)
        extent = (group.max() - group.min()) or 1.0
        error = distance(decoded[start : start + 128], values[start : start + 128])
        assert (error <= extent / 170 + np.abs(group).max() / 128).all()


def test_the_page_says_these_errors(vectors: Path) -> None:
    page = (vectors.parent / "codecs.md").read_text()
    for statement in (
        r"\|x\| · 2⁻⁸ at most, for normal numbers",
        r"\|x\| · 5/64 from 2⁻⁷ up, \|x\| · 9/64 from 2⁻²² up; below that 2⁻²³ (these powers of 2 times the scale)",
        r"extent / 170 + largest magnitude / 128, both of the group",
        r"largest magnitude of the block · 33/256",
    ):
        assert statement in page


@given(values=values_of_f32)
@example(values=np.array([1.00390625, 1.01171875], dtype=np.float32))
def test_bf16_is_as_near_as_the_page_says(values: F32) -> None:
    decoded = codecs.decode("bf16", codecs.encode("bf16", values)[0], values.size)
    magnitude = np.abs(values.astype(np.float64))
    normal = (magnitude >= 2.0**-126) & (magnitude < LARGEST * (1 - 2.0**-9))
    assert (distance(decoded, values)[normal] <= magnitude[normal] * 2.0**-8).all()


@given(values=values_of_f32)
@example(values=np.array([0x3F8AFFFF], dtype=np.uint32).view(np.float32))  # nearly 1 + 6/64, cut off to 1 + 5/64
@example(values=np.array([0x3A93FFFF], dtype=np.uint32).view(np.float32))
@example(values=np.array([0x33EFFFFF, 0x34000000], dtype=np.uint32).view(np.float32))
def test_sfp_is_as_near_as_the_page_says(values: F32) -> None:
    stored, scale = codecs.encode("sfp", values)
    decoded = codecs.decode("sfp", stored, values.size, scale=scale)
    magnitude = np.abs(values.astype(np.float64))
    allowed = np.where(magnitude >= scale * 2.0**-7, magnitude * 5 / 64, magnitude * 9 / 64)
    allowed = np.where(magnitude >= scale * 2.0**-22, allowed, scale * 2.0**-23)
    assert (distance(decoded, values) <= allowed).all()


def test_sfp_is_as_near_for_every_upper_half() -> None:
    # Among all f32 with a given upper half, the error is largest at one of the two ends.
    upper = np.arange(0x3FF0, dtype=np.uint32) << np.uint32(16)
    for lower in (0, 0xFFFF):
        values = (upper | np.uint32(lower)).view(np.float32)
        stored, scale = codecs.encode("sfp", values)
        assert scale == 1.0
        error = distance(codecs.decode("sfp", stored, values.size), values)
        relative = error[values >= 2.0**-22] / values[values >= 2.0**-22]
        assert relative.max() <= 9 / 64
        assert (error[values >= 2.0**-7] / values[values >= 2.0**-7]).max() <= 5 / 64
        assert error[values < 2.0**-22].max() <= 2.0**-23
        # The bounds are not too large: at the upper ends the error exceeds 2^-4 + 2^-7.
        assert lower == 0 or (error[values >= 2.0**-7] / values[values >= 2.0**-7]).max() > 2.0**-4 + 2.0**-7


@given(values=values_of_f32)
def test_i8_is_as_near_as_the_page_says(values: F32) -> None:
    assume(in_limits(values))
    assert_within_i8_error(codecs.decode("i8", codecs.encode("i8", values)[0], values.size), values)


@given(values=values_of_f32)
@example(values=np.array([1.0, -1.0], dtype=np.float32))
@example(values=np.array([1.0 + 2.0**-8, -1.0], dtype=np.float32))
def test_q4_0_is_as_near_as_the_page_says(values: F32) -> None:
    assume(takes("q4_0", values))
    decoded = codecs.decode("q4_0", codecs.encode("q4_0", values)[0], values.size)
    for start in range(0, values.size, 32):
        block = values[start : start + 32]
        largest = np.abs(block.astype(np.float64)).max()
        allowed = largest * 33 / 256 if largest >= 2.0**-123 else 2.0**-125
        assert (distance(decoded[start : start + 32], block) <= allowed).all()


# ------------------------------------------------------------------------------------------------------ random access


@decoders
@given(data=st.data())
def test_any_run_of_values_is_that_of_the_whole(codec: str, data: st.DataObject) -> None:
    n = data.draw(st.sampled_from(SIZES) | st.integers(0, 1200))
    start = data.draw(st.integers(0, n))
    count = data.draw(st.integers(0, n - start))
    dtype = data.draw(st.sampled_from(FLOATS))
    scale = data.draw(st.sampled_from([1.0, 0.5, 3.7, -1e-3]))
    stored = stored_sample(codec, n)
    whole = codecs.decode(codec, stored, n, scale=scale, dtype=dtype)
    part = codecs.decode(codec, stored, count, start=start, scale=scale, dtype=dtype)
    assert same(part, whole[start : start + count])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.3])
@decoders
def test_any_run_is_that_of_the_whole_across_pieces(codec: str, scale: float, dtype: np.dtype[Any]) -> None:
    n = LARGE_SIZES[-1]
    stored = stored_sample(codec, n)
    whole = codecs.decode(codec, stored, n, scale=scale, dtype=dtype)
    group = GROUPS.get(codec, 1)
    near = [0, 1, group - 1, group, PIECE - 1, PIECE, PIECE + 1, PIECE + group, 2 * PIECE - 1, 2 * PIECE, n - 1, n]
    for start in near:
        for end in near:
            if start <= end:
                part = codecs.decode(codec, stored, end - start, start=start, scale=scale, dtype=dtype)
                assert same(part, whole[start:end])


@decoders
def test_pieces_are_decoded_as_single_groups_are(codec: str) -> None:
    n = LARGE_SIZES[-1]
    stored = stored_sample(codec, n)
    whole = codecs.decode(codec, stored, n)
    step, kept = GROUPS.get(codec, 1000), element_types.BY_NAME[codec]
    groups = [codecs.decode(codec, stored[kept.nbytes(start) :], min(step, n - start)) for start in range(0, n, step)]
    assert same(np.concatenate(groups), whole)


@decoders
@given(n=st.integers(0, 600), scale=st.floats(2.0**-20, 2.0**20, width=32))
def test_a_scale_is_one_multiplication(codec: str, n: int, scale: float) -> None:
    stored = stored_sample(codec, n)
    plain = codecs.decode(codec, stored, n)
    assert same(codecs.decode(codec, stored, n, scale=scale), plain * np.float32(scale))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@decoders
def test_other_dtypes_are_rounded_from_f32(codec: str, dtype: np.dtype[Any]) -> None:
    for n in (*SIZES, LARGE_SIZES[2]):
        stored = stored_sample(codec, n)
        assert same(codecs.decode(codec, stored, n, dtype=dtype), codecs.decode(codec, stored, n).astype(dtype))


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16], ids=str)
@pytest.mark.parametrize("odd", [0, 1])
def test_sfp_is_decoded_to_any_place(dtype: np.dtype[Any], odd: int) -> None:
    # Codes are decoded in pairs only where the patterns are aligned to four bytes.
    stored = np.frombuffer(stored_sample("sfp", 1000), dtype=np.uint8)
    buffer = np.zeros(1001, dtype=dtype)
    for n in (0, 1, 2, 3, 998, 999):
        buffer[:] = 7
        sfp.decode_piece(stored[odd:], n, buffer[odd : odd + n])
        assert same(buffer[odd : odd + n], codecs.decode("sfp", stored[odd:], n, dtype=dtype))
        assert (bits(buffer[odd + n :]) == bits(np.full(1, 7, dtype=dtype))).all()
        assert not odd or buffer[0] == 7


# ------------------------------------------------------------------------------------------------------- what is given


@encoders
@given(data=st.data())
def test_how_an_array_lies_does_not_matter(codec: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 9), max_size=4).map(tuple))
    dtype = data.draw(st.sampled_from(FLOATS))
    values = random_values(data.draw(seeds), int(np.prod(shape))).reshape(shape).astype(dtype)
    array = arranged(values, data.draw(st.sampled_from(LAYOUTS)))
    assume(takes(codec, array.astype(np.float32).reshape(-1)))
    stored, scale = codecs.encode(codec, array)
    again, scale_again = codecs.encode(codec, np.ascontiguousarray(array).reshape(-1))
    assert (stored.tobytes(), scale) == (again.tobytes(), scale_again)


@encoders
@pytest.mark.parametrize("layout", LAYOUTS)
def test_how_a_large_array_lies_does_not_matter(codec: str, layout: str) -> None:
    values = random_values(1, 3 * 50021, spread=0).reshape(3, 50021)
    array = arranged(values, layout)
    before = array.copy()
    stored, scale = codecs.encode(codec, array)
    again, scale_again = codecs.encode(codec, np.ascontiguousarray(array).reshape(-1))
    assert (stored.tobytes(), scale) == (again.tobytes(), scale_again)
    assert same(array, before)


@encoders
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(seed=seeds, n=st.integers(1, 300), spread=st.sampled_from([0, 3, 10]))
def test_other_floats_are_encoded_as_their_f32(
    codec: str, dtype: np.dtype[Any], seed: int, n: int, spread: int
) -> None:
    random = np.random.default_rng(seed)
    values = np.ldexp(random.uniform(-1, 1, n), random.integers(-spread, spread + 1, n)).astype(dtype)
    stored, scale = codecs.encode(codec, values)
    again, scale_again = codecs.encode(codec, values.astype(np.float32))
    assert (stored.tobytes(), scale) == (again.tobytes(), scale_again)


@encoders
@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_byte_order_does_not_matter(codec: str, dtype: str) -> None:
    values = random_values(1, 300).astype(dtype)
    stored, _ = codecs.encode(codec, values)
    assert stored.tobytes() == codecs.encode(codec, values.astype(np.float32))[0].tobytes()


@encoders
def test_no_dtype_but_floats_is_taken(codec: str) -> None:
    others = [np.zeros(2, dtype=dtype) for dtype in (np.int8, np.int64, np.bool_, np.complex64, "U1", object)]
    for array in [*others, np.zeros(2, dtype=ml_dtypes.float8_e4m3fn)]:
        with pytest.raises(CodecError, match=r"^not-float: layer\.0 has dtype ") as caught:
            codecs.encode(codec, array, name="layer.0")
        assert caught.value.reason == "not-float"
        with pytest.raises(CodecError, match=r"^not-float: "):
            codecs.decode(codec, bytes(64), 1, dtype=array.dtype)


@encoders
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0)])
def test_single_values_and_none_are_arrays_like_others(codec: str, shape: tuple[int, ...]) -> None:
    stored, scale = codecs.encode(codec, np.full(shape, 0.5, dtype=np.float32))
    n = int(np.prod(shape))
    assert (len(stored), scale) == (element_types.BY_NAME[codec].nbytes(n), 1.0)
    assert codecs.decode(codec, stored, n).shape == (n,)


@decoders
def test_bytes_may_come_in_any_buffer(codec: str) -> None:
    n = 300
    stored = stored_sample(codec, n)
    expected = codecs.decode(codec, stored, n)
    frozen = np.frombuffer(stored, dtype=np.uint8)
    assert not frozen.flags.writeable
    shifted = memoryview(b"x" + stored)[1:]
    longer = stored + b"\x80" * 500  # as in a mapping, where other bytes follow a tensor
    buffers: list[Any] = [bytearray(stored), memoryview(stored), memoryview(bytearray(stored)).toreadonly(), shifted]
    for buffer in [*buffers, frozen, frozen.copy(), longer, memoryview(bytearray(longer))]:
        decoded = codecs.decode(codec, buffer, n)
        assert same(decoded, expected)
        assert decoded.flags.writeable
        assert decoded.flags.owndata
    assert stored == frozen.tobytes()


@encoders
def test_what_may_not_be_written_can_be_encoded(codec: str) -> None:
    values = random_values(3, 300)
    expected = codecs.encode(codec, values)[0].tobytes()
    values.flags.writeable = False
    stored, _ = codecs.encode(codec, values)
    assert stored.tobytes() == expected
    assert stored.flags.writeable
    assert not np.shares_memory(stored, values)


@encoders
def test_names_of_types_are_types(codec: str) -> None:
    values = random_values(4, 300)
    assert codecs.encode(element_types.BY_NAME[codec], values)[0].tobytes() == codecs.encode(codec, values)[0].tobytes()


# --------------------------------------------------------------------------------------------------- borders of pieces


@encoders
@pytest.mark.parametrize("n", LARGE_SIZES)
@pytest.mark.parametrize("spread", [0, 3])
def test_pieces_are_encoded_as_single_groups_are(codec: str, n: int, spread: int) -> None:
    values = random_values(n, n, spread=spread)
    stored, scale = codecs.encode(codec, values)
    assert (scale != 1.0) == (codec == "sfp" and spread > 0)
    step = GROUPS.get(codec, 1000)
    parts = [codecs.encode_pieces(element_types.BY_NAME[codec], values[i : i + step], scale) for i in range(0, n, step)]
    assert stored.tobytes() == b"".join(piece.tobytes() for part in parts for piece in part)
    decoded = codecs.decode(codec, stored, n, scale=scale)
    assert decoded.shape == values.shape


@pytest.mark.parametrize("place", [0, 1, PIECE - 1, PIECE, 2 * PIECE + 128])
def test_the_scale_is_that_of_the_largest_wherever_it_is(place: int) -> None:
    values = np.full(LARGE_SIZES[-1], 0.5, dtype=np.float32)
    for largest in (7.5, -7.5):
        values[place] = largest
        stored, scale = codecs.encode("sfp", values)
        assert scale == 4.0
        assert stored[place] == (0x7F if largest > 0 else 0xFF)


def test_a_piece_is_a_number_of_whole_groups() -> None:
    for codec in DECODERS:
        assert PIECE % (element_types.BY_NAME[codec].group or 1) == 0
        assert element_types.BY_NAME[codec].group == GROUPS.get(codec, 0)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", ["c", "fortran", "strided", "reversed"])
@pytest.mark.parametrize("codec", FINITE)
def test_what_is_not_finite_is_refused_with_its_place(
    codec: str, layout: str, dtype: np.dtype[Any], value: float
) -> None:
    values = np.zeros((2, 3, 40000), dtype=dtype)
    values[1, 0, 7] = values[1, 2, 39999] = value
    array = arranged(values, layout)
    first = [0, 0, 0] if layout == "reversed" else [1, 0, 7]
    with pytest.raises(CodecError) as caught:
        codecs.encode(codec, array, name="model.norm.weight")
    assert caught.value.reason == "not-finite"
    text = str(caught.value)
    assert text.startswith("not-finite: model.norm.weight has ")
    assert text.endswith(f" at index {first}, which {codec} can't hold")
    assert ("inf" in text) == bool(np.isinf(value))


@pytest.mark.parametrize("codec", ["f32", "bf16"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_not_finite_stays_so_where_it_can(codec: str, dtype: np.dtype[Any]) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1.5], dtype=dtype)
    decoded = codecs.decode(codec, codecs.encode(codec, values)[0], 4)
    assert np.isnan(decoded[0])
    assert decoded[1:].tolist() == [np.inf, -np.inf, 1.5]


@pytest.mark.parametrize(
    ("codec", "dtype", "pattern"),
    [("bf16", np.float32, 0x7F800001), ("bf16", np.float16, 0x7C01), ("f32", np.float64, 0x7FF0000000000001)],
)
def test_a_signalling_nan_stays_a_nan(codec: str, dtype: npt.DTypeLike, pattern: int) -> None:
    values = np.array([pattern], dtype=f"u{np.dtype(dtype).itemsize}").view(dtype)
    assert np.isnan(codecs.decode(codec, codecs.encode(codec, values)[0], 1)).all()


@pytest.mark.parametrize("codec", FINITE)
def test_a_signalling_nan_of_f64_is_refused(codec: str) -> None:
    values = np.array([0x7FF0000000000001], dtype=np.uint64).view(np.float64)
    with pytest.raises(CodecError, match=r"^not-finite: the array has nan at index \[0\]"):
        codecs.encode(codec, values)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)], ids=str)
def test_q4_0_refuses_what_it_would_make_infinite(dtype: np.dtype[Any]) -> None:
    largest, beyond = np.array([0x7F7F7FFF, 0xFF7F8000], dtype=np.uint32).view(np.float32).astype(dtype)
    assert np.isfinite(codecs.decode("q4_0", codecs.encode("q4_0", np.array([largest, -largest]))[0], 2)).all()
    with pytest.raises(CodecError, match=r"^not-finite: w has -3\.39.*e\+38 at index \[1\], which q4_0 can't hold"):
        codecs.encode("q4_0", np.array([largest, beyond]), name="w")


@encoders
@pytest.mark.parametrize("value", [1e39, -1e300, LARGEST * (1 + 2.0**-24)])
def test_f64_beyond_f32_is_refused(codec: str, value: float) -> None:
    values = np.ones((2, 50000))
    values[1, 30000] = value
    with pytest.raises(CodecError, match=r"^not-finite: big has .* at index \[1, 30000\]") as caught:
        codecs.encode(codec, values, name="big")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("codec", ["f32", "bf16"])
def test_infinities_of_f64_are_not_mistaken_for_what_is_beyond_f32(codec: str) -> None:
    values = np.array([np.inf, np.nan, -np.inf, 2.0, 1e39])
    with pytest.raises(CodecError, match=r"^not-finite: the array has 1e\+39 at index \[4\]"):
        codecs.encode(codec, values)
    assert codecs.decode(codec, codecs.encode(codec, values[:4])[0], 4)[[0, 2, 3]].tolist() == [np.inf, -np.inf, 2.0]


def test_a_single_value_that_is_refused_has_no_index() -> None:
    with pytest.raises(CodecError, match=r"^not-finite: the array has inf at index \[\]"):
        codecs.encode("sfp", np.float32(np.inf))


@pytest.mark.parametrize(
    "values",
    [(-3e38, 3e38), (0.0, 1e-40), (0.0, 1e-37), (1e30, 1e30)],
    ids=["extent-infinite", "extent-subnormal", "extent-small", "constant-large"],
)
def test_i8_refuses_or_encodes_what_is_beyond_its_limits(values: tuple[float, ...]) -> None:
    array = np.array(values, dtype=np.float32)
    try:
        stored, _ = codecs.encode("i8", array)
    except CodecError:
        return
    assert_within_i8_error(codecs.decode("i8", stored, array.size), array)


@pytest.mark.parametrize("name", ["nuq", "mxfp4", "u8", "f16", "f64", "int8", "f8_e4m3", "unknown"])
def test_there_is_no_encoder_for_other_types(name: str) -> None:
    with pytest.raises(CodecError, match=rf"^no-encoder: w: .* {name}: use one of f32, bf16, sfp, i8, q4_0$"):
        codecs.encode(name, np.zeros(4, dtype=np.float32), name="w")
    assert codecs.is_float_codec(element_types.BY_NAME[name]) == (name in ("nuq", "mxfp4"))


@pytest.mark.parametrize(
    "codec", ["u8", "f16", "f64", "unknown", element_types.by_number(999), element_types.by_number(46)]
)
def test_there_is_no_decoder_for_other_types(codec: str | element_types.ElementType) -> None:
    with pytest.raises(CodecError, match=r"^no-decoder: ") as caught:
        codecs.decode(codec, bytes(64), 4)
    assert str(codec) in str(caught.value)


@pytest.mark.parametrize(
    "call", [lambda: codecs.encode("sfq", np.zeros(1, dtype=np.float32)), lambda: codecs.decode("sfq", b"", 0)]
)
def test_a_name_that_is_no_type_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="unknown-type"):
        call()


@pytest.mark.parametrize("name", ["nuq", "mxfp4"])
def test_some_types_are_only_read(name: str) -> None:
    with pytest.raises(CodecError, match=r"^no-encoder: "):
        list(codecs.encode_pieces(element_types.BY_NAME[name], np.zeros(4, dtype=np.float32)))


@decoders
@given(data=st.data())
def test_too_few_bytes_are_refused(codec: str, data: st.DataObject) -> None:
    n = data.draw(st.sampled_from(SIZES[1:]) | st.integers(1, 600))
    stored = stored_sample(codec, n)
    cut = data.draw(st.integers(0, len(stored) - 1))
    start = data.draw(st.integers(0, n))
    # Also a run that begins after the bytes.
    with pytest.raises(CodecError, match=rf"^wrong-size: {codec}: {n} values take {len(stored)} bytes, found {cut}$"):
        codecs.decode(codec, stored[:cut], n - start, start=start)


@decoders
@pytest.mark.parametrize(("count", "start"), [(-1, 0), (-1, 1), (0, -1), (5, -3), (2**62, 0), (0, 2**62), (1, 608)])
def test_runs_that_cannot_be_are_refused(codec: str, count: int, start: int) -> None:
    with pytest.raises(CodecError, match=r"^wrong-size: "):
        codecs.decode(codec, stored_sample(codec, 608), count, start=start)


@given(n=st.integers(1, 300), data=st.data())
def test_the_reserved_sfp_code_is_refused_where_it_is_read(n: int, data: st.DataObject) -> None:
    stored = bytearray(stored_sample("sfp", n))
    place = data.draw(st.integers(0, n - 1))
    stored[place] = sfp.RESERVED
    dtype = data.draw(st.sampled_from(FLOATS))
    with pytest.raises(CodecError, match=r"^sfp-reserved-code: "):
        codecs.decode("sfp", stored, n, dtype=dtype)
    with pytest.raises(CodecError, match=r"^sfp-reserved-code: "):
        codecs.decode("sfp", stored, 1, start=place, scale=0.5, dtype=dtype)
    before = codecs.decode("sfp", stored, place, dtype=dtype)
    behind = codecs.decode("sfp", stored, n - place - 1, start=place + 1, dtype=dtype)
    assert (before.size, behind.size) == (place, n - place - 1)


@given(n=st.integers(1, 700), data=st.data())
def test_the_reserved_code_in_a_nuq_table_is_refused_even_if_no_value_uses_it(n: int, data: st.DataObject) -> None:
    stored = bytearray(stored_sample("nuq", n))
    group = data.draw(st.integers(0, (n - 1) // 256))
    stored[group * 144 + data.draw(st.integers(0, 15))] = sfp.RESERVED
    with pytest.raises(CodecError, match=r"^sfp-reserved-code: "):
        codecs.decode("nuq", stored, n)
    whole = min(n, group * 256)
    assert codecs.decode("nuq", stored, whole).size == whole


@decoders
@given(
    stored=st.binary(max_size=600),
    dtype=st.sampled_from(FLOATS),
    scale=st.sampled_from([1.0, 0.0, -0.0, 1e-45, 3e38, float("inf"), float("nan")]),
    data=st.data(),
)
def test_hostile_bytes_are_decoded_or_refused(
    codec: str, stored: bytes, dtype: np.dtype[Any], scale: float, data: st.DataObject
) -> None:
    # There are no warnings, either: tests run with warnings as errors.
    fitting = max(n for n in range(2 * len(stored) + 1) if element_types.BY_NAME[codec].nbytes(n) <= len(stored))
    n = data.draw(st.integers(0, fitting) | st.integers(fitting + 1, fitting + 3))
    try:
        values = codecs.decode(codec, stored, n, dtype=dtype, scale=scale)
    except CodecError as error:
        assert error.reason in {"wrong-size", "sfp-reserved-code", "mxfp4-reserved-scale"}  # noqa: PT017 (both outcomes are right)
        wrong = element_types.BY_NAME[codec].nbytes(n) > len(stored)
        assert (error.reason == "wrong-size") == wrong  # noqa: PT017
    else:
        assert (values.dtype, values.shape) == (dtype, (n,))


@pytest.mark.parametrize("scale", [1.0, 1e-45, 3e38, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("codec", ["f32", "bf16"])
def test_values_beyond_what_they_are_decoded_to_become_infinite(codec: str, dtype: np.dtype[Any], scale: float) -> None:
    words = [0x7F7F0000, 0xFF7F0000, 0x7F810000, 0x7FC00000, 0x7F800000, 0x00010000, 0x477FF000, 0]
    stored = np.array(words, dtype=np.uint32)
    if codec == "bf16":
        stored = stored >> np.uint32(16)
    values = codecs.decode(
        codec, stored.astype(f"<u{element_types.BY_NAME[codec].bits // 8}").tobytes(), 8, dtype=dtype, scale=scale
    )
    with np.errstate(invalid="ignore"):  # looking at a signalling NaN of bf16
        assert np.isnan(values[2:4]).all()
    assert np.isinf(values[:2]).all() == ((dtype == np.float16 and scale == 1) or abs(scale) > 1)


@pytest.mark.parametrize(
    "head",
    [
        *[(0x7F80, 0), (0x7FC0, 0x7FC0), (0x7F7F, 0xFF7F), (0x0001, 0x7F7F), (0, 0xFF80)],
        (0x7F81, 0),
        (0, 0xFFBF),
    ],
)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_any_scale_and_zero_point_of_an_i8_group_are_decoded(head: tuple[int, int], dtype: np.dtype[Any]) -> None:
    stored = struct.pack("<2H", *head) + bytes(range(128))
    assert codecs.decode("i8", stored, 128, dtype=dtype).shape == (128,)


# -------------------------------------------------------------------------------------------------------------- memory

N = 1 << 22
LIMIT = 3 << 20  # less than any whole copy: 4 MiB in sfp, 8 in bf16, 16 in f32


def peak_of(call: Callable[[], Any]) -> tuple[int, Any]:
    """The peak of memory in bytes, and the result."""
    codecs.encode("sfp", np.zeros(2, dtype=np.float32))  # tables are made once
    codecs.decode("sfp", bytes(2), 2, dtype=BF16)
    codecs.decode("sfp", bytes(2), 2)
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@encoders
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(np.float32, "c"), (BF16, "c"), (np.float16, "c"), (np.float64, "c"), (np.float32, "fortran"), (BF16, "strided")],
    ids=str,
)
def test_encoding_takes_constant_extra_memory(codec: str, dtype: npt.DTypeLike, layout: str) -> None:
    values = np.linspace(-3, 3, N, dtype=np.float32).astype(dtype).reshape(1024, -1)
    array = arranged(values, layout)
    peak, (stored, _) = peak_of(lambda: codecs.encode(codec, array))
    assert stored.nbytes == element_types.BY_NAME[codec].nbytes(N)
    assert peak - stored.nbytes < LIMIT


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.5])
@decoders
def test_decoding_takes_constant_extra_memory(codec: str, scale: float, dtype: np.dtype[Any]) -> None:
    stored = np.zeros(element_types.BY_NAME[codec].nbytes(N + 1), dtype=np.uint8)
    peak, values = peak_of(lambda: codecs.decode(codec, stored, N, start=1, scale=scale, dtype=dtype))
    assert values.nbytes == N * dtype.itemsize
    assert peak - values.nbytes < LIMIT


def test_refusing_takes_constant_extra_memory() -> None:
    values = np.full(N, np.nan, dtype=np.float32)

    def refused() -> str:
        with pytest.raises(CodecError) as caught:
            codecs.encode("i8", values)
        return str(caught.value)

    peak, message = peak_of(refused)
    assert "at index [0]" in message
    assert peak < LIMIT
