"""The tokens and merges of a BPE tokenizer, from a tokenizer.json, or from a vocab.json and its merges.txt.

What the runtime does with them was read in its source, and never run. Spec: spec/gemma.md, Tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blobstore.gemma.field_types import bytes_fault
from blobstore.gemma.tokenizer import BYTE_TEXTS
from blobstore.index.strict_json import parse_json
from blobstore.tokenizer.added import parse_added
from blobstore.tokenizer.document import (
    ESCAPE,
    SPACE,
    InexpressibleError,
    is_byte_level,
    merges_of,
    named,
    parse_document,
    refuse_other_models,
    steps_of,
    vocabulary_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blobstore.tokenizer.added import Added, AddedToken
    from blobstore.tokenizer.document import Document

# The pattern that the runtime's own split follows, but for characters that aren't ASCII: Qwen's.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Steps, by their types, that do no more than the runtime does. Other members of a step have no effect on tokens.
_SAME_SPLIT = {"type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Isolated", "invert": False}
_SAME_ALPHABET = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_SAME_METASPACE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
_NO_EFFECT = {"type": "Split", "pattern": {"String": " "}}  # where no space is left
_BYTE_LEVEL: tuple[Document, ...] = (_SAME_SPLIT, _SAME_ALPHABET)
_FIRST_LINE = "#version"
_FIRST_OF_TWO_BYTES = 0x80


@dataclass
class BpeVocabulary:
    """What such files have.

    Attributes:
        texts: By id, added tokens included; ids may be missing.
        added: The added tokens, which are among the texts.
        merges: Ids of the left and the right half, by rank: those of which the halves and the whole are tokens.
        dropped: The other merges.
        unk_id: The token for what is unknown; 0 without one.
        byte_level: Whether characters of tokens stand for bytes; else spaces are U+2581.
        renamed: Id → the token of the vocabulary that an added token takes the place of.
        unlike: What the files say, and the runtime does otherwise.
    """

    texts: dict[int, str]
    added: Added
    merges: list[tuple[int, int]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    unk_id: int = 0
    byte_level: bool = True
    renamed: dict[int, str] = field(default_factory=dict)
    unlike: list[str] = field(default_factory=list)

    @property
    def has_bytes(self) -> bool:
        """Whether it has tokens <0x00> to <0xFF>, for characters without a token."""
        return any(text.encode() in BYTE_TEXTS for text in self.texts.values() if len(text) == len("<0x00>"))

    def add(self, tokens: Iterable[AddedToken]) -> list[AddedToken]:
        """Add tokens of other files; return those that can't be: other tokens have their numbers or texts."""
        numbers = {text: number for number, text in self.texts.items()}
        added, other = {}, []
        for token in tokens:
            if numbers.get(token.text, token.id) != token.id or self.texts.get(token.id, token.text) != token.text:
                other.append(token)
                continue
            _refuse_unstorable(token.id, token.text)
            numbers[token.text] = token.id
            self.texts[token.id] = token.text
            added[token.id] = token
        self.added = self.added | added
        return other


def parse_bpe(raw: bytes) -> BpeVocabulary:
    """Parse a tokenizer.json.

    Raises:
        InexpressibleError: It can't be a blob of this kind.
        ValueError: It is not such a file; the message says why.
    """
    return bpe_of(*parse_document(raw))


def parse_vocab_and_merges(vocab: bytes, merges: bytes) -> BpeVocabulary:
    """Parse a vocab.json and its merges.txt, as older exporters save byte-level tokenizers. They have no added tokens.

    Raises:
        InexpressibleError: They can't be a blob of this kind.
        ValueError: They are not such files; the message says why.
    """
    lines = [line.removesuffix("\r") for line in merges.decode().split("\n")]
    pairs = [line for line in lines if line and not line.startswith(_FIRST_LINE)]
    model = {"type": "BPE", "vocab": parse_json(vocab), "merges": pairs}
    return bpe_of({"decoder": {"type": "ByteLevel"}}, model)


