"""Checks of the entries of an index, all of them at once or some.

Spec: spec/index.md; I8 to I14, and I20, are its reader checks.
"""

from __future__ import annotations

from itertools import islice
from operator import lt
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs import element_types
from blobstore.errors import FormatError
from blobstore.index.names import MAX_NAME_NBYTES
from blobstore.index.records import MAX_ELEMENTS, MAX_NDIM, NO_BLOB, PACKED, SECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from blobstore.index.records import BlobColumns, EntryColumns

_ONE = np.uint64(1)
_MAX_COUNT = np.uint64(MAX_ELEMENTS)
_SURELY_FITS = 2.0**56
_NO_ENDS = np.empty(0, np.uint32)
_NUL, _SHORTEST, _LONGEST = np.uint32(1), np.uint32(2), np.uint32(MAX_NAME_NBYTES + 1)  # of a name with its NUL
_DECODED = 1024  # names at a time


class Refusal:
    """Raises an error for the first entry, or the first shape, that fails a check.

    Attributes:
        name: Place of an entry → its name, for the message; empty if it isn't known.
    """

    def __init__(
        self,
        spans: Mapping[str, tuple[int, int]],
        first: int = 0,
        name: Callable[[int], str] = lambda _: "",
        *,
        what: str = "entry",
    ) -> None:
        """Check entries, or shapes, from the place ``first`` on.

        Args:
            spans: Where each section of the index is.
            first: The place of the first one.
            name: As the attribute.
            what: What is checked, for the message.
        """
        self._spans = spans
        self._first = first
        self.name = name
        self._what = what

    def refuse(self, reason: str, section: str, bad: npt.NDArray[np.bool_], what: str) -> None:
        """Raise a FormatError for the first that is ``bad``, if there is one, with its offset in a section."""
        if np.count_nonzero(bad):  # a small array is counted in a fifth of the time of any()
            place = self._first + int(bad.argmax())
            name = self.name(place)[:80]
            named = f" ({name!r})" if name else ""
            offset = self._spans[section][0] + SECTIONS[section][0].itemsize * place
            raise FormatError(reason, f"{self._what} {place}{named}: {what}", offset)


def check_names(entries: EntryColumns, pool: memoryview, start: int, refusal: Refusal) -> list[str]:
    """Make checks I8 and I9 of all entries → their names.

    Args:
        entries: All of them.
        pool: The names section.
        start: Offset of the section in the index.
        refusal: Gets the names.
    """
    if (int(entries.name_start[0]) if len(entries) else len(pool)) != 0:
        raise FormatError("index-name", "the first name is not at the beginning of the names", start)
    ends = np.concatenate((entries.name_start[1:], np.array([len(pool)], np.uint32))) if len(entries) else _NO_ENDS
    # Modulo 2³²; what is wrapped around makes the sum larger than the section.
    spans = ends - entries.name_start
    bad = spans - _SHORTEST > _LONGEST - _SHORTEST
    if np.count_nonzero(bad) or int(spans.sum(dtype=np.uint64)) != len(pool):
        starts = entries.name_start.astype(np.int64)
        lengths = np.append(starts[1:], len(pool)) - starts - 1
        what = f"a name has 1 to {MAX_NAME_NBYTES} bytes and follows the previous one"
        refusal.refuse("index-name", "entry name_start", (lengths <= 0) | (lengths > MAX_NAME_NBYTES), what)
    names: list[str] = []
    done = 0
    for end in [
        *ends[_DECODED - 1 : -1 : _DECODED].tolist(),
        len(pool),
    ]:  # some at a time: memory that is new costs more
        try:
            names += str(pool[done:end], "utf-8").split("\0")
        except UnicodeDecodeError as error:
            at = start + done + error.start
            raise FormatError("index-name", f"a name is not UTF-8: {error.reason}", at) from None
        names.pop()  # after the last NUL
        done = end
    # As many NULs as names, and one at the end of each: so there is none inside a name.
    if len(names) != len(entries) or np.count_nonzero(np.frombuffer(pool, np.uint8)[ends - _NUL]):
        raise FormatError("index-name", "a name has a NUL inside, or none after it", start)
    refusal.name = names.__getitem__
    # Code points sort as their UTF-8 bytes do.
    if not all(map(lt, names, islice(names, 1, None))):
        place = next(i for i in range(1, len(names)) if names[i] <= names[i - 1])
        previous = names[place - 1]
        what = "used twice" if names[place] == previous else f"sorted after {previous[:80]!r}"
        raise FormatError("index-order", f"entry {place} ({names[place][:80]!r}) is {what}", start)
    return names


