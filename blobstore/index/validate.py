"""Checks of the entries of an index, all of them at once or some.

Spec: spec/index.md; I7 to I14, and I20, are its reader checks.
"""

from __future__ import annotations

from itertools import islice
from operator import lt
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs import element_types
from blobstore.errors import FormatError
from blobstore.index.names import MAX_NAME_NBYTES
from blobstore.index.records import ENTRY, HEADER, MAX_ELEMENTS, MAX_NDIM, NO_BLOB, PACKED

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from blobstore.fileio.types import Array

    Records = npt.NDArray[np.void]

_ONE = np.uint64(1)
_MAX_COUNT = np.uint64(MAX_ELEMENTS)
_SURELY_FITS = 2.0**56
_WORDS = ENTRY.itemsize // 8


class Columns:
    """The fields of some entries as contiguous arrays: strided ones are several times slower to work on."""

    count: int
    offset: Array
    nbytes: Array
    reserved: Array
    blob: Array
    name_offset: Array
    name_nbytes: Array
    type: Array
    codec: Array
    ndim: Array
    dims_start: Array
    scale: Array

    def __init__(self, entries: Records) -> None:
        """Copy all fields, shape (count,) each. The words are those of `ENTRY`."""
        words = np.ascontiguousarray(entries.view("<u8").reshape(-1, _WORDS).T)
        self.count = len(entries)
        self.offset, self.nbytes, self.reserved = words[0], words[1], words[5]
        self.blob, self.name_offset = _parts(words[2], "<u4")
        self.name_nbytes, self.type, self.codec, self.ndim = _parts(words[3], "<u2")
        self.dims_start, self.scale = _parts(words[4], "<u4")[0], _parts(words[4], "<f4")[1]


