"""The blob ``tokenizer`` of kind 1: the vocabulary and the merges of a BPE tokenizer, as one record.

What is known of it was read in the runtime's source, and never run. Spec: spec/gemma.md, Tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from blobstore.errors import FormatError, UsageError
from blobstore.gemma.field_types import BYTES, U32, Cursor, bytes_of, words_of
from blobstore.gemma.records import Record, many, of, record_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bits of `BpeTokenizer.flags`.
BYTE_FALLBACK, SPACE_ESCAPE, BYTE_LEVEL = 1, 2, 4
_WORD_NBYTES = 4


@dataclass(frozen=True, kw_only=True)
class BpeTokenizer(Record):
    """A BPE tokenizer, as stored in the blob ``tokenizer`` of a model whose config has ``tokenizer_kind`` BPE.

    Only versions of gemma.cpp after April 2026 read it.

    Attributes:
        flags: 4 for a byte-level alphabet; else 2 for U+2581 in place of spaces, and 1 more if there are tokens <0x00>
            to <0xFF>.
        unk_id: The token for what is unknown; 0 without one.
        tokens: Texts by id, as tokenizer.json spells them; empty for an id that no token has.
        merges: Two ids for each merge, those of its left and right half, in the order of ranks.
        added_ids: Tokens that are found in a text before it is split; ascending.

    Example:
        >>> tokens = (b"a", b"b", b"ab", b"<|end|>")
        >>> bpe = blobstore.gemma.BpeTokenizer(flags=4, tokens=tokens, merges=(0, 1), added_ids=(3,))
        >>> blobstore.gemma.BpeTokenizer.from_bytes(bpe.to_bytes()) == bpe
        True
    """

    flags: int = of(U32)
    unk_id: int = of(U32)
    tokens: tuple[bytes, ...] = many(BYTES)
    merges: tuple[int, ...] = many(U32)
    added_ids: tuple[int, ...] = many(U32)

    @property
    def kind(self) -> str:
        """What its tokens consist of: ``byte-level``, or ``metaspace``."""
        return "byte-level" if self.flags & BYTE_LEVEL else "metaspace"

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """The merges, a pair of ids each."""
        return zip(self.merges[::2], self.merges[1::2], strict=True)

    @property
    def made(self) -> Iterator[bool]:
        """Whether each merge makes a token, so that it can be used."""
        known = set(self.tokens)
        return (self.tokens[left] + self.tokens[right] in known for left, right in self.pairs)

    @classmethod
    def from_bytes(cls, raw: bytes | memoryview) -> Self:
        """Read such a blob.

        Raises:
            FormatError: ``fields-…``; ``bpe-size`` when something follows the record; ``bpe-tokens`` without tokens;
                ``bpe-flags``, ``bpe-unknown``, ``bpe-merges`` and ``bpe-added`` for numbers that can't be.

        Example:
            >>> bpe = blobstore.gemma.BpeTokenizer(flags=2, tokens=(b"<unk>", b"a"))
            >>> blobstore.gemma.BpeTokenizer.from_bytes(bpe.to_bytes()).tokens
            (b'<unk>', b'a')
        """
        words = words_of(raw)
        cursor = Cursor(words, 0, len(words))
        made = cls.read(cursor)
        if cursor.position < cursor.end:
            what = f"the record ends at {_WORD_NBYTES * cursor.position} of {len(raw)} bytes"
            raise FormatError("bpe-size", what, _WORD_NBYTES * cursor.position)
        for reason, what in made.faults():
            raise FormatError(reason, what)
        return made

    def to_bytes(self) -> bytes:
        """Return the bytes of such a blob.

        Raises:
            UsageError: ``bad-field`` for a value that can't be stored, or that `from_bytes` refuses.

        Example:
            >>> len(blobstore.gemma.BpeTokenizer(flags=4, tokens=(b"a", b"", b"bc")).to_bytes())
            44
        """
        for _, what in self.faults():
            raise UsageError("bad-field", f"{type(self).__name__}: {what}")
        words: list[int] = []
        self.write(words)
        return bytes_of(words)

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield what can't be in any such record: the reason and the message."""
        count = len(self.tokens)
        if not count:
            yield "bpe-tokens", "it has no tokens"
        if self.flags & BYTE_LEVEL and self.flags & SPACE_ESCAPE:
            yield "bpe-flags", f"the flags {self.flags} say that it is byte-level, and that U+2581 is a space"
        if self.unk_id >= count:
            yield "bpe-unknown", f"unk_id is {self.unk_id}, but there are {count} tokens"
        if len(self.merges) % 2:
            yield "bpe-merges", f"{len(self.merges)} ids of merges are not pairs"
        if max(self.merges, default=0) >= count:
            yield "bpe-merges", f"a merge has the token {max(self.merges)}, but there are {count}"
        if self.added_ids and max(self.added_ids) >= count:
            yield "bpe-added", f"the token {max(self.added_ids)} is among the added ones, but there are {count}"
        if any(one >= other for one, other in pairwise(self.added_ids)):
            yield "bpe-added", "the added tokens are not in ascending order"


def looks_like_bpe(raw: bytes | memoryview) -> bool:
    """Whether a blob is one record: a SentencePiece model's first four bytes say another size."""
    return len(raw) >= _WORD_NBYTES and record_nbytes(raw) == len(raw)
