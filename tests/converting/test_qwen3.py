"""Qwen3 checkpoints: which are converted for gemma.cpp, as which model, and that nothing of them is lost."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import blobstore
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.converting.choices import Choices
from blobstore.converting.gemma_families import family_of
from blobstore.converting.gemma_recognise import Recognised, recognise
from blobstore.converting.hf_keys import KEYS, Fate
from blobstore.errors import CheckpointError, Fault
from blobstore.gemma import ModelConfig, config_of
from blobstore.gemma.enums import Model, TokenizerKind, Wrapping
from blobstore.gemma.families.sizes import Dimensions
from blobstore.gemma.models import DIMENSIONS
from blobstore.gemma.versions import NAMES
from tests.adapters import pair, write_adapter
from tests.converting.test_hf_config import HOSTILE
from tests.gemma_checkpoints import (
    DTYPES,
    SOUND,
    Recipe,
    Size,
    convert,
    plan_of,
    small_recipe,
    write_sparse,
)
from tests.models import FORMS, RUNNABLE, spec_tensors
from tests.qwen3 import logits, weights_by_key

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.converting.plan import Plan
    from tests.gemma_checkpoints import Array, Config

NORM, HEAD, EMBEDDING = "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"
# layers, hidden_size, intermediate_size, heads, kv_heads, head_dim, vocabulary
PUBLISHED = {
    "qwen3-0_6b": Size(28, 1024, 3072, 16, 8, 128, 151936),
    "qwen3-2b": Size(28, 2048, 6144, 16, 8, 128, 151936),
    "qwen3-4b": Size(36, 2560, 9728, 32, 8, 128, 151936),
}
LARGE = Size(36, 4096, 12288, 32, 8, 128, 151936)  # 8B
GENERATION = {"eos_token_id": [151645, 151643], "pad_token_id": 151643, "bos_token_id": 151643}


def recipe_of(**changes: Any) -> Recipe:  # noqa: ANN401 (fields of a recipe)
    return small_recipe("qwen3", **changes)


def planned(folder: Path, recipe: Recipe, *, config: Config | None = None, **choices: Any) -> Plan:  # noqa: ANN401
    write_sparse(folder, recipe, recipe.config() | (config or {}))
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    return plan_of(folder, Choices(**choices))


def refused(folder: Path, kind: str = "auto") -> list[Fault]:
    with pytest.raises(CheckpointError) as caught:
        plan_of(folder, Choices(), kind)
    return list(caught.value.faults)


# ---------------------------------------------------------------------------------------------------- which model it is


@pytest.mark.parametrize(("weights", "layout"), [("sfp", "split"), ("f32", "stock")])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_dimensions_are_the_known_models(tmp_path: Path, name: str, weights: str, layout: str) -> None:
    """Fields that come from the checkpoint: positions, and the windows of that length; published files say 40960."""
    known = config_of(f"{name}-{weights}-pt")
    recipe = recipe_of(size=PUBLISHED[name])
    plan = planned(tmp_path / "c", recipe, weights=weights, layout=layout)
    assert plan.config is not None
    length = 40960
    windows = (length,) * known.num_layers
    assert plan.config == replace(known, max_seq_len=length, attention_window_sizes=windows)
    same_length = planned(tmp_path / "c", recipe, config={"max_position_embeddings": 32768}, weights=weights)
    assert same_length.config is not None
    assert same_length.config.to_bytes() == known.to_bytes()
    assert {tensor.key: (tensor.type.name, tensor.shape) for tensor in plan.tensors} == {
        row.key: ("f32" if recipe.is_shifted(row.key) else row.stored_type(weights), (row.rows, row.cols))
        for row in spec_tensors(known, layout)
    }
    has_head = "lm_head" in {tensor.key for tensor in plan.tensors}
    assert has_head is (name != "qwen3-4b")
    copied, used = "it is tied; gemma.cpp gets a copy of it, lm_head", "gemma.cpp uses the embedding as the head"
    assert [alias.why.partition(", in the type")[0] for alias in plan.aliases] == [copied if has_head else used]
    assert not any("labelled" in note for note in plan.notes)
    assert plan.config.tokenizer_kind == TokenizerKind.BPE


LABELS = [
    (PUBLISHED["qwen3-0_6b"], False, Model.QWEN3_600M, ""),
    (PUBLISHED["qwen3-0_6b"], True, Model.QWEN3_600M, ""),
    (PUBLISHED["qwen3-2b"], True, Model.QWEN3_2B, ""),
    (PUBLISHED["qwen3-4b"], False, Model.QWEN3_4B, ""),
    (PUBLISHED["qwen3-4b"], True, Model.QWEN3_2B, "gemma.cpp reads no lm_head for Qwen3_4B"),
    (LARGE, False, Model.QWEN3_4B, "no published model has these dimensions"),
    (LARGE, True, Model.QWEN3_2B, "no published model has these dimensions"),
]


@pytest.mark.parametrize(("size", "own_head", "model", "note"), LABELS)
def test_the_number_says_whether_there_is_a_head(size: Size, own_head: bool, model: Model, note: str) -> None:
    recipe = recipe_of(size=size, own_head=own_head)
    shapes = recipe.shapes()
    if own_head:
        shapes[HEAD] = shapes[recipe.embedding]
    recognised = recognise("qwen3", recipe.config(), shapes, own_head=own_head)
    assert isinstance(recognised, Recognised)
    assert recognised.faults == []
    config = recognised.config
    assert (config.model, config.num_layers, config.model_dim) == (model, size.layers, size.width)
    lines = [line for line in recognised.notes if "labelled" in line]
    assert len(lines) == bool(note)
    assert all(line.startswith(note) and line.endswith(f"labelled {config.display_name}") for line in lines)


def test_an_adapter_of_the_head_alone_gives_it_one_of_its_own(tmp_path: Path) -> None:
    base = recipe_of().write(tmp_path / "c")
    adapter = write_adapter(tmp_path / "lora", pair("lm_head", *recipe_of().shapes()["model.embed_tokens.weight"]))
    done = blobstore.convert(base, tmp_path / "m.sbs", adapters=adapter, weights="bf16")
    assert blobstore.check(base, adapters=adapter).ok
    assert blobstore.verify(tmp_path / "m.sbs", against=base, adapters=adapter).ok
    assert done.aliases == ()
    with blobstore.open(tmp_path / "m.sbs") as store:
        assert not np.array_equal(store["lm_head.weight"], store["model.embed_tokens.weight"])


def test_what_is_not_known_of_the_runtime_is_said_in_one_line(tmp_path: Path) -> None:
    plan = plan_of(recipe_of().write(tmp_path / "c"), Choices())
    (note,) = (note for note in plan.notes if "not established" in note)
    assert all(word in note for word in ("read in its source, not run", "embedding", "prompts", "transformers"))


RELATIVES: dict[str, tuple[Config, str]] = {
    "Qwen2": ({"model_type": "qwen2"}, "model_type"),
    "MoE": ({"model_type": "qwen3_moe"}, "model_type"),
    "VL": ({"model_type": "qwen3_vl"}, "model_type"),
    "classifier": ({"architectures": ["Qwen3ForSequenceClassification"]}, "architectures"),
    "embeddings": ({"architectures": ["Qwen3Model"]}, "architectures"),
}


@pytest.mark.parametrize(("changes", "name"), RELATIVES.values(), ids=RELATIVES)
def test_relatives_are_converted_by_name_and_told_why_if_asked_for(tmp_path: Path, changes: Config, name: str) -> None:
    recipe = recipe_of()
    folder = recipe.write(tmp_path / "c", None, recipe.config() | changes)
    plan = plan_of(folder, Choices())
    assert plan.config is None
    assert {tensor.name for tensor in plan.tensors} == set(recipe.tensors())
    ((reason, subject, message),) = refused(folder, "gemma")
    assert (reason, subject) == ("unsupported-model", name)
    assert "--as names" in message


@pytest.mark.parametrize("classes", [["Qwen3ForCausalLM"], ["Mine", "Qwen3ForCausalLM"], [], None, "Qwen3Model", [1]])
def test_the_class_of_a_text_generator_or_none_is_converted_for_gemma_cpp(classes: object) -> None:
    wanted = "qwen3" if classes != [1] else None
    assert family_of({"model_type": "qwen3", "architectures": classes}) == (wanted, None)
    assert family_of({"model_type": "qwen3"}) == ("qwen3", None)


def test_an_embedding_model_is_converted_by_name_unless_asked_for(tmp_path: Path) -> None:
    """Those are saved without `model.` before their names, and without a head."""
    recipe = recipe_of(prefixes=("", "", ""))
    folder = recipe.write(tmp_path / "c")
    plan = plan_of(folder, Choices())
    assert plan.config is None
    assert any("without its output head" in note for note in plan.notes)
    plan = plan_of(folder, Choices(), "gemma")
    assert plan.config is not None
    assert [alias.name for alias in plan.aliases] == [HEAD]
    with_head = recipe.tensors() | {HEAD: recipe.tensors()["embed_tokens.weight"]}
    assert plan_of(recipe.write(tmp_path / "d", with_head), Choices()).config is not None


def test_by_name_every_tensor_and_file_is_kept(tmp_path: Path) -> None:
    recipe = recipe_of()
    plan = plan_of(recipe.write(tmp_path / "c"), Choices(), "names")
    assert plan.config is None
    assert {file.name for file in plan.files} == {"config.json", "tokenizer.model"}


# ------------------------------------------------------------------------------------------------------------- the head


@pytest.mark.parametrize("weights", ["bf16", "sfp", "f32", "i8"])
@pytest.mark.parametrize("has_head", [False, True])
def test_a_tied_head_is_stored_again_where_the_number_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, has_head: bool
) -> None:
    """By name it stays the embedding."""
    recipe = recipe_of(head=has_head)
    size = recipe.size
    small = Dimensions("Qwen3_0.6B", size.layers, size.width, size.hidden, size.heads, size.kv_heads, size.head)
    monkeypatch.setitem(DIMENSIONS, Model.QWEN3_600M, small)  # as if one of this size were published
    folder = recipe.write(tmp_path / "c")
    plan = convert(folder, tmp_path / "m.sbs", Choices(weights))
    assert plan.config is not None
    assert plan.config.model == Model.QWEN3_600M
    (head,) = (tensor for tensor in plan.tensors if tensor.key == "lm_head")
    assert (head.type.name, head.shape) == (weights, (recipe.size.vocabulary, recipe.size.width))
    embedding = recipe.tensors()[EMBEDDING]
    with blobstore.open(tmp_path / "m.sbs") as store, blobstore.open(tmp_path / "m.sbs", by="keys") as keys:
        assert store.aliases == {HEAD: EMBEDDING}
        assert store[HEAD].tobytes() == embedding.tobytes()
        expected, scale = blobstore.codecs.encode(weights, embedding)
        assert (bytes(keys.reader["lm_head"]), keys.info("lm_head").scale) == (expected.tobytes(), scale)
    assert blobstore.verify(tmp_path / "m.sbs", against=folder).ok


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_a_head_of_its_own_comes_back(tmp_path: Path, dtype: str, layout: str) -> None:
    recipe = recipe_of(own_head=True, dtype=dtype)
    weights = "bf16" if dtype == "bf16" else "f32"
    plan = convert(recipe.write(tmp_path / "c"), tmp_path / "m.sbs", Choices(weights, layout))
    assert plan.config == recipe.model_config(weights)
    assert plan.aliases == []
    with blobstore.open(tmp_path / "m.sbs") as store:
        assert not store.aliases
        for name, array in recipe.tensors().items():
            assert (store[name].dtype, store[name].tobytes()) == (array.dtype, array.tobytes()), name


def test_a_head_that_config_json_contradicts_is_refused(tmp_path: Path) -> None:
    recipe = recipe_of(own_head=True)
    folder = recipe.write(tmp_path / "tied", None, recipe.config() | {"tie_word_embeddings": True})
    ((reason, name, message),) = refused(folder)
    assert (reason, name) == ("config-disagrees", HEAD)
    assert "tie_word_embeddings" in message
    recipe = recipe_of()
    for tie in ({"tie_word_embeddings": False}, {}):
        config = {key: value for key, value in recipe.config().items() if key != "tie_word_embeddings"} | tie
        ((reason, name, message),) = refused(recipe.write(tmp_path / f"untied{len(tie)}", None, config))
        assert (reason, name) == ("missing-tensor", HEAD)
        assert "tie_word_embeddings" in message


def test_a_head_of_another_vocabulary_is_a_wrong_shape(tmp_path: Path) -> None:
    recipe = recipe_of(own_head=True)
    tensors = recipe.tensors()
    tensors[HEAD] = tensors[HEAD][:-32]
    ((reason, name, _),) = refused(recipe.write(tmp_path / "c", tensors))
    assert (reason, name) == ("shape", HEAD)


@pytest.mark.parametrize(("pad", "row"), [(None, 32), (7, 7), (5, 32), (99, 32), ("x", 32), (True, 32)])
def test_a_vocabulary_is_padded_with_a_token_that_is_never_produced(tmp_path: Path, pad: object, row: int) -> None:
    """A stop token doesn't count, nor one outside the vocabulary: then it is the last row, or <|fim_pad|>."""
    recipe = recipe_of(own_head=True, size=Size(vocabulary=33), tokenizer=None)
    config = recipe.config() | {"pad_token_id": pad, "eos_token_id": 5}
    convert(recipe.write(tmp_path / "c", None, config), tmp_path / "m.sbs", Choices("bf16"))
    tensors = recipe.tensors()
    with blobstore.open(tmp_path / "m.sbs") as store, blobstore.open(tmp_path / "m.sbs", by="keys") as keys:
        for key, name in (("c_embedding", EMBEDDING), ("lm_head", HEAD)):
            assert keys[key].shape == (64, recipe.size.width)
            assert keys[key][:33].tobytes() == store[name].tobytes() == tensors[name].tobytes()
            assert keys[key][33:].tobytes() == np.repeat(tensors[name][row][None], 31, axis=0).tobytes()
    assert blobstore.verify(tmp_path / "m.sbs", against=tmp_path / "c").ok


