"""Files among other files and other writers: nothing is mixed up, nothing is left behind, nothing waits for ever."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from blobstore import cli
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.converting.plan import plan_by_name
from blobstore.converting.run import run_plan
from blobstore.edit.reindex import attach_index, build_index, detach_index
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import BlobStoreError, UsageError
from blobstore.fileio import atomic, locking, system
from blobstore.fileio.atomic import AtomicFile, write_file
from blobstore.fileio.locking import turn_at
from blobstore.fileio.plain_files import ReopenedFile, open_one_of_many
from blobstore.fileio.temporary import abandoned
from blobstore.index import open_index
from tests.checkpoints import linux_only, needs_pipes, small, snapshot, write_peer, write_shards
from tests.conftest import ROOT, open_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blobstore.fileio.types import Access
    from blobstore.index.locate import IndexPlace

ROUNDS = 60
PLACES: tuple[IndexPlace, ...] = ("external", "none", "embedded")


# --------------------------------------------------------------------------------------------------------- two writers


def save(path: Path, number: int, index: IndexPlace) -> None:
    """Write a file with a number in its names and data, and with the same directory for every number."""
    with blobstore.create(path, index=index) as store:
        for key in ("a", "b"):
            values = np.full(8, number, np.int32 if number % 2 else np.float32)
            if index == "none":
                store.add_blob(f"{key}{number % 2}", values)
            else:
                store.add(f"{key}{number % 2}", values)


def read(path: Path) -> int | None:
    """Return the number of a file; None if its index is stale, or if it has none."""
    try:
        with blobstore.open(path) as store:
            if store.index is None:
                return None
            numbers = {int(values[0]) for values in store.values()}
            names = {int(name[1:]) for name in store}
    except BlobStoreError as error:
        if error.reason != "index-stale":
            raise
        return None
    (number,) = numbers
    assert names == {number % 2}
    return number


@pytest.mark.parametrize("others", ["external", "embedded"])
def test_a_file_and_its_index_are_one_writers(tmp_path: Path, others: IndexPlace) -> None:
    path = tmp_path / "m.sbs"
    save(path, 0, "external")
    start = threading.Barrier(2)

    def write(first: int, index: IndexPlace) -> None:
        for number in range(first, first + 2 * ROUNDS, 2):
            start.wait()
            save(path, number, index)

    threads = [threading.Thread(target=write, args=arguments) for arguments in ((2, "external"), (1001, others))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        read(path)
    for thread in threads:
        thread.join()
    assert read(path) in (2 * ROUNDS, 999 + 2 * ROUNDS)
    assert {name.split(".")[0] for name in os.listdir(tmp_path)} == {"m"}


def test_blobs_without_names_take_the_place_of_others_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    save(path, 1, "external")
    with blobstore.open(path) as store:
        blobs = [(key, bytes(len(store.reader[key]))) for key in store.reader]
    with blobstore.BlobWriter(path) as writer:
        for key, data in blobs:
            writer.add(key, data)
    assert read(path) is None


@pytest.mark.parametrize("then", ["fails", "ends"])
def test_an_old_index_that_can_not_be_removed_gives_no_names_to_the_new_blobs(
    tmp_path: Path, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.sbs"
    save(path, 1, "external")
    with blobstore.open(path) as store:
        sizes = {key: len(store.reader[key]) for key in store.reader}

    def fail(name: str, *_: object, **__: object) -> None:
        if str(name).endswith(".idx"):  # as a process that is killed at this moment
            raise KeyboardInterrupt if then == "ends" else PermissionError(errno.EACCES, "denied", name)

    monkeypatch.setattr(os, "unlink", fail)
    writer = blobstore.BlobWriter(path)
    for key, nbytes in sizes.items():
        writer.add(key, b"x" * nbytes)
    with pytest.raises((KeyboardInterrupt, PermissionError)):
        writer.close()
    monkeypatch.undo()
    with blobstore.BlobReader(path) as reader:
        assert {bytes(reader[key][:1]) for key in reader} == {b"x"}
    with pytest.raises(BlobStoreError, match="index-stale"):
        blobstore.open(path)


EDITS: dict[str, tuple[IndexPlace, Callable[[Path], object]]] = {
    "rewrite": ("embedded", lambda path: apply_edits(path, None, Edits(set_metadata={"a": "b"}))),
    "rewrite the index": ("external", lambda path: apply_edits(path, None, Edits(set_metadata={"a": "b"}))),
    "attach": ("external", attach_index),
    "detach": ("embedded", detach_index),
    "build": ("external", lambda path: build_index(path, force=True)),
    "embed": ("external", lambda path: build_index(path, embed=True, force=True)),
    "build, not inside": ("embedded", lambda path: build_index(path, force=True)),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_in_place_is_of_the_file_that_was_read(
    tmp_path: Path, edit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.sbs"
    index, run = EDITS[edit]
    save(path, 1, index)
    real = turn_at
    replaced: list[object] = []

    @contextmanager
    def late(place: str | os.PathLike[str]) -> Iterator[None]:
        if not replaced:
            replaced.append(place)
            save(path, 2, index)  # another writer comes first
        with real(place):
            yield

    monkeypatch.setattr("blobstore.index.sidecar.turn_at", late)
    with pytest.raises(UsageError, match="replaced"):
        run(path)
    assert read(path) == 2


def test_each_waiting_writer_gets_its_turn_even_if_the_lock_file_is_removed(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "m.sbs", list[int](), list[int]()

    def work() -> None:
        for _ in range(50):
            with turn_at(path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert not os.listdir(tmp_path)
    # A lock file that a killed process has left is taken over.
    with turn_at(path):
        (lock,) = os.listdir(tmp_path)
    (tmp_path / lock).touch()
    with turn_at(path):
        assert os.listdir(tmp_path) == [lock]
    assert not os.listdir(tmp_path)


# ------------------------------------------------------------------------------------------ errors between two renames


@pytest.mark.parametrize("again", [True, False])
def test_an_error_between_two_renames_loses_no_names(
    tmp_path: Path, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.sbs"
    save(path, 1, "external")
    real, failed = os.replace, list[str]()

    def replace(source: str, target: str) -> None:
        if target.endswith((".idx", ".idx.new")) and os.path.getsize(path) and renamed():
            failed.append(target)
            if not again or len(failed) < 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO), source, None, target)
        real(source, target)

    inode = path.stat().st_ino

    def renamed() -> bool:
        return path.stat().st_ino != inode

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="nothing is lost") as caught:
        save(path, 2, "external")
    monkeypatch.setattr(os, "replace", real)
    assert caught.value.filename == str(tmp_path / "m.sbs.idx")
    (kept,) = (tmp_path / name for name in os.listdir(tmp_path) if name not in ("m.sbs", "m.sbs.idx"))
    assert repr(str(kept)) in str(caught.value)
    assert read(path) is None
    assert open_index(memoryview(kept.read_bytes()), kind="external").names == ["a0", "b0"]
    os.replace(kept, f"{path}.idx")
    assert read(path) == 2


def test_an_error_before_a_rename_leaves_the_old_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.sbs"
    save(path, 1, "external")
    real = os.replace

    def replace(source: str, target: str) -> None:
        if target == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), source, None, target)
        real(source, target)

    def replace_by(index: IndexPlace) -> None:
        with blobstore.create(path, index=index) as store:
            for key in ("a1", "b1"):
                store.add(key, np.zeros(8, np.float32))

    for index in PLACES:
        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(OSError, match="Input/output") as caught:
            replace_by(index)
        monkeypatch.setattr(os, "replace", real)
        assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))
        assert read(path) == 1
        assert set(os.listdir(tmp_path)) == {"m.sbs", "m.sbs.idx"}


def test_a_first_external_index_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, index="none") as store:
        store.add("a", np.zeros(8, np.float32))
    before, real = snapshot(tmp_path), os.replace

    def replace(source: str, target: str) -> None:
        if target == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="Input/output"):
        save(path, 1, "external")
    monkeypatch.undo()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("index", PLACES)
def test_a_file_and_its_index_go_to_the_folder_of_the_beginning(
    tmp_path: Path, index: IndexPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "m.sbs", 1, "external")
    before = snapshot(tmp_path / "y")
    monkeypatch.chdir(tmp_path / "x")
    with blobstore.create("m.sbs", index=index) as store:
        store.add("a", np.zeros(8, np.float32))
        monkeypatch.chdir(tmp_path / "y")
    assert snapshot(tmp_path / "y") == before
    with blobstore.open(tmp_path / "x" / "m.sbs") as store:
        assert list(store) == ["a"]
    assert set(os.listdir(tmp_path / "x")) == {"m.sbs"} | ({"m.sbs.idx"} if index == "external" else set())


# ---------------------------------------------------------------------------------------- leftovers of killed writers


def named_writer(path: Path) -> subprocess.Popen[str]:
    """Start a process that is writing a file under a temporary name."""
    code = f"""
        import os, time
        from blobstore.fileio import system
        from blobstore.fileio.atomic import AtomicFile
        system.UNNAMED = 0
        file = AtomicFile({str(path)!r})
        os.write(file.fileno(), b"x" * 1000)
        print("ready", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@linux_only
def test_the_leftover_of_a_killed_writer_is_reported_and_removed_but_not_the_file_of_a_running_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.sbs"
    save(path, 1, "embedded")
    dead, living = named_writer(path), named_writer(tmp_path / "other")
    assert abandoned(str(tmp_path)) == []
    left = {name for name in os.listdir(tmp_path) if name != "m.sbs"}
    dead.kill()
    dead.wait()
    (old,) = abandoned(str(tmp_path))
    for command in ("info", "check"):
        assert cli.main([command, str(path)]) == 0
        errors = capsys.readouterr().err
        assert os.path.basename(old) in errors
        assert "1 kB" in errors
    write_file(tmp_path / "any", b"data")
    assert {name for name in os.listdir(tmp_path) if name.startswith(".")} == left - {os.path.basename(old)}
    for command in ("info", "check"):
        assert cli.main([command, str(path)]) == 0
        assert ".blobstore" not in capsys.readouterr().err
    living.kill()
    living.wait()
    for process in (dead, living):
        assert process.stdout
        process.stdout.close()


def test_a_file_that_is_taken_for_abandoned_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "UNNAMED", 0)
    real, seen = locking.lock, list[str]()

    def lock(fd: int, *, wait: bool = True) -> bool:
        if not seen:
            (name,) = os.listdir(tmp_path)
            seen.append(name)
            os.unlink(tmp_path / name)
        return real(fd, wait=wait)

    monkeypatch.setattr(atomic, "lock", lock)
    with AtomicFile(tmp_path / "file") as file:
        file.write(memoryview(b"data"))
    assert snapshot(tmp_path) == {"file": b"data"}


