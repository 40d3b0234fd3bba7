"""What is whole in a broken file, saved in a new one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container.keys import INDEX_KEY, TOC_KEY, decode_key
from blobstore.container.layout import max_blobs_from
from blobstore.edit.manifest import Manifest, ManifestBlob, write_content
from blobstore.edit.recover_directory import find_evidence
from blobstore.errors import FormatError, in_file
from blobstore.fileio.hashing import digest_of
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.source import open_source, read_whole
from blobstore.index import INDEX_MAGIC, parse_index
from blobstore.index.inputs import files_of, refuse_inputs
from blobstore.index.locate import beside

if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from blobstore.container.directory import Directory
    from blobstore.edit.recover_directory import Evidence
    from blobstore.fileio.types import ByteSource, Progress
    from blobstore.index import NameIndex


_SCAN_NBYTES = 4 << 20


@dataclass(frozen=True)
class Lost:
    """A blob that is not in the new file: its key, why, and the tensors that were in it."""

    key: str
    why: str
    names: tuple[str, ...] = ()


@dataclass
class Recovered:
    """The result of `recover`.

    Attributes:
        how: What proved where the blobs lay.
        kept: Keys of the blobs in the new file.
        verified: How many of these have the SHA-256 that was kept of them.
        names: Of the tensors in the new file; 0 without an index.
        lost: What is missing.
        doubtful: Keys of kept blobs that have nothing but zeros, up to the end of the file: a download may not have
            come so far.
    """

    how: str
    kept: list[str] = field(default_factory=list)
    verified: int = 0
    names: int = 0
    lost: list[Lost] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)


def recover(
    path: str | PathLike[str],
    target: str | PathLike[str] | BinaryIO,
    *,
    index_path: str | PathLike[str] | None = None,
    progress: Progress = lambda _: None,
) -> Recovered:
    """Write a new file with all blobs of a broken one that are whole.

    Args:
        path: Of the broken file.
        target: Path of the new one, version 2; or a binary stream.
        index_path: Of the index beside the file, when it isn't ``path.idx``.
        progress: Called with how many bytes more were read or written; each blob is both.

    Raises:
        FormatError: ``not-recoverable`` when nothing proves where the blobs lie; ``nothing-whole``.
        UsageError: ``same-file``; ``not-a-file``.
        OSError: Reading or writing failed; the target is untouched.
    """
    refuse_inputs(files_of(target), [*files_of(path), *([index_path] if index_path else [])])
    beside = _read_index(path, index_path)
    source = open_source(path, "read")
    try:
        with in_file(path):
            evidence = find_evidence(source, beside)
            if evidence is None:
                raise FormatError("not-recoverable", _hopeless(source, beside))
            done = Recovered(evidence.how)
            index, own = _index_of(source, evidence, beside)
            manifest = _whole(source, evidence.directory, index, own, done, progress=progress)
            if not manifest.blobs:
                raise FormatError("nothing-whole", f"none of its {len(evidence.directory)} blobs is whole")
        write_content(
            manifest,
            target,
            version=2,
            index="none" if manifest.entries is None else "embedded",
            progress=progress,
        )
        return done
    finally:
        source.close()


def _read_index(path: str | PathLike[str], index: str | PathLike[str] | None) -> memoryview | None:
    place = index or next((one for one in beside(path) if os.path.isfile(one)), None)
    return None if place is None else read_whole(place)


def _hopeless(source: ByteSource, beside: memoryview | None) -> str:
    """Say why nothing can be saved, and what would help."""
    also = "" if beside is None else ", and the index beside it is wrong or another file's"
    return (
        f"nothing in these {source.size} bytes says where a blob begins{also}: version 2 has its directory at the end. "
        "With the index of the whole file, blobstore recover --index FILE.idx finds what is there; or fetch it again"
    )


def _index_of(source: ByteSource, evidence: Evidence, beside: memoryview | None) -> tuple[NameIndex | None, int]:
    """Return the index that goes with a directory, and the place of its blob, or -1.

    It is what proved the directory, or the one inside (also under another key: one bit is enough to hide it), or the
    one beside.
    """
    directory = evidence.directory
    own = directory.find(INDEX_KEY.encode())
    if evidence.index is not None:
        return evidence.index, own
    for place in range(len(directory)) if own < 0 else (own,):
        offset, nbytes = directory.range(place)
        if offset + nbytes > source.size or bytes(source.view(offset, min(nbytes, 8))) != INDEX_MAGIC:
            continue
        index = _checked(source.view(offset, nbytes), directory, external=False)
        if index:
            return index, place
    return (_checked(beside, directory, external=True) if beside is not None and own < 0 else None), own


def _checked(raw: memoryview, directory: Directory, *, external: bool) -> NameIndex | None:
    """Return an index, if it is right and goes with a directory."""
    try:
        index = parse_index(raw, external=external)
        index.check_binding(directory)
        index.places(directory)
    except FormatError:
        return None
    return index


def _whole(
    source: ByteSource, directory: Directory, index: NameIndex | None, own: int, done: Recovered, *, progress: Progress
) -> Manifest:
    """Return the blobs that are whole, with their names; what isn't is told in ``done``."""
    rows = {int(place): row for row, place in enumerate(index.places(directory))} if index else {}
    entries = list(index.all_entries()) if index else []
    manifest = Manifest([], None, {}, index.has_digests if index else False, max_blobs_from(len(directory)))
    end = _last_nonzero(source)
    held: dict[int | None, list[str]] = {}  # row of the index → the names of its tensors
    for entry in entries:
        held.setdefault(entry.blob, []).append(entry.name)
    kept: dict[int, int] = {}  # row of the index → place in the new file
    for place in range(len(directory)):
        key, row = decode_key(directory.keys[place]), rows.get(place)
        if place == own:
            continue
        said = index.blob(row) if index and row is not None else None
        known = said.sha256 if said else None
        data = FileRange(source, *directory.range(place))
        fault = _fault(source, data, known, progress)
        if fault:
            done.lost.append(Lost(key, fault, tuple(held.get(row, ())) if row is not None else ()))
            continue
        if known:
            done.verified += 1
        elif data.offset >= end:
            done.doubtful.append(key)
        if row is not None:
            kept[row] = len(manifest.blobs)
        manifest.blobs.append(ManifestBlob(key, data, known, said.unpacked_nbytes if said else 0))
    if index:
        manifest.entries = [entry for entry in entries if entry.blob is None]
        manifest.entries += [replace(entry, blob=kept[entry.blob]) for entry in entries if entry.blob in kept]
        manifest.metadata = dict(index.metadata)
        done.names = len(manifest.entries)
    if done.lost:
        manifest.forget_source()
        _adjust_toc(manifest, done)
    done.kept = [blob.key for blob in manifest.blobs]
    return manifest