# ----------------------------------------------------------------------------------------------------- norms, minus one


def stored_norm(tmp_path: Path, values: Array) -> tuple[Plan, bytes, bytes]:
    """Convert a checkpoint with such a last norm → the plan, and the norm by key and by name."""
    recipe = recipe_of(size=Size(width=len(values)))
    tensors = recipe.tensors() | {NORM: values}
    plan = convert(recipe.write(tmp_path / "c", tensors), tmp_path / "m.sbs", Choices("bf16"))
    with blobstore.open(tmp_path / "m.sbs") as store, blobstore.open(tmp_path / "m.sbs", by="keys") as keys:
        assert store[NORM].dtype == values.dtype
        assert store.load_all()[NORM].tobytes() == store[NORM].tobytes() == store.load(NORM).tobytes()
        return plan, keys.tobytes("c_final_norm"), store[NORM].tobytes()


@given(bits=hnp.arrays(np.uint16, 8) | st.just(np.arange(1, 9, dtype=np.uint16)), kind=st.sampled_from(["bf16", "f16"]))
@settings(max_examples=20, deadline=None)
def test_every_norm_comes_back_bit_for_bit(tmp_path: Path, bits: Array, kind: str) -> None:
    values = bits.view(DTYPES[kind])
    plan, key, back = stored_norm(tmp_path, values)
    with np.errstate(all="ignore"):
        assert np.array_equal(np.frombuffer(key, np.float32), values.astype(np.float32) - 1, equal_nan=True)
    assert back == values.tobytes()
    kept = [extra.name for extra in plan.extras]
    with np.errstate(all="ignore"):
        lost = (values.astype(np.float32) - 1 + 1).astype(values.dtype).tobytes() != back
    assert kept == [f"{NORM}.original"] * lost
    assert [(told.code, told.subject) for told in plan.told] == [("kept-norms", NORM)] * lost


