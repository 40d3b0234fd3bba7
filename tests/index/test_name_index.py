from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import FrozenInstanceError, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from blobstore.codecs import element_types
from blobstore.container.directory import build_directory
from blobstore.errors import FormatError, TruncatedError, UsageError
from blobstore.index import (
    PACKED,
    Entry,
    IndexedBlob,
    NameIndex,
    build_index,
    open_index,
    parse_index,
    rebind_index,
    unbind_index,
)
from blobstore.index.records import HEADER_FIELDS, HEADER_NBYTES, MAX_NAMES_NBYTES, Header, section_spans
from tests.conftest import VECTORS, load_manifest
from tests.fuzz.targets import check_lookups
from tests.strategies import bytes_of, key_bytes, versions
from tests.tensor_strategies import metadata_maps, mutated, names, sealed, shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from blobstore.container.directory import Directory

SIZES = [1, 8, 300, 2**32 - 1, 2**32, 2**33 + 5, 2**45]
KEYS = ["a.weight", "b.weight"]


def parsed(raw: bytes, *, external: bool = False) -> NameIndex:
    return parse_index(memoryview(raw), kind="external" if external else "embedded")


def index_spans(raw: bytes | bytearray) -> dict[str, tuple[int, int]]:
    """Where each section of an index is."""
    return section_spans(Header._make(HEADER_FIELDS.unpack_from(raw)))


def entries_of(index: NameIndex) -> list[Entry]:
    return [index.entry(i) for i in range(len(index.names))]


def blobs_of(index: NameIndex) -> list[IndexedBlob]:
    return [index.blob(i) for i in range(len(index.blobs))]


def directory_of(blobs: Sequence[IndexedBlob], version: int = 2) -> Directory:
    return build_directory(version, [blob.key for blob in blobs], [blob.nbytes for blob in blobs])


@st.composite
def blob_tables(draw: st.DrawFn) -> list[IndexedBlob]:
    """Tables of at least one blob, with digests for all or for none."""
    keys = draw(st.lists(key_bytes.filter(lambda key: key != b"~index"), min_size=1, max_size=5, unique=True))
    digest = draw(st.binary(min_size=32, max_size=32) | st.none())
    unpacked = st.just(0) | st.sampled_from(SIZES)
    return [IndexedBlob(key, draw(st.sampled_from(SIZES)), digest, draw(unpacked)) for key in keys]


@st.composite
def any_entry(draw: st.DrawFn, name: str, blobs: Sequence[IndexedBlob]) -> Entry:
    """Entries of any type and codec, known or not, anywhere in a blob that is large enough."""
    number = draw(st.sampled_from([*element_types.BY_NUMBER, 9, 31, 49, 65535]))
    codec = draw(st.sampled_from([0, 0, 0, 2, 65535]))
    scale = draw(st.floats(width=32, allow_nan=False, allow_infinity=False))
    shape = draw(shapes)
    if 0 in shape:
        return Entry(name, None, 0, 0, number, shape, scale, codec)
    place = draw(st.integers(0, len(blobs) - 1))
    available = blobs[place].unpacked_nbytes or blobs[place].nbytes
    codec = PACKED if blobs[place].unpacked_nbytes else codec
    nbytes = draw(st.integers(0, available))
    if codec <= PACKED and number in element_types.BY_NUMBER:
        element_type = element_types.BY_NUMBER[number]
        if element_type.nbytes(math.prod(shape)) > available:
            element_type, shape = element_types.BY_NAME["u8"], (available,)
        number, nbytes = element_type.number, element_type.nbytes(math.prod(shape))
    return Entry(name, place, draw(st.integers(0, available - nbytes)), nbytes, number, shape, scale, codec)


@st.composite
def contents(draw: st.DrawFn) -> tuple[list[Entry], list[IndexedBlob], dict[str, str]]:
    """Arguments of `build_index`."""
    blobs = draw(blob_tables())
    listed = draw(st.lists(names, max_size=6, unique=True))
    return [draw(any_entry(name, blobs)) for name in listed], blobs, draw(metadata_maps)


Contents = tuple[list[Entry], list[IndexedBlob], dict[str, str]]


