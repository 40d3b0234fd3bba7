"""Restore the file from which a packed file was made, byte for byte."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container.keys import INDEX_KEY, SKELETON_INDEX_KEY, SKELETON_KEY, decode_key
from blobstore.errors import FormatError, UsageError, in_file, without_secrets
from blobstore.fileio.atomic import AtomicFile
from blobstore.fileio.hashing import Hasher, digest_of
from blobstore.fileio.paths import optional_path, path_text, target_of
from blobstore.fileio.ranges import CHUNK_NBYTES, expect
from blobstore.fileio.sink import Sink
from blobstore.fileio.source import read_whole
from blobstore.fileio.threads import check_workers, in_order
from blobstore.fileio.uploads import new_file
from blobstore.gemma.newer import readers_notes
from blobstore.index import parse_index
from blobstore.index.inputs import files_of, path_of, refuse_inputs
from blobstore.index.metadata import BASE, BASE_NAME, PACKED_FROM
from blobstore.index.sets import stores_of
from blobstore.index.sidecar import complete_file, refuse_target
from blobstore.packing.skeleton import Original, decompressed, directory_in, ranges_outside
from blobstore.store.base import refuse_needless_base
from blobstore.store.reader import Store
from blobstore.store.set_making import make_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike
    from typing import BinaryIO

    from blobstore.container.directory import Directory
    from blobstore.fileio.atomic import AtomicFile
    from blobstore.fileio.types import Bytes, Progress
    from blobstore.fileio.uploads import Upload
    from blobstore.store.blobs import UnpackedBlobs


@dataclass(frozen=True)
class Unpacking:
    """The result of `unpack`.

    Attributes:
        input: The path of the packed file, as given.
        output: The path of the restored file, as given; None for a stream.
        nbytes: Size of the restored file.
        blobs: How many of its blobs were packed.
        sha256: Of the restored file, in hex; it is that of the original.
        base: The path of the base, as given; None without one.
        stores: The files of the set, if it is one.
        notes: What a user should know.
        seconds: How long it took.

    Example:
        >>> _ = blobstore.pack("model.sbs", "model.packed.sbs")
        >>> blobstore.unpack("model.packed.sbs", "same.sbs").output
        'same.sbs'
    """

    input: str
    output: str | None
    nbytes: int
    blobs: int
    sha256: str
    base: str | None
    stores: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


def original_of(store: Store) -> Original:
    """Return what a packed file says about the original.

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
    output: str | PathLike[str] | BinaryIO,
    *,
    base: str | PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda _: None,
) -> Unpacking:
    """Restore the file from which a packed file was made, and the index that was beside it.

    Args:
        path: Of the packed file.
        output: Path or URL of the new file; replaced only by a complete one that has the SHA-256 of the original. Or a
            binary stream, which gets its last bytes only if the SHA-256 is right.
        base: The base that it was packed with.
        workers: Threads; by default one for each core.
        progress: Called with how many bytes more were written.

    Returns:
        What was done. ``dataclasses.asdict`` of it is what ``blobstore unpack --json`` prints.

    Raises:
        FormatError: It is damaged: ``packed-…``, ``unpacked-digest`` when the result is another file.
        UsageError: ``not-packed``; ``same-file``, also when the base is to be replaced; ``needs-base``, ``wrong-base``,
            ``needless-base``; ``bad-workers``; ``needs-path`` for a stream when the original had an external index.
        OSError: Reading or writing failed; the output is untouched.

    Example:
        >>> _ = blobstore.pack("model.sbs", "model.packed.sbs")
        >>> _ = blobstore.unpack("model.packed.sbs", "same.sbs")
        >>> import filecmp
        >>> filecmp.cmp("same.sbs", "model.sbs", shallow=False)
        True
    """
    path, output, base = path_text(path), target_of(output), optional_path(base)
    start = time.perf_counter()
    check_workers(workers)
    refuse_inputs(files_of(output), files_of(path, base))
    if not stores_of(path):
        return _unpack_file(path, output, base, start, workers=workers, progress=progress)
    if not isinstance(output, str):
        raise UsageError("needs-path", "a set is several files, a stream is one: name a path")

    def make(store: str, target: str, progress: Progress) -> Unpacking:
        return _unpack_file(store, target, base, start, workers=workers, progress=progress)

    parts = make_each(path, output, make, metadata_of=_before_packing, progress=progress)
    return Unpacking(
        input=path,
        output=output,
        nbytes=sum(part.nbytes for part in parts),
        blobs=sum(part.blobs for part in parts),
        sha256=digest_of([read_whole(output)]).hex(),
        base=base,
        stores=tuple(str(part.output) for part in parts),
        notes=(*dict.fromkeys(text for part in parts for text in part.notes), f"a set of {len(parts)} files"),
        seconds=time.perf_counter() - start,
    )


def _before_packing(metadata: dict[str, str], _: object) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key not in (BASE, BASE_NAME)}


