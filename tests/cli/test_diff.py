"""`blobstore diff`: its output and exit status."""

from __future__ import annotations

import json
import os
import shlex
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore.codecs.element_types import BY_NAME
from blobstore.converting.choices import Choices
from tests.checkpoints import (
    EMBEDDING,
    HEAD,
    SINGLE,
    needs_pipes,
    small,
    snapshot,
    write_config,
    write_index,
    write_peer,
)
from tests.cli.test_cli import Cli, Done
from tests.gemma_checkpoints import convert, small_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def diff(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs the command in this process."""
    return partial(Cli(capsys), "diff")


def rows(done: Done) -> list[list[str]]:
    """Cells of all lines except the summary."""
    return done.rows[:-1]


def summary(done: Done) -> str:
    """The last line."""
    return done.out.splitlines()[-1]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two files that differ in every way."""
    base = np.arange(6, dtype=np.float32).reshape(2, 3)
    changed = base.copy()
    changed[1, 2] += 0.5
    nan = base.copy()
    nan[0, 1] = np.nan
    a, b = tmp_path / "a.sbs", tmp_path / "b.sbs"
    first = {"same": base, "changed": base, "nan": base, "gone": base[0], "shape": base, "type": base, "old": base[1]}
    second = {"same": base, "changed": changed, "nan": nan, "fresh": base[0] + 9, "shape": base.T.copy()}
    first = {name: array.copy() for name, array in first.items()}  # copies, or they would be stored once
    blobstore.save_file(first, a, metadata={"license": "x"})
    blobstore.save_file(second | {"type": base.astype(np.float64), "new": base[1]}, b, metadata={"license": "y"})
    return a, b


EXPECTED = {
    "changed": ["values", "f32", "[2, 3]", "1", "0.5", "0.09091", "0.998868", "most at [1, 2]"],
    "fresh": ["added", "f32", "[3]", "-", "-", "-", "-", "-"],
    "gone": ["removed", "f32", "[3]", "-", "-", "-", "-", "-"],
    "license": ["metadata", "-", "-", "-", "-", "-", "-", "x → y"],
    "nan": [
        "values",
        "f32",
        "[2, 3]",
        "1",
        "0",
        "0",
        "1.000000",
        "1 where only one is finite, or the infinities differ; most at [0, 1]",
    ],
    "old": ["renamed", "f32", "[3]", "-", "-", "-", "-", "is new in B"],
    "shape": ["shape", "f32", "[2, 3] → [3, 2]", "-", "-", "-", "-", "-"],
    "type": ["type", "f32 → f64", "[2, 3]", "0", "0", "0", "1.000000", "-"],
}


def test_every_difference_is_a_line_of_nine_cells(diff: Callable[..., Done], files: tuple[Path, Path]) -> None:
    done = diff(*files)
    assert (done.status, done.err) == (1, "")
    assert {row[1]: [row[0], *row[2:]] for row in rows(done)} == EXPECTED
    assert "they differ" in summary(done)
    for counted in ("1 same", "2 values", "1 added", "1 removed", "1 renamed", "1 shape", "1 type", "1 metadata"):
        assert counted in summary(done)


def test_what_is_the_same_is_listed_on_request(diff: Callable[..., Done], files: tuple[Path, Path]) -> None:
    a, b = files
    assert {row[1] for row in rows(diff(a, b, "--all"))} == {*EXPECTED, "same"}
    done = diff(a, a)
    assert (done.status, rows(done)) == (0, [])
    assert "no difference (7 same; " in summary(done)
    assert {row[0] for row in rows(diff(a, a, "--all"))} == {"same"}


def test_json_has_all_that_was_found(diff: Callable[..., Done], files: tuple[Path, Path]) -> None:
    a, b = files
    done = diff(a, b, "--json", "--tolerance", "0.25")
    assert done.status == 1
    report: dict[str, Any] = json.loads(done.out)
    assert (report["a"], report["b"], report["by"], report["differ"]) == (str(a), str(b), "names", True)
    assert report["tolerance"] == {"absolute": 0.25, "relative": 0.0}
    tensors = {entry["name"]: entry for entry in report["entries"]}
    assert set(tensors) == set(EXPECTED)
    assert report["counts"]["close"] == 1
    assert {name for name, entry in tensors.items() if not entry["differs"]} == {"license", "type"}
    stored = {"type": "f32", "shape": [2, 3], "scales": [1.0], "codec": 0}
    assert tensors["changed"] == {
        "name": "changed",
        "kind": "values",
        "differs": True,
        "a": stored,
        "b": stored,
        "values": {
            "count": 6,
            "unequal": 1,
            "different": 1,
            "not_finite": 0,
            "max_abs": 0.5,
            "max_rel": pytest.approx(0.5 / 5.5),
            "cosine": tensors["changed"]["values"]["cosine"],
            "worst": {"index": [1, 2], "a": 5.0, "b": 5.5},
        },
        "other": "",
        "detail": "",
    }
    assert tensors["nan"]["values"]["worst"] == {"index": [0, 1], "a": 1.0, "b": "nan"}
    assert tensors["old"]["other"] == "new"
    assert tensors["license"]["detail"] == "x → y"
    assert json.loads(diff(a, a, "--json").out)["entries"] == []
    assert len(json.loads(diff(a, a, "--json", "--all").out)["entries"]) == 7


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("", 1),
        ("--tolerance 0", 1),
        ("--tolerance 0.49", 1),
        ("--tolerance 0.5", 0),
        ("--rtol 0.095", 1),
        ("--rtol 0.1", 0),
        ("--tolerance 0.3 --rtol 0.05", 0),
    ],
)
def test_the_status_is_that_of_the_values_with_a_tolerance(
    diff: Callable[..., Done], tmp_path: Path, options: str, status: int
) -> None:
    base = np.arange(6, dtype=np.float32)
    a = write_peer(tmp_path / "a.safetensors", {"x": base})
    b = write_peer(tmp_path / "b.safetensors", {"x": base.astype(np.float16) + np.array([0] * 5 + [0.5], np.float16)})
    assert diff(a, b, *options.split()).status == status
    assert diff(b, a, "--rtol", "0.095").status == 0  # R * |a|, and a is the larger one here


