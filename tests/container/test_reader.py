from __future__ import annotations

import gc
import os
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blobstore import BlobReader, BlobWriter
from blobstore.errors import BlobStoreError, FormatError, KeyNotFoundError, TruncatedError, UsageError, in_file
from tests import strategies
from tests.conftest import open_descriptors, vector_params
from tests.strategies import bytes_of, payload, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType
    from typing import Any

    from blobstore.fileio.types import Access

BLOBS = {"first": payload(1, 300), "b": b"\xff", "\udcff\udcfe": payload(2, 70_000), "權重": payload(3, 256)}

both_ways = pytest.mark.parametrize("access", ["mmap", "read"])
both_versions = pytest.mark.parametrize("version", [1, 2])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with BlobWriter(tmp_path / "store.sbs") as writer:
        for key, data in BLOBS.items():
            writer.add(key, data)
    return tmp_path / "store.sbs"


@pytest.fixture(params=["mmap", "read"])
def reader(request: pytest.FixtureRequest, path: Path) -> Iterator[BlobReader]:
    with BlobReader(path, access=request.param) as opened:
        yield opened


# ----------------------------------------------------------------------------------------------------------- mapping


def test_a_reader_is_a_mapping_in_file_order(reader: BlobReader) -> None:
    assert isinstance(reader, Mapping)
    assert list(reader) == list(reader.keys()) == list(BLOBS)
    assert len(reader) == len(BLOBS)
    assert [bytes(view) for view in reader.values()] == list(BLOBS.values())
    assert [(key, bytes(view)) for key, view in reader.items()] == list(BLOBS.items())


def test_each_key_is_inside_and_has_its_blob(reader: BlobReader) -> None:
    for key, data in BLOBS.items():
        assert key in reader
        assert bytes(reader[key]) == data
        offset, nbytes = reader.range(key)
        assert (offset % 256, nbytes) == (0, len(data))
        assert reader.view(offset, nbytes) == data


@pytest.mark.parametrize("key", ["missing", "", "a\0", "x" * 17, "\ud800", 5, None, b"b"], ids=ascii)
def test_what_is_not_a_key_of_the_file_is_not_inside(reader: BlobReader, key: Any) -> None:  # noqa: ANN401
    assert key not in reader
    assert reader.get(key) is None
    for ask in (reader.__getitem__, reader.range):
        with pytest.raises(KeyNotFoundError, match=r"key-not-found: no blob has the key ") as caught:
            ask(key)
        assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("frist", "key-not-found: no blob has the key 'frist': did you mean 'first'?"),
        ("FIRST", "key-not-found: no blob has the key 'FIRST': did you mean 'first'?"),
        ("other", "key-not-found: no blob has the key 'other'"),
        ("a\n", r"key-not-found: no blob has the key 'a\n'"),
    ],
)
def test_a_missing_key_is_told_in_words(reader: BlobReader, key: str, message: str) -> None:
    with pytest.raises(KeyNotFoundError) as caught:
        reader[key]
    assert str(caught.value) == message


@given(st.lists(strategies.key_bytes, min_size=1, max_size=12, unique=True), st.lists(strategies.key_bytes))
def test_a_reader_finds_what_a_dictionary_finds(
    generator: ModuleType, tmp_path: Path, stored: list[bytes], asked: list[bytes]
) -> None:
    blobs = {key: bytes([i + 1]) * (i + 1) for i, key in enumerate(stored)}
    (tmp_path / "store.sbs").write_bytes(generator.container(1, list(blobs.items())))
    with BlobReader(tmp_path / "store.sbs") as reader:
        for key in stored + asked:
            assert reader.get(text_of(key)) == blobs.get(key)


def test_readers_of_the_same_blobs_are_equal(path: Path, tmp_path: Path) -> None:
    with BlobWriter(tmp_path / "other.sbs", version=1) as writer:
        for key, data in reversed(BLOBS.items()):
            writer.add(key, data)
    with BlobReader(path) as mapped, BlobReader(tmp_path / "other.sbs", access="read") as plain:
        assert mapped == plain


@both_ways
@both_versions
def test_a_reader_says_what_it_reads(tmp_path: Path, access: Access, version: int) -> None:
    path = str(tmp_path / "store.sbs")
    with BlobWriter(path, version=version) as writer:
        writer.add("a", b"x")
    with BlobReader(path, access=access) as reader:
        assert (reader.path, reader.version, reader.file_size, reader.access) == (path, version, 65536, access)
        assert repr(reader) == f"<BlobReader '{path}': version {version}, 1 blobs, 65536 bytes>"
        assert os.pread(reader.fileno(), 4, 0) == b"SBS\n"


