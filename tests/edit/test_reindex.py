from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import blobstore
from blobstore.checking import verify_file
from blobstore.container import layout
from blobstore.edit.reindex import Indexing, attach_index, build_index, detach_index
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import FormatError, UsageError
from blobstore.gemma.legacy import legacy_tensors
from blobstore.index.metadata import CHOICES, REARRANGED
from blobstore.index.records import SELF_DIGEST_AT
from blobstore.store.writer import StoreWriter
from tests.checkpoints import needs_pipes
from tests.strategies import Blobs, blob_lists, bytes_of, versions
from tests.tensor_strategies import Model, models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blobstore.index import NameIndex

half = settings(max_examples=settings().max_examples // 2)  # each example waits for the disk several times
RUNTIMES_OWN = {"config", "tokenizer", "toc", "Fscales", "~index"}

# Keys that are text, and not those of a toc or an index, which would be checked.
text_blobs = blob_lists(6).filter(
    lambda blobs: not any(key in ("toc", "~index") or 0xDC80 <= ord(c) <= 0xDCFF for key, _ in blobs for c in key)
)


def facts(done: Indexing) -> tuple[object, ...]:
    """Return where an index is and what it has, as far as it doesn't depend on sizes and time."""
    return done.output, done.names, done.lost_names, done.changed_names, done.notes


def folder_of(path: Path) -> dict[str, bytes]:
    """Return the contents of each file in a folder, by name."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def cleared(folder: Path) -> Path:
    """Remove the files of earlier examples from a folder → the path for a new file in it."""
    for file in folder.iterdir():
        file.unlink()
    return folder / "m.sbs"


def write_plain(path: Path, blobs: Blobs, version: int = 2) -> None:
    with blobstore.BlobWriter(path, version=version) as writer:
        for key, data in blobs:
            writer.add(key, data)


def contents_of(path: Path) -> dict[str, tuple[Any, ...]]:
    """Return dtype, shape and bytes of each tensor in a file."""
    with blobstore.open(path) as store:
        return {name: (values.dtype, values.shape, values.tobytes()) for name, values in store.items()}


# Moving an index in and out.


SCALE_AT = 200  # in an index of one entry


@half
@given(models(index="embedded"))
def test_attach_undoes_detach(tmp_path: Path, model: Model) -> None:
    path = cleared(tmp_path)
    model.write(path)
    before = folder_of(tmp_path)
    count = len(model.expected())
    assert facts(detach_index(path)) == (f"{path}.idx", count, 0, 0, ())
    assert contents_of(path) == model.expected()
    assert facts(attach_index(path)) == (str(path), count, 0, 0, ())
    assert folder_of(tmp_path) == before


@half
@given(models(index="external"))
def test_detach_undoes_attach(tmp_path: Path, model: Model) -> None:
    path = cleared(tmp_path)
    model.write(path)
    before = folder_of(tmp_path)
    attach_index(path)
    assert set(folder_of(tmp_path)) == {"m.sbs"}
    assert contents_of(path) == model.expected()
    detach_index(path)
    assert folder_of(tmp_path) == before


@half
@given(models(index="embedded"))
def test_a_detached_file_is_as_if_it_never_had_an_index(tmp_path: Path, model: Model) -> None:
    path = cleared(tmp_path)
    model.write(path)
    with blobstore.BlobReader(path) as reader:
        blobs = [(key, bytes(blob)) for key, blob in reader.items() if key != "~index"]
    detach_index(path)
    plain = path.with_name("plain.sbs")
    write_plain(plain, blobs, model.version)
    assert path.read_bytes() == plain.read_bytes()


def test_detach_replaces_a_stale_index_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a name that is long": np.arange(3)}, path)
    (tmp_path / "m.sbs.idx").write_bytes(b"stale")
    detach_index(path)
    assert list(contents_of(path)) == ["a name that is long"]


def test_blobs_added_after_the_index_stay(tmp_path: Path, vectors: Path) -> None:
    path = tmp_path / "m.sbs"
    path.write_bytes((vectors / "valid" / "index-blobs-added.sbs").read_bytes())
    before = contents_of(path)
    for move in (detach_index, attach_index):
        move(path)
        assert contents_of(path) == before
        with blobstore.BlobReader(path) as reader:
            assert (bytes(reader["c"]), bytes(reader["d"])) == (b"x", b"y")


@pytest.mark.parametrize("move", [attach_index, detach_index])
def test_without_an_index_there_is_nothing_to_move(tmp_path: Path, move: Callable[[Path], object]) -> None:
    path = tmp_path / "m.sbs"
    write_plain(path, [("a", b"x")])
    before = folder_of(tmp_path)
    with pytest.raises(UsageError) as caught:
        move(path)
    assert caught.value.reason == "no-index"
    assert str(path) in str(caught.value)
    assert folder_of(tmp_path) == before


def test_an_index_inside_is_not_replaced_by_one_beside(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": np.arange(3)}, path)
    (tmp_path / "m.sbs.idx").write_bytes(b"other")
    before = folder_of(tmp_path)
    with pytest.raises(UsageError, match="has-index"):
        attach_index(path)
    assert folder_of(tmp_path) == before


def test_a_file_of_nothing_but_its_index_can_not_lose_it(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"none": np.zeros(0)}, path)
    before = folder_of(tmp_path)
    for refused in (detach_index, lambda path: build_index(path, force=True)):
        with pytest.raises(UsageError, match="no-blobs"):
            refused(path)
        assert folder_of(tmp_path) == before


@pytest.mark.parametrize(("damage", "reason"), [(b"\1", "index-magic"), (None, "index-stale")])
def test_a_wrong_index_is_not_attached(tmp_path: Path, damage: bytes | None, reason: str) -> None:
    path, beside = tmp_path / "m.sbs", tmp_path / "m.sbs.idx"
    with blobstore.create(path, index="external") as store:
        store.add("a", np.arange(3))
    if damage:
        beside.write_bytes(damage + beside.read_bytes()[1:])
    else:
        raw = beside.read_bytes()
        write_plain(path, [("a", bytes(25))])
        beside.write_bytes(raw)
    before = folder_of(tmp_path)
    with pytest.raises(FormatError) as caught:
        attach_index(path)
    assert (caught.value.reason, caught.value.path) == (reason, str(beside))
    assert folder_of(tmp_path) == before


def test_a_model_with_the_most_blobs_can_not_take_an_index(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    write_plain(path, [("config", b"x"), *((str(i), b"x") for i in range(16382))])
    build_index(path)
    before = folder_of(tmp_path)
    for refused in (attach_index, lambda path: build_index(path, embed=True, force=True)):
        with pytest.raises(UsageError, match="too-many-blobs"):
            refused(path)
        assert folder_of(tmp_path) == before


@given(blobs=blob_lists(6), version=versions, portable=st.integers(1, 6), is_model=st.booleans())
def test_a_file_of_more_blobs_than_gemma_cpp_takes_gets_an_index(
    tmp_path: Path, blobs: Blobs, version: int, portable: int, is_model: bool
) -> None:
    assume(not {"~index", "toc", "config"} & {*dict(blobs)})
    if is_model:
        blobs = [("config", blobs[0][1]), *blobs[1:]]
    path = cleared(tmp_path)
    write_plain(path, blobs, version)
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "MAX_PORTABLE_BLOBS", portable)
        build_index(path)
        if len(blobs) == portable and is_model:  # gemma.cpp takes it now, and would not with an index
            with pytest.raises(UsageError, match=f"too-many-blobs: .* one more than the {portable} blobs"):
                attach_index(path)
            assert path.read_bytes() == before
            return
        attach_index(path)
        with blobstore.BlobReader(path) as reader:
            assert list(reader) == [*dict(blobs), "~index"]
        detach_index(path)
        assert path.read_bytes() == before


# Building an index.


def has_letters(blobs: Blobs) -> bool:
    """Whether some of them are tensors as in files from before 2025, which are listed as such."""
    try:
        return bool(legacy_tensors([(key, len(data)) for key, data in blobs], None))
    except FormatError:
        return True


@half
@given(text_blobs, versions, st.booleans(), st.booleans())
def test_a_built_index_lists_each_blob_as_bytes(
    tmp_path: Path, blobs: Blobs, version: int, embed: bool, digests: bool
) -> None:
    assume(not has_letters(blobs))
    path = cleared(tmp_path)
    write_plain(path, [*blobs, ("config", b"c")], version)
    before = path.read_bytes()
    listed = {key: data for key, data in blobs if key not in RUNTIMES_OWN}
    assert facts(build_index(path, embed=embed, digests=digests)) == (
        str(path) if embed else f"{path}.idx",
        len(listed),
        0,
        0,
        (),
    )
    assert set(folder_of(tmp_path)) == ({"m.sbs"} if embed else {"m.sbs", "m.sbs.idx"})
    assert embed or path.read_bytes() == before
    with blobstore.open(path) as store:
        assert {name: array.tobytes() for name, array in store.items()} == listed
        assert store.reader.version == version
        assert store.index
        index = store.index
        assert (index.has_digests, index.self_digest_holds()) == (digests, True)
        stored = dict(blobs) | {"config": b"c"}
        for row in map(index.blob, range(len(index.blobs))):
            data = {bytes_of(key): data for key, data in stored.items()}[row.key]
            assert (row.nbytes, row.sha256) == (len(data), hashlib.sha256(data).digest() if digests else None)


def test_a_very_old_file_which_ends_with_its_last_blob_gets_an_index_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    write_plain(path, [("a", b"x" * 100)], 1)
    with blobstore.BlobReader(path) as reader:
        end = reader.directory.payload_end
    raw = path.read_bytes()
    path.write_bytes(raw[:8] + end.to_bytes(8, "little") + raw[16:end])
    build_index(path)
    assert contents_of(path)["a"][2] == b"x" * 100
    attach_index(path)
    assert contents_of(path)["a"][2] == b"x" * 100


@half
@given(text_blobs, versions)
def test_a_built_index_can_be_moved(tmp_path: Path, blobs: Blobs, version: int) -> None:
    path = cleared(tmp_path)
    write_plain(path, [*blobs, ("last", b"x" * 300)] if "last" not in dict(blobs) else blobs, version)
    build_index(path)
    outside = folder_of(tmp_path)
    attach_index(path)
    inside = folder_of(tmp_path)
    detach_index(path)
    assert folder_of(tmp_path) == outside
    build_index(path, embed=True, force=True)
    assert folder_of(tmp_path) == inside


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("index", ["embedded", "external"])
def test_an_index_is_replaced_only_by_force(tmp_path: Path, index: Any, embed: bool) -> None:  # noqa: ANN401
    path = tmp_path / "m.sbs"
    with blobstore.create(path, index=index) as store:
        store.add("a name that is long", np.arange(3))
        store.add("short", np.arange(2))
    before = folder_of(tmp_path)
    with pytest.raises(UsageError, match="has-index") as caught:
        build_index(path, embed=embed)
    assert f"{path}{'.idx' if index == 'external' else ''}'" in str(caught.value)
    assert folder_of(tmp_path) == before
    build_index(path, embed=embed, force=True)
    assert list(contents_of(path)) == ["short", blobstore.key_for("a name that is long")]
    assert set(folder_of(tmp_path)) == ({"m.sbs"} if embed else {"m.sbs", "m.sbs.idx"})


@pytest.mark.parametrize("embed", [False, True])
def test_a_broken_index_can_be_built_anew(tmp_path: Path, embed: bool) -> None:
    path = tmp_path / "m.sbs"
    write_plain(path, [("a", b"x"), ("~index", b"broken")])
    (tmp_path / "m.sbs.idx").write_bytes(b"broken")
    build_index(path, embed=embed, force=True)
    assert list(contents_of(path)) == ["a"]


@needs_pipes
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("digests", [False, True])
def test_a_pipe_in_the_place_of_the_index_is_named_and_not_read(tmp_path: Path, force: bool, digests: bool) -> None:
    path = tmp_path / "m.sbs"
    write_plain(path, [("a", b"x")])
    os.mkfifo(f"{path}.idx")
    with pytest.raises(UsageError, match="not-a-file") as caught:
        build_index(path, force=force, digests=digests)
    assert f"{path}.idx" in str(caught.value)


@pytest.mark.parametrize("embed", [False, True])
def test_a_key_that_can_not_be_a_name_keeps_its_blob(tmp_path: Path, embed: bool) -> None:
    path = tmp_path / "m.sbs"
    write_plain(path, [("a", b"x"), ("\udcff\udcfe", b"y")])
    build_index(path, embed=embed)
    with blobstore.open(path) as store:
        assert list(store) == ["a"]
        assert bytes(store.raw("\udcff\udcfe")) == b"y"
        assert store.index
        assert len(store.index.blobs) == 2


# What the previous index had.

EVERY_PLACE = pytest.mark.parametrize(
    ("before", "embed"), [("embedded", True), ("embedded", False), ("external", True)]
)


def index_of(path: Path) -> NameIndex:
    with blobstore.open(path) as store:
        assert store.index
        return store.index


@EVERY_PLACE
def test_metadata_stays_and_lost_names_are_reported(tmp_path: Path, before: Any, embed: bool) -> None:  # noqa: ANN401
    path = tmp_path / "m.sbs"
    metadata = {"license": "mit", CHOICES: '{"rope_bases": [1e4, 1e4]}', REARRANGED: "{}", "blobstore.base": "00"}
    with StoreWriter(path, index=before, metadata=metadata) as store:
        store.add("a name that is long", np.arange(3))
        store.add("short", np.arange(2))
        store.alias("another", "short")
    done = build_index(path, embed=embed, force=True)
    assert facts(done)[:4] == (str(path) if embed else f"{path}.idx", 2, 2, 1)
    assert index_of(path).metadata == {key: metadata[key] for key in ("license", CHOICES)}
    names, digests = done.notes
    assert names.startswith("2 of the 3 names that the index had are lost, and 1 have another type, shape or scale: ")
    assert names.endswith("export gives tensors as they are stored")
    assert "--digests" in digests
    # Building it again loses nothing.
    again = build_index(path, embed=embed, force=True, digests=True)
    assert facts(again) == (done.output, 2, 0, 0, ())
    assert index_of(path).metadata == {key: metadata[key] for key in ("license", CHOICES)}


def test_what_describes_names_stays_while_they_do(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    write_plain(path, [("a", b"x")])
    build_index(path, embed=True)
    apply_edits(path, None, Edits(set_metadata={REARRANGED: "{}"}))
    assert build_index(path, embed=True, force=True).lost_names == 0
    assert index_of(path).metadata == {REARRANGED: "{}"}


@pytest.mark.parametrize("what", ["entry", "metadata", "digest", "magic"])
def test_the_metadata_of_a_damaged_index_stays_if_it_can_be_read(tmp_path: Path, what: str) -> None:
    path = tmp_path / "m.sbs"
    with StoreWriter(path, metadata={"license": "mit", REARRANGED: "{}"}) as store:
        store.add("a name that is long", np.arange(3))
    with blobstore.BlobReader(path) as reader:
        start, nbytes = reader.range("~index")
    raw = bytearray(path.read_bytes())
    at = {"entry": SCALE_AT + 3, "metadata": nbytes - 1, "digest": SELF_DIGEST_AT, "magic": 0}[what]
    raw[start + at] ^= 0x40 if what == "entry" else 1
    path.write_bytes(raw)
    damaged = tmp_path / "damaged.sbs"
    damaged.write_bytes(raw)
    assert len(build_index(damaged, embed=True, force=True).notes) == (3 if what == "digest" else 1)
    done = build_index(path, embed=True, force=True, digests=True)
    reasons = {"entry": "index-scale", "metadata": "index-metadata", "magic": "index-magic"}
    if what == "digest":
        assert (done.lost_names, len(done.notes)) == (1, 2)
        assert "check that its metadata, which is kept, is right" in done.notes[1]
    else:
        assert (done.lost_names, done.changed_names) == (None, 0)
        lost = "are lost, and its metadata is kept" if what == "entry" else "and metadata are lost"
        assert f"can't be used ({reasons[what]}): its names {lost}" in done.notes[0]
    kept = {} if what in ("metadata", "magic") else {"license": "mit"}
    assert index_of(path).metadata == kept
    assert index_of(path).self_digest_holds()


def test_an_index_of_another_file_gives_no_metadata(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, index="external", metadata={"license": "mit"}) as store:
        store.add("a", np.arange(3))
    raw = (tmp_path / "m.sbs.idx").read_bytes()
    write_plain(path, [("b", b"x")])
    (tmp_path / "m.sbs.idx").write_bytes(raw)
    done = build_index(path, force=True)
    assert (done.lost_names, index_of(path).metadata) == (None, {})
    assert "index-stale" in done.notes[0]
    (tmp_path / "m.sbs.idx").write_bytes(raw)
    assert "no old ones to compare them with" in build_index(path, force=True, digests=True).notes[1]


# Digests: of before, compared and never replaced; missing ones, added.


def flip(path: Path, key: str) -> None:
    """Change a bit of a blob."""
    with blobstore.BlobReader(path) as reader:
        start, _ = reader.range(key)
    raw = bytearray(path.read_bytes())
    raw[start] ^= 1
    path.write_bytes(raw)


@EVERY_PLACE
@pytest.mark.parametrize("broken", [False, True])
def test_new_digests_hide_no_damage(tmp_path: Path, before: Any, embed: bool, broken: bool) -> None:  # noqa: ANN401
    path = tmp_path / "m.sbs"
    with blobstore.create(path, index=before) as store:
        store.add("a name that is long", np.arange(3))
        store.add("short", np.arange(2))
    flip(path, blobstore.key_for("a name that is long"))
    if broken:  # the index's names can't be read, its digests can
        place = path if before == "embedded" else tmp_path / "m.sbs.idx"
        raw = bytearray(place.read_bytes())
        raw[raw.rindex(b"short\0")] = 0xFF
        place.write_bytes(raw)
    was = folder_of(tmp_path)
    with pytest.raises(FormatError, match="damaged-blob") as caught:
        build_index(path, embed=embed, digests=True, force=True)
    assert (caught.value.path, folder_of(tmp_path)) == (str(path), was)
    assert blobstore.key_for("a name that is long") in str(caught.value)
    assert broken or "'a name that is long'" in str(caught.value)
    assert "--force without --digests" in str(caught.value)
    # The way that it names.
    build_index(path, embed=embed, force=True)
    build_index(path, digests=True)
    assert index_of(path).has_digests
    assert verify_file(path).findings == []


@EVERY_PLACE
def test_an_index_without_digests_gets_them_and_keeps_the_rest(
    tmp_path: Path,
    before: Any,  # noqa: ANN401
    embed: bool,
) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, index=before, digests=False, metadata={"license": "mit"}) as store:
        store.add("a name that is long", np.arange(3))
        store.add("short", np.arange(2))
        store.alias("another", "short")
    listed = contents_of(path)
    assert {one.code for one in verify_file(path).findings} == {"no-digests"}
    inside = embed or before == "embedded"
    assert facts(build_index(path, embed=embed, digests=True)) == (str(path) if inside else f"{path}.idx", 3, 0, 0, ())
    assert set(folder_of(tmp_path)) == ({"m.sbs"} if inside else {"m.sbs", "m.sbs.idx"})
    assert (contents_of(path), index_of(path).metadata) == (listed, {"license": "mit"})
    assert verify_file(path).findings == []
    with pytest.raises(UsageError, match=r"has-index.*blobstore verify"):
        build_index(path, digests=True)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_blob_that_was_added_later_gets_its_digest(tmp_path: Path, vectors: Path, damaged: bool) -> None:
    path = tmp_path / "m.sbs"
    path.write_bytes((vectors / "valid" / "index-blobs-added.sbs").read_bytes())
    with blobstore.open(path) as store:
        names = list(store)
    if damaged:
        flip(path, "a")
        with pytest.raises(FormatError, match="damaged-blob"):
            build_index(path, digests=True)
        return
    assert {one.code for one in verify_file(path).findings} == {"no-digest"}
    build_index(path, digests=True)
    assert verify_file(path).findings == []
    with blobstore.open(path) as store:
        assert list(store) == names


def test_digests_are_added_to_no_index_that_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, index="external", digests=False, metadata={"license": "mit"}) as store:
        store.add("a", np.arange(3))
    outside = tmp_path / "m.sbs.idx"
    outside.write_bytes(outside.read_bytes().replace(b"mit", b"MIT"))
    was = folder_of(tmp_path)
    with pytest.raises(FormatError, match="index-digest") as caught:
        build_index(path, digests=True)
    assert (caught.value.path, folder_of(tmp_path)) == (str(outside), was)


# Crashes.


def plain_with_index(path: Path) -> None:
    """Write a file with the external index that `build_index` makes."""
    write_plain(path, [("a", b"x"), ("b", b"y")])
    build_index(path)


def embedded(path: Path) -> None:
    with blobstore.create(path) as store:
        store.add("a", np.arange(3))
        store.add("a name that is long", np.arange(3))


def embedded_beside_rubbish(path: Path) -> None:
    embedded(path)
    path.with_name(path.name + ".idx").write_bytes(b"rubbish")


def external(path: Path) -> None:
    with blobstore.create(path, index="external") as store:
        store.add("a", np.arange(3))
        store.add("a name that is long", np.arange(3))


def force_beside(path: Path) -> None:
    build_index(path, force=True)


def force_inside(path: Path) -> None:
    build_index(path, force=True, embed=True)


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("call", ["replace", "link", "unlink", "fsync", "write"])
@pytest.mark.parametrize(
    ("prepare", "change"),
    [
        (external, attach_index),
        (embedded, detach_index),
        (embedded_beside_rubbish, detach_index),
        (embedded, force_beside),
        (embedded, force_inside),
        (embedded_beside_rubbish, force_beside),
        (embedded_beside_rubbish, force_inside),
        (external, force_beside),
        (external, force_inside),
        (plain_with_index, attach_index),
        (plain_with_index, force_inside),
    ],
)
def test_a_crash_between_two_steps_leaves_the_names_from_before_or_after(  # noqa: PLR0917 (of the parametrisation)
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Path], None],
    change: Callable[[Path], object],
    call: str,
    at: int,
) -> None:
    path, elsewhere = tmp_path / "m.sbs", tmp_path / "other" / "m.sbs"
    elsewhere.parent.mkdir()
    for each_path in (path, elsewhere):
        prepare(each_path)
    before = contents_of(path)
    change(elsewhere)
    after = contents_of(elsewhere)
    real, calls = getattr(os, call), iter(range(100))

    def failing(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        if next(calls) >= at:
            raise OSError(5, "Input/output error")
        return real(*args, **options)

    monkeypatch.setattr(os, call, failing)
    with contextlib.suppress(OSError):
        change(path)
    monkeypatch.undo()
    assert contents_of(path) in (before, after)
    left = {*os.listdir(tmp_path)} - {"m.sbs", "m.sbs.idx", "other"}
    assert all(call == "unlink" and name.endswith(".lock") for name in left)  # the next writer takes it over


@pytest.mark.parametrize("place", ["embedded", "external", "unreadable inside", "unreadable beside"])
def test_an_index_that_is_in_the_way_is_named_where_it_is(tmp_path: Path, place: str) -> None:
    path, beside = tmp_path / "m.sbs", tmp_path / "m.sbs.idx"
    if place == "unreadable inside":
        with blobstore.BlobWriter(path) as writer:
            writer.add("w", b"data")
            writer.add("~index", b"not an index")
    else:
        inside = "embedded" if place == "embedded" else "external"
        with blobstore.create(path, index=inside) as store:  # type: ignore[arg-type]
            store.add("w", np.zeros(4))
    if place == "unreadable beside":
        beside.write_bytes(b"not an index")
    where = beside if place in ("external", "unreadable beside") else path
    for digests in (False, True):
        with pytest.raises(UsageError) as caught:
            build_index(path, digests=digests)
        # With digests, one that has them all says so.
        assert caught.value.reason == "has-index"
        assert repr(str(where)) in caught.value.message


def test_no_digests_are_added_to_an_index_that_can_not_be_used(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, digests=False) as store:
        store.add("a name that is long", np.arange(3))
    with blobstore.BlobReader(path) as reader:
        start, _ = reader.range("~index")
    raw = bytearray(path.read_bytes())
    raw[start + SCALE_AT + 2 : start + SCALE_AT + 4] = b"\xff\xff"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match="has-index"):
        build_index(path, digests=True)
    assert path.read_bytes() == raw


def test_an_index_alone_is_not_taken_out_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, metadata={"license": "mit"}):
        pass
    before = path.read_bytes()
    with pytest.raises(UsageError, match="no-blobs"):
        detach_index(path)
    assert path.read_bytes() == before
