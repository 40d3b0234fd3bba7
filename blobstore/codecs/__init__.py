"""Element types, and the encodings in which the runtime stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.fileio.later import imported_later

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
    # On first use: files open without the codecs, and most are read without.
    __getattr__ = imported_later(__name__, dict.fromkeys(__all__, "codec"))
