"""Symbolic links to files, and permissions: an index never describes the data of another file."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import numpy as np
import pytest

import blobstore
from blobstore.edit.reindex import attach_index, build_index, detach_index
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.packing.pack import pack
from blobstore.packing.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blobstore.index.locate import IndexPlace

# Of the same sizes, so that the index of one fits the blobs of the other.
OLD = {"a": np.arange(8, dtype=np.float32), "b": np.arange(8, 16, dtype=np.float32)}
NEW = {"c": np.arange(8, dtype=np.int32), "d": np.arange(8, 16, dtype=np.int32)}
PLACES: tuple[IndexPlace, ...] = ("embedded", "external", "none")


def save(path: Path, tensors: dict[str, np.ndarray], index: IndexPlace) -> None:
    with blobstore.create(path, index=index) as store:
        for place, (name, values) in enumerate(tensors.items()):
            if index == "none":
                store.add_blob(f"blob{place}", values.tobytes())
            else:
                store.add(name, values)


def check(path: Path, tensors: dict[str, np.ndarray], index: IndexPlace) -> None:
    """Fail unless a store has exactly these tensors, or no index if there should be none."""
    with blobstore.open(path) as store:
        if index == "none":
            assert store.index is None
            return
        assert set(store) == set(tensors)
        assert all(np.array_equal(store[name], values) for name, values in tensors.items())
        assert all(store[name].dtype == values.dtype for name, values in tensors.items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "links").mkdir()
    return tmp_path


@pytest.mark.parametrize("new", PLACES)
@pytest.mark.parametrize("old", PLACES)
def test_writing_through_a_link_leaves_one_file_with_its_own_names(
    folder: Path, old: IndexPlace, new: IndexPlace
) -> None:
    real, link = folder / "real.sbs", folder / "links" / "link.sbs"
    save(real, OLD, old)
    link.symlink_to(real)
    # Earlier versions also left an index beside the link.
    if old == "external":
        (folder / "links" / "link.sbs.idx").write_bytes((folder / "real.sbs.idx").read_bytes())
    save(link, NEW, new)
    assert link.is_symlink()
    for path in (real, link):
        check(path, NEW, new)
    assert not (folder / "links" / "link.sbs.idx").exists()
    assert (folder / "real.sbs.idx").exists() == (new == "external")


def test_an_index_is_found_beside_a_link_and_beside_the_file(folder: Path) -> None:
    real, link = folder / "real.sbs", folder / "links" / "link.sbs"
    save(real, OLD, "external")
    link.symlink_to(real)
    check(link, OLD, "external")
    # As in a download cache: links to files that are named after their hashes.
    (folder / "real.sbs.idx").rename(folder / "0123")
    (folder / "links" / "link.sbs.idx").symlink_to(folder / "0123")
    check(link, OLD, "external")
    with blobstore.open(real) as store:
        assert store.index is None
    save(link, NEW, "external")
    check(link, NEW, "external")
    check(real, NEW, "external")
    assert (folder / "0123").exists()


WRITES: dict[str, Callable[[Path], object]] = {
    **{place: lambda path, place=place: save(path, NEW, place) for place in PLACES},  # type: ignore[misc]
    "build": lambda path: build_index(path, force=True),
    "detach": detach_index,
    "attach": attach_index,
    "rewrite": lambda path: apply_edits(path, None, Edits(set_metadata={"x": "y"})),
}


NEEDS_ONE = ("attach", "rewrite")  # an index beside the file


@pytest.mark.parametrize("old", ["embedded", "none"])
@pytest.mark.parametrize(
    ("what", "leads"),
    [(what, "to one that fits") for what in WRITES]
    + [(what, leads) for what in WRITES if what not in NEEDS_ONE for leads in ("to another", "nowhere")],
)
def test_an_index_behind_a_link_is_another_files(tmp_path: Path, what: str, leads: str, old: IndexPlace) -> None:
    path, other, beside = tmp_path / "a.sbs", tmp_path / "b.sbs", tmp_path / "a.sbs.idx"
    save(other, NEW | OLD if leads == "to another" else NEW, "external")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    save(path, NEW, "external" if what in NEEDS_ONE else "embedded" if what == "detach" else old)
    beside.unlink(missing_ok=True)
    beside.symlink_to("gone" if leads == "nowhere" else "b.sbs.idx")
    if (what, leads, old) == ("build", "nowhere", "none"):  # it reads the index that is there
        with pytest.raises(blobstore.UsageError, match="not-a-file"):
            WRITES[what](path)
        return
    WRITES[what](path)
    assert {one: (tmp_path / one).read_bytes() for one in before} == before
    assert not (tmp_path / "gone").exists()
    if what == "none" and leads == "nowhere":  # which a reader tells
        beside.unlink()
    with blobstore.open(path) as store:
        assert all(store[name].tobytes() == NEW[name].tobytes() for name in store if name in NEW)


@pytest.mark.parametrize("index", PLACES)
def test_a_file_beside_a_link_that_is_no_index_stays(folder: Path, index: IndexPlace) -> None:
    real, link, beside = folder / "real.sbs", folder / "links" / "link.sbs", folder / "links" / "link.sbs.idx"
    link.symlink_to(real)
    for old in PLACES:
        save(real, OLD, old)
        beside.write_bytes(b"somebody's own")
        save(link, NEW, index)
        assert beside.read_bytes() == b"somebody's own"
        check(real, NEW, index)
    if index != "embedded":  # where it is looked at
        with pytest.raises(blobstore.FormatError) as caught:
            blobstore.open(link)
        assert caught.value.path == str(beside)


def test_an_index_built_anew_is_not_hidden_by_one_beside_a_link(folder: Path) -> None:
    real, link = folder / "real.sbs", folder / "links" / "link.sbs"
    save(real, OLD, "external")
    link.symlink_to(real)
    (folder / "links" / "link.sbs.idx").write_bytes((folder / "real.sbs.idx").read_bytes())
    apply_edits(link, None, Edits(set_metadata={"x": "y"}))
    for path in (real, link):
        with blobstore.open(path) as store:
            assert store.metadata["x"] == "y"


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewrite": lambda path: apply_edits(path, None, Edits(set_metadata={"x": "y"})),
    "rewrite version": lambda path: apply_edits(path, None, Edits(version=1)),
    "rewrite rename": lambda path: apply_edits(path, None, Edits(rename={"a": "aa"})),
    "attach": attach_index,
    "build": lambda path: build_index(path, force=True, digests=True),
    "pack and unpack": lambda path: (pack(path, path.with_name("p.sbs")), unpack(path.with_name("p.sbs"), path)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_commands_change_the_file_that_a_link_points_to(folder: Path, what: str) -> None:
    real, link = folder / "real.sbs", folder / "links" / "link.sbs"
    save(real, OLD, "external")
    link.symlink_to(real)
    CHANGES[what](link)
    assert link.is_symlink()
    assert not (folder / "links" / "link.sbs.idx").exists()
    with blobstore.open(real) as by_path, blobstore.open(link) as by_link:
        assert list(by_path) == list(by_link)
        assert all(np.array_equal(by_path[name], by_link[name]) for name in by_path)
    if what == "attach":
        detach_index(link)
        check(real, OLD, "external")


@pytest.mark.parametrize("mode", [0o600, 0o640])
@pytest.mark.parametrize("new", PLACES)
@pytest.mark.parametrize("old", PLACES)
def test_a_replaced_store_and_its_index_are_as_private_as_before(
    tmp_path: Path, old: IndexPlace, new: IndexPlace, mode: int
) -> None:
    path, beside = tmp_path / "m.sbs", tmp_path / "m.sbs.idx"
    before = os.umask(0o022)
    try:
        save(path, OLD, old)
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o644}
        for file in tmp_path.iterdir():
            file.chmod(mode)
        save(path, NEW, new)
        for file in (path, *([beside] if new == "external" else [])):
            assert stat.S_IMODE(file.stat().st_mode) == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("index", ["embedded", "none"])
def test_a_file_with_the_name_of_an_index_stays_unless_it_is_one(tmp_path: Path, index: IndexPlace) -> None:
    beside = tmp_path / "m.sbs.idx"
    beside.write_bytes(b"somebody's own")
    save(tmp_path / "m.sbs", NEW, index)
    assert beside.read_bytes() == b"somebody's own"
    beside.unlink()
    beside.mkdir()
    save(tmp_path / "m.sbs", OLD, index)
    apply_edits(tmp_path / "m.sbs", None, Edits(index="embedded"))
    assert beside.is_dir()


@pytest.mark.parametrize("index", PLACES)
def test_a_write_through_a_link_that_fails_leaves_the_index_beside_the_link(
    folder: Path, index: IndexPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, link, beside = folder / "real.sbs", folder / "links" / "link.sbs", folder / "links" / "link.sbs.idx"
    save(real, OLD, "external")
    link.symlink_to(real)
    (folder / "real.sbs.idx").rename(beside)
    before = {path: path.read_bytes() for path in (real, beside)}
    replace = os.replace

    def fail(source: str, target: str) -> None:
        if target == os.path.realpath(real):
            raise OSError(errno.EIO, "I/O error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="I/O error"):
        save(link, {name: array + 1 for name, array in OLD.items()}, index)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in before} == before
    assert not (folder / "real.sbs.idx").exists()
    check(link, OLD, "external")


@pytest.mark.parametrize("what", ["stale", "damaged"])
def test_an_unusable_index_beside_a_link_is_not_replaced_unless_it_is_forced(folder: Path, what: str) -> None:
    real, link, beside = folder / "real.sbs", folder / "links" / "link.sbs", folder / "links" / "link.sbs.idx"
    save(folder / "other.sbs", OLD | NEW, "external")
    raw = (folder / "other.sbs.idx").read_bytes()
    beside.write_bytes(raw if what == "stale" else raw[:-1])
    save(real, OLD, "none")
    link.symlink_to(real)
    before = beside.read_bytes()
    with pytest.raises(blobstore.UsageError, match="has-index") as caught:
        build_index(link)
    assert repr(str(beside)) in str(caught.value)
    assert beside.read_bytes() == before
    assert not (folder / "real.sbs.idx").exists()
