"""A converted Gemma checkpoint has the bytes that gemma.cpp wrote, and those of the mapping, stated here once more."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blobstore
from blobstore import codecs
from blobstore.container.reader import BlobReader
from blobstore.converting.choices import Choices
from blobstore.converting.pieces import Piece
from blobstore.gemma import ModelConfig, parse_toc
from blobstore.gemma.enums import Model
from tests.gemma_checkpoints import TOKENIZER, VARIANTS, Recipe, arranged, as_before, convert, recipes, small_recipe
from tests.models import ALL_FAMILIES, FAMILIES, FORMS, WEIGHTS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.container.reader import BlobReader as Reader

    Array = npt.NDArray[Any]

ALL_WEIGHTS = (*WEIGHTS, "i8")
# The labels of models with dimensions that no published one has: one under which every runtime computes correctly.
LABELS = {
    "gemma2": (Model.GEMMA2_2B, "Gemma2_2B"),
    "gemma3": (Model.GEMMA3_1B, "Gemma3_1B"),
    "gemma3vlm": (Model.GEMMA3_4B, "Gemma3_4B"),
    "paligemma2": (Model.PALIGEMMA2_3B_224, "PaliGemma2_3B_224"),
}
EVERY_FORM = [f"{weight}-{form}" for weight in WEIGHTS for form in FORMS]


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


# ------------------------------------------------------------------------------------------------ gemma.cpp's own bytes


@pytest.mark.parametrize("form", EVERY_FORM)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_blob_is_what_gemma_cpp_wrote(shared_vectors: Path, tmp_path: Path, family: str, form: str) -> None:
    folder = shared_vectors / "convert"
    theirs = json.loads((folder / f"tiny-{family}.expected.json").read_bytes())
    expected = theirs["expected"][form]
    assert len(expected) > 20
    weight, layout = form.split("-")
    convert(folder / f"tiny-{family}", tmp_path / "out.sbs", Choices(weight, layout, theirs["wrapping"]))
    with BlobReader(tmp_path / "out.sbs") as reader:
        assert {entry["key"]: (entry["bytes"], entry["sha256"]) for entry in expected} == {
            key: (len(raw), sha256(raw))
            for key in reader
            if is_runtimes(reader, key)
            for raw in (as_of_3ed403e(reader, key),)
        }
        # The config differs from theirs in one more field of the outermost record, and in the label.
        ours = ModelConfig.from_bytes(reader["config"])
        assert ours.use_global_timescale == family.startswith("gemma3")
        assert replace(ours, use_global_timescale=False) == replace(
            as_before(ours), model=ours.model, display_name=ours.display_name
        )
        assert (ours.model, ours.display_name) == LABELS[family]
        toc = {row.name: (row.type.name, row.rows, row.cols, row.scale) for row in parse_toc(bytes(reader["toc"]))}
    facts = {row["key"]: (row["type"], row["rows"], row["cols"], row["scale"]) for row in expected if "type" in row}
    assert toc == facts


@pytest.mark.parametrize("form", ["bf16-stock", "sfp-split"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_file_of_gemma_cpp_is_ours(shared_vectors: Path, tmp_path: Path, family: str, form: str) -> None:
    folder = shared_vectors / "convert"
    wrapping = json.loads((folder / f"tiny-{family}.expected.json").read_bytes())["wrapping"]
    weight, layout = form.split("-")
    convert(folder / f"tiny-{family}", tmp_path / "out.sbs", Choices(weight, layout, wrapping))
    with BlobReader(folder / f"tiny-{family}-{form}.sbs") as theirs, BlobReader(tmp_path / "out.sbs") as ours:
        assert len(theirs) > 20
        assert {key: bytes(theirs[key]) for key in theirs} == {
            key: as_of_3ed403e(ours, key) for key in ours if is_runtimes(ours, key)
        }
        # They are in the official writer's order, too.
        assert list(theirs) == [key for key in ours if is_runtimes(ours, key)]


def as_of_3ed403e(reader: Reader, key: str) -> bytes:
    """Return a blob; a Gemma 3's config as it was before it had the field that newer runtimes need."""
    raw = bytes(reader[key])
    return as_before(ModelConfig.from_bytes(raw)).to_bytes() if key == "config" else raw


def is_runtimes(reader: Reader, key: str) -> bool:
    """Whether a blob is one of the runtime's: not the index, and not an extra."""
    listed = {entry.name for entry in parse_toc(bytes(reader["toc"]))}
    return key in listed or key in ("config", "tokenizer", "toc")


# --------------------------------------------------------------------------------------------- the mapping, stated anew


