from __future__ import annotations

import hashlib
import importlib
import json
import struct
from dataclasses import FrozenInstanceError, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore.gemma
from blobstore.errors import UsageError
from blobstore.gemma import config as module
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.enums import Model, OpenEnum, QueryScale, TokenizerKind, WeightType, Wrapping
from blobstore.gemma.models import config_of, is_gemma3, model_config, specifier_of
from tests import models
from tests.conftest import VECTORS
from tests.models import SPECIFIERS, configs, tiny

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

Fact = dict[str, Any]

# What gemma.cpp wrote at commit 3ed403e, from ../shared/vectors/configs/manifest.json.
SHA256 = {
    "gemma2-2b-sfp-it": "679e3dea6696bfa5bfddb08f4386d89360fccfa54262efce8017ad83e9c4e126",
    "gemma2-2b-sfp-pt": "161204da5e06332a482101fa4c77000b891070a0e795925f5eded01914eefb9d",
    "gemma2-2b-bf16-it": "9647b27b584463e5df1e66259595a089fd0a514c10d56940a8f365586b3f5c24",
    "gemma2-2b-bf16-pt": "1835ddbbac14bb782b423c8e61980d04c60bb81bd295aa3ee9baaac58cee07c4",
    "9b-sfp-it": "89e06c3a19a20cc3ff0b2b48d1d52a9823029f2a500625e3b2fd63c9ba274385",
    "9b-sfp-pt": "9b92a2594db51c232f91aaf81e4ff15a4addff333ed9819bf2d4b5a5dae57d05",
    "9b-bf16-it": "af9a92dd7c909756f040700648789fe5ea2140ff66258cc963d139c35a323abe",
    "9b-bf16-pt": "53bf052dfb543539e0e3c0c311aed505dc94742a40623aa6cf3a2476cc9f0f53",
    "27b-sfp-it": "8443a1be68b92e71c0ab896b481799f0012957af1fc1b1edecd954001840a06a",
    "27b-sfp-pt": "b472ecbf0ef778045809ac94eae8f219a30bc7f4f890265e0b65ff320f2fb6b8",
    "27b-bf16-it": "b8d9589710647d9192b57746356d525dac082d73e5f39ce1186d38643bb4fb5f",
    "27b-bf16-pt": "2dd723b10b188d32dfade5271fea4de51a4a451c7f78c8ff4707d7764c8c34ab",
    "paligemma2-3b-224-sfp": "72917f5f69470d62a4be8eb75fe71ac087a634afd2a9ed4db11937ac582712f0",
    "paligemma2-3b-224-bf16": "cecc6b21519188ecfc59b4c970bc60d2858be1859923a182fead70a6484268be",
    "paligemma2-3b-448-sfp": "2785295487353f5a020a6f9903c59a0635c152c4cbd5078601bb220f7a86a73a",
    "paligemma2-3b-448-bf16": "cae720041b48ddc63685a55c98ef700ab1045a800e8942d272e0adb2ef0e8da2",
    "paligemma2-10b-224-sfp": "54468c75de62e37316766aedeeb04dd6777ae3b95787301484a7eb96c28bf892",
    "paligemma2-10b-224-bf16": "8a2943172bcee48fb9615715fee536ee31506ad25a9bfaa254a399498560368f",
    "paligemma2-10b-448-sfp": "3eea4291a282aaa7e08bdaab5a9fc95706347930af4f93386b981acb1d9d8569",
    "paligemma2-10b-448-bf16": "c24948f554aaedd9175b2973ce902b6c33536a6672c1d144ca16594cb5700706",
    "gemma3-270m-sfp-it": "a635cee0e9c5ed674c090b878111a66e9d4dad040fe5635c8c5028095ef7aa71",
    "gemma3-270m-sfp-pt": "dddbe1170e63dfe6b22f2864787dcc4db307d041c715d1f9aef112fb047d43de",
    "gemma3-270m-bf16-it": "6936dbf3a0c596d1cbc36bce17908089d07a04b870678e6f9aef5101327e4ebc",
    "gemma3-270m-bf16-pt": "b5a7cd28694104b06d04f0def2d476409b0f0802074af6a989b75775fdf8d990",
    "gemma3-1b-sfp": "0aeb4fcf314a1f0eec03ebeccfcc807c8f870c65bc162eef07f0ab8f8f610538",
    "gemma3-1b-bf16": "c889c5cd66d9f9b03d4c4ff5a5de1f5db166f5ce307f482dd4670c8305fe1046",
    "gemma3-4b-sfp": "46bb67b2ec78b003ac53ebe7120cb096510ee048feaa8655201419b020496a6b",
    "gemma3-4b-bf16": "0fba133c6477f88a3a27de1fdb8f45f2f6b47daa7fa1bc258fd9500f39db6ab4",
    "gemma3-12b-sfp": "9652ab4fc808ea09ca850a1fdb7d09d6f6e264289571d47e4ef787d89aee39fa",
    "gemma3-12b-bf16": "fda07893c763836fa572c2b634b4fe9506cf86c88df0b6e7d562308f9f2be93e",
    "gemma3-27b-sfp": "f2c03a58297b55518bcb57218afae66251c2c2b30cf506d35c2d385e5ff50083",
    "gemma3-27b-bf16": "2f340be90107823daca11c88d6f6e93ff1eb1900fd93336da48bc0fb2ba98007",
}
NBYTES = {
    "gemma2-2b": 2020,
    "9b": 3108,
    "27b": 3380,
    "paligemma2-3b-224": 3756,
    "paligemma2-3b-448": 3756,
    "paligemma2-10b-224": 4844,
    "paligemma2-10b-448": 4844,
    "gemma3-270m": 1476,
    "gemma3-1b": 2020,
    "gemma3-4b": 4292,
    "gemma3-12b": 5244,
    "gemma3-27b": 6196,
}
# All that is known from gemma.cpp or its source, by commit; the first are those above.
VECTORS_OF_GEMMA: dict[str, list[Fact]] = json.loads((VECTORS / "gemma.json").read_bytes())
BY_COMMIT = {
    commit: {fact["specifier"]: fact for fact in VECTORS_OF_GEMMA["gemma_cpp"] if fact["commit"] == commit}
    for commit in ("3ed403e", "3892763")
}
BY_COMMIT["0224dcb"] = {fact["specifier"]: fact for fact in VECTORS_OF_GEMMA["transcribed"]}
FOLDERS = {"3ed403e": "configs", "3892763": "configs-2026-04", "0224dcb": "configs-late"}
STORED = {"3ed403e": 16, "3892763": 16, "0224dcb": 42}  # how many of them are files
ENUMS: dict[str, dict[str, int]] = {
    "Model": {
        "UNKNOWN": 0,
        "GEMMA2_9B": 3,
        "GEMMA2_27B": 4,
        "GEMMA2_2B": 7,
        "PALIGEMMA2_3B_224": 10,
        "PALIGEMMA2_3B_448": 11,
        "PALIGEMMA2_10B_224": 12,
        "PALIGEMMA2_10B_448": 13,
        "GEMMA3_4B": 14,
        "GEMMA3_1B": 15,
        "GEMMA3_12B": 16,
        "GEMMA3_27B": 17,
        "GEMMA3_270M": 18,
        "CUSTOM": 19,
        "GEMMA3_4B_LM": 20,
        "GEMMA3_12B_LM": 21,
        "GEMMA3_27B_LM": 22,
        "GEMMA4_26B_MOE": 23,
        "GEMMA4_2B": 24,
        "DEEPSEEK4_FLASH": 25,
        "T5GEMMA_S_S": 26,
        "QWEN3_600M": 27,
        "QWEN3_2B": 28,
        "QWEN3_4B": 29,
        "GEMMA4_2B_LM": 30,
        "GEMMA4_E4B": 31,
        "GEMMA4_E4B_LM": 32,
    },
    "Wrapping": {"IT": 0, "PT": 1, "VLM": 2, "PALIGEMMA": 3},
    "WeightType": {
        "UNKNOWN": 0,
        "F32": 1,
        "BF16": 2,
        "SFP": 3,
        "NUQ": 4,
        "F64": 5,
        "U32": 6,
        "U64": 7,
        "I8": 8,
        "U16": 9,
        "U8": 10,
        "INT8": 11,
        "Q4_0": 12,
        "MXFP4": 13,
    },
    "QueryScale": {"SQRT_KEY_SIZE": 0, "SQRT_MODEL_DIM_DIV_NUM_HEADS": 1, "ONE": 2},
    "PostNorm": {"NONE": 0, "SCALE": 1},
    "LayerType": {"GEMMA": 0, "VIT": 1, "DEEPSEEK_MLA": 2, "VIT_GEMMA4": 3},
    "Activation": {"GELU": 0, "SILU": 1},
    "PostQK": {"ROPE": 0, "HALF_ROPE": 1, "NORM_LOCAL_ROPE": 8},
    "AttentionVariant": {"DENSE": 0, "CSA": 1, "HCA": 2},
    "RouterScore": {"COMPAT": 0, "SOFTMAX": 1, "SIGMOID": 2, "SQRT_SOFTPLUS": 3},
    "TokenizerKind": {"SENTENCE_PIECE": 0, "BPE": 1},
}
LATE_PREFIXES = {
    Model.GEMMA3_4B_LM: "gemma3-4b-lm",
    Model.GEMMA3_12B_LM: "gemma3-12b-lm",
    Model.GEMMA3_27B_LM: "gemma3-27b-lm",
    Model.GEMMA4_26B_MOE: "gemma4-26b-moe",
    Model.GEMMA4_2B: "gemma4-2b",
    Model.DEEPSEEK4_FLASH: "deepseek4-flash",
    Model.T5GEMMA_S_S: "t5gemma-s-s",
    Model.QWEN3_600M: "qwen3-0_6b",
    Model.QWEN3_2B: "qwen3-2b",
    Model.QWEN3_4B: "qwen3-4b",
    Model.GEMMA4_2B_LM: "gemma4-2b-lm",
    Model.GEMMA4_E4B: "gemma4-e4b",
    Model.GEMMA4_E4B_LM: "gemma4-e4b-lm",
}
TWELVE = [model for model in Model if 0 < model <= Model.GEMMA3_270M]

