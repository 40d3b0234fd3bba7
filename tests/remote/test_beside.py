"""The index beside a URL, and uploads that end in their own thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pytest

import blobstore
from blobstore.fileio.uploads import Upload

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["a.sbs", "a?b.sbs", "a.sbs?"])
def test_an_index_beside_a_name_with_a_question_mark_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.sbs"
    with blobstore.create(path, index="external") as store:
        store["a.long.name.of.a.tensor"] = np.ones(3)
    for end in ("", ".idx"):
        with fsspec.open(f"memory://n/{name}{end}", "wb") as file:
            file.write((tmp_path / f"a.sbs{end}").read_bytes())
    with blobstore.open(f"memory://n/{name}") as opened:
        assert list(opened) == ["a.long.name.of.a.tensor"]


def test_an_upload_can_be_given_up_in_its_own_thread() -> None:
    upload = Upload("memory://n/given-up.sbs")
    upload.write(b"some")
    upload._upload_gathered()
    upload._wait()
    upload._thread.submit(upload.discard).result()
    assert not fsspec.filesystem("memory").exists("/n/given-up.sbs")
