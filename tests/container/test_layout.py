from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blobstore.container import layout
from blobstore.container.keys import max_blobs_from
from tests import strategies

sizes = st.lists(st.one_of(st.integers(1, 600), st.integers(1, 1 << 55)), min_size=1, max_size=40)


def naive_round(value: int, multiple: int) -> int:
    """`round(x, a)` of spec/sbs.md."""
    return (value + multiple - 1) // multiple * multiple


@given(st.integers(0, 1 << 64), st.integers(1, 1 << 20))
def test_rounding_up_gives_the_next_multiple(value: int, multiple: int) -> None:
    rounded = layout.round_up(value, multiple)
    assert rounded % multiple == 0
    assert 0 <= rounded - value < multiple


@given(strategies.versions, sizes)
def test_blobs_and_file_lie_as_the_table_of_the_page_says(version: int, sizes: list[int]) -> None:
    directory = naive_round(16 + 32 * len(sizes), 256)
    start = end = 256 if version == 2 else directory
    ends = [end := naive_round(end + nbytes, 256) for nbytes in sizes]
    size = naive_round(end + directory, 65536) if version == 2 else naive_round(end, 65536)

    assert layout.payload_start(version, len(sizes)) == start
    assert layout.blob_ends(start, np.array(sizes, np.int64)).tolist() == ends
    assert layout.file_size(version, len(sizes), end) == size


@pytest.mark.parametrize(
    ("count", "nbytes"), [(1, 256), (7, 256), (8, 512), (15, 512), (16, 768), (16383, 524288), (2**20, 33554688)]
)
def test_the_directory_is_padded_to_whole_blobs(count: int, nbytes: int) -> None:
    assert layout.padded_directory_nbytes(count) == nbytes


@given(st.integers(1, 2**20))
@example(16383)
@example(16384)
def test_what_every_gemma_cpp_takes_stays_so(count: int) -> None:
    assert max_blobs_from([str(i) for i in range(count)]) == 2**20
    assert max_blobs_from(["toc", *[str(i) for i in range(count - 1)]]) == (16383 if count <= 16383 else 2**20)


def test_the_placeholder_is_that_of_the_page() -> None:
    assert layout.PLACEHOLDER.hex(" ") == "53 42 53 0a 00 00 00 00 00 00 01 00 00 00 00 00"
