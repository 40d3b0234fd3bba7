from __future__ import annotations

import gc
import io
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.checkpoint.reader import open_checkpoint
from blobstore.errors import CheckpointError, FormatError, UsageError
from tests.checkpoints import (
    INDEX,
    SINGLE,
    linux_only,
    small,
    tensor_maps,
    write_config,
    write_index,
    write_peer,
    write_shards,
)
from tests.conftest import open_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.checkpoints import Array, Tensors

SHARD = "model-00001-of-00002.safetensors"
OTHER_SHARD = "model-00002-of-00002.safetensors"


def refused(path: Path, max_json_nbytes: int = 100_000_000) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, max_json_nbytes=max_json_nbytes)
    return caught.value


def open_files() -> int:
    gc.collect()  # files that other tests left open are closed now, not in between
    return len(open_descriptors())


@given(tensor_maps, st.integers(1, 3), st.data())
def test_shards_together_are_the_whole_checkpoint(
    tmp_path: Path, tensors: Tensors, count: int, data: st.DataObject
) -> None:
    shard_of = {name: data.draw(st.integers(0, count - 1)) for name in tensors}
    shards = [{name: tensors[name] for name in tensors if shard_of[name] == i} for i in range(count)]
    index = write_shards(tmp_path / "shards", [shard for shard in shards if shard])

    with open_checkpoint(index) as checkpoint:
        read = {name: b"".join(map(bytes, tensor.chunks())) for name, tensor in checkpoint.tensors.items()}
        assert read == {name: array.tobytes() for name, array in tensors.items()}
        shapes = {name: entry.shape for name, entry in checkpoint.tensors.items()}
        assert shapes == {name: array.shape for name, array in tensors.items()}
        assert checkpoint.nbytes == sum(array.nbytes for array in tensors.values())
        assert checkpoint.notes == []


@pytest.mark.parametrize("name", [SINGLE, "other.safetensors", "without-a-suffix"])
def test_a_file_is_a_checkpoint_whatever_its_name(tmp_path: Path, name: str) -> None:
    with open_checkpoint(write_peer(tmp_path / name, small("a"))) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]
        assert checkpoint.config == {}


@pytest.mark.parametrize("name", [SINGLE, "adapter.safetensors"])
def test_a_folder_is_the_file_in_it(tmp_path: Path, name: str) -> None:
    write_peer(tmp_path / name, small("a"))
    (tmp_path / "README.md").write_text("")
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]


def test_of_two_files_in_a_folder_the_usual_name_is_taken(tmp_path: Path) -> None:
    write_peer(tmp_path / SINGLE, small("a"))
    write_peer(tmp_path / "consolidated.safetensors", small("b"))
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]


def test_a_folder_and_the_index_in_it_are_the_same_checkpoint(tmp_path: Path) -> None:
    index = write_shards(tmp_path, [small("a", "b"), small("c")])
    with open_checkpoint(tmp_path) as from_folder, open_checkpoint(index) as from_index:
        assert set(from_folder.tensors) == {"a", "b", "c"}
        for name, tensor in from_folder.tensors.items():
            assert tensor.same_bytes(from_index.tensors[name])
            assert tensor.path == from_index.tensors[name].path


def test_a_path_may_be_relative_to_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_peer(tmp_path / SINGLE, small("a"))
    write_config(tmp_path, {"model_type": "llama"})
    monkeypatch.chdir(tmp_path)
    for path in (SINGLE, "."):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.config == {"model_type": "llama"}


def test_config_is_read_beside_a_file_and_beside_shards(tmp_path: Path) -> None:
    config = {"tie_word_embeddings": True, "text_config": {"hidden_size": 1, "rope": float("inf")}}
    write_peer(tmp_path / SINGLE, small("a"))
    write_config(tmp_path, config)
    write_shards(tmp_path / "shards", [small("a"), small("b")])
    write_config(tmp_path / "shards", config)
    for path in (tmp_path / SINGLE, tmp_path / "shards"):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.config == config


def test_metadata_is_that_of_all_files_and_what_differs_is_kept_under_the_files_name(tmp_path: Path) -> None:
    write_peer(tmp_path / SHARD, small("a"), {"format": "pt", "part": "1", "only": "here"})
    write_peer(tmp_path / OTHER_SHARD, small("b"), {"format": "pt", "part": "2"})
    write_index(tmp_path, {"a": SHARD, "b": OTHER_SHARD})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.metadata == {
            "format": "pt",
            "part": "1",
            "only": "here",
            f"{OTHER_SHARD}:part": "2",
        }


