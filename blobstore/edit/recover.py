"""Save what is intact in a broken file as a new one."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container.keys import INDEX_KEY, TOC_KEY, decode_key, max_blobs_from
from blobstore.edit.manifest import Manifest, ManifestBlob, write_manifest
from blobstore.edit.recover_directory import find_directory
from blobstore.errors import FormatError, UsageError, in_file, without_secrets
from blobstore.fileio.hashing import digest_of
from blobstore.fileio.paths import optional_path, path_text, target_of
from blobstore.fileio.ranges import CHUNK_NBYTES, FileRange
from blobstore.fileio.source import open_source, read_whole
from blobstore.gemma.newer import readers_notes
from blobstore.index import INDEX_MAGIC, parse_index
from blobstore.index.carried import known_files
from blobstore.index.inputs import files_of, path_of, refuse_inputs
from blobstore.index.locate import beside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike
    from typing import BinaryIO

    from blobstore.container.directory import Directory
    from blobstore.edit.recover_directory import RecoveredDirectory
    from blobstore.fileio.types import ByteSource, Progress
    from blobstore.index import NameIndex
    from blobstore.index.locate import IndexPlace


@dataclass(frozen=True)
class LostBlob:
    """A blob that `recover` could not save.

    Attributes:
        key: Its key.
        why: The reason.
        names: Of the tensors that were in it, or of the file.

    Example:
        >>> blobstore.recover("model.sbs", "saved.sbs").lost
        ()
    """

    key: str
    why: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recovery:
    """The result of `recover`.

    Attributes:
        input: The path of the broken file, as given.
        output: The path of the new file, as given; None for a stream.
        nbytes: Size of the new file.
        ok: Whether nothing is lost.
        how: What proves where the blobs lay.
        kept: Keys of the blobs in the new file.
        verified: How many of them match a known SHA-256.
        names: How many tensors of the index are in the new file; 0 without an index.
        lost: What is missing.
        doubtful: Keys of kept blobs that are all zeros, as is everything after them: a download may have stopped
            before them.
        notes: What a user should know.
        seconds: How long it took.

    Example:
        >>> blobstore.recover("model.sbs", "saved.sbs").how
        'its directory, which is intact'
    """

    input: str
    output: str | None
    nbytes: int
    ok: bool
    how: str
    kept: tuple[str, ...]
    verified: int
    names: int
    lost: tuple[LostBlob, ...]
    doubtful: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


@dataclass
class _Saved:
    """What is known of a recovery while it goes on; the fields are those of `Recovery`."""

    kept: list[str] = field(default_factory=list)
    verified: int = 0
    names: int = 0
    lost: list[LostBlob] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)


def recover(
    path: str | PathLike[str],
    output: str | PathLike[str] | BinaryIO,
    *,
    index: str | PathLike[str] | None = None,
    progress: Progress = lambda _: None,
) -> Recovery:
    """Write a new file with all intact blobs of a broken one: truncated, with bytes appended, or with damaged blobs.

    Args:
        path: Of the broken file.
        output: Path or URL of the new file, which gets version 2; or a binary stream.
        index: The index of the complete file, if it isn't ``path.idx``.
        progress: Called with how many bytes more were read or written; each blob is both.

    Returns:
        What was saved, and what is lost. ``dataclasses.asdict`` of it is what ``blobstore recover --json`` prints.

    Raises:
        FormatError: ``not-recoverable`` when nothing proves where the blobs lie; ``nothing-whole``; ``index-stale``:
            the index that was given is invalid or belongs to another file.
        UsageError: ``needless-flag`` for an index when the file has a valid one inside; ``same-file``; ``not-a-file``.
        OSError: Reading or writing failed; the output is untouched.

    Example:
        >>> with open("model.sbs", "rb") as whole, open("longer.sbs", "wb") as longer:
        ...     _ = longer.write(whole.read() + b"appended by mistake")
        >>> done = blobstore.recover("longer.sbs", "saved.sbs")
        >>> done.ok, done.how
        (True, 'its directory, before 19 appended bytes')
    """
    path, output, index = path_text(path), target_of(output), optional_path(index)
    start = time.perf_counter()
    refuse_inputs(files_of(output), [*files_of(path), *([index] if index else [])])
    index_path = index or next(filter(os.path.isfile, beside(path)), None)
    external_index = None if index_path is None else read_whole(index_path)
    source = open_source(path, "read")
    try:
        with in_file(path):
            recovered = find_directory(source, external_index)
            if recovered is None:
                raise FormatError("not-recoverable", _hopeless(source, external_index))
            name_index, own_place = _find_index(source, recovered, external_index)
            unused = None if external_index is None or (name_index and name_index.external) else index_path
            if index and unused:
                _refuse_unused(index, name_index)
            manifest, saved = _salvage(source, recovered, name_index, own_place, progress)
            if not manifest.blobs:
                raise FormatError("nothing-whole", f"none of its {len(recovered.directory)} blobs is intact")
        place: IndexPlace = "none" if manifest.entries is None else "embedded"
        nbytes = write_manifest(manifest, output, version=2, index=place, progress=progress)
    finally:
        source.close()
    return Recovery(
        input=without_secrets(path),
        output=path_of(output),
        nbytes=nbytes,
        ok=not saved.lost,
        how=recovered.how,
        kept=tuple(saved.kept),
        verified=saved.verified,
        names=saved.names,
        lost=tuple(saved.lost),
        doubtful=tuple(saved.doubtful),
        notes=(
            *_unused_note(unused, name_index),
            *map(_doubt, saved.doubtful),
            *readers_notes(len(manifest.blobs) + (place == "embedded")),
        ),
        seconds=time.perf_counter() - start,
    )


def _refuse_unused(path: str | PathLike[str], used: NameIndex | None) -> None:
    """Refuse an index that was given and that nothing uses."""
    if used:
        what = "--index: the file has a valid index inside, which is used: leave it out"
        raise UsageError("needless-flag", what)
    with in_file(path):
        raise FormatError("index-stale", "this index is invalid or belongs to another file: leave it out")


def _unused_note(path: str | PathLike[str] | None, used: NameIndex | None) -> Iterator[str]:
    if path is not None:
        why = "the file has one inside" if used else "it is invalid or belongs to another file"
        yield f"the index beside it, {os.fspath(path)!r}, is not used: {why}"


def _doubt(key: str) -> str:
    return f"{key} has only zeros up to the end of the file: it may not have been downloaded"


def _hopeless(source: ByteSource, external_index: memoryview | None) -> str:
    """Say why nothing can be saved, and what would help."""
    also = "" if external_index is None else ", and the index beside it is invalid or belongs to another file"
    return (
        f"nothing in these {source.size} bytes says where a blob begins{also}: version 2 has its directory at the end. "
        "With the index of the whole file, blobstore recover --index FILE.idx finds what is there; or fetch it again"
    )


def _find_index(
    source: ByteSource, recovered: RecoveredDirectory, external_index: memoryview | None
) -> tuple[NameIndex | None, int]:
    """Return the index that goes with a directory, and the place of the blob that it is in, or -1.

    It is the one that proves the directory; or the one inside, also under another key: one flipped bit is enough to
    hide it; or the one beside the file.
    """
    directory = recovered.directory
    own_place = directory.find(INDEX_KEY.encode())
    if recovered.index is not None:
        return recovered.index, own_place
    for place in range(len(directory)) if own_place < 0 else (own_place,):
        offset, nbytes = directory.range(place)
        if offset + nbytes > source.size or bytes(source.view(offset, min(nbytes, 8))) != INDEX_MAGIC:
            continue
        index = _parse_for(directory, source.view(offset, nbytes), external=False)
        if index:
            return index, place
    if external_index is None or own_place >= 0:
        return None, own_place
    return _parse_for(directory, external_index, external=True), own_place


def _parse_for(directory: Directory, raw: memoryview, *, external: bool) -> NameIndex | None:
    """Return an index if it is valid and goes with a directory."""
    try:
        index = parse_index(raw, external=external)
        index.check_binding(directory)
        index.places(directory)
    except FormatError:
        return None
    return index


def _salvage(
    source: ByteSource,
    recovered: RecoveredDirectory,
    index: NameIndex | None,
    own_place: int,
    progress: Progress,
) -> tuple[Manifest, _Saved]:
    """Return the manifest of the new file, and what is kept and lost.

    Args:
        source: The broken file.
        recovered: Its directory.
        index: Its index, if there is one.
        own_place: Of the blob that the index is in, which isn't kept; -1 for none.
        progress: Called with how many bytes more were read.
    """
    result = _Saved()
    blobs, new_places = _intact_blobs(source, recovered.directory, index, own_place, result, progress)
    manifest = Manifest(blobs, digests=False, max_blobs=max_blobs_from(recovered.directory.all_keys))
    if index:
        entries = list(index.all_entries())
        manifest.entries = [entry for entry in entries if entry.blob is None]
        manifest.entries += [
            replace(entry, blob=new_places[entry.blob]) for entry in entries if entry.blob in new_places
        ]
        manifest.metadata = dict(index.metadata)
        manifest.digests = index.has_digests
        result.names = len(manifest.entries)
    if result.lost:
        manifest.forget_source()
        _adjust_toc(manifest, result)
    result.kept = [blob.key for blob in manifest.blobs]
    return manifest, result


def _intact_blobs(  # noqa: PLR0917 (those of `_salvage`)
    source: ByteSource,
    directory: Directory,
    index: NameIndex | None,
    own_place: int,
    result: _Saved,
    progress: Progress,
) -> tuple[list[ManifestBlob], dict[int, int]]:
    """Return the intact blobs, and row of the index's table → place among them; report the others in ``result``."""
    rows = {int(place): row for row, place in enumerate(index.places(directory))} if index else {}
    names, files = _names_by_row(index), {key: [name] for name, key in known_files(index).items()}
    zeros_start = _end_of_nonzero(source)
    blobs: list[ManifestBlob] = []
    new_places: dict[int, int] = {}
    for place in range(len(directory)):
        if place == own_place:
            continue
        key, row = decode_key(directory.keys[place]), rows.get(place, -1)
        data = FileRange(source, *directory.range(place))
        indexed = index.blob(row) if index and row >= 0 else None
        sha256 = indexed.sha256 if indexed else None
        fault = _fault(source, data, sha256, progress)
        if fault:
            result.lost.append(LostBlob(key, fault, tuple(names.get(row, files.get(key, ())))))
            continue
        if sha256:
            result.verified += 1
        elif data.offset >= zeros_start:
            result.doubtful.append(key)
        if indexed:
            new_places[row] = len(blobs)
        blobs.append(ManifestBlob(key, data, sha256, indexed.unpacked_nbytes if indexed else 0))
    return blobs, new_places


