"""The element codecs on one core, in turns with ml_dtypes' plain astype and with a copy of as many bytes.

Rates are of the bf16 or f32 side. The peer of sfp and i8 is float8_e4m3fn, which has about as many bits, and that of
types with fewer bits, too; that of bf16 is bf16 itself. The copy goes to existing memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from benchmarks.measurement import OURS, Measured, here, run
from blobstore import codecs
from blobstore.codecs import element_types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from benchmarks.measurement import Result, Setting

_ELEMENTS, _QUICK_ELEMENTS = 1 << 24, 1 << 16
_BF16, _F8 = np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)


def measure(setting: Setting) -> Iterator[Result]:
    """Measure all codecs, both ways."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    try:
        if cores:
            os.sched_setaffinity(0, {min(cores)})
        for case in cases(_QUICK_ELEMENTS if setting.quick else _ELEMENTS):
            yield run(case, setting)
    finally:
        if cores:
            os.sched_setaffinity(0, cores)


def cases(count: int) -> Iterator[Measured]:
    """Make the values and yield the cases."""
    random = np.random.default_rng(1)
    wide = random.standard_normal(count, dtype=np.float32)
    small = wide / np.float32(8)
    if np.abs(small).max() > codecs.sfp.LARGEST or np.abs(wide).max() <= codecs.sfp.LARGEST:
        raise AssertionError("one of the two is to be scaled")
    narrow = small.astype(_BF16)
    yield _encode("sfp", "bf16", narrow, _F8)
    yield _encode("sfp", "f32", small, _F8)
    yield _encode("sfp", "f32, scaled", wide, _F8)
    yield _decode("sfp", "bf16", _BF16, codecs.encode("sfp", small)[0], count)
    yield _decode("sfp", "f32", np.float32, codecs.encode("sfp", small)[0], count)
    yield _encode("bf16", "f32", wide, _BF16)
    yield _decode("bf16", "f32", np.float32, codecs.encode("bf16", wide)[0], count, peer=_BF16)
    yield _encode("i8", "f32", wide, _F8)
    yield _decode("i8", "f32", np.float32, codecs.encode("i8", wide)[0], count)
    packed = random.integers(0, 0x80, element_types.BY_NAME["nuq"].nbytes(count), dtype=np.uint8)
    yield _decode("nuq", "f32", np.float32, packed, count)
    yield _encode("q4_0", "bf16", narrow, _F8)
    yield _encode("q4_0", "f32", wide, _F8)
    yield _decode("q4_0", "f32", np.float32, codecs.encode("q4_0", wide)[0], count)
    blocks = random.integers(0, 0x80, element_types.BY_NAME["mxfp4"].nbytes(count), dtype=np.uint8)
    yield _decode("mxfp4", "f32", np.float32, blocks, count)


def _encode(type_name: str, values_type: str, values: npt.NDArray[Any], peer: np.dtype[Any]) -> Measured:
    return _case(
        f"{type_name} from {values_type}", lambda: codecs.encode(type_name, values), lambda: values.astype(peer), values
    )


def _decode(
    type_name: str,
    values_type: str,
    dtype: npt.DTypeLike,
    stored: npt.NDArray[np.uint8],
    count: int,
    *,
    peer: np.dtype[Any] = _F8,
) -> Measured:
    values = codecs.decode(type_name, stored, count, dtype=dtype)
    peer_values = values.astype(peer)
    return _case(
        f"{type_name} to {values_type}",
        lambda: codecs.decode(type_name, stored, count, dtype=dtype),
        lambda: peer_values.astype(dtype),
        values,
    )


def _case(title: str, ours: Callable[[], object], astype: Callable[[], object], values: npt.NDArray[Any]) -> Measured:
    source = values.view(np.uint8)
    target = np.zeros_like(source)
    return Measured(
        f"codecs-{title.replace(', ', '-').replace(' ', '-')}",
        title,
        "one array to another, new one",
        [here(OURS, ours), here("astype", astype), here("memory copy", lambda: np.copyto(target, source))],
        values.nbytes,
        trial=True,
    )
