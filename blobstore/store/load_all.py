"""Load every tensor of a file at once: large reads on several threads, without intermediate copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.errors import in_file
from blobstore.fileio.ranges import CHUNK_NBYTES
from blobstore.fileio.threads import check_workers, cores, run_all
from blobstore.store.slices import load_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blobstore.fileio.types import Array, Bytes, ReadInto
    from blobstore.store.blobs import UnpackedBlobs
    from blobstore.store.info import TensorInfo
    from blobstore.store.plain import Listed, PlainTensors
    from blobstore.store.values import TensorFile

    Job = Callable[[], object]


_ELSEWHERE = 3  # threads that take what comes from elsewhere
_HUGE_PAGE = 2 << 20  # what numpy asks for; on most systems of this size
_ALIGN = 64  # tensors are aligned in memory as they are in the file, up to a cache line


@dataclass
class _Group:
    """A range of the file that is read into one allocation, and the tensors in it."""

    start: int
    end: int
    tensors: PlainTensors
    buffer: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))

    def reading(self, read_into: ReadInto) -> Iterator[Job]:
        """Allocate the buffer, and yield the jobs that fill it. Measured: each thread reads one chunk at a time."""
        nbytes = self.end - self.start
        buffer = np.empty(nbytes + _ALIGN, dtype=np.uint8)
        skip = (self.start - buffer.ctypes.data) % _ALIGN
        self.buffer = buffer[skip : skip + nbytes]
        # No two threads fill the same huge page, for which they would wait.
        first = CHUNK_NBYTES - self.buffer.ctypes.data % _HUGE_PAGE
        cuts = [0, *range(first, nbytes, CHUNK_NBYTES), nbytes]
        for start, end in pairwise(cuts):
            yield partial(read_into, self.buffer[start:end].data, self.start + start)


def load_all(store: TensorFile, listed: Listed, workers: int | None = None) -> dict[str, Array]:
    """Return tensors of a file by name, writable; see `Store.load_all`.

    Args:
        store: The file.
        listed: The tensors.
        workers: Threads; by default one for each core.
    """
    check_workers(workers)
    if store.reader.is_elsewhere:  # each may hold a block of its own besides those that are fetched ahead
        workers = min(workers or cores(), _ELSEWHERE)
    with in_file(store.path), store.reader.reading() as read_into:
        return _load_all(store, listed, read_into, workers)


def _load_all(store: TensorFile, listed: Listed, read_into: ReadInto, workers: int | None) -> dict[str, Array]:
    groups = _groups(listed.plain)
    others = {info.place: info for info in listed.others}  # names for the same bytes share memory
    packed = {place: info for place, info in others.items() if _is_only_packed(info)}
    buffers = {place: np.empty(info.element_nbytes, dtype=np.uint8) for place, info in packed.items()}
    loading = {place: info for place, info in others.items() if place not in packed}

    def jobs() -> Iterator[Callable[[], Any]]:
        for group in groups:
            yield from group.reading(read_into)
        for place, info in packed.items():
            yield from _unpacking(store.unpacked, info, buffers[place])
        yield from (partial(load_rows, store, info) for info in loading.values())

    ahead = [(group.start, group.end - group.start) for group in groups]
    ahead += [place for info in others.values() for place in info.stored_ranges()]
    with store.reader.reading_ahead(ahead):
        results = run_all(jobs(), workers)
    by_place = dict(zip(loading, results[len(results) - len(loading) :], strict=True))
    by_place |= {place: np.ndarray(info.shape, info.dtype, buffers[place]) for place, info in packed.items()}
    arrays: dict[str, Any] = dict.fromkeys(listed.names)
    for group in groups:
        arrays.update(zip(group.tensors.names, group.tensors.arrays(group.buffer.data, group.start), strict=True))
    arrays.update((info.name, by_place[info.place]) for info in listed.others)
    return arrays


def _is_only_packed(info: TensorInfo) -> bool:
    """Whether a tensor is as numpy holds it once it is unpacked."""
    return bool(info.packed and info.size) and info.dtype is not None and not info.encoded


def _unpacking(blobs: UnpackedBlobs, info: TensorInfo, buffer: Bytes) -> Iterator[Job]:
    """Yield the jobs that decode a packed tensor, one part each. Each uses one thread: the pool has enough of them."""
    packed = info.packed
    if packed is None:
        return
    for start in range(0, len(buffer), CHUNK_NBYTES):
        part = buffer[start : start + CHUNK_NBYTES]
        place = (packed.blob_nbytes, packed.start + start, len(part))
        yield partial(blobs.read_packed, info.key, *place, out=part, workers=1)


def _groups(tensors: PlainTensors) -> list[_Group]:
    """Group tensors that lie near each other, up to a few MiB; those that share bytes are always in one group.

    The limit is for callers that keep one small tensor: they keep no more memory than that.
    """
    order = np.lexsort((-tensors.sizes, tensors.offsets))
    starts = tensors.offsets[order]
    ends = np.maximum.accumulate(starts + tensors.sizes[order])
    # Where a group may begin: where no tensor before reaches.
    begins = np.flatnonzero(np.append(True, starts[1:] >= ends[:-1])) if len(order) else order
    groups: list[_Group] = []
    first = 0
    while first < len(order):
        # The first that may begin a group, and that the group so far has no room for.
        beyond = max(int(np.searchsorted(ends, starts[first] + CHUNK_NBYTES, "right")), first + 1)
        place = int(np.searchsorted(begins, beyond))
        stop = int(begins[place]) if place < len(begins) else len(order)
        groups.append(_Group(int(starts[first]), int(ends[stop - 1]), tensors.take(order[first:stop])))
        first = stop
    return groups
