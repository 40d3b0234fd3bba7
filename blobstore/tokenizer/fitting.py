"""A checkpoint's tokenizer fitted to its embedding: a SentencePiece model with a piece for every token that has a row.

Spec: spec/gemma.md, Tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from blobstore.gemma.tokenizer import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED, count_pieces, find_piece, pieces_of
from blobstore.tokenizer.added import rows_needed
from blobstore.tokenizer.notes import counted, left_out, listed_changes, listed_texts, narrowed, renamed
from blobstore.tokenizer.proto import Piece, append_pieces, dump_model, new_model, parse_model

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from blobstore.tokenizer.added import Added
    from blobstore.tokenizer.from_json import JsonTokenizer

_RESERVED = (UNKNOWN, CONTROL, BYTE)  # their texts may be those of other pieces, too
_INSTALL = "pip install protobuf"


@dataclass(frozen=True)
class Fitted:
    """A tokenizer as it goes into a file.

    Attributes:
        raw: The blob.
        notes: What was changed and what was left out, a line each.
    """

    raw: bytes
    notes: tuple[str, ...] = ()


class FittingTokenizer(Protocol):
    """A checkpoint's tokenizer, of any kind."""

    @property
    def rows(self) -> int:
        """How many rows of the embedding its tokens need; those that stand for images need none."""

    def find(self, text: str) -> int | None:
        """Return the id of a token by its text."""

    def fitted(self, tokens: int, rows: int = 0) -> Fitted:
        """Return what goes into a file.

        Args:
            tokens: How many rows of the embedding are tokens.
            rows: With those that only fill it up.

        Raises:
            MissingExtraError: ``missing-extra``: it has to be made, which needs protobuf.
        """


@dataclass(frozen=True)
class Tokenizer:
    """A SentencePiece model, and tokens that were added to it.

    Attributes:
        raw: The model.
        added: Tokens that it may lack, by id.
        source: The file that says so.
        placeholders: Tokens that stand for images: they need no row.
    """

    raw: bytes
    added: Added = field(default_factory=dict)
    source: str = ""
    placeholders: Collection[int] = ()

    @property
    def rows(self) -> int:
        """How many rows of the embedding its tokens need; those that stand for images need none."""
        return max(count_pieces(self.raw), rows_needed(self.added.values(), self.placeholders))

    def find(self, text: str) -> int | None:
        """Return the id of a token by its text."""
        added = next((token.id for token in self.added.values() if token.text == text), None)
        return find_piece(self.raw, text) if added is None else added

    def fitted(self, tokens: int, rows: int = 0) -> Fitted:
        """Return the model for an embedding: as it is, if it has all tokens, else with them.

        Args:
            tokens: How many rows the embedding has.
            rows: With those that only fill it up. A model that is changed anyway gets pieces for them, too.

        Raises:
            MissingExtraError: ``missing-extra``: it has to be changed, which needs protobuf.
        """
        changes = _Changes(self, tokens, max(tokens, rows))
        if not changes.renamed and not changes.appended:
            return Fitted(self.raw, tuple(changes.notes()))
        count = len(changes.renamed) + len(changes.appended)
        what = f"{count} of the tokens in {self.source} {'has' if count == 1 else 'have'} to go into the tokenizer"
        model = parse_model(self.raw, _without(what, "--tokenizer tokenizer.model takes that file as it is"))
        for number, text in changes.renamed.items():
            piece = model.pieces[number]
            piece.piece = text
            if piece.type != UNKNOWN:
                piece.type = USER_DEFINED
        append_pieces(model, changes.new_pieces())
        if model.trainer_spec.HasField("vocab_size"):
            model.trainer_spec.vocab_size = len(model.pieces)
        return Fitted(dump_model(model), tuple(changes.notes()))


