"""T5Gemma: an encoder and a decoder, in the stock form; read in the runtime's source, not run."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blobstore
from blobstore.checking.config import check_config
from blobstore.checking.tensors import check_model
from blobstore.codecs.element_types import BY_NAME
from blobstore.converting.choices import Choices
from blobstore.converting.hf_keys import Fate
from blobstore.converting.hf_keys_t5gemma import KEYS
from blobstore.converting.recognise_t5gemma import recognise_t5gemma
from blobstore.errors import CheckpointError, Fault, UsageError
from blobstore.gemma import ModelConfig, check_tensors, parse_toc, tensors_of
from blobstore.gemma.enums import Activation, Model, Wrapping
from blobstore.gemma.newer import newer_config
from blobstore.gemma.toc import toc_entry
from tests.cli.test_gemma import Cli
from tests.conftest import ROOT, VECTORS
from tests.converting.test_gemma_plan import check_names
from tests.converting.test_hf_config import hostile
from tests.gemma_checkpoints import (
    ALIGNED,
    Size,
    T5GemmaRecipe,
    convert,
    plan_of,
    sizes,
    small_recipe,
    tokenizer,
    write_sparse,
)
from tests.models import small, spec_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from tests.gemma_checkpoints import Config

    Array = npt.NDArray[Any]

SMALL = Size(head=8)  # dimensions that the runtime takes
RECIPE = T5GemmaRecipe(size=SMALL, tokenizer=tokenizer(SMALL.vocabulary))
PUBLISHED = T5GemmaRecipe(size=Size(8, 512, 1024, 8, 8, 64, 256000), encoder_layers=8)
NO_HEAD = ("decoder.", "encoder.", "")


def faults_of(folder: Path, **choices: Any) -> dict[str, Fault]:  # noqa: ANN401 (fields of the choices)
    """Return what keeps a checkpoint from being converted, by name; no name has two faults."""
    with pytest.raises(CheckpointError) as caught:
        plan_of(folder, Choices(**choices))
    assert caught.value.reason == "cannot-convert"
    faults = {fault.name: fault for fault in caught.value.faults}
    assert len(faults) == len(caught.value.faults)
    return faults


def refused(config: Config, recipe: T5GemmaRecipe = RECIPE) -> dict[str, Fault]:
    """Return the faults of a config.json, by name."""
    found = recognise_t5gemma(config, recipe.shapes())
    faults = [found] if isinstance(found, Fault) else found.faults
    assert len({fault.name for fault in faults}) == len(faults)
    return {fault.name: fault for fault in faults}


def written(config: Config, generation: Config | None = None) -> tuple[ModelConfig, list[str]]:
    """Return what a config.json becomes, and the notes."""
    found = recognise_t5gemma(config, RECIPE.shapes(), generation)
    assert not isinstance(found, Fault)
    assert found.faults == []
    return found.config, found.notes


# ------------------------------------------------------------------------------------------------------------- a model


@pytest.mark.parametrize("weights", ["sfp", "bf16"])
@pytest.mark.parametrize("wrapping", [None, "it"])
def test_the_published_dimensions_are_the_runtimes_own_config(
    tmp_path: Path, weights: str, wrapping: str | None
) -> None:
    specifier = f"t5gemma-s-s-{weights}-{wrapping or 'pt'}"
    facts = json.loads((VECTORS / "gemma.json").read_bytes())["transcribed"]
    (fact,) = (fact for fact in facts if fact["specifier"] == specifier)
    plan = plan_of(write_sparse(tmp_path / "c", PUBLISHED), Choices(weights, wrapping=wrapping))
    assert plan.config is not None
    raw = plan.config.to_bytes()
    assert (len(raw), hashlib.sha256(raw).hexdigest()) == (fact["size"], fact["sha256"])
    assert [tensor.key for tensor in plan.tensors] == [spec.key for spec in tensors_of(plan.config)]
    assert not any("no published model" in note for note in plan.notes)
    assert sum(math.prod(tensor.shape) for tensor in plan.tensors) == 312_517_632  # as its publisher counts


@given(size=sizes, layers=st.integers(1, 4))
def test_tensors_of_any_dimensions_are_those_of_the_specification(size: Size, layers: int) -> None:
    config = T5GemmaRecipe(size=size, encoder_layers=layers).model_config("sfp")
    specs = {spec.key: (spec.rows, spec.cols, spec.floor or "", spec.form) for spec in tensors_of(config)}
    rows = spec_tensors(config, "stock")
    assert specs == {row.key: (row.rows, row.cols, row.floor, "") for row in rows}
    assert len(rows) == 4 + 8 * layers + 14 * size.layers


def matrices(part: str, letter: str, tensors: Mapping[str, Array], size: Size) -> dict[str, Array]:
    """Return the matrices that each layer of a part has, on whole arrays."""
    q, k, v, o = (tensors[f"{part}self_attn.{one}_proj.weight"] for one in "qkvo")
    pairs = np.stack([one.reshape(size.kv_heads, size.head, -1) for one in (k, v)], axis=1)
    return {
        f"{letter}_qkv": np.vstack([q, pairs.reshape(-1, size.width)]),
        f"{letter}_att": heads_first(o, size),
        f"{letter}_gate": np.vstack([tensors[f"{part}mlp.{one}_proj.weight"] for one in ("gate", "up")]),
        f"{letter}_lin": tensors[f"{part}mlp.down_proj.weight"],
        f"{letter}_pre_ff": tensors[f"{part}pre_feedforward_layernorm.weight"],
        f"{letter}_post_ff": tensors[f"{part}post_feedforward_layernorm.weight"],
    }


def heads_first(o: Array, size: Size) -> Array:
    return np.moveaxis(o.reshape(size.width, size.heads, size.head), 1, 0).reshape(-1, size.head)


def arranged(recipe: T5GemmaRecipe, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return gemma.cpp's tensors by key, by spec/gemma.md, without the package's plan."""
    (decoder, encoder, _), size = recipe.prefixes, recipe.size
    made = {
        "enc_embedding": tensors[f"{encoder}embed_tokens.weight"],
        "dec_embedding": tensors[f"{decoder}embed_tokens.weight"],
        "enc_final_norm": tensors[f"{encoder}norm.weight"],
        "dec_final_norm": tensors[f"{decoder}norm.weight"],
    }
    for i in range(recipe.encoder_layers):
        part = f"{encoder}layers.{i}."
        layer = matrices(part, "e", tensors, size)
        layer |= {f"e_{when}_att": tensors[f"{part}{when}_self_attn_layernorm.weight"] for when in ("pre", "post")}
        made |= {f"{key}_{i}": array for key, array in layer.items()}
    for i in range(size.layers):
        part = f"{decoder}layers.{i}."
        layer = matrices(part, "d", tensors, size)
        for when in ("pre", "post"):
            layer[f"d_{when}_sa"] = tensors[f"{part}{when}_self_attn_layernorm.weight"]
            layer[f"d_{when}_ca"] = tensors[f"{part}{when}_cross_attn_layernorm.weight"]
        layer |= {f"dc_{one}": tensors[f"{part}cross_attn.{one}_proj.weight"] for one in "qkv"}
        layer["dc_att"] = heads_first(tensors[f"{part}cross_attn.o_proj.weight"], size)
        made |= {f"{key}_{i}": array for key, array in layer.items()}
    return {key: array.reshape(1, -1) if array.ndim == 1 else array for key, array in made.items()}


