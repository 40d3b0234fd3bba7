"""Element codecs: float arrays ↔ the bytes that a runtime stores.

Spec: spec/codecs.md. One module for each codec; this one picks it, cuts arrays into pieces that stay in the cache, and
names what can't be encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import ml_dtypes
import numpy as np

from blobstore.codecs import bf16, f32, i8, nuq, sfp
from blobstore.codecs.element_types import as_element_type
from blobstore.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Array, Bytes

    Buffer = bytes | bytearray | memoryview | Bytes

PIECE = 1 << 16  # elements; a multiple of every codec's group
_BF16 = np.dtype(ml_dtypes.bfloat16)
_FLOATS = (np.dtype(np.float32), _BF16, np.dtype(np.float16), np.dtype(np.float64))


class Codec(Protocol):
    """What each module offers. Pieces begin at a group's border."""

    def encode_piece(self, values: Array, scale: float) -> Bytes:
        """Encode finite values (float32 or bfloat16, C order), divided by ``scale``."""

    def decode_piece(self, data: Bytes, count: int, out: Array) -> None:
        """Decode ``count`` values into ``out`` (float32 or bfloat16), not multiplied by a scale."""


_CODECS: dict[str, Codec] = {"f32": f32, "bf16": bf16, "sfp": sfp, "i8": i8, "nuq": nuq}
_NEEDS_FINITE = ("sfp", "i8")
_F64_NBYTES = 8
_EXACT_IN_BF16 = ("sfp", "bf16")


def is_float_codec(kind: ElementType) -> bool:
    """Whether `decode` knows the type."""
    return kind.name in _CODECS


def encode(kind: ElementType | str, array: npt.ArrayLike, *, name: str = "the array") -> tuple[Bytes, float]:
    """Encode values, in C order.

    Args:
        kind: Element type: f32, bf16, sfp or i8.
        array: Of dtype float32, bfloat16, float16 or float64 (rounded to float32 first).
        name: For errors.

    Returns:
        The stored bytes, newly allocated, and the scale by which decoded values are to be multiplied.

    Raises:
        CodecError: ``not-finite`` for a NaN or an infinity that the type can't hold, with its index;
            ``not-float`` for another dtype; ``no-encoder`` for another type; ``i8-range`` for a group that i8 can't
            hold.
        UsageError: ``unknown-type``: no element type has this name.
    """
    kind = as_element_type(kind)
    if kind.name not in _CODECS or kind.name == "nuq":
        raise CodecError("no-encoder", f"{name}: there is no encoder for {kind}: use one of f32, bf16, sfp, i8")
    values = np.asarray(array)
    scale = scale_for(kind, values, name=name)
    out = np.empty(kind.nbytes(values.size), dtype=np.uint8)
    done = 0
    try:
        for piece in encode_pieces(kind, values, scale):
            out[done : done + len(piece)] = piece
            done += len(piece)
    except CodecError as error:
        raise CodecError(error.reason, f"{name}: {error.message}") from None
    return out, scale


def scale_for(kind: ElementType, values: Array, *, name: str = "the array") -> float:
    """Check that a type can hold all values, and return the scale that it needs for them (1.0 but for sfp).

    Raises:
        CodecError: ``not-finite``, ``not-float``.
    """
    if values.dtype.newbyteorder("=") not in _FLOATS:
        raise CodecError("not-float", f"{name} has dtype {values.dtype}: only floats can be encoded as {kind}")
    if kind.name not in _NEEDS_FINITE and values.dtype.itemsize != _F64_NBYTES:
        return 1.0
    largest = np.float32(0)
    start = 0
    for piece in _pieces(values):
        top = _largest_magnitude(piece)
        if not np.isfinite(top):
            _check_values(kind, values, piece, start, name=name)
            top = np.float32(0)
        largest = max(largest, top)
        start += len(piece)
    return sfp.scale_of(largest) if kind.name == "sfp" else 1.0