# ------------------------------------------------------------------------------------------------------ special files


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": os.mkdir,
}


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "model.safetensors.index.json",
        "model.safetensors",
        "given",
        "out/out.sbs.idx",
    ],
)
def test_nothing_in_a_folder_is_waited_for(
    tmp_path: Path, name: str, special: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_peer(tmp_path / "model.safetensors", small("a"))
    (tmp_path / "out").mkdir()
    (tmp_path / name).unlink(missing_ok=True)
    SPECIAL[special](tmp_path / name)
    words = ["convert", str(tmp_path), "-o", str(tmp_path / "out" / "out.sbs")]
    if name == "given":
        words += ["--as", "gemma", "--tokenizer", str(tmp_path / name)]
    signal.alarm(20)
    try:
        status = cli.main(words)
    finally:
        signal.alarm(0)
    errors = capsys.readouterr().err
    if name == "out/out.sbs.idx":  # none is written, and the special file stays
        assert (status, os.path.lexists(tmp_path / name)) == (0, True)
        return
    assert (status, "not-a-file" in errors) == (2, True), errors
    assert name in errors
    if name.startswith("tokenizer"):
        assert cli.main([*words, "--no-files"]) == 0


# --------------------------------------------------------------------------------------------------------- descriptors


def descriptors() -> int:
    return len(open_descriptors())


@linux_only
def test_a_checkpoint_of_any_number_of_shards_is_converted_with_few_descriptors(tmp_path: Path) -> None:
    count = 150
    (tmp_path / "ck").mkdir()
    write_shards(tmp_path / "ck", [small(f"t{i:03}") for i in range(count)])
    before, (soft, hard) = descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 90, hard))
    try:
        with open_checkpoint(tmp_path / "ck") as checkpoint:
            assert descriptors() - before <= 64
            run_plan(plan_by_name(checkpoint), checkpoint, tmp_path / "out.sbs")
        assert descriptors() == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert all(np.array_equal(store[f"t{i:03}"], small(f"t{i:03}")[f"t{i:03}"]) for i in range(count))


