"""Added tokens as each of the three files has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from blobstore.tokenizer.added import Added, AddedToken, added_by_text, added_in_config, added_in_json
from blobstore.tokenizer.from_json import parse_tokenizer
from blobstore.tokenizer.from_json_bpe import parse_bpe
from tests.tokenizer_files import SMALL, added_token, document_of, dumped

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.tokenizer.from_json import JsonTokenizer
    from blobstore.tokenizer.from_json_bpe import BpeVocabulary

TOKENS = {267: AddedToken(267, "<a b>", narrows=False), 268: AddedToken(268, "<c>", narrows=True)}
IN_JSON = [added_token(267, "<a b>"), added_token(268, "<c>", rstrip=True)]


def in_json(raw: bytes) -> Added:
    return added_in_json(raw, lambda: raw)


def test_all_three_files_say_the_same() -> None:
    document = document_of(SMALL) | {"added_tokens": IN_JSON}
    assert in_json(dumped(document)) == TOKENS
    decoder = {str(one["id"]): {key: value for key, value in one.items() if key != "id"} for one in IN_JSON}
    assert added_in_config({"added_tokens_decoder": decoder}) == TOKENS
    assert added_by_text({"<a b>": 267, "<c>": 268}) == TOKENS | {268: AddedToken(268, "<c>", narrows=False)}
    assert TOKENS[267].piece == "<a\u2581b>".encode()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("at", range(8))
def test_the_vocabulary_is_not_parsed_where_the_added_tokens_come_first(first: bool, at: int) -> None:
    document = {"version": "é", "added_tokens": IN_JSON, "model": document_of(SMALL)["model"]}
    if not first:
        document = dict(reversed(document.items()))
    raw = json.dumps(document, ensure_ascii=False).encode()
    wholly = []

    def whole() -> bytes:
        wholly.append(at)
        return raw

    end = raw.index(b"]") if first else raw.rindex(b"]")
    assert added_in_json(raw[: end + at - 3], whole) == TOKENS
    assert bool(wholly) == (at < 4)


@pytest.mark.parametrize("parse", [parse_bpe, parse_tokenizer])
def test_tokens_of_other_files_are_added_at_once(parse: Callable[[bytes], BpeVocabulary | JsonTokenizer]) -> None:
    copies = []

    class Counting(dict[int, AddedToken]):
        def __or__(self, other: Any) -> Any:  # noqa: ANN401 (dict's own)
            copies.append(len(self))
            return Counting(super().__or__(other))

    made = parse(dumped(document_of(SMALL)))
    tokens = {number: AddedToken(number, f"<{number}>", narrows=False) for number in range(1000, 1100)}
    expected = made.added | tokens
    made.added = Counting(made.added)
    assert made.add(tokens.values()) == []
    assert made.added == expected
    assert len(copies) == 1


def test_a_file_without_added_tokens_has_none() -> None:
    assert in_json(b"{}") == in_json(b'{"added_tokens": null}') == added_in_config({}) == {}


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b'{"added_tokens": [}', b'{"added_tokens": 1}', b"[" * 99999, b"\xff"]
)
def test_another_file_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        in_json(raw)


@pytest.mark.parametrize("key", ["a", "-1", "1" * 30, "\u0661", ""])
def test_a_decoder_with_other_keys_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="has the id"):
        added_in_config({"added_tokens_decoder": {key: {"content": "a"}}})


@pytest.mark.parametrize("value", [[], {"a": "1"}, {"a": True}, {"a": -1}, {"": 1}, {"a": 1 << 31}])
def test_other_texts_and_numbers_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        added_by_text(value)
    with pytest.raises(ValueError, match=r"."):
        added_in_config({"added_tokens_decoder": value or [0]})
