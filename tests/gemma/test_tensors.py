from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.codecs.element_types import BY_NAME
from blobstore.errors import Fault
from blobstore.gemma import ModelConfig, TocEntry, check_tensors, parse_toc, tensors_of
from blobstore.gemma.enums import LayerType, PostNorm, WeightType, Wrapping
from blobstore.gemma.models import config_of
from blobstore.gemma.tensors import default_type, narrowest_type
from blobstore.gemma.toc import toc_entry
from tests import models
from tests.models import FORMS, WEIGHTS, Sizes, families, forms, small, spec_tensors, tiny, weights

if TYPE_CHECKING:
    from pathlib import Path

    from tests.models import Row

# Tensors in the stock and in the split form, and parameters.
TOTALS = {
    "gemma2-2b": (210, 262, 2_614_341_888),
    "9b": (338, 422, 9_241_705_984),
    "27b": (370, 462, 27_227_128_320),
    "gemma3-270m": (182, 218, 268_098_176),
    "gemma3-1b": (262, 314, 999_885_952),
    "gemma3-4b": (674, 742, 4_299_918_192),
    "gemma3-12b": (814, 910, 12_187_083_120),
    "gemma3-27b": (954, 1078, 27_432_067_952),
    "paligemma2-3b-224": (541, 593, 3_032_094_960),
    "paligemma2-3b-448": (541, 593, 3_032_979_696),
    "paligemma2-10b-224": (669, 753, 9_662_409_456),
    "paligemma2-10b-448": (669, 753, 9_663_294_192),
}
# The published checkpoints' numbers of parameters, by their own count.
PUBLISHED = {
    "gemma2-2b": 2_614_341_888,
    "9b": 9_241_705_984,
    "27b": 27_227_128_320,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gemma3-4b": 4_300_079_472,
    "gemma3-12b": 12_187_325_040,
    "gemma3-27b": 27_432_406_640,
    "paligemma2-3b-224": 3_032_242_416,
}
PAIRS = {
    "att": (("att_ein",), ("att_w",)),
    "qkv": (("qkv_ein",), ("qkv1_w", "qkv2_w")),
    "gating": (("gating_ein",), ("gating1_w", "gating2_w")),
}
BLOCKS = ("q4_0", "mxfp4")  # of 32 values
WEIGHT_TYPES = ("f32", "bf16", "sfp", "nuq", "i8", *BLOCKS)
Table = dict[str, TocEntry]

all_forms = pytest.mark.parametrize("form", FORMS)
all_families = pytest.mark.parametrize("family", models.FAMILIES)
all_weights = pytest.mark.parametrize("weight", WEIGHTS)


def model_of(prefix: str, weight: str = "sfp") -> ModelConfig:
    return config_of(f"{prefix}-{weight}")


def entry_of(row: Row, type_name: str) -> TocEntry:
    return toc_entry(row.key, BY_NAME[type_name], row.rows, row.cols)


def table_of(config: ModelConfig, form: str = "stock") -> Table:
    """Return the toc of a file of this model."""
    rows = spec_tensors(config, form)
    return {row.key: entry_of(row, row.stored_type(config.weight_name)) for row in rows}


def faults_of(config: ModelConfig, table: Table) -> list[tuple[str, str]]:
    return [(fault.reason, fault.name) for fault in check_tensors(config, table)]


def the_fault(config: ModelConfig, table: Table) -> Fault:
    [fault] = check_tensors(config, table)
    return fault


# Which tensors a model has.


@pytest.mark.parametrize("prefix", TOTALS)
def test_the_runtime_s_models_have_as_many_tensors_and_parameters_as_they_should(prefix: str) -> None:
    stock, split, parameters = TOTALS[prefix]
    specs = tensors_of(model_of(prefix))
    by_form = {form: [spec for spec in specs if spec.form in ("", form)] for form in FORMS}
    assert {form: len(specs) for form, specs in by_form.items()} == {"stock": stock, "split": split}
    for specs in by_form.values():
        assert sum(spec.rows * spec.cols for spec in specs) == parameters