@pytest.mark.parametrize("prefixes", [RECIPE.prefixes, NO_HEAD])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_file_has_the_tensors_of_the_checkpoint(tmp_path: Path, prefixes: tuple[str, str, str], shards: int) -> None:
    recipe = replace(RECIPE, prefixes=prefixes, shards=shards)
    source = recipe.write(tmp_path / "c")
    done = blobstore.convert(source, tmp_path / "m.sbs", weights="bf16")
    expected = arranged(recipe, recipe.tensors())
    with blobstore.open(tmp_path / "m.sbs", by="keys") as store:
        assert {*store} == {*expected}
        for key, array in expected.items():
            assert store[key].shape == array.shape, key
            assert store[key].tobytes() == array.tobytes(), key
        assert store.reader["config"] == recipe.model_config("bf16").to_bytes()
        toc = {entry.name: entry for entry in parse_toc(store.reader["toc"])}
        assert check_tensors(recipe.model_config("bf16"), toc) == []
    assert done.runs_in == ("latest",)
    assert [alias.name for alias in done.aliases] == ["lm_head.out_proj.weight"]
    assert "layout stock: gemma.cpp has no other for T5Gemma" in done.notes
    assert any("read in its source, not run" in note for note in done.notes)
    assert any("no published model" in note and "T5Gemma_S_S" in note for note in done.notes)
    assert blobstore.verify(tmp_path / "m.sbs", against=source).ok
    blobstore.export(tmp_path / "m.sbs", tmp_path / "back.safetensors")
    assert not blobstore.diff(source, tmp_path / "back.safetensors").differ
    assert not blobstore.diff(source, tmp_path / "m.sbs", tolerance=0).differ


