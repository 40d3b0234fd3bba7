"""`blobstore.checking` finds every code in a file made for it, and nothing in valid files."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore.checking import CODES, check_checkpoint, check_file, runs_in, verify_file
from blobstore.codecs.element_types import BY_NAME
from blobstore.converting.choices import LAYOUTS, Choices
from blobstore.gemma.bpe import BpeTokenizer
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.enums import LayerType, Model, QueryScale, WeightType
from blobstore.gemma.toc import build_toc, parse_toc, toc_entry
from blobstore.gemma.versions import NAMES
from blobstore.index import Entry, IndexedBlob, build_index
from tests.conftest import ROOT, VECTORS, load_manifest
from tests.gemma_checkpoints import convert, small_recipe, sound_recipe, tokenizer
from tests.models import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blobstore.checking import Finding
    from blobstore.gemma.config import LayerConfig

    Blobs = dict[str, bytes]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    """The blobs of a Gemma 2 in bf16 that gemma.cpp runs, without an index."""
    folder = tmp_path_factory.mktemp("model")
    convert(sound_recipe("gemma2").write(folder / "c"), folder / "m.sbs", Choices("bf16"), index="external")
    with blobstore.BlobReader(folder / "m.sbs") as reader:
        return {key: bytes(blob) for key, blob in reader.items()}


def write(path: Path, blobs: Blobs) -> Path:
    with blobstore.BlobWriter(path, max_blobs=1 << 20) as writer:
        for key, data in blobs.items():
            writer.add(key, data)
    return path


def codes(found: list[Finding]) -> set[str]:
    return {finding.code for finding in found}


def found_in(path: Path, blobs: Blobs) -> list[Finding]:
    return check_file(write(path, blobs), for_runtime=True, runtimes=NAMES)


# ------------------------------------------------------------------------------------------------------------- nothing


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weights", ["bf16", "sfp", "f32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_wrong_with_what_we_convert(tmp_path: Path, family: str, weights: str, layout: str) -> None:
    path = tmp_path / "m.sbs"
    convert(sound_recipe(family).write(tmp_path / "c"), path, Choices(weights, layout))
    found = check_file(path)
    # The embedding's padding rows, which it ignores; and what applies to every file.
    assert codes(found) <= {"unused-blob", "image-prompts"}
    assert runs_in(found) == NAMES
    assert not verify_file(path, values=True).findings


# From October 2025, so a Gemma 3 lacks the field; the tokenizers have fewer pieces than the embeddings have rows.
GEMMA_CPP_OWN = {
    "tiny-gemma2": {"tokenizer-size", "no-tokenizer"},
    "tiny-gemma3": {"tokenizer-size", "no-tokenizer", "global-rope", "rope-by-label"},
    "tiny-gemma3vlm": {"tokenizer-size", "no-tokenizer", "global-rope", "vision-config", "image-prompts"},
    "tiny-paligemma2": {"tokenizer-size", "no-tokenizer", "image-prompts"},
}


def test_nothing_more_is_wrong_with_what_gemma_cpp_writes(shared_vectors: Path) -> None:
    paths = sorted((shared_vectors / "convert").glob("*.sbs"))
    assert len(paths) == 8
    for path in paths:
        found = check_file(path)
        assert codes(found) <= GEMMA_CPP_OWN[path.name.partition("-b")[0].partition("-s")[0]], path.name
        assert codes(verify_file(path, values=True).findings) == {"no-digests"}, path.name


def test_a_container_by_name_is_not_checked_as_a_model(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"model.layers.0.mlp.up_proj.weight": np.arange(3)}, path)
    assert [(finding.severity, finding.code) for finding in check_file(path)] == [("note", "by-name")]
    assert not check_file(path, for_runtime=False)


# ------------------------------------------------------------------------------------------------- a test for each code


def bpe(**changes: Any) -> BpeTokenizer:  # noqa: ANN401 (fields, each of its own type)
    return replace(BpeTokenizer(flags=4, tokens=(b"a", b"b", b"ab"), merges=(0, 1)), **changes)


def config_of(blobs: Blobs) -> ModelConfig:
    return ModelConfig.from_bytes(blobs["config"])


def with_config(blobs: Blobs, **changes: object) -> Blobs:
    config = replace(config_of(blobs), **changes)  # type: ignore[arg-type]
    return blobs | {"config": config.to_bytes()}


def with_toc(blobs: Blobs, **changes: dict[str, Any] | None) -> Blobs:
    """Blobs with a toc in which some entries are changed, or removed for None."""
    entries = [(entry, changes.get(entry.name, {})) for entry in parse_toc(blobs["toc"])]
    changed = [replace(entry, **change) for entry, change in entries if change is not None]
    return blobs | {"toc": build_toc(changed)}


def without(blobs: Blobs, *keys: str) -> Blobs:
    return {key: data for key, data in blobs.items() if key not in keys}


def in_type(blobs: Blobs, key: str, type_name: str) -> Blobs:
    """Blobs in which one tensor has another type; all zeros, as only sizes matter."""
    entry = next(finding for finding in parse_toc(blobs["toc"]) if finding.name == key)
    new = toc_entry(key, BY_NAME[type_name], entry.rows, entry.cols)
    changes = {field.name: getattr(new, field.name) for field in dataclasses.fields(new)}
    return with_toc(blobs, **{key: changes}) | {key: bytes(new.nbytes)}


def in_shape(blobs: Blobs, key: str, rows: int, cols: int) -> Blobs:
    return with_toc(blobs, **{key: {"rows": rows, "cols": cols, "stride": cols}})


def all_in_type(blobs: Blobs, type_name: str) -> Blobs:
    for entry in parse_toc(blobs["toc"]):
        wide = entry.rows == 1 or entry.name == "c_embedding"
        blobs = in_type(blobs, entry.name, "bf16" if wide and type_name != "f32" else type_name)
    return with_config(blobs, weight=WeightType[type_name.upper()])


def twice(blobs: Blobs) -> Blobs:
    """Blobs with both forms of a tensor."""
    halves = [entry for entry in parse_toc(blobs["toc"]) if entry.name in ("gating1_w_0", "gating2_w_0")]
    whole = toc_entry("gating_ein_0", halves[0].type, 2 * halves[0].rows, halves[0].cols)
    stacked = blobs["gating1_w_0"] + blobs["gating2_w_0"]
    return blobs | {"gating_ein_0": stacked, "toc": build_toc([*parse_toc(blobs["toc"]), whole])}


def changed_layers(blobs: Blobs, **changes: object) -> tuple[LayerConfig, ...]:
    first, *others = config_of(blobs).layer_configs
    return (first, *(replace(layer, **changes) for layer in others))  # type: ignore[arg-type]


def all_layers(blobs: Blobs, **changes: object) -> tuple[LayerConfig, ...]:
    return tuple(replace(layer, **changes) for layer in config_of(blobs).layer_configs)  # type: ignore[arg-type]


def letters(**blobs: bytes) -> Blobs:
    return dict(blobs)


RUNTIME_CODES: dict[str, Callable[[Blobs], Blobs]] = {
    "not-for-gemma": lambda _: {"a": b"x"},
    "layer-number": lambda blobs: blobs | {"foo_1234": b"x"},
    "type-letter": lambda blobs: blobs | {"Beta": b"x"},
    "unknown-tensor": lambda _: letters(Bc_final_norm=bytes(8), Bfoo=b"xx"),
    "reserved-key": lambda blobs: with_toc(blobs, c_final_norm={"name": "tokenizer"}),
    "key-too-long": lambda blobs: with_toc(blobs, c_final_norm={"name": "c_final_norm_of_a_model"}),
    "before-2025": lambda _: letters(Bc_final_norm=bytes(8)),
    "letters-damaged": lambda _: letters(Bc_final_norm=bytes(8), Fc_final_norm=bytes(8)),
    "no-config": lambda blobs: without(blobs, "config"),
    "config-damaged": lambda blobs: blobs | {"config": blobs["config"][:-4]},
    "config-trailing": lambda blobs: blobs | {"config": blobs["config"] + bytes(8)},
    "global-rope": lambda blobs: with_config(blobs, model=Model.GEMMA3_1B),
    "rope-by-label": lambda blobs: with_config(blobs, model=Model.GEMMA3_270M, use_global_timescale=True),
    "newer-fields": lambda blobs: with_config(blobs, newer=(1, 2)),
    "ignored-fields": lambda blobs: with_config(blobs, rope_theta=20000.0),
    "newer-value": lambda blobs: with_config(blobs, query_scale=QueryScale.ONE),
    "newer-type": lambda blobs: with_toc(blobs, linear_w_0={"type_number": 14}),
    "newer-text": lambda blobs: with_config(blobs, display_name="Gémma"),
    "newer-vector": lambda blobs: with_config(blobs, attention_window_sizes=(512,) * 65537),
    "newer-blobs": lambda blobs: blobs | {f"x{i}": b"x" for i in range(16384)},
    "custom-model": lambda blobs: with_config(blobs, model=Model.CUSTOM),
    "not-compared": lambda blobs: with_config(blobs, model=Model.DEEPSEEK4_FLASH),
    "unlike-layers": lambda blobs: with_config(blobs, layer_configs=changed_layers(blobs, kv_heads=6)),
    "columns": lambda blobs: with_config(blobs, layer_configs=all_layers(blobs, ff_hidden_dim=36868)),
    "sequence": lambda blobs: with_config(blobs, max_seq_len=5),
    "config-model": lambda blobs: with_config(blobs, model=Model.UNKNOWN),
    "nested-fields": lambda blobs: with_config(blobs, layer_configs=changed_layers(blobs, newer=(7,))),
    "config-sizes": lambda blobs: with_config(blobs, layer_configs=changed_layers(blobs, heads=0)),
    "too-many-layers": lambda blobs: with_config(
        blobs, layer_configs=config_of(blobs).layer_configs * 500, attention_window_sizes=(512,) * 1000, num_layers=1000
    ),
    "vocabulary": lambda blobs: with_config(blobs, vocab_size=48),
    "stop-token": lambda blobs: with_config(blobs, secondary_eos_id=config_of(blobs).vocab_size),
    "no-toc": lambda blobs: without(blobs, "toc"),
    "toc-damaged": lambda blobs: blobs | {"toc": blobs["toc"][:-4]},
    "toc-missing-blob": lambda blobs: without(blobs, "c_final_norm"),
    "toc-size": lambda blobs: blobs | {"c_final_norm": blobs["c_final_norm"][:-2]},
    "toc-stride": lambda blobs: with_toc(blobs, linear_w_0={"stride": 32}),
    "toc-numbers": lambda blobs: with_toc(blobs, c_final_norm={"num_elements": 1}),
    "missing-tensor": lambda blobs: with_toc(without(blobs, "c_final_norm"), c_final_norm=None),
    "both-forms": twice,
    "unexpected-tensor": lambda blobs: with_toc(blobs, c_final_norm={"name": "c_finale"}) | {"c_finale": bytes(40)},
    "tensor-shape": lambda blobs: in_shape(blobs, "gating1_w_0", 20, 28),
    "rows": lambda blobs: with_config(blobs, layer_configs=changed_layers(blobs, ff_hidden_dim=30)),
    "scale-ignored": lambda blobs: with_toc(blobs, c_final_norm={"scale": 2.0}),
    "tensor-type": lambda blobs: in_type(blobs, "gating1_w_0", "f64"),
    "pair-types": lambda blobs: in_type(blobs, "gating2_w_0", "f32"),
    "weight-type": lambda blobs: with_config(blobs, weight=WeightType.SFP),
    "mixed-f32": lambda blobs: with_config(blobs, weight=WeightType.F32),
    "nuq-weights": lambda blobs: all_in_type(blobs, "nuq"),
    "i8-weights": lambda blobs: all_in_type(blobs, "i8"),
    "i8-stock": lambda blobs: in_type(twice(blobs), "gating_ein_0", "i8"),
    "f32-large": lambda blobs: with_toc(blobs, c_embedding={"rows": 1 << 20, "cols": 1 << 10, "type_number": 1}),
    "no-tokenizer": lambda blobs: without(blobs, "tokenizer"),
    "tokenizer-model": lambda blobs: blobs | {"tokenizer": b'{"version": 1}'},
    "tokenizer-size": lambda blobs: blobs | {"tokenizer": tokenizer(97)},
    "tokenizer-kind": lambda blobs: blobs | {"tokenizer": bpe().to_bytes()},
    "tokenizer-bpe": lambda blobs: with_config(blobs | {"tokenizer": bpe().to_bytes()[:-4]}, tokenizer_kind=1),
    "tokenizer-merges": lambda blobs: with_config(
        blobs | {"tokenizer": bpe(merges=(0, 1, 1, 0)).to_bytes()}, tokenizer_kind=1
    ),
    "tokenizer-pieces": lambda blobs: blobs | {"tokenizer": blobs["tokenizer"].replace(b"p7", b"p8")},
    "unused-blob": lambda blobs: blobs | {"extra": b"x"},
}
# Codes that always come with others.
ENTAILED = {
    "layer-number": {"unused-blob"},
    "type-letter": {"unused-blob"},
    "unknown-tensor": {"before-2025"},
    "reserved-key": {"missing-tensor", "unexpected-tensor", "toc-size", "unused-blob"},
    "key-too-long": {"missing-tensor", "unexpected-tensor", "unused-blob"},
    "too-many-layers": {"config-sizes", "missing-tensor"},
    "config-sizes": {"tensor-shape", "unlike-layers"},
    "rows": {"tensor-shape", "unlike-layers"},
    "vocabulary": {"tensor-shape", "tokenizer-size"},
    "tensor-type": {"weight-type", "pair-types"},
    "both-forms": {"unexpected-tensor"},
    "unexpected-tensor": {"missing-tensor", "unused-blob"},
    "f32-large": {"toc-size", "toc-numbers", "toc-stride", "tensor-shape"},
    "i8-weights": {"tensor-type"},
    "i8-stock": {"both-forms", "weight-type"},
    "ignored-fields": {"newer-fields"},
    "tokenizer-bpe": {"newer-fields", "ignored-fields", "newer-value"},
    "tokenizer-merges": {"newer-fields", "ignored-fields", "newer-value"},
    "newer-blobs": {"unused-blob"},
    "custom-model": {"newer-value"},
    "not-compared": {"newer-value"},
    "unlike-layers": {"tensor-shape"},
    "columns": {"tensor-shape"},
    "global-rope": set(),
}
OTHER_CODES = {
    "vision-config",
    "image-prompts",
    "padding",
    "index-digest",
    "index-misplaced",
    "index-lost",
    "index-disagrees",
    "by-name",
    "index",
    "packed",
}
BASE_CODES = {"needs-base", "wrong-base"}  # tests/cli/test_pack.py
CONTENT_CODES = {
    "damaged-blob",
    "no-digests",
    "no-digest",
    "not-a-number",
    "infinite",
    "reserved-code",
    "undecodable",
    *BASE_CODES,
}
# tests/checkpoint/test_rows_gemma.py
CHECKPOINT_CODES = {"tensor-left-out", "file-left-out", "wrapped-names", "padded-vocabulary", "spare-rows", "no-vision"}
CHECKPOINT_CODES |= {"kept-norms"}  # tests/converting/test_qwen3.py
INVALID = {fact["reason"]: fact for fact in load_manifest()["invalid"] if fact.get("stored", True)}
CONTAINER_CODES = {code for code in CODES if code in INVALID}
FILE_CODES = {"files-list", "files-missing"}  # tests/store/test_carried.py
SET_CODES = {"set", "set-missing-store"}  # tests/checking/test_sets.py


def test_each_code_has_a_test() -> None:
    named = OTHER_CODES | CONTENT_CODES | CONTAINER_CODES | FILE_CODES | SET_CODES | CHECKPOINT_CODES
    assert set(CODES) == set(RUNTIME_CODES) | named


@pytest.mark.parametrize("code", RUNTIME_CODES)
def test_what_the_runtime_cannot_take_is_found(tmp_path: Path, model: Blobs, code: str) -> None:
    assert not found_in(tmp_path / "right.sbs", model)
    found = found_in(tmp_path / "m.sbs", RUNTIME_CODES[code](model))
    assert code in codes(found)
    assert codes(found) <= {code} | ENTAILED.get(code, set())
    finding = next(finding for finding in found if finding.code == code)
    asked = CODES[code].asked
    assert finding.severity == (CODES[code].severity if asked is None else asked)
    assert finding.effect
    assert finding.fix


@pytest.mark.parametrize(
    ("blob", "kind", "expected"),
    [
        (bpe().to_bytes(), 1, set()),
        (bpe(tokens=(b"a", b"b", b"ab", *(b"%d" % i for i in range(94)))).to_bytes(), 1, {"tokenizer-size"}),
        (tokenizer(96), 1, {"tokenizer-kind"}),
        (b"\x0a\x03", 1, {"tokenizer-bpe"}),
        (b"unavailable", 1, {"no-tokenizer"}),
        (tokenizer(96), 0, set()),
        (bpe().to_bytes(), 2, {"not-compared"}),
    ],
)
def test_the_config_says_what_a_tokenizer_is(
    tmp_path: Path, model: Blobs, blob: bytes, kind: int, expected: set[str]
) -> None:
    found = codes(found_in(tmp_path / "m.sbs", with_config(model | {"tokenizer": blob}, tokenizer_kind=kind)))
    assert found - {"newer-fields", "ignored-fields", "newer-value"} == expected


def test_a_missing_tokenizer_is_fixed_by_one_of_its_kind(tmp_path: Path, model: Blobs) -> None:
    for kind, fix in ((0, "gemma --tokenizer tokenizer.model"), (1, "convert again with --tokenizer tokenizer.json")):
        blobs = with_config(without(model, "tokenizer"), tokenizer_kind=kind)
        found = found_in(tmp_path / f"{kind}.sbs", blobs)
        assert [finding.fix for finding in found if finding.code == "no-tokenizer"] == [fix]


def test_too_many_layers_are_counted(tmp_path: Path, model: Blobs) -> None:
    layers = (config_of(model).layer_configs[0],) * 1001
    blobs = with_config(model, layer_configs=layers, attention_window_sizes=(512,) * 1001, num_layers=1001)
    (finding,) = (finding for finding in found_in(tmp_path / "m.sbs", blobs) if finding.code == "too-many-layers")
    assert finding.message == "the model has 1001 layers, gemma.cpp takes at most 999, numbered up to 998"


@pytest.mark.parametrize(
    ("stops", "fields"),
    [
        ((1, 0), []),
        ((1, 95), []),
        ((106, 107), []),  # the runtime's own
        ((96, 1), ["eos_id"]),
        ((1, 2**31 - 1), ["secondary_eos_id"]),
        ((300, 300), ["eos_id", "secondary_eos_id"]),
        ((-1, -1), ["eos_id", "secondary_eos_id"]),
    ],
)
def test_stop_tokens_beyond_the_vocabulary_are_found(
    tmp_path: Path, model: Blobs, stops: tuple[int, int], fields: list[str]
) -> None:
    assert config_of(model).vocab_size == 96
    blobs = with_config(model, eos_id=stops[0], secondary_eos_id=stops[1])
    found = found_in(tmp_path / "m.sbs", blobs)
    assert [finding.subject for finding in found] == [f"config.{field}" for field in fields]
    assert [finding.subject for finding in found if "outside the embedding" in finding.effect] == [
        f"config.{field}" for field in fields if field == "eos_id"
    ]
    assert codes(found) <= {"stop-token"}


@pytest.mark.parametrize("fact", INVALID.values(), ids=lambda fact: str(fact["reason"]))
def test_a_file_that_does_not_open_is_one_finding(fact: dict[str, Any]) -> None:
    path = VECTORS / "invalid" / fact["file"]
    for found in (check_file(path), verify_file(path).findings):
        finding = next(finding for finding in found if finding.severity == "error")
        assert finding.code == fact["reason"]
        assert finding.effect
        assert finding.fix


@pytest.mark.parametrize("fact", load_manifest()["verify"], ids=lambda fact: fact["file"])
def test_what_the_vectors_say_of_verifying_is_found(fact: dict[str, Any]) -> None:
    assert fact["reason"] in codes(verify_file(VECTORS / "verify" / fact["file"]).findings)


# Files that gemma.cpp itself handles better or worse than others with the same code.
LESS_OR_MORE: dict[str, tuple[Callable[[Blobs], Blobs], str, str, str]] = {
    "only the number of layers": (lambda blobs: with_config(blobs, num_layers=1), "config-sizes", "warning", "none"),
    "no layers": (lambda blobs: with_config(blobs, layer_configs=()), "config-sizes", "error", "crashes"),
    "a norm in sfp": (lambda blobs: in_type(blobs, "c_final_norm", "sfp"), "tensor-type", "warning", "runs it"),
    "a tensor of no model": (
        lambda blobs: with_toc(blobs, c_final_norm={"name": "x"}) | {"x": b"1"},
        "toc-size",
        "warning",
        "ignores",
    ),
    "a stock tensor in i8": (lambda blobs: in_type(twice(blobs), "gating_ein_0", "i8"), "i8-stock", "error", "hangs"),
    "too few layers to guess": (lambda _: letters(Bc_final_norm=bytes(8)), "before-2025", "error", "guesses"),
    "too few of a type": (
        lambda _: letters(Bpre_att_ns_17=bytes(8), Fpre_ff_ns_17=bytes(8)),
        "before-2025",
        "error",
        "four blobs",
    ),
    "enough to guess": (
        lambda _: letters(**{f"Bpre_att_ns_{i}": bytes(8) for i in range(18)}),
        "before-2025",
        "note",
        "guesses",
    ),
}


@pytest.mark.parametrize("what", LESS_OR_MORE)
def test_a_finding_is_as_bad_as_gemma_cpp_was_seen_to_take_it(tmp_path: Path, model: Blobs, what: str) -> None:
    change, code, severity, effect = LESS_OR_MORE[what]
    found = [finding for finding in found_in(tmp_path / "m.sbs", change(model)) if finding.code == code]
    assert [finding for finding in found if finding.severity == severity and effect in finding.effect]
    if severity != "error":
        assert {finding.severity for finding in found} == {severity}


def test_norms_of_the_vision_part_go_together(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    convert(small_recipe("paligemma2").write(tmp_path / "c"), path, Choices("bf16"), index="external")
    with blobstore.BlobReader(path) as reader:
        blobs = {key: bytes(blob) for key, blob in reader.items()}
    assert "pair-types" not in codes(found_in(tmp_path / "right.sbs", blobs))
    assert "pair-types" in codes(found_in(tmp_path / "wrong.sbs", in_type(blobs, "enc_norm_bias", "f32")))


@pytest.mark.parametrize(
    ("size", "where"), [(64 + 16, "with AVX-512"), (64 + 8, "with AVX2 or AVX-512"), (64 + 2, "all machines")]
)
def test_which_machines_stop_at_a_vocabulary_is_told(tmp_path: Path, model: Blobs, size: int, where: str) -> None:
    found = found_in(tmp_path / "m.sbs", with_config(model, vocab_size=size))
    (finding,) = (finding for finding in found if finding.code == "vocabulary")
    assert finding.severity == "error"
    assert finding.effect.endswith(where)
    assert "pad the embedding" in finding.fix


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("attention_window_sizes", {"attention_window_sizes": (4096,)}),
        ("layer_configs[1]", {"qkv_dim": 1032}),
        ("layer_configs[1]", {"kv_heads": 4}),
        ("layer_configs[1]", {"kv_heads": 0}),
        ("layer_configs[1]", {"heads": 0}),
        ("layer_configs[1]", {"type": LayerType.VIT}),
    ],
)
def test_sizes_of_a_config_that_can_not_be_are_found(
    tmp_path: Path, model: Blobs, field: str, change: dict[str, object]
) -> None:
    first, second = config_of(model).layer_configs
    if field.startswith("layer"):
        change = {"layer_configs": (first, replace(second, **change))}  # type: ignore[arg-type]
    found = found_in(tmp_path / "m.sbs", with_config(model, **change))
    assert [finding.subject for finding in found if finding.code == "config-sizes"] == [f"config.{field}"]


def test_what_an_index_says_of_blobs_that_are_not_there_is_told_once(tmp_path: Path, model: Blobs) -> None:
    table = [IndexedBlob(b"nothing", 5)]
    index = build_index([Entry("x", 0, 0, 5, BY_NAME["u8"].number, (5,))], table)
    found = found_in(tmp_path / "m.sbs", model | {"~index": index})
    assert codes(found) == {"index-missing-blob"}


def test_a_number_that_is_no_int_is_no_layer(tmp_path: Path, model: Blobs) -> None:
    assert "layer-number" not in codes(found_in(tmp_path / "m.sbs", model | {"a_4294967296": b"x"}))


def test_a_tokenizer_that_says_it_is_none_is_none(tmp_path: Path, model: Blobs) -> None:
    found = found_in(tmp_path / "m.sbs", model | {"tokenizer": b"unavailable"})
    assert codes(found) == {"no-tokenizer"}


def test_unused_blobs_are_counted_when_there_are_many(tmp_path: Path, model: Blobs) -> None:
    found = found_in(tmp_path / "m.sbs", model | {f"x{i}": b"x" for i in range(20)})
    assert codes(found) == {"unused-blob"}
    assert len(found) == 9
    assert "12 more blobs" in found[-1].message


def test_an_index_that_disagrees_with_the_toc_is_found(tmp_path: Path, model: Blobs) -> None:
    table = [IndexedBlob(key.encode(), len(data)) for key, data in model.items()]
    place = list(model).index("c_final_norm")
    size = len(model["c_final_norm"])
    entry = Entry("c_final_norm", place, 0, size, BY_NAME["u8"].number, (size,))
    found = found_in(tmp_path / "m.sbs", model | {"~index": build_index([entry], table)})
    assert codes(found) == {"index-disagrees"}
    assert found[0].subject == "c_final_norm"


# ---------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_that_converts_has_notes_only(tmp_path: Path) -> None:
    folder = sound_recipe("gemma3").write(tmp_path / "c")
    found = check_checkpoint(str(folder), "auto", Choices()).findings
    assert found
    assert {finding.severity for finding in found} == {"note"}


def test_a_checkpoint_shows_all_that_convert_would_refuse(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    del tensors["model.norm.weight"]
    folder = recipe.write(
        tmp_path / "c", tensors | {"model.layers.0.mlp.up_proj.lora_A.weight": np.zeros((2, 2), "f4")}
    )
    found = [
        finding for finding in check_checkpoint(str(folder), "auto", Choices()).findings if finding.severity == "error"
    ]
    assert len(found) > 1
    assert {"model.norm.weight", "model.layers.0.mlp.up_proj.lora_A.weight"} <= {finding.subject for finding in found}


def test_a_checkpoint_of_another_model_is_said_to_be_one(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    folder = recipe.write(tmp_path / "c", config=recipe.config() | {"model_type": "gemma3n"})
    assert codes(check_checkpoint(str(folder), "auto", Choices()).findings) == {"unsupported-model"}
    (folder / "config.json").unlink()
    assert codes(check_checkpoint(str(folder), "gemma", Choices()).findings) == {"missing-config"}


def test_values_that_the_type_cannot_hold_are_found_in_a_checkpoint(tmp_path: Path) -> None:
    recipe = sound_recipe("gemma3")
    tensors = recipe.tensors()
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = np.nan
    folder = str(recipe.write(tmp_path / "c", tensors))
    found = [
        finding for finding in check_checkpoint(folder, "auto", Choices("sfp")).findings if finding.severity == "error"
    ]
    assert [(finding.code, finding.subject) for finding in found] == [("not-finite", name)]
    kept = [
        finding for finding in check_checkpoint(folder, "auto", Choices("bf16")).findings if finding.severity != "note"
    ]
    assert [(finding.severity, finding.code, finding.subject) for finding in kept] == [
        ("warning", "not-a-number", name)
    ]
    assert kept[0].message == "it has nan at index [0, 0]"


def test_values_that_the_type_keeps_are_found_besides_those_that_it_cannot_hold(tmp_path: Path) -> None:
    recipe = sound_recipe("gemma3")
    tensors = recipe.tensors()
    names = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    for name in names:
        tensors[name] = tensors[name].copy()
        tensors[name].reshape(-1)[0] = np.nan
    found = check_checkpoint(str(recipe.write(tmp_path / "c", tensors)), "auto", Choices("sfp")).findings
    assert {(one.code, one.subject) for one in found if one.severity != "note"} == {
        ("not-finite", names[0]),
        ("not-a-number", names[1]),
    }


@pytest.mark.parametrize("wrong", ["empty", "truncated", "renamed"])
def test_a_checkpoint_that_does_not_open_is_one_finding(tmp_path: Path, wrong: str) -> None:
    folder = small_recipe("gemma3").write(tmp_path / "c")
    path = folder / "model.safetensors"
    if wrong == "empty":
        path.unlink()
    elif wrong == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.rename(folder / "model.gguf")
    found = check_checkpoint(str(folder), "auto", Choices()).findings
    expected = {"empty": "no-checkpoint", "truncated": "safetensors-layout", "renamed": "gguf"}[wrong]
    assert codes(found) == {expected}


def test_the_page_of_findings_has_every_code_as_it_is() -> None:
    rows = set((ROOT / "spec" / "findings.md").read_text().splitlines())
    expected = {f"| `{code}` | {kind.severity} | {kind.effect} | {kind.fix} |" for code, kind in CODES.items()}
    assert {row for row in rows if row.startswith("| `")} == expected