@pytest.mark.parametrize("prefix", PUBLISHED)
def test_parameters_are_those_of_the_published_checkpoint(prefix: str) -> None:
    config = model_of(prefix)
    parameters = TOTALS[prefix][2]
    if config.vit_config.layer_configs:
        # Their vocabulary has 64 more rows. Gemma 3 has no bias after its images, but the runtime needs one.
        parameters += 64 * config.model_dim
        parameters -= config.model_dim if config.wrapping == Wrapping.VLM else 0
    assert parameters == PUBLISHED[prefix]


def test_gemma3_270m_is_mostly_its_embedding() -> None:
    specs = {spec.key: spec for spec in tensors_of(model_of("gemma3-270m"))}
    embedding = specs["c_embedding"]
    assert (embedding.rows, embedding.cols) == (262144, 640)
    shapes = {key.removesuffix("_17"): (spec.rows, spec.cols) for key, spec in specs.items() if key.endswith("_17")}
    assert shapes == {
        "att_ein": (2560, 256),
        "att_w": (640, 1024),
        "qkv_ein": (1536, 640),
        "qkv1_w": (1024, 640),
        "qkv2_w": (512, 640),
        "gating_ein": (4096, 640),
        "gating1_w": (2048, 640),
        "gating2_w": (2048, 640),
        "linear_w": (640, 2048),
        "pre_att_ns": (1, 640),
        "pre_ff_ns": (1, 640),
        "post_att_ns": (1, 640),
        "post_ff_ns": (1, 640),
        "key_norm": (1, 256),
        "query_norm": (1, 256),
    }
    assert "att_ein_18" not in specs


@all_forms
@pytest.mark.parametrize("prefix", TOTALS)
def test_tensors_are_those_of_the_specification_s_table(prefix: str, form: str) -> None:
    check_against_the_table(model_of(prefix), form)


@given(family=families, sizes=models.sizes, form=forms)
def test_tensors_of_any_dimensions_are_those_of_the_specification_s_table(family: str, sizes: Sizes, form: str) -> None:
    check_against_the_table(sizes.applied(small(family)), form)


def check_against_the_table(config: ModelConfig, form: str) -> None:
    specs = [spec for spec in tensors_of(config) if spec.form in ("", form)]
    rows = spec_tensors(config, form)
    assert {(spec.key, spec.rows, spec.cols, spec.floor or "") for spec in specs} == {
        (row.key, row.rows, row.cols, row.floor) for row in rows
    }
    assert len({spec.key for spec in specs}) == len(specs) == len(rows)


@given(family=families, sizes=models.sizes, post_norm=st.booleans(), qk_norm=st.booleans())
def test_what_a_layer_does_without_has_no_tensors(family: str, sizes: Sizes, post_norm: bool, qk_norm: bool) -> None:
    config = sizes.applied(small(family))
    first = replace(config.layer_configs[0], post_norm=PostNorm(post_norm), use_qk_norm=qk_norm)
    config = replace(config, layer_configs=(first, *config.layer_configs[1:]))
    check_against_the_table(config, "stock")
    keys = {spec.key for spec in tensors_of(config)}
    assert ({"post_att_ns_0", "post_ff_ns_0"} <= keys, {"key_norm_0", "query_norm_0"} <= keys) == (post_norm, qk_norm)


def test_a_text_layer_with_biases_has_them() -> None:
    # None of the twelve models has them.
    config = small("gemma3")
    config = replace(config, layer_configs=(replace(config.layer_configs[0], ff_biases=True), config.layer_configs[1]))
    assert {"ffw_gat_b_0", "ffw_out_b_0"} <= {spec.key for spec in tensors_of(config)}
    assert "ffw_gat_b_1" not in {spec.key for spec in tensors_of(config)}
    check_against_the_table(config, "stock")
    check_against_the_table(config, "split")