def test_a_type_alone_is_a_difference_only_without_a_tolerance(diff: Callable[..., Done], tmp_path: Path) -> None:
    a = write_peer(tmp_path / "a.safetensors", {"x": np.arange(6, dtype=np.float32)})
    b = write_peer(tmp_path / "b.safetensors", {"x": np.arange(6, dtype=np.float16)})
    assert diff(a, b).status == 1
    done = diff(a, b, "--tolerance", "0")
    assert (done.status, rows(done)[0][:3]) == (0, ["close", "x", "f32 → f16"])


def test_a_gemma_conversion_and_its_checkpoint(diff: Callable[..., Done], tmp_path: Path) -> None:
    folder = small_recipe("gemma3", shards=2).write(tmp_path / "c")
    for weights in ("bf16", "sfp"):
        convert(folder, tmp_path / f"{weights}.sbs", Choices(weights, "stock"))
    done = diff(tmp_path / "bf16.sbs", folder)
    read = "note: read model-00001-of-00002.safetensors, model-00002-of-00002.safetensors\n"
    assert (done.status, rows(done), done.err) == (0, [], read)
    assert "1 alias" in summary(done)
    done = diff(folder, tmp_path / "sfp.sbs")
    assert (done.status, {row[0] for row in rows(done)}) == (1, {"values"})
    assert {row[2] for row in rows(done)} == {"bf16 → sfp"}
    assert diff(tmp_path / "bf16.sbs", tmp_path / "sfp.sbs", "--tolerance", "0.1").status == 0
    done = diff(tmp_path / "bf16.sbs", tmp_path / "sfp.sbs", "--by", "keys")
    assert "qkv_ein_0" in {row[1] for row in rows(done)}
    assert {row[1]: row[8] for row in rows(done) if row[0] == "blob"}["config"].endswith("weight bf16 → sfp")