def test_bf16_norms_of_real_sizes_need_nothing_more(tmp_path: Path) -> None:
    """All bf16 values from 2⁻¹⁷ up, in steps; zero too."""
    positive = np.arange(0x3700, 0x4300, 7, dtype=np.uint16)
    bits = np.concatenate([positive, (positive + 0x80) | 0x8000, np.zeros(1, np.uint16)])
    plan, _, back = stored_norm(tmp_path, bits.view(ml_dtypes.bfloat16))
    assert back == bits.tobytes()
    assert not plan.extras


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wider_norms_come_back_too(tmp_path: Path, dtype: type) -> None:
    values: Array = np.random.default_rng(3).uniform(-3, 3, 20).astype(dtype)
    plan, key, back = stored_norm(tmp_path, values)
    assert back == values.tobytes()
    one = dtype(1)
    assert key == (values - one).astype(np.float32).tobytes()
    assert [extra.type.name for extra in plan.extras] == [{4: "f32", 8: "f64"}[values.itemsize]]
    with pytest.raises(CheckpointError, match="1e\\+300"):
        stored_norm(tmp_path, np.full(8, 1e300))


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_what_is_kept_is_not_a_key(tmp_path: Path, prefix: str) -> None:
    """A name of up to 16 bytes, `norm.weight`, is stored under itself as a key."""
    recipe = recipe_of(prefixes=(prefix, "", ""), dtype="f32")
    folder = recipe.write(tmp_path / "c")
    plan = convert(folder, tmp_path / "m.sbs", Choices("f32"), "gemma")
    assert f"{prefix}norm.weight.original" in {extra.name for extra in plan.extras}
    (unused,) = (one for one in blobstore.check(tmp_path / "m.sbs").findings if one.code == "unused-blob")
    assert unused.message.startswith(f"{len(plan.extras)} blobs hold tensors")
    assert set(blobstore.open(tmp_path / "m.sbs")) == {*recipe.tensors(), HEAD}
    assert set(blobstore.open(tmp_path / "m.sbs", by="keys")) == {tensor.key for tensor in plan.tensors}
    blobstore.export(tmp_path / "m.sbs", tmp_path / "e.safetensors")
    assert not blobstore.diff(tmp_path / "e.safetensors", folder).differ


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_an_export_is_the_checkpoint_and_verified(tmp_path: Path, dtype: str, layout: str) -> None:
    recipe = recipe_of(dtype=dtype, seed=4)
    folder = recipe.write(tmp_path / "c")
    convert(folder, tmp_path / "m.sbs", Choices(dtype, layout))
    assert blobstore.verify(tmp_path / "m.sbs", against=folder).ok
    assert not blobstore.diff(tmp_path / "m.sbs", folder).differ
    blobstore.export(tmp_path / "m.sbs", tmp_path / "e.safetensors")
    assert not blobstore.diff(tmp_path / "e.safetensors", folder).differ
    other = recipe_of(dtype=dtype, seed=5).write(tmp_path / "d")
    assert not blobstore.verify(tmp_path / "m.sbs", against=other).ok


