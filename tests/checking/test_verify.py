"""`blobstore.checking.verify_file` finds and names every change of a file, and values that no weight should have."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import blobstore
from blobstore.checking import CODES, verify_file
from blobstore.codecs.element_types import BY_NAME
from blobstore.container.reader import BlobReader
from tests.tensor_strategies import Model, models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.checking import Finding
    from blobstore.index.locate import IndexPlace

TENSORS: dict[str, npt.NDArray[Any]] = {
    "model.layers.0.mlp.up_proj.weight": np.arange(5, dtype=np.float32),
    "b": np.ones(3, np.uint8),
}


def codes(found: list[Finding]) -> set[str]:
    return {finding.code for finding in found}


def errors(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.severity == "error"]


def write_small(path: Path, version: int) -> bytes:
    """Write a file of two tensors and three names; version 1 without padding at the end, like very old files."""
    with blobstore.create(path, version=version, metadata={"a": "b"}) as store:
        for name, array in TENSORS.items():
            store.add(name, array)
        store.alias("other", "b")
    raw = path.read_bytes()
    if version == 1:
        with BlobReader(path) as reader:
            end = reader.directory.payload_end
        raw = raw[:8] + end.to_bytes(8, "little") + raw[16:end]
        path.write_bytes(raw)
    return raw


def holders(path: Path) -> Callable[[int], str]:
    """Return what tells where a byte of a valid file belongs: a blob's key, ``padding``, or ``structure``."""
    with BlobReader(path) as reader:
        ranges = [(key, *reader.range(key)) for key in reader]
        gaps = list(reader.directory.gaps())

    def holder(at: int) -> str:
        for key, offset, nbytes in ranges:
            if offset <= at < offset + nbytes:
                return key
        return "padding" if any(offset <= at < offset + nbytes for offset, nbytes in gaps) else "structure"

    return holder


# -------------------------------------------------------------------------------------------------------------- damage


def check_flip(path: Path, raw: bytes, bit: int, holder: str) -> None:
    """Flip one bit: the finding names what it belongs to, and there is no other."""
    at = bit // 8
    flipped = bytearray(raw)
    flipped[at] ^= 1 << bit % 8
    path.write_bytes(flipped)
    found = verify_file(path, workers=1).findings
    if holder == "padding":
        (finding,) = found
        assert (finding.code, finding.offset, finding.nbytes) == ("padding", at, 1)
    elif holder == "structure":
        assert errors(found), f"bit {bit}"
    elif holder == "~index":
        assert any(finding.code.startswith("index") for finding in errors(found)), f"bit {bit}"
    else:
        (finding,) = found
        assert (finding.code, finding.subject) == ("damaged-blob", holder)
        assert finding.offset is not None
        assert finding.nbytes is not None
        assert finding.offset <= at < finding.offset + finding.nbytes
        names = {"b": ("b", "other")}.get(holder, ("model.layers.0.mlp.up_proj.weight",))
        assert finding.names == names


