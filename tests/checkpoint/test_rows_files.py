"""Which files are the checkpoint: folders as people have them, each with the exact note or error."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from blobstore.checkpoint.file_names import why_unused
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.shards import INTERRUPTED
from blobstore.cli import main
from blobstore.errors import BlobStoreError, UsageError
from tests.checkpoints import (
    EMBEDDING,
    HEAD,
    INDEX,
    LFS_POINTER,
    SINGLE,
    needs_pipes,
    small,
    write_config,
    write_index,
    write_peer,
    write_shards,
)
from tests.gemma_checkpoints import sound_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blobstore.checkpoint.reader import Checkpoint

ONE, TWO, THREE = (f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


@pytest.fixture
def three(folder: Path) -> Path:
    """Three shards without an index."""
    write_shards(folder, [small("a"), small("b"), small("c")]).unlink()
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(BlobStoreError) as caught:
        open_checkpoint(path)
    return str(caught.value)


def opened(path: Path) -> tuple[set[str], list[str]]:
    """Return a checkpoint's tensors and notes."""
    with open_checkpoint(path) as checkpoint:
        return set(checkpoint.tensors), checkpoint.notes


def values(checkpoint: Checkpoint, name: str) -> list[int]:
    tensor = checkpoint.tensors[name]
    return [int(value) for value in tensor.read(0, 1)]


# ------------------------------------------------------------------------------------------ shards without an index


def test_shards_without_an_index_are_joined(three: Path) -> None:
    assert opened(three) == ({"a", "b", "c"}, ["the folder has no index: all 3 shards are joined"])


def test_shards_of_two_ways_to_number_are_not_joined(folder: Path) -> None:
    for number in range(3):
        write_peer(folder / f"model-{number:05}-of-00002.safetensors", small(f"t{number}"))
    assert "no-checkpoint" in refusal(folder)


def test_shards_that_are_numbered_from_0_are_joined(folder: Path) -> None:
    for number, name in enumerate("ab"):
        write_peer(folder / f"part-{number:05}-of-00002.safetensors", small(name))
    assert opened(folder)[0] == {"a", "b"}


def test_missing_shards_are_named(three: Path) -> None:
    (three / ONE).unlink()
    (three / THREE).unlink()
    what = f"missing-shard: {str(three)!r} has 1 of 3 files of a checkpoint: {ONE}, {THREE} missing"
    assert refusal(three) == f"{what}: download the rest, or copy it there"


def test_of_a_million_missing_shards_the_first_are_named(folder: Path) -> None:
    write_peer(folder / "model-00002-of-999999.safetensors", small("a"))
    assert "model-00009-of-999999.safetensors and 999990 more missing" in refusal(folder)


def test_one_of_several_shards_is_not_a_checkpoint(three: Path) -> None:
    what = f"one-shard: {str(three / TWO)!r} is one of 3 files of a checkpoint: pass its folder"
    assert refusal(three / TWO) == f"{what}; a copy of it under another name is taken alone"


def test_the_only_shard_is_a_checkpoint(folder: Path) -> None:
    only = write_peer(folder / "model-00001-of-00001.safetensors", small("a"))
    assert opened(only) == opened(folder) == ({"a"}, [])


def test_a_tensor_in_two_shards_without_an_index_is_refused(three: Path) -> None:
    write_peer(three / TWO, small("a", "b"))
    what = f"duplicate-tensor: 'a' is in {str(three / ONE)!r} and in {str(three / TWO)!r}"
    assert refusal(three) == f"{what}: only an index of shards could say which counts: remove it from one of them"


# --------------------------------------------------------------------------------------------------- two checkpoints


def two_checkpoints(folder: Path, others: str) -> str:
    what = (
        f"two-checkpoints: {str(folder)!r} has two checkpoints: {SINGLE}, which transformers would take, and {others}"
    )
    return f"{what}: pass {str(folder / SINGLE)!r}, or move it out of the folder to use the others"


def test_a_file_beside_an_index_with_its_shards_is_refused(folder: Path) -> None:
    write_shards(folder, [small("a"), small("b"), small("c")])
    write_peer(folder / SINGLE, small("new"))
    assert refusal(folder) == two_checkpoints(folder, f"the files that {INDEX} lists, such as {ONE}")
    assert opened(folder / SINGLE) == ({"new"}, [])
    assert opened(folder / INDEX)[0] == {"a", "b", "c"}


