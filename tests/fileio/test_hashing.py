from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import TruncatedError, UsageError
from blobstore.fileio import hashing
from blobstore.fileio.hashing import Hasher, digest_of, file_digest
from blobstore.fileio.ranges import CHUNK_NBYTES, FileRange
from tests.strategies import payload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INLINE = hashing._INLINE_NBYTES
DATA = payload(7, 2 * INLINE)

piece_sizes = st.one_of(st.integers(0, 100), st.sampled_from([INLINE - 1, INLINE, 2 * INLINE]))


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    new_hasher = Hasher()
    new_hasher.begin()
    yield new_hasher
    new_hasher.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a file that holds DATA."""
    (tmp_path / "file").write_bytes(DATA)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    yield fd
    os.close(fd)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.mark.parametrize("nbytes", [0, 1, CHUNK_NBYTES - 1, CHUNK_NBYTES, CHUNK_NBYTES + 1, 2 * CHUNK_NBYTES + 5])
def test_a_range_of_any_size_has_its_digest_and_tells_of_every_byte(tmp_path: Path, nbytes: int) -> None:
    data = (DATA * (nbytes // len(DATA) + 1))[:nbytes]
    (tmp_path / "large").write_bytes(b"before" + data + b"behind")
    fd = os.open(tmp_path / "large", os.O_RDONLY)
    reported: list[int] = []
    assert digest_of(FileRange(fd, 6, nbytes), reported.append) == digest_of([memoryview(data)]) == sha256(data)
    os.close(fd)
    assert sum(reported) == nbytes
    assert all(0 < step <= CHUNK_NBYTES for step in reported)


@pytest.mark.parametrize("nbytes", [0, 1, 5000, (1 << 18) + 1])
def test_a_digest_of_a_file_is_that_of_all_its_bytes(tmp_path: Path, nbytes: int) -> None:
    data = payload(3, nbytes)
    (tmp_path / "x").write_bytes(data)
    assert file_digest(tmp_path / "x") == sha256(data)


def test_a_folder_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not-a-file"):
        file_digest(tmp_path)


def update(hasher: Hasher, data: bytes | FileRange) -> None:
    source = data if isinstance(data, FileRange) else memoryview(bytearray(data))
    with hasher.updating(source):
        pass
    if isinstance(source, memoryview):  # callers may reuse it
        source[:] = bytes(len(source))


@given(st.lists(st.lists(st.tuples(st.booleans(), piece_sizes), max_size=5), max_size=4))
def test_pieces_from_memory_and_files_are_hashed_in_order(file: int, blobs: list[list[tuple[bool, int]]]) -> None:
    hasher = Hasher()
    for blob in blobs:
        hasher.begin()
        for from_file, nbytes in blob:
            update(hasher, FileRange(file, 0, nbytes) if from_file else DATA[:nbytes])
    assert hasher.digests() == [sha256(b"".join(DATA[:nbytes] for _, nbytes in blob)) for blob in blobs]
    hasher.close()


@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans(), piece_sizes), max_size=5), max_size=6))
def test_pieces_that_last_are_hashed_in_order(file: int, blobs: list[list[tuple[bool, bool, int]]]) -> None:
    hasher = Hasher()
    for blob in blobs:
        hasher.begin()
        for from_file, immutable, nbytes in blob:
            if immutable:
                source = FileRange(file, 0, nbytes) if from_file else memoryview(DATA)[:nbytes]
                with hasher.updating(source, immutable=True):
                    pass
            else:
                update(hasher, FileRange(file, 0, nbytes) if from_file else DATA[:nbytes])
    assert hasher.digests() == [sha256(b"".join(DATA[:nbytes] for *_, nbytes in blob)) for blob in blobs]
    hasher.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Keeps everything from being hashed until it is set."""
    gate, hashed = threading.Event(), hashing._hash

    def late(*args: object) -> None:
        gate.wait()
        hashed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(hashing, "_hash", late)
    yield gate
    gate.set()


@pytest.mark.parametrize("ending", ["digests", "close"])
def test_what_lasts_is_hashed_after_the_block_and_before_the_end(
    hasher: Hasher, gate: threading.Event, ending: str
) -> None:
    for _ in range(3):
        with hasher.updating(memoryview(DATA), immutable=True):
            pass
        hasher.begin()
    threading.Timer(0.05, gate.set).start()
    getattr(hasher, ending)()
    assert hasher.digests() == [sha256(DATA)] * 3 + [sha256(b"")]


def test_what_waits_is_let_go_of_when_it_is_not_wanted_any_more(hasher: Hasher, gate: threading.Event) -> None:
    data = bytearray(DATA)
    for _ in range(3):
        with hasher.updating(memoryview(data), immutable=True):
            pass
    threading.Timer(0.05, gate.set).start()
    hasher.discard()
    data.clear()  # raises while a view of it exists


@contextmanager
def limited(gate: threading.Event, **limits: int) -> Iterator[Hasher]:
    """A hasher with one blob, closed once the gate is open."""
    hasher = Hasher(**limits)
    hasher.begin()
    try:
        yield hasher
    finally:
        gate.set()
        hasher.close()


def test_no_more_than_so_much_memory_waits(gate: threading.Event, file: int) -> None:
    with limited(gate, waiting_nbytes=len(DATA)) as hasher:
        for source in (memoryview(DATA), FileRange(file, 0, len(DATA))):  # a file range takes no memory
            with hasher.updating(source, immutable=True):
                pass
        threading.Timer(0.05, gate.set).start()
        with hasher.updating(memoryview(DATA), immutable=True):
            assert gate.is_set()
        assert hasher.digests() == [sha256(DATA * 3)]


