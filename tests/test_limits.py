"""Hostile files under limits of memory and time, enforced by the operating system: SECURITY.md's numbers.

A file may take `BASE` bytes plus `FACTOR` times its size. No time is measured, but a process is killed after `SECONDS`
of processor time.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from blobstore.container.directory import build_directory
from blobstore.index import Entry, IndexedBlob, build_index
from tests.checkpoints import linux_only
from tests.conftest import VECTORS, load_manifest
from tests.fuzz.targets import container
from tests.gguf_files import key, raw_gguf, tensor, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

pytestmark = linux_only

BASE = 48 << 20  # enough for a config of 131,072 layers, the maximum
FACTOR = 64
SECONDS = 30
MEGABYTE = 1 << 20

ROOT = Path(__file__).resolve().parents[1]


def read(files: Iterable[tuple[str, Path]], base: int = BASE, factor: int = FACTOR) -> list[str]:
    """Return the results of reading files in a process of its own."""
    command = [sys.executable, "-m", "tests.limited", str(base), str(factor), str(SECONDS)]
    lines = "".join(f"{way}\t{path}\n" for way, path in files)
    ran = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.split()


def test_every_vector_is_read_or_refused_within_the_limits() -> None:
    manifest = load_manifest()
    vector_lists = [vector_list for vector_list in manifest if (VECTORS / vector_list).is_dir()]
    facts = [
        (vector_list, fact)
        for vector_list in vector_lists
        for fact in manifest[vector_list]
        if fact.get("stored", True)
    ]
    assert len(facts) > 300
    results = read(("store", VECTORS / vector_list / fact["file"]) for vector_list, fact in facts)
    for (vector_list, fact), result in zip(facts, results, strict=True):
        # For a valid file, only the export may be refused.
        assert result == fact["reason"] if "invalid" in vector_list else "!" not in result, fact["file"]


def test_limits_that_are_too_low_are_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", header(filled("[],")))
    assert read([("checkpoint", path)], base=0, factor=4) == ["!MemoryError"]


# --------------------------------------------------------------------------------------------------- JSON that explodes

DEEP = 900  # brackets in brackets; Python's own limit is about 1000
UNITS = {
    "empty-lists": "[],",
    "empty-objects": "{},",
    "small-objects": '{"":0},',
    "nested-lists": "[" * DEEP + "]" * DEEP + ",",
    "nested-objects": '{"":' * DEEP + "0" + "}" * DEEP + ",",
    "numbers": "999,",
    "digits": "9" * 4300 + ",",
    "floats": "1e1,",
    "strings": '"\u00e9\u00e9",',
}


def filled(unit: str, before: str = '{"a":[') -> str:
    """Return a JSON array of a megabyte."""
    return before + unit * (MEGABYTE // len(unit)) + "0]}"


# A single wide character makes Python store the whole text in four bytes per character.
EXPLOSIONS: dict[str, Callable[[], str]] = {
    **{name: partial(filled, unit) for name, unit in UNITS.items()},
    "wide-nested-lists": lambda: filled(UNITS["nested-lists"], before='{"\U0001f600":['),
    "many-digits": lambda: '{"a":' + "9" * MEGABYTE + "}",
    "many-digits-of-a-float": lambda: '{"a":0.' + "9" * MEGABYTE + "}",
    "open-brackets": lambda: '{"a":' + "[" * MEGABYTE,
    "open-objects": lambda: '{"":' * (MEGABYTE // 5),
    "texts-to-texts": lambda: "{" + ",".join(f'"{i:x}":""' for i in range(100_000)) + "}",
    "the-last-key-twice": lambda: "{" + ",".join(f'"{i % 99_999:x}":""' for i in range(100_000)) + "}",
    "spaces": lambda: "{" + " " * MEGABYTE + "}",
}
HARMLESS = ("texts-to-texts", "spaces")


def header(text: str) -> bytes:
    """Return a safetensors file that is only a header."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def with_metadata(generator: ModuleType, text: str) -> bytes:
    """Return a store that is only an index with this metadata."""
    return bytes(generator.container(1, [(b"~index", generator.name_index([], [], text.encode()))]))


