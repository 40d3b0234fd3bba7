from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given

from blobstore import BlobReader, BlobWriter
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


@pytest.mark.parametrize("data", [np.arange(8, dtype=np.float32), memoryview(np.arange(8, dtype=np.float32).data)])
def test_sizes_are_in_bytes_whatever_the_elements(tmp_path: Path, data: np.ndarray | memoryview) -> None:
    with BlobWriter(tmp_path / "a") as writer:
        with pytest.raises(UsageError, match="wrong-size"):
            writer.add_adjacent(["a", "b"], data, [4, 4])
        with pytest.raises(UsageError, match="not-contiguous"):
            writer.add_adjacent(["a"], data[::2], [16])
        writer.add_adjacent(["a", "b"], data, [4, 28])
    with BlobReader(tmp_path / "a") as reader:
        assert bytes(reader["a"]) + bytes(reader["b"]) == bytes(data)


@pytest.mark.parametrize("state", ["broken", "closed", "discarded"])
def test_no_blobs_together_do_not_revive_a_writer(tmp_path: Path, state: str) -> None:
    writer = BlobWriter(tmp_path / "a")
    writer.add("old", b"x")
    if state == "broken":
        with pytest.raises(UsageError, match="wrong-size"):
            writer.add_chunks("new", [b"four", b"more"], nbytes=4)
    else:
        (writer.close if state == "closed" else writer.discard)()
    with pytest.raises(UsageError, match=f"closed: this writer is {state}"):
        writer.add_adjacent([], b"", [])
    assert writer.broken == (state == "broken")
    writer.discard()
