"""What a checkpoint's config.json says is written into the file, noted or refused, and never crashes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.converting.choices import Choices
from blobstore.converting.gemma_families import family_of
from blobstore.converting.gemma_recognise import Recognised, recognise
from blobstore.converting.hf_keys import KEYS as ALL_KEYS
from blobstore.converting.hf_keys import Fate, unknown_keys
from blobstore.converting.plan import refusal
from blobstore.errors import Fault
from blobstore.gemma.enums import QueryScale
from tests.conftest import ROOT
from tests.gemma_checkpoints import Size, plan_of, small_recipe
from tests.models import FAMILIES, VISION

if TYPE_CHECKING:
    from pathlib import Path

    from hypothesis.strategies import SearchStrategy

    from blobstore.gemma import ModelConfig
    from tests.gemma_checkpoints import Config

# head_dim and hidden_size / heads differ, and with seven layers both patterns start again.
SIZE = Size(layers=7, width=24, heads=4, kv_heads=2, head=8)
RECIPES = {family: small_recipe(family, size=SIZE) for family in FAMILIES}
SHAPES = {family: recipe.shapes() for family, recipe in RECIPES.items()}
GEMMA3 = ("gemma3", "gemma3vlm")
KEYS = {part: ALL_KEYS[part] for part in ("text", "top", "vision")}  # of other families, see their own tests
all_families = pytest.mark.parametrize("family", FAMILIES)
families = st.sampled_from(list(FAMILIES))


def a_config(family: str, changes: Config | None = None, **more: Any) -> Config:  # noqa: ANN401 (JSON is anything)
    """Return a config.json with dimensions and what queries are divided by, and more keys of the text part."""
    config = RECIPES[family].config()
    text = config.get("text_config", config)
    for key in ("max_position_embeddings", "sliding_window"):
        del text[key]
    text |= changes or {}
    text |= more
    return config


def read(family: str, config: Config, generation: Config | None = None) -> Recognised | Fault:
    recognised_family, fault = family_of(config)
    if fault or recognised_family is None:
        return fault or Fault("unsupported-model", "model_type", "")
    return recognise(recognised_family, config, SHAPES[family], generation)


def taken(family: str, config: Config, generation: Config | None = None) -> Recognised:
    recognised = read(family, config, generation)
    assert isinstance(recognised, Recognised)
    assert recognised.faults == []
    return recognised


def written(family: str, config: Config, generation: Config | None = None) -> ModelConfig:
    return taken(family, config, generation).config


def refused(family: str, config: Config) -> dict[str, str]:
    """Return each fault's message by its name; no name has two."""
    result = read(family, config)
    faults = result.faults if isinstance(result, Recognised) else [result]
    messages = {fault.name: fault.message for fault in faults}
    assert len(messages) == len(faults)
    return messages


def part_of(config: Config, part: str) -> Config:
    """Return the object that a part of `KEYS` is about."""
    if part == "vision":
        return config["vision_config"]  # type: ignore[no-any-return]
    return config.get("text_config", config) if part == "text" else config


def keys_of(*fates: Fate) -> list[tuple[str, str]]:
    """Return part and name of the keys with these fates."""
    return [(part, key) for part, keys in KEYS.items() for key, fate in keys.items() if fate in fates]


