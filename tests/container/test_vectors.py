"""The package against the containers of spec/vectors."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import blobstore
from blobstore import BlobReader, BlobStoreError, BlobWriter
from tests.conftest import VECTORS, load_manifest, vector_params
from tests.strategies import payload, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import ModuleType

    from blobstore.fileio.types import Access

Fact = dict[str, Any]

both_ways = pytest.mark.parametrize("access", ["mmap", "read"])


def of_container(fact: Fact) -> bool:
    return not fact["reason"].startswith("index-")


INVALID = vector_params("invalid")
STORED = [param for param in INVALID if param.values[0].get("stored", True)]
WRONG_CONTAINERS = [param for param in STORED if of_container(param.values[0])]
WRONG_INDICES = [param for param in STORED if not of_container(param.values[0])]
NOT_STORED = [param for param in INVALID if not param.values[0].get("stored", True)]
assert all([WRONG_CONTAINERS, WRONG_INDICES, NOT_STORED]), "nothing would be tested"


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def write(path: Path, version: int, blobs: Iterable[tuple[str, bytes | memoryview]]) -> bytes:
    with BlobWriter(path, version=version) as writer:
        for key, data in blobs:
            writer.add(key, data)
    return path.read_bytes()


def gemma_blobs(fact: Fact) -> list[tuple[str, bytes]]:
    """The blobs that gemma.cpp was given, made by the rules of spec/vectors/README.md."""
    if rule := fact.get("rule"):
        assert (rule["key"], rule["nbytes"], rule["seed"]) == ("str(i)", 1, "1000 + i")
        return [(str(i), payload(1000 + i, 1)) for i in range(rule["count"])]
    return [(blob["key"], payload(blob["seed"], blob["nbytes"])) for blob in fact["blobs"]]


# -------------------------------------------------------------------------------------------------------- valid files


@both_ways
@pytest.mark.parametrize("fact", vector_params("valid"))
def test_a_valid_file_has_what_the_manifest_says(vectors: Path, fact: Fact, access: Access) -> None:
    path = vectors / "valid" / fact["file"]
    assert sha256(path.read_bytes()) == fact["sha256"]
    with BlobReader(path, access=access) as reader:
        assert (reader.version, reader.file_size) == (fact["version"], fact["size"])
        assert list(reader) == [text_of(bytes.fromhex(blob["key_hex"])) for blob in fact["blobs"]]
        assert [reader.range(key) for key in reader] == [(blob["offset"], blob["nbytes"]) for blob in fact["blobs"]]
        assert [sha256(view) for view in reader.values()] == [blob["sha256"] for blob in fact["blobs"]]


@pytest.mark.parametrize("fact", vector_params("valid"))
def test_a_valid_file_is_written_again_byte_for_byte(vectors: Path, tmp_path: Path, fact: Fact) -> None:
    file = (vectors / "valid" / fact["file"]).read_bytes()
    with BlobReader(vectors / "valid" / fact["file"]) as reader:
        written = write(tmp_path / "store.sbs", reader.version, reader.items())
    if len(file) % 65536:  # writers must not make such old files: compare with one of whole 64 KiB
        size = (len(file) + 65535) // 65536 * 65536
        file = (file[:8] + size.to_bytes(8, "little") + file[16:]).ljust(size, b"\0")
        assert fact["version"] == 1
    assert written == file


@pytest.mark.parametrize("fact", vector_params("verify"))
def test_a_file_that_only_verifying_reports_is_read(vectors: Path, fact: Fact) -> None:
    with BlobReader(vectors / "verify" / fact["file"]) as reader:
        assert all(view.nbytes for view in reader.values())


# ------------------------------------------------------------------------------------------------------ invalid files


def refusal(path: Path, access: Access) -> BlobStoreError:
    with pytest.raises(BlobStoreError) as caught:
        BlobReader(path, access=access)
    return caught.value


@both_ways
@pytest.mark.parametrize("fact", WRONG_CONTAINERS)
def test_a_wrong_container_is_refused_for_its_reason(vectors: Path, fact: Fact, access: Access) -> None:
    path = vectors / "invalid" / fact["file"]
    error = refusal(path, access)
    assert error.reason == fact["reason"]
    assert error.path == str(path)


@both_ways
@pytest.mark.parametrize("fact", NOT_STORED)
def test_a_wrong_container_too_large_to_be_stored_is_refused(
    generator: ModuleType, tmp_path: Path, fact: Fact, access: Access
) -> None:
    case = next(case for case in generator.cases() if case.file == fact["file"])
    assert sha256(case.data) == fact["sha256"]
    (tmp_path / "store.sbs").write_bytes(case.data)
    assert refusal(tmp_path / "store.sbs", access).reason == fact["reason"]


@pytest.mark.parametrize("fact", WRONG_INDICES)
def test_a_wrong_index_does_not_keep_the_blobs_from_being_read(vectors: Path, fact: Fact) -> None:
    with BlobReader(vectors / "invalid" / fact["file"]) as reader:
        assert all(view.nbytes for view in reader.values())


@both_ways
@pytest.mark.parametrize("fact", STORED)
def test_listing_a_wrong_file_by_names_is_refused_for_its_reason(vectors: Path, fact: Fact, access: Access) -> None:
    path = vectors / "invalid" / fact["file"]
    with pytest.raises(BlobStoreError) as caught, blobstore.open(path, access=access) as store:
        list(store)
    assert caught.value.reason == fact["reason"]


def test_each_check_of_the_page_has_a_file_that_fails_it(manifest: dict[str, Any]) -> None:
    page = (VECTORS.parent / "sbs.md").read_text()
    reasons = re.findall(r"^\| S\d+ \| `([a-z-]+)` \|", page, re.MULTILINE)
    assert len(reasons) == 13
    assert {fact["reason"] for fact in manifest["invalid"] if of_container(fact)} == set(reasons)


# --------------------------------------------------------------------------------------------------------- gemma.cpp


@pytest.mark.parametrize("fact", vector_params("gemma_cpp"))
def test_what_gemma_cpp_wrote_is_written_and_read(tmp_path: Path, fact: Fact) -> None:
    blobs = gemma_blobs(fact)
    file = write(tmp_path / "store.sbs", fact["version"], blobs)
    assert (len(file), sha256(file)) == (fact["size"], fact["sha256"])
    for access in ("mmap", "read"):
        with BlobReader(tmp_path / "store.sbs", access=access) as reader:
            assert [(key, bytes(view)) for key, view in reader.items()] == blobs
            assert reader.version == fact["version"]


def test_the_facts_about_gemma_cpp_are_those_that_were_recorded(manifest: dict[str, Any], shared_vectors: Path) -> None:
    recorded = json.loads((shared_vectors / "blobs" / "manifest.json").read_bytes())["cases"]
    assert recorded
    assert {case["file"]: (case["version"], case["size"], case["sha256"]) for case in recorded} == {
        fact["file"]: (fact["version"], fact["size"], fact["sha256"]) for fact in manifest["gemma_cpp"]
    }


@pytest.mark.parametrize("fact", vector_params("gemma_cpp"))
def test_gemma_cpps_own_file_is_byte_for_byte_ours(shared_vectors: Path, tmp_path: Path, fact: Fact) -> None:
    theirs = shared_vectors / "blobs" / fact["file"]
    recorded = json.loads((shared_vectors / "blobs" / "manifest.json").read_bytes())["cases"]
    case = next(case for case in recorded if case["file"] == fact["file"])
    assert theirs.exists() == case["stored"]
    if case["stored"]:
        assert theirs.read_bytes() == write(tmp_path / "store.sbs", fact["version"], gemma_blobs(fact))


# ------------------------------------------------------------------------------------------------------ pages, folder


def test_the_pages_example_is_the_file() -> None:
    page = (VECTORS.parent / "sbs.md").read_text()
    file = (VECTORS / "valid" / "key16-v2.sbs").read_bytes()
    shown = re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} +){16})", page, re.MULTILINE)
    assert len(shown) == 6
    for offset, row in shown:
        assert file[int(offset, 16) :][:16] == bytes.fromhex(row)
    written = {int(offset, 16) // 16 for offset, _ in shown} | {0x100 // 16, 0x200 // 16}
    assert {i // 16 for i, byte in enumerate(file) if byte} == written


def test_the_files_are_those_that_the_generator_makes() -> None:
    check = subprocess.run([sys.executable, str(VECTORS / "generate.py"), "--check"], check=False, capture_output=True)
    assert (check.stdout, check.stderr, check.returncode) == (b"", b"", 0)


def test_each_file_is_in_the_manifest() -> None:
    manifest = load_manifest()
    for folder in ("valid", "invalid", "verify"):
        listed = {fact["file"] for fact in manifest[folder] if fact.get("stored", True)}
        listed |= {fact["file"] + ".idx" for fact in manifest[folder] if "idx" in fact}
        assert {path.name for path in (VECTORS / folder).iterdir()} == listed