@given(contents(), st.booleans(), versions)
def test_an_index_reads_back(arguments: Contents, external: bool, version: int) -> None:
    entries, blobs, metadata = arguments
    directory = directory_of(blobs, version)
    index = parsed(build_index(entries, blobs, metadata, store=directory if external else None), external=external)
    assert entries_of(index) == sorted(entries, key=lambda entry: entry.name.encode())
    assert blobs_of(index) == blobs
    assert (index.metadata, index.external) == (metadata, external)
    assert index.has_digests == (blobs[0].sha256 is not None)
    assert index.self_digest_holds()
    assert index.places(directory).tolist() == list(range(len(blobs)))
    index.check_binding(directory)


@given(contents(), st.randoms(use_true_random=False))
def test_the_order_of_the_entries_does_not_change_the_index(arguments: Contents, random: object) -> None:
    entries, blobs, metadata = arguments
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert build_index(shuffled, blobs, dict(reversed(metadata.items()))) == build_index(entries, blobs, metadata)


@given(contents())
def test_each_shape_is_stored_once(arguments: Contents) -> None:
    entries, blobs, _ = arguments
    index = parsed(build_index(entries, blobs))
    assert len(index.dims) == sum(map(len, {entry.shape for entry in entries}))


@given(contents(), names | st.sampled_from(["", "\0", "\ud800", "x" * 4097]))
def test_exactly_the_names_are_found(arguments: Contents, name: str) -> None:
    entries, blobs, _ = arguments
    index = parsed(build_index(entries, blobs))
    assert [index.find(listed) for listed in index.names] == list(range(len(entries)))
    place = index.names.index(name) if name in index.names else -1
    assert index.find(name) == open_index(index.raw, kind="embedded").find(name) == place


@given(contents(), st.data())
def test_a_look_up_checks_no_more_than_it_touches(arguments: Contents, data: st.DataObject) -> None:
    entries, blobs, _ = arguments
    raw = bytearray(build_index(entries, blobs))
    listed = parsed(bytes(raw)).names
    assume(len(listed) > 1)
    place = data.draw(st.integers(0, len(listed) - 1))
    start = index_spans(raw)["entry scale"][0] + 4 * place
    raw[start : start + 4] = b"\0\0\x80\x7f"
    for i, name in enumerate(listed):
        index = open_index(memoryview(raw), kind="embedded")
        if i == place:
            with pytest.raises(FormatError, match=f"index-scale: entry {place} "):
                index.find(name)
        else:
            assert index.find(name) == i
    with pytest.raises(FormatError, match="index-scale"):
        index.find("\x7f no such name")
    with pytest.raises(FormatError, match="index-scale"):
        index.check()


@given(st.data())
def test_what_is_checked_some_at_a_time_is_refused_as_if_it_were_checked_at_once(data: st.DataObject) -> None:
    entries, blobs, metadata = data.draw(contents())
    raw = data.draw(mutated(build_index(entries, blobs, metadata)))
    with pytest.MonkeyPatch.context() as patched:
        whole = _outcome(raw)
        patched.setattr("blobstore.index.validate._DECODED", 2)
        patched.setattr("blobstore.index.name_index._CHECKED", 3)
        assert _outcome(raw) == whole


def _outcome(raw: bytes) -> list[str] | tuple[str, str]:
    """Return the names of an index, or why it is refused."""
    try:
        return parsed(raw).names
    except FormatError as error:
        # A name that ends inside a character ends it where names are decoded some at a time.
        return error.reason, "" if error.reason == "index-name" else error.message


@given(count=st.integers(2, 9), data=st.data())
def test_a_name_that_is_used_twice_is_refused_when_it_is_looked_up(count: int, data: st.DataObject) -> None:
    raw = build_index([Entry(f"n{i}", None, 0, 0, 1, (0,)) for i in range(count)], [])
    place = data.draw(st.integers(1, count - 1))
    twice = raw.replace(f"n{place}\0".encode(), f"n{place - 1}\0".encode())
    index = open_index(memoryview(twice), kind="embedded")
    with pytest.raises(FormatError, match=f"index-order: entry {place} .* is used twice"):
        index.find(f"n{place - 1}")


@given(contents(), versions)
def test_binding_to_a_store_and_back_is_the_same_index(arguments: Contents, version: int) -> None:
    entries, blobs, metadata = arguments
    raw = build_index(entries, blobs, metadata)
    directory = directory_of(blobs, version)
    bound = rebind_index(parsed(raw), directory)
    assert bound == build_index(entries, blobs, metadata, store=directory)
    assert rebind_index(parsed(bound, external=True), None) == raw


