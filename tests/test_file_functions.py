"""What the functions beside the commands share: paths in, a plain result out that is the command's JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import blobstore
from blobstore.cli import main
from blobstore.edit.reindex import attach_index, detach_index

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "model.layers.0.mlp.up_proj.weight"
BIG = 300_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(1).normal(0, 0.02, BIG).astype(ml_dtypes.bfloat16)
    blobstore.save_file({NAME: values, "b": np.arange(5)}, "m.sbs", {"license": "mit"})
    with blobstore.create("plain.sbs", digests=False, index="external") as store:
        store.add(NAME, values)
    blobstore.pack("m.sbs", "p.sbs")
    return tmp_path


Run = tuple[str, "Callable[..., Any]"]  # words of the command, and the function that it calls
RUNS: dict[str, Run] = {
    "rewrite": (
        "rewrite m.sbs -o o.sbs --drop b --set a=1 --unset license --sort",
        lambda **more: blobstore.rewrite(
            "m.sbs", "o.sbs", drop=["b"], set={"a": "1"}, unset="license", sort=True, **more
        ),
    ),
    "recover": ("recover m.sbs -o o.sbs", lambda **more: blobstore.recover("m.sbs", "o.sbs", **more)),
    "index build": (
        "index build plain.sbs --digests",
        lambda **more: blobstore.build_index("plain.sbs", digests=True, **more),
    ),
    "index detach": ("index detach m.sbs", lambda: detach_index("m.sbs")),
    "index attach": ("index attach plain.sbs", lambda: attach_index("plain.sbs")),
    "pack": (
        "pack m.sbs -o o.sbs --only *proj*",
        lambda **more: blobstore.pack("m.sbs", "o.sbs", only="*proj*", **more),
    ),
    "unpack": ("unpack p.sbs -o o.sbs", lambda **more: blobstore.unpack("p.sbs", "o.sbs", **more)),
    "diff": (
        "diff m.sbs plain.sbs --rtol 0.5 --all",
        lambda **more: blobstore.diff("m.sbs", "plain.sbs", rtol=0.5, all=True, **more),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_result_is_the_commands_json(
    name: str, folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    words, function = RUNS[name]
    before = tmp_path_factory.mktemp("before")
    shutil.copytree(folder, before, dirs_exist_ok=True)
    result = function()
    assert capsys.readouterr() == ("", "")
    assert (type(result).__name__ in blobstore.__all__, result.seconds > 0) == (True, True)
    for file in folder.iterdir():
        file.unlink()
    shutil.copytree(before, folder, dirs_exist_ok=True)
    main([*words.split(), "--json"])
    printed = json.loads(capsys.readouterr().out)
    expected = json.loads(json.dumps(dataclasses.asdict(result)))
    assert printed | {"seconds": 0} == expected | {"seconds": 0}
    if name != "diff":
        assert printed["nbytes"] == (folder / printed["output"]).stat().st_size
        assert printed["input"] == next(word for word in words.split() if word.endswith(".sbs"))


@pytest.mark.parametrize("name", [name for name in RUNS if name not in ("index attach", "index detach")])
def test_progress_comes_in_bytes(name: str) -> None:
    done: list[int] = []
    RUNS[name][1](progress=done.append)
    assert sum(done) >= 2 * BIG
    assert all(nbytes >= 0 for nbytes in done)


def test_a_stream_has_no_path() -> None:
    for function, file in ((blobstore.rewrite, "m.sbs"), (blobstore.recover, "m.sbs"), (blobstore.unpack, "p.sbs")):
        stream = io.BytesIO()
        result = function(file, stream)
        assert (result.output, result.nbytes) == (None, len(stream.getvalue()))


def test_rewrite_says_where_to() -> None:
    for options, reason in (({}, "no-output"), ({"output": "o.sbs", "in_place": True}, "two-ways")):
        with pytest.raises(blobstore.UsageError) as caught:
            blobstore.rewrite("m.sbs", **options)  # type: ignore[arg-type]
        assert caught.value.reason == reason
    assert blobstore.rewrite("m.sbs", in_place=True, drop="b").dropped == ("b",)
    assert list(blobstore.open("m.sbs")) == [NAME]


def test_metadata_of_our_own_is_not_for_users() -> None:
    with pytest.raises(blobstore.UsageError, match="reserved-key") as caught:
        blobstore.rewrite("m.sbs", "o.sbs", set={"blobstore.convert": "{}"})
    assert "'blobstore.'" in caught.value.message
    assert main(["rewrite", "m.sbs", "-o", "o.sbs", "--set", "blobstore.packed={}"]) == 2


def test_an_index_for_recover_is_used_or_refused(folder: Path) -> None:
    shutil.move("plain.sbs.idx", "kept.idx")
    assert blobstore.recover("plain.sbs", "o.sbs", index="kept.idx").names == 1
    with pytest.raises(blobstore.UsageError, match="needless-flag"):
        blobstore.recover("m.sbs", "o.sbs", index="kept.idx")
    (folder / "rubbish.idx").write_bytes(b"no index")
    with pytest.raises(blobstore.FormatError, match="index-stale") as caught:
        blobstore.recover("plain.sbs", "o.sbs", index="rubbish.idx")
    assert caught.value.path == "rubbish.idx"
    shutil.copy("rubbish.idx", "plain.sbs.idx")
    (line,) = blobstore.recover("plain.sbs", "o.sbs").notes
    assert line == "the index beside it, 'plain.sbs.idx', is not used: it is invalid or belongs to another file"


def test_a_needless_base_is_refused_by_the_functions() -> None:
    for refused in (
        lambda: blobstore.unpack("p.sbs", "o.sbs", base="m.sbs"),
        lambda: blobstore.diff("p.sbs", "m.sbs", base="m.sbs"),
    ):
        with pytest.raises(blobstore.UsageError, match="needless-base"):
            refused()


def test_a_difference_remembers_what_its_base_was_called(folder: Path) -> None:
    (folder / "models").mkdir()
    shutil.copy("m.sbs", folder / "models" / "base.sbs")
    blobstore.pack("m.sbs", "d.sbs", base=folder / "models" / "base.sbs")
    store = blobstore.open("d.sbs")
    assert store.metadata["blobstore.base_name"] == "base.sbs"
    with pytest.raises(blobstore.UsageError, match=r"needs-base: .*\(it was packed against 'base.sbs'\)"):
        _ = store[NAME]
    blobstore.save_file({NAME: np.zeros(BIG, ml_dtypes.bfloat16)}, "other.sbs")
    with pytest.raises(blobstore.UsageError, match=r"wrong-base: .*\(it was packed against 'base.sbs'\)"):
        blobstore.unpack("d.sbs", "o.sbs", base="other.sbs")


def test_a_store_whose_index_is_lost_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move("plain.sbs", "moved.sbs")
    with pytest.raises(blobstore.NameNotFoundError) as caught:
        _ = blobstore.open("moved.sbs")[NAME]
    assert "its name index is lost" in caught.value.message
    assert "put 'moved.sbs.idx' back" in caught.value.message
    for other in (Path("moved.sbs").read_bytes(), io.BytesIO(Path("moved.sbs").read_bytes())):
        with pytest.raises(blobstore.NameNotFoundError, match=r"is lost: .* open the file by its path"):
            _ = blobstore.open(other)[NAME]
    rewrites = ("rewrite -o s.sbs", "rewrite -o r.sbs --index embedded")
    commands = ("info", "ls", "export --dry-run", *rewrites, "pack -o p.sbs")
    for command in commands:
        name, *options = command.split()
        assert main([name, "moved.sbs", *options]) == 0
        assert "note: its name index is lost" in capsys.readouterr().err, command
    assert main(["diff", "moved.sbs", "m.sbs"]) == 1
    assert capsys.readouterr().err.count("note: its name index is lost") == 1
    for found in (blobstore.check("moved.sbs").findings, blobstore.verify("moved.sbs").findings):
        assert [one.subject for one in found if one.code == "index-lost"] == ["moved.sbs"]
    shutil.copy("moved.sbs", "again.sbs")
    assert ["its name index is lost" in note for note in blobstore.build_index("again.sbs").notes] == [True]
    shutil.move("plain.sbs.idx", "moved.sbs.idx")
    assert main(["ls", "moved.sbs"]) == 0
    assert capsys.readouterr().err == ""
    with blobstore.BlobWriter("keys.sbs") as writer:
        writer.add("~short", b"1")
    assert main(["ls", "keys.sbs"]) == 0
    assert capsys.readouterr().err == ""


def test_digests_are_made_on_the_way(folder: Path) -> None:
    """Embedding an index with digests reads each blob once."""
    done: list[int] = []
    result = blobstore.build_index("plain.sbs", embed=True, digests=True, progress=done.append)
    assert (result.output, sum(done)) == ("plain.sbs", 2 * BIG)
    assert not (folder / "plain.sbs.idx").exists()
    index = blobstore.open("plain.sbs").index
    assert index is not None
    assert index.has_digests
