"""A tokenizer.json as it is: its model's tokens and merges, and the steps around the model.

The format is that of https://github.com/huggingface/tokenizers. All of it is foreign: what has another form is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blobstore.index.strict_json import parse_json
from blobstore.tokenizer.added import MAX_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

Document = dict[str, Any]
SPACE = "\u2581"  # stands for a space in tokens
ESCAPE: Document = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PARTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
_HALVES = [str, str]  # the types of what a merge consists of
_UNSUPPORTED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


class InexpressibleError(ValueError):
    """A tokenizer.json that is right, but that no blob of the runtime can express: the message says what it has."""


def parse_document(raw: bytes) -> tuple[Document, Document]:
    """Return a tokenizer.json, and its model.

    Raises:
        ValueError: It is not such a file; the message says why.
    """
    document = parse_json(raw)
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, dict):
        raise ValueError("it has no model, which lists the tokens")
    return document, model


def refuse_other_models(model: Document) -> None:
    """Refuse what is not BPE, or BPE with options that no version of the runtime has.

    Raises:
        InexpressibleError: And what it is.
    """
    if model.get("type") != "BPE":
        raise InexpressibleError(f"its model is {named(model.get('type'))}, not BPE")
    for name in _UNSUPPORTED:
        if model.get(name):
            raise InexpressibleError(f"its model has {name}")


def steps_of(document: Document, name: str) -> list[Document]:
    """Return a normalizer, pre_tokenizer or decoder as a list of its steps, those of a Sequence in a Sequence too.

    Raises:
        ValueError: It has another form.
    """
    step = document.get(name)
    if step is None:
        return []
    if not isinstance(step, dict):
        raise ValueError(f"{name}: expected an object, found {type(step).__name__}")
    done, ahead = [], [step]
    while ahead:
        step = ahead.pop()
        if step.get("type") != "Sequence":
            done.append(step)
            continue
        steps = step.get(_PARTS[name])
        if not isinstance(steps, list) or not all(isinstance(one, dict) for one in steps):
            raise ValueError(f"{name}: a Sequence without a list of objects")
        ahead += reversed(steps)
    return done


def is_byte_level(document: Document) -> bool:
    """Whether tokens consist of characters that stand for bytes."""
    steps = [*steps_of(document, "pre_tokenizer"), *steps_of(document, "decoder")]
    return any(step.get("type") == "ByteLevel" for step in steps)


def named(kind: object) -> str:
    """Return the type of a step or of a model for a message."""
    return kind[:40] if isinstance(kind, str) else "of no type"


def vocabulary_of(model: Document) -> dict[str, int]:
    """Return the tokens of a model, text → id.

    Raises:
        ValueError: They have another form.
    """
    value = model.get("vocab")
    if not isinstance(value, dict) or not value:
        raise ValueError("its model has no vocab, which says each token's id")
    for text, number in value.items():
        if type(number) is not int or not 0 <= number < MAX_ID:
            raise ValueError(f"the token {text[:40]!r} has the id {number!r:.40}")
        if not text:
            raise ValueError(f"the token {number} is empty")
    return value


def merges_of(model: Document) -> Iterator[tuple[str, str]]:
    """Yield the merges in the order of their ranks, the left and the right half of each. There are two spellings.

    Raises:
        ValueError: One is anything else.
    """
    value = model.get("merges")
    if not isinstance(value, list):
        raise ValueError("its model has no merges, a list")
    for item in value:
        halves = item.split(" ") if isinstance(item, str) else item
        if not isinstance(halves, list) or [*map(type, halves)] != _HALVES:
            raise not_a_merge(item)
        yield halves[0], halves[1]


def not_a_merge(item: object) -> ValueError:
    """Return the error for what should be a merge."""
    return ValueError(f"a merge is {item!r:.60}, not two tokens that make a third")