@given(contents(), versions)
def test_an_unbound_index_is_the_same_but_for_its_store(arguments: Contents, version: int) -> None:
    entries, blobs, metadata = arguments
    directory = directory_of(blobs, version)
    bound = build_index(entries, blobs, metadata, store=directory)
    index = parsed(unbind_index(bound), external=True)
    assert (index.header.store_nbytes, index.header.store_sha256) == (0, bytes(32))
    assert index.self_digest_holds()
    with pytest.raises(FormatError, match="index-stale"):
        index.check_binding(directory)
    assert rebind_index(index, directory) == bound


@given(contents(), versions, st.integers(0, 2))
def test_an_external_index_is_stale_for_another_store(arguments: Contents, version: int, change: int) -> None:
    entries, blobs, _ = arguments
    index = parsed(build_index(entries, blobs, store=directory_of(blobs, version)), external=True)
    blobs_there = [
        [*blobs, IndexedBlob(b"~index", 7)],
        [*blobs[:-1], replace(blobs[-1], nbytes=blobs[-1].nbytes + 1)],
        [*blobs[:-1], replace(blobs[-1], key=b"~other")],
    ][change]
    with pytest.raises(FormatError, match="index-stale"):
        index.check_binding(directory_of(blobs_there, version))


@given(contents(), st.data())
def test_blobs_are_found_wherever_a_foreign_tool_has_put_them(arguments: Contents, data: st.DataObject) -> None:
    entries, blobs, _ = arguments
    index = parsed(build_index(entries, blobs))
    stored = data.draw(st.permutations([*blobs, IndexedBlob(b"~index", 7)]))
    directory = directory_of(stored)
    assert [bytes(directory.keys[place]) for place in index.places(directory)] == [blob.key for blob in blobs]


@given(blob_tables(), st.data())
def test_a_blob_that_is_missing_or_has_another_size_is_named(blobs: list[IndexedBlob], data: st.DataObject) -> None:
    index = parsed(build_index([], blobs))
    victim = data.draw(st.sampled_from(blobs))
    others = data.draw(st.permutations([*(blob for blob in blobs if blob is not victim), IndexedBlob(b"~index", 7)]))
    with pytest.raises(FormatError) as caught:
        index.places(directory_of(others))
    assert caught.value.reason == "index-missing-blob"
    assert repr(victim.key.decode("utf-8", "surrogateescape")) in str(caught.value)
    with pytest.raises(FormatError) as caught:
        index.places(directory_of([*others, replace(victim, nbytes=victim.nbytes + 1)]))
    assert caught.value.reason == "index-blob-size"


@given(blob_tables(), st.booleans(), st.data())
def test_a_blob_is_in_place_where_key_and_size_are_the_tables(
    blobs: list[IndexedBlob], itself: bool, data: st.DataObject
) -> None:
    own = IndexedBlob(b"~index", 7, blobs[0].sha256)
    table = [*blobs, own] if itself else blobs  # invalid, and never in place
    index = parsed(build_index([], table))
    order = [*blobs, own]
    stored = data.draw(st.just(order) | st.permutations(order))[: data.draw(st.integers(1, len(order)))]
    stored = [replace(blob, nbytes=blob.nbytes + data.draw(st.sampled_from([0, 0, 0, 1]))) for blob in stored]
    directory = directory_of(stored)
    for place, blob in enumerate(table):
        same = place < len(stored) and (blob.key, blob.nbytes) == (stored[place].key, stored[place].nbytes)
        assert index.in_place(place, directory) == (same and blob.key != b"~index")


@pytest.mark.parametrize("keys", [[b"a", b"a"], [b"a", b"b", b"a"], [b"~index"], [b"a", b"~index"], [b""], [b"a\0b"]])
def test_a_table_of_wrong_keys_is_refused(keys: list[bytes]) -> None:
    index = parsed(build_index([], [IndexedBlob(key, 8) for key in keys]))
    directory = directory_of([IndexedBlob(key, 8) for key in (b"a", b"b", b"~index")])
    with pytest.raises(FormatError) as caught:
        index.places(directory)
    assert caught.value.reason == "index-key"


