from __future__ import annotations

import itertools
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blobstore
from blobstore.codecs.element_types import BY_NAME
from blobstore.errors import TruncatedError, UsageError
from blobstore.fileio.descriptors import read_into
from tests.strategies import payload
from tests.tensor_strategies import Model, models

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.fileio.types import Array


def check_sharing(infos: list[blobstore.TensorInfo], loaded: dict[str, Array]) -> None:
    """Fail unless arrays share memory exactly where their tensors share bytes of the file."""
    for first, second in itertools.combinations(infos, 2):
        overlap = first.offset < second.offset + second.nbytes and second.offset < first.offset + first.nbytes
        assert np.shares_memory(loaded[first.name], loaded[second.name]) == overlap


@given(models(), st.sampled_from([None, 1, 2, 5]))
def test_load_all_shares_memory_where_the_file_does_and_nowhere_else(
    tmp_path: Path, model: Model, workers: int | None
) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    with blobstore.open(path) as store:
        loaded = store.load_all(workers=workers)
        infos = [info for info in store.infos() if info.nbytes]
    check_sharing(infos, loaded)
    assert all(loaded[info.name].ctypes.data % 64 == info.offset % 64 for info in infos)


def test_load_all_reads_large_tensors_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    tensors = {f"t{i}": np.frombuffer(payload(i, 2_500_000 * i), np.uint8) for i in range(1, 6)}
    blobstore.save_file(tensors, path)
    with blobstore.open(path, access="read") as store:
        loaded = store.load_all(workers=3)
        assert all(np.array_equal(loaded[name], array) for name, array in tensors.items())
        # Keeping a small tensor keeps no large one.
        assert loaded["t5"].base is not loaded["t1"].base


def test_small_tensors_share_an_allocation_of_at_most_a_chunk(tmp_path: Path) -> None:
    """Four of 1 MiB fill one exactly, the fifth begins another; keeping one keeps no more than that."""
    path = tmp_path / "m.sbs"
    blobstore.save_file({f"t{i}": np.full(1 << 20, i, np.uint8) for i in range(9)}, path)
    with blobstore.open(path) as store:
        loaded = store.load_all()
    allocations = [{id(loaded[f"t{i}"].base) for i in range(start, min(start + 4, 9))} for start in (0, 4, 8)]
    assert [len(bases) for bases in allocations] == [1, 1, 1]
    assert len(set.union(*allocations)) == 3


LARGE_PARTS = st.tuples(st.integers(0, 12 << 20), st.integers(1, 12 << 20))


@settings(max_examples=max(1, settings().max_examples // 6))
@given(
    sizes=st.lists(st.integers(1, 7 << 20), min_size=2, max_size=4),
    parts=st.lists(LARGE_PARTS, max_size=5),
    workers=st.sampled_from([1, 3]),
)
def test_load_all_shares_memory_where_the_file_does_beyond_4_mib_too(
    tmp_path: Path, sizes: list[int], parts: list[tuple[int, int]], workers: int
) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, digests=False) as store:
        for i, nbytes in enumerate([9 << 20, *sizes]):
            store.add(f"t{i}", np.frombuffer(payload(7, 10 << 20), np.uint8)[i : i + nbytes])
            store.alias(f"again{i}", f"t{i}")
        for i, (start, nbytes) in enumerate(parts):
            offset = start % (9 << 20)
            store.part(f"part{i}", "t0", BY_NAME["u8"], (min(nbytes, (9 << 20) - offset),), offset=offset)
    with blobstore.open(path) as store:
        loaded, infos = store.load_all(workers=workers), list(store.infos())
        assert all(np.array_equal(loaded[name], values) for name, values in store.items())
    check_sharing(infos, loaded)


def test_load_all_of_a_file_that_has_shrunk_names_it(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": np.ones(9_000_000, np.uint8), "b": np.ones(9_000_000, np.uint8)}, path)
    with blobstore.open(path, access="read") as store:
        os.truncate(path, 5_000_000)
        with pytest.raises(TruncatedError, match=re.escape(str(path))):
            store.load_all()


def test_zero_workers_are_refused(tmp_path: Path) -> None:
    blobstore.save_file({"a": np.ones(3)}, tmp_path / "m.sbs")
    with blobstore.open(tmp_path / "m.sbs") as store, pytest.raises(UsageError, match="bad-workers"):
        store.load_all(workers=0)


def test_load_all_reads_its_own_file_whatever_is_closed_and_opened_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {f"t{i}": np.full(1 << 20, i + 1, np.uint8) for i in range(12)}
    blobstore.save_file(right, tmp_path / "m.sbs")
    blobstore.save_file({name: values + 100 for name, values in right.items()}, tmp_path / "other.sbs")
    others: list[int] = []

    def read_late(fd: int, *rest: Any, **more: Any) -> None:  # noqa: ANN401 (as read_into has it)
        if not others:
            store.close()
            others.extend(os.open(tmp_path / "other.sbs", os.O_RDONLY) for _ in range(8))
        read_into(fd, *rest, **more)

    for access in ("mmap", "read"):
        store = blobstore.open(tmp_path / "m.sbs", access=access)
        with monkeypatch.context() as patched:
            patched.setattr("blobstore.fileio.plain_files.read_into", read_late)
            loaded = store.load_all()
        assert all(np.array_equal(loaded[name], values) for name, values in right.items())
        for fd in others:
            os.close(fd)
        others.clear()
        with pytest.raises(UsageError, match="closed"):
            store.load_all()


def test_a_prefix_loads_its_own_names(tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "m.sbs") as store:
        for name in ("a.x", "a.y", "b.x"):
            store[name] = np.full(3, ord(name[0]))
    view = blobstore.open(tmp_path / "m.sbs").prefix("a")
    assert sorted(view.load_all()) == ["x", "y"]
    assert list(view.load_all(["y"])) == ["y"]
    assert view.load_all()["x"].tolist() == [ord("a")] * 3
