"""The indexes of complete stores → the index of the set that they make.

Spec: spec/index.md, Sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from blobstore.errors import UsageError
from blobstore.index.build import assemble, dump_metadata, pool_of, pool_shapes
from blobstore.index.file_names import file_clash
from blobstore.index.records import NO_BLOB, STORE, store_digest
from blobstore.index.stores import key_twice, store_name_fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from blobstore.container.directory import Directory
    from blobstore.fileio.types import Array
    from blobstore.index.build import Content
    from blobstore.index.name_index import NameIndex


@dataclass(frozen=True, slots=True)
class JoinedStore:
    """A complete store of version 2, to become one of a set.

    Attributes:
        name: Of the file, in the folder of the set's index.
        directory: Of the file.
        index: Its embedded index, checked; it lists all blobs but itself, in order.
    """

    name: str
    directory: Directory
    index: NameIndex


def build_set_index(stores: Sequence[JoinedStore], metadata: Mapping[str, str] | None = None) -> bytes:
    """Lay out the index of a set. Its digests are those of the stores, if all of them have some.

    Args:
        stores: In the order of the set.
        metadata: Of the set.

    Raises:
        UsageError: ``duplicate-name`` for a name in two stores; ``duplicate-key`` for a key in two; ``names-too-long``;
            ``bad-store-name``; ``no-stores``.
        FormatError: ``index-…``: a store's index is wrong.
    """
    _check_stores(stores)
    indexes = [store.index for store in stores]
    firsts = np.cumsum([0, *(len(index.blobs) for index in indexes)])
    names = [name.encode() for name in chain.from_iterable(index.names for index in indexes)]
    order = np.array(sorted(range(len(names)), key=names.__getitem__), np.intp)
    pool, starts = pool_of([names[place] for place in order.tolist()])
    shape_starts, dims, own_shapes = _shapes(indexes, order)
    blobs = [
        np.where(index.entries.blob == NO_BLOB, NO_BLOB, index.entries.blob + first)
        for index, first in zip(indexes, firsts.tolist(), strict=False)
    ]
    contents: dict[str, Content] = {
        f"entry {field}": np.concatenate([getattr(index.entries, field) for index in indexes])[order]
        for field in ("offset", "nbytes", "scale", "type", "codec")
    }
    contents |= {
        f"blob {field}": np.concatenate([getattr(index.blobs, field) for index in indexes])
        for field in ("key", "nbytes", "unpacked_nbytes")
    }
    twice = key_twice(np.concatenate([index.blobs.key for index in indexes]))
    if twice is not None:
        raise UsageError("duplicate-key", f"two of the stores have a blob {twice!r}")
    if all(index.has_digests for index in indexes):
        contents["blob sha256"] = np.concatenate([index.blobs.sha256 for index in indexes])
    store_names, name_starts = b"".join(store.name.encode() + b"\0" for store in stores), [0]
    for store in stores[:-1]:
        name_starts.append(name_starts[-1] + len(store.name) + 1)
    contents |= {
        "entry name_start": starts,
        "entry blob": np.concatenate(blobs)[order].astype("<u4"),
        "entry shape": own_shapes,
        "shape start": shape_starts,
        "dims": dims,
        "stores": _records(stores, firsts, name_starts),
        "names": pool,
        "store names": store_names,
        "metadata": dump_metadata(metadata or {}),
    }
    return assemble(contents, "set")


def _check_stores(stores: Sequence[JoinedStore]) -> None:
    if not stores:
        raise UsageError("no-stores", "a set has at least one store")
    for store in stores:
        fault = store_name_fault(store.name)
        if fault:
            raise UsageError("bad-store-name", f"{store.name!r} {fault}")
        if store.directory.version != 2 or not len(store.index.blobs):
            what = "has no blobs" if store.directory.version == 2 else "is of version 1"
            raise UsageError("bad-store", f"{store.name!r} {what}: the stores of a set are of version 2, with tensors")
    clash = file_clash(store.name for store in stores)
    if clash:
        raise UsageError("bad-store-name", f"a set can't have the stores {clash}")


def _shapes(indexes: Sequence[NameIndex], order: npt.NDArray[np.intp]) -> tuple[Array, Array, Array]:
    """Return the table of shapes, the pool of dimensions, and the place of each entry's shape, in this order."""
    places: dict[tuple[int, ...], int] = {}
    own = []
    for index in indexes:
        in_all = [places.setdefault(shape, len(places)) for shape in index.shapes]
        own.append(np.array(in_all, np.int64)[index.entries.shape])
    ordered = np.concatenate(own)[order]
    used, first_uses, ranks = np.unique(ordered, return_index=True, return_inverse=True)
    by_use = np.argsort(first_uses)  # each shape in the order of its first use
    shapes = list(places)
    new_places = np.argsort(by_use)
    return *pool_shapes(shapes[place] for place in used[by_use].tolist()), new_places[ranks].astype("<u4")


def _records(stores: Sequence[JoinedStore], firsts: Array, name_starts: Sequence[int]) -> Array:
    records = np.zeros(len(stores), STORE)
    for i, store in enumerate(stores):
        records[i]["nbytes"] = store.directory.file_size
        digest = store_digest(store.directory, store.index.header.self_sha256)
        records[i]["sha256"] = np.frombuffer(digest, np.uint8)
        records[i]["first_blob"], records[i]["name_start"] = firsts[i], name_starts[i]
    return records.view(np.uint8)
