from __future__ import annotations

import random
from dataclasses import FrozenInstanceError, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.container import directory
from blobstore.container.directory import build_directory, parse_directory
from blobstore.errors import BlobStoreError, FormatError, TruncatedError
from tests import strategies
from tests.strategies import text_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from blobstore.container.directory import Directory

WORD = 1 << 64


def parse(data: bytes) -> Directory:
    return parse_directory(lambda offset, nbytes: data[offset : offset + nbytes], len(data))


def random_key(rng: random.Random) -> bytes:
    return bytes(rng.randint(1, 255) for _ in range(rng.randint(1, 16)))


def colliding_keys(rng: random.Random) -> tuple[bytes, bytes]:
    """Two keys whose mixed words are equal: low·A + high·B is the same for both, modulo 2⁶⁴."""
    a, b = int(directory._MIX_LOW), int(directory._MIX_HIGH)
    while True:
        low, high, second_low = (int.from_bytes(rng.randbytes(8), "little") for _ in range(3))
        second_high = (high + (low - second_low) * a * pow(b, -1, WORD)) % WORD
        first = low.to_bytes(8, "little") + high.to_bytes(8, "little")
        second = second_low.to_bytes(8, "little") + second_high.to_bytes(8, "little")
        if 0 not in first + second:
            return first, second


@given(strategies.versions, st.lists(strategies.key_bytes, min_size=1, max_size=20, unique=True), st.data())
def test_what_is_built_is_parsed(generator: ModuleType, version: int, keys: list[bytes], data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 2000), min_size=len(keys), max_size=len(keys)))
    built = build_directory(version, keys, sizes)
    file = generator.container(version, [(key, bytes(nbytes)) for key, nbytes in zip(keys, sizes, strict=True)])
    parsed = parse(file)
    for either in (built, parsed):
        assert (either.version, either.file_size, len(either)) == (version, len(file), len(keys))
        assert either.keys.tolist() == keys
        assert either.all_keys == [text_of(key) for key in keys]
        assert either.sizes.tolist() == sizes
        assert either.offsets.tolist() == parsed.offsets.tolist()
        assert either.payload_end == parsed.offsets[-1] + -(-sizes[-1] // 256) * 256
        assert either.header() + either.to_bytes() in (
            file[: 16 + 32 * len(keys)],
            file[-16:] + file[-16 - 32 * len(keys) : -16],
        )


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=30))
@pytest.mark.parametrize("letters", [None, b"\0\x01", b"\0\0\0\xff"], ids=["any", "nul-or-1", "mostly-nul"])
def test_the_first_row_that_is_no_key_is_found(letters: bytes | None, rows: list[bytes]) -> None:
    if letters:
        rows = [bytes(letters[byte % len(letters)] for byte in row) for row in rows]
    is_key = [row.rstrip(b"\0") and 0 not in row.rstrip(b"\0") for row in rows]
    first = next((i for i, good in enumerate(is_key) if not good), None)
    assert directory.bad_key(np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)) == first


@pytest.mark.parametrize("nul", range(16))
@pytest.mark.parametrize("byte", [1, 0x7F, 0x80, 0xFF])
def test_a_nul_inside_a_key_is_found_at_every_place(nul: int, byte: int) -> None:
    key = bytearray([byte] * 16)
    key[nul] = 0
    rows = np.frombuffer(bytes([byte] * 16) + bytes(key), np.uint8).reshape(2, 16)
    assert directory.bad_key(rows) == (None if nul == 15 else 1)


@pytest.mark.parametrize("nbytes", range(17))
@pytest.mark.parametrize("byte", [1, 0x7F, 0x80, 0xFF])
def test_a_nul_inside_a_key_of_any_length_is_found(nbytes: int, byte: int) -> None:
    for nul in range(nbytes):
        key = bytearray(bytes([byte] * nbytes).ljust(16, b"\0"))
        key[nul] = 0
        rows = np.frombuffer(b"a".ljust(16, b"\0") + bytes(key), np.uint8).reshape(2, 16)
        assert directory.bad_key(rows) == (None if 0 < nul == nbytes - 1 else 1)


