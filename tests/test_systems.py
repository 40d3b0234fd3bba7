"""Files are written, edited, packed and read where the system lacks what `blobstore.fileio.system` has on this one.

Windows is simulated by what it refuses: an open or mapped file can't be replaced, moved or removed.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from fcntl import F_GETFL, fcntl
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore.edit.reindex import attach_index, detach_index
from blobstore.fileio import system
from blobstore.fileio.atomic import AtomicFile, write_file
from tests.checkpoints import linux_only, write_peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blobstore.index.locate import IndexPlace

NOWHERE = "/nowhere"
NO_HINTS: dict[str, None] = dict.fromkeys(system.ADVICE)
LACKS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "unnamed files": {"UNNAMED": 0},
    "names of descriptors": {"DESCRIPTORS": NOWHERE},
    "permissions": {"fchmod": None},
    "locks": {"flock": None},
    "preadv": {"preadv": None},
    "copy_file_range": {"copy_file_range": None},
    "posix_fadvise": {"posix_fadvise": None},
    "hints": {"ADVICE": NO_HINTS, "POPULATE_READ": None, "NORESERVE": 0},
    "maps without a descriptor": {"MAP_KEEPS_FILE": True},
}
MACOS = {
    "UNNAMED": 0,
    "DESCRIPTORS": NOWHERE,
    "copy_file_range": None,
    "posix_fadvise": None,
    "POPULATE_READ": None,
    "fdatasync": os.fsync,
}
WINDOWS = {
    **{name: value for lacking in LACKS.values() for name, value in lacking.items()},
    "BINARY": 0,
    "CAUTIOUS": 0,
    "fdatasync": os.fsync,
    "sync": None,
    "SYNC_WRITES": True,
    "OPEN_FILES_STAY": True,
}
LACKS |= {"what macOS lacks": MACOS, "what Windows lacks": WINDOWS}

VALUES = {f"model.layers.{i}.self_attn.q_proj.weight": np.full((64, 300), i, np.float32) for i in range(3)}


def is_open(path: str) -> bool:
    """Whether this process has a file open or mapped."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.path.samestat(os.stat(f"/proc/self/fd/{name}"), status):
                return True
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return any(line.split()[4:5] == [str(status.st_ino)] and line.split()[-1] == path for line in maps)


def refusing(call: Callable[..., None]) -> Callable[..., None]:
    """Return a call that refuses paths of open files, as Windows does."""

    def refuse(*paths: str, **options: Any) -> None:  # noqa: ANN401 (the call's)
        for path in map(os.fsdecode, paths):
            if is_open(os.path.realpath(path)):
                raise PermissionError(errno.EACCES, "used by another process", path)
        call(*paths, **options)

    return refuse


@pytest.fixture(params=LACKS)
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in LACKS[request.param].items():
        assert hasattr(system, name)
        monkeypatch.setattr(system, name, value)
    if system.fchmod is None:
        monkeypatch.delattr(os, "fchown")
        monkeypatch.delattr(os, "fchmod")
    if system.OPEN_FILES_STAY:
        for name in ("replace", "rename", "unlink", "remove"):
            monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return str(request.param)


def has(path: Path, values: dict[str, np.ndarray[Any, Any]]) -> bool:
    """Whether a file opens, mapped and read, and has these values and no others."""
    for access in ("mmap", "read"):
        with blobstore.open(path, access=access, prefetch="all") as store:
            if set(store) != set(values) or not all(np.array_equal(store[name], values[name]) for name in values):
                return False
    return blobstore.verify(path).ok


pytestmark = linux_only  # the simulation looks into /proc


@pytest.mark.usefixtures("lacking")
@pytest.mark.parametrize("index", ["embedded", "external"])
def test_a_file_is_written_replaced_edited_and_packed(tmp_path: Path, index: IndexPlace) -> None:
    path = tmp_path / "model.sbs"
    blobstore.save_file({"old": np.zeros(100_000)}, path)
    with blobstore.create(path, index=index) as writer:
        for name, values in VALUES.items():
            writer[name] = values
    assert has(path, VALUES)

    first = next(iter(VALUES))
    blobstore.rewrite(path, in_place=True, rename={first: "renamed"}, set={"license": "mit"})
    renamed = {("renamed" if name == first else name): values for name, values in VALUES.items()}
    assert has(path, renamed)
    (detach_index if index == "embedded" else attach_index)(path)
    (attach_index if index == "embedded" else detach_index)(path)
    assert has(path, renamed)

    blobstore.pack(path, tmp_path / "packed.sbs")
    assert has(tmp_path / "packed.sbs", renamed)
    blobstore.unpack(tmp_path / "packed.sbs", tmp_path / "again.sbs")
    assert has(tmp_path / "again.sbs", renamed)
    assert {name.removesuffix(".idx") for name in os.listdir(tmp_path)} == {"model.sbs", "packed.sbs", "again.sbs"}


