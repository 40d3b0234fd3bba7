"""What each version of gemma.cpp does with a file: the rules of spec/gemma.md, and what is newer than some of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore import ModelWriter
from blobstore.checking import asked_for, check_file, runs_in, runtimes_line
from blobstore.checking.config import check_config
from blobstore.checking.repair import repair
from blobstore.checking.tensors import check_model
from blobstore.cli import main
from blobstore.codecs.element_types import BY_NAME
from blobstore.converting.choices import Choices
from blobstore.edit.reindex import build_index
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import FormatError, UsageError
from blobstore.gemma.config import LayerConfig, ModelConfig
from blobstore.gemma.enums import Model, WeightType, Wrapping
from blobstore.gemma.models import config_of
from blobstore.gemma.newer import newer_blobs, newer_in
from blobstore.gemma.runtimes import RUNTIMES
from blobstore.gemma.toc import build_toc, parse_toc, toc_entry
from blobstore.gemma.versions import NAMES
from tests.checking.test_check import write
from tests.gemma_checkpoints import as_before, convert, sound_recipe
from tests.models import FAMILIES, Sizes, spec_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blobstore.checking import Finding
    from blobstore.index.locate import IndexPlace

    Blobs = dict[str, bytes]

OLD, APRIL, LATEST = NAMES


def codes(findings: list[Finding], severity: str = "") -> set[str]:
    return {finding.code for finding in findings if severity in ("", finding.severity)}


def blobs_of(path: Path) -> Blobs:
    with blobstore.BlobReader(path) as reader:
        return {key: bytes(blob) for key, blob in reader.items() if key != "~index"}


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 as it is converted, with its index."""
    folder = tmp_path_factory.mktemp("gemma3")
    convert(sound_recipe("gemma3").write(folder / "c"), folder / "m.sbs", Choices("bf16"))
    return folder / "m.sbs"


@pytest.fixture(scope="module")
def blobs(gemma3: Path) -> Blobs:
    return blobs_of(gemma3)


def changed(blobs: Blobs, **fields: Any) -> Blobs:  # noqa: ANN401 (fields of a config)
    return blobs | {"config": replace(ModelConfig.from_bytes(blobs["config"]), **fields).to_bytes()}


def relayered(blobs: Blobs, *, only: int | None = None, **fields: Any) -> Blobs:  # noqa: ANN401
    layers = ModelConfig.from_bytes(blobs["config"]).layer_configs
    return changed(
        blobs,
        layer_configs=tuple(replace(layer, **fields) if only in (None, i) else layer for i, layer in enumerate(layers)),
    )


# -------------------------------------------------------------------------------------------- which runtimes run a file

LATE_MODEL = {"model": Model.GEMMA3_4B_LM, "wrapping": Wrapping.IT}
RUNS: dict[str, tuple[Callable[[Blobs], Blobs], tuple[str, ...]]] = {
    "as converted": (lambda blobs: blobs, NAMES),
    "without the word": (lambda blobs: changed(blobs, use_global_timescale=False), (OLD,)),
    "a text-only 4B of later runtimes": (lambda blobs: changed(blobs, **LATE_MODEL), (LATEST,)),
    "a number of a still later one": (lambda blobs: changed(blobs, model=Model(99)), ()),
    "any model": (lambda blobs: changed(blobs, model=Model.CUSTOM), (APRIL, LATEST)),
    "labelled 270M": (lambda blobs: changed(blobs, model=Model.GEMMA3_270M), (APRIL, LATEST)),
    "layers of 38 words": (lambda blobs: relayered(blobs, extent=38), (LATEST,)),
    "a layer of 39 words": (lambda blobs: relayered(blobs, newer=(1,), only=1), ()),
    "another base": (lambda blobs: changed(blobs, global_rope_theta=5e5), (LATEST,)),
    "another local base": (lambda blobs: changed(blobs, rope_theta=5e5), (LATEST,)),
    "all fields of later runtimes, at their defaults": (lambda blobs: changed(blobs, extent=45), NAMES),
    "words that nobody knows": (lambda blobs: changed(blobs, newer=(1, 2)), NAMES),
    "words behind the record": (lambda blobs: changed(blobs, trailing=(1, 2)), NAMES),
    "a name that isn't ASCII": (lambda blobs: changed(blobs, display_name="Gemma·3"), (LATEST,)),
    "a fault": (lambda blobs: relayered(blobs, heads=0), ()),
}


