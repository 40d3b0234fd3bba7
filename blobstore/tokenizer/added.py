"""Added tokens: what tokenizer.json, tokenizer_config.json and added_tokens.json say besides the vocabulary.

All of it is foreign: a file in which anything has another form is refused as a whole.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from blobstore.index.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

MAX_ID = 1 << 31
FIRST_NBYTES = 1 << 22  # of tokenizer.json: the added tokens of published files take less
_FLAGS = ("special", "lstrip", "rstrip", "single_word")
_DECODER = json.JSONDecoder()
_BLANKS = " \t\r\n"
# Stand for an image in prompts of transformers. gemma.cpp puts the image there by itself.
_PLACEHOLDERS = ("<image_soft_token>", "<image>")


class AddedToken(NamedTuple):
    """A token that was added to a vocabulary, or stands for one of its entries.

    Attributes:
        id: Its number: its row of the embedding.
        text: As in texts, with spaces.
        narrows: Whether it takes spaces beside it, or is no token inside a word: a SentencePiece model can't say that.
    """

    id: int
    text: str
    narrows: bool

    @property
    def piece(self) -> bytes:
        """Its text as in a SentencePiece model, where spaces are U+2581."""
        return self.text.replace(" ", "\u2581").encode()


Added = dict[int, AddedToken]


def rows_needed(added: Iterable[AddedToken], placeholders: Collection[int]) -> int:
    """Return how many rows of an embedding added tokens need: those that stand for images need none.

    Args:
        added: The tokens.
        placeholders: Ids of tokens that stand for images.
    """
    needed = (token.id + 1 for token in added if token.id not in placeholders and token.text not in _PLACEHOLDERS)
    return max(needed, default=0)


def added_in_json(beginning: bytes, whole: Callable[[], bytes]) -> Added:
    """Return the added tokens of a tokenizer.json. Usually its vocabulary, 33 MB for Gemma 3, need not be read.

    Args:
        beginning: Its first bytes: `FIRST_NBYTES`, or all.
        whole: Reads all of it.

    Raises:
        ValueError: It is not such a file; the message says why.
    """
    try:
        return parse_added(dict(_members(beginning.decode("utf-8", "ignore")))["added_tokens"])
    except (ValueError, RecursionError):
        document = parse_json(whole())  # it was cut in the wrong place, or is wrong
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, found {type(document).__name__}")
    return parse_added(document.get("added_tokens"))


def _members(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the members of an object up to ``added_tokens``, which usually comes before the vocabulary."""
    at = _after(text, 0, "{")
    while True:
        key, at = _DECODER.raw_decode(text, _skipped(text, at))
        value, at = _DECODER.raw_decode(text, _skipped(text, _after(text, at, ":")))
        yield key, value
        if key == "added_tokens":
            return
        at = _after(text, at, ",")


def _skipped(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _BLANKS:
        at += 1
    return at


def _after(text: str, at: int, expected: str) -> int:
    at = _skipped(text, at)
    if text[at : at + 1] != expected:
        raise ValueError(f"no {expected!r} at character {at}")
    return at + 1


def parse_added(value: object) -> Added:
    """Return the tokens of ``added_tokens`` in a tokenizer.json; None is an empty list.

    Raises:
        ValueError: It has another form.
    """
    if value is None:
        return {}
    if not isinstance(value, list):
        raise ValueError(f"added_tokens: expected a list, found {type(value).__name__}")
    tokens: Added = {}
    for item in value:
        if not isinstance(item, dict):
            raise ValueError(f"added_tokens: expected objects, found {type(item).__name__}")
        token = _token(item.get("id"), item)
        if token.id in tokens:
            raise ValueError(f"added_tokens: the token {token.id} appears twice")
        tokens[token.id] = token
    return tokens


def added_in_config(config: dict[str, Any]) -> Added:
    """Return the tokens of ``added_tokens_decoder`` in a tokenizer_config.json.

    Raises:
        ValueError: It has another form.
    """
    value = config.get("added_tokens_decoder")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"added_tokens_decoder: expected an object, found {type(value).__name__}")
    tokens = [
        _token(
            int(key) if key.isascii() and key.isdigit() and len(key) < 12 else None,
            item if isinstance(item, dict) else {},
        )
        for key, item in value.items()
    ]
    return {token.id: token for token in tokens}


def added_by_text(value: object) -> Added:
    """Return the tokens of an added_tokens.json: texts with their numbers.

    Raises:
        ValueError: It has another form.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    tokens = [_token(number, {"content": text}) for text, number in value.items()]
    return {token.id: token for token in tokens}


def _token(number: object, item: dict[str, Any]) -> AddedToken:
    text = item.get("content")
    if type(number) is not int or not 0 <= number < MAX_ID:
        raise ValueError(f"an added token has the id {number!r:.40}")
    if not isinstance(text, str) or not text:
        raise ValueError(f"the added token {number} has the content {text!r:.40}")
    text.encode()
    flags = {name: item.get(name, False) for name in _FLAGS}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"the added token {number} has {name} {flag!r:.40}")
    return AddedToken(number, text, flags["lstrip"] or flags["rstrip"] or flags["single_word"])
