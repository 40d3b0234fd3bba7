"""Sets on a cluster of dask.distributed, whose workers and scheduler die: ``make test-distributed``."""

from __future__ import annotations

import doctest
import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import blobstore
from blobstore import ClusterError, FormatError, cli
from blobstore.distributed.cluster import cluster
from blobstore.distributed.engine import ClusterEngine
from tests.conftest import ROOT
from tests.gemma_checkpoints import sound_recipe
from tests.remote.servers import hub_server
from tests.sets import save_set

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import ModuleType

    from distributed import Client

    from blobstore.fileio.types import Progress

pytestmark = [
    pytest.mark.distributed,
    # Dask leaves sockets and event loops to the garbage collector, where workers are killed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TENSORS = {
    f"layer.{i}.weight": np.random.default_rng(i).normal(size=(500 + i, 16)).astype(np.float32) for i in range(60)
}
LIMIT = 70_000  # a tensor in a file
COMMAND = [sys.executable, "-m", "blobstore"]
SECONDS = 60


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with cluster(processes=2) as client:
        yield client


# Without Dask this is an error, not a skip: the marker was asked for.
@pytest.fixture(scope="module")
def distributed() -> ModuleType:
    return importlib.import_module("blobstore.distributed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "ck"
    folder.mkdir()
    save_file(TENSORS, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> dict[str, bytes]:
    """What one machine writes."""
    folder = checkpoint.parent / "expected"
    folder.mkdir()
    blobstore.convert(checkpoint, folder / "m.sbs", max_shard_size=LIMIT)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    # Locks stay where a writer was killed, for the next one.
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def alike(one: Any, other: Any) -> bool:  # noqa: ANN401 (two results)
    """Whether two results are the same but for the time they took."""
    return asdict(replace(one, seconds=0)) == asdict(replace(other, seconds=0))


def test_results_are_those_of_one_machine(
    client: Client, distributed: ModuleType, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "there")  # the workers are in another folder
    nbytes: list[int] = []
    there = distributed.convert(checkpoint, "m.sbs", client=client, max_shard_size=LIMIT, progress=nbytes.append)
    assert sum(nbytes) == sum(array.nbytes for array in TENSORS.values())
    packed_there = distributed.pack("m.sbs", "p.sbs", client=client)
    verified_there = distributed.verify("m.sbs", client=client, values=True)
    checked_there = distributed.check("p.sbs", client=client)
    monkeypatch.chdir(tmp_path / "here")
    assert alike(there, blobstore.convert(checkpoint, "m.sbs", max_shard_size=LIMIT))
    assert alike(packed_there, blobstore.pack("m.sbs", "p.sbs"))
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert alike(verified_there, blobstore.verify("m.sbs", values=True))
    assert {found.code for found in checked_there.findings} == {
        found.code for found in blobstore.check("p.sbs").findings
    }


def test_workers_that_are_killed_cost_their_files(
    distributed: ModuleType, checkpoint: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    with cluster(processes=2) as client:
        done = 0

        def kill(nbytes: int) -> None:
            nonlocal done
            before, done = done, done + nbytes
            if before // 500_000 != done // 500_000:  # three times
                nannies = list(client.cluster.workers.values())
                pid = nannies[done % 2].pid
                if pid:
                    os.kill(pid, signal.SIGKILL)

        made = distributed.convert(checkpoint, tmp_path / "m.sbs", client=client, max_shard_size=LIMIT, progress=kill)
    assert done == sum(array.nbytes for array in TENSORS.values())
    assert len(made.stores) == len(TENSORS)
    assert contents(tmp_path) == expected


def test_a_source_on_the_web(client: Client, distributed: ModuleType, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "root" / "org" / "name")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    with hub_server(tmp_path / "root") as (address, _):
        source = f"{address}/org/name/resolve/main/model.safetensors"
        there = distributed.convert(source, tmp_path / "there" / "m.sbs", client=client, max_shard_size=LIMIT)
        here = blobstore.convert(source, tmp_path / "here" / "m.sbs", max_shard_size=LIMIT)
    assert (there.input, there.read, there.notes) == (here.input, here.read, here.notes)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


@dataclass(frozen=True)
class Fails:
    """Work that fails, or ends its worker, until it was tried some times; each time is noted in a folder."""

    folder: str
    until: int
    error: BaseException | None

    def open(self) -> AbstractContextManager[None]:
        return nullcontext()

    def do(self, opened: None, number: int, progress: Progress) -> int:  # noqa: ARG002 (a `Work`)
        tries = len(os.listdir(self.folder))
        if tries < self.until:
            with open(os.path.join(self.folder, str(time.monotonic_ns())), "x"):
                pass
            if self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                raise self.error
        return tries


def test_an_error_of_the_system_is_tried_again(client: Client, tmp_path: Path) -> None:
    work = Fails(str(tmp_path), 3, OSError(errno.EIO, "a disk has failed", "disk"))
    engine = ClusterEngine(client, what="test", retries=3)
    assert list(engine(work, [7], lambda _: None)) == [(7, 3)]
    engine = ClusterEngine(client, what="test", retries=1)
    with pytest.raises(OSError, match="a disk has failed") as raised:
        list(engine(replace(work, until=9), [7], lambda _: None))
    assert raised.value.filename == "disk"
    assert len(os.listdir(tmp_path)) == 5


def test_an_error_of_this_package_is_raised_at_once(client: Client, tmp_path: Path) -> None:
    error = FormatError("bad-magic", "x" * 100_000, 12)  # Dask would shorten it
    error.path = "file.sbs"
    with pytest.raises(FormatError) as raised:
        list(ClusterEngine(client, what="test")(Fails(str(tmp_path), 9, error), [0], lambda _: None))
    assert (str(raised.value), raised.value.offset, raised.value.path) == (str(error), 12, "file.sbs")
    assert len(os.listdir(tmp_path)) == 1


def test_work_that_ends_each_worker_is_given_up(tmp_path: Path) -> None:
    with cluster(processes=1) as client, pytest.raises(ClusterError) as raised:
        list(ClusterEngine(client, what="test", retries=0)(Fails(str(tmp_path), 99, None), [0], lambda _: None))
    assert raised.value.reason == "worker-lost"
    assert len(os.listdir(tmp_path)) == 4  # allowed-failures is 3


def test_a_file_that_only_this_machine_has(client: Client, tmp_path: Path) -> None:
    work = Fails(str(tmp_path / "nowhere"), 1, None)
    with pytest.raises(ClusterError) as raised:
        list(ClusterEngine(client, what="test")(work, [0], lambda _: None))
    assert raised.value.reason == "not-shared"


def test_another_version_is_refused(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobstore, "__version__", "99")
    with pytest.raises(ClusterError) as raised:
        list(ClusterEngine(client, what="test")(Fails(str(tmp_path), 0, None), [0], lambda _: None))
    assert raised.value.reason == "other-version"


def test_nothing_stays_open_in_the_workers(client: Client, distributed: ModuleType, tmp_path: Path) -> None:
    save_set([{name: array} for name, array in TENSORS.items()], tmp_path / "m.sbs")
    assert distributed.verify(tmp_path / "m.sbs", client=client).ok
    deadline = time.monotonic() + SECONDS
    while any(client.run(open_files, str(tmp_path)).values()):  # they are told, and not waited for
        assert time.monotonic() < deadline
        time.sleep(0.05)


def open_files(folder: str) -> list[str]:
    """Return which files in a folder this process has open."""
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return [path for path in (os.readlink(link) for link in links if os.path.islink(link)) if path.startswith(folder)]


@contextmanager
def started(*words: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A process, which is ended with the block."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(folder: Path, pattern: str) -> None:
    """Wait until there is such a file."""
    deadline = time.monotonic() + SECONDS
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, pattern
        time.sleep(0.002)


@contextmanager
def half_done(checkpoint: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """A conversion whose only worker stops after a file or more → the process that waits, and the scheduler."""
    (tmp_path / "out").mkdir()
    file = tmp_path / "scheduler.json"
    dask = ("distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    convert = ("blobstore", "convert", str(checkpoint), "-o", "out/m.sbs", "--max-shard-size", str(LIMIT))
    with started(*dask, cwd=tmp_path) as scheduler:
        wait_for(tmp_path, file.name)
        while not (text := file.read_text()).endswith("}"):  # it is being written
            time.sleep(0.01)
        address = json.loads(text)["address"]
        with started(*convert, "--scheduler", address, cwd=tmp_path) as process:
            wait_for(tmp_path / "out", ".m.sbs.unfinished")
            worker = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
            with started(*worker, cwd=tmp_path) as running:
                wait_for(tmp_path / "out", "m-*.sbs")
                running.send_signal(signal.SIGSTOP)
                yield process, scheduler


def resume(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Go on in two processes → how many files were kept."""
    words = ["convert", str(checkpoint), "-o", str(tmp_path / "out" / "m.sbs"), "--max-shard-size", str(LIMIT)]
    assert cli.main([*words, "--resume", "--processes", "2", "--json"]) == 0
    kept: int = json.loads(capsys.readouterr().out)["kept"]
    return kept


def test_the_scheduler_dies(
    checkpoint: Path, expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with half_done(checkpoint, tmp_path) as (process, scheduler):
        scheduler.kill()
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    waiting, lost = said.splitlines()
    assert waiting.startswith("note: no workers at ")
    assert lost.startswith("blobstore: scheduler-lost: ")
    assert not (tmp_path / "out" / "m.sbs").exists()
    assert resume(checkpoint, tmp_path, capsys) > 0
    assert contents(tmp_path / "out") == expected


def test_an_interrupt_leaves_no_set(
    checkpoint: Path, expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with half_done(checkpoint, tmp_path) as (process, _):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said.splitlines()[1:]) == (130, ["blobstore: interrupted"])
    assert not (tmp_path / "out" / "m.sbs").exists()
    assert resume(checkpoint, tmp_path, capsys) > 0
    assert contents(tmp_path / "out") == expected


def test_an_interrupt_from_the_terminal_is_one_line(tmp_path: Path) -> None:
    """It goes to the workers, too."""
    save_set(
        [{f"t.{number}": np.random.default_rng(number).normal(size=30_000)} for number in range(300)],
        tmp_path / "m.sbs",
    )
    words = [sys.executable, "-m", "blobstore", "pack", "m.sbs", "-o", "p.sbs", "--processes", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for(tmp_path, "p-*.sbs")
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (130, "blobstore: interrupted\n")
    assert not list(tmp_path.glob("p*.sbs"))


def test_no_scheduler_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("blobstore.distributed.cluster._SECONDS", 1)
    save_set([{"a": np.zeros(3)}], tmp_path / "m.sbs")
    assert cli.main(["check", str(tmp_path / "m.sbs"), "--scheduler", "tcp://127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("blobstore: no-scheduler: ")
    assert said.count("\n") == 1


def test_the_examples_are_true(
    client: Client, distributed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound_recipe("gemma3").write(tmp_path / "checkpoint")
    save_set([{name: array} for name, array in TENSORS.items()], tmp_path / "set.sbs")
    monkeypatch.chdir(tmp_path)
    for name in distributed.__all__:
        examples = doctest.DocTestParser().get_doctest(
            getattr(distributed, name).__doc__, {"blobstore": blobstore, "client": client}, name, None, None
        )
        assert examples.examples
        assert not doctest.DocTestRunner().run(examples).failed


@pytest.mark.parametrize("address", ["nonsense", "http://x"])
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    from blobstore.distributed.cluster import cluster as connected  # noqa: PLC0415
    from blobstore.errors import UsageError  # noqa: PLC0415

    with pytest.raises(UsageError, match="bad-address"), connected(scheduler=address):
        pass