# ----------------------------------------------------------------------------------------------- what the file computes


def tensors_of_file(path: Path) -> dict[str, Array]:
    with open_checkpoint(path) as checkpoint:
        return {
            name: tensor.read(0, math.prod(tensor.shape)).reshape(tensor.shape)
            for name, tensor in checkpoint.tensors.items()
        }


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("own_head", [False, True])
def test_logits_are_those_of_the_checkpoint_bit_for_bit(tmp_path: Path, layout: str, own_head: bool) -> None:
    """From the exported tensors, and from what the runtime reads: norms as 1 + w."""
    recipe = recipe_of(own_head=own_head, seed=6)
    config = recipe.config()
    convert(recipe.write(tmp_path / "c"), tmp_path / "m.sbs", Choices("bf16", layout))
    blobstore.export(tmp_path / "m.sbs", tmp_path / "e.safetensors")
    tokens = np.array([3, 1, 4, 1, 5, 92, 65])
    expected = logits(recipe.tensors(), config, tokens)
    assert np.isfinite(expected).all()
    assert np.ptp(expected) > 1
    exported = tensors_of_file(tmp_path / "e.safetensors")
    assert logits(exported, config, tokens).tobytes() == expected.tobytes()
    with blobstore.open(tmp_path / "m.sbs", by="keys") as store:
        assert store.config is not None
        assert logits(weights_by_key(store, store.config), config, tokens).tobytes() == expected.tobytes()


