"""Other operations on packed files: verify, compare, export, index, recover."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blobstore
from blobstore.checking import check_file, verify_file, verify_values
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.codecs.element_types import BY_NAME
from blobstore.compare import compare, open_sides
from blobstore.container.keys import SKELETON_INDEX_KEY, SKELETON_KEY
from blobstore.container.reader import BlobReader
from blobstore.converting.verify import plan_again, verify
from blobstore.edit.recover import recover
from blobstore.edit.reindex import attach_index, detach_index
from blobstore.edit.reindex import build_index as build_for
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import BlobStoreError, FormatError, UsageError
from blobstore.exporting.plan import plan_export
from blobstore.exporting.run import run_export
from blobstore.index import Entry, IndexedBlob, build_index
from blobstore.index.locate import external_path
from blobstore.packing import pack as pack_module
from blobstore.packing.pack import pack
from blobstore.packing.unpack import unpack
from tests.edit.test_reindex import cleared, write_plain
from tests.gemma_checkpoints import convert, small_recipe
from tests.models import FAMILIES
from tests.packing_files import check_same_tensors, tuned, weights, write_weights
from tests.strategies import payload
from tests.tensor_strategies import Model, models

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.compare import Difference

some = settings(max_examples=settings().max_examples // 2)
UP = "model.layers.0.mlp.up_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack all tensors, even the tests' small ones, which only get larger."""
    monkeypatch.setattr(pack_module, "_WORTH", 1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that gets smaller."""
    tensors = {
        UP: weights(1, 30_000).reshape(100, 300),
        DOWN: weights(2, 30_000),
        "c_noise": np.frombuffer(payload(3, 5000), np.uint8),
    }
    return write_weights(tmp_path / "m.sbs", tensors, index="external")


@pytest.fixture
def packed(path: Path) -> Path:
    target = path.with_name("packed.sbs")
    assert sum(blob.packed for blob in pack(path, target).blobs) == 2
    return target


def flip(path: Path, place: int, bits: int = 1) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= bits
    path.write_bytes(raw)


# -------------------------------------------------------------------------------------------------------- verify, check


def test_a_packed_file_has_nothing_wrong(packed: Path) -> None:
    verified = verify_file(packed, values=True)
    assert verified.findings == []
    assert verified.blobs == 5
    assert {finding.code for finding in check_file(packed)} == {"by-name", "packed"}


@given(st.data())
def test_verify_finds_each_bit_that_flips_in_a_blob(packed: Path, data: st.DataObject) -> None:
    whole = packed.read_bytes()
    with BlobReader(packed, access="read") as reader:
        key = data.draw(st.sampled_from(sorted(reader)))
        offset, nbytes = reader.range(key)
    try:
        flip(packed, offset + data.draw(st.integers(0, nbytes - 1)), 1 << data.draw(st.integers(0, 7)))
        assert any(finding.severity == "error" for finding in verify_file(packed).findings)
        assert isinstance(check_file(packed), list)
    finally:
        packed.write_bytes(whole)


def test_values_that_no_weight_should_have_are_found_in_packed_tensors(tmp_path: Path) -> None:
    values = weights(1, 5000)
    values[[7, 4000]] = np.nan
    values[9] = np.inf
    path, packed = write_weights(tmp_path / "m.sbs", {UP: values}), tmp_path / "p.sbs"
    assert pack(path, packed).blobs[0].packed
    findings = []
    for file in (path, packed):
        with blobstore.open(file) as store:
            findings.append([(finding.code, finding.message) for finding in verify_values(store)])
    assert findings[0] == findings[1]
    assert len(findings[0]) == 2


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_model_is_the_same_packed(tmp_path: Path, family: str) -> None:
    folder, path, packed = tmp_path / "checkpoint", tmp_path / "m.sbs", tmp_path / "p.sbs"
    small_recipe(family).write(folder)
    convert(folder, path)
    pack(path, packed)
    check_same_tensors(path, packed)
    assert set(kinds(path, packed).values()) <= {"same", "alias"}
    assert exported(path) == exported(packed)
    with open_checkpoint(folder) as checkpoint, blobstore.open(packed) as store:
        plan = plan_again(store, checkpoint)
        assert [verdict for verdict in verify(store, plan, checkpoint) if verdict.fault] == []
    assert isinstance(check_file(packed), list)


# ------------------------------------------------------------------------------------------------------------- compare


def differences(a: Path, b: Path, **options: Any) -> dict[str, Difference]:  # noqa: ANN401 (compare's)
    with open_sides(a, b, options.pop("by", None)) as (side_a, side_b):
        return {difference.name: difference for difference in compare(side_a, side_b, **options)}


def kinds(a: Path, b: Path, **options: Any) -> dict[str, str]:  # noqa: ANN401 (compare's)
    return {name: difference.kind for name, difference in differences(a, b, **options).items()}


@pytest.mark.usefixtures("everything")
@some
@given(models())
def test_every_tensor_is_the_same_as_the_originals(tmp_path: Path, model: Model) -> None:
    path, packed = cleared(tmp_path), tmp_path / "packed.sbs"
    model.write(path)
    pack(path, packed)
    for a, b in ((path, packed), (packed, path), (packed, packed)):
        by_name = kinds(a, b)
        assert set(by_name) == set(model.expected())
        assert set(by_name.values()) <= {"same", "alias"}


@pytest.mark.parametrize("by", ["names", "keys"])
def test_a_difference_is_found_in_packed_files(path: Path, packed: Path, tmp_path: Path, by: str) -> None:
    tensors = {UP: tuned(weights(1, 30_000), 4).reshape(100, 300), DOWN: weights(2, 30_000)}
    changed = write_weights(tmp_path / "other.sbs", tensors | {"c_noise": np.frombuffer(payload(3, 5000), np.uint8)})
    small = tmp_path / "small.sbs"
    pack(changed, small)
    plain, both = differences(path, changed, by=by), differences(packed, small, by=by)
    assert plain == both
    assert sorted(difference.kind for difference in plain.values()) == ["same", "same", "values"]
    assert differences(packed, changed, by=by) == plain


def test_tensors_that_can_not_be_decoded_are_compared_by_their_bytes(tmp_path: Path) -> None:
    path, packed, flipped = tmp_path / "m.sbs", tmp_path / "p.sbs", tmp_path / "o.sbs"
    data = {"f4": bytes(range(16)) * 200, "new": bytes(range(32)) * 100}
    for target, changed in ((path, 0), (flipped, 1)):
        raw = {key: flipped_at(raw_blob, 1000, changed) for key, raw_blob in data.items()}
        entries = [
            Entry("of.f4", 0, 0, 3200, BY_NAME["f4"].number, (6400,)),
            Entry("of.new", 1, 0, 3200, 999, (80, 5)),
        ]
        rows = [IndexedBlob(key.encode(), len(raw_blob)) for key, raw_blob in raw.items()]
        write_plain(target, [*raw.items(), ("~index", build_index(entries, rows))])
    assert all(blob.packed for blob in pack(path, packed).blobs)
    assert kinds(path, packed) == {"of.f4": "same", "of.new": "same"}
    assert kinds(packed, flipped) == {"of.f4": "bytes", "of.new": "bytes"}
    assert "byte 1000 differs" in differences(packed, flipped)["of.new"].detail


def flipped_at(data: bytes, place: int, bits: int) -> bytes:
    out = bytearray(data)
    out[place] ^= bits
    return bytes(out)


def test_a_packed_part_of_a_blob_is_no_tensor_by_keys(tmp_path: Path) -> None:
    path, packed = tmp_path / "m.sbs", tmp_path / "p.sbs"
    with blobstore.create(path) as store:
        store.add("c_whole", weights(1, 3000))
        store.part("a_part", "c_whole", BY_NAME["bf16"], (10,), offset=20)
    pack(path, packed)
    assert kinds(path, packed, by="keys") == {"c_whole": "same"}


def test_a_damaged_packed_tensor_is_refused_when_it_is_compared(path: Path, packed: Path) -> None:
    with blobstore.open(packed) as store:
        offset = store.info(UP).offset
    flip(packed, offset + 500)
    with pytest.raises(FormatError, match="packed-data") as caught:
        kinds(path, packed)
    assert caught.value.path == str(packed)
    # The frame's beginning: the stream's header precedes the first one.
    assert caught.value.offset == offset + 80
    assert f"at offset {offset + 80}" in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- export


def exported(path: Path, **options: Any) -> list[bytes]:  # noqa: ANN401 (plan_export's)
    """The files of a checkpoint."""
    with blobstore.open(path, access="read") as store:
        target = path.with_name("exported.safetensors")
        written = run_export(plan_export(store, **options), store, target, force=True).files
        return [target.with_name(os.path.basename(file)).read_bytes() for file in written]


@pytest.mark.usefixtures("everything")
@some
@given(models())
def test_a_packed_file_is_exported_as_the_original(tmp_path: Path, model: Model) -> None:
    path, packed = cleared(tmp_path), tmp_path / "packed.sbs"
    model.write(path)
    pack(path, packed)
    assert exported(path) == exported(packed)


@pytest.mark.parametrize("dtype", [None, "f32", "f16"])
def test_a_packed_model_is_exported_as_the_original(path: Path, packed: Path, dtype: str | None) -> None:
    assert exported(path, dtype=dtype) == exported(packed, dtype=dtype)
    assert exported(path, max_shard_nbytes=61_000) == exported(packed, max_shard_nbytes=61_000)


def test_types_that_numpy_lacks_are_exported_as_they_are_stored(tmp_path: Path) -> None:
    path, packed, data = tmp_path / "m.sbs", tmp_path / "p.sbs", bytes(range(16)) * 200
    entries = [Entry("of.f4", 0, 0, 3200, BY_NAME["f4"].number, (6400,))]
    write_plain(path, [("k", data), ("~index", build_index(entries, [IndexedBlob(b"k", 3200)]))])
    assert pack(path, packed).blobs[0].packed
    assert exported(path) == exported(packed)


# ------------------------------------------------------------------------------------------------ indexes, new versions

CHANGES = [
    Edits(),
    Edits(version=1),
    Edits(drop=("c_noise",)),
    Edits(rename={"c_noise": "c_other"}),
    Edits(set_metadata={"a": "b"}),
    Edits(sort=True),
    Edits(index="none"),
    Edits(index="external"),
]


@pytest.mark.parametrize("edits", CHANGES, ids=str)
@pytest.mark.parametrize("inside", [True, False])
def test_a_packed_file_is_not_rewritten(packed: Path, tmp_path: Path, edits: Edits, inside: bool) -> None:
    if not inside:
        detach_index(packed)
    before = sorted(os.listdir(tmp_path)), packed.read_bytes()
    for target in (None, tmp_path / "new.sbs"):
        with pytest.raises(UsageError, match=r"packed-file: .* blobstore unpack"):
            apply_edits(packed, target, edits)
    assert (sorted(os.listdir(tmp_path)), packed.read_bytes()) == before


@pytest.mark.parametrize("embed", [True, False])
@pytest.mark.parametrize("place", ["inside", "beside", "gone", "damaged"])
def test_no_index_is_built_for_a_packed_file(packed: Path, embed: bool, place: str) -> None:
    if place != "inside":
        detach_index(packed)
    if place == "gone":
        os.unlink(external_path(packed))
    if place == "damaged":
        flip(packed.with_name(f"{packed.name}.idx"), 3)
    before = packed.read_bytes()
    with pytest.raises(UsageError, match=r"packed-file: .* blobstore unpack"):
        build_for(packed, embed=embed, force=place != "gone")
    assert packed.read_bytes() == before


def test_packed_blobs_alone_keep_their_index(tmp_path: Path, packed: Path) -> None:
    """Like those of another tool, without the original's metadata."""
    target = tmp_path / "alone.sbs"
    with blobstore.open(packed) as store:
        key = store.info(UP).key
        row = IndexedBlob(key.encode(), len(store.reader[key]), None, 60_000)
        entries = [Entry(UP, 0, 0, 60_000, BY_NAME["bf16"].number, (30_000,), codec=1)]
        write_plain(target, [(key, bytes(store.reader[key])), ("~index", build_index(entries, [row]))])
    assert blobstore.load_file(target)[UP].tobytes() == weights(1, 30_000).tobytes()
    for change in (
        lambda: apply_edits(target, None, Edits()),
        lambda: build_for(target, force=True),
        lambda: pack(target, tmp_path / "twice.sbs"),
    ):
        with pytest.raises(UsageError, match=r"packed-file|already-packed"):
            change()
    with pytest.raises(UsageError, match="not-packed"):
        unpack(target, tmp_path / "back.sbs")


def test_an_index_that_is_moved_still_says_what_is_packed(path: Path, packed: Path, tmp_path: Path) -> None:
    before = packed.read_bytes()
    detach_index(packed)
    check_same_tensors(path, packed)
    unpack(packed, tmp_path / "back.sbs")
    assert (tmp_path / "back.sbs").read_bytes() == path.read_bytes()
    attach_index(packed)
    assert packed.read_bytes() == before
    check_same_tensors(path, packed)


# ------------------------------------------------------------------------------------------------------------- recover


def test_a_whole_packed_file_is_recovered_as_it_is(path: Path, packed: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.sbs"
    done = recover(packed, saved)
    assert not done.lost
    assert done.verified == 5
    check_same_tensors(path, saved)
    unpack(saved, tmp_path / "back.sbs")
    assert (tmp_path / "back.sbs").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("beside", [True, False])
def test_a_packed_file_whose_end_is_lost_is_recovered(path: Path, packed: Path, tmp_path: Path, beside: bool) -> None:
    saved = tmp_path / "saved.sbs"
    if beside:
        detach_index(packed)
    os.truncate(packed, packed.stat().st_size - 16)
    assert not recover(packed, saved).lost
    check_same_tensors(path, saved)
    unpack(saved, tmp_path / "back.sbs")
    assert (tmp_path / "back.sbs").read_bytes() == path.read_bytes()


def test_what_is_whole_of_a_damaged_packed_file_is_readable(packed: Path, tmp_path: Path) -> None:
    with blobstore.open(packed) as store:
        infos = {name: store.info(name) for name in store}
    flip(packed, infos[UP].offset + 300)
    saved = tmp_path / "saved.sbs"
    done = recover(packed, saved)
    assert [lost.names for lost in done.lost] == [(UP,)]
    with blobstore.open(saved) as store:
        assert sorted(store) == sorted([DOWN, "c_noise"])
        assert store.info(DOWN).packed
        assert store[DOWN].tobytes() == weights(2, 30_000).tobytes()
        assert SKELETON_KEY in store.reader
        assert SKELETON_INDEX_KEY in store.reader
    with pytest.raises(BlobStoreError, match=r"packed-skeleton: the blob .* is missing"):
        unpack(saved, tmp_path / "back.sbs")
    assert not (tmp_path / "back.sbs").exists()


# ------------------------------------------------------------------------------------------------------------- bridges


@pytest.mark.torch
def test_a_bridge_gets_the_values(path: Path, packed: Path) -> None:
    import torch  # noqa: PLC0415 (only these tests have it)

    from blobstore import torch as bridge  # noqa: PLC0415 (as above)

    plain, unpacked = bridge.load_file(path), bridge.load_file(packed)
    assert plain.keys() == unpacked.keys()
    for name, values in plain.items():
        assert values.dtype == unpacked[name].dtype
        assert torch.equal(values.view(torch.uint8), unpacked[name].view(torch.uint8))


def test_one_tensor_in_another_dtype(path: Path, packed: Path) -> None:
    with blobstore.open(path) as plain, blobstore.open(packed) as unpacked:
        rows = unpacked.load(UP, dtype=np.float32, rows=slice(3, 90, 7))
        assert rows.tobytes() == plain.load(UP, dtype=np.float32, rows=slice(3, 90, 7)).tobytes()
        assert unpacked[UP].dtype == ml_dtypes.bfloat16
