"""Tensors whose values are made as they are read: a conversion gives what it gives of the same values in a file."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.tensors import SourceTensor
from blobstore.checkpoint.told import LeftOut, left_out_lines, read_lines
from blobstore.codecs.element_types import BY_NAME, type_of
from blobstore.converting.choices import LAYOUTS, WEIGHTS, Choices
from blobstore.converting.choose import choose_plan
from blobstore.converting.run import run_plan
from blobstore.errors import CodecError
from tests.checkpoints import write_own
from tests.gemma_checkpoints import VARIANTS, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.checkpoint.reader import Checkpoint

    Array = npt.NDArray[Any]


def made_of(values: Array, dtype: str = "f32") -> SourceTensor:
    """Return a tensor of these values that is made, and stored as the type."""
    flat = values.reshape(-1)
    return SourceTensor("x", BY_NAME[dtype], values.shape, "nowhere", made=lambda first, n: flat[first : first + n])


def make_all(checkpoint: Checkpoint) -> None:
    """Replace each tensor by a made one, with wider values."""

    def maker(tensor: SourceTensor) -> Callable[[int, int], Array]:
        return lambda first, count: tensor.read(first, count).astype(np.float64)

    for tensor in list(checkpoint.tensors.values()):
        checkpoint.add(replace(tensor, stored=None, made=maker(tensor)))


@pytest.mark.parametrize(("family", "prefixes"), [VARIANTS[0], VARIANTS[-1]])
def test_a_conversion_of_made_values_is_that_of_stored_ones(
    tmp_path: Path, family: str, prefixes: tuple[str, str, str]
) -> None:
    Recipe(family, prefixes, head=True).write(tmp_path / "source")
    kinds = [("names", Choices())]
    kinds += [("gemma", Choices(weights, layout)) for weights, layout in product(WEIGHTS, LAYOUTS) if weights != "q4_0"]
    for number, (kind, choices) in enumerate(kinds):
        written = []
        for made in (False, True):
            with open_checkpoint(tmp_path / "source") as checkpoint:
                if made:
                    make_all(checkpoint)
                plan = choose_plan(checkpoint, kind, choices)
                written.append(tmp_path / f"{number}-{made}.sbs")
                run_plan(plan, checkpoint, written[-1])
        assert written[0].read_bytes() == written[1].read_bytes(), (kind, choices)


@given(
    st.lists(st.integers(0, 9), max_size=3).map(tuple),
    st.sampled_from(["f32", "bf16", "f16", "f64"]),
    st.integers(1, 9),
)
def test_runs_cover_a_tensor_in_whole_rows(shape: tuple[int, ...], dtype: str, most: int) -> None:
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    tensor = made_of(values, dtype)
    runs = list(tensor.runs(most))
    assert [place for first, count in runs for place in range(first, first + count)] == list(range(tensor.count))
    width = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    assert all(first % width == 0 for first, _ in runs if width <= most)
    assert b"".join(map(bytes, tensor.chunks())) == values.astype(tensor.type.dtype).tobytes()
    assert b"".join(bytes(part) for part in tensor.parts()) == b"".join(map(bytes, tensor.chunks()))  # type: ignore[arg-type]


def test_a_made_tensor_and_a_stored_one_are_compared(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4).astype(ml_dtypes.bfloat16)
    path = write_own(tmp_path / "a.safetensors", {"a": (type_of(values.dtype), (3, 4), values.tobytes())})
    with open_checkpoint(path) as checkpoint:
        stored = checkpoint.tensors["a"]
        assert stored.same_bytes(made_of(values.astype(np.float32), "bf16"))
        assert made_of(values, "bf16").same_bytes(stored)
        assert not stored.same_bytes(made_of(values.astype(np.float32), "f32"))
        assert not stored.same_bytes(made_of(values + values, "bf16"))


def test_a_made_value_that_is_too_large_is_refused() -> None:
    with pytest.raises(CodecError, match=r"not-finite: 'x' has 70000\.0, which f16 can't hold"):
        list(made_of(np.array([1.0, 7e4], np.float32), "f16").parts())
    assert np.isinf(made_of(np.array([np.inf], np.float32), "f16").rounded(0, 1).view(np.float16))


def test_what_is_left_out_is_a_line_for_each_reason() -> None:
    items = [LeftOut(name, "file", "of the training") for name in "abcd"]
    items += [LeftOut("x", "tensor", "not used"), LeftOut("README.md", "file", "not of the model")]
    items += [LeftOut(name, "tensor", "twice") for name in "abcd"]
    assert list(left_out_lines(items)) == [
        "left out the tensor 'x': not used",
        "left out 4 tensors 'a', 'b', 'c' and 1 more: twice",
        "left out a, b, c and 1 more (of the training); README.md (not of the model)",
    ]


def test_what_was_read_is_a_short_line() -> None:
    assert [*read_lines(["m/a", "m/b"], [], ["n/c"])] == ["read a, b", "read c"]
    assert [*read_lines([f"m/{number}" for number in range(30)])] == ["read 0 … 29 (30 files)"]
