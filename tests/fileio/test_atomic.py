from __future__ import annotations

import errno
import gc
import os
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from blobstore import BlobReader, BlobWriter
from blobstore.errors import UsageError
from blobstore.fileio import atomic, system
from blobstore.fileio.atomic import AtomicFile, write_file
from blobstore.fileio.descriptors import write_all
from tests.conftest import open_descriptors

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = b"what was there before", b"what is there now" * 1000

# How the file exists until it is complete: unnamed, or with a name where the system has no unnamed files.
KINDS = ("unnamed", "no-such-flag", "file-system-refuses", "no-proc")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    real_open, real_isdir = os.open, os.path.isdir
    unnamed = system.UNNAMED

    def refusing_open(path: str, flags: int, *rest: int) -> int:
        if flags & unnamed == unnamed:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real_open(path, flags, *rest)

    if request.param == "no-such-flag":
        monkeypatch.setattr(system, "UNNAMED", 0)
    elif request.param == "file-system-refuses" and unnamed:
        monkeypatch.setattr(os, "open", refusing_open)
    elif request.param == "no-proc":
        monkeypatch.setattr(os.path, "isdir", lambda path: path != "/proc/self/fd" and real_isdir(path))
        monkeypatch.delattr(os, "link")
    return str(request.param)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "store.sbs"
    path.write_bytes(OLD)
    return path


def listing(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == OLD
    assert listing(target) == [target.name]


# -------------------------------------------------------------------------------------------------------- success


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("exists", [True, False])
def test_the_file_appears_when_it_is_complete(target: Path, exists: bool) -> None:
    if not exists:
        target.unlink()
    with AtomicFile(target) as new:
        write_all(new.fileno(), memoryview(NEW))
        assert target.exists() == exists
        assert not exists or target.read_bytes() == OLD
    assert target.read_bytes() == NEW
    assert listing(target) == [target.name]


@pytest.mark.usefixtures("kind")
def test_a_file_is_moved_to_its_name_once(target: Path) -> None:
    with AtomicFile(target) as new:
        write_all(new.fileno(), memoryview(NEW))
        new.commit()
        target.write_bytes(b"written since")
        new.commit()
        new.discard()
    assert target.read_bytes() == b"written since"
    assert listing(target) == [target.name]


@pytest.mark.usefixtures("kind")
def test_the_new_file_can_be_read_while_it_is_written(target: Path) -> None:
    with AtomicFile(target) as new:
        write_all(new.fileno(), memoryview(NEW))
        assert os.pread(new.fileno(), 10, 5) == NEW[5:15]


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0, 0o666)])
def test_a_file_that_was_not_there_has_the_mode_that_the_umask_says(target: Path, umask: int, mode: int) -> None:
    target.unlink()
    before = os.umask(umask)
    try:
        write_file(target, NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755, 0o4755])
def test_a_file_that_is_replaced_leaves_its_mode_and_owner_to_the_new_one(target: Path, mode: int) -> None:
    owner = (1234, 2345) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(target, *owner)
    target.chmod(mode)
    with AtomicFile(target) as new:
        # Until it is complete nobody else may read it, whatever its name.
        assert stat.S_IMODE(os.fstat(new.fileno()).st_mode) == 0o600
        write_all(new.fileno(), memoryview(NEW))
        new.prepare()
        assert stat.S_IMODE(os.fstat(new.fileno()).st_mode) == mode
    status = target.stat()
    assert (stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)) == (mode, owner)
    assert target.read_bytes() == NEW


