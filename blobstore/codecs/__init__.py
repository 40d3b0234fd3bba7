"""Element types, and the encodings in which the runtime stores them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blobstore.codecs.codec import (
        PIECE,
        are_finite,
        decode,
        encode,
        encode_pieces,
        first_unfit,
        holds_any,
        is_float_codec,
        scale_for,
    )

__all__ = [
    "PIECE",
    "are_finite",
    "decode",
    "encode",
    "encode_pieces",
    "first_unfit",
    "holds_any",
    "is_float_codec",
    "scale_for",
]

if not TYPE_CHECKING:  # so that type checkers find misspelt names

    def __getattr__(name: str) -> object:
        """Import the codecs on first use: files open without them, and most are read without."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.codec"), name)
        return value