specifiers = st.sampled_from(
    [specifier.format(weight) for specifier in SPECIFIERS for weight in ("f32", "bf16", "sfp", "i8")]
)


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def prefix_of(specifier: str) -> str:
    return max((prefix for prefix in NBYTES if specifier.startswith(prefix + "-")), key=len)


# The twelve models are as the runtime writes them, byte for byte.


def test_every_form_of_every_model_is_among_the_facts() -> None:
    assert set(SHA256) == {specifier.format(weight) for specifier in SPECIFIERS for weight in ("sfp", "bf16")}
    assert len(set(SHA256.values())) == 32


@pytest.mark.parametrize("specifier", SHA256)
def test_a_config_has_the_bytes_that_gemma_cpp_writes(specifier: str) -> None:
    config = config_of(specifier)
    raw = config.to_bytes()
    older = models.as_of_2025_10(raw)
    assert (len(older), sha256(older)) == (NBYTES[prefix_of(specifier)], SHA256[specifier])
    assert ModelConfig.from_bytes(raw) == config
    # Gemma 3 has another word: 1.
    assert len(raw) - len(older) == (4 if specifier.startswith("gemma3-") else 0)
    assert config.use_global_timescale is specifier.startswith("gemma3-")
    assert ModelConfig.from_bytes(older) == replace(config, use_global_timescale=False)
    assert ModelConfig.from_bytes(older).to_bytes() == older