@all_families
def test_the_model_s_width_is_every_layer_s(family: str) -> None:
    # As in the runtime, which has a model_dim for each layer, but takes shapes from that of the model.
    config = small(family)
    layers = tuple(replace(layer, model_dim=99) for layer in config.layer_configs)
    parts = tuple(replace(layer, model_dim=99) for layer in config.vit_config.layer_configs)
    odd = replace(config, layer_configs=layers, vit_config=replace(config.vit_config, layer_configs=parts))
    assert odd != config
    assert tensors_of(odd) == tensors_of(config)


def test_no_vision_layers_no_vision() -> None:
    config = small("gemma3vlm")
    bare = replace(config, vit_config=replace(config.vit_config, layer_configs=()))
    lost = {spec.key for spec in tensors_of(config)} - {spec.key for spec in tensors_of(bare)}
    assert len(lost) == 8 + 12 * len(config.vit_config.layer_configs)
    assert all(layer.type == LayerType.VIT for layer in config.vit_config.layer_configs)
    assert "mm_embed_norm" in lost
    assert "mm_embed_norm" not in {spec.key for spec in tensors_of(small("paligemma2"))}


@given(family=families, sizes=models.sizes)
def test_keys_fit_into_a_container(family: str, sizes: Sizes) -> None:
    specs = tensors_of(sizes.applied(small(family)))
    assert len({spec.key for spec in specs}) == len(specs)
    assert all(len(spec.key) <= 16 and spec.key.isascii() for spec in specs)


# What a file of a model may have.


@given(family=families, sizes=models.sizes, weight=weights, form=forms)
def test_a_model_as_the_table_says_is_faultless(family: str, sizes: Sizes, weight: str, form: str) -> None:
    config = sizes.applied(small(family, weight))
    assert check_tensors(config, table_of(config, form)) == []


@all_forms
@all_weights
@all_families
def test_what_gemma_cpp_wrote_is_faultless(shared_vectors: Path, family: str, weight: str, form: str) -> None:
    facts = json.loads((shared_vectors / "convert" / f"tiny-{family}.expected.json").read_bytes())
    tensors = [blob for blob in facts["expected"][f"{weight}-{form}"] if "type" in blob]
    config = tiny(family, weight)
    table = {blob["key"]: toc_entry(blob["key"], BY_NAME[blob["type"]], blob["rows"], blob["cols"]) for blob in tensors}
    assert check_tensors(config, table) == []
    assert {blob["key"]: blob["bytes"] for blob in tensors} == {key: entry.nbytes for key, entry in table.items()}
    specs = {spec.key: spec for spec in tensors_of(config) if spec.form in ("", form)}
    assert {key: default_type(spec, weight).name for key, spec in specs.items()} == {
        blob["key"]: blob["type"] for blob in tensors
    }


def test_complete_files_are_faultless(shared_vectors: Path) -> None:
    paths = sorted((shared_vectors / "convert").glob("*.sbs"))
    assert len(paths) == 8
    for path in paths:
        with blobstore.BlobReader(path) as reader:
            config = ModelConfig.from_bytes(bytes(reader["config"]))
            table = {entry.name: entry for entry in parse_toc(bytes(reader["toc"]))}
        assert check_tensors(config, table) == []
        assert faults_of(config.with_weight("f32"), table) == [("weight", "config")]


def taken_types(row: Row) -> set[str]:
    if row.floor:
        return {"f32", row.floor}
    return {*WEIGHT_TYPES} - ({*BLOCKS} if row.cols % 32 else set())


@given(family=families, weight=weights, form=forms, data=st.data())
def test_a_type_that_is_wide_enough_is_taken(family: str, weight: str, form: str, data: st.DataObject) -> None:
    config = small(family, weight)
    rows = spec_tensors(config, form)
    table = table_of(config, form)
    row = data.draw(st.sampled_from(rows))
    type_name = data.draw(st.sampled_from(sorted(taken_types(row))))
    table[row.key] = entry_of(row, type_name)
    bits = min(BY_NAME[entry.type.name].bits for entry in table.values())
    first = next(entry.type for entry in table.values() if entry.type.bits == bits)
    assert faults_of(config.with_weight(first.name), table) == []


