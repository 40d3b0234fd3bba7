"""Values rounded to another type of numpy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import CodecError

if TYPE_CHECKING:
    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Array


def rounded(values: Array, element_type: ElementType, name: str, fix: str = "") -> Array:
    """Return values in a type that numpy or ml_dtypes knows: themselves if they have it, else a rounded copy.

    Args:
        values: Floats, any shape.
        element_type: The new type.
        name: Of the tensor, for the error.
        fix: What to do about a value that the type can't hold.

    Raises:
        CodecError: ``not-finite``: a value would become an infinity.
    """
    if values.dtype == element_type.dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):  # a NaN is a NaN, whatever its bits
        converted = values.astype(element_type.dtype)
        lost = np.isinf(converted.astype(np.float32)) & np.isfinite(values.astype(np.float64))
    if lost.any():
        what = f"{name!r} has {float(values[lost][0])}, which {element_type} can't hold"
        raise CodecError("not-finite", f"{what}: {fix}" if fix else what)
    return converted
