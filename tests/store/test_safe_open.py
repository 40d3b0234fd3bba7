"""`blobstore.safe_open`, with numpy; with torch and jax in test_torch.py and test_jax.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy

import blobstore
from blobstore.errors import NameNotFoundError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

A = np.arange(12, dtype=np.float32).reshape(3, 4)
B = np.arange(3, dtype=np.int64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"z": A, "a": B}, path, {"format": "np"})
    return path


def test_it_has_the_methods_of_safetensors(path: Path) -> None:
    peer = path.with_suffix(".safetensors")
    safetensors.numpy.save_file({"z": A, "a": B}, peer, {"format": "np"})
    with blobstore.safe_open(path, framework="np") as ours, safetensors.safe_open(peer, framework="np") as theirs:
        methods = {name for name in dir(theirs) if not name.startswith("_")}
        assert methods <= set(dir(ours))
        assert ours.keys() == theirs.keys() == ["a", "z"]
        assert ours.metadata() == theirs.metadata() == {"format": "np"}
        for name in ours.keys():  # noqa: SIM118 (not a mapping)
            assert np.array_equal(ours.get_tensor(name), theirs.get_tensor(name))
        assert {name: array.tolist() for name, array in ours.get_tensors().items()} == {
            "a": B.tolist(),
            "z": A.tolist(),
        }
        assert list(ours.get_tensors(["z"])) == ["z"]
        mine, other = ours.get_slice("z"), theirs.get_slice("z")
        assert (mine.get_shape(), mine.get_dtype()) == (other.get_shape(), other.get_dtype()) == ([3, 4], "F32")
        for where in ((slice(None), slice(1, 3)), (0, slice(2)), slice(1, None), (), (slice(2, None), -1)):
            assert np.array_equal(mine[where], other[where])


def test_names_come_by_offset_too(path: Path) -> None:
    with blobstore.safe_open(path, "numpy") as file:
        assert file.offset_keys() == ["z", "a"]


def test_no_metadata_is_none(tmp_path: Path) -> None:
    blobstore.save_file({"a": B}, tmp_path / "m.sbs")
    with blobstore.safe_open(tmp_path / "m.sbs", "np") as file:
        assert file.metadata() is None


def test_nothing_is_read_once_it_is_closed(path: Path) -> None:
    with blobstore.safe_open(path, "np") as file:
        array = file.get_tensor("z")
    assert repr(file) == f"<SafeOpen {str(path)!r}, closed>"
    for look in (file.keys, file.offset_keys, file.metadata, lambda: file.get_tensor("z")):
        with pytest.raises(UsageError, match="closed"):
            look()
    file.close()
    assert array.tolist() == A.tolist()


def test_what_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match="bad-framework: framework is 'tf': use one of np, numpy, pt"):
        blobstore.safe_open(path, framework="tf")
    with pytest.raises(UsageError, match="bad-device: device is 'cuda'"):
        blobstore.safe_open(path, "np", device="cuda")
    with blobstore.safe_open(path, "np") as file, pytest.raises(NameNotFoundError, match="no tensor has the name 'zz'"):
        file.get_tensor("zz")
    with pytest.raises(FileNotFoundError):
        blobstore.safe_open(path.with_name("missing.sbs"), "np")