@given(data=st.data())
def test_a_range_is_read_when_all_of_it_is_in_the_file(reader: BlobReader, data: st.DataObject) -> None:
    size = reader.file_size
    some = st.sampled_from([-2, -1, 0, 1, 300, size - 1, size, size + 1]) | st.integers(-9, size + 9)
    for offset, nbytes in data.draw(st.lists(st.tuples(some, some), min_size=10, max_size=20)):
        if 0 <= offset <= offset + nbytes <= size:
            there = os.pread(reader.fileno(), nbytes, offset)
            assert there == reader.view(offset, nbytes) == bytes(reader.part_of_file(offset, nbytes).read())
            continue
        for read in (reader.view, reader.part_of_file):
            with pytest.raises(UsageError, match=f"outside: {nbytes} bytes at offset {offset} are not inside {size}"):
                read(offset, nbytes)


# -------------------------------------------------------------------------------------------------- life of the views


def test_views_are_read_only_and_outlive_the_reader(reader: BlobReader) -> None:
    views = dict(reader)
    reader.close()
    assert {key: bytes(view) for key, view in views.items()} == BLOBS
    for view in views.values():
        with pytest.raises(TypeError, match="read-only"):
            view[0] = 0


def test_a_closed_reader_has_keys_but_no_blobs(reader: BlobReader) -> None:
    reader.close()
    reader.close()
    assert list(reader) == list(BLOBS)
    with pytest.raises(UsageError) as caught:
        reader["b"]
    assert str(caught.value) == f"closed: this file was closed [{reader.path}]"
    with pytest.raises(UsageError, match="closed: this file was closed"):
        reader.fileno()


def test_a_file_that_shrank_is_told_by_plain_reads(path: Path) -> None:
    with BlobReader(path, access="read") as reader:
        offset, nbytes = reader.range("\udcff\udcfe")
        os.truncate(path, offset + 1000)
        assert bytes(reader["first"]) == BLOBS["first"]
        with pytest.raises(TruncatedError) as caught:
            reader["\udcff\udcfe"]
        assert caught.value.offset == offset + 1000
        assert str(caught.value) == (
            f"short-read: the file ends at {offset + 1000}, {nbytes - 1000} bytes too early: "
            f"it was truncated while open [{path}]"
        )


def test_a_reader_keeps_the_file_that_it_opened(reader: BlobReader) -> None:
    with BlobWriter(reader.path) as writer:
        writer.add("first", b"new")
    assert bytes(reader["first"]) == BLOBS["first"]
    with BlobReader(reader.path) as new:
        assert {key: bytes(view) for key, view in new.items()} == {"first": b"new"}


@both_ways
def test_a_refused_file_is_closed(path: Path, access: Access) -> None:
    os.truncate(path, 60_000)
    gc.collect()  # closes now what other tests have left open
    before = open_descriptors()
    with pytest.raises(TruncatedError) as caught:
        BlobReader(path, access=access)
    assert len(open_descriptors()) == len(before)
    assert str(caught.value).endswith(f"truncated download? [{path}]")
    assert caught.value.path == str(path)


