"""Work is linear in the size of a file: files made to repeat the most expensive cases, at two sizes each."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.checking import verify_file
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.safetensors import dump_header
from blobstore.codecs.element_types import BY_NAME
from blobstore.compare import compare, open_side
from blobstore.compare.renames import Endings
from blobstore.compare.sides import Side
from blobstore.container.layout import BLOB_ALIGN, FILE_ALIGN, HEADER, MAGIC, PLACEHOLDER
from blobstore.container.reader import BlobReader
from blobstore.converting.plan import plan_by_name
from blobstore.converting.run import run_plan
from blobstore.edit import recover_toc
from blobstore.edit.recover import recover
from blobstore.errors import FormatError
from blobstore.fileio import source as source_module
from blobstore.fileio import system
from blobstore.gemma.enums import TokenizerKind
from blobstore.gemma.tokenizer import count_pieces
from blobstore.index import IndexedBlob, build_index
from blobstore.index.blob_writer import BlobWriter
from blobstore.index.records import HEADER_FIELDS, HEADER_NBYTES, Header, self_digest
from tests.checkpoints import linux_only
from tests.steps import assert_grows_with, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

needs_preadv = pytest.mark.skipif(system.preadv is None, reason="bytes are counted where preadv reads them")
pytestmark = needs_preadv


def hopeless(path: Path, target: Path) -> Callable[[], object]:
    """Return a function that recovers a file from which nothing can be saved."""

    def run() -> None:
        with pytest.raises(FormatError, match="not-recoverable"):
            recover(path, target)

    return run


def recovering(tmp_path: Path, raw: Callable[[int], bytes]) -> Callable[[int], Callable[[], object]]:
    def work(count: int) -> Callable[[], object]:
        path = tmp_path / f"{count}.sbs"
        path.write_bytes(raw(count))
        return hopeless(path, tmp_path / "out.sbs")

    return work


# ---------------------------------------------------------------------------------------------- indexes that are none


def decoy(offset: int, nbytes: int, *, fitting: bool) -> bytes:
    """Return a block that begins like an index of this size, with a table of one blob that ends at it, or doesn't."""
    dims = (nbytes - 192 - 2) // 8
    fields = Header._make(HEADER_FIELDS.unpack(bytes(HEADER_NBYTES)))._replace(magic=b"SBSINDEX", version=1)
    fields = fields._replace(nbytes=nbytes, blob_count=1, dim_count=dims, metadata_nbytes=nbytes - 192 - 8 * dims)
    blob = struct.pack("<16sQ", b"blob", offset - BLOB_ALIGN if fitting else 1 << 30)
    return (HEADER_FIELDS.pack(*fields) + blob).ljust(BLOB_ALIGN, b"\0")


@pytest.mark.parametrize("fitting", [False, True])
def test_beginnings_of_an_index(tmp_path: Path, fitting: bool) -> None:
    def raw(count: int) -> bytes:
        size = BLOB_ALIGN * count
        return bytes(512) + b"".join(
            decoy(at, size - at, fitting=fitting) for at in range(512, size - 512, BLOB_ALIGN)
        ).ljust(size - 512, b"\0")

    assert_grows_with(2048 if fitting else 512, recovering(tmp_path, raw))