@pytest.mark.parametrize("specifier", BY_COMMIT["3892763"])
def test_a_config_of_2026_04_has_one_field_more_whatever_it_is(specifier: str) -> None:
    config = config_of(specifier)
    # gemma.cpp's own config of 270M has 0, unlike the published checkpoint.
    theirs = replace(config, extent=24, use_global_timescale=config.use_global_timescale and "270m" not in specifier)
    raw = theirs.to_bytes()
    assert (len(raw), sha256(raw)) == (NBYTES[prefix_of(specifier)] + 4, BY_COMMIT["3892763"][specifier]["sha256"])
    back = ModelConfig.from_bytes(raw)
    assert back.to_bytes() == raw
    assert replace(back, extent=None) == replace(theirs, extent=None)
    if specifier in SHA256 and prefix_of(specifier) != "gemma3-270m":
        ours = sha256(config.to_bytes())
        assert ours == (sha256(raw) if config.use_global_timescale else SHA256[specifier])


@pytest.mark.parametrize("specifier", BY_COMMIT["0224dcb"])
def test_a_config_of_later_runtimes_is_read_and_written_as_it_is(specifier: str, generator: ModuleType) -> None:
    assert generator
    writer = importlib.import_module("gemma_writer")  # in the generator's folder
    raw = models.packed(writer.published_later(specifier).words(99))
    fact = BY_COMMIT["0224dcb"][specifier]
    assert (len(raw), sha256(raw)) == (fact["size"], fact["sha256"])
    config = ModelConfig.from_bytes(raw)
    assert config.to_bytes() == raw
    assert specifier_of(config) == specifier
    assert (config.field_count, {layer.field_count for layer in config.layer_configs}) == (45, {38})
    if config.model in TWELVE:
        assert config == as_later_runtimes_write(config_of(specifier))
    elif config.model == Model.DEEPSEEK4_FLASH:
        with pytest.raises(UsageError, match=f"unknown-model: '{specifier}' is not a specifier"):
            config_of(specifier)
    else:
        # What their converters write, and their own configs lack.
        if is_gemma3(config):
            config = replace(config, use_global_timescale=True)
        if config.display_name.startswith("Qwen3"):
            config = replace(config, tokenizer_kind=TokenizerKind.BPE)
        assert config_of(specifier).to_bytes() == config.to_bytes()