def of_families(keys: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Return family, part and name of the keys, of each family that has such a part."""
    return [(family, part, key) for family in FAMILIES for part, key in keys if part == "text" or family in VISION]


# ---------------------------------------------------------------------------------------------- what is said is written


def f32(value: float) -> float:
    return float(np.float32(value))


caps = st.none() | st.floats(0.5, 1000)
bases_ = st.sampled_from([1e4, 1e6]) | st.floats(10, 1e9)
counts = st.integers(1, 1 << 20)
tokens = st.integers(0, 300_000)
SAID: dict[str, SearchStrategy[Any]] = {
    "attn_logit_softcapping": caps,
    "final_logit_softcapping": caps,
    "sliding_window": counts,
    "sliding_window_pattern": st.integers(1, 9),
    "_sliding_window_pattern": st.integers(1, 9),
    "layer_types": st.lists(st.sampled_from(["sliding_attention", "full_attention"]), min_size=7, max_size=7),
    "max_position_embeddings": counts,
    "query_pre_attn_scalar": st.sampled_from([SIZE.head, SIZE.width // SIZE.heads]),
    "eos_token_id": tokens | st.lists(tokens, min_size=1, max_size=2, unique=True),
    "rope_theta": bases_,
    "rope_local_base_freq": bases_,
}
# transformers' own (5.0, configuration_gemma2.py, configuration_gemma3.py); max_position_embeddings is gemma.cpp's.
COMMON: Config = {"sliding_window": 4096, "query_pre_attn_scalar": 256}
GEMMA2_DEFAULTS = COMMON | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "rope_theta": 10000.0}
GEMMA2_DEFAULTS |= {"max_position_embeddings": 8192, "layer_types": (["sliding_attention", "full_attention"] * 4)[:7]}
GEMMA3_DEFAULTS = COMMON | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "rope_theta": 1000000.0}
GEMMA3_DEFAULTS |= {"rope_local_base_freq": 10000.0, "sliding_window_pattern": 6, "max_position_embeddings": 32768}
GEMMA3_DEFAULTS |= {"layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]}
DEFAULTS: dict[str, Config] = {"gemma2": GEMMA2_DEFAULTS, "paligemma2": GEMMA2_DEFAULTS, "gemma3": GEMMA3_DEFAULTS}
DEFAULTS["gemma3vlm"] = GEMMA3_DEFAULTS


def expected_windows(family: str, values: Config) -> tuple[int, ...]:
    whole = values["max_position_embeddings"]
    own = 6 if family in GEMMA3 else 2
    pattern = values.get("sliding_window_pattern") or values.get("_sliding_window_pattern") or own
    by_pattern = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(SIZE.layers)]
    local = values["sliding_window"]
    if local >= whole and family in GEMMA3:
        local = 2**31 - 1
    return tuple(local if name == "sliding_attention" else whole for name in values.get("layer_types", by_pattern))


@given(families, st.fixed_dictionaries({}, optional=SAID))
def test_what_config_json_says_is_in_the_files_config(family: str, values: Config) -> None:
    if family not in GEMMA3:
        values.pop("rope_local_base_freq", None)
    recognised = taken(family, a_config(family, values))
    config = recognised.config
    patterned = {
        key: value for key, value in DEFAULTS[family].items() if key not in ("layer_types", "sliding_window_pattern")
    }
    whole = patterned | {"query_pre_attn_scalar": SIZE.head} | values
    assert config.att_cap == f32(whole["attn_logit_softcapping"] or 0)
    assert config.final_cap == f32(whole["final_logit_softcapping"] or 0)
    assert config.max_seq_len == whole["max_position_embeddings"]
    assert config.attention_window_sizes == expected_windows(family, whole)
    assert config.query_scale == QueryScale(int(whole["query_pre_attn_scalar"] != SIZE.head))
    stop = values.get("eos_token_id", [])
    stop = stop if isinstance(stop, list) else [stop]
    own = [1, 106] if family in GEMMA3 else [1, 107]
    assert [config.eos_id, config.secondary_eos_id] == list(dict.fromkeys([*stop, *own]))[:2]
    theta = f32(whole["rope_theta"])
    local = f32(whole["rope_local_base_freq"]) if family in GEMMA3 else theta
    assert recognised.bases == (local, theta)
    assert config.use_global_timescale is (theta != local)
    assert config.rope_theta == local
    assert not config.use_global_timescale or config.global_rope_theta == theta
    # Not a byte more than that takes: one more word for Gemma 3, none for Gemma 2; inner records never grow.
    late = (config.rope_theta, config.global_rope_theta) != (1e4, 1e6)
    assert late or config.field_count == (24 if family in GEMMA3 else 23)
    assert {layer.field_count for layer in config.layer_configs} == {15}
    assert type(config).from_bytes(config.to_bytes()).to_bytes() == config.to_bytes()


DEFAULTED = [(family, key) for family in FAMILIES for key in SAID if key in DEFAULTS[family]]


@pytest.mark.parametrize(("family", "key"), DEFAULTED)
def test_a_key_that_is_missing_has_its_default(family: str, key: str) -> None:
    size = Size(layers=7, width=24, heads=4, kv_heads=2, head=256) if key == "query_pre_attn_scalar" else SIZE
    recipe = small_recipe(family, size=size)
    config = recipe.config()
    text = config.get("text_config", config)
    text[key] = DEFAULTS[family][key]
    recognised_family, _ = family_of(config)
    assert recognised_family
    explicit = recognise(recognised_family, config, recipe.shapes())
    del text[key]
    missing = recognise(recognised_family, config, recipe.shapes())
    assert isinstance(explicit, Recognised)
    assert isinstance(missing, Recognised)
    assert missing.faults == explicit.faults == []
    assert missing.config.to_bytes() == explicit.config.to_bytes()


@all_families
def test_a_query_scale_that_is_missing_and_that_no_runtime_has_is_head_dim(family: str) -> None:
    """transformers uses 256 there; when heads have another size, gemma.cpp's own files have that of the heads."""
    config = a_config(family)
    del config.get("text_config", config)["query_pre_attn_scalar"]
    recognised = taken(family, config)
    assert recognised.config.query_scale == QueryScale.SQRT_KEY_SIZE
    (note,) = (note for note in recognised.notes if "query_pre_attn_scalar" in note)
    assert "256" in note
    assert "head_dim" in note


@all_families
def test_every_field_key_changes_the_config(family: str) -> None:
    """Whatever the table calls a field is one."""
    before = written(family, a_config(family)).to_bytes()
    values: Config = {
        "attn_logit_softcapping": 7.0,
        "final_logit_softcapping": 7.0,
        "sliding_window": 77,
        "sliding_window_pattern": 3,
        "_sliding_window_pattern": 3,
        "layer_types": ["full_attention"] * 7,
        "max_position_embeddings": 777,
        "query_pre_attn_scalar": 6,
        "eos_token_id": 5,
        "rope_theta": 77.0,
        "rope_local_base_freq": 77.0,
        "rope_parameters": {"full_attention": {"rope_theta": 77.0}},
    }
    for part, key in keys_of(Fate.FIELD):
        if key == "rope_scaling":  # there is no field for it: it is noted or refused
            continue
        config = a_config(family)
        if part != "text" and family not in VISION:
            continue
        if part == "vision":
            part_of(config, part)[key] = 2
        elif key == "rope_local_base_freq" and family not in GEMMA3:
            continue
        else:
            part_of(config, part)[key] = values[key]
        assert written(family, config).to_bytes() != before, (part, key)


@all_families
def test_stop_tokens_of_generation_config_json_come_first(family: str) -> None:
    config = a_config(family, eos_token_id=7)
    assert written(family, config, {"eos_token_id": [1, 9]}).eos_id == 1
    nothings: list[Config] = [{}, {"eos_token_id": None}, {"eos_token_id": []}]
    for nothing in nothings:
        assert written(family, config, nothing).eos_id == 7
    if family in VISION:
        config["eos_token_id"] = [8, 7]  # comes before that of the text part
        assert (written(family, config).eos_id, written(family, config).secondary_eos_id) == (8, 7)


@given(families, st.lists(tokens, min_size=3, max_size=6, unique=True))
def test_more_stop_tokens_than_a_file_holds_are_all_named(family: str, stop: list[int]) -> None:
    recognised = taken(family, a_config(family), {"eos_token_id": stop})
    assert [recognised.config.eos_id, recognised.config.secondary_eos_id] == stop[:2]
    (note,) = (note for note in recognised.notes if "stop tokens" in note)
    assert [int(number) for number in re.findall(r"\b\d+\b", note.partition("a file holds two")[2])] == stop


@pytest.mark.parametrize("value", ["</s>", -1, 1.0, True, [1, None], [[1]], 1 << 31, {}])
@all_families
def test_stop_tokens_that_are_not_numbers_are_refused(family: str, value: object) -> None:
    assert list(refused(family, a_config(family, eos_token_id=value))) == ["eos_token_id"]


# -------------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("window", [1000, 1001, 8192])
def test_a_window_of_the_whole_length_does_not_make_a_local_layer_a_global_one(family: str, window: int) -> None:
    """Runtimes since 2025-10-24 tell global layers by their window: max_seq_len, or --seq_len where that is more."""
    config = written(family, a_config(family, sliding_window=window, max_position_embeddings=1000))
    whole = sum(window == 1000 for window in config.attention_window_sizes)
    assert whole == (1 if family in GEMMA3 else 7 if window == 1000 else 3)
    assert set(config.attention_window_sizes) == {1000, 2**31 - 1 if family in GEMMA3 else window}


@all_families
def test_without_a_window_all_layers_see_everything(family: str) -> None:
    full = a_config(family, sliding_window=None, layer_types=["full_attention"] * 7)
    whole = DEFAULTS[family]["max_position_embeddings"]
    assert written(family, full).attention_window_sizes == (whole,) * 7
    mixed = a_config(family, sliding_window=None)
    if family in GEMMA3:  # otherwise all layers would get the base of global ones
        assert list(refused(family, mixed)) == ["sliding_window"]
    else:
        assert written(family, mixed).attention_window_sizes == (whole,) * 7


@pytest.mark.parametrize(
    "types",
    [
        ["full_attention"] * 6,
        ["full_attention"] * 8,
        [],
        ["full_attention"] * 6 + ["chunked_attention"],
        ["full_attention"] * 6 + [1],
        "sliding",
        {"0": "full_attention"},
    ],
    ids=["short", "long", "empty", "unknown", "number", "text", "object"],
)
@all_families
def test_layer_types_that_do_not_match_the_layers_are_refused(family: str, types: object) -> None:
    faults = refused(family, a_config(family, layer_types=types))
    assert list(faults) == ["layer_types"]


# ----------------------------------------------------------------------------------------------------------------- RoPE


@given(st.sampled_from(GEMMA3), st.none() | bases_, st.none() | bases_)
def test_both_spellings_of_two_bases_are_one(family: str, whole: float | None, local: float | None) -> None:
    old: Config = {"rope_theta": whole, "rope_local_base_freq": local}
    new: Config = {"full_attention": {"rope_theta": whole}, "sliding_attention": {"rope_theta": local}}
    by_old = taken(family, a_config(family, {key: value for key, value in old.items() if value is not None}))
    parameters = {
        attention: {"rope_type": "default"} | {key: value for key, value in theta.items() if value is not None}
        for attention, theta in new.items()
    }
    for extra in ({}, {key: value for key, value in old.items() if value is not None}):
        by_new = taken(family, a_config(family, extra, rope_parameters=parameters))
        assert by_new.config.to_bytes() == by_old.config.to_bytes()
        assert by_new.bases == by_old.bases == (f32(local or 1e4), f32(whole or 1e6))
    del parameters["sliding_attention" if local is None else "full_attention"]
    if None in (whole, local):  # a type that is missing has its default
        assert taken(family, a_config(family, rope_parameters=parameters)).bases[local is not None] in (1e4, 1e6)


@given(st.sampled_from(["gemma2", "paligemma2"]), bases_)
def test_both_spellings_of_one_base_are_one(family: str, base: float) -> None:
    old = written(family, a_config(family, rope_theta=base))
    flat: Config = {"rope_type": "default", "rope_theta": base}
    for parameters in (flat, {"full_attention": flat, "sliding_attention": flat}):
        assert written(family, a_config(family, rope_parameters=parameters)).to_bytes() == old.to_bytes()
    assert not old.use_global_timescale


@pytest.mark.parametrize("attention", ["full_attention", "sliding_attention"])
@pytest.mark.parametrize("family", GEMMA3)
def test_spellings_that_disagree_are_refused(family: str, attention: str) -> None:
    old = "rope_theta" if attention == "full_attention" else "rope_local_base_freq"
    config = a_config(family, {old: 5000.0}, rope_parameters={attention: {"rope_theta": 7000.0}})
    (message,) = refused(family, config).values()
    assert "5000" in message
    assert "7000" in message


def scaled(family: str, spelling: str, scaling: object) -> Config:
    """Return a config with a scaling of RoPE in one of the places where it can be."""
    if spelling == "rope_scaling":
        return a_config(family, rope_scaling=scaling)
    if spelling == "both":
        parameters: Config = {"rope_theta": 10000.0}
        nested = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": parameters}
        return a_config(family, rope_scaling=scaling, rope_parameters=nested if family in GEMMA3 else parameters)
    return a_config(family, rope_parameters={"full_attention": scaling, "sliding_attention": {"rope_type": "default"}})


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters", "both"])
@all_families
def test_a_linear_scaling_is_noted_and_any_other_refused(family: str, spelling: str) -> None:
    plain = written(family, scaled(family, spelling, {"rope_type": "default"}))
    assert plain == written(family, a_config(family))
    for key in ("rope_type", "type") if spelling != "rope_parameters" else ("rope_type",):
        recognised = taken(family, scaled(family, spelling, {key: "linear", "factor": 8.0}))
        assert recognised.config == plain
        (note,) = (note for note in recognised.notes if spelling.replace("both", "rope_scaling") in note)
        assert "8" in note
    assert "rope" not in "".join(taken(family, scaled(family, spelling, {"rope_type": "linear", "factor": 1})).notes)
    for scaling in (
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": "8"},
        {"rope_type": 7},
    ):
        ((name, what),) = refused(family, scaled(family, spelling, scaling)).items()
        place = "rope_parameters.full_attention" if spelling == "rope_parameters" else "rope_scaling"
        if scaling["rope_type"] == "linear":
            assert name == f"{place}.factor"
            assert what.startswith(f"config.json says {scaling.get('factor')!r}, expected a positive number, by which ")
        else:
            assert name == place
            assert "no gemma.cpp scales positions this way" in what


@pytest.mark.parametrize("last", [999, 1000, 999_999_999])
@all_families
def test_too_many_layers_are_refused_before_anything_is_made_for_them(family: str, last: int) -> None:
    recognised_family, _ = family_of(a_config(family))
    assert recognised_family
    norm = next(name for name in SHAPES[family] if name.endswith("layers.0.input_layernorm.weight"))
    parts = {"num_hidden_layers": norm.replace(".0.", f".{last}.")}
    if "vision" in recognised_family or "paligemma" in recognised_family:
        norm = next(name for name in SHAPES[family] if name.endswith("encoder.layers.0.layer_norm1.weight"))
        parts[norm.partition(".layers")[0] + ".layers"] = norm.replace(".0.", f".{last}.")
    for subject, name in parts.items():
        result = recognise(recognised_family, a_config(family), SHAPES[family] | {name: SHAPES[family][norm]})
        (fault,) = result.faults if isinstance(result, Recognised) else [result]
        assert (fault.reason, fault.name) == ("too-many-layers", subject)
        assert fault.message == f"the model has {last + 1} layers, gemma.cpp takes at most 999, numbered up to 998"


@all_families
def test_a_scaling_that_is_not_an_object_is_refused(family: str) -> None:
    assert refused(family, a_config(family, rope_scaling="linear")) == {
        "rope_scaling": "config.json says 'linear', expected an object, or null: is it this checkpoint's own?"
    }


@pytest.mark.parametrize("key", ["attn_logit_softcapping", "final_logit_softcapping"])
@pytest.mark.parametrize("value", [0, 0.0, -1.0, "30"])
@all_families
def test_a_cap_is_positive_or_null(family: str, key: str, value: object) -> None:
    assert refused(family, a_config(family, {key: value})) == {
        key: f"config.json says {value!r}, expected a positive number, or null for no cap: is it this checkpoint's own?"
    }
    assert taken(family, a_config(family, {key: None}))


@all_families
def test_stop_tokens_beyond_the_vocabulary_are_noted(family: str) -> None:
    vocabulary = written(family, a_config(family)).vocab_size
    for tokens, shown in (
        ([vocabulary - 1], ""),
        ([vocabulary + 9, 2], f"{vocabulary + 9}"),
        ([1, vocabulary], f"{vocabulary}"),
        ([999_998, 999_999], "999998 or 999999"),
    ):
        recognised = taken(family, a_config(family), {"eos_token_id": tokens})
        notes = [note for note in recognised.notes if "never stops" in note]
        what = f"the vocabulary has {vocabulary} tokens, and the model never stops at {shown}"
        assert notes == ([f"{what}: is eos_token_id this checkpoint's own?"] if shown else [])


@pytest.mark.parametrize("family", GEMMA3)
def test_bases_that_only_later_runtimes_take_go_into_their_fields(family: str) -> None:
    for local, whole, fields in ((2e4, 1e6, 28), (1e4, 5e5, 45), (2e4, 5e5, 45), (2e4, 2e4, 28), (1e4, 1e4, 24)):
        config = written(family, a_config(family, rope_theta=whole, rope_local_base_freq=local))
        assert config.use_global_timescale is (local != whole)
        assert config.field_count == fields
        assert config.rope_theta == local
        assert config.global_rope_theta == (whole if local != whole else 1e6)


# ----------------------------------------------------------------------------------------------- the table of every key


def spec_table() -> dict[str, dict[str, Fate]]:
    """Return the table under "config.json" of spec/gemma.md; a later row is about fewer parts."""
    text = (ROOT / "spec" / "gemma.md").read_text(encoding="utf-8")
    section = text.partition("\n## config.json\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (every|text|top|vision|qwen3) \| (.+?) \| (.+?) \|", section, re.MULTILINE)
    fates = {fate.name.lower().replace("_", " "): fate for fate in Fate}
    table: dict[str, dict[str, Fate]] = {part: {} for part in (*KEYS, "qwen3")}
    for part, keys, fate in rows:
        for name in table if part == "every" else [part]:
            for key in re.findall(r"`([^`]+)`", keys):
                assert part == "every" or key not in table[name] or fate != "no effect", (part, key)
                table[name][key] = fates[fate]
    return table


def test_the_specification_has_every_key_with_its_fate() -> None:
    assert spec_table() == KEYS | {"qwen3": ALL_KEYS["qwen3"]}


# The values that a fixed key may have; any other is refused, or noted for the keys of NOTED.
USUAL: Config = {
    "hidden_activation": ["gelu_pytorch_tanh", "gelu_new"],
    "hidden_act": ["gelu_pytorch_tanh", "gelu_new"],
    "use_bidirectional_attention": [False, None],
    "attention_bias": [False, None],
    "is_encoder_decoder": [False, None],
    "rms_norm_eps": [1e-6],
    "layer_norm_eps": [1e-6],
    "bos_token_id": [2, None],
    "quantization_config": [None],
    "num_channels": [3],
    "mm_tokens_per_image": [],
}
NOTED = ("rms_norm_eps", "layer_norm_eps", "bos_token_id", "quantization_config")


@pytest.mark.parametrize(("family", "part", "key"), of_families(keys_of(Fate.FIXED)))
def test_what_is_fixed_in_the_runtime_is_refused_or_noted(family: str, part: str, key: str) -> None:
    before = taken(family, a_config(family))
    for value in USUAL[key]:
        config = a_config(family)
        part_of(config, part)[key] = value
        assert taken(family, config) == before
    for value in (7, "silu", 1e-5, True, [1]):
        config = a_config(family)
        part_of(config, part)[key] = value
        if key in NOTED:
            (note,) = (note for note in taken(family, config).notes if key in note)
            assert repr(value) in note or key == "quantization_config"
            assert written(family, config) == before.config
        elif key == "use_bidirectional_attention" and family == "paligemma2":
            assert taken(family, config) == before  # in the runtime, the prefix of image and prompt is, too
        elif key == "mm_tokens_per_image" and family == "paligemma2":
            continue  # it doesn't pool patches
        else:
            faults = refused(family, config)
            assert list(faults) == [key]
            assert str(value) in faults[key]


DIMENSIONS = of_families([(part, key) for part, key in keys_of(Fate.DIMENSION) if not key.endswith("_config")])


@pytest.mark.parametrize(("family", "part", "key"), DIMENSIONS)
def test_dimensions_are_compared_with_the_tensors(family: str, part: str, key: str) -> None:
    config = a_config(family)
    was = part_of(config, part)[key]
    for value in (was + 1, was * 3, 0, -was, str(was), None, [was], 10**400):
        part_of(config, part)[key] = value
        assert refused(family, config)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(families, st.data())
def test_keys_without_effect_have_none(family: str, data: st.DataObject) -> None:
    config = a_config(family)
    before = taken(family, config)
    for part, key in data.draw(st.lists(st.sampled_from(keys_of(Fate.NO_EFFECT)), max_size=6)):
        if part == "text" or family in VISION:
            values = part_of(config, part)
            values.setdefault(key, data.draw(any_json))
    assert taken(family, config) == before


names = st.text(min_size=1, max_size=8) | st.sampled_from(["moe_layers", "rope_thetas", "partial_rotary_factor"])


@given(families, st.lists(st.tuples(st.sampled_from(list(KEYS)), names, any_json), max_size=12))
def test_every_key_that_is_not_on_the_table_is_named(family: str, more: list[tuple[str, str, Any]]) -> None:
    config = a_config(family)
    before = taken(family, config)
    places = {"text": "text_config." if family in VISION else "", "top": "", "vision": "vision_config."}
    wanted = set()
    for part, key, value in more:
        if key not in KEYS[part] and (part == "text" or family in VISION):
            part_of(config, part)[key] = value
            wanted.add(f"{places[part]}{key}")
    recognised = taken(family, config)
    assert recognised.config == before.config
    assert {f"{place}{key}" for place, key in unknown_keys(family_of(config)[0] or "", config)} == wanted
    notes = [note for note in recognised.notes if note not in before.notes]
    assert len(notes) == bool(wanted)
    assert all(name in notes[0] for name in wanted)


def test_many_unknown_keys_are_counted() -> None:
    more = {f"odd_{i:02}": i for i in range(30)}
    (note,) = (note for note in taken("gemma3", a_config("gemma3", more)).notes if "unknown keys" in note)
    assert "odd_11" in note
    assert "odd_12" not in note
    assert note.endswith("and 18 more")


PUBLISHED_TEXT = (
    "_sliding_window_pattern architectures attention_bias attention_dropout attn_logit_softcapping bos_token_id"
    " cache_implementation dtype eos_token_id final_logit_softcapping head_dim hidden_act hidden_activation hidden_size"
    " initializer_range intermediate_size layer_types max_position_embeddings model_type num_attention_heads"
    " num_hidden_layers num_image_tokens num_key_value_heads pad_token_id query_pre_attn_scalar rms_norm_eps"
    " rope_local_base_freq rope_parameters rope_scaling rope_theta sliding_window sliding_window_pattern torch_dtype"
    " transformers_version use_bidirectional_attention use_cache vocab_size tie_word_embeddings unsloth_fixed"
)
PUBLISHED_TOP = (
    "_vocab_size architectures boi_token_index bos_token_id dtype eoi_token_index eos_token_id hidden_size"
    " ignore_index image_token_index initializer_range mm_tokens_per_image model_type num_hidden_layers pad_token_id"
    " projection_dim text_config torch_dtype transformers_version tie_word_embeddings vision_config"
)
PUBLISHED_VISION = (
    "attention_dropout dtype hidden_act hidden_size image_size intermediate_size layer_norm_eps model_type"
    " num_attention_heads num_channels num_hidden_layers num_image_tokens num_positions patch_size projection_dim"
    " torch_dtype vision_use_head"
)


@pytest.mark.parametrize(
    ("part", "published"), [("text", PUBLISHED_TEXT), ("top", PUBLISHED_TOP), ("vision", PUBLISHED_VISION)]
)
def test_keys_of_published_checkpoints_are_all_known(part: str, published: str) -> None:
    assert set(published.split()) - set(KEYS[part]) == set()


# ------------------------------------------------------------------------------------------------------------- anything

HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, 10**30, 10**400),
    *(1.5, -0.0, 5e-324, 1e-38, 1e38, 3.5e38, 1e300, float("nan"), float("inf"), float("-inf")),
    *("", "x", "1", "default", "linear", "\ud800", "gemma2", [], [1], [None] * 7, [[]], {}),
    *({"rope_type": "linear", "factor": 10**400}, {"rope_type": []}, {"full_attention": 1, "sliding_attention": {}}),
    *({"full_attention": {"rope_theta": 10**400}}, {"rope_theta": 5e-324}, {"rope_type": "linear", "factor": 1e-320}),
]
hostile = st.sampled_from(HOSTILE) | any_json
EVERYWHERE = [(part, key) for part, keys in KEYS.items() for key in keys]
# The others are never looked at. Several at a time are tried below.
READ = [(part, key) for part, key in EVERYWHERE if KEYS[part][key] != Fate.NO_EFFECT]


