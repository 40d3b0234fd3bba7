"""The contents of a file, as data to be changed and written as a new file."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from blobstore.container.keys import INDEX_KEY, SKELETON_KEY, TOC_KEY, encode_key, max_blobs_from
from blobstore.container.layout import MAX_BLOBS
from blobstore.container.writer import ContainerWriter
from blobstore.errors import FormatError, UsageError
from blobstore.fileio.ranges import FileRange, reporting
from blobstore.gemma.toc import build_toc, parse_toc
from blobstore.index import Entry, IndexedBlob, blob_table, build_index
from blobstore.index.carried import files_in, list_files
from blobstore.index.metadata import BASE, BASE_NAME, CHOICES, PACKED_FROM, REARRANGED, model_choices
from blobstore.index.names import encode_name
from blobstore.index.sidecar import close_with_index, refuse_target
from blobstore.store.catalog import open_catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from os import PathLike
    from typing import BinaryIO

    from blobstore.container.directory import Directory
    from blobstore.container.reader import BlobReader
    from blobstore.fileio.types import Progress
    from blobstore.index import NameIndex
    from blobstore.index.locate import IndexPlace


@dataclass
class ManifestBlob:
    """A blob for a new file.

    Attributes:
        key: Its key.
        data: Its bytes.
        sha256: Their known SHA-256; None if it isn't known.
        unpacked_nbytes: The size of what a packed blob stands for; 0 for any other.
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
        actual: bytes | None,
        *,
        names: Callable[[], Sequence[str]] = tuple,
        fix: str = "blobstore recover leaves it out",
    ) -> None:
        """Compare the SHA-256 of its bytes with the known one: storing a new one would hide the damage.

        Args:
            actual: The SHA-256 of its bytes.
            names: Returns those of the tensors in it.
            fix: What to do about a damaged one.

        Raises:
            FormatError: ``damaged-blob``.
        """
        if self.sha256 not in (None, actual):
            others = [name for name in names() if name != self.key]
            tensors = f" ({', '.join(map(repr, others))})" if others else ""
            what = f"{self.key!r}{tensors} does not match its SHA-256 in the index: it is damaged; {fix}"
            raise FormatError("damaged-blob", what)


@dataclass
class Manifest:
    """The contents of a new file.

    Attributes:
        blobs: In order, without the index.
        entries: Of its name index, each with the place of its blob in `blobs`; None for a file without an index.
        metadata: Of the index.
        digests: Whether the index has the SHA-256 of each blob.
        max_blobs: How many blobs the new file may have, with the index.
    """

    blobs: list[ManifestBlob]
    entries: list[Entry] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    digests: bool = True
    max_blobs: int = MAX_BLOBS

    def find(self, key: str) -> ManifestBlob | None:
        """Return the blob with this key, or None."""
        return next((blob for blob in self.blobs if blob.key == key), None)

    @property
    def files(self) -> dict[str, str]:
        """The files that the metadata lists, name → key; none where the list is damaged."""
        with suppress(FormatError):
            return files_in(self.metadata)
        return {}

    def true_metadata(self) -> dict[str, str]:
        """Return the metadata, in which only files are listed whose blobs are there."""
        files, keys = self.files, {blob.key for blob in self.blobs}
        there = [name for name, key in files.items() if key in keys]
        return self.metadata if len(there) == len(files) else list_files(self.metadata, there)

    def keep(self, places: Iterable[int]) -> None:
        """Keep only the blobs at these places, in this order. Entries of the others go, also from ``toc``.

        Raises:
            FormatError: The ``toc`` can't be read.
        """
        order = list(places)
        new_places = {old: new for new, old in enumerate(order)}
        gone = {blob.key for place, blob in enumerate(self.blobs) if place not in new_places}
        self.blobs = [self.blobs[place] for place in order]
        if self.entries is not None:
            self.entries = [
                entry if entry.blob is None else replace(entry, blob=new_places[entry.blob])
                for entry in self.entries
                if entry.blob is None or entry.blob in new_places
            ]
        if gone:
            self.edit_toc(dict.fromkeys(gone))

    def edit_toc(self, keys: Mapping[str, str | None]) -> None:
        """Replace keys of tensors in the blob ``toc``; None removes the tensor from it.

        Raises:
            FormatError: The ``toc`` can't be read.
        """
        toc = self.find(TOC_KEY)
        if toc is None:
            return
        before = parse_toc(_bytes(toc.data))
        renamed = [(entry, keys.get(entry.name, entry.name)) for entry in before]
        after = [replace(entry, name=key) for entry, key in renamed if key is not None]
        if not after:  # no tensor is left
            self.keep(place for place, blob in enumerate(self.blobs) if blob is not toc)
        elif after != before:
            toc.data, toc.sha256 = build_toc(after), None

    def forget_source(self) -> bool:
        """Drop from the metadata what a conversion noted about its source, which is no longer true.

        `MODEL_CHOICES` stay: they belong to the model, whatever tensors the file has.

        Returns:
            Whether there was anything to drop.
        """
        before = dict(self.metadata)
        choices = model_choices(self.metadata)
        self.metadata.pop(REARRANGED, None)
        self.metadata.pop(CHOICES, None)
        if choices:
            self.metadata[CHOICES] = json.dumps(choices, sort_keys=True)
        return self.metadata != before

    def forget_names(self) -> bool:
        """Drop from the metadata what it says about names that are gone.

        The choices of a conversion stay: they are about the blobs.

        Returns:
            Whether the names of the source were among them.
        """
        for key in (PACKED_FROM, BASE, BASE_NAME):  # no blob is marked as packed any more
            self.metadata.pop(key, None)
        return self.metadata.pop(REARRANGED, None) is not None

    def toc_keys(self) -> set[str]:
        """Return the keys of the runtime's tensors, as the blob ``toc`` lists them.

        Raises:
            FormatError: It can't be read.
        """
        toc = self.find(TOC_KEY)
        return {entry.name for entry in parse_toc(_bytes(toc.data))} if toc else set()