def _check_values(kind: ElementType, values: Array, piece: Array, start: int, *, name: str) -> None:
    """Refuse the first value that a type can't hold: f32 and bf16 hold NaN and infinity, but not what is too large."""
    for place in np.flatnonzero(~np.isfinite(piece.astype(np.float32))):
        index = tuple(int(one) for one in np.unravel_index(start + int(place), values.shape)) if values.ndim else ()
        found = float(values[index])
        if kind.name in _NEEDS_FINITE or np.isfinite(found):
            raise CodecError("not-finite", f"{name} has {found} at index {list(index)}, which {kind} can't hold")


def encode_pieces(kind: ElementType, values: Array, scale: float = 1.0) -> Iterator[Bytes]:
    """Yield the stored bytes of checked values piece by piece; constant extra memory."""
    codec = _CODECS[kind.name]
    for piece in _pieces(values):
        yield codec.encode_piece(piece, scale)


def decode(
    kind: ElementType | str,
    data: Buffer,
    count: int,
    *,
    scale: float = 1.0,
    dtype: npt.DTypeLike = np.float32,
    start: int = 0,
) -> Array:
    """Decode stored bytes.

    Args:
        kind: Element type: f32, bf16, sfp, i8 or nuq.
        data: All stored bytes of the tensor; read, not kept.
        count: How many values to decode.
        scale: Values are multiplied by it.
        dtype: Of the result: float32, or another float dtype that they are rounded to.
        start: First value to decode; any, groups are the codec's business.

    Returns:
        Shape (count,), newly allocated.

    Raises:
        CodecError: ``no-decoder``; ``wrong-size`` when the bytes do not hold these values; ``not-float`` for the
            dtype; ``sfp-reserved-code``.
        UsageError: ``unknown-type``: no element type has this name.
    """
    kind = as_element_type(kind)
    wanted = np.dtype(dtype)
    if kind.name not in _CODECS:
        raise CodecError("no-decoder", f"there is no decoder for {kind}")
    if wanted not in _FLOATS:
        raise CodecError("not-float", f"{kind} decodes to floats, not to {wanted}")
    stored = np.frombuffer(data, dtype=np.uint8)
    if count < 0 or start < 0 or kind.nbytes(start + count) > len(stored):
        needed = kind.nbytes(start + count)
        raise CodecError("wrong-size", f"{kind}: {start + count} values take {needed} bytes, found {len(stored)}")
    out = np.empty(count, dtype=wanted)
    codec, group = _CODECS[kind.name], kind.group or 1
    direct = scale == 1.0 and (wanted == np.float32 or (wanted == _BF16 and kind.name in _EXACT_IN_BF16))
    done = 0
    while done < count:
        # From the border of the group that holds the next value, to a border or the end.
        skip = (start + done) % group
        first = start + done - skip
        upto = min(first + PIECE, start + count)
        piece = stored[kind.nbytes(first) :]
        target = out[done : done + upto - first - skip]
        if direct and not skip:
            codec.decode_piece(piece, upto - first, target)
        else:
            values = np.empty(upto - first, dtype=np.float32)
            codec.decode_piece(piece, upto - first, values)
            with np.errstate(all="ignore"):  # foreign bytes may say anything; they decode to what they say
                if scale != 1.0:
                    values *= np.float32(scale)
                target[:] = values[skip:]
        done += len(target)
    return out


def _pieces(values: Array) -> Iterator[Array]:
    """Yield values in C order as float32 or bfloat16, contiguous, a piece at a time."""
    stored = _BF16 if values.dtype.newbyteorder("=") == _BF16 else np.dtype(np.float32)
    # By flat position, since rows need not end at groups' borders; .flat copies what does not lie in C order.
    flat = values.reshape(-1) if values.flags.c_contiguous else values.flat
    for start in range(0, values.size, PIECE):
        # float64 beyond float32 is found, and refused, as an infinity; a NaN is a NaN, whatever its bits.
        with np.errstate(over="ignore", invalid="ignore"):
            piece = np.asarray(flat[start : start + PIECE]).astype(stored, copy=False)
        yield piece


def _largest_magnitude(piece: Array) -> np.float32:
    """Return the largest |x|; a NaN counts as larger than infinity. On the bits: faster, and NaNs don't hide."""
    if piece.dtype == _BF16:
        bits = int((piece.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0)) << 16
    else:
        bits = int((piece.view(np.uint32) & np.uint32(0x7FFFFFFF)).max(initial=0))
    return np.uint32(bits).view(np.float32)
