"""Element types, and the encodings in which the runtime stores them."""

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
