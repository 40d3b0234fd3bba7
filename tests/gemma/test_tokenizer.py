"""SentencePiece models: their pieces; bytes that are not a model, or truncated; models that SentencePiece refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import FormatError
from blobstore.gemma.tokenizer import Pieces, check_pieces, count_pieces

if TYPE_CHECKING:
    from pathlib import Path

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE, WORD, CHAR = 1, 2, 3, 4
TRAINER, NORMALIZER, SELF_TEST, DENORMALIZER = 2, 3, 4, 5


def varint(value: int, longer: int = 0) -> bytes:
    """A number as in protocol buffers; it may take more bytes than it needs."""
    out = bytearray()
    while value > 0x7F or longer:
        longer -= value <= 0x7F
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int, longer: int = 0) -> bytes:
    return varint(field << 3) + varint(value, longer)


def with_length(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


pieces = st.binary(max_size=300).map(lambda data: with_length(1, data))
# Other fields, of all types: after the pieces, or between them.
others = st.one_of(
    st.builds(with_length, st.integers(2, 5000), st.binary(max_size=20)),
    st.builds(number, st.integers(1, 5000), st.integers(0, 2**64 - 1)),
    st.builds(lambda n, data: varint(n << 3 | 1) + data, st.integers(1, 5000), st.binary(min_size=8, max_size=8)),
    st.builds(lambda n, data: varint(n << 3 | 5) + data, st.integers(1, 5000), st.binary(min_size=4, max_size=4)),
)
models = st.lists(st.one_of(pieces, others), min_size=1).filter(lambda fields: any(field[0] == 10 for field in fields))


@given(models)
def test_pieces_are_counted(fields: list[bytes]) -> None:
    assert count_pieces(b"".join(fields)) == sum(field[0] == 10 for field in fields)


@given(models, st.data())
def test_a_model_that_is_cut_inside_its_last_field_is_refused(fields: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(fields)
    at = data.draw(st.integers(len(raw) - len(fields[-1]) + 1, len(raw) - 1))
    with pytest.raises(FormatError, match=r"tokenizer-model: .* truncated"):
        count_pieces(raw[:at])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'{"version": 1}',
        b"\x00" * 9,
        b"\x18\x03",  # a field, but no piece
        b"\x0b",  # groups are long obsolete
        b"\x08" + b"\xff" * 11,  # a number without an end
        b"\x01" + bytes(8),  # field 0
        b"\x00\x00",  # field 0, a number
        b"\x0a" + varint(1 << 35),  # a length of six bytes
    ],
)
def test_what_is_not_a_model_is_refused(raw: bytes) -> None:
    for read in (count_pieces, check_pieces):
        with pytest.raises(FormatError) as caught:
            read(raw)
        assert caught.value.reason == "tokenizer-model"


# ------------------------------------------------------------------------------------- what SentencePiece does not load

Piece = tuple[bytes, int]
UNK = (b"<unk>", UNKNOWN)
BYTES = [(f"<0x{value:02X}>".encode(), BYTE) for value in range(256)]
TRUE = [1, 2, 1 << 40]  # of a bool, which is a number

# Fields that no message of a model has, and known ones with values of another wire type: all are skipped.
strange = st.one_of(
    st.builds(with_length, st.integers(200, 5000), st.binary(max_size=20)),
    st.builds(number, st.integers(200, 5000), st.integers(0, 2**64 - 1)),
    st.sampled_from([number(1, 5), varint(3 << 3 | 5) + bytes(4), varint(35 << 3 | 1) + bytes(8)]),
)
# What may be between the pieces.
harmless = st.one_of(
    strange,
    st.sampled_from(
        [
            with_length(NORMALIZER, with_length(1, b"identity") + with_length(2, b"\1\0\0\0ab")),
            with_length(NORMALIZER, with_length(2, b"ab") + with_length(2, b"")),
            with_length(DENORMALIZER, b""),
            with_length(SELF_TEST, with_length(1, with_length(1, b"a") + with_length(2, b"a")) + number(2, 1)),
        ]
    ),
)


def encoded_piece(text: bytes, piece_type: int) -> bytes:
    """A piece as SentencePiece writes it."""
    return with_length(
        1, with_length(1, text) + b"\x15\0\0\x7a\xc4" + (number(3, piece_type) if piece_type != NORMAL else b"")
    )


def encoded(pieces: list[Piece], byte_fallback: int = 0, model_type: int = BPE, *rest: bytes) -> bytes:
    """A model as SentencePiece writes it."""
    trainer = with_length(TRAINER, number(3, model_type) + number(35, byte_fallback))
    return b"".join([*(encoded_piece(*piece) for piece in pieces), trainer, *rest])


@st.composite
def oddly(draw: st.DrawFn, piece: Piece) -> bytes:
    """A piece as it may also be written: with earlier values, more fields, in another order, with longer numbers."""
    text, piece_type = piece
    texts = [with_length(1, text) for text in (*draw(st.lists(st.binary(max_size=5), max_size=1)), text)]
    earlier = (
        []
        if piece_type == NORMAL and draw(st.booleans())
        else [*draw(st.lists(st.integers(1, 6), max_size=1)), piece_type]
    )
    types = [number(3, value, draw(st.integers(0, 3))) for value in earlier]
    types += [number(3, value) for value in draw(st.lists(st.sampled_from([0, 7, 1 << 31, (1 << 64) - 1]), max_size=1))]
    parts = draw(st.permutations([texts, types, draw(st.lists(strange, max_size=2))]))
    return with_length(1, b"".join(field for part in parts for field in part))


texts = st.one_of(st.text(min_size=1).map(lambda text: text.encode("utf-8", "ignore")), st.binary(min_size=1))
# None has the text of a special piece.
some_texts = st.lists(texts.filter(lambda text: text[:1] not in {b"", b"<"}), min_size=1, max_size=20, unique=True)


@st.composite
def sound(draw: st.DrawFn, *, fallback: bool | None = None) -> tuple[list[Piece], int]:
    """The pieces of a model that is loaded, and byte_fallback."""
    fallback = draw(st.booleans()) if fallback is None else fallback
    normal = [(text, draw(st.sampled_from([NORMAL, USER_DEFINED, UNUSED]))) for text in draw(some_texts)]
    control = [(text, CONTROL) for text in draw(some_texts)]  # may have the text of normal ones
    pieces = draw(st.permutations([UNK, *control, *normal]))
    place = draw(st.integers(0, len(pieces)))
    return [*pieces[:place], *(BYTES if fallback else []), *pieces[place:]], draw(st.sampled_from(TRUE)) * fallback


@given(sound(), st.integers(UNIGRAM, CHAR))
def test_a_sound_model_has_no_faults(model: tuple[list[Piece], int], model_type: int) -> None:
    raw = encoded(*model, model_type)
    assert check_pieces(raw) == check_pieces(memoryview(raw)) == Pieces(len(model[0]))


@given(sound(fallback=False), st.data())
def test_a_sound_model_may_be_written_in_another_way(model: tuple[list[Piece], int], data: st.DataObject) -> None:
    trainer = [
        *data.draw(st.lists(st.one_of(strange, st.sampled_from([number(35, 1), number(3, CHAR)])), max_size=3)),
        number(35, 0, data.draw(st.integers(0, 9))),
        number(3, data.draw(st.integers(UNIGRAM, CHAR))),
        *data.draw(st.lists(st.sampled_from([number(3, 0), number(3, 5)]), max_size=1)),
    ]
    cut = data.draw(st.integers(0, len(trainer)))  # two messages of one field are merged
    fields = [data.draw(oddly(piece)) for piece in model[0]]
    for field in data.draw(st.lists(harmless, max_size=3)):
        fields.insert(data.draw(st.integers(0, len(fields))), field)
    place = data.draw(st.integers(0, len(fields)))
    fields[place:place] = [with_length(TRAINER, b"".join(part)) for part in (trainer[:cut], trainer[cut:])]
    raw = b"".join(fields)
    assert check_pieces(raw) == Pieces(len(model[0]))
    assert count_pieces(raw) == len(model[0])


@given(sound(fallback=False), st.data(), st.integers(1, 6))
def test_an_empty_piece_is_found(model: tuple[list[Piece], int], data: st.DataObject, piece_type: int) -> None:
    pieces, _ = model
    pieces = [piece for piece in pieces if piece != UNK or piece_type != UNKNOWN]
    place = data.draw(st.integers(0, len(pieces)))
    pieces.insert(place, (b"", piece_type))
    empty = f"piece {place}, '', is empty"
    if piece_type != BYTE:
        assert check_pieces(encoded(pieces)).faults == (empty,)
    else:
        assert check_pieces(encoded(pieces)).faults[0] == empty


@given(sound(), st.data())
def test_a_text_that_appears_twice_is_found(model: tuple[list[Piece], int], data: st.DataObject) -> None:
    pieces, fallback = model
    first = data.draw(st.sampled_from([place for place, piece in enumerate(pieces) if piece[1] not in {UNKNOWN, BYTE}]))
    place = data.draw(st.integers(first + 1, len(pieces)))
    text, piece_type = pieces[first]
    alike = {CONTROL} if piece_type == CONTROL else {NORMAL, USER_DEFINED, UNUSED}
    pieces.insert(place, (text, data.draw(st.sampled_from(sorted(alike)))))
    (fault,) = check_pieces(encoded(pieces, fallback)).faults
    assert fault.startswith(f"piece {place}, ")
    assert fault.endswith(f", has the same text as piece {first}")


@given(sound(), st.data())
def test_none_or_two_unknown_pieces_are_found(model: tuple[list[Piece], int], data: st.DataObject) -> None:
    pieces, fallback = model
    first = pieces.index(UNK)
    place = data.draw(st.integers(first + 1, len(pieces)))
    more = [*pieces[:place], (b"<other>", UNKNOWN), *pieces[place:]]
    expected = f"piece {place}, '<other>', has the type UNKNOWN, as does piece {first}: only one may"
    assert check_pieces(encoded(more, fallback)).faults == (expected,)
    pieces.remove(UNK)
    assert check_pieces(encoded(pieces, fallback)).faults == ("no piece has the type UNKNOWN",)


@given(sound(fallback=True), st.sets(st.integers(0, 255), min_size=1), st.sampled_from([NORMAL, CONTROL, None]))
def test_bytes_without_a_piece_are_found(
    model: tuple[list[Piece], int], missing: set[int], instead: int | None
) -> None:
    pieces, fallback = model
    gone = {BYTES[value] for value in missing}
    kept = [piece for piece in pieces if piece not in gone]
    kept += [(text, instead) for text, _ in gone if instead]  # it is the type that counts
    first = BYTES[min(missing)][0].decode()
    expected = f"byte_fallback is on, but {len(gone)} of the 256 bytes have no piece: first {first}"
    assert check_pieces(encoded(kept, fallback)).faults == (expected,)


@given(sound(fallback=False), st.lists(st.sampled_from(BYTES), min_size=1, unique=True))
def test_bytes_without_byte_fallback_are_found(model: tuple[list[Piece], int], some: list[Piece]) -> None:
    pieces, _ = model
    several = f", the first of {len(some)}," if len(some) > 1 else ""
    expected = f"piece {len(pieces)}, '{some[0][0].decode()}',{several} has the type BYTE, but byte_fallback is off"
    assert check_pieces(encoded([*pieces, *some])).faults == (expected,)


@pytest.mark.parametrize("text", [b"<0x0a>", b"<0x100>", b"<0x0>", b"0x41", b"A", b"<0x41> ", b"<0xGG>"])
def test_a_byte_of_another_form_is_found(text: bytes) -> None:
    expected = f"piece 257, '{text.decode()}', has the type BYTE, but is not one of <0x00> to <0xFF>"
    assert check_pieces(encoded([UNK, *BYTES, (text, BYTE)], 1)).faults == (expected,)


@given(st.lists(st.sampled_from([(b"</s>", CONTROL), *BYTES]), max_size=1), st.sampled_from([UNIGRAM, BPE, WORD, CHAR]))
def test_a_unigram_model_without_normal_pieces_is_found(pieces: list[Piece], model_type: int) -> None:
    fallback = any(piece[1] == BYTE for piece in pieces)
    raw = encoded([UNK, *(BYTES if fallback else pieces)], int(fallback), model_type)
    expected = "the model's type is UNIGRAM, but no piece has the type NORMAL, USER_DEFINED or UNUSED"
    assert check_pieces(raw).faults == ((expected,) if model_type == UNIGRAM else ())


@pytest.mark.parametrize(("field", "name"), [(NORMALIZER, "normalizer_spec"), (DENORMALIZER, "denormalizer_spec")])
@pytest.mark.parametrize("charsmap", [b"a", b"\0\0\0\0", b"\6\0\0\0ab", b"\xff\xff\xff\xffab"])
def test_a_charsmap_that_is_too_short_is_found(field: int, name: str, charsmap: bytes) -> None:
    raw = encoded(
        [UNK, (b"a", NORMAL)], 0, BPE, with_length(field, with_length(2, b"\5\0\0\0ab") + with_length(2, charsmap))
    )
    expected = f"the precompiled_charsmap of {name} has {len(charsmap)} bytes: fewer than it claims"
    assert check_pieces(raw).faults == (expected,)


def test_all_faults_are_found_at_once() -> None:
    pieces = [
        (b"", NORMAL),
        (b"a", NORMAL),
        (b"a", UNUSED),
        (b"a", CONTROL),
        ("é▁\0".encode(), CONTROL),
        (b"x" * 41, BYTE),
    ]
    assert check_pieces(encoded(pieces)) == Pieces(
        6,
        (
            "piece 0, '', is empty",
            "piece 2, 'a', has the same text as piece 1",
            f"piece 5, '{'x' * 40}'…, has the type BYTE, but is not one of <0x00> to <0xFF>",
            "no piece has the type UNKNOWN",
            f"piece 5, '{'x' * 40}'…, has the type BYTE, but byte_fallback is off",
        ),
    )


def test_a_text_that_is_not_utf_8_is_named() -> None:
    assert check_pieces(encoded([UNK, (b"\xffa", NORMAL), (b"\xffa", NORMAL)])).faults == (
        "piece 2, '\\\\xffa', has the same text as piece 1",
    )


def test_many_faults_of_pieces_are_counted() -> None:
    found = check_pieces(encoded([(b"", NORMAL)] * 100_000))
    assert found.count == 100_000
    assert found.faults[19:] == (
        "piece 19, '', is empty",
        "pieces have 99980 more faults",
        "no piece has the type UNKNOWN",
    )


@pytest.mark.parametrize(
    "raw",
    [
        with_length(1, b"\x0a\x05abcd"),
        with_length(1, b"\x0a\x01a\x15\0\0\0"),
        with_length(1, b"\x0a\x01a\x18"),
        with_length(1, b"\x0a\x01a\x18\x81"),
        with_length(1, b"\x0a"),
        with_length(TRAINER, b"\x18"),
        with_length(TRAINER, with_length(1, b"a")[:-1]),
        with_length(NORMALIZER, b"\x0a\x04abc"),
        with_length(DENORMALIZER, b"\x0a\x04abc"),
        with_length(SELF_TEST, b"\x0a\x04abc"),
        with_length(SELF_TEST, with_length(1, b"\x0a\x04abc")),
    ],
)
def test_a_truncated_part_of_a_whole_model_is_refused(raw: bytes) -> None:
    whole = encoded([UNK, (b"a", NORMAL)], 0, BPE, raw, with_length(1, encoded_piece(b"bcdefgh", NORMAL)))
    assert count_pieces(whole) >= 3
    with pytest.raises(FormatError, match=r"tokenizer-model: .* truncated"):
        check_pieces(whole)


@given(
    st.one_of(
        st.binary(max_size=200),
        models.map(b"".join),
        st.tuples(sound(), st.data()).map(lambda drawn: damaged(encoded(*drawn[0]), drawn[1])),
    )
)
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    counted = found = None
    try:
        counted = count_pieces(raw)
        assert counted > 0
        found = check_pieces(raw)
        assert found.count == counted
        assert len(found.faults) <= 30
    except FormatError as error:
        reason = error.reason
        assert reason == "tokenizer-model"
    assert found is None or counted is not None


def damaged(raw: bytes, data: st.DataObject) -> bytes:
    """Return the bytes with a few of them changed, or the end missing."""
    out = bytearray(raw[: data.draw(st.integers(1, len(raw)))])
    for place in data.draw(st.lists(st.integers(0, len(out) - 1), max_size=3)):
        out[place] = data.draw(st.integers(0, 255))
    return bytes(out)


def test_real_models_have_no_faults(shared_vectors: Path) -> None:
    paths = sorted(shared_vectors.glob("convert/tiny-*/tokenizer.model"))
    assert paths
    assert all(check_pieces(path.read_bytes()) == Pieces(1024) for path in paths)