# --------------------------------------------------------------------------------------------------------- config.json


def read(config: Config, generation: Config | None = None) -> Recognised | Fault:
    family, fault = family_of(config)
    assert not fault
    if family is None:
        return Fault("by-name", "", "")
    return recognise(family, config, recipe_of().shapes(), generation)


def taken(changes: Config, generation: Config | None = None) -> Recognised:
    recognised = read(recipe_of().config() | changes, generation)
    assert isinstance(recognised, Recognised)
    assert recognised.faults == []
    return recognised


def faults_of(changes: Config) -> set[str]:
    recognised = read(recipe_of().config() | changes)
    return {fault.name for fault in (recognised.faults if isinstance(recognised, Recognised) else [recognised])}


BEFORE = taken({})


@pytest.mark.parametrize("base", [10000.0, 1e6, 5e6])
def test_both_bases_are_the_checkpoints(base: float) -> None:
    for changes in ({"rope_theta": base}, {"rope_theta": None, "rope_parameters": {"rope_theta": base}}):
        config = recipe_of().config() | changes
        if config["rope_theta"] is None:
            del config["rope_theta"]
        recognised = read(config)
        assert isinstance(recognised, Recognised)
        assert (recognised.config.rope_theta, recognised.config.global_rope_theta) == (base, base)
        assert recognised.config.use_global_timescale
        assert {layer.field_count for layer in recognised.config.layer_configs} == {38}
        assert recognised.config.field_count == 45
    config = recipe_of().config()
    del config["rope_theta"]
    recognised = read(config)
    assert isinstance(recognised, Recognised)
    assert recognised.bases == (1e4, 1e4)  # transformers' default


