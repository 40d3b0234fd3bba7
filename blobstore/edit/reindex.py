"""Give an existing file a name index, or move the index that it has."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from blobstore.container.keys import INDEX_KEY, encode_key, max_blobs_from
from blobstore.container.reader import BlobReader
from blobstore.container.writer import ContainerWriter
from blobstore.edit.manifest import describe, external_index, manifest_of, refuse_packed, write_manifest
from blobstore.errors import FormatError, UsageError, in_file
from blobstore.fileio.hashing import digest_of
from blobstore.fileio.paths import path_text
from blobstore.fileio.places import file_size
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.threads import in_order
from blobstore.gemma.newer import readers_notes
from blobstore.index import rebind_index
from blobstore.index.carried import known_files
from blobstore.index.inputs import files_of, refuse_inputs
from blobstore.index.locate import beside, external_path, find_index, lost_index
from blobstore.index.sets import open_reader, refuse_set
from blobstore.index.sidecar import close_with_index, write_index
from blobstore.store.set_making import told_missing, write_set_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from blobstore.edit.manifest import Manifest, ManifestBlob
    from blobstore.fileio.types import Progress
    from blobstore.index import Entry, NameIndex
    from blobstore.index.locate import IndexPlace
    from blobstore.index.sidecar import MakeIndex


_FIX = "fetch the file again; if it was meant to change, --force without --digests drops the old digests"
_SHOWN = 200
_JOIN = "blobstore index join makes it anew from the files of the set, which have indexes of their own"


@dataclass(frozen=True)
class Indexing:
    """The result of `build_index`.

    Attributes:
        input: The path of the file, as given.
        output: The path of the file that the index is in: the file itself, or the one beside it.
        nbytes: Size of that file; 0 if another process has moved it since.
        names: How many names the index has.
        lost_names: How many names only the previous index had; None where they couldn't be read.
        changed_names: How many names of both have another type, shape or scale now.
        notes: What a user should know.
        seconds: How long it took.

    Example:
        >>> blobstore.rewrite("model.sbs", "plain.sbs", index="none").names
        0
        >>> blobstore.build_index("plain.sbs").output
        'plain.sbs.idx'
    """

    input: str
    output: str
    nbytes: int
    names: int
    lost_names: int | None = 0
    changed_names: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def attach_index(path: str | PathLike[str]) -> Indexing:
    """Move the index beside a file into it. The file is rewritten, then the index beside it is removed.

    Raises:
        UsageError: ``has-index`` if it has one inside already; ``no-index`` if there is none beside it.
        FormatError: ``index-stale`` and others: it belongs to another file, or is invalid.
    """
    start = time.perf_counter()
    refuse_set(path, _JOIN)
    with BlobReader(path, access="read") as reader:
        if INDEX_KEY in reader:
            raise UsageError("has-index", f"{reader.path!r} has its index inside already")
        index = find_index(reader)
        if index is None:
            raise UsageError("no-index", f"{external_path(path)!r} does not exist: blobstore index build makes one")
        _rewrite(reader, "embedded", partial(rebind_index, index))
        return _result(reader, reader.path, len(index.names), start)


def detach_index(path: str | PathLike[str]) -> Indexing:
    """Move the index of a file into one beside it. The file is rewritten, as if it had never had an index.

    Raises:
        UsageError: ``no-index`` if there is none inside; ``no-blobs`` if nothing would be left.
    """
    start = time.perf_counter()
    refuse_set(path, _JOIN)
    with BlobReader(path, access="read") as reader:
        if INDEX_KEY not in reader:
            raise UsageError("no-index", f"{reader.path!r} has no index inside")
        index = find_index(reader)
        if index is None or len(reader) == 1:
            raise UsageError("no-blobs", f"{reader.path!r} has nothing but its index")
        _rewrite(reader, "external", partial(rebind_index, index))
        return _result(reader, external_path(path), len(index.names), start)


def join_stores(stores: Sequence[str | PathLike[str]], output: str | PathLike[str]) -> Indexing:
    """Make the index of a set of files, whose metadata is that of the first one. The files stay as they are.

    Args:
        stores: The files, of version 2 with their indexes inside, in one folder.
        output: The path of the set's index, in the same folder; replaced only by a complete one.

    Raises:
        UsageError: ``no-index``, ``other-folder``, ``bad-store``, ``bad-store-name``, ``duplicate-name``,
            ``duplicate-key``; ``same-file``; ``set-not-file``: one is a set itself.
        FormatError: A file, or its index, is wrong.
        OSError: A file can't be read, or the index not be written.

    Example:
        >>> blobstore.save_file({"a": np.ones(3)}, "part-1.sbs")
        >>> blobstore.save_file({"b": np.zeros(3)}, "part-2.sbs")
        >>> blobstore.join_stores(["part-1.sbs", "part-2.sbs"], "whole.sbs").names
        2
        >>> list(blobstore.open("whole.sbs"))
        ['a', 'b']
    """
    start = time.perf_counter()
    paths, output = [path_text(store) for store in stores], path_text(output)
    refuse_inputs([output, *beside(output)], [file for path in paths for file in files_of(path)])
    nbytes = write_set_index(output, paths)
    with open_reader(output) as reader:
        index = find_index(reader)
        names = len(index.names) if index else 0
    notes = told_missing(paths) + _other_metadata(paths)
    return Indexing(paths[0], output, nbytes, names, notes=notes, seconds=time.perf_counter() - start)


def _other_metadata(paths: Sequence[str]) -> tuple[str, ...]:
    """Say which metadata of the files of a set is not in its index."""
    kept: dict[str, str] | None = None
    lost: set[str] = set()
    for path in paths:
        with BlobReader(path, access="read") as reader:
            index = find_index(reader)
        metadata = index.metadata if index else {}
        kept = metadata if kept is None else kept
        lost |= {key for key, value in metadata.items() if kept.get(key) != value}
    return (f"metadata {', '.join(sorted(lost))[:_SHOWN]}: only that of the first file is the set's",) if lost else ()


def _result(reader: BlobReader, output: str, names: int, start: float, **more: Any) -> Indexing:  # noqa: ANN401 (fields)
    nbytes, seconds = 0, time.perf_counter() - start
    with contextlib.suppress(FileNotFoundError):
        nbytes = file_size(output)
    blobs = len(reader) - (INDEX_KEY in reader) + (output == reader.path)
    more["notes"] = (*more.get("notes", ()), *readers_notes(blobs))
    return Indexing(reader.path, output, nbytes, names, seconds=seconds, **more)


def build_index(
    path: str | PathLike[str],
    *,
    embed: bool = False,
    digests: bool = False,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Indexing:
    """Make a name index for a file that has none: from its ``toc``, or else with each blob under its key.

    With ``force``, an index that is there is replaced: its metadata is kept, as far as it can be read and is still
    true; its names are not. Without, ``digests`` adds the digests that an index lacks, and the rest of it stays.

    No digest replaces another: where the index that was there has one, the blob must match it. If a blob was meant to
    change, build first with ``force`` and without ``digests``, which drops the old ones.

    Args:
        path: An .sbs file.
        embed: Put it inside (the file is rewritten), not beside the file.
        digests: Read every blob, several at once, and keep its SHA-256.
        force: Replace an index that is there.
        progress: Called with how many bytes more of the blobs are done.

    Returns:
        Where the index is. ``dataclasses.asdict`` of it is what ``blobstore index build --json`` prints.

    Raises:
        UsageError: ``has-index``, unless ``force``, or digests are missing; ``no-blobs`` when there is nothing but an
            index; ``packed-file``: it was made by `blobstore.pack`, whose index can't be rebuilt.
        FormatError: ``damaged-blob``: a blob does not match its digest. ``index-digest``: the index that lacks
            digests has changed since it was written.
        OSError: Reading or writing failed; file and index are as they were.

    Example:
        >>> with blobstore.create("plain.sbs", digests=False) as store:
        ...     _ = store.add("a", np.ones(3))
        >>> blobstore.build_index("plain.sbs", digests=True).names
        1
        >>> blobstore.open("plain.sbs").index.has_digests
        True
    """
    start = time.perf_counter()
    refuse_set(path, _JOIN)
    with BlobReader(path, access="read") as reader:
        before, fault = _find_index(reader)
        if not force and (before or fault):
            if before is None or fault or not digests:
                where = before.path if before else fault and fault.path
                raise UsageError("has-index", f"{where!r} has an index already: --force rebuilds it")
            where, names = _add_digests(reader, before, embed=embed, progress=progress)
            return _result(reader, where, names, start)
        refuse_packed(reader, None if fault else before)
        manifest = manifest_of(reader, None)
        if not manifest.blobs:
            raise UsageError("no-blobs", f"{reader.path!r} has nothing but its index")
        describe(manifest, reader, besides=known_files(before).values())
        if before:
            _carry_digests(manifest, before)
        lost, changed, notes = _carry_over(manifest, before, fault, digests=digests)
        notes = (*lost_index(reader), *notes)
        where = _put(reader, manifest, before, embed=embed, digests=digests, progress=progress)
        more = {"lost_names": lost, "changed_names": changed, "notes": notes}
        return _result(reader, where, len(manifest.entries or ()), start, **more)


def _add_digests(reader: BlobReader, index: NameIndex, *, embed: bool, progress: Progress) -> tuple[str, int]:
    """Give an index the digests that it lacks; it stays where it is, unless it is to be embedded → its place, names."""
    refuse_packed(reader, index)
    manifest = manifest_of(reader, index)
    if index.has_digests and all(blob.sha256 for blob in manifest.blobs):
        what = "has the SHA-256 of every blob: blobstore verify compares them, --force rebuilds it"
        raise UsageError("has-index", f"the index in {index.path!r} {what}")
    if not index.self_digest_holds():
        what = "the index has changed since it was written, and a new SHA-256 would hide that: --force rebuilds it"
        with in_file(index.path):
            raise FormatError("index-digest", what)
    embed = embed or not index.external
    where = _put(reader, manifest, index, embed=embed, digests=True, progress=progress)
    return where, len(manifest.entries or ())


def _put(
    reader: BlobReader,
    manifest: Manifest,
    before: NameIndex | None,
    *,
    embed: bool,
    digests: bool,
    progress: Progress,
) -> str:
    """Write a file's index, embedded or beside it; return the path of the file that holds it.

    Raises:
        FormatError: ``damaged-blob``: a blob does not match its digest in the previous index.
    """
    manifest.digests = digests
    if not digests:
        for blob in manifest.blobs:  # the old ones are dropped, not compared
            blob.sha256 = None

    def check(blob: ManifestBlob, digest: bytes) -> None:
        with in_file(reader.path):
            blob.check_digest(digest, names=partial(_names_of, before, blob.key), fix=_FIX)

    if embed or INDEX_KEY in reader:  # hashed while the file is written: its blobs are read once
        place: IndexPlace = "embedded" if embed else "external"
        write_manifest(
            manifest,
            reader.path,
            version=reader.version,
            index=place,
            replaced=reader,
            check=check,
            progress=progress,
        )
        return reader.path if embed else external_path(reader.path)
    if digests:
        _hash_all(manifest, check, progress)
    write_index(external_index(reader, manifest), reader)
    return external_path(reader.path)


def _hash_all(manifest: Manifest, check: Callable[[ManifestBlob, bytes], None], progress: Progress) -> None:
    """Give every blob its SHA-256, on all cores."""
    jobs = (partial(digest_of, blob.data) for blob in manifest.blobs if isinstance(blob.data, FileRange))
    for blob, digest in zip(manifest.blobs, in_order(jobs), strict=True):
        check(blob, digest)
        blob.sha256 = digest
        progress(blob.nbytes)


def _find_index(reader: BlobReader) -> tuple[NameIndex | None, FormatError | None]:
    """Return a file's index, and what is wrong with it: metadata and digests of a wrong one may be intact."""
    try:
        return find_index(reader), None
    except FormatError as error:
        with contextlib.suppress(FormatError):
            return find_index(reader, whole=False), error
        return None, error


