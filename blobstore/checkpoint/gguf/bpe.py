"""The byte-level BPE tokenizer of a .gguf file, as the tokenizer.json that it was made of would have it.

Source: _set_vocab_gpt2 in convert_hf_to_gguf.py of https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checkpoint.gguf.tokenizer import MODEL, are
from blobstore.gemma.tokenizer import CONTROL, NORMAL, USER_DEFINED

if TYPE_CHECKING:
    from blobstore.checkpoint.gguf.file import GgufFile
    from blobstore.tokenizer.document import Document

_SPLIT = "tokenizer.ggml.pre"
BPE_LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges")
_BYTE_LEVEL = "gpt2"
_SAME_SPLIT = "qwen2"  # of texts, as gemma.cpp does


def read_bpe(file: GgufFile) -> Document | str:
    """Return a tokenizer.json with the file's tokens and merges; or why there is none."""
    model = file.fields.get(MODEL)
    if model != _BYTE_LEVEL:
        return f"{MODEL} is {model!r:.40}, and only {_BYTE_LEVEL!r} is byte-level BPE"
    texts, types, merges = (file.long_list(key) for key in BPE_LISTS)
    if texts is None or types is None or merges is None:
        return f"it lacks one of {', '.join(BPE_LISTS)}"
    if len(texts) != len(types):
        return f"it has {len(texts)} tokens and {len(types)} types"
    if not are(str, texts) or not are(int, types) or not are(str, merges):
        return f"{', '.join(BPE_LISTS)} are not texts, types and texts"
    vocabulary = {text: i for i, (text, kind) in enumerate(zip(texts, types, strict=True)) if kind == NORMAL}
    if len(vocabulary) != types.count(NORMAL):
        return "two of its tokens have the same text"
    added = [
        {"id": i, "content": text, "special": kind == CONTROL}
        for i, (text, kind) in enumerate(zip(texts, types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    document: Document = {
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
        "added_tokens": added,
        "decoder": {"type": "ByteLevel"},
    }
    split = file.fields.get(_SPLIT)
    if split != _SAME_SPLIT:
        document["pre_tokenizer"] = {"type": f"{split!s:.40}"}  # which is told: gemma.cpp splits otherwise
    return document