def test_a_tensor_that_the_index_does_not_list_is_left_out_with_a_note(tmp_path: Path) -> None:
    write_peer(tmp_path / SHARD, small("a", "stray"))
    write_peer(tmp_path / OTHER_SHARD, small("b"))
    write_index(tmp_path, {"a": SHARD, "b": OTHER_SHARD})
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.tensors) == {"a", "b"}
        (note,) = checkpoint.lines
    assert "'stray'" in note
    assert SHARD in note


def test_of_a_tensor_in_two_shards_the_one_that_the_index_lists_counts(tmp_path: Path) -> None:
    write_peer(tmp_path / SHARD, {"a": np.zeros(2, dtype=np.uint8)} | small("b"))
    write_peer(tmp_path / OTHER_SHARD, {"a": np.ones(2, dtype=np.uint8)})
    write_index(tmp_path, {"a": OTHER_SHARD, "b": SHARD})
    with open_checkpoint(tmp_path) as checkpoint:
        assert b"".join(map(bytes, checkpoint.tensors["a"].chunks())) == b"\1\1"
        assert len(checkpoint.left_out) == 1


@pytest.mark.parametrize("files", [[], ["README.md", "config.json"], ["a.safetensors", "b.safetensors"]])
def test_a_folder_without_a_checkpoint_or_with_several_is_refused(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"{}")
    error = refused(tmp_path)
    assert error.reason == "no-checkpoint"
    assert str(tmp_path) in error.message
    assert all(name in error.message for name in files if name.endswith(".safetensors"))


@pytest.mark.parametrize("inside", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize(
    ("suffix", "fix"),
    [
        (".h5", "original checkpoint"),
        (".sbs", "already"),
    ],
)
def test_another_format_is_refused_with_the_fix(tmp_path: Path, suffix: str, fix: str, inside: bool) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"\x80\2")
    error = refused(tmp_path if inside else file)
    assert error.reason == "not-safetensors"
    assert str(file) in error.message
    assert fix in error.message


def test_safetensors_beside_another_format_are_taken(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\2")
    write_peer(tmp_path / SINGLE, small("a"))
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe{}",
        b'{"weight_map": []}',
        b'{"weight_map": null}',
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {"a": null}}',
        b'{"weight_map": {"a": {"file": "model.safetensors"}}}',
        b'{"weight_map": {}, "weight_map": {}}',
        b'{"weight_map": {"a": "x.safetensors", "a": "model.safetensors"}}',
        b'{"metadata": NaN, "weight_map": {"a": "model.safetensors"}}',
        b'{"weight_map": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"weight_map": {"\\ud800": "model.safetensors"}}',
    ],
    ids=lambda text: text[:50].decode("ascii", "backslashreplace") or "empty",
)
def test_an_invalid_index_of_shards_is_refused(tmp_path: Path, text: bytes) -> None:
    write_peer(tmp_path / SINGLE, small("a"))
    (tmp_path / INDEX).write_bytes(text)
    error = refused(tmp_path)
    assert error.reason == "bad-shard-index"
    assert str(tmp_path / INDEX) in error.message


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/ABSOLUTE", "sub/x.safetensors", "./x", "", ".", ".."])
def test_an_index_can_not_open_files_elsewhere(tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = write_peer(tmp_path / "secret.safetensors", small("a"))
    shard = shard.replace("/ABSOLUTE", str(secret))
    write_index(folder, {"a": shard})
    error = refused(folder)
    assert error.reason == "bad-shard-index"
    assert repr(shard) in error.message


def test_all_missing_shards_are_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [small("a"), small("b"), small("c")])
    gone = sorted(tmp_path.glob("*.safetensors"))[1:]
    for file in gone:
        file.unlink()
    error = refused(tmp_path)
    assert error.reason == "missing-shard"
    assert all(file.name in error.message for file in gone)


def test_missing_tensors_are_named_with_their_shard(tmp_path: Path) -> None:
    write_peer(tmp_path / SHARD, small("a"))
    write_index(tmp_path, {"a": SHARD, "lost.0": SHARD, "lost.1": SHARD})
    error = refused(tmp_path)
    assert error.reason == "missing-tensor"
    assert f"'lost.0' in {SHARD}" in error.message
    assert f"'lost.1' in {SHARD}" in error.message


