"""Which model a checkpoint is: the twelve that the runtime knows, with their real shapes; fine-tunes; disagreements."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.checkpoint.reader import open_checkpoint
from blobstore.converting.choices import Choices
from blobstore.converting.gemma_config import lost_stops, runtime_faults
from blobstore.converting.gemma_families import family_of
from blobstore.converting.gemma_plan import is_gemma, plan_for_gemma
from blobstore.converting.gemma_recognise import recognise
from blobstore.errors import CheckpointError, Fault
from blobstore.gemma import ModelConfig
from blobstore.gemma.config import VitConfig
from blobstore.gemma.enums import LayerType, Model, QueryScale, WeightType, Wrapping
from blobstore.gemma.models import config_of, model_config
from blobstore.index import shape_fault
from blobstore.index.metadata import CHOICES
from tests.checkpoints import snapshot, write_config
from tests.gemma_checkpoints import NEW, OLD, TEXT_ONLY, Recipe, Size, plan_of, small_recipe, tokenizer, write_sparse
from tests.models import (
    ALL_FAMILIES,
    CONFIG_SHA256,
    FAMILIES,
    TINY,
    VISION,
    WEIGHTS,
    packed,
    spec_tensors,
    tiny,
    unpacked,
)

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.checkpoint.reader import Checkpoint
    from tests.gemma_checkpoints import Config

# What config.json of the published checkpoints says, by how the specifier begins. Newer ones leave out the defaults of
# their exporter: 4B has no more than this for its text part.
GEMMA2 = {"model_type": "gemma2", "sliding_window": 4096, "vocab_size": 256000, "tie_word_embeddings": True}
GEMMA3 = {"model_type": "gemma3_text", "vocab_size": 262144, "max_position_embeddings": 32768}
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "patch_size": 14}
SIGLIP |= {"num_attention_heads": 16, "num_hidden_layers": 27}


def sizes_said(hidden: int, inner: int, layers: int, *heads_and_sizes: int) -> Config:
    heads, kv_heads, head = heads_and_sizes
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
    }


SIZES = {
    "gemma2-2b": sizes_said(2304, 9216, 26, 8, 4, 256) | {"query_pre_attn_scalar": 256},
    "9b": sizes_said(3584, 14336, 42, 16, 8, 256) | {"query_pre_attn_scalar": 256},
    "27b": sizes_said(4608, 36864, 46, 32, 16, 128) | {"query_pre_attn_scalar": 144},
    "gemma3-270m": sizes_said(640, 2048, 18, 4, 1, 256) | {"query_pre_attn_scalar": 256, "sliding_window": 512},
    "gemma3-1b": sizes_said(1152, 6912, 26, 4, 1, 256) | {"query_pre_attn_scalar": 256, "sliding_window": 512},
    "gemma3-4b": sizes_said(2560, 10240, 34, 8, 4, 256) | {"sliding_window": 1024},
    "gemma3-12b": sizes_said(3840, 15360, 48, 16, 8, 256) | {"sliding_window": 1024},
    "gemma3-27b": sizes_said(5376, 21504, 62, 32, 16, 128) | {"sliding_window": 1024},
}
NOT_SAID_BY_4B = ("num_attention_heads", "num_key_value_heads", "head_dim")
KNOWN = [
    *("gemma2-2b", "9b", "27b", "gemma3-270m", "gemma3-1b", "gemma3-4b", "gemma3-12b", "gemma3-27b"),
    *("paligemma2-3b-224", "paligemma2-3b-448", "paligemma2-10b-224", "paligemma2-10b-448"),
]


def real(name: str) -> tuple[Recipe, Config]:
    """Return a checkpoint with the real shapes, and its config.json."""
    is_pali = name.startswith("paligemma2")
    text = SIZES[("gemma2-2b" if "-3b-" in name else "9b") if is_pali else name]
    image = int(name.rpartition("-")[2]) if is_pali else 896
    family = (
        "paligemma2"
        if is_pali
        else "gemma2"
        if not name.startswith("gemma3")
        else "gemma3"
        if name in ("gemma3-270m", "gemma3-1b")
        else "gemma3vlm"
    )
    vocabulary = {"gemma2": 256000, "paligemma2": 257152}.get(family, 262144)
    size = Size(
        layers=text["num_hidden_layers"],
        width=text["hidden_size"],
        hidden=text["intermediate_size"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head=text["head_dim"],
        vocabulary=vocabulary,
        vision_layers=27,
        vision_width=1152,
        vision_heads=16,
        vision_hidden=4304,
        patch=14,
        side=image // 14,
    )
    prefixes = TEXT_ONLY if family not in VISION else OLD if is_pali else NEW
    if family not in VISION:
        return Recipe(family, prefixes, size=size), (GEMMA2 if family == "gemma2" else GEMMA3) | text
    if is_pali:
        config = {"model_type": "paligemma", "text_config": GEMMA2 | text | {"vocab_size": 257216}}
    else:
        shown = {key: value for key, value in text.items() if key not in NOT_SAID_BY_4B}
        config = {"model_type": "gemma3", "text_config": shown | {"model_type": "gemma3_text"}}
    return Recipe(family, prefixes, size=size), config | {"vision_config": SIGLIP | {"image_size": image}}


@pytest.mark.parametrize("weight", ["sfp", "f32"])
@pytest.mark.parametrize("name", KNOWN)
def test_real_shapes_are_the_known_model(tmp_path: Path, name: str, weight: str) -> None:
    recipe, config = real(name)
    folder = write_sparse(tmp_path / "c", recipe, config)
    before = sorted(folder.iterdir())
    one_only = recipe.vision or name == "gemma3-1b"
    for wrapping in (None,) if one_only else (None, "it"):
        specifier = f"{name}-{weight}" + ("" if one_only else f"-{wrapping or 'pt'}")
        expected = config_of(specifier)
        for layout in ("split", "stock"):
            plan = plan_of(folder, Choices(weight, layout, wrapping))
            assert plan.config is not None
            assert plan.config.to_bytes() == expected.to_bytes()
            assert not any("no published model" in note for note in plan.notes)
            rows = {row.key: row for row in spec_tensors(expected, layout)}
            assert {tensor.key: (tensor.type.name, tensor.shape) for tensor in plan.tensors} == {
                key: (row.stored_type(weight), (row.rows, row.cols)) for key, row in rows.items()
            }
    assert sorted(folder.iterdir()) == before


def test_the_list_of_real_models_is_complete() -> None:
    models = {config_of(f"{name}-sfp{'-it' if 'gemma' not in name else ''}").model for name in KNOWN}
    assert models == {model for model in Model if Model.UNKNOWN < model <= Model.GEMMA3_270M}


def test_gemma_3_27b_as_published_scales_queries_by_its_width(tmp_path: Path) -> None:
    """Its config.json says 168 = 5376 / 32; gemma.cpp's own config says 1 / sqrt(qkv_dim), which is 128."""
    recipe, config = real("gemma3-27b")
    expected = config_of("gemma3-27b-sfp")
    folder = write_sparse(tmp_path / "c", recipe, config)
    for scalar, scale in ((168, QueryScale.SQRT_MODEL_DIM_DIV_NUM_HEADS), (128, QueryScale.SQRT_KEY_SIZE)):
        config["text_config"] |= {"query_pre_attn_scalar": scalar}
        write_config(folder, config)
        assert plan_of(folder, Choices()).config == replace(expected, query_scale=scale)