def as_later_runtimes_write(config: ModelConfig) -> ModelConfig:
    """All fields of all records; the flag and the base of global layers as in their own config."""
    is_set = config.use_global_timescale and config.model != Model.GEMMA3_270M
    vision, layers = (
        tuple(replace(layer, extent=38) for layer in part.layer_configs) for part in (config.vit_config, config)
    )
    later = replace(
        config,
        extent=45,
        layer_configs=layers,
        vit_config=replace(config.vit_config, layer_configs=vision),
        use_global_timescale=is_set,
        global_rope_theta=1e6 if is_set else 1e4,
    )
    return models.settled(later)  # type: ignore[no-any-return]


@pytest.mark.parametrize("commit", FOLDERS)
def test_the_facts_are_those_of_the_shared_vectors(shared_vectors: Path, commit: str) -> None:
    folder = shared_vectors / FOLDERS[commit]
    listed = json.loads((folder / "manifest.json").read_bytes())
    facts = {name: (fact["size"], fact["sha256"]) for name, fact in BY_COMMIT[commit].items()}
    assert {fact["specifier"]: (fact["bytes"], fact["sha256"]) for fact in listed} == facts
    if commit == "3ed403e":
        assert {fact["specifier"]: fact["sha256"] for fact in listed} == SHA256
    stored = {fact["specifier"] for fact in listed if fact["stored"]}
    assert {path.stem for path in folder.glob("*.bin")} == stored
    assert len(stored) == STORED[commit]
    for specifier in stored:
        raw = (folder / f"{specifier}.bin").read_bytes()
        config = ModelConfig.from_bytes(raw)
        assert raw == config.to_bytes()
        assert (len(raw), sha256(raw)) == facts[specifier]
        assert specifier_of(config) == specifier


