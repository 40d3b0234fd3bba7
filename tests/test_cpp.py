"""The reader in C++ (spec/cpp) says of every file what this package says.

It is compiled with sanitizers that end the process at the first wrong access, and with ``-fno-exceptions``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import tomllib
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

import blobstore
from blobstore import cli
from blobstore.codecs import bf16, element_types, sfp
from blobstore.compression.planes import Layout
from blobstore.compression.reader import PackedReader
from blobstore.compression.writer import DEFAULT_CHUNK_NBYTES, compress
from blobstore.errors import BlobStoreError, FormatError
from blobstore.fileio.locking import lock
from blobstore.gemma import legacy
from blobstore.gemma.toc import TocEntry, build_toc, toc_entry
from blobstore.index import Entry, IndexedBlob, build_index
from blobstore.index.records import HEADER_FIELDS, HEADER_NBYTES, Header, directory_digest, section_spans
from blobstore.index.records import PACKED as PACKED_CODEC
from blobstore.index.sets import SetReader, is_set_at
from tests.compression.test_planes import LAYOUTS
from tests.conftest import ROOT, VECTORS
from tests.tensor_strategies import names as any_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    Run = Callable[..., subprocess.CompletedProcess[bytes]]

CPP = ROOT / "spec" / "cpp"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"]
SANITIZERS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ZSTD = ["-lzstd"]
# As runtimes are built. All of -ffast-math would also make programs print the smallest floats as 0.
PLAIN = ["-O2", "-fno-exceptions", "-fno-rtti", "-ffinite-math-only"]
MUTATIONS = 800
SECONDS = 60
OWN = ("~index", "toc", "Fscales")  # blobs that say what others are

# Looks every name, key, blob and digest of a file up, and prints how often memory was allocated meanwhile, how many
# bytes altogether, and how many digests there are and tensors below others.
ALLOCATIONS = r"""
#include <cstdio>
#include <cstdlib>
#include <new>
#include "blobstore.hpp"

static int allocations = 0;
static unsigned long long allocated = 0;
void* operator new(std::size_t size) { ++allocations; allocated += size; return std::malloc(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main(int, char** arguments) {
  blobstore::Fault fault;
  const auto store = blobstore::Store::open(arguments[1], fault);
  const int opened = allocations;
  int found = 0;
  for (std::uint32_t i = 0; store && i < store->tensor_count(); ++i) {
    const auto tensor = store->tensor(i);
    found += store->find(tensor.name) && blobstore::key_for(tensor.name) && !store->find("no such name");
    found += tensor.key.empty() || store->find_blob(tensor.key);
  }
  unsigned more = 0;
  if (store) {
    for (const blobstore::Tensor& one : store->prefix("")) {
      more += store->prefix(one.name).size() + store->digest(one.key).has_value();
    }
  }
  std::printf("%s %d %d %llu %u\n", store ? "open" : fault.reason, found, allocations - opened, allocated, more);
}
"""

# Without mmap: reads each file whole, and prints its tensors and how many of them are found.
NO_MMAP = r"""
#define BLOBSTORE_NO_MMAP
#include "blobstore.hpp"
#include <cstdio>

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    std::vector<std::uint8_t> bytes;
    std::FILE* file = std::fopen(arguments[i], "rb");
    for (int c; (c = std::fgetc(file)) != EOF;) bytes.push_back(static_cast<std::uint8_t>(c));
    std::fclose(file);
    blobstore::Fault fault;
    const auto store = blobstore::Store::from_memory({bytes.data(), bytes.size()}, std::nullopt, fault);
    unsigned found = 0;
    for (std::uint32_t at = 0; store && at < store->tensor_count(); ++at) {
      found += store->find(store->tensor(at).name)->data == bytes.data() + store->tensor(at).offset;
    }
    std::printf("%s %u\n", store ? "open" : fault.reason, found);
  }
}
"""

# Reads lines of a stream, its base, and a range: bytes in hexadecimal behind an "x", or "-" for none. Prints bytes
# in the same way, or the reason why not and where.
PACKED = r"""
#define BLOBSTORE_ZSTD
#include <iostream>
#include <memory>
#include "blobstore.hpp"

using blobstore::Bytes;
using blobstore::Fault;

// A block of exactly that size, so that a sanitizer sees it when one byte beyond it is touched.
struct Block {
  explicit Block(const std::string& hex) : Block(hex.size() / 2) {
    for (std::uint64_t i = 0; i < size; ++i) {
      data[i] = static_cast<std::uint8_t>(std::stoul(hex.substr(1 + 2 * i, 2), nullptr, 16));
    }
  }
  explicit Block(std::uint64_t nbytes) : data(new std::uint8_t[nbytes]), size(nbytes) {}
  Bytes bytes() const { return {data.get(), size}; }

  std::unique_ptr<std::uint8_t[]> data;
  std::uint64_t size;
};

static bool read(Bytes stream, const std::string& base, const std::string& range, std::string& hex, Fault& fault) {
  std::optional<blobstore::Packed> packed = blobstore::Packed::open(stream, 0, fault);
  if (!packed) return false;
  const Block base_block(base == "-" ? "x" : base);
  if (base != "-" && !packed->take_base(base_block.bytes(), fault)) return false;
  std::uint64_t start = 0, nbytes = packed->nbytes();
  if (range != "-") {
    start = std::stoull(range);
    nbytes = std::stoull(range.substr(range.find('+') + 1));
  }
  const Block out(nbytes > 10000000 ? 0 : nbytes);  // the rest is refused, or wrong
  if (!packed->read(start, nbytes, out.data.get(), fault)) return false;
  const std::string digits = "0123456789abcdef";
  for (std::uint64_t i = 0; i < nbytes; ++i) hex += {digits[out.data[i] >> 4], digits[out.data[i] & 15]};
  return true;
}

int main() {
  for (std::string stream, base, range; std::cin >> stream >> base >> range;) {
    std::string hex = "x";
    Fault fault;
    if (read(Block(stream).bytes(), base, range, hex, fault)) {
      std::cout << hex << "\n";
    } else {
      std::cout << fault.reason << " " << fault.offset << "\n";
    }
  }
}
"""

# Writes the bytes of a tensor, which the example's lines read.
VALUES = r"""
#include <cstdio>
#include "blobstore.hpp"

int main(int, char** arguments) try {
  const blobstore::Store store = blobstore::Store::open(arguments[1]);
  const auto tensor = store.find(arguments[2]);
  EXAMPLE
  if (!bytes.empty()) std::fwrite(bytes.data(), 1, bytes.size(), stdout);
  reader.read(tensor->nbytes, 1, bytes.data());
} catch (const blobstore::Error& error) {
  std::fprintf(stderr, "%s", error.reason());
}
"""

# What runtimes do with tensors: the value of every code, the types, names below another, and which blobs are what the
# index says.
HELPERS = r"""
#include <cstdio>
#include "blobstore.hpp"

using namespace blobstore;  // no name of it may hide, or be hidden by, one of the standard library

static void put(float value) { std::fwrite(&value, sizeof(value), 1, stdout); }

static void put_names(const Store::Tensors& tensors) {
  std::uint32_t count = 0;
  for (const Tensor& tensor : tensors) {
    std::printf("%.*s%c", static_cast<int>(tensor.name.size()), tensor.name.data(), 0);
    ++count;
  }
  if (count != tensors.size() || (count == 0) != tensors.empty()) std::printf("another number of them");
}

int main(int count, char** arguments) try {
  const std::string_view what = arguments[1];
  for (std::uint32_t code = 0; code < 65536; ++code) {
    if (what == "bf16") put(bf16_to_float(static_cast<std::uint16_t>(code)));
    if (what == "f16") put(f16_to_float(static_cast<std::uint16_t>(code)));
    if (what == "sfp" && code < 256) put(sfp_to_float(static_cast<std::uint8_t>(code)));
  }
  for (const ElementType& type : kElementTypes) {
    if (what == "types") std::printf("%u %s\n", unsigned{type.number}, type.name);
  }
  if (count < 3) return 0;
  const Store store = Store::open(arguments[2]);
  if (what == "names") put_names(count > 3 ? store.prefix(arguments[3]) : store.tensors());
  for (const Tensor& tensor : store.tensors()) {
    const std::uintptr_t beyond = reinterpret_cast<std::uintptr_t>(tensor.data) % kBlobAlign;
    if (what == "aligned") std::printf("%u %llu\n", unsigned(beyond), static_cast<unsigned long long>(tensor.offset));
  }
  for (std::uint32_t i = 0; what == "digests" && i < store.blob_count(); ++i) {
    const Blob blob = store.blob(i);
    const std::optional<Digest> stored = store.digest(blob.key);
    std::printf("%s\n", !stored ? "none" : *stored == sha256(blob.bytes()) ? "same" : "other");
  }
  if (what == "digests" && store.digest("no such key")) std::printf("of no blob\n");
  if (what != "example") return 0;
  EXAMPLE
} catch (const Error& error) {
  std::fprintf(stderr, "%s", error.reason());
  return 1;
}
"""


# ---------------------------------------------------------------------------------------------------- the programs


def examples_in_readme() -> list[str]:
    """A program, lines that sum up and check tensors, and those that read one."""
    found = re.findall(r"```cpp\n(.*?)```", (CPP / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 3
    return found


def has_libzstd(compiler: str) -> bool:
    """Whether programs can be made that use libzstd: Debian has its header in libzstd-dev."""
    command = [compiler, "-x", "c++", "-", "-x", "none", "-o", os.devnull, *ZSTD]
    source = "#include <zstd.h>\nint main() { return ZSTD_versionNumber() == 0; }\n"
    return subprocess.run(command, input=source.encode(), capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is made of the header, compiled side by side, once for all of the run's processes.

    ``sbs_ls`` by each compiler and with libzstd, where they are, and the example of the README.
    """
    compiler, other = shutil.which("g++"), shutil.which("clang++")
    if not compiler:
        pytest.skip("no g++ is installed: the reader in C++ is not tested")
    base = tmp_path_factory.getbasetemp()  # pytest-xdist's processes have one each, in a folder that they share
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cpp"
    folder.mkdir(exist_ok=True)
    example, sums, lines = examples_in_readme()
    sources = {"example": example, "allocations": ALLOCATIONS, "no-mmap": NO_MMAP, "packed": PACKED}
    sources |= {"values": VALUES.replace("EXAMPLE", lines), "helpers": HELPERS.replace("EXAMPLE", sums)}
    commands = {
        "sbs_ls": [compiler, *SANITIZERS, str(CPP / "sbs_ls.cpp")],
        "no-exceptions": [compiler, *PLAIN, str(CPP / "sbs_ls.cpp")],
        "example": [compiler, *SANITIZERS, str(folder / "example.cpp")],
        "allocations": [compiler, str(folder / "allocations.cpp")],
        "no-mmap": [compiler, "-fno-exceptions", str(folder / "no-mmap.cpp")],
        "helpers": [compiler, *SANITIZERS, "-O0", str(folder / "helpers.cpp")],
        "write": [compiler, str(CPP / "write.cpp")],
    }
    if other:
        commands["clang"] = [other, *SANITIZERS, str(CPP / "sbs_ls.cpp")]
    if has_libzstd(compiler):
        commands["values"] = [compiler, *SANITIZERS, "-DBLOBSTORE_ZSTD", str(folder / "values.cpp"), *ZSTD]
        commands["zstd"] = [compiler, *PLAIN, "-DBLOBSTORE_ZSTD", str(CPP / "sbs_ls.cpp"), *ZSTD]
        commands["packed"] = [other or compiler, *SANITIZERS, str(folder / "packed.cpp"), *ZSTD]
    with (folder / "compiled").open("a+") as compiled:
        assert lock(compiled.fileno())
        if not os.fstat(compiled.fileno()).st_size:
            for name, source in sources.items():
                (folder / f"{name}.cpp").write_text(source, encoding="utf-8")
            compile_all(commands, folder)
            compiled.write("all")
    return {name: folder / name for name in commands}


