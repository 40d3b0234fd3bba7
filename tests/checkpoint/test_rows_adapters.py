"""The row of checkpoints.md about adapters: what people pass, and what they are told or given."""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import blobstore
from blobstore import cli
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.safetensors import dump_header
from blobstore.codecs.element_types import BY_NAME
from blobstore.store.writer import StoreWriter
from tests.adapters import LAYER, factors_of, pair, write_adapter
from tests.checkpoints import LFS_POINTER, linux_only, needs_pipes
from tests.conftest import open_descriptors
from tests.gemma_checkpoints import sound_recipe
from tests.memory import peak_of_command
from tests.models import RUNNABLE

if TYPE_CHECKING:
    from pathlib import Path

W = f"{LAYER}.weight"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
PICKLED = b"\x80\x02}q\x00."  # an empty dictionary, not as torch writes it


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3, two adapters of it, a file without and one with an adapter, and an empty folder for what is merged."""
    folder = tmp_path_factory.mktemp("made")
    recipe = sound_recipe("gemma3")
    recipe.write(folder / "base")
    modules = (LAYER, LAYER.replace("q_proj", "k_proj"), LAYER.replace("q_proj", "o_proj"))
    write_adapter(folder / "lora", factors_of(recipe, *modules), base_model_name_or_path="me/base")
    out, width = recipe.shapes()[EMBEDDING]
    write_adapter(folder / "head", pair("lm_head", out, width), base_model_name_or_path="google/gemma-3-1b-it")
    blobstore.convert(folder / "base", folder / "made.sbs")
    blobstore.convert(folder / "base", folder / "lora.sbs", adapters=folder / "lora")
    (folder / "merged").mkdir()
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def load(path: str) -> dict[str, bytes]:
    """Return the bytes of a checkpoint's tensors."""
    with open_checkpoint(path) as checkpoint:
        return {name: b"".join(map(bytes, tensor.chunks())) for name, tensor in checkpoint.tensors.items()}


def run(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str]:
    """Run a command → its exit status, and what it says on standard error."""
    status = cli.main(words.split())
    return status, capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("weights", "layout"), RUNNABLE)
def test_merged_while_converting(weights: str, layout: str) -> None:
    blobstore.convert("base", "tuned.sbs", adapters="lora", weights=weights, layout=layout)
    assert blobstore.verify("tuned.sbs", against="base", adapters="lora").ok
    # The same as of a checkpoint that was merged before, in float32, from which everything is rounded.
    blobstore.convert("base", "base.sbs", as_="names")
    blobstore.export("base.sbs", "merged/model.safetensors", adapters="lora", dtype="f32")
    for name in ("config.json", "tokenizer.model"):
        shutil.copy(f"base/{name}", f"merged/{name}")
    blobstore.convert("merged", "merged.sbs", weights=weights, layout=layout)
    with blobstore.open("tuned.sbs", by="keys") as tuned, blobstore.open("merged.sbs", by="keys") as merged:
        assert list(tuned) == list(merged)
        for key in tuned:
            assert np.array_equal(tuned[key], merged[key]), key


@pytest.mark.usefixtures("here")
def test_merged_while_exporting() -> None:
    blobstore.convert("base", "gemma.sbs", weights="bf16")
    blobstore.convert("base", "gemma-tuned.sbs", weights="bf16", adapters="lora")
    blobstore.convert("base", "names.sbs", as_="names")
    blobstore.convert("base", "names-tuned.sbs", as_="names", adapters="lora")
    files = []
    for name in ("gemma", "names"):
        blobstore.export(f"{name}.sbs", "merged/now.safetensors", adapters="lora")
        blobstore.export(f"{name}-tuned.sbs", "merged/before.safetensors")
        files += [load(f"merged/{when}.safetensors") for when in ("now", "before")]
    assert all(file == files[0] for file in files)
    base = load("base/model.safetensors")
    assert {name for name in base if base[name] != files[0][name]} == {W, W.replace("q_", "k_"), W.replace("q_", "o_")}


