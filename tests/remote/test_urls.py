"""Checkpoints and outputs at URLs: the same bytes as here, nothing half, no secrets told."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

import fsspec
import ml_dtypes
import numpy as np
import pytest

import blobstore
from blobstore import cli
from blobstore.container.writer import ContainerWriter
from blobstore.errors import without_secrets
from blobstore.fileio import streamed, uploads
from blobstore.fileio.uploads import Upload
from tests.adapters import LAYER, write_adapter, write_base
from tests.checkpoints import small, write_peer
from tests.gemma_checkpoints import sound_recipe
from tests.gguf_files import write_gguf
from tests.packing_files import tuned, weights
from tests.remote.counting import CountedFileSystem, contents, put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHECKPOINT, OUT = "counted://models/ck", "memory://out/made.sbs"


def write_named(folder: Path) -> Path:
    """Write a checkpoint of two shards, with files beside them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    big = {f"layer.{i}.weight": rng.integers(0, 99, (300, 1000), dtype=np.int16) for i in range(5)}
    write_peer(folder / "model-00001-of-00002.safetensors", big)
    write_peer(folder / "model-00002-of-00002.safetensors", small(*(f"layer.{i}.bias" for i in range(99))))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("about")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def told(result: Any) -> dict[str, Any]:  # noqa: ANN401 (any of the results)
    """Return a result without what differs from place to place."""
    fields = dataclasses.asdict(result)
    for name in ("input", "output", "seconds", "against"):
        fields.pop(name, None)
    fields["read"] = [path.rsplit("/", 1)[1] for path in fields["read"]]
    return fields


@pytest.mark.parametrize("kind", ["names", "gemma", "gguf"])
def test_a_checkpoint_elsewhere_becomes_the_same_file(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "ck"
    if kind == "names":
        write_named(folder)
    elif kind == "gemma":
        sound_recipe("gemma3").write(folder)
    else:
        values = {"w": np.arange(6, dtype=np.float32), "b.w": np.ones((2, 32), ml_dtypes.bfloat16)}
        write_gguf(folder / "model.gguf", values)
    put(CHECKPOINT, folder)
    here = blobstore.convert(folder, tmp_path / "here.sbs")
    there = blobstore.convert(CHECKPOINT, OUT)
    assert contents(OUT) == (tmp_path / "here.sbs").read_bytes()
    assert told(here) == told(there)
    assert there.output == OUT
    preview = blobstore.preview_conversion(CHECKPOINT)
    assert preview.left_out == blobstore.preview_conversion(folder).left_out
    assert blobstore.verify(tmp_path / "here.sbs", against=CHECKPOINT, receipt=tmp_path / "receipt").ok
    blobstore.verify(tmp_path / "here.sbs", against=folder, receipt=tmp_path / "receipt.here")
    assert (tmp_path / "receipt").read_bytes() == (tmp_path / "receipt.here").read_bytes()


def test_a_conversion_by_name_fetches_each_tensor_once(tmp_path: Path) -> None:
    put(CHECKPOINT, write_named(tmp_path / "ck"))
    CountedFileSystem.fetched.clear()
    blobstore.convert(CHECKPOINT, tmp_path / "made.sbs")
    for shard in (tmp_path / "ck").glob("*.safetensors"):
        assert sum(end - start for path, start, end in CountedFileSystem.fetched if path.endswith(shard.name)) == (
            shard.stat().st_size
        )


@pytest.mark.parametrize(("weights", "times"), [("bf16", 1), ("f32", 1), ("sfp", 2)])
def test_a_conversion_for_gemma_fetches_each_tensor_once_or_twice_to_scale_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, times: int
) -> None:
    put(CHECKPOINT, sound_recipe("gemma3").write(tmp_path / "ck"))
    for name, nbytes in (("_KEPT_NBYTES", 65_536), ("_BLOCK_NBYTES", 4096), ("_HEAD_NBYTES", 4096)):
        monkeypatch.setattr(streamed, name, nbytes)
    CountedFileSystem.fetched.clear()
    blobstore.convert(CHECKPOINT, tmp_path / "made.sbs", weights=weights)
    fetched = sum(end - start for path, start, end in CountedFileSystem.fetched if path.endswith(".safetensors"))
    size = (tmp_path / "ck" / "model.safetensors").stat().st_size
    assert (times - 1) * size < fetched <= times * size


