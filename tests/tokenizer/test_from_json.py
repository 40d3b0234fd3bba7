"""A tokenizer.json as pieces; what can't be a SentencePiece model is named; what is not such a file is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.gemma.tokenizer import check_pieces, pieces_of
from blobstore.tokenizer.document import InexpressibleError
from blobstore.tokenizer.fitting import MadeTokenizer
from blobstore.tokenizer.from_json import parse_tokenizer
from tests.strategies import json_values
from tests.tokenizer_files import (
    BYTE,
    BYTES,
    CONTROL,
    NORMAL,
    SMALL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    added_token,
    document_of,
    dumped,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tokenizer_files import Document


TOOL = f"<tool{SPACE}call>"


def test_pieces_are_those_of_the_vocabulary_by_id() -> None:
    made = parse_tokenizer(dumped(document_of(SMALL)))
    assert [(made.pieces[number].text.decode(), made.pieces[number].type) for number in range(len(SMALL))] == SMALL
    assert [made.pieces[number].score for number in (3, 4, 5, 261, 262, 263, 266)] == [0, 0, 0, 0, -1, -2, -5]
    assert made.special == {"pad": 0, "eos": 1, "bos": 2, "unk": 3}
    assert (made.byte_fallback, made.escape, made.inexact) == (True, True, 0)


def test_scores_follow_the_merges_where_ids_do_not() -> None:
    pieces = [("<unk>", UNKNOWN), ("a", NORMAL), ("b", NORMAL), ("bb", NORMAL), ("ab", NORMAL)]
    made = parse_tokenizer(dumped(document_of(pieces, merges=["a b", "b b"])))
    assert {made.pieces[number].text: made.pieces[number].score for number in range(1, 5)} == {
        b"ab": 0,
        b"bb": -1,
        b"a": -2,
        b"b": -3,
    }


def test_both_spellings_of_merges_are_the_same() -> None:
    document = document_of(SMALL)
    pairs = parse_tokenizer(dumped(document))
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    assert parse_tokenizer(dumped(document)) == pairs


def test_a_piece_that_can_be_joined_otherwise_is_counted() -> None:
    pieces = [("<unk>", UNKNOWN), *((text, NORMAL) for text in ("a", "b", "c", "ab", "bc", "abc"))]
    made = parse_tokenizer(dumped(document_of(pieces, merges=["a b", "b c", "ab c"])))
    assert made.inexact == 1  # abc is a and bc, too
    notes = MadeTokenizer(made, "tokenizer.json").fitted(7).notes
    assert notes[1] == (
        "tokenizer: 1 piece can be joined in SentencePiece in other ways than by its merges: "
        "some texts get other tokens than in transformers"
    )


def test_html_tags_are_not_the_ends_of_a_text() -> None:
    """Gemma has <s> and </s>: they are HTML's."""
    made = parse_tokenizer(dumped(document_of([*SMALL, ("<s>", USER_DEFINED), ("</s>", USER_DEFINED)])))
    assert [made.pieces[number].type for number in (1, 2, 267, 268)] == [CONTROL, CONTROL, USER_DEFINED, USER_DEFINED]


@pytest.mark.parametrize("both", [True, False])
def test_a_tab_may_have_the_id_of_its_byte(both: bool) -> None:
    """As converted tokenizers have it: beside the byte, or instead of it."""
    document = document_of(SMALL)
    vocabulary = document["model"]["vocab"]
    number = vocabulary["<0x09>"]
    if not both:
        del vocabulary["<0x09>"]
    vocabulary["\t"] = number
    made = parse_tokenizer(dumped(document))
    assert made.pieces[number][::2] == (b"<0x09>", BYTE)
    assert not check_pieces(MadeTokenizer(made, "tokenizer.json").fitted(267).raw).faults


def test_a_special_token_is_found_in_texts() -> None:
    document = document_of(SMALL)
    document["added_tokens"].append(added_token(267, "<tool call>", special=True, lstrip=True))
    made = MadeTokenizer(parse_tokenizer(dumped(document)), "tokenizer.json")
    fitted = made.fitted(270)
    assert list(pieces_of(fitted.raw))[266:] == [
        (SPACE.encode(), NORMAL),
        (TOOL.encode(), USER_DEFINED),
        (b"<padding_268>", 5),
        (b"<padding_269>", 5),
    ]
    assert fitted.notes == (
        "tokenizer: a SentencePiece model is made from tokenizer.json: 270 pieces",
        "tokenizer: 2 rows without a token get pieces of the type UNUSED: 268 to 269",
        f"tokenizer: lstrip, rstrip and single_word have no equal in SentencePiece, and are ignored: 267 {TOOL!r}",
    )


def test_an_added_token_in_the_place_of_another_is_told() -> None:
    document = document_of(SMALL)
    number = document["model"]["vocab"]["a"]
    document["added_tokens"].append(added_token(number, "<new>"))
    made = MadeTokenizer(parse_tokenizer(dumped(document)), "tokenizer.json")
    assert f"tokenizer: 1 piece renamed as its added_tokens say: {number} 'a' → '<new>'" in made.fitted(267).notes


def changed(**members: object) -> Callable[[Document], object]:
    return lambda document: document.update(members)


