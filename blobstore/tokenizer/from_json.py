"""The pieces of a SentencePiece model, from a tokenizer.json alone.

The format is that of https://github.com/huggingface/tokenizers. Of its models only BPE without byte-level alphabet can
be expressed: SentencePiece joins the two neighbours whose joined piece has the highest score, that library those whose
merge has the lowest rank. Both are the same where a piece's merges are all the ways to split it, and follow the order
of the pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blobstore.gemma.tokenizer import BYTE, BYTE_TEXTS, CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from blobstore.tokenizer.added import parse_added
from blobstore.tokenizer.document import (
    ESCAPE,
    SPACE,
    InexpressibleError,
    is_byte_level,
    merges_of,
    named,
    not_a_merge,
    parse_document,
    refuse_other_models,
    steps_of,
    vocabulary_of,
)
from blobstore.tokenizer.proto import Piece

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blobstore.tokenizer.added import Added, AddedToken
    from blobstore.tokenizer.document import Document

# Tokens that mark the ends of a text, or fill up: never part of one. All others that are called special, such as
# <start_of_turn>, are found in texts by both libraries: in Gemma's own model they are USER_DEFINED. Its <s> is HTML's.
_ROLES = {"<pad>": "pad", "<eos>": "eos", "<bos>": "bos"}
_OTHER_ROLES = {"<pad>": "pad", "</s>": "eos", "<s>": "bos"}
_DECODERS = ("Replace", "ByteFallback", "Fuse", "Metaspace")
_UNLIKE = 1 << 32  # ways: more than a piece can have
_MAX_LENGTH = 1000  # characters of a token that merges make


@dataclass
class JsonTokenizer:
    """A tokenizer.json as pieces.

    Attributes:
        pieces: By id; ids may be missing.
        added: Its added tokens, which are among the pieces.
        special: Of ``unk``, ``bos``, ``eos`` and ``pad``, those that there are → the id.
        byte_fallback: Whether characters without a piece become bytes.
        escape: Whether spaces are U+2581 in pieces.
        inexact: How many pieces SentencePiece can join in more ways, or fewer.
        renamed: Id → the token of the vocabulary that an added token takes the place of.
    """

    pieces: dict[int, Piece]
    added: Added
    special: dict[str, int] = field(default_factory=dict)
    byte_fallback: bool = False
    escape: bool = True
    inexact: int = 0
    renamed: dict[int, str] = field(default_factory=dict)

    def add(self, tokens: Iterable[AddedToken]) -> list[AddedToken]:
        """Add tokens of other files; return those that can't be: other pieces have their numbers or texts."""
        numbers = {piece.text: number for number, piece in self.pieces.items()}
        added, other = {}, []
        for token in tokens:
            if numbers.setdefault(token.piece, token.id) != token.id:
                other.append(token)
            elif token.id not in self.pieces:
                self.pieces[token.id] = Piece(token.piece, 0.0, USER_DEFINED)
                added[token.id] = token
            elif self.pieces[token.id].text != token.piece:
                other.append(token)
        self.added = self.added | added
        return other


def parse_tokenizer(raw: bytes) -> JsonTokenizer:
    """Parse a tokenizer.json.

    Raises:
        InexpressibleError: It can't be a SentencePiece model.
        ValueError: It is not such a file; the message says why.
    """
    document, model = parse_document(raw)
    escape = _escapes(document, model)
    added = parse_added(document.get("added_tokens"))
    vocabulary = vocabulary_of(model)
    made = JsonTokenizer({}, added, byte_fallback=model.get("byte_fallback") is True, escape=escape)
    texts = _by_id(vocabulary, made)
    _add_reserved(made, texts, model.get("unk_token"))
    _add_normal(made, texts, _merges(model, vocabulary))
    return made


def _escapes(document: Document, model: Document) -> bool:
    """Refuse what SentencePiece can't do; return whether spaces become U+2581.

    Raises:
        InexpressibleError: Something is neither what Gemma's tokenizers have, nor without effect.
    """
    if is_byte_level(document):
        raise InexpressibleError("its model is byte-level BPE")
    refuse_other_models(model)
    for step in steps_of(document, "decoder"):
        if step.get("type") not in _DECODERS:
            raise InexpressibleError(f"its decoder {named(step.get('type'))} changes texts")
    steps = steps_of(document, "normalizer")
    for step in steps:
        if step != ESCAPE:
            raise InexpressibleError(f"its normalizer {named(step.get('type'))} changes texts")
    return _escapes_before(steps_of(document, "pre_tokenizer"), escape=bool(steps))


def _escapes_before(steps: list[Document], *, escape: bool) -> bool:
    """Refuse pre-tokenizers that split texts. Splitting at spaces has no effect where there are none any more."""
    for step in steps:
        kind = named(step.get("type"))
        if kind == "Metaspace":
            if (step.get("replacement"), step.get("prepend_scheme"), step.get("split")) != (SPACE, "never", False):
                raise InexpressibleError("its pre_tokenizer Metaspace splits texts, or puts a space before them")
            escape = True
        elif not escape or kind != "Split" or step.get("pattern") != {"String": " "}:
            raise InexpressibleError(f"its pre_tokenizer {kind} splits texts")
    return escape


