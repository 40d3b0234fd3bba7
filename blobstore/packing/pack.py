"""Write a copy of a file in which tensors are packed, if that makes them smaller."""

from __future__ import annotations

import fnmatch
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs.element_types import UNKNOWN, by_number
from blobstore.compression.frames import FASTEST
from blobstore.compression.planes import layout_of
from blobstore.compression.writer import check_level, compress, sampled_ratio
from blobstore.container.keys import INDEX_KEY, RESERVED_KEYS, SKELETON_INDEX_KEY, SKELETON_KEY
from blobstore.container.layout import MAX_BLOBS
from blobstore.container.reader import BlobReader
from blobstore.container.writer import ContainerWriter
from blobstore.edit.manifest import describe, is_packed, manifest_of
from blobstore.errors import UsageError, in_file, without_secrets
from blobstore.fileio.hashing import digest_of
from blobstore.fileio.paths import optional_path, path_text
from blobstore.fileio.places import name_in
from blobstore.fileio.ranges import CHUNK_NBYTES, flat_bytes
from blobstore.fileio.threads import check_workers, cores, in_order
from blobstore.fileio.work import do_here
from blobstore.gemma.newer import readers_notes
from blobstore.index import PACKED, blob_table, build_index
from blobstore.index.inputs import files_of, refuse_inputs
from blobstore.index.locate import find_index, lost_index, place_of
from blobstore.index.metadata import BASE, BASE_NAME, PACKED_FROM
from blobstore.index.records import directory_digest
from blobstore.index.sets import stores_of
from blobstore.index.sidecar import close_with_index, refuse_target
from blobstore.packing.skeleton import Original, compressed, take_skeleton
from blobstore.store.reader import Store
from blobstore.store.set_making import make_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from os import PathLike

    from blobstore.compression.planes import Layout
    from blobstore.container.directory import Directory
    from blobstore.edit.manifest import Manifest, ManifestBlob
    from blobstore.fileio.types import Buffer, Bytes, Progress
    from blobstore.fileio.work import Engine
    from blobstore.index import Entry, NameIndex
    from blobstore.store.blobs import UnpackedBlobs

    StartHashing = Callable[[int, int], Future[bytes]]  # given offset and size → the SHA-256


_WORTH = 0.99  # a blob that doesn't get smaller than this part of its size stays as it is
_KEPT_KEYS = RESERVED_KEYS | {INDEX_KEY}


@dataclass(frozen=True)
class PackedBlob:
    """What `pack` did with one blob.

    Attributes:
        key: Its key.
        names: Of the tensors in it.
        type: Name of their elements' type.
        nbytes: Its size in the packed file.
        unpacked_nbytes: Its size before; the same where it stays as it is.
        packed: Whether it is packed.
        delta: Whether it is stored as the difference to the base's blob.

    Example:
        >>> for blob in blobstore.pack("model.sbs", "model.packed.sbs").blobs:
        ...     assert blob.packed == (blob.nbytes < blob.unpacked_nbytes)
    """

    key: str
    names: tuple[str, ...]
    type: str
    nbytes: int
    unpacked_nbytes: int
    packed: bool
    delta: bool = False


@dataclass(frozen=True)
class Packing:
    """The result of `pack`.

    Attributes:
        input: The path of the file, as given.
        output: The path of the packed file, as given.
        nbytes: Size of the packed file.
        unpacked_nbytes: Size of the file.
        ratio: How many times smaller the file became.
        base: The path of the base, as given; None without one.
        blobs: All but the runtime's own.
        stores: The files of the packed set, if it is one.
        notes: What a user should know.
        seconds: How long it took.

    Example:
        >>> done = blobstore.pack("model.sbs", "model.packed.sbs")
        >>> done.ratio == done.unpacked_nbytes / done.nbytes
        True
    """

    input: str
    output: str
    nbytes: int
    unpacked_nbytes: int
    ratio: float
    base: str | None
    blobs: tuple[PackedBlob, ...]
    stores: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


