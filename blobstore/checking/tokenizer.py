"""Check the blob ``tokenizer``: what gemma.cpp can't load or use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checking.findings import finding
from blobstore.container.keys import NO_TOKENIZER, TOKENIZER_KEY
from blobstore.errors import FormatError
from blobstore.gemma.enums import TokenizerKind
from blobstore.gemma.tokenizer import check_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.checking.findings import Finding
    from blobstore.container.reader import BlobReader
    from blobstore.gemma.config import ModelConfig

_FIX = "convert again with the model's tokenizer.json beside it: added tokens become pieces"


def check_tokenizer(reader: BlobReader, config: ModelConfig | None, *, tokens: int | None = None) -> Iterator[Finding]:
    """Yield what gemma.cpp would stop at when it loads the tokenizer, or when it uses it.

    Args:
        reader: The file's blobs.
        config: The file's; None without one.
        tokens: As `check_sentencepiece` takes it.
    """
    raw = bytes(reader.get(TOKENIZER_KEY, NO_TOKENIZER))
    if raw == NO_TOKENIZER:
        why = "says 'unavailable'" if TOKENIZER_KEY in reader else "is missing"
        yield finding("no-tokenizer", TOKENIZER_KEY, f"the blob {TOKENIZER_KEY!r} {why}")
        return
    if config and config.tokenizer_kind != TokenizerKind.SENTENCE_PIECE:
        what = f"the config says that its kind is {config.tokenizer_kind.name.lower()}"
        yield finding("not-compared", TOKENIZER_KEY, what)
        return
    yield from check_sentencepiece(raw, config, tokens=tokens)


def check_sentencepiece(raw: bytes, config: ModelConfig | None, *, tokens: int | None = None) -> Iterator[Finding]:
    """Yield what gemma.cpp would stop at in a SentencePiece model: when it loads it, or with tokens of this config.

    Args:
        raw: The model.
        config: The file's; None without one.
        tokens: How many rows of the embedding are tokens, where others only fill it up; None for all.
    """
    try:
        pieces = check_pieces(raw)
    except FormatError as error:
        yield finding("tokenizer-model", TOKENIZER_KEY, error.message)
        return
    for what in pieces.faults:
        yield finding("tokenizer-pieces", TOKENIZER_KEY, what)
    if config and pieces.count > config.vocab_size:
        what = f"it has {pieces.count} pieces, but the config's vocabulary has {config.vocab_size}"
        yield finding("tokenizer-size", TOKENIZER_KEY, what)
    elif config and pieces.count < (tokens or config.vocab_size):
        whose = "the config's vocabulary" if tokens is None else "the vocabulary without its padding"
        what = f"it has {pieces.count} pieces, but {whose} has {tokens or config.vocab_size}"
        effect = "gemma.cpp stops when it samples a token that has no piece"
        yield finding("tokenizer-size", TOKENIZER_KEY, what, effect=effect, fix=_FIX)