def _by_id(vocabulary: dict[str, int], made: JsonTokenizer) -> dict[int, str]:
    """Return the text of each token, added ones included.

    Two entries may have one id, as the tab and its byte have in converted tokenizers: the byte stands for both.
    """
    texts: dict[int, str] = {}
    for text, number in vocabulary.items():
        other = texts.setdefault(number, text)
        if other != text:
            pair = (text, other) if _is_byte(text, made) else (other, text)
            if not _is_byte(pair[0], made) or BYTE_TEXTS[pair[0].encode()] != _byte_of(pair[1]):
                raise ValueError(f"the tokens {other[:40]!r} and {text[:40]!r} both have the id {number}")
            texts[number] = pair[0]
    for token in made.added.values():
        text = token.text.replace(" ", SPACE) if made.escape else token.text
        if texts.get(token.id, text) not in (text, token.text):
            made.renamed[token.id] = texts[token.id]
        texts[token.id] = text
    if made.byte_fallback:
        _add_bytes(texts, vocabulary)
    numbers: dict[str, int] = {}
    for number, text in texts.items():
        if numbers.setdefault(text, number) != number:
            raise InexpressibleError(f"its tokens {numbers[text]} and {number} are both {text[:40]!r}")
    return texts


def _add_bytes(texts: dict[int, str], vocabulary: dict[str, int]) -> None:
    """Let a character stand for its byte where the byte has no token, as in converters' older files.

    Raises:
        InexpressibleError: A byte has neither.
    """
    for byte, value in BYTE_TEXTS.items():
        name = byte.decode()
        if name not in vocabulary:
            number = vocabulary.get(chr(value)) if value < 0x80 else None
            if number is None or texts.get(number) != chr(value):
                raise InexpressibleError(f"it has byte_fallback, but no token {name}")
            texts[number] = name


def _is_byte(text: str, made: JsonTokenizer) -> bool:
    return made.byte_fallback and text.encode() in BYTE_TEXTS


def _byte_of(text: str) -> int | None:
    raw = text.encode()
    return raw[0] if len(raw) == 1 else None


def _add_reserved(made: JsonTokenizer, texts: dict[int, str], unknown: object) -> None:
    """Add all pieces but those that are made by merges."""
    roles = _ROLES if "<bos>" in texts.values() else _OTHER_ROLES
    for number, text in sorted(texts.items()):
        if text == unknown:
            kind, role = UNKNOWN, "unk"
        elif text in roles:
            kind, role = CONTROL, roles[text]
        elif number in made.added:
            kind, role = USER_DEFINED, ""
        elif _is_byte(text, made):
            kind, role = BYTE, ""
        else:
            continue
        made.pieces[number] = Piece(text.encode(), 0.0, kind)
        if role:
            made.special.setdefault(role, number)
    if "unk" not in made.special:
        raise InexpressibleError("it has no token for what is unknown (unk_token)")


def _merges(model: Document, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges, each of two tokens that make a third.

    Raises:
        ValueError: One is anything else.
    """
    merges = []
    for left, right in merges_of(model):
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise not_a_merge([left, right])
        merges.append((left, right))
    return merges


def _add_normal(made: JsonTokenizer, texts: dict[int, str], merges: list[tuple[str, str]]) -> None:
    """Add the pieces that merges make, and characters: each one's score is minus its place in the order of merges."""
    normal = {text: number for number, text in texts.items() if number not in made.pieces}
    longest = max(normal, key=len, default="")
    if len(longest) > _MAX_LENGTH:  # the time to look for splits grows with the square of the length
        raise InexpressibleError(f"its token {normal[longest]} has {len(longest)} characters, more than {_MAX_LENGTH}")
    # What SentencePiece joins: pieces, and characters even without one.
    halves = {*normal, *(half for pair in merges for half in pair if len(half) == 1)}
    ranks: dict[str, int] = {}
    ways = dict.fromkeys(normal, 0)
    for rank, (left, right) in enumerate(merges):
        text = left + right
        if text in ways:
            ranks.setdefault(text, rank)
            ways[text] += 1 if left in halves and right in halves else _UNLIKE
    for place, text in enumerate(_in_order(normal, ranks)):
        made.pieces[normal[text]] = Piece(text.encode(), -float(place), NORMAL)
    made.inexact = sum(count != _splits(text, halves) for text, count in ways.items())


def _splits(text: str, halves: set[str]) -> int:
    """Return in how many ways SentencePiece can join a piece of two others."""
    count = 0
    for at in range(1, len(text)):
        if text[:at] in halves and text[at:] in halves:
            count += 1
    return count


def _in_order(normal: dict[str, int], ranks: dict[str, int]) -> list[str]:
    """Return pieces by the rank of their first merge; by id, as in Gemma's own models, if that is the same order."""
    by_id = sorted(normal, key=normal.__getitem__)
    merged = [text for text in by_id if text in ranks]
    by_rank = sorted(merged, key=ranks.__getitem__)
    return by_id if merged == by_rank else [*by_rank, *(text for text in by_id if text not in ranks)]