ACCEPTED: list[Config] = [
    {"hidden_act": "silu"},
    {"hidden_act": "swish"},
    {"attention_bias": False},
    {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 28},
    {"use_sliding_window": None, "sliding_window": 4096, "max_window_layers": 0},
    {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
    {"use_sliding_window": True, "max_window_layers": 2},
    {"use_sliding_window": True},
    {"use_sliding_window": True, "layer_types": ["full_attention"] * 2},
    {"layer_types": ["full_attention"] * 2},
    {"rope_scaling": None},
    {"rope_scaling": {"rope_type": "default"}},
    {"rope_scaling": {"type": "linear", "factor": 1.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000}},
]
REFUSED: list[tuple[Config, str]] = [
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"attention_bias": True}, "attention_bias"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder"),
    ({"use_sliding_window": True, "max_window_layers": 1}, "use_sliding_window"),
    ({"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": "x"}, "max_window_layers"),
    ({"use_sliding_window": "yes"}, "use_sliding_window"),
    ({"use_sliding_window": 1, "max_window_layers": 1}, "use_sliding_window"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ({"layer_types": ["full_attention"]}, "layer_types"),
    ({"layer_types": ["full_attention", "chunked"]}, "layer_types"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1000000}}, "rope_parameters"),
    ({"max_position_embeddings": 0}, "max_position_embeddings"),
    ({"rope_theta": -1}, "rope_theta"),
    ({"num_key_value_heads": 6}, "num_key_value_heads"),
    ({"vocab_size": 96 - 64}, "vocab_size"),
]


@pytest.mark.parametrize("changes", ACCEPTED, ids=str)
def test_what_agrees_with_the_runtime_changes_nothing(changes: Config) -> None:
    assert taken(changes).config == BEFORE.config


@pytest.mark.parametrize(("changes", "name"), REFUSED, ids=str)
def test_what_the_runtime_does_not_compute_is_refused(changes: Config, name: str) -> None:
    assert faults_of(changes) == {name}


