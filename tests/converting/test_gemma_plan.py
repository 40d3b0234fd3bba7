"""Plans of Gemma checkpoints: what is refused and how, the names in the file, and the choices."""

from __future__ import annotations

import json
import math
import shutil
from collections import namedtuple
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blobstore
from blobstore import codecs
from blobstore.checkpoint.reader import Checkpoint, open_checkpoint
from blobstore.checkpoint.tokenizer_files import tokenizer_beside
from blobstore.codecs.element_types import BY_NAME
from blobstore.converting.choices import Choices
from blobstore.converting.run import run_plan
from blobstore.errors import CheckpointError, Fault, UsageError
from blobstore.gemma.enums import Wrapping
from tests.checkpoints import SINGLE, own, snapshot, write_config, write_own, write_peer
from tests.gemma_checkpoints import (
    ALIGNED,
    NEW,
    OLD,
    TOKENIZER,
    VARIANTS,
    Recipe,
    Size,
    convert,
    plan_of,
    recipes,
    small_recipe,
    sound_recipe,
)
from tests.models import ALL_FAMILIES, FORMS, RUNNABLE

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[Any]

DiskUsage = namedtuple("DiskUsage", "total used free")  # noqa: PYI024 (as shutil's own)
LAYER = "model.layers.1."
FIXES = (
    "download",
    "merge",
    "original",
    "--as names",
    "--weights",
    "pad",
    "repair",
    "config.json",
    "rename",
    "choose",
)


def refused(folder: Path, kind: str = "auto", **choices: Any) -> list[Fault]:  # noqa: ANN401 (fields of the choices)
    """Try to convert, and return the faults, each of which the message lists. Nothing is written."""
    before = snapshot(folder)
    with pytest.raises(CheckpointError) as caught:
        convert(folder, folder / "out.sbs", Choices(**choices), kind)
    assert snapshot(folder) == before
    assert caught.value.reason == "cannot-convert"
    faults = list(caught.value.faults)
    assert faults
    assert all(isinstance(fault, blobstore.Fault) for fault in faults)
    for reason, name, message in faults[:20]:
        assert f"{reason}: {name}: {message}" in caught.value.message
    return faults


def names_of(faults: list[Fault]) -> set[tuple[str, str]]:
    return {(fault.reason, fault.name) for fault in faults}


def has_fix(faults: list[Fault]) -> bool:
    """Whether every message says what to do."""
    return all(any(fix in fault.message for fix in FIXES) for fault in faults)


# ----------------------------------------------------------------------------------- tensors that aren't as they should


@pytest.mark.parametrize("family", [*ALL_FAMILIES, "t5gemma"])
def test_each_missing_tensor_is_named(tmp_path: Path, family: str) -> None:
    recipe = small_recipe(family)
    everything = recipe.tensors()
    # Those that the dimensions are read from are looked for first.
    for name in sorted(everything):
        tensors = {other: array for other, array in everything.items() if other != name}
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        faults = refused(recipe.write(tmp_path / "c", tensors))
        assert any(name.endswith(fault.name) or fault.name in name for fault in faults), name
        assert {fault.reason for fault in faults} <= {"missing-tensor", "missing-config", "config-disagrees"}, name