@given(family=families, form=forms, data=st.data())
def test_a_type_that_is_too_narrow_is_a_fault(family: str, form: str, data: st.DataObject) -> None:
    config = small(family, "sfp")
    table = table_of(config, form)
    row = data.draw(st.sampled_from(spec_tensors(config, form)))
    type_name = data.draw(st.sampled_from(sorted({*WEIGHT_TYPES, "f64", "u32", "u64"} - taken_types(row))))
    table[row.key] = entry_of(row, type_name)
    [fault, *others] = check_tensors(config, table)
    assert (fault.reason, fault.name) == ("type", row.key)
    any_type = "f32, bf16, sfp, nuq, i8, q4_0, mxfp4"
    if row.cols % 32:
        any_type = "f32, bf16, sfp, nuq, i8 (q4_0 and mxfp4 need a multiple of 32 columns)"
    taken = {"": any_type, "bf16": "f32 or bf16", "f32": "f32"}[row.floor]
    assert fault.message == f"{row.key!r} is {type_name}, the runtime takes {taken}"
    # The narrowest type may have changed.
    assert {fault.reason for fault in others} <= {"weight"}


@pytest.mark.parametrize("family", models.VISION)
def test_what_the_runtime_reads_as_f32_is_f32(family: str) -> None:
    config = small(family)
    table = table_of(config)
    wide = [row for row in spec_tensors(config, "stock") if row.floor == "f32"]
    assert len(wide) == 3 + 4 * len(config.vit_config.layer_configs)
    for row in wide:
        fault = the_fault(config, table | {row.key: entry_of(row, "bf16")})
        assert fault == Fault("type", row.key, f"{row.key!r} is bf16, the runtime takes f32")


@given(family=families, form=forms, weight=weights, data=st.data())
def test_another_shape_is_a_fault(family: str, form: str, weight: str, data: st.DataObject) -> None:
    config = small(family, weight)
    table = table_of(config, form)
    entry = table[data.draw(st.sampled_from(sorted(table)))]
    rows, cols = data.draw(
        st.sampled_from([(entry.cols, entry.rows), (entry.rows + 1, entry.cols), (entry.rows, 2 * entry.cols)])
    )
    if (rows, cols) == (entry.rows, entry.cols):
        return
    table[entry.name] = toc_entry(entry.name, entry.type, rows, cols)
    fault = the_fault(config, table)
    assert (fault.reason, fault.name) == ("shape", entry.name)
    message = f"{entry.name!r} is {rows} × {cols}, the config says {entry.rows} × {entry.cols}"
    assert fault.message == message


@given(family=families, weight=weights, form=forms, key=st.sampled_from(["x", "att_ein_9", "lm_head", "C_EMBEDDING"]))
def test_another_tensor_is_a_fault_that_the_runtime_ignores(family: str, weight: str, form: str, key: str) -> None:
    config = small(family, weight)
    table = table_of(config, form) | {key: toc_entry(key, BY_NAME[weight], 3, 4)}
    fault = the_fault(config, table)
    assert fault == Fault("unexpected", key, f"{key!r} is not a tensor of this model: the runtime ignores it")


def test_a_tensor_of_another_family_is_unexpected() -> None:
    config = small("gemma2")
    more = {key: entry for key, entry in table_of(small("gemma3")).items() if "_norm_" in key}
    assert set(faults_of(config, table_of(config) | more)) == {("unexpected", key) for key in more}
    assert set(more) == {f"{one}_norm_{i}" for one in ("key", "query") for i in (0, 1)}