def test_a_file_beside_some_shards_of_an_index_is_refused(folder: Path) -> None:
    write_shards(folder, [small("a"), small("b"), small("c")])
    (folder / ONE).unlink()
    write_peer(folder / SINGLE, small("new"))
    assert refusal(folder) == two_checkpoints(folder, f"the files that {INDEX} lists, such as {TWO}")


def test_a_file_beside_shards_without_an_index_is_refused(three: Path) -> None:
    write_peer(three / SINGLE, small("new"))
    assert refusal(three) == two_checkpoints(three, f"shards, such as {ONE}")


@pytest.mark.parametrize("name", [SINGLE, "merged.safetensors"])
def test_an_index_whose_shards_are_gone_is_left_out_for_the_file_there(folder: Path, name: str) -> None:
    write_index(folder, {"a": ONE, "b": TWO})
    write_peer(folder / name, small("new"))
    note = f"{INDEX} is left out: no file that it lists is there; {name} is taken"
    assert opened(folder) == ({"new"}, [note])


def test_an_index_whose_shards_are_gone_is_left_out_for_other_shards(three: Path) -> None:
    write_index(three, {"a": "model-00001-of-00002.safetensors"})
    names, notes = opened(three)
    assert names == {"a", "b", "c"}
    assert (
        notes[-1]
        == f"{INDEX} is left out: no file that it lists is there; {ONE} and the other shards with it are taken"
    )


def test_an_index_of_the_single_file_is_not_another_checkpoint(folder: Path) -> None:
    write_peer(folder / SINGLE, small("a"))
    write_index(folder, {"a": SINGLE})
    assert opened(folder) == ({"a"}, [])


def test_the_only_index_is_taken_whatever_its_name(folder: Path) -> None:
    write_peer(folder / "x-1.safetensors", small("a"))
    write_peer(folder / "x-2.safetensors", small("b"))
    (folder / "x.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x-1.safetensors"}}))
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint.tensors) == {"a"}
        assert "x-2.safetensors" in {entry.name for entry in checkpoint.files_left_out()}


# ------------------------------------------------------------------------------------------- what the index says


@pytest.mark.parametrize("counts", [ONE, TWO])
def test_of_a_tensor_in_two_shards_the_index_decides(folder: Path, counts: str) -> None:
    write_peer(folder / ONE, {"a": np.array([1], np.int32)} | small("b"))
    write_peer(folder / TWO, {"a": np.array([2], np.int32)} | small("c"))
    write_index(folder, {"a": counts, "b": ONE, "c": TWO})
    with open_checkpoint(folder) as checkpoint:
        assert values(checkpoint, "a") == [1 if counts == ONE else 2]
        (left,) = checkpoint.left_out
    other = TWO if counts == ONE else ONE
    assert (left.name, left.kind, left.why) == ("a", "tensor", f"in {other}, where the index does not list it")


@pytest.mark.parametrize("config", [{"tie_word_embeddings": True}, {}, None], ids=["tied", "silent", "none"])
def test_a_tied_head_that_no_shard_has_is_no_loss(folder: Path, tmp_path: Path, config: dict[str, bool] | None) -> None:
    write_peer(folder / ONE, small(EMBEDDING))
    write_index(folder, {EMBEDDING: ONE, HEAD: ONE})
    if config is not None:
        write_config(folder, config)
    note = f"{HEAD!r}: the index lists it, but no file has it: taken as tied to {EMBEDDING!r}"
    assert opened(folder) == ({EMBEDDING}, [note])
    blobstore.convert(folder, tmp_path / "out.sbs")
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert set(store) == {EMBEDDING, HEAD}


def test_a_head_of_its_own_that_no_shard_has_is_a_loss(folder: Path) -> None:
    write_peer(folder / ONE, small(EMBEDDING))
    write_index(folder, {EMBEDDING: ONE, HEAD: ONE})
    write_config(folder, {"tie_word_embeddings": False})
    assert refusal(folder).startswith("missing-tensor: ")


# ------------------------------------------------------------------------------------------------- what a folder is


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