def test_all_missing_tensors_are_named_at_once(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    lost = [f"{LAYER}{text}" for text in ("mlp.up_proj.weight", "self_attn.o_proj.weight", "input_layernorm.weight")]
    for name in lost:
        del tensors[name]
    faults = refused(recipe.write(tmp_path / "c", tensors))
    assert names_of(faults) == {("missing-tensor", name) for name in lost}
    assert has_fix(faults)


@pytest.mark.parametrize("family", [*ALL_FAMILIES, "t5gemma"])
@pytest.mark.parametrize(
    "name", ["model.layers.1.self_attn.q_proj.bias", "score.weight", "model.layers.1.mlp.router.weight"]
)
def test_an_unexpected_tensor_is_named(tmp_path: Path, family: str, name: str) -> None:
    recipe = small_recipe(family)
    tensors = recipe.tensors() | {name: np.zeros(3, ml_dtypes.bfloat16)}
    faults = refused(recipe.write(tmp_path / "c", tensors))
    assert names_of(faults) == {("unexpected-tensor", name)}
    assert has_fix(faults)


def test_buffers_of_old_exporters_are_left_out(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3vlm")
    more: dict[str, Array] = {
        f"{recipe.prefixes[0]}layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32),
        f"{recipe.prefixes[1]}embeddings.position_ids": np.arange(9)[None],
    }
    plan = plan_of(recipe.write(tmp_path / "c", recipe.tensors() | more), Choices())
    planned = {tensor.name for tensor in [*plan.tensors, *plan.extras]} | {part.name for part in plan.parts}
    assert not set(more) & planned
    assert {item.name for item in plan.left_out} == {*more}


@pytest.mark.parametrize("family", [*ALL_FAMILIES, "t5gemma"])
def test_each_wrong_shape_is_named(tmp_path: Path, family: str) -> None:
    recipe = small_recipe(family)
    everything = recipe.tensors()
    for name in sorted(everything):
        if "embed_tokens" in name:
            continue  # this is another vocabulary: config.json is compared below
        array = everything[name]
        tensors = everything | {name: np.concatenate([array, array[:1]])}
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        assert refused(recipe.write(tmp_path / "c", tensors)), name


@pytest.mark.parametrize("name", ["mlp.down_proj", "self_attn.o_proj", "mlp.up_proj"])
def test_a_transposed_matrix_is_a_wrong_shape(tmp_path: Path, name: str) -> None:
    """It has the right number of elements, and would be read row by row."""
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    full = f"{LAYER}{name}.weight"
    tensors[full] = np.ascontiguousarray(tensors[full].T)
    faults = refused(recipe.write(tmp_path / "c", tensors))
    assert names_of(faults) == {("shape", full)}


@pytest.mark.parametrize("shape", [(), (1920,), (96, 20, 1), (0, 20), (96, 0)])
def test_an_embedding_that_is_not_a_matrix_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors() | {recipe.embedding: np.zeros(shape, ml_dtypes.bfloat16)}
    faults = refused(recipe.write(tmp_path / "c", tensors))
    assert any("embed_tokens.weight" in fault.name for fault in faults)


@pytest.mark.parametrize("family", ["gemma3vlm", "paligemma2"])
@pytest.mark.parametrize("rows", [1, 63, 64])
def test_an_embedding_of_no_more_than_the_spare_rows_has_none(tmp_path: Path, family: str, rows: int) -> None:
    recipe = small_recipe(family)
    tensors = recipe.tensors()
    tensors[recipe.embedding] = tensors[recipe.embedding][:rows]
    config = recipe.config()
    config["text_config"]["vocab_size"] = rows
    plan = plan_of(recipe.write(tmp_path / "c", tensors, config), Choices())
    assert plan.tensors[0].shape == (-(-rows // 32) * 32, recipe.size.width)
    assert plan.parts[0].shape == (rows, recipe.size.width)
    assert not plan.extras


@pytest.mark.parametrize("layer", ["999", "1000000000000", "9" * 30, "9" * 5000])
def test_one_name_can_not_make_a_model_of_a_million_layers(tmp_path: Path, layer: str) -> None:
    recipe = small_recipe("gemma3")
    name = f"model.layers.{layer}.input_layernorm.weight"
    tensors = recipe.tensors() | {name: np.ones(20, ml_dtypes.bfloat16)}
    folder = recipe.write(tmp_path / "c", tensors)
    config = recipe.config()
    del config["num_hidden_layers"]
    write_config(folder, config)
    with pytest.raises(CheckpointError):
        plan_of(folder, Choices())


def test_a_gap_in_the_layers_is_named(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3", size=Size(layers=3))
    tensors = {name: array for name, array in recipe.tensors().items() if ".layers.1." not in name}
    faults = refused(recipe.write(tmp_path / "c", tensors))
    assert {fault.reason for fault in faults} == {"missing-tensor"}
    assert len(faults) == 13


def test_no_embedding_says_what_was_looked_for(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    tensors = {name.replace("model.", "net."): array for name, array in recipe.tensors().items()}
    ((reason, name, message),) = refused(recipe.write(tmp_path / "c", tensors))
    assert (reason, name) == ("missing-tensor", "embed_tokens.weight")
    assert "model.embed_tokens.weight" in message


@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize("family", ["gemma3vlm", "paligemma2"])
def test_a_vision_model_without_a_part_says_which(tmp_path: Path, family: str, prefix: int) -> None:
    recipe = small_recipe(family)
    tensors = {name: array for name, array in recipe.tensors().items() if not name.startswith(recipe.prefixes[prefix])}
    faults = refused(recipe.write(tmp_path / "c", tensors))
    part = ["vision_tower.vision_model", "multi_modal_projector"][prefix - 1]
    assert ("missing-tensor", part) in names_of(faults)


# -------------------------------------------------------------------------------------------- weights that aren't plain


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors"])
def test_a_quantised_model_is_refused_by_its_config(tmp_path: Path, method: str) -> None:
    recipe = small_recipe("gemma3")
    config = recipe.config() | {"quantization_config": {"quant_method": method}}
    faults = refused(recipe.write(tmp_path / "c", None, config))
    assert ("quantised", "quantization_config") in names_of(faults)
    assert has_fix(faults)


@pytest.mark.parametrize(
    ("ending", "dtype", "what"),
    [
        ("q_proj.qweight", np.int32, "GPTQ"),
        ("q_proj.qzeros", np.int32, "GPTQ"),
        ("q_proj.scales", np.float16, ""),
        ("q_proj.g_idx", np.int32, "GPTQ"),
        ("q_proj.weight.absmax", np.float32, "bitsandbytes"),
        ("q_proj.weight.quant_map", np.float32, "bitsandbytes"),
        ("q_proj.weight.nested_absmax", np.float32, "bitsandbytes"),
        ("q_proj.weight.nested_quant_map", np.float32, "bitsandbytes"),
        ("q_proj.weight.quant_state.bitsandbytes__nf4", np.uint8, "bitsandbytes"),
        ("q_proj.SCB", np.float32, "bitsandbytes"),
        ("q_proj.weight_format", np.uint8, ""),
        ("q_proj.weight_scale", np.float32, "FP8"),
        ("q_proj.weight_scale_inv", np.float32, "FP8"),
        ("q_proj.input_scale", np.float32, "FP8"),
        ("q_proj.weight_packed", np.int32, ""),
    ],
)
def test_names_of_quantisers_are_known(tmp_path: Path, ending: str, dtype: type, what: str) -> None:
    recipe = small_recipe("gemma3")
    name = f"{LAYER}self_attn.{ending}"
    faults = refused(recipe.write(tmp_path / "c", recipe.tensors() | {name: np.zeros(4, dtype)}))
    fault = next(fault for fault in faults if fault.name == name)
    if what:
        assert fault.reason == "quantised"
        assert what in fault.message
    assert has_fix([fault])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.int32])
def test_weights_that_are_not_plain_floats_are_named(tmp_path: Path, dtype: Any) -> None:  # noqa: ANN401 (numpy's)
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    changed = [f"{LAYER}{text}.weight" for text in ("mlp.up_proj", "mlp.gate_proj", "self_attn.o_proj")]
    for name in changed:
        tensors[name] = np.zeros(tensors[name].shape, dtype)
    faults = refused(recipe.write(tmp_path / "c", tensors))
    assert names_of(faults) == {("quantised", name) for name in changed}
    assert has_fix(faults)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.q_proj.lora_A.weight",
        "model.layers.1.self_attn.q_proj.lora_B.default.weight",
        "model.layers.1.mlp.up_proj.base_layer.weight",
        "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight",
        "model.layers.1.self_attn.q_proj.lora_magnitude_vector",
    ],
)
def test_an_adapter_is_refused_and_merging_advised(tmp_path: Path, name: str) -> None:
    recipe = small_recipe("gemma2")
    faults = refused(recipe.write(tmp_path / "c", recipe.tensors() | {name: np.zeros((2, 3), np.float32)}))
    assert names_of(faults) == {("adapter", name)}
    assert "merge" in faults[0].message


@pytest.mark.parametrize("kind", ["auto", "gemma"])
def test_a_folder_with_nothing_but_an_adapter_says_what_to_do(tmp_path: Path, kind: str) -> None:
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{prefix}.lora_{letter}.weight": np.ones((2, 2)) for letter in "AB"}
    write_own(tmp_path / "adapter_model.safetensors", own(tensors))
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "google/gemma-2-2b"}'
    )
    with pytest.raises(CheckpointError, match=r"convert BASE --adapter .*, BASE being google/gemma-2-2b"):
        plan_of(tmp_path, Choices(), kind)


