"""`blobstore recover`: blobs that a broken file still proves are saved intact, and nothing else ever is."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import blobstore
from blobstore.checking import verify_file
from blobstore.codecs.element_types import BY_NAME
from blobstore.container.reader import BlobReader
from blobstore.converting.choices import Choices
from blobstore.edit import recover_toc
from blobstore.edit.recover import recover
from blobstore.errors import FormatError, UsageError
from blobstore.exporting.plan import plan_export
from blobstore.gemma import BpeTokenizer, TokenizerKind, config_of
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.toc import build_toc, parse_toc, toc_entry
from blobstore.index import Entry, IndexedBlob, build_index
from blobstore.index.blob_writer import BlobWriter
from tests.gemma_checkpoints import convert, small_recipe
from tests.models import ALL_FAMILIES
from tests.strategies import payload
from tests.tensor_strategies import Model, models

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.index.locate import IndexPlace

NAMES = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(5)]


def write(path: Path, version: int = 2, index: IndexPlace = "embedded", *, digests: bool = True) -> dict[str, bytes]:
    """Write five tensors and the runtime's tokenizer → all blobs but the index."""
    with blobstore.create(path, version=version, index=index, digests=digests, metadata={"a": "b"}) as store:
        for i, name in enumerate(NAMES):
            store.add(name, np.frombuffer(payload(i, 40_000), np.uint8))
        store.alias("other", NAMES[1])
        store.add_blob("tokenizer", b"tokens")
    return blobs_of(path)


def blobs_of(path: Path) -> dict[str, bytes]:
    with BlobReader(path, access="read") as reader:
        return {key: bytes(blob) for key, blob in reader.items() if key != "~index"}


def cut(path: Path, nbytes: int) -> Path:
    os.truncate(path, nbytes)
    return path


def offset_of(path: Path, key: str) -> int:
    with BlobReader(path) as reader:
        return reader.range(key)[0]


# ------------------------------------------------------------------------------------------- each way to prove it


def test_a_version_2_that_is_cut_after_its_index_is_saved_completely(tmp_path: Path) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    blobs = write(path)
    whole = path.read_bytes()
    with BlobReader(path) as reader:
        start, nbytes = reader.range("~index")
    for end in (len(whole) - 1, start + nbytes):
        cut(path, end)
        done = recover(path, out)
        assert "index inside it" in done.how
        assert (done.kept, done.verified, done.names, done.lost) == (tuple(blobs), len(blobs), 6, ())
        assert out.read_bytes() == whole


