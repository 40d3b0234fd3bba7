"""Files that get their names together: all, none, or the first ones, with the others kept complete."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from blobstore.fileio import atomic
from blobstore.fileio.atomic import AtomicFile
from blobstore.fileio.together import move_together

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("a", "b", "c")


def move_all(folder: Path) -> None:
    """Replace three files by new ones, together."""
    with ExitStack() as stack:
        files = [stack.enter_context(AtomicFile(folder / name)) for name in NAMES]
        stack.pop_all()
        for file in files:
            file.write(memoryview(b"new"))
            file.prepare()
        try:
            move_together(*files)
        finally:
            for file in files:
                file.discard()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_bytes(b"old")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_files_get_their_names(folder: Path) -> None:
    move_all(folder)
    assert contents(folder) == dict.fromkeys(NAMES, b"new")


@pytest.mark.parametrize("failing", range(3))
def test_the_files_after_one_that_fails_keep_their_old_contents(
    folder: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def replace(source: str, target: str) -> None:
        if os.path.basename(target) == NAMES[failing]:
            raise OSError(errno.EIO, "I/O error")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="I/O error") as caught:
        move_all(folder)
    monkeypatch.undo()
    expected = {name: b"new" if place < failing else b"old" for place, name in enumerate(NAMES)}
    kept = {f"{name}.new": b"new" for name in NAMES[failing:]} if failing else {}
    assert contents(folder) == expected | kept
    assert all(name in str(caught.value) for name in kept)
    assert ("nothing is lost" in str(caught.value)) == bool(failing)


def test_an_error_after_all_have_their_names_is_that_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_folder: str) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(atomic, "_sync_folder", fail)
    with pytest.raises(OSError, match="I/O error") as caught:
        move_all(folder)
    assert "nothing is lost" not in str(caught.value)
    assert contents(folder) == dict.fromkeys(NAMES, b"new")