# ------------------------------------------------------------------------------------------------------------- the head


@pytest.mark.parametrize(("family", "prefixes"), [pair for pair in VARIANTS if pair[0] != "qwen3"])
def test_an_untied_head_is_refused(tmp_path: Path, family: str, prefixes: tuple[str, str, str]) -> None:
    recipe = small_recipe(family, prefixes=prefixes, head=True)
    tensors = recipe.tensors()
    head = tensors[recipe.head_name].copy()
    head.view(np.uint16)[-1, -1] ^= 1
    faults = refused(recipe.write(tmp_path / "c", tensors | {recipe.head_name: head}))
    assert names_of(faults) == {("untied-head", recipe.head_name)}
    assert recipe.embedding in faults[0].message
    assert has_fix(faults)


def test_a_head_of_another_type_is_another_head(tmp_path: Path) -> None:
    recipe = small_recipe("gemma2", head=True)
    tensors = recipe.tensors()
    tensors[recipe.head_name] = tensors[recipe.head_name].astype(np.float32)
    assert names_of(refused(recipe.write(tmp_path / "c", tensors))) == {("untied-head", "lm_head.weight")}


# ----------------------------------------------------------------------------------------------- values beyond the type


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("weights", ["sfp", "i8"])
@pytest.mark.parametrize("layout", FORMS)
def test_values_that_a_type_can_not_hold_are_all_named(tmp_path: Path, weights: str, layout: str, dtype: str) -> None:
    recipe = small_recipe("gemma3", dtype=dtype)
    tensors = recipe.tensors()
    bad = {
        f"{LAYER}self_attn.o_proj.weight": np.nan,
        f"{LAYER}mlp.down_proj.weight": np.inf,
        "model.layers.0.mlp.gate_proj.weight": -np.inf,
    }
    for name, value in bad.items():
        tensors[name][-1, 2] = value
    faults = refused(recipe.write(tmp_path / "c", tensors), weights=weights, layout=layout)
    assert names_of(faults) == {("not-finite", name) for name in bad}
    assert has_fix(faults)
    for _, name, message in faults:
        assert str(float(bad[name])) in message


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize(
    "name", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]
)
def test_the_fault_has_the_name_of_the_tensor_that_has_the_value(tmp_path: Path, name: str, layout: str) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    tensors[f"{LAYER}{name}.weight"][-1, 0] = np.nan
    faults = refused(recipe.write(tmp_path / "c", tensors), layout=layout)
    assert names_of(faults) == {("not-finite", f"{LAYER}{name}.weight")}