def test_a_resized_embedding_changes_the_vocabulary(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, width = sound_recipe("gemma3").shapes()[EMBEDDING]
    resized = np.random.default_rng(5).normal(size=(rows + 1, width)).astype(np.float32)
    write_adapter(here / "longer", {EMBEDDING: resized})
    status, told = run(capsys, "convert base --adapter longer -o longer.sbs --weights bf16")
    assert status == 0
    assert f"vocabulary padded from {rows + 1} to {rows + 32} rows" in told
    assert blobstore.verify("longer.sbs", against="base", adapters="longer").ok
    # By name, config.json is what it was.
    fix = f"note: config.json is carried as it is: set its vocab_size to {rows + 1} in an exported folder"
    status, told = run(capsys, "convert base --adapter longer -o names.sbs --as names")
    assert (status, fix in told) == (0, True)
    run(capsys, "convert base -o base.sbs --as names")
    status, told = run(capsys, "export base.sbs --adapter longer -o merged/")
    assert (status, fix in told) == (0, True)


def test_only_embeddings_and_heads_are_resized(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, width = sound_recipe("gemma3").shapes()[W]
    write_adapter(here / "other", {W: np.ones((7, width), np.float32)}, modules_to_save=["q_proj"])
    assert f"'{W}' has shape [7, {width}]" in run(capsys, "convert base --adapter other -o other.sbs --as names")[1]
    save_file({"score.weight": np.ones((2, 4), np.float32)}, here / "merged/model.safetensors")
    (here / "merged/config.json").write_text('{"vocab_size": 9}')
    write_adapter(here / "score", {"score.weight": np.ones((3, 4), np.float32)}, modules_to_save=["score"])
    status, told = run(capsys, "convert merged --adapter score -o score.sbs")
    assert (status, "2 rows of the base, 3 of the adapter" in told, "vocab_size" in told) == (0, True, False)


def test_check_finds_what_the_type_cannot_hold(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({W: np.ones((6, 4), np.float16)}, here / "merged/model.safetensors")
    factors = {name: array * 1000 for name, array in pair(LAYER, 6, 4).items()}
    write_adapter(here / "large", factors)
    assert run(capsys, "convert merged --adapter large -o large.sbs")[0] == 1
    assert cli.main(["check", "merged", "--adapter", "large"]) == 1
    assert "error\tnot-finite" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_an_adapter_that_is_merged_again_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    again = "note: the adapter 'lora' is merged already: its change is added once more"
    assert again in run(capsys, "convert base --adapter lora --adapter lora -o twice.sbs")[1]
    assert again not in run(capsys, "convert base --adapter lora -o tuned.sbs")[1]
    assert again in run(capsys, "export tuned.sbs --adapter lora -o twice.safetensors")[1]


@pytest.mark.usefixtures("here")
def test_the_head_alone_makes_two_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    status, told = run(capsys, "convert base --adapter head -o head.sbs")
    assert status == 1
    assert f"untied-head: {HEAD}: it differs from '{EMBEDDING}'" in told
    assert "--as names keeps every tensor" in told
    status, told = run(capsys, "convert base --adapter head -o head.sbs --as names")
    assert status == 0
    assert f"note: {HEAD} shared the tensor '{EMBEDDING}', and the adapter changes only {HEAD}" in told
    note = "config.json is carried as it is: set its tie_word_embeddings to false in an exported folder"
    assert note in told
    with blobstore.open("head.sbs") as store:
        assert HEAD not in store.aliases
        assert not np.array_equal(store[HEAD], store[EMBEDDING])
    run(capsys, "convert base -o base.sbs --as names")
    assert note in run(capsys, "export base.sbs --adapter head -o folder/")[1]
    status, told = run(capsys, "export base.sbs --adapter head -o head.safetensors")
    with blobstore.open("head.sbs") as store:
        assert load("head.safetensors")[HEAD] == store.tobytes(HEAD)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (
            "convert base --adapter lora -o t.sbs",
            0,
            "note: merged the adapter 'lora': 3 tensors changed (rank 2, scale 1.5)",
        ),
        (
            "convert lora -o t.sbs",
            1,
            "adapter: 'lora' has a LoRA adapter but no model: blobstore convert BASE --adapter",
        ),
        ("convert head -o t.sbs", 1, "convert BASE --adapter head, BASE being google/gemma-3-1b-it"),
        (
            "convert lora/adapter_model.safetensors -o t.sbs",
            1,
            "blobstore convert BASE --adapter lora; --as names keeps",
        ),
        (
            "convert base --adapter base -o t.sbs",
            1,
            "no-adapter: 'base': it has no adapter_config.json: is it a whole model?",
        ),
        ("convert base --adapter gone -o t.sbs", 2, "No such file or directory"),
        (
            "convert base --adapter me/lora -o t.sbs",
            1,
            "no-adapter: there is no 'me/lora' here; if it is a model's name",
        ),
        ("convert gone --adapter lora -o t.sbs", 2, "gone: No such file or directory"),
        ("check gone --adapter lora", 2, "gone: No such file or directory"),
        ("convert base --adapter base/config.json -o t.sbs", 1, "no-adapter: 'base/config.json' is another file"),
        (
            "convert made.sbs --adapter lora -o t.sbs",
            2,
            "blobstore export made.sbs --adapter lora merges an adapter into it",
        ),
        ("check made.sbs --adapter lora", 2, "needless-flag: --adapter is for a checkpoint, and 'made.sbs' is none"),
        (
            "export made.sbs --adapter lora --by keys -o t",
            2,
            "two-ways: --adapter has the checkpoint's names, and --by keys",
        ),
        ("verify made.sbs --adapter lora", 2, "no-source: --tokenizer, --adapter and --receipt go with --against SRC"),
        (
            "verify made.sbs --against base --adapter lora",
            2,
            "'made.sbs' was made without adapters: leave --adapter out",
        ),
        ("verify lora.sbs --against base --adapter lora", 0, "merged the adapter 'lora'"),
        ("verify lora.sbs --against base --adapter renamed", 0, "merged the adapter 'renamed'"),
        ("verify lora.sbs --against base", 2, "was made with the adapter 'lora' (sha256 "),
        ("verify lora.sbs --against base --adapter head", 2, "; given were the adapter 'head' (sha256 "),
        ("verify lora.sbs --against base --adapter lora --adapter lora", 2, "other-adapters: 'lora.sbs' was made with"),
    ],
)
def test_what_people_pass(capsys: pytest.CaptureFixture[str], words: str, status: int, told: str) -> None:
    shutil.copytree("lora", "renamed")
    done, said = run(capsys, words)
    assert done == status
    assert told in said


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("adapter_model.safetensors", "not-safetensors: this is a Git LFS pointer"),
        ("adapter_config.json", "adapter-config: 'lora/adapter_config.json' is a Git LFS pointer"),
    ],
)
def test_a_pointer_in_the_place_of_a_file_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    (here / "lora" / name).write_bytes(LFS_POINTER)
    status, said = run(capsys, "convert base --adapter lora -o t.sbs")
    assert status == 1
    assert told in said


