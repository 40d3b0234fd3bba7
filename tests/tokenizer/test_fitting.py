"""A SentencePiece model with the tokens that were added to it: what is changed, what is kept, what is told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import FormatError, MissingExtraError
from blobstore.gemma.tokenizer import check_pieces, pieces_of
from blobstore.tokenizer import fitting, proto
from blobstore.tokenizer.added import AddedToken
from blobstore.tokenizer.fitting import MadeTokenizer, Tokenizer, of_pieces
from blobstore.tokenizer.from_json import parse_tokenizer
from blobstore.tokenizer.proto import parse_model
from tests.tokenizer_files import BYTE, NORMAL, SMALL, UNKNOWN, UNUSED, USER_DEFINED, document_of, dumped

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = of_pieces([(text.encode(), -1.5, kind) for text, kind in SMALL], "")
COUNT = len(SMALL)


def tokens(**texts: str) -> dict[int, AddedToken]:
    """Added tokens: ``_7="<a>"``."""
    return {int(name[1:]): AddedToken(int(name[1:]), text, narrows=False) for name, text in texts.items()}


def test_a_model_that_has_all_tokens_stays_as_it_is() -> None:
    padded = MODEL + b"\xc0\x3e\x05"  # an unknown field, last
    fitted = Tokenizer(padded, tokens(_0="<pad>", _4="<start_of_turn>", _261="ab"), "tokenizer.json").fitted(999)
    assert (fitted.raw, fitted.notes) == (padded, ())


def test_what_the_schema_does_not_have_is_kept() -> None:
    piece = b"\x0a\x0b\x0a\x01q\x15\0\0\0\x40\xc0\x3e\x05"  # with a field 1000
    self_test = b"\x22\x08\x0a\x06\x0a\x01a\x12\x01b"  # field 4
    fitted = Tokenizer(MODEL + piece + self_test, tokens(_268="<x>"), "tokenizer.json").fitted(269)
    assert b"\x01q\x15\0\0\0\x40\xc0\x3e\x05" in fitted.raw
    assert self_test in fitted.raw
    assert list(pieces_of(fitted.raw)) == [*pieces_of(MODEL), (b"q", NORMAL), (b"<x>", USER_DEFINED)]


def test_a_renamed_piece_keeps_its_score() -> None:
    fitted = Tokenizer(MODEL, tokens(_261="<tool>", _3="<none>"), "tokenizer.json").fitted(COUNT)
    model = parse_model(fitted.raw, "")
    assert [(model.pieces[at].piece, model.pieces[at].score, model.pieces[at].type) for at in (3, 261, 262)] == [
        (b"<none>", -1.5, UNKNOWN),  # there has to be one
        (b"<tool>", -1.5, USER_DEFINED),
        (b"abc", -1.5, 0),  # the default is not stored
    ]
    assert model.trainer_spec.vocab_size == COUNT


def test_texts_may_be_swapped() -> None:
    fitted = Tokenizer(MODEL, tokens(_261="abc", _262="ab"), "added_tokens.json").fitted(COUNT)
    assert list(pieces_of(fitted.raw))[261:263] == [(b"abc", USER_DEFINED), (b"ab", USER_DEFINED)]
    assert fitted.notes == ("tokenizer: 2 pieces renamed as in added_tokens.json: 261 'ab' → 'abc', 262 'abc' → 'ab'",)


def test_a_token_that_is_left_out_leaves_out_those_that_wait_for_its_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = of_pieces(
        [*((text.encode(), -1.5, kind) for text, kind in SMALL), *((b"p%d" % i, 0, 1) for i in range(9))], ""
    )
    added = tokens(**{f"_{COUNT + i}": f"p{i + 1}" for i in range(8)})  # the last piece keeps its text
    read: list[bytes] = []

    def counted(raw: bytes) -> Iterator[tuple[bytes, int]]:
        read.append(raw)
        return pieces_of(raw)

    monkeypatch.setattr(fitting, "pieces_of", counted)
    fitted = Tokenizer(pieces, added, "added_tokens.json").fitted(COUNT + 9)
    assert fitted.raw == pieces
    assert "left out, since other pieces have the same text: " in fitted.notes[0]
    assert f"{COUNT} 'p1'" in fitted.notes[0]
    assert len(read) == 2  # not once more for each of them


def test_what_cannot_be_is_named() -> None:
    added = tokens(_4="c", _10="<x>", _267="<y>", _268="<y>", _269="ab", _300="<image_soft_token>")
    fitted = Tokenizer(MODEL, added, "tokenizer.json").fitted(270)
    assert fitted.notes == (
        "tokenizer: 1 piece added from tokenizer.json: 267 '<y>'",
        "tokenizer: 2 rows without a token get pieces of the type UNUSED: 268 to 269",
        "tokenizer: left out, since their pieces stand for bytes: 10 '<x>'",
        "tokenizer: left out, since other pieces have the same text: 4 'c', 268 '<y>', 269 'ab'",
        "tokenizer: left out, beyond the 270 rows of the vocabulary: 300 '<image_soft_token>'",
    )


@given(
    st.dictionaries(st.integers(0, 290), st.text("abc<>", min_size=1, max_size=3), max_size=8), st.integers(267, 280)
)
def test_whatever_is_added_sentencepiece_loads_it_and_it_is_all_told(texts: dict[int, str], rows: int) -> None:
    added = {number: AddedToken(number, text, narrows=False) for number, text in texts.items()}
    fitted = Tokenizer(MODEL, added, "tokenizer.json").fitted(rows)
    assert not check_pieces(fitted.raw).faults
    pieces = list(pieces_of(fitted.raw))
    assert len(pieces) in (COUNT, rows)
    told = " ".join(fitted.notes)
    for number, text in texts.items():
        at = pieces[number] if number < len(pieces) else None
        assert (at is not None and at[0] == text.encode()) or "left out" in told
    assert Tokenizer(MODEL, added, "tokenizer.json").fitted(rows) == fitted


def test_rows_that_only_fill_up_have_no_tokens() -> None:
    for tokenizer, told in (
        (
            Tokenizer(MODEL, tokens(_267="<x>", _268="<y>"), "tokenizer.json"),
            "1 piece added from tokenizer.json: 267 '<x>'",
        ),
        (
            MadeTokenizer(parse_tokenizer(dumped(document_of([*SMALL, ("<x>", 4), ("<y>", 4)]))), "tokenizer.json"),
            "a SentencePiece model is made from tokenizer.json: 271 pieces",
        ),
    ):
        fitted = tokenizer.fitted(268, 271)
        padding = [(b"<padding_%d>" % number, UNUSED) for number in range(268, 271)]
        assert list(pieces_of(fitted.raw))[267:] == [(b"<x>", USER_DEFINED), *padding]
        assert fitted.notes == (
            f"tokenizer: {told}",
            "tokenizer: left out, beyond the 268 rows of the vocabulary: 268 '<y>'",
        )
        assert [tokenizer.find(text) for text in ("<pad>", "<x>", "<z>")] == [0, 267, None]


def test_a_placeholder_has_another_text_than_all_pieces() -> None:
    fitted = Tokenizer(MODEL, tokens(_267="<padding_268>", _269="<z>"), "tokenizer.json").fitted(270)
    assert list(pieces_of(fitted.raw))[267:] == [
        (b"<padding_268>", USER_DEFINED),
        (b"<<padding_268>>", UNUSED),
        (b"<z>", USER_DEFINED),
    ]


def test_rows_are_needed_for_tokens_but_not_for_those_that_stand_for_images() -> None:
    assert Tokenizer(MODEL).rows == COUNT
    added = tokens(_267="<image_soft_token>", _280="<image>", _270="<other>")
    assert Tokenizer(MODEL, added).rows == 271
    assert Tokenizer(MODEL, added, placeholders={270}).rows == COUNT
    made = parse_tokenizer(dumped(document_of(SMALL)))
    assert MadeTokenizer(made, "tokenizer.json").rows == COUNT
    made.added.update(added)
    assert MadeTokenizer(made, "tokenizer.json", {270}).rows == COUNT


def test_a_model_that_protobuf_cannot_read_is_refused() -> None:
    with pytest.raises(FormatError, match="tokenizer-model: this is not a SentencePiece model"):
        parse_model(b"\x0a\x05ab", "")


def test_without_protobuf_the_error_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    proto._classes.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    assert Tokenizer(MODEL, tokens(_0="<pad>")).fitted(COUNT).raw == MODEL
    try:
        with pytest.raises(MissingExtraError) as caught:
            Tokenizer(MODEL, tokens(_267="<x>"), "tokenizer.json").fitted(268)
        assert caught.value.reason == "missing-extra"
        assert caught.value.message == (
            "1 of the tokens in tokenizer.json has to go into the tokenizer, which needs protobuf: "
            "pip install protobuf; or --tokenizer tokenizer.model takes that file as it is"
        )
        with pytest.raises(MissingExtraError) as caught:
            MadeTokenizer(parse_tokenizer(dumped(document_of(SMALL))), "tokenizer.json").fitted(267)
        assert caught.value.message == (
            "the tokenizer has to be made from tokenizer.json, which needs protobuf: "
            "pip install protobuf; or --tokenizer FILE takes a tokenizer.model"
        )
    finally:
        proto._classes.cache_clear()


def test_pieces_of_another_source_become_a_model() -> None:
    assert [kind for _, kind in pieces_of(MODEL)] == [kind for _, kind in SMALL]
    assert not check_pieces(MODEL).faults
    assert check_pieces(of_pieces([(b"<unk>", 0.0, UNKNOWN), (b"<0x00>", 0.0, BYTE)], "")).faults