def read_each(way: str, folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Return the results of reading files of these contents, by name."""
    ending = ".safetensors" if way == "checkpoint" else ".sbs"
    paths = [write(folder / f"{name}{ending}", content) for name, content in files.items()]
    return dict(zip(files, read((way, path) for path in paths), strict=True))


def test_an_index_of_exploding_metadata_is_refused(tmp_path: Path, generator: ModuleType) -> None:
    files = {name: with_metadata(generator, text()) for name, text in EXPLOSIONS.items()}
    wanted = dict.fromkeys(files, "index-metadata") | dict.fromkeys(HARMLESS, "no-tensors")
    assert read_each("store", tmp_path, files) == wanted


def test_a_safetensors_header_that_explodes_is_refused(tmp_path: Path) -> None:
    files = {name: header('{"__metadata__":' + text() + "}") for name, text in EXPLOSIONS.items()}
    wanted = dict.fromkeys(files, "safetensors-header") | dict.fromkeys(HARMLESS, "read")
    assert read_each("checkpoint", tmp_path, files) == wanted


def test_tensors_of_a_safetensors_header_that_explode_are_refused(tmp_path: Path) -> None:
    files = {name: header(text()) for name, text in EXPLOSIONS.items()}
    results = read_each("checkpoint", tmp_path, files)
    assert results.pop("spaces") == "read"
    assert set(results.values()) == {"safetensors-header", "safetensors-entry"}


def test_metadata_of_the_source_that_explodes_is_refused(tmp_path: Path) -> None:
    files = {name: with_source(text()) for name, text in EXPLOSIONS.items()}
    assert read_each("store", tmp_path, files) == dict.fromkeys(files, "rearranged-metadata")


# ------------------------------------------------------------------------------------------------ many and large things


def with_source(text: str, elements: int = 1, shape: tuple[int, ...] | None = None) -> bytes:
    """Return a store of one bf16 tensor that describes the checkpoint it was made from."""
    entry = Entry("a", 0, 0, 2 * elements, 2, shape or (elements,))
    index = build_index([entry], [IndexedBlob(b"a", 2 * elements)], {"blobstore.rearranged": text})
    return container([(b"a", bytes(2 * elements)), (b"~index", index)])


def test_many_tensors_take_memory_in_proportion(tmp_path: Path) -> None:
    entries = (f'"{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(20_000))
    path = write(tmp_path / "a.safetensors", header("{" + ",".join(entries) + "}"))
    assert read([("checkpoint", path)]) == ["read"]


def test_a_safetensors_header_of_100_mb_that_is_not_there_takes_little(tmp_path: Path) -> None:
    lengths = (100_000_000, 100_000_001, 1 << 63, (1 << 64) - 1)
    files = {str(nbytes): struct.pack("<Q", nbytes) + b'{"a":' for nbytes in lengths}
    assert set(read_each("checkpoint", tmp_path, files).values()) == {"safetensors-header"}


@pytest.mark.parametrize(
    "shape", [[1] * 500_000, [2**56] * 300_000, [0, *[2**56] * 300_000]], ids=["1", "many", "zero"]
)
def test_a_shape_of_a_mile_is_refused_or_read(tmp_path: Path, shape: list[int]) -> None:
    entry = {"dtype": "U8", "shape": shape, "data_offsets": [0, 1]}
    path = write(tmp_path / "a.safetensors", header(json.dumps({"a": entry})) + b"x")
    piece = ["a", 0, 0, 1, 0, 1, 1, "", 1]
    source = {
        "types": {"most": "bf16", "others": {}},
        "aliases": {},
        "tensors": {"w": {"shape": shape, "pieces": [piece]}},
    }
    store = write(tmp_path / "a.sbs", with_source(json.dumps(source)))
    wanted = ["read" if shape[-1] == 1 else "safetensors-entry", "rearranged-metadata"]
    assert read([("checkpoint", path), ("store", store)]) == wanted


def test_an_index_of_many_names_takes_memory_in_proportion(tmp_path: Path) -> None:
    entries = [Entry(f"{i:05x}", None, 0, 0, 10, (0, *[1] * 30, 1 << 56)) for i in range(10_000)]
    path = write(tmp_path / "a.sbs", container([(b"~index", build_index(entries, [], {}))]))
    # safetensors' readers accept such shapes as well.
    assert read([("store", path)]) == ["read"]


def test_a_pool_of_dims_that_nobody_points_into_costs_nothing(tmp_path: Path, generator: ModuleType) -> None:
    index = bytearray(generator.name_index([generator.tensor("a", None, "u8", (0,))], []))
    dims = MEGABYTE // 2
    struct.pack_into("<Q", index, 16, len(index) + 8 * dims)  # nbytes
    struct.pack_into("<I", index, 36, 1 + dims)
    at = generator.starts_of(bytes(index))["dims"]
    index[at:at] = b"\xff" * 8 * dims
    path = write(tmp_path / "a.sbs", container([(b"~index", bytes(index))]))
    assert read([("store", path)]) == ["index-dims"]


def test_pieces_of_a_tensor_take_memory_in_proportion(tmp_path: Path) -> None:
    count = 20_000
    pieces = [["a", i, i, 1, 0, 1, 1, "", 1] for i in range(count)]
    source = {"types": {"most": "bf16", "others": {}}, "aliases": {}}
    text = json.dumps(source | {"tensors": {"w": {"shape": [count], "pieces": pieces}}}, separators=(",", ":"))
    path = write(tmp_path / "a.sbs", with_source(text, count, (count, *[1] * 31)))
    assert read([("store", path)]) == ["read"]


def test_a_toc_of_as_many_tensors_as_fit_is_refused(tmp_path: Path) -> None:
    letters = [*range(0x21, 0x7F)]
    names = [bytes([a, b, c, 0x21]) for a in letters[:10] for b in letters for c in letters]
    toc = b"".join(struct.pack("<II4sI", 3, 1, name, 1) for name in names)
    path = write(tmp_path / "a.sbs", container([(b"toc", toc)]))
    assert read([("store", path)]) == ["toc-missing-blob"]


def test_the_largest_config_takes_what_its_vectors_may_have(tmp_path: Path) -> None:
    most = 65536
    vit = [5 + 1 + most, *[0] * 5, most, *[0] * most]
    fields = [1, 0, 0, 1, *[0] * 11, most, *[0] * most, 0, 1, *vit]
    config = struct.pack(f"<{len(fields) + 1}I", len(fields), *fields)
    longer = struct.pack("<I", MEGABYTE) + bytes(4 * MEGABYTE)
    paths = [
        write(tmp_path / f"{len(raw_config)}.sbs", container([(b"config", raw_config), (b"a", b"x")]))
        for raw_config in (config, longer)
    ]
    assert read(("store", path) for path in paths) == ["read", "read"]


@pytest.mark.parametrize(("version", "count"), [(1, 16383), (2, 16383), (2, 20_000)])
def test_many_blobs_take_memory_in_proportion(tmp_path: Path, generator: ModuleType, version: int, count: int) -> None:
    blobs = [(b"%d" % i, b"x") for i in range(count)]
    path = write(tmp_path / "a.sbs", generator.container(version, blobs))
    assert read([("store", path)]) == ["read"]


def test_a_file_of_a_terabyte_takes_what_is_read_of_it(tmp_path: Path) -> None:
    size = 1 << 40
    made = build_directory(1, [b"a"], [size - 256])
    path = write(tmp_path / "a.sbs", made.header() + made.to_bytes())
    os.truncate(path, size)
    assert read([("first", path)], factor=0) == ["read"]


# ----------------------------------------------------------------------------------------------------------- GGUF


GGUF_HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "tensors": (lambda: raw_gguf(tensors=[tensor(f"{i:x}", [], offset=0) for i in range(35_000)]), "gguf"),
    "empty-tensors": (lambda: raw_gguf(tensors=[tensor(f"{i:x}", [0]) for i in range(25_000)]), "read"),
    "keys": (lambda: raw_gguf([key(f"{i:x}", 7, b"\0") for i in range(60_000)], [tensor("a", [0])]), "read"),
    "texts": (lambda: raw_gguf([key("a", 9, list_of(8, 130_000, bytes(8)))], [tensor("a", [0])]), "read"),
    "lists": (lambda: raw_gguf([key("a", 9, list_of(9, 80_000, list_of(7, 0, b"")))], [tensor("a", [0])]), "read"),
    "many-lists": (
        lambda: raw_gguf([key(f"{i:x}", 9, list_of(7, 64, b"\1")) for i in range(11_000)], [tensor("a", [0])]),
        "read",
    ),
    "a-long-text": (lambda: raw_gguf([key("a", 8, text("\U0001f600" * (1 << 18)))], [tensor("a", [0])]), "read"),
}


def list_of(number: int, count: int, item: bytes) -> bytes:
    """Return an array of equal items, as the metadata has it."""
    return struct.pack("<IQ", number, count) + item * count


def test_gguf_headers_take_memory_in_proportion(tmp_path: Path) -> None:
    files = {f"{name}.gguf": raw() for name, (raw, _) in GGUF_HEADERS.items()}
    paths = [write(tmp_path / name, raw) for name, raw in files.items()]
    assert read(("checkpoint", path) for path in paths) == [result for _, result in GGUF_HEADERS.values()]