@pytest.mark.parametrize("weights", ["bf16", "sfp", "f32"])
@pytest.mark.parametrize("head", [False, True])
def test_every_name_reads_back(tmp_path: Path, weights: str, head: bool) -> None:
    check_names(T5GemmaRecipe(head=head, top=5.0, size=ALIGNED if head else Size()), tmp_path / "c", weights, "stock")


@given(size=sizes, layers=st.integers(1, 4), dtype=st.sampled_from(["bf16", "f16", "f32"]))
@settings(max_examples=10)
def test_every_name_reads_back_whatever_the_size(tmp_path: Path, size: Size, layers: int, dtype: str) -> None:
    check_names(T5GemmaRecipe(size=size, encoder_layers=layers, dtype=dtype), tmp_path / "c", "bf16", "stock")


def test_both_embeddings_are_padded_and_come_back_without(tmp_path: Path) -> None:
    recipe = replace(RECIPE, size=replace(SMALL, vocabulary=90), tokenizer=tokenizer(90))
    config = recipe.config()
    config["decoder"]["pad_token_id"] = 7
    source = recipe.write(tmp_path / "c", None, config)
    plan = convert(source, tmp_path / "m.sbs", Choices("bf16"))
    assert plan.config is not None
    assert plan.config.vocab_size == 96
    with blobstore.open(tmp_path / "m.sbs") as store, blobstore.open(tmp_path / "m.sbs", by="keys") as keys:
        for key, part in (("enc_embedding", "encoder"), ("dec_embedding", "decoder")):
            own = recipe.tensors()[f"model.{part}.embed_tokens.weight"]
            assert store[f"model.{part}.embed_tokens.weight"].tobytes() == own.tobytes()
            assert keys[key].tobytes() == np.concatenate([own, own[[7] * 6]]).tobytes()
    assert blobstore.verify(tmp_path / "m.sbs", against=source).ok
    assert faults_of(source, pad=False).keys() == {"embed_tokens.weight"}


def test_it_is_wrapped_by_its_chat_template_or_as_chosen(tmp_path: Path) -> None:
    for name, template, wrapping, expected in (
        ("a", "chat_template.jinja", None, Wrapping.IT),
        ("b", "", None, Wrapping.PT),
        ("c", "", "it", Wrapping.IT),
    ):
        config = plan_of(
            replace(RECIPE, chat_template=template).write(tmp_path / name), Choices(wrapping=wrapping)
        ).config
        assert config is not None
        assert config.wrapping == expected


def test_by_name_the_tied_head_has_its_own_name(tmp_path: Path) -> None:
    source = RECIPE.write(tmp_path / "c", None, RECIPE.config() | {"tie_word_embeddings": True})
    (alias,) = convert(source, tmp_path / "m.sbs", kind="names").aliases
    assert (alias.name, alias.target) == ("lm_head.out_proj.weight", "model.decoder.embed_tokens.weight")
    blobstore.export(tmp_path / "m.sbs", f"{tmp_path}/back/")
    assert not blobstore.diff(source, tmp_path / "back").differ


def test_commands_say_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, source, target = Cli(capsys), RECIPE.write(tmp_path / "c"), str(tmp_path / "m.sbs")
    assert run("convert", str(source), "-o", target).status == 0
    info = run("info", target)
    assert "an encoder of 3 layers and a decoder of 2, both of 20" in info.out
    assert json.loads(run("info", target, "--json").out)["model"]["encoder_layers"] == 3
    small_recipe("gemma3").write(tmp_path / "g")
    assert run("convert", str(tmp_path / "g"), "-o", str(tmp_path / "g.sbs")).status == 0
    assert json.loads(run("info", str(tmp_path / "g.sbs"), "--json").out)["model"]["encoder_layers"] is None
    shown = run("convert", str(source), "-o", target, "--dry-run", "--json")
    assert [tensor["key"] for tensor in json.loads(shown.out)["tensors"]][:2] == ["enc_embedding", "dec_embedding"]
    assert run("check", target, "--strict").status == 0
    assert run("check", target, "--for", "gemma.cpp@2026-04").status == 1
    assert run("check", str(source)).status == 0


