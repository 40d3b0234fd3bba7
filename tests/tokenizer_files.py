"""Tokenizer files as exporters write them: a tokenizer.json from the pieces of a SentencePiece model.

Stated here once more, as transformers converts Gemma's: without the package's own code.
"""

from __future__ import annotations

import json
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"

Document = dict[str, Any]


def added_token(number: int, text: str, **flags: bool) -> dict[str, Any]:
    """An item of added_tokens."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": number, "content": text} | plain | flags


def merges_of(vocabulary: dict[str, int]) -> list[list[str]]:
    """All pairs of tokens that make a third, by the third's id."""
    found = [
        (number, at, len(text) - at, text[:at], text[at:])
        for text, number in vocabulary.items()
        for at in range(1, len(text))
        if text[:at] in vocabulary and text[at:] in vocabulary
    ]
    return [[left, right] for _, _, _, left, right in sorted(found)]


def document_of(pieces: list[tuple[str, int]], **changes: object) -> Document:
    """A tokenizer.json of pieces, texts and types; ``changes`` are members of its model."""
    vocabulary = {text: number for number, (text, _) in enumerate(pieces)}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": any(kind == BYTE for _, kind in pieces),
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": merges_of(vocabulary),
    }
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    undo = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added_token(number, text, special=kind != USER_DEFINED)
            for number, (text, kind) in enumerate(pieces)
            if kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ],
        "normalizer": replace,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [undo, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": model | changes,
    }


def dumped(document: Document) -> bytes:
    """Its bytes, as the library tokenizers writes them."""
    return json.dumps(document, ensure_ascii=False, indent=2).encode()


BYTES = [(f"<0x{value:02X}>", BYTE) for value in range(256)]
HEAD = [
    ("<pad>", CONTROL),
    ("<eos>", CONTROL),
    ("<bos>", CONTROL),
    ("<unk>", UNKNOWN),
    ("<start_of_turn>", USER_DEFINED),
]
SMALL = [*HEAD, *BYTES, ("ab", NORMAL), ("abc", NORMAL), ("a", NORMAL), ("b", NORMAL), ("c", NORMAL), (SPACE, NORMAL)]
