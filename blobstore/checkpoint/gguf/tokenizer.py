"""The SentencePiece pieces of a .gguf file's tokenizer: their texts, scores and types.

llama.cpp's converter changes some, which is undone here: it calls all special tokens control, and writes user-defined
pieces with plain spaces. Scores of such pieces are lost, and nothing depends on them.
Source: _create_vocab_sentencepiece in convert_hf_to_gguf.py of https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blobstore.gemma.tokenizer import CONTROL, UNKNOWN, USER_DEFINED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blobstore.checkpoint.gguf.file import GgufFile

    Pieces = list[tuple[bytes, float, int]]

MODEL = "tokenizer.ggml.model"
LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_SENTENCEPIECE = "llama"
_TYPES = range(1, 7)
# gemma.cpp finds special tokens such as <start_of_turn> in the text of a prompt, which SentencePiece does only for
# user-defined pieces: in Gemma's own models all are, but for these.
_CONTROL = ("<pad>", "<eos>", "<bos>")
_UNKNOWN = "<unk>"
_SPACE, _ESCAPED = b" ", "▁".encode()


def read_pieces(file: GgufFile) -> Pieces | str:
    """Return the pieces, text, score and type each, in the order of their ids; or why there are none."""
    model = file.fields.get(MODEL)
    if model != _SENTENCEPIECE:
        return f"{MODEL} is {model!r:.40}, and only {_SENTENCEPIECE!r} is a SentencePiece model"
    texts, scores, types = (file.long_list(key) for key in LISTS)
    if texts is None or scores is None or types is None:
        return f"it lacks one of {', '.join(LISTS)}"
    if not len(texts) == len(scores) == len(types):
        return f"it has {len(texts)} tokens, {len(scores)} scores and {len(types)} types"
    if not are(str, texts) or not are(float, scores) or not are(int, types) or not {*types} <= {*_TYPES}:
        return f"{', '.join(LISTS)} are not texts, scores and types"
    return list(_pieces(texts, scores, types))


def _pieces(texts: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> Iterator[tuple[bytes, float, int]]:
    taken = {text.encode() for text in texts}
    for text, score, kind in zip(texts, scores, types, strict=True):
        raw = text.encode()
        if text == _UNKNOWN:
            yield raw, 0.0, UNKNOWN
        elif text in _CONTROL:
            yield raw, 0.0, CONTROL
        elif kind in (UNKNOWN, CONTROL, USER_DEFINED):
            escaped = raw.replace(_SPACE, _ESCAPED)
            yield raw if escaped in taken else escaped, 0.0, USER_DEFINED
        else:
            yield raw, score, kind


def are(kind: type, values: Sequence[Any]) -> bool:
    """Whether all values have a type."""
    return all(type(value) is kind for value in values)
