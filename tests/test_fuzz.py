"""The targets of tests/fuzz without a fuzzer: every seed, every input that once was a find, and mutations of them.

`make fuzz` runs the same targets guided by coverage.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import CORPUS, MAX_NBYTES, seeds
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable

REGRESSIONS = Path(__file__).parent / "fuzz" / "regressions"

every_target = pytest.mark.parametrize("target", TARGETS)

U32S = [0, 1, 2, 31, 32, 33, 255, 256, 4096, 16384, 65536, 2**20, 2**20 + 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
U64S = [*U32S, 2**32, 2**53, 2**57 - 1, 2**57, 2**61 + 3, 2**62, 2**63 - 1, 2**63, 2**64 - 256, 2**64 - 8, 2**64 - 1]
EDGES = [struct.pack("<I", one) for one in U32S] + [struct.pack("<Q", one) for one in U64S]
WORDS = [b"SBS\n", b"SBSINDEX", b"{", b"}", b"[", b'"', b"\\u0000", b"\\ud83d", b"1e999", b"-0", b"NaN", b"9" * 40]


@cache
def inputs(target: str) -> dict[str, bytes]:
    """The committed inputs of a target, by their paths."""
    folders = [CORPUS / target, REGRESSIONS / target]
    return {
        f"{path.parent.parent.name}/{path.name}": path.read_bytes() for one in folders for path in sorted(one.glob("*"))
    }


@every_target
def test_every_seed_and_regression_passes(target: str) -> None:
    assert len(inputs(target)) >= 20, "the corpus is missing"
    for name, data in inputs(target).items():
        try:
            TARGETS[target](data)
        except BaseException as error:
            error.add_note(f"the input is tests/fuzz/{name} of {target}")
            raise


@every_target
def test_the_corpus_is_what_seeds_makes(target: str) -> None:
    assert {path.name: path.read_bytes() for path in (CORPUS / target).iterdir()} == seeds()[target]
    assert all(len(data) <= MAX_NBYTES for data in inputs(target).values())


def test_there_is_no_corpus_without_a_target() -> None:
    folders = [path for kind in (CORPUS, REGRESSIONS) for path in kind.iterdir()]
    assert {path.name for path in folders} == set(TARGETS)


def flip(draw: st.DrawFn, data: bytearray) -> None:
    place = draw(st.integers(0, len(data) - 1))
    data[place] ^= draw(st.integers(1, 255))


def edge(draw: st.DrawFn, data: bytearray) -> None:
    planted = draw(st.sampled_from(EDGES + WORDS))
    place = draw(st.integers(0, len(data) - 1))
    data[place : place + len(planted)] = planted


def cut(draw: st.DrawFn, data: bytearray) -> None:
    place = draw(st.integers(0, len(data)))
    del data[place : place + draw(st.integers(1, 64))]


def truncate(draw: st.DrawFn, data: bytearray) -> None:
    del data[draw(st.integers(1, len(data))) :]


def repeat(draw: st.DrawFn, data: bytearray) -> None:
    place, size = draw(st.integers(0, len(data))), draw(st.integers(1, 64))
    data[place:place] = data[place : place + size]


MUTATIONS: list[Callable[[st.DrawFn, bytearray], None]] = [flip, flip, edge, edge, cut, truncate, repeat]


@st.composite
def mutants(draw: st.DrawFn, target: str) -> bytes:
    """A seed with a few faults, or two seeds spliced; its first byte, which steers the target, may be another."""
    one, other = (draw(st.sampled_from(list(inputs(target).values()))) for _ in range(2))
    data = bytearray(one)
    if draw(st.integers(0, 3)) == 0:
        data[draw(st.integers(0, len(data))) :] = other[draw(st.integers(0, len(other))) :]
    if draw(st.booleans()) and data:
        data[0] = draw(st.integers(0, 63))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            draw(st.sampled_from(MUTATIONS))(draw, data)
    return bytes(data)


@every_target
def test_mutations_of_the_seeds_pass(target: str) -> None:
    @given(data=mutants(target))
    @settings(max_examples=max(600, settings().max_examples))
    def check(data: bytes) -> None:
        TARGETS[target](data)

    check()
