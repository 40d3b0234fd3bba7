"""Elements split into planes and merged again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.codecs.element_types import BY_NAME
from blobstore.compression.planes import Layout, Merger, Splitter, layout_of

LAYOUTS = [Layout(width, signed=signed) for width in (1, 2, 4, 8) for signed in (False, True)[: 1 + (width > 1)]]

BLOCK = 7  # elements that are merged at once

every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def planes_of(data: bytes, layout: Layout, *, misaligned: bool = False, spare: int = 0) -> list[bytes]:
    elements = np.frombuffer(misaligned * b"x" + data, np.uint8)[int(misaligned) :].view(layout.dtype)
    # The planes and the marks may be changed.
    splitter = Splitter(
        layout, np.empty(2 * (len(data) + spare * layout.width), np.uint8), bytearray(len(elements) + spare)
    )
    planes = []
    for plane in splitter.split(elements):
        planes.append(plane.tobytes())
        plane[:] = 0xA5
        splitter.marks[:] = b"\xa5" * len(splitter.marks)
    return planes


def merged(planes: list[bytes], layout: Layout) -> bytes:
    arrays = [np.frombuffer(plane, dtype=np.uint8) for plane in planes]
    merger = Merger(layout, np.empty(2 * layout.width * BLOCK, dtype=np.uint8))
    elements = np.empty(len(planes[0]), dtype=layout.dtype)
    merger.merge(arrays, elements)
    return elements.tobytes()


@every_layout
@given(data=st.binary(max_size=200), misaligned=st.booleans(), spare=st.integers(0, 3))
def test_merging_gives_back_what_was_split(layout: Layout, data: bytes, spare: int, *, misaligned: bool) -> None:
    whole = data[: len(data) - len(data) % layout.width]
    planes = planes_of(whole, layout, misaligned=misaligned, spare=spare)
    assert len(planes) == layout.width
    assert {len(plane) for plane in planes} == {len(whole) // layout.width}
    assert merged(planes, layout) == whole


@every_layout
@given(count=st.integers(0, 40), seed=st.integers(0, 9))
def test_a_base_is_taken_element_by_element(layout: Layout, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    data, base = (np.frombuffer(random.bytes(count * layout.width), dtype=layout.dtype) for _ in range(2))
    planes = [np.frombuffer(plane, dtype=np.uint8) for plane in planes_of((data ^ base).tobytes(), layout)]
    merged = np.empty_like(data)
    Merger(layout, np.empty(2 * layout.width * BLOCK, dtype=np.uint8)).merge(planes, merged, base)
    assert np.array_equal(merged, data)


@every_layout
def test_every_pattern_of_the_upper_two_bytes_comes_back(layout: Layout) -> None:
    upper = np.arange(1 << 16, dtype=layout.dtype if layout.width > 1 else "<u2")
    data = (upper << np.uint8(8 * max(layout.width - 2, 0))).astype(upper.dtype).tobytes()
    assert merged(planes_of(data, layout), layout) == data


@given(data=st.binary(max_size=64))
def test_planes_without_a_sign_are_the_bytes_from_the_highest(data: bytes) -> None:
    for width in (1, 2, 4, 8):
        whole = data[: len(data) - len(data) % width]
        assert planes_of(whole, Layout(width)) == [whole[place::width] for place in reversed(range(width))]


@pytest.mark.parametrize(("name", "dtype"), [("f32", "<f4"), ("f64", "<f8")])
def test_the_sign_changes_nothing_in_the_plane_of_the_exponent(name: str, dtype: str) -> None:
    values = np.random.default_rng(1).standard_normal(100).astype(dtype)
    layout = layout_of(BY_NAME[name])
    positive, negative = planes_of(values.tobytes(), layout), planes_of((-values).tobytes(), layout)
    assert positive[0] == negative[0]
    assert all(a ^ b == 0x80 for a, b in zip(positive[1], negative[1], strict=True))
    assert positive[2:] == negative[2:]


def test_the_exponent_of_bfloat16_is_a_plane() -> None:
    high, low = planes_of(np.array([0x3F80, 0xBFC0, 0xC001], "<u2").tobytes(), layout_of(BY_NAME["bf16"]))
    assert list(high) == [0x7F, 0x7F, 0x80]
    assert list(low) == [0x00, 0xC0, 0x81]


def test_the_layout_of_a_type_has_the_width_of_its_elements_or_of_bytes() -> None:
    for element_type in BY_NAME.values():
        layout = layout_of(element_type)
        assert layout in LAYOUTS
        assert layout.width in {1, element_type.bits // 8, element_type.bits // 16}