def _unpack_file(
    path: str,
    output: str | BinaryIO,
    base: str | None,
    start: float,
    *,
    workers: int | None,
    progress: Progress,
) -> Unpacking:
    """Unpack one file."""
    with Store(path, base=base) as store, in_file(store.path):
        original = original_of(store)
        refuse_needless_base(store)
        expect(progress, original.nbytes)
        refuse_target(output, original.index)
        skeleton = decompressed(store.reader[SKELETON_KEY])
        directory = directory_in(skeleton, original.nbytes)
        _check_sizes(directory, store.unpacked)
        pieces = _Pieces(directory, skeleton, store.unpacked)
        packed = store.index.packed_count if store.index else 0
        if not isinstance(output, str):
            _write(Sink(output), pieces, original, workers=workers, progress=progress)
        else:
            with new_file(output) as file:
                sink = Sink(file.output(), file.path)
                _write(sink, pieces, original, workers=workers, progress=progress, wrote_up_to=file.wrote_up_to)
                _complete(file, output, store, original, directory)
    return Unpacking(
        input=without_secrets(path),
        output=path_of(output),
        nbytes=original.nbytes,
        blobs=packed,
        sha256=original.sha256,
        base=base and without_secrets(base),
        stores=(),
        notes=tuple(readers_notes(len(directory))),
        seconds=time.perf_counter() - start,
    )


def _write(
    sink: Sink,
    pieces: _Pieces,
    original: Original,
    *,
    workers: int | None,
    progress: Progress,
    wrote_up_to: Callable[[int], None] = lambda _: None,
) -> None:
    """Write all pieces, and hash them meanwhile; the last one is written only if they match the original.

    Raises:
        FormatError: ``unpacked-digest``.
    """
    hasher = Hasher()
    last = b""
    try:
        hasher.begin()
        for piece, buffer in in_order(pieces.jobs(), workers):
            with hasher.updating(piece):
                if sink.position + len(piece) < original.nbytes:
                    sink.write(piece)
                else:  # without its last bytes a reader rejects the file
                    last = bytes(piece)
            pieces.done_with(buffer)
            progress(len(piece))
            wrote_up_to(sink.position)
        digest = hasher.digests()[0].hex()
        if digest != original.sha256:
            what = f"the unpacked file has the SHA-256 {digest}, the original had {original.sha256}"
            raise FormatError("unpacked-digest", what)
        sink.write(memoryview(last))
        sink.flush()
    finally:
        hasher.discard()


def _complete(
    file: AtomicFile | Upload, path: str | PathLike[str], store: Store, original: Original, directory: Directory
) -> None:
    """Give the file its name, with the index that was beside it."""
    raw = b""
    if original.index == "external":
        if SKELETON_INDEX_KEY not in store.reader:
            what = f"the external index of the original is missing: there is no blob {SKELETON_INDEX_KEY!r}"
            raise FormatError("packed-skeleton", what)
        raw = decompressed(store.reader[SKELETON_INDEX_KEY])
        parse_index(memoryview(raw), kind="external").check_binding(directory)
    complete_file(file, path, original.index, lambda: directory, raw)


def _check_sizes(directory: Directory, blobs: UnpackedBlobs) -> None:
    for place, nbytes in enumerate(directory.sizes.tolist()):
        key = decode_key(directory.keys[place])
        if key == INDEX_KEY:
            continue
        if key not in blobs.reader:
            raise FormatError("packed-skeleton", f"the blob {key!r} of the original is missing")
        if blobs.nbytes(key) != nbytes:
            what = f"the blob {key!r} had {nbytes} bytes in the original, here it has {blobs.nbytes(key)}"
            raise FormatError("packed-skeleton", what)


class _Pieces:
    """The bytes of a file, piece by piece, each made by a job of its own, in buffers that are reused."""

    def __init__(self, directory: Directory, skeleton: bytes, blobs: UnpackedBlobs) -> None:
        self._directory = directory
        self._skeleton = memoryview(skeleton)
        self._blobs = blobs
        self._free: deque[Bytes] = deque()  # buffers

    def jobs(self) -> Iterator[Callable[[], tuple[memoryview, Bytes | None]]]:
        """Yield jobs that return the pieces, from the beginning of the file to its end, and the buffer each is in."""
        directory = self._directory
        own_place = directory.find(INDEX_KEY.encode())
        stored = [
            (*directory.range(place), decode_key(directory.keys[place]))
            for place in range(len(directory))
            if place != own_place
        ]
        outside = [(offset, nbytes, "") for offset, nbytes in ranges_outside(directory)]
        skeleton_done = 0
        for _, nbytes, key in sorted(stored + outside):
            if key:
                for start in range(0, nbytes, CHUNK_NBYTES):
                    yield partial(self._of_blob, key, start, min(CHUNK_NBYTES, nbytes - start))
            else:
                yield partial(_unbuffered, self._skeleton[skeleton_done : skeleton_done + nbytes])
                skeleton_done += nbytes

    def done_with(self, buffer: Bytes | None) -> None:
        """Take back the buffer of a piece: the page faults of new memory cost more than the decoding."""
        if buffer is not None:
            self._free.append(buffer)

    def _of_blob(self, key: str, start: int, nbytes: int) -> tuple[memoryview, Bytes | None]:
        if not self._blobs.is_packed(key):
            return self._blobs.read(key, start, nbytes), None
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(CHUNK_NBYTES, dtype=np.uint8)
        unpacked_nbytes = self._blobs.nbytes(key)
        return self._blobs.read_packed(key, unpacked_nbytes, start, nbytes, out=buffer[:nbytes], workers=1), buffer


def _unbuffered(data: memoryview) -> tuple[memoryview, None]:
    return data, None