def test_16383_keys_are_found_like_in_a_dictionary() -> None:
    rng = random.Random(1)
    keys = list(dict.fromkeys(random_key(rng) for _ in range(18000)))[:16383]
    built = build_directory(2, keys, [1] * len(keys))
    places = {key: place for place, key in enumerate(keys)}
    absent = [key[:-1] + bytes([key[-1] ^ 1 or 2]) for key in keys] + [b"", b"x" * 17]
    assert len(keys) == 16383
    assert [built.find(key) for key in keys] == list(range(16383))
    assert [built.find(key) for key in absent] == [places.get(key, -1) for key in absent]


@given(st.lists(st.sampled_from([b"a", b"b", b"c", b"0123456789abcdef"]), min_size=1))
def test_of_keys_that_are_repeated_the_first_is_found(keys: list[bytes]) -> None:
    finder = directory.KeyFinder(np.array(keys, "S16"))
    for _ in range(40):  # the first look-ups compare all keys, later ones search
        for key in (b"a", b"b", b"0123456789abcdef"):
            assert finder.find(key) == (keys.index(key) if key in keys else -1)


@given(st.integers(0, 1 << 64))
def test_keys_that_mix_to_the_same_word_are_told_apart(generator: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    pairs = [colliding_keys(rng) for _ in range(3)]
    keys = [first for first, _ in pairs] + [second for _, second in pairs]
    parsed = parse(generator.container(1, [(key, b"x") for key in keys]))
    assert len(set(directory._mix(parsed.keys).tolist())) == 3
    for _ in range(20):  # the first look-ups compare all keys, later ones search
        assert [parsed.find(key) for key in keys] == list(range(6))

    stranger, missing = colliding_keys(rng)
    parsed = parse(generator.container(1, [(stranger, b"x")]))
    assert (parsed.find(stranger), parsed.find(missing)) == (0, -1)


@given(
    st.sets(strategies.key_bytes, max_size=6),
    st.sets(st.binary(min_size=1, max_size=8).filter(lambda end: b"\0" not in end)),
)
def test_keys_that_begin_alike_are_told_apart(others: set[bytes], ends: set[bytes]) -> None:
    keys = sorted(others | {b"8 bytes." + end for end in ends} | {b"8 bytes."})
    built = build_directory(2, keys, [1] * len(keys))
    for _ in range(1 + 64 // len(keys)):
        assert [built.find(key) for key in keys] == list(range(len(keys)))
        assert (built.find(b"8 bytes.nobody") >= 0) == (b"8 bytes.nobody" in keys)


def test_of_keys_that_mix_alike_the_one_that_is_repeated_is_reported(generator: ModuleType) -> None:
    first, second = colliding_keys(random.Random(2))
    file = generator.container(2, [(key, b"x") for key in (first, b"between", second, first)])
    with pytest.raises(FormatError, match=r"duplicate-key: .* is the key of blob 0 and of blob 3") as caught:
        parse(file)
    assert caught.value.offset == len(file) - 16 - 32 * 4 + 16 * 3


PAGE = "a web page, not the download: download the file again, logged in if it needs that"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            b"GGUF",
            "0x46554747 (GGUF) at offset 0: this is a GGUF file: name it .gguf, and blobstore convert reads it",
        ),
        (
            b"PK\3\4",
            (
                "0x04034B50 (50 4b 03 04) at offset 0: this is a zip file (npz or a PyTorch checkpoint?): "
                "save its tensors as safetensors first"
            ),
        ),
        (b"\x89HDF", "0x46444889 (89 48 44 46) at offset 0: this is an HDF5 file"),
        (
            b"\x93NUMPY\1\0",
            "0x4D554E93 (93 4e 55 4d) at offset 0: this is a .npy file: save its array as safetensors first",
        ),
        (
            b"SBSINDEX",
            "0x49534253 (SBSI) at offset 0: this is a name index: open the file beside it, or a set by its path",
        ),
        (b"\x28\xb5\x2f\xfd", "0xFD2FB528 (28 b5 2f fd) at offset 0: this is a zstd file, decompress it first"),
        (b"\x1f\x8b\x08\0", "0x00088B1F (1f 8b 08 00) at offset 0: this is a gzip file, decompress it first"),
        (b"<!DOCTYPE", f"0x4F44213C (3c 21 44 4f) at offset 0: this is {PAGE}"),
        (b"<html>", f"0x6D74683C (3c 68 74 6d) at offset 0: this is {PAGE}"),
        (
            b"version https",
            "0x73726576 (vers) at offset 0: this is a Git LFS pointer, fetch the file itself: git lfs pull",
        ),
        (
            b"@\0\0\0\0\0\0\0{",
            "0x00000040 (40 00 00 00) at offset 0: this is a safetensors file, use blobstore convert",
        ),
        (b"abcd", "0x64636261 (abcd) at offset 0"),
        (b"abcd\xff", "0x64636261 (abcd) at offset 0"),
        (b"abc-", "0x2D636261 (61 62 63 2d) at offset 0"),
        (b"versatile", "0x73726576 (vers) at offset 0"),
    ],
    ids=lambda value: ascii(value) if isinstance(value, bytes) else "",
)
def test_a_file_of_another_format_is_named(head: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(head.ljust(512, b"\0"))
    assert str(caught.value) == f"bad-magic: expected 0x0A534253 (SBS), found {message}"
    assert caught.value.offset == 0


def stating(version: int, size: int, nbytes: int) -> bytes:
    """A header with one blob that states ``size``, in a file of ``nbytes``."""
    header = b"SBS\n" + (1).to_bytes(4, "little") + size.to_bytes(8, "little")
    placeholder = b"SBS\n" + bytes(4) + (65536).to_bytes(8, "little")
    return header.ljust(nbytes, b"\0") if version == 1 else placeholder + bytes(nbytes - 32) + header


@pytest.mark.parametrize(("version", "offset"), [(1, 8), (2, 65536 - 8)])
def test_a_file_shorter_than_it_says_is_truncated(version: int, offset: int) -> None:
    with pytest.raises(TruncatedError) as caught:
        parse(stating(version, 131072, 65536))
    assert str(caught.value) == "file-size: the header says 131072 bytes, the file has 65536: truncated download?"
    assert caught.value.offset == offset
    assert isinstance(caught.value, EOFError)


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_longer_than_it_says_was_appended_to(version: int) -> None:
    with pytest.raises(FormatError) as caught:
        parse(stating(version, 65536, 131072))
    assert str(caught.value) == "file-size: the header says 65536 bytes, the file has 131072: something was appended"
    assert not isinstance(caught.value, TruncatedError)


def parse_sparse(size: int, ranges: list[tuple[int, int]]) -> Directory:
    """Parse version 1 with these ranges, in a file that would be too large to make."""
    keys = b"".join(str(i).encode().ljust(16, b"\0") for i in range(len(ranges)))
    head = b"SBS\n" + len(ranges).to_bytes(4, "little") + size.to_bytes(8, "little") + keys
    head += b"".join(offset.to_bytes(8, "little") + nbytes.to_bytes(8, "little") for offset, nbytes in ranges)
    return parse_directory(lambda offset, nbytes: head[offset : offset + nbytes], size)


@pytest.mark.parametrize("exponent", [54, 60, 61, 62, 63])
def test_sizes_whose_sum_overflows_are_refused_where_they_overlap(exponent: int) -> None:
    size = (1 << exponent) - 65536
    with pytest.raises(BlobStoreError) as caught:
        parse_sparse(size, [(0, size)] * 1000)
    assert caught.value.reason == "blob-offset"  # S12 comes before S13


@pytest.mark.parametrize("nbytes", [1 << 40, 1 << 62, (1 << 63) - (2 << 16)], ids=["1-TiB", "4-EiB", "most"])
def test_a_blob_may_be_as_large_as_a_file(nbytes: int) -> None:
    size = (256 + nbytes + 65535) // 65536 * 65536
    parsed = parse_sparse(size, [(256, nbytes)])
    assert parsed.range(0) == (256, nbytes)
    assert (parsed.offsets.dtype, parsed.sizes.dtype) == (np.dtype(np.int64), np.dtype(np.int64))
    assert parsed.to_bytes()[16:] == (256).to_bytes(8, "little") + nbytes.to_bytes(8, "little")


@pytest.mark.parametrize("version", [1, 2])
def test_nothing_but_headers_and_directory_is_read(generator: ModuleType, version: int) -> None:
    file: bytes = generator.container(version, [(b"a", b"x" * 70000), (b"b", b"y" * 70000)])
    asked: list[tuple[int, int]] = []

    def read(offset: int, nbytes: int) -> bytes:
        asked.append((offset, nbytes))
        return file[offset : offset + nbytes]

    parse_directory(read, len(file))
    end = len(file)
    assert sorted(asked) == ([(0, 16), (16, 64)] if version == 1 else [(0, 16), (end - 80, 64), (end - 16, 16)])


# A fault in a record: the bytes written, and where the record begins, given the number of blobs and the place.
RECORDS: dict[str, tuple[Callable[[bytearray, int], None], bool]] = {
    "bad-key": (lambda raw, at: write_at(raw, at, bytes(16)), True),
    "duplicate-key": (lambda raw, at: write_at(raw, at, bytes(raw[at - 16 : at])), True),
    "empty-blob": (lambda raw, at: write_at(raw, at + 8, bytes(8)), False),
    "blob-range": (lambda raw, at: write_at(raw, at + 8, b"\xff" * 8), False),
    "blob-offset": (lambda raw, at: write_at(raw, at + 1, bytes([raw[at + 1] ^ 1])), False),
}


def write_at(raw: bytearray, at: int, data: bytes) -> None:
    raw[at : at + len(data)] = data


@given(
    reason=st.sampled_from(list(RECORDS)),
    version=strategies.versions,
    keys=st.lists(strategies.key_bytes, min_size=3, max_size=12, unique=True),
    data=st.data(),
)
def test_the_offset_of_a_fault_is_that_of_the_first_record_that_has_it(
    generator: ModuleType, reason: str, version: int, keys: list[bytes], data: st.DataObject
) -> None:
    raw = bytearray(generator.container(version, [(key, b"x" * 300) for key in keys]))
    damage, of_key = RECORDS[reason]
    start = 16 if version == 1 else len(raw) - 16 - 32 * len(keys)
    first = start if of_key else start + 16 * len(keys)
    places = sorted(data.draw(st.sets(st.integers(1, len(keys) - 1), min_size=1)))
    for place in reversed(places):  # copies the key before as it was
        damage(raw, first + 16 * place)
    with pytest.raises(FormatError) as caught:
        parse(bytes(raw))
    assert (caught.value.reason, caught.value.offset) == (reason, first + 16 * places[0])
    if reason == "duplicate-key":
        assert f" is the key of blob {places[0] - 1} and of blob {places[0]}" in caught.value.message
    else:
        assert caught.value.message.startswith(f"blob {places[0]}")


def test_a_directory_is_not_changed_and_equals_only_itself() -> None:
    first, second = (build_directory(2, [b"a", b"b"], [1, 2]) for _ in range(2))
    with pytest.raises(FrozenInstanceError):
        first.version = 1  # type: ignore[misc]
    assert len({first, second, first}) == 2


@given(strategies.versions, st.lists(st.integers(1, 1000) | st.sampled_from([256, 512]), min_size=1), st.booleans())
def test_gaps_are_what_is_neither_header_nor_directory_nor_blob(version: int, sizes: list[int], old: bool) -> None:
    built = build_directory(version, [str(i).encode() for i in range(len(sizes))], sizes)
    if old and version == 1:  # very old files end with the padding of the last blob
        built = replace(built, file_size=built.payload_end)
    records = 32 * len(sizes)
    end = built.file_size
    used = [(0, 16 + records)] if version == 1 else [(0, 16), (end - 16 - records, records + 16)]
    used += [built.range(place) for place in range(len(sizes))]
    gaps = list(built.gaps())
    assert gaps == sorted(gaps)
    assert all(nbytes > 0 for _, nbytes in gaps)
    covered = np.zeros(end, np.uint8)
    for offset, nbytes in gaps + used:
        covered[offset : offset + nbytes] += 1
    assert (covered == 1).all()


HEADER_FAULTS = [
    (1, lambda raw: write_at(raw, 0, b"T"), "bad-magic", lambda _: 0),
    (1, lambda raw: raw.__delitem__(slice(15, None)), "truncated", lambda _: 0),
    (1, lambda raw: raw.__delitem__(slice(0, None)), "truncated", lambda _: 0),
    (1, lambda raw: write_at(raw, 4, (2**20 + 1).to_bytes(4, "little")), "blob-count", lambda _: 4),
    (1, lambda raw: write_at(raw, 4, (2**20).to_bytes(4, "little")), "directory-range", lambda _: 0),
    (1, lambda raw: write_at(raw, 9, b"\xff"), "file-size", lambda _: 8),
    (2, lambda raw: write_at(raw, 8, b"\1"), "bad-placeholder", lambda _: 8),
    (2, lambda raw: write_at(raw, 10, b"\0"), "bad-placeholder", lambda _: 8),
    (2, lambda raw: write_at(raw, 10, b"\2"), "bad-placeholder", lambda _: 8),
    (2, lambda raw: raw.__delitem__(slice(16, None)), "no-directory", lambda _: 0),
    (2, lambda raw: raw.__delitem__(slice(271, None)), "no-directory", lambda _: 0),
    (2, lambda raw: raw.__delitem__(slice(272, None)), "no-directory", lambda size: size - 16),
    (2, lambda raw: write_at(raw, len(raw) - 16, b"R"), "no-directory", lambda size: size - 16),
    (2, lambda raw: write_at(raw, len(raw) - 16, b"T"), "no-directory", lambda size: size - 16),
    (2, lambda raw: write_at(raw, len(raw) - 12, bytes(4)), "blob-count", lambda size: size - 12),
    (2, lambda raw: write_at(raw, len(raw) - 12, b"\1\0\x10\0"), "blob-count", lambda size: size - 12),
    (2, lambda raw: write_at(raw, len(raw) - 12, b"\0\0\x10\0"), "directory-range", lambda size: size - 16),
    (2, lambda raw: write_at(raw, len(raw) - 8, b"\1"), "file-size", lambda size: size - 8),
    (2, lambda raw: raw.__setitem__(slice(-32768 - 16, -16), b""), "file-size", lambda size: size - 8),
]


@pytest.mark.parametrize(("version", "change", "reason", "offset"), HEADER_FAULTS)
def test_a_fault_of_a_header_is_said_with_its_place(
    generator: ModuleType,
    version: int,
    change: Callable[[bytearray], object],
    reason: str,
    offset: Callable[[int], int],
) -> None:
    raw = bytearray(generator.container(version, [(b"a", b"x" * 300), (b"b", b"y" * 40_000)]))
    change(raw)
    with pytest.raises(FormatError) as caught:
        parse(bytes(raw))
    assert (caught.value.reason, caught.value.offset) == (reason, offset(len(raw)))


@given(strategies.versions, st.integers(1, 300))
def test_a_directory_that_leaves_no_room_for_itself_is_refused(version: int, count: int) -> None:
    """A directory as large as the file leaves nothing for blobs."""
    directory_nbytes = 32 * count
    header = b"SBS\n" + count.to_bytes(4, "little")
    for more in (-1, 0):
        size = (16 if version == 1 else 256 + 16) + directory_nbytes + more
        stated = header + size.to_bytes(8, "little")
        placeholder = b"SBS\n" + bytes(4) + (65536).to_bytes(8, "little")
        raw = stated.ljust(size, b"\0") if version == 1 else placeholder.ljust(size - 16, b"\0") + stated
        with pytest.raises(FormatError) as caught:
            parse(raw)
        at = 0 if version == 1 else size - 16
        first = 16 if version == 1 else 256
        expected = ("directory-range", at) if more else ("bad-key", first)
        assert (caught.value.reason, caught.value.offset) == expected
