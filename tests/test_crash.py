"""Crashes: whenever and however a writer ends, its file is the complete old or the complete new one.

The seed of the random moments is printed; BLOBSTORE_CRASH_SEED repeats them. The report of ``--junitxml`` counts the
kills and faults that each change has survived.
"""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore.checkpoint.shards import INTERRUPTED
from blobstore.edit.reindex import detach_index
from blobstore.errors import BlobStoreError, FormatError
from blobstore.fileio import source
from blobstore.index import parse_index, unbind_index
from tests.checkpoints import linux_only, snapshot
from tests.conftest import ROOT
from tests.crashing import (
    BF16,
    CALLS,
    CHANGES,
    F16,
    SECONDS,
    SHORT,
    SINGLE,
    STORE,
    Calls,
    failing,
    going,
    has_unnamed_files,
    noise,
    read_store,
    short,
    write_short,
    write_store,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.crashing import Change, Way

    Record = Callable[[str, object], None]

pytestmark = linux_only

SEED = int(os.environ.get("BLOBSTORE_CRASH_SEED") or random.SystemRandom().randrange(10**9))
RANDOM_KILLS = 12  # of each change in each way: more than 300 in all
KEPT = 5  # how many temporary files of killed writers are left for the next writers

changes = pytest.mark.parametrize("name", CHANGES)
# The other ways differ only in the first and last steps of each file: a few changes are enough.
NAMED = ("blobs, version 1", "store", "store, index beside that fits", "store, no index", "attach", "export, shards")
COPIED = ("blobs, version 2", "store, index beside that fits")
ways = pytest.mark.parametrize(
    ("name", "way"),
    [
        *itertools.product(CHANGES, ("unnamed",)),
        *itertools.product(NAMED, ("named",)),
        *itertools.product(COPIED, ("copied",)),
    ],
)


class Site:
    """A folder in which a change is made again and again, and what it may hold after a crash.

    Attributes:
        folder: Where.
        change: What is done.
        old, new: The files before and after, by name.
        before, after: What a reader returns for them.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.change: Change = CHANGES[name]
        self.change.begin(folder)
        self.old, self.before = snapshot(folder), self.change.read(folder)
        self.change.run(folder)
        self.new, self.after = snapshot(folder), self.change.read(folder)
        assert not isinstance(self.after, str)  # not refused
        self.changing = {name for name in {*self.old, *self.new} if self.old.get(name) != self.new.get(name)}
        assert self.changing
        self.restore(self.new)

    def restore(self, files: dict[str, bytes]) -> None:
        """Restore the files as they were before the change."""
        for name in files.keys() - self.old.keys():
            os.unlink(self.folder / name)
        for name, data in self.old.items():
            if files.get(name) != data:
                (self.folder / name).write_bytes(data)

    def check(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Fail unless each file is old or new, and return the files, and the temporary files of killed writers.

        Two files may be a mixture that readers refuse.
        """
        files = snapshot(self.folder)
        litter = {name: files.pop(name) for name in list(files) if name.startswith(".blobstore-")}
        # A killed process, or an error, may leave a lock: an empty file that the next writer takes and removes.
        assert all(name.endswith(".tmp") or (name.endswith(".lock") and not data) for name, data in litter.items())
        litter = {name: data for name, data in litter.items() if name.endswith(".tmp")}
        for name in [name for name in files if name.endswith(".new")]:
            # A complete file that could not be moved to its path is kept under this name.
            assert files.pop(name) == self.new[name.removesuffix(".new")]
            assert self.change.between
            os.unlink(self.folder / name)
        content = self.change.read(self.folder)
        refused = isinstance(content, str) and content in self.change.between
        if len(self.changing) == 1:
            assert files in (self.old, self.new)
        for name in files.keys() | self.old.keys() | self.new.keys():
            if files.get(name) not in (self.old.get(name), self.new.get(name)):
                # The only third state: an index that fits no store, or what readers begin with is missing for a while.
                assert self.change.between
                assert name.endswith((".idx", ".index.json", "config.json"))
                assert refused or content == self.before
        assert refused or content in (self.before, self.after)
        if files == self.old:
            assert content == self.before
        if files == self.new:
            assert content == self.after
        return files, litter

    def check_next(self, litter: dict[str, bytes]) -> None:
        """Fail unless the change can be made now, beside what killed writers have left."""
        try:
            self.change.run(self.folder)
        except BlobStoreError as error:
            # It is already done, or a mixture of two files is refused.
            if not self.change.once and error.reason not in self.change.between:
                raise
            self.restore(self.check()[0])
            self.change.run(self.folder)
        # Temporary files of killed writers are gone by then.
        left = snapshot(self.folder)
        assert {name: data for name, data in left.items() if not name.endswith(".lock")} == self.new
        assert not litter.keys() & left.keys()

    def clear(self, litter: dict[str, bytes]) -> None:
        """Remove what killed writers have left."""
        for name in litter:
            (self.folder / name).unlink(missing_ok=True)


class Zygote:
    """A process that forks writers and kills them."""

    def __init__(self, **environment: str) -> None:
        # A process must have no other threads when it forks.
        threadless = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crashing"],
            cwd=ROOT,
            env=os.environ | threadless | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **order: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
        """Have a change made, and perhaps killed, and return how it ended."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert answer["status"] in (0, -9), f"{order}: {answer}"
        return answer

    def close(self) -> None:
        """Let it end."""
        self._process.communicate(timeout=SECONDS)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """A zygote in which the calls of the C library can fail."""
    compiler = shutil.which("gcc")
    if not compiler:
        pytest.skip("there is no gcc to build the library that makes calls fail")
    library = tmp_path_factory.mktemp("library") / "crashing.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(ROOT / "tests" / "crashing.c"), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the library that makes calls fail can't be built here: {built.stderr}")
    process = Zygote(LD_PRELOAD=str(library))
    yield process
    process.close()


def indexes_beside(site: Site) -> list[bytes]:
    """The external indexes before and after the change."""
    return [files[name] for files in (site.old, site.new) for name in files if name.endswith(".idx")]


def check_litter(site: Site, litter: dict[str, bytes], way: Way) -> None:
    """Fail if a file got a name before it was complete, where files can be unnamed."""
    if way == "unnamed" and has_unnamed_files(site.folder):
        complete = {*site.new.values(), *map(unbind_index, indexes_beside(site)), INTERRUPTED}
        assert complete >= set(litter.values())


# ------------------------------------------------------------------------------------------------------------- killed


@ways
def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_file(
    tmp_path: Path, zygote: Zygote, name: str, way: Way, record_property: Record
) -> None:
    print(f"BLOBSTORE_CRASH_SEED={SEED}")  # noqa: T201 (to repeat a failure)
    rng = random.Random(f"{SEED} {name} {way}")
    site = Site(tmp_path, name)
    order = {"change": name, "folder": str(tmp_path), "way": way}
    seconds = []
    for _ in range(2):
        answer = zygote.ask(**order)
        assert (answer["status"], answer["report"]) == (0, {"error": "", "errno": 0, "threads": 0, "descriptors": 0})
        assert snapshot(tmp_path) == site.new
        site.restore(site.new)
        seconds.append(answer["seconds"])
    left: dict[str, bytes] = {}
    inside = 0
    for _ in range(RANDOM_KILLS):
        answer = zygote.ask(**order, delay=rng.uniform(0, max(seconds)))
        inside += answer["calls"] > 0 and not answer["report"]
        files, left = site.check()
        check_litter(site, left, way)
        site.restore(files)
        if len(left) > KEPT:
            site.clear(left)
            left = {}
    site.check_next(left)
    record_property("kills", RANDOM_KILLS)
    record_property("kills_inside", inside)


@ways
def test_a_writer_killed_before_or_after_any_call_leaves_the_old_or_the_new_file(
    memory: Path, zygote: Zygote, name: str, way: Way, record_property: Record
) -> None:
    site = Site(memory, name)
    order = {"change": name, "folder": str(memory), "way": way}
    left: dict[str, bytes] = {}
    kills, states = 0, set()
    for at in itertools.count():
        ended = False
        for when in ("before", "after"):
            answer = zygote.ask(**order, at=at, when=when)
            ended = not answer["status"]
            files, left = site.check()
            states.add("old" if files == site.old else "new" if files == site.new else "between")
            check_litter(site, left, way)
            site.restore(files)
            if ended:
                assert files == site.new
                break
            kills += 1
            if len(left) > KEPT:
                site.clear(left)
                left = {}
        if ended:
            break
    assert {"old", "new"} <= states
    site.check_next(left)
    record_property("kills", kills)
    record_property("kills_inside", kills)


# ------------------------------------------------------------------------------------------------------------- faults

# Where one of these fails, writers do something else: a named file instead of an unnamed one, a copy instead of a link.
# A lock that can't be removed stays, empty.
FALLBACKS = {"open", "link", "unlink", "close"}


def check_fault(site: Site, way: Way, at: int, code: int | None) -> str:
    """Let one call of a change fail, or without a code do only a part, and return its name; empty if there is none."""
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    caught: OSError | None = None
    act, names = (failing(code), CALLS) if code else (short, SHORT)
    with going(way), Calls(act, at, names) as calls:
        try:
            site.change.run(site.folder)
        except OSError as error:
            caught = error.with_traceback(None)
    files, litter = site.check()
    assert not litter
    if len(os.listdir("/proc/self/fd")) > descriptors:
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert threading.active_count() == threads
    if caught:
        assert caught.errno == code
        # The error names a file that the user knows.
        assert caught.filename or calls.met == "close"  # of the file that the test itself has open
        named = os.path.basename(os.fsdecode(caught.filename or "source.bin"))
        assert named in {site.folder.name, "source.bin", SINGLE, *site.old, *site.new}
        moved = "replace" in calls.made
        assert len(site.changing) > 1 or files == (site.new if moved else site.old)
    else:
        assert files == site.new
        assert not calls.met or calls.met in FALLBACKS or not code
    site.check_next({})
    site.restore(site.new)
    return calls.met


@ways
def test_any_call_may_fail(memory: Path, name: str, way: Way, record_property: Record) -> None:
    gc.collect()  # close what earlier tests left open
    site = Site(memory, name)
    faults: dict[str, int] = {}
    for code in (errno.ENOSPC, errno.EIO, None):
        for at in itertools.count():
            met = check_fault(site, way, at, code)
            if not met:
                break
            faults[met] = faults.get(met, 0) + 1
    assert faults.keys() >= {"open", "close", "write", "fsync", "replace"}
    record_property("faults", sum(faults.values()))
    record_property("faults_by_call", faults)


@ways
def test_any_call_of_the_c_library_may_fail(
    memory: Path, preloaded: Zygote, name: str, way: Way, record_property: Record
) -> None:
    site = Site(memory, name)
    order = {"change": name, "folder": str(memory), "way": way}
    faults: dict[str, int] = {}
    for at in itertools.count():
        code = (errno.ENOSPC, errno.EIO)[at % 2]
        report = preloaded.ask(**order, libc=[at, code])["report"]
        files, litter = site.check()
        assert not litter
        assert (report["threads"], report["descriptors"]) == (0, 0)
        if report["error"]:
            assert report["is_oserror"]
            assert report["errno"] == code
        else:
            assert files == site.new
            assert report["met"] in {"", "open64", "linkat", "unlink"}
        site.restore(files)
        if not report["met"]:
            break
        faults[report["met"]] = faults.get(report["met"], 0) + 1
    site.check_next({})
    assert faults.keys() >= {"open64", "write", "fsync", "rename"}
    record_property("faults", sum(faults.values()))
    record_property("faults_by_call", faults)


@changes
def test_a_writer_killed_in_any_call_of_the_c_library_leaves_the_old_or_the_new_file(
    memory: Path, preloaded: Zygote, name: str, record_property: Record
) -> None:
    site = Site(memory, name)
    for at in itertools.count():
        answer = preloaded.ask(change=name, folder=str(memory), way="unnamed", libc=[at, 0])
        files, litter = site.check()
        check_litter(site, litter, "unnamed")
        site.clear(litter)
        site.restore(files)
        if not answer["status"]:
            break
    assert at > 4
    record_property("kills", at)
    record_property("kills_inside", at)


# -------------------------------------------------------------------------------------------- several at the same time

ROUNDS = 100


def write_numbered(path: Path, number: int) -> None:
    """Write a file whose bytes and size depend on a number."""
    with blobstore.create(path) as store:
        store.add("c_number", np.int64(number))
        store.add("c_data", np.frombuffer(noise(number, 20_000 + 2000 * (number % 50)), dtype=np.uint8))


def number_of(path: Path) -> int:
    """Return the number of a file; fail unless it is whole."""
    with blobstore.open(path, access="read" if random.random() < 0.5 else "mmap") as store:
        number = int(store["c_number"])
        assert store["c_data"].tobytes() == noise(number, 20_000 + 2000 * (number % 50))
    return number


WRITER = """
import sys
from pathlib import Path
from tests.test_crash import write_numbered

first, last = map(int, sys.argv[2:])
for number in range(first, last):
    write_numbered(Path(sys.argv[1]), number)
"""


@pytest.mark.parametrize("writers", ["threads", "processes"])
def test_of_two_writers_at_once_each_file_is_whole_and_one_wins(
    tmp_path: Path, writers: str, record_property: Record
) -> None:
    path = tmp_path / "numbered.sbs"
    write_numbered(path, 0)
    ranges = [(1, ROUNDS + 1), (1001, 1001 + ROUNDS)]
    seen = set()
    if writers == "threads":

        def write(first: int, last: int) -> None:
            for number in range(first, last):
                write_numbered(path, number)

        threads = [threading.Thread(target=write, args=numbers) for numbers in ranges]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            seen.add(number_of(path))
    else:
        command = [sys.executable, "-c", WRITER, str(path)]
        processes = [subprocess.Popen([*command, *map(str, numbers)], cwd=ROOT) for numbers in ranges]
        while any(process.poll() is None for process in processes):
            seen.add(number_of(path))
        assert [process.returncode for process in processes] == [0, 0]
    assert number_of(path) in {last - 1 for _, last in ranges}
    assert os.listdir(tmp_path) == [path.name]
    record_property("files_seen", len(seen))


def test_a_reader_keeps_the_data_of_the_file_it_opened_however_often_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "numbered.sbs"
    write_numbered(path, 0)
    expected = noise(0, 20_000)
    mapped, read = blobstore.open(path), blobstore.open(path, access="read")
    view = mapped["c_data"]
    for number in range(1, 3 * ROUNDS):
        write_numbered(path, number)
        for data in (view, mapped["c_data"], read["c_data"]):
            assert data.tobytes() == expected
    path.unlink()
    mapped.close()
    assert view.tobytes() == expected
    assert read["c_data"].tobytes() == expected
    read.close()


# ---------------------------------------------------------------------------------------------- a file and its index


def test_an_index_that_fits_the_new_file_is_not_read_with_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path, 1, "external", F16)
    before = read_store(tmp_path)
    real = source.open_source

    def replaced_meanwhile(path: str, *access: Any) -> Any:  # noqa: ANN401
        monkeypatch.undo()
        write_store(tmp_path, 2, "external", BF16)
        return real(path, *access)

    monkeypatch.setattr("blobstore.fileio.source.open_source", replaced_meanwhile)
    with pytest.raises(FormatError, match=r"index-stale: .*replaced while it was opened") as caught:
        blobstore.open(tmp_path / STORE)
    assert caught.value.path == f"{tmp_path / STORE}.idx"
    assert read_store(tmp_path) != before


@pytest.mark.parametrize("index", ["embedded", "none"])
def test_an_index_left_beside_a_file_is_not_used_for_the_next_file(tmp_path: Path, index: Any) -> None:  # noqa: ANN401
    write_short(tmp_path, 1, "external", F16)
    beside = (tmp_path / f"{STORE}.idx").read_bytes()
    write_short(tmp_path, 2, index, np.uint8)
    assert read_store(tmp_path) == {"c_short": ("uint8", (100_000,), noise(2, 100_000))}
    assert not (tmp_path / f"{STORE}.idx").exists()
    if index == "embedded":
        # One that a crash leaves is not used, not even when the file gets an external index again.
        (tmp_path / f"{STORE}.idx").write_bytes(beside)
        assert read_store(tmp_path) == {"c_short": ("uint8", (100_000,), noise(2, 100_000))}
        detach_index(tmp_path / STORE)
        assert read_store(tmp_path) == {"c_short": ("uint8", (100_000,), noise(2, 100_000))}


def test_an_index_that_is_bound_to_no_store_says_so(tmp_path: Path) -> None:
    write_short(tmp_path, 1, "external", F16)
    beside = tmp_path / f"{STORE}.idx"
    beside.write_bytes(unbind_index(beside.read_bytes()))
    index = parse_index(memoryview(beside.read_bytes()), kind="external")
    assert index.self_digest_holds()
    assert list(index.names) == ["c_short"]
    assert read_store(tmp_path) == "index-stale"


# --------------------------------------------------------------------------------------------------------------- a pipe

STREAM = """
import os, sys
from blobstore import BlobWriter

with BlobWriter(os.fdopen(1, "wb"), version=2) as writer:
    for i in range(200):
        writer.add(f"{i}", bytes([i + 1]) * 30_000)
"""


def test_a_stream_that_breaks_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = subprocess.run([sys.executable, "-c", STREAM], check=True, capture_output=True).stdout
    path = tmp_path / STORE
    path.write_bytes(whole)
    assert len(blobstore.BlobReader(path)) == 200
    rng = random.Random(f"{SEED} stream")
    cuts = [0, 1, 16, 256, 272, 65536, len(whole) - 65536, len(whole) - 16, len(whole) - 1]
    for cut in [*cuts, *(rng.randrange(len(whole)) for _ in range(200))]:
        path.write_bytes(whole[:cut])
        with pytest.raises(FormatError) as caught:
            blobstore.open(path)
        assert caught.value.reason in {"truncated", "no-directory", "bad-magic", "file-size"}


def test_a_writer_to_a_pipe_that_nobody_reads_any_more_ends_with_an_oserror() -> None:
    reading, pipe = os.pipe()
    with os.fdopen(pipe, "wb", buffering=0) as stream:
        writer = blobstore.BlobWriter(stream)
        writer.add("a", bytes(1000))
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            writer.add("b", bytes(1 << 20))
        writer.discard()
