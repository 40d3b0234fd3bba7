"""Keys: up to 16 bytes, and those with a meaning.

Spec: spec/sbs.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.container import layout
from blobstore.container.layout import KEY_NBYTES
from blobstore.errors import KeyTooLongError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

INDEX_KEY = "~index"
# In a packed file: what the original has outside its blobs, and the index that was beside it.
SKELETON_KEY, SKELETON_INDEX_KEY = "~packed", "~packed.idx"
OWN_KEYS = frozenset({INDEX_KEY, SKELETON_KEY, SKELETON_INDEX_KEY})  # this project's; never tensors
# The runtime's own blobs; never tensors.
CONFIG_KEY, TOKENIZER_KEY, TOC_KEY, SCALES_KEY = "config", "tokenizer", "toc", "Fscales"
NO_TOKENIZER = b"unavailable"  # what the runtime's writer stores in its place
RESERVED_KEYS = frozenset({CONFIG_KEY, TOKENIZER_KEY, TOC_KEY, SCALES_KEY})


def encode_key(key: str) -> bytes:
    """Return a key's bytes, not padded. Bytes that are not UTF-8 are given as surrogates (``surrogateescape``).

    Raises:
        KeyTooLongError: ``key-too-long`` for more than 16 bytes.
        UsageError: ``bad-key`` when it is not text, is empty, has a NUL, or a surrogate that represents no byte.
    """
    if not isinstance(key, str):
        raise UsageError("bad-key", f"a key is text, found {type(key).__name__}")
    try:
        encoded = key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise UsageError("bad-key", f"{key!r} is not Unicode text: {error.reason}") from None
    if len(encoded) > KEY_NBYTES:
        shown = key if len(key) <= 60 else key[:60] + "…"
        raise KeyTooLongError(
            "key-too-long",
            f"{shown!r} has {len(encoded)} bytes, a key has at most {KEY_NBYTES}: "
            "use blobstore.create, which maps long names",
        )
    if not encoded:
        raise UsageError("bad-key", "a key has at least one byte")
    if b"\0" in encoded:
        raise UsageError("bad-key", f"{key!r} has a NUL byte, which pads keys")
    return encoded


def decode_key(key: bytes) -> str:
    """Return a key as text, without its padding; bytes that are not UTF-8 become surrogates."""
    return key.rstrip(b"\0").decode("utf-8", "surrogateescape")


def describes_model(keys: Collection[str]) -> bool:
    """Whether gemma.cpp's own description of a model is in a file with these keys: most are containers by name."""
    return CONFIG_KEY in keys or TOC_KEY in keys


def max_blobs_from(keys: Collection[str]) -> int:
    """Return how many blobs a file may have that is made from one with these keys.

    A model that every gemma.cpp reads stays one that every gemma.cpp reads.
    """
    portable = describes_model(keys) and len(keys) <= layout.MAX_PORTABLE_BLOBS
    return layout.MAX_PORTABLE_BLOBS if portable else layout.MAX_BLOBS
