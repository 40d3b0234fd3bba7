"""What check and diff print of URLs has no secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pytest

import blobstore
from blobstore import cli
from tests.checkpoints import small, write_peer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["a.sbs", "a.safetensors"])
@pytest.mark.parametrize("command", [["check"], ["check", "--json"], ["diff"], ["diff", "--json"]])
def test_no_secrets_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: list[str]
) -> None:
    urls = [f"memory://user:PASSW@{host}/{name}?sig=SECRET.{name}" for host in ("one", "two")]
    for url, tensor in zip(urls, "ab", strict=True):
        path = tmp_path / name
        if name.endswith(".sbs"):
            blobstore.save_file({tensor: np.ones(3)}, path)
        else:
            write_peer(path, small(tensor))
        with fsspec.open(url, "wb") as file:
            file.write(path.read_bytes())
    assert cli.main([*command, *urls]) in (0, 1)
    printed = capsys.readouterr()
    assert printed.out
    assert "PASSW" not in printed.out + printed.err
    assert "SECRET" not in printed.out + printed.err