def _names_by_row(index: NameIndex | None) -> dict[int, list[str]]:
    """Return the names of the tensors in each blob of an index's table."""
    names: dict[int, list[str]] = {}
    for entry in index.all_entries() if index else ():
        if entry.blob is not None:
            names.setdefault(entry.blob, []).append(entry.name)
    return names


def _fault(source: ByteSource, data: FileRange, sha256: bytes | None, progress: Progress) -> str:
    """Say why a blob isn't intact; empty when it is, as far as can be known."""
    if data.offset + data.nbytes > source.size:
        there = max(0, source.size - data.offset)
        return f"cut off: {there} of {data.nbytes} bytes are there"
    if sha256 and digest_of(data, progress) != sha256:
        return f"damaged: its {data.nbytes} bytes do not match their known SHA-256"
    return ""


def _adjust_toc(manifest: Manifest, result: _Saved) -> None:
    """Remove lost tensors from the runtime's toc, or the toc from the file if it can't be read."""
    try:
        manifest.edit_toc(dict.fromkeys(lost.key for lost in result.lost))
    except FormatError as error:
        manifest.keep([place for place, blob in enumerate(manifest.blobs) if blob.key != TOC_KEY])
        result.lost.append(LostBlob(TOC_KEY, f"damaged: {error.message}"))


def _end_of_nonzero(source: ByteSource) -> int:
    """Return the offset after the last byte that isn't zero."""
    for end in range(source.size, 0, -CHUNK_NBYTES):
        start = max(0, end - CHUNK_NBYTES)
        nonzero = np.flatnonzero(np.frombuffer(source.view(start, end - start), dtype=np.uint8))
        if len(nonzero):
            return start + int(nonzero[-1]) + 1
    return 0