def model(**members: object) -> Callable[[Document], object]:
    return lambda document: document["model"].update(members)


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
INEXPRESSIBLE: dict[str, Callable[[Document], object]] = {
    "its model is byte-level BPE": changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTE_LEVEL]}),
    "its model is WordPiece, not BPE": model(type="WordPiece"),
    "its model is Unigram, not BPE": model(type="Unigram", vocab=[["a", -1.0]]),
    "its model has dropout": model(dropout=0.1),
    "its token 300 has 2000000 characters, more than 1000": lambda document: document["model"]["vocab"].update(
        {"a" * 2_000_000: 300}
    ),
    "its model has end_of_word_suffix": model(end_of_word_suffix="</w>"),
    "its normalizer NFC changes texts": changed(normalizer={"type": "NFC"}),
    "its normalizer Prepend changes texts": changed(
        normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}]}
    ),
    "its pre_tokenizer Whitespace splits texts": changed(pre_tokenizer={"type": "Whitespace"}),
    "its pre_tokenizer Split splits texts": changed(normalizer=None),
    "its pre_tokenizer Metaspace splits texts, or puts a space before them": changed(
        pre_tokenizer={"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    ),
    "its decoder Strip changes texts": changed(decoder={"type": "Strip", "content": " ", "start": 1, "stop": 0}),
    "it has byte_fallback, but no token <0x80>": lambda document: document["model"]["vocab"].pop("<0x80>"),
    "it has no token for what is unknown (unk_token)": model(unk_token=None),
    "its tokens 261 and 300 are both 'ab'": lambda document: document["added_tokens"].append(added_token(300, "ab")),
}


@pytest.mark.parametrize("what", INEXPRESSIBLE)
def test_what_sentencepiece_cannot_do_is_named(what: str) -> None:
    document = document_of(SMALL)
    INEXPRESSIBLE[what](document)
    with pytest.raises(InexpressibleError) as caught:
        parse_tokenizer(dumped(document))
    assert str(caught.value) == what


def test_steps_without_effect_are_taken() -> None:
    document = document_of(SMALL)
    document |= {"normalizer": {"type": "Sequence", "normalizers": [document["normalizer"]]}, "decoder": None}
    expected = parse_tokenizer(dumped(document_of(SMALL)))
    assert parse_tokenizer(dumped(document)) == expected
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
    document |= {"normalizer": None, "pre_tokenizer": metaspace}
    assert parse_tokenizer(dumped(document)) == expected
    document |= {"pre_tokenizer": None}
    assert not parse_tokenizer(dumped(document)).escape


WRONG: dict[str, Callable[[Document], object]] = {
    "it has no model": changed(model=[]),
    "its model has no vocab": model(vocab=[]),
    "'ab' has the id -1": lambda document: document["model"]["vocab"].update(ab=-1),
    "'ab' has the id True": lambda document: document["model"]["vocab"].update(ab=True),
    "the token 300 is empty": lambda document: document["model"]["vocab"].update({"": 300}),
    "'ab' and 'q' both have the id 261": lambda document: document["model"]["vocab"].update(q=261),
    "'a' and 'longer' both have the id": lambda document: document["model"]["vocab"].update(
        longer=document["model"]["vocab"]["a"]
    ),
    "no merges": model(merges=None),
    "a merge is 'a b c'": model(merges=["a b c"]),
    "a merge is ['a', 'q']": model(merges=[["a", "q"]]),
    "a merge is ['a', 1]": model(merges=[["a", 1]]),
    "a merge is 7": model(merges=[7]),
    "added_tokens: expected a list": changed(added_tokens={}),
    "added_tokens: expected objects": changed(added_tokens=[1]),
    "has the id None": changed(added_tokens=[{"content": "a"}]),
    "has the content ''": changed(added_tokens=[added_token(7, "")]),
    "has lstrip 1": changed(added_tokens=[added_token(7, "x", lstrip=1)]),  # type: ignore[arg-type]
    "the token 7 appears twice": changed(added_tokens=[added_token(7, "x")] * 2),
    "decoder: expected an object": changed(decoder=[]),
    "normalizer: a Sequence without": changed(normalizer={"type": "Sequence"}),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_a_tokenizer_is_refused(what: str) -> None:
    document = document_of(SMALL)
    WRONG[what](document)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared)
        parse_tokenizer(dumped(document))
    assert what in str(caught.value)
    assert not isinstance(caught.value, InexpressibleError)


PLACES: list[tuple[str, ...]] = [("model",), ("added_tokens",), ("normalizer",), ("pre_tokenizer",), ("decoder",)]
PLACES += [("model", name) for name in ("type", "vocab", "merges", "unk_token", "byte_fallback", "dropout")]


@given(st.sampled_from(PLACES), json_values)
def test_any_other_value_gives_a_tokenizer_or_one_error(place: tuple[str, ...], value: Any) -> None:  # noqa: ANN401
    document = document_of([*SMALL[:5], *BYTES, ("a", NORMAL)])
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    try:
        made = parse_tokenizer(dumped(document))
    except ValueError as error:
        assert str(error)  # noqa: PT017
    else:
        assert made.pieces