def _fault(source: ByteSource, data: FileRange, known: bytes | None, progress: Progress) -> str:
    """Say why a blob isn't whole; empty when it is, as far as can be known."""
    if data.offset + data.nbytes > source.size:
        there = max(0, source.size - data.offset)
        return f"cut off: {there} of {data.nbytes} bytes are there"
    if known and digest_of(data, progress) != known:
        return f"damaged: not the SHA-256 that was kept of its {data.nbytes} bytes"
    return ""


def _adjust_toc(manifest: Manifest, done: Recovered) -> None:
    """Take what is lost out of the runtime's table, or the table out of the file when it can't be read."""
    try:
        manifest.edit_toc(dict.fromkeys(lost.key for lost in done.lost))
    except FormatError as error:
        manifest.keep([place for place, blob in enumerate(manifest.blobs) if blob.key != TOC_KEY])
        done.lost.append(Lost(TOC_KEY, f"damaged: {error.message}"))


def _last_nonzero(source: ByteSource) -> int:
    """Return the offset behind the last byte that isn't zero."""
    for end in range(source.size, 0, -_SCAN_NBYTES):
        start = max(0, end - _SCAN_NBYTES)
        nonzero = np.flatnonzero(np.frombuffer(source.view(start, end - start), dtype=np.uint8))
        if len(nonzero):
            return start + int(nonzero[-1]) + 1
    return 0