# ------------------------------------------------------------------------------------------------------ what is refused


I8_STOCK = ("--weights", "i8", "--layout", "stock")  # not "use --layout split"


@pytest.mark.parametrize("flags", [("--layout", "split"), ("--weights", "i8"), I8_STOCK])
def test_what_the_runtime_has_no_form_for_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    run, source = Cli(capsys), RECIPE.write(tmp_path / "c")
    done = run("convert", str(source), "-o", str(tmp_path / "m.sbs"), *flags)
    assert (done.status, "stock-only" in done.err, "T5Gemma" in done.err) == (2, True, True)
    assert not (tmp_path / "m.sbs").exists()
    with pytest.raises(UsageError, match="stock-only"):
        plan_of(source, Choices(layout="split") if "split" in flags else Choices("i8"))
    assert plan_of(source, Choices(layout="stock")).config is not None


def test_a_file_of_another_family_was_not_made_of_it(tmp_path: Path) -> None:
    convert(small_recipe("gemma3").write(tmp_path / "g"), tmp_path / "m.sbs", Choices("bf16", "split"))
    with pytest.raises(CheckpointError, match="is made of another model"):
        blobstore.verify(tmp_path / "m.sbs", against=RECIPE.write(tmp_path / "c"))


def test_a_head_that_config_json_does_not_tie_but_that_is_missing_is_told(tmp_path: Path) -> None:
    for tied in (False, True):
        folder = RECIPE.write(tmp_path / str(tied), None, RECIPE.config() | {"tie_word_embeddings": tied})
        notes = plan_of(folder, Choices("bf16")).notes
        assert any("no tensor is a head" in note for note in notes) != tied


def test_an_untied_head_is_refused(tmp_path: Path) -> None:
    recipe = replace(RECIPE, head=True)
    tensors = recipe.tensors()
    tensors[recipe.head_name] = -tensors[recipe.head_name]
    (fault,) = faults_of(recipe.write(tmp_path / "c", tensors)).values()
    assert (fault.reason, fault.name) == ("untied-head", "lm_head.out_proj.weight")
    assert "model.decoder.embed_tokens.weight" in fault.message


@pytest.mark.parametrize("gone", ["encoder", "decoder"])
def test_a_part_alone_is_refused_by_name(tmp_path: Path, gone: str) -> None:
    tensors = {name: array for name, array in RECIPE.tensors().items() if gone not in name}
    (fault,) = faults_of(RECIPE.write(tmp_path / "c", tensors)).values()
    assert (fault.reason, fault.name) == ("unsupported-model", gone)
    assert f"no {gone}" in fault.message
    assert "--as names" in fault.message
    assert convert(tmp_path / "c", tmp_path / "m.sbs", kind="names").config is None


