"""What is sent to other machines, without Dask: an engine that sends everything through pickle, in another order."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import blobstore
from blobstore import cli, errors
from blobstore.checking.checkup import check_alone
from blobstore.checking.verification import verify_alone
from blobstore.conversion import convert_as
from blobstore.converting.request import Request
from blobstore.distributed.functions import set_path
from blobstore.errors import BlobStoreError, CheckpointError, ClusterError, Fault, FormatError, UsageError
from blobstore.fileio import threads
from blobstore.fileio.threads import at_most
from blobstore.packing.pack import pack_set
from tests.sets import save_set

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from blobstore.fileio.types import Progress
    from blobstore.fileio.work import Work

Opened = TypeVar("Opened")
Result = TypeVar("Result")

TENSORS = {f"layer.{i}.weight": np.random.default_rng(i).normal(size=(50 + i, 16)).astype(np.float32) for i in range(9)}
LIMIT = 9000


def elsewhere(work: Work[Opened, Result], numbers: Sequence[int], progress: Progress) -> Iterator[tuple[int, Result]]:
    """Do the last shard first, each with a copy of the work, and hand on a copy of its result."""
    for number in reversed(numbers):
        copy: Work[Opened, Result] = pickle.loads(pickle.dumps(work))  # noqa: S301 (our own)
        with copy.open() as opened:
            result = copy.do(opened, number, progress)
            result = pickle.loads(pickle.dumps(result))  # noqa: S301
        yield number, result


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "ck"
    folder.mkdir()
    save_file(TENSORS, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def request(checkpoint: Path, output: Path, **options: Any) -> Request:  # noqa: ANN401 (as they are)
    given: dict[str, Any] = {"weights": None, "layout": None, "wrapping": None, "runtime": None, "tokenizer": None}
    given |= {"adapters": (), "pad": True, "files": True, "max_shard_size": LIMIT, **options}
    return Request(source=str(checkpoint), output=str(output), kind="names", **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def alike(one: Any, other: Any) -> bool:  # noqa: ANN401 (two results)
    """Whether two results are the same but for the time they took."""
    return asdict(replace(one, seconds=0)) == asdict(replace(other, seconds=0))


def both(tmp_path: Path) -> tuple[Path, Path]:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


def test_a_set_made_elsewhere_has_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    here, there = both(tmp_path)
    done = blobstore.convert(checkpoint, here / "m.sbs", max_shard_size=LIMIT)
    nbytes: list[int] = []
    made = convert_as(
        request(checkpoint, there / "m.sbs"), strict=False, resume=False, engine=elsewhere, progress=nbytes.append
    )
    assert len(made.stores) > 2
    assert contents(here) == contents(there)
    assert sum(nbytes) == sum(array.nbytes for array in TENSORS.values())
    assert done.nbytes == made.nbytes


def test_what_was_begun_is_gone_on_with_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    here, there = both(tmp_path)
    blobstore.convert(checkpoint, here / "m.sbs", max_shard_size=LIMIT)

    def stops(work: Work[Opened, Result], numbers: Sequence[int], progress: Progress) -> Iterator[tuple[int, Result]]:
        yield from elsewhere(work, numbers[:2], progress)
        raise ClusterError("scheduler-lost", "the scheduler is gone")

    wanted = request(checkpoint, there / "m.sbs")
    with pytest.raises(ClusterError):
        convert_as(wanted, strict=False, resume=False, engine=stops)
    assert not (there / "m.sbs").exists()
    made = convert_as(wanted, strict=False, resume=True, engine=elsewhere)
    assert made.kept == 2
    assert contents(here) == contents(there)


def test_another_source_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    def sees_another(
        work: Work[Opened, Result], numbers: Sequence[int], progress: Progress
    ) -> Iterator[tuple[int, Result]]:
        save_file({**TENSORS, "more": np.zeros(3)}, checkpoint / "model.safetensors")
        yield from elsewhere(work, numbers, progress)

    with pytest.raises(ClusterError) as raised:
        convert_as(request(checkpoint, tmp_path / "m.sbs"), strict=False, resume=False, engine=sees_another)
    assert raised.value.reason == "other-source"
    assert not (tmp_path / "m.sbs").exists()


def test_one_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    wanted = request(checkpoint, tmp_path / "m.sbs", max_shard_size=None)
    with pytest.raises(UsageError) as raised:
        convert_as(wanted, strict=False, resume=False, engine=elsewhere)
    assert raised.value.reason == "not-a-set"
    assert not (tmp_path / "m.sbs").exists()
    blobstore.save_file(TENSORS, tmp_path / "m.sbs")
    with pytest.raises(UsageError) as raised:
        set_path(tmp_path / "m.sbs")
    assert raised.value.reason == "not-a-set"


def test_packing_elsewhere_makes_the_same_bytes(tmp_path: Path) -> None:
    here, there = both(tmp_path)
    save_set([{name: array} for name, array in TENSORS.items()], tmp_path / "m.sbs")
    done = blobstore.pack(tmp_path / "m.sbs", here / "p.sbs", level=3)
    only: tuple[str, ...] = ()
    made = pack_set(
        str(tmp_path / "m.sbs"), str(there / "p.sbs"), only=only, base=None, level=3, workers=1, engine=elsewhere
    )
    assert contents(here) == contents(there)
    assert [asdict(blob) for blob in made.blobs] == [asdict(blob) for blob in done.blobs]


def damage(stores: Sequence[Path], data: st.DataObject) -> None:
    """Do something to one of the files, or nothing."""
    path = data.draw(st.sampled_from(stores))
    how = data.draw(st.sampled_from(("nothing", "flip", "cut", "remove", "other")))
    raw = bytearray(path.read_bytes())
    if how == "flip":
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if how == "remove":
        path.unlink()
    else:
        path.write_bytes(stores[0].read_bytes() if how == "other" else raw[: len(raw) - 256 * (how == "cut")])


@given(st.data(), st.booleans(), st.booleans())
def test_findings_elsewhere_are_those_of_one_machine(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    values: bool,
    quick: bool,
) -> None:
    path = tmp_path_factory.mktemp("set") / "m.sbs"
    odd = TENSORS["layer.0.weight"].copy()
    odd[3, 4] = data.draw(st.sampled_from((0, np.nan, np.inf)))
    stores = save_set([{name: array} for name, array in (TENSORS | {"layer.0.weight": odd}).items()], path)
    damage(stores, data)
    options: dict[str, bool] = {"values": values, "quick": quick, "strict": False}
    assert alike(verify_alone(str(path), **options, engine=elsewhere), blobstore.verify(path, **options))  # type: ignore[arg-type]
    assert alike(check_alone(str(path), engine=elsewhere), blobstore.check(path))


ERRORS = [getattr(errors, name) for name in errors.__all__ if name != "Fault"]


@pytest.mark.parametrize("kind", ERRORS)
@given(st.text(), st.text(), st.none() | st.text(), st.none() | st.integers())
def test_errors_arrive_as_they_are(
    kind: type[BlobStoreError], reason: str, message: str, path: str | None, offset: int | None
) -> None:
    error = kind(reason, message)
    error.path = path
    if isinstance(error, FormatError):
        error.offset = offset
    if isinstance(error, CheckpointError):
        error.faults = [Fault(reason, "name", message)]
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
    assert type(copy) is kind
    assert (str(copy), vars(copy), copy.args) == (str(error), vars(error), error.args)


def test_errors_of_the_system_keep_their_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, errors.in_file(tmp_path / "target"):  # noqa: PT011 (any)
        raise OSError(28, "No space left on device")
    copy = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 (our own)
    assert (copy.errno, copy.filename) == (28, str(tmp_path / "target"))


def test_a_shard_has_one_thread() -> None:
    before = threads.cores()
    with at_most(1):
        assert threads.cores() == 1
    assert threads.cores() == before


REFUSED = {
    "check m.sbs --processes 2": ("missing-extra", 1),
    "verify m.sbs --scheduler tcp://127.0.0.1:1": ("missing-extra", 1),
    "pack m.sbs -o p.sbs --processes 2": ("missing-extra", 1),
    "convert ck -o n.sbs --max-shard-size 9kB --processes 2": ("missing-extra", 1),
    "check m.sbs --processes 2 --scheduler tcp://127.0.0.1:1": ("two-ways", 2),
    "check m.sbs --processes 0": ("bad-workers", 2),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_cluster_that_cannot_be_had_is_one_line(
    words: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason, status = REFUSED[words]
    monkeypatch.chdir(checkpoint.parent)
    monkeypatch.setitem(sys.modules, "distributed", None)
    save_set([{name: array} for name, array in TENSORS.items()], checkpoint.parent / "m.sbs")
    before = os.listdir()
    assert cli.main(words.split()) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(f"blobstore: {reason}: ")
    assert captured.err.count("\n") == 1
    assert os.listdir() == before
