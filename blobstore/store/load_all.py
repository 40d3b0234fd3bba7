"""Load every tensor of a file at once: large reads on several threads, without intermediate copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.errors import in_file
from blobstore.fileio.ranges import CHUNK_NBYTES
from blobstore.fileio.threads import check_workers, cores, run_all
from blobstore.store.slices import load_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from blobstore.fileio.types import Array, Bytes, ReadInto
    from blobstore.store.blobs import UnpackedBlobs
    from blobstore.store.info import TensorInfo
    from blobstore.store.values import TensorFile

    Job = Callable[[], object]


_ELSEWHERE = 3  # threads that take what comes from elsewhere
_ALIGN = 64  # tensors are aligned in memory as they are in the file, up to a cache line


@dataclass
class _Group:
    """A range of the file that is read into one allocation, and the tensors in it."""

    start: int
    end: int
    infos: list[TensorInfo] = field(default_factory=list)
    buffer: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))

    def reading(self, read_into: ReadInto) -> Iterator[Job]:
        """Allocate the buffer, and yield the jobs that fill it. Measured: each thread reads one chunk at a time."""
        nbytes = self.end - self.start
        buffer = np.empty(nbytes + _ALIGN, dtype=np.uint8)
        skip = (self.start - buffer.ctypes.data) % _ALIGN
        self.buffer = buffer[skip : skip + nbytes]
        for start in range(0, nbytes, CHUNK_NBYTES):
            yield partial(read_into, self.buffer[start : start + CHUNK_NBYTES].data, self.start + start)

    def tensor(self, info: TensorInfo) -> Array:
        """View a tensor."""
        # One call: with many small tensors each call counts.
        return np.ndarray(info.shape, info.type.dtype, self.buffer, info.offset - self.start)


def load_all(store: TensorFile, infos: Iterable[TensorInfo], workers: int | None = None) -> dict[str, Array]:
    """Return tensors of a file by name, writable; see `Store.load_all`.

    Args:
        store: The file.
        infos: The tensors.
        workers: Threads; by default one for each core.
    """
    check_workers(workers)
    if store.reader.is_elsewhere:  # each may hold a block of its own besides those that are fetched ahead
        workers = min(workers or cores(), _ELSEWHERE)
    with in_file(store.path), store.reader.reading() as read_into:
        return _load_all(store, list(infos), read_into, workers)


def _load_all(
    store: TensorFile, infos: Sequence[TensorInfo], read_into: ReadInto, workers: int | None
) -> dict[str, Array]:
    groups = _groups(info for info in infos if _is_plain(info))
    others = {info.place: info for info in infos if not _is_plain(info)}  # names for the same bytes share memory
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
    arrays = dict(zip(loading, results[len(results) - len(loading) :], strict=True))
    arrays |= {place: np.ndarray(info.shape, info.dtype, buffers[place]) for place, info in packed.items()}
    views = {info.name: group.tensor(info) for group in groups for info in group.infos}
    return {info.name: views[info.name] if info.name in views else arrays[info.place] for info in infos}


def _is_plain(info: TensorInfo) -> bool:
    """Whether the file holds a tensor as numpy does."""
    return bool(info.nbytes) and not info.codec and not info.encoded  # not size: it multiplies the shape each time


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


def _groups(infos: Iterable[TensorInfo]) -> list[_Group]:
    """Group tensors that lie near each other, up to a few MiB; those that share bytes are always in one group.

    The limit is for callers that keep one small tensor: they keep no more memory than that.
    """
    groups: list[_Group] = []
    last = None
    for info in sorted(infos, key=lambda info: (info.offset, -info.nbytes)):
        end = info.offset + info.nbytes
        if last is None or (info.offset >= last.end and end - last.start > CHUNK_NBYTES):
            last = _Group(info.offset, end)
            groups.append(last)
        last.end = max(last.end, end)
        last.infos.append(info)
    return groups