def check(recipe: Recipe, folder: Path, weight: str, layout: str, **options: Any) -> None:  # noqa: ANN401 (run_plan's)
    """Convert a checkpoint and compare every blob."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe.write(folder)
    convert(folder, folder / "out.sbs", Choices(weight, layout), **options)
    tensors = recipe.tensors()
    expected = arranged(recipe, tensors, layout)
    rows = {row.key: row for row in recipe.rows(layout)}
    assert set(rows) == set(expected)
    with blobstore.open(folder / "out.sbs", by="keys") as store:
        toc = {entry.name: entry for entry in parse_toc(bytes(store.reader["toc"]))}
        assert set(toc) == set(rows)
        for key, row in rows.items():
            values = np.ascontiguousarray(expected[key])
            assert values.shape == (row.rows, row.cols), key
            stored, scale = codecs.encode(row.stored_type(weight), values)
            entry = toc[key]
            assert bytes(store.reader[key]) == stored.tobytes(), key
            assert (entry.type.name, entry.rows, entry.cols) == (row.stored_type(weight), row.rows, row.cols)
            assert entry.scale == scale == store.info(key).scale
        wrapping = "it" if recipe.chat_template else "pt"
        assert bytes(store.reader["config"]) == recipe.model_config(weight, wrapping).to_bytes()
        assert bytes(store.reader["tokenizer"]) == recipe.tokenizer_blob


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("weight", ALL_WEIGHTS)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_blob_is_what_the_mapping_says(tmp_path: Path, family: str, weight: str, layout: str) -> None:
    check(small_recipe(family), tmp_path / "c", weight, layout)


@pytest.mark.parametrize(("family", "prefixes"), VARIANTS)
def test_every_variant_of_names_gives_the_same_blobs(
    tmp_path: Path, family: str, prefixes: tuple[str, str, str]
) -> None:
    check(small_recipe(family, prefixes=prefixes, head=True), tmp_path / "c", "sfp", "split")


@given(
    recipe=recipes(),
    weight=st.sampled_from(ALL_WEIGHTS),
    layout=st.sampled_from(FORMS),
    chunk=st.sampled_from([64, 1000, 4096, 4 << 20]),
    piece=st.sampled_from([128, 1 << 16]),
)
@settings(max_examples=25)
def test_the_mapping_holds_for_any_size_and_wherever_chunks_end(
    tmp_path: Path, recipe: Recipe, weight: str, layout: str, *, chunk: int, piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blobstore.converting.pieces._CHUNK_NBYTES", chunk)
        patch.setattr("blobstore.converting.pieces.PIECE", piece)
        check(recipe, tmp_path / "c", weight, layout)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("index", ["embedded", "external"])
def test_both_containers_and_indexes_have_the_same_blobs(tmp_path: Path, version: int, index: str) -> None:
    check(small_recipe("gemma3vlm", top=7.0), tmp_path / "c", "sfp", "stock", version=version, index=index)


def test_a_file_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    check(small_recipe("gemma3", tokenizer=None), tmp_path / "c", "bf16", "split")


def test_the_values_of_two_layouts_are_the_same(tmp_path: Path) -> None:
    recipe = small_recipe("gemma2", tokenizer=TOKENIZER)
    split, stock = (arranged(recipe, recipe.tensors(), form) for form in ("split", "stock"))
    queries = recipe.size.heads * recipe.size.head
    assert (stock["qkv_ein_0"][:queries] == split["qkv1_w_0"]).all()
    assert (stock["qkv_ein_0"][queries:] == split["qkv2_w_0"]).all()
    recipe.write(tmp_path / "c")
    for form in FORMS:
        convert(tmp_path / "c", tmp_path / f"{form}.sbs", Choices("bf16", form))
    with BlobReader(tmp_path / "split.sbs") as split_file, BlobReader(tmp_path / "stock.sbs") as stock_file:
        assert bytes(split_file["gating1_w_1"]) + bytes(split_file["gating2_w_1"]) == bytes(stock_file["gating_ein_1"])
        assert bytes(split_file["qkv1_w_1"]) + bytes(split_file["qkv2_w_1"]) == bytes(stock_file["qkv_ein_1"])
        assert bytes(split_file["config"]) == bytes(stock_file["config"])


@pytest.mark.parametrize(
    ("piece", "whole"),
    [
        (Piece("a", 4, 1, 2, 0, 4), True),
        (Piece("a", 4, 1, 2, 0, 3), False),
        (Piece("a", 4, 1, 2, 1, 3), False),
        (Piece("a", 4, 0, 2, 0, 4, "transpose"), False),
        (Piece(None, 4, 0, 1, 0, 4), False),
    ],
)
def test_a_piece_tells_whether_it_is_a_run_of_bytes(piece: Piece, whole: bool) -> None:
    assert piece.whole_rows is whole
    assert piece.count == piece.rows * piece.cols