def test_what_was_chosen_is_said(diff: Callable[..., Done], tmp_path: Path) -> None:
    folder = small_recipe("gemma3").write(tmp_path / "c")
    convert(folder, tmp_path / "a.sbs", Choices("bf16"))
    with blobstore.BlobReader(tmp_path / "a.sbs") as reader, blobstore.BlobWriter(tmp_path / "b.sbs") as writer:
        for key in reader:
            if not key.startswith("~"):
                writer.add(key, reader[key])
    done = diff(tmp_path / "a.sbs", tmp_path / "b.sbs")
    assert done.status == 0
    assert done.err.startswith("note: compared by the runtime's keys")
    assert diff(tmp_path / "a.sbs", tmp_path / "b.sbs", "--by", "keys").err == ""
    done = diff(tmp_path / "b.sbs", folder)
    assert done.status == 1
    assert "no name in common: an .sbs file without a name index" in done.err


def test_what_a_checkpoint_leaves_out_is_said(diff: Callable[..., Done], tmp_path: Path) -> None:
    write_peer(tmp_path / SINGLE, small("a", "stray"))
    write_index(tmp_path, {"a": SINGLE})
    done = diff(tmp_path, write_peer(tmp_path / "b.safetensors", small("a")))
    assert done.status == 0
    read = "note: read model.safetensors\nnote: read b.safetensors\n"
    assert done.err.startswith(f"{read}note: left out the tensor 'stray'")


def test_scales_codecs_and_vectors_without_length_are_told(
    diff: Callable[..., Done], tmp_path: Path, vectors: Path
) -> None:
    for name, scale in (("a", 2.0), ("b", 3.5)):
        with blobstore.create(tmp_path / f"{name}.sbs") as writer:
            for tensor, code in (("ones", 0x78), ("zeros", 0)):
                writer.add_stored(tensor, [bytes([code] * 4)], BY_NAME["sfp"], (2, 2), scale=scale)
            writer.add("single", np.array(0.0 if name == "a" else 1.0))
            writer.add("complex", np.array([1 if name == "a" else 1j], np.complex64))
    done = diff(tmp_path / "a.sbs", tmp_path / "b.sbs")
    assert {row[1]: (row[0], row[7], row[8]) for row in rows(done)} == {
        "ones": ("values", "1.000000", "scale 2 → 3.5; most at [0, 0]"),
        "zeros": ("bytes", "-", "scale 2 → 3.5"),
        "single": ("values", "-", "most at []"),
        "complex": ("values", "0.000000", "most at [0]"),
    }
    listed = json.loads(diff(tmp_path / "a.sbs", tmp_path / "b.sbs", "--json").out)["entries"]
    entries = {entry["name"]: entry for entry in listed}
    assert entries["complex"]["values"]["worst"] == {"index": [0], "a": "(1+0j)", "b": "1j"}
    assert entries["single"]["values"]["cosine"] is None
    path = vectors / "valid" / "index-unknown-type-and-codec.sbs"
    blobstore.save_file({"codec": np.zeros((7, 7), np.float32), "type": np.zeros(5)}, tmp_path / "c.sbs")
    done = diff(path, tmp_path / "c.sbs", "--tolerance", "9")
    assert done.status == 1
    assert [row for row in rows(done) if row[0] != "metadata"] == [
        ["type", "codec", "f32", "[7, 7]", *"----", "codec 65535 → 0; f32 can't be decoded here"],
        ["type", "type", "type-999 → f64", "[5]", *"----", "type-999 can't be decoded here"],
    ]


def test_names_can_not_break_a_line(diff: Callable[..., Done], tmp_path: Path) -> None:
    names = ["two\nlines", "tab\tbed", "\x1b[31mred"]
    blobstore.save_file(dict.fromkeys(names, np.ones(2)), tmp_path / "a.sbs")
    blobstore.save_file({"x": np.zeros(3)}, tmp_path / "b.sbs")
    done = diff(tmp_path / "a.sbs", tmp_path / "b.sbs")
    assert all(len(row) == 9 for row in rows(done))
    assert "\x1b" not in done.out


