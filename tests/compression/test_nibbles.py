"""Planes stored as pairs, two bytes in one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.compression.nibbles import find_base, pair, paired_nbytes, unpair

FEW_ESCAPES = 32  # one byte in so many may escape
PLACED_ESCAPES = 256  # one byte in so many may be an escape with its place
FEW = 64  # bytes that are placed rather than marked
WINDOW = 16


def paired(plane: bytes, base: int) -> bytes | None:
    """The pairs of a plane, if it can be paired; otherwise the plane is unchanged."""
    given_plane = np.frombuffer(bytearray(plane), np.uint8)
    made = pair(given_plane, base, bytearray(len(plane)))
    if made is None:
        assert given_plane.tobytes() == plane
        return None
    return made.tobytes()


def unpaired(made: bytes, count: int) -> bytes | None:
    plane = unpair(np.frombuffer(made, np.uint8), count, np.empty(count, np.uint8))
    return None if plane is None else plane.tobytes()


def as_the_page_says(made: bytes, count: int) -> bytes | None:
    """Decode pairs byte by byte, as in spec/packed.md, Pairs."""
    half = (count + 1) // 2
    codes = [byte & 15 for byte in made[:half]] + [byte >> 4 for byte in made[:half]]
    if any(codes[count:]):
        return None
    base, kind, *behind = made[half:]
    if kind == 1:
        if codes[:count].count(15) != len(behind):
            return None
        return bytes((base + code) % 256 if code < 15 else behind.pop(0) for code in codes[:count])
    plane = [(base + code) % 256 for code in codes[:count]]
    escapes = len(behind) // 3
    if kind or len(behind) % 3:
        return None
    place = 0
    for k in range(escapes):
        place += behind[2 * k] + 256 * behind[2 * k + 1]
        if place >= count:
            return None
        plane[place] = behind[2 * escapes + k]
    return bytes(plane)


@st.composite
def planes(draw: st.DrawFn) -> tuple[bytes, int]:
    """Bytes, nearly all less than 16 above a base, and the base."""
    base, count, random = draw(st.integers(0, 255)), draw(st.integers(0, 2000)), draw(st.randoms(use_true_random=False))
    near = draw(st.sampled_from([WINDOW, WINDOW - 1]))
    plane = bytearray((base + random.randrange(near)) % 256 for _ in range(count))
    for _ in range(draw(st.integers(0, 1 + 2 * count // FEW_ESCAPES))):
        if count:
            plane[random.randrange(count)] = random.randrange(256)
    return bytes(plane), base


def tail_of(plane: bytes, base: int) -> int | None:
    """How many bytes the escapes of a plane take, unless there are too many."""
    beyond, at_least = (sum((byte - base) % 256 > code for byte in plane) for code in (15, 14))
    if FEW < at_least <= len(plane) // PLACED_ESCAPES:
        return at_least
    if beyond <= len(plane) // PLACED_ESCAPES:
        return 3 * beyond
    return at_least if at_least <= len(plane) // FEW_ESCAPES else None


@given(planes())
def test_pairs_stand_for_the_plane_or_there_are_none(drawn: tuple[bytes, int]) -> None:
    plane, base = drawn
    made, tail = paired(plane, base), tail_of(plane, base)
    nbytes = None if tail is None else (len(plane) + 1) // 2 + 2 + tail
    assert (None if made is None else len(made)) == (None if nbytes is None or nbytes >= len(plane) else nbytes)
    if made is not None:
        assert len(made) in paired_nbytes(len(plane))
        assert unpaired(made, len(plane)) == as_the_page_says(made, len(plane)) == plane


@given(st.data())
def test_whatever_is_read_as_pairs_is_as_the_page_says(data: st.DataObject) -> None:
    count = data.draw(st.integers(6, 60))
    nbytes = data.draw(st.sampled_from(paired_nbytes(count)))
    # Many small values and zeros: as gaps they lead to places inside.
    bytes_drawn = st.integers(0, 255) | st.integers(0, 9) | st.sampled_from([0, 0x0F, 0xF0, 0xFF])
    made = bytearray(data.draw(st.lists(bytes_drawn, min_size=nbytes, max_size=nbytes)))
    made[(count + 1) // 2 + 1] = data.draw(st.sampled_from([0, 0, 1, 1, 2, 255]))
    assert unpaired(bytes(made), count) == as_the_page_says(bytes(made), count)


@pytest.mark.parametrize("escapes", [0, 1, 63, 64, 65, 66, 200, 201, 1600])
@pytest.mark.parametrize("count", [256 * 200, 256 * 200 + 1])
def test_few_escapes_and_many_come_back(escapes: int, count: int) -> None:
    random = np.random.default_rng(1)
    plane = random.integers(100, 100 + WINDOW - 1, count, dtype=np.uint8)
    plane[random.choice(count, escapes, replace=False)] = random.integers(0, 100, escapes, dtype=np.uint8)
    made = paired(plane.tobytes(), 100)
    assert made is not None
    assert len(made) == (count + 1) // 2 + 2 + (3 * escapes if escapes <= FEW else escapes)
    assert unpaired(made, count) == plane.tobytes()


GAP = (1 << 16) - 1


@pytest.mark.parametrize(
    ("places", "bridges"),
    [
        ([GAP], 0),
        ([GAP + 1], 1),
        ([5, GAP + 5], 0),
        ([5, GAP + 6, 3 * GAP + 7], 3),
        ([*range(49), 4 * GAP + 49], 4),
        ([5, 2 * GAP + 5], 1),
    ],
)
def test_escapes_that_are_far_apart_are_bridged(places: list[int], bridges: int) -> None:
    plane = np.full(5 * GAP, 7, np.uint8)
    plane[places] = 200
    made = paired(plane.tobytes(), 0)
    assert made is not None
    assert len(made) == (len(plane) + 1) // 2 + 2 + 3 * (len(places) + bridges)
    assert unpaired(made, len(plane)) == as_the_page_says(made, len(plane)) == plane.tobytes()


@given(planes())
def test_a_base_leaves_out_few_of_a_short_plane(drawn: tuple[bytes, int]) -> None:
    plane = drawn[0][:1000]  # short enough to be sampled in full
    base = find_base(np.frombuffer(plane, np.uint8)) if plane else None
    if base is not None:
        assert base + WINDOW <= 256
        outside = sum(not base <= byte < base + WINDOW for byte in plane)
        alike = max(map(plane.count, set(plane)))
        assert outside <= len(plane) // (FEW_ESCAPES if 2 * alike > len(plane) else 256)
        assert alike < len(plane)


def test_exponents_of_weights_have_a_base_and_other_bytes_have_none() -> None:
    random = np.random.default_rng(2)
    bits = (random.standard_normal(100_000, dtype=np.float32) / 50).view(np.uint32)
    exponents = (bits >> 23).astype(np.uint8)
    base = find_base(exponents)
    assert base is not None
    assert exponents.max() < base + WINDOW - 1
    # Of the smallest values as many are left out as is worth it, not only those that lie too far away.
    assert int(exponents.max()) - WINDOW + 1 < base
    assert len(exponents) // 4096 < (exponents < base).sum() <= len(exponents) // 256
    for plane in ((bits >> 8).astype(np.uint8), np.zeros(1000, np.uint8), np.arange(2, dtype=np.uint8).repeat(8) * 200):
        assert find_base(plane) is None