def check_shapes(
    starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], dims: npt.NDArray[np.uint64], refusal: Refusal
) -> npt.NDArray[np.int64]:
    """Make check I10 of some shapes → how many elements each has.

    Args:
        starts: Where each begins in the pool, shape (count,).
        stops: Where each ends.
        dims: The pool of dimensions.
        refusal: Of shapes.
    """
    ndim = stops - starts
    where = "shape start"
    outside = (ndim < 0) | (stops > len(dims))
    refusal.refuse("index-dims", where, outside, "it doesn't follow the previous one inside the dimensions")
    refusal.refuse("index-dims", where, ndim > MAX_NDIM, f"it has more than {MAX_NDIM} dimensions")
    count = np.ones(len(starts), dtype=np.uint64)
    empty = np.zeros(len(starts), dtype=np.bool_)
    for axis in range(int(ndim.max(initial=0))):
        has = ndim > axis
        place = starts + axis
        all_have = np.count_nonzero(has) == len(has)
        size = dims[place] if all_have else np.where(has, dims[np.where(has, place, 0)], _ONE)
        if np.count_nonzero(size) < len(size):
            empty |= size == 0
            size = np.maximum(size, _ONE)
        # Division is slow: it is only done where a product may be too large.
        if (count.astype(np.float64) * size).max(initial=0) > _SURELY_FITS:
            refusal.refuse("index-dims", where, count > _MAX_COUNT // size, "it has too many elements")
        count *= size
    count[empty] = 0
    return count.astype(np.int64)


def check_entries(
    entries: EntryColumns,
    blobs: BlobColumns,
    counts: npt.NDArray[np.int64],
    shape: npt.NDArray[np.uint32],
    refusal: Refusal,
) -> None:
    """Make checks I11 to I14, and I20, of some entries; and of I10 that each has a shape.

    Args:
        entries: Some, or all.
        blobs: The whole table.
        counts: How many elements each shape has.
        shape: Of each entry, the place of its shape in ``counts``.
        refusal: Of entries.
    """
    refusal.refuse("index-dims", "entry shape", shape >= len(counts), "its shape is not in the table of shapes")
    count = counts[shape]
    blob, nbytes, offset = entries.blob, entries.nbytes, entries.offset
    no_blob, no_elements = blob == NO_BLOB, count == 0
    refusal.refuse(
        "index-blob",
        "entry blob",
        ~no_blob & (blob >= len(blobs)),
        f"its blob is not one of the {len(blobs)} in the table",
    )
    refusal.refuse("index-blob", "entry blob", no_blob & ~no_elements, "it has elements but no blob")
    unpacked, available = (_of_blobs(column, blob, no_blob) for column in (blobs.unpacked_nbytes, blobs.nbytes))
    packed = unpacked != 0
    if np.count_nonzero(packed):
        available = np.where(packed, unpacked, available)
    outside = (nbytes > available) | (offset > available - np.minimum(nbytes, available))
    refusal.refuse("index-range", "entry offset", outside, "its bytes extend beyond the blob")
    expected = element_types.stored_nbytes(entries.type, count)
    # A size of 2⁶³ or more is negative here and equals no expected one; -1 stands for an unknown type.
    disagrees = (entries.codec <= PACKED) & (expected >= 0) & (nbytes.view(np.int64) != expected)
    refusal.refuse("index-shape", "entry nbytes", disagrees, "its size disagrees with its shape and element type")
    refusal.refuse("index-shape", "entry blob", ~no_blob & no_elements, "it has a blob but no elements")
    what = "its codec says that it is packed and the blob table does not, or the reverse"
    refusal.refuse("index-codec", "entry codec", (entries.codec == PACKED) != packed, what)
    refusal.refuse("index-scale", "entry scale", ~np.isfinite(entries.scale), "its scale is not a finite number")


def _of_blobs(
    column: npt.NDArray[np.uint64], blob: npt.NDArray[np.uint32], no_blob: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint64]:
    """Return a column of the blob table for each entry; 0 for an entry without a blob."""
    if not len(column):
        return np.zeros(len(blob), dtype=np.uint64)
    if not np.count_nonzero(no_blob):
        return column[blob]
    values: npt.NDArray[np.uint64] = column[np.where(no_blob, 0, blob)]
    values[no_blob] = 0
    return values
