"""Conversions into several files."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.container import layout
from blobstore.errors import CheckpointError, UsageError
from blobstore.fileio.atomic import AtomicFile
from blobstore.fileio.sink import Sink
from blobstore.gemma.runtimes import RUNTIMES
from blobstore.store.unfinished import note_path
from tests.checkpoints import write_peer, write_shards

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.fileio.types import Array

LIMIT = 131_072


def tensors(count: int = 9) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    named = {f"model.layers.{i}.weight": rng.integers(0, 99, (100, 130), np.int32) for i in range(count)}
    return named | {"model.embed_tokens.weight": rng.integers(0, 99, (7, 9), np.int32), "none": np.zeros((0, 3))}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    listed = list(tensors().items())
    write_shards(folder, [dict(listed[:5]), dict(listed[5:])])
    (folder / "config.json").write_text(json.dumps({"model_type": "any", "tie_word_embeddings": True}))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def converted(source: Path, folder: Path, **options: Any) -> blobstore.Conversion:  # noqa: ANN401 (of convert)
    folder.mkdir(exist_ok=True)
    return blobstore.convert(source, folder / "m.sbs", **({"max_shard_size": LIMIT} | options))


def test_a_set_has_what_one_file_has(source: Path, tmp_path: Path) -> None:
    done = converted(source, tmp_path / "set")
    blobstore.convert(source, tmp_path / "one.sbs")
    assert len(done.stores) > 2
    assert any(note.startswith(f"a set of {len(done.stores)} files") for note in done.notes)
    assert {os.path.basename(file) for file in [*done.stores, str(done.output)]} == set(files(tmp_path / "set"))
    with blobstore.open(tmp_path / "set" / "m.sbs") as of_set, blobstore.open(tmp_path / "one.sbs") as one:
        assert list(of_set) == list(one)
        for name in one:
            assert np.array_equal(of_set[name], one[name])
            assert of_set.info(name).key == one.info(name).key
        assert of_set.metadata == one.metadata
        assert dict(of_set.files) == dict(one.files)
        assert of_set.aliases == one.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    assert blobstore.verify(tmp_path / "set" / "m.sbs", against=source).ok
    assert blobstore.diff(tmp_path / "set" / "m.sbs", tmp_path / "one.sbs").differ is False


def test_no_file_is_larger_than_asked_for_but_for_one_tensor(source: Path, tmp_path: Path) -> None:
    done = converted(source, tmp_path / "set")
    assert max(os.stat(file).st_size for file in done.stores) <= LIMIT
    small = converted(source, tmp_path / "small", max_shard_size="1kB")
    assert len(small.stores) > len(done.stores)
    assert any("larger than --max-shard-size" in note for note in small.notes)
    for file in small.stores:
        with blobstore.open(file) as store:
            assert sum(info.nbytes > 0 for info in store.infos()) <= 2  # an alias may be one of them


def test_one_file_is_written_where_it_is_enough(source: Path, tmp_path: Path) -> None:
    done = converted(source, tmp_path / "set", max_shard_size="1GB")
    blobstore.convert(source, tmp_path / "m.sbs")
    assert done.stores == ()
    assert files(tmp_path / "set") == {"m.sbs": (tmp_path / "m.sbs").read_bytes()}


@given(st.integers(65_536, 400_000))
def test_the_files_are_a_function_of_plan_and_size(tmp_path_factory: pytest.TempPathFactory, limit: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "division"
    if not folder.exists():
        folder.mkdir()
        write_peer(folder / "model.safetensors", tensors(4))
    preview = blobstore.preview_conversion(folder, max_shard_size=limit)
    again = blobstore.preview_conversion(folder, max_shard_size=limit)
    assert preview.stores == again.stores
    assert sum(store.tensors for store in preview.stores) in (0, len(preview.tensors))


def test_the_runtimes_limit_makes_a_set(tmp_path: Path) -> None:
    oldest = min(runtime.max_blobs for runtime in RUNTIMES)
    write_peer(tmp_path / "model.safetensors", {f"t.{i}": np.zeros(1, np.uint8) for i in range(oldest)})
    done = blobstore.convert(tmp_path, tmp_path / "m.sbs", runtime="2025-10")
    assert len(done.stores) == 2
    for file in done.stores:
        with blobstore.BlobReader(file) as reader:
            assert len(reader) <= oldest
    assert blobstore.convert(tmp_path, tmp_path / "latest.sbs", runtime="latest").stores == ()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"container": 1}, "no-set"),
        ({"index": "external"}, "no-set"),
        ({"max_shard_size": "many"}, "bad-size"),
        ({"max_shard_size": None, "resume": True}, "needless-flag"),
        ({"resume": True, "digests": False}, "needs-digests"),
    ],
)
def test_what_can_not_be_a_set_is_refused(source: Path, tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        converted(source, tmp_path / "set", **options)
    assert caught.value.reason == reason
    assert files(tmp_path / "set") == {}


def test_too_many_tensors_for_a_file_that_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_peer(tmp_path / "model.safetensors", {f"t.{i}": np.zeros(1, np.uint8) for i in range(9)})
    monkeypatch.setattr("blobstore.converting.shards.MAX_BLOBS", 5)  # the real limit takes a gigabyte
    with pytest.raises(CheckpointError, match="too-many-tensors: 10 blobs, one file can hold 5"):
        blobstore.convert(tmp_path, tmp_path / "m.sbs", container=1)
    assert len(blobstore.convert(tmp_path, tmp_path / "m.sbs").stores) == 3


@pytest.mark.parametrize("limit", ["1TB", 10**6])
def test_what_fits_one_file_is_one_also_for_a_script_that_always_resumes(
    source: Path, tmp_path: Path, limit: int | str
) -> None:
    done = converted(source, tmp_path / "one", max_shard_size=limit, resume=True)
    assert (done.stores, done.kept) == ((), 0)
    assert "one file is enough for all tensors" in done.notes


@pytest.mark.parametrize("existing", ["m.sbs", "m-00002-of-00005.sbs"])
def test_files_of_a_set_are_not_overwritten(source: Path, tmp_path: Path, existing: str) -> None:
    done = converted(source, tmp_path / "set")
    assert len(done.stores) == 5
    for file in (tmp_path / "set").iterdir():
        if file.name != existing:
            file.unlink()
    before = files(tmp_path / "set")
    with pytest.raises(UsageError, match="set-exists"):
        converted(source, tmp_path / "set")
    assert files(tmp_path / "set") == before


def in_child(work: Callable[[], object]) -> int:
    """Do work in a process that may be killed; return how it ended."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def kill_at(call: int, *, method: str, after: bool, work: Callable[[], object]) -> bool:
    """Kill a process at a call of a method of files; False if there are fewer calls."""
    owner: Any = AtomicFile if method == "move" else Sink
    real, calls = getattr(owner, method), 0

    def counting(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (of the method)
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **options)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def patched() -> None:
        with patch.object(owner, method, counting):
            work()
        os._exit(0)

    status = in_child(patched)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize(("method", "after"), [("move", False), ("move", True), ("write", True)])
