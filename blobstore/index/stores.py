"""The stores of a set: what its index says about them.

Spec: spec/index.md, Sets; I21 is its reader check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blobstore.container import layout
from blobstore.container.directory import repeated_key
from blobstore.container.keys import SKELETON_INDEX_KEY, SKELETON_KEY, decode_key
from blobstore.errors import FormatError
from blobstore.index.file_names import file_name_fault
from blobstore.index.records import STORE, SetStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from blobstore.index.records import BlobColumns

_MOST_NBYTES = float(1 << 62)
_MOST_IN_ALL = (1 << 63) - 1  # bytes of all stores: no offset over a set wraps
_SHOWN = 80


def store_name_fault(name: str) -> str:
    """Say why a store of a set can't have this name; empty if it can."""
    if "/" in name:
        return "is not the name of a file in the folder of the set's index"
    return file_name_fault(name)


def key_twice(raw: npt.NDArray[np.uint8]) -> str | None:
    """Return a key that two stores of a set have, of keys of shape (count, 16); None if all are different.

    What describes a packed store may be in each.
    """
    keys = raw.reshape(-1).view(f"S{layout.KEY_NBYTES}")
    of_tensors = keys[(keys != SKELETON_KEY.encode()) & (keys != SKELETON_INDEX_KEY.encode())]
    place = repeated_key(of_tensors)
    return None if place is None else decode_key(of_tensors[place])


def parse_stores(raw: memoryview, spans: dict[str, tuple[int, int]], blobs: BlobColumns) -> tuple[SetStore, ...]:
    """Make check I21 → the stores, in the order of their blobs.

    Raises:
        FormatError: ``index-stores``.
    """
    start, nbytes = spans["stores"]
    records = np.frombuffer(raw[start : start + nbytes], STORE)
    firsts = records["first_blob"].astype(np.int64)
    stops = np.append(firsts[1:], len(blobs))
    if firsts[0] or (stops <= firsts).any():
        raise FormatError(
            "index-stores", f"the blobs of the stores are not those of the table, in order: {start}", start
        )
    names = _names(raw, spans, records)
    ends = _ends(blobs, firsts, stops)
    stores, left = [], _MOST_IN_ALL
    for i, (name, first, stop, end) in enumerate(zip(names, firsts.tolist(), stops.tolist(), ends, strict=True)):
        size = int(records["nbytes"][i])
        if end > size or size > left:
            what = f"its blobs end at {end}, it has {size} bytes" if end > size else f"its {size} bytes are too many"
            raise FormatError("index-stores", f"store {name!r}: {what}", start + STORE.itemsize * i)
        left -= size
        stores.append(SetStore(name, size, records["sha256"][i].tobytes(), first, stop - first))
    return tuple(stores)


def _names(raw: memoryview, spans: dict[str, tuple[int, int]], records: npt.NDArray[np.void]) -> Sequence[str]:
    start, nbytes = spans["store names"]
    try:
        names = str(raw[start : start + nbytes], "ascii").split("\0")
    except UnicodeDecodeError as error:
        raise FormatError("index-stores", "a name of a store is not ASCII", start + error.start) from None
    last = names.pop()
    lengths = np.array([len(name) + 1 for name in names], np.int64)
    if last or len(names) != len(records) or (records["name_start"] != np.cumsum(lengths) - lengths).any():
        raise FormatError("index-stores", "the names of the stores don't follow each other, each with a NUL", start)
    for name in names:
        fault = store_name_fault(name)
        if fault:
            raise FormatError("index-stores", f"store {name[:_SHOWN]!r} {fault}", start)
    if len({name.lower() for name in names}) != len(names):
        raise FormatError("index-stores", "two stores have the same name, at least on some systems", start)
    return names


def _ends(blobs: BlobColumns, firsts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> list[int]:
    """Return where the blobs of each store end in its file, which is of version 2: they lie back to back."""
    sizes = blobs.nbytes
    if sizes.astype(np.float64).sum() >= _MOST_NBYTES:
        raise FormatError("index-stores", "the blobs of the set have more bytes than files can have")
    ends = np.append(0, np.cumsum(layout.padded_sizes(sizes).astype(np.int64)))
    return [int(end) for end in layout.BLOB_ALIGN + ends[stops] - ends[firsts]]
