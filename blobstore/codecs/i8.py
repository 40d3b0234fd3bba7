"""i8: groups of 128 values, each with an inverse scale and a zero point in bf16, then one signed byte a value.

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
_INTEGERS = 2.0**62  # a zero point has to be a whole number
_BF16 = np.dtype(ml_dtypes.bfloat16)


def encode_piece(values: Array, scale: float) -> Bytes:
    """Return the groups' bytes; all values are finite. ``scale`` is 1: groups have their own."""
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
    """Encode groups of one length, shape (n, length). Every step rounds as the runtime's does.

    Raises:
        CodecError: ``i8-range``.
    """
    low = groups.min(axis=1)
    with np.errstate(all="ignore"):  # what leaves f32 is refused below
        extent = groups.max(axis=1) - low
        extent[extent == 0] = 1
        scale = np.float32(255) / extent
        factor = scale.astype(_BF16)
        inverse = (np.float32(1) / scale).astype(_BF16)
        # Through an integer, so that it is never minus zero.
        zero = np.trunc(-scale * low - np.float32(128))
        held = np.isfinite(factor) & np.isfinite(inverse) & (inverse != 0) & (np.abs(zero) < _INTEGERS)
    if not held.all():
        first = int(held.argmin())
        found = f"{low[first]} to {groups[first].max()}"
        raise CodecError("i8-range", f"a group of values from {found} is beyond what i8 can hold: store it as bf16")
    zero = zero.astype(np.int64).astype(np.float32)
    head = np.empty((len(groups), 2), dtype=_BF16)
    head[:, 0] = inverse
    head[:, 1] = zero.astype(_BF16)
    # One rounding to f32 for product and sum: f64 holds both.
    exact = groups.astype(np.float64) * factor.astype(np.float64)[:, None] + head[:, 1].astype(np.float64)[:, None]
    codes = np.clip(np.rint(exact.astype(np.float32)), -128, 127).astype(np.int8)
    return np.concatenate([head.view(np.uint8), codes.view(np.uint8)], axis=1).reshape(-1)


def _decode_groups(groups: Bytes) -> npt.NDArray[np.float32]:
    """Decode groups of one length, shape (n, 4 + length)."""
    with np.errstate(all="ignore"):  # foreign bytes may say anything; they decode to what they say
        head = np.ascontiguousarray(groups[:, :_HEAD]).view(_BF16).astype(np.float64)
        inverse, zero = head[:, :1], head[:, 1:]
        shift = (-zero * inverse).astype(np.float32).astype(np.float64)
        exact = groups[:, _HEAD:].view(np.int8).astype(np.float64) * inverse + shift
        values: npt.NDArray[np.float32] = exact.astype(np.float32)
    return values