def write_manifest(
    manifest: Manifest,
    target: str | PathLike[str] | BinaryIO,
    *,
    version: int,
    index: IndexPlace,
    replaced: BlobReader | None = None,
    check: Callable[[ManifestBlob, bytes], None] = ManifestBlob.check_digest,
    progress: Progress = lambda _: None,
) -> int:
    """Write a file, and compare what was written with the known digests.

    Args:
        manifest: Of the file.
        target: A path, or a binary stream.
        version: Of the container.
        index: Where the name index goes, if the manifest has one.
        replaced: The file that was edited; it must still be the one at the path.
        check: Called with each blob and the SHA-256 of what was written.
        progress: Called with how many bytes more were written.

    Returns:
        The size of the file.

    Raises:
        FormatError: ``damaged-blob``; nothing is written then, a stream is left incomplete.
        UsageError: As `ContainerWriter`; ``no-blobs``; ``needs-path`` for an external index and a stream;
            ``replaced``.
        OSError: Reading or writing failed; the target is untouched.
    """
    place = "none" if manifest.entries is None else index
    refuse_target(target, place)
    if not manifest.blobs:
        raise UsageError("no-blobs", "nothing would be left: a container has at least one blob")
    keep_digests = manifest.digests and place != "none"
    hashing = keep_digests or any(blob.sha256 for blob in manifest.blobs)
    with ContainerWriter(target, version=version, digests=hashing, max_blobs=manifest.max_blobs) as writer:
        for blob in manifest.blobs:
            data = blob.data
            pieces: Iterable[FileRange | memoryview] = (
                data.parts() if isinstance(data, FileRange) else [memoryview(data)]
            )
            writer.add_chunks(blob.key, reporting(pieces, progress), immutable=True)
        if hashing:
            for blob, digest in zip(manifest.blobs, writer.digests(), strict=True):
                check(blob, digest)
        make_index = partial(_index_bytes, manifest, writer, digests=keep_digests)
        close_with_index(writer, place, make_index, replaced=replaced)
    return writer.directory().file_size


def _index_bytes(manifest: Manifest, writer: ContainerWriter, store: Directory | None, *, digests: bool) -> bytes:
    unpacked = {place: blob.unpacked_nbytes for place, blob in enumerate(manifest.blobs)}
    table = blob_table(writer, digests=digests, unpacked_nbytes=unpacked)
    return build_index(manifest.entries or [], table, manifest.true_metadata(), store=store)


def external_index(reader: BlobReader, manifest: Manifest) -> bytes:
    """Return the external index of a file that stays as it is, with the digests that the manifest has."""
    table = [IndexedBlob(encode_key(blob.key), blob.nbytes, blob.sha256) for blob in manifest.blobs]
    return build_index(manifest.entries or [], table, manifest.true_metadata(), store=reader.directory)


def _bytes(data: FileRange | bytes) -> bytes:
    return data.read().tobytes() if isinstance(data, FileRange) else data


def manifest_of(reader: BlobReader, index: NameIndex | None) -> Manifest:
    """Return what a file holds, including blobs that its index doesn't know."""
    blobs: list[ManifestBlob] = []
    new_places: dict[int, int] = {}  # place in the directory → in `blobs`
    max_blobs = max_blobs_from(reader)
    for place, key in enumerate(reader.directory.all_keys):
        if key != INDEX_KEY:
            new_places[place] = len(blobs)
            blobs.append(ManifestBlob(key, reader.part_of_file(*reader.directory.range(place))))
    if index is None:
        return Manifest(blobs, max_blobs=max_blobs)
    places = [new_places[place] for place in index.places(reader.directory).tolist()]  # row of the table → in `blobs`
    for row, place in enumerate(places):
        blobs[place].sha256 = index.blob(row).sha256
    entries = [
        entry if entry.blob is None else replace(entry, blob=places[entry.blob]) for entry in index.all_entries()
    ]
    return Manifest(blobs, entries, dict(index.metadata), index.has_digests, max_blobs)


def is_packed(reader: BlobReader, index: NameIndex | None) -> bool:
    """Whether a file was made by `blobstore.pack`, or has packed blobs."""
    return SKELETON_KEY in reader or (index is not None and index.packed_count > 0)


def refuse_packed(reader: BlobReader, index: NameIndex | None) -> None:
    """Refuse to change a packed file: only `blobstore.unpack` reads it right.

    Raises:
        UsageError: ``packed-file``.
    """
    if is_packed(reader, index):
        raise UsageError("packed-file", f"{reader.path!r} is packed: unpack it first, with blobstore unpack")


def describe(manifest: Manifest, reader: BlobReader, *, besides: Collection[str] = ()) -> None:
    """Give the manifest of a file without an index entries: from its toc, or else each blob under its key.

    Args:
        manifest: Of the file.
        reader: The file.
        besides: Keys of blobs that are no tensors.
    """
    places = {blob.key: place for place, blob in enumerate(manifest.blobs)}
    manifest.entries = [
        Entry(info.name, places[info.key], 0, info.nbytes, info.type.number, info.shape, info.scale)
        for info in open_catalog(reader, reader.directory, None)
        if _is_name(info.name) and info.key not in besides
    ]


def _is_name(key: str) -> bool:
    """Whether a key is Unicode text. The blob of any other key stays reachable by its key, and gets no entry."""
    try:
        encode_name(key)
    except UsageError:
        return False
    return True