def test_a_killed_conversion_is_gone_on_with(source: Path, tmp_path: Path, method: str, after: bool) -> None:
    converted(source, tmp_path / "whole")
    whole = files(tmp_path / "whole")
    folder = tmp_path / "set"
    for call in range(1, 100, 1 if method == "move" else 4):
        folder.mkdir()
        killed = kill_at(call, method=method, after=after, work=lambda: converted(source, folder))
        left = {name: data for name, data in files(folder).items() if not name.startswith(".")}
        assert all(whole[name] == data for name, data in left.items())
        assert "m.sbs" not in left or left == whole
        if not killed:
            assert files(folder) == whole
            assert call > len(whole)
            break
        begun = os.path.exists(note_path(str(folder / "m.sbs")))
        if left:
            with pytest.raises(UsageError, match=r"set-exists: .*--resume" if begun else "set-exists"):
                converted(source, folder)
        if begun or "m.sbs" not in left:
            done = converted(source, folder, resume=True)
            assert done.kept == len(left.keys() - {"m.sbs"})
            assert {name: data for name, data in files(folder).items() if name.endswith(".sbs")} == whole
            assert not os.path.exists(note_path(str(folder / "m.sbs")))
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def half_done(source: Path, folder: Path) -> None:
    folder.mkdir()
    assert kill_at(4, method="move", after=False, work=lambda: converted(source, folder))
    assert len([file for file in folder.iterdir() if not file.name.startswith(".")]) == 2


