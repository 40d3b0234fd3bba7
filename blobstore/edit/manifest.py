"""What a file holds, as data: to be changed, and written anew."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from blobstore.container.keys import INDEX_KEY, SKELETON_KEY, TOC_KEY
from blobstore.container.layout import MAX_PORTABLE_BLOBS, max_blobs_from
from blobstore.container.writer import ContainerWriter
from blobstore.errors import FormatError, UsageError
from blobstore.fileio.ranges import FileRange
from blobstore.gemma.toc import build_toc, parse_toc
from blobstore.index import Entry, IndexedBlob, build_index
from blobstore.index.metadata import BASE, CHOICES, PACKED_FROM, REARRANGED
from blobstore.index.names import encode_name
from blobstore.index.sidecar import close_with_index, close_with_index_inside, close_without_index
from blobstore.store.catalog import open_catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from os import PathLike
    from typing import BinaryIO

    from blobstore.container.reader import BlobReader
    from blobstore.fileio.types import Progress
    from blobstore.index import NameIndex
    from blobstore.index.locate import FoundIndex
    from blobstore.store.writer import IndexPlace


_STEP_NBYTES = 64 << 20  # progress is told after each
_BASES = "rope_bases"  # of a conversion's choices


@dataclass
class ManifestBlob:
    """A blob that a new file is to hold.

    Attributes:
        key: Its key.
        data: Its bytes.
        sha256: Of them, as it was kept; None when it wasn't.
        unpacked_nbytes: Of what they stand for when they are packed; else 0.
    """

    key: str
    data: FileRange | bytes
    sha256: bytes | None = None
    unpacked_nbytes: int = 0

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.data.nbytes if isinstance(self.data, FileRange) else len(self.data)

    def check_digest(
        self,
        found: bytes | None,
        *,
        names: Callable[[], Sequence[str]] = tuple,
        remedy: str = "blobstore recover leaves it out",
    ) -> None:
        """Compare the SHA-256 of its bytes with the one that was kept: a new one would hide a damage.

        Args:
            found: Of its bytes.
            names: Gives those of the tensors in it.
            remedy: What to do when it is another.

        Raises:
            FormatError: ``damaged-blob``.
        """
        if self.sha256 not in (None, found):
            others = [one for one in names() if one != self.key]
            called = f" ({', '.join(map(repr, others))})" if others else ""
            what = f"{self.key!r}{called} is not what its SHA-256 in the index says: it is damaged; {remedy}"
            raise FormatError("damaged-blob", what)


@dataclass
class Manifest:
    """What a new file is to hold.

    Attributes:
        blobs: In order; without the index.
        entries: Of its name index, each with the place of its blob in `blobs`; None for a file without an index.
        metadata: Of the index.
        digests: Whether the index keeps the SHA-256 of each blob.
        max_blobs: How many blobs the new file may have, with the index.
    """

    blobs: list[ManifestBlob]
    entries: list[Entry] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    digests: bool = True
    max_blobs: int = MAX_PORTABLE_BLOBS

    @property
    def nbytes(self) -> int:
        """Of all blobs."""
        return sum(one.nbytes for one in self.blobs)

    def keep(self, kept: Iterable[int]) -> None:
        """Keep only some blobs, by their places, in this order; entries of others go, and so do their lines in ``toc``.

        Raises:
            FormatError: The ``toc`` can't be read.
        """
        order = list(kept)
        places = {old: new for new, old in enumerate(order)}
        gone = {one.key for place, one in enumerate(self.blobs) if place not in places}
        self.blobs = [self.blobs[place] for place in order]
        if self.entries is not None:
            staying = [one for one in self.entries if one.blob is None or one.blob in places]
            self.entries = [one if one.blob is None else replace(one, blob=places[one.blob]) for one in staying]
        if gone:
            self.edit_toc(dict.fromkeys(gone))

    def edit_toc(self, keys: Mapping[str, str | None]) -> None:
        """Give tensors other keys in the blob ``toc``, or none, which takes them out.

        Raises:
            FormatError: The ``toc`` can't be read.
        """
        blob = next((one for one in self.blobs if one.key == TOC_KEY), None)
        if blob is None:
            return
        before = parse_toc(_bytes(blob.data))
        renamed = [(entry, keys.get(entry.name, entry.name)) for entry in before]
        after = [replace(entry, name=key) for entry, key in renamed if key is not None]
        if not after:  # no tensor is left
            self.keep(place for place, one in enumerate(self.blobs) if one is not blob)
        elif after != before:
            blob.data, blob.sha256 = build_toc(after), None

    def forget_source(self) -> bool:
        """Leave out what a conversion says of its source, which is no longer true; return whether there was any.

        RoPE's bases are the model's, whatever tensors the file has: they stay.
        """
        before = dict(self.metadata)
        self.metadata.pop(REARRANGED, None)
        bases = _rope_bases(self.metadata.pop(CHOICES, ""))
        if bases is not None:
            self.metadata[CHOICES] = json.dumps({_BASES: bases})
        return self.metadata != before

    def forget_names(self) -> bool:
        """Leave out what metadata says of names that are gone; return whether the source's were among them.

        The choices of a conversion stay: they are of the blobs.
        """
        for key in (PACKED_FROM, BASE):  # no blob is marked as packed any more
            self.metadata.pop(key, None)
        return self.metadata.pop(REARRANGED, None) is not None

    def toc_keys(self) -> set[str]:
        """Return the keys of the runtime's tensors, as the blob ``toc`` has them.

        Raises:
            FormatError: It can't be read.
        """
        blob = next((one for one in self.blobs if one.key == TOC_KEY), None)
        return {entry.name for entry in parse_toc(_bytes(blob.data))} if blob else set()


def write_content(
    manifest: Manifest,
    target: str | PathLike[str] | BinaryIO,
    *,
    version: int,
    index: IndexPlace,
    replaced: BlobReader | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Write a file, and compare what is written with the digests that are known.

    Args:
        manifest: Of the file.
        target: A path, or a binary stream.
        version: Of the container.
        index: Where the name index goes.
        replaced: The file that is edited, where it is to be there still.
        progress: Called with how many bytes more were written.

    Raises:
        FormatError: ``damaged-blob``; nothing is written then, a stream is left incomplete.
        UsageError: As `ContainerWriter`; ``no-blobs``; ``needs-path`` for an index beside a stream; ``replaced``.
        OSError: Reading or writing failed; the target is untouched.
    """
    path = target if isinstance(target, (str, os.PathLike)) else None
    if path is None and manifest.entries is not None and index == "external":
        raise UsageError(
            "needs-path",
            "an external index stands beside its file, not in a stream: embed it, or leave it out",
        )
    if not manifest.blobs:
        raise UsageError("no-blobs", "nothing would be left: a container has at least one blob")
    keeping = manifest.digests and manifest.entries is not None and index != "none"
    hashing = keeping or any(blob.sha256 for blob in manifest.blobs)
    with ContainerWriter(target, version=version, digests=hashing, max_blobs=manifest.max_blobs) as writer:
        for blob in manifest.blobs:
            writer.add_chunks(blob.key, _steps(blob.data, progress), immutable=True)
        digests = writer.digests() if hashing else [None] * len(manifest.blobs)
        for blob, digest in zip(manifest.blobs, digests, strict=True):
            blob.check_digest(digest)
        if manifest.entries is None or index == "none":
            if path is not None:
                close_without_index(writer, path, writer.directory, replaced=replaced)
            return
        kept = digests if keeping else [None] * len(digests)
        unpacked = [blob.unpacked_nbytes for blob in manifest.blobs]
        table = [IndexedBlob(*row) for row in zip(writer.encoded_keys, writer.sizes, kept, unpacked, strict=True)]
        if index == "embedded":
            writer.add(INDEX_KEY, build_index(manifest.entries, table, manifest.metadata))
            if path is not None:
                close_with_index_inside(writer, path, replaced=replaced)
            return
        directory = writer.directory()
        raw = build_index(manifest.entries, table, manifest.metadata, store=directory)
        close_with_index(writer, str(path), raw, directory, replaced=replaced)


