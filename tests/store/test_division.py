"""The division of tensors into files."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from blobstore.store.division import Item, divide

items = st.lists(
    st.builds(Item, st.sampled_from([0, 1, 256, 257, 5000, 70_000]), st.integers(1, 3), st.integers(1, 60), st.just(2)),
    min_size=1,
    max_size=40,
).filter(lambda listed: any(item.nbytes for item in listed))


@given(items, st.none() | st.sampled_from([1, 65536, 131072, 300_000]), st.integers(2, 9))
def test_each_item_is_in_one_file_in_order(listed: list[Item], max_nbytes: int | None, max_blobs: int) -> None:
    parts = divide(listed, max_nbytes=max_nbytes, max_blobs=max_blobs)
    assert [place for part in parts for place in part] == list(range(len(listed)))
    for part in parts:
        blobs = sum(listed[place].nbytes > 0 for place in part)
        assert 1 <= blobs <= max_blobs - 1


@given(items, st.sampled_from([65536, 131072, 300_000]))
def test_a_file_has_no_room_for_the_next_item(listed: list[Item], max_nbytes: int) -> None:
    parts = divide(listed, max_nbytes=max_nbytes, max_blobs=1 << 20)
    for part, following in pairwise(parts):
        together = [listed[place] for place in (*part, following.start)]
        assert len(divide(together, max_nbytes=max_nbytes, max_blobs=1 << 20)) > 1


@given(items)
def test_without_a_limit_there_is_one_file(listed: list[Item]) -> None:
    assert divide(listed, max_nbytes=None, max_blobs=1 << 20) == [range(len(listed))]