@pytest.mark.parametrize("said", ["missing", None, [], "x"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_that_config_json_lacks_is_refused(part: str, said: object) -> None:
    config = RECIPE.config() | {part: said}
    if said == "missing":
        del config[part]
    assert {name: fault.reason for name, fault in refused(config).items()} == {part: "missing-config"}


def test_parts_of_different_dimensions_are_refused(tmp_path: Path) -> None:
    """As T5Gemma 9B-2B's."""
    key = {"width": "hidden_size", "hidden": "intermediate_size", "kv_heads": "num_key_value_heads"}
    for name, value in {"width": 24, "hidden": 32, "kv_heads": 6}.items():
        changes: dict[str, Any] = {name: value}
        other = replace(RECIPE, size=replace(SMALL, **changes))
        parts = {"encoder": other, "decoder": RECIPE}
        tensors = {n: a for part, recipe in parts.items() for n, a in recipe.tensors().items() if part in n}
        config = RECIPE.config() | {"encoder": other.config()["encoder"]}
        (fault,) = faults_of(RECIPE.write(tmp_path / name, tensors, config)).values()
        assert (fault.reason, fault.name) == ("unsupported-model", "encoder")
        assert f"{key[name]} {value}, the decoder's {getattr(SMALL, name)}" in fault.message
        assert "--as names" in fault.message


def test_embeddings_of_different_vocabularies_are_refused() -> None:
    shapes = RECIPE.shapes() | {"model.encoder.embed_tokens.weight": (128, 20)}
    fault = recognise_t5gemma(RECIPE.config(), shapes)
    assert isinstance(fault, Fault)
    assert "vocab_size 128, the decoder's 96" in fault.message


# ---------------------------------------------------------------------------------------------------------- config.json


def with_both(**changes: Any) -> Config:  # noqa: ANN401 (JSON is anything)
    """Return a config.json with changes of both parts."""
    config = RECIPE.config()
    for part in ("encoder", "decoder"):
        config[part] |= changes
    return config


def in_one(part: str, **changes: Any) -> Config:  # noqa: ANN401 (JSON is anything)
    """Return a config.json with changes of one part, or of its top."""
    config = RECIPE.config()
    (config if part == "t5gemma" else config[part]).update(changes)
    return config


def test_what_config_json_says_is_written() -> None:
    types = ["full_attention", "sliding_attention", "full_attention"]
    config = with_both(attn_logit_softcapping=None, max_position_embeddings=1000, sliding_window=64)
    config["encoder"]["layer_types"] = types
    config["decoder"] |= {"sliding_window": 99, "final_logit_softcapping": 12.5, "eos_token_id": 5}
    got, notes = written(config)
    assert got.encoder_attention_window_sizes == (1000, 64, 1000)
    assert got.decoder_attention_window_sizes == got.attention_window_sizes == (99, 1000)
    assert (got.att_cap, got.final_cap, got.max_seq_len) == (0.0, 12.5, 1000)
    assert (got.eos_id, got.secondary_eos_id) == (5, 1)
    (note,) = (note for note in notes if note.startswith("stop tokens"))
    assert note.startswith("stop tokens: 5 from its decoder")
    assert written(config | {"eos_token_id": [3, 4]})[0].eos_id == 3
    assert written(config, {"eos_token_id": 2})[0].eos_id == 2


def test_a_key_that_is_missing_has_its_default() -> None:
    got, notes = written(RECIPE.config())
    assert got == RECIPE.model_config("bf16", "it")
    assert (got.model, got.att_cap, got.final_cap) == (Model.T5GEMMA_S_S, 50.0, 30.0)
    assert len(notes) == 2  # of the label, and of stop tokens; what is known of the family is a row of FAMILIES


NOT_COMPUTED: dict[str, tuple[Config, str]] = {
    "another scale": ({"query_pre_attn_scalar": 16}, "query_pre_attn_scalar"),
    "a scale that is not a number": ({"query_pre_attn_scalar": "x"}, "query_pre_attn_scalar"),
    "another base": ({"rope_theta": 1e6}, "rope_theta"),
    "another base in the newer spelling": ({"rope_parameters": {"rope_theta": 5e5}}, "rope_theta"),
    "another scaling": ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling"),
    "another activation": ({"hidden_activation": "silu"}, "hidden_activation"),
    "biases": ({"attention_bias": True}, "attention_bias"),
    "another width": ({"hidden_size": 24}, "hidden_size"),
    "another width of the other part": ({"cross_attention_hidden_size": 24}, "cross_attention_hidden_size"),
    "another number of layers": ({"num_hidden_layers": 9}, "num_hidden_layers"),
    "another vocabulary": ({"vocab_size": 12}, "vocab_size"),
    "a vocabulary that lacks the rows of vision models": ({"vocab_size": 96 - 64}, "vocab_size"),
}


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("what", NOT_COMPUTED)
def test_what_the_runtime_does_not_compute_is_refused(part: str, what: str) -> None:
    changes, key = NOT_COMPUTED[what]
    assert list(refused(in_one(part, **changes))) == [f"{part}.{key}"]


@pytest.mark.parametrize("key", ["attn_logit_softcapping", "max_position_embeddings"])
def test_what_a_file_has_once_is_the_same_in_both(key: str) -> None:
    fault = refused(in_one("encoder", **{key: 17}))[f"encoder.{key}"]
    assert "it is 17, the decoder's" in fault.message
    assert refused(with_both(**{key: 17})) == {}


def test_a_head_size_that_nothing_tells_is_asked_for() -> None:
    config = with_both()
    del config["encoder"]["head_dim"]
    assert {name: fault.reason for name, fault in refused(config).items()} == {"encoder.head_dim": "missing-config"}


def test_without_a_scale_it_is_that_of_transformers() -> None:
    config = with_both()
    del config["decoder"]["query_pre_attn_scalar"]
    fault = refused(config)["decoder.query_pre_attn_scalar"]
    assert "256 is not head_dim, 8" in fault.message


def test_an_encoder_decoder_that_says_it_is_none_is_refused() -> None:
    assert list(refused(in_one("t5gemma", is_encoder_decoder=False))) == ["is_encoder_decoder"]


@pytest.mark.parametrize("key", ["bos_token_id", "decoder_start_token_id"])
def test_another_first_token_is_noted(key: str) -> None:
    config, notes = written(in_one("t5gemma", **{key: 9}))
    assert config == written(RECIPE.config())[0]
    assert any(f"{key} 9" in note for note in notes)


def test_what_is_noted_of_both_parts_is_noted_once() -> None:
    (note,) = (note for note in written(with_both(rms_norm_eps=1e-5))[1] if "rms_norm_eps" in note)
    assert "1e-05" in note


def test_a_published_decoder_with_another_encoder_is_not_published() -> None:
    recipe = replace(PUBLISHED, encoder_layers=7)
    found = recognise_t5gemma(recipe.config(), recipe.shapes())
    assert not isinstance(found, Fault)
    assert found.config == recipe.model_config("bf16", "it")
    assert any("no published model" in note for note in found.notes)


def test_unknown_keys_are_named_with_their_part() -> None:
    config = in_one("encoder", odd=1) | {"strange": 2}
    assert "config.json has unknown keys, which are not converted: encoder.odd, strange" in written(config)[1]


def test_the_specification_has_every_key_with_its_fate() -> None:
    text = (ROOT / "spec" / "gemma.md").read_text(encoding="utf-8")
    section = text.partition("\n## config.json\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (every|t5gemma|module) \| (.+?) \| (.+?) \|", section, re.MULTILINE)
    table: dict[str, dict[str, Fate]] = {part: {} for part in KEYS}
    for part, keys, fate in rows:
        for name in table if part == "every" else [part]:
            table[name] |= dict.fromkeys(re.findall(r"`([^`]+)`", keys), Fate[fate.upper().replace(" ", "_")])
    assert table == KEYS


places = st.sampled_from(
    [("t5gemma", key) for key in KEYS["t5gemma"]]
    + [(part, key) for part in ("encoder", "decoder") for key in KEYS["module"]]
)


@given(changes=st.lists(st.tuples(places, hostile), min_size=1, max_size=4), generation=hostile)
def test_any_values_of_any_keys_are_taken_or_refused(changes: list[Any], generation: Any) -> None:  # noqa: ANN401
    config = RECIPE.config()
    for (part, key), value in changes:
        target = config if part == "t5gemma" else config[part]
        if isinstance(target, dict):
            target[key] = value
    found = recognise_t5gemma(config, RECIPE.shapes(), {"eos_token_id": generation})
    if not isinstance(found, Fault) and not found.faults:
        raw = found.config.to_bytes()
        assert ModelConfig.from_bytes(raw).to_bytes() == raw


@given(data=st.data())
def test_any_shapes_are_taken_or_refused(data: st.DataObject) -> None:
    shapes = RECIPE.shapes()
    numbers = st.sampled_from([0, 1, 2, 20, 96, 2**31, 2**56])
    for name in data.draw(st.lists(st.sampled_from(sorted(shapes)), min_size=1, max_size=3)):
        shapes[name] = tuple(data.draw(st.lists(numbers, max_size=3)))
    for name in data.draw(st.lists(st.sampled_from(sorted(shapes)), max_size=3, unique=True)):
        del shapes[name]
    found = recognise_t5gemma(RECIPE.config(), shapes)
    assert isinstance(found, Fault) or found.config.is_encoder_decoder


# ---------------------------------------------------------------------------------------------------------------- check


def findings(config: ModelConfig) -> set[tuple[str, str]]:
    """Return code and subject of what is wrong with a config, and with the tensors that it implies."""
    toc = {
        row.key: toc_entry(row.key, BY_NAME[row.stored_type("bf16")], row.rows, row.cols)
        for row in spec_tensors(config, "stock")
    }
    found = [*check_config(config), *check_model(config, toc)]
    return {(item.code, item.subject) for item in found if item.severity != "note"}


def with_field(config: ModelConfig, name: str, value: Any) -> ModelConfig:  # noqa: ANN401 (a field's)
    changes: dict[str, Any] = {name: value}
    return replace(config, **changes)


def relayered(config: ModelConfig, part: str, **changes: Any) -> ModelConfig:  # noqa: ANN401 (fields of a layer)
    """Return a config whose second layer of a part is changed."""
    first, second, *rest = getattr(config, f"{part}_layer_configs")
    return with_field(config, f"{part}_layer_configs", (first, replace(second, **changes), *rest))


WRONG: dict[str, tuple[Callable[[ModelConfig, str], ModelConfig], str, str]] = {
    "more heads": (lambda c, part: relayered(c, part, heads=12), "unlike-layers", "layer_configs[1]"),
    "another width": (lambda c, part: relayered(c, part, model_dim=24), "config-sizes", "layer_configs[1]"),
    "heads that can't share": (lambda c, part: relayered(c, part, kv_heads=5), "config-sizes", "layer_configs[1]"),
    "no layers": (lambda c, part: with_field(c, f"{part}_layer_configs", ()), "config-sizes", "layer_configs"),
    "another number": (lambda c, part: with_field(c, f"{part}_num_layers", 7), "config-sizes", "num_layers"),
    "fewer windows": (
        lambda c, part: with_field(c, f"{part}_attention_window_sizes", (1,)),
        "config-sizes",
        "attention_window_sizes",
    ),
}


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_either_part_is_found(part: str, what: str) -> None:
    config = RECIPE.model_config("bf16")
    assert findings(config) == set()
    change, code, subject = WRONG[what]
    assert (code, f"config.{part}_{subject}") in findings(change(config, part))


def test_layers_of_its_own_are_needed_too() -> None:
    config = replace(RECIPE.model_config("bf16"), layer_configs=())
    assert ("config-sizes", "config.layer_configs") in findings(config)


def test_rows_of_the_decoders_embedding_are_multiplied() -> None:
    config = replace(RECIPE.model_config("bf16"), vocab_size=97)
    assert {("rows", "dec_embedding"), ("vocabulary", "config")} <= findings(config)


def test_a_file_that_was_written_in_i8_has_a_warning(tmp_path: Path) -> None:
    with blobstore.ModelWriter(tmp_path / "m.sbs", RECIPE.model_config("i8"), tokenizer=RECIPE.tokenizer) as writer:
        for key, array in arranged(RECIPE, RECIPE.tensors()).items():
            writer.add(key, array)
    found = [item for item in blobstore.check(tmp_path / "m.sbs").findings if item.severity != "note"]
    assert [(item.code, item.severity) for item in found] == [("i8-weights", "warning"), ("i8-stock", "warning")]
    assert "not established" in found[1].effect
    assert found[1].subject == "e_qkv_0"
    gemma = small("gemma3")
    alien = {"e_att_0": toc_entry("e_att_0", BY_NAME["i8"], 4, 4)}
    assert "i8-stock" not in {item.code for item in check_model(gemma, alien)}


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_what_is_too_long_in_either_part_is_found(part: str) -> None:
    config = RECIPE.model_config("bf16")
    layers = config.layer_configs[:1] * 1000
    assert ("too-many-layers", "config") in findings(with_field(config, f"{part}_layer_configs", layers))
    longer = with_field(config, f"{part}_attention_window_sizes", (1,) * 65537)
    assert [item.message for item in newer_config(longer) if item.code == "newer-vector"] == [
        "a vector has 65537 elements"
    ]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_newer_values_of_either_part_are_found(part: str) -> None:
    config = relayered(RECIPE.model_config("bf16"), part, activation=Activation.SILU)
    newer = [item.subject for item in newer_config(config) if item.code == "newer-value"]
    assert newer == ["config.model", f"config.{part}_layer_configs[1].activation"]


def test_what_older_runtimes_ignore_is_told_once() -> None:
    (ignored,) = (item for item in newer_config(RECIPE.model_config("bf16")) if item.code == "ignored-fields")
    assert (ignored.message, ignored.runtimes) == ("it has is_encoder_decoder", ("2025-10", "2026-04"))