FOLDERS = {
    "checkpoint-500/model.safetensors checkpoint-1000/model.safetensors trainer_state.json": (
        "has no model, but folders of a training's steps: pass one of them (checkpoint-500, checkpoint-1000)"
    ),
    "global_step500/mp_rank_00_model_states.pt zero_to_fp32.py latest": (
        "has DeepSpeed's states of a training: pass OUT of python HERE/zero_to_fp32.py HERE OUT --safe_serialization"
    ),
    "__0_0.distcp .metadata": ("is a checkpoint of torch.distributed: pass OUT of accelerate merge-weights HERE OUT"),
    "pytorch_model_fsdp_0/__0_0.distcp optimizer_0/__0_0.distcp config.json": (
        "has in pytorch_model_fsdp_0/ a checkpoint of torch.distributed: pass OUT of "
        "accelerate merge-weights HERE/pytorch_model_fsdp_0 OUT"
    ),
    "models--a--b/refs/main models--c--d/refs/main": (
        "is a hub's cache of several models: pass one of them (models--a--b, models--c--d)"
    ),
    "transformer/model.safetensors vae/config.json": (
        "has no weights, but folders with weights: pass one of them (transformer)"
    ),
    "config.json tokenizer.json": (
        "has no weights: no .safetensors or .gguf file, and none of PyTorch's (.bin, .pt, .pth, .ckpt)"
    ),
}


@pytest.mark.parametrize(("files", "what"), FOLDERS.items())
def test_a_folder_that_is_not_a_checkpoint_is_named(folder: Path, files: str, what: str) -> None:
    touch(folder, *files.split())
    assert refusal(folder) == f"no-checkpoint: {str(folder)!r} {what.replace('HERE', str(folder))}"


def cache(root: Path, *snapshots: str, main: str = "") -> Path:
    """Make a hub's cache of a model: snapshots of links to blobs."""
    (root / "blobs").mkdir(parents=True)
    write_peer(root / "blobs" / "0f", small("a"))
    for name in snapshots:
        (root / "snapshots" / name).mkdir(parents=True)
        (root / "snapshots" / name / SINGLE).symlink_to(root / "blobs" / "0f")
    if main:
        touch(root, "refs/main")
        (root / "refs" / "main").write_text(main)
    return root


def test_of_a_hubs_cache_the_current_snapshot_is_taken(folder: Path) -> None:
    root = cache(folder / "models--org--name", "aaa", "bbb", main="bbb\n")
    write_config(root / "snapshots" / "bbb", {"model_type": "llama"})
    note = "the folder is a hub's cache: snapshots/bbb, the snapshot that refs/main names, is taken"
    assert opened(root) == ({"a"}, [note])
    with open_checkpoint(root) as checkpoint:
        assert checkpoint.config == {"model_type": "llama"}
        assert checkpoint.paths == [str(root / "snapshots" / "bbb" / SINGLE)]
        assert checkpoint.files_left_out() == []
        with pytest.raises(UsageError, match="same-file"):
            checkpoint.refuse_as_outputs(root / "blobs" / "0f")


def test_of_a_hubs_cache_the_only_snapshot_is_taken(folder: Path) -> None:
    note = "the folder is a hub's cache: snapshots/aaa, its only snapshot, is taken"
    assert opened(cache(folder / "m", "aaa")) == ({"a"}, [note])
    lost = "; refs/main names 'gone', which isn't there"
    assert opened(cache(folder / "n", "aaa", main="gone")) == ({"a"}, [note + lost])


def test_of_a_hubs_cache_with_several_snapshots_one_has_to_be_passed(folder: Path) -> None:
    root = cache(folder / "m", "aaa", "bbb", main="gone")
    what = f"no-checkpoint: {str(root)!r} is a hub's cache with 2 snapshots, and refs/main names none of them"
    paths = ", ".join(repr(str(root / "snapshots" / name)) for name in ("aaa", "bbb"))
    assert refusal(root) == f"{what}: pass one, such as {paths}"


def test_an_empty_hubs_cache_is_named(folder: Path) -> None:
    (folder / "snapshots").mkdir()
    (folder / "blobs").mkdir()
    assert refusal(folder) == f"no-checkpoint: {str(folder)!r} is a hub's cache without snapshots: download the model"


@pytest.mark.parametrize("command", ["convert", "check", "diff", "info", "ls"])
def test_a_models_name_on_a_hub_is_not_a_path(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"convert": ["-o", "x.sbs"], "diff": ["x.sbs"]}.get(command, [])
    assert main([command, "google/gemma-3-270m", *more]) == 1
    told = "".join(capsys.readouterr())
    fix = "download it first (hf download google/gemma-3-270m --local-dir gemma-3-270m), then pass 'gemma-3-270m'"
    assert f"there is no 'google/gemma-3-270m' here; if it is a model's name on the Hugging Face hub, {fix}" in told


