"""The commands pack and unpack, and what other commands say about a packed file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest

import blobstore
from blobstore.converting.choices import Choices
from tests.cli.test_cli import Cli, Done
from tests.gemma_checkpoints import convert, sound_recipe

if TYPE_CHECKING:
    from pathlib import Path

WIDE, FLAT = "model.layers.0.mlp.up_proj.weight", "flat"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 0.02, (64, 1024)).astype(ml_dtypes.bfloat16)
    tensors = {WIDE: weights, FLAT: rng.integers(0, 256, 4096, dtype=np.uint8)}
    blobstore.save_file(tensors, tmp_path / "m.sbs", {"license": "mit"})
    return tmp_path / "m.sbs"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    convert(sound_recipe("gemma3").write(tmp_path / "c"), tmp_path / "g.sbs", Choices("bf16"))
    return tmp_path / "g.sbs"


def check_refused(done: Done, status: int, reason: str) -> None:
    (line,) = done.err.splitlines()
    assert (done.status, done.out) == (status, "")
    assert line.startswith("blobstore: ")
    assert f" {reason}: " in line


@pytest.fixture
def tuned(store: Path, tmp_path: Path) -> Path:
    """A fine-tune of the store."""
    with blobstore.open(store) as opened:
        bits = opened[WIDE].view(np.uint16).copy()
        bits[3] ^= 1
        blobstore.save_file({WIDE: bits.view(ml_dtypes.bfloat16), FLAT: opened[FLAT]}, tmp_path / "t.sbs")
    return tmp_path / "t.sbs"


def test_every_command_that_reads_tensors_takes_a_base(cli: Cli, store: Path, tuned: Path, tmp_path: Path) -> None:
    packed = tmp_path / "p.sbs"
    assert cli("pack", tuned, "-o", packed, "--base", store).status == 0
    commands = {
        "get": ("get", packed, WIDE, "-o", tmp_path / "w.npy"),
        "export": ("export", packed, "-o", tmp_path / "p.safetensors"),
        "diff": ("diff", packed, tuned),
    }
    for command, arguments in commands.items():
        refused = cli(*arguments)
        check_refused(refused, 2, "needs-base")
        assert repr(WIDE) in refused.err or repr(FLAT) in refused.err
        done = cli(*arguments, "--base", store)
        assert done.status == 0, (command, done)
    with blobstore.open(tuned) as opened:
        assert np.array_equal(np.load(tmp_path / "w.npy"), opened[WIDE].astype(np.float32))
    assert cli("diff", tmp_path / "p.safetensors", tuned).status == 0
    for given, code in (((), "needs-base"), (("--base", tuned), "wrong-base")):
        done = cli("verify", packed, "--values", *given)
        assert (done.status, [row[1] for row in done.rows]) == (1, [code])
        assert "--base" in done.out
    assert cli("verify", packed, "--values", "--base", store).status == 0
    check_refused(cli(*commands["diff"], "--base", tuned), 2, "wrong-base")
    source = tmp_path / "p.safetensors"
    for needless in (("verify", packed), ("verify", packed, "--quick"), ("diff", source, source)):
        check_refused(cli(*needless, "--base", store), 2, "needless-base")


def test_check_names_the_base_that_unpacking_a_difference_needs(
    cli: Cli, store: Path, tuned: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "p.sbs"
    for base in (False, True):
        assert cli("pack", tuned, "-o", packed, *["--base", str(store)][: 2 * base]).status == 0
        (row,) = [one for one in cli("check", packed).out.splitlines() if one.startswith("note\tpacked\t")]
        assert ("--base OTHER" in row.split("\t")[-1]) == base


def test_pack_tells_of_each_tensor_and_unpack_gives_the_file_back(cli: Cli, store: Path, tmp_path: Path) -> None:
    done = cli("pack", store, "-o", tmp_path / "p.sbs")
    assert (done.status, done.err) == (0, "")
    *rows, last = [line.split("\t") for line in done.out.splitlines()]
    assert [(row[0], row[1], row[5]) for row in rows] == [(WIDE, "bf16", "planes"), (FLAT, "u8", "as it is")]
    assert int(rows[0][3]) < 0.75 * int(rows[0][2]) == 0.75 * 2 * 64 * 1024
    assert rows[1][2:5] == ["4096", "4096", "1.000"]
    assert "1 of 2 blobs packed" in last[0]
    back = cli("unpack", tmp_path / "p.sbs", "-o", tmp_path / "u.sbs")
    assert (back.status, back.err) == (0, "")
    assert "1 blobs unpacked" in back.out
    assert (tmp_path / "u.sbs").read_bytes() == store.read_bytes()


def test_as_json_both_tell_what_was_done(cli: Cli, store: Path, tmp_path: Path) -> None:
    packed = tmp_path / "p.sbs"
    report = cli("pack", store, "-o", packed, "--only", "model.*", "--level", "3", "--json").json
    assert (report["output"], report["unpacked_nbytes"]) == (str(packed), store.stat().st_size)
    assert report["nbytes"] == packed.stat().st_size
    assert [(blob["names"], blob["packed"], blob["delta"]) for blob in report["blobs"]] == [
        ([WIDE], True, False),
        ([FLAT], False, False),
    ]
    report = cli("unpack", packed, "-o", tmp_path / "u.sbs", "--json").json
    assert (report["nbytes"], report["blobs"]) == (store.stat().st_size, 1)


def test_a_difference_needs_its_base(cli: Cli, store: Path, tmp_path: Path) -> None:
    packed, back = tmp_path / "p.sbs", tmp_path / "u.sbs"
    done = cli("pack", store, "-o", packed, "--base", store)
    assert (done.status, done.rows[0][5]) == (0, "difference")
    refused = cli("unpack", packed, "-o", back)
    check_refused(refused, 2, "needs-base")
    assert f"(it was packed against {store.name!r})" in refused.err
    assert "packed against" in cli("info", packed).out
    assert cli("info", packed, "--json").json["packed"]["base"] == cli("info", store, "--json").json["directory_sha256"]
    assert cli("info", store, "--json").json["directory_sha256"] in cli("info", store).out
    assert not back.exists()
    verified = cli("verify", packed, "--values", "--json")
    assert verified.status == 1
    assert [finding["code"] for finding in verified.json["findings"]] == ["needs-base"]
    assert cli("unpack", packed, "-o", back, "--base", store).status == 0
    assert back.read_bytes() == store.read_bytes()


def test_info_check_and_verify_say_what_a_packed_model_is(cli: Cli, model: Path, tmp_path: Path) -> None:
    packed = tmp_path / "p.sbs"
    assert cli("pack", model, "-o", packed).status == 0
    assert "gemma.cpp can't run it until blobstore unpack" in cli("info", packed).out
    facts = cli("info", packed, "--json").json["packed"]
    assert facts["blobs"] > 0
    assert facts["nbytes"] < facts["unpacked_nbytes"]
    done = cli("check", packed)
    assert done.status == 1
    assert [line.split("\t")[:2] for line in done.out.splitlines()] == [["error", "packed"]]
    assert "blobstore unpack FILE -o OUT" in done.out
    assert cli("verify", packed, "--values").status == 0
    assert cli("info", model, "--json").json["packed"] is None


def test_of_a_packed_file_that_is_no_model_check_only_notes_it(cli: Cli, store: Path, tmp_path: Path) -> None:
    cli("pack", store, "-o", tmp_path / "p.sbs")
    done = cli("check", tmp_path / "p.sbs", "--json")
    assert done.status == 0
    assert ("note", "packed") in {
        (finding["severity"], finding["code"]) for finding in json.loads(done.out)["findings"]
    }


def test_a_tensor_of_a_packed_file_is_got_and_exported(cli: Cli, store: Path, tmp_path: Path) -> None:
    packed = tmp_path / "p.sbs"
    cli("pack", store, "-o", packed)
    for source, name in ((store, "a"), (packed, "b")):
        assert cli("get", source, WIDE, "-o", tmp_path / f"{name}.npy").status == 0
        assert cli("export", source, "-o", tmp_path / f"{name}.safetensors").status == 0
    for suffix in ("npy", "safetensors"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["pack", "m.sbs", "-o", "m.sbs"], "same-file"),
        (["pack", "m.sbs", "-o", "p.sbs", "--only", "nothing*"], "no-match"),
        (["pack", "p0.sbs", "-o", "p.sbs"], "already-packed"),
        (["unpack", "m.sbs", "-o", "p.sbs"], "not-packed"),
        (["pack", "m.sbs", "-o", "p.sbs", "--workers", "0"], "bad-workers"),
        (["unpack", "p0.sbs", "-o", "p.sbs", "--workers", "-1"], "bad-workers"),
    ],
)
def test_wrong_usage_is_one_line(cli: Cli, store: Path, tmp_path: Path, arguments: list[str], reason: str) -> None:
    cli("pack", store, "-o", tmp_path / "p0.sbs")
    typed = [str(tmp_path / argument) if argument.endswith(".sbs") else argument for argument in arguments]
    check_refused(cli(*typed), 2, reason)
    assert not (tmp_path / "p.sbs").exists()


def test_a_damaged_packed_file_is_one_line_and_leaves_nothing(cli: Cli, store: Path, tmp_path: Path) -> None:
    packed = tmp_path / "p.sbs"
    cli("pack", store, "-o", packed)
    with blobstore.open(packed) as opened:
        at = opened.info(WIDE).offset + 500
    raw = bytearray(packed.read_bytes())
    raw[at] ^= 0x55
    packed.write_bytes(raw)
    check_refused(cli("unpack", packed, "-o", tmp_path / "u.sbs"), 1, "packed-data")
    assert not (tmp_path / "u.sbs").exists()