@pytest.mark.slowly
def test_every_bit_of_a_small_file_is_found_when_it_is_flipped(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    raw = write_small(path, 1)
    assert not verify_file(path).findings
    holder = holders(path)
    for bit in range(8 * len(raw)):
        check_flip(path, raw, bit, holder(bit // 8))


@pytest.mark.slowly
def test_every_bit_of_what_a_version_2_holds_is_found_when_it_is_flipped(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    raw = write_small(path, 2)
    assert not verify_file(path).findings
    holder = holders(path)
    owners = [holder(at) for at in range(len(raw))]
    assert {"padding", "structure", "~index", "b"} < set(owners)
    padding = [at for at, owner in enumerate(owners) if owner == "padding"]
    edges = {padding[0], padding[-1], *(at for at in padding if owners[at - 1] != "padding")}
    for at, owner in enumerate(owners):
        # Of the padding, which is most of the file, only the edges and one byte in a thousand.
        if owner != "padding" or at in edges or not at % 1009:
            for bit in range(8):
                check_flip(path, raw, 8 * at + bit, owner)


@given(models(), st.data())
def test_a_changed_byte_of_any_file_with_digests_is_found(tmp_path: Path, model: Model, data: st.DataObject) -> None:
    assume(model.digests and model.index != "none")
    path = tmp_path / "m.sbs"
    model.write(path)
    right = verify_file(path)
    assert not right.findings
    assert right.blobs == len([*model.blobs, *(tensor for tensor in model.tensors.values() if tensor.size)])
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    found = verify_file(path).findings
    assert codes(found) == {"padding"} or errors(found)


@pytest.mark.parametrize("index", ["embedded", "external"])
def test_a_changed_byte_of_the_index_is_found(tmp_path: Path, index: IndexPlace) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, index=index, metadata={"license": "apache-2.0"}) as store:
        store.add("a long name of a tensor", np.arange(3))
    place = path if index == "embedded" else path.with_name("m.sbs.idx")
    place.write_bytes(place.read_bytes().replace(b"apache-2.0", b"apache-3.0"))
    found = verify_file(path, quick=True).findings
    assert [(finding.code, finding.subject) for finding in found] == [("index-digest", str(place))]


def test_an_index_whose_key_has_changed_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": np.arange(3)}, path)
    path.write_bytes(path.read_bytes().replace(b"~index", b"~indez"))
    assert codes(verify_file(path).findings) == {"index-misplaced", "no-digests"}


def test_a_blob_that_the_index_does_not_know_is_named(vectors: Path) -> None:
    found = verify_file(vectors / "valid" / "index-blobs-added.sbs").findings
    assert {finding.code for finding in found} <= {"no-digest", "no-digests"}
    assert {finding.severity for finding in found} <= {"note", "warning"}


def test_a_blob_added_behind_an_index_with_digests_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": np.arange(3)}, path)
    with BlobReader(path) as reader:
        blobs = {key: bytes(blob) for key, blob in reader.items()}
    with blobstore.BlobWriter(path) as writer:
        for key, data in (blobs | {"added": b"later"}).items():
            writer.add(key, data)
    found = verify_file(path).findings
    assert [(finding.severity, finding.code, finding.subject) for finding in found] == [("note", "no-digest", "added")]


@pytest.mark.parametrize("index", ["embedded", "none"])
def test_a_file_without_digests_says_so(tmp_path: Path, index: IndexPlace) -> None:
    path = tmp_path / "m.sbs"
    with blobstore.create(path, index=index, digests=False) as store:
        store.add("a", np.arange(3))
    done = verify_file(path)
    assert [(finding.severity, finding.code) for finding in done.findings] == [("warning", "no-digests")]
    assert (done.blobs, done.nbytes) == (0, 0)


def test_quick_leaves_the_blobs_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    raw = bytearray(write_small(path, 2))
    raw[256] ^= 1
    path.write_bytes(raw)
    assert not verify_file(path, quick=True).findings
    assert codes(verify_file(path).findings) == {"damaged-blob"}


@pytest.mark.parametrize("workers", [None, 1, 2, 7])
def test_all_damage_is_found_in_the_order_of_the_file(tmp_path: Path, workers: int | None) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({f"t{i:02}": np.full(1000 * (i % 7 + 1), i) for i in range(30)}, path)
    with blobstore.open(path) as store:
        places = {name: store.info(name).offset for name in store}
    raw = bytearray(path.read_bytes())
    damaged = ["t03", "t04", "t20", "t29"]
    for name in damaged:
        raw[places[name] + 17] ^= 64
    path.write_bytes(raw)
    assert [finding.subject for finding in verify_file(path, workers=workers).findings] == damaged


def test_progress_is_told_of_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({f"t{i}": np.ones(3_000_000 * i, np.uint8) for i in range(1, 4)}, path)
    steps: list[int] = []
    totals: list[int] = []

    class Bar:
        def __call__(self, nbytes: int) -> None:
            steps.append(nbytes)  # from several threads

        def expect(self, nbytes: int) -> None:
            totals.append(nbytes)

    done = verify_file(path, values=True, progress=Bar())
    assert done.nbytes == 18_000_000
    assert (totals, sum(steps)) == ([18_000_000, 36_000_000], 36_000_000)
    assert len(steps) > 6


def test_a_reader_that_is_interrupted_stops_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({f"t{i}": np.ones(9_000_000, np.uint8) for i in range(4)}, path)

    def stop(_nbytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_file(path, progress=stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("blobstore")]


# -------------------------------------------------------------------------------------------------------------- values

FLOATS = [
    *(np.dtype(dtype) for dtype in (np.float16, np.float32, np.float64, np.complex64)),
    *(np.dtype(dtype) for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz)),
    *(np.dtype(dtype) for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e8m0fnu)),
]


@given(st.sampled_from(FLOATS), st.data())
def test_values_are_counted_as_numpy_counts_them(tmp_path: Path, dtype: np.dtype[Any], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 50))
    raw = data.draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    array = np.frombuffer(raw, dtype=dtype)
    blobstore.save_file({"t": array}, tmp_path / "m.sbs")
    with np.errstate(invalid="ignore"):
        wide = array.astype(np.complex128 if dtype == np.complex64 else np.float64)
    expected = {"not-a-number": np.isnan(wide), "infinite": np.isinf(wide)}
    found = {finding.code: finding for finding in verify_file(tmp_path / "m.sbs", values=True).findings}
    assert set(found) == {code for code, where in expected.items() if where.any()}
    for code, finding in found.items():
        where = expected[code]
        assert f"{int(where.sum())} of {count} values" in finding.message
        assert finding.message.endswith(f"element {int(where.argmax())}")
        assert finding.names == ("t",)


@pytest.mark.parametrize("at", [0, 1 << 20, (1 << 20) + 5])
def test_a_value_is_found_wherever_it_stands(tmp_path: Path, at: int) -> None:
    array = np.zeros((1 << 20) + 6, dtype=ml_dtypes.bfloat16)
    array[at] = np.nan
    blobstore.save_file({"t": array, "u": array[:9]}, tmp_path / "m.sbs")
    found = verify_file(tmp_path / "m.sbs", values=True).findings
    assert [(finding.code, finding.message.rpartition(" ")[2]) for finding in found if finding.subject == "t"] == [
        ("not-a-number", str(at))
    ]


def stored(path: Path, type_name: str, raw: bytes, count: int) -> Path:
    with blobstore.create(path) as store:
        store.add_stored("t", [raw], BY_NAME[type_name], (count,))
        store.alias("u", "t")
    return path


def test_a_code_that_stands_for_nothing_is_found_once_for_all_names(tmp_path: Path) -> None:
    path = stored(tmp_path / "m.sbs", "sfp", b"\x00\x80\x7f\x80", 4)
    (finding,) = verify_file(path, values=True).findings
    assert (finding.code, finding.severity) == ("reserved-code", "error")
    assert finding.message.startswith("2 of 4 values")


@pytest.mark.parametrize(
    ("type_name", "data", "count"),
    [("nuq", b"\x80" * 16 + bytes(128), 256), ("mxfp4", bytes(17) + b"\xff" + bytes(16), 33)],
)
def test_a_table_or_a_scale_with_such_a_code_is_found(tmp_path: Path, type_name: str, data: bytes, count: int) -> None:
    path = stored(tmp_path / "m.sbs", type_name, data, count)
    assert codes(verify_file(path, values=True).findings) == {"reserved-code"}


@pytest.mark.parametrize(
    ("type_name", "data"), [("i8", b"\x80\x7f\x00\x00" + b"\x01" * 128), ("q4_0", b"\x80\x7f" + bytes(16) + bytes(54))]
)
def test_groups_that_decode_to_infinity_are_found(tmp_path: Path, type_name: str, data: bytes) -> None:
    path = stored(tmp_path / "m.sbs", type_name, data, 128)
    found = codes(verify_file(path, values=True).findings)
    assert found
    assert found <= {"not-a-number", "infinite"}


def test_what_can_not_be_decoded_is_said(tmp_path: Path) -> None:
    path = stored(tmp_path / "m.sbs", "f4", b"\x12", 2)
    found = verify_file(path, values=True).findings
    assert [(finding.severity, finding.code) for finding in found] == [("note", "undecodable")]


@pytest.mark.parametrize("type_name", ["i64", "u8", "bool"])
def test_integers_are_always_right(tmp_path: Path, type_name: str) -> None:
    dtype = BY_NAME[type_name].dtype
    blobstore.save_file({"t": np.ones(9, dtype=dtype)}, tmp_path / "m.sbs")
    assert not verify_file(tmp_path / "m.sbs", values=True).findings


def test_a_file_whose_tensors_can_not_be_listed_is_a_finding(vectors: Path) -> None:
    found = verify_file(vectors / "catalog_invalid" / "toc-bf16-long.sbs", values=True).findings
    assert [finding.code for finding in errors(found)] == ["toc-size"]
    assert set(codes(found)) <= {*CODES}