def test_a_damaged_file_is_written_again(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "whole")
    half_done(source, tmp_path / "set")
    victim = tmp_path / "set" / "m-00001-of-00005.sbs"
    data = bytearray(victim.read_bytes())
    data[layout.BLOB_ALIGN] ^= 1
    victim.write_bytes(data)
    assert converted(source, tmp_path / "set", resume=True).kept == 1
    assert files(tmp_path / "set") == files(tmp_path / "whole")


@pytest.mark.parametrize("change", ["source", "source, but its time", "size", "note", "deep note"])
def test_another_conversion_is_not_gone_on_with(source: Path, tmp_path: Path, change: str) -> None:
    half_done(source, tmp_path / "set")
    options: dict[str, Any] = {"resume": True}
    if change.startswith("source"):
        file = next(source.glob("*.safetensors"))
        before_it = file.stat()
        file.write_bytes(file.read_bytes()[:-1] + b"\x07")
        os.utime(file, ns=(1, 1) if change == "source" else (before_it.st_atime_ns, before_it.st_mtime_ns))
    elif change == "size":
        options["max_shard_size"] = 2 * LIMIT
    else:
        Path(note_path(str(tmp_path / "set" / "m.sbs"))).write_text("{}" if change == "note" else "[" * 100_000)
    before = files(tmp_path / "set")
    with pytest.raises(UsageError, match=r"other-set: .*remove"):
        converted(source, tmp_path / "set", **options)
    left = files(tmp_path / "set")
    assert left == {name: data for name, data in before.items() if name in left}
    assert all(name.endswith(".lock") for name in before.keys() - left.keys())  # of the process that was killed


def test_resuming_what_was_not_begun_begins_it(source: Path, tmp_path: Path) -> None:
    assert converted(source, tmp_path / "set", resume=True).kept == 0
    converted(source, tmp_path / "whole")
    assert files(tmp_path / "set") == files(tmp_path / "whole")


def test_nothing_is_left_to_go_on_with(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "set")
    with pytest.raises(UsageError, match=r"set-exists: .*complete.*blobstore verify"):
        converted(source, tmp_path / "set", resume=True)


def test_one_file_does_not_replace_the_index_of_a_set(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "set")
    before = files(tmp_path / "set")
    with pytest.raises(UsageError, match=r"set-not-file: .*another output"):
        blobstore.convert(source, tmp_path / "set" / "m.sbs")
    assert files(tmp_path / "set") == before


def test_two_conversions_to_one_place_do_not_mix(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in source.iterdir():
        data = file.read_bytes()
        (other / file.name).write_bytes(data[:-1] + b"\x09" if file.suffix == ".safetensors" else data)
    wholes = []
    for number, one in enumerate((source, other)):
        converted(one, tmp_path / f"whole {number}")
        wholes.append(files(tmp_path / f"whole {number}"))
    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(converted, one, tmp_path / "set") for one in (source, other)]
    errors = [one.exception() for one in done]
    assert sorted(type(error).__name__ for error in errors) == ["NoneType", "UsageError"]
    assert files(tmp_path / "set") == wholes[errors.index(None)]