def is_survived(family: str, config: Config, generation: Config | None = None) -> None:
    result = read(family, config, generation)
    if isinstance(result, Fault):
        assert str(refusal([result]))
    elif result.faults:
        assert str(refusal(result.faults))
    else:
        assert type(result.config).from_bytes(result.config.to_bytes()) == result.config
        assert "\ufffd" not in "".join(result.notes)


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
@all_families
def test_any_value_of_any_one_key_is_taken_or_refused(family: str, value: object) -> None:
    for part, key in READ:
        config = a_config(family)
        if part == "text" or family in VISION:
            part_of(config, part)[key] = value
            is_survived(family, config)


@given(families, st.data())
def test_any_values_of_several_keys_are_taken_or_refused(family: str, data: st.DataObject) -> None:
    config = a_config(family)
    for part, key in data.draw(st.lists(st.sampled_from(EVERYWHERE), max_size=5)):
        if part == "text" or isinstance(config.get(f"{part}_config" if part == "vision" else "text_config"), dict):
            values = part_of(config, part)
            if isinstance(values, dict):
                values[key] = data.draw(hostile)
    is_survived(family, config, data.draw(st.just({}) | st.fixed_dictionaries({"eos_token_id": hostile})))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_has_what_both_files_say(tmp_path: Path, family: str) -> None:
    config = a_config(family, sliding_window=77, final_logit_softcapping=12.5)
    folder = RECIPES[family].write(tmp_path / "c", None, config)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5, 106], "do_sample": True}))
    plan = plan_of(folder, Choices("bf16"))
    assert plan.config is not None
    assert plan.config.attention_window_sizes[0] == 77
    assert (plan.config.final_cap, plan.config.eos_id, plan.config.secondary_eos_id) == (12.5, 1, 5)
    assert any("106 left out" in note for note in plan.notes)
