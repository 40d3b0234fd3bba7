"""Every command that writes, when writing fails: one line that names the output, exit status 1, and no change.

The commands are those of the table in tests/cli/test_outputs.py, which lists every command that writes. ``make stress``
uses strace, which makes each system call fail.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.checkpoints import linux_only, snapshot
from tests.cli.test_outputs import WRITING, everything, made, run, site
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["made", "site"]  # fixtures

# Not index join: it writes beside the files that it reads.
COMMANDS = {name: command for name, command in WRITING.items() if not name.startswith(("bench", "index join"))}
each_command = pytest.mark.parametrize("name", COMMANDS)
STRACE = shutil.which("strace")


def words_of(name: str, out: str) -> list[str]:
    return [out if word == "OUT" else word for word in COMMANDS[name].words.split()]


@contextmanager
def largest_file(nbytes: int) -> Iterator[None]:
    """Limit the size of files that this process can write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_failed(status: int, errors: str, named: str, why: str) -> None:
    """Check that one line says what failed, and where."""
    assert status == 1, errors
    lines = [line for line in errors.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, errors
    assert named in lines[0]
    assert why in lines[0]
    assert ".blobstore-" not in lines[0]


@linux_only
@each_command
def test_a_full_disk_is_told_by_the_outputs_name_and_changes_nothing(site: Path, name: str) -> None:
    (site / "target").mkdir()
    suffix = COMMANDS[name].suffix
    (site / "target" / f"out{suffix}").write_bytes(b"what was there")
    if name == "export shards":  # shards don't replace it
        os.unlink(site / "target" / "out")
    before, there = everything(site), snapshot(site / "target")
    with largest_file(100):
        status, _, errors = run(words_of(name, f"target/out{suffix}"))
    check_failed(status, errors, "out", "File too large")
    assert snapshot(site / "target") == there
    assert everything(site) == before


@pytest.mark.usefixtures("site")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("name", ["convert", "get", "unpack", "verify"])
def test_a_stream_that_can_not_be_written_is_told(name: str) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "blobstore", *words_of(name, "-")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def small_file_system(folder: Path, nbytes: int) -> Iterator[None]:
    """Mount a file system of this size, if this process may."""
    folder.mkdir()
    mount, unmount = str(shutil.which("mount")), str(shutil.which("umount"))
    command = [mount, "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("file systems can't be mounted here")
    try:
        yield
    finally:
        subprocess.run([unmount, folder], check=True)


@linux_only
@pytest.mark.skipif(not shutil.which("mount"), reason="there is no mount")
@each_command
def test_a_small_disk_that_is_full_is_as_it_was(site: Path, name: str) -> None:
    with small_file_system(site / "small", 4096):
        suffix = COMMANDS[name].suffix
        (site / "small" / f"{'other' if name == 'export shards' else 'out'}{suffix}").write_bytes(b"what was there")
        status, _, errors = run(words_of(name, f"small/out{suffix}"))
        assert status == 1, errors
        assert "small" in errors
        assert "No space left on device" in errors or "disk-too-small" in errors
        assert list(snapshot(site / "small").values()) == [b"what was there"]


@pytest.mark.stress
@pytest.mark.skipif(STRACE is None, reason="there is no strace")
@pytest.mark.parametrize("code", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("call", ["fsync", "rename,renameat,renameat2", "write,pwrite64,copy_file_range,sendfile"])
@each_command
def test_a_call_that_fails_in_the_kernel_is_told_and_changes_nothing(
    site: Path, name: str, call: str, code: str
) -> None:
    (site / "target").mkdir()
    suffix = COMMANDS[name].suffix
    out = site / "target" / f"out{suffix}"
    if name != "export shards":  # shards don't replace it
        out.write_bytes(b"what was there")
    there, before = snapshot(site / "target"), inputs(site)
    fault = ["-e", f"trace={call}", "-e", f"inject={call}:error={code}:when=1"]
    trace = [str(STRACE), "-f", "-qq", "-o", "/dev/null", *fault]
    command = [*trace, sys.executable, "-m", "blobstore", *words_of(name, str(out))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode:  # the first write may be a note on standard error, which may fail
        assert "out" in done.stderr
        assert ".blobstore-" not in done.stderr
        left = snapshot(site / "target")
        assert {file: data for file, data in left.items() if not file.endswith(".lock")} == there
    assert inputs(site) == before


def inputs(site: Path) -> dict[str, bytes]:
    return {file: data for file, data in everything(site).items() if not file.startswith("target/")}