@given(contents(), st.integers(min_value=0), st.integers(1, 255))
def test_the_digest_tells_any_changed_byte(arguments: Contents, at: int, change: int) -> None:
    entries, blobs, metadata = arguments
    index = parsed(build_index(entries, blobs, metadata))
    raw = bytearray(index.raw)
    raw[at % len(raw)] ^= change
    assert not replace(index, raw=memoryview(raw)).self_digest_holds()


def test_the_digest_tells_any_changed_byte_of_the_header() -> None:
    index = parsed(build_index([], [], {"a": "b"}))
    for at in range(HEADER_NBYTES):
        raw = bytearray(index.raw)
        raw[at] ^= 1
        assert not replace(index, raw=memoryview(raw)).self_digest_holds()


@pytest.mark.parametrize(("record_type", "frozen"), [(Entry, "name"), (IndexedBlob, "key"), (NameIndex, "raw")])
def test_records_are_not_changed(record_type: type, frozen: str) -> None:
    index = parsed(build_index([Entry("a", 0, 0, 8, 1, (2,))], [IndexedBlob(b"a", 8)]))
    record = next(
        candidate for candidate in (index, index.entry(0), index.blob(0)) if isinstance(candidate, record_type)
    )
    with pytest.raises(FrozenInstanceError):
        setattr(record, frozen, None)


def test_indexes_equal_only_themselves_and_show_no_raw_bytes() -> None:
    first, second = (parsed(build_index([], [])) for _ in range(2))
    assert len({first, second, first}) == 2
    assert not [name for name in (" raw=", "_lookups", "metadata_json") if name in repr(first)]


def test_the_defaults_are_no_codec_no_digest_and_not_packed() -> None:
    index = parsed(build_index([Entry("a", 0, 0, 8, 1, (2,))], [IndexedBlob(b"a", 8)]))
    entry, blob = index.entry(0), index.blob(0)
    assert (entry.scale, entry.codec, blob.sha256, blob.unpacked_nbytes) == (1.0, 0, None, 0)


# Sizes beyond 32 bits.

HUGE = [5 * 2**30, 2**33 + 1, 3, 2**50]


def test_ranges_beyond_4_gib_are_kept() -> None:
    blobs = [IndexedBlob(b"%d" % i, nbytes) for i, nbytes in enumerate(HUGE)]
    entries = [Entry(f"t{i}", i, 0, blob.nbytes, 10, (blob.nbytes,)) for i, blob in enumerate(blobs)]
    entries += [Entry("last", 3, 2**50 - 8, 8, 1, (2,)), Entry("wide", 1, 1, 2**33, 2, (2**16, 2**16))]
    index = parsed(build_index(entries, blobs))
    assert entries_of(index) == sorted(entries, key=lambda entry: entry.name)
    assert blobs_of(index) == blobs


@pytest.mark.parametrize("count", [2**57 - 1, 2**57, 2**61, 2**63])
def test_the_product_of_the_dimensions_stays_below_two_to_the_57(count: int) -> None:
    blobs = [IndexedBlob(b"a", 8)]
    largest = 2**57 - 1
    raw = build_index([Entry("a", 0, 0, 8, 999, (largest,))], blobs)
    assert parsed(raw).entry(0).shape == (largest,)
    if count == largest:
        return
    with pytest.raises(UsageError, match="bad-shape: 'a' has shape"):
        build_index([Entry("a", 0, 0, 8, 999, (count,))], blobs)
    with pytest.raises(FormatError, match="index-dims"):
        parsed(raw.replace(largest.to_bytes(8, "little"), count.to_bytes(8, "little")))


def test_as_many_blobs_as_a_file_can_have_are_the_most() -> None:
    for count in (2**20, 2**20 + 1):
        fields = Header._make(HEADER_FIELDS.unpack(bytes(HEADER_NBYTES)))
        fields = fields._replace(magic=b"SBSINDEX", version=1, blob_count=count, metadata_nbytes=2)
        end = sum(section_spans(fields)["metadata"])
        raw = HEADER_FIELDS.pack(*fields._replace(nbytes=end)).ljust(end - 2, b"\0") + b"{}"
        if count == 2**20:
            assert len(parsed(raw).blobs) == count
            continue
        with pytest.raises(FormatError, match="1048577 blobs are more than a file can have") as caught:
            parsed(raw)
        assert caught.value.offset == 28


