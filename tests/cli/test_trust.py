"""The commands check, verify, rewrite and recover: their output, files and exit status."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from blobstore.cli import parser
from blobstore.converting.choices import Choices
from tests.checkpoints import own, write_own
from tests.cli.test_gemma import Cli, one_line
from tests.gemma_checkpoints import convert, sound_recipe

if TYPE_CHECKING:
    from pathlib import Path

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "m.sbs"
    blobstore.save_file({NAME: np.arange(6, dtype=np.float32), "b": np.ones(9, np.uint8)}, path, {"license": "mit"})
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    convert(sound_recipe("gemma3").write(tmp_path / "c"), tmp_path / "g.sbs", Choices("bf16"))
    return tmp_path / "g.sbs"


def damage(path: Path, name: str, at: int = 5) -> int:
    """Flip a bit of a tensor → its offset in the file."""
    with blobstore.open(path) as opened:
        offset = opened.info(name).offset + at
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 4
    path.write_bytes(raw)
    return offset


def cut(path: Path, nbytes: int) -> Path:
    os.truncate(path, path.stat().st_size - nbytes)
    return path


# --------------------------------------------------------------------------------------------------------------- check


def test_check_says_that_nothing_is_wrong(cli: Cli, model: Path) -> None:
    done = cli("check", model)
    assert (done.status, done.out) == (0, "")
    runs = "runs correctly in gemma.cpp 2025-10, 2026-04 and latest"
    assert done.err == f"{model}: nothing wrong found\n{model}: {runs}\n"


def test_check_tells_code_subject_effect_and_fix(cli: Cli, model: Path) -> None:
    cli("rewrite", model, "--in-place", "--drop", "c_final_norm", "--drop", "tokenizer")
    done = cli("check", model)
    assert done.status == 1
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert {len(line) for line in lines} == {6}
    assert [line[:3] for line in lines] == [
        ["error", "missing-tensor", "c_final_norm"],
        ["warning", "no-tokenizer", "tokenizer"],
    ]
    assert "gemma.cpp stops" in lines[0][4]
    assert "blobstore convert" in lines[0][5]
    assert done.err.splitlines()[-2].endswith("1 error, 1 warning")
    assert done.err.splitlines()[-1].endswith("runs correctly in no gemma.cpp (missing-tensor)")


@pytest.mark.parametrize(("option", "status"), [((), 0), (("--strict",), 1)])
def test_check_strict_counts_warnings(cli: Cli, model: Path, option: tuple[str, ...], status: int) -> None:
    cli("rewrite", model, "--in-place", "--drop", "tokenizer")
    assert cli("check", model, *option).status == status


def test_check_as_json(cli: Cli, model: Path) -> None:
    cli("rewrite", model, "--in-place", "--drop", "c_final_norm")
    done = cli("check", model, "--json")
    report = json.loads(done.out)
    assert done.status == 1
    assert report["ok"] is False
    (finding,) = report["findings"]
    fields = {"severity", "code", "subject", "message", "effect", "fix", "offset", "nbytes", "names", "runtimes"}
    assert fields == set(finding)
    assert report["runs_in"] == []


def test_check_of_a_container_by_name_depends_on_what_it_is_for(cli: Cli, store: Path) -> None:
    assert cli("check", store).status == 0
    assert "by-name" in cli("check", store).out
    assert cli("check", store, "--for", "any").out == ""
    wanted = cli("check", store, "--for", "gemma.cpp")
    assert wanted.status == 1
    assert "not-for-gemma" in wanted.out


def test_check_of_a_checkpoint_runs_the_conversions_preflight(cli: Cli, tmp_path: Path) -> None:
    recipe = sound_recipe("gemma3")
    right = cli("check", recipe.write(tmp_path / "c"))
    assert right.status == 0
    assert {line.split("\t")[0] for line in right.out.splitlines()} == {"note"}
    tensors = recipe.tensors()
    del tensors["model.norm.weight"]
    folder = recipe.write(tmp_path / "d", tensors)
    for path in (folder, folder / "model.safetensors"):
        done = cli("check", path)
        assert done.status == 1
        assert "error\tmissing-tensor\tmodel.norm.weight" in done.out
    assert cli("check", folder, "--for", "any").status == 0
    by_name = write_own(tmp_path / "n.safetensors", own({"w": np.ones(3, np.float32)}))
    assert cli("check", by_name).out.startswith(f"note\tby-name\t{by_name}\tconverted by name")


def test_check_of_a_broken_file_is_one_finding(cli: Cli, model: Path) -> None:
    done = cli("check", cut(model, 1))
    assert done.status == 1
    assert done.out.startswith("error\tno-directory\t")
    assert "blobstore recover" in done.out


@pytest.mark.parametrize("command", ["check", "verify"])
def test_a_file_that_is_not_there_is_wrong_usage(cli: Cli, tmp_path: Path, command: str) -> None:
    done = cli(command, tmp_path / "nothing.sbs")
    assert done.status == 2
    assert "No such file" in one_line(done)


def test_on_a_terminal_findings_are_for_people(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("rewrite", model, "--in-place", "--drop", "c_final_norm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    done = cli("check", model)
    assert "error: missing-tensor: c_final_norm: " in done.out
    assert "    effect: gemma.cpp stops" in done.out
    assert "    fix:    " in done.out
    assert "\t" not in done.out


def test_on_a_terminal_the_same_thing_is_not_told_for_ever(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.BlobWriter(path) as writer:
        writer.add("config", b"x")
        for i in range(30):
            writer.add(f"a_{1000 + i}", b"x")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    done = cli("check", path)
    assert done.out.count("layer-number: a_") == 20
    assert "and 10 more of layer-number" in done.out


# -------------------------------------------------------------------------------------------------------------- verify


def test_verify_says_what_was_compared(cli: Cli, store: Path) -> None:
    done = cli("verify", store)
    assert (done.status, done.out) == (0, "")
    assert "nothing wrong found (2 blobs of 33 bytes against their SHA-256" in done.err
    report = json.loads(cli("verify", store, "--json").out)
    assert (report["ok"], report["compared"], report["nbytes"], report["findings"]) == (True, 2, 33, [])


@pytest.mark.parametrize("command", ["check", "verify"])
def test_several_files_one_after_the_other_and_the_worst_status(
    cli: Cli, store: Path, model: Path, command: str
) -> None:
    assert cli(command, store, model).status == 0
    broken = model.with_name("b.sbs")
    broken.write_bytes(b"no such file")
    done = cli(command, broken, model, store)
    assert done.status == 1
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[6] for row in rows if row[0] == "error"] == [str(broken)]
    assert all(f"{path}: " in done.err for path in (broken, model, store))
    reports = json.loads(cli(command, store, "--json", broken).out)
    assert [(report["input"], report["ok"]) for report in reports] == [(str(store), True), (str(broken), False)]
    assert cli(command, store, store.with_name("none.sbs")).status == 2


def test_a_source_is_that_of_one_file(cli: Cli, model: Path) -> None:
    done = cli("verify", model, model, "--against", model.with_name("c"))
    assert done.status == 2
    assert "one-file" in done.err


def test_verify_names_the_damaged_tensor_and_its_bytes(cli: Cli, store: Path) -> None:
    offset = damage(store, NAME)
    done = cli("verify", store)
    assert done.status == 1
    assert NAME in done.out
    assert f"at offset {offset - 5}" in done.out
    (finding,) = json.loads(cli("verify", store, "--json").out)["findings"]
    assert (finding["code"], finding["offset"], finding["nbytes"], finding["names"]) == (
        "damaged-blob",
        offset - 5,
        24,
        [NAME],
    )
    assert cli("verify", store, "--quick").status == 0


def test_verify_of_a_file_without_digests_says_so_and_how_to_keep_them(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.BlobWriter(path) as writer:
        writer.add("a", b"x")
    done = cli("verify", path)
    assert done.status == 0
    assert done.out.startswith("warning\tno-digests\t")
    assert "blobstore index build FILE --digests" in done.out
    assert cli("verify", path, "--strict").status == 1
    assert cli("index", "build", path, "--digests").status == 0
    assert cli("verify", path, "--strict").status == 0


def test_verify_values_counts_what_is_no_number(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"t": np.array([1, np.nan, np.inf, np.nan], np.float32)}, path)
    assert cli("verify", path).status == 0
    done = cli("verify", path, "--values")
    assert done.status == 1
    assert "error\tnot-a-number\tt\t2 of 4 values are NaN, the first at element 1" in done.out
    assert "warning\tinfinite\tt\t1 of 4" in done.out


@pytest.mark.parametrize(
    "options",
    [("--list",), ("--receipt", "r.json"), ("--tokenizer", "t"), ("--workers", "0"), ("--against", "c", "--quick")],
)
def test_options_that_do_not_go_together_are_wrong_usage(cli: Cli, store: Path, options: tuple[str, ...]) -> None:
    done = cli("verify", store, *options)
    assert done.status == 2
    assert options[0].lstrip("-") in one_line(done) or "--against" in one_line(done)


# ------------------------------------------------------------------------------------------------- rewrite and recover


def test_rewrite_says_what_it_has_done(cli: Cli, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.sbs"
    done = cli(
        "rewrite", store, "-o", out, "--drop", "b", "--rename", f"{NAME}=w", "--set", "a=b=c", "--container", "1"
    )
    assert done.status == 0
    assert "1 blobs, 1 names" in done.out
    assert "1 dropped, 1 renamed" in done.out
    with blobstore.open(out) as opened:
        assert opened.metadata == {"a": "b=c", "license": "mit"}
        assert list(opened) == ["w"]
        assert opened.reader.version == 1


def test_rewrite_as_json(cli: Cli, store: Path) -> None:
    report = json.loads(cli("rewrite", store, "--in-place", "--unset", "license", "--json").out)
    assert (report["output"], report["blobs"], report["names"], report["renamed"]) == (str(store), 2, 2, 0)
    assert json.loads(cli("info", store, "--json").out)["metadata"] == {}


def test_rewrite_notes_what_is_no_longer_true(cli: Cli, model: Path) -> None:
    assert "no longer true" in cli("rewrite", model, "--in-place", "--drop", "c_final_norm").err


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-o", "x.sbs", "--in-place"),
        ("--in-place", "--rename", "b"),
        ("--in-place", "--rename", "=c"),
        ("--in-place", "--rename", "b=c", "--rename", "b=d"),
        ("--in-place", "--drop", "nothing"),
        ("--in-place", "--container", "3"),
        ("-o", "no/such/folder/x.sbs"),
    ],
)
def test_wrong_usage_of_rewrite_leaves_the_file(cli: Cli, store: Path, options: tuple[str, ...]) -> None:
    before = store.read_bytes()
    done = cli("rewrite", store, *options)
    assert done.status == 2
    assert "Traceback" not in done.err
    assert store.read_bytes() == before


def test_rewrite_refuses_a_damaged_file(cli: Cli, store: Path, tmp_path: Path) -> None:
    damage(store, NAME)
    done = cli("rewrite", store, "-o", tmp_path / "out.sbs")
    assert done.status == 1
    assert "damaged-blob" in one_line(done)
    assert os.listdir(tmp_path) == ["m.sbs"]


def test_recover_tells_what_was_saved_and_what_is_lost(cli: Cli, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.sbs"
    damage(store, NAME)
    cut(store, 16)
    done = cli("recover", store, "-o", out)
    assert done.status == 1
    assert done.out.splitlines()[0].startswith(f"lost\t{blobstore.key_for(NAME)}\tdamaged")
    assert done.out.splitlines()[0].endswith(NAME)
    assert "1 blobs saved (1 of them verified), 1 names; 1 blobs lost" in done.out
    assert "the index inside it" in done.err
    report = json.loads(cli("recover", store, "-o", out, "--json").out)
    assert (report["ok"], report["kept"], report["lost"][0]["names"]) == (False, ["b"], [NAME])
    assert cli("verify", out, "--strict").status == 0


def test_recover_of_what_is_only_cut_behind_its_blobs_is_right(cli: Cli, store: Path, tmp_path: Path) -> None:
    whole = store.read_bytes()
    done = cli("recover", cut(store, 16), "-o", tmp_path / "out.sbs")
    assert done.status == 0
    assert (tmp_path / "out.sbs").read_bytes() == whole


def test_recover_says_when_there_is_nothing(cli: Cli, store: Path, tmp_path: Path) -> None:
    os.truncate(store, 300)
    done = cli("recover", store, "-o", tmp_path / "out.sbs")
    assert done.status == 1
    assert "not-recoverable" in one_line(done)
    assert cli("recover", store, "-o", store).status == 2


@pytest.mark.parametrize("command", ["check", "verify", "rewrite", "recover"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args([command, "--help"])
    assert stopped.value.code == 0
    assert f"example:\n  blobstore {command} " in capsys.readouterr().out
