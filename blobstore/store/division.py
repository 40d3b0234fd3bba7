"""How tensors are divided into the files of a set: a pure function of their order and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from blobstore.container import layout
from blobstore.index.records import ALIGN, HEADER_NBYTES, SECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ENTRY_NBYTES = sum(dtype.itemsize for name, (dtype, _) in SECTIONS.items() if name.startswith("entry "))
_BLOB_NBYTES = sum(dtype.itemsize for name, (dtype, _) in SECTIONS.items() if name.startswith("blob "))
_SHAPE_NBYTES, _DIM_NBYTES = (SECTIONS[name][0].itemsize for name in ("shape start", "dims"))


class Item(NamedTuple):
    """What stays together: a tensor with its other names, or a file.

    Attributes:
        nbytes: Of its blob; 0 for a tensor without elements.
        names: How many names it has.
        names_nbytes: Of all of them.
        ndim: Dimensions of its shape.
    """

    nbytes: int
    names: int = 1
    names_nbytes: int = 0
    ndim: int = 0


def divide(
    items: Sequence[Item],
    *,
    max_nbytes: int | None,
    max_blobs: int,
    first: Iterable[Item] = (),
    metadata_nbytes: int = 2,
) -> list[range]:
    """Return which items each file has: as many in their order as fit. One that is too large has a file of its own.

    Every file has a blob: items without bytes are in the file of those before them, or of the next ones.

    Args:
        items: In the order of writing; at least one has bytes.
        max_nbytes: Of a file; None for any size.
        max_blobs: Of a file, its index among them; at least 2.
        first: What the first file has besides.
        metadata_nbytes: Of the metadata that each file has.
    """
    base = HEADER_NBYTES + ALIGN * len(SECTIONS) + metadata_nbytes
    parts: list[range] = []
    start = blobs = payload = 0
    index = base
    for item in first:
        blobs, payload, index = _grown(item, blobs, payload, index)
    for place, item in enumerate(items):
        grown = _grown(item, blobs, payload, index)
        too_large = max_nbytes is not None and _file_nbytes(*grown) > max_nbytes
        if (too_large or grown[0] + 1 > max_blobs) and blobs and item.nbytes and place > start:
            parts.append(range(start, place))
            start = place
            grown = _grown(item, 0, 0, base)
        blobs, payload, index = grown
    parts.append(range(start, len(items)))
    return parts


def _grown(item: Item, blobs: int, payload: int, index: int) -> tuple[int, int, int]:
    """Return blobs, bytes of padded blobs, and the most bytes of the index of a file that gets an item."""
    index += item.names * (_ENTRY_NBYTES + 1) + item.names_nbytes + _SHAPE_NBYTES + item.ndim * _DIM_NBYTES
    if item.nbytes:
        return blobs + 1, payload + layout.round_up(item.nbytes, layout.BLOB_ALIGN), index + _BLOB_NBYTES
    return blobs, payload, index


def _file_nbytes(blobs: int, payload: int, index: int) -> int:
    end = layout.BLOB_ALIGN + payload + layout.round_up(index, layout.BLOB_ALIGN)
    return layout.file_size(2, blobs + 1, end)