@pytest.mark.parametrize("layout", FORMS)
def test_two_sources_of_one_tensor_are_both_named(tmp_path: Path, layout: str) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    bad = {f"{LAYER}self_attn.{letter}_proj.weight" for letter in "kv"}
    for name in bad:
        tensors[name][0, 0] = np.inf
    faults = refused(recipe.write(tmp_path / "c", tensors), layout=layout)
    assert names_of(faults) == {("not-finite", name) for name in bad}


@pytest.mark.parametrize("weights", ["bf16", "f32"])
def test_types_that_hold_them_keep_them(tmp_path: Path, weights: str) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    name = f"{LAYER}mlp.down_proj.weight"
    tensors[name][0, :2] = np.nan, -np.inf
    convert(recipe.write(tmp_path / "c", tensors), tmp_path / "out.sbs", Choices(weights))
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert np.array_equal(store[name].astype(np.float32), tensors[name].astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("weights", ["sfp", "i8"])
def test_norms_are_kept_in_a_type_that_holds_them(tmp_path: Path, weights: str) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    tensors["model.norm.weight"][0] = np.inf
    convert(recipe.write(tmp_path / "c", tensors), tmp_path / "out.sbs", Choices(weights))
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert store["model.norm.weight"][0] == np.inf


@pytest.mark.parametrize("weights", ["bf16", "f32", "sfp"])
def test_an_f64_beyond_f32_is_not_written_as_an_infinity(tmp_path: Path, weights: str) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    name = f"{LAYER}mlp.down_proj.weight"
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name][0, 0] = 1e300
    faults = refused(recipe.write(tmp_path / "c", tensors), weights=weights)
    assert names_of(faults) == {("not-finite", name)}


@pytest.mark.parametrize(("weights", "told"), [("bf16", "1e+300 at index [0, 9]"), ("sfp", "nan at index [0, 3]")])
def test_the_value_that_is_named_is_one_that_the_type_cant_hold(tmp_path: Path, weights: str, told: str) -> None:
    """bf16 holds a NaN."""
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    name = f"{LAYER}mlp.down_proj.weight"
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name][0, [3, 9]] = np.nan, 1e300
    (fault,) = refused(recipe.write(tmp_path / "c", tensors), weights=weights)
    assert fault.message.startswith(f"it has {told}, which {weights} can't hold: repair it")


# --------------------------------------------------------------------------------------------------------- other models


@pytest.mark.parametrize("kind", ["auto", "gemma"])
@pytest.mark.parametrize(
    ("model_type", "called"),
    [
        ("gemma", "Gemma 1"),
        ("recurrent_gemma", "RecurrentGemma"),
        ("gemma3n", "Gemma 3n"),
        ("gemma3n_text", "Gemma 3n"),
        ("gemma4_unified", "another kind of Gemma 4"),
        ("gemma4_assistant", "another kind of Gemma 4"),
        ("t5gemma2", "T5Gemma 2"),
        ("t5gemma2_text", "T5Gemma 2"),
        ("t5_gemma_module", "a decoder of T5Gemma alone"),
        ("shieldgemma2", "ShieldGemma"),
        ("vaultgemma", "VaultGemma"),
    ],
)
def test_a_model_that_the_runtime_lacks_is_refused_by_name(
    tmp_path: Path, model_type: str, called: str, kind: str
) -> None:
    recipe = small_recipe("gemma2")
    ((reason, name, message),) = refused(recipe.write(tmp_path / "c", None, {"model_type": model_type}), kind)
    assert (reason, name) == ("unsupported-model", "model_type")
    assert called in message


@pytest.mark.parametrize("text", [{}, {"model_type": "gemma"}, None])
def test_paligemma_1_is_refused_by_name(tmp_path: Path, text: object) -> None:
    config = {"model_type": "paligemma", "text_config": text}
    ((reason, _, message),) = refused(small_recipe("paligemma2").write(tmp_path / "c", None, config))
    assert reason == "unsupported-model"
    assert "PaliGemma 1" in message


def test_an_unsupported_model_can_still_be_converted_by_name(tmp_path: Path) -> None:
    recipe = small_recipe("gemma2")
    folder = recipe.write(tmp_path / "c", None, {"model_type": "gemma"})
    convert(folder, tmp_path / "out.sbs", kind="names")
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert set(store) == {*recipe.tensors(), "lm_head.weight"}
        assert store.config is None


