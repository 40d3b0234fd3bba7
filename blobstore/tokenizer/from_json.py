"""The pieces of a SentencePiece model, from a tokenizer.json alone.

The format is that of https://github.com/huggingface/tokenizers. Of its models only BPE without byte-level alphabet can
be expressed: SentencePiece joins the two neighbours whose joined piece has the highest score, that library those whose
merge has the lowest rank. Both are the same where a piece's merges are all the ways to split it, and follow the order
of the pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blobstore.gemma.tokenizer import BYTE, BYTE_TEXTS, CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from blobstore.index.strict_json import parse_json
from blobstore.tokenizer.added import parse_added
from blobstore.tokenizer.proto import Piece

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blobstore.tokenizer.added import Added, AddedToken

_SPACE = "\u2581"
# Tokens that mark the ends of a text, or fill up: never part of one. All others that are called special, such as
# <start_of_turn>, are found in texts by both libraries: in Gemma's own model they are USER_DEFINED. Its <s> is HTML's.
_ROLES = {"<pad>": "pad", "<eos>": "eos", "<bos>": "bos"}
_OTHER_ROLES = {"<pad>": "pad", "</s>": "eos", "<s>": "bos"}
_ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_DECODERS = ("Replace", "ByteFallback", "Fuse", "Metaspace")
_UNLIKE = 1 << 32  # ways: more than a piece can have
_MAX_LENGTH = 1000  # characters of a token that merges make


class InexpressibleError(ValueError):
    """A tokenizer.json that is right, but has no equal in SentencePiece: the message says what it has."""


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
        other = []
        for token in tokens:
            if numbers.setdefault(token.piece, token.id) != token.id:
                other.append(token)
            elif token.id not in self.pieces:
                self.pieces[token.id] = Piece(token.piece, 0.0, USER_DEFINED)
                self.added = self.added | {token.id: token}
            elif self.pieces[token.id].text != token.piece:
                other.append(token)
        return other


def parse_tokenizer(raw: bytes) -> JsonTokenizer:
    """Parse a tokenizer.json.

    Raises:
        InexpressibleError: It can't be a SentencePiece model.
        ValueError: It is not such a file; the message says why.
    """
    document = parse_json(raw)
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, dict):
        raise ValueError("it has no model, which lists the tokens")
    escape = _escapes(document, model)
    added = parse_added(document.get("added_tokens"))
    vocabulary = _vocabulary(model.get("vocab"))
    made = JsonTokenizer({}, added, byte_fallback=model.get("byte_fallback") is True, escape=escape)
    texts = _by_id(vocabulary, made)
    _add_reserved(made, texts, model.get("unk_token"))
    _add_normal(made, texts, _merges(model.get("merges"), vocabulary))
    return made


def _escapes(document: dict[str, Any], model: dict[str, Any]) -> bool:
    """Refuse what SentencePiece can't do; return whether spaces become U+2581.

    Raises:
        InexpressibleError: Something is neither what Gemma's tokenizers have, nor without effect.
    """
    before, decoder = _step(document, "pre_tokenizer"), _step(document, "decoder")
    if any(step.get("type") == "ByteLevel" for step in [*before, *decoder]):
        raise InexpressibleError("its model is byte-level BPE")
    if model.get("type") != "BPE":
        raise InexpressibleError(f"its model is {_named(model.get('type'))}, not BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise InexpressibleError(f"its model has {name}")
    for step in decoder:
        if step.get("type") not in _DECODERS:
            raise InexpressibleError(f"its decoder {_named(step.get('type'))} changes texts")
    steps = _step(document, "normalizer")
    for step in steps:
        if step != _ESCAPE:
            raise InexpressibleError(f"its normalizer {_named(step.get('type'))} changes texts")
    return _escapes_before(before, escape=bool(steps))


def _escapes_before(steps: list[dict[str, Any]], *, escape: bool) -> bool:
    """Refuse pre-tokenizers that split texts. Splitting at spaces has no effect where there are none any more."""
    for step in steps:
        kind = _named(step.get("type"))
        if kind == "Metaspace":
            if (step.get("replacement"), step.get("prepend_scheme"), step.get("split")) != (_SPACE, "never", False):
                raise InexpressibleError("its pre_tokenizer Metaspace splits texts, or puts a space before them")
            escape = True
        elif not escape or kind != "Split" or step.get("pattern") != {"String": " "}:
            raise InexpressibleError(f"its pre_tokenizer {kind} splits texts")
    return escape


def _step(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a normalizer, pre_tokenizer or decoder as a list of its steps."""
    step = document.get(name)
    if step is None:
        return []
    if not isinstance(step, dict):
        raise ValueError(f"{name}: expected an object, found {type(step).__name__}")
    if step.get("type") != "Sequence":
        return [step]
    steps = step.get({"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}[name])
    if not isinstance(steps, list) or not all(isinstance(one, dict) for one in steps):
        raise ValueError(f"{name}: a Sequence without a list of objects")
    return steps


def _named(kind: object) -> str:
    return kind[:40] if isinstance(kind, str) else "of no type"


def _vocabulary(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        raise ValueError("its model has no vocab, which says each token's id")
    for text, number in value.items():
        if type(number) is not int or not 0 <= number < 1 << 31:
            raise ValueError(f"the token {text[:40]!r} has the id {number!r:.40}")
        if not text:
            raise ValueError(f"the token {number} is empty")
    return value


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
        text = token.text.replace(" ", _SPACE) if made.escape else token.text
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


def _merges(value: object, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges in the order of their ranks: each of two tokens, which make a third. There are two spellings.

    Raises:
        ValueError: One is anything else.
    """
    if not isinstance(value, list):
        raise ValueError("its model has no merges, a list")
    merges = []
    for item in value:
        try:
            left, right = item.split(" ") if isinstance(item, str) else item
            if left in vocabulary and right in vocabulary and left + right in vocabulary:
                merges.append((left, right))
                continue
        except (ValueError, TypeError):
            pass
        raise ValueError(f"a merge is {item!r:.60}, not two tokens that make a third")
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
