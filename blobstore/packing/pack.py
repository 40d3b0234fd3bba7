"""A file → the same with its tensors packed, if that makes them smaller."""

from __future__ import annotations

import fnmatch
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs.element_types import UNKNOWN, by_number
from blobstore.compression.frames import FASTEST
from blobstore.compression.planes import layout_of
from blobstore.compression.writer import check_level, compress, sampled_ratio
from blobstore.container.keys import INDEX_KEY, RESERVED_KEYS, SKELETON_INDEX_KEY, SKELETON_KEY
from blobstore.container.layout import MAX_BLOBS, MAX_PORTABLE_BLOBS
from blobstore.container.reader import BlobReader
from blobstore.edit.manifest import describe, is_packed, manifest_of
from blobstore.errors import UsageError, in_file
from blobstore.fileio.hashing import digest_of
from blobstore.fileio.ranges import flat_bytes
from blobstore.fileio.threads import check_workers, cores, in_order
from blobstore.index import PACKED, IndexedBlob, build_index
from blobstore.index.blob_writer import BlobWriter
from blobstore.index.inputs import files_of, refuse_inputs
from blobstore.index.locate import find_index
from blobstore.index.metadata import BASE, PACKED_FROM
from blobstore.index.records import directory_digest
from blobstore.packing.skeleton import Original, compressed, take_skeleton
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from os import PathLike

    from blobstore.compression.planes import Layout
    from blobstore.edit.manifest import Manifest, ManifestBlob
    from blobstore.fileio.types import Buffer, Bytes, Progress
    from blobstore.index import Entry
    from blobstore.store.blobs import UnpackedBlobs


_PIECE_NBYTES = 4 << 20  # what is written or hashed at once
_WORTH = 0.99  # of its size at most, or a blob stays as it is
_KEPT_KEYS = RESERVED_KEYS | {INDEX_KEY}


@dataclass(frozen=True)
class PackedBlob:
    """What became of a blob.

    Attributes:
        key: Its key.
        names: Of the tensors in it.
        type: Of their elements.
        nbytes: Before.
        packed_nbytes: After; the same where it stays as it is.
        delta: Whether it is kept as the difference to the base's.
    """

    key: str
    names: tuple[str, ...]
    type: str
    nbytes: int
    packed_nbytes: int
    delta: bool = False

    @property
    def packed(self) -> bool:
        """Whether it is packed."""
        return self.packed_nbytes != self.nbytes