def test_one_file_and_the_index_of_shards_elsewhere(tmp_path: Path) -> None:
    folder = write_named(tmp_path / "ck")
    file = "model-00001-of-00002.safetensors"
    weight_map = {f"layer.{i}.weight": file for i in range(5)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    os.link(folder / file, folder / "alone.safetensors")
    put(CHECKPOINT, folder)
    for name in ("model.safetensors.index.json", "alone.safetensors"):
        blobstore.convert(folder / name, tmp_path / "here.sbs")
        blobstore.convert(f"{CHECKPOINT}/{name}", tmp_path / "there.sbs")
        assert (tmp_path / "there.sbs").read_bytes() == (tmp_path / "here.sbs").read_bytes()


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    folder = write_named(tmp_path / "ck")
    done = blobstore.convert(f"file://{folder}", f"file://{tmp_path}/made.sbs")
    assert done.output == str(tmp_path / "made.sbs")
    assert blobstore.verify(tmp_path / "made.sbs", against=folder).ok


def test_an_adapter_elsewhere_is_merged_as_here(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {f"{LAYER}.weight": np.ones((4, 6), np.float32)}, num_hidden_layers=1)
    factors = {
        f"{LAYER}.lora_A.weight": np.ones((2, 6), np.float32),
        f"{LAYER}.lora_B.weight": np.ones((4, 2), np.float32),
    }
    lora = write_adapter(tmp_path / "lora", factors)
    (lora / "tokenizer.json").write_text("{}")
    put("counted://models/base", base)
    put("counted://models/lora", lora)
    blobstore.convert(base, tmp_path / "here.sbs", adapters=lora)
    blobstore.convert("counted://models/base", tmp_path / "there.sbs", adapters="counted://models/lora")
    assert (tmp_path / "there.sbs").read_bytes() == (tmp_path / "here.sbs").read_bytes()
    with pytest.raises(FileNotFoundError):
        blobstore.convert(base, tmp_path / "none.sbs", adapters="counted://models/none")


def model(tmp_path: Path) -> Path:
    """Write a file of weights, and one that differs a little."""
    values = weights(0, 200_000)
    for name, array in (("base", values), ("model", tuned(values, 1))):
        with blobstore.create(tmp_path / f"{name}.sbs") as store:
            store.add("w", array)
            store.add("noise", np.frombuffer(np.random.default_rng(2).bytes(5000), np.uint8))
    return tmp_path / "model.sbs"


WRITERS: dict[str, Callable[[Path, Any], object]] = {
    "pack": blobstore.pack,
    "pack a difference": lambda file, out: blobstore.pack(file, out, base=file.with_name("base.sbs")),
    "unpack": lambda file, out: (
        blobstore.pack(file, file.with_name("p.sbs")),
        blobstore.unpack(file.with_name("p.sbs"), out),
    ),
    "rewrite": lambda file, out: blobstore.rewrite(file, out, rename={"w": "v"}),
    "export": blobstore.export,
    "recover": blobstore.recover,
    "save_file": lambda _, out: blobstore.save_file({"a": np.arange(9)}, out),
    "get": lambda file, out: cli.main(["get", str(file), "w", "--raw", "-o", str(out)]),
    "get .npy": lambda file, out: cli.main(["get", str(file), "noise", "-o", f"{out}.npy"]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_elsewhere_is_what_is_written_here(tmp_path: Path, name: str) -> None:
    file, suffix = model(tmp_path), ".npy" if name.endswith(".npy") else ""
    WRITERS[name](file, tmp_path / "here")
    WRITERS[name](file, "memory://out/there")
    assert contents(f"memory://out/there{suffix}") == (tmp_path / f"here{suffix}").read_bytes()


@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, suffix = model(tmp_path), ".npy" if name.endswith(".npy") else ""
    target = f"memory://out/there{suffix}"
    fsspec.filesystem("memory").pipe_file(f"/out/there{suffix}", b"old")
    for step in ("_send", "_upload", "move"):
        with monkeypatch.context() as patch:
            patch.setattr(Upload, step, _fail)
            if name.startswith("get"):
                assert WRITERS[name](file, "memory://out/there")
            else:
                with pytest.raises(OSError, match="no more"):
                    WRITERS[name](file, "memory://out/there")
        assert contents(target) == b"old"
    assert fsspec.filesystem("memory").ls("/out", detail=False) == [f"/out/there{suffix}"]


@pytest.mark.parametrize("name", WRITERS)
def test_results_show_no_secrets(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = WRITERS[name](model(tmp_path), "memory://user:pass4word@out/there")
    shown = capsys.readouterr()
    assert "pass4word" not in f"{done} {shown.out} {shown.err}"


def test_a_base_elsewhere_is_recorded_without_secrets(tmp_path: Path) -> None:
    file = model(tmp_path)
    put("memory://user:pass4word@out/base.sbs", tmp_path / "base.sbs")
    blobstore.pack(file, tmp_path / "p.sbs", base="memory://user:pass4word@out/base.sbs")
    assert b"pass4word" not in (tmp_path / "p.sbs").read_bytes()
    assert blobstore.verify(tmp_path / "p.sbs", values=True, base="memory://user:pass4word@out/base.sbs").ok


def test_a_file_elsewhere_is_edited_in_place_unless_another_writer_came_first(tmp_path: Path) -> None:
    file = model(tmp_path)
    put(OUT, file)
    blobstore.rewrite(OUT, in_place=True, rename={"w": "v"})
    blobstore.rewrite(file, in_place=True, rename={"w": "v"})
    assert contents(OUT) == file.read_bytes()

    def replace(_: int) -> None:
        put(OUT, tmp_path / "base.sbs")

    refused("replaced", lambda: blobstore.rewrite(OUT, in_place=True, rename={"v": "w"}, progress=replace))
    assert contents(OUT) == (tmp_path / "base.sbs").read_bytes()
    refused("needs-path", lambda: blobstore.rewrite(OUT, in_place=True, index="external"))


def _fail(*_: object) -> None:
    raise OSError(28, "no more")


def refused(reason: str, call: Callable[[], object]) -> str:
    with pytest.raises(blobstore.BlobStoreError) as refusal:
        call()
    assert refusal.value.reason == reason
    return str(refusal.value)


def test_outputs_elsewhere_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = model(tmp_path)
    folder = write_named(tmp_path / "ck")
    put(CHECKPOINT, folder)
    refused("needs-seek", lambda: blobstore.convert(folder, OUT, container=1))
    refused("needs-path", lambda: blobstore.convert(folder, OUT, index="external"))
    refused("needs-path", lambda: blobstore.export(file, "memory://out/"))
    refused("needs-path", lambda: blobstore.export(file, "memory://out/a.safetensors", max_shard_size=5000))
    refused("not-a-file", lambda: blobstore.convert(folder, "memory://out/"))
    refused("unknown-scheme", lambda: blobstore.convert(folder, "nowhere://out/made.sbs"))
    shard = f"{CHECKPOINT}/model-00001-of-00002.safetensors"
    refused("same-file", lambda: blobstore.convert(CHECKPOINT, shard))
    refused("same-file", lambda: blobstore.convert(CHECKPOINT, f"{CHECKPOINT}/README.md"))
    blobstore.convert(CHECKPOINT, f"{CHECKPOINT}/made.sbs")  # a result of ours may lie there
    blobstore.convert(CHECKPOINT, f"{CHECKPOINT}/made.sbs")
    fsspec.filesystem("memory").pipe_file("/out/raw.sbs.idx", b"SBSINDEX")

    def raw() -> None:
        with blobstore.BlobWriter("memory://out/raw.sbs") as writer:
            writer["a"] = b"four"

    refused("index-beside", raw)
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    assert "pip install" in refused("needs-remote", lambda: blobstore.convert(CHECKPOINT, tmp_path / "made.sbs"))


def test_checkpoints_elsewhere_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="models/none"):
        blobstore.convert("counted://models/none", tmp_path / "made.sbs")
    refused("no-listing", lambda: blobstore.convert("https://127.0.0.1:1/folder/", tmp_path / "made.sbs"))
    put(CHECKPOINT, write_named(tmp_path / "ck"))
    refused(
        "one-shard", lambda: blobstore.convert(f"{CHECKPOINT}/model-00001-of-00002.safetensors", tmp_path / "made.sbs")
    )
    fsspec.filesystem("counted").rm("/models/ck/model-00002-of-00002.safetensors")
    refused("missing-shard", lambda: blobstore.convert(CHECKPOINT, tmp_path / "made.sbs"))
    assert not (tmp_path / "made.sbs").exists()


def test_a_checkpoint_that_is_replaced_meanwhile_gives_no_file(tmp_path: Path) -> None:
    folder = write_named(tmp_path / "ck")
    put(CHECKPOINT, folder)

    def replace(_: int) -> None:
        put(f"{CHECKPOINT}/model-00002-of-00002.safetensors", folder / "model-00001-of-00002.safetensors")

    refused("remote-changed", lambda: blobstore.convert(CHECKPOINT, tmp_path / "made.sbs", progress=replace))
    assert not (tmp_path / "made.sbs").exists()


def test_what_was_uploaded_can_be_undone_while_it_waits(tmp_path: Path) -> None:
    for target in (tmp_path / "here", "memory://out/there"):
        with ContainerWriter(target, undoable=True) as writer:
            writer.add("a", b"four")
            writer.add("b", bytes(5000))
            writer.undo_last()
            writer.add("c", bytes(3000))
    assert contents("memory://out/there") == (tmp_path / "here").read_bytes()
    with ContainerWriter("memory://out/plain") as writer:
        writer.add("a", bytes(100_000))
        refused("needs-seek", writer.undo_last)


def test_parts_grow_so_that_there_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_BLOCK_NBYTES", 10)
    monkeypatch.setattr(uploads, "_BLOCKS", 3)
    with Upload("memory://out/file") as upload:
        upload._stream.blocksize = 10
        for _ in range(12):
            upload.write(b"0123456789")
        assert upload._stream.blocksize == 40
    assert contents("memory://out/file") == b"0123456789" * 12


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:pass@host/a?sig=x#y", "https://…@host/a?…"),
        ("'s3://bucket/key' is", "'s3://bucket/key' is"),
        ("hf://org/name@main/file", "hf://org/name@main/file"),
        ("of https://t@h/a, https://h/b?c=d e", "of https://…@h/a, https://h/b?… e"),
        ("a@b?c", "a@b?c"),
        ("http://h/a b.sbs?sig=x", "http://h/a b.sbs?sig=…"),
        ("http://us er:pass wd@h/it's.sbs?sig=x", "http://…@h/it's.sbs?sig=…"),
        ("http://h/a?x='q'&sig=x", "http://h/a?…'q'&sig=…"),
    ],
)
def test_urls_are_shown_without_secrets(text: str, expected: str) -> None:
    assert without_secrets(text) == expected
    assert str(blobstore.UsageError("some", text)) == f"some: {expected}"
