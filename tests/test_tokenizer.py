"""The outline of a SentencePiece model: what it has, what is none, what is cut off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import FormatError
from blobstore.gemma.tokenizer import count_pieces


def varint(value: int) -> bytes:
    """A number as protocol buffers have it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def with_length(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


pieces = st.binary(max_size=300).map(lambda data: with_length(1, data))
# What follows the pieces, or stands between them: other fields of all kinds.
others = st.one_of(
    st.builds(with_length, st.integers(2, 5000), st.binary(max_size=20)),
    st.builds(lambda n, value: varint(n << 3) + varint(value), st.integers(1, 5000), st.integers(0, 2**64 - 1)),
    st.builds(lambda n, data: varint(n << 3 | 1) + data, st.integers(1, 5000), st.binary(min_size=8, max_size=8)),
    st.builds(lambda n, data: varint(n << 3 | 5) + data, st.integers(1, 5000), st.binary(min_size=4, max_size=4)),
)
models = st.lists(st.one_of(pieces, others), min_size=1).filter(lambda fields: any(one[0] == 10 for one in fields))


@given(models)
def test_pieces_are_counted(fields: list[bytes]) -> None:
    assert count_pieces(b"".join(fields)) == sum(one[0] == 10 for one in fields)


@given(models, st.data())
def test_a_model_that_is_cut_inside_its_last_field_is_refused(fields: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(fields)
    at = data.draw(st.integers(len(raw) - len(fields[-1]) + 1, len(raw) - 1))
    with pytest.raises(FormatError, match=r"tokenizer-model: .* cut off"):
        count_pieces(raw[:at])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'{"version": 1}',
        b"\x00" * 9,
        b"\x18\x03",  # a field, and no piece
        b"\x0b",  # groups went out of use long ago
        b"\x08" + b"\xff" * 11,  # a number without an end
        b"\x01" + bytes(8),  # field 0
    ],
)
def test_what_is_no_model_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        count_pieces(raw)
    assert caught.value.reason == "tokenizer-model"


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_or_refused(raw: bytes) -> None:
    try:
        assert count_pieces(raw) > 0
    except FormatError as error:
        reason = error.reason
        assert reason == "tokenizer-model"