@pytest.mark.parametrize("name", ["gemma.task", "model.weights.h5", "pytorch_model.bin", "gemma.tflite", "m.pt"])
@pytest.mark.parametrize("way", ["file", "folder", "shards"])
def test_files_of_other_formats_are_refused_by_name(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / name).write_bytes(b"some bytes")
    write_config(tmp_path, small_recipe("gemma3").config())
    path = tmp_path if way == "folder" else tmp_path / name
    if way == "shards":
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        path = tmp_path
    with pytest.raises(CheckpointError) as caught, open_checkpoint(path):
        pass
    assert caught.value.reason == "not-safetensors"
    assert name in str(caught.value)
    assert any(text in caught.value.message for text in ("convert from the original", "save it"))


# ------------------------------------------------------------------------------------------------------- without config


def test_a_gemma_checkpoint_without_config_is_refused_for_that(tmp_path: Path) -> None:
    """Its tensors tell what it is. Converted by name, unasked, it would make a file that gemma.cpp can't run."""
    folder = small_recipe("gemma3").write(tmp_path / "c")
    (folder / "config.json").unlink()
    ((reason, name, message),) = refused(folder, "auto")
    assert (reason, name) == ("missing-config", "config.json")
    assert "not a Gemma checkpoint" not in message
    assert plan_of(folder, Choices(), "names").config is None


def test_as_gemma_without_config_says_that_it_is_missing(tmp_path: Path) -> None:
    folder = small_recipe("gemma3").write(tmp_path / "c")
    (folder / "config.json").unlink()
    assert "config.json" in " ".join(fault.message for fault in refused(folder, "gemma"))


def test_as_gemma_with_another_model_says_so(tmp_path: Path) -> None:
    write_peer(tmp_path / SINGLE, {"a": np.ones(3, np.float32)})
    write_config(tmp_path, {"model_type": "llama"})
    ((reason, name, message),) = refused(tmp_path, "gemma")
    assert (reason, name) == ("unsupported-model", "model_type")
    assert "'llama'" in message
    assert "--as names" in message


# --------------------------------------------------------------------------------------------------------- disk and all


def test_a_small_disk_is_reported_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe("gemma3")
    folder = recipe.write(tmp_path / "c")
    nbytes = plan_of(folder, Choices()).nbytes
    free = nbytes - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**12, 0, free))
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        convert(folder, tmp_path / "out.sbs")
    assert caught.value.reason == "disk-too-small"
    assert str(nbytes) in caught.value.message
    assert str(free) in caught.value.message
    assert "choose another folder" in caught.value.message
    assert snapshot(tmp_path) == before


def test_the_extras_of_a_file_count_for_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_recipe("gemma3vlm").write(tmp_path / "c")
    plan = plan_of(folder, Choices())
    assert plan.extras
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**12, 0, sum(t.nbytes for t in plan.tensors)))
    with pytest.raises(CheckpointError, match="disk-too-small"):
        convert(folder, tmp_path / "out.sbs")


def test_several_faults_are_reported_at_once(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3", head=True)
    tensors = recipe.tensors()
    del tensors[f"{LAYER}mlp.down_proj.weight"]
    tensors["odd.weight"] = np.ones(3, np.float32)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1]
    tensors["lm_head.weight"] = -tensors["lm_head.weight"]
    tensors[f"{LAYER}self_attn.o_proj.weight"] = np.zeros((20, 24), np.int8)
    tensors[f"{LAYER}self_attn.q_proj.lora_A.weight"] = np.zeros((2, 2), np.float32)
    folder = recipe.write(tmp_path / "c", tensors, recipe.config() | {"query_pre_attn_scalar": 7})
    faults = refused(folder)
    assert names_of(faults) == {
        ("missing-tensor", f"{LAYER}mlp.down_proj.weight"),
        ("unexpected-tensor", "odd.weight"),
        ("shape", "model.norm.weight"),
        ("untied-head", "lm_head.weight"),
        ("quantised", f"{LAYER}self_attn.o_proj.weight"),
        ("adapter", f"{LAYER}self_attn.q_proj.lora_A.weight"),
        ("unsupported-config", "query_pre_attn_scalar"),
    }


