"""Conversion by name: every tensor arrives as it was, and a conversion that fails leaves the target alone."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.codecs.element_types import BY_NAME, type_of
from blobstore.converting.plan import plan_by_name
from blobstore.converting.run import run_plan
from blobstore.errors import BlobStoreError, CodecError, TruncatedError, UsageError
from tests.checkpoints import (
    EMBEDDING,
    HEAD,
    INDEX,
    SINGLE,
    linux_only,
    raw_file,
    said_by_peer,
    small,
    snapshot,
    sparse_checkpoint,
    tensor_maps,
    write_config,
    write_own,
    write_peer,
    write_shards,
)
from tests.memory import peak_of_command
from tests.strategies import WriteOnly, versions
from tests.tensor_strategies import metadata_maps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

    from tests.checkpoints import Tensors


def convert(source: Path, target: Path | BinaryIO, **options: Any) -> int:  # noqa: ANN401 (as run_plan takes them)
    """Convert, and return the number of bytes of all tensors."""
    with open_checkpoint(source) as checkpoint:
        plan = plan_by_name(checkpoint)
        run_plan(plan, checkpoint, target, **options)
        return plan.nbytes


def contents(path: Path) -> dict[str, tuple[str | None, tuple[int, ...], bytes]]:
    """Return type (in safetensors' words), shape and bytes of every name."""
    with blobstore.open(path) as store:
        return {info.name: (info.type.safetensors, info.shape, bytes(store.raw(info.name))) for info in store.infos()}


OPTIONS = st.fixed_dictionaries(
    {"version": versions, "index": st.sampled_from(["embedded", "external"]), "digests": st.booleans()}
)


@given(tensor_maps, metadata_maps, st.integers(1, 3), OPTIONS)
def test_a_converted_checkpoint_has_every_tensor_as_it_was(
    tmp_path: Path, tensors: Tensors, metadata: dict[str, str], count: int, options: dict[str, Any]
) -> None:
    names = list(tensors)
    shards = [{name: tensors[name] for name in names[i::count]} for i in range(count)]
    source = write_shards(tmp_path / "shards", [shard for shard in shards if shard], metadata)
    target = tmp_path / "out.sbs"

    convert(source, target, **options)

    with blobstore.open(target) as store:
        assert store.reader.version == options["version"]
        assert store.index
        assert store.index.external == (options["index"] == "external")
        assert store.index.has_digests == options["digests"]
        assert store.metadata == metadata
        assert set(store) == set(tensors)
        for name, array in tensors.items():
            assert store[name].dtype == array.dtype
            assert store[name].shape == array.shape
            assert store[name].tobytes() == array.tobytes()
            if array.nbytes:
                assert store.reader[blobstore.key_for(name)] == array.tobytes()


@given(tensor_maps, metadata_maps)
def test_a_converted_file_says_what_safetensors_says_of_its_source(
    tmp_path: Path, tensors: Tensors, metadata: dict[str, str]
) -> None:
    source = write_peer(tmp_path / SINGLE, tensors, metadata)
    convert(source, tmp_path / "out.sbs")
    tensors_of_peer, metadata_of_peer = said_by_peer(source.read_bytes(), tmp_path / "again.safetensors")
    assert contents(tmp_path / "out.sbs") == tensors_of_peer
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert store.metadata == metadata_of_peer


@given(tensor_maps)
def test_a_stream_gets_the_bytes_that_a_file_gets(tmp_path: Path, tensors: Tensors) -> None:
    source = write_peer(tmp_path / SINGLE, tensors)
    stream = io.BytesIO()
    convert(source, stream)
    convert(source, tmp_path / "out.sbs")
    assert stream.getvalue() == (tmp_path / "out.sbs").read_bytes()


@pytest.mark.parametrize("packed", ["f4", "f6_e2m3", "f6_e3m2"])
def test_types_smaller_than_a_byte_keep_their_bytes(tmp_path: Path, packed: str) -> None:
    element_type = BY_NAME[packed]
    data = bytes(range(element_type.nbytes(12)))
    source = write_own(tmp_path / SINGLE, {"packed": (element_type, (3, 4), data)})
    convert(source, tmp_path / "out.sbs")
    assert contents(tmp_path / "out.sbs") == {"packed": (element_type.safetensors, (3, 4), data)}
    with blobstore.open(tmp_path / "out.sbs") as store, pytest.raises(CodecError):
        store["packed"]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "equal"])
@pytest.mark.parametrize("version", [1, 2])
def test_both_names_of_tied_weights_are_one_blob(tmp_path: Path, version: int, tied: bool) -> None:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_peer(tmp_path / SINGLE, {EMBEDDING: weights} | ({} if tied else {HEAD: weights}))
    write_config(tmp_path, {"tie_word_embeddings": tied})
    convert(tmp_path, tmp_path / "out.sbs", version=version)
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert store.info(HEAD).key == store.info(EMBEDDING).key == blobstore.key_for(EMBEDDING)
        assert store.info(HEAD).offset == store.info(EMBEDDING).offset
        np.testing.assert_array_equal(store[HEAD], weights)
        assert len(store.reader) == 3  # the tensor, config.json and the index


@pytest.mark.parametrize("shape", ["[0,4294967296,4294967296]", "[144115188075855872,0]"])
def test_whatever_is_planned_can_be_opened(tmp_path: Path, shape: str) -> None:
    empty = f'{{"dtype":"U8","shape":{shape},"data_offsets":[0,0]}}'
    header = f'{{"a":{empty},"b":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}'
    (tmp_path / SINGLE).write_bytes(raw_file(header, b"1"))
    try:
        convert(tmp_path, tmp_path / "out.sbs")
    except BlobStoreError:
        assert not (tmp_path / "out.sbs").exists()
        return
    assert set(contents(tmp_path / "out.sbs")) == {"a", "b"}


