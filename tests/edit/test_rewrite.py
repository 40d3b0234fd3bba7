"""`blobstore rewrite`: only what is asked for changes, and the old file stays until the new one is complete."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import blobstore
from blobstore.checking import check_file, verify_file
from blobstore.codecs.element_types import BY_NAME
from blobstore.container import layout
from blobstore.container.reader import BlobReader
from blobstore.converting.choices import Choices
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import FormatError, UsageError
from blobstore.gemma.toc import build_toc, parse_toc, toc_entry
from blobstore.index import IndexedBlob, build_index
from blobstore.index.metadata import CHOICES
from tests.gemma_checkpoints import convert, sound_recipe
from tests.strategies import Blobs, blob_lists, versions
from tests.tensor_strategies import Model, models

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from blobstore.index.locate import IndexPlace

TENSORS = {
    "model.layers.0.mlp.up_proj.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "model.layers.1.mlp.up_proj.weight": np.arange(7, dtype=np.float32),
    "model.embed_tokens.weight": np.arange(8, dtype=np.float32),
}


def write(path: Path, index: IndexPlace = "embedded", version: int = 2, *, digests: bool = True) -> Path:
    """Write three tensors, a second name for one of them, and a blob."""
    with blobstore.create(path, index=index, version=version, digests=digests, metadata={"a": "b"}) as store:
        for name, array in TENSORS.items():
            store.add(name, array)
        store.alias("lm_head.weight", "model.embed_tokens.weight")
        store.add_blob("tokenizer", b"tokens")
    return path


def write_plain(path: Path, blobs: Blobs | Mapping[str, bytes]) -> Path:
    with blobstore.BlobWriter(path) as writer:
        for key, data in dict(blobs).items():
            writer.add(key, data)
    return path


def names_of(path: Path) -> list[str]:
    with blobstore.open(path) as store:
        return list(store)


def keys_of(path: Path) -> list[str]:
    with BlobReader(path) as reader:
        return list(reader)


def contents_of(path: Path) -> dict[str, tuple[Any, ...]]:
    """Return dtype, shape and bytes of each tensor in a file."""
    with blobstore.open(path) as store:
        return {name: (values.dtype, values.shape, values.tobytes()) for name, values in store.items()}


# ------------------------------------------------------------------------------------------------------ what stays


@given(models(), versions)
def test_another_version_has_the_same_contents(tmp_path: Path, model: Model, version: int) -> None:
    assume("toc" not in model.blobs)
    old, new = tmp_path / "old.sbs", tmp_path / "new.sbs"
    model.write(old)
    expected = tmp_path / "expected.sbs"
    replace(model, version=version).write(expected)
    done = apply_edits(old, new, Edits(version=version))
    assert new.read_bytes() == expected.read_bytes()
    assert done.output == str(new)
    assert done.blobs == len([key for key in keys_of(new) if key != "~index"])
    if model.index == "external":
        assert new.with_name("new.sbs.idx").read_bytes() == expected.with_name("expected.sbs.idx").read_bytes()


@given(blob_lists(), versions)
def test_a_file_without_an_index_keeps_every_blob(tmp_path: Path, blobs: Blobs, version: int) -> None:
    assume(not {"~index", "toc"} & dict(blobs).keys())
    old, new = write_plain(tmp_path / "old.sbs", blobs), tmp_path / "new.sbs"
    apply_edits(old, new, Edits(version=version))
    with BlobReader(new) as reader:
        assert [(key, bytes(blob)) for key, blob in reader.items()] == blobs
        assert reader.version == version


def test_a_config_replaces_only_a_config(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "m.sbs", {"a": b"x", "config": b"old"})
    apply_edits(path, None, Edits(config=b"new"))
    with BlobReader(path) as reader:
        assert bytes(reader["config"]) == b"new"
    apply_edits(path, None, Edits(drop=("config",)))
    with pytest.raises(UsageError, match="no-match"):
        apply_edits(path, None, Edits(config=b"new"))
    assert keys_of(path) == ["a"]


def test_padding_is_clean_afterwards(tmp_path: Path) -> None:
    path = write(tmp_path / "m.sbs")
    right = path.read_bytes()
    raw = bytearray(right)
    raw[100] = 1
    path.write_bytes(raw)
    apply_edits(path, None, Edits())
    assert path.read_bytes() == right


@pytest.mark.parametrize("index", ["embedded", "external"])
def test_the_index_goes_where_it_is_asked_for(tmp_path: Path, index: IndexPlace) -> None:
    path = write(tmp_path / "m.sbs", "embedded" if index == "external" else "external")
    apply_edits(path, None, Edits(index=index))
    expected = write(tmp_path / "expected.sbs", index)
    assert path.read_bytes() == expected.read_bytes()
    beside = path.with_name("m.sbs.idx")
    assert beside.exists() == (index == "external")
    if beside.exists():
        assert beside.read_bytes() == expected.with_name("expected.sbs.idx").read_bytes()


@pytest.mark.parametrize("before", ["embedded", "external"])
def test_an_index_that_is_left_out_leaves_nothing_behind(tmp_path: Path, before: IndexPlace) -> None:
    path = write(tmp_path / "m.sbs", before)
    assert apply_edits(path, None, Edits(index="none")).names == 0
    assert os.listdir(tmp_path) == ["m.sbs"]
    assert "~index" not in keys_of(path)


def test_a_damaged_blob_is_not_given_a_new_digest(tmp_path: Path) -> None:
    path = write(tmp_path / "m.sbs")
    raw = bytearray(path.read_bytes())
    raw[257] ^= 1
    path.write_bytes(raw)
    with pytest.raises(FormatError) as caught:
        apply_edits(path, tmp_path / "new.sbs", Edits())
    assert caught.value.reason == "damaged-blob"
    assert os.listdir(tmp_path) == ["m.sbs"]


@given(blobs=blob_lists(4), version=versions, step=st.integers(1, 70_000))
def test_blobs_are_copied_in_steps_and_every_byte_is_reported(
    tmp_path: Path, blobs: Blobs, version: int, step: int
) -> None:
    assume(not {"~index", "toc"} & dict(blobs).keys())
    old, new = write_plain(tmp_path / "old.sbs", blobs), tmp_path / "new.sbs"
    step = max(step, max(len(blob) for _, blob in blobs) // 50)
    reported: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blobstore.fileio.ranges.STEP_NBYTES", step)
        apply_edits(old, new, Edits(version=version), progress=reported.append)
    with BlobReader(new) as reader:
        assert [(key, bytes(blob)) for key, blob in reader.items()] == blobs
    assert sum(reported) == sum(len(blob) for _, blob in blobs)
    assert max(reported) <= step


@pytest.mark.parametrize("digests", [True, False])
def test_digests_stay_as_they_were(tmp_path: Path, digests: bool) -> None:
    path = write(tmp_path / "m.sbs", digests=digests)
    apply_edits(path, None, Edits(set_metadata={"x": "y"}))
    with blobstore.open(path) as store:
        assert store.index is not None
        assert store.index.has_digests is digests
        assert store.metadata == {"a": "b", "x": "y"}
    assert not [finding for finding in verify_file(path).findings if digests]


# ------------------------------------------------------------------------------------------------------------ dropping


@pytest.mark.parametrize("index", ["embedded", "external"])
def test_dropped_names_take_their_blobs_along(tmp_path: Path, index: IndexPlace) -> None:
    path = write(tmp_path / "m.sbs", index)
    done = apply_edits(path, None, Edits(drop=("model.layers.*",)))
    assert done.dropped == ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")
    assert names_of(path) == ["lm_head.weight", "model.embed_tokens.weight"]
    gone = {blobstore.key_for(name) for name in done.dropped}
    assert not gone & set(keys_of(path))
    assert "tokenizer" in keys_of(path)
    assert not verify_file(path).findings


def test_a_blob_stays_as_long_as_it_has_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "m.sbs")
    apply_edits(path, None, Edits(drop=("model.embed_tokens.weight",)))
    with blobstore.open(path) as store:
        assert (store["lm_head.weight"] == TENSORS["model.embed_tokens.weight"]).all()
    apply_edits(path, None, Edits(drop=("lm_head.weight",)))
    assert blobstore.key_for("model.embed_tokens.weight") not in keys_of(path)


def test_a_blob_that_is_dropped_by_its_key_takes_its_names_along(tmp_path: Path) -> None:
    path = write(tmp_path / "m.sbs")
    apply_edits(path, None, Edits(drop=(blobstore.key_for("model.embed_tokens.weight"),)))
    assert names_of(path) == ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]


def test_the_runtimes_own_blobs_go_only_by_their_key(tmp_path: Path) -> None:
    path = write(tmp_path / "m.sbs")
    with pytest.raises(UsageError) as caught:
        apply_edits(path, None, Edits(drop=("token*",)))
    assert caught.value.reason == "no-match"
    apply_edits(path, None, Edits(drop=("tokenizer",)))
    assert "tokenizer" not in keys_of(path)


def test_a_file_whose_blobs_are_all_dropped_is_refused(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "m.sbs", {"a": b"x", "b": b"y"})
    before = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        apply_edits(path, None, Edits(drop=("*",)))
    assert caught.value.reason == "no-blobs"
    assert path.read_bytes() == before


# ------------------------------------------------------------------------------------------------------------ renaming


def test_a_blob_follows_the_name_that_its_key_was_made_from(tmp_path: Path) -> None:
    path = write(tmp_path / "m.sbs")
    old, new = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    done = apply_edits(path, None, Edits(rename={old: new, "lm_head.weight": "head"}))
    assert done.renamed == 2
    with blobstore.open(path) as store:
        assert (store[new] == TENSORS[old]).all()
        assert store.info(new).key == blobstore.key_for(new)
        assert store.info("head").key == blobstore.key_for("model.embed_tokens.weight")
        assert old not in store
    assert not verify_file(path).findings


def test_two_names_can_be_exchanged(tmp_path: Path) -> None:
    path = write(tmp_path / "m.sbs")
    first, second = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    apply_edits(path, None, Edits(rename={first: second, second: first}))
    with blobstore.open(path) as store:
        assert (store[first] == TENSORS[second]).all()
        assert (store[second] == TENSORS[first]).all()
        assert {store.info(name).key for name in (first, second)} == {
            blobstore.key_for(name) for name in (first, second)
        }


def test_without_an_index_keys_are_renamed(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "m.sbs", {"foo_1234": b"x", "b": b"y"})
    apply_edits(path, None, Edits(rename={"foo_1234": "foo"}))
    assert keys_of(path) == ["foo", "b"]


@pytest.mark.parametrize(
    ("rename", "reason"),
    [
        ({"nothing": "a"}, "no-match"),
        ({"a": ""}, "bad-key"),
        ({"a": "b"}, "duplicate-key"),
        ({"a": "a key that is too long"}, "key-too-long"),
        ({"a": "config"}, "reserved-key"),
        ({"a": "~index"}, "reserved-key"),
        ({"a": "~packed.idx"}, "reserved-key"),
        ({"tokenizer": "a"}, "reserved-key"),
    ],
)
def test_a_new_key_that_can_not_be_is_refused(tmp_path: Path, rename: dict[str, str], reason: str) -> None:
    path = write_plain(tmp_path / "m.sbs", {"a": b"x", "b": b"y", "tokenizer": b"z"})
    before = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        apply_edits(path, None, Edits(rename=rename))
    assert caught.value.reason == reason
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.sbs"]


@pytest.mark.parametrize(
    ("rename", "reason"),
    [({"lm_head.weight": ""}, "bad-name"), ({"lm_head.weight": "model.embed_tokens.weight"}, "duplicate-name")],
)
def test_a_new_name_that_can_not_be_is_refused(tmp_path: Path, rename: dict[str, str], reason: str) -> None:
    path = write(tmp_path / "m.sbs")
    before = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        apply_edits(path, None, Edits(rename=rename))
    assert caught.value.reason == reason
    assert path.read_bytes() == before


# ---------------------------------------------------------------------------------------------------- metadata, order


def test_metadata_beside_a_file_changes_without_it(tmp_path: Path) -> None:
    path = write(tmp_path / "m.sbs", "external")
    before = path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino
    apply_edits(path, None, Edits(set_metadata={"license": "mit"}, unset_metadata=("a",)))
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    with blobstore.open(path) as store:
        assert store.metadata == {"license": "mit"}
    assert not verify_file(path).findings


def test_a_file_without_an_index_gets_one_for_its_metadata(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "m.sbs", {"a": b"xyz", "tokenizer": b"z", "\udcff": b"no name"})
    apply_edits(path, None, Edits(set_metadata={"license": "mit"}))
    with blobstore.open(path) as store:
        assert store.metadata == {"license": "mit"}
        assert list(store) == ["a"]
        assert bytes(store.raw("\udcff")) == b"no name"
    assert not verify_file(path).findings


def test_metadata_without_an_index_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.sbs")
    with pytest.raises(UsageError) as caught:
        apply_edits(path, None, Edits(set_metadata={"a": "c"}, index="none"))
    assert caught.value.reason == "needs-index"
    with pytest.raises(UsageError) as caught:
        apply_edits(path, None, Edits(unset_metadata=("nothing",)))
    assert caught.value.reason == "no-match"


def test_blobs_are_sorted_by_name_and_the_runtimes_own_last(tmp_path: Path) -> None:
    path = write(tmp_path / "m.sbs")
    expected = contents_of(path)
    apply_edits(path, None, Edits(sort=True))
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    assert keys_of(path) == [*map(blobstore.key_for, names), "tokenizer", "~index"]
    assert contents_of(path) == expected
    assert not verify_file(path).findings


# ------------------------------------------------------------------------------------------------------------ a model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    convert(sound_recipe("gemma3").write(tmp_path / "c"), tmp_path / "m.sbs", Choices("bf16"))
    return tmp_path / "m.sbs"


def test_a_tensor_whose_rows_are_padded_can_be_dropped(model: Path, tmp_path: Path) -> None:
    with BlobReader(model) as reader:
        blobs = {key: bytes(blob) for key, blob in reader.items() if key != "~index"}
    entries = parse_toc(blobs["toc"])
    odd = [replace(entry, stride=entry.cols + 64) if entry.name == "linear_w_0" else entry for entry in entries]
    path = write_plain(tmp_path / "odd.sbs", blobs | {"toc": build_toc(odd)})
    with pytest.raises(FormatError, match=r"toc-stride: .*--drop linear_w_0,"):
        blobstore.open(path)
    apply_edits(path, tmp_path / "out.sbs", Edits(drop=("linear_w_0",)))
    assert names_of(tmp_path / "out.sbs") == [entry.name for entry in entries if entry.name != "linear_w_0"]


@given(blobs=blob_lists(6), portable=st.integers(1, 6), version=versions, is_model=st.booleans())
def test_a_file_of_more_blobs_than_gemma_cpp_takes_is_written_anew(
    tmp_path: Path, blobs: Blobs, portable: int, version: int, is_model: bool
) -> None:
    assume(not {"~index", "toc", "config"} & {*dict(blobs)})
    if is_model:
        blobs = [("config", blobs[0][1]), *blobs[1:]]
    path, out = write_plain(tmp_path / "m.sbs", blobs), tmp_path / "out.sbs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "MAX_PORTABLE_BLOBS", portable)
        apply_edits(path, out, Edits(version=version))
        with BlobReader(out) as reader:
            assert dict(reader) == dict(blobs)
            assert reader.version == version
        if len(blobs) == portable and is_model:
            with pytest.raises(UsageError, match="too-many-blobs"):
                apply_edits(path, out, Edits(set_metadata={"a": "b"}))
        else:
            apply_edits(path, out, Edits(set_metadata={"a": "b"}))
            assert keys_of(out) == [*dict(blobs), "~index"]


def test_the_toc_is_kept_in_step(model: Path) -> None:
    assert not check_file(model)
    apply_edits(model, None, Edits(drop=("c_final_norm",), rename={"linear_w_0": "linear_v_0"}))
    with BlobReader(model) as reader:
        keys = {entry.name for entry in parse_toc(reader["toc"])}
        assert keys == set(reader) - {"config", "tokenizer", "toc", "~index"}
    assert {finding.code for finding in check_file(model)} == {"missing-tensor", "unexpected-tensor"}
    assert not verify_file(model).findings


def test_notes_about_the_source_go_when_they_are_no_longer_true(model: Path) -> None:
    with blobstore.open(model) as store:
        assert json.loads(store.metadata["blobstore.rearranged"])
    done = apply_edits(model, None, Edits(drop=("c_final_norm",)))
    assert len(done.notes) == 1
    with blobstore.open(model) as store:
        assert not [key for key in store.metadata if key.startswith("blobstore.")]


@pytest.mark.parametrize("text", ['{"rope_bases": [1, 1], "weights": "sfp"}', "{", "[]", "null", "[" * 100_000])
def test_the_rope_bases_stay_of_the_choices_of_a_conversion(model: Path, text: str) -> None:
    apply_edits(model, None, Edits(set_metadata={CHOICES: text}))
    assert apply_edits(model, None, Edits(drop=("c_final_norm",))).notes
    kept = {"format": "pt"} | ({CHOICES: '{"rope_bases": [1, 1]}'} if "bases" in text else {})
    with blobstore.open(model) as store:
        assert store.metadata == kept
    assert not apply_edits(model, None, Edits(drop=("linear_w_0",))).notes
    with blobstore.open(model) as store:
        assert store.metadata == kept


def test_notes_about_the_source_stay_while_they_are_true(model: Path) -> None:
    before = model.read_bytes()
    done = apply_edits(model, None, Edits(version=1))
    assert not done.notes
    apply_edits(model, None, Edits(version=2))
    assert hashlib.sha256(model.read_bytes()).digest() == hashlib.sha256(before).digest()


@given(st.data())
def test_any_edits_leave_a_valid_file(tmp_path: Path, data: st.DataObject) -> None:
    model = data.draw(models())
    assume("toc" not in model.blobs)
    path = tmp_path / "m.sbs"
    path.with_name("m.sbs.idx").unlink(missing_ok=True)
    model.write(path)
    names = list(contents_of(path))
    edits = Edits(
        version=data.draw(st.sampled_from([None, 1, 2])),
        drop=tuple(data.draw(st.lists(st.sampled_from([*names, "*a*", "first"]), max_size=2))),
        set_metadata=data.draw(st.dictionaries(st.text("ab"), st.text("ab"), max_size=2)),
        sort=data.draw(st.booleans()),
        index=data.draw(st.sampled_from([None, "embedded", "external", "none"])),
    )
    before = contents_of(path)
    old = path.read_bytes()
    done, refused = None, None
    try:
        done = apply_edits(path, None, edits)
    except UsageError as error:
        refused = error.reason
    if done is None:
        assert refused in ("no-match", "no-blobs", "needs-index")
        assert path.read_bytes() == old
        return
    assert not [finding for finding in verify_file(path).findings if finding.severity == "error"]
    if edits.index != "none":
        assert contents_of(path) == {name: values for name, values in before.items() if name not in done.dropped}


# -------------------------------------------------------------------------------------------------- any edits together


@given(model=models(), data=st.data())
def test_the_order_in_which_names_are_renamed_changes_nothing(
    tmp_path: Path, model: Model, data: st.DataObject
) -> None:
    assume("toc" not in model.blobs)
    path = tmp_path / "m.sbs"
    path.with_name("m.sbs.idx").unlink(missing_ok=True)
    model.write(path)
    before = contents_of(path)
    chosen = data.draw(st.lists(st.sampled_from(list(before)), min_size=1, unique=True))
    new = dict(zip(chosen, data.draw(st.permutations(chosen)), strict=True))  # swapped, or
    new |= {name: f"new.{name}"[:4000] for name in data.draw(st.sets(st.sampled_from(chosen)))}
    assume(len(set(new.values()) | (before.keys() - new.keys())) == len(before))
    written = []
    for i, order in enumerate((chosen, data.draw(st.permutations(chosen)))):
        out = tmp_path / f"{i}.sbs"
        done = apply_edits(path, out, Edits(rename={name: new[name] for name in order}))
        assert done.renamed == len(chosen)
        beside = out.with_name(f"{i}.sbs.idx")
        written.append((out.read_bytes(), beside.read_bytes() if beside.exists() else None))
    assert written[0] == written[1]
    assert contents_of(tmp_path / "0.sbs") == {new.get(name, name): values for name, values in before.items()}


EACH_EDIT = {
    "drop": Edits(drop=("c_final_norm",)),
    "rename": Edits(rename={"linear_w_0": "linear_v_0"}),
    "version": Edits(version=1),
    "sort": Edits(sort=True),
    "set_metadata": Edits(set_metadata={"a": "b"}),
    "index": Edits(index="external"),
    "config": Edits(config=b"other"),
}


@pytest.mark.parametrize("edit", EACH_EDIT)
def test_each_edit_alone_says_when_the_source_is_forgotten(model: Path, edit: str) -> None:
    with blobstore.open(model) as store:
        before = {key: value for key, value in store.metadata.items() if key.startswith("blobstore.")}
    assert before
    done = apply_edits(model, None, EACH_EDIT[edit])
    with blobstore.open(model) as store:
        after = {key: value for key, value in store.metadata.items() if key.startswith("blobstore.")}
    forgotten = edit in ("drop", "rename")
    assert after == ({} if forgotten else before)
    assert len(done.notes) == forgotten


@given(blobs=blob_lists(6), version=versions, digests=st.booleans(), data=st.data())
def test_metadata_of_an_index_that_lacks_a_blob_can_be_changed(
    tmp_path: Path, blobs: Blobs, version: int, digests: bool, data: st.DataObject
) -> None:
    assume(not {"~index", "toc"} & dict(blobs).keys())
    path = tmp_path / "m.sbs"
    with blobstore.BlobWriter(path, version=version) as writer:
        for key, blob in blobs:
            writer.add(key, blob)
        directory = writer.directory()
    known = data.draw(st.lists(st.integers(0, len(blobs) - 1), max_size=len(blobs) - 1, unique=True).map(sorted))
    assume(known or not digests)  # a table without blobs is taken for one without digests
    rows = [bytes(directory.keys[place]) for place in known]
    table = [
        IndexedBlob(key, len(blobs[place][1]), hashlib.sha256(blobs[place][1]).digest() if digests else None)
        for key, place in zip(rows, known, strict=True)
    ]
    path.with_name("m.sbs.idx").write_bytes(build_index([], table, {"a": "b"}, store=directory))
    apply_edits(path, None, Edits(set_metadata={"c": "d"}))
    with blobstore.open(path) as store:
        assert store.metadata == {"a": "b", "c": "d"}
        assert store.index
        index = store.index
        assert index.has_digests is (digests or not known)
        assert all(
            index.blob(i).sha256 == (hashlib.sha256(blob).digest() if index.has_digests else None)
            for i, (_, blob) in enumerate(blobs)
        )
    assert not [finding for finding in verify_file(path).findings if finding.severity == "error"]


def test_a_toc_without_tensors_goes_and_all_other_blobs_stay(tmp_path: Path) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    with blobstore.BlobWriter(path) as writer:
        writer.add("config", b"the config")
        writer.add("w", bytes(24))
        writer.add("toc", build_toc([toc_entry("w", BY_NAME["f32"], 2, 3)]))
    apply_edits(path, out, Edits(drop=("w",)))
    with blobstore.BlobReader(out) as reader:
        assert {key: bytes(reader[key]) for key in reader} == {"config": b"the config"}


@pytest.mark.parametrize("index", ["embedded", "external"])
def test_an_edit_of_metadata_in_place_keeps_every_name_and_value(tmp_path: Path, index: Any) -> None:  # noqa: ANN401
    path = tmp_path / "m.sbs"
    tensors = {"a.long.name.of.a.tensor": np.arange(6.0).reshape(2, 3), "b": np.arange(3)}
    with blobstore.create(path, index=index) as store:
        for name, array in tensors.items():
            store.add(name, array)
        store.alias("c", "b")
    done = apply_edits(path, None, Edits(set_metadata={"x": "y"}))
    assert (done.renamed, done.dropped) == (0, ())
    with blobstore.open(path) as store:
        assert store.metadata["x"] == "y"
        assert {name: store[name].tolist() for name in store} == {
            name: array.tolist() for name, array in (tensors | {"c": tensors["b"]}).items()
        }


def test_a_file_is_not_rewritten_onto_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": np.arange(3)}, path)
    before = path.read_bytes()
    for target in (path, tmp_path / "." / "m.sbs"):
        with pytest.raises(UsageError, match="same-file"):
            apply_edits(path, target, Edits(set_metadata={"x": "y"}))
    assert path.read_bytes() == before