def test_a_version_2_that_is_cut_inside_its_index_is_lost_and_the_error_says_what_would_help(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    write(path)
    cut(path, offset_of(path, "~index") + 100)
    with pytest.raises(FormatError) as caught:
        recover(path, tmp_path / "out.sbs")
    assert caught.value.reason == "not-recoverable"
    assert "--index" in str(caught.value)
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == ["m.sbs"]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("given_path", [False, True])
def test_the_index_beside_a_file_that_is_cut_off_says_what_is_there(
    tmp_path: Path, version: int, given_path: bool
) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    blobs = write(path, version, "external")
    end = offset_of(path, blobstore.key_for(NAMES[3]))
    cut(path, end + 1000)
    index = tmp_path / "m.sbs.idx"
    if given_path:
        index = index.rename(tmp_path / "elsewhere.idx")
    done = recover(path, out, index=index if given_path else None)
    assert [lost.key for lost in done.lost] == [*(blobstore.key_for(name) for name in NAMES[3:]), "tokenizer"]
    if version == 2 or not given_path:
        assert done.lost[0].names == (NAMES[3],)
        assert done.verified == 3
        with blobstore.open(out) as store:
            assert sorted(store) == sorted([*NAMES[:3], "other"])
            assert store.metadata == {"a": "b"}
    assert "1000 of 40000 bytes" in done.lost[0].why
    assert blobs_of(out) == {key: blobs[key] for key in done.kept}
    assert len(done.kept) == 3
    assert not [finding for finding in verify_file(out).findings if finding.severity == "error"]


@pytest.mark.parametrize("digests", [True, False])
def test_nothing_is_saved_with_the_index_of_another_file(tmp_path: Path, digests: bool) -> None:
    path = tmp_path / "m.sbs"
    write(path, index="external", digests=digests)
    (tmp_path / "other").mkdir()
    with blobstore.create(tmp_path / "other" / "m.sbs", index="external", digests=digests) as store:
        for i in range(9):
            store.add(f"x{i}", np.arange(3000 + i))
    cut(path, 100_000)
    with pytest.raises(FormatError) as caught:
        recover(path, tmp_path / "out.sbs", index=tmp_path / "other" / "m.sbs.idx")
    assert caught.value.reason == ("nothing-whole" if digests else "not-recoverable")
    assert not (tmp_path / "out.sbs").exists()


@pytest.mark.parametrize("version", [1, 2])
def test_without_digests_the_padding_has_to_agree(tmp_path: Path, version: int) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    blobs = write(path, version, "external", digests=False)
    cut(path, 130_000)
    done = recover(path, out)
    assert done.verified == 0
    assert blobs_of(out) == {key: blobs[key] for key in done.kept}
    if version == 2:
        raw = bytearray(path.read_bytes())
        raw[256 + 40_000] = 1
        path.write_bytes(raw)
        with pytest.raises(FormatError) as caught:
            recover(path, out)
        assert caught.value.reason == "not-recoverable"
        assert "belongs to another file" in str(caught.value)


@pytest.mark.parametrize("blobs_left", [0, 1, 3, 6])
def test_a_version_1_that_is_cut_off_has_its_directory_at_the_front(tmp_path: Path, blobs_left: int) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    blobs = write(path, 1)
    keys = [*blobs, "~index"]
    cut(path, offset_of(path, keys[blobs_left]))
    if not blobs_left:
        with pytest.raises(FormatError) as caught:
            recover(path, out)
        assert caught.value.reason == "nothing-whole"
        return
    done = recover(path, out)
    assert "at the front" in done.how
    assert done.kept == tuple(blobs)[:blobs_left]
    assert [lost.key for lost in done.lost] == list(blobs)[blobs_left:]
    assert blobs_of(out) == {key: blobs[key] for key in done.kept}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("more", [1, 255, 65_536, 200_001])
def test_appended_bytes_are_left_out(tmp_path: Path, version: int, more: int) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    blobs = write(path, version)
    with path.open("ab") as file:
        file.write(b"\x01" * more)
    done = recover(path, out)
    assert not done.lost
    assert blobs_of(out) == blobs
    assert done.names == 6


@pytest.mark.parametrize("family", ALL_FAMILIES)
@pytest.mark.parametrize("tokenizer", [True, False])
def test_gemma_cpps_own_file_is_proved_by_its_toc(tmp_path: Path, family: str, tokenizer: bool) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    recipe = small_recipe(family) if tokenizer else small_recipe(family, tokenizer=None)
    convert(recipe.write(tmp_path / "c"), path, Choices("bf16"), index="external")
    (tmp_path / "m.sbs.idx").unlink()
    with BlobReader(path) as reader:  # as gemma.cpp writes it: without the spare rows, which only blobstore keeps
        listed = [entry.name for entry in parse_toc(reader["toc"])]
        kept = {key: bytes(reader[key]) for key in [*listed, "config", "tokenizer", "toc"]}
    with blobstore.BlobWriter(path) as writer:
        for key, data in kept.items():
            writer.add(key, data)
    whole = path.read_bytes()
    cut(path, len(whole) - 16)
    done = recover(path, out)
    assert "toc" in done.how
    assert not done.lost
    assert out.read_bytes() == whole


@pytest.mark.parametrize("last", [b"x", b"\1\0\0\0" * 99])
def test_a_bpe_tokenizer_ends_where_its_record_does(tmp_path: Path, last: bytes) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    bpe = BpeTokenizer(flags=4, tokens=(b"a", b""), added_ids=(1,), newer=(0,) * 3)
    config = replace(config_of("gemma3-270m-sfp-it"), tokenizer_kind=TokenizerKind.BPE)
    with blobstore.BlobWriter(path) as writer:
        writer.add("w", last)
        writer.add("config", config.to_bytes())
        writer.add("tokenizer", bpe.to_bytes())
        writer.add("toc", build_toc([toc_entry("w", BY_NAME["u8"], 1, len(last))]))
    whole = path.read_bytes()
    cut(path, len(whole) - 16)
    assert "toc" in recover(path, out).how
    assert out.read_bytes() == whole


@pytest.mark.parametrize("count", [1, 7, 8000])
def test_a_toc_of_any_length_proves_a_file(tmp_path: Path, count: int) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    # Records of equal length, so that many of them begin where a blob may.
    keys = [f"linear_w_{i:05}" for i in range(count)]
    with blobstore.BlobWriter(path) as writer:
        for key in keys:
            writer.add(key, b"12345678")
        writer.add("config", ModelConfig(model_dim=8).to_bytes())
        writer.add("tokenizer", b"unavailable")
        writer.add("toc", build_toc(toc_entry(key, BY_NAME["u8"], 1, 8) for key in keys))
    whole = path.read_bytes()
    cut(path, len(whole) - 16)
    done = recover(path, out)
    assert "toc" in done.how
    assert not done.lost
    assert out.read_bytes() == whole


def test_a_toc_whose_tensors_end_elsewhere_proves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    convert(small_recipe("gemma3").write(tmp_path / "c"), path, Choices("bf16"), index="external")
    blobs = blobs_of(path)
    with blobstore.BlobWriter(path) as writer:
        writer.add("first", b"which the toc doesn't list")
        for key, data in blobs.items():
            writer.add(key, data)
    cut(path, path.stat().st_size - 16)
    with pytest.raises(FormatError) as caught:
        recover(path, tmp_path / "out.sbs")
    assert caught.value.reason == "not-recoverable"


@pytest.mark.parametrize(("words", "tocs"), [(63, 1), (62, 100)])  # one record after another; each followed by padding
def test_many_candidates_for_a_toc_do_not_take_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: int, tocs: int
) -> None:
    path = tmp_path / "m.sbs"
    block = np.zeros(64, "<u4")
    block[:3] = words, 1, 0x61616161
    path.write_bytes(block.tobytes() * 4000 + b"x")
    tried = []

    def refuse(raw: bytes) -> None:
        tried.append(len(raw))
        raise FormatError("toc-type", "none of it is read")

    monkeypatch.setattr(recover_toc, "parse_toc", refuse)
    with pytest.raises(FormatError):
        recover(path, tmp_path / "out.sbs")
    assert len(tried) == tocs
    assert sum(tried) <= path.stat().st_size
    monkeypatch.setattr(recover_toc, "_MOST_FOLLOWED", 7)
    with pytest.raises(FormatError):
        recover(path, tmp_path / "out.sbs")
    assert len(tried) - tocs <= 7, "it follows no more records"


