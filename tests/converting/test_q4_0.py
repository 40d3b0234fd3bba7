"""Weights in q4_0: which tensors, what is said, and which runtimes read the file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from blobstore import codecs
from blobstore.checking import check_file
from blobstore.checking.findings import runs_in
from blobstore.cli import main
from blobstore.codecs.element_types import BY_NAME
from blobstore.converting.choices import Choices
from blobstore.errors import CheckpointError, UsageError
from blobstore.gemma import ModelConfig, build_toc, config_of, parse_toc, tensors_of
from blobstore.gemma.tensors import default_type
from blobstore.gemma.toc import toc_entry
from blobstore.gemma.versions import NAMES
from tests.gemma_checkpoints import ALIGNED, arranged, convert, small_recipe, sound_recipe
from tests.models import FAMILIES, FORMS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gemma_checkpoints import Recipe

LAST = NAMES[-1]


def sound(family: str) -> Recipe:
    """A checkpoint whose file gemma.cpp runs, with rows that begin at blocks."""
    recipe = sound_recipe(family)
    return replace(recipe, size=replace(recipe.size, width=64, hidden=96, head=32))


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_weight_is_encoded_where_the_runtime_takes_any_type(tmp_path: Path, family: str, layout: str) -> None:
    recipe = small_recipe(family, size=ALIGNED)
    plan = convert(recipe.write(tmp_path / "c"), tmp_path / "out.sbs", Choices("q4_0", layout))
    tensors = arranged(recipe, recipe.tensors(), layout)
    with blobstore.BlobReader(tmp_path / "out.sbs") as reader:
        assert ModelConfig.from_bytes(bytes(reader["config"])).weight_name == "q4_0"
        toc = {entry.name: entry for entry in parse_toc(reader["toc"])}
        for row in recipe.rows(layout):
            assert toc[row.key].type.name == (row.floor or "q4_0")
            if not row.floor:
                assert bytes(reader[row.key]) == codecs.encode("q4_0", tensors[row.key])[0].tobytes()
    assert [note for note in plan.notes if "q4_0" in note] == [
        f"q4_0 is read by gemma.cpp {LAST} only, and this was not run: it was read in its source"
    ]
    assert blobstore.verify(tmp_path / "out.sbs", against=tmp_path / "c").ok


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_runtime_runs_the_file_and_no_other(tmp_path: Path, family: str, layout: str) -> None:
    convert(sound(family).write(tmp_path / "c"), tmp_path / "m.sbs", Choices("q4_0", layout))
    found = check_file(tmp_path / "m.sbs")
    assert {finding.code for finding in found} <= {"unused-blob", "image-prompts", "newer-value", "newer-type"}
    assert runs_in(found) == (LAST,)
    done = blobstore.convert(tmp_path / "c", tmp_path / "m.sbs", weights="q4_0", layout=layout)
    assert done.runs_in == (LAST,)


@pytest.mark.parametrize("runtime", NAMES)
def test_only_the_last_runtime_can_be_chosen(tmp_path: Path, runtime: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sound("gemma3").write(tmp_path / "c")
    flags = ["--weights", "q4_0", "--runtime", runtime]
    status = main(["convert", str(folder), "-o", str(tmp_path / "m.sbs"), "--dry-run", *flags])
    printed = capsys.readouterr().err
    assert status == (0 if runtime == LAST else 1)
    assert (f"q4_0 is read by gemma.cpp {LAST} only" in printed) == (runtime == LAST)
    assert ("newer-type: toc: 12 tensors have type 12, q4_0" in printed) == (runtime != LAST)
    assert ("leave out --runtime" in printed) == (runtime != LAST)


@pytest.mark.parametrize("layout", FORMS)
def test_rows_that_end_inside_a_block_are_sfp_and_that_is_said(tmp_path: Path, layout: str) -> None:
    recipe = small_recipe("gemma3", size=replace(ALIGNED, hidden=48))
    plan = convert(recipe.write(tmp_path / "c"), tmp_path / "out.sbs", Choices("q4_0", layout))
    why = "not each of their rows begins at a block of 32 values"
    assert f"sfp, not q4_0, since {why}: linear_w_0, linear_w_1" in plan.notes
    types = {tensor.key: tensor.type.name for tensor in plan.tensors}
    assert {types["linear_w_0"], types["linear_w_1"]} == {"sfp"}
    assert types == {row.key: row.stored_type("q4_0") for row in recipe.rows(layout)}
    assert not [
        found for found in check_file(tmp_path / "out.sbs") if "type" in found.code and found.severity == "error"
    ]
    assert blobstore.verify(tmp_path / "out.sbs", against=tmp_path / "c").ok


def test_a_model_without_any_such_tensor_is_refused(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    with pytest.raises(CheckpointError, match=r"no-weights: qkv1_w_0: .* this one has 20: use --weights sfp"):
        convert(recipe.write(tmp_path / "c"), tmp_path / "out.sbs", Choices("q4_0"))
    assert not (tmp_path / "out.sbs").exists()


@pytest.mark.parametrize("value", [np.nan, -np.inf, 3.4e38])
def test_values_that_it_can_not_hold_are_named_before_anything_is_written(tmp_path: Path, value: float) -> None:
    recipe = small_recipe("gemma3", size=ALIGNED, dtype="f32")
    tensors = recipe.tensors()
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] = value
    recipe.write(tmp_path / "c", tensors)
    with pytest.raises(
        CheckpointError, match=r"not-finite: .*down_proj.*at index \[3, 5\].*or convert with --weights bf16"
    ):
        convert(tmp_path / "c", tmp_path / "out.sbs", Choices("q4_0"))
    assert not (tmp_path / "out.sbs").exists()


def test_what_the_runtime_rearranges_by_bytes_is_sfp() -> None:
    def types(specifier: str) -> dict[str, str]:
        return {spec.key: default_type(spec, "q4_0").name for spec in tensors_of(config_of(specifier))}

    encoder_decoder = types("t5gemma-s-s-sfp-pt")
    rearranged = {f"{key}_0" for key in ("e_qkv", "e_att", "e_gate", "d_qkv", "d_att", "d_gate", "dc_att")}
    assert {encoder_decoder[key] for key in rearranged} == {"sfp"}
    assert {encoder_decoder[f"{key}_0"] for key in ("e_lin", "d_lin", "dc_q", "dc_k", "dc_v")} == {"q4_0"}
    experts = types("gemma4-26b-moe-sfp-it")
    layers = {
        int(key.rpartition("_")[2]) for key, name in experts.items() if key.startswith("qkv2_w_") and name == "sfp"
    }
    assert layers == {5, 11, 17, 23, 29}
    assert {name for key, name in experts.items() if key.startswith(("gating1_w_", "linear_w_", "att_w_"))} == {"q4_0"}


def with_type(path: Path, key: str, type_name: str) -> Path:
    """Write a file again with zeros of another type in one tensor."""
    with blobstore.BlobReader(path) as reader:
        blobs = {name: bytes(data) for name, data in reader.items() if name != "~index"}
    entries = {entry.name: entry for entry in parse_toc(blobs["toc"])}
    entries[key] = toc_entry(key, BY_NAME[type_name], entries[key].rows, entries[key].cols)
    blobs[key], blobs["toc"] = bytes(entries[key].nbytes), build_toc(entries.values())
    with blobstore.BlobWriter(path) as writer:
        for name, data in blobs.items():
            writer.add(name, data)
    return path


@pytest.mark.parametrize("type_name", ["q4_0", "mxfp4"])
def test_check_says_which_tensors_may_not_have_the_type(tmp_path: Path, type_name: str) -> None:
    recipe = small_recipe("gemma3", size=replace(ALIGNED, hidden=48))
    path = tmp_path / "m.sbs"
    convert(recipe.write(tmp_path / "c"), path, Choices("q4_0"))
    for key, severities in {"att_w_0": [], "linear_w_0": ["warning"], "c_embedding": ["error"]}.items():
        convert(tmp_path / "c", path, Choices("q4_0"))
        found = [found for found in check_file(with_type(path, key, type_name)) if found.code == "tensor-type"]
        assert [(finding.severity, finding.runtimes) for finding in found] == [(one, (LAST,)) for one in severities]


def test_a_writer_of_a_model_encodes_it(tmp_path: Path) -> None:
    recipe = small_recipe("gemma2", size=ALIGNED)
    convert(recipe.write(tmp_path / "c"), tmp_path / "a.sbs", Choices("q4_0"))
    with blobstore.open(tmp_path / "a.sbs", by="keys") as made:
        assert made.config is not None
        with blobstore.ModelWriter(tmp_path / "b.sbs", made.config) as writer:
            for key, values in made.items():
                writer.add(key, values)
        with blobstore.open(tmp_path / "b.sbs", by="keys") as again:
            for key in made:
                assert again.info(key).type == made.info(key).type
                assert bytes(again.raw(key)) == bytes(made.raw(key))
        with pytest.raises(UsageError, match="wrong-type: 'c_embedding' can't be 'q4_0'"):
            blobstore.ModelWriter(tmp_path / "c.sbs", made.config).add("c_embedding", made["c_embedding"], type="q4_0")
