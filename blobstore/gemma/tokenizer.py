"""The blob ``tokenizer``: a SentencePiece model. Its pieces are counted, or checked by SentencePiece's own rules.

The format is sentencepiece_model.proto of https://github.com/google/sentencepiece: a protocol buffer whose field 1,
repeated, holds the pieces. The rules are those of ``ModelInterface::InitializePieces`` (src/model_interface.cc),
``Model::BuildTrie`` (src/unigram_model.cc) and ``Normalizer::DecodePrecompiledCharsMap`` (src/normalizer.cc), as of
commit 53de765, which gemma.cpp uses. Not checked are samples for self-tests (they would have to be encoded), and pieces
that contain a zero byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blobstore.gemma.protobuf import FIXED_32, LONG, VARINT, WITH_LENGTH, fields, not_a_model, varint

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tags of fields.
_PIECE, _TRAINER, _NORMALIZER, _SELF_TEST, _DENORMALIZER = (number << 3 | WITH_LENGTH for number in range(1, 6))
_TEXT, _SCORE, _TYPE = 1 << 3 | WITH_LENGTH, 2 << 3 | FIXED_32, 3 << 3 | VARINT  # of a piece
_MODEL_TYPE, _BYTE_FALLBACK = 3 << 3 | VARINT, 35 << 3 | VARINT  # of trainer_spec
_CHARSMAP = 2 << 3 | WITH_LENGTH  # of normalizer_spec and denormalizer_spec
_SAMPLE = 1 << 3 | WITH_LENGTH  # of self_test_data

_NORMALIZERS = {_NORMALIZER: "normalizer_spec", _DENORMALIZER: "denormalizer_spec"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
_RESERVED = (UNKNOWN, CONTROL, BYTE)  # a piece of any other type may have the same text as one of these
UNIGRAM, BPE, _WORD, _CHAR = range(1, 5)  # types of models
BYTE_TEXTS = {b"<0x%02X>" % value: value for value in range(256)}
_CHARSMAP_HEAD = 4  # bytes: the size of the first of its two parts

_SHOWN = 20  # faults of pieces
_SHOWN_NBYTES = 40  # of a piece's text


@dataclass(frozen=True)
class Pieces:
    """The pieces of a SentencePiece model.

    Attributes:
        count: How many there are: the size of the vocabulary.
        faults: Why SentencePiece does not load the model; empty where it does. A piece is named by its number, which is
            its token, and its text. The first 20 faults of pieces are listed, the rest are counted.
    """

    count: int
    faults: tuple[str, ...] = ()


def count_pieces(raw: bytes | memoryview) -> int:
    """Return how many pieces a SentencePiece model has: its vocabulary. The pieces themselves are not read.

    Raises:
        FormatError: ``tokenizer-model`` when it is not a model, or ends too early.
    """
    data = bytes(raw)
    return _at_least_one(sum(tag == _PIECE for tag, _, _ in fields(data, 0, len(data))))


def find_piece(raw: bytes | memoryview, text: str) -> int | None:
    """Return the number of the first piece of a SentencePiece model that has this text, or None.

    Raises:
        FormatError: ``tokenizer-model`` when it is not a model, or ends too early.
    """
    data, wanted = bytes(raw), text.encode()
    pieces = ((at, end) for tag, at, end in fields(data, 0, len(data)) if tag == _PIECE)
    found = ((number, at, end) for number, (at, end) in enumerate(pieces) if wanted in data[at:end])
    return next((number for number, at, end in found if _piece(data, at, end)[0] == wanted), None)


def pieces_of(raw: bytes | memoryview) -> Iterator[tuple[bytes, int]]:
    """Yield the text and the type of each piece of a SentencePiece model, in the order of their tokens.

    Raises:
        FormatError: ``tokenizer-model``, as `check_pieces`.
    """
    data = bytes(raw)
    return (_piece(data, at, end) for tag, at, end in fields(data, 0, len(data)) if tag == _PIECE)


def model_ends(raw: bytes) -> Iterator[int]:
    """Yield each size that a SentencePiece model at the beginning of some bytes may have, smallest first.

    Raises:
        FormatError: ``tokenizer-model``: no larger size is possible.
    """
    pieces = 0
    for tag, _, end in fields(raw, 0, len(raw)):
        pieces += tag == _PIECE
        if pieces:
            yield end


def check_pieces(raw: bytes | memoryview) -> Pieces:
    """Read a SentencePiece model, and find everything that keeps SentencePiece from loading it.

    Raises:
        FormatError: ``tokenizer-model`` when it is not a model, or when anything in it ends too early.
    """
    data = bytes(raw)
    model = _Model()
    for tag, at, end in fields(data, 0, len(data)):
        if tag == _PIECE:
            model.add_piece(*_piece(data, at, end))
        elif tag == _TRAINER:
            model.set_trainer(data, at, end)
        elif tag in _NORMALIZERS:
            model.set_normalizer(tag, data, at, end)
        elif tag == _SELF_TEST:
            _skip_samples(data, at, end)
    return Pieces(_at_least_one(model.count), tuple(model.faults()))


@dataclass
class _Model:
    """What has been read of a model.

    Attributes:
        count: How many pieces.
        shown: The first faults of pieces; ``more`` are not shown.
        byte_fallback, type: Of trainer_spec.
        charsmaps: By the tag of the normalizer: the size of its charsmap, and the size that its first part claims.
        normal, reserved: The text of each piece → the number of the first piece that has it.
        unknown: The number of the first <unk>; -1 before there is one.
        byte_pieces, first_byte: How many pieces of type BYTE there are, and the first one's name.
        byte_values: Which of the 256 values have such a piece.
    """

    count: int = 0
    shown: list[str] = field(default_factory=list)
    more: int = 0
    byte_fallback: bool = False
    type: int = UNIGRAM
    charsmaps: dict[int, tuple[int, int]] = field(default_factory=dict)
    normal: dict[bytes, int] = field(default_factory=dict)
    reserved: dict[bytes, int] = field(default_factory=dict)
    unknown: int = -1
    byte_pieces: int = 0
    first_byte: str = ""
    byte_values: set[int] = field(default_factory=set)

    def add_piece(self, text: bytes, piece_type: int) -> None:
        """Take the next piece, and note its faults."""
        number = self.count
        self.count += 1
        reserved = piece_type in _RESERVED
        first = (self.reserved if reserved else self.normal).setdefault(text, number)
        if not text:
            self._fault(number, text, "is empty")
        elif first != number:
            self._fault(number, text, f"has the same text as piece {first}")
        if reserved:
            self._add_reserved(number, text, piece_type)

    def _add_reserved(self, number: int, text: bytes, piece_type: int) -> None:
        if piece_type == UNKNOWN:
            if self.unknown >= 0:
                self._fault(number, text, f"has the type UNKNOWN, as does piece {self.unknown}: only one may")
            else:
                self.unknown = number
        elif piece_type == BYTE:
            self.byte_pieces += 1
            self.first_byte = self.first_byte or _named(number, text)
            if text in BYTE_TEXTS:
                self.byte_values.add(BYTE_TEXTS[text])
            else:
                self._fault(number, text, "has the type BYTE, but is not one of <0x00> to <0xFF>")

    def set_trainer(self, data: bytes, at: int, end: int) -> None:
        """Take what matters of a trainer_spec; a later one overrides it."""
        for tag, begin, _ in fields(data, at, end):
            if tag == _BYTE_FALLBACK:
                self.byte_fallback = varint(data, begin, end)[0] != 0
            elif tag == _MODEL_TYPE:
                self.type = _choice(data, begin, end, _CHAR) or self.type

    def set_normalizer(self, which: int, data: bytes, at: int, end: int) -> None:
        """Take what matters of a normalizer_spec or denormalizer_spec."""
        for tag, begin, after in fields(data, at, end):
            if tag == _CHARSMAP:
                head = data[begin : min(begin + _CHARSMAP_HEAD, after)]
                self.charsmaps[which] = after - begin, int.from_bytes(head, "little")

    def faults(self) -> Iterator[str]:
        """Yield the faults of pieces, and those of the whole model."""
        yield from self.shown
        if self.more:
            yield f"pieces have {self.more} more faults"
        if self.unknown < 0:
            yield "no piece has the type UNKNOWN"
        missing = [text for text, value in BYTE_TEXTS.items() if value not in self.byte_values]
        if self.byte_pieces and not self.byte_fallback:
            several = f", the first of {self.byte_pieces}," if self.byte_pieces > 1 else ""
            yield f"{self.first_byte}{several} has the type BYTE, but byte_fallback is off"
        elif self.byte_fallback and missing:
            yield f"byte_fallback is on, but {len(missing)} of the 256 bytes have no piece: first {missing[0].decode()}"
        if self.type == UNIGRAM and not self.normal:
            yield "the model's type is UNIGRAM, but no piece has the type NORMAL, USER_DEFINED or UNUSED"
        for which, (nbytes, part_nbytes) in self.charsmaps.items():
            if nbytes and (nbytes <= _CHARSMAP_HEAD or part_nbytes >= nbytes):
                name = _NORMALIZERS[which]
                yield f"the precompiled_charsmap of {name} has {nbytes} bytes: fewer than it claims"

    def _fault(self, number: int, text: bytes, what: str) -> None:
        if len(self.shown) < _SHOWN:
            self.shown.append(f"{_named(number, text)} {what}")
        else:
            self.more += 1


def _piece(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    """Return the text and the type of a piece."""
    # Nearly all pieces: a short text, the score, and perhaps a type.
    if at + 1 < end and data[at] == _TEXT and data[at + 1] < LONG:
        begin, after = at + 2, at + 2 + data[at + 1]
        rest = end - after
        if rest == 5 and data[after] == _SCORE:
            return data[begin:after], NORMAL
        if rest == 7 and data[after] == _SCORE and data[after + 5] == _TYPE and NORMAL <= data[after + 6] <= BYTE:
            return data[begin:after], data[after + 6]
    text, piece_type = b"", NORMAL
    for tag, begin, after in fields(data, at, end):
        if tag == _TEXT:
            text = data[begin:after]
        elif tag == _TYPE:
            piece_type = _choice(data, begin, after, BYTE) or piece_type
    return text, piece_type


def _choice(data: bytes, at: int, end: int, last: int) -> int:
    """Return a value from 1 to ``last``, or 0 for any other, which a protocol buffer treats as absent."""
    value = varint(data, at, end)[0] & 0xFFFFFFFF
    return value if value <= last else 0


def _skip_samples(data: bytes, at: int, end: int) -> None:
    for tag, begin, after in fields(data, at, end):
        if tag == _SAMPLE:
            for _ in fields(data, begin, after):
                pass


def _named(number: int, text: bytes) -> str:
    shown = repr(text[:_SHOWN_NBYTES].decode("utf-8", "backslashreplace"))
    return f"piece {number}, {shown}{'…' if len(text) > _SHOWN_NBYTES else ''},"


def _at_least_one(count: int) -> int:
    if not count:
        raise not_a_model("it has no pieces", 0)
    return count