def bpe_of(document: Document, model: Document) -> BpeVocabulary:
    """Return what a tokenizer.json and its model have.

    Raises:
        InexpressibleError: It can't be a blob of this kind.
        ValueError: It has another form; the message says why.
    """
    refuse_other_models(model)
    made = BpeVocabulary({}, parse_added(document.get("added_tokens")), byte_level=is_byte_level(document))
    _add_texts(made, vocabulary_of(model))
    _add_merges(made, merges_of(model))
    unknown = model.get("unk_token")
    made.unk_id = next((number for number, text in made.texts.items() if text == unknown), 0)
    made.unlike += [*_unlike_steps(document, made), *_unlike_model(model, made)]
    return made


def _add_texts(made: BpeVocabulary, vocabulary: dict[str, int]) -> None:
    """Add the text of each token; added ones take the place of others.

    A character and its byte may have one id, as tabs have in converted tokenizers: the character stands for both.

    Raises:
        InexpressibleError: A text can't be stored, or two tokens have it.
        ValueError: Two tokens have one id.
    """
    for text, number in vocabulary.items():
        other = made.texts.setdefault(number, text)
        if other == text:
            continue
        character = _of_one_byte(text, other) or _of_one_byte(other, text)
        if made.byte_level or not character:
            raise ValueError(f"the tokens {other[:40]!r} and {text[:40]!r} both have the id {number}")
        made.texts[number] = character
    for token in made.added.values():
        if made.texts.get(token.id, token.text) != token.text:
            made.renamed[token.id] = made.texts[token.id]
        made.texts[token.id] = token.text
    numbers: dict[str, int] = {}
    for number, text in made.texts.items():
        if numbers.setdefault(text, number) != number:
            raise InexpressibleError(f"its tokens {numbers[text]} and {number} are both {text[:40]!r}")
        _refuse_unstorable(number, text)


def _of_one_byte(text: str, name: str) -> str:
    """Return a text if it is the character of a byte, and the other is the name of that byte; else nothing."""
    return text if len(text) == 1 and BYTE_TEXTS.get(name.encode()) == ord(text) < _FIRST_OF_TWO_BYTES else ""


def _refuse_unstorable(number: int, text: str) -> None:
    fault = bytes_fault(text.encode())
    if fault:
        what = f"its token {number}, {text[:40]!r}, {fault}"
        raise InexpressibleError(f"{what}; take it and its merges out of a copy, and pass that with --tokenizer")


def _add_merges(made: BpeVocabulary, merges: Iterable[tuple[str, str]]) -> None:
    numbers = {text: number for number, text in made.texts.items()}
    for left, right in merges:
        if left in numbers and right in numbers and left + right in numbers:
            made.merges.append((numbers[left], numbers[right]))
        else:
            made.dropped.append((left, right))


def _unlike_steps(document: Document, made: BpeVocabulary) -> list[str]:
    """Return the steps before the model that the runtime doesn't do as the file says."""
    normalizer, before = steps_of(document, "normalizer"), steps_of(document, "pre_tokenizer")
    if made.byte_level:
        unlike = [f"normalizer {named(step.get('type'))}" for step in normalizer]
        if len(before) == len(_BYTE_LEVEL) and all(map(_does_no_more, before, _BYTE_LEVEL)):
            return unlike
        return unlike + [f"pre_tokenizer {named(step.get('type'))}" for step in before]
    unlike = [f"normalizer {named(step.get('type'))}" for step in normalizer if step != ESCAPE]
    escaped = ESCAPE in normalizer
    for step in before:
        if _does_no_more(step, _SAME_METASPACE):
            escaped = True
        elif not (escaped and _does_no_more(step, _NO_EFFECT)):
            unlike.append(f"pre_tokenizer {named(step.get('type'))}")
            escaped |= step.get("type") == "Metaspace"
    return unlike if escaped else [*unlike, "spaces, which it doesn't replace by U+2581"]


def _does_no_more(step: Document, known: Document) -> bool:
    return all(step.get(name) == value for name, value in known.items())


def _unlike_model(model: Document, made: BpeVocabulary) -> Iterator[str]:
    if model.get("ignore_merges") is True:
        yield "ignore_merges, which takes a whole word for its token"
    if not made.byte_level and (model.get("byte_fallback") is True) != made.has_bytes:
        yield f"byte_fallback, which is {'off' if made.has_bytes else 'on'}"
