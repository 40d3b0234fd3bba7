"""The tokens of the blob ``tokenizer``, of either kind, as a list.

Spec: spec/gemma.md, Tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.errors import FormatError
from blobstore.gemma.bpe import BpeTokenizer
from blobstore.gemma.enums import TokenizerKind
from blobstore.gemma.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, pieces_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES: dict[int, str] = {
    NORMAL: "normal",
    UNKNOWN: "unknown",
    CONTROL: "control",
    USER_DEFINED: "user-defined",
    UNUSED: "unused",
    BYTE: "byte",
}


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a vocabulary.

    Attributes:
        id: Its number: its row of the embedding.
        text: As the tokenizer spells it: in SentencePiece and metaspace vocabularies U+2581 is a space, in byte-level
            ones each character is a byte. Empty for an id without a token. Bytes that aren't UTF-8 are escaped.
        type: In a SentencePiece model that of the piece: ``normal``, ``unknown``, ``control``, ``user-defined``,
            ``unused``, ``byte``. Of a BPE tokenizer: ``added``, ``normal``, or ``unused`` without a text.

    Example:
        >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
        >>> blobstore.open("gemma.sbs").tokens.tokens[0]
        Token(id=0, text='<unk>', type='unknown')
    """

    id: int
    text: str
    type: str


@dataclass(frozen=True)
class TokenList:
    """The vocabulary that gemma.cpp tokenizes with. ``blobstore get FILE tokenizer --json`` prints it.

    Attributes:
        kind: ``sentencepiece``; or of a BPE tokenizer what its tokens consist of, ``byte-level`` or ``metaspace``.
        tokens: By id.
        merges: The ids of the left and the right half of each merge of a BPE tokenizer, by rank.
        added_ids: Of tokens that a BPE tokenizer finds in a text before it is split.
        unk_id: Of the token for what is unknown; None in a SentencePiece model without one.

    Example:
        >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
        >>> listed = blobstore.open("gemma.sbs").tokens
        >>> listed.kind, len(listed.tokens), listed.unk_id
        ('sentencepiece', 96, 0)
    """

    kind: str
    tokens: tuple[Token, ...]
    merges: tuple[tuple[int, int], ...] = ()
    added_ids: tuple[int, ...] = ()
    unk_id: int | None = None


def list_tokens(raw: bytes, kind: TokenizerKind = TokenizerKind.SENTENCE_PIECE) -> TokenList:
    """Return the tokens of a blob ``tokenizer``.

    Args:
        raw: The blob, as `Store.tokenizer` returns it.
        kind: What it is: ``tokenizer_kind`` of the config.

    Raises:
        FormatError: ``tokenizer-model``: it is not a SentencePiece model; ``fields-…``, ``bpe-…``: it is not a BPE
            record; ``tokenizer-kind``: this version doesn't know the kind.

    Example:
        >>> bpe = blobstore.gemma.BpeTokenizer(flags=4, tokens=(b"a", b"b", b"ab"), merges=(0, 1))
        >>> listed = blobstore.gemma.list_tokens(bpe.to_bytes(), blobstore.gemma.TokenizerKind.BPE)
        >>> [token.text for token in listed.tokens], listed.merges
        (['a', 'b', 'ab'], ((0, 1),))
    """
    if kind == TokenizerKind.SENTENCE_PIECE:
        tokens = tuple(_pieces(raw))
        unknown = next((token.id for token in tokens if token.type == "unknown"), None)
        return TokenList("sentencepiece", tokens, unk_id=unknown)
    if kind != TokenizerKind.BPE:
        raise FormatError("tokenizer-kind", f"the tokenizer's kind is {int(kind)}, which this version doesn't know")
    bpe = BpeTokenizer.from_bytes(raw)
    return TokenList(bpe.kind, tuple(_bpe_tokens(bpe)), tuple(bpe.pairs), bpe.added_ids, bpe.unk_id)


def _pieces(raw: bytes) -> Iterator[Token]:
    for number, (text, kind) in enumerate(pieces_of(raw)):
        yield Token(number, _text(text), _TYPES[kind])


def _bpe_tokens(bpe: BpeTokenizer) -> Iterator[Token]:
    added = set(bpe.added_ids)
    for number, text in enumerate(bpe.tokens):
        kind = "added" if number in added else "normal" if text else "unused"
        yield Token(number, _text(text), kind)


def _text(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")