def test_exactly_so_much_memory_may_wait(gate: threading.Event) -> None:
    with limited(gate, waiting_nbytes=2 * len(DATA)) as hasher:
        late = threading.Timer(20, gate.set)
        late.start()
        for _ in range(2):
            with hasher.updating(memoryview(DATA), immutable=True):
                assert not gate.is_set()
        late.cancel()
        gate.set()
        assert hasher.digests() == [sha256(DATA * 2)]


def test_no_more_pieces_wait_than_allowed(gate: threading.Event) -> None:
    # Each piece was made for the file: while it waits, it takes memory that nobody else holds.
    with limited(gate, waiting_pieces=5, waiting_little=0) as hasher:
        for _ in range(5):
            with hasher.updating(memoryview(DATA), immutable=True):
                assert not gate.is_set()
        threading.Timer(0.05, gate.set).start()
        with hasher.updating(memoryview(DATA), immutable=True):
            assert gate.is_set()
        assert hasher.digests() == [sha256(DATA * 6)]


def test_small_pieces_may_be_more(gate: threading.Event) -> None:
    with limited(gate, waiting_pieces=1, waiting_little=3 * len(DATA)) as hasher:
        late = threading.Timer(20, gate.set)
        late.start()
        for _ in range(3):
            with hasher.updating(memoryview(DATA), immutable=True):
                assert not gate.is_set()
        late.cancel()
        threading.Timer(0.05, gate.set).start()
        with hasher.updating(memoryview(DATA), immutable=True):
            assert gate.is_set()


def test_a_file_that_was_to_last_and_is_shorter_is_reported(hasher: Hasher, file: int) -> None:
    with hasher.updating(FileRange(file, 1, len(DATA)), immutable=True):
        pass
    hasher.begin()
    update(hasher, DATA)
    with pytest.raises(TruncatedError, match="short-read"):
        hasher.digests()


def test_a_forgotten_blob_has_no_digest(hasher: Hasher) -> None:
    update(hasher, b"a")
    hasher.begin()
    update(hasher, b"b")
    hasher.forget()
    assert hasher.digests() == [sha256(b"a")]


def test_a_blob_is_forgotten_once_its_bytes_are_no_longer_read(
    hasher: Hasher, gate: threading.Event, file: int
) -> None:
    sources: list[memoryview | FileRange] = [memoryview(DATA), FileRange(file, 0, len(DATA))]
    hasher.begin()
    for source in sources:
        with hasher.updating(source, immutable=True):
            pass
    threading.Timer(0.05, gate.set).start()
    hasher.forget()
    assert gate.is_set()
    hasher.begin()
    update(hasher, b"of the next")
    assert hasher.digests()[-1] == sha256(b"of the next")


def test_digests_can_be_asked_for_in_between_and_after_the_end(hasher: Hasher) -> None:
    update(hasher, DATA)
    assert hasher.digests() == [sha256(DATA)]
    update(hasher, DATA)
    hasher.close()
    hasher.close()
    assert hasher.digests() == [sha256(DATA * 2)]


@pytest.mark.parametrize("nbytes", [10, INLINE], ids=["small", "large"])
def test_a_file_shorter_than_its_range_is_reported(hasher: Hasher, file: int, nbytes: int) -> None:
    with pytest.raises(TruncatedError, match="short-read"):
        update(hasher, FileRange(file, len(DATA) - nbytes + 1, nbytes))


@pytest.mark.parametrize("data", [DATA[:10], DATA], ids=["small", "large"])
def test_an_error_inside_the_block_is_not_hidden(hasher: Hasher, data: bytes) -> None:
    with pytest.raises(KeyboardInterrupt), hasher.updating(memoryview(data)):
        raise KeyboardInterrupt


def test_an_error_inside_the_block_hides_that_of_the_hashing(hasher: Hasher, file: int) -> None:
    with pytest.raises(KeyboardInterrupt), hasher.updating(FileRange(file, 1, len(DATA))):
        raise KeyboardInterrupt


@pytest.mark.parametrize("error", [None, ValueError])
def test_nothing_is_read_after_the_block(
    hasher: Hasher, monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    hashed = hashing._hash
    done = False

    def late(*args: object) -> None:
        nonlocal done
        time.sleep(0.05)
        hashed(*args)  # type: ignore[arg-type]
        done = True

    monkeypatch.setattr(hashing, "_hash", late)
    try:
        with hasher.updating(memoryview(DATA)):
            if error:
                raise error
    except ValueError:
        pass
    assert done


def test_small_pieces_begin_no_thread(hasher: Hasher) -> None:
    before = threading.active_count()
    update(hasher, DATA[: INLINE - 1])
    hasher.add_small([memoryview(DATA)])
    assert threading.active_count() == before
    assert hasher.digests() == [sha256(DATA[: INLINE - 1]), sha256(DATA)]


def test_large_pieces_are_hashed_in_a_thread_that_ends(hasher: Hasher) -> None:
    before = threading.active_count()
    update(hasher, DATA[: INLINE - 1])
    assert threading.active_count() == before
    update(hasher, DATA)
    assert threading.active_count() == before + 1
    hasher.close()
    assert threading.active_count() == before