@pytest.mark.usefixtures("kind")
def test_a_mode_that_can_not_be_kept_does_not_stop_it(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.chmod(0o640)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    write_file(target, NEW)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.usefixtures("kind")
def test_who_has_the_old_file_open_keeps_it(target: Path) -> None:
    with open(target, "rb") as old:
        write_file(target, NEW)
        assert old.read() == OLD


@pytest.mark.usefixtures("kind")
def test_a_symbolic_link_stays_and_what_it_names_is_replaced(target: Path, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("../store.sbs")
    write_file(folder / "one", NEW)
    assert target.read_bytes() == NEW
    assert (folder / "one").is_symlink()
    assert sorted(os.listdir(folder)) == ["one", "two"]
    assert sorted(os.listdir(tmp_path)) == ["links", "store.sbs"]


@pytest.mark.usefixtures("kind")
def test_a_link_to_nothing_gets_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    write_file(tmp_path / "link", NEW)
    assert (tmp_path / "file").read_bytes() == NEW
    assert (tmp_path / "link").is_symlink()


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("name", ["x" * 255, "權" * 85, "é" * 127], ids=["ascii", "three-bytes", "two-bytes"])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / name, NEW)
    assert (tmp_path / name).read_bytes() == NEW
    assert os.listdir(tmp_path) == [name]


@pytest.mark.usefixtures("kind")
def test_a_relative_path_means_what_it_meant_at_the_beginning(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with AtomicFile(target.name) as new:
        monkeypatch.chdir("/")
        write_all(new.fileno(), memoryview(NEW))
    assert target.read_bytes() == NEW


@pytest.mark.usefixtures("kind")
def test_of_two_writers_the_last_to_finish_wins(target: Path) -> None:
    with AtomicFile(target) as last:
        with AtomicFile(target) as first:
            write_all(last.fileno(), memoryview(NEW))
            write_all(first.fileno(), memoryview(b"first"))
        assert target.read_bytes() == b"first"
    assert target.read_bytes() == NEW
    assert listing(target) == [target.name]


@pytest.mark.usefixtures("kind")
def test_a_finished_file_stays(target: Path) -> None:
    with AtomicFile(target) as new:
        write_all(new.fileno(), memoryview(NEW))
    new.discard()
    for again in (new.fileno, new.prepare):
        with pytest.raises(UsageError, match=r"closed: .*store\.sbs' was already written or given up"):
            again()
    assert target.read_bytes() == NEW
    assert listing(target) == [target.name]


def test_what_the_system_writes_in_pieces_is_written_whole(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    write_file(target, NEW)
    assert target.read_bytes() == NEW


def test_the_file_is_durable_before_it_has_its_name(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def noted_replace(source: str, path: str) -> None:
        done.append("name")
        replace(source, path)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with AtomicFile(target) as new:
        new.write(memoryview(NEW))
        new.prepare()
        new.prepare()
    assert done == ["file", "name", "folder"]


def test_a_file_that_needs_not_be_durable_waits_for_no_disk(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(atomic, "_fdatasync", synced.append)
    with AtomicFile(target, durable=False) as new:
        new.write(memoryview(NEW))
        new.sync_soon()
        new.wrote_up_to(atomic._SYNC_NBYTES)
        new.prepare()
        assert target.read_bytes() == OLD
    assert target.read_bytes() == NEW
    assert synced == []


def test_a_folder_that_cannot_be_made_durable_is_no_error(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def files_only(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "this is a folder")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", files_only)
    write_file(target, NEW)
    assert target.read_bytes() == NEW


def test_the_disk_takes_one_call_at_a_time_while_more_is_written(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end, calls = threading.Event(), threading.Event(), []

    def late(fd: int) -> None:
        calls.append(fd)
        begun.set()
        assert may_end.wait(60)

    monkeypatch.setattr(atomic, "_fdatasync", late)
    with AtomicFile(target) as new:
        for _ in range(3):  # the second and the third come while the first is at work
            new.write(memoryview(NEW))
            new.sync_soon()
            assert begun.wait(60)
        may_end.set()
    assert len(calls) == 1
    assert target.read_bytes() == 3 * NEW


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("again", [True, False])
def test_what_the_disk_could_not_take_meanwhile_is_an_error_at_the_end(
    target: Path, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(atomic, "_fdatasync", fail)
    with pytest.raises(OSError, match="I/O error") as caught, AtomicFile(target) as new:  # noqa: PT012
        new.sync_soon()
        if again:  # the system tells of it once only
            monkeypatch.setattr(atomic, "_fdatasync", os.fdatasync)
            new._join()
            new.sync_soon()
    assert caught.value.filename == str(target)
    assert_untouched(target)


def test_an_error_of_a_rename_names_the_target_only(target: Path) -> None:
    new = AtomicFile(target)
    target.unlink()
    target.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        new.commit()
    assert (caught.value.filename, caught.value.filename2) == (str(target), None)
    assert listing(target) == [target.name]


@pytest.mark.skipif(os.name == "nt", reason="files there have no such names")
def test_a_temporary_name_that_is_taken_is_left_alone(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f".blobstore-{'0' * 16}.tmp"
    monkeypatch.setattr(system, "UNNAMED", 0)
    monkeypatch.setattr(atomic, "temporary_name", lambda: name)
    (target.parent / name).mkdir()
    with pytest.raises(FileExistsError):
        AtomicFile(target)
    assert listing(target) == sorted([name, target.name])
    assert target.read_bytes() == OLD


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_error_in_the_block_leaves_all_as_it_was(target: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with AtomicFile(target) as new:
            write_all(new.fileno(), memoryview(NEW))
            raise error

    with pytest.raises(error):
        write()
    assert_untouched(target)


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()], ids=["oserror", "interrupt"])
def test_an_error_at_the_end_leaves_all_as_it_was(
    target: Path, kind: str, call: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    if call == "link" and kind != "unnamed":
        call = "replace"  # there is nothing to link

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail, raising=False)
    if call == "link":
        monkeypatch.setattr(os, "sendfile", fail)  # the fallback
    with pytest.raises(type(error)):
        write_file(target, NEW)
    monkeypatch.undo()
    assert_untouched(target)


def test_where_an_unnamed_file_can_not_be_named_another_way_is_taken(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "not in this sandbox")

    monkeypatch.setattr(os, "link", forbidden)
    write_file(target, NEW)
    assert target.read_bytes() == NEW
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.usefixtures("kind")
def test_a_file_that_is_given_up_leaves_nothing(target: Path) -> None:
    new = AtomicFile(target)
    new.discard()
    new.discard()
    with pytest.raises(UsageError, match="closed"):
        new.fileno()
    assert_untouched(target)


@pytest.mark.usefixtures("kind")
def test_a_file_that_is_forgotten_leaves_nothing(target: Path) -> None:
    gc.collect()
    descriptors = open_descriptors()
    new = AtomicFile(target)
    write_all(new.fileno(), memoryview(NEW))
    del new
    gc.collect()
    assert_untouched(target)
    assert len(open_descriptors()) == len(descriptors)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("folder", ["missing", "store.sbs", "missing/deeper"])
def test_a_folder_that_is_not_there_is_an_oserror(target: Path, folder: str) -> None:
    with pytest.raises(OSError, match="no such folder"):
        AtomicFile(target.parent / folder / "new.sbs")
    assert_untouched(target)


@pytest.mark.parametrize(
    ("path", "named"),
    [("nowhere/new.sbs", "nowhere"), ("new.sbs", "{}/gone"), ("folder/new.sbs", "{}/gone")],
    ids=["as-given", "link", "link-in-folder"],
)
def test_a_missing_folder_is_named_as_given_or_as_a_link_leads_to_it(
    tmp_path: Path, path: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for link in ("new.sbs", "folder/new.sbs"):
        (tmp_path / link).symlink_to(tmp_path / "gone" / "file.sbs")
    with pytest.raises(FileNotFoundError) as caught:
        AtomicFile(path)
    assert caught.value.filename == named.format(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_an_oserror(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, "denied")

    descriptors = open_descriptors()
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(PermissionError):
        AtomicFile(target)
    monkeypatch.undo()
    gc.collect()
    assert_untouched(target)
    assert open_descriptors() == descriptors


def test_a_folder_where_nothing_can_be_made_is_an_oserror() -> None:
    with pytest.raises(OSError, match=r"/proc"):
        AtomicFile("/proc/self/new.sbs")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors have no names")
def test_a_pipe_that_only_its_descriptor_names_is_not_replaced() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(UsageError, match=f"not-a-file: '/proc/self/fd/{writing}' is not a regular file"):
            AtomicFile(f"/proc/self/fd/{writing}")
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("what", ["folder", "pipe", "loop"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, what: str) -> None:
    path = tmp_path / "what"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("what")
    before = path.lstat()[:7]  # without the times: following a link is an access
    with pytest.raises(UsageError, match=r"not-a-file: .*what' is not a regular file and can't be replaced"):
        AtomicFile(path)
    assert path.lstat()[:7] == before
    assert os.listdir(tmp_path) == ["what"]


# ------------------------------------------------------------------------------------------------ when the disk is full

FULL = """
import errno, os, resource, signal, sys
from blobstore import BlobWriter, FileRange
from blobstore.fileio import system

path, kind, version, source, nbytes = sys.argv[1:]
if kind == "named":
    system.UNNAMED = 0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
data = FileRange(os.open(source, os.O_RDONLY), 0, int(nbytes)) if source else bytes(int(nbytes))
try:
    with BlobWriter(path, version=int(version)) as writer:
        writer.add("small", b"x")
        writer.add("large", data)
except OSError as error:
    print(errno.errorcode[error.errno])
"""

kinds_of_child = pytest.mark.parametrize("child_kind", ["unnamed", "named"])


@kinds_of_child
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("nbytes", "from_file"),
    [(3 << 20, False), (3 << 20, True), ((1 << 20) - 700, False)],
    ids=["in-a-blob", "in-a-blob-from-a-file", "at-the-end"],
)
def test_a_full_disk_leaves_all_as_it_was(
    target: Path, *, child_kind: str, version: int, nbytes: int, from_file: bool
) -> None:
    source = target if from_file else ""
    if from_file:
        target.write_bytes(bytes(nbytes))
    before = target.read_bytes()
    arguments = [str(target), child_kind, str(version), str(source), str(nbytes)]
    child = subprocess.run([sys.executable, "-c", FULL, *arguments], check=True, capture_output=True)
    assert child.stdout == b"EFBIG\n"
    assert target.read_bytes() == before
    assert listing(target) == [target.name]


# ------------------------------------------------------------------------------------------------- the blob writer


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writer_that_breaks_off_leaves_all_as_it_was(target: Path, version: int, error: type[BaseException]) -> None:
    def write() -> None:
        with BlobWriter(target, version=version) as writer:
            writer.add("a", bytes(2 << 20))
            raise error

    with pytest.raises(error):
        write()
    assert_untouched(target)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("version", [1, 2])
def test_a_reader_of_the_old_file_keeps_its_blobs(tmp_path: Path, version: int) -> None:
    path = tmp_path / "store.sbs"
    for content in (b"old", b"new"):
        with BlobWriter(path, version=version) as writer:
            writer.add("a", content * 1000)
        if content == b"old":
            old = BlobReader(path)
    with BlobReader(path) as new:
        assert bytes(old["a"]) == b"old" * 1000
        assert bytes(new["a"]) == b"new" * 1000
    old.close()
