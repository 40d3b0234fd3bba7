from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.codecs import element_types
from blobstore.container.directory import build_directory
from blobstore.errors import FormatError, UsageError
from blobstore.gemma.toc import TocEntry, build_toc, toc_entry
from blobstore.index import Entry, IndexedBlob, build_index, parse_index
from blobstore.index.records import HEADER_FIELDS, Header, section_spans
from blobstore.store.catalog import BlobCatalog, IndexCatalog, open_catalog
from tests.strategies import bytes_of, keys, versions
from tests.tensor_strategies import DTYPES, names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HIDDEN = ["config", "tokenizer", "toc", "Fscales", "~index", "~packed", "~packed.idx"]

key_lists = st.lists(keys | st.sampled_from(HIDDEN), min_size=1, max_size=8, unique=True)


def plain(listed: Sequence[str], version: int = 2) -> BlobCatalog:
    sizes = [300 * (i + 1) for i in range(len(listed))]
    return BlobCatalog(build_directory(version, [bytes_of(key) for key in listed], sizes))


@given(key_lists, versions)
def test_without_an_index_each_blob_is_bytes_under_its_key(listed: list[str], version: int) -> None:
    catalog = plain(listed, version)
    assert catalog.names == [key for key in listed if key not in HIDDEN]
    directory = build_directory(version, [bytes_of(key) for key in listed], [300 * (i + 1) for i in range(len(listed))])
    for info in catalog:
        offset, nbytes = directory.range(listed.index(info.name))
        assert (info.key, info.offset, info.nbytes, info.shape) == (info.name, offset, nbytes, (nbytes,))
        assert (info.type.name, info.dtype, info.scale, info.codec) == ("unknown", np.dtype(np.uint8), 1.0, 0)


@given(key_lists, names | keys | st.sampled_from(["", "\ud800", *HIDDEN]))
def test_without_an_index_what_is_listed_is_found(listed: list[str], name: str) -> None:
    catalog = plain(listed)
    assert [catalog.find(key) for key in catalog.names] == list(catalog)
    assert (catalog.find(name) is not None) == (name in catalog.names)


@given(st.lists(names, max_size=6, unique=True), names)
def test_with_an_index_what_is_listed_is_found(listed: list[str], name: str) -> None:
    directory = build_directory(2, [b"a"], [8])
    raw = build_index([Entry(name, 0, 0, 8, 1, (2,)) for name in listed], [IndexedBlob(b"a", 8)])
    catalog = IndexCatalog(directory, parse_index(memoryview(raw), kind="embedded", path="a.sbs"))
    assert catalog.names == sorted(listed, key=str.encode)
    assert [catalog.find(key) for key in catalog.names] == list(catalog)
    assert (catalog.find(name) is not None) == (name in listed)
    assert catalog.find("a") is None or "a" in listed


def test_an_index_without_entries_lists_nothing() -> None:
    raw = build_index([], [IndexedBlob(b"a", 8)])
    catalog = IndexCatalog(build_directory(2, [b"a"], [8]), parse_index(memoryview(raw), kind="embedded", path="a.sbs"))
    assert (catalog.names, list(catalog), catalog.find("a")) == ([], [], None)


@pytest.mark.parametrize("version", [1, 2])
def test_places_beyond_4_gib_are_right(version: int) -> None:
    sizes = [5 * 2**30, 2**33 + 1, 24, 7]
    directory = build_directory(version, [b"a", b"b", b"c", b"~index"], sizes)
    entries = [Entry(f"t{i}", i, 0, nbytes, 10, (nbytes,)) for i, nbytes in enumerate(sizes[:3])]
    entries += [Entry("tail", 1, 2**33 - 7, 8, 1, (2,)), Entry("none", None, 0, 0, 1, (0, 2**40))]
    raw = build_index(
        entries, [IndexedBlob(key, size) for key, size in zip([b"a", b"b", b"c"], sizes[:3], strict=True)]
    )
    catalog = IndexCatalog(directory, parse_index(memoryview(raw), kind="embedded", path="a.sbs"))
    second = 256 + 5 * 2**30
    places = {info.name: (info.key, info.offset, info.nbytes) for info in catalog}
    assert places == {
        "t0": ("a", 256, 5 * 2**30),
        "t1": ("b", second, 2**33 + 1),
        "t2": ("c", second + 2**33 + 256, 24),
        "tail": ("b", second + 2**33 - 7, 8),
        "none": ("", 0, 0),
    }


@pytest.mark.parametrize(("dtype", "name"), DTYPES.items(), ids=DTYPES.values())
def test_the_dtype_is_none_for_what_has_to_be_decoded(dtype: np.dtype[Any], name: str) -> None:
    number = element_types.BY_NAME[name].number
    entries = [Entry("coded", 0, 0, 8, number, (0x77,), codec=2), Entry("plain", 0, 0, dtype.itemsize, number, ())]
    raw = build_index(entries, [IndexedBlob(b"a", 8)])
    catalog = IndexCatalog(build_directory(2, [b"a"], [8]), parse_index(memoryview(raw), kind="embedded", path="a.sbs"))
    assert [info.dtype for info in catalog] == [None, dtype.newbyteorder("<")]


