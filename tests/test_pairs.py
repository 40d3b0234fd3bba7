"""Planes held two bytes in one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.codecs.pairs import find_base, pair, paired_nbytes, unpair

FEW_ESCAPES = 32  # one byte in so many may escape


def paired(plane: bytes, base: int) -> bytes | None:
    """The pairs of a plane, if it has any; a plane that has none stays as it is."""
    given_plane = np.frombuffer(bytearray(plane), np.uint8)
    made = pair(given_plane, base, np.empty(len(plane), np.uint8), bytearray(len(plane)))
    if made is None:
        assert given_plane.tobytes() == plane
        return None
    return made.tobytes()


def unpaired(made: bytes, count: int) -> bytes | None:
    found = unpair(np.frombuffer(made, np.uint8), count, bytearray(count))
    return None if found is None else found.tobytes()


def as_the_page_says(made: bytes, count: int) -> bytes | None:
    """What pairs stand for, byte by byte: spec/packed.md, Pairs."""
    half = (count + 1) // 2
    codes = [one & 15 for one in made[:half]] + [one >> 4 for one in made[:half]]
    escapes = list(made[half + 1 :])
    if codes.count(15) - (codes[count:] == [15]) != len(escapes) or any(codes[count:]):
        return None
    return bytes((made[half] + code) % 256 if code < 15 else escapes.pop(0) for code in codes[:count])


@st.composite
def planes(draw: st.DrawFn) -> tuple[bytes, int]:
    """Bytes of which nearly all lie within 15 of a base, and the base."""
    base, count, random = draw(st.integers(0, 255)), draw(st.integers(0, 2000)), draw(st.randoms(use_true_random=False))
    plane = bytearray((base + random.randrange(15)) % 256 for _ in range(count))
    for _ in range(draw(st.integers(0, 1 + 2 * count // FEW_ESCAPES))):
        if count:
            plane[random.randrange(count)] = random.randrange(256)
    return bytes(plane), base


@given(planes())
def test_pairs_stand_for_the_plane_or_there_are_none(drawn: tuple[bytes, int]) -> None:
    plane, base = drawn
    far = sum((one - base) % 256 > 14 for one in plane)
    made = paired(plane, base)
    may_be = far <= len(plane) // FEW_ESCAPES and (len(plane) + 1) // 2 + 1 + far < len(plane)
    assert (made is not None) == may_be
    if made is not None:
        assert len(made) in paired_nbytes(len(plane))
        assert unpaired(made, len(plane)) == as_the_page_says(made, len(plane)) == plane


@given(st.data())
def test_whatever_is_read_as_pairs_is_as_the_page_says(data: st.DataObject) -> None:
    count = data.draw(st.integers(4, 60))
    nbytes = data.draw(st.sampled_from(paired_nbytes(count)))
    bytes_drawn = st.integers(0, 255) | st.sampled_from([0x0F, 0xF0, 0xFF])
    made = bytes(data.draw(st.lists(bytes_drawn, min_size=nbytes, max_size=nbytes)))
    assert unpaired(made, count) == as_the_page_says(made, count)


@pytest.mark.parametrize("escapes", [0, 1, 63, 64, 65, 66, 200])
@pytest.mark.parametrize("count", [256 * 200, 256 * 200 + 1])
def test_few_escapes_and_many_come_back(escapes: int, count: int) -> None:
    random = np.random.default_rng(1)
    plane = random.integers(100, 115, count, dtype=np.uint8)
    plane[random.choice(count, escapes, replace=False)] = random.integers(0, 100, escapes, dtype=np.uint8)
    made = paired(plane.tobytes(), 100)
    assert made is not None
    assert len(made) == (count + 1) // 2 + 1 + escapes
    assert unpaired(made, count) == plane.tobytes()


@given(planes())
def test_a_base_leaves_out_few_of_a_short_plane(drawn: tuple[bytes, int]) -> None:
    plane = drawn[0][:1000]  # all of it is looked at
    base = find_base(np.frombuffer(plane, np.uint8)) if plane else None
    if base is not None:
        assert base + 14 < 256
        outside = sum(not base <= one < base + 15 for one in plane)
        alike = max(map(plane.count, set(plane)))
        assert outside <= len(plane) // (FEW_ESCAPES if 2 * alike > len(plane) else 256)
        assert alike < len(plane)


def test_exponents_of_weights_have_a_base_and_other_bytes_have_none() -> None:
    random = np.random.default_rng(2)
    bits = (random.standard_normal(100_000, dtype=np.float32) / 50).view(np.uint32)
    exponents = (bits >> 23).astype(np.uint8)
    base = find_base(exponents)
    assert base is not None
    assert base <= int(np.median(exponents)) <= base + 14
    for other in ((bits >> 8).astype(np.uint8), np.zeros(1000, np.uint8), np.arange(2, dtype=np.uint8).repeat(8) * 200):
        assert find_base(other) is None
