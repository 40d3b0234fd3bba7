"""Locks: one holder at a time, and nobody else gets in meanwhile."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from blobstore.fileio.locking import lock, turn_at

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such locks")


def test_a_turn_begins_when_the_one_before_it_has_ended(tmp_path: Path) -> None:
    begun = threading.Event()

    def take_a_turn() -> None:
        with turn_at(tmp_path / "file"):
            begun.set()

    with turn_at(tmp_path / "file"):
        other = threading.Thread(target=take_a_turn)
        other.start()
        assert not begun.wait(0.3)
    assert begun.wait(60)
    other.join()
    assert list(tmp_path.iterdir()) == []


def test_a_turn_ends_when_its_lock_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, held = os.unlink, []

    def noted(path: str) -> None:
        with open(path, "rb") as other:
            held.append(not lock(other.fileno(), wait=False))
        unlink(path)

    monkeypatch.setattr(os, "unlink", noted)
    with turn_at(tmp_path / "file"):
        pass
    assert held == [True]


def test_the_lock_that_a_crash_leaves_is_open_to_all_users(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with turn_at(tmp_path / "file"):
            (path,) = tmp_path.iterdir()
            assert path.name == f".blobstore-{hashlib.sha256(b'file').hexdigest()[:16]}.lock"  # of every version
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
    finally:
        os.umask(before)


def test_an_error_of_the_lock_names_the_file_that_is_to_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    (tmp_path / f".blobstore-{hashlib.sha256(b'file').hexdigest()[:16]}.lock").touch()  # a crash has left it
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="no space left") as caught, turn_at(tmp_path / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "file")


def test_turns_at_different_files_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with turn_at(tmp_path / "a"), turn_at(tmp_path / "b"):
        assert len(list(tmp_path.iterdir())) == 2


def test_a_lock_is_one_holders(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with (tmp_path / "file").open("rb") as first, (tmp_path / "file").open("rb") as second:
        assert lock(first.fileno(), wait=False)
        assert not lock(second.fileno(), wait=False)
        first.close()
        assert lock(second.fileno())
