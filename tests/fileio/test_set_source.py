"""Files read one after another as one source: few are open at once, and each is opened by one thread at a time."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blobstore
from blobstore.errors import FormatError, UsageError
from blobstore.fileio import set_source
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.set_source import SetSource
from blobstore.fileio.source import open_source
from tests.sets import save_set

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from blobstore.fileio.types import Access, ByteSource

FEW = 3
ACCESS: list[Access] = ["mmap", "read"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few files stay open that most are opened again."""
    monkeypatch.setattr(set_source, "_MOST_OPEN", FEW)


def source_of(folder: Path, contents: Sequence[bytes], access: Access = "mmap") -> tuple[SetSource, list[int]]:
    """Write files → them as one source, and the numbers of those that it opens, as it does."""
    paths = [folder / f"{i}.bin" for i in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    (folder / "list").write_bytes(b"list")
    opened: list[int] = []

    def open_file(number: int) -> ByteSource:
        opened.append(number)
        return open_source(paths[number], access, one_of_many=True)

    own = open_source(folder / "list", access)
    return SetSource(own, [str(path) for path in paths], [len(data) for data in contents], open_file), opened


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("access", ACCESS)
@settings(max_examples=30)
@given(
    contents=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8),
    ranges=st.lists(st.tuples(st.integers(0, 320), st.integers(0, 80)), max_size=20),
)
def test_any_range_is_that_of_the_files_joined(
    access: Access,
    contents: list[bytes],
    ranges: list[tuple[int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    source, opened = source_of(tmp_path_factory.mktemp("files"), contents, access)
    whole = b"".join(contents)
    assert (source.size, opened) == (len(whole), [])
    kept = []
    for place, most in ranges:
        start = min(place, len(whole))
        nbytes = min(most, len(whole) - start)
        expected = whole[start : start + nbytes]
        view = source.view(start, nbytes)
        buffer = bytearray(nbytes)
        source.read_into(memoryview(buffer), start)
        assert (bytes(view), bytes(buffer), view.readonly) == (expected, expected, True)
        assert FileRange(source, start, nbytes).read().tobytes() == expected
        kept.append((view, expected))
    source.close()
    for view, expected in kept:  # whatever was let go of meanwhile
        assert bytes(view) == expected


@pytest.mark.parametrize("access", ACCESS)
def test_a_file_is_opened_when_it_is_read_and_once(access: Access, tmp_path: Path) -> None:
    source, opened = source_of(tmp_path, [bytes([i]) * 10 for i in range(5)], access)
    start = threading.Barrier(8)

    def read(thread: int) -> list[bytes]:
        start.wait()
        return [bytes(source.view(10 * ((i + thread) % 5), 10)) for i in range(50)]

    with ThreadPoolExecutor(8) as pool:
        for thread, views in enumerate(pool.map(read, range(8))):
            assert views == [bytes([(i + thread) % 5]) * 10 for i in range(50)]
    assert sorted(opened) == list(range(5))


@pytest.mark.usefixtures("few")
def test_those_who_read_go_on_when_another_closes_it(tmp_path: Path) -> None:
    source, _ = source_of(tmp_path, [bytes([i]) * 10 for i in range(9)])
    with source.reading() as read_into:
        source.close()
        buffer = bytearray(90)
        read_into(memoryview(buffer), 0)
        assert bytes(buffer) == b"".join(bytes([i]) * 10 for i in range(9))
        for use in (lambda: source.view(0, 1), lambda: source.file(0), lambda: source.reading().__enter__()):
            with pytest.raises(UsageError, match="closed"):
                use()
    source.close()


def test_it_has_no_descriptor(tmp_path: Path) -> None:
    source, _ = source_of(tmp_path, [b"one", b"two"])
    with source.held() as descriptor:
        assert descriptor is None
    with pytest.raises(UsageError, match="no-descriptor"):
        source.fileno()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("access", ACCESS)
def test_many_stores_take_few_descriptors(access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_source, "_MOST_OPEN", FEW)
    path, count = tmp_path / "m.sbs", 100
    save_set([{f"layer.{i}": np.array([i, i + 1])} for i in range(count)], path)
    before = descriptors()
    with blobstore.open(path, access=access) as store:
        for i in [*range(count), *range(count)]:
            assert store[f"layer.{i}"].tolist() == [i, i + 1]
        loaded = store.load_all()
        assert [loaded[f"layer.{i}"][1] for i in range(count)] == list(range(1, count + 1))
        ranges = [store.reader.file_range(key) for key in store.reader]
        assert descriptors() <= before + 2 * FEW + 64 + (count if access == "mmap" else 0)  # a map of each range
        del ranges
    del store
    assert descriptors() <= before + 64


@pytest.mark.usefixtures("few")
def test_a_store_that_was_replaced_meanwhile_is_refused_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    stores = save_set([{f"layer.{i}": np.arange(10) + i} for i in range(8)], path)
    with blobstore.open(path) as store:
        first = store["layer.0"]
        for i in range(8):
            assert store[f"layer.{i}"][0] == i
        other = save_set([{"layer.9": np.arange(10)}], tmp_path / "other.sbs")[0]
        os.replace(other, stores[0])
        with pytest.raises(FormatError, match="set-stale"):
            store["layer.0"]
        assert first[0] == 0
