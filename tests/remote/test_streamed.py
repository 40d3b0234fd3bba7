"""A file elsewhere, read in any order: the right bytes, each fetched once where reads follow each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore import RemoteError, TruncatedError, UsageError
from blobstore.fileio import remote_object, streamed
from blobstore.fileio.streamed import StreamedSource
from tests.remote.counting import CountedFileSystem, clear

URL = "counted://folder/file"
SIZE = 40_000
DATA = np.random.default_rng(0).bytes(SIZE)


def put(data: bytes = DATA) -> None:
    fsspec.filesystem("counted").pipe_file("/folder/file", data)


def fetched() -> list[tuple[int, int]]:
    return sorted((start, end) for _, start, end in CountedFileSystem.fetched)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "_BLOCK_NBYTES", 1000)
    monkeypatch.setattr(streamed, "_KEPT_NBYTES", 8000)
    monkeypatch.setattr(streamed, "_HEAD_NBYTES", 300)
    monkeypatch.setattr(remote_object, "_WAITS", (0, 0))


ends = st.lists(st.integers(1, SIZE - 1), max_size=20, unique=True).map(lambda drawn: [*sorted(drawn), SIZE])
reads = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 5000)), max_size=30)


@given(ends, reads, st.booleans())
def test_any_reads_by_any_threads_give_the_files_bytes(
    ends: list[int], reads: list[tuple[int, int]], told: bool
) -> None:
    clear()
    put()
    wanted = [(offset, min(nbytes, SIZE - offset)) for offset, nbytes in reads]
    with StreamedSource(URL) as source, ThreadPoolExecutor(4) as pool:
        source.tell_ranges(ends if told else [])
        views = pool.map(lambda one: bytes(source.view(*one)), wanted)
        assert list(views) == [DATA[offset : offset + nbytes] for offset, nbytes in wanted]
        assert sum(one.end - one.start for one in source._blocks) <= 8000 + 5000 * 4


@given(ends, st.integers(1, 3000))
def test_reading_front_to_back_fetches_each_byte_once(ends: list[int], step: int) -> None:
    clear()
    put()
    with StreamedSource(URL) as source:
        source.tell_ranges(ends)
        for offset in range(0, SIZE, step):
            nbytes = min(step, SIZE - offset)
            assert bytes(source.view(offset, nbytes)) == DATA[offset : offset + nbytes]
    parts = fetched()
    assert parts[0][0] == 0
    assert parts[-1][1] == SIZE
    assert all(before[1] == after[0] for before, after in pairwise(parts))


def test_reading_one_tensor_fetches_no_other() -> None:
    put()
    with StreamedSource(URL) as source:
        source.tell_ranges([10_000, 17_000, SIZE])
        for offset in range(10_000, 17_000, 500):
            source.view(offset, 500)
    parts = fetched()
    assert (parts[0][0], parts[-1][1]) == (10_000, 17_000)
    assert sum(end - start for start, end in parts) == 7000


def test_a_failed_or_short_answer_is_asked_for_again_and_then_an_error() -> None:
    put()
    CountedFileSystem.failures += [1, RuntimeError("502 of https://host/x?sig=secret")]
    with StreamedSource(URL) as source:
        assert bytes(source.view(100, 50)) == DATA[100:150]
        CountedFileSystem.failures += [7] * 3
        with pytest.raises(RemoteError, match="remote-short") as short:
            source.view(20_000, 50)
        assert short.value.path == URL
        CountedFileSystem.failures += [RuntimeError("of https://user:pass@host/x?sig=secret")] * 3
        with pytest.raises(RemoteError, match="remote-failed") as failed:
            source.view(30_000, 50)
        assert "secret" not in str(failed.value)
        assert "pass" not in str(failed.value)
        assert bytes(source.view(30_000, 50)) == DATA[30_000:30_050]


def test_a_replaced_file_is_noticed() -> None:
    put()
    with StreamedSource(URL) as source:
        source.check_unchanged()
        put(DATA[::-1])
        with pytest.raises(RemoteError, match="remote-changed"):
            source.check_unchanged()


def test_what_cannot_be_read() -> None:
    with pytest.raises(FileNotFoundError):
        StreamedSource(URL)
    put()
    with pytest.raises(UsageError, match="not-a-file"):
        StreamedSource("counted://folder")
    source = StreamedSource(URL)
    with pytest.raises(TruncatedError, match="short-read"):
        source.view(SIZE - 1, 2)
    with pytest.raises(UsageError, match="no-descriptor"):
        source.fileno()
    source.close()
    with pytest.raises(UsageError, match="closed"):
        source.view(0, 1)
