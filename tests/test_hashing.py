from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore import hashing
from blobstore.errors import TruncatedError
from blobstore.hashing import Hasher
from blobstore.transfer import FileRange
from tests.strategies import payload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INLINE = hashing._INLINE_NBYTES
DATA = payload(7, 2 * INLINE)

piece_sizes = st.one_of(st.integers(0, 100), st.sampled_from([INLINE - 1, INLINE, 2 * INLINE]))


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    one = Hasher()
    one.begin()
    yield one
    one.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Descriptor of a file that holds DATA."""
    (tmp_path / "file").write_bytes(DATA)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    yield fd
    os.close(fd)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def update(hasher: Hasher, data: bytes | FileRange) -> None:
    source = data if isinstance(data, FileRange) else memoryview(bytearray(data))
    with hasher.updating(source):
        pass
    if isinstance(source, memoryview):  # it may be reused
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


def test_a_forgotten_blob_has_no_digest(hasher: Hasher) -> None:
    update(hasher, b"a")
    hasher.begin()
    update(hasher, b"b")
    hasher.forget()
    assert hasher.digests() == [sha256(b"a")]


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


def test_large_pieces_are_hashed_in_a_thread_that_ends(hasher: Hasher) -> None:
    before = threading.active_count()
    update(hasher, DATA[: INLINE - 1])
    assert threading.active_count() == before
    update(hasher, DATA)
    assert threading.active_count() == before + 1
    hasher.close()
    assert threading.active_count() == before