def test_of_many_missing_tensors_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    write_peer(tmp_path / SHARD, small("a"))
    write_index(tmp_path, {"a": SHARD} | {f"lost.{i}": SHARD for i in range(100)})
    error = refused(tmp_path)
    assert "'lost.7'" in error.message
    assert "and 92 more" in error.message
    assert len(error.message) < 2000


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'"llama"', b"\xff", b"[" * 100_000])
def test_an_invalid_config_is_refused(tmp_path: Path, text: bytes) -> None:
    write_peer(tmp_path / SINGLE, small("a"))
    (tmp_path / "config.json").write_bytes(text)
    error = refused(tmp_path)
    assert error.reason == "bad-config"
    assert str(tmp_path / "config.json") in error.message


@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_a_json_file_is_not_read_without_a_limit(tmp_path: Path, name: str) -> None:
    write_peer(tmp_path / SHARD, small("a"))
    write_index(tmp_path, {"a": SHARD})
    write_config(tmp_path, {"model_type": "x" * 500})
    nbytes = (tmp_path / name).stat().st_size

    limit = max(nbytes, 600)
    open_checkpoint(tmp_path, max_json_nbytes=limit).close()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes().ljust(limit + 1))
    error = refused(tmp_path, max_json_nbytes=limit)
    assert error.reason == "too-large"
    assert str(tmp_path / name) in error.message


def test_a_wrong_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [small("a"), small("b")])
    with (tmp_path / OTHER_SHARD).open("ab") as file:
        file.write(b"!")
    with pytest.raises(FormatError) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.reason == "safetensors-layout"
    assert caught.value.path == str(tmp_path / OTHER_SHARD)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "missing.safetensors")


def no_shard(folder: Path) -> None:
    (folder / OTHER_SHARD).unlink()


def half_shard(folder: Path) -> None:
    os.truncate(folder / OTHER_SHARD, 20)


def wrong_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def lost_tensor(folder: Path) -> None:
    write_index(folder, {"a": SHARD, "b": OTHER_SHARD, "c": OTHER_SHARD})


@linux_only
@pytest.mark.parametrize("damage", [no_shard, half_shard, wrong_config, lost_tensor])
def test_a_checkpoint_that_is_refused_leaves_no_file_open(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_shards(tmp_path, [small("a"), small("b")])
    damage(tmp_path)
    gc.collect()
    before = open_files()
    with pytest.raises((CheckpointError, FormatError)):
        open_checkpoint(tmp_path)
    assert open_files() == before


@linux_only
def test_closing_closes_every_shard_and_may_be_done_twice(tmp_path: Path) -> None:
    write_shards(tmp_path, [small("a"), small("b"), small("c")])
    gc.collect()
    before = open_files()
    with open_checkpoint(tmp_path) as checkpoint:
        assert open_files() == before + 3
    assert open_files() == before
    checkpoint.close()
    with pytest.raises(UsageError):
        checkpoint.tensors["a"].read(0, 2)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (np.arange(6, dtype=np.int16), True),
        (np.arange(6, dtype=np.int16).reshape(2, 3), False),
        (np.arange(6, dtype=np.uint16), False),
        (np.array([0, 1, 2, 3, 4, 6], dtype=np.int16), False),
    ],
    ids=["equal", "shape", "dtype", "one-byte"],
)
def test_same_bytes_means_type_shape_and_every_byte(tmp_path: Path, other: Array, same: bool) -> None:
    write_shards(tmp_path, [{"a": np.arange(6, dtype=np.int16)}, {"b": other}])
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tensors["a"].same_bytes(checkpoint.tensors["b"]) is same


def test_a_source_is_known_by_every_name_it_has(tmp_path: Path) -> None:
    source = write_peer(tmp_path / SINGLE, small("a"))
    (tmp_path / "symbolic").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    copy = tmp_path / "copy"
    copy.write_bytes(source.read_bytes())
    outside = tmp_path / "elsewhere" / "outside"
    outside.parent.mkdir()
    outside.hardlink_to(copy)
    names = (SINGLE, "symbolic", "hard")
    for path, lost in ((tmp_path, (*names, "copy", outside)), (source, names)):
        with open_checkpoint(path) as checkpoint:
            for name in lost:
                with pytest.raises(UsageError, match="same-file"):
                    checkpoint.refuse_as_outputs(tmp_path / name)
            checkpoint.refuse_as_outputs(tmp_path / "missing", None, io.BytesIO())
            if path is source:  # other files don't belong to it
                checkpoint.refuse_as_outputs(copy, outside)


def test_an_index_may_say_more_than_we_know(tmp_path: Path) -> None:
    index = write_shards(tmp_path, [small("a")])
    index.write_text(json.dumps(json.loads(index.read_text()) | {"extra": [1, {"x": None}]}))
    with open_checkpoint(index) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]