def test_more_faults_than_are_shown_are_counted(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    more = {f"odd.{i}": np.ones(1, np.float32) for i in range(50)}
    folder = recipe.write(tmp_path / "c", recipe.tensors() | more)
    with pytest.raises(CheckpointError, match="and 30 more") as caught:
        plan_of(folder, Choices())
    assert {fault.name for fault in caught.value.faults} == set(more)


# ---------------------------------------------------------------------------------------------------- names in the file


def check_names(recipe: Recipe, folder: Path, weight: str, layout: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    recipe.write(folder)
    plan = convert(folder, folder / "out.sbs", Choices(weight, layout))
    tensors = recipe.tensors()
    tensors.setdefault(recipe.head_name, tensors[recipe.embedding])
    with blobstore.open(folder / "out.sbs") as store, blobstore.open(folder / "out.sbs", by="keys") as by_keys:
        assert list(store) == sorted(tensors)
        assert set(by_keys) == {tensor.key for tensor in plan.tensors}
        gathered = {info.name for info in store.infos() if info.blocks}
        spread = {name for name in tensors if rearranged(name, layout)}
        if recipe.vision:
            spread |= {recipe.embedding, recipe.head_name}  # its last rows are stored apart
        spread |= {name for name in tensors if recipe.family == "qwen3" and "norm" in name}
        # What is spread over several heads is one run if there is only one. Groups of i8 may end inside a row.
        assert gathered <= spread or (weight == "i8" and recipe.size != ALIGNED)
        rows = {row.key: row for row in recipe.rows(layout)}
        for name, whole in tensors.items():
            info, values = store.info(name), store[name]
            assert info.shape == values.shape == whole.shape
            first = info.blocks[0].stored if info.blocks else info
            kept = first.name == f"{name}.original"
            element_type = recipe.dtype if kept else rows[first.key].stored_type(weight)
            assert info.type == BY_NAME[element_type]
            assert element_type == "i8" or np.array_equal(
                values.astype(np.float32).reshape(-1), as_stored(info, whole, element_type)
            )
            if weight == "bf16" and whole.dtype == ml_dtypes.bfloat16:
                assert (values.dtype, values.tobytes()) == (whole.dtype, whole.tobytes())
        shifted = {row.key for row in recipe.rows(layout) if recipe.is_shifted(row.key)}
        check_nothing_twice(store, plan.nbytes, shifted if plan.extras and not recipe.vision else set())


def as_stored(info: blobstore.TensorInfo, whole: Array, element_type: str) -> Array:
    """Return what storing makes of a tensor's values; where it is stored in several blobs, each has its scale."""
    holders = {block.stored.key for block in info.blocks}
    if len(holders) < 2:
        return nearest(whole, element_type, info.blocks[0].stored.scale if info.blocks else info.scale)
    parts = [(block, whole.reshape(-1, block.width)[block.row : block.row + block.rows]) for block in info.blocks]
    return np.concatenate([nearest(part, element_type, block.stored.scale) for block, part in parts])


def rearranged(name: str, layout: str) -> bool:
    """Whether the specification's mapping spreads a tensor's rows over a blob."""
    if "patch_embedding.weight" in name or "mm_input_projection" in name or "vision" in name:
        return (
            "patch_embedding.weight" in name
            or "mm_input" in name
            or any(f"{text}_proj" in name for text in [".q", ".k", ".v"])
        )
    return any(f"{text}_proj.weight" in name for text in (".k", ".v", *([".o"] if layout == "stock" else [])))


def nearest(values: Array, element_type: str, scale: float = 1.0) -> Array:
    """Return what a type makes of values."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if element_type == "i8":
        data, _ = codecs.encode("i8", flat)
        return codecs.decode("i8", data, flat.size)
    if element_type == "sfp":
        # The scale is given: another part may have the largest value.
        data = np.concatenate(list(codecs.encode_pieces(BY_NAME["sfp"], flat, scale)))
        return codecs.decode("sfp", data, flat.size, scale=scale)
    data, _ = codecs.encode(element_type, flat)
    return codecs.decode(element_type, data, flat.size)


def check_nothing_twice(store: blobstore.Store, nbytes: int, kept: set[str]) -> None:
    """Check that every name lies in a blob, and that the blobs hold nothing but the tensors."""
    blobs = set(store.reader) - {"config", "tokenizer", "toc", "~index"}
    held = {holder.key for info in store.infos() for holder in [*(block.stored for block in info.blocks), info]}
    unnamed = {"img_head_bias"} | kept  # zeros, where the checkpoint has none; norms, which are kept as they are, too
    assert blobs == {key for key in held if key} | (blobs & unnamed)
    assert sum(len(store.reader[key]) for key in blobs) == nbytes
    contents = [bytes(store.reader[key]) for key in blobs if len(store.reader[key]) > 100]
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("weight", ["bf16", "sfp", "f32"])
@pytest.mark.parametrize(("family", "prefixes"), VARIANTS[::2])
def test_every_name_reads_back(
    tmp_path: Path, family: str, prefixes: tuple[str, str, str], weight: str, layout: str
) -> None:
    check_names(small_recipe(family, prefixes=prefixes, top=5.0), tmp_path / "c", weight, layout)


@pytest.mark.parametrize("weight", ["i8", "q4_0"])
@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_name_reads_back_from_groups_that_end_with_rows(
    tmp_path: Path, family: str, layout: str, weight: str
) -> None:
    check_names(small_recipe(family, size=ALIGNED), tmp_path / "c", weight, layout)


@given(recipe=recipes(), weight=st.sampled_from(["bf16", "sfp", "f32", "i8"]), layout=st.sampled_from(FORMS))
@settings(max_examples=20)
def test_every_name_reads_back_whatever_the_size(tmp_path: Path, recipe: Recipe, weight: str, layout: str) -> None:
    check_names(recipe, tmp_path / "c", weight, layout)


@given(recipe=recipes(), layout=st.sampled_from(FORMS))
@settings(max_examples=20)
def test_a_name_is_kept_where_the_groups_of_i8_are_its_own(tmp_path: Path, recipe: Recipe, layout: str) -> None:
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    plan = plan_of(recipe.write(tmp_path / "c"), Choices("i8", layout))
    shapes = recipe.shapes() | {recipe.head_name: recipe.shapes()[recipe.embedding]}
    runs: dict[str, list[tuple[bool, bool]]] = {}
    for tensor in plan.tensors:
        group, end, count = tensor.type.group or 1, 0, math.prod(tensor.shape)
        for piece in tensor.pieces:
            start, end = end, end + piece.count
            whole = piece.whole_rows and piece.count == math.prod(shapes.get(str(piece.source), (0,)))
            own = start % group == 0 and (end % group == 0 or end == count)  # the last group may be shorter
            runs.setdefault(str(piece.source), []).append((whole, own))
    parts = {part.name for part in plan.parts} - {recipe.embedding}  # whose name may stand for some of its rows
    assert parts == {name for name, ends in runs.items() if ends == [(True, True)]} - {recipe.embedding}


@pytest.mark.parametrize(("family", "prefixes"), VARIANTS)
@pytest.mark.parametrize("head", [False, True])
def test_the_head_is_the_embedding(tmp_path: Path, family: str, prefixes: tuple[str, str, str], head: bool) -> None:
    recipe = small_recipe(family, prefixes=prefixes, head=head)
    plan = convert(recipe.write(tmp_path / "c"), tmp_path / "out.sbs", Choices("bf16"))
    (alias,) = plan.aliases
    assert (alias.name, alias.target) == (recipe.head_name, recipe.embedding)
    assert ("same bytes" in alias.why) is head
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert store.info(recipe.head_name).place == store.info(recipe.embedding).place
        assert np.array_equal(
            store[recipe.head_name].view(np.uint16), recipe.tensors()[recipe.embedding].view(np.uint16)
        )
        assert store.aliases == {recipe.head_name: recipe.embedding}
        tensors = store.load_all()
        assert tensors[recipe.head_name] is tensors[recipe.embedding] or np.shares_memory(
            tensors[recipe.head_name], tensors[recipe.embedding]
        )


# ---------------------------------------------------------------------------------------------------------- the choices


@pytest.mark.parametrize(("weights", "layout"), RUNNABLE)
def test_a_plan_is_data_that_says_where_everything_comes_from(tmp_path: Path, weights: str, layout: str) -> None:
    recipe = sound_recipe("gemma3vlm")
    plan = plan_of(recipe.write(tmp_path / "c"), Choices(weights, layout))
    shown = json.loads(json.dumps(asdict(blobstore.preview_conversion(tmp_path / "c", weights=weights, layout=layout))))
    assert [entry["key"] for entry in shown["tensors"]] == [tensor.key for tensor in plan.tensors]
    text = json.dumps(shown["tensors"])
    assert all(json.dumps(name) in text for name in recipe.tensors())


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_element_of_the_source_is_used_once(tmp_path: Path, family: str, layout: str) -> None:
    recipe = small_recipe(family)
    plan = plan_of(recipe.write(tmp_path / "c"), Choices("bf16", layout))
    seen = {name: np.zeros(math.prod(shape), np.uint8) for name, shape in recipe.shapes().items()}
    for tensor in [*plan.tensors, *plan.extras]:
        assert sum(piece.count for piece in tensor.pieces) == math.prod(tensor.shape)
        for piece in tensor.pieces:
            if piece.source is not None:
                matrix = seen[piece.source].reshape(-1, piece.width)
                matrix[piece.row : piece.row + piece.rows, piece.col : piece.col + piece.cols] += 1
    assert all((array == 1).all() for array in seen.values())


@pytest.mark.parametrize("given_", [None, "it", "pt"])
@pytest.mark.parametrize("template", ["", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_wrapping_is_the_checkpoints_or_what_was_chosen(
    tmp_path: Path, family: str, template: str, given_: str | None
) -> None:
    recipe = small_recipe(family, chat_template=template)
    plan = plan_of(recipe.write(tmp_path / "c"), Choices(wrapping=given_))
    assert plan.config is not None
    wanted = given_ or ("it" if template else "pt")
    assert plan.config.wrapping == Wrapping[wanted.upper()]
    (note,) = (note for note in plan.notes if note.startswith("wrapping"))
    why = "you chose it" if given_ else f"the checkpoint has {'a' if template else 'no'} chat template"
    assert note == f"wrapping {wanted}: {why}"
    convert(tmp_path / "c", tmp_path / "out.sbs", Choices(wrapping=given_))
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert store.reader["config"] == recipe.model_config("sfp", wanted).to_bytes()


def test_a_tokenizer_config_without_a_template_belongs_to_a_base_model(tmp_path: Path) -> None:
    folder = small_recipe("gemma3").write(tmp_path / "c")
    for text in ('{"bos_token": "<bos>"}', '{"chat_template": null}'):
        (folder / "tokenizer_config.json").write_text(text)
        config = plan_of(folder, Choices()).config
        assert config is not None
        assert config.wrapping == Wrapping.PT, text


@pytest.mark.parametrize("given_", [None, "it", "pt"])
@pytest.mark.parametrize(("family", "wrapping"), [("gemma3vlm", Wrapping.VLM), ("paligemma2", Wrapping.PALIGEMMA)])
def test_models_with_one_wrapping_keep_it(tmp_path: Path, family: str, wrapping: Wrapping, given_: str | None) -> None:
    recipe = small_recipe(family, chat_template="chat_template.jinja")
    plan = plan_of(recipe.write(tmp_path / "c"), Choices(wrapping=given_))
    assert plan.config is not None
    assert plan.config.wrapping == wrapping
    assert f"wrapping {wrapping.name.lower()}: this model has one wrapping only" in plan.notes


def test_the_tokenizer_is_the_one_beside_the_checkpoint_or_the_one_given(tmp_path: Path) -> None:
    folder = small_recipe("gemma3").write(tmp_path / "c")
    assert plan_of(folder, Choices()).tokenizer == TOKENIZER
    (tmp_path / "other.model").write_bytes(b"\n\x03abc")
    assert plan_of(folder, Choices(), tokenizer=tmp_path / "other.model").tokenizer == b"\n\x03abc"
    (folder / "tokenizer.model").unlink()
    assert plan_of(folder, Choices()).tokenizer is None


@pytest.mark.parametrize(
    "text", [b'{"version": "1.0"}', b"[]", b"", b'  {"version": 1}', b'\xef\xbb\xbf{"version": 1}']
)
@pytest.mark.parametrize("way", ["beside", "given"])
def test_a_tokenizer_that_is_not_a_sentencepiece_model_is_refused(tmp_path: Path, text: bytes, way: str) -> None:
    name = "tokenizer.model" if way == "beside" else "tokenizer.json"
    (tmp_path / name).write_bytes(text)
    with pytest.raises(UsageError) as caught:
        tokenizer_beside(Checkpoint(str(tmp_path)), None if way == "beside" else str(tmp_path / name))
    assert caught.value.reason == "not-a-tokenizer"
    assert "tokenizer.model" in caught.value.message


@pytest.mark.parametrize("by", ["auto", "names"])
def test_any_other_checkpoint_is_converted_by_name(tmp_path: Path, by: str) -> None:
    write_peer(tmp_path / SINGLE, {"model.embed_tokens.weight": np.ones((4, 2), np.float32)}, {"format": "pt"})
    write_config(tmp_path, {"model_type": "llama", "tie_word_embeddings": True})
    plan = convert(tmp_path, tmp_path / "out.sbs", kind=by)
    assert plan.config is None


def test_a_gemma_checkpoint_is_converted_by_name_on_request(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3", head=True)
    plan = convert(recipe.write(tmp_path / "c"), tmp_path / "out.sbs", kind="names")
    assert plan.config is None
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert {name: bytes(store.raw(name)) for name in store} == {n: a.tobytes() for n, a in recipe.tensors().items()}


def test_a_plan_does_not_read_weights(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3vlm")
    folder = recipe.write(tmp_path / "c")
    whole = plan_of(folder, Choices())
    size = (folder / SINGLE).stat().st_size
    nbytes = sum(array.nbytes for array in recipe.tensors().values())
    with open(folder / SINGLE, "r+b") as file:
        file.truncate(size - nbytes)
        file.truncate(size)
    assert plan_of(folder, Choices()) == whole


def test_the_target_is_not_the_source(tmp_path: Path) -> None:
    folder = small_recipe("gemma3").write(tmp_path / "c")
    before = snapshot(folder)
    with open_checkpoint(folder) as checkpoint, pytest.raises(UsageError) as caught:
        run_plan(plan_of(folder, Choices()), checkpoint, folder / SINGLE)
    assert caught.value.reason == "same-file"
    assert snapshot(folder) == before


@pytest.mark.parametrize("prefixes", [OLD, NEW])
def test_old_and_new_names_give_the_same_runtime_tensors(tmp_path: Path, prefixes: tuple[str, str, str]) -> None:
    recipe = small_recipe("gemma3vlm", prefixes=prefixes)
    plan = plan_of(recipe.write(tmp_path / "c"), Choices("bf16"))
    old = plan_of(replace(recipe, prefixes=OLD).write(tmp_path / "o"), Choices("bf16"))
    assert [(t.key, t.type, t.shape) for t in plan.tensors] == [(t.key, t.type, t.shape) for t in old.tensors]
