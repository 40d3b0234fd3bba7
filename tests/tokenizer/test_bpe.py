"""A tokenizer.json, or a vocab.json and a merges.txt, as a BPE record: what is kept, refused, left out, and told."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.gemma import BpeTokenizer
from blobstore.tokenizer import proto
from blobstore.tokenizer.added import AddedToken
from blobstore.tokenizer.document import InexpressibleError
from blobstore.tokenizer.fitting_bpe import MadeBpe, StoredBpe
from blobstore.tokenizer.from_json_bpe import parse_bpe, parse_vocab_and_merges
from tests.strategies import json_values
from tests.tokenizer_files import SMALL, SPACE, added_token, document_of, dumped

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tokenizer_files import Document

ALPHABET = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
OWN_SPLIT = "gemma.cpp splits texts by a pattern of its own, to which every character beyond ASCII is a letter"
OTHER_TOKENS = "some texts get other tokens than in transformers"


def byte_level(**changes: object) -> Document:
    """A small tokenizer.json as Qwen has it."""
    model = {
        "type": "BPE",
        "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "\u0120": 5},
        "merges": [["a", "b"], ["ab", "c"]],
    }
    return {
        "added_tokens": [added_token(6, "<|end|>", special=True), added_token(7, "<think>")],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, ALPHABET]},
        "decoder": ALPHABET,
        "model": model | changes,
    }


def made(document: Document) -> tuple[BpeTokenizer, tuple[str, ...]]:
    tokenizer = MadeBpe(parse_bpe(dumped(document)), "tokenizer.json")
    fitted = tokenizer.fitted(min(tokenizer.rows, 1000))
    return BpeTokenizer.from_bytes(fitted.raw), fitted.notes


def test_tokens_merges_and_added_tokens_are_those_of_the_file() -> None:
    record, notes = made(byte_level())
    assert record == BpeTokenizer(
        flags=4,
        tokens=(b"a", b"b", b"c", b"ab", b"abc", "\u0120".encode(), b"<|end|>", b"<think>"),
        merges=(0, 1, 3, 2),
        added_ids=(6, 7),
    )
    assert notes == (
        "tokenizer: a byte-level BPE blob is made from tokenizer.json: 8 tokens, 2 merges, 2 added tokens",
        f"tokenizer: {OWN_SPLIT}: {OTHER_TOKENS}",
    )


def test_both_spellings_of_merges_are_the_same() -> None:
    assert made(byte_level(merges=["a b", "ab c"])) == made(byte_level())


def test_steps_of_a_sequence_in_a_sequence_are_steps() -> None:
    document = byte_level()
    expected = made(document)
    document["decoder"] = None
    document["pre_tokenizer"]["pretokenizers"] = [SPLIT, {"type": "Sequence", "pretokenizers": [ALPHABET]}]
    assert made(document) == expected


def test_of_many_steps_a_few_are_told() -> None:
    document = byte_level() | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 9}}
    assert f"gemma.cpp doesn't follow its normalizer NFC: {OTHER_TOKENS}" in made(document)[1][1]
    document["normalizer"]["normalizers"] = [{"type": f"x{i}"} for i in range(999)]
    assert f"normalizer x4 and 994 more: {OTHER_TOKENS}" in made(document)[1][1]


def test_protobuf_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    proto._classes.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    try:
        assert made(byte_level())[0].tokens
        assert made(document_of(SMALL))[0].tokens
    finally:
        proto._classes.cache_clear()


def test_a_metaspace_vocabulary_has_other_flags() -> None:
    record, notes = made(document_of(SMALL))
    assert (record.flags, record.unk_id, record.added_ids) == (3, 3, (0, 1, 2, 3, 4))
    assert [text.decode() for text in record.tokens] == [text for text, _ in SMALL]
    assert len(notes) == 1
    without = document_of([*SMALL[:5], *SMALL[261:]], byte_fallback=False)
    assert made(without)[0].flags == 2


def test_an_added_token_overwrites_or_extends_ids() -> None:
    document = byte_level()
    document["model"] |= {"unk_token": "<|end|>"}
    document["added_tokens"] = [added_token(9, "<|end|>"), added_token(1, "<new>"), added_token(0, "a")]
    record, notes = made(document)
    assert record.tokens == (b"a", b"<new>", b"c", b"ab", b"abc", "\u0120".encode(), b"", b"", b"", b"<|end|>")
    assert (record.added_ids, record.merges, record.unk_id) == ((0, 1, 9), (3, 2), 9)
    assert notes[2:] == (
        "tokenizer: 1 merge left out, not of two tokens that make a third: 'a' 'b'",
        "tokenizer: 1 token renamed as its added_tokens say: 1 'b' → '<new>'",
        "tokenizer: 3 rows without a token: 6 to 8",
    )


@pytest.mark.parametrize(("rows", "shown"), [(9, "1 row without a token: 8"), (12, "4 rows without a token: 8 to 11")])
def test_rows_behind_the_last_token_are_told_and_get_none(rows: int, shown: str) -> None:
    fitted = MadeBpe(parse_bpe(dumped(byte_level())), "tokenizer.json").fitted(rows, 32)
    assert fitted.notes[-1] == f"tokenizer: {shown}"
    assert BpeTokenizer.from_bytes(fitted.raw) == made(byte_level())[0]


def test_rows_between_tokens_are_told() -> None:
    document = byte_level()
    document["added_tokens"] = [added_token(7, "<a>"), added_token(9, "<b>"), added_token(16, "<c>")]
    record, notes = made(document)
    assert record.tokens[6:10] == (b"", b"<a>", b"", b"<b>")
    assert notes[-1] == "tokenizer: 8 rows without a token: 6, 8, 10, 11, 12 and 3 more"


def test_merges_that_make_no_token_are_left_out() -> None:
    record, notes = made(byte_level(merges=[["b", "c"], ["a", "b"], ["x", "y"]]))
    assert record.merges == (0, 1)
    assert notes[2] == ("tokenizer: 2 merges left out, not of two tokens that make a third: 'b' 'c', 'x' 'y'")


def test_tokens_beyond_the_embedding_are_left_out_with_their_merges() -> None:
    tokenizer = MadeBpe(parse_bpe(dumped(byte_level())), "tokenizer.json", placeholders={7})
    assert (tokenizer.rows, tokenizer.find("ab"), tokenizer.find("<pad>")) == (7, 3, None)
    fitted = tokenizer.fitted(4, 32)
    record = BpeTokenizer.from_bytes(fitted.raw)
    assert (record.tokens, record.merges, record.added_ids) == ((b"a", b"b", b"c", b"ab"), (0, 1), ())
    assert fitted.notes == (
        "tokenizer: a byte-level BPE blob is made from tokenizer.json: 4 tokens, 1 merge, 0 added tokens",
        f"tokenizer: {OWN_SPLIT}: {OTHER_TOKENS}",
        "tokenizer: 1 merge left out, not of two tokens that make a third: 'ab' 'c'",
        "tokenizer: left out, beyond the 4 rows of the vocabulary: 4 'abc', 5 '\u0120', 6 '<|end|>', 7 '<think>'",
    )


def test_a_stored_record_is_taken_as_it_is() -> None:
    raw = MadeBpe(parse_bpe(dumped(byte_level())), "tokenizer.json").fitted(8).raw
    stored = StoredBpe(raw)
    assert (stored.rows, stored.find("ab"), stored.find("x"), stored.fitted(3)) == (8, 3, None, stored.fitted(8))
    assert stored.fitted(8).raw == raw


def test_tokens_of_other_files_are_added() -> None:
    vocabulary = parse_bpe(dumped(byte_level()))
    tokens = {
        number: AddedToken(number, text, narrows=text == "<x>")
        for number, text in {3: "ab", 8: "<x>", 9: "abc", 2: "<y>"}.items()
    }
    other = vocabulary.add(tokens.values())
    assert [token.id for token in other] == [9, 2]
    fitted = MadeBpe(vocabulary, "tokenizer.json, added_tokens.json").fitted(9)
    record = BpeTokenizer.from_bytes(fitted.raw)
    assert (len(record.tokens), record.added_ids) == (9, (3, 6, 7, 8))
    assert fitted.notes[-1] == (
        "tokenizer: lstrip, rstrip and single_word have no equal in gemma.cpp, and are ignored: 8 '<x>'"
    )


def changed(**members: object) -> Callable[[Document], object]:
    return lambda document: document.update(members)


UNLIKE: dict[str, tuple[Callable[[], Document], Callable[[Document], object]]] = {
    "its normalizer NFC": (byte_level, changed(normalizer={"type": "NFC"})),
    "its normalizer NFC, normalizer Lowercase": (
        byte_level,
        changed(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
    ),
    "its pre_tokenizer ByteLevel": (byte_level, changed(pre_tokenizer=ALPHABET | {"use_regex": True})),
    "its pre_tokenizer Split, pre_tokenizer ByteLevel": (
        byte_level,
        changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT | {"pattern": {"Regex": "x"}}, ALPHABET]}),
    ),
    "its pre_tokenizer Digits, pre_tokenizer Split, pre_tokenizer ByteLevel": (
        byte_level,
        changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits"}, SPLIT, ALPHABET]}),
    ),
    "its ignore_merges, which takes a whole word for its token": (
        lambda: byte_level(ignore_merges=True),
        changed(),
    ),
    "its normalizer Prepend": (
        lambda: document_of(SMALL),
        lambda document: document.update(
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Prepend", "prepend": SPACE}, document["normalizer"]],
            }
        ),
    ),
    "its pre_tokenizer Metaspace": (
        lambda: document_of(SMALL),
        changed(
            normalizer=None,
            pre_tokenizer={"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": False},
        ),
    ),
    "its pre_tokenizer Whitespace, spaces, which it doesn't replace by U+2581": (
        lambda: document_of(SMALL),
        changed(normalizer=None, pre_tokenizer={"type": "Whitespace"}),
    ),
    "its byte_fallback, which is off": (lambda: document_of(SMALL, byte_fallback=False), changed()),
    "its byte_fallback, which is on": (
        lambda: document_of([*SMALL[:5], *SMALL[261:]], byte_fallback=True),
        changed(),
    ),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_what_the_runtime_does_otherwise_is_told(what: str) -> None:
    document, change = UNLIKE[what]
    whole = document()
    change(whole)
    (line,) = (line for line in made(whole)[1] if OTHER_TOKENS in line)
    assert line.endswith(f"gemma.cpp doesn't follow {what}: {OTHER_TOKENS}")


@pytest.mark.parametrize("normalizer", [True, False])
def test_steps_without_effect_are_not_told(normalizer: bool) -> None:
    document = document_of(SMALL)
    if not normalizer:
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
        document |= {"normalizer": None, "pre_tokenizer": metaspace}
    assert len(made(document)[1]) == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_tab_may_have_the_id_of_its_byte(first: bool) -> None:
    document = document_of(SMALL)
    vocabulary = document["model"]["vocab"]
    number = vocabulary["<0x09>"]
    document["model"]["vocab"] = {"\t": number, **vocabulary} if first else {**vocabulary, "\t": number}
    record, _ = made(document)
    assert (record.tokens[number], record.flags) == (b"\t", 3)


LONG = "\u0120" * 129  # spaces
INEXPRESSIBLE: dict[str, Callable[[Document], object]] = {
    "its model is WordPiece, not BPE": lambda document: document["model"].update(type="WordPiece"),
    "its model is of no type, not BPE": lambda document: document["model"].pop("type"),
    "its model has dropout": lambda document: document["model"].update(dropout=0.1),
    "its model has continuing_subword_prefix": lambda document: document["model"].update(continuing_subword_prefix="#"),
    "its model has end_of_word_suffix": lambda document: document["model"].update(end_of_word_suffix="</w>"),
    "its tokens 3 and 8 are both 'ab'": lambda document: document["added_tokens"].append(added_token(8, "ab")),
    f"its token 8, {LONG[:40]!r}, has 258 bytes: a string has at most 256": lambda document: document["model"][
        "vocab"
    ].update({LONG: 8}),
    "its token 8, '\\x00', has a NUL at its end": lambda document: document["added_tokens"].append(
        added_token(8, "\0")
    ),
}


@pytest.mark.parametrize("what", INEXPRESSIBLE)
def test_what_no_record_can_hold_is_named(what: str) -> None:
    document = byte_level()
    INEXPRESSIBLE[what](document)
    with pytest.raises(InexpressibleError) as caught:
        made(document)
    assert str(caught.value).startswith(what)


WRONG: dict[str, Callable[[Document], object]] = {
    "it has no model": changed(model=[]),
    "its model has no vocab": lambda document: document["model"].update(vocab=[]),
    "its model has no merges": lambda document: document["model"].pop("merges"),
    "a merge is 'a b c', not two tokens": lambda document: document["model"].update(merges=["a b c"]),
    "a merge is {'a': 0, 'b': 1}, not two tokens": lambda document: document["model"].update(merges=[{"a": 0, "b": 1}]),
    "a merge is ['a', 1], not two tokens": lambda document: document["model"].update(merges=[["a", 1]]),
    "'ab' and 'q' both have the id 3": lambda document: document["model"]["vocab"].update(q=3),
    "added_tokens: expected a list": changed(added_tokens={}),
    "decoder: expected an object": changed(decoder=[]),
    "surrogates not allowed": lambda document: document["model"]["vocab"].update({"\ud800": 8}),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_a_tokenizer_is_refused(what: str) -> None:
    document = byte_level()
    WRONG[what](document)
    raw = dumped(document) if "surrogates" not in what else dumped_in_ascii(document)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared)
        parse_bpe(raw)
    assert what in str(caught.value)
    assert not isinstance(caught.value, InexpressibleError)


def dumped_in_ascii(document: Document) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("vocab", "merges", "what"),
    [
        (b"[]", b"", "its model has no vocab"),
        (b'{"a": 0}', b"a b c", "a merge is 'a b c'"),
        (b'{"a": 0}', b"\xff", "can't decode"),
        (b'{"a": 0, "a": 1}', b"", "twice"),
    ],
)
def test_other_files_than_vocab_and_merges_are_refused(vocab: bytes, merges: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_vocab_and_merges(vocab, merges)


PLACES: list[tuple[str, ...]] = [("model",), ("added_tokens",), ("normalizer",), ("pre_tokenizer",), ("decoder",)]
PLACES += [("model", name) for name in ("type", "vocab", "merges", "unk_token", "byte_fallback", "ignore_merges")]


@given(st.sampled_from(PLACES), json_values, st.booleans())
def test_any_other_value_gives_a_record_or_one_error(place: tuple[str, ...], value: Any, metaspace: bool) -> None:  # noqa: ANN401
    document = document_of(SMALL) if metaspace else byte_level()
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    try:
        record, notes = made(document)
    except ValueError as error:
        assert str(error)  # noqa: PT017
    else:
        assert record.tokens
        assert notes
