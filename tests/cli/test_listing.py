"""ls and info of every format; several files, sorting, statistics; what the whole command line shares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import blobstore
from blobstore import cli
from blobstore.cli.contents import open_contents, stored_nbytes
from blobstore.cli.formatting import rate
from blobstore.compare.statistics import statistics
from blobstore.converting.choices import Choices
from tests import gguf_files
from tests.checkpoints import write_config, write_peer, write_shards
from tests.gemma_checkpoints import convert, sound_recipe

TENSORS: dict[str, Any] = {
    "model.layers.10.b.weight": np.array([[1, 2, np.nan], [np.inf, -3, 0]], dtype=np.float32),
    "model.layers.2.a.weight": np.arange(8, dtype=np.float32).astype(ml_dtypes.bfloat16),
    "model.ids": np.array([2**63 - 1, -5], dtype=np.int64),
}
SIZES = {"model.layers.10.b.weight": 24, "model.layers.2.a.weight": 16, "model.ids": 16}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same tensors as .sbs, .safetensors, a checkpoint of shards, and, with the package gguf, as GGUF."""
    monkeypatch.chdir(tmp_path)
    blobstore.save_file(TENSORS, "m.sbs")
    own = {name: one.view(np.uint16) if one.dtype == ml_dtypes.bfloat16 else one for name, one in TENSORS.items()}
    write_peer(tmp_path / "m.safetensors", own, {"format": "pt"})
    (tmp_path / "sharded").mkdir()
    write_shards(tmp_path / "sharded", [{name: one} for name, one in own.items()])
    write_config(tmp_path / "sharded", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    return tmp_path


def write_gguf(path: str) -> None:
    tensors: gguf_files.Tensors = {
        "blk.0.weight": np.arange(64, dtype=np.float32).reshape(2, 32),
        "blk.1.weight": gguf_files.quantised(np.linspace(-1, 1, 128).reshape(4, 32), "q8_0"),
        "blk.2.weight": np.arange(8, dtype=np.float32).astype(ml_dtypes.bfloat16),
        "blk.3.ids": np.arange(4, dtype=np.int8),
    }
    metadata = {
        "general.name": "a small one",
        "tokenizer.ggml.tokens": [f"token {i}" for i in range(100)],
        "small": [1, 2, 3],
    }
    gguf_files.write_gguf(Path(path), tensors, metadata)


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    capsys.readouterr()
    assert cli.main([*words]) == status
    return capsys.readouterr().out


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(run(capsys, "ls", *words, "--json"))
    return entries


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("file", ["m.sbs", "m.safetensors", "sharded", "sharded/model.safetensors.index.json"])
def test_each_format_lists_the_same_tensors(capsys: pytest.CaptureFixture[str], file: str) -> None:
    entries = listed(capsys, file)
    assert {entry["name"]: entry["nbytes"] for entry in entries} == SIZES
    assert {entry["name"]: tuple(entry["shape"]) for entry in entries} == {
        name: one.shape for name, one in TENSORS.items()
    }
    for entry in entries:
        with open(entry["file"], "rb") as raw:
            raw.seek(entry["offset"])
            assert raw.read(entry["nbytes"]) == TENSORS[entry["name"]].tobytes()
    rows = [line.split("\t") for line in run(capsys, "ls", file).splitlines()]
    assert {len(row) for row in rows} == {7 if "sharded" in file else 6}
    assert [row[0] for row in rows] == [entry["name"] for entry in entries]


@pytest.mark.usefixtures("site")
def test_a_gguf_file_is_listed_as_its_own_package_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf("m.gguf")
    entries = {entry["name"]: entry for entry in listed(capsys, "m.gguf", "--stats")}
    assert {name: (entry["type"], entry["shape"], entry["nbytes"]) for name, entry in entries.items()} == {
        "blk.0.weight": ("f32", [2, 32], 256),
        "blk.1.weight": ("q8_0", [4, 32], 136),
        "blk.2.weight": ("bf16", [8], 16),
        "blk.3.ids": ("int8", [4], 4),
    }
    with open("m.gguf", "rb") as raw:
        raw.seek(entries["blk.0.weight"]["offset"])
        assert raw.read(256) == np.arange(64, dtype=np.float32).tobytes()
    assert (entries["blk.1.weight"]["stats"]["min"], entries["blk.1.weight"]["stats"]["max"]) == pytest.approx(
        (-1, 1), abs=0.01
    )
    assert entries["blk.2.weight"]["stats"]["max"] == 7
    facts = json.loads(run(capsys, "info", "m.gguf", "--json"))
    assert (facts["format"], facts["tensors"], facts["weights"]) == ("gguf", 4, 64 + 128 + 8 + 4)
    assert facts["metadata"]["general.name"] == "a small one"
    assert facts["metadata"]["small"] == [1, 2, 3]
    assert facts["metadata"]["tokenizer.ggml.tokens"] == "100 values of type string"
    assert facts["nbytes"] == os.path.getsize("m.gguf")
    assert "gguf version 3" in run(capsys, "info", "m.gguf")


@pytest.mark.usefixtures("site")
def test_no_truncated_or_changed_gguf_file_hangs_or_is_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf("m.gguf")
    with open("m.gguf", "rb") as file:
        whole = file.read()
    random = np.random.default_rng(1)
    header = json.loads(run(capsys, "ls", "m.gguf", "--json"))[0]["offset"]
    wrong = [whole[:cut] for cut in random.integers(4, len(whole), 40)]
    wrong += [whole[:at] + b"\xff" * 8 + whole[at + 8 :] for at in random.integers(4, header, 80)]
    for data in wrong:
        with open("wrong.gguf", "wb") as file:
            file.write(data)
        for command in ("ls", "info"):
            status = cli.main([command, "wrong.gguf"])
            told = capsys.readouterr().err
            assert status in (0, 1)
            assert (status, told == "" or told.startswith("blobstore: gguf: ")) in ((0, True), (1, True)), told


@pytest.mark.usefixtures("site")
def test_without_the_package_only_quantised_values_can_not_be_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf("m.gguf")
    for name in [name for name in sys.modules if name.split(".")[0] == "gguf"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert len(listed(capsys, "m.gguf")) == 4
    assert listed(capsys, "m.gguf", "blk.0.*", "--stats")[0]["stats"]["max"] == 63
    assert cli.main(["ls", "m.gguf", "--stats"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("blobstore: missing-extra: 'm.gguf' has quantised tensors (q8_0)")
    assert "pip install gguf" in told


@pytest.mark.usefixtures("site")
def test_a_folder_with_a_split_gguf_model_lists_all_of_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for number in (1, 2):
        gguf_files.write_gguf(
            tmp_path / "split" / f"m-0000{number}-of-00002.gguf", {f"t{number}": np.full(2, number, np.float32)}
        )
    entries = listed(capsys, "split", "--stats")
    assert [(entry["name"], entry["stats"]["max"]) for entry in entries] == [("t1", 1), ("t2", 2)]
    assert [os.path.basename(entry["file"]) for entry in entries] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert len(listed(capsys, "split/m-00002-of-00002.gguf")) == 1
    facts = json.loads(run(capsys, "info", "split", "--json"))
    assert (facts["format"], facts["files"], facts["tensors"]) == ("gguf", 2, 2)


@pytest.mark.usefixtures("site")
def test_info_of_a_checkpoint_counts_its_files_and_names_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(run(capsys, "info", "sharded", "--json"))
    assert (facts["format"], facts["files"], facts["tensors"], facts["payload_nbytes"]) == ("safetensors", 3, 3, 56)
    assert facts["nbytes"] == sum(
        os.path.getsize(f"sharded/{name}") for name in os.listdir("sharded") if name.endswith("s")
    )
    assert facts["model"] == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "text": "llama, LlamaForCausalLM",
    }
    text = run(capsys, "info", "sharded")
    assert "3 files" in text
    assert "llama, LlamaForCausalLM" in text


@pytest.mark.usefixtures("site")
def test_several_files_are_listed_and_described_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    both = listed(capsys, "m.sbs", "m.safetensors")
    assert both == listed(capsys, "m.sbs") + listed(capsys, "m.safetensors")
    rows = [line.split("\t") for line in run(capsys, "ls", "m.sbs", "sharded", "*.ids").splitlines()]
    assert [row[6] for row in rows] == ["m.sbs", listed(capsys, "sharded", "*.ids")[0]["file"]]
    keys = [line.split("\t") for line in run(capsys, "ls", "m.sbs", "m.sbs", "--keys").splitlines()]
    assert {row[3] for row in keys} == {"m.sbs"}
    infos = json.loads(run(capsys, "info", "m.sbs", "m.safetensors", "--json"))
    assert infos == [json.loads(run(capsys, "info", file, "--json")) for file in ("m.sbs", "m.safetensors")]


@pytest.mark.usefixtures("site")
def test_files_and_pattern_may_follow_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "ls", "m.sbs", "--sort", "size", "m.safetensors", "--quiet", "*.ids") == run(
        capsys, "ls", "m.sbs", "m.safetensors", "*.ids", "--sort", "size", "-q"
    )
    for words in (["ls", "m.sbs", "--stats", "m.sbs", "--no-such"], ["get", "m.sbs", "model.ids", "--raw", "more"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 2
        assert f"blobstore {words[0]}: error: unrecognized arguments" in capsys.readouterr().err


@pytest.mark.usefixtures("site")
def test_statistics_of_a_difference_take_its_base(capsys: pytest.CaptureFixture[str]) -> None:
    blobstore.save_file({"w": np.arange(5000, dtype=np.float32)}, "base.sbs")
    blobstore.save_file({"w": np.arange(5000, dtype=np.float32) + 1}, "tuned.sbs")
    blobstore.pack("tuned.sbs", "d.sbs", base="base.sbs")
    expected = {entry["name"]: entry["stats"] for entry in listed(capsys, "tuned.sbs", "--stats")}
    found = listed(capsys, "d.sbs", "--stats", "--base", "base.sbs")
    assert {entry["name"]: entry["stats"] for entry in found} == expected
    for words in (["d.sbs"], ["m.sbs", "--stats"]):
        assert cli.main(["ls", *words, "--base", "base.sbs"]) == 2
        assert "needless-base" in capsys.readouterr().err


@pytest.mark.usefixtures("site")
def test_a_last_word_that_is_not_a_path_is_a_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert [entry["name"] for entry in listed(capsys, "m.sbs", "model.ids")] == ["model.ids"]
    assert cli.main(["ls", "m.sbs", "n.sbs"]) == 0
    assert "it is not the path of a file" in capsys.readouterr().err
    assert cli.main(["ls", "n.sbs", "m.sbs"]) == 2
    assert "n.sbs: No such file" in capsys.readouterr().err


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("name", ["model.ids", "model.layers.2.a.weight", "model.layers.10.b.weight"]),
        ("size", ["model.layers.10.b.weight", "model.ids", "model.layers.2.a.weight"]),
    ],
)
def test_ls_sorts(capsys: pytest.CaptureFixture[str], by: str, expected: list[str]) -> None:
    assert [entry["name"] for entry in listed(capsys, "m.sbs", "--sort", by)] == expected
    offsets = [entry["offset"] for entry in listed(capsys, "m.sbs", "--sort", "offset")]
    assert offsets == sorted(offsets)
    keys = json.loads(run(capsys, "ls", "m.sbs", "--keys", "--sort", by, "--json"))
    order = [key["nbytes"] for key in keys] if by == "size" else [key["key"] for key in keys]
    assert order == sorted(order, reverse=by == "size")


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("file", ["m.sbs", "sharded"])
def test_statistics_are_of_the_finite_values(capsys: pytest.CaptureFixture[str], file: str) -> None:
    stats = {entry["name"]: entry["stats"] for entry in listed(capsys, file, "--stats")}
    finite = np.array([1, 2, -3, 0])
    assert stats["model.layers.10.b.weight"] == {
        "min": -3,
        "max": 2,
        "mean": 0,
        "std": pytest.approx(finite.std()),
        "nan": 1,
        "inf": 1,
    }
    assert (stats["model.ids"]["min"], stats["model.ids"]["max"]) == (-5, 2**63 - 1)
    rows = [line.split("\t") for line in run(capsys, "ls", file, "*.b.weight", "--stats").splitlines()]
    assert rows[0][-6:-4] == ["-3.0", "2.0"]
    assert rows[0][-2:] == ["1", "1"]


@given(arrays.arrays(np.float32, st.integers(0, 200), elements=st.floats(width=32)), st.integers(1, 50))
def test_statistics_do_not_depend_on_the_pieces(values: Any, step: int) -> None:  # noqa: ANN401
    done = statistics(values[start : start + step] for start in range(0, len(values), step))
    finite = values[np.isfinite(values)].astype(np.float64)
    assert done.nan == np.isnan(values).sum()
    assert done.inf == np.isinf(values).sum()
    if len(finite):
        size = np.abs(finite).max()
        assert (done.min, done.max) == (finite.min(), finite.max())
        assert done.mean == pytest.approx(finite.mean(), rel=1e-9, abs=1e-9 * size)
        assert done.std == pytest.approx(finite.std(), rel=1e-6, abs=1e-6 * size)
    else:
        assert (done.min, done.max, done.mean, done.std) == (None,) * 4


@pytest.mark.usefixtures("site")
def test_keys_are_of_sbs_files_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls", "sharded", "--keys"]) == 2
    assert "no-keys" in capsys.readouterr().err


@pytest.fixture
def gemma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small Gemma checkpoint, converted to each layout; one packed."""
    monkeypatch.chdir(tmp_path)
    recipe = sound_recipe("gemma3")
    recipe.write(tmp_path / "ck")
    for layout in ("stock", "split"):
        convert(tmp_path / "ck", tmp_path / f"{layout}.sbs", Choices("bf16", layout=layout))
    blobstore.pack("stock.sbs", "packed.sbs")
    return tmp_path


@pytest.mark.usefixtures("gemma")
def test_parts_and_names_of_one_weight_count_once(capsys: pytest.CaptureFixture[str]) -> None:
    infos = {
        file: json.loads(run(capsys, "info", file, "--json")) for file in ("ck", "stock.sbs", "split.sbs", "packed.sbs")
    }
    assert {facts["weights"] for facts in infos.values()} == {infos["ck"]["weights"]}
    for file, facts in infos.items():
        with open_contents(file) as contents:
            nbytes = stored_nbytes((contents, entry) for entry in contents.entries)
        assert nbytes == sum(entry["nbytes"] for entry in facts["types"].values())
        assert facts["bits_per_weight"] == 8 * nbytes / facts["weights"]


@pytest.mark.usefixtures("gemma")
def test_statistics_of_gathered_tensors_are_the_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    of_source = {entry["name"]: entry["stats"] for entry in listed(capsys, "ck", "--stats")}
    for file in ("stock.sbs", "packed.sbs"):
        stats = {entry["name"]: entry["stats"] for entry in listed(capsys, file, "--stats")}
        assert of_source.items() <= stats.items()


@pytest.mark.usefixtures("gemma")
def test_what_is_not_an_array_is_not_written_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["get", "stock.sbs", "tokenizer", "-o", "t.npy"]) == 2
    assert "no-array: 'tokenizer' is a blob of the runtime's" in capsys.readouterr().err
    assert not os.path.exists("t.npy")
    run(capsys, "get", "stock.sbs", "tokenizer", "-o", "t.npy", "--raw")
    assert cli.main(["get", "stock.sbs", "model.layers.0.self_attn.k_proj.weight", "-o", "k.bin"]) == 2
    assert "blobstore get -o OUT.npy writes them" in capsys.readouterr().err
    run(capsys, "get", "stock.sbs", "model.layers.0.self_attn.k_proj.weight", "-o", "k.npy")
    assert os.path.getsize("t.npy")


@pytest.mark.usefixtures("gemma")
def test_get_takes_either_vocabulary_and_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    name, key = "model.layers.0.mlp.down_proj.weight", "linear_w_0"
    run(capsys, "get", "stock.sbs", name, "-o", "name.npy")
    run(capsys, "get", "stock.sbs", key, "--by", "keys", "-o", "key.npy")
    np.testing.assert_array_equal(np.load("name.npy"), np.load("key.npy"))
    assert cli.main(["get", "stock.sbs", key, "-o", "x.npy"]) == 2
    assert "--by keys" in capsys.readouterr().err
    assert cli.main(["get", "stock.sbs", name, "--by", "keys", "-o", "x.npy"]) == 2


# What all commands share.


def test_a_mistyped_command_is_told_what_comes_close(capsys: pytest.CaptureFixture[str]) -> None:
    for word, near in (("convet", "'convert'"), ("verfy", "'verify'"), ("qqq", "the commands are info, ls")):
        with pytest.raises(SystemExit) as stop:
            cli.main([word, "x"])
        assert stop.value.code == 2
        assert near in capsys.readouterr().err


def test_every_command_can_be_quiet(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blobstore.save_file({"a": np.arange(3)}, "small.sbs")
    for words in (["ls", "small.sbs", "nothing"], ["convert", "sharded", "--as", "names", "--dry-run", "-o", "x.sbs"]):
        assert cli.main(words) == 0
        assert capsys.readouterr().err.startswith("note: ")
        for flag in ("-q", "--quiet"):
            assert cli.main([*words, flag]) == 0
            assert capsys.readouterr().err == ""
    assert cli.main(["index", "build", "small.sbs", "--force", "--quiet"]) == 0
    assert (site / "small.sbs").exists()


def test_a_rate_of_no_time_is_no_error() -> None:
    assert rate(1_300_000_000, 1) == "1.3 GB/s"
    assert rate(5, 0) == "at once"


BASH = """
source <({python} -m blobstore completion bash)
COMP_WORDS=({words}) COMP_CWORD=$(({count} - 1)) COMPREPLY=()
_blobstore
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("blobstore con", {"convert"}),
        ("blobstore re", {"rewrite", "recover", "repair", "report"}),
        ("blobstore ls --s", {"--sort", "--stats"}),
        ("blobstore ls m.sbs --sort ''", {"name", "size", "offset"}),
        ("blobstore convert src --weights s", {"sfp"}),
        ("blobstore index ''", {"attach", "detach", "build", "join"}),
        ("blobstore index build --dig", {"--digests"}),
        ("blobstore completion f", {"fish"}),
        ("blobstore info m", {""}),  # paths: the shell's own
    ],
)
def test_bash_completes(words: str, expected: set[str]) -> None:
    count = len(words.split())
    script = BASH.format(python=sys.executable, words=words, count=count)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)  # noqa: S607
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split("\n")[:-1]) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_knows_each_command(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    script = run(capsys, "completion", shell)
    assert all(name in script for name in cli.COMMANDS)