# --------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("wrapping", [None, "it", "pt"])
@pytest.mark.parametrize("name", ["gemma3-4b", "gemma3-12b", "gemma3-27b"])
def test_a_large_gemma_3_without_its_vision_part_keeps_its_number(
    tmp_path: Path, name: str, wrapping: str | None
) -> None:
    """Later runtimes number them 20 to 22, which the two older ones stop at."""
    recipe, _ = real(name)
    recipe = replace(recipe, family="gemma3", prefixes=TEXT_ONLY)
    plan = plan_of(write_sparse(tmp_path / "c", recipe, GEMMA3 | SIZES[name]), Choices("sfp", "split", wrapping))
    assert plan.config is not None
    own = config_of(f"{name}-sfp")
    expected = replace(own, wrapping=Wrapping[(wrapping or "pt").upper()], vit_config=VitConfig())
    assert plan.config.to_bytes() == expected.to_bytes()
    assert plan.config.use_global_timescale
    assert not any("no published model" in note for note in plan.notes)
    assert {tensor.key for tensor in plan.tensors} == {row.key for row in spec_tensors(expected, "split")}


@pytest.mark.parametrize("template", ["", "chat_template.jinja"])
@pytest.mark.parametrize("wrapping", [None, "it", "pt"])
@pytest.mark.parametrize("name", ["gemma3-270m", "gemma3-1b", "small"])
def test_a_text_model_is_wrapped_like_published_ones_or_as_chosen(
    tmp_path: Path, name: str, wrapping: str | None, template: str
) -> None:
    recipe, config = real(name) if name != "small" else (small_recipe("gemma3"), small_recipe("gemma3").config())
    folder = write_sparse(tmp_path / "c", recipe, config)
    if template:
        (folder / template).write_text("{{ bos_token }}")
    plan = plan_of(folder, Choices(wrapping=wrapping))
    assert plan.config is not None
    own = "vlm" if name == "gemma3-1b" else "it" if template else "pt"
    assert plan.config.wrapping == Wrapping[(wrapping or own).upper()]