def pack(
    path: str | PathLike[str],
    output: str | PathLike[str],
    *,
    level: int = FASTEST,
    only: str | Sequence[str] = (),
    base: str | PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda _: None,
) -> Packing:
    """Write a packed copy of a file, from which `unpack` restores the file byte for byte; of a set, of each file.

    Keys stay; the index says which blobs are packed. ``config``, ``tokenizer`` and ``toc`` stay as they are, and so
    do blobs that would not get smaller by 1 %. Memory does not grow with the file, pages of its map aside.

    Args:
        path: Of the file.
        output: Path or URL of the packed file; replaced only by a complete one.
        level: 0: fastest; 1: a little denser, if rows of weights differ in scale; 2 to 22: zstd's levels, slower, which
                help where bytes are repeated.
        only: Patterns of names and keys (``*``, ``?``, ``[abc]``): other blobs stay as they are.
        base: A file with the same keys that this one resembles. Blobs of the same size are stored as the difference
            to its blobs, and the base is needed to read them.
        workers: Threads; by default one for each core.
        progress: Called with how many bytes more of the file were read.

    Returns:
        What was done. ``dataclasses.asdict`` of it is what ``blobstore pack --json`` prints.

    Raises:
        FormatError: The file, its index or the base is invalid; ``damaged-blob``: a blob does not match its digest.
        UsageError: ``already-packed``; ``same-file``, also when the base is to be replaced; ``no-match`` for a pattern;
            ``no-base-blobs`` for a base that makes no blob smaller; ``packed-level``; ``bad-workers``;
            ``too-many-blobs``; ``set-exists``.
        OSError: Reading or writing failed; the output is untouched.

    Example:
        >>> done = blobstore.pack("model.sbs", "model.packed.sbs")
        >>> blobstore.unpack("model.packed.sbs", "same.sbs").nbytes == done.unpacked_nbytes
        True
    """
    path, output, base = path_text(path), path_text(output), optional_path(base)
    start = time.perf_counter()
    check_level(level)
    check_workers(workers)
    refuse_inputs(files_of(output), files_of(path, base))
    patterns = (only,) if isinstance(only, str) else tuple(only)
    if not stores_of(path):
        return _pack_file(path, output, patterns, base, start, level=level, workers=workers, progress=progress)
    return pack_set(path, output, only=patterns, base=base, level=level, workers=workers, progress=progress)


@dataclass(frozen=True, repr=False)  # a URL may have secrets
class StorePacking:
    """Packs a file of a set, with these arguments of `pack`."""

    only: tuple[str, ...]
    base: str | None
    level: int
    workers: int | None

    def __call__(self, path: str, output: str, progress: Progress) -> Packing:
        """Pack one of the files; patterns and the base may concern others."""
        return _pack_file(
            path,
            output,
            self.only,
            self.base,
            time.perf_counter(),
            level=self.level,
            workers=self.workers,
            progress=progress,
            alone=False,
        )


def pack_set(
    path: str,
    output: str,
    *,
    only: tuple[str, ...],
    base: str | None,
    level: int,
    workers: int | None = None,
    engine: Engine = do_here,
    progress: Progress = lambda _: None,
) -> Packing:
    """Pack each file of a set; errors as `pack`.

    Args:
        path: Of the set's index.
        output: Of the new set's index.
        only: As for `pack`.
        base: As for `pack`.
        level: As for `pack`.
        workers: As for `pack`.
        engine: Packs the files.
        progress: As for `pack`.
    """
    start = time.perf_counter()
    _check_patterns(path, only)

    def metadata_of(metadata: dict[str, str], parts: list[Packing]) -> dict[str, str]:
        if base is None:
            return metadata
        with Store(base) as base_store:
            _refuse_unused(base_store, [blob for part in parts for blob in part.blobs])
            return metadata | _told_of(base_store)

    parts = make_each(
        path,
        output,
        StorePacking(only, base, level, workers),
        metadata_of=metadata_of,
        engine=engine,
        progress=progress,
    )
    blobs = tuple(blob for part in parts for blob in part.blobs)
    nbytes, unpacked_nbytes = sum(part.nbytes for part in parts), sum(part.unpacked_nbytes for part in parts)
    return Packing(
        input=path,
        output=output,
        nbytes=nbytes,
        unpacked_nbytes=unpacked_nbytes,
        ratio=unpacked_nbytes / nbytes,
        base=base,
        blobs=blobs,
        stores=tuple(part.output for part in parts),
        notes=(
            *dict.fromkeys(text for part in parts for text in part.notes),
            *(["the packed set is not smaller than the original"] * (nbytes >= unpacked_nbytes)),
            f"a set of {len(parts)} files",
        ),
        seconds=time.perf_counter() - start,
    )


