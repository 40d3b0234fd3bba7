"""Temporary files: which ones are abandoned, and which ones stay."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from blobstore.fileio import temporary
from blobstore.fileio.atomic import write_file
from blobstore.fileio.locking import lock, share
from blobstore.fileio.temporary import abandoned, is_temporary, keep_temporary, temporary_name
from tests.checkpoints import linux_only

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A temporary file that nobody has open."""
    path = tmp_path / temporary_name()
    path.write_bytes(b"data")
    return path


def test_a_temporary_name_is_new_and_known_as_one() -> None:
    names = {temporary_name() for _ in range(100)}
    assert len(names) == 100
    assert all(map(is_temporary, names))
    assert not any(is_temporary(f"{name}.new") or is_temporary(name[1:]) for name in names)


@linux_only
def test_abandoned_files_are_listed_in_order_and_removed_if_asked(tmp_path: Path, path: Path) -> None:
    other = tmp_path / temporary_name()
    other.write_bytes(b"data")
    assert abandoned(str(tmp_path)) == sorted([str(path), str(other)])
    assert abandoned(str(tmp_path), remove=True) == sorted([str(path), str(other)])
    assert os.listdir(tmp_path) == []


@linux_only
@pytest.mark.parametrize("hold", [lock, share])
def test_a_file_that_is_held_is_not_abandoned(tmp_path: Path, path: Path, hold: Callable[[int], object]) -> None:
    with open(path, "rb") as file:
        hold(file.fileno())
        assert abandoned(str(tmp_path), remove=True) == []
    assert abandoned(str(tmp_path)) == [str(path)]


@linux_only
def test_a_file_that_is_kept_is_not_abandoned(tmp_path: Path, path: Path) -> None:
    keep_temporary(str(path))
    keep_temporary(str(tmp_path / "nothing"))
    assert abandoned(str(tmp_path), remove=True) == []
    assert path.stat().st_mtime == 1  # other versions look for it, too


@linux_only
def test_only_temporary_files_of_ours_are_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".blobstore-0000000000000000.tmp").mkdir()
    os.mkfifo(tmp_path / ".blobstore-1111111111111111.tmp")
    (tmp_path / "target").write_bytes(b"data")
    (tmp_path / ".blobstore-2222222222222222.tmp").symlink_to("target")
    for name in (".blobstore-cache.tmp", f".blobstore-{'3' * 16}.new", f".blobstore-{'A' * 16}.tmp"):
        (tmp_path / name).write_bytes(b"data")
    assert abandoned(str(tmp_path)) == []
    assert abandoned(str(tmp_path / "nowhere")) == []
    (tmp_path / ".blobstore-3333333333333333.tmp").write_bytes(b"data")
    assert abandoned(str(tmp_path)) == [str(tmp_path / ".blobstore-3333333333333333.tmp")]
    # Where there are no locks nothing tells whether a writer lives.
    monkeypatch.setattr(temporary, "lock", lambda *_, **__: False)
    assert abandoned(str(tmp_path)) == []
    write_file(tmp_path / "target", b"new")
    assert (tmp_path / ".blobstore-3333333333333333.tmp").exists()
