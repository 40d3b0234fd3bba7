"""`blobstore.exporting.tensor`: one tensor as a numpy file. tests/cli/test_cli.py has the command `get`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest

import blobstore
from blobstore.exporting.tensor import write_npy

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("chunk", [1, 7, 100, 101])
def test_chunks_lose_no_element(tmp_path: Path, dtype: npt.DTypeLike, chunk: int) -> None:
    array = np.arange(100).astype(dtype).reshape(4, 25)
    blobstore.save_file({"x": array}, tmp_path / "x.sbs")
    with blobstore.open(tmp_path / "x.sbs") as store:
        foreign = write_npy(store, "x", str(tmp_path / "x.npy"), chunk=chunk)
    assert foreign == (None if dtype is np.float32 else np.dtype(dtype))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array.astype(np.float32))
