"""docs/hub-and-buckets.md: its Python runs, and its commands do, too, against local servers."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.gemma_checkpoints import sound_recipe
from tests.remote.servers import hub_server, s3_environment, s3_server

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (ROOT / "docs" / "hub-and-buckets.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


def test_its_python_runs() -> None:
    assert len(PYTHON) == 1
    for code in PYTHON:
        exec(compile(code, "docs/hub-and-buckets.md", "exec"), {})  # noqa: S102 (our own page)


@pytest.mark.remote
def test_its_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(COMMANDS) == 6
    sound_recipe("gemma3").write(tmp_path / "hub" / "google" / "gemma-3-270m-it")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with hub_server(tmp_path / "hub") as (hub, _), s3_server() as s3:
        for name, value in {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), **s3_environment(s3)}.items():
            monkeypatch.setenv(name, value)
        made = "import s3fs; s3fs.S3FileSystem().mkdir('my-bucket')"
        subprocess.run([sys.executable, "-c", made], check=True)
        for line in COMMANDS:
            words = shlex.split(line)
            assert words[0] == "blobstore"
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