@linux_only
def test_a_mapped_store_has_one_descriptor(tmp_path: Path) -> None:
    save(tmp_path / "m.sbs", 1, "embedded")
    before = descriptors()
    stores = [blobstore.open(tmp_path / "m.sbs", access="mmap") for _ in range(100)]
    values = [store["a1"] for store in stores]
    assert descriptors() - before <= 100
    del stores, values
    assert descriptors() - before <= 0


@linux_only
@pytest.mark.parametrize("how", ["replaced", "removed", "there"])
@pytest.mark.parametrize("access", ["mmap", "read"])
def test_a_store_reads_its_own_file_whatever_is_at_its_path(tmp_path: Path, how: str, access: Access) -> None:
    path = tmp_path / "m.sbs"
    save(path, 1, "embedded")
    with blobstore.open(path, access=access) as store:
        if how == "replaced":
            save(path, 2, "embedded")
        elif how == "removed":
            path.unlink()
        assert {int(values[0]) for values in store.load_all().values()} == {1}
        assert os.pread(store.reader.fileno(), 4, 0) == b"SBS\n"
        blob = store.reader.file_range(next(iter(store.reader)))
        assert bytes(blob.read()) == bytes(store.reader[next(iter(store.reader))])


def test_reading_a_replaced_file_raises(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    source = open_one_of_many(path)
    assert isinstance(source, ReopenedFile)
    source.rest()
    assert source.at_rest
    assert bytes(source.view(0, 3)) == bytes(3)
    source.rest()
    (tmp_path / "new").write_bytes(bytes(100))
    os.replace(tmp_path / "new", path)
    for call in (lambda: source.view(0, 3), source.fileno):
        with pytest.raises(UsageError, match="replaced"):
            call()
    source.close()
    with pytest.raises(UsageError, match="closed"):
        source.view(0, 3)


def test_a_file_that_is_read_stays_open_while_others_are_opened(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}").write_bytes(bytes([i]))
    first = open_one_of_many(tmp_path / "0")
    with first.held() as fd:
        sources = [open_one_of_many(tmp_path / f"{i}") for i in range(1, 200)]
        assert os.pread(fd, 1, 0) == b"\0"
        assert [bytes(source.view(0, 1))[0] for source in sources] == list(range(1, 200))
        assert os.pread(fd, 1, 0) == b"\0"
    open_now = sum(not source.at_rest for source in (first, *sources))
    assert 0 < open_now <= 66
    for source in (first, *sources):
        source.close()


# ------------------------------------------------------------------------------------------------------- no tracebacks


@pytest.mark.parametrize("access", ["mmap", "read"])
def test_an_open_reader_is_not_copied(tmp_path: Path, access: Access) -> None:
    save(tmp_path / "m.sbs", 1, "embedded")
    with blobstore.open(tmp_path / "m.sbs", access=access) as store:
        for way in (copy.deepcopy, pickle.dumps):
            with pytest.raises(UsageError, match="not-copyable"):
                way(store.reader)
        assert int(store["a1"][0]) == 1


@pytest.mark.parametrize("module", ["", "import threading, queue", "import logging, concurrent.futures"])
def test_a_store_left_open_at_the_end_of_a_program_is_silent(tmp_path: Path, module: str) -> None:
    save(tmp_path / "m.sbs", 1, "embedded")
    code = f"""
        {module}
        import sys, blobstore
        a = blobstore.open({str(tmp_path / "m.sbs")!r})
        b = blobstore.open({str(tmp_path / "m.sbs")!r}, access="read")
        class Last:
            def __del__(self):
                globals().get("a")
        sys.modules["last"] = Last()
        blobstore.kept = (a, b)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# ----------------------------------------------------------------------------------------------------- found by review


def test_a_temporary_file_that_is_being_read_is_not_removed(tmp_path: Path) -> None:
    left, path = tmp_path / f".blobstore-{'0' * 16}.tmp", tmp_path / "m.sbs"
    save(left, 1, "embedded")
    with blobstore.open(left, access="mmap"), blobstore.open(left, access="read"):
        save(path, 2, "embedded")
    assert cli.main(["recover", str(left), "-o", str(tmp_path / "saved.sbs")]) == 0
    assert cli.main(["rewrite", str(left), "--in-place", "--set", "a=b"]) == 0
    assert cli.main(["get", str(left), "a1", "-o", str(tmp_path / "a.bin")]) == 0
    assert left.exists()
    assert read(tmp_path / "saved.sbs") == 1


@pytest.mark.parametrize("index", ["external", "none"])
def test_an_interrupt_right_after_a_rename_leaves_no_old_index(
    tmp_path: Path, index: IndexPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.sbs"
    save(path, 1, "external")
    real = os.replace

    def replace(source: str, target: str) -> None:
        real(source, target)
        if target == str(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save(path, 2, index)
    monkeypatch.setattr(os, "replace", real)
    assert read(path) == (2 if index == "external" else None)


def test_an_index_that_is_kept_after_an_error_replaces_no_file_and_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.sbs"
    save(path, 1, "external")
    (tmp_path / "m.sbs.idx.new").write_bytes(b"a user's")
    real = os.replace

    def replace(source: str, target: str) -> None:
        if ".idx" in target and path.stat().st_ino != inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO), source, None, target)
        real(source, target)

    inode = path.stat().st_ino
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="nothing is lost"):
        save(path, 2, "external")
    monkeypatch.setattr(os, "replace", real)
    (kept,) = (name for name in os.listdir(tmp_path) if name.endswith(".tmp"))
    write_file(tmp_path / "other", b"data")
    assert (tmp_path / "m.sbs.idx.new").read_bytes() == b"a user's"
    os.replace(tmp_path / kept, f"{path}.idx")
    assert read(path) == 2


@linux_only
def test_a_mode_is_kept_where_files_can_not_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "not here")

    write_file(tmp_path / "file", b"old")
    (tmp_path / "file").chmod(0o664)
    monkeypatch.setattr(os, "link", forbidden)
    write_file(tmp_path / "file", b"new")
    assert ((tmp_path / "file").stat().st_mode & 0o777, (tmp_path / "file").read_bytes()) == (0o664, b"new")


def test_writers_with_named_files_leave_each_other_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "UNNAMED", 0)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(100):
                write_file(tmp_path / f"{number}", b"data")
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3"]


def test_an_index_that_is_a_dangling_link_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    save(path, 1, "external")
    (tmp_path / "m.sbs.idx").rename(tmp_path / "gone")
    (tmp_path / "m.sbs.idx").symlink_to("nowhere")
    with pytest.raises(UsageError, match="not-a-file"):
        blobstore.open(path)


@needs_pipes
@pytest.mark.parametrize(
    "make", [os.mkdir, lambda place: os.symlink("gone", place), os.mkfifo], ids=["folder", "link", "pipe"]
)
def test_what_takes_the_locks_name_is_named_and_stays(tmp_path: Path, make: Callable[[str], None]) -> None:
    path = tmp_path / "m.sbs"
    with turn_at(path):
        (place,) = [one for one in os.listdir(tmp_path) if one.endswith(".lock")]
    make(f"{tmp_path}/{place}")
    with pytest.raises(blobstore.UsageError, match=r"not-a-file: .*move it away") as caught, turn_at(path):
        pass
    assert f"{tmp_path}/{place}" in str(caught.value)
    assert os.listdir(tmp_path) == [place]
