"""The index of a set, joined from those of its stores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.container.directory import build_directory
from blobstore.errors import FormatError, UsageError
from blobstore.index import Entry, IndexedBlob, build_index, parse_index
from blobstore.index.joining import JoinedStore, build_set_index
from blobstore.index.records import STORE, store_digest

if TYPE_CHECKING:
    from blobstore.index import NameIndex

NAMES = [f"layer.{i}.weight" for i in range(12)]
OWN = IndexedBlob(b"~index", 7)


def store_of(name: str, entries: list[Entry], blobs: list[IndexedBlob]) -> JoinedStore:
    index = parse_index(memoryview(build_index(entries, blobs)), kind="embedded")
    stored = [*blobs, OWN]
    return JoinedStore(name, build_directory(2, [b.key for b in stored], [b.nbytes for b in stored]), index)


@st.composite
def divided(draw: st.DrawFn) -> list[JoinedStore]:
    """Stores with a tensor for each blob, an alias and a part of some, and some without elements."""
    digest = draw(st.binary(min_size=32, max_size=32) | st.none())
    shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple)
    stores, number = [], 0
    for place in range(draw(st.integers(1, 4))):
        blobs, entries = [], []
        for blob in range(draw(st.integers(1, 4))):
            shape = draw(shapes)
            nbytes = 4 * int(np.prod(shape, dtype=int))
            blobs.append(IndexedBlob(b"k%d" % number, nbytes, digest))
            entries.append(Entry(f"{draw(st.sampled_from('az'))}{number}", blob, 0, nbytes, 1, shape))
            if draw(st.booleans()):
                entries.append(replace(entries[-1], name=f"alias of {number}"))
            if draw(st.booleans()):
                entries.append(Entry(f"part of {number}", blob, nbytes - 4, 4, 1, (), 0.5))
            number += 1
        if draw(st.booleans()):
            entries.append(Entry(f"empty {number}", None, 0, 0, 2, (0, 7)))
        stores.append(store_of(f"m-{place}.sbs", entries, blobs))
    return stores


def of_set(stores: list[JoinedStore], metadata: dict[str, str] | None = None) -> NameIndex:
    return parse_index(memoryview(build_set_index(stores, metadata)), kind="set")


@given(divided(), st.dictionaries(st.text("ab", max_size=2), st.text("cd", max_size=2)))
def test_a_set_has_what_its_stores_have(stores: list[JoinedStore], metadata: dict[str, str]) -> None:
    index = of_set(stores, metadata)
    assert (index.metadata, index.is_set, index.self_digest_holds()) == (metadata, True, True)
    expected = {}
    for store, listed in zip(stores, index.stores, strict=True):
        assert (listed.name, listed.nbytes) == (store.name, store.directory.file_size)
        assert listed.sha256 == store_digest(store.directory, store.index.header.self_sha256)
        rows = range(listed.first_blob, listed.first_blob + listed.blob_count)
        assert [index.blob(row) for row in rows] == [store.index.blob(i) for i in range(listed.blob_count)]
        for entry in store.index.all_entries():
            place = None if entry.blob is None else entry.blob + listed.first_blob
            expected[entry.name] = replace(entry, blob=place)
    assert index.names == sorted(expected)
    assert {entry.name: entry for entry in index.all_entries()} == expected
    assert [index.find(name) for name in index.names] == list(range(len(expected)))


@given(divided())
def test_one_store_with_all_of_it_has_the_same_columns(stores: list[JoinedStore]) -> None:
    """The order of names, shapes and digests doesn't depend on the division."""
    index = of_set(stores)
    whole = build_index(list(index.all_entries()), [index.blob(i) for i in range(len(index.blobs))])
    one = parse_index(memoryview(whole), kind="embedded")
    assert (one.shapes, one.has_digests) == (index.shapes, index.has_digests)
    for name, (start, nbytes) in one.spans.items():
        if "store" not in name:
            there, _ = index.spans[name]
            assert whole[start : start + nbytes] == bytes(index.raw[there : there + nbytes])


def small(name: str, tensor: str, key: bytes) -> JoinedStore:
    return store_of(name, [Entry(tensor, 0, 0, 8, 1, (2,))], [IndexedBlob(key, 8)])


@pytest.mark.parametrize(
    ("stores", "reason"),
    [
        ([], "no-stores"),
        ([small("a.sbs", "x", b"x"), small("b.sbs", "x", b"y")], "duplicate-name"),
        ([small("a.sbs", "x", b"x"), small("b.sbs", "y", b"x")], "duplicate-key"),
        ([small("a.sbs", "x", b"x"), small("A.sbs", "y", b"y")], "bad-store-name"),
        ([small("b/a.sbs", "x", b"x")], "bad-store-name"),
        ([small("../a.sbs", "x", b"x")], "bad-store-name"),
        ([small("", "x", b"x")], "bad-store-name"),
        ([store_of("a.sbs", [], [])], "bad-store"),
    ],
)
def test_stores_that_make_no_set_are_refused(stores: list[JoinedStore], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_set_index(stores)
    assert caught.value.reason == reason


def test_what_describes_a_packed_store_may_be_in_each() -> None:
    stores = [
        store_of(f"{name}.sbs", [Entry(name, 0, 0, 8, 1, (2,))], [IndexedBlob(name.encode(), 8), IndexedBlob(key, 8)])
        for name in "ab"
        for key in [b"~packed"]
    ]
    assert len(of_set(stores).blobs) == 4


# Of two stores: what is written at an offset of the section, and the check that it fails.
FAULTS = {
    "no first blob at 0": ("stores", 40, (1).to_bytes(4, "little")),
    "not ascending": ("stores", STORE.itemsize + 40, bytes(4)),
    "beyond the table": ("stores", STORE.itemsize + 40, (2).to_bytes(4, "little")),
    "too small": ("stores", 0, (100).to_bytes(8, "little")),
    "too large": ("stores", 0, (1 << 63).to_bytes(8, "little")),
    "name elsewhere": ("stores", 44, (1).to_bytes(4, "little")),
    "a path": ("store names", 1, b"/"),
    "two of a name": ("store names", 6, b"A"),
    "a device": ("store names", 6, b"con.x"),
    "no NUL": ("store names", 5, b"x"),
    "not ASCII": ("store names", 0, b"\xff"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_about_stores_is_refused_when_it_is_opened(fault: str) -> None:
    raw = bytearray(build_set_index([small("a.sbs", "x", b"x"), small("b.sbs", "y", b"y")]))
    index = parse_index(memoryview(bytes(raw)), kind="set")
    section, offset, damage = FAULTS[fault]
    at = index.spans[section][0] + offset
    raw[at : at + len(damage)] = damage
    with pytest.raises(FormatError, match="index-stores"):
        parse_index(memoryview(raw), kind="set")


@pytest.mark.parametrize("key", [b"~index", b"a\0b", b""])
def test_wrong_keys_of_a_set_are_refused(key: bytes) -> None:
    stores = [small("a.sbs", "x", b"x"), small("b.sbs", "y", b"y" * 16)]
    raw = bytearray(build_set_index(stores))
    index = parse_index(memoryview(bytes(raw)), kind="set")
    at = index.spans["blob key"][0] + 16
    raw[at : at + 16] = key.ljust(16, b"\0")
    damaged = parse_index(memoryview(raw), kind="set")
    with pytest.raises(FormatError, match="index-key"):
        damaged.places(build_directory(2, [b"x", b"y" * 16], [8, 8]))
