"""A file written anew with changes: other version, order, keys, names, metadata; fewer blobs; clean padding."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from blobstore.container.keys import CONFIG_KEY, OWN_KEYS, RESERVED_KEYS, encode_key
from blobstore.container.reader import BlobReader
from blobstore.edit.manifest import describe, manifest_of, refuse_packed, write_content
from blobstore.errors import UsageError
from blobstore.index import IndexedBlob, build_index
from blobstore.index.inputs import files_of, refuse_inputs
from blobstore.index.locate import find_index
from blobstore.index.names import key_for
from blobstore.index.sidecar import write_index

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike
    from typing import BinaryIO

    from blobstore.edit.manifest import Manifest
    from blobstore.fileio.types import Progress
    from blobstore.store.writer import IndexPlace


@dataclass(frozen=True)
class Edits:
    """What is to be changed.

    Attributes:
        version: Of the container; None leaves it.
        drop: Patterns of names and keys to leave out. A blob goes when none of its names is left, or when its key is
            meant: one that is no tensor's name, or that the runtime's ``toc`` lists.
        rename: Name or key → the new one. A blob whose key was made of the name gets the new name's.
        set_metadata: Text → text.
        unset_metadata: Keys of the metadata to remove.
        sort: By name, or by key where there is no index; the runtime's own blobs last.
        index: Where the name index goes, ``none`` leaves it out; None leaves it where it is.
        config: The bytes of the blob ``config``; None leaves it.
    """

    version: int | None = None
    drop: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    set_metadata: Mapping[str, str] = field(default_factory=dict)
    unset_metadata: tuple[str, ...] = ()
    sort: bool = False
    index: IndexPlace | None = None
    config: bytes | None = None


@dataclass(frozen=True)
class Rewritten:
    """What was done.

    Attributes:
        path: Of the new file; ``-`` for a stream.
        blobs: In it.
        names: In its index.
        dropped: Names and keys that were left out.
        renamed: How many names and keys are new.
        notes: What a user should know.
    """

    path: str
    blobs: int
    names: int
    dropped: tuple[str, ...] = ()
    renamed: int = 0
    notes: tuple[str, ...] = ()


def rewrite(
    path: str | PathLike[str],
    target: str | PathLike[str] | BinaryIO | None,
    edits: Edits,
    *,
    progress: Progress = lambda _: None,
) -> Rewritten:
    """Write a file anew, with changes.

    The target is replaced only by the complete new one, at whatever point this is interrupted.

    Args:
        path: Of the file.
        target: Path of the new one, or a binary stream for version 2. None is the file itself: where only its index
            changes and stands beside it, only the index is written.
        edits: The changes.
        progress: Called with how many bytes more were written.

    Raises:
        FormatError: The file or its index is wrong; ``damaged-blob`` when a blob is not what its digest says: a new
            digest would hide it.
        UsageError: ``no-match`` when a pattern or an old name matches nothing; ``duplicate-key``, ``duplicate-name``,
            ``reserved-key``, ``bad-name``, ``key-too-long``, ``needs-index``, ``no-blobs``, ``too-many-blobs``;
            ``packed-file``: it was made by `blobstore.pack`; ``same-file`` for a target that is read; ``replaced`` when
            another writer has replaced the file meanwhile.
        OSError: Reading or writing failed; the target is untouched.
    """
    if target is not None:
        refuse_inputs(files_of(target), files_of(path))
    with BlobReader(path, access="read") as reader:
        index = None if edits.index == "none" else find_index(reader)
        refuse_packed(reader, index)
        manifest = manifest_of(reader, index)
        place = edits.index
        if place is None:
            place = "none" if index is None else "external" if index.external else "embedded"
        if edits.set_metadata or edits.unset_metadata:
            if edits.index == "none":
                raise UsageError("needs-index", "metadata is kept in the index: leave out --index none")
            place = "embedded" if place == "none" else place
        if place != "none" and manifest.entries is None:
            describe(manifest, reader)
        dropped = _drop(manifest, edits.drop)
        renamed = _rename(manifest, edits.rename)
        notes = _change_metadata(manifest, edits, changed=bool(dropped or renamed))
        if edits.config is not None:
            blob = next(one for one in manifest.blobs if one.key == CONFIG_KEY)
            blob.check_digest(hashlib.sha256(reader[CONFIG_KEY]).digest())
            blob.data, blob.sha256 = edits.config, None
        if edits.sort:
            manifest.keep(_sorted(manifest))
        version = edits.version or reader.version
        if target is not None:
            write_content(manifest, target, version=version, index=place, progress=progress)
        elif place == "external" and _only_index_changes(reader, manifest, version):
            write_index(_external_index(reader, manifest), reader)
        else:
            write_content(manifest, path, version=version, index=place, replaced=reader, progress=progress)
        names = len(manifest.entries) if manifest.entries is not None else 0
        written = path if target is None else target
        name = os.fspath(written) if isinstance(written, (str, os.PathLike)) else "-"
        return Rewritten(name, len(manifest.blobs), names, tuple(dropped), renamed, tuple(notes))


def _drop(manifest: Manifest, patterns: tuple[str, ...]) -> list[str]:
    names: set[str] = set()
    keys: set[str] = set()
    for pattern in patterns:
        some_names = {one.name for one in manifest.entries or () if fnmatch.fnmatchcase(one.name, pattern)}
        some_keys = {one.key for one in manifest.blobs if _means(pattern, one.key)}
        if not some_names and not some_keys:
            raise UsageError("no-match", f"no tensor and no blob matches {pattern!r}")
        names |= some_names
        keys |= some_keys
    # A short name is its blob's key as well: where it isn't the runtime's, the name is meant, and others stay.
    if names & keys:
        keys -= names - manifest.toc_keys()
    if patterns:
        _drop_these(manifest, names, keys)
    return sorted(names | keys)


def _means(pattern: str, key: str) -> bool:
    """Whether a pattern means a blob; the runtime's own only by their very key, keys made of names by their ``~``."""
    if key in RESERVED_KEYS:
        return key == pattern
    return fnmatch.fnmatchcase(key, pattern) and pattern.startswith("~") == key.startswith("~")