@dataclass(frozen=True)
class MadeTokenizer:
    """A tokenizer.json without a SentencePiece model: it has to be made.

    Attributes:
        json: What the file has.
        source: Its name.
        placeholders: As of `Tokenizer`.
    """

    json: JsonTokenizer
    source: str
    placeholders: Collection[int] = ()

    @property
    def rows(self) -> int:
        """As of `Tokenizer`."""
        normal = max((number for number in self.json.pieces if number not in self.json.added), default=-1)
        return max(normal + 1, rows_needed(self.json.added.values(), self.placeholders))

    def find(self, text: str) -> int | None:
        """As of `Tokenizer`."""
        return next((number for number, piece in self.json.pieces.items() if piece.text == text.encode()), None)

    def fitted(self, tokens: int, rows: int = 0) -> Fitted:
        """Return the model for an embedding.

        Args:
            tokens: As of `Tokenizer.fitted`.
            rows: As of `Tokenizer.fitted`.

        Raises:
            MissingExtraError: ``missing-extra``: making it needs protobuf.
        """
        json = self.json
        known = {number: piece for number, piece in json.pieces.items() if number < tokens}
        taken = {piece.text for piece in known.values()}
        pieces = [known.get(number) or _filler(number, taken) for number in range(max(tokens, rows))]
        special = {role: number for role, number in json.special.items() if number < tokens}
        model = new_model(
            pieces,
            special,
            byte_fallback=json.byte_fallback,
            escape=json.escape,
            why=_must_be_made(self.source),
        )
        return Fitted(dump_model(model), tuple(self._notes(tokens, len(pieces))))

    def _notes(self, tokens: int, rows: int) -> Iterator[str]:
        yield f"tokenizer: a SentencePiece model is made from {self.source}: {rows} pieces"
        if self.json.inexact:
            what = (
                f"{counted(self.json.inexact, 'piece')} can be joined in SentencePiece in other ways than by its merges"
            )
            yield f"tokenizer: {what}: some texts get other tokens than in transformers"
        new = self.json.added
        changes = [(number, old.encode(), new[number].piece) for number, old in self.json.renamed.items()]
        yield from renamed("piece", changes)
        yield from _filled([number for number in range(tokens) if number not in self.json.pieces])
        yield from narrowed(self.json.added.values(), "SentencePiece")
        beyond = {number: piece.text for number, piece in self.json.pieces.items() if number >= tokens}
        yield from left_out(beyond, tokens)


def of_pieces(pieces: Iterable[tuple[bytes, float, int]], source: str) -> bytes:
    """Return a BPE model of the given pieces, texts, scores and types; with byte fallback if there are BYTE pieces.

    Args:
        pieces: In the order of their ids.
        source: The file that has them: for the error.

    Raises:
        MissingExtraError: ``missing-extra``: making it needs protobuf.
    """
    made = [Piece(*piece) for piece in pieces]
    roles = {b"<unk>": "unk", b"<bos>": "bos", b"<eos>": "eos", b"<pad>": "pad"}
    special = {roles[piece.text]: number for number, piece in enumerate(made) if piece.text in roles}
    fallback = any(piece.type == BYTE for piece in made)
    return dump_model(new_model(made, special, byte_fallback=fallback, escape=True, why=_must_be_made(source)))


