"""Element codecs: float arrays ↔ the bytes that a runtime stores.

Each codec has a module. This one picks it, cuts arrays into pieces that stay in the cache, and names values that can't
be encoded.

Spec: spec/codecs.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import ml_dtypes
import numpy as np

from blobstore.codecs import bf16, f32, i8, mxfp4, nuq, q4_0, sfp
from blobstore.codecs.element_types import ElementType, as_element_type
from blobstore.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from blobstore.fileio.types import Array, Buffer, Bytes

PIECE = 1 << 16  # elements; a multiple of every codec's group
_BF16 = np.dtype(ml_dtypes.bfloat16)
_FLOATS = (np.dtype(np.float32), _BF16, np.dtype(np.float16), np.dtype(np.float64))


class Decoder(Protocol):
    """What each codec's module provides. Pieces begin at the border of a group."""

    def decode_piece(self, data: Bytes, count: int, out: Array) -> None:
        """Decode ``count`` values into ``out`` (float32 or bfloat16), not multiplied by a scale."""


class Codec(Decoder, Protocol):
    """What the module of a codec that is also written provides."""

    def encode_piece(self, values: Array, scale: float) -> Bytes:
        """Encode finite values (float32 or bfloat16, C order), divided by ``scale``."""


_CODECS: dict[str, Codec] = {"f32": f32, "bf16": bf16, "sfp": sfp, "i8": i8, "q4_0": q4_0}
# Default builds of the runtime don't read nuq; how it rounds to mxfp4 is not specified here.
_DECODERS: dict[str, Decoder] = {**_CODECS, "nuq": nuq, "mxfp4": mxfp4}
# The bits of infinity, which NaN exceeds, where numpy's function takes about ten times as long as a comparison of bits.
_INFINITY = {_BF16: np.uint16(0x7F80), np.dtype(np.float16): np.uint16(0x7C00)}
# The largest magnitude in types that hold no NaN and no infinity.
_F32_LARGEST = float(np.finfo(np.float32).max)
_LARGEST = {"sfp": _F32_LARGEST, "i8": _F32_LARGEST, "q4_0": float(q4_0.LARGEST)}
_F64_NBYTES = 8
_EXACT_IN_BF16 = ("sfp", "bf16")


def is_float_codec(element_type: ElementType) -> bool:
    """Whether `decode` knows the type."""
    return element_type.name in _DECODERS


def holds_any(element_type: ElementType) -> bool:
    """Whether `encode` takes every float32, also NaN and infinity, for the type."""
    return element_type.name not in _LARGEST


def encode(element_type: ElementType | str, array: npt.ArrayLike, *, name: str = "the array") -> tuple[Bytes, float]:
    """Encode values, in C order.

    Args:
        element_type: f32, bf16, sfp, i8 or q4_0.
        array: Of dtype float32, bfloat16, float16 or float64 (rounded to float32 first).
        name: For errors.

    Returns:
        The stored bytes, newly allocated, and the scale by which decoded values are to be multiplied.

    Raises:
        CodecError: ``not-finite`` for a number, NaN or infinity that the type can't hold, with its index;
            ``not-float`` for another dtype; ``no-encoder`` for another type; ``i8-range`` for a group that i8 can't
            hold.
        UsageError: ``unknown-type``: no element type has this name.
    """
    element_type = as_element_type(element_type)
    if element_type.name not in _CODECS:
        raise _no_encoder(f"{name}: ", element_type)
    values = np.asarray(array)
    scale = scale_for(element_type, values, name=name)
    out = np.empty(element_type.nbytes(values.size), dtype=np.uint8)
    done = 0
    try:
        for piece in encode_pieces(element_type, values, scale):
            out[done : done + len(piece)] = piece
            done += len(piece)
    except CodecError as error:
        raise CodecError(error.reason, f"{name}: {error.message}") from None
    return out, scale


def scale_for(element_type: ElementType, values: Array, *, name: str = "the array") -> float:
    """Check that a type can hold all values, and return the scale that it needs for them (always 1.0 except for sfp).

    Raises:
        CodecError: ``not-finite``, ``not-float``.
    """
    if values.dtype.newbyteorder("=") not in _FLOATS:
        raise CodecError("not-float", f"{name} has dtype {values.dtype}: only floats can be encoded as {element_type}")
    if holds_any(element_type) and values.dtype.itemsize != _F64_NBYTES:
        return 1.0
    largest, limit = np.float32(0), _LARGEST.get(element_type.name, _F32_LARGEST)
    start = 0
    for piece in _pieces(values):
        top = _largest_magnitude(piece)
        if not float(top) <= limit:  # a NaN, too
            place = first_unfit(element_type, values.flat[start : start + len(piece)])
            if place is not None:
                index = tuple(map(int, np.unravel_index(start + place, values.shape))) if values.ndim else ()
                what = f"{name} has {float(values[index])} at index {list(index)}, which {element_type} can't hold"
                raise CodecError("not-finite", what)
            top = np.float32(0)
        largest = max(largest, top)
        start += len(piece)
    return sfp.scale_of(largest) if element_type.name == "sfp" else 1.0


def are_finite(values: Array) -> bool:
    """Whether no value is a NaN or an infinity."""
    if values.dtype in _INFINITY:
        largest = (values.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0)
        return bool(largest < _INFINITY[values.dtype])
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return bool(np.isfinite(values).all())


