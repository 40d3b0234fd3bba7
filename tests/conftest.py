"""Profiles of hypothesis, and fixtures for the test vectors."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
VECTORS = ROOT / "spec" / "vectors"
SHARED_VECTORS = ROOT.parent / "shared" / "vectors"
MEMORY = "/dev/shm"  # noqa: S108 (a folder of random name is made in it)
MANIFEST_LISTS = ("gemma_cpp", "key_for", "file_key", "valid", "invalid", "verify")

# Tests may keep their folder from one example to the next: whole files in it are replaced.
_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile("fast", max_examples=60, deadline=None, suppress_health_check=_CHECKS)
settings.register_profile("few", max_examples=2, deadline=None, suppress_health_check=_CHECKS)  # make test-fast
settings.register_profile("long", max_examples=3000, deadline=None, suppress_health_check=_CHECKS)
# For mutants (tests/mutants): the same examples for each, none saved, no shrinking.
settings.register_profile(
    "mutants",
    settings.get_profile("fast"),
    max_examples=30,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
PROFILE = os.environ.get("BLOBSTORE_HYPOTHESIS", "fast")
settings.load_profile(PROFILE)
MOST_CASES = 2  # of a parametrised test, for make test-fast


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With few examples run few cases as well: the first of each parametrised test."""
    if PROFILE == "few":
        seen: Counter[str] = Counter()
        left_out = []
        for item in items:
            test = item.nodeid.partition("[")[0]
            seen[test] += 1
            if seen[test] > MOST_CASES:
                left_out.append(item)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _with_numbers(fact: dict[str, Any]) -> dict[str, Any]:
    """Return an object of the manifest with the dimensions as numbers: those from 2⁵³ up are strings there."""
    return fact | {"shape": [int(size) for size in fact["shape"]]} if "shape" in fact else fact


def load_manifest() -> dict[str, Any]:
    """Return the vectors' manifest.

    Raises:
        AssertionError: One of its lists is empty, so that nothing would be tested.
    """
    manifest: dict[str, Any] = json.loads((VECTORS / "manifest.json").read_bytes(), object_hook=_with_numbers)
    empty = [name for name in MANIFEST_LISTS if not manifest.get(name)]
    assert not empty, f"spec/vectors/manifest.json has empty lists: {empty}"
    return manifest


def vector_params(list_name: str) -> list[Any]:
    """Return a test parameter for each fact of a list in the manifest, with its file's name as id."""
    return [pytest.param(fact, id=fact["file"]) for fact in load_manifest()[list_name]]


@pytest.fixture(scope="session")
def manifest() -> dict[str, Any]:
    """The contents of spec/vectors/manifest.json; none of its lists is empty."""
    return load_manifest()


@pytest.fixture(scope="session")
def vectors(manifest: dict[str, Any]) -> Path:
    """The folder spec/vectors; the test fails when the manifest is empty."""
    assert manifest
    return VECTORS


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """The folder of files that gemma.cpp itself wrote; not part of this repository."""
    if not SHARED_VECTORS.is_dir():
        pytest.skip(f"{SHARED_VECTORS} is not here: gemma.cpp's own files are compared by their hashes only")
    return SHARED_VECTORS


@pytest.fixture(scope="session")
def generator() -> ModuleType:
    """spec/vectors/generate.py: an independent writer, and all vectors as `cases()`."""
    spec = importlib.util.spec_from_file_location("vectors_generate", VECTORS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory if there is one: tests that kill a process, not the machine, needn't wait for a disk."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


def open_descriptors() -> list[str]:
    """Return the descriptors of this process, without those of objects that nobody needs any more."""
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))