# Arguments that are refused.


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "bad-name"), ("a\0b", "bad-name"), ("\ud800", "bad-name"), ("x" * 4097, "bad-name"), ("b", "duplicate-name")],
)
def test_a_wrong_name_is_refused(name: str, reason: str) -> None:
    entries = [Entry(entry_name, None, 0, 0, 1, (0,)) for entry_name in ("a", "b", name)]
    with pytest.raises(UsageError) as caught:
        build_index(entries, [])
    assert caught.value.reason == reason


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": None}, {"a": "\ud800"}, {"\udc80": "a"}])
def test_metadata_is_text_to_text(metadata: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        build_index([], [], metadata)
    assert caught.value.reason == "bad-metadata"


def test_33_dimensions_are_too_many() -> None:
    assert len(parsed(build_index([Entry("a", None, 0, 0, 1, (0,) * 32)], [])).dims) == 32
    with pytest.raises(UsageError, match="bad-shape: 'a' has 33 dimensions"):
        build_index([Entry("a", None, 0, 0, 1, (0,) * 33)], [])


@pytest.mark.parametrize("shape", [(-1,), (-2, 0), (0, 2**57), (2**56, 0, 2), (2**57,)])
def test_a_shape_that_can_not_be_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="bad-shape: 'a' has shape"):
        build_index([Entry("a", None, 0, 0, 1, shape)], [])


def test_names_take_less_than_4_gib_as_the_spec_says() -> None:
    assert MAX_NAMES_NBYTES + 1 == 2**32


def test_names_beyond_their_section_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blobstore.index.build.MAX_NAMES_NBYTES", 4)  # the real limit would take 4 GiB
    entries = [Entry(name, None, 0, 0, 1, (0,)) for name in ("a", "b", "c")]
    assert parsed(build_index(entries[:2], [])).names == ["a", "b"]
    with pytest.raises(UsageError, match="names-too-long: the names have 6 bytes in total"):
        build_index(entries, [])


# Foreign bytes.


def vector_indexes() -> list[tuple[bytes, bool]]:
    """Return the index of each valid vector, and whether it is external."""
    out = []
    for fact in load_manifest()["valid"]:
        if "entries" in fact:
            path = VECTORS / "valid" / fact["file"]
            if fact["external"]:
                out.append((path.with_name(path.name + ".idx").read_bytes(), True))
            else:
                own = next(blob for blob in fact["blobs"] if bytes.fromhex(blob["key_hex"]) == b"~index")
                out.append((path.read_bytes()[own["offset"] :][: own["nbytes"]], False))
    return out


SEEDS = vector_indexes()
faulty = st.sampled_from(SEEDS).flatmap(lambda seed: st.tuples(mutated(seed[0]), st.just(seed[1])))


def check(index: NameIndex) -> None:
    """Check all that a reader relies on."""
    encoded = [name.encode() for name in index.names]
    assert encoded == sorted(set(encoded))
    for place, entry in enumerate(entries_of(index)):
        assert index.find(entry.name) == place
        assert 1 <= len(entry.name.encode()) <= 4096
        assert (entry.blob is None) == (0 in entry.shape)
        blob = None if entry.blob is None else index.blob(entry.blob)
        available = blob.unpacked_nbytes or blob.nbytes if blob else 0
        assert (entry.codec == PACKED) == bool(blob and blob.unpacked_nbytes)
        assert 0 <= entry.offset <= entry.offset + entry.nbytes <= available
        assert math.isfinite(entry.scale)
        element_type = element_types.by_number(entry.type)
        assert (
            entry.codec > PACKED or not element_type.bits or element_type.nbytes(math.prod(entry.shape)) == entry.nbytes
        )
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in index.metadata.items())
    json.dumps(index.metadata, ensure_ascii=False).encode()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_seeds_of_the_mutations_are_valid(seed: tuple[bytes, bool]) -> None:
    index = parsed(seed[0], external=seed[1])
    check(index)
    assert sealed(seed[0]) == seed[0]


@settings(max_examples=6 * settings().max_examples)
@given(faulty)
def test_a_mutated_index_is_refused_or_right(case: tuple[bytes, bool]) -> None:
    raw, external = case
    check_lookups(raw, "external" if external else "embedded")
    try:
        index = parsed(raw, external=external)
    except FormatError:
        return
    check(index)


