"""`verify` finds every difference between a file and its source, and reports nothing else."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blobstore
from blobstore.checking.repair import repair
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.cli import main
from blobstore.converting.choices import Choices
from blobstore.converting.run import run_plan
from blobstore.converting.verify import plan_again, verify
from blobstore.edit.reindex import build_index
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import BlobStoreError, UsageError
from blobstore.gemma.enums import PostNorm
from blobstore.index.metadata import CHOICES
from blobstore.store.values import stored_infos
from tests.checkpoints import EMBEDDING, HEAD, SINGLE, write_config, write_peer
from tests.gemma_checkpoints import Recipe, as_before, convert, plan_of, recipes, small_recipe
from tests.models import ALL_FAMILIES, FAMILIES, FORMS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.converting.verify import Verdict
    from blobstore.gemma import ModelConfig

WEIGHTS = ("bf16", "sfp", "f32", "i8")


def verdicts(file: Path, source: Path) -> list[Verdict]:
    with blobstore.open(file) as store, open_checkpoint(source) as checkpoint:
        plan = plan_again(store, checkpoint)
        return list(verify(store, plan, checkpoint))


def faults(file: Path, source: Path) -> dict[str, str]:
    return {verdict.name: verdict.fault for verdict in verdicts(file, source) if verdict.fault}


def flip(file: Path, offset: int, mask: int = 1) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([byte ^ mask]))


# --------------------------------------------------------------------------------------------------------- all is right


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_what_was_converted_is_right(tmp_path: Path, family: str, weights: str, layout: str) -> None:
    recipe = small_recipe(family, chat_template="chat_template.jinja")
    recipe.write(tmp_path / "c")
    plan = convert(tmp_path / "c", tmp_path / "a.sbs", Choices(weights, layout))
    results = verdicts(tmp_path / "a.sbs", tmp_path / "c")
    assert not [verdict for verdict in results if verdict.fault]
    with blobstore.open(tmp_path / "a.sbs") as store:
        listed = {info.name for info in stored_infos(store)}
    assert {verdict.name for verdict in results} == {*listed, "config", "tokenizer", "toc"}
    how = {verdict.name: verdict.how for verdict in results}
    assert all(how[tensor.key] in ("copied", "encoded") for tensor in plan.tensors)
    assert how["c_embedding"] == ("encoded" if weights == "f32" else "copied")
    assert sum(verdict.nbytes for verdict in results if verdict.how in ("copied", "encoded")) == plan.nbytes


@given(recipe=recipes(), weights=st.sampled_from(WEIGHTS), layout=st.sampled_from(FORMS))
@settings(max_examples=15)
def test_any_conversion_is_right(tmp_path: Path, recipe: Recipe, weights: str, layout: str) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    recipe.write(folder)
    convert(folder, folder / "a.sbs", Choices(weights, layout))
    assert not faults(folder / "a.sbs", folder)


def by_name(folder: Path) -> Path:
    tensors: dict[str, npt.NDArray[Any]] = {
        EMBEDDING: np.arange(6, dtype=np.float32).reshape(2, 3),
        "model.norm.weight": np.ones(3, np.float16),
    }
    folder.mkdir()
    write_peer(folder / SINGLE, tensors | {"ids": np.arange(4), "empty": np.zeros((0, 2), np.float32)})
    write_config(folder, {"model_type": "llama", "tie_word_embeddings": True})
    convert(folder, folder / "a.sbs")
    return folder / "a.sbs"


def test_a_file_by_name_is_right(tmp_path: Path) -> None:
    results = verdicts(by_name(tmp_path / "c"), tmp_path / "c")
    assert {verdict.name: (verdict.how, verdict.fault) for verdict in results} == {
        EMBEDDING: ("copied", ""),
        "model.norm.weight": ("copied", ""),
        "ids": ("copied", ""),
        "empty": ("copied", ""),
        HEAD: ("name", ""),
        "config.json": ("file", ""),
    }


def test_a_flipped_byte_of_a_file_by_name_is_found(tmp_path: Path) -> None:
    path = by_name(tmp_path / "c")
    with blobstore.open(path) as store:
        places = {info.name: info.offset + info.nbytes - 1 for info in store.infos() if info.nbytes}
    for name, offset in places.items():
        flip(path, offset)
        reported = faults(path, tmp_path / "c")
        owner = EMBEDDING if name == HEAD else name
        assert list(reported) == [owner]
        assert f"offset {offset} " in reported[owner]
        flip(path, offset)


# -------------------------------------------------------------------------------------------------------- flipped bytes


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", ["gemma2", "gemma3vlm"])
def test_a_flipped_byte_of_a_tensor_is_found_with_its_place(
    tmp_path: Path, family: str, weights: str, layout: str
) -> None:
    small_recipe(family).write(tmp_path / "c")
    path = tmp_path / "a.sbs"
    plan = convert(tmp_path / "c", path, Choices(weights, layout))
    with blobstore.open(path) as store:
        infos = {info.name: info for info in stored_infos(store)}
    places = {tensor.name: infos[tensor.name] for tensor in [*plan.tensors, *plan.extras]}
    chosen = random.Random(f"{family}{weights}{layout}").sample(sorted(places), 6)
    for i, name in enumerate(chosen):
        info = places[name]
        at = (0, info.nbytes - 1, info.nbytes // 2)[i % 3]
        flip(path, info.offset + at, 0x41)
        reported = faults(path, tmp_path / "c")
        assert list(reported) == [name]
        assert f"byte {at} " in reported[name]
        assert f"offset {info.offset + at} " in reported[name]
        flip(path, info.offset + at, 0x41)
    assert not faults(path, tmp_path / "c")


@pytest.mark.parametrize("key", ["config", "tokenizer", "toc"])
def test_a_flipped_byte_of_the_runtimes_blobs_is_found(tmp_path: Path, key: str) -> None:
    small_recipe("gemma3").write(tmp_path / "c")
    path = tmp_path / "a.sbs"
    convert(tmp_path / "c", path, Choices("sfp"))
    with blobstore.open(path) as store:
        raw = bytes(store.reader[key])
    start = path.read_bytes().index(raw)
    for at in random.Random(key).sample(range(len(raw)), 12):
        flip(path, start + at)
        try:
            reported = faults(path, tmp_path / "c")
        except BlobStoreError as error:
            reported = {key: f"offset {start + at} can't be read: {error}"}  # that is a report as well
        assert list(reported) == [key]
        assert f"offset {start + at} " in reported[key]
        flip(path, start + at)
    assert not faults(path, tmp_path / "c")


# ------------------------------------------------------------------------------------------------- fields of the config


def with_config(folder: Path, path: Path, changes: Callable[[ModelConfig], ModelConfig], family: str = "gemma3") -> str:
    """Convert, give the file another config, and return what `verify` says of it; it finds nothing else."""
    if not folder.exists():
        small_recipe(family).write(folder)
    convert(folder, path, Choices("bf16"))
    with blobstore.open(path) as store:
        assert store.config
        changed = changes(store.config)
    apply_edits(path, None, Edits(config=changed.to_bytes()))
    reported = faults(path, folder)
    assert set(reported) <= {"config"}
    return reported.get("config", "")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_without_use_global_timescale_is_reported_with_the_fix(tmp_path: Path, family: str) -> None:
    """An earlier version of this project made such files."""
    folder, path = tmp_path / "c", tmp_path / "a.sbs"
    fault = with_config(folder, path, as_before, family)
    if not family.startswith("gemma3"):
        assert fault == ""
        return
    word = "use_global_timescale is False, the source makes it True"
    label = "display_name is 'Gemma3_270M', the source makes it 'Gemma3_1B'; "
    label += "model is GEMMA3_270M, the source makes it GEMMA3_1B; "
    assert fault.partition("of the file; ")[2] == f"{label if family == 'gemma3' else ''}{word}: blobstore repair FILE"
    assert repair(path).changes
    assert not faults(path, folder)
    convert(folder, tmp_path / "new.sbs", Choices("bf16"))
    assert path.read_bytes() == (tmp_path / "new.sbs").read_bytes()


def test_fields_of_a_config_that_differ_are_named_however_deep(tmp_path: Path) -> None:
    def change(config: ModelConfig) -> ModelConfig:
        layers = (config.layer_configs[0], replace(config.layer_configs[1], post_norm=PostNorm.NONE))
        vision = replace(config.vit_config, pool_dim=7)
        return replace(config, layer_configs=layers, vit_config=vision, attention_window_sizes=(1, 2, 3))

    fault = with_config(tmp_path / "c", tmp_path / "a.sbs", change, "gemma3vlm")
    assert "; layer_configs[1].post_norm is NONE, the source makes it SCALE; " in fault
    assert "; attention_window_sizes has 3 entries, the source makes 2; " in fault
    assert fault.endswith("; vit_config.pool_dim is 7, the source makes it 4")  # repairing doesn't help


def test_only_the_first_fields_that_differ_are_named(tmp_path: Path) -> None:
    names = ("num_layers", "model_dim", "vocab_size", "max_seq_len", "norm_num_groups", "pool_dim", "eos_id")

    def change(config: ModelConfig) -> ModelConfig:
        return replace(config, **{name: getattr(config, name) + 1 for name in names})

    fault = with_config(tmp_path / "c", tmp_path / "a.sbs", change, "gemma2")
    assert [name for name in names if f"; {name} is " in fault] == [*names[:-1]]
    assert fault.endswith("; and more")


def test_a_missing_blob_of_the_runtime_is_reported(tmp_path: Path) -> None:
    folder, path = tmp_path / "c", tmp_path / "a.sbs"
    small_recipe("gemma2").write(folder)
    metadata = convert(folder, path, Choices("bf16")).metadata
    apply_edits(path, None, Edits(drop=("tokenizer",)))
    apply_edits(path, None, Edits(set_metadata=metadata))
    assert faults(path, folder) == {"tokenizer": "it is missing"}


def test_a_config_that_can_not_be_read_is_reported_with_its_place(tmp_path: Path) -> None:
    folder, path = tmp_path / "c", tmp_path / "a.sbs"
    small_recipe("gemma2").write(folder)
    convert(folder, path, Choices("bf16"))
    with blobstore.open(path) as store, open_checkpoint(folder) as checkpoint:
        plan = plan_again(store, checkpoint)
        start = store.reader.range("config")[0]
        flip(path, start + 3, 0xFF)  # a record of 4 billion words
        (fault,) = (verdict.fault for verdict in verify(store, plan, checkpoint) if verdict.fault)
    assert fault.startswith(f"byte 3 differs, at offset {start + 3} of the file: fields-truncated: ")


def test_a_checkpoint_with_one_rope_base_for_all_layers_is_compared_as_such(tmp_path: Path) -> None:
    folder, path = tmp_path / "c", tmp_path / "a.sbs"
    recipe = small_recipe("gemma3")
    recipe.write(folder, None, recipe.config() | {"rope_theta": 10000.0})
    assert with_config(folder, path, lambda config: config) == ""
    # Without the field it looks like a file of an earlier version: repair would set it to 1.
    fault = with_config(folder, path, lambda config: replace(config, extent=None))
    assert fault
    assert "repair" not in fault
    fault = with_config(folder, path, lambda config: replace(config, use_global_timescale=True))
    assert fault.endswith("use_global_timescale is True, the source makes it False")


# ---------------------------------------------------------------------------------------- files that are something else


@pytest.mark.parametrize("layout", FORMS)
def test_a_name_that_leads_to_other_bytes_of_its_blob_is_found(tmp_path: Path, layout: str) -> None:
    recipe = small_recipe("gemma3")
    recipe.write(tmp_path / "c")
    plan = plan_of(tmp_path / "c", Choices("bf16", layout))
    gate, up = (f"model.layers.0.mlp.{text}_proj.weight" for text in ("gate", "up"))
    parts = {part.name: part for part in plan.parts}
    swapped = {gate: replace(parts[up], name=gate), up: replace(parts[gate], name=up)}
    plan.parts = [swapped.get(part.name, part) for part in plan.parts]
    with open_checkpoint(tmp_path / "c") as checkpoint:
        run_plan(plan, checkpoint, tmp_path / "a.sbs")
    assert {gate, up} <= set(faults(tmp_path / "a.sbs", tmp_path / "c"))


def test_a_name_of_another_shape_is_found(tmp_path: Path) -> None:
    small_recipe("gemma3").write(tmp_path / "c")
    plan = plan_of(tmp_path / "c", Choices("bf16"))
    name = "model.layers.0.mlp.up_proj.weight"
    plan.parts = [replace(p, shape=p.shape[::-1]) if p.name == name else p for p in plan.parts]
    with open_checkpoint(tmp_path / "c") as checkpoint:
        run_plan(plan, checkpoint, tmp_path / "a.sbs")
    assert list(faults(tmp_path / "a.sbs", tmp_path / "c")) == [name]


@pytest.mark.parametrize("family", ["gemma3", "gemma3vlm"])
def test_missing_and_additional_names_are_found(tmp_path: Path, family: str) -> None:
    small_recipe(family).write(tmp_path / "c")
    plan = plan_of(tmp_path / "c", Choices("bf16"))
    lost = {plan.parts.pop().name, *(extra.name for extra in plan.extras)}
    plan.extras = []
    if family == "gemma3":  # with vision the embedding is stored in two runs, and the head is only in the metadata
        lost |= {"lm_head.weight", "another.head"}
        plan.aliases = [replace(plan.aliases[0], name="another.head")]
    with open_checkpoint(tmp_path / "c") as checkpoint:
        run_plan(plan, checkpoint, tmp_path / "a.sbs")
    reported = faults(tmp_path / "a.sbs", tmp_path / "c")
    assert set(reported) == lost
    assert reported.get("another.head", "the source has no such tensor") == "the source has no such tensor"


def test_the_arrangement_in_the_metadata_is_compared_too(tmp_path: Path) -> None:
    """`export` relies on it: with another arrangement it would give another checkpoint back."""
    small_recipe("gemma3").write(tmp_path / "c")
    plan = plan_of(tmp_path / "c", Choices("bf16", "stock"))
    arrangement = json.loads(plan.metadata["blobstore.rearranged"])
    name = next(iter(arrangement["tensors"]))
    pieces = arrangement["tensors"][name]["pieces"]
    pieces[0][1], pieces[1][1] = pieces[1][1], pieces[0][1]
    plan.metadata["blobstore.rearranged"] = json.dumps(arrangement)
    with open_checkpoint(tmp_path / "c") as checkpoint:
        run_plan(plan, checkpoint, tmp_path / "a.sbs")
    assert faults(tmp_path / "a.sbs", tmp_path / "c")


def test_another_source_is_found(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3vlm")
    tensors = recipe.tensors()
    recipe.write(tmp_path / "c")
    for weights in WEIGHTS:
        convert(tmp_path / "c", tmp_path / f"{weights}.sbs", Choices(weights, "stock"))
    prefix = recipe.prefixes[0]
    changed = {
        f"{prefix}layers.1.self_attn.v_proj.weight": {"qkv_ein_1"},
        f"{prefix}norm.weight": {"c_final_norm"},
        f"{recipe.prefixes[2]}mm_input_projection_weight": {"img_head_kernel"},
    }
    for name, blobs in changed.items():
        values = tensors[name].copy()
        values.reshape(-1)[-1] = ml_dtypes.bfloat16(-1.0 if values.reshape(-1)[-1] > 0 else 1.0)
        recipe.write(tmp_path / "d", tensors | {name: values})
        for weights in WEIGHTS:
            assert set(faults(tmp_path / f"{weights}.sbs", tmp_path / "d")) == blobs


@pytest.mark.parametrize(
    "changes",
    [{"layout": "stock"}, {"weights": "bf16"}, {"weights": "f32"}, {"weights": "i8"}, {"wrapping": "it"}],
    ids=str,
)
def test_other_choices_than_the_file_was_made_with_are_found(tmp_path: Path, changes: dict[str, str]) -> None:
    small_recipe("gemma3").write(tmp_path / "c")
    plan = plan_of(tmp_path / "c", Choices("sfp", "split", "pt"))
    plan.metadata[CHOICES] = json.dumps({"weights": "sfp", "layout": "split", "wrapping": "pt"} | changes)
    with open_checkpoint(tmp_path / "c") as checkpoint:
        run_plan(plan, checkpoint, tmp_path / "a.sbs")
    reported = faults(tmp_path / "a.sbs", tmp_path / "c")
    assert ("config" in reported) is (changes != {"layout": "stock"})
    assert reported


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"weights": "sfp"}', '"x"'])
def test_choices_that_can_not_be_read_are_refused(tmp_path: Path, text: str) -> None:
    small_recipe("gemma3").write(tmp_path / "c")
    plan = plan_of(tmp_path / "c", Choices())
    plan.metadata[CHOICES] = text
    with open_checkpoint(tmp_path / "c") as checkpoint:
        run_plan(plan, checkpoint, tmp_path / "a.sbs")
    with pytest.raises(UsageError) as caught:
        verdicts(tmp_path / "a.sbs", tmp_path / "c")
    assert caught.value.reason == "not-converted"


@pytest.mark.parametrize("field", ["weights", "layout", "wrapping"])
@pytest.mark.parametrize("value", ["nuq", "", "x", 5])
def test_unknown_choices_are_refused(tmp_path: Path, field: str, value: object) -> None:
    small_recipe("gemma3").write(tmp_path / "c")
    plan = plan_of(tmp_path / "c", Choices())
    plan.metadata[CHOICES] = json.dumps({"weights": "sfp", "layout": "split", "wrapping": "pt"} | {field: value})
    with open_checkpoint(tmp_path / "c") as checkpoint:
        run_plan(plan, checkpoint, tmp_path / "a.sbs")
    with pytest.raises(BlobStoreError):
        verdicts(tmp_path / "a.sbs", tmp_path / "c")


def test_a_file_that_was_changed_since_is_refused_as_such(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    config = recipe.config() | {"rope_theta": 1e4, "rope_local_base_freq": 1e4}
    convert(recipe.write(tmp_path / "c", config=config), tmp_path / "a.sbs", Choices())
    apply_edits(tmp_path / "a.sbs", None, Edits(drop=("c_final_norm",)))
    with pytest.raises(UsageError, match=r"not-converted: .* was changed after it was converted"):
        verdicts(tmp_path / "a.sbs", tmp_path / "c")


def test_after_a_new_index_only_names_are_missing(tmp_path: Path) -> None:
    small_recipe("gemma3").write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices())
    lost = build_index(tmp_path / "a.sbs", embed=True, force=True).lost_names
    reported = faults(tmp_path / "a.sbs", tmp_path / "c")
    assert reported.pop("metadata") == "blobstore.rearranged: not what the source makes it"
    assert len(reported) == lost
    assert {*reported.values()} == {"the name is missing, or leads elsewhere"}


def test_a_file_that_we_did_not_make_is_refused(shared_vectors: Path) -> None:
    folder = shared_vectors / "convert"
    with pytest.raises(UsageError) as caught:
        verdicts(folder / "tiny-gemma3-bf16-stock.sbs", folder / "tiny-gemma3")
    assert caught.value.reason == "not-converted"


# -------------------------------------------------------------------------------------------------- command and receipt


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    return (status, *capsys.readouterr())


@pytest.mark.parametrize("weights", ["sfp", "bf16"])
def test_a_receipt_says_what_was_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str) -> None:
    recipe = small_recipe("gemma3", shards=2)
    recipe.write(tmp_path / "c")
    path, receipt = tmp_path / "a.sbs", tmp_path / "receipt.json"
    convert(tmp_path / "c", path, Choices(weights, "stock"))
    status, out, _ = run(capsys, "verify", path, "--against", tmp_path / "c", "--receipt", receipt)
    assert status == 0
    assert "everything matches the source" in out
    written: dict[str, Any] = json.loads(receipt.read_bytes())
    shards = sorted(path for path in (tmp_path / "c").iterdir() if path.suffix == ".safetensors")
    assert len(shards) == 2
    digests = {shard.name: hashlib.sha256(shard.read_bytes()).hexdigest() for shard in [*shards, path]}
    assert written["source"] == [{"file": shard.name, "sha256": digests[shard.name]} for shard in shards]
    assert written["target"] == {"file": "a.sbs", "nbytes": path.stat().st_size, "sha256": digests["a.sbs"]}
    assert written["choices"] == {"weights": weights, "layout": "stock", "wrapping": "pt"}
    assert written["blobstore"] == blobstore.__version__
    assert (written["verified"], written["faults"]) == (True, [])
    assert written["compared"] == len(verdicts(path, tmp_path / "c"))
    with blobstore.open(path, by="keys") as store:
        offset = store.info("c_final_norm").offset
    flip(path, offset)
    status, out, _ = run(capsys, "verify", path, "--against", tmp_path / "c", "--receipt", receipt)
    assert status == 1
    assert "c_final_norm" in out
    written = json.loads(receipt.read_bytes())
    assert written["verified"] is False
    assert [fault["name"] for fault in written["faults"]] == ["c_final_norm"]


def test_a_line_for_each_tensor_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_recipe("gemma2").write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices())
    count = len(verdicts(tmp_path / "a.sbs", tmp_path / "c"))
    _, out, _ = run(capsys, "verify", tmp_path / "a.sbs", "--against", tmp_path / "c", "--list")
    assert len(out.splitlines()) == count + 1
    assert all(line.startswith("ok\t") for line in out.splitlines()[:-1])
    status, out, _ = run(capsys, "verify", tmp_path / "a.sbs", "--against", tmp_path / "c", "--list", "--json")
    shown = json.loads(out)
    assert (status, shown["ok"], shown["compared"], shown["faults"]) == (0, True, count, [])
    assert [verdict["how"] for verdict in shown["verdicts"]].count("encoded")
    assert len(shown["verdicts"]) == count


def test_another_source_ends_1_and_a_wrong_file_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_recipe("gemma3")
    recipe.write(tmp_path / "c")
    replace(recipe, seed=1).write(tmp_path / "d")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices())
    status, out, _ = run(capsys, "verify", tmp_path / "a.sbs", "--against", tmp_path / "d")
    assert status == 1
    assert "are wrong" in out
    status, _, err = run(capsys, "verify", tmp_path / "a.sbs", "--against", tmp_path / "nothing")
    assert status == 2
    assert len(err.splitlines()) == 1


def test_the_tokenizer_that_was_given_is_the_one_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_recipe("gemma3", tokenizer=None).write(tmp_path / "c")
    given_file = tmp_path / "other.model"
    given_file.write_bytes(b"\n\x03abc")
    path = tmp_path / "a.sbs"
    status, _, _ = run(capsys, "convert", folder, "-o", path, "--tokenizer", given_file)
    assert status == 0
    assert run(capsys, "verify", path, "--against", folder)[0] == 0
    assert run(capsys, "verify", path, "--against", folder, "--tokenizer", given_file)[0] == 0
    given_file.write_bytes(b"\n\x03abd")
    assert run(capsys, "verify", path, "--against", folder, "--tokenizer", given_file)[0] == 1