@both_ways
def test_a_file_that_is_not_there_is_an_oserror(tmp_path: Path, access: Access) -> None:
    with pytest.raises(FileNotFoundError):
        BlobReader(tmp_path / "missing", access=access)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"GGUF",
            (
                "bad-magic: expected 0x0A534253 (SBS), found 0x46554747 (GGUF) at offset 0: this is a GGUF file: "
                "name it .gguf, and blobstore convert reads it"
            ),
        ),
        (
            struct.pack("<4sIQ", b"SBS\n", 1, 131072),
            "file-size: the header says 131072 bytes, the file has 65536: truncated download?",
        ),
    ],
    ids=["gguf", "cut"],
)
def test_faults_are_told_as_the_style_guide_shows(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(data.ljust(65536, b"\0"))
    with pytest.raises(FormatError) as caught:
        BlobReader(tmp_path / "file")
    assert str(caught.value) == f"{message} [{tmp_path / 'file'}]"
    assert isinstance(caught.value, ValueError)


def test_an_error_names_the_file_that_it_happened_in() -> None:
    with pytest.raises(UsageError) as caught, in_file("outer"), in_file("inner"):
        raise UsageError("some-reason", "words")
    assert str(caught.value) == "some-reason: words [inner]"


# -------------------------------------------------------------------------------------------------------- any bytes


def checked(file: bytes) -> str | dict[bytes, bytes]:  # noqa: C901, PLR0911, PLR0912 (as the page)
    """The reader checks of spec/sbs.md, word for word: the reason of the first that fails, or the blobs."""
    size = len(file)
    if size < 16:
        return "truncated"
    magic, count, stated = struct.unpack_from("<4sIQ", file)
    if magic != b"SBS\n":
        return "bad-magic"
    version, header = (1, 0) if count else (2, size - 16)
    if version == 2:
        if stated != 65536:
            return "bad-placeholder"
        if size < 272 or file[header : header + 4] != b"SBS\n":
            return "no-directory"
        _, count, stated = struct.unpack_from("<4sIQ", file, header)
    if not 1 <= count <= 2**20:
        return "blob-count"
    if stated != size:
        return "file-size"
    start = 16 if version == 1 else header - 32 * count
    if (version == 1 and start + 32 * count > size) or (version == 2 and start < 256):
        return "directory-range"
    fields = [file[start + 16 * i : start + 16 * i + 16] for i in range(count)]
    keys = [field.rstrip(b"\0") for field in fields]
    if not all(key and 0 not in key for key in keys):
        return "bad-key"
    if len(set(keys)) < count:
        return "duplicate-key"
    ranges = [struct.unpack_from("<QQ", file, start + 16 * count + 16 * i) for i in range(count)]
    if not all(nbytes for _, nbytes in ranges):
        return "empty-blob"
    if not all(offset + nbytes <= size for offset, nbytes in ranges):
        return "blob-range"
    directory = (16 + 32 * count + 255) // 256 * 256
    end = 256 if version == 2 else directory
    for offset, nbytes in ranges:
        if offset != end:
            return "blob-offset"
        end = (offset + nbytes + 255) // 256 * 256
    full = ((end + directory if version == 2 else end) + 65535) // 65536 * 65536
    if size != full and not (version == 1 and size == end):
        return "payload-end"
    return {key: file[offset : offset + nbytes] for key, (offset, nbytes) in zip(keys, ranges, strict=True)}


def read(path: Path, access: Access) -> str | dict[bytes, bytes]:
    """What the package reads from a file, in the same form."""
    try:
        reader = BlobReader(path, access=access)
    except BlobStoreError as error:
        return error.reason
    with reader:
        return {bytes_of(key): bytes(view) for key, view in reader.items()}


def assert_read_as_the_page_says(path: Path, file: bytes) -> None:
    path.write_bytes(file)
    wanted = checked(file)
    assert read(path, "mmap") == wanted
    assert read(path, "read") == wanted


VALUES = [0, 1, 2, 15, 16, 255, 256, 257, 16383, 16384, 65535, 65536, 65537, 2**20, 2**20 + 1, 1 << 31, (1 << 32) - 1]
WIDE = [*VALUES, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 256, (1 << 64) - 255, (1 << 64) - 1]
SIGNS = st.sampled_from([-1, 1])
stored_blobs = st.lists(
    st.tuples(strategies.key_bytes, st.builds(payload, st.integers(0, 3), st.sampled_from([1, 5, 255, 256, 257]))),
    min_size=1,
    max_size=9,
    unique_by=lambda blob: blob[0],
)


@st.composite
def stored_files(draw: Callable[..., Any]) -> tuple[int, list[tuple[bytes, bytes]], bool]:
    version = draw(strategies.versions)
    return version, draw(stored_blobs), version == 1 and draw(st.booleans())


Change = Callable[[bytearray, int], None]  # changes a file with this number of blobs
places = st.tuples(st.booleans() | st.just(value=False), st.integers(0, 1 << 20))


def spot(place: tuple[bool, int], file: bytearray, count: int) -> int:
    """An offset in the file, anywhere or in its header and directory."""
    nbytes = min(16 + 32 * count, len(file))
    anywhere, at = place
    head = range(len(file)) if anywhere else [*range(nbytes), *range(len(file) - nbytes, len(file))]
    return head[at % len(head)]


def put(file: bytearray, at: int, width: int, value: int) -> None:
    at = at // width * width
    file[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")


@st.composite
def changed_fields(draw: Callable[..., Any]) -> Change:
    how = draw(st.sampled_from(["flip", "u32", "u64", "near", "count", "resize"]))
    place, value, wide, sign = draw(places), draw(st.sampled_from(VALUES)), draw(st.sampled_from(WIDE)), draw(SIGNS)

    def change(file: bytearray, count: int) -> None:
        at = spot(place, file, count)
        header = 0 if any(file[4:8]) else len(file) - 16  # of version 1 or 2
        if how == "flip":
            file[at] ^= 1 << wide % 8
        elif how in ("u32", "u64"):
            put(file, at, 4 if how == "u32" else 8, wide)
        elif how == "near":  # almost right
            before = int.from_bytes(file[at // 8 * 8 :][:8], "little")
            put(file, at, 8, before + sign * value)
        elif how == "count":
            put(file, header + 4, 4, count + sign * value)
        else:  # a size that the header confirms
            behind = max(header - 32 * count, 0) or len(file)
            file[behind:behind] = bytes(256 * (value % 300))
            put(file, (0 if header == 0 else len(file) - 16) + 8, 8, len(file))

    return change


@st.composite
def moved_bytes(draw: Callable[..., Any]) -> Change:
    how = draw(st.sampled_from(["record", "splice", "shift", "cut", "grow"]))
    place, other, amount = draw(places), draw(places), draw(st.integers(1, 600) | st.just(65536))

    def change(file: bytearray, count: int) -> None:
        at, source = spot(place, file, count), spot(other, file, count)
        if how == "record":  # a key or range in another's place
            file[at // 16 * 16 : at // 16 * 16 + 16] = file[source // 16 * 16 : source // 16 * 16 + 16]
        elif how == "splice":
            file[at : at + amount] = file[source : source + amount]
        elif how == "shift":
            file[at:at] = bytes(amount)
            del file[-amount:]
        elif how == "cut":
            del file[at:]
        else:
            file += bytes(amount)

    return change


@given(stored_files(), st.lists(changed_fields() | moved_bytes(), min_size=1, max_size=3))
@settings(max_examples=5 * settings().max_examples)
def test_a_changed_file_is_read_as_the_page_says_or_refused(
    generator: ModuleType,
    tmp_path: Path,
    stored: tuple[int, list[tuple[bytes, bytes]], bool],
    changes: list[Change],
) -> None:
    version, blobs, very_old = stored
    file = bytearray(generator.container(version, blobs, very_old=very_old))
    for change in changes:
        if len(file) >= 16:
            change(file, len(blobs))
    assert_read_as_the_page_says(tmp_path / "store.sbs", bytes(file))


@given(st.binary(max_size=700))
@example(b"")
@example(b"SBS\n")
def test_any_bytes_behind_the_magic_are_read_as_the_page_says_or_refused(tmp_path: Path, rest: bytes) -> None:
    assert_read_as_the_page_says(tmp_path / "store.sbs", rest)
    assert_read_as_the_page_says(tmp_path / "store.sbs", b"SBS\n" + rest)
    assert_read_as_the_page_says(
        tmp_path / "store.sbs", b"SBS\n\1\0\0\0" + (len(rest) + 16).to_bytes(8, "little") + rest
    )


@both_versions
def test_each_bit_of_header_and_directory_counts(generator: ModuleType, tmp_path: Path, version: int) -> None:
    blobs = [(b"a", b"x"), (b"\xff" * 16, payload(1, 300))]
    file = generator.container(version, blobs, very_old=version == 1)
    head = range(80) if version == 1 else [*range(16), *range(len(file) - 80, len(file))]
    for at in head:
        for bit in range(8):
            changed = bytearray(file)
            changed[at] ^= 1 << bit
            assert_read_as_the_page_says(tmp_path / "store.sbs", bytes(changed))


# ------------------------------------------------------------------------------------------------------------- memory


def peak_of_opening(path: Path, access: Access) -> int:
    """The peak of what Python and numpy allocate, in bytes; maps don't count."""
    tracemalloc.start()
    try:
        BlobReader(path, access=access).close()
    except BlobStoreError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


@both_ways
@pytest.mark.parametrize("fact", vector_params("invalid"))
def test_a_wrong_file_takes_little_memory(vectors: Path, fact: dict[str, Any], access: Access) -> None:
    path = vectors / "invalid" / fact["file"]
    if fact.get("stored", True):
        assert peak_of_opening(path, access) < (64 << 10) + 4 * fact["size"]


@both_ways
@both_versions
@pytest.mark.parametrize("repeated", [False, True])
def test_a_large_directory_takes_memory_in_its_measure(
    generator: ModuleType, tmp_path: Path, *, version: int, repeated: bool, access: Access
) -> None:
    count = 16383
    blobs = [(f"{i % 16000 if repeated else i}".encode(), b"x") for i in range(count)]
    (tmp_path / "store.sbs").write_bytes(generator.container(version, blobs))
    assert peak_of_opening(tmp_path / "store.sbs", access) < (64 << 10) + 8 * 32 * count