def _check_patterns(path: str, patterns: Sequence[str]) -> None:
    """Refuse a pattern that matches nothing in any file of a set."""
    with Store(path) as store:
        texts = [*store.reader, *(store.index.names if store.index else ())]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(text, pattern) for text in texts):
            raise UsageError("no-match", f"no tensor and no blob matches {pattern!r}")


def _pack_file(
    path: str,
    output: str,
    only: Sequence[str],
    base: str | None,
    start: float,
    *,
    level: int,
    workers: int | None,
    progress: Progress,
    alone: bool = True,
) -> Packing:
    """Pack one file, which may be one of a set: then not ``alone``, and patterns or the base may concern others."""
    with ExitStack() as stack:
        reader = stack.enter_context(BlobReader(path))
        index = find_index(reader)
        notes = lost_index(reader)
        manifest = _manifest_to_pack(reader, index)
        _check_count(manifest, index)
        base_store = stack.enter_context(Store(base)) if base is not None else None
        base_blobs = base_store.unpacked if base_store else None
        start_hashing = stack.enter_context(_background_hashing(reader))
        file_digest = start_hashing(0, reader.file_size)
        packer = _Packer(reader, manifest, level=level, workers=workers, base=base_blobs, start_hashing=start_hashing)
        chosen = packer.chosen(only, refuse=alone)
        blobs = []
        refuse_target(output, "none")  # its index is copied, or becomes one inside
        with (
            in_file(reader.path),
            ContainerWriter(output, version=reader.version, digests=True, undoable=True) as writer,
        ):
            for place, blob in enumerate(manifest.blobs):
                packed_blob = packer.add(writer, place, blob, chosen=place in chosen)
                if blob.key not in _KEPT_KEYS:
                    blobs.append(packed_blob)
                progress(blob.nbytes)
            packer.check_digests(writer.digests())
            if base_store:
                if alone:
                    _refuse_unused(base_store, blobs)
                manifest.metadata |= _told_of(base_store)
            _add_skeleton(writer, reader, index)
            original = Original(reader.file_size, file_digest.result().hex(), place_of(index))
            manifest.metadata[PACKED_FROM] = original.to_text()
            close_with_index(writer, "embedded", partial(packer.index, writer))
        nbytes, unpacked_nbytes = writer.directory().file_size, reader.file_size
    return Packing(
        input=without_secrets(path),
        output=without_secrets(output),
        nbytes=nbytes,
        unpacked_nbytes=unpacked_nbytes,
        ratio=unpacked_nbytes / nbytes,
        base=base and without_secrets(base),
        blobs=tuple(blobs),
        stores=(),
        notes=(
            *notes,
            *(["the packed file is not smaller than the original"] * (alone and nbytes >= unpacked_nbytes)),
            *readers_notes(len(writer.keys)),
        ),
        seconds=time.perf_counter() - start,
    )


def _manifest_to_pack(reader: BlobReader, index: NameIndex | None) -> Manifest:
    """Return what a file holds, with the entries of an index."""
    manifest = manifest_of(reader, index)
    if is_packed(reader, index):
        raise UsageError("already-packed", f"{reader.path!r} is packed already")
    if manifest.entries is None:
        describe(manifest, reader)
    return manifest


def _check_count(manifest: Manifest, index: NameIndex | None) -> None:
    """Refuse a file with so many blobs that the packed one would have too many."""
    needed = len(manifest.blobs) + 2 + (place_of(index) == "external")  # index, skeleton, and the external index
    if needed > MAX_BLOBS:
        what = f"a file has at most {MAX_BLOBS} blobs, this one has {len(manifest.blobs)} and would get more"
        raise UsageError("too-many-blobs", what)