def _rope_bases(choices: str) -> object:
    """Return what the choices of a conversion say of RoPE's bases; None when they don't, or can't be read."""
    try:
        return json.loads(choices).get(_BASES)
    except (ValueError, AttributeError, RecursionError):
        return None


def _bytes(data: FileRange | bytes) -> bytes:
    return b"".join(map(bytes, data.chunks())) if isinstance(data, FileRange) else data


def _steps(data: FileRange | bytes, progress: Progress) -> Iterable[FileRange | bytes]:
    if isinstance(data, bytes):
        yield data
        progress(len(data))
        return
    for done in range(0, data.nbytes, _STEP_NBYTES):
        piece = data.part(done, _STEP_NBYTES)
        yield piece
        progress(piece.nbytes)


def manifest_of(reader: BlobReader, index: NameIndex | None) -> Manifest:
    """Return what a file holds; blobs that the index doesn't know included."""
    blobs: list[ManifestBlob] = []
    places: dict[int, int] = {}
    max_blobs = max_blobs_from(len(reader))
    for place, key in enumerate(reader):
        if key != INDEX_KEY:
            places[place] = len(blobs)
            blobs.append(ManifestBlob(key, reader.part_of_file(*reader.directory.range(place))))
    if index is None:
        return Manifest(blobs, max_blobs=max_blobs)
    known = index.places(reader.directory).tolist()
    for row, place in enumerate(known):
        blobs[places[place]].sha256 = index.blob(row).sha256
    entries = [one if one.blob is None else replace(one, blob=places[known[one.blob]]) for one in index.all_entries()]
    return Manifest(blobs, entries, dict(index.metadata), index.has_digests, max_blobs)


def is_packed(reader: BlobReader, index: FoundIndex | None) -> bool:
    """Whether a file was made by `blobstore.pack`, or has packed blobs."""
    return SKELETON_KEY in reader or (index is not None and index.content.packed_count > 0)


def refuse_packed(reader: BlobReader, index: FoundIndex | None) -> None:
    """Refuse to change what only `blobstore.unpack` reads right.

    Raises:
        UsageError: ``packed-file``.
    """
    if is_packed(reader, index):
        raise UsageError("packed-file", f"{reader.path!r} is packed: make it what it was first, with blobstore unpack")


def describe(manifest: Manifest, reader: BlobReader) -> None:
    """Give a file without an index the entries of one: from its toc, or each blob under its key."""
    places = {blob.key: place for place, blob in enumerate(manifest.blobs)}
    manifest.entries = [
        Entry(info.name, places[info.key], 0, info.nbytes, info.type.number, info.shape, info.scale)
        for info in open_catalog(reader, reader.directory, None)
        if _is_name(info.name)
    ]


def _is_name(key: str) -> bool:
    """Whether a key is Unicode text: others keep their blobs, reachable by key, and get no entry."""
    try:
        encode_name(key)
    except UsageError:
        return False
    return True