def by_toc(*listed: tuple[TocEntry, int]) -> list[tuple[str, str, tuple[int, ...], int]]:
    """Name, type, shape and size of each tensor of a file with this toc, and blobs of these sizes."""
    toc = build_toc(entry for entry, _ in listed)
    directory = build_directory(2, [entry.name.encode() for entry, _ in listed], [nbytes for _, nbytes in listed])
    catalog = open_catalog({"toc": memoryview(toc)}, directory, None)
    assert all(info == catalog.find(info.name) for info in catalog)
    return [(info.name, info.type.name, info.shape, info.nbytes) for info in catalog]


toc_types = st.sampled_from([element_types.BY_NUMBER[number] for number in range(1, 14)])
toc_entries = st.builds(toc_entry, st.sampled_from("aé"), toc_types, st.integers(1, 300), st.integers(1, 300))


@given(entry=toc_entries, number=st.integers(14, 31), nbytes=st.integers(1, 2**40))
def test_a_tensor_of_a_newer_type_is_all_of_its_blob(entry: TocEntry, number: int, nbytes: int) -> None:
    newer = replace(entry, name="newer", type_number=number)
    listed = by_toc((entry, entry.nbytes), (newer, nbytes))
    shape = (entry.rows, entry.cols)
    assert listed == [
        (entry.name, entry.type.name, shape, entry.nbytes),
        ("newer", f"type-{number}", shape, nbytes),
    ]


@given(entry=toc_entries, number=st.sampled_from([None, 14, 31]), stride=st.integers(0, 2**32 - 1))
def test_a_stride_that_is_not_a_row_is_refused_with_the_fix(entry: TocEntry, number: int | None, stride: int) -> None:
    odd = replace(entry, stride=stride, type_number=number or entry.type_number)
    if stride in (0, entry.cols):
        assert by_toc((odd, entry.nbytes))
        return
    with pytest.raises(FormatError) as caught:
        by_toc((odd, entry.nbytes))
    assert (caught.value.reason, caught.value.offset) == ("toc-stride", 256)
    what = f"the rows of {odd.name!r} are {stride} elements apart, expected {odd.cols}"
    assert what in caught.value.message
    assert f"blobstore rewrite FILE -o OUT --drop {odd.name}, or convert the model again" in caught.value.message


@given(entry=toc_entries, number=st.integers(14, 31))
def test_a_tensor_of_a_newer_type_has_elements_but_not_too_many(entry: TocEntry, number: int) -> None:
    for rows, cols in ((0, entry.cols), (2**31, 2**26)):
        with pytest.raises(FormatError, match=f"toc-size: .* is type-{number}, {rows} × {cols}, which is not 1 to"):
            by_toc((replace(entry, type_number=number, rows=rows, cols=cols, stride=0), 8))


@pytest.mark.parametrize("lookups", [1, 3, 9])
def test_a_damaged_entry_is_no_other_tensors_fault_however_many_are_looked_up(tmp_path: Path, lookups: int) -> None:
    blobstore.save_file({f"t{i:03}": np.full(2, i, np.float32) for i in range(300)}, tmp_path / "x.sbs")
    raw = bytearray((tmp_path / "x.sbs").read_bytes())
    with blobstore.BlobReader(tmp_path / "x.sbs") as reader:
        start, _ = reader.range("~index")
        spans = section_spans(Header._make(HEADER_FIELDS.unpack_from(reader["~index"])))
    at = start + spans["entry scale"][0] + 4 * 7
    raw[at : at + 4] = b"\0\0\x80\x7f"
    store = blobstore.open(bytes(raw))
    for _ in range(lookups):
        assert (store["t005"][0], store["t299"][0], store.info("t006").shape) == (5, 299, (2,))
        for touch in (store.__getitem__, store.info, lambda _: list(store), lambda _: list(store.infos())):
            with pytest.raises(FormatError, match="index-scale: entry 7"):
                touch("t007")
    with pytest.raises(FormatError, match="index-scale"):
        store.load_all()


def test_look_ups_find_the_same_before_and_after_all_are_listed(tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "x.sbs") as store:
        for i in range(400):
            store[f"t{i:03}"] = np.full((i % 3, 2), i, np.float32)
        store.alias("tied", "t001")
    once = [blobstore.open(tmp_path / "x.sbs").info(f"t{i:03}") for i in range(400)]
    again = blobstore.open(tmp_path / "x.sbs")
    assert [again.info(f"t{i:03}") for i in range(400)] == once == list(again.infos())[:400]
    for _ in range(2):
        for info in once:
            values = again[info.name]
            assert (values.shape, values.dtype, values.flags.writeable) == (info.shape, info.dtype, False)
            assert (values == int(info.name[1:])).all()
    assert np.shares_memory(again["tied"], again["t001"])
    again.close()
    for name in ("t001", "tied"):
        with pytest.raises(UsageError, match="closed"):
            again[name]