@pytest.mark.usefixtures("here")
def test_check_of_an_adapter_alone_names_the_step_to_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "lora"]) == 1
    what = "'lora' has a LoRA adapter but no model: blobstore convert BASE --adapter lora, BASE being me/base"
    assert f"error\tadapter\tlora\t{what}\t" in capsys.readouterr().out


def test_adapters_named_as_a_model_are_passed_with_their_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "lora" / "adapter_config.json").unlink()
    (here / "lora" / "adapter_model.safetensors").rename(here / "lora" / "model.safetensors")
    assert "blobstore convert BASE --adapter lora; --as" in run(capsys, "convert lora -o t.sbs")[1]


def test_a_base_that_is_here_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = here / "lora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(here / "base")}))
    _, told = run(capsys, "convert lora -o t.sbs")
    assert f"blobstore convert {here / 'base'} --adapter lora" in told


def test_another_base_is_asked_about(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "trained on" not in run(capsys, "convert base --adapter lora -o t.sbs")[1]  # me/base
    told = run(capsys, "convert base --adapter head -o t.sbs --as names")[1]
    assert (
        "note: the adapter 'head' was trained on 'google/gemma-3-1b-it' (its adapter_config.json): is the base" in told
    )
    shutil.copytree(here / "base", here / "models--google--gemma-3-1b-it")
    assert (
        "trained on" not in run(capsys, "convert models--google--gemma-3-1b-it --adapter head -o t.sbs --as names")[1]
    )


def test_other_files_of_the_adapter_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(here / "base" / "tokenizer.model", here / "lora" / "tokenizer.model")  # the same: nothing is lost
    assert "lora/" not in run(capsys, "convert base --adapter lora -o t.sbs")[1]
    for name in ("tokenizer.json", "chat_template.jinja", "optimizer.pt"):
        (here / "lora" / name).write_text(name)
    (here / "lora" / "checkpoint-500").mkdir()
    told = run(capsys, "convert base --adapter lora -o t.sbs --as names")[1]
    assert "lora/checkpoint-500/" in told
    assert "tokenizer and chat template are taken from the base, not from the adapter 'lora'" in told
    assert "lora/optimizer.pt (of the training)" in told
    assert "lora/" not in run(capsys, "verify t.sbs --against base --adapter lora")[1]  # nothing new
    left_out = {item.name: item.kind for item in blobstore.preview_conversion("base", adapters="lora").left_out}
    names = ("lora/chat_template.jinja", "lora/tokenizer.json", "lora/optimizer.pt")
    assert [left_out[name] for name in names] == ["file"] * 3


@pytest.fixture
def longer(here: Path) -> int:
    """An adapter with one more token, as peft saves it: with the whole embedding; and its number."""
    with open_checkpoint("base") as checkpoint:
        rows, width = checkpoint.tensors[EMBEDDING].shape
    embedding = np.random.default_rng(1).normal(size=(rows + 1, width)).astype(np.float32)
    write_adapter(here / "longer", {EMBEDDING: embedding})
    (here / "longer" / "added_tokens.json").write_text(json.dumps({"<tool>": rows}))
    return rows


def test_the_tokens_of_an_adapter_are_taken_with_its_embedding(longer: int, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = run(capsys, "convert base --adapter longer -o t.sbs")
    assert status == 0
    assert told.splitlines()[0] == "note: read model.safetensors"
    assert "note: the tokenizer's files of the adapter 'longer' are taken before the base's\n" in told
    assert f"note: tokenizer: 1 piece added from added_tokens.json: {longer} '<tool>'\n" in told
    assert f"note: vocabulary padded from {longer + 1} to " in told
    assert "UNUSED" not in told  # said already
    assert blobstore.verify("t.sbs", against="base", adapters="longer").ok
    with blobstore.open("t.sbs") as store:
        assert store[EMBEDDING].shape[0] == longer + 1
        assert b"<tool>" in bytes(store.raw("tokenizer"))


def test_by_name_too_and_the_old_config_is_told(here: Path, longer: int, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "longer" / "tokenizer.model").write_bytes(b"new")
    status, told = run(capsys, "convert base --adapter longer -o t.sbs --as names")
    assert status == 0
    assert f"config.json is carried as it is: set its vocab_size to {longer + 1} in an exported folder" in told
    assert "left out tokenizer.model (the adapter's is taken)" in told
    assert blobstore.verify("t.sbs", against="base", adapters="longer").ok
    with blobstore.open("t.sbs") as store:
        assert bytes(store.files["tokenizer.model"]) == b"new"
        assert json.loads(bytes(store.files["added_tokens.json"])) == {"<tool>": longer}
    (here / "longer" / "additional_chat_templates").mkdir()
    (here / "longer" / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    blobstore.convert("base", "t.sbs", adapters="longer", as_="names")
    with blobstore.open("t.sbs") as store:
        assert bytes(store.files["additional_chat_templates/tools.jinja"]) == b"{{ tools }}"


def test_an_export_tells_that_the_tokens_of_an_adapter_are_missing(
    here: Path, longer: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "convert base -o base.sbs --as names")
    told = run(capsys, "export base.sbs --adapter longer -o merged/")[1]
    assert f"set its vocab_size to {longer + 1}" in told
    fix = (
        "the tokenizer's files of the adapter 'longer', which has other tokens, are left out: copy them into the folder"
    )
    assert f"note: {fix}\n" in told
    (here / "longer" / "added_tokens.json").unlink()
    assert "other tokens" not in run(capsys, "export base.sbs --adapter longer -o other/")[1]


def test_what_nothing_is_made_of_is_told_of_both_tokenizers(
    here: Path, longer: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The adapter's folder has a name that begins as the base's."""
    (here / "longer").rename(here / "base-longer")
    for folder in ("base", "base-longer"):
        (here / folder / "special_tokens_map.json").write_text(f'{{"of": "{folder}"}}')
        (here / folder / "tokenizer_old.json").write_text(folder)
    (here / "base-longer" / "tokenizer.model").write_bytes((here / "base" / "tokenizer.model").read_bytes())
    told = run(capsys, "convert base --adapter base-longer -o t.sbs")[1]
    assert f"tokenizer: 1 piece added from added_tokens.json: {longer} '<tool>'" in told
    left_out = {item.name: item.why for item in blobstore.preview_conversion("base", adapters="base-longer").left_out}
    assert left_out == {
        "base-longer/special_tokens_map.json": "of the tokenizer",
        "base-longer/tokenizer_old.json": "of the tokenizer",
        "special_tokens_map.json": "of the tokenizer",
        "tokenizer.model": "the adapter's is taken",
        "tokenizer_old.json": "of the tokenizer",
    }
    by_name = blobstore.preview_conversion("base", adapters="base-longer", as_="names")
    assert {item.name: item.why for item in by_name.left_out} == {
        "base-longer/tokenizer_old.json": "of the tokenizer",
        "special_tokens_map.json": "the adapter's is taken",
        "tokenizer.model": "the adapter's is taken",
        "tokenizer_old.json": "of the tokenizer",
    }


def test_a_pickled_adapter_needs_torch(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "lora" / "adapter_model.safetensors").unlink()
    assert "'lora' has no adapter_model.safetensors" in run(capsys, "convert base --adapter lora -o t.sbs")[1]
    (here / "lora" / "adapter_model.bin").write_bytes(PICKLED)
    monkeypatch.setitem(sys.modules, "torch", None)
    status, told = run(capsys, "convert base --adapter lora -o t.sbs")
    assert status == 1
    assert "missing-extra: this is in PyTorch's pickled format, which needs torch" in told


@pytest.mark.torch
def test_a_pickled_adapter_that_torch_did_not_write_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "lora" / "adapter_model.safetensors").unlink()
    (here / "lora" / "adapter_model.bin").write_bytes(PICKLED)
    status, told = run(capsys, "convert base --adapter lora -o t.sbs")
    assert status == 1
    assert "bad-pickle: it can't be read as PyTorch's pickled format: " in told
    assert "[lora/adapter_model.bin]" in told


@pytest.mark.torch
def test_a_pickled_adapter_is_the_same(here: Path) -> None:
    torch: Any = importlib.import_module("torch")
    blobstore.convert("base", "one.sbs", adapters="lora", weights="bf16")
    tensors = load_file("lora/adapter_model.safetensors")
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, "lora/adapter_model.bin")
    (here / "lora" / "adapter_model.safetensors").unlink()
    blobstore.convert("base", "other.sbs", adapters="lora", weights="bf16")
    with blobstore.open("one.sbs") as one, blobstore.open("other.sbs") as other:
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert blobstore.verify("other.sbs", against="base", adapters="lora").ok


def test_metadata_and_receipt_name_the_adapters(here: Path) -> None:
    blobstore.convert("base", "t.sbs", adapters=["lora", "lora"])
    with blobstore.open("t.sbs") as store:
        listed = json.loads(store.metadata["blobstore.adapters"])
    assert [(adapter["name"], len(adapter["weights"]), len(adapter["config"])) for adapter in listed] == [
        ("lora", 64, 64)
    ] * 2
    assert blobstore.verify("t.sbs", against="base", adapters=["lora", "lora"], receipt="receipt.json").ok
    assert json.loads((here / "receipt.json").read_text())["adapters"] == listed


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("text", ["x", "[1]", '{"a": 1}', '[{"name": 1}]', "[" * 5000, "null"])
def test_metadata_that_cannot_be_read_is_refused(capsys: pytest.CaptureFixture[str], text: str) -> None:
    save_file({"a": np.ones(3, np.float32)}, "a.safetensors")
    with StoreWriter("a.sbs", metadata={"blobstore.adapters": text}) as store:
        store.add("a", np.ones(3, np.float32))
    status, told = run(capsys, "verify a.sbs --against a.safetensors")
    assert status == 2
    assert "other-adapters" in told


def test_a_tensor_of_an_adapter_that_is_cut_off(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = here / "lora" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    status, told = run(capsys, "convert base --adapter lora -o t.sbs")
    assert status == 1
    assert "safetensors-layout" in told
    assert "lora/adapter_model.safetensors" in told
    assert not (here / "t.sbs").exists()


@linux_only
@pytest.mark.usefixtures("here")
def test_no_file_stays_open() -> None:
    gc.collect()  # files that other tests left open are closed now, not in between
    before = len(open_descriptors())
    for adapters in (["lora", "base"], ["lora", "lora"], ["head"]):
        with suppress(blobstore.CheckpointError):
            blobstore.preview_conversion("base", adapters=adapters)
    assert len(open_descriptors()) == before


@needs_pipes
def test_a_pipe_in_the_folder_is_not_waited_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (here / "lora" / name).rename(here / "lora" / "kept")
        os.mkfifo(here / "lora" / name)
        status, told = run(capsys, "convert base --adapter lora -o t.sbs")
        assert status == 2
        assert "not-a-file" in told
        (here / "lora" / "kept").replace(here / "lora" / name)


@pytest.mark.slowly
@linux_only
def test_memory_does_not_grow_with_the_base(tmp_path: Path) -> None:
    # Rank 64, as large as an embedding of Gemma; zeros take no disk.
    rows, width, rank, nbytes = 262_144, 1152, 64, 4
    for name, shapes, type_ in (
        ("base/model.safetensors", {EMBEDDING: (rows, width)}, "bf16"),
        (
            "lora/adapter_model.safetensors",
            {
                "base_model.model.model.embed_tokens.lora_embedding_A": (rank, rows),
                "base_model.model.model.embed_tokens.lora_embedding_B": (width, rank),
            },
            "f32",
        ),
    ):
        path = tmp_path / name
        path.parent.mkdir()
        header = dump_header([(tensor, BY_NAME[type_], shape) for tensor, shape in shapes.items()])
        count = sum(a * b for a, b in shapes.values())
        path.write_bytes(header)
        os.truncate(path, len(header) + count * (nbytes if type_ == "f32" else 2))
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    words = ("convert", "base", "--adapter", "lora", "-o", "t.sbs", "-q")
    assert peak_of_command(*words, folder=tmp_path) < 300_000 << 10