class _Changes:
    """What has to be changed in a model.

    Attributes:
        renamed: Id of a piece → its new text.
        appended: Id of a new piece → its text.
    """

    def __init__(self, tokenizer: Tokenizer, tokens: int, rows: int) -> None:
        """Compare the pieces with the added tokens."""
        self._raw, self._source, self._tokens = tokenizer.raw, tokenizer.source, tokenizer.added
        self._end, self._rows = tokens, rows
        self.renamed: dict[int, bytes] = {}
        self.appended: dict[int, bytes] = {}
        self._beyond: dict[int, bytes] = {}
        self._bytes: dict[int, bytes] = {}
        self._twice: dict[int, bytes] = {}
        self._old: dict[int, bytes] = {}  # texts of pieces that added tokens differ from
        self._count = 0
        if self._tokens:
            self._compare()
            self._drop_doubles()

    def _compare(self) -> None:
        for number, (text, kind) in enumerate(pieces_of(self._raw)):
            self._count = number + 1
            token = self._tokens.get(number)
            if token and token.piece != text and number < self._end:
                self._old[number] = text
                (self._bytes if kind == BYTE else self.renamed)[number] = token.piece
        for number, token in sorted(self._tokens.items()):
            if number >= self._count:
                (self.appended if number < self._end else self._beyond)[number] = token.piece

    def _drop_doubles(self) -> None:
        """Leave out tokens whose text another piece has: SentencePiece loads no such model."""
        changed = self.renamed | self.appended
        if not changed:
            return
        owners: dict[bytes, int] = {}
        before: dict[int, bytes] = {}  # texts that pieces have again if they aren't renamed
        for number, (text, kind) in enumerate(pieces_of(self._raw)):
            if kind not in _RESERVED and number in changed:
                before[number] = text
            elif kind not in _RESERVED:
                owners[text] = number
        doubles = [number for number, text in changed.items() if owners.setdefault(text, number) != number]
        while doubles:
            number = doubles.pop()
            self._twice[number] = (self.renamed if number in self.renamed else self.appended).pop(number)
            if number in before:  # a piece that keeps its text after all may be another token's double
                other = owners.get(before[number])
                owners[before[number]] = number
                doubles += [other] if other in self.renamed or other in self.appended else []

    def _holes(self) -> list[int]:
        """The rows without a token, which get a piece because the model is written anew anyway."""
        if not self.renamed and not self.appended:
            return []
        return [number for number in range(self._count, self._rows) if number not in self.appended]

    def new_pieces(self) -> list[Piece]:
        """Return what comes after the model's own pieces."""
        taken = {text for text, _ in pieces_of(self._raw)} | {*self.renamed.values(), *self.appended.values()}
        return [
            Piece(self.appended[number], 0.0, USER_DEFINED) if number in self.appended else _filler(number, taken)
            for number in range(self._count, self._rows)
        ]

    def notes(self) -> Iterator[str]:
        """Say what is changed, and what is left out."""
        source = self._source
        if self.appended:
            count = counted(len(self.appended), "piece")
            yield f"tokenizer: {count} added from {source}: {listed_texts(self.appended)}"
        if self.renamed:
            shown = [(number, self._old[number], new) for number, new in self.renamed.items()]
            yield f"tokenizer: {counted(len(self.renamed), 'piece')} renamed as in {source}: {listed_changes(shown)}"
        yield from _filled([number for number in self._holes() if number < self._end])
        yield from narrowed((self._tokens[number] for number in [*self.renamed, *self.appended]), "SentencePiece")
        if self._bytes:
            yield f"tokenizer: left out, since their pieces stand for bytes: {listed_texts(self._bytes)}"
        if self._twice:
            yield f"tokenizer: left out, since other pieces have the same text: {listed_texts(self._twice)}"
        yield from left_out(self._beyond, self._end)


def _must_be_made(source: str) -> str:
    return _without(f"the tokenizer has to be made from {source}", "--tokenizer FILE takes a tokenizer.model")


def _without(what: str, other: str) -> str:
    return f"{what}, which needs protobuf: {_INSTALL}; or {other}"


def _filler(number: int, taken: Collection[bytes]) -> Piece:
    """Return a piece that no text has, for a row without a token."""
    text = f"<padding_{number}>".encode()
    while text in taken:
        text = b"<%s>" % text
    return Piece(text, 0.0, UNUSED)


def _filled(holes: Sequence[int]) -> Iterator[str]:
    if holes:
        shown = str(holes[0]) if len(holes) == 1 else f"{holes[0]} to {holes[-1]}"
        what = (
            "1 row without a token gets a piece" if len(holes) == 1 else f"{len(holes)} rows without a token get pieces"
        )
        yield f"tokenizer: {what} of the type UNUSED: {shown}"
