"""The header of a .gguf file: what the package gguf reads of it, and what is refused."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.checkpoint.gguf.header import GgufHeader, LongList, parse_header
from blobstore.checkpoint.gguf.types import BY_NUMBER
from blobstore.errors import FormatError, TruncatedError
from tests.checkpoints import reader_of
from tests.gguf_files import key, raw_gguf, tensor, text, write_gguf

if TYPE_CHECKING:
    from pathlib import Path

TEXT, ARRAY, BOOL, U32, F32 = 8, 9, 7, 4, 6


def parse(raw: bytes) -> GgufHeader:
    """Parse a file; fails when a byte outside it is asked for."""
    return parse_header(reader_of(raw), len(raw))


def test_the_types_are_those_of_the_package() -> None:
    ours = {kind.number: (kind.name, kind.count, kind.nbytes) for kind in BY_NUMBER.values()}
    theirs = {
        int(kind): ("int8" if kind.name == "I8" else kind.name.lower(), *sizes)
        for kind, sizes in gguf.GGML_QUANT_SIZES.items()
    }
    assert {number: ours[number] for number in theirs} == theirs
    assert all((kind.plain is not None) == (kind.count == 1) for kind in BY_NUMBER.values())


values = st.one_of(
    st.booleans(),
    st.integers(0, (1 << 32) - 1),
    st.floats(width=32, allow_nan=False),
    st.text(max_size=12),
    st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=1, max_size=100),
    st.lists(st.text(max_size=3), min_size=1, max_size=100),
)
keys = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: not name.startswith("general.")), values, max_size=6
)


@given(keys, st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), max_size=4))
def test_what_the_package_writes_is_read_as_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any], shapes: list[list[int]]
) -> None:
    arrays = {f"tensor {i}": np.full(shape, i, np.float32) for i, shape in enumerate(shapes)}
    path = write_gguf(tmp_path_factory.getbasetemp() / "any.gguf", arrays, metadata)
    raw = path.read_bytes()
    header = parse(raw)
    read = {name: _whole(value, raw) for name, value in header.metadata.items()}
    given_ = {name: np.float32(value) if isinstance(value, float) else value for name, value in metadata.items()}
    read = {name: np.float32(value) if isinstance(value, float) else value for name, value in read.items()}
    assert read == {"general.architecture": "llama", **given_}
    assert [entry.name for entry in header.entries] == [*arrays]
    for entry in header.entries:
        assert entry.shape == arrays[entry.name].shape
        assert raw[entry.offset : entry.offset + entry.nbytes] == arrays[entry.name].tobytes()


def _whole(value: Any, raw: bytes) -> Any:  # noqa: ANN401 (metadata is anything)
    return value.read(reader_of(raw)) if isinstance(value, LongList) else value


def test_a_number_of_32_bits_is_the_decimal_one_that_was_meant() -> None:
    header = parse(raw_gguf([key("eps", F32, struct.pack("<f", 1e-6))]))
    assert header.metadata == {"eps": 1e-06}


def test_a_long_array_is_only_located() -> None:
    many = struct.pack("<IQ", TEXT, 100) + b"".join(text(f"t{i}") for i in range(100))
    raw = raw_gguf([key("tokens", ARRAY, many), key("after", BOOL, b"\1")])
    tokens = parse(raw).metadata["tokens"]
    assert (str(tokens), parse(raw).metadata["after"]) == ("100 values of type string", True)
    assert _whole(tokens, raw) == [f"t{i}" for i in range(100)]


FLOAT = struct.pack("<f", 1)
WRONG: dict[str, tuple[bytes, str]] = {
    "another format": (b"GGML" + bytes(60), "expected b'GGUF' at offset 0, found b'GGML'"),
    "version 1": (raw_gguf(version=1), "it is GGUF version 1, and blobstore reads 2 and 3"),
    "big-endian": (raw_gguf(version=3 << 24), "a big-endian GGUF file"),
    "no such tensors": (raw_gguf(counts=(1 << 60, 0)), "it lists 1152921504606846976 tensors and 0 keys"),
    "no such keys": (raw_gguf(counts=(0, 1 << 60)), "it lists 0 tensors and 1152921504606846976 keys"),
    "a key that ends too early": (raw_gguf(counts=(0, 1), alignment=1), "the file ends at 24, inside"),
    "a text of 2⁶⁰ bytes": (raw_gguf([struct.pack("<Q", 1 << 60)]), "the file ends at 32, inside"),
    "an array of 2⁶⁰ numbers": (
        raw_gguf([key("a", ARRAY, struct.pack("<IQ", U32, 1 << 60))]),
        "inside what its header",
    ),
    "an array of 2⁶⁰ texts": (raw_gguf([key("a", ARRAY, struct.pack("<IQ", TEXT, 1 << 60))]), "inside what its header"),
    "arrays in arrays": (
        raw_gguf([key("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 9)]),
        "its metadata has more than 4 arrays in each other",
    ),
    "a value of no type": (raw_gguf([key("a", 13, bytes(8))]), "a value of unknown type 13"),
    "an array of no type": (raw_gguf([key("a", ARRAY, struct.pack("<IQ", 13, 1))]), "a value of unknown type 13"),
    "a long array of no type": (raw_gguf([key("a", ARRAY, struct.pack("<IQ", 13, 99))]), "a value of unknown type 13"),
    "a truth value of 2": (raw_gguf([key("a", BOOL, b"\2")]), "2 is not a truth value"),
    "a key twice": (raw_gguf([key("a", BOOL, b"\0")] * 2), "its metadata has 'a' twice"),
    "a key that isn't text": (raw_gguf([struct.pack("<Q", 1) + b"\xff"]), "b'\\xff' is not UTF-8 text"),
    "a name twice": (
        raw_gguf(tensors=[tensor("a", [1]), tensor("a", [1], offset=32)], data=bytes(64)),
        "it has two tensors named 'a'",
    ),
    "many dimensions": (raw_gguf(tensors=[tensor("a", [1] * 9)], data=FLOAT), "'a' has 9 dimensions"),
    "huge": (raw_gguf(tensors=[tensor("a", [1 << 63] * 8)], data=FLOAT), "'a': its shape has too many elements"),
    "no such type": (raw_gguf(tensors=[tensor("a", [1], kind=4)], data=FLOAT), "its type has the number 4, which"),
    "half a block": (
        raw_gguf(tensors=[tensor("a", [2, 48], kind=8)], data=bytes(99)),
        "rows of 48 values are not whole",
    ),
    "unaligned": (raw_gguf(tensors=[tensor("a", [1], offset=4)], data=bytes(8)), "its offset, 4, is not a multiple of"),
    "overlapping": (
        raw_gguf(tensors=[tensor("a", [9]), tensor("b", [1], offset=32)], data=bytes(64)),
        "'b' overlaps the tensor before it",
    ),
    "behind the end": (
        raw_gguf(tensors=[tensor("a", [2])], data=FLOAT),
        "the tensors end at 72, the file has 68 bytes",
    ),
    "far behind the end": (
        raw_gguf(tensors=[tensor("a", [1], offset=(1 << 64) - 32)], data=FLOAT),
        "the tensors end at 18446744073709551652",
    ),
    "an alignment of 24": (
        raw_gguf([key("general.alignment", U32, struct.pack("<I", 24))]),
        "alignment is 24, expected",
    ),
    "an alignment of 0": (
        raw_gguf([key("general.alignment", U32, bytes(4))]),
        "alignment is 0, expected a power of two",
    ),
    "a text as alignment": (
        raw_gguf([key("general.alignment", TEXT, text("32"))]),
        "alignment is 32, expected a power",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str) -> None:
    raw, what = WRONG[name]
    with pytest.raises(FormatError) as caught:
        parse(raw)
    assert caught.value.reason == "gguf"
    assert what in caught.value.message


def test_a_file_that_ends_too_early_is_truncated_wherever_that_is(tmp_path: Path) -> None:
    tensors = {"a": np.ones(40, np.float32), "b": np.ones(3, np.float32)}
    raw = write_gguf(tmp_path / "m.gguf", tensors, {"list": ["x"] * 70, "n": 7}).read_bytes()
    end = max(entry.offset + entry.nbytes for entry in parse(raw).entries)
    for size in range(4, end):
        with pytest.raises(TruncatedError):
            parse(raw[:size])


@given(st.data())
def test_changed_bytes_are_read_or_refused(data: st.DataObject) -> None:
    keys_ = [
        key("general.alignment", U32, struct.pack("<I", 64)),
        key("t", ARRAY, struct.pack("<IQ", TEXT, 1) + text("x")),
    ]
    raw = bytearray(
        raw_gguf(keys_, [tensor("a", [2, 3]), tensor("b", [32], kind=8, offset=64)], bytes(128), alignment=64)
    )
    for at in data.draw(st.lists(st.integers(4, len(raw) - 129), min_size=1, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    try:
        header = parse(bytes(raw))
    except FormatError:
        return
    assert all(entry.offset + entry.nbytes <= len(raw) for entry in header.entries)