@given(family=families, weight=weights, form=forms, data=st.data())
def test_every_missing_tensor_is_named(family: str, weight: str, form: str, data: st.DataObject) -> None:
    config = small(family, weight)
    table = table_of(config, form)
    gone = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=5, unique=True))
    left = {key: entry for key, entry in table.items() if key not in gone}
    faults = check_tensors(config, left)
    named = " ".join(fault.message for fault in faults if fault.reason == "missing")
    assert all(key in named for key in gone)
    assert all(key not in named for key in left)
    assert {fault.reason for fault in faults} == {"missing"}


@all_families
def test_a_missing_tensor_without_a_choice_is_one_fault(family: str) -> None:
    config = small(family)
    for form in FORMS:
        table = table_of(config, form)
        alone = [
            key
            for key in table
            if key.rpartition("_")[0] not in {one for pair in PAIRS.values() for part in pair for one in part}
        ]
        assert len(alone) > 10
        for key in alone:
            left = {one: entry for one, entry in table.items() if one != key}
            assert the_fault(config, left) == Fault("missing", key, f"{key!r} is missing")


@all_families
@pytest.mark.parametrize("slot", PAIRS)
def test_a_missing_form_says_what_may_stand_for_it(family: str, slot: str) -> None:
    config = small(family)
    (stock,), split = ([f"{one}_1" for one in part] for part in PAIRS[slot])
    left = {key: entry for key, entry in table_of(config, "stock").items() if key != stock}
    assert [str(fault.message) for fault in check_tensors(config, left)] == [
        f"{stock!r} is missing (or {', '.join(split)})"
    ]


@all_families
@pytest.mark.parametrize("slot", ["qkv", "gating"])
@pytest.mark.parametrize("i", [0, 1])
def test_of_two_split_tensors_the_missing_one_is_named(family: str, slot: str, i: int) -> None:
    config = small(family)
    (stock,), split = ([f"{one}_0" for one in part] for part in PAIRS[slot])
    left = {key: entry for key, entry in table_of(config, "split").items() if key != split[i]}
    fault = the_fault(config, left)
    assert fault == Fault("missing", split[i], f"{split[i]!r} is missing (or {stock})")


def test_without_any_tensor_each_form_s_first_is_named_once() -> None:
    config = small("gemma3vlm")
    faults = check_tensors(config, {})
    assert {fault.reason for fault in faults} == {"missing"}
    assert len({fault.name for fault in faults}) == len(faults)
    named = " ".join(fault.message for fault in faults)
    assert all(spec.key in named for spec in tensors_of(config))


@given(family=families, weight=weights, data=st.data())
def test_layers_and_pairs_may_have_forms_of_their_own(family: str, weight: str, data: st.DataObject) -> None:
    config = small(family, weight)
    by_form = {form: table_of(config, form) for form in FORMS}
    table = {key: entry for key, entry in by_form["stock"].items() if key in by_form["split"]}
    for i in range(config.num_layers):
        for stock, split in PAIRS.values():
            form = data.draw(forms)
            for base in stock if form == "stock" else split:
                table[f"{base}_{i}"] = by_form[form][f"{base}_{i}"]
    assert check_tensors(config, table) == []


@all_families
@pytest.mark.parametrize("slot", PAIRS)
def test_a_layer_with_both_forms_is_a_fault(family: str, slot: str) -> None:
    # "Of each of the three pairs of forms a layer has one": the runtime's loader stops at both.
    config = small(family)
    stock, split = table_of(config, "stock"), table_of(config, "split")
    keys = [f"{base}_0" for part in PAIRS[slot] for base in part]
    message = f"{', '.join(keys)} are of two forms of the same tensor: the runtime stops"
    fault = the_fault(config, stock | {key: split[key] for key in keys[1:]})
    assert fault == Fault("both-forms", keys[0], message)


