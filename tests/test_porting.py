"""docs/porting.md: its code runs, and its names are there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import blobstore
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (ROOT / "docs" / "porting.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python( torch)?\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def run_blocks(kinds: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    namespace: dict[str, object] = {}
    for kind, code in BLOCKS:
        if kind.strip() in kinds:
            exec(compile(code, "docs/porting.md", "exec"), namespace)  # noqa: S102 (our own page)


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(BLOCKS) == 6
    run_blocks({""}, tmp_path, monkeypatch)


@pytest.mark.torch
def test_its_code_of_torch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_blocks({"", "torch"}, tmp_path, monkeypatch)


def test_its_names_are_public() -> None:
    names = set(re.findall(r"`blobstore\.([A-Za-z_]+)", TEXT)) - {"torch", "jax"}
    assert len(names) > 5
    assert names <= set(blobstore.__all__)
