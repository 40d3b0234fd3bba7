"""Commands on ``file://`` URLs: they are paths of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from blobstore import cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ("pack {here}/m.sbs -o {here}/out.sbs", "out.sbs"),
        ("rewrite {here}/m.sbs -o {here}/out.sbs", "out.sbs"),
        ("recover {here}/m.sbs -o {here}/out.sbs", "out.sbs"),
        ("index build {here}/m.sbs --force", "m.sbs.idx"),
        ("index detach {here}/m.sbs", "m.sbs.idx"),
    ],
)
def test_commands_take_file_urls(words: str, made: str, tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "m.sbs") as store:
        store["w"] = np.ones((64, 64), np.float32)
    assert cli.main(words.format(here=f"file://{tmp_path}").split()) == 0
    assert (tmp_path / made).exists()
    assert list(blobstore.open(tmp_path / "m.sbs")) == ["w"]
