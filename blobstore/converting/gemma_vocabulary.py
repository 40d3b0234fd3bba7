"""The vocabulary of a checkpoint: which rows of its embedding are tokens, and how many rows the file needs.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blobstore.checkpoint.tokenizer_files import image_tokens
from blobstore.converting.gemma_config import VOCABULARY_STEP
from blobstore.converting.gemma_families import FAMILIES, GEMMA_PAD
from blobstore.converting.hf_tensors import SPARE_ROWS
from blobstore.gemma.families.gemma2 import PALIGEMMA_VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PUBLISHED = (262144, PALIGEMMA_VOCABULARY)  # of models with a vision part


@dataclass(frozen=True)
class Pieces:
    """What a vocabulary has to know of the tokenizer.

    Attributes:
        count: How many rows its pieces need.
        pad: The number of the family's token for padding; None without one.
    """

    count: int
    pad: int | None = None


@dataclass(frozen=True)
class Vocabulary:
    """The rows of an embedding.

    Attributes:
        rows: Of the checkpoint's embedding.
        tokens: How many of them are tokens: the first ones. The others are spare.
        padded: Rows of the new file's embedding: the tokens, then copies of row `pad`.
        pad: The row of the family's token for padding, or of the one that config.json names.
        pad_name: What is said of that row.
        why_spare: Why the rows behind the tokens are spare, or why none is; empty in models that never have any.
    """

    rows: int = 0
    tokens: int = 0
    padded: int = 0
    pad: int = 0
    pad_name: str = ""
    why_spare: str = ""

    @property
    def padding(self) -> int:
        """Rows that are added."""
        return self.padded - self.tokens

    @property
    def padding_line(self) -> str:
        """What is said of the padding."""
        rows = f"{self.padded} rows with copies of row {self.pad}{self.pad_name}"
        return f"vocabulary padded from {self.tokens} to {rows}: gemma.cpp needs a multiple of {VOCABULARY_STEP}"

    @property
    def spare_line(self) -> str:
        """What is said of spare rows; empty where a model of this family never has any."""
        if not self.why_spare:
            return ""
        if self.tokens == self.rows:
            return f"all {self.rows} rows of the embedding are the vocabulary: {self.why_spare}"
        what = f"the last {self.rows - self.tokens} of the embedding's {self.rows} rows are kept outside the vocabulary"
        return f"{what}: {self.why_spare}"


def read_vocabulary(
    family: str,
    rows: int,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    pieces: Pieces | None,
    *,
    may_have_spare: bool,
) -> Vocabulary:
    """Work out a checkpoint's vocabulary.

    Args:
        family: Of the checkpoint.
        rows: Of its embedding.
        config: ``config.json``.
        generation: ``generation_config.json``; empty without one.
        pieces: Of the tokenizer; None without one.
        may_have_spare: Whether it is of a family whose exporters append rows that no token has.
    """
    spare, why = _spare(rows, config, pieces) if may_have_spare else (0, "")
    tokens = rows - spare
    piece, usual = FAMILIES[family].pad
    named = _pad(tokens, config, generation, pieces)
    pad = min(usual, tokens - 1) if named is None else named
    name = f", {piece}" if pad == usual or FAMILIES[family].pad == GEMMA_PAD else ""
    return Vocabulary(rows, tokens, -(-tokens // VOCABULARY_STEP) * VOCABULARY_STEP, pad, name, why)


def _spare(rows: int, config: Mapping[str, Any], pieces: Pieces | None) -> tuple[int, str]:
    """Return how many of the last rows are spare, and why."""
    first = rows - SPARE_ROWS
    image = next(iter(image_tokens(config)), None)
    if first < 1:
        return 0, f"it has no more than the {SPARE_ROWS} that exporters append"
    if pieces is not None:
        # The runtime puts images in place of their token, so that one needs no row.
        count = pieces.count - (pieces.count - 1 == image)
        if count <= first:
            return SPARE_ROWS, "the tokenizer has no pieces for them"
        return 0, f"the tokenizer has {count} pieces"
    if first in (*_PUBLISHED, image):
        return SPARE_ROWS, f"exporters append that many to a vocabulary of {first}"
    return 0, f"without a tokenizer nothing says that the last {SPARE_ROWS} are spare"


def _pad(tokens: int, config: Mapping[str, Any], generation: Mapping[str, Any], pieces: Pieces | None) -> int | None:
    """Return the row of the token for padding: by the tokenizer, else by config.json; None for the family's own.

    Fine-tunes often pad with a stop token: rows with its values would be sampled in its place.
    """
    text = config.get("text_config")
    places = (generation, config, text if isinstance(text, dict) else {})
    stops = {token for place in places for token in _tokens(place.get("eos_token_id"))}
    named = [place.get("pad_token_id") for place in places]
    known = [] if pieces is None else [pieces.pad]
    candidates = (token for token in [*known, *named] if type(token) is int and 0 <= token < tokens)
    return next((token for token in candidates if token not in stops), None)


def _tokens(value: Any) -> Iterator[int]:  # noqa: ANN401 (JSON is anything)
    yield from (token for token in (value if isinstance(value, list) else [value]) if type(token) is int)
