from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from blobstore import BlobWriter
from blobstore.errors import UsageError
from tests.strategies import blob_lists, versions

if TYPE_CHECKING:
    from pathlib import Path

    from tests.strategies import Blobs


@given(blobs=blob_lists(6), version=versions)
def test_blobs_together_are_those_one_by_one(tmp_path: Path, blobs: Blobs, version: int) -> None:
    keys, data = zip(*blobs, strict=True)
    with BlobWriter(tmp_path / "a", version=version, digests=True) as alone:
        for key, one in blobs:
            alone.add(key, one)
        digests = alone.digests()
    with BlobWriter(tmp_path / "b", version=version, digests=True) as together:
        together.add_adjacent(keys, memoryview(b"".join(data)), [*map(len, data)])
        assert together.digests() == digests
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("keys", "sizes", "reason"),
    [
        (["a", "a"], [1, 1], "duplicate-key"),
        (["old", "a"], [1, 1], "duplicate-key"),
        (["a", ""], [1, 1], "bad-key"),
        (["a", "b"], [2, 0], "wrong-size"),
        (["a", "b"], [1, 2], "wrong-size"),
        (["a"], [1, 1], "wrong-size"),
        (["a", "b", "c"], [1, 1, 1], "too-many-blobs"),
    ],
)
def test_a_fault_in_one_leaves_all_out(tmp_path: Path, keys: list[str], sizes: list[int], reason: str) -> None:
    with BlobWriter(tmp_path / "a", max_blobs=3) as writer:
        writer.add("old", b"x")
        with pytest.raises(UsageError) as caught:
            writer.add_adjacent(keys, memoryview(bytes(3 if len(keys) == 3 else 2)), sizes)
        assert caught.value.reason == reason
        assert (writer.keys, writer.broken) == (["old"], False)