def compile_all(commands: dict[str, list[str]], folder: Path) -> None:
    """Compile each program into a folder."""
    running = {
        name: subprocess.Popen(
            [*command, "-std=c++17", *WARNINGS, f"-I{CPP}", "-o", str(folder / name)], stderr=subprocess.PIPE, text=True
        )
        for name, command in commands.items()
    }
    said = {name: process.communicate()[1] for name, process in running.items()}
    assert {name: said[name] for name, process in running.items() if process.returncode} == {}


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("standard", ["c++20", "c++2b"])
def test_later_standards_take_the_header_without_a_warning(
    programs: dict[str, Path], tmp_path: Path, compiler: str, standard: str
) -> None:
    del programs  # with C++17 by both compilers: that is tested by compiling them
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} is installed")
    source = tmp_path / "all.cpp"
    source.write_text(HELPERS.replace("EXAMPLE", examples_in_readme()[1]), encoding="utf-8")
    zstd = ["-DBLOBSTORE_ZSTD"] if has_libzstd(compiler) else []
    command = [compiler, "-fsyntax-only", f"-std={standard}", *WARNINGS, *zstd, f"-I{CPP}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "")


def with_libzstd(programs: dict[str, Path], name: str) -> Path:
    """One of the programs, which may be one that needs libzstd."""
    if name not in programs:
        pytest.skip("no libzstd is installed for programs to be made with: packed tensors are not read in C++")
    return programs[name]


@pytest.fixture(scope="session")
def sbs_ls(programs: dict[str, Path]) -> Run:
    """Run ``sbs_ls`` with arguments; the build with sanitizers unless another one is named."""

    def run(
        *arguments: str | bytes | Path, stdin: str = "", build: str = "sbs_ls"
    ) -> subprocess.CompletedProcess[bytes]:
        command = [programs[build], *arguments]
        return subprocess.run(command, input=stdin.encode(), capture_output=True, check=False, timeout=SECONDS)

    return run


@pytest.fixture(params=["sbs_ls", "no-exceptions", "clang"])
def build(request: pytest.FixtureRequest, programs: dict[str, Path]) -> str:
    name: str = request.param
    if name not in programs:
        pytest.skip("no clang++ is installed")
    return name


# ------------------------------------------------------------------------------------------------- what both say


def described(path: Path) -> dict[str, Any]:
    """What the package says of a file."""
    try:
        with blobstore.open(path) as store:
            tensors = [
                {
                    "name": one.name,
                    "key": one.key,
                    "type": one.type.name,
                    "shape": list(one.shape),
                    "scale": one.scale,
                    "nbytes": one.nbytes,
                    "offset": store.reader.file_at(one.offset)[1],
                    "codec": one.codec,
                }
                for one in store.infos()
            ]
            metadata = store.metadata
            if isinstance(store.reader, SetReader):
                _check_files(store.reader)
            return {"tensors": tensors, "metadata": metadata, "found": len(tensors)}
    except BlobStoreError as error:
        return {"error": error.reason}


def _check_files(reader: SetReader) -> None:
    """Open all files of a set, as the reader in C++ does."""
    for number in range(len(reader.paths)):
        fault = reader.fault_of(number)
        if fault:
            raise fault


def batch(sbs_ls: Run, paths: Iterable[Path], *options: str, build: str = "sbs_ls") -> dict[Path, dict[str, Any]]:
    """What the reader in C++ says of files, all in one process. ``found`` counts the names that its search finds."""
    ran = sbs_ls("--batch", *options, stdin="".join(f"{path}\n" for path in paths), build=build)
    assert (ran.returncode, ran.stderr) == (0, b"")
    facts = [json.loads(line) for line in ran.stdout.splitlines()]
    return {Path(fact.pop("path")): fact for fact in facts}


def kinds_of_files(vectors: Path, manifest: dict[str, Any]) -> list[str]:
    """The lists of the manifest that speak of files in a folder of that name."""
    kinds = [kind for kind in manifest if (vectors / kind).is_dir()]
    assert {"valid", "invalid", "verify"} <= set(kinds)
    return kinds


def valid_files(vectors: Path, manifest: dict[str, Any]) -> list[Path]:
    """All files that open, and all sets, by the paths of their indexes."""
    kinds = [kind for kind in kinds_of_files(vectors, manifest) if "invalid" not in kind and kind != "verify"]
    return [vectors / kind / fact["file"] for kind in kinds for fact in manifest[kind]]


def single_files(vectors: Path, manifest: dict[str, Any]) -> list[Path]:
    """All that open, but for the sets."""
    return [path for path in valid_files(vectors, manifest) if not is_set_at(path)]


@pytest.fixture(scope="session")
def every_vector(
    vectors: Path, manifest: dict[str, Any], generator: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> dict[Path, dict[str, Any]]:
    """What the package says of each vector, those included that are too large to be stored."""
    made = tmp_path_factory.mktemp("large")
    for case in generator.cases():
        if not case.stored:
            (made / case.file).write_bytes(case.data)
    facts = {}
    for kind in kinds_of_files(vectors, manifest):
        for one in manifest[kind]:
            folder = vectors / kind if one.get("stored", True) else made
            facts[folder / one["file"]] = described(folder / one["file"])
            assert facts[folder / one["file"]].get("error") == (one["reason"] if "invalid" in kind else None)
    return facts


@pytest.mark.parametrize("options", [(), ("--copy",)], ids=["mapped", "copied"])
def test_every_vector_is_described_as_the_package_does(
    sbs_ls: Run, every_vector: dict[Path, dict[str, Any]], build: str, options: tuple[str, ...]
) -> None:
    found = batch(sbs_ls, every_vector, *options, build=build)
    for fact in found.values():
        assert fact.pop("message", "it says why")
        fact.pop("offset", None)
    assert found == every_vector


def test_one_file_is_listed_as_the_command_line_does(
    sbs_ls: Run, vectors: Path, manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in valid_files(vectors, manifest):
        assert cli.main(["ls", "--json", str(path)]) == 0
        ran = sbs_ls(path)
        assert (ran.returncode, ran.stderr) == (0, b"")
        # As pairs: the fields have an order.
        pairs = [json.loads(text, object_pairs_hook=list) for text in (capsys.readouterr().out, ran.stdout)]
        with blobstore.open(path) as store:
            files = [store.reader.file_at(info.offset)[0] for info in store.infos()]
        assert pairs[0] == [[*tensor, ("file", file)] for tensor, file in zip(pairs[1], files, strict=True)]


@pytest.mark.parametrize(
    "file", ["html.sbs", "v1-count-huge.sbs", "index-metadata-nested.sbs", "index-external-stale-hash.sbs"]
)
def test_a_fault_is_one_line_and_exit_1(sbs_ls: Run, vectors: Path, manifest: dict[str, Any], file: str) -> None:
    reason = next(fact["reason"] for fact in manifest["invalid"] if fact["file"] == file)
    ran = sbs_ls(vectors / "invalid" / file)
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert re.fullmatch(rf"{reason}: \S.*\n", ran.stderr.decode())


@pytest.mark.parametrize("file", ["index-names-non-ascii.sbs", "index-external.sbs", "keys-any-bytes.sbs"])
def test_one_tensor_is_found_by_name(sbs_ls: Run, vectors: Path, file: str) -> None:
    path = vectors / "valid" / file
    tensors = described(path)["tensors"]
    assert tensors
    present = {os.fsencode(one["name"]): one for one in tensors}
    near = (
        {name[:-1] for name in present} | {name + b"x" for name in present} | {b"\x01", b"\xff", b"~index", b"config"}
    )
    for name in [*present, *(near - {b""} - set(present)), b"x" * 5000]:
        ran = sbs_ls(path, name)
        if name in present:
            assert (ran.returncode, json.loads(ran.stdout)) == (0, present[name])
        else:
            assert (ran.returncode, ran.stdout, ran.stderr.split(b":")[0]) == (2, b"", b"name-not-found")


def test_the_runtimes_own_blobs_are_no_tensors(sbs_ls: Run, generator: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.sbs"
    own = [b"config", b"tokenizer", b"Fscales"]
    path.write_bytes(generator.container(2, [(key, b"1") for key in [*own, b"configs", b"to"]]))
    assert [one["name"] for one in described(path)["tensors"]] == ["configs", "to"]
    assert batch(sbs_ls, [path]) == {path: described(path)}
    assert {sbs_ls(path, key).returncode for key in [*own, b"toc"]} == {2}


@pytest.mark.parametrize("arguments", [(), ("--nonsense",), ("--key-for",), ("--batch", "x"), ("a", "b", "c")])
def test_wrong_usage_is_exit_2(sbs_ls: Run, arguments: tuple[str, ...]) -> None:
    ran = sbs_ls(*arguments)
    assert (ran.returncode, ran.stdout, ran.stderr[:6]) == (2, b"", b"usage:")


def test_what_is_no_file_is_exit_2(sbs_ls: Run, tmp_path: Path) -> None:
    assert sbs_ls(tmp_path / "missing.sbs").stderr.startswith(b"os-error: ")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        ran = sbs_ls(path)
        assert (ran.returncode, ran.stderr.split(b":")[0]) == (2, b"not-a-file")


def test_a_folder_beside_is_no_index(sbs_ls: Run, vectors: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.sbs"
    shutil.copy(vectors / "valid" / "one-byte-v2.sbs", path)
    (tmp_path / "a.sbs.idx").mkdir()
    assert batch(sbs_ls, [path]) == {path: described(path)}


def test_an_index_beside_a_link_or_beside_what_it_leads_to_is_found(sbs_ls: Run, vectors: Path, tmp_path: Path) -> None:
    folder, links = tmp_path / "files", [tmp_path / name for name in ("link.sbs", "again.sbs", "wrong.sbs", "lost.sbs")]
    folder.mkdir()
    for name in ("index-external.sbs", "index-external.sbs.idx"):
        shutil.copy(vectors / "valid" / name, folder / name)
    path = folder / "index-external.sbs"
    for link in links:
        link.symlink_to(path)
    links[1].unlink()
    links[1].symlink_to("link.sbs")
    (tmp_path / "wrong.sbs.idx").write_bytes(b"not that of the file: it comes first")
    (tmp_path / "lost.sbs.idx").symlink_to("nothing")
    found = batch(sbs_ls, links)
    expected = {link: described(link) for link in links}
    assert found[links[0]] == found[links[1]] == expected[links[0]] == expected[links[1]] == described(path)
    assert found[links[2]]["error"] == expected[links[2]]["error"] == "index-truncated"
    # A link that leads nowhere is something: neither reader takes it for no index.
    assert (found[links[3]]["error"], expected[links[3]]["error"]) == ("os-error", "not-a-file")


def test_the_example_in_the_readme_runs(programs: dict[str, Path], vectors: Path) -> None:
    def run(file: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [programs["example"], vectors / file], capture_output=True, text=True, check=False, timeout=SECONDS
        )

    good = run("valid/index-one.sbs")
    assert good.returncode == 0
    assert good.stdout.startswith("f32, 2 dimensions, 24 bytes at 0x")
    bad = run("invalid/index-magic.sbs")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("index-magic: ")


@pytest.mark.parametrize("file", ["index-one.sbs", "index-table-reordered.sbs", "index-external.sbs", "key16-v2.sbs"])
def test_nothing_is_allocated_to_look_something_up(programs: dict[str, Path], vectors: Path, file: str) -> None:
    assert_nothing_is_allocated(programs, vectors / "valid" / file)


def assert_nothing_is_allocated(programs: dict[str, Path], path: Path) -> None:
    ran = subprocess.run([programs["allocations"], path], capture_output=True, check=True, timeout=SECONDS)
    assert ran.stdout.split()[:3] == [b"open", b"%d" % (2 * len(described(path)["tensors"])), b"0"]


def test_files_are_read_without_mmap(
    programs: dict[str, Path], vectors: Path, manifest: dict[str, Any], catalogs: dict[str, Path]
) -> None:
    paths = [*single_files(vectors, manifest), vectors / "invalid" / "index-magic.sbs", *catalogs.values()]
    paths = [path for path in paths if not path.with_name(path.name + ".idx").exists()]
    ran = subprocess.run([programs["no-mmap"], *paths], capture_output=True, text=True, check=True, timeout=SECONDS)
    for path, line in zip(paths, ran.stdout.splitlines(), strict=True):
        fact = described(path)
        reason = fact.get("error", "open")
        found = sum(1 for one in fact.get("tensors", []) if one["key"] and one["codec"] != PACKED_CODEC)  # with data
        assert (path.name, line) == (path.name, f"{reason} {found}")


# --------------------------------------------------------------------------------------- toc, keys with a type's letter


def written(path: Path, blobs: Mapping[str, bytes], version: int = 2) -> Path:
    with blobstore.BlobWriter(path, version=version) as writer:
        for key, data in blobs.items():
            writer.add(key, data)
    return path


def words(raw: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(raw) // 4}I", raw))


def raw_of(listed: Iterable[int]) -> bytes:
    return b"".join(struct.pack("<I", word) for word in listed)


def older(entry: TocEntry, fewer: int) -> bytes:
    """The record that a runtime wrote which did not know the last fields yet."""
    count, *rest = words(build_toc([entry]))
    return raw_of([count - fewer, *rest[:-fewer]])


def toc_of_text(count: int) -> bytes:
    """A record whose name has so many words."""
    return raw_of([3 + count, count, *[0x41414141] * count, 1, 0])


# One for each type, some of a group and a bit; scales are the least and the largest ones, and others.
SCALES = (1.0, 2.5, -0.0, struct.unpack("<f", b"\1\0\0\0")[0], -1e-40, 3.4028234663852886e38, 0.1, 1.0, *[0.5] * 5)
TYPES_IN_TOCS = ("f32", "bf16", "sfp", "nuq", "f64", "u32", "u64", "i8", "u16", "u8", "int8", "q4_0", "mxfp4")
ENTRIES = [
    toc_entry(f"{element_types.BY_NUMBER[number].name}_{number}", element_types.BY_NUMBER[number], number, 43, scale)
    for number, scale in zip(range(1, 14), struct.unpack("<13f", struct.pack("<13f", *SCALES)), strict=True)
]
TENSORS = {entry.name: bytes(entry.nbytes) for entry in ENTRIES}
LETTERS = {
    "config": b"1",
    "$linear_w_10": bytes(30),
    "2gating_ein_1": bytes(144 + 16 + 1),
    "Igating_ein_0": bytes(132 + 4 + 1),
    "Batt_ein_1": bytes(8),
    "$linear_w_0": bytes(3),
    "Fqkv_ein_0": bytes(12),
    "Bqkv_ein_1": bytes(2),
    "Fc_embedding": bytes(20),
    "Batt_ein_0": bytes(8),
    "Blinear_0_w_3": bytes(6),
    "Bqkv_ein_998": bytes(6),
}
SCALED = ["att_ein_0", "qkv_ein_0", "gating_ein_0", "linear_w_0", "att_ein_1", "qkv_ein_1", "gating_ein_1",
          "linear_w_10", "qkv_ein_998"]  # fmt: skip
FSCALES = {"Fscales": struct.pack("<9f", *(0.5 + i for i in range(9)))}
MISFITS = {  # not what a runtime would have written; no tensors
    "Fatt_ein_0": bytes(7),
    "Batt_ein_2": bytes(7),
    "2gating_ein_0": bytes(16),
    "Igating_ein_3": bytes(132 + 4),
    "Bother": bytes(4),
    "Batt_ein_": bytes(4),
    "Batt_ein_1000": bytes(4),
    "Batt_ein_00": bytes(4),
    "Batt_ein_01": bytes(4),
    "Batt_ein": bytes(4),
    "Bc_embedding_0": bytes(4),
    "Batt_ein_1x": bytes(4),
    "Batt_ein_\u0661": bytes(4),
    "B": bytes(4),
    "att_ein_4": bytes(4),
    "Latt_ein_4": bytes(4),
}


JOINED = ("toc-missing-blob", "toc-size", "toc-stride")  # faults of the toc and the directory together
CUTS = (1, 4, 8, 12, 16, 50, 100)
# Of the files below; all others open.
REFUSED = {
    "toc-cut-1": "fields-size",
    "toc-cut-50": "fields-size",
    **{f"toc-cut-{n}": "fields-truncated" for n in (4, 8, 12, 16, 100)},
    "toc-twice": "toc-duplicate",
    "toc-twice-then-cut": "toc-duplicate",
    "toc-cut-then-twice": "fields-truncated",
    "toc-two-twice": "toc-duplicate",
    "toc-text-64-words": "toc-missing-blob",
    "toc-text-65-words": "fields-string",
    "toc-type-then-twice": "toc-type",
    "toc-type-then-stride": "toc-type",
    "toc-stride": "toc-stride",
    "toc-stride-then-size": "toc-stride",
    "toc-size-and-stride": "toc-size",
    "toc-latin-1": "fields-string",
    "toc-alone-and-cut": "fields-truncated",
    "letters-twice": "letters-duplicate",
    "letters-nan": "scales-number",
    "letters-inf": "scales-number",
    "letters-count": "scales-count",
    "letters-cut": "scales-count",
}


@pytest.fixture(scope="session")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files without an index, whose tensors are described by the runtime."""
    folder = tmp_path_factory.mktemp("catalogs")
    sfp, bf16 = element_types.BY_NAME["sfp"], element_types.BY_NAME["bf16"]
    plain, again = build_toc(ENTRIES), build_toc(ENTRIES[3:4])
    typeless = build_toc([replace(ENTRIES[0], type_number=32)])
    odd = [replace(one, stride=44) for one in ENTRIES]
    newer = build_toc(replace(one, newer=(0, 0xFFFFFFFF) * i) for i, one in enumerate(ENTRIES))
    tocs = {
        "toc": plain,
        "toc-newer": newer,
        "toc-older": b"".join(older(one, 1 + i % 2) for i, one in enumerate(ENTRIES)),
        **{f"toc-cut-{n}": plain[:n] for n in CUTS},
        "toc-twice": plain + again,
        "toc-twice-then-cut": plain + again + b"1234",
        "toc-cut-then-twice": plain + b"1234" + again,
        "toc-two-twice": plain + build_toc(2 * sorted(ENTRIES, key=lambda entry: entry.name)),
        "toc-text-64-words": plain + toc_of_text(64),
        "toc-text-65-words": plain + toc_of_text(65),
        "toc-type-then-twice": plain + typeless + again,
        "toc-type-then-stride": typeless + build_toc(odd[:1]),
        "toc-stride": build_toc([*ENTRIES[:5], odd[5], *ENTRIES[6:]]),
        "toc-stride-then-size": build_toc([odd[0], replace(ENTRIES[1], rows=99)]),
        "toc-size-and-stride": build_toc([replace(odd[0], rows=99)]),
        "toc-newer-types": build_toc(replace(one, type_number=14 + i) for i, one in enumerate(ENTRIES)),
        "toc-latin-1": plain + raw_of([4, 1, 0xE9, 1, 0]),
    }
    twice = {"Flinear_w_0": bytes(8), "$qkv_ein_0": bytes(1), "2linear_w_0": bytes(17)}
    key16 = "0123456789abcdef"
    files = {name: TENSORS | {"toc": toc} for name, toc in tocs.items()} | {
        "toc-backwards": {"toc": build_toc(reversed(ENTRIES)), "config": b"1", **TENSORS, "Fc_embedding": b"1234"},
        "toc-own": TENSORS | {"config": b"1", "toc": plain + build_toc([toc_entry("config", sfp, 1, 1)])},
        "toc-utf-8": {"é": b"12", "toc": build_toc([toc_entry("é", bf16, 1, 1)])},
        "toc-key16": {key16: b"12", "toc": build_toc([toc_entry(key16, bf16, 1, 1)])},
        "toc-alone-and-cut": {"toc": plain + b"1234"},
        "letters": LETTERS | FSCALES,
        "letters-no-scales": LETTERS,
        "letters-misfits": MISFITS | LETTERS | FSCALES,
        "letters-twice": LETTERS | {"Fscales": b"1"} | twice,
        "letters-twice-misfits": LETTERS | FSCALES | {"Flinear_w_0": bytes(7)},
        "letters-nan": LETTERS | {"Fscales": struct.pack("<f", float("nan"))},
        "letters-inf": LETTERS | {"Fscales": struct.pack("<9f", *[0] * 8, float("-inf"))},
        "letters-count": LETTERS | {"Fscales": FSCALES["Fscales"][4:]},
        "letters-cut": LETTERS | {"Fscales": FSCALES["Fscales"] + b"1"},
        "bytes": MISFITS | {"Fscales": b"1"},
    }
    paths = {name: written(folder / f"{name}.sbs", blobs) for name, blobs in files.items()}
    return paths | {"toc-v1": written(folder / "toc-v1.sbs", files["toc"], version=1)}


@pytest.mark.parametrize("options", [(), ("--copy",)], ids=["mapped", "copied"])
def test_what_the_runtime_says_of_tensors_is_read_as_the_package_does(
    sbs_ls: Run, catalogs: dict[str, Path], build: str, options: tuple[str, ...]
) -> None:
    found = batch(sbs_ls, catalogs.values(), *options, build=build)
    assert [(name, found[path]) for name, path in catalogs.items() if not agree(found[path], described(path))] == []
    assert {name: found[path]["error"] for name, path in catalogs.items() if "error" in found[path]} == REFUSED


def test_tensors_are_what_the_toc_says(sbs_ls: Run, catalogs: dict[str, Path]) -> None:
    listed = json.loads(sbs_ls(catalogs["toc"]).stdout)
    assert [(one["name"], one["key"], one["shape"], one["scale"], one["nbytes"]) for one in listed] == [
        (entry.name, entry.name, [entry.rows, 43], entry.scale, entry.nbytes) for entry in ENTRIES
    ]
    assert [one["type"] for one in listed] == list(TYPES_IN_TOCS)
    backwards = json.loads(sbs_ls(catalogs["toc-backwards"]).stdout)
    assert [one["name"] for one in backwards] == [entry.name for entry in reversed(ENTRIES)]
    assert {one["scale"] for one in json.loads(sbs_ls(catalogs["toc-older"]).stdout)[1::2]} == {1.0}


def test_tensors_of_old_files_are_what_letters_and_sizes_say(sbs_ls: Run, catalogs: dict[str, Path]) -> None:
    listed = json.loads(sbs_ls(catalogs["letters-misfits"]).stdout)
    assert [one["key"] for one in listed] == [key for key in LETTERS if key != "config"]
    assert [one["name"] for one in listed] == [key[1:] for key in LETTERS if key != "config"]
    counts = {one["name"]: one["shape"] for one in listed}
    assert counts["gating_ein_1"] == [256 + 2]
    assert counts["gating_ein_0"] == [128 + 1]
    assert counts["linear_0_w_3"] == [3]
    scales = {one["name"]: one["scale"] for one in listed}
    assert [scales.pop(name) for name in SCALED] == [0.5 + i for i in range(9)]
    assert scales == {"c_embedding": 1, "linear_0_w_3": 1}


def test_every_key_of_the_runtime_is_known(sbs_ls: Run, tmp_path: Path) -> None:
    bases = [f"{base}_7" for base in sorted(legacy._LAYER_BASES)]
    keys = [f"F{name}" for name in [*sorted(legacy._MODEL_KEYS), *bases]]
    path = written(tmp_path / "a.sbs", {key: bytes(4) for key in keys if len(key) <= 16})
    listed = json.loads(sbs_ls(path).stdout)
    assert [one["key"] for one in listed] == [key for key in keys if len(key) <= 16]
    header = (CPP / "blobstore.hpp").read_text(encoding="utf-8")
    for name, expected in {"kModelTensors": legacy._MODEL_KEYS, "kLayerTensors": legacy._LAYER_BASES}.items():
        there = re.search(name + r"\[\] = \{(.*?)\};", header, re.DOTALL)
        assert there
        assert set(re.findall(r'"(\w+)"', there[1])) == expected


@pytest.mark.parametrize("file", ["toc-backwards", "toc-key16", "letters-misfits"])
def test_one_tensor_that_the_runtime_describes_is_found_by_name(
    sbs_ls: Run, catalogs: dict[str, Path], file: str
) -> None:
    with blobstore.BlobReader(catalogs[file]) as reader:
        keys = set(reader)
    tensors = {one["name"]: one for one in described(catalogs[file])["tensors"]}
    for name in [*tensors, *(keys - set(tensors)), "toc", "0", "~", "qkv_ei", "qkv_ein_", "x" * 17]:
        ran = sbs_ls(catalogs[file], name.encode())
        if name in tensors:
            assert (ran.returncode, json.loads(ran.stdout)) == (0, tensors[name])
        else:
            assert (ran.returncode, ran.stdout, ran.stderr.split(b":")[0]) == (2, b"", b"name-not-found")


@pytest.mark.parametrize("file", ["toc", "toc-v1", "letters", "letters-misfits"])
def test_nothing_is_allocated_to_look_up_what_the_runtime_describes(
    programs: dict[str, Path], catalogs: dict[str, Path], file: str
) -> None:
    assert_nothing_is_allocated(programs, catalogs[file])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ((0,), "toc-type"),  # 0 words: all defaults
        ((2, 0, 1), "toc-duplicate"),  # the least that has a type
        ((0xFFFFFFFF,), "fields-truncated"),
        ((0x40000000, 65), "fields-truncated"),
    ],
)
def test_a_hostile_toc_takes_memory_in_proportion_to_its_size(
    programs: dict[str, Path], tmp_path: Path, record: tuple[int, ...], reason: str
) -> None:
    toc = raw_of(record) * 100_000
    path = written(tmp_path / "a.sbs", {"toc": toc})
    ran = subprocess.run([programs["allocations"], path], capture_output=True, check=True, timeout=SECONDS)
    assert ran.stdout.split()[0].decode() == reason == described(path)["error"]
    assert int(ran.stdout.split()[3]) < 4 * len(toc) + 1000


def test_a_fault_is_one_line_and_exit_1_here_too(sbs_ls: Run, catalogs: dict[str, Path]) -> None:
    for name, reason in REFUSED.items():
        ran = sbs_ls(catalogs[name])
        assert (ran.returncode, ran.stdout) == (1, b"")
        assert re.fullmatch(rf"{reason}: \S.*\n", ran.stderr.decode())


@pytest.mark.parametrize("name", [name for name in REFUSED if name.startswith("toc") and REFUSED[name] not in JOINED])
def test_a_fault_of_the_toc_is_where_the_package_says(sbs_ls: Run, catalogs: dict[str, Path], name: str) -> None:
    path = catalogs[name]
    with pytest.raises(FormatError) as caught:
        blobstore.open(path)
    with blobstore.BlobReader(path) as reader:
        start, _ = reader.range("toc")
    assert caught.value.offset is not None
    assert batch(sbs_ls, [path])[path]["offset"] == start + caught.value.offset


def test_files_of_gemma_cpp_are_described_as_the_package_does(
    sbs_ls: Run, shared_vectors: Path, tmp_path: Path
) -> None:
    originals = sorted((shared_vectors / "convert").glob("*.sbs"))
    assert len(originals) >= 8
    expected = {path: described(path) for path in originals}
    assert not any("error" in fact or not fact["tensors"] for fact in expected.values())
    rng = random.Random(3)
    for number, path in enumerate(originals * 3):
        changed = tmp_path / f"{number}.sbs"
        changed.write_bytes(mutated(rng, path.read_bytes(), described_in(path, ("toc",))))
        expected[changed] = described(changed)
    for options in ((), ("--copy",)):
        found = batch(sbs_ls, expected, *options)
        assert [(path, found[path]) for path in expected if not agree(found[path], expected[path])] == []


# ------------------------------------------------------------------------------------------------------------ keys


def keys_of(sbs_ls: Run, names: list[str]) -> list[str]:
    ran = sbs_ls("--key-for", *(name.encode() for name in names))
    assert (ran.returncode, ran.stderr) == (0, b"")
    return ran.stdout.decode().splitlines()


def test_keys_are_those_of_the_manifest(sbs_ls: Run, manifest: dict[str, Any]) -> None:
    pairs = {pair["name"]: pair["key"] for pair in manifest["key_for"]}
    assert keys_of(sbs_ls, list(pairs)) == list(pairs.values())


def test_files_that_are_carried_are_found_by_their_names(
    sbs_ls: Run, vectors: Path, manifest: dict[str, Any], tmp_path: Path
) -> None:
    carrying = [fact for fact in manifest["valid"] if "files" in fact]
    assert len(carrying) == 2
    for fact in carrying:
        path = vectors / "valid" / fact["file"]
        with blobstore.open(path) as store:
            for name in fact["files"]:
                ran = sbs_ls("--bytes", path, name)
                assert (ran.returncode, ran.stdout) == (0, bytes(store.files[name]))
        for name in ("tokenizer.json", "x" * 300, "1_Pooling"):
            assert sbs_ls("--bytes", path, name).returncode == 2
    longest = tmp_path / "a.sbs"
    with blobstore.create(longest) as made:
        for pair in manifest["file_key"]:
            made.add_file(pair["name"], pair["key"].encode())
    for pair in manifest["file_key"]:
        assert sbs_ls("--bytes", longest, pair["name"]).stdout.decode() == pair["key"]


def test_bytes_of_sets_are_those_of_the_package(
    sbs_ls: Run, programs: dict[str, Path], vectors: Path, manifest: dict[str, Any]
) -> None:
    for fact in manifest["set_valid"]:
        build = "sbs_ls"
        if "unpacked" in fact:
            build = with_libzstd(programs, "zstd").name
        path = vectors / "set_valid" / fact["file"]
        with blobstore.open(path) as store:
            for name in [*store, *store.files]:
                ran = sbs_ls("--bytes", path, name, build=build)
                assert (ran.returncode, ran.stdout) == (0, bytes(store.raw(name)))
        for key in ("~index", "~packed"):
            assert sbs_ls("--bytes", path, key).returncode == 2


def test_keys_of_names_of_every_length(sbs_ls: Run) -> None:
    names = ["é" + "a" * n for n in range(200)]  # both ways in which SHA-256 pads, at each length of a last block
    names += ["\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"]
    assert keys_of(sbs_ls, names) == [blobstore.key_for(name) for name in names]


@given(
    st.lists(any_names | st.from_regex(r"[ -~]{0,12}_[0-9]{0,4}[a-z_]{0,2}", fullmatch=True), min_size=1, max_size=40)
)
def test_keys_are_the_packages(sbs_ls: Run, names: list[str]) -> None:
    assert keys_of(sbs_ls, names) == [blobstore.key_for(name) for name in names]


NO_NAMES = [
    *[b"", b"a" * 4097, b"\x80", b"\xff", b"a\xc2", b"\xe2\x82a", b"\xf0\x9f\x98"],
    *[b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf"],  # overlong
    *[b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80"],  # surrogates, beyond Unicode
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_has_no_key(sbs_ls: Run, name: bytes) -> None:
    ran = sbs_ls("--key-for", name)
    assert (ran.returncode, ran.stdout, ran.stderr.split(b":")[0]) == (2, b"", b"bad-name")


# ------------------------------------------------------------------------------------------------- hostile bytes


def described_in(path: Path, keys: Iterable[str] = OWN) -> list[range]:
    """Where the blobs lie that say what others are."""
    with blobstore.BlobReader(path) as reader:
        found = [reader.range(key) for key in keys if key in reader]
    return [range(offset, min(offset + 700, offset + nbytes)) for offset, nbytes in found]


def mutated(rng: random.Random, data: bytes, regions: list[range]) -> bytes:
    """Change one byte, most often in one of the regions, or near another byte that isn't zero."""
    changed = bytearray(data)
    if regions and rng.random() < 0.7:
        place = rng.choice(rng.choice(regions))
    else:
        place = rng.choice([i for i, byte in enumerate(data) if byte])
    changed[place] = rng.choice([rng.randrange(256), changed[place] ^ 1 << rng.randrange(8), *b'\0\1\x80\xff"\\{u'])
    return bytes(changed)


def agree(cpp: dict[str, Any], package: dict[str, Any]) -> bool:
    if "error" in cpp and "error" in package:
        return bool(cpp["error"] == package["error"])
    return cpp == package


def test_files_with_a_wrong_byte_are_described_as_the_package_does(
    sbs_ls: Run, vectors: Path, manifest: dict[str, Any], catalogs: dict[str, Path], tmp_path: Path
) -> None:
    rng = random.Random(20250731)
    made = [path for name, path in catalogs.items() if name not in REFUSED]
    made += [packed_file(tmp_path / "packed").path] * 5
    originals = [
        (path.read_bytes(), idx.read_bytes() if idx.exists() else b"", described_in(path))
        for path in [*single_files(vectors, manifest), *made]
        for idx in [path.with_name(path.name + ".idx")]
    ]
    expected: dict[Path, dict[str, Any]] = {}
    for number in range(MUTATIONS):
        data, idx, regions = originals[number % len(originals)]
        if idx and rng.random() < 0.7:
            idx = mutated(rng, idx, [range(len(idx))])
        else:
            data = mutated(rng, data, regions)
        path = tmp_path / f"{number}.sbs"
        path.write_bytes(data)
        if idx:
            path.with_name(path.name + ".idx").write_bytes(idx)
        expected[path] = described(path)
    refused = {fact["error"] for fact in expected.values() if "error" in fact}
    assert len(refused) > 20
    for options in ((), ("--copy",)):
        found = batch(sbs_ls, expected, *options)
        assert found.keys() == expected.keys()
        assert [
            (path.name, found[path], expected[path]) for path in expected if not agree(found[path], expected[path])
        ] == []


def test_sets_with_a_wrong_byte_are_described_as_the_package_does(
    sbs_ls: Run, vectors: Path, manifest: dict[str, Any], tmp_path: Path
) -> None:
    rng = random.Random(20261127)
    sets = [vectors / "set_valid" / fact["file"] for fact in manifest["set_valid"]]
    held = {path: {file: file.read_bytes() for file in path.parent.iterdir()} for path in sets}
    expected: dict[Path, dict[str, Any]] = {}
    for number in range(MUTATIONS // 2):
        path = sets[number % len(sets)]
        folder = tmp_path / str(number)
        folder.mkdir()
        wrong = path if rng.random() < 0.8 else rng.choice(list(held[path]))
        for file, data in held[path].items():
            if file != wrong:
                (folder / file.name).symlink_to(file)
            elif file == path:
                (folder / file.name).write_bytes(mutated(rng, data, [range(len(data))]))
            elif rng.random() < 0.9:  # its header, or its directory; or it is missing
                (folder / file.name).write_bytes(mutated(rng, data, [range(16), range(len(data) - 200, len(data))]))
        expected[folder / path.name] = described(folder / path.name)
    refused = {fact["error"] for fact in expected.values() if "error" in fact}
    assert refused >= {"index-stores", "set-missing-store", "set-stale", "set-store", "index-key", "index-order"}
    for options in ((), ("--copy",)):
        found = batch(sbs_ls, expected, *options)
        assert found.keys() == expected.keys()
        assert [
            (path, found[path], expected[path]) for path in expected if not agree(found[path], expected[path])
        ] == []


@pytest.mark.parametrize(("rows", "reason"), [(2**20, "index-key"), (2**20 + 1, "index-section")])
def test_a_table_has_at_most_as_many_rows_as_a_file_has_blobs(
    sbs_ls: Run, generator: ModuleType, tmp_path: Path, rows: int, reason: str
) -> None:
    path = tmp_path / "a.sbs"
    # Of rows that are zeros: where their number is allowed, their keys aren't.
    index = index_of(b"", blob_count=rows, metadata_nbytes=2)[:-2] + b"{}"
    path.write_bytes(generator.container(2, [(b"0", b"1"), (b"~index", index)]))
    found = batch(sbs_ls, [path], "--copy")[path]
    assert found["error"] == described(path)["error"] == reason


def test_more_blobs_than_16_bits_can_count_are_found(sbs_ls: Run, generator: ModuleType, tmp_path: Path) -> None:
    blobs = [(b"%d" % i, b"x") for i in range(65_600)]
    rows = blobs[::-1]  # none is where the index says
    entries, table = [Entry("last", 0, 0, 1, 10, (1,))], [IndexedBlob(key, 1) for key, _ in rows]
    index = build_index(entries, table)
    files = {"plain.sbs": blobs, "indexed.sbs": [*blobs, (b"~index", index)]}
    paths = [tmp_path / name for name in files]
    for path in paths:
        path.write_bytes(generator.container(2, files[path.name]))
    for path, found in batch(sbs_ls, paths).items():
        assert agree(found, described(path))
        assert found["found"] == len(found["tensors"])
        assert found["tensors"][-1]["key"] == "65599"


json_pieces = st.sampled_from(
    [
        *'{}[]:,"\\/ \t\n\r\0\x1f\x7fabu1',
        *'""""::,,{}',
        *["\\u0061", "\\u00e9", "\\ud83d", "\\ude00", "\\ud83d\\ude00", "\\u", "\\u12", "\\uD8G0", "\\n", "\\x", "\\/"],
        *['"a":"b"', '"a"', '"\\u0061":"c"', '"é":""', "é", "😀", "null", "1", "\ufeff", "\u2028", "{}", '{"a":"b"}'],
    ]
)
objects = st.dictionaries(st.text('aé😀"\\\n\x7f', max_size=3), st.text(max_size=5), max_size=4)


@st.composite
def metadata(draw: st.DrawFn) -> bytes:
    """JSON, nearly JSON, and bytes."""
    if draw(st.booleans()):
        text = "".join(draw(st.lists(json_pieces, max_size=8)))
        text = draw(st.sampled_from(["{{{}}}", '{{"k":"{}"}}', '{{"{}":"v","a":""}}', "{}"])).format(text)
        return text.encode()
    indent = draw(st.sampled_from([None, 1]))
    raw = bytearray(json.dumps(draw(objects), ensure_ascii=draw(st.booleans()), indent=indent).encode())
    if draw(st.booleans()):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255) | st.sampled_from(b'"\\{},:u \xc3\xed'))
    return bytes(raw)


ESCAPES = [
    *[
        r"\ud800\udc00",
        r"\udbff\udfff",
        r"\ud7ff\ue000",
        r"\uD83D\uDE00",
        r"\b\f\n\r\t\/\\\"",
        r"\u0000",
        r"\u00e9\u0800",
    ],
    *[r"\ude00", r"\ud83d", r"\ude00\ude00", r"\ud83d\ud83d", r"\ud83d\ue000", r"\ud83d\u0061", r"\ud83da", r"\udfff"],
    *[r"\ud83d\n", r"\ud83d\xde00", r"\u00g0", r"\u+061", r"\u 061", r"\u0x61", r"\U0061", r"\'", r"\0", "\\"],
]


@given(st.lists(metadata(), min_size=10, max_size=30))
@example([text.encode() for one in ESCAPES for text in (f'{{"{one}":"{one}"}}', f'{{"a":"","{one}":""}}')])
def test_metadata_is_taken_and_refused_as_the_package_does(
    sbs_ls: Run, generator: ModuleType, tmp_path: Path, texts: list[bytes]
) -> None:
    expected = {}
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.sbs"
        blob = (b"a", b"1234")
        index = generator.name_index([], [blob], metadata=text)
        path.write_bytes(generator.container(1, [blob, (b"~index", index)], very_old=True))
        expected[path] = described(path)
    found = batch(sbs_ls, expected, "--copy")
    for path, fact in expected.items():
        assert agree(found[path], fact), path.read_bytes()


def index_of(sections: bytes, **fields: int) -> bytes:
    """Return an index with these sections, external if it has names; one without entries is filled with zeros."""
    flags = 2 if "names_nbytes" in fields else 0
    header = Header._make(HEADER_FIELDS.unpack(bytes(HEADER_NBYTES)))
    header = header._replace(magic=b"SBSINDEX", version=1, flags=flags, **fields)  # type: ignore[arg-type]
    nbytes = HEADER_NBYTES + len(sections) if sections else sum(section_spans(header)["metadata"])
    return HEADER_FIELDS.pack(*header._replace(nbytes=nbytes)) + sections.ljust(nbytes - HEADER_NBYTES, b"\0")


def test_nothing_behind_an_index_is_looked_at(sbs_ls: Run, generator: ModuleType, tmp_path: Path) -> None:
    entry = struct.pack("<QQI4xI4xI4xf4xH6xH6x", 0, 0, 0, 0xFFFFFFFF, 0, 1.0, 1, 0) + bytes(8) + bytes(8)
    one = {"entry_count": 1, "shape_count": 1, "dim_count": 1}
    cases = {
        # The last name's NUL would be the first byte behind the index.
        "index-name": index_of(entry + b"abcdefgh", **one, names_nbytes=8),
        # The metadata would begin there, and its size makes the end right in 64 bits.
        "index-section": index_of(b"\0", names_nbytes=1, metadata_nbytes=2**64 - 7),
    }
    for reason, index in cases.items():
        path = tmp_path / f"{reason}.sbs"
        path.write_bytes(generator.container(1, [(b"a", b"1")], very_old=True))
        # Another file's: whatever its entries say, that is said first; but not before it is known where things are.
        path.with_name(path.name + ".idx").write_bytes(index)
        first = "index-stale" if reason == "index-name" else reason
        assert batch(sbs_ls, [path], "--copy")[path]["error"] == described(path)["error"] == first
        with blobstore.BlobReader(path) as reader:
            binding = struct.pack("<Q32s", reader.file_size, directory_digest(reader.directory))
        path.with_name(path.name + ".idx").write_bytes(index[:64] + binding + index[104:])
        assert batch(sbs_ls, [path], "--copy")[path]["error"] == described(path)["error"] == reason


names_in_tocs = st.sampled_from(["a", "bb", "ccc", "é", "c_embedding", "0123456789abcdef", "config"]) | st.sampled_from(
    ["", "0123456789abcdefg", "no such key", "a" * 256]
)
any_words = st.sampled_from([0, 1, 2, 3, 64, 65, 0x7F800000, 0xFF800001, 0x80000000, 0xFFFFFFFF, 0x41414141, 0xA9C3])


@st.composite
def records_of_tocs(draw: st.DrawFn) -> tuple[bytes, bytes, int]:
    """A record of a toc, the key and the size of a blob that goes with it."""
    name = draw(names_in_tocs)
    number = draw(st.integers(1, 13) if draw(st.booleans()) else st.sampled_from([1, 3, 0, 14, 31, 32, 65537]))
    sizes = st.integers(1, 20) | st.sampled_from([0, 128, 129, 255, 256, 257, 2**16, 2**32 - 1])
    rows, cols = draw(st.integers(1, 3)), draw(sizes)
    kind = element_types.BY_NUMBER.get(number, element_types.UNKNOWN)
    stride = draw(st.sampled_from([*[cols] * 8, 0, 0, 1]))
    entry = TocEntry(name=name, type_number=number, rows=rows, cols=cols, scale=0.5, stride=stride)
    fields = words(build_toc([entry]))[1:]
    nbytes = kind.nbytes(rows * cols) + draw(st.sampled_from([0] * 20 + [1, -1]))
    fault = draw(st.sampled_from(["none"] * 20 + ["older", "newer", "word", "count", "inserted", "deleted"]))
    place = draw(st.integers(0, len(fields) - 1))
    if fault == "older":
        fields = fields[: place + 1]
    elif fault == "newer":
        fields += draw(st.lists(any_words, max_size=3))
    elif fault == "word":
        fields[place] = draw(any_words)
    elif fault == "inserted":
        fields.insert(place, draw(any_words))
    elif fault == "deleted":
        del fields[place]
    count = draw(any_words) if fault == "count" else len(fields)
    return raw_of([count, *fields]), name.encode()[:16], nbytes


@given(st.lists(st.tuples(st.lists(records_of_tocs(), max_size=5), st.integers(0, 30)), min_size=5, max_size=15))
def test_any_toc_is_described_as_the_package_does(
    sbs_ls: Run, generator: ModuleType, tmp_path: Path, files: list[tuple[list[tuple[bytes, bytes, int]], int]]
) -> None:
    expected = {}
    for number, (records, cut) in enumerate(files):
        toc = b"".join(record for record, _, _ in records)
        toc = toc[: len(toc) - max(cut - 20, 0)] or b"1"
        blobs = {key: bytes(nbytes) for _, key, nbytes in records if key and 0 < nbytes < 5000}
        path = tmp_path / f"{number}.sbs"
        path.write_bytes(generator.container(1, [*blobs.items(), (b"toc", toc)], very_old=True))
        expected[path] = described(path)
    found = batch(sbs_ls, expected, "--copy")
    for path, fact in expected.items():
        assert agree(found[path], fact), path.read_bytes()


scaled_bases = st.sampled_from(["att_ein", "qkv_ein", "gating_ein", "linear_w"])
bases = scaled_bases | scaled_bases | st.sampled_from(["c_embedding", "qkv_ein_w", "gr_a", "x"])
layers = st.sampled_from(["_0", "_1", "_2", "_10", "_998"]) | st.sampled_from(["", "_00", "_999", "_1000", "_", "_x"])
letters = st.sampled_from("FB$2I")
sizes_in_old_files = st.sampled_from([4, 8, 12, 4 * 33, 144]) | st.integers(1, 300)
keys_of_old_files = st.builds(lambda letter, base, layer: f"{letter}{base}{layer}"[:16], letters, bases, layers)


@given(
    st.lists(
        st.tuples(
            st.dictionaries(keys_of_old_files, sizes_in_old_files, min_size=1, max_size=8),
            st.sampled_from([None, b"", b"", b"", b"", b"\0\0\x80\x7f", b"\1", b"1234"]),
            st.integers(0, 8),
        ),
        min_size=5,
        max_size=15,
    )
)
def test_any_old_file_is_described_as_the_package_does(
    sbs_ls: Run, generator: ModuleType, tmp_path: Path, files: list[tuple[dict[str, int], bytes | None, int]]
) -> None:
    expected = {}
    for number, (sizes, more, place) in enumerate(files):
        blobs = [(key.encode(), bytes(nbytes)) for key, nbytes in sizes.items()]
        names = {
            key[1:] for key in sizes if re.fullmatch(r".(att|qkv|gating)_ein_(0|[1-9]\d*)|.linear_w_(0|[1-9]\d*)", key)
        }
        scales = struct.pack(f"<{len(names)}f", *range(len(names))) + (more or b"")
        if more is not None and scales:
            blobs.insert(place, (b"Fscales", scales))
        path = tmp_path / f"{number}.sbs"
        path.write_bytes(generator.container(1, blobs, very_old=True))
        expected[path] = described(path)
    found = batch(sbs_ls, expected, "--copy")
    for path, fact in expected.items():
        assert agree(found[path], fact), path.read_bytes()


# --------------------------------------------------------------------------------------------------- packed tensors

PACKED_FACTS: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "packed.json").read_bytes())


@dataclass(frozen=True)
class Stream:
    """What a line for the program says: a stream, the bytes that it is a difference to, and a range of bytes."""

    stored: bytes
    base: bytes | None = None
    start: int | None = None
    nbytes: int = 0

    @property
    def line(self) -> str:
        base = "-" if self.base is None else f"x{self.base.hex()}"
        return f"x{self.stored.hex()} {base} " + ("-" if self.start is None else f"{self.start}+{self.nbytes}")

    @property
    def has_another_base(self) -> bool:
        if self.base is None:
            return False
        found = PackedReader(self.stored)
        return found.base_sha256 != hashlib.sha256(self.base).digest() or found.nbytes != len(self.base)

    def said_by_the_package(self) -> str:
        base = self.base
        try:
            found = PackedReader(self.stored)
            start, stop = (0, found.nbytes) if self.start is None else (self.start, self.start + self.nbytes)
            data = found.read(start, stop, base=None if base is None else lambda low, high: base[low:high])
        except FormatError as error:
            return f"{error.reason} {error.offset}"
        except BlobStoreError as error:
            return error.reason
        return f"x{data.tobytes().hex()}"


@pytest.fixture(scope="session")
def unpacked(programs: dict[str, Path]) -> Callable[[Iterable[Stream]], list[str]]:
    """What the program says of streams: the bytes, or why not and where (if that is a place in the stream)."""
    program = with_libzstd(programs, "packed")

    def run(streams: Iterable[Stream]) -> list[str]:
        text = "".join(f"{one.line}\n" for one in streams)
        ran = subprocess.run([program], input=text, capture_output=True, text=True, check=False, timeout=SECONDS)
        assert (ran.returncode, ran.stderr) == (0, "")
        return [re.sub(r"^(packed-range|[a-z]+-base) .*", r"\1", line) for line in ran.stdout.splitlines()]

    return run


Unpacked = Callable[[Iterable[Stream]], list[str]]


def in_parts(stored: bytes, base: bytes | None, nbytes: int) -> list[Stream]:
    """All of a stream, ranges of it, and some that are not inside."""
    parts = [Stream(stored, base, start, min(5, nbytes - start)) for start in range(0, nbytes, 17)]
    outside = [(0, nbytes + 1), (nbytes, 1), (nbytes + 1, 0), (1, 2**64 - 1), (2**64 - 1, 1)]
    return [Stream(stored, base), *parts, *(Stream(stored, base, *one) for one in outside)]


def test_a_valid_stream_is_unpacked_as_the_package_does(unpacked: Unpacked) -> None:
    for fact in PACKED_FACTS["packed_valid"]:
        base = bytes.fromhex(fact["base"]) if "base" in fact else None
        streams = in_parts(bytes.fromhex(fact["stored"]), base, len(fact["bytes"]) // 2)
        said = unpacked(streams)
        assert said == [one.said_by_the_package() for one in streams]
        assert said[0] == f"x{fact['bytes']}"
        assert said[-1] == "packed-range"


def test_an_invalid_stream_is_refused_as_the_package_does(unpacked: Unpacked) -> None:
    streams = [Stream(bytes.fromhex(fact["stored"])) for fact in PACKED_FACTS["packed_invalid"]]
    said = unpacked(streams)
    assert [line.split()[0] for line in said] == [fact["reason"] for fact in PACKED_FACTS["packed_invalid"]]
    assert said == [one.said_by_the_package() for one in streams]


def test_a_difference_is_unpacked_with_its_base_only(unpacked: Unpacked) -> None:
    facts = PACKED_FACTS["packed_bases"]
    streams = [
        Stream(bytes.fromhex(fact["stored"]), bytes.fromhex(fact["base"]) if "base" in fact else None) for fact in facts
    ]
    assert facts
    assert unpacked(streams) == [fact["reason"] for fact in facts]
    right = next(one for one in PACKED_FACTS["packed_valid"] if one["name"] == "delta")
    assert unpacked([Stream(bytes.fromhex(right["stored"]), bytes.fromhex(right["base"]))]) == [f"x{right['bytes']}"]


@st.composite
def streams_of_anything(draw: st.DrawFn) -> Stream:
    """A range of a stream that the package has made."""
    smooth = st.lists(st.sampled_from([0, 1, 63, 64, 255]), max_size=300).map(bytes)
    data, layout = draw(st.binary(max_size=300) | smooth), draw(st.sampled_from(LAYOUTS))
    base = draw(st.none() | st.binary(min_size=len(data), max_size=len(data)))
    options: dict[str, Any] = {"chunk": draw(st.integers(1, 40)), "level": draw(st.sampled_from([0, 1, 19]))}
    if base is not None:
        options |= {"base": lambda low, high: base[low:high], "base_sha256": hashlib.sha256(base).digest()}
    start = draw(st.integers(0, len(data)))
    return Stream(stream_of(data, layout, **options), base, start, draw(st.integers(0, len(data) - start)))


def stream_of(data: bytes, layout: Layout, **options: Any) -> bytes:  # noqa: ANN401
    return b"".join(bytes(one) for one in compress(data, layout, **options))


@given(st.lists(streams_of_anything(), min_size=1, max_size=20))
def test_any_range_of_any_stream_is_unpacked_as_the_package_does(unpacked: Unpacked, streams: list[Stream]) -> None:
    said = unpacked(streams)
    assert said == [one.said_by_the_package() for one in streams]
    assert {line[0] for line in said} == {"x"}


def test_sizes_around_a_chunks_border_are_unpacked_as_the_package_does(unpacked: Unpacked) -> None:
    for layout in LAYOUTS:
        data = bytes(range(64)) * (DEFAULT_CHUNK_NBYTES // 64) + b"abc"
        stored, border = stream_of(data, layout), DEFAULT_CHUNK_NBYTES
        ranges = [(0, 1), (border - 1, 1), (border - 3, 5), (border, 3), (border + 2, 1), (border - 9, 12)]
        streams = [Stream(stored, None, *one) for one in ranges]
        assert unpacked(streams) == [one.said_by_the_package() for one in streams]


def checked_again(stored: bytearray, frames: int) -> bytes:
    """The same with checksums of header and table that are right."""
    stored[76:80] = zlib.crc32(stored[:76]).to_bytes(4, "little")
    stored[-4:] = zlib.crc32(stored[len(stored) - 4 - 4 * frames : -4]).to_bytes(4, "little")
    return bytes(stored)


def test_streams_with_a_wrong_byte_are_read_as_the_package_does(unpacked: Unpacked) -> None:
    rng = random.Random(20261122)
    originals = [
        (bytes.fromhex(fact["stored"]), bytes.fromhex(fact["base"]) if "base" in fact else None)
        for fact in PACKED_FACTS["packed_valid"]
    ]
    for layout in LAYOUTS:
        data = bytes(rng.choice(b"\0\1?@\xff") for _ in range(400))
        originals.append((stream_of(data, layout, chunk=40, level=rng.choice([0, 3])), None))
    streams, whole = [], []
    for number in range(4 * MUTATIONS):
        stored, base = originals[number % len(originals)]
        count = len(PackedReader(stored)._starts) - 1
        table = len(stored) - 4 - 4 * count
        regions = [range(80), range(80, table), range(table, len(stored))]
        changed = bytearray(mutated(rng, stored, [one for one in regions if one]))
        if rng.random() < 0.05:
            del changed[rng.randrange(len(changed)) :]
        elif rng.random() < 0.7:
            changed = bytearray(checked_again(changed, count))
        streams.append(Stream(bytes(changed), base))
        whole.append(Stream(stored, base).said_by_the_package())
    said = unpacked(streams)
    wrong = []
    for one, line, original in zip(streams, said, whole, strict=True):
        expected = one.said_by_the_package()
        # The package leaves it to the caller to compare digests, and asks for the base's bytes when it needs them.
        may_differ = line == "wrong-base" and one.has_another_base
        # It has a libzstd of its own: not all versions refuse what changes nothing, a reserved bit of a block.
        may_differ |= original in (line, expected) and "packed-data" in f"{line} {expected}"
        if line != expected and not may_differ:
            wrong.append((one, line, expected))
    assert wrong == []
    reasons = {line.split()[0] for line in said if line[0] != "x"}
    # Pairs lie behind their frame's checksum: see below.
    assert reasons >= {fact["reason"] for fact in PACKED_FACTS["packed_invalid"]} - {"packed-pairs"}


def test_whatever_stands_for_pairs_is_read_as_the_package_does(unpacked: Unpacked) -> None:
    rng = random.Random(20261123)
    zstd = zstandard.ZstdCompressor(write_checksum=True)
    streams = []
    for _ in range(MUTATIONS):
        count = rng.randrange(1, 40)
        some = rng.choice([b"\0\0\0\x04", b"\x0f\xf0\x12\x11", b"\x12\x21", bytes(range(256))])
        content = bytearray(rng.choice(some) for _ in range(rng.randrange(1, count + 2)))
        kind = (count + 1) // 2 + 1
        content[kind : kind + 1] = rng.choice([b"\0", b"\1", b"\1", b"\2"])
        frame = zstd.compress(content)
        stored = bytearray(
            stream_of(bytes(count), Layout(1))[:80] + frame + len(frame).to_bytes(4, "little") + bytes(4)
        )
        streams.append(Stream(checked_again(stored, 1), None))
    said = unpacked(streams)
    assert said == [one.said_by_the_package() for one in streams]
    assert {line.split()[0] for line in said if line[0] != "x"} == {"packed-frame", "packed-pairs"}
    assert sum(line[0] == "x" for line in said) > MUTATIONS // 10


@dataclass(frozen=True)
class PackedFile:
    """A file with packed blobs, and what its tensors are."""

    path: Path
    tensors: dict[str, bytes]


PARTS = bytes(range(200)) * 2
WEIGHTS = struct.pack("<300H", *(0x3F80 + i for i in range(300)))
NEAR = bytes(byte ^ (place % 9 == 0) for place, byte in enumerate(WEIGHTS))


def packed_file(folder: Path, damage: Callable[[dict[str, bytes]], object] = lambda _: None) -> PackedFile:
    """Blobs that are packed, one of them in two tensors, a difference, and one that isn't packed."""
    of_bytes, of_bf16, of_f32 = LAYOUTS[0], LAYOUTS[2], LAYOUTS[4]
    digest = hashlib.sha256(WEIGHTS).digest()
    near = stream_of(NEAR, of_bf16, base=lambda low, high: WEIGHTS[low:high], base_sha256=digest)
    streams = {
        "weights": stream_of(WEIGHTS, of_bf16, chunk=70),
        "parts": stream_of(PARTS, of_f32, chunk=9),
        "near": near,
        "bytes": stream_of(PARTS, of_bytes, chunk=100),
        "plain": PARTS,
    }
    damage(streams)
    unpacked = {"weights": len(WEIGHTS), "parts": len(PARTS), "near": len(NEAR), "bytes": len(PARTS), "plain": 0}
    table = [IndexedBlob(key.encode(), len(data), None, unpacked[key]) for key, data in streams.items()]
    entries = [
        Entry("weights", 0, 0, 600, 2, (30, 10), codec=1),
        Entry("parts.a", 1, 0, 160, 1, (40,), scale=2.0, codec=1),
        Entry("parts.b", 1, 163, 237, 10, (237,), codec=1),
        Entry("near", 2, 0, 600, 2, (300,), codec=1),
        Entry("bytes", 3, 0, 400, 3, (400,), codec=1),
        Entry("plain", 4, 7, 393, 10, (393,)),
        Entry("none", None, 0, 0, 1, (0, 3)),
    ]
    tensors = {
        "weights": WEIGHTS,
        "parts.a": PARTS[:160],
        "parts.b": PARTS[163:],
        "near": NEAR,
        "bytes": PARTS,
        "plain": PARTS[7:],
        "none": b"",
    }
    folder.mkdir(exist_ok=True)
    path = written(folder / "packed.sbs", streams | {"~index": build_index(entries, table, {"a": "b"})})
    return PackedFile(path, tensors)


@pytest.mark.parametrize("build", ["sbs_ls", "no-exceptions", "zstd"])
def test_a_file_with_packed_blobs_is_described_as_the_package_does(
    sbs_ls: Run, programs: dict[str, Path], tmp_path: Path, build: str
) -> None:
    with_libzstd(programs, build)
    path = packed_file(tmp_path).path
    for options in ((), ("--copy",)):
        assert batch(sbs_ls, [path], *options, build=build) == {path: described(path)}
    listed = {one["name"]: one["codec"] for one in json.loads(sbs_ls(path, build=build).stdout)}
    assert listed == {"bytes": 1, "near": 1, "none": 0, "parts.a": 1, "parts.b": 1, "plain": 0, "weights": 1}


def test_nothing_is_allocated_to_look_up_what_is_packed(programs: dict[str, Path], tmp_path: Path) -> None:
    assert_nothing_is_allocated(programs, packed_file(tmp_path).path)


def test_without_libzstd_packed_tensors_are_refused_and_others_read(sbs_ls: Run, tmp_path: Path) -> None:
    file = packed_file(tmp_path)
    for name, data in file.tensors.items():
        ran = sbs_ls("--bytes", file.path, name)
        if name in ("plain", "none"):
            assert (ran.returncode, ran.stdout, ran.stderr) == (0, data, b"")
        else:
            assert (ran.returncode, ran.stdout, ran.stderr.split(b":")[0]) == (1, b"", b"packed-needs-zstd")


@pytest.fixture
def values(sbs_ls: Run, programs: dict[str, Path]) -> Callable[..., bytes | str]:
    """The bytes of a tensor that a build with libzstd reads, or why not."""
    with_libzstd(programs, "zstd")

    def run(*arguments: str | Path) -> bytes | str:
        ran = sbs_ls("--bytes", *arguments, build="zstd")
        assert (ran.returncode == 0) == (ran.stderr == b"")
        return ran.stdout if ran.returncode == 0 else str(ran.stderr.decode().split(":")[0])

    return run


def test_with_libzstd_tensors_are_read_whether_packed_or_not(
    values: Callable[..., bytes | str], tmp_path: Path
) -> None:
    file = packed_file(tmp_path)
    read = {name: values(file.path, name) for name in file.tensors}
    assert read.pop("near") == "needs-base"
    assert read == {name: data for name, data in file.tensors.items() if name != "near"}
    assert values(file.path, "no such name") == "name-not-found"


def test_the_example_in_the_readme_reads_tensors(programs: dict[str, Path], tmp_path: Path) -> None:
    program, file = with_libzstd(programs, "values"), packed_file(tmp_path)
    for name, data in file.tensors.items():
        ran = subprocess.run([program, file.path, name], capture_output=True, check=True, timeout=SECONDS)
        # At last it reads a byte beyond the end.
        expected = (b"", b"needs-base") if name == "near" else (data, b"packed-range")
        assert (ran.stdout, ran.stderr) == expected


def test_a_difference_is_read_with_the_file_that_it_was_made_to(
    values: Callable[..., bytes | str], tmp_path: Path
) -> None:
    file = packed_file(tmp_path)
    bases = {"right": WEIGHTS, "other": NEAR, "short": WEIGHTS[1:]}
    paths = {name: written(tmp_path / f"{name}.sbs", {"near": data}) for name, data in bases.items()}
    paths["without"] = written(tmp_path / "without.sbs", {"weights": WEIGHTS})
    read = {name: values(file.path, "near", path) for name, path in paths.items()}
    assert read == {"right": NEAR, "other": "wrong-base", "short": "wrong-base", "without": "wrong-base"}
    for path in paths.values():  # only differences look there
        assert values(file.path, "weights", path) == WEIGHTS


def test_without_its_index_a_packed_file_is_listed_as_the_package_does(sbs_ls: Run, tmp_path: Path) -> None:
    with blobstore.BlobReader(packed_file(tmp_path).path) as reader:
        streams = {key: bytes(blob) for key, blob in reader.items() if key != "~index"}
    hidden = {"~packed": b"skeleton", "config": b"c", "~packed.idx": b"index", "tokenizer": b"t"}
    path = written(tmp_path / "lost.sbs", streams | hidden | {"~packed2": b"a blob like others"})
    assert batch(sbs_ls, [path]) == {path: described(path)}
    listed = json.loads(sbs_ls(path).stdout)
    assert {one["name"]: one["nbytes"] for one in listed} == {key: len(data) for key, data in streams.items()} | {
        "~packed2": 18
    }
    for key in hidden:
        assert sbs_ls(path, key).returncode == 2


def test_a_stream_of_another_size_than_the_index_says_is_refused(
    values: Callable[..., bytes | str], tmp_path: Path
) -> None:
    other = packed_file(tmp_path, lambda streams: streams.update(weights=stream_of(WEIGHTS[2:], LAYOUTS[2])))
    assert values(other.path, "weights") == "packed-nbytes"
    assert values(other.path, "bytes") == PARTS


def test_a_codec_that_is_not_known_is_refused_when_values_are_read(sbs_ls: Run, tmp_path: Path) -> None:
    index = build_index([Entry("a", 0, 0, 4, 1, (9,), codec=2)], [IndexedBlob(b"a", 4)])
    path = written(tmp_path / "a.sbs", {"a": b"1234", "~index": index})
    assert batch(sbs_ls, [path]) == {path: described(path)}
    ran = sbs_ls("--bytes", path, "a")
    assert (ran.returncode, ran.stdout, ran.stderr.split(b":")[0]) == (1, b"", b"unknown-codec")


def test_a_damaged_frame_is_found_by_reading_what_is_in_it(values: Callable[..., bytes | str], tmp_path: Path) -> None:
    def damage(streams: dict[str, bytes]) -> None:
        stored = bytearray(streams["parts"])
        stored[PackedReader(stored)._starts[-2] + 10] ^= 1  # of the last chunk
        streams["parts"] = bytes(stored)

    file = packed_file(tmp_path, damage)
    assert values(file.path, "parts.a") == file.tensors["parts.a"]
    assert values(file.path, "parts.b") == "packed-data"


# --------------------------------------------------------------------------------------------- what runtimes do with it


@pytest.fixture
def helpers(programs: dict[str, Path]) -> Callable[..., bytes]:
    """What the program prints."""

    def run(*arguments: str | Path) -> bytes:
        command = [programs["helpers"], *arguments]
        ran = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
        assert (ran.returncode, ran.stderr) == (0, b"")
        return ran.stdout

    return run


Helpers = Callable[..., bytes]


def bits_of(values: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(values) // 4}I", values))


@pytest.mark.parametrize("name", ["bf16", "f16", "sfp"])
def test_every_code_has_the_value_that_the_package_decodes(helpers: Helpers, name: str) -> None:
    found = bits_of(helpers(name))
    count = 256 if name == "sfp" else 65536
    codes = np.arange(count, dtype="u1" if name == "sfp" else "<u2").view(np.uint8)
    expected = np.empty(count, np.float32)
    if name == "sfp":
        assert found[sfp.RESERVED] & 0x7FFFFFFF == 0x7FC00000
        codes[sfp.RESERVED] = found[sfp.RESERVED] = 0
        sfp.decode_piece(codes, count, expected)
    elif name == "bf16":
        bf16.decode_piece(codes, count, expected)
    else:
        expected[:] = codes.view("<f2")
    assert found == bits_of(expected.astype("<f4").tobytes())


def test_numbers_of_types_are_those_of_the_package(helpers: Helpers) -> None:
    found = [line.split() for line in helpers("types").decode().splitlines()]
    assert {int(number): name for number, name in found} == {
        number: one.name for number, one in element_types.BY_NUMBER.items()
    }
    assert len(found) == len(element_types.BY_NUMBER)
    header, page = ((CPP / file).read_text(encoding="utf-8") for file in ("blobstore.hpp", "README.md"))
    words = dict(re.findall(r"\{(k\w+), \"(\w+)\", \d", header))
    assert {name: word[1:].lower() for word, name in words.items()} == {name: name for _, name in found}
    listed = re.findall(r"`(k\w+)` (\d+)\b", page)
    assert {(number, words[word]) for word, number in listed} == {(number, name) for number, name in found}


def names_in(printed: bytes) -> list[str]:
    """Names, each with a NUL behind it: any other character may be in one."""
    return printed.decode().split("\0")[:-1]


def names_of(path: Path) -> list[str]:
    return [one["name"] for one in described(path)["tensors"]]


def test_tensors_in_a_row_are_those_of_the_file(
    helpers: Helpers, vectors: Path, manifest: dict[str, Any], catalogs: dict[str, Path]
) -> None:
    paths = [vectors / "valid" / "index-names-non-ascii.sbs", vectors / "set_valid" / manifest["set_valid"][0]["file"]]
    paths += [vectors / "valid" / "index-empty.sbs", catalogs["toc-backwards"], catalogs["letters"]]
    for path in paths:
        assert names_in(helpers("names", path)) == names_of(path)


def test_tensors_below_a_name_are_those_of_the_package(helpers: Helpers, tmp_path: Path) -> None:
    names = ["a", "a.", "a..b", "a.b", "a.b.c", "a-b", "a/b", "a.b/c", "aa.b", "a.é", "b", "B.c", ".a", "..a", "~.a"]
    path = tmp_path / "names.sbs"
    with blobstore.create(path) as made:
        for name in names:
            made.add(name, np.zeros(1, np.uint8))
    toc = [replace(ENTRIES[0], name=name) for name in ("z.b", "z", "y.a", "z.a", "z-a")]
    without = written(tmp_path / "toc.sbs", {one.name: bytes(one.nbytes) for one in toc} | {"toc": build_toc(toc)})
    found = {}
    for file in (path, without):
        with blobstore.open(file) as store:
            for below in (
                "",
                "a",
                "a.",
                "a..",
                "a.b",
                "a.b.c",
                "aa",
                "b",
                "B",
                ".",
                "é",
                "~",
                "z",
                "y",
                "zz",
                "a" * 99,
            ):
                said = names_in(helpers("names", file, below))
                assert said == sorted(name for name in store if name.startswith(store.prefix(below)._prefix)), below
                found[file, below] = len(said)
    assert (found[path, "a"], found[path, "a.b"], found[path, ""], found[without, "z"]) == (6, 1, len(names), 2)


def test_digests_are_compared_with_those_of_the_index(
    helpers: Helpers, vectors: Path, manifest: dict[str, Any], tmp_path: Path
) -> None:
    some = vectors / "valid" / "index-table-reordered.sbs"
    lines = helpers("digests", some).decode().splitlines()
    with blobstore.BlobReader(some) as reader:
        assert len(lines) == len(reader)
        assert lines == ["none" if key == "~index" else "same" for key in reader]
        offset, _ = reader.range(next(key for key in reader if key != "~index"))
    changed = bytearray(some.read_bytes())
    changed[offset] ^= 1
    damaged = tmp_path / "a.sbs"
    damaged.write_bytes(changed)
    assert helpers("digests", damaged).decode().splitlines() == ["other", *lines[1:]]
    of_set = vectors / "set_valid" / manifest["set_valid"][0]["file"]
    assert set(helpers("digests", of_set).decode().splitlines()) == {"same"}
    for file in ("index-no-digests.sbs", "one-byte-v2.sbs"):
        assert set(helpers("digests", vectors / "valid" / file).decode().splitlines()) == {"none"}


def test_the_example_in_the_readme_sums_up_and_checks_tensors(helpers: Helpers, tmp_path: Path) -> None:
    path, dtype = tmp_path / "a.sbs", element_types.BY_NAME["bf16"].dtype
    with blobstore.create(path) as made:
        made.add("model.layers.0.w", np.array([1.5, -4, 0.25], dtype))
        made.add("model.layers.0.empty", np.zeros((0, 2), dtype))
        made.add("model.layers.01.w", np.ones(9, dtype))
    lines = ["model.layers.0.empty: 0, not intact", "model.layers.0.w: -2.25, intact"]
    assert helpers("example", path).decode().splitlines() == lines


def test_a_tensor_with_a_blob_of_its_own_is_aligned(
    helpers: Helpers, vectors: Path, manifest: dict[str, Any], catalogs: dict[str, Path]
) -> None:
    paths = [vectors / "valid" / "index-element-types.sbs", vectors / "set_valid" / manifest["set_valid"][0]["file"]]
    for path in [*paths, vectors / "valid" / "v1-eight-blobs.sbs", catalogs["letters"]]:
        lines = [line.split() for line in helpers("aligned", path).decode().splitlines()]
        assert lines
        assert {(beyond, int(offset) % 256) for beyond, offset in lines} == {("0", 0)}
    parts = helpers("aligned", vectors / "valid" / "index-parts.sbs").decode().splitlines()
    assert {line.split()[0] for line in parts} != {"0"}


def test_the_example_writes_what_the_package_writes(programs: dict[str, Path], tmp_path: Path) -> None:
    rng = random.Random(1)
    blobs = {name: rng.randbytes(size) for name, size in (("model.embed_tokens.weight", 255), ("é", 1), ("a", 256))}
    for count in (3, 70, 300):  # the directory's zeros, and the file's
        blobs |= {f"layer.{i}": rng.randbytes(rng.choice([1, 300])) for i in range(len(blobs), count)}
        words = []
        for i, (name, data) in enumerate(blobs.items()):
            (tmp_path / str(i)).write_bytes(data)
            words += [name, str(tmp_path / str(i))]
        path = tmp_path / "written.sbs"
        subprocess.run([programs["write"], path, *words], check=True, timeout=SECONDS)
        expected = written(tmp_path / "expected.sbs", {blobstore.key_for(name): data for name, data in blobs.items()})
        assert path.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("wrong", [[], ["a"], ["a", "nothing"], ["", "x"], ["a", "x", "a", "x"]])
def test_the_writer_refuses_what_cant_be_a_file(programs: dict[str, Path], tmp_path: Path, wrong: list[str]) -> None:
    (tmp_path / "x").write_bytes(b"1")
    command = [str(programs["write"]), "out.sbs", *wrong]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS, cwd=tmp_path)
    assert ran.returncode == (1 if len(wrong) > 1 else 2)
    assert ran.stderr


# --------------------------------------------------------------------------------------------------------- the package

CMAKE = shutil.which("cmake") or ""
PROJECT = """
cmake_minimum_required(VERSION 3.16)
project(example LANGUAGES CXX)
find_package(blobstore {words})
add_executable(example example.cpp)
target_link_libraries(example PRIVATE {target})
"""
INCLUDES = """
#include "blobstore.hpp"
int main() { return blobstore::key_for("a") && BLOBSTORE_VERSION[0] != 0 ? 0 : 1; }
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of the header as a wheel has it, by the package's own configuration."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in files.items():
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, tmp_path / target)
    return tmp_path / "blobstore" / "include"


def configured(folder: Path, prefix: Path, words: str, target: str = "blobstore::blobstore") -> tuple[int, str]:
    """Make a project that finds the package: how CMake ended, and what it complained of."""
    if not CMAKE or not shutil.which("g++"):
        pytest.skip("no cmake, or no g++, is installed: the CMake package is not tested")
    folder.mkdir(exist_ok=True)
    (folder / "CMakeLists.txt").write_text(PROJECT.format(words=words, target=target), encoding="utf-8")
    (folder / "example.cpp").write_text(INCLUDES, encoding="utf-8")
    command = [CMAKE, "-S", str(folder), "-B", str(folder / "build"), f"-DCMAKE_PREFIX_PATH={prefix}"]
    command.append("-DCMAKE_CXX_COMPILER=g++")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    return done.returncode, done.stderr


def test_cmake_finds_the_header_that_is_installed(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    assert configured(folder, installed, "0.1 REQUIRED") == (0, "")
    subprocess.run([CMAKE, "--build", folder / "build"], check=True, capture_output=True, timeout=SECONDS)
    assert subprocess.run([folder / "build" / "example"], check=False, timeout=SECONDS).returncode == 0
    for version in ("0.0.9", "0.2", "0.1.1"):  # in the same folder: it is asked once for its compiler
        status, said = configured(folder, installed, f"{version} REQUIRED")
        assert status != 0
        assert f"version: {blobstore.__version__}" in said
    status, said = configured(folder, installed, "REQUIRED COMPONENTS zstd nothing")
    assert status != 0
    assert "no component nothing" in said
    if has_libzstd("g++"):
        assert configured(folder, installed, "REQUIRED COMPONENTS zstd", "blobstore::zstd") == (0, "")


def test_the_header_has_the_packages_version() -> None:
    header = (CPP / "blobstore.hpp").read_text(encoding="utf-8")
    assert re.findall(r"^#define BLOBSTORE_VERSION \"(.*?)\"", header, re.MULTILINE) == [blobstore.__version__]
