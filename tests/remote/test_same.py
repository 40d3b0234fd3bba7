"""URLs that name the same object in other words."""

from __future__ import annotations

import fsspec
import numpy as np
import pytest

import blobstore
from blobstore.index.inputs import refuse_inputs


@pytest.mark.parametrize("a", ["memory://n/m.sbs", "memory:///n/m.sbs", "MEMORY://n/m.sbs"])
@pytest.mark.parametrize("b", ["memory://n/m.sbs", "memory:///n/m.sbs", "Memory:///n/m.sbs"])
def test_an_output_under_another_url_is_the_input(a: str, b: str) -> None:
    with pytest.raises(blobstore.UsageError, match="same-file"):
        refuse_inputs([a], [b])


def test_a_scheme_may_be_in_capitals() -> None:
    blobstore.save_file({"x": np.ones(3)}, "MEMORY://n/m.sbs")
    assert fsspec.filesystem("memory").exists("/n/m.sbs")
    with blobstore.open("Memory://n/m.sbs") as store:
        assert list(store) == ["x"]