@contextmanager
def _background_hashing(reader: BlobReader) -> Iterator[StartHashing]:
    """Return a function that starts to hash a range of a file; at the end of the block unfinished work is dropped."""
    stop = threading.Event()
    # One thread for the whole file, one for its blobs. Not `in_order`: jobs come while blobs are packed.
    with ThreadPoolExecutor(2, thread_name_prefix="blobstore-sha256") as pool:
        try:
            yield lambda offset, nbytes: pool.submit(_digest_of, reader, stop, offset, nbytes)
        finally:
            stop.set()  # before the pool waits for its threads: after an error nobody needs the digests


def _told_of(base: Store) -> dict[str, str]:
    """Return the metadata of what is packed as the difference to a base."""
    return {BASE: directory_digest(base.reader.directory).hex(), BASE_NAME: _file_name(base.path)}


def _file_name(path: str) -> str:
    """Return the name of a file, without its folders, as Unicode text."""
    return name_in(path).encode("utf-8", "backslashreplace").decode()


def _refuse_unused(base: Store, blobs: Sequence[PackedBlob]) -> None:
    if not any(blob.delta for blob in blobs):
        what = "has no blob of the same key and size whose difference is smaller: leave it out"
        raise UsageError("no-base-blobs", f"{base.path!r} {what}")