def _carry_over(
    manifest: Manifest, before: NameIndex | None, fault: FormatError | None, *, digests: bool
) -> tuple[int | None, int, tuple[str, ...]]:
    """Give a new index the metadata of the previous one → how many names are lost, how many changed, and notes."""
    if fault:
        return None, 0, tuple(_carry_over_metadata(manifest, before, fault.reason, digests=digests))
    if before is None:
        return 0, 0, ()
    manifest.metadata = dict(before.metadata)
    old = {entry.name: _facts(entry) for entry in before.all_entries()}
    new = {entry.name: _facts(entry) for entry in manifest.entries or ()}
    lost = old.keys() - new
    changed = [name for name, facts in new.items() if old.get(name, facts) != facts]
    notes = []
    if lost or changed:
        others = f", and {len(changed)} have another type, shape or scale" if changed else ""
        source = ": export gives tensors as they are stored" if manifest.forget_names() else ""
        notes.append(f"{len(lost)} of the {len(old)} names that the index had are lost{others}{source}")
    return len(lost), len(changed), (*notes, *_doubts(before, manifest, digests=digests))


def _carry_over_metadata(manifest: Manifest, before: NameIndex | None, fault: str, *, digests: bool) -> Iterator[str]:
    """Take the metadata of an invalid index, if it can be read → notes."""
    with contextlib.suppress(FormatError):
        manifest.metadata = dict(before.metadata) if before else {}
    manifest.forget_names()
    lost = "its names are lost, and its metadata is kept" if manifest.metadata else "its names and metadata are lost"
    yield f"the index that was there can't be used ({fault}): {lost}"
    if digests and not any(blob.sha256 for blob in manifest.blobs):
        yield "the new digests are of the blobs as they are now: there were no old ones to compare them with"