def test_nothing_to_compare_is_no_difference(diff: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    done = diff(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    assert (done.status, rows(done)) == (0, [])
    assert "nothing to compare" in summary(done)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Valid and invalid files."""
    tensors = {EMBEDDING: np.arange(6, dtype=np.float32).reshape(2, 3)}
    (tmp_path / "c").mkdir()
    write_peer(tmp_path / "c" / SINGLE, tensors)
    write_config(tmp_path / "c", {"tie_word_embeddings": True})
    convert(tmp_path / "c", tmp_path / "a.sbs")
    whole = (tmp_path / "a.sbs").read_bytes()
    (tmp_path / "truncated.sbs").write_bytes(whole[:-100])
    (tmp_path / "truncated.safetensors").write_bytes((tmp_path / "c" / SINGLE).read_bytes()[:-1])
    (tmp_path / "empty.sbs").write_bytes(b"")
    (tmp_path / "page.bin").write_bytes(b"<!DOCTYPE html>")
    (tmp_path / "nothing").mkdir()
    with blobstore.create(tmp_path / "other.sbs", index="external") as writer:
        writer.add("x", np.ones(3))
    index = (tmp_path / "other.sbs.idx").read_bytes()
    with blobstore.BlobWriter(tmp_path / "other.sbs") as raw:
        raw.add("y", b"1")
    (tmp_path / "other.sbs.idx").write_bytes(index)
    return tmp_path


@pytest.mark.parametrize(
    "case",
    [
        ("truncated.sbs", 1, "no-directory: "),
        ("empty.sbs", 1, "truncated: "),
        ("truncated.safetensors", 1, "safetensors-layout: "),
        ("other.sbs", 1, "index-stale: "),
        ("page.bin", 1, "not-safetensors: "),
        ("nothing", 1, "no-checkpoint: "),
        ("missing.sbs", 2, "missing.sbs: "),
        ("missing", 2, "missing: "),
        ("a.sbs/inside", 2, "a.sbs/inside: "),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_file_that_is_wrong_is_one_line_that_names_it(
    diff: Callable[..., Done], folder: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, int, str], first: bool
) -> None:
    wrong, status, reason = case
    monkeypatch.chdir(folder)
    before = snapshot(folder)
    done = diff(*([wrong, "a.sbs"] if first else ["c", wrong]))
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(f"blobstore: {reason}")
    assert len(done.err.splitlines()) == 1
    assert wrong in done.err
    assert snapshot(folder) == before


@pytest.mark.parametrize("line", ["a.sbs c --tolerance -1", "a.sbs c --tolerance nan", "a.sbs c --rtol inf"])
def test_a_tolerance_that_is_none_is_refused(
    diff: Callable[..., Done], folder: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(folder)
    done = diff(*shlex.split(line))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("blobstore: bad-tolerance: ")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    "line", ["", "a.sbs", "a.sbs c c", "a.sbs c --tolerance", "a.sbs c --tolerance x", "a c --by x"]
)
def test_what_is_no_command_shows_the_usage(diff: Callable[..., Done], line: str) -> None:
    done = diff(*shlex.split(line))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("usage: blobstore")


@needs_pipes
@pytest.mark.parametrize("name", ["pipe", "pipe.sbs", "pipe.safetensors"])
def test_a_pipe_is_no_file_and_does_not_hang(diff: Callable[..., Done], folder: Path, name: str) -> None:
    os.mkfifo(folder / name)
    done = diff(folder / name, folder / "a.sbs")
    assert done.status == 2
    assert done.err.startswith("blobstore: not-a-file: ")


def test_a_tied_head_is_no_difference(diff: Callable[..., Done], folder: Path) -> None:
    done = diff(folder / "a.sbs", folder / "c", "--all")
    assert done.status == 0
    assert {row[1]: (row[0], row[8]) for row in rows(done)} == {
        EMBEDDING: ("same", "-"),
        HEAD: ("alias", f"is {EMBEDDING}"),
    }
