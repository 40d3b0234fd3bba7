"""GGUF files as checkpoints: plain values as they are, quantised ones as the package gguf decodes them, Gemmas for
gemma.cpp."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.checkpoint.gguf.file import open_gguf
from tests.checkpoints import linux_only
from tests.gemma_checkpoints import ALIGNED, Recipe, Size
from tests.gguf_files import (
    WRITABLE,
    blocks,
    dequantised,
    own_name,
    quantised,
    raw_gguf,
    tensor,
    write_gemma,
    write_gguf,
)
from tests.memory import peak_of_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blobstore.checkpoint.gguf.file import GgufFile
    from tests.gguf_files import Array

DECODED = sorted(kind.name.lower() for kind in gguf.quants._type_traits if kind.name != "BF16")
PLAIN: dict[str, Array] = {
    "blk.0.f32.weight": np.linspace(-3, 3, 48, dtype=np.float32).reshape(4, 12),
    "blk.0.f16.weight": np.linspace(-3, 3, 48, dtype=np.float16).reshape(4, 12),
    "blk.0.bf16.weight": np.linspace(-3, 3, 48, dtype=np.float32).astype(ml_dtypes.bfloat16).reshape(4, 12),
    "f64": np.linspace(-3, 3, 5),
    "int8": np.arange(-3, 3, dtype=np.int8),
    "i16": np.arange(-3, 3, dtype=np.int16),
    "i32": np.arange(-3, 3, dtype=np.int32),
    "i64": np.arange(-3, 3, dtype=np.int64).reshape(1, 2, 3),
}


@pytest.fixture(autouse=True)
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def converted(source: Path, **options: Any) -> dict[str, Array]:  # noqa: ANN401 (convert's)
    """Convert a file, let verify and diff agree, and return the new file's tensors."""
    blobstore.convert(source, "made.sbs", **options)
    assert blobstore.verify("made.sbs", against=source).ok
    assert not blobstore.diff("made.sbs", source).differ
    with blobstore.open("made.sbs", access="read") as store:
        return {name: np.array(store[name]) for name in store}


