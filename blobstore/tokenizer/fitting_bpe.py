"""A checkpoint's BPE tokenizer fitted to its embedding: the blob of the runtimes that read it.

Spec: spec/gemma.md, Tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain, starmap
from typing import TYPE_CHECKING

from blobstore.errors import listed
from blobstore.gemma.bpe import BYTE_FALLBACK, BYTE_LEVEL, SPACE_ESCAPE, BpeTokenizer
from blobstore.tokenizer.added import rows_needed
from blobstore.tokenizer.fitting import Fitted
from blobstore.tokenizer.notes import counted, left_out, narrowed, renamed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from blobstore.tokenizer.from_json_bpe import BpeVocabulary

_SHOWN = 5
_RUNTIME = "gemma.cpp"
_LIKE_NO_OTHER = "some texts get other tokens than in transformers"


@dataclass(frozen=True)
class MadeBpe:
    """A BPE tokenizer that has to be made of a checkpoint's files.

    Attributes:
        vocabulary: What the files have.
        source: Their names.
        placeholders: Tokens that stand for images: they need no row.
    """

    vocabulary: BpeVocabulary
    source: str
    placeholders: Collection[int] = ()

    @property
    def rows(self) -> int:
        """As of `FittingTokenizer`."""
        added = self.vocabulary.added
        normal = max((number for number in self.vocabulary.texts if number not in added), default=-1)
        return max(normal + 1, rows_needed(added.values(), self.placeholders))

    def find(self, text: str) -> int | None:
        """As of `FittingTokenizer`."""
        return next((number for number, other in self.vocabulary.texts.items() if other == text), None)

    def fitted(self, tokens: int, rows: int = 0) -> Fitted:  # noqa: ARG002 (rows that only fill up stay without a token)
        """Return the blob for an embedding.

        Args:
            tokens: How many rows of the embedding are tokens.
            rows: As of `FittingTokenizer`. Such rows get no tokens: the blob ends with the last one.
        """
        kept, lost = self._merges(tokens)
        record = self._record(tokens, kept)
        return Fitted(record.to_bytes(), tuple(self._notes(record, tokens, lost)))

    def _record(self, tokens: int, merges: Sequence[tuple[int, int]]) -> BpeTokenizer:
        vocabulary = self.vocabulary
        texts = {number: text for number, text in vocabulary.texts.items() if number < tokens}
        return BpeTokenizer(
            flags=BYTE_LEVEL if vocabulary.byte_level else SPACE_ESCAPE | BYTE_FALLBACK * vocabulary.has_bytes,
            unk_id=vocabulary.unk_id if vocabulary.unk_id in texts else 0,
            tokens=tuple(texts.get(number, "").encode() for number in range(max(texts, default=-1) + 1)),
            merges=tuple(chain.from_iterable(merges)),
            added_ids=tuple(sorted(number for number in vocabulary.added if number < tokens)),
        )

    def _merges(self, tokens: int) -> tuple[list[tuple[int, int]], list[tuple[str, str]]]:
        """Return the merges of tokens that have rows, by ids, and the others, by texts."""
        vocabulary, texts = self.vocabulary, self.vocabulary.texts
        if max(texts, default=0) < tokens:
            return vocabulary.merges, vocabulary.dropped
        known = {text for number, text in texts.items() if number < tokens}
        kept, lost = [], [*vocabulary.dropped]
        for left, right in vocabulary.merges:
            halves = texts[left], texts[right]
            if all(text in known for text in (*halves, "".join(halves))):
                kept.append((left, right))
            else:
                lost.append(halves)
        return kept, lost

    def _notes(self, record: BpeTokenizer, tokens: int, lost: Sequence[tuple[str, str]]) -> Iterator[str]:
        vocabulary, texts = self.vocabulary, self.vocabulary.texts
        known, merges = sum(number < tokens for number in texts), len(record.merges) // 2
        counts = [(known, "token"), (merges, "merge"), (len(record.added_ids), "added token")]
        yield f"tokenizer: a {record.kind} BPE blob is made from {self.source}: {', '.join(starmap(counted, counts))}"
        yield from self._unlike()
        if lost:
            what = f"{counted(len(lost), 'merge')} left out, not of two tokens that make a third"
            yield f"tokenizer: {what}: {listed([f'{left!r} {right!r}'[:60] for left, right in lost], _SHOWN)}"
        changes = [(number, old.encode(), texts[number].encode()) for number, old in vocabulary.renamed.items()]
        yield from renamed("token", changes)
        yield from _gaps([number for number in range(tokens) if number not in texts])
        yield from narrowed(vocabulary.added.values(), _RUNTIME)
        yield from left_out({number: text.encode() for number, text in texts.items() if number >= tokens}, tokens)

    def _unlike(self) -> Iterator[str]:
        """Say what the runtime does otherwise than the files, which can't be helped."""
        vocabulary = self.vocabulary
        own = f"{_RUNTIME} splits texts by a pattern of its own, to which every character beyond ASCII is a letter"
        parts = [own] if vocabulary.byte_level else []
        if vocabulary.unlike:
            shown = listed([*dict.fromkeys(vocabulary.unlike)], _SHOWN)
            parts.append(f"{_RUNTIME} doesn't follow its {shown}")
        if parts:
            yield f"tokenizer: {'; '.join(parts)}: {_LIKE_NO_OTHER}"


def _gaps(rows: Sequence[int]) -> Iterator[str]:
    """Say which rows of the embedding have no token."""
    if not rows:
        return
    together = len(rows) > 1 and rows[-1] - rows[0] == len(rows) - 1
    shown = f"{rows[0]} to {rows[-1]}" if together else listed([str(number) for number in rows], _SHOWN)
    yield f"tokenizer: {counted(len(rows), 'row')} without a token: {shown}"


@dataclass(frozen=True)
class StoredBpe:
    """A blob of this kind from another file, which is taken as it is.

    Attributes:
        raw: The blob.
    """

    raw: bytes

    @cached_property
    def _record(self) -> BpeTokenizer:
        return BpeTokenizer.from_bytes(self.raw)

    @property
    def rows(self) -> int:
        """As of `FittingTokenizer`."""
        return len(self._record.tokens)

    def find(self, text: str) -> int | None:
        """As of `FittingTokenizer`."""
        wanted = text.encode()
        return next((number for number, other in enumerate(self._record.tokens) if other == wanted), None)

    def fitted(self, tokens: int, rows: int = 0) -> Fitted:  # noqa: ARG002 (of another file that has been fitted)
        """As of `FittingTokenizer`."""
        return Fitted(self.raw)
