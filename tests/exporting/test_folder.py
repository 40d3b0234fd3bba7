"""A checkpoint's other files: carried by a file by name, and written back by an export into a folder."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from blobstore import cli
from blobstore.checkpoint.carried import MODULE_WEIGHTS
from blobstore.checkpoint.file_names import is_model_file
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.told import LeftOut
from blobstore.converting.plan import plan_by_name
from blobstore.errors import BlobStoreError
from tests.checkpoints import EMBEDDING, HEAD, SINGLE, needs_pipes, snapshot, write_peer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = b'{"model_type": "llama",\r\n "tie_word_embeddings": false}  '  # nobody may tidy it up
FILES = {
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "added_tokens.json": b"{}",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
    "chat_template.jinja": b"{{ messages }}",
    "config.json": b'{"model_type": "llama", "tie_word_embeddings": true}\r\n',
    "generation_config.json": b'{"eos_token_id": 2}',
    "merges.txt": b"a b\n",
    "modules.json": b"[]",
    "tokenizer.json": b'{"version": "1.0"}' * 500,
    "tokenizer.model": bytes(range(256)),
    "tokenizer_config.json": b'{"chat_template": "x"}',
    "vocab.json": b"{}",
}
OTHERS = {
    "README.md": b"# a",
    "LICENSE": b"free",
    "training_args.bin": b"x",
    ".gitattributes": b"*",
    "modeling.py": b"0",
}
NORM = "model.norm.weight"


def tensors() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {EMBEDDING: np.arange(12, dtype=np.float32).reshape(4, 3), NORM: np.ones(3, dtype=np.float32)}


def folder_of(path: Path, files: Mapping[str, bytes] = FILES, *, metadata: dict[str, str] | None = None) -> Path:
    path.mkdir()
    write_peer(path / SINGLE, tensors(), {"format": "pt"} if metadata is None else metadata)
    for name, data in {**files, **OTHERS}.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(data)
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(reason: str) -> pytest.RaisesExc[BlobStoreError]:
    return pytest.RaisesExc(BlobStoreError, check=lambda error: error.reason == reason)


@pytest.mark.parametrize("index", ["embedded", "external"])
def test_what_is_carried_comes_back_byte_for_byte(tmp_path: Path, index: blobstore.IndexPlace) -> None:
    source = folder_of(tmp_path / "c")
    done = blobstore.convert(source, tmp_path / "a.sbs", index=index)
    assert done.carried == tuple(FILES)
    assert f"carries {', '.join(FILES)}" in done.notes
    assert blobstore.preview_conversion(source).carried == done.carried
    assert blobstore.verify(tmp_path / "a.sbs", against=source, receipt=tmp_path / "r.json").ok
    digests = {fact["file"]: fact["sha256"] for fact in json.loads((tmp_path / "r.json").read_bytes())["source"]}
    assert digests["tokenizer.json"] == hashlib.sha256(FILES["tokenizer.json"]).hexdigest()
    assert not blobstore.diff(tmp_path / "a.sbs", source).differ
    back = blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/back/")
    assert back.files == (f"{tmp_path}/back/{SINGLE}",)
    assert sorted(os.path.relpath(path, tmp_path / "back") for path in back.carried) == sorted(FILES)
    assert files_in(tmp_path / "back") == {**FILES, SINGLE: (source / SINGLE).read_bytes()}


def test_a_single_file_has_the_files_beside_it(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "c")
    assert blobstore.convert(source / SINGLE, tmp_path / "a.sbs").carried == tuple(FILES)
    for name in ("tokenizer.model", "merges.txt"):
        with refused("same-file"):
            blobstore.convert(source / SINGLE, source / name)


def test_no_files_leaves_them_out_and_says_so(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "c", {"config.json": CONFIG})
    done = blobstore.convert(source, tmp_path / "a.sbs", files=False)
    assert done.carried == ()
    assert LeftOut("config.json", "file", "--no-files") in done.left_out
    assert [text for text in done.notes if "config.json" in text and "--no-files" in text]
    checked = blobstore.verify(tmp_path / "a.sbs", against=source)
    assert checked.ok
    assert "it carries no files of the model: config.json of the source are not compared" in checked.notes
    assert blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/b/").notes[-1].startswith("it carries no config.json")


def test_what_can_not_be_carried_is_told(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "c", {"config.json": b"{}", "merges.txt": b"", "2_Dense/config.json": b"{}"})
    (source / "2_Dense" / SINGLE).write_bytes(b"x")
    done = blobstore.convert(source, tmp_path / "a.sbs")
    assert done.carried == ("2_Dense/config.json", "config.json")
    assert LeftOut(f"2_Dense/{SINGLE}", "file", MODULE_WEIGHTS) in done.left_out
    assert LeftOut("merges.txt", "file", "it is empty") in done.left_out
    (source / "tokenizer.json").write_bytes(b"{" + bytes(200))
    with open_checkpoint(source, max_json_nbytes=100) as checkpoint:
        plan = plan_by_name(checkpoint)
    assert LeftOut("tokenizer.json", "file", "it has more than 100 bytes") in plan.left_out


def test_in_a_folder_with_such_files_the_others_are_told(tmp_path: Path) -> None:
    templates = ("tools.jinja", "Tools.jinja", "\u00e9.jinja", "notes.txt")
    names = ["1_Pooling/config.json", *(f"additional_chat_templates/{name}" for name in templates)]
    source = folder_of(tmp_path / "c", dict.fromkeys(names, b"x"))
    (source / "1_Pooling" / "more").mkdir()
    if len(os.listdir(source / "additional_chat_templates")) < len(templates):
        pytest.skip("upper and lower case are one")
    done = blobstore.convert(source, tmp_path / "a.sbs")
    assert done.carried == ("1_Pooling/config.json", "additional_chat_templates/Tools.jinja")
    left_out = {item.name: item.why for item in done.left_out if "/" in item.name}
    assert [*left_out] == ["1_Pooling/more/", *(f"additional_chat_templates/{templates[at]}" for at in (3, 2, 0))]
    assert "the same file as additional_chat_templates/Tools.jinja" in left_out["additional_chat_templates/tools.jinja"]
    assert blobstore.verify(tmp_path / "a.sbs", against=source).ok


@needs_pipes
def test_a_pipe_among_the_files_is_refused_not_waited_for(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "c", {})
    os.mkfifo(source / "tokenizer.json")
    with refused("not-a-file"):
        blobstore.convert(source, tmp_path / "a.sbs")
    assert not (tmp_path / "a.sbs").exists()


def test_verifying_against_a_source_compares_them(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "c")
    blobstore.convert(source, tmp_path / "a.sbs")
    (source / "config.json").write_bytes(FILES["config.json"].replace(b"llama", b"qwen2"))
    (source / "vocab.json").unlink()
    (source / "vocab.txt").write_bytes(b"a\n")
    faults = {fault.name: fault.fault for fault in blobstore.verify(tmp_path / "a.sbs", against=source).faults}
    assert faults.pop("config.json").startswith("byte 16 differs, at offset ")
    assert faults == {"vocab.json": "the source has no such file", "vocab.txt": "it is missing"}
    found = blobstore.diff(tmp_path / "a.sbs", source)
    assert [(entry.kind, entry.name, entry.differs, entry.detail) for entry in found.entries] == [
        ("file", "config.json", True, "byte 16 differs"),
        ("file", "vocab.json", False, "only in the first"),
    ]
    assert found.differ
    blobstore.convert(source, tmp_path / "b.sbs")
    assert blobstore.diff(tmp_path / "a.sbs", tmp_path / "b.sbs").counts["file"] == 3
    assert not blobstore.diff(source, folder_of(tmp_path / "d")).differ  # two checkpoints: their tensors only


def test_rewriting_and_packing_in_between_keep_them(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "c")
    blobstore.convert(source, tmp_path / "a.sbs")
    blobstore.rewrite(tmp_path / "a.sbs", tmp_path / "b.sbs", rename={NORM: "norm"}, drop="vocab.json", sort=True)
    blobstore.pack(tmp_path / "b.sbs", tmp_path / "p.sbs")
    blobstore.export(tmp_path / "p.sbs", f"{tmp_path}/from-packed/")
    blobstore.unpack(tmp_path / "p.sbs", tmp_path / "u.sbs")
    blobstore.export(tmp_path / "u.sbs", f"{tmp_path}/from-unpacked/", max_shard_size=1)
    left = {name: data for name, data in FILES.items() if name != "vocab.json"}
    for folder in ("from-packed", "from-unpacked"):
        found = files_in(tmp_path / folder)
        assert {name: data for name, data in found.items() if "model-" not in name and "model.s" not in name} == left
    assert (tmp_path / "from-unpacked" / f"{SINGLE}.index.json").exists()


def test_what_lies_in_the_folder_is_replaced_only_by_force(tmp_path: Path) -> None:
    blobstore.convert(folder_of(tmp_path / "c"), tmp_path / "a.sbs")
    target = tmp_path / "t"
    (target / "1_Pooling").mkdir(parents=True)
    (target / "1_Pooling" / "config.json").write_bytes(b"another")
    (target / "vocab.json").write_bytes(FILES["vocab.json"])
    before = snapshot(target)
    with refused("would-replace") as caught:
        blobstore.export(tmp_path / "a.sbs", target)
    assert str(caught.value).count("'") == 2  # the same vocab.json is in nobody's way
    assert snapshot(target) == before
    preview = blobstore.preview_export(tmp_path / "a.sbs", target)
    assert preview.carried == tuple(FILES)
    assert preview.notes[-1].endswith("1_Pooling/config.json' would be replaced: --force replaces such files")
    blobstore.export(tmp_path / "a.sbs", target, force=True)
    assert files_in(target)["1_Pooling/config.json"] == FILES["1_Pooling/config.json"]
    with refused("would-replace"):
        blobstore.export(tmp_path / "a.sbs", target)
    (target / SINGLE).unlink()
    blobstore.export(tmp_path / "a.sbs", target)
    with refused("superseded"):
        blobstore.export(tmp_path / "a.sbs", target, max_shard_size=1)
    blobstore.export(tmp_path / "a.sbs", target, max_shard_size=1, force=True)
    assert not (target / SINGLE).exists()


def test_after_an_error_no_folder_is_left(tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "a.sbs") as store:
        store.add_stored("w", [b"\x80" * 4], "sfp", (4,))  # a code that has no value
        store.add_file("1_Pooling/config.json", b"{}")
    before = snapshot(tmp_path)
    with pytest.raises(BlobStoreError):
        blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/new/", dtype="f32")
    assert snapshot(tmp_path) == before
    with pytest.raises(FileNotFoundError):
        blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/one/two/")


def test_only_files_of_models_are_written(tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "a.sbs") as store:
        store["w"] = np.ones(2)
        for name in ("config.json", "setup.py", "model.safetensors.index.json", "adapter_config.json", "2_A/run.py"):
            store.add_file(name, b"{}")
    done = blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/b/")
    assert sorted(files_in(tmp_path / "b")) == ["config.json", SINGLE]
    left = "2_A/run.py, adapter_config.json, model.safetensors.index.json, setup.py"
    fix = "blobstore get FILE 2_A/run.py -o run.py"
    assert done.notes == (f"{left} are left out, as no loader of models reads them: {fix}",)


@pytest.mark.parametrize("what", ["folder-above", "absolute", "nul", "device", "gone"])
def test_a_hostile_list_writes_nothing(vectors: Path, tmp_path: Path, what: str) -> None:
    path = vectors / "verify" / f"files-{what}.sbs"
    with refused("files-missing" if what == "gone" else "files-list"):
        blobstore.export(path, f"{tmp_path}/b/")
    assert not list(tmp_path.iterdir())
    assert blobstore.export(path, tmp_path / "b.safetensors").tensors  # which are not affected


@pytest.mark.parametrize("tied", [True, False, None])
def test_a_head_that_config_json_does_not_tie_is_written(tmp_path: Path, tied: bool | None) -> None:
    source = tmp_path / "c"
    source.mkdir()
    write_peer(source / SINGLE, tensors() | {HEAD: tensors()[EMBEDDING]})
    config = {"model_type": "llama"} | ({} if tied is None else {"tie_word_embeddings": tied})
    (source / "config.json").write_text(json.dumps(config))
    blobstore.convert(source, tmp_path / "a.sbs")
    done = blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/b/")
    assert done.left_out == ({HEAD: EMBEDDING} if tied else {})
    assert done.tensors == 3 - bool(tied)
    assert blobstore.export(tmp_path / "a.sbs", tmp_path / "one.safetensors").left_out == {HEAD: EMBEDDING}


def test_beside_one_file_they_are_not_written_and_this_is_told(tmp_path: Path) -> None:
    blobstore.convert(folder_of(tmp_path / "c", {"config.json": CONFIG}), tmp_path / "a.sbs")
    done = blobstore.export(tmp_path / "a.sbs", tmp_path / "b.safetensors")
    assert done.notes == ("the file carries config.json: -o FOLDER/ writes them too",)
    assert done.carried == ()
    done = blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/d/", by="keys")
    assert done.notes == ("the file carries config.json: they don't go with the runtime's names",)
    with refused("would-replace"):
        blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/d/", by="keys")


def test_tensors_without_a_format_get_one_for_loaders_that_ask_for_it(tmp_path: Path) -> None:
    blobstore.convert(folder_of(tmp_path / "c", {"config.json": b"{}"}, metadata={}), tmp_path / "a.sbs")
    blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/b/")
    header = (tmp_path / "b" / SINGLE).read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"] == {"format": "pt"}


def test_config_json_is_not_tidied_up(tmp_path: Path) -> None:
    blobstore.convert(folder_of(tmp_path / "c", {"config.json": CONFIG}), tmp_path / "a.sbs")
    blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/b/")
    assert (tmp_path / "b" / "config.json").read_bytes() == CONFIG


def test_commands_show_and_write_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = folder_of(tmp_path / "c")
    path = str(tmp_path / "a.sbs")
    assert cli.main(["convert", str(source), "-o", path, "--quiet"]) == 0
    assert cli.main(["get", path, "tokenizer.json", "-o", str(tmp_path / "t.json")]) == 0
    assert (tmp_path / "t.json").read_bytes() == FILES["tokenizer.json"]
    assert cli.main(["get", path, "vocab.json", "-o", str(tmp_path / "v.npy")]) == 2
    assert cli.main(["get", path, "vocab.json", "-o", str(tmp_path / "v"), "--base", path]) == 2
    capfd.readouterr()
    assert cli.main(["info", path]) == 0
    assert "tokenizer.model (256 bytes)" in capfd.readouterr().out
    assert cli.main(["info", path, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["carried"] == {name: len(data) for name, data in FILES.items()}
    assert cli.main(["ls", path, "--json"]) == 0
    assert {entry["name"] for entry in json.loads(capfd.readouterr().out)} == {EMBEDDING, HEAD, NORM}
    assert cli.main(["export", path, "-o", f"{tmp_path}/b/"]) == 0
    assert "tokenizer_config.json" in capfd.readouterr().out


@pytest.mark.parametrize(
    "name", [*FILES, "spiece.model", "vocab.txt", "preprocessor_config.json", "12_Normalize/config.json"]
)
def test_files_of_models(name: str) -> None:
    assert is_model_file(name)


@pytest.mark.parametrize(
    "name", [*OTHERS, SINGLE, "a/config.json", "1_Pooling/a.json", "../config.json", "CONFIG.JSON"]
)
def test_other_files(name: str) -> None:
    assert not is_model_file(name)
