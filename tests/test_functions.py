"""The functions behind the commands: their results are the commands' JSON, whatever they are given."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import pickle
import shutil
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import blobstore
from blobstore import CheckpointError, UsageError, cli
from blobstore.edit.rewrite import Edits, apply_edits
from tests.adapters import LAYER, factors_of, write_adapter
from tests.checkpoints import LFS_POINTER
from tests.gemma_checkpoints import sound_recipe
from tests.strategies import BytesPath

if TYPE_CHECKING:
    from collections.abc import Callable

    Result = Any

NOT_EQUAL = ("seconds",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    recipe = sound_recipe("gemma3")
    recipe.write(folder / "ck")
    blobstore.convert(folder / "ck", folder / "model.sbs", weights="bf16")
    write_adapter(folder / "lora", factors_of(recipe, LAYER))
    blobstore.convert(folder / "ck", folder / "tuned.sbs", adapters=folder / "lora")
    save_file({"a": np.ones((2, 3), np.float32)}, folder / "named.safetensors", {"format": "pt"})
    blobstore.convert(folder / "named.safetensors", folder / "named.sbs")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool)


PAIRS: dict[str, Callable[[], Result]] = {
    "convert ck -o OUT --weights bf16": lambda: blobstore.convert("ck", "OUT", weights="bf16"),
    "convert ck -o OUT --as names --index external": lambda: blobstore.convert(
        "ck", "OUT", as_="names", index="external"
    ),
    "convert ck --dry-run --as names --max-shard-size 20kB": lambda: blobstore.preview_conversion(
        "ck", as_="names", max_shard_size=20000
    ),
    "convert ck -o OUT --as names --max-shard-size 1TB --resume": lambda: blobstore.convert(
        "ck", "OUT", as_="names", max_shard_size="1TB", resume=True
    ),
    "convert ck --dry-run --layout stock": lambda: blobstore.preview_conversion("ck", layout="stock"),
    "convert ck -o OUT --adapter lora --adapter lora": lambda: blobstore.convert(
        "ck", "OUT", adapters=["lora", "lora"]
    ),
    "convert ck --dry-run --adapter lora": lambda: blobstore.preview_conversion("ck", adapters="lora"),
    "export model.sbs -o OUT --adapter lora": lambda: blobstore.export("model.sbs", "OUT", adapters="lora"),
    "export model.sbs --dry-run --adapter lora": lambda: blobstore.preview_export("model.sbs", adapters="lora"),
    "check ck --adapter lora": lambda: blobstore.check("ck", adapters="lora"),
    "verify tuned.sbs --against ck --adapter lora": lambda: blobstore.verify(
        "tuned.sbs", against="ck", adapters=Path("lora")
    ),
    "export model.sbs -o OUT --materialize-aliases": lambda: blobstore.export(
        "model.sbs", "OUT", materialize_aliases=True
    ),
    "export model.sbs -o OUT --max-shard-size 20kB": lambda: blobstore.export("model.sbs", "OUT", max_shard_size=20000),
    "export model.sbs --dry-run --by keys": lambda: blobstore.preview_export("model.sbs", by="keys"),
    "check model.sbs --for gemma.cpp": lambda: blobstore.check("model.sbs", for_="gemma.cpp"),
    "check ck --weights bf16 --strict": lambda: blobstore.check("ck", weights="bf16", strict=True),
    "verify model.sbs --values": lambda: blobstore.verify("model.sbs", values=True),
    "verify model.sbs --against ck": lambda: blobstore.verify("model.sbs", against="ck"),
    "report model.sbs -o OUT": lambda: blobstore.report("model.sbs", output="OUT"),
    "report model.sbs ck -o OUT --sample": lambda: blobstore.report("model.sbs", "ck", output="OUT", sample=True),
    "repair model.sbs --dry-run": lambda: blobstore.repair("model.sbs", dry_run=True),
    "repair model.sbs -o OUT": lambda: blobstore.repair("model.sbs", "OUT"),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", PAIRS)
def test_a_result_is_the_json_of_its_command(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = PAIRS[words]()
    assert capsys.readouterr() == ("", "")
    assert is_dataclass(done)
    assert type(done).__name__ in blobstore.__all__
    values = asdict(done)  # type: ignore[arg-type]
    assert plain(values)
    assert cli.main([*words.split(), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = json.loads(json.dumps(values))
    for name in NOT_EQUAL:
        assert (name in printed) == (name in expected)
        printed.pop(name, None)
        expected.pop(name, None)
    if "removed" in printed:  # what the function wrote before
        assert not set(printed.pop("removed")) | set(expected.pop("removed")) - {"OUT"}
    assert printed == expected
    assert printed["input"] == words.split()[1]
    output = printed.get("output")
    if output is not None and "--max" not in words:
        assert printed["nbytes"] == os.stat(output).st_size


@pytest.mark.usefixtures("here")
def test_a_stream_takes_an_output_and_progress_adds_up() -> None:
    steps: list[int] = []
    stream = io.BytesIO()
    done = blobstore.convert("named.safetensors", stream, progress=steps.append)
    assert (done.output, sum(steps)) == (None, 24)
    assert stream.getvalue() == Path("named.sbs").read_bytes()
    stream, receipt = io.BytesIO(), io.BytesIO()
    assert blobstore.export("named.sbs", stream).files == ()
    assert stream.getvalue()
    assert blobstore.verify("model.sbs", against="ck", receipt=receipt).ok
    assert json.loads(receipt.getvalue())["blobstore"] == blobstore.__version__
    assert blobstore.repair("model.sbs", io.BytesIO()).output is None


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "call",
    [
        lambda: blobstore.convert("ck", "o.sbs", weights="q4"),
        lambda: blobstore.convert("ck", "o.sbs", as_="both"),  # type: ignore[arg-type]
        lambda: blobstore.convert("ck", "o.sbs", index="none"),
        lambda: blobstore.export("named.sbs", "o", dtype="f8"),
        lambda: blobstore.check("named.sbs", for_="gguf"),  # type: ignore[arg-type]
        lambda: blobstore.check("ck", weights="q4"),
    ],
)
def test_an_unknown_choice_is_refused_with_those_there_are(call: Callable[[], Result]) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.reason == "bad-choice"
    assert "is not one of" in caught.value.message
    assert not os.path.exists("o.sbs")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: blobstore.rewrite("named.sbs", "o.sbs", index="nowhere"), "bad-index"),  # type: ignore[arg-type]
        (lambda: blobstore.diff("named.sbs", "named.sbs", by="key"), "bad-by"),  # type: ignore[arg-type]
    ],
)
def test_a_misspelt_word_is_refused(call: Callable[[], Result], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.reason == reason
    assert not os.path.exists("o.sbs")


WITH_PATHS: list[Callable[..., Result]] = [
    lambda path: blobstore.convert(path("ck"), path("new"), weights="bf16", tokenizer=path("ck/tokenizer.model")),
    lambda path: blobstore.preview_conversion(path("ck"), tokenizer=path("ck/tokenizer.model")),
    lambda path: blobstore.export(path("named.sbs"), path("new")),
    lambda path: blobstore.preview_export(path("named.sbs"), path("new")),
    lambda path: blobstore.check(path("model.sbs")),
    lambda path: blobstore.check(path("ck")),
    lambda path: blobstore.verify(path("named.sbs")),
    lambda path: blobstore.verify(path("model.sbs"), against=path("ck"), receipt=path("new")),
    lambda path: blobstore.repair(path("model.sbs"), path("new")),
    lambda path: blobstore.diff(path("model.sbs"), path("ck")),
    lambda path: blobstore.report(path("named.sbs"), path("ck"), output=path("new")),
    lambda path: blobstore.rewrite(path("named.sbs"), path("new")),
    lambda path: blobstore.recover(path("named.sbs"), path("new")),
    lambda path: blobstore.build_index(path("model.sbs"), force=True),
    lambda path: blobstore.pack(path("model.sbs"), path("new")),
    lambda path: blobstore.unpack(path("packed.sbs"), path("new")),
]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("place", range(len(WITH_PATHS)))
def test_paths_may_be_bytes_and_are_told_as_text(place: int) -> None:
    blobstore.pack("model.sbs", "packed.sbs")
    for kind in (str, Path, os.fsencode, lambda text: BytesPath(Path(text))):
        done = asdict(WITH_PATHS[place](kind))
        assert plain(done)
        assert done.get("output") in (None, "new", "model.sbs", "model.sbs.idx")
        for wrong in (None, 3, io.StringIO(), "a\0b"):
            with pytest.raises(UsageError) as caught:
                WITH_PATHS[place](lambda _, wrong=wrong: wrong)
            assert caught.value.reason in ("bad-file", "not-a-file", "bad-target")


# ------------------------------------------------------------------------------------------------------- what is told


@pytest.mark.usefixtures("here")
def test_a_container_by_name_is_not_said_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("named.sbs", "model.sbs", "named.safetensors"):
        done = blobstore.check(path, for_="any")
        assert (done.runs_in, done.runs) == (None, "")
        assert cli.main(["check", path, "--for", "any"]) == 0
        assert "runs" not in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_of_a_checkpoint_it_is_the_converted_file_that_runs() -> None:
    assert blobstore.check("ck").runs.startswith("the file that convert makes of it runs correctly in gemma.cpp")
    assert blobstore.check("model.sbs").runs.startswith("runs correctly in gemma.cpp")


def test_findings_are_sorted_by_severity(here: Path) -> None:
    shutil.copy(here / "model.sbs", here / "worse.sbs")
    assert cli.main(["rewrite", "worse.sbs", "--in-place", "--drop", "tokenizer", "--drop", "c_final_norm"]) == 0
    order = [finding.severity for finding in blobstore.check("worse.sbs").findings]
    assert {"error", "warning"} <= {*order}
    assert order == sorted(order, key=["error", "warning", "note"].index)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("source", ["named", "gemma"])
def test_metadata_that_looks_like_ours_is_left_out_and_told(source: str) -> None:
    path = "named.safetensors" if source == "named" else "ck/model.safetensors"
    metadata = {"blobstore.convert": "{}", "blobstore.packed": "x", "format": "pt"}
    save_file(load_file(path), path, metadata)
    preview = blobstore.preview_conversion(path)
    assert preview.metadata["format"] == "pt"
    assert {key for key in preview.metadata if key.startswith("blobstore.")} == (
        set() if source == "named" else {"blobstore.convert", "blobstore.rearranged"}
    )
    assert any("blobstore.convert, blobstore.packed" in text for text in preview.notes)
    blobstore.convert(path, "o.sbs")
    assert blobstore.verify("o.sbs", against=path).ok


def test_a_file_by_name_needs_no_tokenizer(here: Path) -> None:
    (here / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")  # tiktoken's
    done = blobstore.convert("named.safetensors", "o.sbs")
    assert blobstore.verify(done.output or "", against="named.safetensors").ok
    for call in (
        lambda: blobstore.verify("o.sbs", against="named.safetensors", tokenizer="ck/tokenizer.model"),
        lambda: blobstore.convert("named.safetensors", "p.sbs", tokenizer="ck/tokenizer.model"),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert (caught.value.reason, caught.value.message[:11]) == ("needless-flag", "--tokenizer")


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_tokenizer_config_is_told(here: Path, text: str) -> None:
    (here / "ck" / "tokenizer_config.json").write_bytes(text.encode("latin-1"))
    preview = blobstore.preview_conversion("ck")
    assert preview.wrapping == "pt"
    assert any("tokenizer_config.json" in note and "--wrapping it" in note for note in preview.notes)


def test_a_link_to_no_template_is_an_error(here: Path) -> None:
    (here / "ck" / "chat_template.jinja").symlink_to("nothing.jinja")
    with pytest.raises(FileNotFoundError):
        blobstore.preview_conversion("ck")


@pytest.mark.usefixtures("here")
def test_force_needs_a_file_and_a_dry_run_tells_what_would_stay(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError) as caught:
        blobstore.export("named.sbs", io.BytesIO(), force=True)
    assert caught.value.reason == "needless-force"
    blobstore.export("model.sbs", "e.safetensors", max_shard_size=20000)
    preview = blobstore.preview_export("named.sbs", "e.safetensors")
    assert preview.superseded[0] == "e.safetensors.index.json"
    assert cli.main(["export", "named.sbs", "-o", "e.safetensors", "--dry-run"]) == 0
    assert "e.safetensors.index.json" in capsys.readouterr().err
    assert blobstore.export("named.sbs", "e.safetensors", force=True).removed == preview.superseded


@pytest.mark.usefixtures("here")
def test_a_dry_run_of_a_repair_to_standard_output_tells_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["repair", "model.sbs", "--dry-run", "-o", "-"]) == 0
    told = capsys.readouterr()
    assert told.out == "model.sbs: nothing to repair, nothing written\n"
    assert told.err == "note: a dry run: standard output is not written\n"


# -------------------------------------------------------------------------------------------- files of other formats


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


FOREIGN = {
    "git lfs pull": LFS_POINTER,
    "web page": b"\n<!doctype html><html>",
    "npz": npz(),
    "zip": b"PK\3\4" + bytes(60),
    "GGUF": b"GGUF\3\0\0\0" + bytes(60),
    "gzip": gzip.compress(b"a" * 100),
    "pickle": pickle.dumps({"a": 1}),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(60),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_other_formats_are_recognised_wherever_they_are_given(here: Path, what: str) -> None:
    (here / "x.safetensors").write_bytes(FOREIGN[what])
    (here / "ck" / "tokenizer.model").write_bytes(FOREIGN[what])
    (here / "x.sbs").write_bytes(FOREIGN[what])
    with pytest.raises(CheckpointError) as source:
        blobstore.preview_conversion("x.safetensors")
    with pytest.raises(UsageError) as given:
        blobstore.preview_conversion("ck")
    with pytest.raises(blobstore.FormatError) as opened:
        blobstore.open("x.sbs")
    assert (source.value.reason, given.value.reason) == ("not-safetensors", "not-a-tokenizer")
    assert all(what in caught.value.message for caught in (source, given, opened))
    (here / "ck" / "config.json").write_bytes(FOREIGN[what])
    with pytest.raises(CheckpointError, match=what):
        blobstore.preview_conversion("ck")


def test_an_sbs_file_of_another_name_is_recognised(here: Path) -> None:
    os.replace(here / "named.sbs", here / "x.safetensors")
    with pytest.raises(CheckpointError, match="sbs file already"):
        blobstore.convert("x.safetensors", "o.sbs")


def test_a_header_that_begins_as_a_gzip_file_is_read(here: Path) -> None:
    values = np.ones(3, np.float32)
    length = 0x8B1F
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).ljust(length).encode()
    (here / "x.safetensors").write_bytes(length.to_bytes(8, "little") + header + values.tobytes())
    assert blobstore.convert("x.safetensors", "o.sbs").tensors == 1


class Slow(io.RawIOBase):
    """A raw stream, which takes half of what it is given."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:  # noqa: ANN401 (a buffer)
        part = bytes(data)[: len(data) // 2 or 1]
        self.taken += part
        return len(part)


@pytest.mark.usefixtures("here")
def test_a_receipt_is_whole_on_any_stream() -> None:
    stream: Any = Slow()
    assert blobstore.verify("model.sbs", against="ck", receipt=stream).ok
    assert json.loads(stream.taken)["verified"] is True


def test_what_a_file_is_decides_how_it_is_checked_whatever_its_name(here: Path) -> None:
    shutil.copy(here / "named.safetensors", here / "no-ending")
    assert [finding.code for finding in blobstore.check("no-ending").findings] == [
        finding.code for finding in blobstore.check("named.safetensors").findings
    ]


def test_no_index_is_not_a_way_past_its_digests(here: Path) -> None:
    with blobstore.BlobReader("named.sbs") as reader:
        offset, _ = reader.range("a")
    raw = bytearray((here / "named.sbs").read_bytes())
    raw[offset] ^= 1
    (here / "bad.sbs").write_bytes(raw)
    with pytest.raises(blobstore.FormatError, match="damaged-blob"):
        blobstore.rewrite("bad.sbs", "out.sbs", index="none")
    assert not (here / "out.sbs").exists()
    assert blobstore.rewrite("named.sbs", "out.sbs", index="none").names == 0


def test_a_repair_is_of_the_file_that_it_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file may take its place meanwhile: then nothing is written over it."""
    model = "model.sbs"
    with blobstore.open(model) as store:
        config = store.config
    assert config
    before = dataclasses.replace(config, use_global_timescale=False)
    apply_edits(model, None, Edits(config=before.to_bytes()))
    other = (here / "named.sbs").read_bytes()

    def replaced(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (as it is)
        (here / "new.sbs").write_bytes(other)
        os.replace(here / "new.sbs", model)
        return apply_edits(*arguments, **options)

    monkeypatch.setattr("blobstore.checking.repair.apply_edits", replaced)
    with pytest.raises(UsageError, match="replaced"):
        blobstore.repair(model)
    assert Path(model).read_bytes() == other
