"""Gemma 4: E2B and E4B, whose layers have embeddings of their own and share keys and values; 26B with its experts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.checking.config import check_config
from blobstore.checking.later_layers import check_later_layers
from blobstore.container.layout import KEY_NBYTES, MAX_PORTABLE_BLOBS
from blobstore.converting.choices import Choices
from blobstore.converting.gemma_recognise import Recognised
from blobstore.converting.hf_keys import FIXED, KEYS, Fate
from blobstore.converting.recognise_gemma4 import recognise_gemma4
from blobstore.errors import CheckpointError, Fault
from blobstore.gemma.enums import Model, TokenizerKind
from blobstore.gemma.families.specs import place_of
from blobstore.gemma.models import config_of
from blobstore.gemma.tokenizer import pieces_of
from blobstore.gemma.versions import NAMES
from tests.conftest import ROOT
from tests.converting.test_hf_config import hostile
from tests.gemma4_checkpoints import (
    A4B,
    DENSE,
    E2B,
    E4B,
    FULL,
    MOE,
    PLE,
    REORDERED,
    SLIDING,
    TINY,
    Gemma4,
    arranged,
    published_config,
)
from tests.gemma_checkpoints import convert, facts_in, facts_of, plan_of, write_sparse
from tests.models import FORMS
from tests.tokenizer_files import HEAD, NORMAL, document_of, dumped

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gemma_checkpoints import Config

GEMMA4_KEYS = {part: KEYS[part] for part in ("gemma4-text", "gemma4-top")}
CASES = [(name, layout) for name in TINY for layout in FORMS]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_file_has_the_runtimes_tensors_and_gives_the_checkpoint_back(tmp_path: Path, name: str, layout: str) -> None:
    recipe = TINY[name]
    tensors = recipe.tensors()
    folder, file = recipe.write(tmp_path / "c"), tmp_path / "out.sbs"
    convert(folder, file, Choices("bf16", layout))
    expected = arranged(recipe, tensors, layout)
    with blobstore.open(file, by="keys") as store:
        assert {info.name: info.shape for info in store.infos()} == {key: a.shape for key, a in expected.items()}
        for key, array in expected.items():
            np.testing.assert_array_equal(store[key], array, err_msg=key)
            assert store[key].dtype == array.dtype, key
    with blobstore.open(file, by="names") as store:
        assert set(store) == {*tensors, "lm_head.weight"}
    blobstore.export(file, tmp_path / "out.safetensors")
    assert facts_in(tmp_path / "out.safetensors") == facts_of(tensors)
    assert blobstore.verify(file, against=folder).ok
    checked = blobstore.check(file, for_=f"gemma.cpp@{NAMES[-1]}")  # type: ignore[arg-type]
    assert [finding for finding in checked.findings if finding.severity == "error"] == []


# What our config of a published model takes from the checkpoint, where gemma.cpp's own is different: read of 26B that
# its files have 32,768 positions, and of all that they have no soft cap.
PUBLISHED: dict[str, tuple[Gemma4, dict[str, Any]]] = {
    "gemma4-2b-lm": (E2B, {"final_cap": 30.0}),
    "gemma4-e4b-lm": (E4B, {"final_cap": 30.0}),
    "gemma4-26b-moe": (A4B, {"final_cap": 30.0, "max_seq_len": 262144}),
}


@pytest.mark.parametrize("specifier", PUBLISHED)
def test_real_shapes_are_the_known_model(tmp_path: Path, specifier: str) -> None:
    recipe, own = PUBLISHED[specifier]
    recipe = replace(recipe, prefix="model.language_model.")
    plan = plan_of(write_sparse(tmp_path, recipe, published_config(recipe)), Choices("sfp", wrapping="it"))
    expected = config_of(f"{specifier}-sfp-it")
    length = own.get("max_seq_len", expected.max_seq_len)
    windows = tuple(length if n == expected.max_seq_len else n for n in expected.attention_window_sizes)
    expected = replace(expected, **own, attention_window_sizes=windows)
    assert plan.config is not None
    assert plan.config.to_bytes() == expected.to_bytes()
    assert not any("no published model" in note for note in plan.notes)
    keys = [tensor.key for tensor in plan.tensors]
    assert len(keys) == len(set(keys)) <= MAX_PORTABLE_BLOBS - 4
    assert max(len(key) for key in keys) <= KEY_NBYTES
    types = {tensor.key: tensor.type.name for tensor in plan.tensors}
    if recipe.experts:
        assert len(keys) == 2 + 30 * (3 * 128 + 19)
        assert "gating1_w_29_127" in keys
        assert {types[f"{base}_7"] for base in ("moe_router", "router_scale", "p_expert_sc")} == {"bf16"}
    assert {name for key, name in types.items() if "_ns_" in key or key == "c_final_norm"} == {"f32"}
    assert [part.shape for part in plan.parts if part.name.endswith("embed_tokens.weight")] == [(262144, recipe.width)]


def plan(folder: Path, recipe: Gemma4 = PLE, choices: Choices | None = None, **config: Any) -> Any:  # noqa: ANN401
    return plan_of(write_sparse(folder, recipe, recipe.config() | config), choices or Choices("bf16"))


def faults_of(folder: Path, recipe: Gemma4, config: Config) -> list[tuple[str, str]]:
    with pytest.raises(CheckpointError) as caught:
        plan_of(write_sparse(folder, recipe, config), Choices("bf16"))
    assert "--as names" in caught.value.message
    return [(fault.reason, fault.name) for fault in caught.value.faults]


# ----------------------------------------------------------------------------------------------------------- what types


@pytest.mark.parametrize(
    ("weights", "narrowest"), [("sfp", "sfp"), ("f32", "bf16"), ("i8", "i8"), ("bf16", "bf16"), ("q4_0", "q4_0")]
)
def test_tensors_that_the_runtime_takes_in_some_types_only_have_one_of_these(
    tmp_path: Path, weights: str, narrowest: str
) -> None:
    file = tmp_path / "out.sbs"
    folder = replace(REORDERED, width=32, hidden=32).write(tmp_path / "c")
    plan = convert(folder, file, Choices(weights))
    types = {tensor.key: tensor.type.name for tensor in plan.tensors}
    assert {types[f"{base}_1"] for base in ("router_scale", "p_expert_sc")} == {"bf16"}
    assert types["moe_router_1"] == ("f32" if weights == "f32" else "bf16")
    assert types["gating1_w_1_0"] == types["qkv2_w_0"] == types["att_w_1"] == weights
    assert types["qkv2_w_1"] == {"i8": "bf16", "q4_0": "sfp"}.get(weights, weights)
    assert any("since gemma.cpp rearranges them" in note for note in plan.notes) == (weights in ("i8", "q4_0"))
    assert plan.config is not None
    assert plan.config.weight_name == narrowest
    assert any("in no other type" in note for note in plan.notes) == (weights == "f32")
    assert blobstore.verify(file, against=folder).ok
    checked = blobstore.check(file, for_=f"gemma.cpp@{NAMES[-1]}")  # type: ignore[arg-type]
    assert [finding for finding in checked.findings if finding.severity == "error"] == []


def test_only_the_latest_runtime_runs_it(tmp_path: Path) -> None:
    folder = MOE.write(tmp_path / "c")
    done = blobstore.preview_conversion(folder, weights="bf16")
    assert done.runs_in == ("latest",)
    assert blobstore.preview_conversion(folder, weights="bf16", runtime="latest").metadata == done.metadata
    for runtime in ("2025-10", "2026-04"):
        with pytest.raises(CheckpointError, match=r"newer-value: config\.model: model is 23"):
            blobstore.preview_conversion(folder, runtime=runtime)


@pytest.mark.parametrize(
    ("recipe", "changes", "says"),
    [
        (PLE, {"kv_share_layer_idx": 6}, "its kv_share_layer_idx is 6, which is not an earlier layer"),
        (PLE, {"kv_share_layer_idx": 7}, "its kv_share_layer_idx is 7, which is not an earlier layer"),
        (PLE, {"kv_share_layer_idx": 2}, "its kv_share_layer_idx is 2, a layer with other kv_heads or another qkv_dim"),
        (MOE, {"num_experts": 129}, "it has 129 experts, gemma.cpp's buffers hold 128"),
        (MOE, {"num_experts_per_datapoint": 0}, "a token has 0 of its 3 experts"),
        (MOE, {"num_experts_per_datapoint": 4}, "a token has 4 of its 3 experts"),
    ],
)
def test_check_finds_layers_that_the_runtime_can_not_compute(
    tmp_path: Path, recipe: Gemma4, changes: dict[str, Any], says: str
) -> None:
    config = plan_of(write_sparse(tmp_path, recipe, recipe.config()), Choices("bf16")).config
    assert config is not None
    assert list(check_later_layers(config)) == []
    *layers, last = config.layer_configs
    odd = replace(config, layer_configs=(*layers, replace(last, **changes)))
    assert [(found.subject, found.message, found.runtimes) for found in check_later_layers(odd)] == [
        (f"config.layer_configs[{len(layers)}]", says, (NAMES[-1],))
    ]
    assert set(check_later_layers(odd)) <= set(check_config(odd))


@pytest.mark.parametrize("fits", [False, True])
def test_scales_of_a_router_that_bf16_can_not_hold_are_kept_as_they_are_too(tmp_path: Path, fits: bool) -> None:
    recipe = replace(MOE, dtype="f32")
    tensors = recipe.tensors()
    scales = [name for name in tensors if name.endswith(("router.scale", "router.per_expert_scale"))]
    for name in scales:
        tensors[name] = np.full_like(tensors[name], 1.5 if fits else 1.0001)
    folder = recipe.write(tmp_path / "c", tensors)
    done = blobstore.convert(folder, tmp_path / "m.sbs", weights="f32")
    assert (
        any(note.startswith(f"{len(scales)} tensors have values that bf16 can't hold") for note in done.notes) != fits
    )
    with blobstore.open(tmp_path / "m.sbs", by="keys") as keys:
        assert str(keys["router_scale_0"].dtype) == "bfloat16"
    blobstore.export(tmp_path / "m.sbs", tmp_path / "e.safetensors")
    assert facts_in(tmp_path / "e.safetensors") == facts_of(tensors)
    assert blobstore.verify(tmp_path / "m.sbs", against=folder).ok


def test_a_router_in_another_type_is_an_error(tmp_path: Path) -> None:
    folder, file = MOE.write(tmp_path / "c"), tmp_path / "out.sbs"
    convert(folder, file, Choices("bf16"))
    with blobstore.open(file, by="keys") as store:
        config = store.config
    assert config is not None
    with (
        blobstore.open(file, by="keys") as store,
        blobstore.ModelWriter(tmp_path / "copy.sbs", config) as writer,
    ):
        with pytest.raises(
            blobstore.UsageError, match="wrong-type: 'router_scale_0' can't be 'f32': the runtime takes bf16"
        ):
            writer.add("router_scale_0", store["router_scale_0"], type="f32")
        for key, values in store.items():
            writer.add(key, values)
    assert blobstore.check(tmp_path / "copy.sbs", for_=f"gemma.cpp@{NAMES[-1]}").ok  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- what is left out


def test_parts_and_tensors_that_the_runtime_has_no_place_for_are_left_out_and_told(tmp_path: Path) -> None:
    recipe = replace(PLE, prefix="model.language_model.")
    tensors = recipe.tensors()
    more = {
        "model.vision_tower.patch_embedder.input_proj.weight": np.zeros((2, 3), np.float32),
        "model.audio_tower.layers.0.norm_out.weight": np.zeros(2, np.float32),
        "model.embed_audio.embedding_projection.weight": np.zeros((2, 2), np.float32),
        # Shared by layer 3, and written by some exporters all the same.
        "model.language_model.layers.6.self_attn.k_proj.weight": np.zeros((48, 20), np.float32),
        "model.language_model.layers.6.self_attn.k_norm.weight": np.zeros(16, np.float32),
    }
    folder = recipe.write(tmp_path / "c", tensors | more, published_config(recipe))
    done = blobstore.convert(folder, tmp_path / "out.sbs", weights="bf16")
    assert {item.name for item in done.left_out} == set(more)
    text = "\n".join(done.notes)
    assert "of the vision part: how gemma.cpp names its tensors is not known" in text
    assert "of the audio part, which gemma.cpp doesn't have" in text
    assert "these layers share the keys and values of other layers" in text
    assert "was read in its source, not run" in text
    assert "layers 4 to 6 share the keys and values of others: their key_norm" in text
    assert "final_cap 30 as in config.json" in text
    blobstore.export(tmp_path / "out.sbs", tmp_path / "out.safetensors")
    assert facts_in(tmp_path / "out.safetensors") == facts_of(tensors)


def test_a_vision_part_of_which_no_tensor_is_there_is_told(tmp_path: Path) -> None:
    recipe = replace(PLE, prefix="model.language_model.")
    plan = plan_of(write_sparse(tmp_path, recipe, published_config(recipe)), Choices())
    assert [told.code for told in plan.told] == ["no-vision"]


def test_a_vision_part_that_is_missing_beside_an_audio_part_is_told_too(tmp_path: Path) -> None:
    recipe = replace(PLE, prefix="model.language_model.")
    tensors = recipe.tensors() | {"model.audio_tower.layers.0.norm_out.weight": np.zeros(2, np.float32)}
    plan = plan_of(recipe.write(tmp_path / "c", tensors, published_config(recipe)), Choices())
    assert "no-vision" in {told.code for told in plan.told}


def test_its_tokenizer_is_a_sentencepiece_model_made_of_tokenizer_json(tmp_path: Path) -> None:
    pieces = [*HEAD, *((f"p{i}", NORMAL) for i in range(96 - len(HEAD)))]
    folder = PLE.write(tmp_path / "c")
    (folder / "tokenizer.json").write_bytes(dumped(document_of(pieces)))
    convert(folder, tmp_path / "out.sbs", Choices("bf16"))
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert store.config is not None
        assert store.config.tokenizer_kind == TokenizerKind.SENTENCE_PIECE
        assert store.tokenizer is not None
        assert sum(1 for _ in pieces_of(store.tokenizer)) == 96
    assert blobstore.verify(tmp_path / "out.sbs", against=folder).ok


def test_both_tables_of_the_vocabulary_are_padded(tmp_path: Path) -> None:
    recipe = replace(PLE, vocabulary=90)
    tensors, file = recipe.tensors(), tmp_path / "out.sbs"
    convert(recipe.write(tmp_path / "c"), file, Choices("bf16"))
    for key, name in (("c_embedding", "embed_tokens"), ("ple_embeddings", "embed_tokens_per_layer")):
        source = tensors[f"model.{name}.weight"]
        with blobstore.open(file, by="keys") as store:
            np.testing.assert_array_equal(store[key], np.vstack([source, np.tile(source[0], (6, 1))]))
        with blobstore.open(file, by="names") as store:
            np.testing.assert_array_equal(store[f"model.{name}.weight"], source)


# ------------------------------------------------------------------------------------------------ what config.json says


def test_the_other_spelling_of_global_layers_means_the_same(tmp_path: Path) -> None:
    for i, recipe in enumerate(TINY.values()):
        config = recipe.config()
        del config["per_layer_config"]
        config |= {"global_head_dim": recipe.full_size, "num_global_key_value_heads": recipe.full_kv_heads or None}
        plans = [
            plan_of(write_sparse(tmp_path / f"{i}{j}", recipe, c), Choices())
            for j, c in enumerate((config, recipe.config()))
        ]
        assert plans[0].config == plans[1].config
        assert plans[0].notes == plans[1].notes
        assert not any("unknown keys" in note for note in plans[0].notes)
        wrong = config | {"global_head_dim": 40}
        assert faults_of(tmp_path / "wrong", recipe, wrong) == [("config-disagrees", "global_head_dim")]


def test_what_config_json_says_of_positions_goes_into_the_config(tmp_path: Path) -> None:
    rope = {FULL: {"rope_type": "proportional", "rope_theta": 5e6, "partial_rotary_factor": 0.5}}
    rope |= {SLIDING: {"rope_type": "default", "rope_theta": 2e4}}
    config = plan(tmp_path / "a", rope_parameters=rope, sliding_window=64, max_position_embeddings=4096).config
    assert (config.rope_theta, config.global_rope_theta, config.partial_rotary_factor) == (2e4, 5e6, 0.5)
    assert config.attention_window_sizes == (64, 4096, 64, 4096, 64, 4096, 4096)
    assert config.use_global_timescale
    assert (config.model, config.final_cap, config.att_cap) == (Model.GEMMA4_2B_LM, 0.0, 0.0)
    whole = plan(tmp_path / "b", rope_parameters=rope | {FULL: {"rope_type": "default", "rope_theta": 5e6}}).config
    assert whole.partial_rotary_factor == 1.0
    same = plan(tmp_path / "c", rope_parameters={name: {"rope_theta": 1e4} for name in (FULL, SLIDING)}).config
    assert (same.use_global_timescale, same.rope_theta, same.global_rope_theta) == (True, 1e4, 1e4)
    missing = PLE.config()
    del missing["rope_parameters"]
    default = plan_of(write_sparse(tmp_path / "d", PLE, missing), Choices()).config
    assert default is not None
    assert (default.rope_theta, default.global_rope_theta, default.partial_rotary_factor) == (1e4, 1e6, 0.25)


def test_layers_share_with_the_last_of_their_kind(tmp_path: Path) -> None:
    config = plan(tmp_path).config
    assert [layer.kv_share_layer_idx for layer in config.layer_configs] == [-1, -1, -1, -1, 2, 3, 3]
    assert [layer.qkv_dim for layer in config.layer_configs] == [8, 16, 8, 16, 8, 16, 16]
    assert [layer.ff_hidden_dim for layer in config.layer_configs] == [28] * 4 + [56] * 3


def rope_with(attention: str, **values: Any) -> Config:  # noqa: ANN401 (values of JSON)
    rope: Config = PLE.config()["rope_parameters"]
    return {"rope_parameters": rope | {attention: rope[attention] | values}}


FULL_CONFIG = f"rope_parameters.{FULL}"
REFUSED: list[tuple[Gemma4, Config, tuple[str, str]]] = [
    (replace(MOE, ple=4), {}, ("unsupported-model", "model_type")),
    (MOE, {"top_k_experts": None}, ("unsupported-config", "top_k_experts")),
    (MOE, {"top_k_experts": 4}, ("unsupported-config", "top_k_experts")),
    (MOE, {"num_experts": 4}, ("config-disagrees", "num_experts")),
    (MOE, {"moe_intermediate_size": 9}, ("config-disagrees", "moe_intermediate_size")),
    (MOE, {"enable_moe_block": False}, ("config-disagrees", "enable_moe_block")),
    (MOE, {"attention_k_eq_v": False}, ("missing-tensor", "model.layers.1.self_attn.v_proj.weight")),
    (PLE, {"attention_k_eq_v": True}, ("unexpected-tensor", "model.layers.1.self_attn.v_proj.weight")),
    (PLE, {"attention_k_eq_v": 1}, ("unsupported-config", "attention_k_eq_v")),
    (PLE, {"num_kv_shared_layers": 2}, ("missing-tensor", "model.layers.4.self_attn.k_proj.weight")),
    (PLE, {"num_kv_shared_layers": 7}, ("unsupported-config", "num_kv_shared_layers")),
    (PLE, {"num_kv_shared_layers": -1}, ("unsupported-config", "num_kv_shared_layers")),
    (PLE, {"use_double_wide_mlp": False}, ("config-disagrees", "intermediate_size")),
    (PLE, {"intermediate_size": 56}, ("config-disagrees", "intermediate_size")),
    (PLE, {"hidden_size": 24}, ("config-disagrees", "hidden_size")),
    (PLE, {"num_attention_heads": 6}, ("config-disagrees", "num_attention_heads")),
    (PLE, {"num_key_value_heads": 6}, ("config-disagrees", "num_key_value_heads")),
    (PLE, {"head_dim": 16}, ("config-disagrees", "head_dim")),
    (PLE, {"per_layer_config": {"1": {"head_dim": 8}}}, ("config-disagrees", "per_layer_config")),
    (PLE, {"per_layer_config": {"1": {"sliding_window": 8}}}, ("unsupported-config", "per_layer_config")),
    (PLE, {"per_layer_config": 3}, ("unsupported-config", "per_layer_config")),
    (PLE, {"per_layer_config": {"full_attention": {}}}, ("unsupported-config", "per_layer_config")),
    (PLE, {"vocab_size": 97}, ("config-disagrees", "vocab_size")),
    (PLE, {"vocab_size_per_layer_input": 97}, ("config-disagrees", "vocab_size_per_layer_input")),
    (PLE, {"hidden_size_per_layer_input": 5}, ("config-disagrees", "hidden_size_per_layer_input")),
    (PLE, {"layer_types": [FULL] * 7}, ("unsupported-config", "num_kv_shared_layers")),
    (PLE, {"sliding_window": None}, ("unsupported-config", "sliding_window")),
    (PLE, {"use_bidirectional_attention": "all"}, ("unsupported-config", "use_bidirectional_attention")),
    (PLE, {"hidden_activation": "silu"}, ("unsupported-config", "hidden_activation")),
    (PLE, {"attn_logit_softcapping": 50.0}, ("unsupported-config", "attn_logit_softcapping")),
    (PLE, rope_with(FULL, rope_type="yarn"), ("unsupported-config", FULL_CONFIG)),
    (PLE, rope_with(FULL, partial_rotary_factor=2), ("unsupported-config", f"{FULL_CONFIG}.partial_rotary_factor")),
    (PLE, rope_with(SLIDING, rope_type="proportional"), ("unsupported-config", f"rope_parameters.{SLIDING}")),
]


@pytest.mark.parametrize(
    ("recipe", "config", "fault"), REFUSED, ids=[f"{i}-{row[2][1]}" for i, row in enumerate(REFUSED)]
)
def test_what_the_runtime_can_not_run_is_refused(
    tmp_path: Path, recipe: Gemma4, config: Config, fault: tuple[str, str]
) -> None:
    assert fault in faults_of(tmp_path, recipe, recipe.config() | config)


def test_experts_of_another_width_or_too_many_for_keys_are_refused() -> None:
    shapes = MOE.shapes() | {f"model.layers.{i}.experts.gate_up_proj": (3, 1400, 16) for i in range(2)}
    fault = recognise_gemma4(MOE.config() | {"moe_intermediate_size": 700}, shapes)
    assert isinstance(fault, Fault)
    assert (fault.reason, fault.name) == ("unsupported-model", "moe_intermediate_size")
    for many in (replace(MOE, types="sf" * 55, experts=101), replace(MOE, experts=129)):
        recognised = recognise_gemma4(many.config(), many.shapes())
        assert isinstance(recognised, Recognised)
        assert [(fault.reason, fault.name) for fault in recognised.faults] == [("unsupported-model", "num_experts")]


@pytest.mark.parametrize("types", [{}, {"layer_types": [SLIDING, FULL, SLIDING]}])
def test_the_last_layer_has_full_attention_as_in_transformers(types: dict[str, Any]) -> None:
    recipe = replace(DENSE, types="ssf" if not types else "sff")
    config = {key: value for key, value in recipe.config().items() if key != "layer_types"} | types
    recognised = recognise_gemma4(config, recipe.shapes())
    assert isinstance(recognised, Recognised)
    assert recognised.faults == []
    assert recognised.config == recognise_gemma4(recipe.config(), recipe.shapes()).config  # type: ignore[union-attr]
    assert any("the last layer has sliding attention" in note for note in recognised.notes)


def test_a_table_for_layers_with_another_vocabulary_is_refused() -> None:
    shapes = PLE.shapes() | {"model.embed_tokens_per_layer.weight": (64, 28)}
    recognised = recognise_gemma4(PLE.config() | {"vocab_size_per_layer_input": 64}, shapes)
    assert isinstance(recognised, Recognised)
    assert ("shape", "model.embed_tokens_per_layer.weight") in [(f.reason, f.name) for f in recognised.faults]


@given(
    st.sampled_from(list(TINY.values())),
    st.dictionaries(st.sampled_from(list(GEMMA4_KEYS["gemma4-text"])), hostile, max_size=4),
    st.lists(st.integers(0, 99), max_size=3),
    st.lists(st.integers(0, 9), max_size=3),
)
def test_any_config_and_any_shapes_are_a_model_or_faults(
    recipe: Gemma4, config: Config, lost: list[int], shape: list[int]
) -> None:
    shapes = recipe.shapes()
    for i in lost:
        name = list(shapes)[i % len(shapes)]
        if shape:
            shapes[name] = tuple(shape)
        else:
            del shapes[name]
    found = recognise_gemma4(recipe.config() | config, shapes)
    assert isinstance(found, Fault | Recognised)
    if isinstance(found, Recognised) and not found.faults:
        found.config.to_bytes()


# --------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("gating1_w_29_127", ("gating1_w", 29, 127)),
        ("linear_w_0_0", ("linear_w", 0, 0)),
        ("linear_w_7", ("linear_w", 7, None)),
        ("linear_0_w_7", ("linear_0_w", 7, None)),
        ("qkv1_w_12", ("qkv1_w", 12, None)),
        ("c_embedding", ("c_embedding", None, None)),
        ("mm_embed_norm", ("mm_embed_norm", None, None)),
        ("_3", ("_3", None, None)),
        ("", ("", None, None)),
    ],
)
def test_a_key_says_layer_and_expert(key: str, place: tuple[str, int | None, int | None]) -> None:
    assert place_of(key) == place


def test_the_specification_has_every_key_with_its_fate() -> None:
    text = (ROOT / "spec" / "gemma.md").read_text(encoding="utf-8")
    section = text.partition("\n### config.json of Gemma 4\n")[2].partition("\n## ")[0]
    table: dict[str, dict[str, Fate]] = {part: {} for part in GEMMA4_KEYS}
    for row in section.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if row.startswith("| ") and cells[0] in ("text", "top"):
            fate = Fate[cells[2].upper().replace(" ", "_")]
            table[f"gemma4-{cells[0]}"] |= dict.fromkeys(cells[1].replace("`", "").split(", "), fate)
    common = set(GEMMA4_KEYS["gemma4-text"]) & set(GEMMA4_KEYS["gemma4-top"]) - {
        key for keys in table.values() for key in keys
    }
    assert table == {part: {k: f for k, f in keys.items() if k not in common} for part, keys in GEMMA4_KEYS.items()}
    assert common <= {*KEYS["text"]}
    for part, keys in GEMMA4_KEYS.items():
        assert {key for key, fate in keys.items() if fate == Fate.FIXED} == set(FIXED[part])


def keys_in(title: str) -> set[str]:
    """Return the keys in the tables of a section of the specification."""
    text = (ROOT / "spec" / "gemma.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z0-9_, ]+) \|", text.partition(f"\n{title}\n")[2].partition("\n## ")[0], re.MULTILINE)
    return {key for row in rows for key in row.split(", ")}


def test_the_specification_has_every_tensor() -> None:
    for layout in FORMS:
        for recipe in TINY.values():
            bases = {place_of(key).base for key in arranged(recipe, recipe.tensors(), layout)}
            assert bases <= keys_in("## Gemma 4") | keys_in("## Tensors")
    own = keys_in("## Gemma 4") - {"key", "model", "part", "text", "top"}
    assert own - keys_in("## Tensors") <= {
        place_of(key).base for recipe in TINY.values() for key in arranged(recipe, recipe.tensors(), "split")
    }