def _parts(words: npt.NDArray[np.uint64], dtype: str) -> Array:
    """Split words into their parts, shape (parts, count)."""
    return np.ascontiguousarray(words.view(dtype).reshape(-1, 8 // np.dtype(dtype).itemsize).T)


class Refusal:
    """Raises an error for the first entry that fails a check.

    Attributes:
        name: Place of an entry → its name, for the message; empty if it isn't known.
    """

    def __init__(self, first: int = 0, name: Callable[[int], str] = lambda _: "") -> None:
        """Check entries from the place ``first`` on."""
        self._first = first
        self.name = name

    def refuse(self, reason: str, bad: npt.NDArray[np.bool_], what: str) -> None:
        """Raise a FormatError for the first entry that is ``bad``, if there is one."""
        if bad.any():
            place = self._first + int(bad.argmax())
            name = self.name(place)[:80]
            named = f" ({name!r})" if name else ""
            raise FormatError(reason, f"entry {place}{named}: {what}", HEADER.itemsize + ENTRY.itemsize * place)


def check_names(columns: Columns, pool: memoryview, start: int, refusal: Refusal) -> list[str]:
    """Make checks I8 and I9 of all entries → their names.

    Args:
        columns: Of all entries.
        pool: The names section.
        start: Offset of the section in the index.
        refusal: Gets the names.
    """
    lengths = columns.name_nbytes.astype(np.int64)
    refusal.refuse(
        "index-name", (lengths == 0) | (lengths > MAX_NAME_NBYTES), f"a name has 1 to {MAX_NAME_NBYTES} bytes"
    )
    ends = columns.name_offset + lengths + 1
    refusal.refuse(
        "index-name", columns.name_offset != np.append(0, ends[:-1]), "its name does not follow the previous one"
    )
    if (int(ends[-1]) if len(ends) else 0) != len(pool):
        raise FormatError("index-name", f"the names have {len(pool)} bytes, which disagrees with the entries", start)
    try:
        names = str(pool, "utf-8").split("\0")
    except UnicodeDecodeError as error:
        raise FormatError("index-name", f"a name is not UTF-8: {error.reason}", start + error.start) from None
    names.pop()  # after the last NUL
    # As many NULs as names, and one at the end of each: so there is none inside a name.
    if len(names) != columns.count or np.frombuffer(pool, np.uint8)[ends - 1].any():
        raise FormatError("index-name", "a name has a NUL inside, or none after it", start)
    refusal.name = names.__getitem__
    # Code points sort as their UTF-8 bytes do.
    if not all(map(lt, names, islice(names, 1, None))):
        place = next(i for i in range(1, len(names)) if names[i] <= names[i - 1])
        previous = names[place - 1]
        what = "used twice" if names[place] == previous else f"sorted after {previous[:80]!r}"
        raise FormatError("index-order", f"entry {place} ({names[place][:80]!r}) is {what}", start)
    return names


def check_fields(columns: Columns, blobs: Records, dims: npt.NDArray[np.uint64], refusal: Refusal) -> None:
    """Make checks I10 to I14, and I20, of some entries."""
    _check_ranges(columns, blobs, _check_dims(columns, dims, refusal), refusal)


def check_reserved(columns: Columns, refusal: Refusal) -> None:
    """Make check I7 of some entries."""
    refusal.refuse("index-reserved", columns.reserved != 0, "its reserved field is not 0")


def _check_dims(columns: Columns, dims: npt.NDArray[np.uint64], refusal: Refusal) -> npt.NDArray[np.int64]:
    """Make check I10 → how many elements each entry has."""
    ndim, start = columns.ndim.astype(np.int64), columns.dims_start.astype(np.int64)
    refusal.refuse("index-dims", ndim > MAX_NDIM, f"it has more than {MAX_NDIM} dimensions")
    refusal.refuse("index-dims", start + ndim > len(dims), "its dimensions lie outside the pool")
    count = np.ones(columns.count, dtype=np.uint64)
    empty = np.zeros(columns.count, dtype=np.bool_)
    for axis in range(int(ndim.max(initial=0))):
        has = ndim > axis
        place = start + axis
        size = dims[place] if has.all() else np.where(has, dims[np.where(has, place, 0)], _ONE)
        if not size.all():
            empty |= size == 0
            size = np.maximum(size, _ONE)
        # Division is slow: it is only done where a product may be too large.
        if (count.astype(np.float64) * size).max(initial=0) > _SURELY_FITS:
            refusal.refuse("index-dims", count > _MAX_COUNT // size, "its shape has too many elements")
        count *= size
    count[empty] = 0
    return count.astype(np.int64)


def _check_ranges(columns: Columns, blobs: Records, counts: npt.NDArray[np.int64], refusal: Refusal) -> None:
    """Make checks I11 to I14, and I20."""
    blob, nbytes, offset = columns.blob, columns.nbytes, columns.offset
    no_blob, no_elements = blob == NO_BLOB, counts == 0
    refusal.refuse(
        "index-blob", ~no_blob & (blob >= len(blobs)), f"its blob is not one of the {len(blobs)} in the table"
    )
    refusal.refuse("index-blob", no_blob & ~no_elements, "it has elements but no blob")
    unpacked, available = (_of_blobs(blobs[column], blob, no_blob) for column in ("unpacked_nbytes", "nbytes"))
    packed = unpacked != 0
    if packed.any():
        available = np.where(packed, unpacked, available)
    outside = (nbytes > available) | (offset > available - np.minimum(nbytes, available))
    refusal.refuse("index-range", outside, "its bytes extend beyond the blob")
    expected = element_types.stored_nbytes(columns.type, counts)
    # A size of 2⁶³ or more is negative here and equals no expected one; -1 stands for an unknown type.
    disagrees = (columns.codec <= PACKED) & (expected >= 0) & (nbytes.view(np.int64) != expected)
    refusal.refuse("index-shape", disagrees, "its size disagrees with its shape and element type")
    refusal.refuse("index-shape", ~no_blob & no_elements, "it has a blob but no elements")
    what = "its codec says that it is packed and the blob table does not, or the reverse"
    refusal.refuse("index-codec", (columns.codec == PACKED) != packed, what)
    refusal.refuse("index-scale", ~np.isfinite(columns.scale), "its scale is not a finite number")


def _of_blobs(
    column: npt.NDArray[np.uint64], blob: npt.NDArray[np.uint32], no_blob: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint64]:
    """Return a column of the blob table for each entry; 0 for an entry without a blob."""
    if not len(column):
        return np.zeros(len(blob), dtype=np.uint64)
    values: npt.NDArray[np.uint64] = column[np.where(no_blob, 0, blob)]
    if no_blob.any():
        values[no_blob] = 0
    return values