# --------------------------------------------------------------------------------------------------- damaged, doubtful


def test_a_blob_that_the_index_does_not_know_is_kept_beside_a_tensor_without_elements(tmp_path: Path) -> None:
    path, number = tmp_path / "m.sbs", BY_NAME["u8"].number
    with BlobWriter(path) as writer:
        writer.add("a", b"abcd")
        writer.add("later", b"xyz")
        entries = [Entry("a", 0, 0, 4, number, (4,)), Entry("none", None, 0, 0, number, (0,))]
        writer.add("~index", build_index(entries, [IndexedBlob(b"a", 4)]))
    done = recover(path, tmp_path / "out.sbs")
    assert (done.kept, done.names) == (("a", "later"), 2)


def test_an_index_whose_key_has_changed_is_still_used(tmp_path: Path) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"~index", b"~indez"))
    done = recover(path, out)
    assert (done.names, done.verified, done.lost) == (6, 6, ())
    assert out.read_bytes() == whole


def test_the_index_of_another_file_under_a_changed_key_is_kept_as_it_is_and_verify_names_it(tmp_path: Path) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    entries = [Entry("w", 0, 0, 4, BY_NAME["u8"].number, (4,))]
    with BlobWriter(path) as writer:
        writer.add("a", b"bytes")
        writer.add("\x01index", build_index(entries, [IndexedBlob(b"other", 4)]))
    path.write_bytes(path.read_bytes() + bytes(4096))
    done = recover(path, out)
    assert (done.kept, done.lost) == (("a", "\x01index"), ())  # it may be the user's own
    assert [finding.code for finding in verify_file(out).findings if finding.severity == "error"] == ["index-misplaced"]


