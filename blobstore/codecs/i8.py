"""i8: groups of 128 values: an inverse scale and a zero point in bf16, then one signed byte per value.

Spec: spec/codecs.md, i8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from blobstore.errors import CodecError

if TYPE_CHECKING:
    import numpy.typing as npt

    from blobstore.fileio.types import Array, Bytes

GROUP = 128
_HEAD = 4  # bytes of inverse scale and zero point
_INTEGERS = 2.0**62  # a zero point is converted to an int64
_BF16 = np.dtype(ml_dtypes.bfloat16)


def encode_piece(values: Array, scale: float) -> Bytes:
    """Return the groups' bytes; all values are finite. ``scale`` is 1: each group has its own."""
    del scale
    values = values.astype(np.float32, copy=False)
    whole = len(values) // GROUP * GROUP
    parts = [_encode_groups(values[:whole].reshape(-1, GROUP))] if whole else []
    if whole < len(values):
        parts.append(_encode_groups(values[whole:].reshape(1, -1)))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)


def decode_piece(data: Bytes, count: int, out: Array) -> None:
    """Decode the first ``count`` values of groups into ``out``, float32."""
    whole = count // GROUP
    step = GROUP + _HEAD
    if whole:
        out[: whole * GROUP] = _decode_groups(data[: whole * step].reshape(whole, step)).reshape(-1)
    rest = count - whole * GROUP
    if rest:
        last = data[whole * step : whole * step + _HEAD + rest]
        out[whole * GROUP :] = _decode_groups(last.reshape(1, -1)).reshape(-1)


def _encode_groups(groups: npt.NDArray[np.float32]) -> Bytes:
    """Encode groups of equal length, shape (n, length). Every step rounds as the runtime does.

    Raises:
        CodecError: ``i8-range``.
    """
    low = groups.min(axis=1)
    with np.errstate(all="ignore"):  # what overflows f32 is refused below
        extent = groups.max(axis=1) - low
        extent[extent == 0] = 1
        scale = np.float32(255) / extent
        factor = scale.astype(_BF16)
        inverse = (np.float32(1) / scale).astype(_BF16)
        zero = np.trunc(-scale * low - np.float32(128))
        fits = np.isfinite(factor) & np.isfinite(inverse) & (inverse != 0) & (np.abs(zero) < _INTEGERS)
    if not fits.all():
        first = int(fits.argmin())
        span = f"{low[first]} to {groups[first].max()}"
        raise CodecError("i8-range", f"a group of values from {span} is beyond what i8 can hold: store it as bf16")
    zero = zero.astype(np.int64).astype(np.float32)  # never minus zero
    head = np.empty((len(groups), 2), dtype=_BF16)
    head[:, 0] = inverse
    head[:, 1] = zero.astype(_BF16)
    # Product and sum are rounded to f32 once: f64 holds both exactly.
    exact = groups.astype(np.float64) * factor.astype(np.float64)[:, None] + head[:, 1].astype(np.float64)[:, None]
    codes = np.clip(np.rint(exact.astype(np.float32)), -128, 127).astype(np.int8)
    return np.concatenate([head.view(np.uint8), codes.view(np.uint8)], axis=1).reshape(-1)


def _decode_groups(groups: Bytes) -> npt.NDArray[np.float32]:
    """Decode groups of equal length, shape (n, 4 + length)."""
    with np.errstate(all="ignore"):  # foreign bytes may hold any value; all are decoded
        head = np.ascontiguousarray(groups[:, :_HEAD]).view(_BF16).astype(np.float64)
        inverse, zero = head[:, :1], head[:, 1:]
        shift = (-zero * inverse).astype(np.float32).astype(np.float64)
        exact = groups[:, _HEAD:].view(np.int8).astype(np.float64) * inverse + shift
        values: npt.NDArray[np.float32] = exact.astype(np.float32)
    return values