@pytest.mark.parametrize("digests", [True, False])
def test_an_index_is_found_behind_any_number_of_beginnings(tmp_path: Path, digests: bool) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"

    def write(decoys: bytes) -> bytes:
        with blobstore.create(path, digests=digests, metadata={"a": "b"}) as store:
            store.add("decoys", np.frombuffer(decoys, np.uint8))
            for i in range(5):
                store.add(f"tensor.{i}", np.full(1000, i, np.float32))
        return path.read_bytes()

    count = 2000
    before = write(bytes(BLOB_ALIGN * count))
    with BlobReader(path) as reader:
        start, nbytes = reader.range("~index")
    shapes = [
        (start + nbytes, True),  # ends where the real one does
        (start + nbytes, False),
        (len(before), True),
        (start + nbytes // 2, True),
    ]
    decoys = [
        decoy(at, shapes[i % 4][0] - at, fitting=shapes[i % 4][1])
        for i, at in enumerate(range(BLOB_ALIGN, BLOB_ALIGN * (count - 3), BLOB_ALIGN))
    ]
    # A few are also as large as the real one.
    decoys += [decoy(BLOB_ALIGN * (count - 3 + i), nbytes, fitting=True) for i in range(3)]
    whole = write(b"".join(decoys).ljust(BLOB_ALIGN * count, b"\0"))
    path.write_bytes(whole[: start + nbytes])
    done = recover(path, out)
    assert "index inside it" in done.how
    assert (len(done.kept), done.names, done.lost) == (6, 6, ())
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("nbytes", "digest"),
    [(BLOB_ALIGN, True), (BLOB_ALIGN, False), ((1 << 64) - 1, True)],
)
def test_what_only_looks_like_an_index_proves_nothing(tmp_path: Path, nbytes: int, digest: bool) -> None:
    raw = bytearray(build_index([], [IndexedBlob(b"blob", nbytes)], {"a": "b"}))
    raw[-1:] = b"]"  # its metadata isn't JSON
    raw[136:168] = self_digest(memoryview(raw)) if digest else bytes(32)
    path = tmp_path / "m.sbs"
    path.write_bytes(bytes(2 * BLOB_ALIGN) + raw + b"SBSINDEX".rjust(BLOB_ALIGN - len(raw) % BLOB_ALIGN + 8, b"\0"))
    hopeless(path, tmp_path / "out.sbs")()


def test_blobs_that_are_indexes_of_something_else(tmp_path: Path) -> None:
    foreign = build_index([], [IndexedBlob(b"elsewhere", 1)])

    def work(count: int) -> Callable[[], object]:
        path = tmp_path / f"{count}.sbs"
        with BlobWriter(path) as writer:
            for i in range(count):
                writer.add(f"t.{i}", foreign)
        return lambda: recover(path, tmp_path / "out.sbs")

    assert_grows_with(100, work)


# ------------------------------------------------------------------------------------------- directories that are none


def test_headers_at_the_end_of_every_64_kib(tmp_path: Path) -> None:
    def raw(count: int) -> bytes:
        data = bytearray(FILE_ALIGN * count + 1)
        data[: len(PLACEHOLDER)] = PLACEHOLDER
        for end in range(FILE_ALIGN, len(data), FILE_ALIGN):
            data[end - HEADER.size : end] = HEADER.pack(MAGIC, (end - HEADER.size - BLOB_ALIGN) // 32, end)
        return bytes(data)

    assert_grows_with(20, recovering(tmp_path, raw))


def test_what_was_appended_may_be_whole_files(tmp_path: Path) -> None:
    path, out = tmp_path / "m.sbs", tmp_path / "out.sbs"
    parts = []
    for i in range(3):
        with BlobWriter(path) as writer:
            for j in range(3000 * (3 - i)):
                writer.add(f"t.{j}", b"%d" % i)
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))
    done = recover(path, out)
    assert "before" in done.how
    assert out.read_bytes() == parts[0]


# -------------------------------------------------------------------------------------------------- tocs that are none


def test_chains_of_records_that_all_end_alike(tmp_path: Path) -> None:
    def raw(count: int) -> bytes:
        block = np.zeros(64, "<u4")
        block[:3] = 62, 1, 0x61616161
        block[63] = 16 * 64 - 1  # the second next record ends like the block 16 further on
        return block.tobytes() * (count - 16) + (block[:63].tobytes() + bytes(4)) * 16 + b"x"

    assert_grows_with(512, recovering(tmp_path, raw))


def test_large_records_are_not_read(tmp_path: Path) -> None:
    def raw(count: int) -> bytes:
        words = np.full(64 * count, 64 * 64 - 1, "<u4").reshape(count, 64)  # each is followed by one 16 KiB further on
        words[:, :3] = 0, 0, 0
        words[:, 0] = np.arange(count) % 8 + 56  # the first ones end at different words
        words[:, 1] = 1
        return words.tobytes() + b"x"

    assert_grows_with(512, recovering(tmp_path, raw))


