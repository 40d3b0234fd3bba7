"""The commands that convert Gemma checkpoints, compare and export: their output, files and exit status."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import blobstore
from blobstore.cli import main
from blobstore.gemma import specifier_of
from tests.checkpoints import SINGLE, linux_only, snapshot, write_config, write_peer
from tests.cli.interrupts import interrupt
from tests.gemma_checkpoints import TEXT_ONLY, Recipe, Size, arranged, small_recipe, sound_recipe, write_sparse
from tests.memory import peak_of_command
from tests.models import FAMILIES, VISION


@dataclass
class Done:
    """The result of a command: exit status and output."""

    status: int
    out: str
    err: str


class Cli:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Done:
        self._capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse exits like this
            status = stop.code if isinstance(stop.code, int) else 1
        return Done(status, *self._capsys.readouterr())


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_recipe("gemma3", chat_template="chat_template.jinja").write(tmp_path / "c")


def one_line(done: Done) -> str:
    (line,) = done.err.splitlines()
    assert line.startswith("blobstore: ")
    assert "Traceback" not in done.err
    return line


# -------------------------------------------------------------------------------------------------------------- convert


@pytest.mark.parametrize("family", FAMILIES)
def test_convert_says_what_it_chose_and_why(cli: Cli, tmp_path: Path, family: str) -> None:
    folder = replace(sound_recipe(family), chat_template="tokenizer_config.json").write(tmp_path / "c")
    done = cli("convert", folder, "-o", tmp_path / "out.sbs")
    assert done.status == 0
    wrapping = "this model has one wrapping only" if family in VISION else "the checkpoint has a chat template"
    assert wrapping in done.err
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert store.config is not None
        assert specifier_of(store.config) in done.out
    assert "lm_head.weight" in done.out


def test_convert_without_a_tokenizer_says_what_that_means(cli: Cli, tmp_path: Path) -> None:
    folder = small_recipe("gemma3", tokenizer=None).write(tmp_path / "c")
    done = cli("convert", folder, "-o", tmp_path / "out.sbs")
    assert done.status == 0
    assert "tokenizer" in done.err


@pytest.mark.parametrize("kind", ["auto", "gemma"])
def test_convert_as_gemma_is_what_auto_does(cli: Cli, tmp_path: Path, folder: Path, kind: str) -> None:
    assert cli("convert", folder, "-o", tmp_path / "out.sbs", "--as", kind).status == 0
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert store.config is not None
        assert "qkv1_w_0" in store.reader


def test_convert_as_names_keeps_every_tensor(cli: Cli, tmp_path: Path, folder: Path) -> None:
    assert cli("convert", folder, "-o", tmp_path / "out.sbs", "--as", "names").status == 0
    tensors = small_recipe("gemma3").tensors()
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert store.config is None
        assert {name: bytes(store.raw(name)) for name in tensors} == {
            n: tensor.tobytes() for n, tensor in tensors.items()
        }


def test_another_model_goes_by_name_and_says_so(cli: Cli, tmp_path: Path) -> None:
    tensors = small_recipe("gemma3").tensors()
    write_peer(tmp_path / SINGLE, {"w": tensors["model.norm.weight"].astype("float32")})
    write_config(tmp_path, {"model_type": "llama"})
    done = cli("convert", tmp_path, "-o", tmp_path / "out.sbs")
    assert done.status == 0
    assert "by name, not for gemma.cpp" in done.out
    assert cli("convert", tmp_path, "-o", tmp_path / "o.sbs", "--as", "gemma").status == 1


@pytest.mark.parametrize("layout", ["stock", "split"])
@pytest.mark.parametrize("weights", ["bf16", "sfp", "f32", "i8"])
def test_a_dry_run_shows_every_tensor_and_writes_nothing(
    cli: Cli, tmp_path: Path, folder: Path, weights: str, layout: str
) -> None:
    before = snapshot(tmp_path)
    recipe = small_recipe("gemma3")
    done = cli("convert", folder, "--dry-run", "--weights", weights, "--layout", layout)
    if (weights, layout) == ("i8", "stock"):  # gemma.cpp hangs when it splits the stock form
        assert (done.status, done.out) == (2, "")
        assert "i8-stock" in done.err
        assert "--layout split" in done.err
        return
    assert done.status == 0
    keys = {row.key: row.stored_type(weights) for row in recipe.rows(layout)}
    shown = {row.split("\t")[1]: row.split("\t")[2] for row in done.out.splitlines()}
    assert {key: shown[key] for key in keys} == keys
    done = cli("convert", folder, "--dry-run", "--json", "--weights", weights, "--layout", layout)
    report: dict[str, Any] = json.loads(done.out)
    assert {tensor["key"]: (tensor["type"], tensor["shape"]) for tensor in report["tensors"]} == {
        row.key: (row.stored_type(weights), [row.rows, row.cols]) for row in recipe.rows(layout)
    }
    assert set(arranged(recipe, recipe.tensors(), layout)) == set(keys)
    assert snapshot(tmp_path) == before


def test_a_dry_run_as_json_names_the_model(cli: Cli, folder: Path) -> None:
    report = json.loads(cli("convert", folder, "--dry-run", "--json").out)
    assert "gemma3-1b-sfp-it" in json.dumps(report)


def test_convert_as_json_says_what_was_made(cli: Cli, tmp_path: Path, folder: Path) -> None:
    report = json.loads(cli("convert", folder, "-o", tmp_path / "out.sbs", "--json").out)
    assert report["model"] == "gemma3-1b-sfp-it"
    assert report["nbytes"] == (tmp_path / "out.sbs").stat().st_size
    assert any("chat template" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("bases", "expected", "runs_in"),
    [
        ((1e4, 1e6), "runs correctly in gemma.cpp 2025-10, 2026-04 and latest", ["2025-10", "2026-04", "latest"]),
        ((1e4, 1e4), "runs correctly in gemma.cpp 2025-10, 2026-04 and latest", ["2025-10", "2026-04", "latest"]),
        ((1e4, 5e5), "runs correctly in gemma.cpp latest; not in 2025-10 (ignored-fields)", ["latest"]),
        ((2e4, 1e6), "runs correctly in gemma.cpp latest; not in 2025-10 (ignored-fields)", ["latest"]),
    ],
)
def test_convert_says_in_one_line_which_runtimes_run_the_file(
    cli: Cli, tmp_path: Path, bases: tuple[float, float], expected: str, runs_in: list[str]
) -> None:
    recipe = sound_recipe("gemma3")
    config = recipe.config() | {"rope_local_base_freq": bases[0], "rope_theta": bases[1]}
    folder = recipe.write(tmp_path / "c", None, config)
    done = cli("convert", folder, "-o", tmp_path / "out.sbs", "--json")
    (line,) = (note for note in done.err.splitlines() if "gemma.cpp 20" in note or "gemma.cpp latest" in note)
    assert line.startswith(f"note: the file {expected}")
    assert json.loads(done.out)["runs_in"] == runs_in
    by_name = cli("convert", folder, "-o", tmp_path / "out.sbs", "--as", "names", "--json")
    assert json.loads(by_name.out)["runs_in"] is None
    assert "correctly" not in by_name.err


def test_i8_in_the_stock_layout_is_refused_before_anything_is_read(cli: Cli, tmp_path: Path, folder: Path) -> None:
    before = snapshot(tmp_path)
    done = cli("convert", folder, "-o", tmp_path / "out.sbs", "--weights", "i8", "--layout", "stock")
    assert done.status == 2
    assert "--layout split" in one_line(done)
    assert snapshot(tmp_path) == before
    assert cli("convert", folder, "-o", tmp_path / "out.sbs", "--weights", "i8").status == 0


def test_a_key_that_is_not_known_can_be_printed_whatever_it_is(cli: Cli, tmp_path: Path) -> None:
    recipe = small_recipe("gemma2")
    folder = recipe.write(tmp_path / "c", None, recipe.config() | {"\ud800\n\x1b[31m": 1, "moe": 2})
    done = cli("convert", folder, "-o", tmp_path / "out.sbs")
    assert done.status == 0
    (line,) = (line for line in done.err.splitlines() if "unknown keys" in line)
    assert line.isprintable()
    assert "moe" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--weights", "nuq"],
        ["--weights", "f16"],
        ["--layout", "other"],
        ["--wrapping", "vlm"],
        ["--as", "llama"],
        ["--tokenizer", "no-such-file"],
        ["--tokenizer", "c/config.json"],
        ["--tokenizer", "c"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_2_and_writes_nothing(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    before = snapshot(folder.parent)
    done = cli("convert", "c", "-o", "out.sbs", *arguments)
    assert (done.status, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert snapshot(folder.parent) == before


def test_a_refusal_is_one_line_and_ends_1(cli: Cli, tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    folder = recipe.write(tmp_path / "c", tensors)
    done = cli("convert", folder, "-o", tmp_path / "out.sbs")
    assert (done.status, done.out) == (1, "")
    line = one_line(done)
    assert "model.norm.weight" in line
    assert "model.layers.1.mlp.up_proj.weight" in line
    assert not (tmp_path / "out.sbs").exists()


@pytest.mark.parametrize("name", ["gemma.task", "gemma.gguf", "model.h5", "pytorch_model.bin"])
def test_another_format_is_one_line(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    done = cli("convert", tmp_path / name, "-o", tmp_path / "out.sbs")
    assert done.status == 1
    assert name in one_line(done)


# ---------------------------------------------------------------------------------------------------- verify and export


def test_a_file_is_converted_compared_and_exported(cli: Cli, tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out.sbs"
    assert cli("convert", folder, "-o", out, "--weights", "bf16").status == 0
    done = cli("verify", out, "--against", folder)
    assert done.status == 0
    assert "everything matches the source" in done.out
    done = cli("export", out, "-o", tmp_path / "back.safetensors")
    assert done.status == 0
    assert "lm_head.weight" in done.err
    assert "--materialize-aliases" in done.err
    done = cli("export", out, "-o", tmp_path / "back.safetensors", "--materialize-aliases", "--json")
    report = json.loads(done.out)
    assert report["left_out"] == {}
    assert report["files"] == [str(tmp_path / "back.safetensors")]
    assert report["tensors"] == len(small_recipe("gemma3").tensors()) + 1


@pytest.mark.parametrize(
    ("limit", "nbytes"),
    [("5kB", 5000), ("0.004MB", 4000), ("3000", 3000), ("3000B", 3000), ("4KB", 4000), ("3000b", 3000)],
)
def test_a_shards_size_may_have_a_unit(cli: Cli, tmp_path: Path, folder: Path, limit: str, nbytes: int) -> None:
    cli("convert", folder, "-o", tmp_path / "out.sbs", "--weights", "bf16")
    done = cli("export", tmp_path / "out.sbs", "-o", tmp_path / "x.safetensors", "--max-shard-size", limit, "--json")
    *shards, index = json.loads(done.out)["files"]
    assert len(shards) > 1
    assert index.endswith(".index.json")
    sizes = [os.stat(shard).st_size for shard in shards]
    assert min(sizes) < nbytes
    assert all(size <= nbytes + 4000 for size in sizes)


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "out.sbs"],
        ["export", "nothing.sbs", "-o", "x.safetensors"],
        ["export", "out.sbs", "-o", "x.safetensors", "--max-shard-size", "5 parsecs"],
        ["export", "out.sbs", "-o", "x.safetensors", "--max-shard-size", "0"],
        ["export", "out.sbs", "-o", "out.sbs"],
        ["export", "out.sbs", "-o", "no/such/folder.safetensors"],
        ["verify", "out.sbs", "--against", "nothing"],
        ["verify", "nothing.sbs", "--against", "c"],
        ["convert", "c"],
        ["convert", "nothing", "-o", "x.sbs"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_ends_2(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    assert cli("convert", "c", "-o", "out.sbs").status == 0
    before = snapshot(folder.parent)
    done = cli(*arguments)
    assert (done.status, done.out) == (2, "")
    one_line(Done(done.status, done.out, done.err.splitlines()[-1]))
    assert snapshot(folder.parent) == before


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_of_an_export_writes_nothing(cli: Cli, tmp_path: Path, folder: Path, as_json: bool) -> None:
    cli("convert", folder, "-o", tmp_path / "out.sbs")
    before = snapshot(tmp_path)
    done = cli("export", tmp_path / "out.sbs", "--dry-run", *(["--json"] if as_json else []))
    shapes = small_recipe("gemma3").shapes()
    if as_json:
        assert {tensor["name"]: tuple(tensor["shape"]) for tensor in json.loads(done.out)["tensors"]} == shapes
    else:
        assert {line.split("\t")[0] for line in done.out.splitlines()} >= set(shapes)
    assert snapshot(tmp_path) == before


# ------------------------------------------------------------------------------------------------ memory and interrupts

# About 200 million weights, in shape like Gemma 3 1B: the embedding is larger than any layer.
LARGE = Recipe("gemma3", TEXT_ONLY, size=Size(3, 1152, 6912, 4, 1, 256, 96_000))


@linux_only
@pytest.mark.parametrize(
    ("dtype", "weights", "layout"),
    [
        *[("bf16", "sfp", "stock"), ("bf16", "bf16", "stock"), ("bf16", "i8", "split"), ("bf16", "f32", "stock")],
        *[("f32", "sfp", "split"), ("f32", "bf16", "split")],
    ],
)
def test_memory_stays_small_whatever_is_converted(tmp_path: Path, dtype: str, weights: str, layout: str) -> None:
    size = replace(LARGE.size, vocabulary=10_016, layers=2) if weights == "i8" else LARGE.size
    folder = write_sparse(tmp_path / "c", replace(LARGE, dtype=dtype, size=size))
    assert (folder / SINGLE).stat().st_size > (100 << 20 if weights == "i8" else 345 << 20)
    used = peak_of_command("convert", folder, "-o", tmp_path / "out.sbs", "--weights", weights, "--layout", layout)
    (tmp_path / "out.sbs").unlink()
    assert used < 160_000_000  # 60 MB were measured, 110 MB to f32


@linux_only
@pytest.mark.parametrize("command", ["verify", "export"])
def test_memory_stays_small_when_exporting_and_comparing(tmp_path: Path, command: str) -> None:
    folder = write_sparse(tmp_path / "c", LARGE)
    out = tmp_path / "out.sbs"
    assert main(["convert", str(folder), "-o", str(out), "--weights", "sfp", "--layout", "stock"]) == 0
    more: list[str | Path] = ["--against", folder] if command == "verify" else ["-o", tmp_path / "back.safetensors"]
    used = peak_of_command(command, out, *more)
    out.unlink()
    (tmp_path / "back.safetensors").unlink(missing_ok=True)
    assert used < 250_000_000


@linux_only
@pytest.mark.parametrize("weights", ["sfp", "bf16"])
def test_an_interrupt_leaves_nothing(tmp_path: Path, weights: str) -> None:
    folder = write_sparse(tmp_path / "c", replace(LARGE, size=replace(LARGE.size, vocabulary=1_600_000)))
    target = tmp_path / "out"
    target.mkdir()
    (target / "model.sbs").write_bytes(b"as it was")
    words = ("convert", folder, "-o", target / "model.sbs", "--weights", weights)
    errors = interrupt(*words, begun=lambda pid: reads(pid, folder))
    assert errors.splitlines()[-1] == "blobstore: interrupted"
    assert snapshot(target) == {"model.sbs": b"as it was"}


def reads(pid: int, folder: Path) -> bool:
    """Whether a process has finished planning: it runs threads, or has an incomplete file open."""
    fds = Path(f"/proc/{pid}/fd")
    try:
        targets = [os.readlink(target) for target in fds.iterdir()]
    except OSError:
        return False
    return any(target.startswith(f"{folder.parent}/out/") for target in targets)