@all_families
@pytest.mark.parametrize("base", ["qkv1_w", "gating1_w", "gating2_w"])
def test_a_layer_with_one_form_and_half_of_the_other_is_a_fault(family: str, base: str) -> None:
    config = small(family)
    table = table_of(config, "stock") | {f"{base}_1": table_of(config, "split")[f"{base}_1"]}
    fault = the_fault(config, table)
    assert fault.reason == "both-forms"
    assert f"{base}_1" in fault.message


# The weight type.


@given(family=families, weight=weights, named=st.sampled_from(WEIGHT_TYPES), form=forms)
def test_the_config_names_the_narrowest_type(family: str, weight: str, named: str, form: str) -> None:
    config = small(family, weight)
    faults = check_tensors(config.with_weight(named), table_of(config, form))
    if named == weight:
        assert faults == []
        return
    message = f"the config says weights are {named}, the narrowest tensor is {weight}: the runtime stops"
    assert faults == [Fault("weight", "config", message)]


def test_a_config_without_a_weight_type_is_a_fault() -> None:
    config = replace(small("gemma3"), weight=WeightType.UNKNOWN)
    fault = the_fault(config, table_of(small("gemma3")))
    assert (fault.reason, fault.name) == ("weight", "config")
    assert "weights are unknown, the narrowest tensor is bf16" in fault.message


def test_of_types_of_the_same_width_the_first_one_counts() -> None:
    # As in the runtime: sfp and i8 both have 8 bits.
    config = small("gemma2", "sfp")
    table = table_of(config)
    keys = [key for key, entry in table.items() if entry.type.name == "sfp"]
    for at in (keys[0], keys[-1]):
        entry = table[at]
        mixed = table | {at: toc_entry(at, BY_NAME["i8"], entry.rows, entry.cols)}
        first = "i8" if at == keys[0] else "sfp"
        assert check_tensors(config.with_weight(first), mixed) == []
        assert faults_of(config.with_weight("sfp" if first == "i8" else "i8"), mixed) == [("weight", "config")]


@given(kinds=st.lists(st.sampled_from(WEIGHT_TYPES), max_size=6))
def test_the_narrowest_type_is_the_first_of_the_fewest_bits(kinds: list[str]) -> None:
    bits = {"f32": 32, "bf16": 16, "sfp": 8, "i8": 8, "nuq": 4, "q4_0": 4, "mxfp4": 4}
    expected = sorted(kinds, key=bits.__getitem__)[:1]  # stable
    narrowest = narrowest_type(BY_NAME[name] for name in kinds)
    assert ([narrowest.name] if narrowest else []) == expected


def test_an_f32_model_has_nothing_but_f32() -> None:
    config = small("paligemma2", "f32")
    table = table_of(config)
    assert {entry.type.name for entry in table.values()} == {"f32"}
    norm = table["c_final_norm"]
    table["c_final_norm"] = toc_entry("c_final_norm", BY_NAME["bf16"], norm.rows, norm.cols)
    assert faults_of(config, table) == [("weight", "config")]


# What a converter stores.


@given(family=families, sizes=models.sizes, form=forms, weight=st.sampled_from(WEIGHT_TYPES))
def test_default_types_make_a_faultless_model(family: str, sizes: Sizes, form: str, weight: str) -> None:
    config = sizes.applied(small(family)).with_weight(weight)
    specs = [spec for spec in tensors_of(config) if spec.form in ("", form)]
    kinds = {spec.key: default_type(spec, weight) for spec in specs}
    assert all(spec.allows(kinds[spec.key]) for spec in specs)
    table = {spec.key: toc_entry(spec.key, kinds[spec.key], spec.rows, spec.cols) for spec in specs}
    narrowest = narrowest_type(kinds.values())
    assert narrowest is not None
    assert narrowest.name in (weight, "sfp" if weight in BLOCKS else weight)
    assert check_tensors(config.with_weight(narrowest.name), table) == []
    rows = spec_tensors(config, form)
    assert {key: element_type.name for key, element_type in kinds.items()} == {
        row.key: row.stored_type(weight) for row in rows
    }
