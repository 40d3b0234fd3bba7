"""Every tensor of a file into memory at once: large reads, on several threads, without a copy in between."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.errors import in_file
from blobstore.fileio.descriptors import read_into
from blobstore.fileio.threads import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from blobstore.fileio.types import Array, Bytes
    from blobstore.store.blobs import UnpackedBlobs
    from blobstore.store.catalog import TensorInfo
    from blobstore.store.reader import Store


_PIECE_NBYTES = 4 << 20  # what one thread reads at a time: measured, smaller and larger ones are slower
_GROUP_NBYTES = 4 << 20  # small tensors share an allocation up to this, so that keeping one keeps no more
_ALIGN = 64  # tensors are aligned in memory as they are in the file, up to a cache line


@dataclass
class _Group:
    """A range of the file that is read into one allocation, and the tensors in it."""

    start: int
    end: int
    infos: list[TensorInfo] = field(default_factory=list)
    room: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))

    def allocate(self) -> None:
        nbytes = self.end - self.start
        room = np.empty(nbytes + _ALIGN, dtype=np.uint8)
        skip = (self.start - room.ctypes.data) % _ALIGN
        self.room = room[skip : skip + nbytes]

    def pieces(self) -> Iterator[tuple[memoryview, int]]:
        """Yield what is to be filled, and from which offset."""
        for done in range(0, len(self.room), _PIECE_NBYTES):
            yield self.room[done : done + _PIECE_NBYTES].data, self.start + done

    def tensor(self, info: TensorInfo) -> Array:
        """View a tensor."""
        # One call: with many small tensors each one counts.
        return np.ndarray(info.shape, info.type.dtype, self.room, info.offset - self.start)


def load_all(store: Store, workers: int | None = None) -> dict[str, Array]:
    """Return every tensor of a store, writable; see `Store.load_all`."""
    infos = list(store.infos())
    plain, others = [], {}
    for info in infos:
        # nbytes, not count, which is a product for each
        if info.nbytes and not info.codec and not info.encoded:
            plain.append(info)
        else:
            others[info.place] = info
    groups = _groups(plain)
    with (
        in_file(store.path),
        store.reader.held() as fd,
        ThreadPoolExecutor(workers or cores(), thread_name_prefix="blobstore-load") as pool,
    ):
        try:
            jobs: list[Future[Any]] = []
            for group in groups:
                group.allocate()
                jobs += [pool.submit(read_into, fd, target, offset) for target, offset in group.pieces()]
            loading, loaded = {}, {}
            for place, info in others.items():
                if info.packed and info.count and info.dtype is not None and not info.encoded:
                    room = np.empty(info.element_nbytes, dtype=np.uint8)
                    jobs += [pool.submit(job) for job in _unpacking(store.unpacked, info, room)]
                    loaded[place] = np.ndarray(info.shape, info.dtype, room)
                else:
                    loading[place] = pool.submit(store.load, info.name)
            for done in jobs:
                done.result()
            loaded |= {place: done.result() for place, done in loading.items()}
        except BaseException:
            pool.shutdown(cancel_futures=True)  # nobody waits for the rest
            raise
    views = {info.name: group.tensor(info) for group in groups for info in group.infos}
    views |= {info.name: loaded[info.place] for info in infos if info.name not in views} if loaded else {}
    return {info.name: views[info.name] for info in infos}


def _unpacking(blobs: UnpackedBlobs, info: TensorInfo, room: Bytes) -> Iterator[Callable[[], memoryview]]:
    """Yield jobs that decode a packed tensor, each a part of it: threads of each one's own would be too many."""
    for start in range(0, len(room), _PIECE_NBYTES):
        part = room[start : start + _PIECE_NBYTES]
        place = (info.unpacked_nbytes, info.inside + start, len(part))
        yield partial(blobs.read_packed, info.key, *place, out=part, workers=1)


def _groups(infos: Iterable[TensorInfo]) -> list[_Group]:
    """Put tensors that lie near each other together; those that share bytes always."""
    groups: list[_Group] = []
    last = None
    for info in sorted(infos, key=lambda one: (one.offset, -one.nbytes)):
        end = info.offset + info.nbytes
        if last is None or (info.offset >= last.end and end - last.start > _GROUP_NBYTES):
            last = _Group(info.offset, end)
            groups.append(last)
        last.end = max(last.end, end)
        last.infos.append(info)
    return groups
