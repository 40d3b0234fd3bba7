"""Every tensor of a file into memory at once: large reads, on several threads, without a copy in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.fileio.descriptors import read_into
from blobstore.fileio.ranges import CHUNK_NBYTES
from blobstore.fileio.threads import run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from blobstore.fileio.types import Array, Bytes
    from blobstore.store.blobs import UnpackedBlobs
    from blobstore.store.catalog import TensorInfo


_ALIGN = 64  # tensors are aligned in memory as they are in the file, up to a cache line


@dataclass
class _Group:
    """A range of the file that is read into one allocation, and the tensors in it."""

    start: int
    end: int
    infos: list[TensorInfo] = field(default_factory=list)
    buffer: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))

    def allocate(self) -> None:
        nbytes = self.end - self.start
        buffer = np.empty(nbytes + _ALIGN, dtype=np.uint8)
        skip = (self.start - buffer.ctypes.data) % _ALIGN
        self.buffer = buffer[skip : skip + nbytes]

    def pieces(self) -> Iterator[tuple[memoryview, int]]:
        """Yield what is to be filled, and from which offset: one thread's work each, by measurement."""
        for done in range(0, len(self.buffer), CHUNK_NBYTES):
            yield self.buffer[done : done + CHUNK_NBYTES].data, self.start + done

    def tensor(self, info: TensorInfo) -> Array:
        """View a tensor."""
        # One call: with many small tensors each one counts.
        return np.ndarray(info.shape, info.type.dtype, self.buffer, info.offset - self.start)


def load_all(
    infos: Iterable[TensorInfo],
    fd: int,
    blobs: Callable[[], UnpackedBlobs],
    load: Callable[[TensorInfo], Array],
    workers: int | None = None,
) -> dict[str, Array]:
    """Return tensors by name, writable; see `Store.load_all`.

    Args:
        infos: What is known of each.
        fd: Of the file, open until this returns.
        blobs: Gives the blobs that packed tensors lie in.
        load: Returns a tensor that neither lies in the file as numpy has it nor is just packed.
        workers: Threads; by default one for each core.
    """
    infos = list(infos)
    groups = _groups(info for info in infos if _is_plain(info))
    others = {info.place: info for info in infos if not _is_plain(info)}  # names for the same bytes share memory
    unpacked = {place: info for place, info in others.items() if _is_only_packed(info)}
    buffers = {place: np.empty(info.element_nbytes, dtype=np.uint8) for place, info in unpacked.items()}
    loaded = {place: info for place, info in others.items() if place not in unpacked}

    def jobs() -> Iterator[Callable[[], Any]]:
        for group in groups:
            group.allocate()
            yield from (partial(read_into, fd, *piece) for piece in group.pieces())
        for place, info in unpacked.items():
            yield from _unpacking(blobs(), info, buffers[place])
        yield from (partial(load, info) for info in loaded.values())

    results = run_all(jobs(), workers)
    arrays = dict(zip(loaded, results[len(results) - len(loaded) :], strict=True))
    arrays |= {place: np.ndarray(info.shape, info.dtype, buffers[place]) for place, info in unpacked.items()}
    views = {info.name: group.tensor(info) for group in groups for info in group.infos}
    return {info.name: views[info.name] if info.name in views else arrays[info.place] for info in infos}


def _is_plain(info: TensorInfo) -> bool:
    """Whether a tensor lies in the file as numpy has it."""
    return bool(info.nbytes) and not info.codec and not info.encoded  # nbytes, not count, which is a product for each


def _is_only_packed(info: TensorInfo) -> bool:
    """Whether a tensor is as numpy has it once it is unpacked."""
    return info.packed and bool(info.count) and info.dtype is not None and not info.encoded


def _unpacking(blobs: UnpackedBlobs, info: TensorInfo, buffer: Bytes) -> Iterator[Callable[[], memoryview]]:
    """Yield jobs that decode a packed tensor, each a part of it: threads of each one's own would be too many."""
    for start in range(0, len(buffer), CHUNK_NBYTES):
        part = buffer[start : start + CHUNK_NBYTES]
        place = (info.unpacked_nbytes, info.inside + start, len(part))
        yield partial(blobs.read_packed, info.key, *place, out=part, workers=1)


def _groups(infos: Iterable[TensorInfo]) -> list[_Group]:
    """Put tensors that lie near each other together; those that share bytes always.

    Up to a few MiB: keeping one small tensor keeps no more than that.
    """
    groups: list[_Group] = []
    last = None
    for info in sorted(infos, key=lambda one: (one.offset, -one.nbytes)):
        end = info.offset + info.nbytes
        if last is None or (info.offset >= last.end and end - last.start > CHUNK_NBYTES):
            last = _Group(info.offset, end)
            groups.append(last)
        last.end = max(last.end, end)
        last.infos.append(info)
    return groups
