"""Uses an installed package: every public name, and a file written, read, checked and verified.

A script for an environment that has the wheel and nothing else; `tests.release` runs it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import blobstore
import blobstore.gemma


def main() -> None:
    """Do all of it; an AssertionError or any other one says what is wrong."""
    package = Path(blobstore.__file__).resolve()
    assert package.is_relative_to(Path(sys.prefix).resolve()), f"{package} is not the installed package"
    for module in (blobstore, blobstore.gemma):
        for name in module.__all__:
            assert getattr(module, name) is not None, name

    values = np.arange(1024, dtype=np.float32).reshape(16, 64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.sbs"
        with blobstore.create(path, metadata={"made by": "smoke"}) as store:
            store["model.layers.0.mlp.down_proj.weight"] = values
            store.alias("tied", "model.layers.0.mlp.down_proj.weight")
        with blobstore.open(path) as read:
            assert np.array_equal(read["tied"], values)
            assert read.metadata == {"made by": "smoke"}
        assert np.array_equal(blobstore.load_file(path)["tied"], values)
        assert blobstore.verify(path).ok
        assert blobstore.check(path).ok
        blobstore.pack(path, Path(folder) / "packed.sbs")
        with blobstore.open(Path(folder) / "packed.sbs") as packed:
            assert np.array_equal(packed.load("tied"), values)


if __name__ == "__main__":
    main()
