"""The vectors with a name index: the package reads and writes them as spec/vectors/manifest.json says."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import blobstore
from blobstore.codecs import element_types
from blobstore.compression.reader import PackedReader
from blobstore.container.directory import build_directory
from blobstore.container.keys import decode_key
from blobstore.errors import BlobStoreError
from blobstore.index import Entry, IndexedBlob, build_index
from blobstore.index.carried import file_key
from blobstore.index.metadata import FILES
from tests.conftest import VECTORS, vector_params

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.fileio.types import Access
    from blobstore.index.locate import IndexPlace

Fact = dict[str, Any]

INDEXED = [param for param in vector_params("valid") if "entries" in param.values[0]]
PLAIN = [param for param in vector_params("valid") if "entries" not in param.values[0]]
FAULTY = [param for param in vector_params("invalid") if param.values[0]["reason"].startswith("index-")]
# Indexes that this package's writer would not make: a table in another order, metadata that it would write otherwise,
# the flag of digests without any blob.
NOT_OURS = {"index-table-reordered.sbs", "index-metadata-loose.sbs", "index-alone.sbs"}
# Files that `StoreWriter` can't make: blobs after the index, unknown types and codecs, packed blobs.
NOT_STORE_WRITERS = NOT_OURS | {
    "index-blobs-added.sbs",
    "index-parts.sbs",
    "index-unknown-type-and-codec.sbs",
    "index-packed.sbs",
}

both_accesses = pytest.mark.parametrize("access", ["mmap", "read"])


def except_for(files: set[str]) -> list[Any]:
    left = [param for param in INDEXED if param.id not in files]
    assert len(INDEXED) - len(left) == len(files)
    return left


def scale_of(entry: Fact) -> float:
    return float(struct.unpack(">f", bytes.fromhex(entry["scale_bits"]))[0])


def stored(fact: Fact, path: Path) -> dict[bytes, bytes]:
    """Return the blobs of a valid file, at the offsets that the manifest says."""
    raw = path.read_bytes()
    return {bytes.fromhex(blob["key_hex"]): raw[blob["offset"] :][: blob["nbytes"]] for blob in fact["blobs"]}


def index_bytes(fact: Fact, path: Path) -> bytes:
    return path.with_name(path.name + ".idx").read_bytes() if fact["external"] else stored(fact, path)[b"~index"]


def test_there_are_vectors_of_each_sort() -> None:
    assert len(INDEXED) >= 20
    assert len(FAULTY) >= 100
    assert len(PLAIN) >= 10
    assert {param.values[0].get("external", False) for param in FAULTY} == {False, True}


def test_each_check_of_the_page_has_a_file_that_fails_it(manifest: dict[str, Any]) -> None:
    page = (VECTORS.parent / "index.md").read_text()
    reasons = re.findall(r"^\| I\d+ \| `([a-z-]+)` \|", page, re.MULTILINE)
    assert len(reasons) == 24
    faulty = {fact["reason"] for fact in manifest["invalid"] + manifest["set_invalid"]}
    assert {reason for reason in faulty if reason.startswith(("index-", "set-"))} == set(reasons)


@pytest.mark.parametrize("file", ["manifest", "codecs", "gemma", "packed"])
def test_every_number_in_the_vectors_is_one_that_a_double_has(file: str) -> None:
    numbers: list[int] = []
    text = (VECTORS / f"{file}.json").read_text(encoding="utf-8")
    json.loads(text, parse_int=lambda digits: numbers.append(int(digits)))
    assert numbers
    assert max(map(abs, numbers)) < 2**53
    assert (f'"{2**57 - 1}"' in text) == (file == "manifest")


def test_the_pages_example_is_the_index_of_a_file(manifest: dict[str, Any]) -> None:
    page = (VECTORS.parent / "index.md").read_text()
    fact = next(fact for fact in manifest["valid"] if fact["file"] == "index-one.sbs")
    raw = index_bytes(fact, VECTORS / "valid" / "index-one.sbs")
    shown = re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} *){1,16})", page, re.MULTILINE)
    assert len(shown) == 24
    for offset, row in shown:
        assert raw[int(offset, 16) :][:16] == bytes.fromhex(row)
    written = {int(offset, 16) // 16 for offset, _ in shown}
    assert {i // 16 for i, byte in enumerate(raw) if byte} <= written


@both_accesses
@pytest.mark.parametrize("fact", INDEXED)
def test_a_valid_index_is_read_as_the_manifest_says(vectors: Path, fact: Fact, access: Access) -> None:
    path = vectors / "valid" / fact["file"]
    start = {bytes.fromhex(blob["key_hex"]).decode(): blob["offset"] for blob in fact["blobs"]} | {"": 0}
    with blobstore.open(path, access=access) as store:
        actual = [
            {
                "name": info.name,
                "key": info.key or None,
                "offset": info.packed.start if info.packed else info.offset - start[info.key],
                "nbytes": info.element_nbytes,
                "type": info.type.number,
                "shape": list(info.shape),
                "scale_bits": struct.pack(">f", info.scale).hex(),
                "codec": info.codec,
            }
            for info in store.infos()
        ]
        assert actual == fact["entries"]
        assert list(store) == [entry["name"] for entry in fact["entries"]]
        assert store.metadata == fact["metadata"]
        assert store.index
        assert store.index.external == fact["external"]
        assert store.index.has_digests == fact["digests"]
        assert store.index.path == str(path) + ".idx" * fact["external"]


@both_accesses
@pytest.mark.parametrize("fact", INDEXED)
def test_the_bytes_of_each_name_are_those_of_its_part_of_a_blob(vectors: Path, fact: Fact, access: Access) -> None:
    path = vectors / "valid" / fact["file"]
    blobs = stored(fact, path)
    with blobstore.open(path, access=access) as store:
        for entry in fact["entries"]:
            blob = blobs[entry["key"].encode()] if entry["key"] else b""
            info = store.info(entry["name"])
            whole = PackedReader(blob).read().tobytes() if info.packed else blob
            expected = whole[entry["offset"] :][: entry["nbytes"]]
            assert bytes(store.raw(entry["name"])) == expected
            if info.dtype is not None and not info.encoded:
                assert store[entry["name"]].tobytes() == expected


@pytest.mark.parametrize("fact", INDEXED)
def test_the_digests_are_those_of_the_blobs(vectors: Path, fact: Fact) -> None:
    with blobstore.open(vectors / "valid" / fact["file"]) as store:
        assert store.index
        index = store.index
        expected = {blob["key_hex"]: blob["sha256"] for blob in fact["blobs"]}
        for row in map(index.blob, range(len(index.blobs))):
            assert row.sha256 == (bytes.fromhex(expected[row.key.hex()]) if fact["digests"] else None)


@both_accesses
@pytest.mark.parametrize("fact", PLAIN)
def test_without_an_index_blobs_are_listed_in_file_order(vectors: Path, fact: Fact, access: Access) -> None:
    with blobstore.open(vectors / "valid" / fact["file"], access=access) as store:
        assert store.index is None
        assert list(store) == [decode_key(bytes.fromhex(blob["key_hex"])) for blob in fact["blobs"]]


@both_accesses
@pytest.mark.parametrize("fact", FAULTY)
def test_a_faulty_index_is_refused_with_its_reason(vectors: Path, fact: Fact, access: Access) -> None:
    path = vectors / "invalid" / fact["file"]
    with pytest.raises(BlobStoreError) as caught, blobstore.open(path, access=access) as store:
        list(store)
    assert caught.value.reason == fact["reason"]
    assert caught.value.path == str(path) + ".idx" * fact.get("external", False)


@pytest.mark.parametrize("fact", FAULTY)
def test_a_file_with_a_faulty_index_opens_without_it(vectors: Path, fact: Fact) -> None:
    with blobstore.open(vectors / "invalid" / fact["file"], use_index=False) as store:
        assert store.index is None
        assert all(bytes(store.raw(name)) == store[name].tobytes() for name in store)


def test_a_wrong_digest_of_the_index_is_found_only_on_request(vectors: Path) -> None:
    with blobstore.open(vectors / "verify" / "index-digest.sbs") as store:
        assert store.index
        assert not store.index.self_digest_holds()
    with blobstore.open(vectors / "valid" / "index-one.sbs") as store:
        assert store.index
        assert store.index.self_digest_holds()


@pytest.mark.parametrize("fact", except_for(NOT_OURS))
def test_build_index_makes_the_same_bytes(vectors: Path, fact: Fact) -> None:
    before = [bytes.fromhex(blob["key_hex"]) for blob in fact["blobs"]]
    table = before[: before.index(b"~index")] if b"~index" in before else before
    rows = {bytes.fromhex(blob["key_hex"]): (blob["nbytes"], bytes.fromhex(blob["sha256"])) for blob in fact["blobs"]}
    unpacked = fact.get("unpacked", {})
    blobs = [
        IndexedBlob(key, rows[key][0], rows[key][1] if fact["digests"] else None, unpacked.get(key.decode(), 0))
        for key in table
    ]
    entries = [
        Entry(
            entry["name"],
            table.index(entry["key"].encode()) if entry["key"] else None,
            entry["offset"],
            entry["nbytes"],
            entry["type"],
            tuple(entry["shape"]),
            scale_of(entry),
            entry["codec"],
        )
        for entry in fact["entries"]
    ]
    directory = build_directory(fact["version"], before, [rows[key][0] for key in before])
    if fact["external"] and fact["version"] == 1:  # in the form of very old files, which end with the last blob
        directory = replace(directory, file_size=fact["size"])
    made = build_index(entries, blobs, fact["metadata"], store=directory if fact["external"] else None)
    assert made == index_bytes(fact, vectors / "valid" / fact["file"])


@pytest.mark.parametrize("fact", except_for(NOT_STORE_WRITERS))
def test_the_store_writer_makes_the_same_bytes(vectors: Path, tmp_path: Path, fact: Fact) -> None:
    path = vectors / "valid" / fact["file"]
    blobs = stored(fact, path)
    sizes = {key.decode(): len(data) for key, data in blobs.items()}
    made = tmp_path / fact["file"]
    index: IndexPlace = "external" if fact["external"] else "embedded"
    entries = fact["entries"]
    files = {key: name for name, key in fact.get("files", {}).items()}
    whole = {
        entry["key"]: entry for entry in reversed(entries) if entry["key"] and entry["nbytes"] == sizes[entry["key"]]
    }
    metadata = {key: value for key, value in fact["metadata"].items() if key != FILES}  # which the writer makes itself
    with blobstore.create(
        made, version=fact["version"], digests=fact["digests"], metadata=metadata, index=index
    ) as store:
        for key, data in blobs.items():
            entry = whole.get(key.decode())
            if entry:
                element_type = element_types.BY_NUMBER[entry["type"]]
                store.add_stored(
                    entry["name"], [data], element_type, tuple(entry["shape"]), scale=scale_of(entry), key=key.decode()
                )
            elif key.decode() in files:
                store.add_file(files[key.decode()], data)
            elif key != b"~index":
                store.add_blob(key.decode(), data)
        for entry in entries:
            element_type, shape = element_types.by_number(entry["type"]), tuple(entry["shape"])
            if entry["key"] is None:
                store.add_stored(entry["name"], [], element_type, shape, scale=scale_of(entry))
            elif entry is not whole[entry["key"]]:
                target = whole[entry["key"]]["name"]
                store.part(entry["name"], target, element_type, shape, offset=entry["offset"], scale=scale_of(entry))
    with blobstore.open(made) as written:
        assert written.index
        actual = bytes(written.index.raw)
    expected = index_bytes(fact, path)
    if fact["version"] == 1 and fact["external"]:  # bound to the file, which doesn't have the form of very old files
        assert actual[200:] == expected[200:]
    else:
        assert actual == expected
    if fact["version"] == 2:
        assert made.read_bytes() == path.read_bytes()


@both_accesses
@pytest.mark.parametrize("fact", INDEXED)
def test_files_are_those_of_the_manifest(vectors: Path, fact: Fact, access: Access) -> None:
    path = vectors / "valid" / fact["file"]
    blobs = stored(fact, path)
    with blobstore.open(path, access=access) as store:
        expected = {name: blobs[key.encode()] for name, key in fact.get("files", {}).items()}
        assert {name: bytes(data) for name, data in store.files.items()} == expected
        assert all(bytes(store.raw(name)) == data for name, data in expected.items())
        assert not set(store) & set(expected)


def test_keys_of_files_are_those_of_the_manifest(manifest: dict[str, Any]) -> None:
    assert len(manifest["file_key"]) == 5
    assert all(file_key(fact["name"]) == fact["key"] for fact in manifest["file_key"])


def test_keys_are_those_of_the_manifest(manifest: dict[str, Any]) -> None:
    assert {fact["name"]: blobstore.key_for(fact["name"]) for fact in manifest["key_for"]} == {
        fact["name"]: fact["key"] for fact in manifest["key_for"]
    }