@given(st.binary(max_size=400), st.booleans(), st.sampled_from([0, 8, 12, 24, 40, 64, 136, 160]))
def test_random_bytes_are_refused_or_right(raw: bytes, external: bool, keep: int) -> None:
    data = SEEDS[0][0][:keep] + raw
    check_lookups(data, "external" if external else "embedded")
    try:
        index = parsed(data, external=external)
    except FormatError:
        return
    check(index)


def peak_of_parsing(raw: bytes, *, external: bool = False) -> int:
    tracemalloc.start()
    try:
        parsed(raw, external=external)
    except FormatError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@given(faulty)
def test_a_mutated_index_takes_no_more_memory_than_its_size_allows(case: tuple[bytes, bool]) -> None:
    assert peak_of_parsing(case[0], external=case[1]) < 200_000 + 60 * len(case[0])


@pytest.mark.parametrize("piece", [b"[]", b"{}", b'""', b'{"":0}'])
def test_hostile_metadata_takes_no_more_memory_than_its_size_allows(generator: ModuleType, piece: bytes) -> None:
    text = b'{"a":[' + b",".join([piece] * (100_000 // len(piece))) + b"]}"
    assert peak_of_parsing(generator.name_index([], [], text)) < 200_000 + 60 * len(text)


def test_many_names_take_no_more_memory_than_their_size_allows() -> None:
    raw = build_index([Entry(f"{i:x}", None, 0, 0, 1, (0,)) for i in range(20_000)], [])
    assert peak_of_parsing(raw) < 200_000 + 10 * len(raw)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' * 200_000,
        b'{"a":' + b"7" * 100_000 + b"}",
        b'{"a":1e999999}',
        b'{"a":"\\udfff"}',
        b'{"\\ud800":"a"}',
        b'{"a":"\\ud800\\ud800"}',
        b'{"a":"b","b":"c","a":"b"}',
        b'{"x":{"a":"b","a":"b"}}',
    ],
)
def test_hostile_metadata_is_refused(generator: ModuleType, text: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parsed(generator.name_index([], [], text))
    assert (caught.value.reason, caught.value.offset) == ("index-metadata", HEADER_NBYTES)


def test_nothing_but_names_is_copied() -> None:
    raw = build_index([Entry("a", 0, 0, 8, 1, (2,))], [IndexedBlob(b"a", 8)])
    index = parsed(raw)
    whole = np.frombuffer(raw, np.uint8)
    columns = (index.entries.offset, index.entries.type, index.blobs.key, index.blobs.nbytes, index.dims)
    for view in (*columns, np.frombuffer(index.names_pool, np.uint8)):
        assert np.may_share_memory(view, whole)


def test_key_bytes_of_any_kind_survive() -> None:
    keys = [b"\xff\xfe", b" ", b"0123456789abcdef", bytes_of("\udc80")]
    assert [blob.key for blob in blobs_of(parsed(build_index([], [IndexedBlob(key, 1) for key in keys])))] == keys


# Where a fault is reported.


# Section → what an entry has there instead, and the reason.
ENTRY_FAULTS: dict[str, tuple[bytes, str]] = {
    "entry offset": ((2**63).to_bytes(8, "little"), "index-range"),
    "entry nbytes": ((9).to_bytes(8, "little"), "index-shape"),
    "entry blob": ((2).to_bytes(4, "little"), "index-blob"),
    "entry codec": ((1).to_bytes(2, "little"), "index-codec"),
    "entry shape": ((2**31).to_bytes(4, "little"), "index-dims"),
    "entry scale": (b"\0\0\x80\x7f", "index-scale"),
}


@given(fault=st.sampled_from(list(ENTRY_FAULTS)), count=st.integers(3, 12), data=st.data())
def test_the_offset_of_a_fault_is_that_of_the_first_entry_that_has_it(
    fault: str, count: int, data: st.DataObject
) -> None:
    entries = [Entry(f"t{i:02}", i % 2, 0, 8 + i, 10, (8 + i,)) for i in range(count)]
    raw = bytearray(build_index(entries, [IndexedBlob(b"a", 64), IndexedBlob(b"b", 64)]))
    damage, reason = ENTRY_FAULTS[fault]
    places = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    at = [index_spans(raw)[fault][0] + len(damage) * place for place in range(count)]
    for place in places:
        raw[at[place] : at[place] + len(damage)] = (
            damage if fault != "entry nbytes" else bytes([raw[at[place]] ^ 1]) + bytes(7)
        )
    index = open_index(memoryview(raw), kind="embedded")
    listed, looked_up = (pytest.raises(FormatError) for _ in range(2))
    with listed as caught:
        index.check()
    assert (caught.value.reason, caught.value.offset) == (reason, at[places[0]])
    for place in places:
        index = open_index(memoryview(raw), kind="embedded")
        with looked_up as caught:
            index.find(f"t{place:02}")
        assert (caught.value.reason, caught.value.offset) == (reason, at[place])
        assert str(caught.value).startswith(f"{reason}: entry {place} ('t{place:02}'): ")


@given(st.integers(0, 2), st.sampled_from([0, 1, 5, 2**32 - 1]))
def test_shapes_follow_each_other_inside_the_pool(place: int, start: int) -> None:
    entries = [Entry(f"t{i}", 0, 0, 8, 10, shape) for i, shape in enumerate([(8,), (2, 4), (2, 2, 2)])]
    raw = bytearray(build_index(entries, [IndexedBlob(b"a", 8)]))
    at = index_spans(raw)["shape start"][0] + 4 * place
    was = int.from_bytes(raw[at : at + 4], "little")
    raw[at : at + 4] = start.to_bytes(4, "little")
    if start == was:
        assert parsed(bytes(raw)).shapes == [(8,), (2, 4), (2, 2, 2)]
        return
    with pytest.raises(FormatError, match=r"index-dims|index-shape"):
        parsed(bytes(raw))


@pytest.mark.parametrize("first", [1, 3, 2**32 - 1])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_names_follow_each_other(place: int, first: int) -> None:
    raw = bytearray(build_index([Entry(name, None, 0, 0, 1, (0,)) for name in ("aa", "bb", "cc")], []))
    at = index_spans(raw)["entry name_start"][0] + 4 * place
    if first == int.from_bytes(raw[at : at + 4], "little"):
        return
    raw[at : at + 4] = first.to_bytes(4, "little")
    with pytest.raises(FormatError, match="index-name"):
        parsed(bytes(raw))


@given(count=st.integers(1, 12), data=st.data())
def test_the_offset_of_a_byte_that_is_no_utf8_is_its_own(count: int, data: st.DataObject) -> None:
    raw = bytearray(build_index([Entry(f"t{i:02}", None, 0, 0, 1, (0,)) for i in range(count)], []))
    at = index_spans(raw)["names"][0] + 4 * data.draw(st.integers(0, count - 1)) + data.draw(st.integers(0, 2))
    raw[at] = 0xFF
    with pytest.raises(FormatError, match="index-name: a name is not UTF-8: ") as caught:
        parsed(bytes(raw))
    assert caught.value.offset == at


@pytest.mark.parametrize("codec", [0, PACKED, 2])
@pytest.mark.parametrize("nbytes", [7, 8, 9])
def test_the_size_is_that_of_shape_and_type_packed_or_not(codec: int, nbytes: int) -> None:
    """With an unknown codec any size is valid."""
    blob = IndexedBlob(b"a", 64, unpacked_nbytes=64 * (codec == PACKED))
    raw = build_index([Entry("a", 0, 0, nbytes, 1, (2,), codec=codec)], [blob])
    if nbytes == 8 or codec > PACKED:
        assert parsed(raw).entry(0).nbytes == nbytes
        return
    with pytest.raises(FormatError, match="index-shape: "):
        parsed(raw)


@pytest.mark.parametrize("count", ["entry_count", "blob_count", "shape_count", "dim_count", "names_nbytes"])
@pytest.mark.parametrize("change", [8, 2**30])
def test_counts_that_make_another_size_are_refused(count: str, change: int) -> None:
    raw = bytearray(build_index([Entry("a" * 9, 0, 0, 8, 1, (2,))], [IndexedBlob(b"a", 8)], {"b": "c"}))
    header = Header._make(HEADER_FIELDS.unpack_from(raw))
    HEADER_FIELDS.pack_into(raw, 0, *header._replace(**{count: getattr(header, count) + 2 * change}))
    with pytest.raises(FormatError, match="index-section: by its counts the index has ") as caught:
        parsed(bytes(raw))
    assert caught.value.offset == 16


def of_small(change: Callable[[bytearray], object], *, external: bool = False) -> FormatError:
    """Return the fault of a small index, without digests, after a change."""
    entries = [Entry("a", 0, 0, 8, 1, (2,)), Entry("be", 1, 0, 8, 1, (2, 1))]
    blobs = [IndexedBlob(b"a", 8), IndexedBlob(b"b", 8)]
    raw = bytearray(build_index(entries, blobs, store=directory_of(blobs) if external else None))
    change(raw)
    with pytest.raises(FormatError) as caught:
        parsed(bytes(raw), external=external)
    return caught.value


def put(at: int, value: int, nbytes: int = 4) -> Callable[[bytearray], object]:
    return lambda raw: raw.__setitem__(slice(at, at + nbytes), value.to_bytes(nbytes, "little"))


# Of the small index above: types of entries from 224 on, then a gap of 4; names from 336 on, then a gap of 3.
@pytest.mark.parametrize(
    ("change", "external", "reason", "offset"),
    [
        (lambda raw: raw.__delitem__(slice(159, None)), False, "index-truncated", 0),
        (lambda raw: raw.__delitem__(slice(0, None)), True, "index-truncated", 0),
        (lambda raw: raw.__setitem__(0, ord("R")), False, "index-magic", 0),
        (lambda raw: raw.__setitem__(7, ord("Y")), True, "index-magic", 0),
        (put(8, 0), False, "index-version", 8),
        (put(8, 2), True, "index-version", 8),
        (put(12, 8), False, "index-flags", 12),
        (put(12, 4), False, "index-flags", 12),
        (put(12, 2), False, "index-flags", 12),
        (put(12, 0), True, "index-flags", 12),
        (put(16, 345), False, "index-nbytes", 16),
        (put(16, 347), False, "index-nbytes", 16),
        (put(24, 2**32 - 1), False, "index-section", 16),
        (put(28, 2**32 - 1), False, "index-section", 16),
        (put(36, 2**32 - 1), False, "index-section", 16),
        (put(44, 2**32 - 1), False, "index-section", 16),
        (put(56, 2**64 - 1, 8), False, "index-section", 16),
        (put(56, 1, 8), False, "index-section", 16),
        (put(52, 1), False, "index-reserved", 52),
        (put(64, 1), False, "index-reserved", 64),
        (put(72, 1), False, "index-reserved", 64),
        (put(103, 1, 1), False, "index-reserved", 64),
        (put(136, 1, 1), False, "index-reserved", 136),
        (put(159, 1, 1), True, "index-reserved", 136),
        (put(230, 1, 1), False, "index-reserved", 228),
        (put(343, 1, 1), False, "index-reserved", 341),
    ],
)
def test_a_fault_of_the_layout_is_reported_with_its_offset(
    change: Callable[[bytearray], object], external: bool, reason: str, offset: int
) -> None:
    error = of_small(change, external=external)
    assert (error.reason, error.offset) == (reason, offset)
    assert isinstance(error, TruncatedError) == (reason == "index-truncated" or "347" in error.message)


def test_the_message_of_a_fault_of_the_layout() -> None:
    assert of_small(lambda raw: raw.__setitem__(7, ord("Y"))).message == (
        "expected b'SBSINDEX', found b'SBSINDEY' at offset 0"
    )
    for external, place in ((False, "embedded"), (True, "external")):
        message = of_small(put(12, 8), external=external).message
        assert message == f"flags 0x8 are invalid for an {place} index"


@given(blob_tables(), st.data())
def test_the_row_of_a_blob_is_found_by_its_key(blobs: list[IndexedBlob], data: st.DataObject) -> None:
    index = parsed(build_index([], blobs))
    known = {blob.key: blob for blob in blobs}
    others = data.draw(st.lists(key_bytes.filter(lambda key: key not in known), min_size=1, max_size=4, unique=True))
    stored = [*blobs, *(IndexedBlob(key, 7) for key in others)]
    for listed in (stored, data.draw(st.permutations(stored))):
        for place, blob in enumerate(listed):
            assert index.blob_of(blob.key, place) == known.get(blob.key)
    for key in (*others, *known):
        assert index.blob_of(key, -1) == known.get(key)