def first_unfit(element_type: ElementType, values: Array) -> int | None:
    """Return the place of the first of some flat values that a type can't hold; None if it holds them all.

    f32 and bf16 hold NaN and infinity, but not too large numbers.
    """
    with np.errstate(all="ignore"):
        if holds_any(element_type):
            unfit = np.isfinite(values) & ~np.isfinite(values.astype(np.float32))
        else:
            unfit = ~(np.abs(values.astype(np.float32)) <= _LARGEST[element_type.name])
    places = np.flatnonzero(unfit)
    return int(places[0]) if len(places) else None


def encode_pieces(element_type: ElementType, values: Array, scale: float = 1.0) -> Iterator[Bytes]:
    """Return an iterator over the stored bytes of checked values, in pieces; constant extra memory.

    Raises:
        CodecError: ``no-encoder``, at once; ``i8-range`` for a piece.
    """
    if element_type.name not in _CODECS:
        raise _no_encoder("", element_type)
    codec = _CODECS[element_type.name]
    return (codec.encode_piece(piece, scale) for piece in _pieces(values))


def _no_encoder(place: str, element_type: ElementType) -> CodecError:
    what = f"{place}there is no encoder for {element_type}: use one of {', '.join(_CODECS)}"
    return CodecError("no-encoder", what)


def decode(
    element_type: ElementType | str,
    data: Buffer,
    count: int,
    *,
    scale: float = 1.0,
    dtype: npt.DTypeLike = np.float32,
    start: int = 0,
    out: Array | None = None,
) -> Array:
    """Decode stored bytes.

    Args:
        element_type: f32, bf16, sfp, i8, nuq, q4_0 or mxfp4.
        data: All stored bytes of the tensor; read, not kept.
        count: How many values to decode.
        scale: Values are multiplied by it.
        dtype: Of the result: float32, or another float dtype that values are rounded to.
        start: First value to decode; it need not begin a group.
        out: What is filled, shape (count,), C order, instead of a new array of ``dtype``.

    Returns:
        Shape (count,), newly allocated unless ``out`` was given.

    Raises:
        CodecError: ``no-decoder``; ``wrong-size`` when the bytes don't hold these values; ``not-float`` for the dtype;
            ``sfp-reserved-code``, ``mxfp4-reserved-scale``.
        UsageError: ``unknown-type``: no element type has this name.
    """
    element_type = as_element_type(element_type)
    dtype = np.dtype(dtype) if out is None else out.dtype
    if element_type.name not in _DECODERS:
        raise CodecError("no-decoder", f"there is no decoder for {element_type}")
    if dtype not in _FLOATS:
        raise CodecError("not-float", f"{element_type} decodes to floats, not to {dtype}")
    stored = np.frombuffer(data, dtype=np.uint8)
    if count < 0 or start < 0 or element_type.nbytes(start + count) > len(stored):
        needed = element_type.nbytes(start + count)
        raise CodecError(
            "wrong-size", f"{element_type}: {start + count} values take {needed} bytes, found {len(stored)}"
        )
    out = np.empty(count, dtype=dtype) if out is None else out
    done = 0
    while done < count:
        done += _decode_piece(element_type, stored, start + done, out[done:], scale)
    return out


def _decode_piece(element_type: ElementType, stored: Bytes, start: int, out: Array, scale: float) -> int:
    """Decode values from ``start`` on into the beginning of ``out``; return how many, at most `PIECE`."""
    codec = _DECODERS[element_type.name]
    # From the border of the group that holds the first value, up to another border or the end.
    skip = start % (element_type.group or 1)
    count = min(PIECE, skip + len(out))
    data, part = stored[element_type.nbytes(start - skip) :], out[: count - skip]
    is_exact = out.dtype == np.float32 or (out.dtype == _BF16 and element_type.name in _EXACT_IN_BF16)
    if is_exact and scale == 1.0 and not skip:
        codec.decode_piece(data, count, part)
    else:
        values = np.empty(count, dtype=np.float32)
        codec.decode_piece(data, count, values)
        with np.errstate(all="ignore"):  # foreign bytes may hold any value; all are decoded
            if scale != 1.0:
                values *= np.float32(scale)
            part[:] = values[skip:]
    return len(part)


def _pieces(values: Array) -> Iterator[Array]:
    """Yield values in C order in pieces, contiguous, as float32 or bfloat16."""
    stored = _BF16 if values.dtype.newbyteorder("=") == _BF16 else np.dtype(np.float32)
    # By flat position, since rows need not end at the border of a group; .flat copies what is not in C order.
    flat = values.reshape(-1) if values.flags.c_contiguous else values.flat
    for start in range(0, values.size, PIECE):
        # A float64 beyond float32's range becomes an infinity, which is refused; any NaN stays a NaN.
        with np.errstate(over="ignore", invalid="ignore"):
            piece = np.asarray(flat[start : start + PIECE]).astype(stored, copy=False)
        yield piece


def _largest_magnitude(piece: Array) -> np.float32:
    """Return the largest |x|; a NaN counts as larger than infinity. Compares bits: faster, and finds NaNs."""
    if piece.dtype == _BF16:
        bits = int((piece.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0)) << 16
    else:
        bits = int((piece.view(np.uint32) & np.uint32(0x7FFFFFFF)).max(initial=0))
    return np.uint32(bits).view(np.float32)
