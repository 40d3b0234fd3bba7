"""A packed file → the file that it was made of, byte for byte."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container.keys import INDEX_KEY, SKELETON_INDEX_KEY, SKELETON_KEY, decode_key
from blobstore.errors import FormatError, UsageError, in_file
from blobstore.fileio.atomic import AtomicFile
from blobstore.fileio.hashing import Hasher
from blobstore.fileio.sink import Sink
from blobstore.fileio.threads import check_workers, in_order
from blobstore.index import parse_index
from blobstore.index.inputs import files_of, refuse_inputs
from blobstore.index.metadata import PACKED_FROM
from blobstore.index.sidecar import close_with_index, close_with_index_inside, close_without_index
from blobstore.packing.skeleton import Original, decompressed, directory_in, ranges_outside
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike
    from typing import BinaryIO

    from blobstore.container.directory import Directory
    from blobstore.fileio.types import Bytes, Progress
    from blobstore.store.blobs import UnpackedBlobs


_PIECE_NBYTES = 4 << 20  # a multiple of what is decoded together, at least with our own chunks
_SYNC_NBYTES = 128 << 20


@dataclass(frozen=True)
class Unpacked:
    """What was written.

    Attributes:
        path: Of the file.
        nbytes: Of the file.
        blobs: How many of its blobs were packed.
        sha256: Of the file, in hex; compared with what was kept.
    """

    path: str
    nbytes: int
    blobs: int
    sha256: str


def original_of(store: Store) -> Original:
    """Return what a packed file says of the one that it was made of.

    Raises:
        UsageError: ``not-packed``.
        FormatError: ``packed-metadata``.
    """
    text = store.metadata.get(PACKED_FROM)
    if text is None or SKELETON_KEY not in store.reader:
        raise UsageError("not-packed", f"{store.path!r} is not packed")
    return Original.from_text(text)


def unpack(
    path: str | PathLike[str],
    target: str | PathLike[str] | BinaryIO,
    *,
    base: str | PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda _: None,
) -> Unpacked:
    """Write the file that a packed one was made of, and the index that stood beside it.

    Args:
        path: Of the packed file.
        target: Path of the new one; replaced only by a complete one, whose SHA-256 is the one that was kept. Or a
            binary stream, which gets its last bytes only when it is.
        base: The file that it was made the difference to.
        workers: Threads; by default one for each core.
        progress: Called with how many bytes more were written.

    Raises:
        FormatError: It is damaged: ``packed-…``, ``unpacked-digest`` when the result is another file.
        UsageError: ``not-packed``; ``same-file``, also when the base is to be replaced; ``needs-base``, ``wrong-base``;
            ``bad-workers``; ``needs-path`` for a stream when an index stood beside the original.
        OSError: Reading or writing failed; the target is untouched.
    """
    check_workers(workers)
    refuse_inputs(files_of(target), files_of(path, base))
    with Store(path, base=base) as store, in_file(store.path):
        original = original_of(store)
        skeleton = decompressed(store.reader[SKELETON_KEY])
        directory = directory_in(skeleton, original.nbytes)
        _check_sizes(directory, store.unpacked)
        pieces = _Pieces(directory, skeleton, store.unpacked)
        packed = store.index.packed_count if store.index else 0
        if not isinstance(target, (str, os.PathLike)):
            if original.index == "external":
                raise UsageError("needs-path", "an index stood beside the original: a stream has no such place")
            _write(Sink(target), pieces, original, workers=workers, progress=progress)
            return Unpacked("-", original.nbytes, packed, original.sha256)
        with AtomicFile(target) as file:
            sink = Sink(file.fileno(), file.path)
            _write(sink, pieces, original, workers=workers, progress=progress, sync=file.sync_soon)
            _complete(file, target, store, original, directory)
        return Unpacked(os.fspath(target), original.nbytes, packed, original.sha256)


def _write(
    sink: Sink,
    pieces: _Pieces,
    original: Original,
    *,
    workers: int | None,
    progress: Progress,
    sync: Callable[[], None] = lambda: None,
) -> None:
    """Write all pieces, hashed meanwhile; the last one only if they are the original.

    Raises:
        FormatError: ``unpacked-digest``.
    """
    hasher = Hasher()
    synced, last = 0, b""
    try:
        hasher.begin()
        for piece, room in in_order(pieces.jobs(), workers):
            with hasher.updating(piece):
                if sink.position + len(piece) < original.nbytes:
                    sink.write(piece)
                else:  # without the last bytes nobody takes the rest for a file
                    last = bytes(piece)
            pieces.done_with(room)
            progress(len(piece))
            if sink.position - synced >= _SYNC_NBYTES:
                synced = sink.position
                sync()
        digest = hasher.digests()[0].hex()
        if digest != original.sha256:
            what = f"the unpacked file has the SHA-256 {digest}, it was {original.sha256}"
            raise FormatError("unpacked-digest", what)
        sink.write(memoryview(last))
        sink.flush()
    finally:
        hasher.discard()


def _complete(
    file: AtomicFile, path: str | PathLike[str], store: Store, original: Original, directory: Directory
) -> None:
    """Give the file its name, and see to the index beside it."""
    if original.index == "external":
        if SKELETON_INDEX_KEY not in store.reader:
            raise FormatError(
                "packed-skeleton", f"the index that stood beside the file is missing: no {SKELETON_INDEX_KEY!r}"
            )
        raw = decompressed(store.reader[SKELETON_INDEX_KEY])
        parse_index(memoryview(raw), external=True).check_binding(directory)
        close_with_index(file, path, raw, directory)
    elif original.index == "none":
        close_without_index(file, path, lambda: directory)
    else:
        close_with_index_inside(file, path)


def _check_sizes(directory: Directory, blobs: UnpackedBlobs) -> None:
    for place, nbytes in enumerate(directory.sizes.tolist()):
        key = decode_key(directory.keys[place])
        if key == INDEX_KEY:
            continue
        if key not in blobs.reader:
            raise FormatError("packed-skeleton", f"the blob {key!r} of the file that was packed is missing")
        if blobs.nbytes(key) != nbytes:
            what = f"the blob {key!r} had {nbytes} bytes, it is to have {blobs.nbytes(key)}"
            raise FormatError("packed-skeleton", what)


class _Pieces:
    """A file's bytes, piece by piece, each from a job of its own; in memory that is used again and again."""

    def __init__(self, directory: Directory, skeleton: bytes, blobs: UnpackedBlobs) -> None:
        self._directory = directory
        self._skeleton = memoryview(skeleton)
        self._blobs = blobs
        self._rooms: deque[Bytes] = deque()

    def jobs(self) -> Iterator[Callable[[], tuple[memoryview, Bytes | None]]]:
        """Yield jobs that give the bytes, from the file's beginning to its end, and the room that they are in."""
        directory = self._directory
        own = directory.find(INDEX_KEY.encode())
        stored = [
            (*directory.range(place), decode_key(directory.keys[place]))
            for place in range(len(directory))
            if place != own
        ]
        outside = [(offset, nbytes, "") for offset, nbytes in ranges_outside(directory)]
        done = 0
        for _, nbytes, key in sorted(stored + outside):
            if key:
                for start in range(0, nbytes, _PIECE_NBYTES):
                    yield partial(self._of_blob, key, start, min(_PIECE_NBYTES, nbytes - start))
            else:
                yield partial(_same, self._skeleton[done : done + nbytes])
                done += nbytes

    def done_with(self, room: Bytes | None) -> None:
        """Take back the room of a piece: new memory costs page faults, more than the decoding."""
        if room is not None:
            self._rooms.append(room)

    def _of_blob(self, key: str, start: int, nbytes: int) -> tuple[memoryview, Bytes | None]:
        if not self._blobs.is_packed(key):
            return self._blobs.read(key, start, nbytes), None
        try:
            room = self._rooms.pop()
        except IndexError:
            room = np.empty(_PIECE_NBYTES, dtype=np.uint8)
        unpacked = self._blobs.nbytes(key)
        return self._blobs.read_packed(key, unpacked, start, nbytes, out=room[:nbytes], workers=1), room


def _same(data: memoryview) -> tuple[memoryview, None]:
    return data, None
