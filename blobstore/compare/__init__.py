"""Compare two files, tensor by tensor."""

from __future__ import annotations

from blobstore.compare.differences import Difference, Kind, compare
from blobstore.compare.sides import Side, open_side, open_sides
from blobstore.compare.tensors import Facts
from blobstore.compare.values import Number, Tolerance, Values

__all__ = [
    "Difference",
    "Facts",
    "Kind",
    "Number",
    "Side",
    "Tolerance",
    "Values",
    "compare",
    "open_side",
    "open_sides",
]