@dataclass
class Packing:
    """What became of a file.

    Attributes:
        nbytes: Of the file.
        packed_nbytes: Of the new one.
        blobs: All but the runtime's own.
    """

    nbytes: int
    packed_nbytes: int = 0
    blobs: list[PackedBlob] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times smaller it got."""
        return self.nbytes / self.packed_nbytes


def pack(
    path: str | PathLike[str],
    target: str | PathLike[str],
    *,
    level: int = FASTEST,
    only: Sequence[str] = (),
    base: str | PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda _: None,
) -> Packing:
    """Write a file with its tensors packed, from which `unpack` makes the very same file again.

    Keys stay; the index says which blobs are packed. ``config``, ``tokenizer`` and ``toc`` stay as they are, and so
    does what would not get smaller by 1 %. Memory does not grow with the file, pages of its map aside.

    Args:
        path: Of the file.
        target: Of the new one; replaced only by a complete one.
        level: 0: fastest; 1 to 22: slower, a little denser.
        only: Patterns of names and keys (``*``, ``?``, ``[abc]``): others stay as they are.
        base: A file with the same keys, that this one resembles: blobs of the same size are kept as the difference to
            its blobs, and it is needed to read them.
        workers: Threads; by default one for each core.
        progress: Called with how many bytes more of the file were read.

    Raises:
        FormatError: The file, its index or the base is wrong; ``damaged-blob``: a blob is not what its digest says.
        UsageError: ``already-packed``; ``same-file``, also when the base is to be replaced; ``no-match`` for a pattern;
            ``no-base-blobs`` for a base to which no blob is worth a difference; ``packed-level``; ``bad-workers``;
            ``too-many-blobs``.
        OSError: Reading or writing failed; the target is untouched.
    """
    check_level(level)
    check_workers(workers)
    refuse_inputs(files_of(target), files_of(path, base))
    with ExitStack() as stack:
        reader = stack.enter_context(BlobReader(path))
        index = find_index(reader)
        manifest = manifest_of(reader, index.content if index else None)
        if is_packed(reader, index):
            raise UsageError("already-packed", f"{reader.path!r} is packed already")
        beside = index is not None and index.content.external
        needed = len(manifest.blobs) + 2 + beside
        if needed > MAX_BLOBS:
            what = f"a file has at most {MAX_BLOBS} blobs, this one has {len(manifest.blobs)} and would get more"
            raise UsageError("too-many-blobs", what)
        if manifest.entries is None:
            describe(manifest, reader)
        base_store = stack.enter_context(Store(base)) if base is not None else None
        # Two: the whole file's digest is one thread's work, its blobs' is another's. Not `in_order`: jobs come while
        # blobs are packed.
        pool = stack.enter_context(ThreadPoolExecutor(2, thread_name_prefix="blobstore-sha256"))
        stop = threading.Event()
        stack.callback(stop.set)  # before the pool waits: after an error nobody needs its digests

        def hashing(offset: int, nbytes: int) -> Future[bytes]:
            return pool.submit(_digest_of, reader, stop, offset, nbytes)

        whole = hashing(0, reader.file_size)
        base_blobs = base_store.unpacked if base_store else None
        packer = _Packer(reader, manifest, level=level, workers=workers, base=base_blobs, hashing=hashing)
        chosen = packer.chosen(only)
        done = Packing(reader.file_size)
        # No gemma.cpp reads a packed file: it may have more blobs than they take.
        room = max(needed, MAX_PORTABLE_BLOBS)
        with (
            in_file(reader.path),
            BlobWriter(target, version=reader.version, digests=True, max_blobs=room) as writer,
        ):
            for place, blob in enumerate(manifest.blobs):
                packed = packer.add(writer, place, blob, chosen=place in chosen)
                if blob.key not in _KEPT_KEYS:
                    done.blobs.append(packed)
                progress(blob.nbytes)
            packer.check_digests(writer.digests())
            if base_store and not any(one.delta for one in done.blobs):
                what = "has no blob of the same key and size to which the difference is worth keeping: leave it out"
                raise UsageError("no-base-blobs", f"{base_store.path!r} {what}")
            writer.add(SKELETON_KEY, take_skeleton(reader))
            if index and beside:
                writer.add(SKELETON_INDEX_KEY, compressed(bytes(index.content.raw)))
            place_of_index = "none" if index is None else "external" if beside else "embedded"
            manifest.metadata[PACKED_FROM] = Original(
                reader.file_size,
                whole.result().hex(),
                place_of_index,  # type: ignore[arg-type]
            ).to_text()
            if base_store:
                manifest.metadata[BASE] = directory_digest(base_store.reader.directory).hex()
            writer.add(INDEX_KEY, packer.index(writer))
        done.packed_nbytes = os.stat(target).st_size
        return done


class _Packer:
    """Packs one blob after another."""

    def __init__(
        self,
        reader: BlobReader,
        manifest: Manifest,
        *,
        level: int,
        workers: int | None,
        base: UnpackedBlobs | None,
        hashing: Callable[[int, int], Future[bytes]],
    ) -> None:
        self._reader = reader
        self._manifest = manifest
        self._level = level
        self._run = None if (workers or cores()) == 1 else partial(in_order, workers=workers)
        self._base = base
        self._hashing = hashing
        self._of: dict[int, list[Entry]] = {}
        for entry in manifest.entries or ():
            if entry.blob is not None:
                self._of.setdefault(entry.blob, []).append(entry)
        self._unpacked: dict[int, int] = {}
        self._before: dict[int, Future[bytes]] = {}
        self._room = np.empty(_PIECE_NBYTES, dtype=np.uint8)

    def chosen(self, only: Sequence[str]) -> set[int]:
        """Return the places of the blobs that are to be packed, if it makes them smaller."""
        places = set()
        for pattern in only or ("*",):
            found = {
                place
                for place, blob in enumerate(self._manifest.blobs)
                if any(fnmatch.fnmatchcase(one, pattern) for one in (blob.key, *self._names(place)))
            }
            if not found and only:
                raise UsageError("no-match", f"no tensor and no blob matches {pattern!r}")
            places |= found
        # What has no name could not be read any more; nor could what has a codec already.
        return {
            place
            for place in places
            if self._manifest.blobs[place].key not in _KEPT_KEYS
            and place in self._of
            and not any(entry.codec for entry in self._of[place])
        }

    def add(self, writer: BlobWriter, place: int, blob: ManifestBlob, *, chosen: bool) -> PackedBlob:
        """Write a blob, packed or as it is."""
        delta = False
        packed = 0
        if chosen:
            data = self._reader[blob.key]
            layout, delta = self._best(place, blob, data)
            if layout is not None:
                base = digest = None
                if delta and self._base:
                    base = partial(self._base.read_as_base, blob.key)
                    # Not the one that its index keeps: the difference to what is damaged would be to nothing.
                    with in_file(self._base.reader.path):
                        digest = self._base.read_sha256(blob.key)
                pieces = compress(data, layout, level=self._level, base=base, base_sha256=digest, run=self._run)
                packed = writer.add_chunks(blob.key, _gathered(pieces, self._room))
                if packed > _WORTH * blob.nbytes:
                    writer.undo_last()
                    packed = 0
        if packed:
            self._unpacked[place] = blob.nbytes
            if blob.sha256:
                self._before[place] = self._hashing(*self._reader.range(blob.key))
        else:
            writer.add_chunks(blob.key, (blob.data,), immutable=True)
        kind = str(by_number(self._of[place][0].type)) if place in self._of else str(UNKNOWN)
        size = packed or blob.nbytes
        return PackedBlob(blob.key, tuple(self._names(place)), kind, blob.nbytes, size, bool(packed) and delta)

    def check_digests(self, digests: Sequence[bytes]) -> None:
        """Compare with what is known of the file's blobs; a new digest would hide a damage.

        Raises:
            FormatError: ``damaged-blob``.
        """
        for place, blob in enumerate(self._manifest.blobs):
            blob.check_digest(self._before[place].result() if place in self._before else digests[place])

    def index(self, writer: BlobWriter) -> bytes:
        """Return the new file's index."""
        entries = [
            replace(entry, codec=PACKED) if entry.blob in self._unpacked else entry
            for entry in self._manifest.entries or ()
        ]
        rows = zip(writer.encoded_keys, writer.sizes, writer.digests(), strict=True)
        table = [IndexedBlob(*row, self._unpacked.get(place, 0)) for place, row in enumerate(rows)]
        return build_index(entries, table, self._manifest.metadata)

    def _names(self, place: int) -> list[str]:
        return [entry.name for entry in self._of.get(place, ())]

    def _best(self, place: int, blob: ManifestBlob, data: memoryview) -> tuple[Layout | None, bool]:
        """Return how a blob is best packed, by some of its chunks, and whether as a difference; None for not at all."""
        layouts = {layout_of(by_number(entry.type)) for entry in self._of[place]}
        tried = []
        if self._base and blob.key in self._base.reader and self._base.nbytes(blob.key) == blob.nbytes:
            base = partial(self._base.read_as_base, blob.key)
            tried += [(sampled_ratio(data, one, level=self._level, base=base), one, True) for one in layouts]
        tried += [(sampled_ratio(data, one, level=self._level), one, False) for one in layouts]
        ratio, layout, delta = max(tried, key=lambda one: one[0])
        return (layout if ratio * _WORTH > 1 else None), delta


def _digest_of(reader: BlobReader, stop: threading.Event, offset: int, nbytes: int) -> bytes:
    """Return the SHA-256 of bytes of a file, as they are mapped: plain reads would be copies. Ends when told to."""

    def pieces() -> Iterator[memoryview]:
        for start in range(offset, offset + nbytes, _PIECE_NBYTES):
            if stop.is_set():
                raise InterruptedError
            yield reader.view(start, min(_PIECE_NBYTES, offset + nbytes - start))

    return digest_of(pieces())


def _gathered(pieces: Iterable[Buffer], room: Bytes) -> Iterator[memoryview]:
    """Put small pieces together in one room: large ones are hashed while they are written."""
    view, filled = room.data, 0
    for piece in map(flat_bytes, pieces):
        if filled + len(piece) > len(view):
            yield view[:filled]
            filled = 0
        if len(piece) > len(view):
            yield piece
        else:
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
    yield view[:filled]