def test_what_makes_little_difference_is_noted() -> None:
    noted: list[Config] = [{"rms_norm_eps": 1e-5}, {"quantization_config": {}}]
    for changes in noted:
        recognised = taken(changes)
        assert recognised.config == BEFORE.config
        assert any(name in note for note in recognised.notes for name in changes)


def test_gemmas_keys_are_unknown_here() -> None:
    changes = {"attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 7, "sliding_window_pattern": 2}
    recognised = taken(changes | {"text_config": {"hidden_size": 7}})
    assert recognised.config == BEFORE.config
    (note,) = (note for note in recognised.notes if "unknown keys" in note)
    assert all(name in note for name in (*changes, "text_config"))


def test_positions_and_stop_tokens_are_the_checkpoints() -> None:
    config = taken({"max_position_embeddings": 777, "eos_token_id": 5}).config
    assert (config.max_seq_len, config.attention_window_sizes) == (777, (777, 777))
    assert (config.eos_id, config.secondary_eos_id) == (5, 151645)
    assert taken({"eos_token_id": 5}, GENERATION).config.eos_id == 151645
    assert not any("never stops" in note for note in BEFORE.notes)  # the vocabulary is small
    assert any("never stops at 106" in note for note in taken({"eos_token_id": 106}).notes)


PUBLISHED_KEYS = (
    "architectures attention_bias attention_dropout bos_token_id eos_token_id head_dim hidden_act hidden_size"
    " initializer_range intermediate_size max_position_embeddings max_window_layers model_type num_attention_heads"
    " num_hidden_layers num_key_value_heads rms_norm_eps rope_scaling rope_theta sliding_window tie_word_embeddings"
    " torch_dtype transformers_version use_cache use_sliding_window vocab_size dtype layer_types rope_parameters"
)


def test_every_published_key_is_known() -> None:
    assert set(PUBLISHED_KEYS.split()) <= set(KEYS["qwen3"])
    fixed = {name for name, fate in KEYS["qwen3"].items() if fate == Fate.FIXED}
    tried = {name for changes, _ in REFUSED for name in changes} | {"rms_norm_eps", "quantization_config"}
    assert fixed <= tried


@pytest.mark.parametrize("key", [key for key, fate in KEYS["qwen3"].items() if fate != Fate.NO_EFFECT])
def test_any_value_of_any_key_is_taken_or_refused(key: str) -> None:
    for value, slides in itertools.product(HOSTILE, (False, True)):
        config = recipe_of().config() | {"use_sliding_window": slides} | {key: value}
        result = read(config)
        if isinstance(result, Recognised) and not result.faults:
            raw = result.config.to_bytes()
            assert ModelConfig.from_bytes(raw).to_bytes() == raw


# ------------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(("weights", "layout"), RUNNABLE)
@pytest.mark.parametrize("own_head", [False, True])
def test_nothing_is_wrong_with_a_file_in_the_runtime_that_runs_it(
    tmp_path: Path, weights: str, layout: str, own_head: bool
) -> None:
    folder = recipe_of(size=SOUND, own_head=own_head).write(tmp_path / "c")
    convert(folder, tmp_path / "m.sbs", Choices(weights, layout))
    checked = blobstore.check(tmp_path / "m.sbs")
    last = NAMES[-1]
    codes = {finding.code for finding in checked.findings if last in finding.runtimes}
    assert codes <= {"no-tokenizer", "i8-weights"}
    assert not any(finding.severity == "error" for finding in checked.findings)
    assert blobstore.repair(tmp_path / "m.sbs").changes == {}


@pytest.mark.parametrize("template", [None, "chat_template.jinja"])
def test_prompts_are_wrapped_where_there_is_a_chat_template(tmp_path: Path, template: str | None) -> None:
    recipe = recipe_of(chat_template=template or "")
    plan = plan_of(recipe.write(tmp_path / "c"), Choices())
    assert plan.config is not None
    assert plan.config.wrapping == (Wrapping.IT if template else Wrapping.PT)