def same(path: Path) -> Path:
    return path


def around(path: Path) -> Path:
    return path.parent / "folder" / ".." / path.name


def symbolic(path: Path) -> Path:
    link = path.parent / "symbolic.sbs"
    link.symlink_to(path)
    return link


def hard(path: Path) -> Path:
    link = path.parent / "hard.sbs"
    link.hardlink_to(path)
    return link


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX])
@pytest.mark.parametrize("way", [same, around, symbolic, hard])
def test_the_source_is_never_the_target(tmp_path: Path, way: Callable[[Path], Path], name: str) -> None:
    (tmp_path / "folder").mkdir()
    write_shards(tmp_path, [small("a"), small("b")])
    target = way(tmp_path / name)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError) as caught:
        convert(tmp_path, target)
    assert caught.value.reason == "same-file"
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("nbytes", [100, 100_000, 6 << 20])
def test_a_source_that_shrinks_leaves_the_target_as_it_was(
    tmp_path: Path, nbytes: int, version: int, digests: bool
) -> None:
    source = write_peer(tmp_path / SINGLE, small("first") | {"last": np.ones(nbytes, dtype=np.uint8)})
    target = tmp_path / "out.sbs"
    target.write_bytes(b"as it was")
    with open_checkpoint(source) as checkpoint:
        plan = plan_by_name(checkpoint)
        os.truncate(source, source.stat().st_size - 1)
        before = snapshot(tmp_path)
        with pytest.raises(TruncatedError) as caught:
            run_plan(plan, checkpoint, target, version=version, digests=digests)
    assert caught.value.reason == "short-read"
    assert snapshot(tmp_path) == before


def test_a_source_that_shrinks_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [small("a"), {"b": np.ones(100, dtype=np.uint8)}])
    shard = tmp_path / "model-00002-of-00002.safetensors"
    with open_checkpoint(tmp_path) as checkpoint:
        plan = plan_by_name(checkpoint)
        os.truncate(shard, shard.stat().st_size - 1)
        with pytest.raises(TruncatedError) as caught:
            run_plan(plan, checkpoint, tmp_path / "out.sbs")
    assert str(shard) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"version": 3}, "bad-version"),
        ({"index": "beside"}, "bad-index"),
    ],
)
def test_wrong_options_leave_nothing(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    source = write_peer(tmp_path / SINGLE, small("a"))
    before = snapshot(tmp_path)
    with pytest.raises(UsageError) as caught:
        convert(source, tmp_path / "out.sbs", **options)
    assert caught.value.reason == reason
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("options", "reason"), [({"version": 1}, "needs-seek"), ({"index": "external"}, "needs-path")])
def test_what_a_stream_can_not_have_is_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    source = write_peer(tmp_path / SINGLE, small("a"))
    stream = WriteOnly()
    with pytest.raises(UsageError) as caught:
        convert(source, stream, **options)
    assert caught.value.reason == reason
    assert stream.getvalue() == b""


def test_progress_adds_up_to_all_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blobstore.fileio.ranges.STEP_NBYTES", 1000)
    monkeypatch.setattr("blobstore.converting.run._SMALL_NBYTES", 0)  # those that are written together are one step
    shards = [{"a": np.ones(999, dtype=np.uint8), "b": np.ones(2001, dtype=np.uint8)}, small("c")]
    source = write_shards(tmp_path, [*shards, {"empty": np.zeros((0, 3), dtype=np.float32)}])
    steps: list[int] = []
    nbytes = convert(source, tmp_path / "out.sbs", progress=steps.append)
    assert sum(steps) == nbytes == 3004
    assert max(steps) <= 1000
    assert contents(tmp_path / "out.sbs")["b"][2] == b"\1" * 2001


def test_what_progress_raises_stops_the_conversion(tmp_path: Path) -> None:
    source = write_peer(tmp_path / SINGLE, small("a"))

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    before = snapshot(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out.sbs", progress=stop)
    assert snapshot(tmp_path) == before


@linux_only
@pytest.mark.parametrize("output", ["out.sbs", "-"], ids=["file", "pipe"])
@pytest.mark.parametrize("count", [1, 3], ids=["one-tensor", "three-tensors"])
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path, count: int, output: str) -> None:
    source = sparse_checkpoint(tmp_path / SINGLE, 300 << 20, count)
    assert peak_of_command("convert", source, "-o", output, folder=tmp_path) < 150 << 20
    if output != "-":
        assert (tmp_path / output).stat().st_size > 300 << 20
    (tmp_path / "out.sbs").unlink(missing_ok=True)


def test_converting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_peer(tmp_path / SINGLE, small("b", "a", "c"), {"z": "1", "a": "2"})
    for name in ("one.sbs", "other.sbs"):
        convert(source, tmp_path / name)
    assert (tmp_path / "one.sbs").read_bytes() == (tmp_path / "other.sbs").read_bytes()


def test_a_file_holds_as_many_tensors_as_a_plan_allows(tmp_path: Path) -> None:
    element_type = type_of(np.dtype(np.uint16))
    write_own(tmp_path / SINGLE, {f"t.{i}": (element_type, (1,), i.to_bytes(2, "little")) for i in range(16_382)})
    convert(tmp_path, tmp_path / "out.sbs")
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert [int(store[f"t.{i}"][0]) for i in range(0, 16_382, 257)] == list(range(0, 16_382, 257))
        assert len(store) == 16_382