@pytest.mark.parametrize("index", ["embedded", "external"])
def test_damaged_blobs_are_left_out_and_named(tmp_path: Path, index: IndexPlace) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    write(path, index=index)
    raw = bytearray(path.read_bytes())
    raw[offset_of(path, blobstore.key_for(NAMES[1])) + 7] ^= 1
    path.write_bytes(raw)
    done = recover(path, out)
    assert [(lost.key, lost.names) for lost in done.lost] == [(blobstore.key_for(NAMES[1]), (NAMES[1], "other"))]
    with blobstore.open(out) as store:
        assert sorted(store) == sorted({*NAMES} - {NAMES[1]})
    assert not verify_file(out).findings


def test_the_toc_lists_only_what_was_saved(tmp_path: Path) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    convert(small_recipe("gemma3").write(tmp_path / "c"), path, Choices("bf16"))
    raw = bytearray(path.read_bytes())
    raw[offset_of(path, "linear_w_0") + 7] ^= 1
    path.write_bytes(raw)
    done = recover(path, out)
    assert [lost.key for lost in done.lost] == ["linear_w_0"]
    with blobstore.open(out) as store:  # notes about the checkpoint went with the lost tensor
        assert plan_export(store).shards
        assert not [key for key in store.metadata if key.startswith("blobstore.")]
    with BlobReader(out) as reader:
        assert "linear_w_0" not in {entry.name for entry in parse_toc(reader["toc"])}
        assert set(reader) >= {entry.name for entry in parse_toc(reader["toc"])}


def test_blobs_that_a_download_has_not_reached_are_doubtful(tmp_path: Path) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    write(path, 1, digests=False)
    start = offset_of(path, blobstore.key_for(NAMES[2]))
    raw = path.read_bytes()
    path.write_bytes(raw[:start] + bytes(len(raw) - start))
    done = recover(path, out)
    assert done.doubtful == (*(blobstore.key_for(name) for name in NAMES[2:]), "tokenizer")
    assert not done.lost
    assert done.verified == 0


def test_the_broken_file_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    write(path)
    before = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        recover(path, path)
    assert caught.value.reason == "same-file"
    assert path.read_bytes() == before


@pytest.mark.parametrize("raw", [b"", b"SBS\n", b"\0" * 256, b"GGUF" + bytes(300), b"SBS\n" + bytes(100_000)])
def test_a_file_without_any_of_these_is_not_recoverable(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "m.sbs"
    path.write_bytes(raw)
    with pytest.raises(FormatError) as caught:
        recover(path, tmp_path / "out.sbs")
    assert caught.value.reason == "not-recoverable"


# --------------------------------------------------------------------------------------------------------- properties


@given(models(), st.data())
def test_only_true_blobs_are_saved_wherever_a_file_is_cut(tmp_path: Path, model: Model, data: st.DataObject) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    for file in tmp_path.iterdir():
        file.unlink()
    model.write(path)
    blobs = blobs_of(path)
    end = data.draw(st.integers(0, path.stat().st_size))
    cut(path, end)
    try:
        done = recover(path, out)
    except FormatError as error:
        reason = error.reason
    else:
        reason = ""
        assert blobs_of(out) == {key: blobs[key] for key in done.kept if key != "toc"} | {
            key: data for key, data in blobs_of(out).items() if key == "toc"
        }
        assert {*done.kept} | {lost.key for lost in done.lost} == {*blobs}
    assert reason in ("", "not-recoverable", "nothing-whole")
    if model.index == "external" and end >= 16:
        assert reason != "not-recoverable"


@given(models(), st.data())
def test_hostile_bytes_are_recovered_or_refused(tmp_path: Path, model: Model, data: st.DataObject) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    for file in tmp_path.iterdir():
        file.unlink()
    model.write(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(raw), 2000) - 1) | st.integers(max(0, len(raw) - 2000), len(raw) - 1))
        raw[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
    path.write_bytes(raw[: len(raw) - data.draw(st.sampled_from([0, 0, 1, 16, 300]))])
    assume(path.stat().st_size)
    try:
        recover(path, out)
    except FormatError as error:
        assert error.reason  # noqa: PT017 (either is right)
        assert not out.exists()
    else:
        # An index whose key has changed, and which doesn't go with the file, may be a blob of the user's own.
        errors = {finding.code for finding in verify_file(out).findings if finding.severity == "error"}
        assert errors <= {"index-misplaced"}