@pytest.mark.parametrize("path", ["x", "sub/missing", "a/b/c", "../x/y", "no/x.safetensors", "/no/x"])
def test_other_paths_without_a_file_are_missing_files(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_checkpoint(path)


# --------------------------------------------------------------------------------------------------- foreign contents


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", b"")
    return file.getvalue()


FOREIGN = {
    "lfs": (LFS_POINTER, "a Git LFS pointer, fetch the file itself: git lfs pull"),
    "page": (b"<!DOCTYPE html>", "a web page, not the download: download the file again, logged in if it needs that"),
    "npz": (npz(), "an npz file: save its arrays as safetensors first"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(16), "a GGUF file: name it .gguf, and blobstore convert reads it"),
    "gzip": (gzip.compress(b"x"), "a gzip file, decompress it first"),
    "zip": (zip_file(), "a zip file (npz or a PyTorch checkpoint?): save its tensors as safetensors first"),
}


@pytest.mark.parametrize("inside", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_format_named_safetensors_is_named(folder: Path, name: str, inside: bool) -> None:
    raw, what = FOREIGN[name]
    (folder / SINGLE).write_bytes(raw)
    path = folder / SINGLE
    assert refusal(folder if inside else path) == f"not-safetensors: this is {what} [{path}]"


@pytest.mark.parametrize(("name", "reason"), [("config.json", "bad-config"), (INDEX, "bad-shard-index")])
def test_a_pointer_in_the_place_of_a_small_file_is_named(folder: Path, name: str, reason: str) -> None:
    write_peer(folder / ("x.safetensors" if name == INDEX else SINGLE), small("a"))
    (folder / name).write_bytes(LFS_POINTER)
    what = "a Git LFS pointer, fetch the file itself: git lfs pull"
    assert refusal(folder) == f"{reason}: {str(folder / name)!r} is {what}"


# --------------------------------------------------------------------------------- what was read, and what was left out


def test_every_file_of_the_folder_is_read_or_left_out_in_one_line(folder: Path, tmp_path: Path) -> None:
    recipe = sound_recipe("gemma3")
    recipe.write(folder)
    whys = {
        "README.md": "not of the model",
        ".gitattributes": "not of the model",
        "LICENSE": "not of the model",
        "optimizer.pt": "of the training",
        "training_args.bin": "of the training",
        "rng_state_0.pth": "of the training",
        "checkpoint-500/": "of the training",
        "modeling_x.py": "code",
        "pytorch_model.bin": "weights in another file or format, by its name",
        "model.gguf": "weights in another file or format, by its name",
        "onnx/": "weights in another file or format, by its name",
        "preprocessor_config.json": "of the processor",
        "surprise": "not known",
    }
    for name in whys:
        (folder / name).mkdir() if name.endswith("/") else (folder / name).write_bytes(b"")
    done = blobstore.convert(folder, tmp_path / "out.sbs", as_="gemma")
    assert {item.name: item.why for item in done.left_out} == whys
    assert {item.kind for item in done.left_out} == {"file"}
    (line,) = [note for note in done.notes if note.startswith("left out")]
    assert line == (
        "left out .gitattributes, LICENSE, README.md (not of the model); "
        "checkpoint-500/, optimizer.pt, rng_state_0.pth and 1 more (of the training); "
        "model.gguf, onnx/, pytorch_model.bin (weights in another file or format, by its name); modeling_x.py (code); "
        "preprocessor_config.json (of the processor); surprise (not known)"
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("config.json", "settings of the model"),
        ("source.spm", "of the tokenizer"),
        ("additional_chat_templates/", "of the tokenizer"),
        ("modules.json", "of sentence-transformers"),
        ("1_Pooling/", "of sentence-transformers"),
    ],
)
def test_what_a_file_by_name_would_carry_is_known_elsewhere_too(name: str, why: str) -> None:
    assert why_unused(name) == why


def test_of_a_file_that_was_given_the_folder_is_not_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    path = write_peer(folder / SINGLE, small("a"))
    touch(folder, "README.md")
    assert blobstore.convert(path, tmp_path / "out.sbs").left_out == ()


def test_what_was_read_is_told_by_every_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(folder, [small(f"t{number}") for number in range(30)])
    files = [str(folder / f"model-{number:05}-of-00030.safetensors") for number in range(1, 31)]
    line = "read model-00001-of-00030.safetensors … model-00030-of-00030.safetensors (30 files)"
    out = str(tmp_path / "out.sbs")
    for field, command in {
        "read": ["convert", str(folder), "-o", out],
        "read_a": ["diff", str(folder), out],
        "read_b": ["diff", out, str(folder)],
        "read_of_verify": ["verify", out, "--against", str(folder)],
    }.items():
        assert main(command) == 0
        assert f"note: {line}" in capsys.readouterr().err
        assert main([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[field.removesuffix("_of_verify")] == files
    assert main(["check", str(folder)]) == 0
    assert f"note: {folder}: {line}" in capsys.readouterr().err
    assert blobstore.check(folder).read == tuple(files)
    assert blobstore.check(out).read == ()


# ------------------------------------------------------------------------------------------ files that aren't regular

IRREGULAR: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (lambda path: os.mkfifo(path), "expected a regular file, found a pipe or device"),  # noqa: PLW0108 (not on Windows)
    "device": (lambda path: path.symlink_to("/dev/zero"), "expected a regular file, found a pipe or device"),
    "loop": (lambda path: path.symlink_to(path), "expected a regular file, found a symbolic link that leads to itself"),
    "folder": (os.mkdir, "expected a regular file, found a folder"),
}
SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
]
ALWAYS_READ = SMALL_FILES[:2]


@needs_pipes
@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", [SINGLE, INDEX, ONE])
def test_weights_that_are_not_a_regular_file_are_refused(folder: Path, name: str, kind: str) -> None:
    if name == ONE:
        write_index(folder, {"a": ONE})
    make, what = IRREGULAR[kind]
    make(folder / name)
    with in_time():
        assert refusal(folder) == f"not-a-file: {what} [{folder / name}]"
        assert main(["info", str(folder)]) == 2


@needs_pipes
@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", SMALL_FILES)
def test_other_files_that_are_not_regular_are_refused_or_left_out(folder: Path, name: str, kind: str) -> None:
    sound_recipe("gemma3").write(folder)
    (folder / name).unlink(missing_ok=True)
    make, what = IRREGULAR[kind]
    make(folder / name)
    for as_ in ("gemma", "names"):
        with in_time():
            try:
                preview = blobstore.preview_conversion(folder, as_=as_)
            except UsageError as error:
                assert str(error) == f"not-a-file: {what} [{folder / name}]"  # noqa: PT017 (or none is raised)
                continue
        assert name not in ALWAYS_READ
        assert name in {item.name.rstrip("/") for item in preview.left_out}


@contextmanager
def in_time(seconds: int = 20) -> Iterator[None]:
    """Fail rather than hang: opening a pipe waits for a writer."""

    def stop(*_: object) -> None:
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_index_of_an_interrupted_export_says_so(folder: Path) -> None:
    write_peer(folder / ONE, small("a"))
    (folder / INDEX).write_bytes(INTERRUPTED)
    why = "not an index of shards: an export to here was interrupted, or is being done: export again"
    assert refusal(folder) == f"bad-shard-index: {str(folder / INDEX)!r} is {why}"


def test_what_convert_refuses_is_a_finding_of_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(folder, [small("a"), small("b")])
    write_peer(folder / SINGLE, small("new"))
    (finding,) = blobstore.check(folder).findings
    assert (finding.severity, finding.code, finding.effect) == (
        "error",
        "two-checkpoints",
        "blobstore convert refuses it",
    )
    for command in (["check", str(folder)], ["convert", str(folder), "-o", str(folder / "out.sbs")]):
        assert main(command) == 1
        assert "two-checkpoints" in "".join(capsys.readouterr())


def test_a_pointer_in_the_place_of_the_tokenizer_is_named(folder: Path) -> None:
    sound_recipe("gemma3").write(folder)
    (folder / "tokenizer.model").write_bytes(LFS_POINTER)
    with pytest.raises(UsageError, match=r"not-a-tokenizer: .*Git LFS pointer, fetch the file itself: git lfs pull"):
        blobstore.preview_conversion(folder)