def test_plain_values_are_copied_byte_for_byte(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", PLAIN)
    made = converted(source)
    assert made.keys() == PLAIN.keys()
    for name, array in PLAIN.items():
        assert (made[name].dtype, made[name].shape, made[name].tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert {verdict.how for verdict in blobstore.verify("made.sbs", against=source).verdicts} == {"copied"}
    assert blobstore.preview_conversion(source).notes == ()


@pytest.mark.parametrize("kind", WRITABLE)
def test_quantised_values_are_what_the_package_decodes(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).normal(size=(6, 512)).astype(np.float32)
    source = write_gguf(tmp_path / "m.gguf", {"q.weight": quantised(values, kind), "norm.weight": values[0]})
    made = converted(source)
    for name, expected in dequantised(source).items():
        if kind != "bf16":
            assert made[name].dtype == np.float32
        np.testing.assert_array_equal(made[name].astype(np.float32), expected)


@pytest.fixture(scope="module")
def every_type(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GgufFile, dict[str, Array]]]:
    """A file with a tensor of every quantised type, and what the package decodes."""
    path = tmp_path_factory.mktemp("types") / "m.gguf"
    write_gguf(path, {kind: blocks(kind, 3, 512) for kind in DECODED})
    with open_gguf(path) as file:
        yield file, {kind: array.reshape(-1) for kind, array in dequantised(path).items()}


@given(st.sampled_from(DECODED), st.integers(0, 3 * 512), st.integers(0, 3 * 512))
def test_any_run_of_a_quantised_tensor_is_the_same(
    every_type: tuple[GgufFile, dict[str, Array]], kind: str, first: int, end: int
) -> None:
    file, values = every_type
    read = file.reader(kind)
    assert read is not None
    count = max(0, end - first)
    assert read(first, count).tobytes() == values[kind][first : first + count].tobytes()


def test_the_pieces_of_each_quantised_type_are_the_whole(every_type: tuple[GgufFile, dict[str, Array]]) -> None:
    file, values = every_type
    for kind in DECODED:
        chunks = file.chunks(kind)
        assert chunks is not None
        assert b"".join(chunk.tobytes() for chunk in chunks) == values[kind].tobytes(), kind


def test_scales_that_are_not_finite_are_the_same_values_without_a_warning(tmp_path: Path) -> None:
    raw = np.full((1, 34), 0xFF, np.uint8)
    source = write_gguf(tmp_path / "m.gguf", {"q": (raw, "q8_0"), "x": np.ones(4, np.float32)})
    assert np.isnan(converted(source)["q"]).all()


PAIRS = [
    ("gemma2", "f32", "split"),
    ("gemma2", "bf16", "stock"),
    ("gemma3", "bf16", "split"),
    ("gemma3", "f16", "stock"),
    ("qwen3", "bf16", "split"),
    ("qwen3", "f32", "stock"),
]


@pytest.mark.parametrize(("family", "dtype", "layout"), PAIRS)
@pytest.mark.parametrize("weights", ["sfp", "bf16", "f32"])
def test_a_gemma_becomes_what_its_own_checkpoint_does(
    tmp_path: Path, family: str, dtype: str, layout: str, weights: str
) -> None:
    """The same blobs, config and tokenizer. 1 + w - 1 is w but for the last bits of f32; a Qwen3 has w in GGUF."""
    recipe = Recipe(family, dtype=dtype, size=replace(Size(), layers=7), own_head=(family, dtype) == ("qwen3", "f32"))
    folder = recipe.write(tmp_path / "hf")
    source = write_gemma(tmp_path / "hf" / "m.gguf", recipe)  # beside tokenizer.model
    blobstore.convert(folder, "hf.sbs", weights=weights, layout=layout)
    blobstore.convert(source, "gguf.sbs", weights=weights, layout=layout)
    assert blobstore.verify("gguf.sbs", against=source).ok
    with blobstore.BlobReader("hf.sbs") as theirs, blobstore.BlobReader("gguf.sbs") as ours:
        for key in theirs:
            if key != "~index":
                same = bytes(ours[key]) == bytes(theirs[key])
                is_inexact = dtype == "f32" and family != "qwen3" and ("norm" in key or "_ns_" in key)
                assert same or is_inexact, key
        assert set(ours) == set(theirs)
    with blobstore.open("hf.sbs", by="keys") as theirs, blobstore.open("gguf.sbs", by="keys") as ours:
        for key in theirs:
            np.testing.assert_allclose(ours.load(key, dtype="f4"), theirs.load(key, dtype="f4"), rtol=0, atol=2**-8)


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_a_quantised_gemma_has_the_values_that_the_package_decodes(tmp_path: Path, family: str, kind: str) -> None:
    recipe = Recipe(family, size=ALIGNED)
    source = write_gemma(tmp_path / "m.gguf", recipe, kind)
    made = converted(source, weights="f32")
    expected = dequantised(source)
    del made["lm_head.weight"]
    assert {own_name(name) for name in made} == set(expected)
    for name, array in made.items():
        values = expected[own_name(name)]
        np.testing.assert_array_equal(
            array, (values.astype(np.float64) - 1).astype(np.float32) if values.ndim == 1 else values
        )


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_q4_0_of_bf16_weights_stays_what_it_is(tmp_path: Path, family: str) -> None:
    """A block of GGUF is decoded and encoded again: if its factor fits into bf16, nothing changes."""
    recipe = Recipe(family, size=ALIGNED, dtype="bf16")
    folder = recipe.write(tmp_path / "hf")
    source = write_gemma(tmp_path / "hf" / "m.gguf", recipe, "q4_0")
    blobstore.convert(folder, "hf.sbs", weights="q4_0")
    blobstore.convert(source, "gguf.sbs", weights="q4_0")
    with blobstore.BlobReader("hf.sbs") as theirs, blobstore.BlobReader("gguf.sbs") as ours:
        types = {entry.name: entry.type.name for entry in blobstore.gemma.parse_toc(theirs["toc"])}
        encoded = [key for key, name in types.items() if name == "q4_0"]
        assert len(encoded) == 12
        for key in encoded:
            assert bytes(ours[key]) == bytes(theirs[key])


def test_a_norm_keeps_every_bit_that_the_file_has(tmp_path: Path) -> None:
    recipe = Recipe("gemma3", tokenizer=None)
    norm = np.array([1, 0, -3, 1 + 2**-23, 5.3, 1e-9, 1 - 2**-24, -1e-9, *[1] * 12], np.float32)
    source = write_gemma(tmp_path / "m.gguf", recipe, tensors={"output_norm.weight": norm})
    made = converted(source, weights="f32")["model.norm.weight"]
    np.testing.assert_array_equal(made[:4], np.array([0, -1, -4, 2**-23], np.float32))
    np.testing.assert_array_equal(made, (norm.astype(np.float64) - 1).astype(np.float32))


@linux_only
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """71 MB of blocks become 268 MB, and 34 MB of f32 are copied."""
    nbytes = (1 << 15) * 2048 // 32 * 34
    head = raw_gguf(tensors=[tensor("q", [1 << 15, 2048], kind=8), tensor("p", [1 << 23], offset=nbytes)])
    (tmp_path / "m.gguf").write_bytes(head)
    os.truncate(tmp_path / "m.gguf", len(head) + nbytes + (1 << 25))
    assert peak_of_command("convert", "m.gguf", "-o", "out.sbs") < 120 << 20
    assert (tmp_path / "out.sbs").stat().st_size > 300_000_000
    (tmp_path / "out.sbs").unlink()