SENTENCE_PIECE = TokenizerKind.SENTENCE_PIECE


def test_where_a_tokenizer_ends_is_looked_for_once(tmp_path: Path) -> None:
    model = b"\x0a\x08\x0a\x01a\x15\0\0\0\0\0"[:10] * 500
    path = tmp_path / "tokenizer"
    path.write_bytes(model + b"\x0a\x7faaa".ljust(100, b"\0"))  # the last piece is truncated
    source = source_module.open_source(path, "read")
    try:
        once = steps(lambda: count_pieces(model))
        search = steps(lambda: recover_toc._tokenizer_nbytes(source, 0, source.size, SENTENCE_PIECE))
    finally:
        source.close()
    assert search.calls <= 3 * once.calls + 100


@given(st.lists(st.sampled_from([b"\x0a\x01x", b"\x10\x05", b"\x0a\x00", b"\x15abcd", b"\0", b"\x0a\x7f"])), st.data())
def test_the_end_of_a_tokenizer_is_the_first_that_is_possible(parts: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(parts) + bytes(data.draw(st.integers(0, 300)))

    class Bytes:
        size = len(raw)

        def view(self, offset: int, nbytes: int) -> memoryview:
            return memoryview(raw)[offset : offset + nbytes]

    def is_model(nbytes: int) -> bool:
        try:
            count_pieces(raw[:nbytes])
        except FormatError:
            return False
        return True

    least = max(len(raw.rstrip(b"\0")), len(raw) - BLOB_ALIGN + 1)
    expected = next((nbytes for nbytes in range(least, len(raw) + 1) if is_model(nbytes)), 0)
    source: Any = Bytes()
    assert recover_toc._tokenizer_nbytes(source, 0, len(raw), SENTENCE_PIECE) == expected


# ------------------------------------------------------------------------------------------------------ verify, damage


def damaged(tmp_path: Path, count: int) -> Path:
    path = tmp_path / f"{count}.sbs"
    with blobstore.create(path) as store:
        for i in range(count):
            store.add(f"t.{i}", np.full(4, i, np.float32))
            store.alias(f"other.{i}", f"t.{i}")
    raw = bytearray(path.read_bytes())
    for i in range(1, count + 1):
        raw[BLOB_ALIGN * i] ^= 255
    path.write_bytes(raw)
    return path


def test_every_blob_is_damaged(tmp_path: Path) -> None:
    def verifying(count: int) -> Callable[[], object]:
        path = damaged(tmp_path, count)
        return lambda: verify_file(path, workers=1)

    assert_grows_with(200, verifying)
    findings = verify_file(damaged(tmp_path, 3)).findings
    assert [finding.names for finding in findings] == [(f"other.{i}", f"t.{i}") for i in range(3)]


def test_nothing_is_left_to_recover(tmp_path: Path) -> None:
    def work(count: int) -> Callable[[], object]:
        path = damaged(tmp_path, count)

        def run() -> None:
            with pytest.raises(FormatError, match="nothing-whole"):
                recover(path, tmp_path / "out.sbs")

        return run

    assert_grows_with(200, work)


# ---------------------------------------------------------------------------------------------------------------- diff


def checkpoint(path: Path, arrays: dict[str, np.ndarray[Any, np.dtype[np.uint8]]]) -> Path:
    header = dump_header((name, BY_NAME["u8"], array.shape) for name, array in arrays.items())
    path.write_bytes(header + b"".join(array.tobytes() for array in arrays.values()))
    return path


def comparing(a: Path, b: Path) -> Callable[[], object]:
    def run() -> list[str]:
        with open_side(a) as side_a, open_side(b) as side_b:
            return [difference.kind for difference in compare(side_a, side_b)]

    return run


@pytest.mark.parametrize("same", [False, True])
def test_tensors_that_begin_and_end_alike(tmp_path: Path, same: bool) -> None:
    def work(count: int) -> Callable[[], object]:
        sides = []
        for i, side in enumerate("ab"):
            arrays = {}
            for j in range(count):
                array = np.zeros(20_000, np.uint8)
                array[5000:5002] = np.frombuffer(struct.pack("<H", j if same else 2 * j + i), np.uint8)
                arrays[f"{side}.{j}"] = array
            sides.append(checkpoint(tmp_path / f"{side}{count}.safetensors", arrays))
        return comparing(*sides)

    assert_grows_with(30, work)
    kinds = work(10)()
    assert kinds == (["renamed"] * 10 if same else ["removed"] * 10 + ["added"] * 10)


def test_tensors_that_are_all_the_same(tmp_path: Path) -> None:
    def work(count: int) -> Callable[[], object]:
        array = np.ones(4, np.uint8)
        a, b = (
            checkpoint(tmp_path / f"{side}{count}.safetensors", {f"{side}.{i}.norm": array for i in range(count)})
            for side in "ab"
        )
        return comparing(a, b)

    assert_grows_with(200, work)


def test_names_of_one_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(list[str]):
        def __iter__(self) -> Iterator[str]:
            for name in super().__iter__():  # noqa: UP028 (each name is a step)
                yield name

    same_as = Side.same_as
    monkeypatch.setattr(Side, "same_as", lambda side, name: Counted(same_as(side, name)))

    def work(count: int) -> Callable[[], object]:
        path = tmp_path / f"{count}.sbs"
        with blobstore.create(path) as store:
            store.add("tensor", np.ones(4, np.float32))
            for i in range(count):
                store.alias(f"alias.{i}", "tensor")
        return comparing(path, checkpoint(tmp_path / "b.safetensors", {"other": np.ones(4, np.uint8)}))

    assert_grows_with(100, work)


names = st.text("ab\u00e9\U0001f600", max_size=5)


@given(st.lists(names, unique=True, min_size=1), st.lists(names))
def test_the_name_that_ends_most_alike_is_the_one_of_a_search_through_all(there: list[str], asked: list[str]) -> None:
    left = list(range(len(there)))
    endings = Endings(there, left)
    for name in asked:
        reversed_names = [candidate.encode()[::-1] for candidate in there]

        def common(
            place: int, ending: bytes = name.encode()[::-1], reversed_names: Sequence[bytes] = reversed_names
        ) -> int:
            pairs = enumerate(zip(ending, reversed_names[place], strict=False))
            return next((i for i, (x, y) in pairs if x != y), min(len(ending), len(reversed_names[place])))

        if not left:
            assert endings.closest(name) == (-1, 0)
            return
        best = max(left, key=common)  # the first of several
        assert endings.closest(name) == (common(best), -best)
        left.remove(best)
        endings.remove(best)


# ------------------------------------------------------------------------------------------------------------- convert


def empties(path: Path, count: int) -> Path:
    tensors = [("some", BY_NAME["u8"], (1,)), *((f"{i}", BY_NAME["u8"], (0,)) for i in range(count))]
    path.write_bytes(dump_header(tensors) + b"1")
    return path


def test_a_header_of_tensors_without_elements(tmp_path: Path) -> None:
    def work(count: int) -> Callable[[], object]:
        path = empties(tmp_path / f"{count}.safetensors", count)

        def run() -> None:
            with open_checkpoint(path) as source:
                run_plan(plan_by_name(source), source, tmp_path / "out.sbs")

        return run

    assert_grows_with(500, work)


@linux_only
def test_a_header_of_tensors_without_elements_is_converted_in_little_memory(tmp_path: Path) -> None:
    def convert(path: Path) -> Iterator[int]:
        with open_checkpoint(path) as source:
            yield tracemalloc.get_traced_memory()[1]
            run_plan(plan_by_name(source), source, tmp_path / "out.sbs")
        yield tracemalloc.get_traced_memory()[1]

    path = empties(tmp_path / "a.safetensors", 5_000)
    list(convert(empties(tmp_path / "b.safetensors", 1)))  # imports
    tracemalloc.start()
    try:
        opened, converted = convert(path)
    finally:
        tracemalloc.stop()
    size = path.stat().st_size
    assert opened <= 9 * size
    assert converted <= 15 * size
