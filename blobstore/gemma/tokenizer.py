"""The blob ``tokenizer``: a SentencePiece model, of which only the outline is read.

The format is sentencepiece_model.proto of https://github.com/google/sentencepiece: a protocol buffer whose field 1,
repeated, holds the pieces.
"""

from __future__ import annotations

from blobstore.errors import FormatError

_PIECE = 0x0A  # field 1, with a length: how each piece begins
_LONG = 0x80  # a varint goes on
_MAX_VARINT = 10
_VARINT, _FIXED_64, _WITH_LENGTH, _FIXED_32 = 0, 1, 2, 5
_FIXED = {_FIXED_64: 8, _FIXED_32: 4}


def count_pieces(raw: bytes | memoryview) -> int:
    """Return how many pieces a SentencePiece model has: its vocabulary.

    Raises:
        FormatError: ``tokenizer-model`` when it is none, or ends too early.
    """
    data = bytes(raw)
    count = at = 0
    while at < len(data):
        # Nearly all of it: a short piece.
        if data[at] == _PIECE and at + 1 < len(data) and data[at + 1] < _LONG:
            at += 2 + data[at + 1]
            count += 1
            continue
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _WITH_LENGTH:
            length, at = _varint(data, at)
            at += length
            count += tag == _PIECE
        elif kind in _FIXED and tag >> 3:
            at += _FIXED[kind]
        else:
            raise _not_one(f"no field begins with 0x{tag:X} at offset {at}", at)
    if at > len(data):
        raise _not_one(f"it ends at {len(data)}, inside a field that ends at {at}: it is cut off", len(data))
    if not count:
        raise _not_one("it has no pieces", 0)
    return count


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = 0
    for place in range(_MAX_VARINT):
        if at >= len(data):
            raise _not_one(f"it ends at {len(data)}, inside a number: it is cut off", len(data))
        value |= (data[at] & ~_LONG) << (7 * place)
        at += 1
        if data[at - 1] < _LONG:
            return value, at
    raise _not_one(f"a number before offset {at} does not end", at)


def _not_one(why: str, at: int) -> FormatError:
    return FormatError("tokenizer-model", f"this is no SentencePiece model: {why}", at)
