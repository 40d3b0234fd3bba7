"""Protocol buffers, as far as a SentencePiece model uses them: fields and numbers, whatever they mean.

The format is https://protobuf.dev/programming-guides/encoding. A tag is a field's number times 8, plus the wire type of
its value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT, FIXED_64, WITH_LENGTH, FIXED_32 = 0, 1, 2, 5  # wire types
LONG = 0x80  # set in each byte of a varint but the last
_MAX_VARINT = 10  # bytes
_MAX_SHORT = 5  # bytes of a tag, or of a length
_FIXED = {FIXED_64: 8, FIXED_32: 4}
_COMMON = 1 << 3 | WITH_LENGTH


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the fields of a message: the tag, where the value begins, where it ends.

    Args:
        data: That the message is in.
        at: Where it begins.
        end: Where it ends.

    Raises:
        FormatError: ``tokenizer-model``.
    """
    while at < end:
        # Nearly all fields of a model: a piece, whose length takes one byte.
        if data[at] == _COMMON and at + 1 < end and data[at + 1] < LONG:
            begin = at + 2
            at = begin + data[at + 1]
            if at <= end:
                yield _COMMON, begin, at
                continue
            raise _truncated(end, at)
        tag, begin, at = _field(data, at, end)
        yield tag, begin, at


def _field(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Return a field of a message that ends at ``end``: the tag, where the value begins, where it ends."""
    tag, begin = varint(data, at, end, _MAX_SHORT)
    wire_type = tag & 7
    if not tag >> 3:
        raise _not_a_field(tag, at)
    if wire_type == VARINT:
        _, after = varint(data, begin, end)
    elif wire_type == WITH_LENGTH:
        length, begin = varint(data, begin, end, _MAX_SHORT)
        after = begin + length
    elif wire_type in _FIXED:
        after = begin + _FIXED[wire_type]
    else:
        raise _not_a_field(tag, at)
    if after > end:
        raise _truncated(end, after)
    return tag, begin, after


def varint(data: bytes, at: int, end: int, max_nbytes: int = _MAX_VARINT) -> tuple[int, int]:
    """Return a number of at most so many bytes, and where it ends.

    Raises:
        FormatError: ``tokenizer-model``.
    """
    value = 0
    for place in range(max_nbytes):
        if at >= end:
            raise not_a_model(f"a message ends at {end}, inside a number: it is truncated", end)
        value |= (data[at] & ~LONG) << (7 * place)
        at += 1
        if data[at - 1] < LONG:
            return value, at
    raise not_a_model(f"a number before offset {at} does not end", at)


def _not_a_field(tag: int, at: int) -> FormatError:
    return not_a_model(f"no field begins with 0x{tag:X}, which is at offset {at}", at)


def _truncated(end: int, after: int) -> FormatError:
    return not_a_model(f"a message ends at {end}, inside a field that ends at {after}: it is truncated", end)


def not_a_model(why: str, at: int) -> FormatError:
    """Return the error for bytes that are not a model, and why."""
    return FormatError("tokenizer-model", f"this is not a SentencePiece model: {why}", at)
