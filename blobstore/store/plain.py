"""The tensors of an index that numpy can view as they are stored: found by columns, without an object for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blobstore.codecs import element_types
from blobstore.index.records import NO_BLOB

if TYPE_CHECKING:
    import numpy.typing as npt

    from blobstore.container.directory import Directory
    from blobstore.index import NameIndex


class View(NamedTuple):
    """Where the values of a tensor lie in its file, and how numpy sees them."""

    offset: int
    nbytes: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


def plain_views(index: NameIndex, directory: Directory, places: npt.NDArray[np.int64]) -> dict[str, View]:
    """Return the tensors that are not packed, encoded, scaled or empty, by name.

    Args:
        index: All of it was checked.
        directory: Of the file.
        places: Of each blob of the index's table in the directory.
    """
    entries, names, shapes = index.entries, index.names, index.shapes
    dtypes = {number: known.dtype for number, known in element_types.BY_NUMBER.items() if known.dtype is not None}
    plain = (entries.codec == 0) & (entries.scale == 1) & (entries.blob != NO_BLOB) & (entries.nbytes > 0)
    chosen = np.flatnonzero(plain & np.isin(entries.type, np.array(list(dtypes), np.uint16)))
    starts = directory.offsets[places][entries.blob[chosen]] + entries.offset[chosen].astype(np.int64)
    columns = (entries.nbytes[chosen], entries.type[chosen], entries.shape[chosen])
    rows = zip(chosen.tolist(), starts.tolist(), *(column.tolist() for column in columns), strict=True)
    return {
        names[place]: View(offset, nbytes, dtypes[number], shapes[shape])
        for place, offset, nbytes, number, shape in rows
    }
