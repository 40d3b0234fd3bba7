"""Check the blob ``tokenizer``: what gemma.cpp can't load or use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checking.findings import finding
from blobstore.container.keys import NO_TOKENIZER, TOKENIZER_KEY
from blobstore.errors import FormatError, listed
from blobstore.gemma.bpe import BpeTokenizer, looks_like_bpe
from blobstore.gemma.enums import TokenizerKind
from blobstore.gemma.tokenizer import check_pieces, count_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.checking.findings import Finding
    from blobstore.container.reader import BlobReader
    from blobstore.gemma.config import ModelConfig

_FIX = "convert again with the model's tokenizer.json beside it: added tokens become pieces"
_BPE_FIX = "convert again with --tokenizer tokenizer.json"
_SHOWN = 5  # merges


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
        yield no_tokenizer(config, f"the blob {TOKENIZER_KEY!r} {why}")
        return
    yield from check_tokens(raw, config, tokens=tokens)


def no_tokenizer(config: ModelConfig | None, what: str) -> Finding:
    """Return the finding of a model that lacks its tokenizer.

    Args:
        config: The model's; None without one.
        what: What it has instead.
    """
    is_bpe = config is not None and config.tokenizer_kind == TokenizerKind.BPE
    return finding("no-tokenizer", TOKENIZER_KEY, what, fix=_BPE_FIX if is_bpe else None)


def check_tokens(raw: bytes, config: ModelConfig | None, *, tokens: int | None = None) -> Iterator[Finding]:
    """Yield what gemma.cpp would stop at in a tokenizer of the kind that the config says.

    Args:
        raw: The blob.
        config: The file's; None without one, and then it is a SentencePiece model.
        tokens: As `check_sentencepiece` takes it.
    """
    kind = config.tokenizer_kind if config else TokenizerKind.SENTENCE_PIECE
    if kind == TokenizerKind.SENTENCE_PIECE:
        what = "it is a BPE record, but the config says that it is a SentencePiece model"
        other = [finding("tokenizer-kind", TOKENIZER_KEY, what)] if looks_like_bpe(raw) else []
        yield from other or check_sentencepiece(raw, config, tokens=tokens)
    elif config and kind == TokenizerKind.BPE:
        yield from _check_bpe(raw, config)
    else:
        yield finding("not-compared", TOKENIZER_KEY, f"the config says that its kind is {kind.name.lower()}")


def _check_bpe(raw: bytes, config: ModelConfig) -> Iterator[Finding]:
    """Yield what is wrong with a BPE tokenizer."""
    try:
        bpe = BpeTokenizer.from_bytes(raw)
    except FormatError as error:
        if not looks_like_bpe(raw) and _is_sentencepiece(raw):
            what = "it is a SentencePiece model, but the config says that it is a BPE record"
            yield finding("tokenizer-kind", TOKENIZER_KEY, what)
        else:
            yield finding("tokenizer-bpe", TOKENIZER_KEY, f"{error.reason}: {error.message}")
        return
    if len(bpe.tokens) > config.vocab_size:
        what = f"it has {len(bpe.tokens)} tokens, but the config's vocabulary has {config.vocab_size}"
        yield finding("tokenizer-size", TOKENIZER_KEY, what)
    lost = [pair for pair, made in zip(bpe.pairs, bpe.made, strict=True) if not made]
    if lost:
        shown = listed([f"{left} {right}" for left, right in lost], _SHOWN)
        what = f"{len(lost)} of its {len(bpe.merges) // 2} merges make no token: {shown}"
        yield finding("tokenizer-merges", TOKENIZER_KEY, what)


def _is_sentencepiece(raw: bytes) -> bool:
    try:
        return count_pieces(raw) > 0
    except FormatError:
        return False


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
