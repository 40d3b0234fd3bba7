"""Every public function and class has a docstring with an example, and all examples are true."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
import blobstore.gemma
from tests.gemma_checkpoints import sound_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FINDER = doctest.DocTestFinder(recurse=False)
MODULES = (blobstore, blobstore.gemma)
WITH_METHODS = ("Store", "StoreWriter", "BlobReader", "BlobWriter", "ModelWriter")


def described() -> Iterator[tuple[str, object]]:
    """Yield each public function and class, and the methods of the larger classes that they define themselves."""
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value
    for name in WITH_METHODS:
        for method, value in inspect.getmembers(getattr(blobstore, name)):
            inherited = value is getattr(Mapping, method, None)
            is_method = inspect.isfunction(value) or isinstance(value, (property, cached_property))
            if is_method and not method.startswith("_") and not inherited:
                yield f"{name}.{method}", value


DESCRIBED = dict(described())


def examples_in(value: object, name: str, names: dict[str, Any]) -> list[doctest.DocTest]:
    return [test for test in FINDER.find(value, name, globs=names) if test.examples]


def run(test: doctest.DocTest) -> None:
    told = io.StringIO()
    assert not doctest.DocTestRunner().run(test, out=told.write).failed, told.getvalue()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a small model.sbs and a small Gemma checkpoint, as every example may use them."""
    recipe = sound_recipe("gemma3")
    recipe.write(tmp_path / "checkpoint")
    with blobstore.create(tmp_path / "model.sbs", metadata={"license": "apache-2.0"}) as store:
        store.add("layer.weight", np.arange(2048, dtype=np.float32).reshape(64, 32))
        store.add("layer.bias", np.zeros(64, dtype=np.float32))
        store.alias("tied.weight", "layer.weight")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", DESCRIBED)
def test_everything_public_has_an_example_which_is_true(name: str) -> None:
    tests = examples_in(DESCRIBED[name], name, {"blobstore": blobstore, "np": np})
    assert tests, f"{name} has no example"
    for test in tests:
        run(test)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "library", [pytest.param("torch", marks=pytest.mark.torch), pytest.param("jax", marks=pytest.mark.jax)]
)
def test_the_examples_of_other_libraries_are_true(library: str) -> None:
    module = importlib.import_module(f"blobstore.{library}")
    names = {"blobstore": blobstore, library: importlib.import_module(library)}
    for name in module.__all__:
        (test,) = examples_in(getattr(module, name), name, names)
        run(test)
