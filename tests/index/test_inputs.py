"""Outputs that are inputs, in whatever guise, are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from blobstore.errors import UsageError
from blobstore.index.inputs import refuse_inputs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["file", "./file", "link", "hard"])
def test_the_message_says_under_which_other_name_a_file_is_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "hard").hardlink_to("file")
    with pytest.raises(UsageError) as caught:
        refuse_inputs([name], ["file"])
    alias = "" if name == "file" else " (as 'file')"
    assert str(caught.value) == f"same-file: {name!r} would be lost: it is read{alias}; choose another output"


def test_other_files_are_not_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "other").write_bytes(b"data")
    refuse_inputs([tmp_path / "other", tmp_path / "new", None], [tmp_path / "file", tmp_path / "gone"])