@pytest.mark.usefixtures("lacking")
def test_a_checkpoint_is_converted_and_exported(tmp_path: Path) -> None:
    write_peer(tmp_path / "model.safetensors", VALUES)
    for _ in range(2):  # the second replaces the first
        blobstore.convert(tmp_path / "model.safetensors", tmp_path / "model.sbs")
    assert has(tmp_path / "model.sbs", VALUES)
    assert blobstore.verify(tmp_path / "model.sbs", against=tmp_path / "model.safetensors").ok
    blobstore.export(tmp_path / "model.sbs", tmp_path / "again.safetensors")
    assert blobstore.verify(tmp_path / "model.sbs", against=tmp_path / "again.safetensors").ok
    assert sorted(os.listdir(tmp_path)) == ["again.safetensors", "model.safetensors", "model.sbs"]


@pytest.mark.usefixtures("lacking")
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.sbs"
    blobstore.save_file(VALUES, path)

    def write() -> None:
        with blobstore.create(path) as writer:
            writer["a"] = np.ones(100_000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert has(path, VALUES)
    assert os.listdir(tmp_path) == ["model.sbs"]


@pytest.mark.usefixtures("lacking")
def test_an_interrupt_after_the_file_was_replaced_finds_it_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted(source: str, target: str) -> None:
        replace(source, target)
        raise KeyboardInterrupt

    write_file(tmp_path / "file", b"old")
    file = AtomicFile(tmp_path / "file")
    file.write(memoryview(b"new"))
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        file.commit()
    assert file.committed
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_what_is_synced_may_be_written_to_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    open_, synced = os.open, []

    def opened(path: str, flags: int) -> int:
        if flags & os.O_RDWR and mode == 0o400:  # which doesn't stop root, as whom tests may run
            raise PermissionError(errno.EACCES, "read-only", path)
        return open_(path, flags)

    (tmp_path / "file").write_bytes(b"data")
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(fcntl(fd, F_GETFL) & os.O_ACCMODE))
    system.sync_file(str(tmp_path / "file"))
    monkeypatch.setattr(system, "SYNC_WRITES", True)
    system.sync_file(str(tmp_path / "file"))
    assert synced == ([os.O_RDONLY, os.O_RDWR] if mode == 0o600 else [os.O_RDONLY])


def test_without_preadv_reads_of_a_file_object_are_those_of_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lseek = os.lseek
    blobstore.save_file(VALUES, tmp_path / "model.sbs")
    with open(tmp_path / "model.sbs", "rb", buffering=0) as file:

        def disturbed(fd: int, *place: int) -> int:
            position = lseek(fd, *place)
            file.seek(0)  # by another thread: a copy of its descriptor has the same position
            return position

        monkeypatch.setattr(system, "preadv", None)
        monkeypatch.setattr(os, "lseek", disturbed)
        with blobstore.open(file, access="read") as store:
            assert all(np.array_equal(store[name], VALUES[name]) for name in VALUES)


def test_what_windows_can_not_replace_stays_and_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.sbs"
    blobstore.save_file(VALUES, path)
    monkeypatch.setattr(system, "OPEN_FILES_STAY", True)
    for name in ("replace", "unlink"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    with blobstore.open(path) as store:
        view = store[next(iter(VALUES))]
        with pytest.raises(PermissionError) as caught:
            blobstore.save_file({"new": np.ones(10)}, path)
        assert caught.value.filename == str(path)
        assert np.array_equal(view, VALUES[next(iter(VALUES))])
        del view
    del store  # its tables are views of the map, too
    assert os.listdir(tmp_path) == ["model.sbs"]
    blobstore.save_file({"new": np.ones(10)}, path)
    assert list(blobstore.load_file(path)) == ["new"]