def _drop_these(manifest: Manifest, names: set[str], keys: set[str]) -> None:
    entries = manifest.entries or []
    had_names = {one.blob for one in entries}
    staying = [one for one in entries if one.name not in names]
    used = {one.blob for one in staying}
    if manifest.entries is not None:
        manifest.entries = staying
    manifest.keep(
        place
        for place, blob in enumerate(manifest.blobs)
        if blob.key not in keys and (place in used or place not in had_names)
    )


def _rename(manifest: Manifest, names: Mapping[str, str]) -> int:
    entries = {one.name: (i, one) for i, one in enumerate(manifest.entries or ())}
    blobs = {one.key: one for one in manifest.blobs}
    keys: dict[str, str | None] = {}
    for old, new in names.items():
        i, entry = entries.get(old, (0, None))
        blob = blobs.get(old)
        key = new
        if entry is not None and manifest.entries is not None:
            manifest.entries[i] = replace(entry, name=new)
            # The blob follows when its key was made of the name: others find it by the new one's.
            blob = manifest.blobs[entry.blob] if entry.blob is not None else None
            key = key_for(new)
            if blob is not None and blob.key != key_for(old):
                continue
        elif blob is None:
            raise UsageError("no-match", f"no tensor and no blob is called {old!r}")
        if blob is not None:
            if {blob.key, key} & (RESERVED_KEYS | OWN_KEYS):
                raise UsageError("reserved-key", f"{old!r} → {new!r}: that key belongs to the runtime or to blobstore")
            keys[blob.key] = key
    for old, key_now in keys.items():
        blobs[old].key = str(key_now)
    if keys:
        manifest.edit_toc(keys)
    return len(names)


def _change_metadata(manifest: Manifest, edits: Edits, *, changed: bool) -> list[str]:
    notes = []
    for key in edits.unset_metadata:
        if key not in manifest.metadata:
            raise UsageError("no-match", f"the metadata has no {key!r}")
        del manifest.metadata[key]
    manifest.metadata |= edits.set_metadata
    if changed and manifest.forget_source():
        what = "what it said of the checkpoint that it was made of is no longer true, and is left out"
        notes.append(f"{what}: export gives tensors as they are stored, verify --against is not possible")
    return notes


def _sorted(manifest: Manifest) -> list[int]:
    names: dict[int, str] = {}
    for one in manifest.entries or ():
        if one.blob is not None:
            names[one.blob] = min(one.name, names.get(one.blob, one.name))

    def order(place: int) -> tuple[bool, bytes]:
        key = manifest.blobs[place].key
        return key in RESERVED_KEYS, names.get(place, key).encode("utf-8", "surrogateescape")

    return sorted(range(len(manifest.blobs)), key=order)


def _only_index_changes(reader: BlobReader, manifest: Manifest, version: int) -> bool:
    """Whether a new file would have the blobs of the old one."""
    if version != reader.version:
        return False
    ranges = [(key, reader.file_range(key)) for key in reader]
    known = not manifest.digests or all(one.sha256 for one in manifest.blobs)
    return known and [(one.key, one.data) for one in manifest.blobs] == ranges


def _external_index(reader: BlobReader, manifest: Manifest) -> bytes:
    """Return the index for beside a file that stays as it is."""
    table = [IndexedBlob(encode_key(one.key), one.nbytes, one.sha256) for one in manifest.blobs]
    return build_index(manifest.entries or [], table, manifest.metadata, store=reader.directory)