def test_our_gemma_3_is_that_of_2026_04(shared_vectors: Path) -> None:
    folder = shared_vectors / FOLDERS["3892763"]
    for specifier in ("gemma3-1b-sfp", "gemma3-4b-sfp", "gemma3-12b-sfp", "gemma3-27b-sfp"):
        assert config_of(specifier).to_bytes() == (folder / f"{specifier}.bin").read_bytes()
    for ending in ("it", "pt"):
        ours = config_of(f"gemma3-270m-sfp-{ending}").to_bytes()
        theirs = (folder / f"gemma3-270m-sfp-{ending}.bin").read_bytes()
        assert (ours[:-4], ours[-4:], theirs[-4:]) == (theirs[:-4], b"\1\0\0\0", b"\0\0\0\0")


@pytest.mark.parametrize("family", models.FAMILIES)
@pytest.mark.parametrize("weight", models.WEIGHTS)
def test_a_config_with_other_dimensions_has_the_bytes_that_gemma_cpp_writes(family: str, weight: str) -> None:
    raw = models.as_of_2025_10(tiny(family, weight).to_bytes())
    assert sha256(raw) == models.CONFIG_SHA256[f"{family} {weight}"]


def test_the_models_differ_in_more_than_their_names() -> None:
    bare = {
        replace(config_of(specifier.format("sfp")), model=Model.UNKNOWN, display_name="").to_bytes()
        for specifier in SPECIFIERS
    }
    assert len(bare) == len(SPECIFIERS)


def is_enumeration(value: object) -> bool:
    """Whether it is an enumeration that has members."""
    return isinstance(value, type) and issubclass(value, OpenEnum) and value is not OpenEnum


@pytest.mark.parametrize("enumeration", ENUMS)
def test_enumerations_have_the_runtime_s_numbers(enumeration: str) -> None:
    enumerated: type[OpenEnum] = getattr(module, enumeration)
    assert {name for name, value in vars(module).items() if is_enumeration(value)} == set(ENUMS)
    assert {member.name: member.value for member in enumerated} == ENUMS[enumeration]
    assert all(enumerated[name] == number for name, number in ENUMS[enumeration].items())


# Specifiers.


@given(specifier=specifiers)
def test_a_specifier_names_the_config_that_it_makes(specifier: str) -> None:
    config = config_of(specifier)
    assert specifier_of(config) == specifier
    assert specifier_of(ModelConfig.from_bytes(config.to_bytes())) == specifier
    assert specifier.startswith(f"{prefix_of(specifier)}-{config.weight_name}")


@pytest.mark.parametrize("model", TWELVE)
@pytest.mark.parametrize("weight", [WeightType.SFP, WeightType.F32])
def test_a_model_by_number_is_that_of_its_specifier(model: Model, weight: WeightType) -> None:
    config = model_config(model, weight)
    assert (config.model, config.weight) == (model, weight)
    assert config_of(specifier_of(config)) == config
    again = model_config(model, weight, config.wrapping)
    assert again == config


@pytest.mark.parametrize("model", [Model.UNKNOWN, Model.CUSTOM, Model.DEEPSEEK4_FLASH])
def test_models_whose_config_is_not_known_are_refused(model: Model) -> None:
    with pytest.raises(
        UsageError, match=r"unknown-model: the config of .* is not known here, only those of gemma2-2b, "
    ):
        model_config(model, WeightType.SFP)


@pytest.mark.parametrize("model", [model for model in Model if model not in TWELVE])
def test_a_later_model_has_a_specifier(model: Model) -> None:
    config = ModelConfig(model=model, weight=WeightType.SFP, wrapping=Wrapping.IT)
    if model not in LATE_PREFIXES:
        assert model in (Model.UNKNOWN, Model.CUSTOM)
        with pytest.raises(UsageError, match="unknown-model"):
            _ = specifier_of(config)
        return
    assert specifier_of(config) == f"{LATE_PREFIXES[model]}-sfp-it"
    assert (
        specifier_of(replace(config, weight=WeightType.Q4_0, wrapping=Wrapping.PT)) == f"{LATE_PREFIXES[model]}-q4_0-pt"
    )