def _carry_digests(manifest: Manifest, index: NameIndex) -> None:
    """Give blobs the digests that an index keeps of them, so that new ones are compared with these."""
    blobs = {(encode_key(blob.key), blob.nbytes): blob for blob in manifest.blobs}
    for row in map(index.blob, range(len(index.blobs))):  # one by one: a wrong row says nothing about the others
        blob = blobs.get((row.key, row.nbytes))
        if blob is not None:
            blob.sha256 = row.sha256


def _facts(entry: Entry) -> tuple[object, ...]:
    return entry.type, entry.shape, entry.scale


def _doubts(index: NameIndex, manifest: Manifest, *, digests: bool) -> Iterator[str]:
    if index.has_digests and not digests:
        yield "the index had the SHA-256 of each blob, the new one has none: --digests makes them"
    if manifest.metadata and not index.self_digest_holds():
        yield "the index has changed since it was written: check that its metadata, which is kept, is right"


def _names_of(index: NameIndex | None, key: str) -> list[str]:
    """Return the names that an index has for a blob, as far as they can be read."""
    if index is None:
        return []
    rows = {row for row in range(len(index.blobs)) if index.blob(row).key == encode_key(key)}
    with contextlib.suppress(FormatError):
        return [entry.name for entry in index.all_entries() if entry.blob in rows]
    return []


def _rewrite(reader: BlobReader, place: IndexPlace, make_index: MakeIndex) -> None:
    """Replace a file by one with the same blobs and another index."""
    with ContainerWriter(reader.path, version=reader.version, max_blobs=max_blobs_from(reader)) as writer:
        for key in reader:
            if key != INDEX_KEY:
                writer.add(key, reader.file_range(key))
        close_with_index(writer, place, make_index, replaced=reader)
