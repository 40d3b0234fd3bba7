"""Every public function and class has a docstring with an example, and all examples are true."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from tests.gemma_checkpoints import sound_recipe, tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FINDER = doctest.DocTestFinder(recurse=False)
WITH_METHODS = ("Store", "StoreWriter", "BlobReader", "BlobWriter", "ModelWriter")
# They still lack an example: only ever take names out.
LACKING = {
    "BinaryFile",
    "BlobStoreError",
    "ByteSource",
    "CheckpointError",
    "CodecError",
    "ElementType",
    "Fault",
    "FileRange",
    "FormatError",
    "KeyNotFoundError",
    "KeyTooLongError",
    "MissingExtraError",
    "ModelWriter",
    "NameNotFoundError",
    "PackedBlob",
    "Packing",
    "TruncatedError",
    "Unpacked",
    "UnpackedBlobs",
    "UsageError",
    "key_for",
    "pack",
    "unpack",
}


def described() -> Iterator[tuple[str, object]]:
    """Yield each public function and class, and the public methods of the larger classes."""
    for name in blobstore.__all__:
        value = getattr(blobstore, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value
    for name in WITH_METHODS:
        for method, value in inspect.getmembers(getattr(blobstore, name)):
            if not method.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                yield f"{name}.{method}", value


DESCRIBED = dict(described())


def examples_of(name: str) -> list[doctest.DocTest]:
    names = {"blobstore": blobstore, "np": np}
    found = FINDER.find(DESCRIBED[name], name, globs=names)
    return [test for test in found if test.examples]


EXAMPLES = {name: found for name in DESCRIBED if (found := examples_of(name))}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a small model.sbs and a small Gemma checkpoint, as every example may use them."""
    recipe = sound_recipe("gemma3")
    recipe.write(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "tokenizer.model").write_bytes(tokenizer(recipe.size.vocabulary))
    with blobstore.create(tmp_path / "model.sbs", metadata={"license": "apache-2.0"}) as store:
        store.add("layer.weight", np.arange(2048, dtype=np.float32).reshape(64, 32))
        store.add("layer.bias", np.zeros(64, dtype=np.float32))
        store.alias("tied.weight", "layer.weight")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_true(name: str) -> None:
    for test in EXAMPLES[name]:
        told = io.StringIO()
        assert not doctest.DocTestRunner().run(test, out=told.write).failed, told.getvalue()


def test_every_public_function_and_class_has_an_example() -> None:
    assert {name for name in DESCRIBED if "." not in name and name not in EXAMPLES} == LACKING
    assert all(inspect.getdoc(value) for value in DESCRIBED.values())


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "library", [pytest.param("torch", marks=pytest.mark.torch), pytest.param("jax", marks=pytest.mark.jax)]
)
def test_the_examples_of_other_libraries_are_true(library: str) -> None:
    module = importlib.import_module(f"blobstore.{library}")
    names = {"blobstore": blobstore, library: importlib.import_module(library)}
    for name in module.__all__:
        value = getattr(module, name)
        (test,) = (found for found in FINDER.find(value, name, globs=names) if found.examples)
        told = io.StringIO()
        assert not doctest.DocTestRunner().run(test, out=told.write).failed, told.getvalue()
