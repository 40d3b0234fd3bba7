from __future__ import annotations

import gc
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, get_args

import pytest

from blobstore.bench import page_cache
from blobstore.errors import TruncatedError, UsageError
from blobstore.fileio import system
from blobstore.fileio.file_systems import file_system, is_remote, mounted_type
from blobstore.fileio.plain_files import PlainFile
from blobstore.fileio.source import MappedFile, open_source
from blobstore.fileio.types import Prefetch
from tests.strategies import payload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blobstore.fileio.types import Access, ByteSource

DATA = payload(1, 10_000)

both_ways = pytest.mark.parametrize("access", ["mmap", "read"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture(params=["mmap", "read"])
def source(request: pytest.FixtureRequest, file: Path) -> Iterator[ByteSource]:
    opened = open_source(file, request.param)
    yield opened
    opened.close()


def open_descriptors() -> int:
    gc.collect()  # closes now what other tests have left open
    return len(os.listdir("/proc/self/fd"))


def test_views_are_the_files_bytes(source: ByteSource) -> None:
    assert source.size == len(DATA)
    assert source.view(0, len(DATA)) == DATA
    assert source.view(4095, 3) == DATA[4095:4098]
    assert not source.view(len(DATA), 0).tobytes()
    assert os.pread(source.fileno(), 5, 7) == DATA[7:12]


@both_ways
@pytest.mark.parametrize("prefetch", get_args(Prefetch))
def test_hints_change_no_byte(file: Path, access: Access, prefetch: Prefetch) -> None:
    for writable in (False, True):
        source = open_source(file, access, writable=writable, prefetch=prefetch)
        assert source.view(0, len(DATA)) == DATA
        assert source.access == access
        source.close()


NO_ADVICE = 9999  # no system knows it


@pytest.mark.parametrize("populate", [None, NO_ADVICE], ids=["unknown", "refused"])
@pytest.mark.parametrize("others", [None, NO_ADVICE], ids=["unknown", "refused"])
@pytest.mark.parametrize("prefetch", get_args(Prefetch))
def test_a_system_without_a_hint_opens_all_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch, populate: int | None, others: int | None, prefetch: Prefetch
) -> None:
    monkeypatch.setattr(system, "POPULATE_READ", populate)
    for name in system.ADVICE:
        monkeypatch.setitem(system.ADVICE, name, others)
    source = open_source(file, prefetch=prefetch)
    assert source.view(0, len(DATA)) == DATA
    source.close()


@pytest.mark.skipif(not page_cache.CAN_DROP, reason="this system doesn't drop a file's pages on request")
def test_all_of_a_file_is_in_memory_when_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(payload(2, 1 << 20) * 8)
    page_cache.prepare(str(path))
    page_cache.drop([str(path)])
    before = page_cache.resident([str(path)])
    if before is None or before[0]:
        pytest.skip("this system doesn't say what is in memory, or keeps its files there")
    open_source(path).close()
    assert page_cache.resident([str(path)]) == (0, before[1])
    open_source(path, prefetch="all").close()
    assert page_cache.resident([str(path)]) == (before[1], before[1])


def test_views_are_read_only(source: ByteSource) -> None:
    assert source.view(10, 20).readonly
    assert source.view(10, 20).format == "B"


@both_ways
def test_what_is_written_to_views_never_reaches_the_file(file: Path, access: Access) -> None:
    source, unchanged = open_source(file, access, writable=True), open_source(file, access)
    view = source.view(10, 20)
    view[:] = bytes(20)
    assert view == bytes(20)
    assert unchanged.view(10, 20) == DATA[10:30]
    # All views of a map share its memory; plain reads are copies.
    assert source.view(0, 40) == (DATA[:10] + bytes(20) + DATA[30:40] if access == "mmap" else DATA[:40])
    source.close()
    unchanged.close()
    assert view == bytes(20)
    assert file.read_bytes() == DATA


def overcommits() -> bool:
    try:
        with open("/proc/sys/vm/overcommit_memory") as mode:
            return mode.read().strip() != "2"
    except OSError:
        return False


@pytest.mark.skipif(not system.NORESERVE or not overcommits(), reason="this system reserves memory for a private map")
def test_a_writable_map_may_be_larger_than_memory(tmp_path: Path) -> None:
    path, size = tmp_path / "sparse", 1 << 40
    path.touch()
    os.truncate(path, size)
    source = open_source(path, writable=True)
    view = source.view(size - 8, 8)
    view[:] = b"the last"
    assert bytes(source.view(size - 8, 8)) == b"the last"
    del view
    source.close()


def test_views_outlive_the_file(source: ByteSource) -> None:
    view = source.view(10, 20)
    source.close()
    assert view == DATA[10:30]


def test_a_closed_file_has_no_views(source: ByteSource) -> None:
    source.close()
    source.close()
    with pytest.raises(UsageError, match="closed: this file was closed"):
        source.view(0, 1)
    with pytest.raises(UsageError, match="closed: this file was closed"):
        source.fileno()


def test_a_map_is_not_copied_and_plain_reads_are(file: Path) -> None:
    mapped, plain = open_source(file, "mmap"), open_source(file, "read")
    assert (mapped.access, plain.access) == ("mmap", "read")
    views = [(source.view(0, 4), source.view(0, 4)) for source in (mapped, plain)]
    with open(file, "r+b") as changed:
        changed.write(b"new!")
    assert [bytes(view) for pair in views for view in pair] == [b"new!", b"new!", DATA[:4], DATA[:4]]
    mapped.close()
    plain.close()


@both_ways
def test_an_empty_file_can_be_opened(tmp_path: Path, access: Access) -> None:
    (tmp_path / "empty").touch()
    source = open_source(tmp_path / "empty", access)
    assert source.size == 0
    source.close()


@both_ways
def test_a_symbolic_link_is_followed(file: Path, access: Access) -> None:
    file.with_name("link").symlink_to(file)
    source = open_source(file.with_name("link"), access)
    assert source.view(0, 5) == DATA[:5]
    source.close()


@both_ways
@pytest.mark.parametrize("what", ["a folder", "a pipe or device"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, access: Access, what: str) -> None:
    path = tmp_path / "what"
    path.mkdir() if what == "a folder" else os.mkfifo(path)
    with pytest.raises(UsageError) as caught:
        open_source(path, access)
    assert str(caught.value) == f"not-a-file: expected a regular file, found {what} [{path}]"


@both_ways
def test_a_device_is_refused(access: Access) -> None:
    with pytest.raises(UsageError, match="not-a-file"):
        open_source("/dev/zero", access)


@both_ways
def test_a_file_that_is_not_there_is_an_oserror(tmp_path: Path, access: Access) -> None:
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "missing", access)


def test_another_word_than_mmap_or_read_is_refused(file: Path) -> None:
    with pytest.raises(UsageError, match="bad-access: expected one of auto, mmap, read, found 'rw'"):
        open_source(file, "rw")  # type: ignore[arg-type]


def test_another_hint_is_refused(file: Path) -> None:
    with pytest.raises(UsageError, match="bad-prefetch: expected one of none, all, sequential, random, found 'some'"):
        open_source(file, prefetch="some")  # type: ignore[arg-type]


def test_a_file_that_cannot_be_mapped_is_closed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    before = open_descriptors()
    monkeypatch.setattr(mmap, "mmap", no_memory)
    with pytest.raises(MemoryError):
        open_source(file, "mmap")
    assert open_descriptors() == before


def test_closing_gives_descriptors_back(file: Path) -> None:
    before = open_descriptors()
    for source_class in (MappedFile, PlainFile):
        source = source_class(os.open(file, os.O_RDONLY))
        source.view(0, 10)
        source.close()
    assert open_descriptors() == before


@pytest.mark.parametrize("size", [0, 99, 100, 150], ids=["nothing-left", "before", "at-its-beginning", "inside"])
def test_plain_reads_of_a_file_that_shrank_are_refused(file: Path, size: int) -> None:
    source = open_source(file, "read")
    os.truncate(file, size)
    with pytest.raises(TruncatedError) as caught:
        source.view(100, 200)
    end, missing = max(size, 100), 300 - max(size, 100)
    assert str(caught.value) == (
        f"short-read: the file ends at {end}, {missing} bytes too early: it was truncated while open [{file}]"
    )
    assert caught.value.offset == end
    source.close()


def test_reads_that_come_in_pieces_are_put_together(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seven(fd: int, targets: list[memoryview], offset: int) -> int:
        return os.preadv(fd, [targets[0][:7]], offset)

    monkeypatch.setattr(system, "preadv", seven)
    source = open_source(file, "read")
    assert source.view(13, 1000) == DATA[13:1013]
    source.close()


def test_threads_do_not_disturb_each_other(source: ByteSource) -> None:
    def matches(offset: int) -> bool:
        return source.view(offset, 777) == DATA[offset : offset + 777]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(matches, range(0, 9000, 7)))


# How a file is read.

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 22 0:27 / /dev/shm rw,nosuid shared:4 - tmpfs tmpfs rw
40 22 0:52 /share /mnt/a\\040b rw,relatime - nfs4 host:/share rw,vers=4.2
41 22 0:53 / /mnt/ssh rw master:7 propagate_from:2 - fuse.sshfs host: rw
42 22 8:17 / /mnt/usb rw - fuseblk /dev/sdb1 rw
no mount at all
"""


@pytest.mark.parametrize(
    ("device", "type_name", "remote"),
    [
        ((8, 1), "ext4", False),
        ((0, 27), "tmpfs", False),
        ((0, 52), "nfs4", True),
        ((0, 53), "fuse.sshfs", True),
        ((8, 17), "fuseblk", False),
        ((9, 9), "", False),
    ],
)
def test_network_drives_are_told_by_their_mounts(device: tuple[int, int], type_name: str, remote: bool) -> None:
    assert mounted_type(MOUNTS.splitlines(), *device) == type_name
    assert is_remote(type_name) == remote


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="the system doesn't say what is mounted")
def test_the_kind_of_a_file_system_is_the_one_that_the_system_says(tmp_path: Path) -> None:
    assert file_system(os.stat("/proc/self").st_dev) == "proc"
    assert file_system(0xFFFFFFFFFFFF) == ""
    assert isinstance(file_system(tmp_path.stat().st_dev), str)


@pytest.mark.parametrize(("type_name", "access"), [("nfs4", "read"), ("ext4", "mmap"), ("", "mmap")])
def test_auto_maps_unless_the_file_is_on_a_network_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_name: str, access: Access
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    monkeypatch.setattr("blobstore.fileio.source.file_system", lambda _device: type_name)
    source = open_source(path)
    assert source.access == access
    assert bytes(source.view(1, 3)) == b"yte"
    source.close()
    forced = open_source(path, "mmap")
    assert forced.access == "mmap"
    forced.close()


# Closing while someone reads.


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_descriptor_that_is_held_stays_the_files(source: ByteSource, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(len(DATA)))
    before = open_descriptors()
    with source.held() as fd, source.held() as again:
        source.close()
        others = [os.open(tmp_path / "other", os.O_RDONLY) for _ in range(8)]
        try:
            assert fd is not None
            assert fd == again
            assert fd not in others
            assert os.pread(fd, 7, 3) == DATA[3:10]
            with pytest.raises(UsageError, match="closed"), source.held():
                pass
        finally:
            for opened in others:
                os.close(opened)
    assert open_descriptors() < before
    source.close()
    with pytest.raises(UsageError, match="closed"):
        source.fileno()


@both_ways
def test_views_are_the_files_or_it_is_closed_whatever_other_threads_do(
    file: Path, tmp_path: Path, access: Access
) -> None:
    (tmp_path / "other").write_bytes(bytes(len(DATA)))

    def read(source: ByteSource) -> set[bytes]:
        seen = set()
        for _ in range(20):
            try:
                seen.add(bytes(source.view(0, len(DATA))))
            except UsageError as error:
                assert error.reason == "closed"  # noqa: PT017 (in another thread)
        return seen

    def close(source: ByteSource) -> None:
        source.close()
        for _ in range(4):
            os.close(os.open(tmp_path / "other", os.O_RDONLY))

    with ThreadPoolExecutor(3) as pool:
        for _ in range(30):
            source = open_source(file, access)
            reading = [pool.submit(read, source) for _ in range(2)]
            pool.submit(close, source).result()
            assert {view for job in reading for view in job.result()} <= {DATA}