def _add_skeleton(writer: ContainerWriter, reader: BlobReader, index: NameIndex | None) -> None:
    """Add what of the file is in none of its blobs, and its external index."""
    writer.add(SKELETON_KEY, take_skeleton(reader))
    if index and index.external:
        writer.add(SKELETON_INDEX_KEY, compressed(bytes(index.raw)))


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
        start_hashing: StartHashing,
    ) -> None:
        self._reader = reader
        self._manifest = manifest
        self._level = level
        self._run = None if (workers or cores()) == 1 else partial(in_order, workers=workers)
        self._base = base
        self._start_hashing = start_hashing
        self._entries: dict[int, list[Entry]] = {}  # place of a blob → its tensors
        for entry in manifest.entries or ():
            if entry.blob is not None:
                self._entries.setdefault(entry.blob, []).append(entry)
        self._unpacked_nbytes: dict[int, int] = {}  # place of a packed blob → its size before
        self._digests_before: dict[int, Future[bytes]] = {}  # place of a packed blob → its SHA-256 before
        self._buffer = np.empty(CHUNK_NBYTES, dtype=np.uint8)

    def chosen(self, only: Sequence[str], *, refuse: bool) -> set[int]:
        """Return the places of the blobs that are packed, if that makes them smaller; ``refuse`` useless patterns."""
        places = set()
        for pattern in only or ("*",):
            matching = {
                place
                for place, blob in enumerate(self._manifest.blobs)
                if any(fnmatch.fnmatchcase(name, pattern) for name in (blob.key, *self._names(place)))
            }
            if not matching and only and refuse:
                raise UsageError("no-match", f"no tensor and no blob matches {pattern!r}")
            places |= matching
        return {place for place in places if self._can_be_packed(place)}

    def _can_be_packed(self, place: int) -> bool:
        """Whether readers can read a blob when it is packed: not without a name, nor if it has a codec already."""
        entries = self._entries.get(place, ())
        kept = self._manifest.blobs[place].key in _KEPT_KEYS
        return bool(entries) and not kept and not any(entry.codec for entry in entries)

    def add(self, writer: ContainerWriter, place: int, blob: ManifestBlob, *, chosen: bool) -> PackedBlob:
        """Write a blob, packed or as it is."""
        packed_nbytes, delta = self._add_packed(writer, place, blob) if chosen else (0, False)
        if not packed_nbytes:
            writer.add_chunks(blob.key, (blob.data,), immutable=True)
        entries = self._entries.get(place)
        element_type = by_number(entries[0].type) if entries else UNKNOWN
        return PackedBlob(
            blob.key,
            tuple(self._names(place)),
            str(element_type),
            packed_nbytes or blob.nbytes,
            blob.nbytes,
            bool(packed_nbytes),
            delta,
        )

    def _add_packed(self, writer: ContainerWriter, place: int, blob: ManifestBlob) -> tuple[int, bool]:
        """Write a blob packed → its size, and whether it is a difference; 0 if it isn't worth it, and isn't written."""
        data = self._reader[blob.key]
        layout, delta = self._best_layout(place, blob, data)
        if layout is None:
            return 0, False
        base = base_sha256 = None
        if delta and self._base:
            base = partial(self._base.read_as_base, blob.key)
            # Computed, not the one that the base's index has: a difference to damaged bytes would be of no use.
            with in_file(self._base.reader.path):
                base_sha256 = self._base.read_sha256(blob.key)
        # Before it is packed: the digest of a large blob, in one thread, takes longer than packing it in all.
        digest = self._start_hashing(*self._reader.range(blob.key)) if blob.sha256 else None
        pieces = compress(data, layout, level=self._level, base=base, base_sha256=base_sha256, run=self._run)
        packed_nbytes = writer.add_chunks(blob.key, _gathered(pieces, self._buffer))
        if packed_nbytes > _WORTH * blob.nbytes:
            writer.undo_last()
            return 0, False
        self._unpacked_nbytes[place] = blob.nbytes
        if digest:
            self._digests_before[place] = digest
        return packed_nbytes, delta

    def check_digests(self, digests: Sequence[bytes]) -> None:
        """Compare the SHA-256 of the file's blobs with the known ones: storing new ones would hide the damage.

        Raises:
            FormatError: ``damaged-blob``.
        """
        for place, blob in enumerate(self._manifest.blobs):
            before = self._digests_before.get(place)
            blob.check_digest(before.result() if before else digests[place])

    def index(self, writer: ContainerWriter, store: Directory | None) -> bytes:
        """Return the packed file's index."""
        entries = [
            replace(entry, codec=PACKED) if entry.blob in self._unpacked_nbytes else entry
            for entry in self._manifest.entries or ()
        ]
        table = blob_table(writer, digests=True, unpacked_nbytes=self._unpacked_nbytes)
        return build_index(entries, table, self._manifest.metadata, store=store)

    def _names(self, place: int) -> list[str]:
        return [entry.name for entry in self._entries.get(place, ())]

    def _best_layout(self, place: int, blob: ManifestBlob, data: memoryview) -> tuple[Layout | None, bool]:
        """Return the layout that packs some of a blob's chunks best, or None; and whether as a difference."""
        layouts = {layout_of(by_number(entry.type)) for entry in self._entries[place]}
        tried = []
        if self._base and blob.key in self._base.reader and self._base.nbytes(blob.key) == blob.nbytes:
            base = partial(self._base.read_as_base, blob.key)
            tried += [(sampled_ratio(data, layout, level=self._level, base=base), layout, True) for layout in layouts]
        tried += [(sampled_ratio(data, layout, level=self._level), layout, False) for layout in layouts]
        ratio, best, delta = max(tried, key=lambda attempt: attempt[0])
        return (best if ratio * _WORTH > 1 else None), delta


def _digest_of(reader: BlobReader, stop: threading.Event, offset: int, nbytes: int) -> bytes:
    """Return the SHA-256 of a range of a file, as it is mapped: plain reads would be copies.

    Raises:
        InterruptedError: ``stop`` was set.
    """

    def pieces() -> Iterator[memoryview]:
        for start in range(offset, offset + nbytes, CHUNK_NBYTES):
            if stop.is_set():
                raise InterruptedError
            yield reader.view(start, min(CHUNK_NBYTES, offset + nbytes - start))

    return digest_of(pieces())


def _gathered(pieces: Iterable[Buffer], buffer: Bytes) -> Iterator[memoryview]:
    """Gather small pieces in one buffer: large pieces are hashed while they are written."""
    view, filled = buffer.data, 0
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
