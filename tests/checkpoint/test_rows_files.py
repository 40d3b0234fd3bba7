"""Which files are the checkpoint: folders as people have them, each with the exact note or error."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.errors import BlobStoreError, CheckpointError
from tests.checkpoints import HEAD, EMBEDDING, INDEX, SINGLE, small, write_config, write_index, write_peer, write_shards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blobstore.checkpoint.reader import Checkpoint

ONE, TWO, THREE = (f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3))
LFS = b"version https://git-lfs.example/spec/v1\noid sha256:ab\nsize 12\n"


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
    assert refusal(three) == f"{what}: an index would say which counts; remove it from one of them"


# --------------------------------------------------------------------------------------------------- two checkpoints


def two_checkpoints(folder: Path, others: str) -> str:
    what = f"two-checkpoints: {str(folder)!r} has two checkpoints: {SINGLE}, which transformers would take, and {others}"
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
    assert notes[-1] == f"{INDEX} is left out: no file that it lists is there; {ONE} and the others of its set is taken"


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
    assert (left.name, left.kind, left.why) == ("a", "tensor", f"in {other}, where the index doesn't list it")


def test_a_tied_head_that_no_shard_has_is_no_loss(folder: Path) -> None:
    write_peer(folder / ONE, small(EMBEDDING))
    write_index(folder, {EMBEDDING: ONE, HEAD: ONE})
    write_config(folder, {"tie_word_embeddings": True})
    note = f"{HEAD!r}: the index lists it and no file has it: it is tied to {EMBEDDING!r}"
    assert opened(folder) == ({EMBEDDING}, [note])


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


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (
            ["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors", "trainer_state.json"],
            "has no model, but folders of a training's steps: pass one of them (checkpoint-500, checkpoint-1000)",
        ),
        (
            ["global_step500/mp_rank_00_model_states.pt", "zero_to_fp32.py", "latest"],
            "has DeepSpeed's states of a training: pass OUT of python HERE/zero_to_fp32.py HERE OUT --safe_serialization",
        ),
        (["__0_0.distcp", ".metadata"], "is a checkpoint of torch.distributed: pass OUT of accelerate merge-weights HERE OUT"),
        (
            ["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"],
            "has in optimizer_0/ a checkpoint",
        ),
        (["models--a--b/refs/main", "models--c--d/refs/main"], "is a hub's cache of several models: pass one of them (models--a--b, models--c--d)"),
        (["transformer/model.safetensors", "vae/x.json"], "has no weights, but folders with weights: pass one of them (transformer)"),
        (["config.json"], "has neither model.safetensors nor model.safetensors.index.json"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_a_checkpoint_is_named(folder: Path, files: list[str], what: str) -> None:
    touch(folder, *files)
    assert refusal(folder) == f"no-checkpoint: {str(folder)!r} {what.replace('HERE', str(folder))}"
