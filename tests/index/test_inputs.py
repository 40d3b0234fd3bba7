"""Outputs that are inputs, in whatever guise, are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
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


def test_of_a_folder_all_files_are_inputs_but_stores_and_indexes(tmp_path: Path) -> None:
    blobstore.save_file({"a": np.arange(3)}, tmp_path / "m.sbs")
    (tmp_path / "weights").write_bytes(b"data")
    (tmp_path / "sub").mkdir()
    refuse_inputs([tmp_path / "m.sbs"], [], folder=tmp_path)
    with pytest.raises(UsageError, match="same-file"):
        refuse_inputs([tmp_path / "m.sbs"], [], folder=tmp_path, except_ours=False)
    for name in ("weights", "sub"):
        with pytest.raises(UsageError, match="same-file"):
            refuse_inputs([tmp_path / name], [], folder=tmp_path)
