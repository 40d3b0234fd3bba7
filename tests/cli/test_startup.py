"""Imports: nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from blobstore.cli import COMMANDS

if TYPE_CHECKING:
    from pathlib import Path


def modules_after(code: str, *arguments: str) -> set[str]:
    """The modules that a new process has imported after running this code."""
    ending = "\nimport sys; print(*sorted(sys.modules), sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + ending, *arguments], check=True, capture_output=True, text=True)
    return set(done.stderr.splitlines())


def imported(modules: set[str], *names: str) -> set[str]:
    """Those of the modules that have these names, or begin with them. There has to be a module of each name."""
    assert all(find_spec(name) for name in names)
    return {module for module in modules if module.startswith(names)}


def test_the_package_itself_imports_nothing_heavy() -> None:
    modules = modules_after("import blobstore")
    assert "blobstore" in modules
    assert not {module for module in modules if module.startswith(("numpy", "ml_dtypes", "blobstore."))}


CHOICES = {"Access", "By", "ConversionKind", "IndexPlace", "Prefetch", "RuntimeChoice", "Severity", "SourceAccess"}


def test_each_public_name_is_there_when_it_is_asked_for() -> None:
    for name in blobstore.__all__:
        home = getattr(blobstore, name).__module__.partition(".")[0]
        assert home == ("typing" if name in CHOICES else "blobstore")
        assert name in dir(blobstore)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = blobstore.nothing  # type: ignore[attr-defined]


def test_opening_imports_nothing_that_other_files_need(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": np.arange(3)}, path)
    modules = modules_after("import sys, blobstore; blobstore.open(sys.argv[1])['a']", str(path))
    writing = ("blobstore.container.writer", "blobstore.index.build", "blobstore.store.writer", "blobstore.converting")
    elsewhere = ("blobstore.fileio.remote", "blobstore.fileio.set_source", "blobstore.fileio.streams", "fsspec")
    packed = ("blobstore.compression", "blobstore.store.blobs", "zstandard")
    encoded = ("blobstore.codecs.codec", "blobstore.codecs.sfp", "blobstore.store.arrangement", "ml_dtypes")
    libraries = (
        "argparse",
        "base64",
        "concurrent.futures",
        "fnmatch",
        "hashlib",
        "html",
        "json",
        "numpy.typing",
        "rich",
    )
    assert not imported(modules, *writing, *elsewhere, *packed, *encoded, *libraries, "rich")


def test_saving_a_small_file_imports_neither_threads_nor_other_dtypes(tmp_path: Path) -> None:
    run = "import sys, blobstore, numpy; blobstore.save_file({'a': numpy.arange(3)}, sys.argv[1])"
    modules = modules_after(run, str(tmp_path / "m.sbs"))
    assert not imported(modules, "numpy.ma.core", "ml_dtypes", "concurrent.futures", "blobstore.converting")


def test_a_dtype_has_its_name_before_anything_has_imported_it(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": np.arange(3)}, path)
    run = "import sys, blobstore; assert str(blobstore.open(sys.argv[1]).load('a', dtype='bfloat16')) == '[0 1 2]'"
    assert "ml_dtypes" in modules_after(run, str(path))


def test_a_command_imports_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": np.arange(3)}, path)
    run = "import sys; from blobstore.cli import main; main(sys.argv[1:])"
    modules = modules_after(run, "ls", str(path))
    assert {module for module in modules if module in {f"blobstore.cli.{name}" for name in COMMANDS}} == {
        "blobstore.cli.ls"
    }
    assert not imported(
        modules, "rich", "zipfile", "hashlib", "ml_dtypes", "blobstore.converting", "blobstore.checking"
    )
    readers = ("adapters", "gguf.finding", "gguf.header", "pickled", "safetensors", "tensors")
    assert not imported(modules, *(f"blobstore.checkpoint.{name}" for name in readers))


def test_checking_a_file_imports_nothing_that_converts(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": np.arange(3)}, path)
    modules = modules_after("import sys, blobstore; blobstore.check(sys.argv[1])", str(path))
    assert "blobstore.checking.runtime" in modules
    assert not imported(modules, "blobstore.converting.plan", "blobstore.converting.run", "blobstore.checkpoint.reader")


HELP = [
    ["--version"],
    ["--include-dir"],
    ["--help"],
    ["completion", "bash"],
    ["nothing"],
    *([command, "--help"] for command in COMMANDS),
]


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_needs_no_numpy(words: list[str]) -> None:
    run = "import sys\nfrom blobstore.cli import main\ntry:\n main(sys.argv[1:])\nexcept SystemExit: pass"
    modules = modules_after(run, *words)
    assert "blobstore.cli" in modules
    assert not imported(modules, "numpy", "ml_dtypes", "rich", "blobstore.store", "blobstore.index")