@pytest.mark.parametrize("what", RUNS)
def test_the_runtimes_that_run_a_file_are_told(tmp_path: Path, blobs: Blobs, what: str) -> None:
    change, expected = RUNS[what]
    path = write(tmp_path / "m.sbs", change(blobs))
    findings = check_file(path)
    assert runs_in(findings) == expected
    line = runtimes_line(findings)
    named, _, others = line.partition("; not in ")
    if expected:
        assert all((name in named) == (name in expected) for name in NAMES)
        assert all((name in others) == (name not in expected) for name in NAMES)
    else:
        assert line.startswith("runs correctly in no gemma.cpp")
    # A caller that names a runtime gets an answer for that one; without names it is for all.
    for name in NAMES:
        errors = codes(check_file(path, for_runtime=True, runtimes=(name,)), "error")
        warned = {"rope-by-label"} & codes(findings)
        assert (not errors and not (warned and name == OLD)) == (name in expected)
    everywhere = check_file(path, for_runtime=True, runtimes=NAMES)
    assert codes(everywhere) == codes(findings)
    # Unless a runtime is named, what is only newer is not an error.
    only_newer = what not in ("without the word", "a fault")
    assert (not codes(findings, "error")) == only_newer


def test_the_command_says_so_in_one_line(tmp_path: Path, blobs: Blobs, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "m.sbs", changed(blobs, **LATE_MODEL)))
    assert main(["check", path]) == 0
    assert (
        capsys.readouterr().err.count("runs correctly in gemma.cpp latest; not in 2025-10 (newer-value) and 2026-04")
        == 1
    )
    assert main(["check", path, "--for", "gemma.cpp"]) == 1
    assert main(["check", path, "--for", "gemma.cpp@2025-10"]) == 1
    assert main(["check", path, "--for", "gemma.cpp@latest"]) == 0
    capsys.readouterr()
    assert main(["check", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs_in"] == ["latest"]
    assert main(["info", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs_in"] == ["latest"]
    with pytest.raises(SystemExit) as caught:
        main(["check", path, "--for", "gemma.cpp@2024-01"])
    assert caught.value.code == 2


def test_a_container_by_name_runs_nowhere_and_nothing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path / "m.sbs", {"x": b"1"}))
    assert main(["check", path]) == 0
    assert "runs correctly" not in capsys.readouterr().err


def test_findings_are_as_severe_as_for_the_runtimes_that_are_named(tmp_path: Path, blobs: Blobs) -> None:
    findings = check_file(write(tmp_path / "m.sbs", changed(blobs, **LATE_MODEL)))
    assert codes(findings, "note") == {"newer-value"}
    assert codes(asked_for(findings, (OLD,)), "error") == {"newer-value"}
    assert not asked_for(findings, (LATEST,))


@pytest.mark.parametrize("count", [1, 16383, 16384, 16385, 1 << 20])
def test_as_many_blobs_as_a_runtime_reads_are_not_newer(count: int) -> None:
    concerned = [name for newer in newer_blobs(count) for name in newer.runtimes]
    assert concerned == [runtime.name for runtime in RUNTIMES if count > runtime.max_blobs]


# ---------------------------------------------------------------------------------------------------------- newer files


def with_type(blobs: Blobs, number: int) -> Blobs:
    """Blobs with a tensor of another type, and a blob of that size; for an unknown type it keeps its own blob."""
    entries = {entry.name: entry for entry in parse_toc(blobs["toc"])}
    old = entries["linear_w_1"]
    known = next((element_type for element_type in BY_NAME.values() if element_type.number == number), None)
    new = toc_entry(old.name, known, old.rows, old.cols) if known else replace(old, type_number=number)
    entries[old.name] = new
    raw = bytes(new.nbytes) if known else blobs[old.name]
    blobs = blobs | {old.name: raw, "toc": build_toc(entries.values())}
    return changed(blobs, weight=WeightType(number)) if known else blobs


NEWER: dict[str, Callable[[Blobs], Blobs]] = {
    "model 20": lambda blobs: changed(blobs, **LATE_MODEL),
    "a model that nobody knows": lambda blobs: changed(blobs, model=Model(4_000_000_000)),
    "layers of 38 words": lambda blobs: relayered(blobs, extent=38),
    "type 12": lambda blobs: with_type(blobs, 12),
    "type 13": lambda blobs: with_type(blobs, 13),
    "a type that nobody knows": lambda blobs: with_type(blobs, 31),
}


@pytest.mark.parametrize("what", NEWER)
def test_commands_read_a_newer_file_and_say_so(
    tmp_path: Path, blobs: Blobs, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = NEWER[what](blobs)
    path = str(write(tmp_path / "m.sbs", newer))
    unknown = what.endswith("nobody knows")
    out = tmp_path / "out.bin"
    for arguments in (
        ["info", path],
        ["ls", path],
        ["ls", path, "--keys"],
        ["get", path, "linear_w_1", "-o", str(out), "--raw"],
        ["diff", path, path],
        ["check", path],
    ):
        assert main(arguments) == 0, arguments
        printed = capsys.readouterr()
        said = unknown or arguments[0] in ("info", "check")  # elsewhere the latest gemma.cpp is as good as any
        assert ("newer" in (printed.out + printed.err).replace(path, "")) == said, arguments
    assert out.read_bytes() == newer["linear_w_1"]
    assert newer_in(newer)  # type: ignore[arg-type]
    # It is written back unchanged.
    apply_edits(path, tmp_path / "again.sbs", Edits(index="embedded"))
    assert blobs_of(tmp_path / "again.sbs") == newer


def test_nothing_is_newer_in_what_is_converted(blobs: Blobs) -> None:
    assert not newer_in(blobs)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- repair


@pytest.mark.parametrize("index", ["embedded", "external", "none"])
@pytest.mark.parametrize("family", ["gemma3", "gemma3vlm"])
def test_an_old_file_is_found_and_repaired_to_a_new_conversion(
    tmp_path: Path, family: str, index: IndexPlace, capsys: pytest.CaptureFixture[str]
) -> None:
    new, path = tmp_path / "new.sbs", tmp_path / "m.sbs"
    convert(sound_recipe(family).write(tmp_path / "c"), tmp_path / "made.sbs", Choices("sfp"))
    apply_edits(tmp_path / "made.sbs", new, Edits(index=index))
    config = ModelConfig.from_bytes(blobs_of(new)["config"])
    apply_edits(new, path, Edits(config=as_before(config).to_bytes()))
    assert path.read_bytes() != new.read_bytes()
    assert main(["check", str(path)]) == 1
    assert "global-rope" in capsys.readouterr().out
    assert main(["repair", str(path), "--dry-run"]) == 0
    assert path.read_bytes() != new.read_bytes()
    assert "use_global_timescale: False → True" in capsys.readouterr().out
    assert main(["repair", str(path)]) == 0
    assert path.read_bytes() == new.read_bytes()
    beside = tmp_path / "m.sbs.idx"
    if index == "external":
        assert beside.read_bytes() == (tmp_path / "new.sbs.idx").read_bytes()
    else:
        assert not beside.exists()
    assert main(["check", str(path)]) == 0
    # A second time, there is nothing to do.
    before = path.stat()
    assert not repair(path).changes
    assert path.stat() == before


def test_a_model_writer_refuses_a_gemma_3_without_the_word(tmp_path: Path) -> None:
    config = config_of("gemma3-1b-bf16")
    with pytest.raises(UsageError, match="global-rope: a Gemma 3 needs use_global_timescale=True"):
        ModelWriter(tmp_path / "m.sbs", replace(config, use_global_timescale=False))
    for extent in (23, 24):
        ModelWriter(tmp_path / "m.sbs", replace(config, use_global_timescale=False, extent=extent)).discard()
    for right in (config, config_of("9b-bf16-it")):
        ModelWriter(tmp_path / "m.sbs", right).discard()
    assert not list(tmp_path.iterdir())


def test_the_tiny_models_of_gemma_cpp_are_repaired_to_what_convert_makes(tmp_path: Path, shared_vectors: Path) -> None:
    for family in ("gemma3", "gemma3vlm"):
        source = shared_vectors / "convert" / f"tiny-{family}"
        facts = json.loads((shared_vectors / "convert" / f"tiny-{family}.expected.json").read_bytes())
        wrapping = facts["wrapping"] if facts["wrapping"] in ("it", "pt") else None
        new, path = tmp_path / "new.sbs", tmp_path / "m.sbs"
        convert(source, new, Choices("bf16", "split", wrapping))
        config = ModelConfig.from_bytes(blobs_of(new)["config"])
        old = as_before(config).to_bytes()
        expected = facts["expected"]["bf16-split"]
        recorded = next(blob["sha256"] for blob in expected if blob["key"] == "config")
        assert hashlib.sha256(old).hexdigest() == recorded
        apply_edits(new, path, Edits(config=old))
        assert set(repair(path).changes) >= {"use_global_timescale"}
        assert path.read_bytes() == new.read_bytes()


def test_repair_writes_elsewhere_when_it_is_asked_to(tmp_path: Path, gemma3: Path) -> None:
    old, out = tmp_path / "old.sbs", tmp_path / "out.sbs"
    apply_edits(gemma3, old, Edits(config=as_before(ModelConfig.from_bytes(blobs_of(gemma3)["config"])).to_bytes()))
    before = old.read_bytes()
    assert main(["repair", str(old), "-o", str(out), "--json"]) == 0
    assert old.read_bytes() == before
    assert out.read_bytes() == gemma3.read_bytes()


def test_a_damaged_config_is_not_repaired_to_a_sound_one(tmp_path: Path, gemma3: Path) -> None:
    path = tmp_path / "m.sbs"
    apply_edits(gemma3, path, Edits(config=as_before(ModelConfig.from_bytes(blobs_of(gemma3)["config"])).to_bytes()))
    with blobstore.BlobReader(path) as reader:
        at = reader.range("config")[0]
        config = ModelConfig.from_bytes(reader["config"])
    raw = bytearray(path.read_bytes())
    place = raw.index(config.vocab_size.to_bytes(4, "little"), at)
    raw[place + 5] ^= 0x40  # max_seq_len
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="damaged-blob: 'config'"):
        repair(path)
    assert path.read_bytes() == raw
    assert main(["repair", str(path), "-o", "-"]) == 1


def test_a_repair_that_fails_leaves_the_file(
    tmp_path: Path, gemma3: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.sbs"
    apply_edits(gemma3, path, Edits(config=as_before(ModelConfig.from_bytes(blobs_of(gemma3)["config"])).to_bytes()))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", fail)
        assert main(["repair", str(path)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.sbs"]


@pytest.mark.parametrize("family", ["gemma2", "paligemma2"])
def test_other_families_have_nothing_to_repair(tmp_path: Path, family: str) -> None:
    path = tmp_path / "m.sbs"
    convert(sound_recipe(family).write(tmp_path / "c"), path, Choices("sfp"))
    before = path.read_bytes()
    assert not repair(path).changes
    assert path.read_bytes() == before


def test_what_is_not_a_model_is_not_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "m.sbs", {"x": b"1"}))
    assert main(["repair", path]) == 2
    assert main(["repair", str(tmp_path / "none.sbs")]) == 2
    write(tmp_path / "bad.sbs", {"config": b"12345"})
    assert main(["repair", str(tmp_path / "bad.sbs")]) == 1
    assert capsys.readouterr().err.count("\n") == 3


@pytest.mark.parametrize("bases", [(1e4, 1e4), (5e5, 5e5)])
def test_a_checkpoint_with_one_base_is_right_without_the_word(tmp_path: Path, bases: tuple[float, float]) -> None:
    recipe = sound_recipe("gemma3")
    config = recipe.config() | {"rope_theta": bases[1], "rope_local_base_freq": bases[0]}
    path = tmp_path / "m.sbs"
    convert(recipe.write(tmp_path / "c", config=config), path, Choices("bf16"))
    findings = check_file(path)
    assert not codes(findings, "error")
    assert runs_in(findings) == (NAMES if bases == (1e4, 1e4) else (LATEST,))
    assert not repair(path).changes
    # Other names, or fewer tensors, don't change that.
    shutil.copy(path, tmp_path / "named.sbs")
    assert (build_index(tmp_path / "named.sbs", embed=True, force=True, digests=True).lost_names or 0) > 0
    assert check_file(tmp_path / "named.sbs") == [
        replace(finding, subject=finding.subject.replace("m.sbs", "named.sbs")) for finding in findings
    ]
    apply_edits(path, tmp_path / "fewer.sbs", Edits(drop=("*norm*",)))
    for name in ("named", "fewer"):
        assert "global-rope" not in codes(check_file(tmp_path / f"{name}.sbs"), "error")
        assert not repair(tmp_path / f"{name}.sbs").changes
    # Without the index that is not known.
    apply_edits(path, tmp_path / "bare.sbs", Edits(index="none"))
    assert codes(check_file(tmp_path / "bare.sbs"), "error") == {"global-rope"}


# ----------------------------------------------------------------------- what the program was seen to do with 115 files

TABLE: dict[str, tuple[Callable[[Blobs], Blobs], str, str]] = {
    "layer 1 unlike layer 0": (lambda blobs: relayered(blobs, only=1, heads=9), "unlike-layers", "error"),
    "more than 36,864 columns": (lambda blobs: relayered(blobs, ff_hidden_dim=36868), "columns", "error"),
    "max_seq_len 0": (lambda blobs: changed(blobs, max_seq_len=0), "sequence", "error"),
    "max_seq_len 5": (lambda blobs: changed(blobs, max_seq_len=5), "sequence", "error"),
    "words behind the record": (lambda blobs: changed(blobs, trailing=(7,)), "config-trailing", "note"),
    "a layer's model_dim, split": (lambda blobs: relayered(blobs, only=1, model_dim=24), "config-sizes", "note"),
    "no config": (
        lambda blobs: {key: raw for key, raw in blobs.items() if key not in ("config", "toc")},
        "no-config",
        "error",
    ),
    "no tokenizer pieces for some tokens": (
        lambda blobs: blobs | {"tokenizer": blobs["tokenizer"][: blobs["tokenizer"].index(b"p90") - 4]},
        "tokenizer-size",
        "warning",
    ),
    "a piece twice": (
        lambda blobs: blobs | {"tokenizer": blobs["tokenizer"].replace(b"p11", b"p12")},
        "tokenizer-pieces",
        "error",
    ),
    "no unknown piece": (
        lambda blobs: blobs | {"tokenizer": blobs["tokenizer"].replace(b"\x18\x02", b"\x18\x01")},
        "tokenizer-pieces",
        "error",
    ),
}


@pytest.mark.parametrize("what", TABLE)
def test_check_says_what_the_program_does(tmp_path: Path, blobs: Blobs, what: str) -> None:
    change, code, severity = TABLE[what]
    findings = check_file(write(tmp_path / "m.sbs", change(blobs)))
    assert {finding.severity for finding in findings if finding.code == code} == {severity}
    assert severity == "error" or not codes(findings, "error")


def stock_and_split(blobs: Blobs, *, stride: int) -> Blobs:
    """Blobs with both forms of a tensor, the stock form with this stride in the toc."""
    entries = parse_toc(blobs["toc"])
    halves = [entry for entry in entries if entry.name in ("gating1_w_0", "gating2_w_0")]
    whole = toc_entry("gating_ein_0", halves[0].type, 2 * halves[0].rows, halves[0].cols)
    both = blobs["gating1_w_0"] + blobs["gating2_w_0"]
    return blobs | {"gating_ein_0": both, "toc": build_toc([*entries, replace(whole, stride=stride)])}


def test_rows_with_padding_among_them_are_an_error_everywhere(
    tmp_path: Path, blobs: Blobs, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path / "m.sbs", stock_and_split(blobs, stride=64)))
    findings = check_file(path)
    assert codes(findings, "error") >= {"toc-stride", "both-forms"}
    (forms,) = (finding for finding in findings if finding.code == "both-forms")
    assert forms.subject == "gating_ein_0"
    assert forms.fix.endswith("--drop gating_ein_0")
    for arguments in (
        ["verify", path],
        ["export", path, "-o", str(tmp_path / "out.safetensors")],
        ["diff", path, path],
    ):
        assert main(arguments) == 1, arguments
        printed = capsys.readouterr()
        assert "toc-stride" in printed.out + printed.err
        assert "gating_ein_0" in printed.out + printed.err
    assert not (tmp_path / "out.safetensors").exists()
    # The fix works.
    assert main(["rewrite", path, "--in-place", "--drop", "gating_ein_0"]) == 0
    assert not codes(check_file(path), "error")
    assert main(["verify", path]) == 0


def test_an_index_does_not_make_such_rows_right(tmp_path: Path, gemma3: Path) -> None:
    entries = parse_toc(blobs_of(gemma3)["toc"])
    toc = build_toc(replace(entry, stride=entry.cols + (entry.name == "linear_w_0")) for entry in entries)
    with blobstore.BlobReader(gemma3) as reader, blobstore.BlobWriter(tmp_path / "m.sbs") as writer:
        for key in reader:
            writer.add(key, toc if key == "toc" else bytes(reader[key]))
    path = str(tmp_path / "m.sbs")
    assert main(["export", path, "-o", str(tmp_path / "o.safetensors")]) == 1
    assert main(["diff", path, str(gemma3)]) == 1


def test_of_two_forms_without_padding_either_is_named(tmp_path: Path, blobs: Blobs) -> None:
    findings = check_file(write(tmp_path / "m.sbs", stock_and_split(blobs, stride=20)))
    (forms,) = (finding for finding in findings if finding.code == "both-forms")
    assert forms.fix == "blobstore rewrite FILE -o OUT --drop KEY removes one form"


# The vision part.


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Blobs]:
    made = {}
    for family in ("gemma3vlm", "paligemma2"):
        folder = tmp_path_factory.mktemp(family)
        convert(sound_recipe(family).write(folder / "c"), folder / "m.sbs", Choices("bf16"), index="external")
        made[family] = blobs_of(folder / "m.sbs")
    return made


def with_vit(blobs: Blobs, **fields: Any) -> Blobs:  # noqa: ANN401
    config = ModelConfig.from_bytes(blobs["config"])
    return changed(blobs, vit_config=replace(config.vit_config, **fields))


def with_vit_layers(blobs: Blobs, **fields: Any) -> Blobs:  # noqa: ANN401
    layers = ModelConfig.from_bytes(blobs["config"]).vit_config.layer_configs
    return with_vit(blobs, layer_configs=tuple(replace(layer, **fields) for layer in layers))


VISION_FAULTS: dict[str, Callable[[Blobs], Blobs]] = {
    "kv heads": lambda blobs: with_vit_layers(blobs, kv_heads=1),
    "patch 7": lambda blobs: with_vit(blobs, patch_width=7),
    "patches that aren't the image's": lambda blobs: with_vit(blobs, seq_len=16),
    "an image of half patches": lambda blobs: with_vit(blobs, image_size=29),
    "pool 0": lambda blobs: with_vit(blobs, pool_dim=0),
    "pool 2": lambda blobs: with_vit(blobs, pool_dim=2),
    "no wrapping for images": lambda blobs: changed(blobs, wrapping=Wrapping.PT),
    "rows that aren't a multiple of 4": lambda blobs: with_vit_layers(blobs, ff_hidden_dim=22),
    "a sequence that an image fills": lambda blobs: changed(blobs, max_seq_len=256),
}


@pytest.mark.parametrize("family", ["gemma3vlm", "paligemma2"])
@pytest.mark.parametrize("what", VISION_FAULTS)
def test_what_an_image_would_meet_is_found(tmp_path: Path, vision: dict[str, Blobs], family: str, what: str) -> None:
    right = check_file(write(tmp_path / "right.sbs", vision[family]))
    assert not codes(right, "error")
    assert "image-prompts" in codes(right, "note")
    blobs = VISION_FAULTS[what](vision[family])
    findings = check_file(write(tmp_path / "m.sbs", blobs))
    if what == "a sequence that an image fills" and family == "paligemma2":
        assert "vision-config" not in codes(findings)  # its image has four patches
    else:
        assert "vision-config" in codes(findings, "error")


@pytest.mark.parametrize(
    ("family", "fields"),
    [("gemma3vlm", {"seq_len": 4, "image_size": 28}), ("gemma3vlm", {"pool_dim": 1}), ("paligemma2", {"pool_dim": 4})],
)
def test_patches_are_pooled_as_the_family_has_it(
    tmp_path: Path, vision: dict[str, Blobs], family: str, fields: dict[str, int]
) -> None:
    findings = check_file(write(tmp_path / "m.sbs", with_vit(vision[family], **fields)))
    assert "vision-config" in codes(findings, "error")


def test_gemma_3_has_no_head_of_66(tmp_path: Path, vision: dict[str, Blobs]) -> None:
    for family, fault in (("gemma3vlm", True), ("paligemma2", False)):
        blobs = with_vit_layers(vision[family], qkv_dim=66, heads=2, kv_heads=2)
        findings = check_file(write(tmp_path / "m.sbs", blobs))
        assert ("vision-config" in codes(findings, "error")) == fault


# ---------------------------------------------------------------------------------------- clean is what obeys the rules


def layers_of(config: ModelConfig) -> tuple[LayerConfig, ...]:
    return config.layer_configs


def alike(layers: tuple[LayerConfig, ...], *names: str) -> bool:
    return all(getattr(layer, name) == getattr(layers[0], name) for layer in layers for name in names)


def rows_of(config: ModelConfig) -> list[int]:
    """Rows of the text part's matrices, in split form."""
    rows = [config.vocab_size]
    for layer in config.layer_configs:
        rows += [config.model_dim, layer.ff_hidden_dim, layer.heads * layer.qkv_dim, 2 * layer.kv_heads * layer.qkv_dim]
    return rows


# The tables of spec/gemma.md, Rules of the runtime, line by line.
RULES: list[Callable[[ModelConfig], bool]] = [
    lambda config: config.model != 0 and config.weight != 0,
    lambda config: 1 <= len(config.layer_configs) <= 999,
    lambda config: len(config.attention_window_sizes) >= len(config.layer_configs),
    lambda config: all(layer.qkv_dim <= 1024 for layer in layers_of(config)),
    lambda config: all(layer.qkv_dim % 8 == 0 for layer in layers_of(config)),
    lambda config: all(
        layer.kv_heads and layer.heads and layer.heads % layer.kv_heads == 0 for layer in layers_of(config)
    ),
    lambda config: all(layer.type != 1 for layer in layers_of(config)),
    lambda config: alike(layers_of(config), "ff_hidden_dim", "heads", "kv_heads", "qkv_dim", "post_qk"),
    lambda config: (
        config.model_dim <= 36864
        and all(max(layer.ff_hidden_dim, layer.heads * layer.qkv_dim) <= 36864 for layer in layers_of(config))
    ),
    lambda config: all(rows % 4 == 0 for rows in rows_of(config)),
    lambda config: config.max_seq_len > 10,
    lambda config: config.vocab_size % 32 == 0,
    lambda config: config.use_global_timescale or "GEMMA3" not in config.model.name,
]
VISION_RULES: list[Callable[[ModelConfig], bool]] = [
    lambda config: config.wrapping in (2, 3),
    lambda config: config.vit_config.patch_width == 14,
    lambda config: (
        config.vit_config.image_size % 14 == 0
        and config.vit_config.seq_len == (config.vit_config.image_size // 14) ** 2
    ),
    lambda config: config.wrapping != 2 or (config.vit_config.seq_len, config.vit_config.pool_dim) == (4096, 4),
    lambda config: config.wrapping != 3 or config.vit_config.pool_dim == 1,
    lambda config: config.vit_config.seq_len <= 4096,
    lambda config: (
        config.vit_config.pool_dim == 0
        or config.max_seq_len > config.vit_config.seq_len // config.vit_config.pool_dim**2
    ),
    lambda config: all(
        layer.type == 1 and layer.kv_heads == layer.heads > 0 for layer in config.vit_config.layer_configs
    ),
    lambda config: (
        config.wrapping != 2
        or all(layer.qkv_dim and layer.qkv_dim % 8 == 0 for layer in config.vit_config.layer_configs)
    ),
    lambda config: (
        config.vit_config.model_dim % 4 == config.model_dim % 4 == 0
        and all(
            3 * layer.heads * layer.qkv_dim % 4 == layer.ff_hidden_dim % 4 == 0
            for layer in config.vit_config.layer_configs
        )
    ),
    lambda config: (
        config.vit_config.model_dim <= 36864
        and all(
            max(layer.ff_hidden_dim, layer.heads * layer.qkv_dim) <= 36864 for layer in config.vit_config.layer_configs
        )
    ),
    lambda config: alike(config.vit_config.layer_configs, "ff_hidden_dim", "heads", "qkv_dim"),
]
SMALLEST = Sizes(64, (512, 512), 16, 32, 4, 2, 8, image=56, width=32, vision_hidden=16, vision_heads=2, vision_qkv=8)
_NUMBERS = st.sampled_from(
    [0, 1, 2, 4, 5, 7, 8, 10, 11, 14, 16, 28, 66, 256, 257, 896, 999, 1024, 1025, 4096, 36864, 36868]
)
_OUTER = ("model_dim", "vocab_size", "max_seq_len", "num_layers")
_LAYER = ("ff_hidden_dim", "heads", "kv_heads", "qkv_dim", "post_qk")
_VISION = ("model_dim", "seq_len", "patch_width", "image_size", "pool_dim")


def start(family: str) -> ModelConfig:
    size = replace(SMALLEST, image=896) if family == "gemma3vlm" else SMALLEST
    config = size.applied(config_of(FAMILIES[family].format("bf16")))
    return replace(config, model=Model.GEMMA3_1B) if family == "gemma3" else config


@st.composite
def perturbed(draw: st.DrawFn) -> ModelConfig:
    """A config that obeys all rules, with up to three changes that may break some."""
    config = start(draw(st.sampled_from(list(FAMILIES))))
    for _ in range(draw(st.integers(0, 3))):
        change = draw(
            st.sampled_from(["outer", "word", "layer", "layers", "wrapping", "vision", "vit layer", "windows"])
        )
        vision = config.vit_config
        value = draw(_NUMBERS)
        if change == "outer":
            config = _with(config, draw(st.sampled_from(_OUTER)), value)
        elif change == "word":
            config = replace(config, use_global_timescale=draw(st.booleans()))
        elif change == "wrapping":
            config = replace(config, wrapping=draw(st.sampled_from(Wrapping)))
        elif change == "windows":
            config = replace(config, attention_window_sizes=(512,) * draw(st.integers(0, 3)))
        elif change == "vision" and vision.layer_configs:
            config = replace(config, vit_config=_with(vision, draw(st.sampled_from(_VISION)), value))
        elif change == "vit layer" and vision.layer_configs:
            layers = _changed(draw, vision.layer_configs, value)
            config = replace(config, vit_config=replace(vision, layer_configs=layers))
        elif change in ("layer", "layers") and config.layer_configs:
            config = replace(config, layer_configs=_changed(draw, config.layer_configs, value))
    return config


def _changed(draw: st.DrawFn, layers: tuple[LayerConfig, ...], value: int) -> tuple[LayerConfig, ...]:
    name = draw(st.sampled_from(_LAYER))
    value = value % 2 if name == "post_qk" else value
    only = draw(st.none() | st.integers(0, len(layers) - 1))
    return tuple(_with(layer, name, value) if only in (None, i) else layer for i, layer in enumerate(layers))


def _with(record: Any, name: str, value: int) -> Any:  # noqa: ANN401 (of the record's own type)
    return replace(record, **{name: value})


@given(config=perturbed())
def test_a_config_is_clean_exactly_when_it_obeys_every_rule(config: ModelConfig) -> None:
    toc = {
        row.key: toc_entry(row.key, BY_NAME[row.stored_type("bf16")], row.rows, row.cols)
        for row in spec_tensors(config, "split")
    }
    findings = [*check_config(config), *check_model(config, toc)]
    errors = {finding.code for finding in findings if finding.severity == "error"}
    rules = RULES + (VISION_RULES if config.vit_config.layer_configs else [])
    broken = [i for i, rule in enumerate(rules) if not rule(config)]
    assert bool(broken) == bool(errors), (broken, errors)