@pytest.mark.parametrize("prefix", ["gemma2-2b", "9b", "27b", "gemma3-270m"])
def test_without_an_ending_a_model_of_both_forms_is_instruction_tuned(prefix: str) -> None:
    assert config_of(f"{prefix}-bf16") == config_of(f"{prefix}-bf16-it")
    it, pt = (config_of(f"{prefix}-bf16-{ending}") for ending in ("it", "pt"))
    assert replace(it, wrapping=Wrapping.PT) == pt != it


@pytest.mark.parametrize(
    ("specifier", "wrapping"),
    [("gemma3-4b-sfp", Wrapping.VLM), ("gemma3-1b-sfp", Wrapping.VLM), ("paligemma2-3b-448-sfp", Wrapping.PALIGEMMA)],
)
def test_a_model_of_one_form_has_its_own_wrapping(specifier: str, wrapping: Wrapping) -> None:
    assert config_of(specifier).wrapping == wrapping
    assert specifier_of(config_of(specifier + {2: "-vlm", 3: "-pg"}[wrapping])) == specifier


@pytest.mark.parametrize(
    "specifier",
    [
        "",
        "-",
        "gemma",
        "gemma2-2b",
        "gemma2-2b-",
        "gemma2-2b-it",
        "gemma2-2b-sfp-",
        "gemma2-2b-sfp-IT",
        "gemma2-2b-sfp--it",
        "gemma2-2b-sfp-it-it",
        "gemma2-2b-sfp-it ",
        " gemma2-2b-sfp-it",
        "Gemma2-2b-sfp-it",
        "gemma2-2b-SFP-it",
        "gemma2-2bsfp-it",
        "gemma2-2b_sfp_it",
        "gemma2-2b-unknown-it",
        "gemma2-2b-f16-it",
        "gemma2-2b-int8-it",
        "gemma2-2b-newer_14-it",
        "deepseek4-flash-sfp-it",
        "custom-sfp-it",
        "gemma2-9b-sfp-it",
        "gemma-2b-sfp-it",
        "gemma3n-e2b-sfp",
        "paligemma2-3b-sfp",
        "paligemma2-3b-896-sfp",
        "unknown-sfp-it",
        "9b-sfp-it.sbs",
    ],
)
def test_what_is_not_a_specifier_is_refused_with_a_list_of_those_that_are(specifier: str) -> None:
    with pytest.raises(UsageError) as caught:
        config_of(specifier)
    assert caught.value.reason == "unknown-model"
    assert repr(specifier) in caught.value.message
    assert all(prefix in caught.value.message for prefix in NBYTES)


@given(text=st.text(max_size=30) | st.lists(st.sampled_from(["9b", "sfp", "it", "-", "f16"]), max_size=6).map("".join))
def test_nothing_but_a_specifier_makes_a_config(text: str) -> None:
    known = {
        specifier.format(weight)
        for specifier in SPECIFIERS
        for weight in ("f32", "bf16", "sfp", "nuq", "f64", "u32", "u64", "i8")
    }
    one_form = {specifier for specifier in known if not specifier.endswith(("-it", "-pt"))}
    longer = {specifier + ending for specifier in one_form for ending in ("-vlm", "-pg")}
    try:
        config = config_of(text)
    except UsageError:
        assert text not in known
        return
    assert text in known | longer | {specifier.removesuffix("-it") for specifier in known}
    assert specifier_of(config).startswith(text.removesuffix("-vlm").removesuffix("-pg"))


@pytest.mark.parametrize("ending", ["it", "pt"])
@pytest.mark.parametrize("prefix", ["gemma3-1b", "gemma3-4b", "paligemma2-3b-224"])
def test_a_wrapping_that_a_model_does_not_have_is_refused(prefix: str, ending: str) -> None:
    with pytest.raises(UsageError, match=rf"bad-wrapping: {prefix} has the wrapping (vlm|paligemma), and no other"):
        config_of(f"{prefix}-sfp-{ending}")