@pytest.mark.parametrize("bases", [(1e4, 1e6), (1e4, 1e4), (1e6, 1e6), (2e4, 3e5)])
@pytest.mark.parametrize("family", ["gemma3", "gemma3vlm"])
def test_a_gemma_3_of_another_size_gets_the_number_under_which_every_runtime_is_right(
    tmp_path: Path, family: str, bases: tuple[float, float]
) -> None:
    """2025-10 gives global layers a base of 1e6 by the number, but not for 270M: never use that one for two bases."""
    recipe = small_recipe(family)
    config = recipe.config()
    config.get("text_config", config).update(rope_theta=bases[1], rope_local_base_freq=bases[0])
    plan = plan_of(recipe.write(tmp_path / "c", None, config), Choices("bf16"))
    assert plan.config is not None
    one_base = bases[0] == bases[1]
    text = Model.GEMMA3_270M if one_base else Model.GEMMA3_1B
    assert plan.config.model == (text if family == "gemma3" else Model.GEMMA3_4B)
    assert plan.config.use_global_timescale is not one_base
    assert plan.config.field_count >= 24  # use_global_timescale is stored, whatever its value
    assert json.loads(plan.metadata[CHOICES]).get("rope_bases") == ([*bases] if one_base else None)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_configs_are_those_that_gemma_cpp_wrote_but_for_one_field_and_the_label(
    tmp_path: Path, family: str, weight: str
) -> None:
    """For checkpoints like those in ../shared/vectors/convert; the hashes are recorded."""
    tiny = TINY[family]
    size = Size(len(tiny.windows), tiny.model_dim, tiny.hidden, tiny.heads, tiny.kv_heads, tiny.qkv_dim)
    size = replace(size, vocabulary=tiny.vocabulary, patch=tiny.patch, side=tiny.image // tiny.patch)
    size = replace(size, vision_width=64, vision_heads=4, vision_hidden=96)
    folder = write_sparse(tmp_path / "c", small_recipe(family, size=size))
    plan = plan_of(folder, Choices(weight))
    assert plan.config is not None
    ours = plan.config
    words = unpacked(ours.to_bytes())
    if family.startswith("gemma3"):
        # The outermost record has one more word, 1, at its end; nothing inside has grown.
        assert words[0] == len(words) - 1
        assert words.pop() == 1
        words[0] -= 1
    if family == "gemma3":
        assert (ours.model, ours.display_name) == (Model.GEMMA3_1B, "Gemma3_1B")
        old = replace(ModelConfig.from_bytes(packed(words)), model=Model.GEMMA3_270M, display_name="Gemma3_270M")
        words = unpacked(old.to_bytes())
    assert hashlib.sha256(packed(words)).hexdigest() == CONFIG_SHA256[f"{family} {weight}"]


# ----------------------------------------------------------------------------------------------------------- fine-tunes


@pytest.mark.parametrize("name", ["gemma3-270m", "gemma2-2b", "gemma3-4b", "paligemma2-3b-224"])
def test_a_fine_tune_with_another_vocabulary_is_still_that_model(tmp_path: Path, name: str) -> None:
    recipe, config = real(name)
    recipe = replace(recipe, size=replace(recipe.size, vocabulary=recipe.size.vocabulary + 96))
    for part in (config, config.get("text_config", {})):
        if "vocab_size" in part:
            part["vocab_size"] += 96
    if recipe.vision:
        config["image_token_index"] = recipe.size.vocabulary
    plan = plan_of(write_sparse(tmp_path / "c", recipe, config), Choices(wrapping="it"))
    assert plan.config is not None
    known = config_of(f"{name}-sfp" + ("" if recipe.vision else "-it"))
    assert plan.config == replace(known, vocab_size=known.vocab_size + 96)
    assert plan.tensors[0].shape == (known.vocab_size + 96, known.model_dim)


@pytest.mark.parametrize("rows", [1, 16, 33, 100])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_without_padding_a_vocabulary_that_the_runtime_stops_at_is_refused(
    tmp_path: Path, family: str, rows: int
) -> None:
    recipe = small_recipe(family, size=Size(vocabulary=rows), tokenizer=tokenizer(rows))
    folder = recipe.write(tmp_path / "c")
    with pytest.raises(CheckpointError) as caught:
        plan_of(folder, Choices(pad=False))
    ((reason, name, message),) = caught.value.faults
    assert (reason, name) == ("vocabulary", "embed_tokens.weight")
    assert str(rows) in message
    assert "32" in message
    assert "pad" in message


def test_other_dimensions_are_noted_and_labelled_as_one_of_the_family(tmp_path: Path) -> None:
    labels = {
        "gemma2": "Gemma2_2B",
        "gemma3": "Gemma3_1B",
        "gemma3vlm": "Gemma3_4B",
        "paligemma2": "PaliGemma2_3B_224",
    }
    for family, name in labels.items():
        plan = plan_of(small_recipe(family).write(tmp_path / family), Choices())
        assert plan.config is not None
        assert plan.config.display_name == name
        assert any(name in note and "no published model" in note for note in plan.notes)


@pytest.mark.parametrize("layers", [1, 5, 6, 7, 13])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_windows_continue_their_pattern(tmp_path: Path, family: str, layers: int) -> None:
    recipe = small_recipe(family, size=Size(layers=layers))
    plan = plan_of(recipe.write(tmp_path / "c"), Choices())
    assert plan.config is not None
    assert plan.config == recipe.model_config("sfp")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_window_is_the_checkpoints(tmp_path: Path, family: str) -> None:
    recipe = small_recipe(family)
    config = recipe.config()
    config.get("text_config", config)["sliding_window"] = 768
    plan = plan_of(recipe.write(tmp_path / "c", None, config), Choices())
    assert plan.config is not None
    assert plan.config.attention_window_sizes[0] == 768


def test_vision_layers_are_of_their_own_type(tmp_path: Path) -> None:
    plan = plan_of(small_recipe("gemma3vlm").write(tmp_path / "c"), Choices())
    assert plan.config is not None
    vision = plan.config.vit_config
    assert {layer.type for layer in vision.layer_configs} == {LayerType.VIT}
    assert (vision.image_size, vision.seq_len, vision.pool_dim) == (6, 9, 4)


# ----------------------------------------------------------------------------------- what config.json has to agree with


def refused(folder: Path) -> list[Fault]:
    before = snapshot(folder)
    with pytest.raises(CheckpointError) as caught:
        plan_of(folder, Choices())
    assert snapshot(folder) == before
    return list(caught.value.faults)


@pytest.mark.parametrize(
    "field",
    [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "head_dim",
    ],
)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_config_that_disagrees_is_refused(tmp_path: Path, family: str, field: str) -> None:
    recipe = small_recipe(family)
    config = recipe.config()
    text = config.get("text_config", config)
    was = text[field]
    text[field] = was + 2 if field != "head_dim" or family.startswith("gemma3") else was * 3
    text["query_pre_attn_scalar"] = text["head_dim"]
    faults = refused(recipe.write(tmp_path / "c", None, config))
    wrong = [fault for fault in faults if fault.name == field]
    if field == "head_dim" and family in ("gemma2", "paligemma2"):
        # No shape tells it: another head size gives another number of heads, or none.
        assert {fault.name for fault in faults} & {"num_attention_heads", "num_key_value_heads"}
        return
    assert [fault.reason for fault in wrong] == ["config-disagrees"]
    assert str(was) in wrong[0].message
    assert str(text[field]) in wrong[0].message


HOSTILE = {
    "no rows": ("self_attn.q_proj", (0, 16), "missing-tensor"),
    "no columns, and so no bytes for all the rows": ("self_attn.q_proj", (2**50, 0), "missing-tensor"),
    "nothing hidden": ("mlp.gate_proj", (0, 16), "missing-tensor"),
    "more heads than anybody has": ("self_attn.k_proj", (8 * 1025, 16), "shape"),
}


@pytest.mark.parametrize(("part", "shape", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_projections_of_hostile_shapes_are_refused(part: str, shape: tuple[int, ...], reason: str) -> None:
    shapes = {"model.embed_tokens.weight": (64, 16)}
    prefix = "model.layers.0."
    shapes |= {f"{prefix}{text}.weight": (32, 16) for text in ("mlp.gate_proj", "self_attn.q_proj", "self_attn.k_proj")}
    config = {"head_dim": 8, "query_pre_attn_scalar": 5}
    assert not isinstance(recognise("gemma2", config, shapes), Fault)
    fault = recognise("gemma2", config, shapes | {f"{prefix}{part}.weight": shape})
    assert isinstance(fault, Fault)
    assert fault.reason == reason


_VALUES: list[Any] = [None, True, 0, 1, -1, 2, 2**31, 2**64, 10**30, 1.5, float("nan"), "", "x", "gemma2", [], [1], {}]
_SIZES = [0, 1, 2, 3, 7, 2**20, 2**31, 2**40, 2**56]


def mutate_config(data: st.DataObject, config: Config) -> None:
    inside: Any = config
    while True:
        key = data.draw(st.sampled_from(sorted(inside)))
        if not isinstance(inside[key], dict) or not inside[key] or data.draw(st.booleans()):
            break
        inside = inside[key]
    inside[key] = json.loads(json.dumps(data.draw(st.sampled_from(_VALUES))))


def mutate_shape(data: st.DataObject, checkpoint: Checkpoint) -> None:
    name = data.draw(st.sampled_from(sorted(checkpoint.tensors)))
    entry = checkpoint.tensors[name]
    shape = list(entry.shape)
    for place in data.draw(st.lists(st.integers(0, len(shape)), max_size=2)):
        shape[place : place + data.draw(st.integers(0, 1))] = data.draw(st.lists(st.sampled_from(_SIZES), max_size=1))
    if shape_fault(tuple(shape)) is None:  # otherwise the header is refused
        checkpoint.tensors[name] = replace(entry, shape=tuple(shape))


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_any_config_and_any_shapes_are_planned_or_refused(tmp_path: Path, family: str) -> None:
    with open_checkpoint(small_recipe(family).write(tmp_path / "c")) as checkpoint:
        config, tensors = json.dumps(checkpoint.config), dict(checkpoint.tensors)
        planned = []

        @given(st.data())
        def check(data: st.DataObject) -> None:
            checkpoint.config, checkpoint.tensors = json.loads(config), dict(tensors)
            for _ in range(data.draw(st.integers(0, 2))):
                mutate_config(data, checkpoint.config)
            for _ in range(data.draw(st.integers(0, 2))):
                mutate_shape(data, checkpoint)
            if not is_gemma(checkpoint):
                return
            with suppress(CheckpointError):
                planned.append(plan_for_gemma(checkpoint, Choices(), tokenizer=None, chat_template=False))

        check()
        assert planned


def test_all_disagreements_are_reported_at_once(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    wrong = {"hidden_size": 1, "intermediate_size": 2, "num_hidden_layers": 30, "vocab_size": 7}
    faults = refused(recipe.write(tmp_path / "c", None, recipe.config() | wrong))
    assert {fault.name for fault in faults} == set(wrong)


@pytest.mark.parametrize("family", ["gemma2", "paligemma2"])
@pytest.mark.parametrize("value", [None, 0, -4, "4", 4.0, True])
def test_a_head_size_that_nothing_tells_is_asked_for(tmp_path: Path, family: str, value: object) -> None:
    recipe = small_recipe(family)
    config = recipe.config()
    text = config.get("text_config", config)
    text["head_dim"] = value
    if value is None:
        del text["head_dim"]
    ((reason, name, message),) = refused(recipe.write(tmp_path / "c", None, config))
    assert (reason, name) == ("missing-config", "head_dim")
    assert "config.json" in message


@pytest.mark.parametrize("family", ["gemma3", "gemma3vlm"])
def test_norms_tell_the_head_size_of_gemma_3(tmp_path: Path, family: str) -> None:
    recipe = small_recipe(family)
    config = recipe.config()
    for field in (*NOT_SAID_BY_4B, "vocab_size"):
        config.get("text_config", config).pop(field)
    plan = plan_of(recipe.write(tmp_path / "c", None, config), Choices())
    assert plan.config == recipe.model_config("sfp")


@pytest.mark.parametrize("scalar", [7, 0, "x", None, 1e300, [4]])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_query_scale_that_the_runtime_lacks_is_refused(tmp_path: Path, family: str, scalar: object) -> None:
    recipe = small_recipe(family)
    config = recipe.config()
    config.get("text_config", config)["query_pre_attn_scalar"] = scalar
    ((reason, name, message),) = refused(recipe.write(tmp_path / "c", None, config))
    assert (reason, name) == ("unsupported-config", "query_pre_attn_scalar")
    assert "head_dim" in message


def test_both_query_scales_are_known(tmp_path: Path) -> None:
    recipe = small_recipe("gemma2", size=Size(width=24, heads=4, kv_heads=2, head=8))
    for scalar, expected in ((8, QueryScale.SQRT_KEY_SIZE), (6, QueryScale.SQRT_MODEL_DIM_DIV_NUM_HEADS)):
        folder = recipe.write(tmp_path / "c", None, recipe.config() | {"query_pre_attn_scalar": scalar})
        config = plan_of(folder, Choices()).config
        assert config is not None
        assert config.query_scale == expected


@pytest.mark.parametrize("family", VISION)
def test_heads_of_the_vision_part_that_do_not_divide_it_are_refused(tmp_path: Path, family: str) -> None:
    recipe = small_recipe(family)
    config = recipe.config()
    config["vision_config"]["num_attention_heads"] = 4
    faults = refused(recipe.write(tmp_path / "c", None, config))
    assert any(fault.reason == "shape" and "heads" in fault.message for fault in faults)


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size", "num_hidden_layers", "patch_size", "image_size"])
@pytest.mark.parametrize("family", VISION)
def test_a_vision_config_that_disagrees_is_refused(tmp_path: Path, family: str, field: str) -> None:
    recipe = small_recipe(family)
    config = recipe.config()
    config["vision_config"][field] += 1
    faults = refused(recipe.write(tmp_path / "c", None, config))
    assert any(field in fault.name for fault in faults)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = st.sampled_from(
    [
        *("model_type", "text_config", "vision_config", "hidden_size", "head_dim", "sliding_window", "vocab_size"),
        *("num_attention_heads", "query_pre_attn_scalar", "num_hidden_layers", "quantization_config"),
    ]
)


@given(family=st.sampled_from(list(FAMILIES)), junk=st.dictionaries(_FIELDS, _JUNK, max_size=3), inside=st.booleans())
def test_any_config_is_converted_or_refused(tmp_path: Path, family: str, junk: dict[str, Any], inside: bool) -> None:
    recipe = small_recipe(family)
    folder = tmp_path / family
    if not folder.exists():
        recipe.write(folder)
    config = recipe.config()
    parts = [part for part in (config.get("text_config"), config.get("vision_config")) if part]
    for part in parts if inside and parts else [config]:
        part.update(junk)
    write_config(folder, config)
    try:
        made: list[Any] = list(plan_of(folder, Choices()).tensors)
    except CheckpointError as error:
        made = list(error.faults)
    assert made


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"model_type": ["gemma2"]}, {"model_type": "llama"}])
def test_other_models_have_no_family(config: Config) -> None:
    assert family_of(config) == (None, None)


@pytest.mark.parametrize("layers", [1, 998, 999, 1000, 1001])
def test_999_layers_are_the_most(layers: int) -> None:
    config = replace(tiny("gemma3"), vocab_size=32, layer_configs=tiny("gemma3").layer_configs[:1] * layers)
    assert [fault.reason for fault in runtime_faults(config)] == ["too-many-layers"] * (layers > 999)


@pytest.mark.parametrize(
    ("model", "own", "lost"),
    [
        (Model.GEMMA2_2B, (1, 106, 107), 151645),
        (Model.GEMMA4_2B_LM, (1, 106), 107),
        (Model.GEMMA4_26B_MOE, (1, 106), 107),
        (Model.T5GEMMA_S_S, (1, 107), 106),
        (Model.QWEN3_4B, (151645, 151643), 106),
    ],
)
def test_only_a_familys_own_stop_tokens_may_be_outside_the_vocabulary(
    model: Model, own: tuple[int, ...], lost: int
) -> None:
    """They fill up where a checkpoint names fewer; others were given, and the model never stops at them."""
    config = replace(model_config(model, WeightType.BF16), vocab_size=1)
    for token in own:
        assert not lost_stops(replace(config, eos_id=token, secondary_eos_id=0))
    assert lost_stops(replace(config, eos_id=lost, secondary_eos_id=0)) == {"eos_id": lost}