@pytest.mark.parametrize("wrapping", [Wrapping.VLM, Wrapping.PALIGEMMA])
@pytest.mark.parametrize("model", [Model.GEMMA2_9B, Model.GEMMA3_270M])
def test_a_text_model_has_no_wrapping_for_images(model: Model, wrapping: Wrapping) -> None:
    with pytest.raises(UsageError, match=r"bad-wrapping: .* has no vision part: its wrapping is it or pt"):
        model_config(model, WeightType.SFP, wrapping)


def test_an_unknown_model_has_no_config_and_no_specifier() -> None:
    with pytest.raises(UsageError, match="unknown-model"):
        model_config(Model.UNKNOWN, WeightType.SFP)
    for broken in (
        ModelConfig(weight=WeightType.SFP),
        ModelConfig(weight=WeightType.SFP, model=Model(33)),
        ModelConfig(model=Model.GEMMA3_4B, display_name="mine"),
        ModelConfig(model=Model.GEMMA3_4B, weight=WeightType(14)),
    ):
        with pytest.raises(UsageError, match=r"unknown-model: '(|mine)' is not a model"):
            _ = specifier_of(broken)


# The weight type.


@given(specifier=specifiers, weight=st.sampled_from(["f32", "bf16", "sfp", "i8", "nuq", "q4_0", "mxfp4"]))
def test_another_weight_type_changes_nothing_else(specifier: str, weight: str) -> None:
    config = config_of(specifier)
    changed = config.with_weight(weight)
    assert (changed.weight_name, changed.weight.name.lower()) == (weight, weight)
    assert replace(changed, weight=config.weight) == config
    assert changed == config_of(specifier.replace(f"-{config.weight_name}", f"-{weight}", 1))
    before, after = (struct.unpack(f"<{len(raw) // 4}I", raw) for raw in (config.to_bytes(), changed.to_bytes()))
    assert len(before) == len(after)
    assert sum(x != y for x, y in zip(before, after, strict=True)) == (changed.weight != config.weight)


@pytest.mark.parametrize("weight", ["", "SFP", "f16", "int8", "u8", "u16", "unknown", "newer_14", "gguf"])
def test_a_weight_type_that_the_runtime_does_not_know_is_refused(weight: str) -> None:
    with pytest.raises(UsageError, match=f"unknown-weight: '{weight}' is not a weight type: one of f32, bf16, sfp"):
        config_of("9b-sfp-it").with_weight(weight)


# Values.


@given(config=configs() | configs(as_read=True))
def test_configs_are_values(config: ModelConfig) -> None:
    again = ModelConfig.from_bytes(config.to_bytes())
    assert again == config
    assert hash(again) == hash(config)
    assert replace(config, num_layers=(config.num_layers + 1) % 2**32) != config


def test_a_config_can_not_be_changed() -> None:
    config = config_of("gemma3-4b-sfp")
    raw = config.to_bytes()
    for name in ("vocab_size", "weight", "layer_configs", "something"):
        with pytest.raises(FrozenInstanceError):
            setattr(config, name, 1)
    assert config.to_bytes() == raw
    assert isinstance(config.layer_configs, tuple)


def test_a_fine_tune_differs_in_one_word_for_one_field() -> None:
    config = config_of("gemma3-270m-bf16-it")
    tuned = replace(config, vocab_size=262145)
    assert ModelConfig.from_bytes(tuned.to_bytes()) == tuned
    assert specifier_of(tuned) == specifier_of(config)
    assert sum(x != y for x, y in zip(config.to_bytes(), tuned.to_bytes(), strict=True)) == 1


def test_the_query_is_scaled_by_heads_in_one_model_only() -> None:
    by_heads = {
        specifier
        for specifier in SPECIFIERS
        if config_of(specifier.format("sfp")).query_scale == QueryScale.SQRT_MODEL_DIM_DIV_NUM_HEADS
    }
    assert by_heads == {"27b-{}-it", "27b-{}-pt"}


def test_the_package_offers_what_its_name_promises() -> None:
    for name in blobstore.gemma.__all__:
        assert getattr(blobstore.gemma, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = blobstore.gemma.nothing  # type: ignore[attr-defined]
