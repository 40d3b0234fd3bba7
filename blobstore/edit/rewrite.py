"""A file rewritten with changes: another version, order, keys, names, metadata; fewer blobs; zeroed padding."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from blobstore.container.keys import CONFIG_KEY, OWN_KEYS, RESERVED_KEYS
from blobstore.container.reader import BlobReader
from blobstore.edit.manifest import describe, external_index, manifest_of, refuse_packed, write_manifest
from blobstore.errors import FormatError, UsageError, without_secrets
from blobstore.fileio.paths import path_text, target_of
from blobstore.gemma.newer import readers_notes
from blobstore.index.inputs import files_of, path_of, refuse_inputs
from blobstore.index.locate import check_place, find_index, lost_index, place_of
from blobstore.index.metadata import FILES, refuse_own
from blobstore.index.names import key_for
from blobstore.index.sidecar import write_index

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from typing import BinaryIO

    from blobstore.edit.manifest import Manifest
    from blobstore.fileio.types import Progress
    from blobstore.index import NameIndex
    from blobstore.index.locate import IndexPlace


@dataclass(frozen=True)
class Edits:
    """The changes to a file.

    Attributes:
        version: Of the container; None keeps it.
        drop: Patterns of names and keys to leave out. A blob goes when none of its names is left, or when its key
            matches and is not a tensor's name, or is listed in the runtime's ``toc``. A file that is carried goes only
            by its exact name.
        rename: Name or key → the new one. A blob whose key was made from the name gets the key of the new name.
        set_metadata: Text → text.
        unset_metadata: Keys of the metadata to remove.
        sort: By name, or by key where there is no index; the runtime's own blobs last.
        index: Where the name index goes, ``none`` leaves it out; None keeps its place.
        config: The bytes of the blob ``config``; None keeps it.
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
class Rewriting:
    """The result of `rewrite`.

    Attributes:
        input: The path of the file, as given.
        output: The path of the new file, as given; None for a stream.
        nbytes: Size of the new file.
        blobs: How many are in it, without the index.
        names: How many are in its index.
        dropped: Names and keys that were left out.
        renamed: How many names and keys are new.
        notes: What a user should know.
        seconds: How long it took.

    Example:
        >>> blobstore.rewrite("model.sbs", "licensed.sbs", set={"license": "mit"}).output
        'licensed.sbs'
    """

    input: str
    output: str | None
    nbytes: int
    blobs: int
    names: int
    dropped: tuple[str, ...] = ()
    renamed: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def rewrite(
    path: str | PathLike[str],
    output: str | PathLike[str] | BinaryIO | None = None,
    *,
    in_place: bool = False,
    container: Literal[1, 2] | None = None,
    drop: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    set: Mapping[str, str] | None = None,  # noqa: A002 (the flag's name)
    unset: str | Sequence[str] = (),
    sort: bool = False,
    index: IndexPlace | None = None,
    progress: Progress = lambda _: None,
) -> Rewriting:
    """Write a file anew with changes: version, names, metadata, fewer blobs, another order, zeroed padding.

    The bytes of blobs are copied, and compared with their SHA-256 if the file has one. The runtime's ``toc`` is
    updated. The output is replaced only by the complete new file, at whatever point this is interrupted.

    Args:
        path: An .sbs file.
        output: Path of the new file; or a URL or a binary stream for version 2.
        in_place: Replace the file itself, instead of an output. If only the metadata of an index beside the file
            changes, only that index is written.
        container: Version of the new file, 1 or 2; by default that of the file.
        drop: Patterns (``*``, ``?``, ``[abc]``) of names and keys to leave out. A blob goes when none of its names is
            left; the runtime's own blobs go only by their exact keys, and files such as ``config.json`` by their
            exact names.
        rename: Name or, if no tensor has that name, key → the new one.
        set: Entries of the metadata, text → text.
        unset: Keys of the metadata to remove.
        sort: Sort blobs by name, or by key where there is no index; the runtime's own blobs are last.
        index: Where the name index goes, ``embedded``, ``external`` or ``none``; by default where it is.
        progress: Called with how many bytes more were written.

    Returns:
        What was done. ``dataclasses.asdict`` of it is what ``blobstore rewrite --json`` prints.

    Raises:
        FormatError: The file or its index is invalid; ``damaged-blob`` when a blob does not match its digest: a new
            digest would hide that.
        UsageError: ``no-output`` without an output, unless ``in_place``; ``two-ways`` with both; ``no-match`` when a
            pattern or an old name matches nothing; ``bad-index``; ``duplicate-key``, ``duplicate-name``, ``bad-name``,
            ``key-too-long``; ``reserved-key``, of blobs and of the metadata; ``needs-index``, ``no-blobs``,
            ``too-many-blobs``; ``packed-file``: it was made by `blobstore.pack`; ``same-file`` for an output that is
            read; ``replaced`` when another writer has replaced the file meanwhile.
        OSError: Reading or writing failed; the output is untouched.

    Example:
        >>> done = blobstore.rewrite("model.sbs", "new.sbs", set={"license": "apache-2.0"}, container=1)
        >>> blobstore.open("new.sbs").metadata["license"]
        'apache-2.0'
        >>> done.dropped, done.renamed
        ((), 0)
    """
    path, output = path_text(path), None if output is None else target_of(output)
    if output is None and not in_place:
        raise UsageError("no-output", "choose where to write, or in_place=True (--in-place) to replace the file")
    if output is not None and in_place:
        raise UsageError("two-ways", "an output and in_place exclude each other: leave out one of them")
    if index is not None:
        check_place(index)
    refuse_own(set or ())
    edits = Edits(
        version=container,
        drop=_texts(drop),
        rename=rename or {},
        set_metadata=set or {},
        unset_metadata=_texts(unset),
        sort=sort,
        index=index,
    )
    return apply_edits(path, output, edits, progress=progress)


def _texts(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return a sequence of texts; a single text is one, not its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def apply_edits(
    path: str | PathLike[str],
    target: str | PathLike[str] | BinaryIO | None,
    edits: Edits,
    *,
    opened: BlobReader | None = None,
    progress: Progress = lambda _: None,
) -> Rewriting:
    """Write a file anew with changes, as `rewrite` does.

    Args:
        path: Of the file.
        target: Path of the new file, or a binary stream. None is the file itself.
        edits: The changes.
        opened: The file, if it is open; with plain reads.
        progress: As for `rewrite`.

    Raises:
        BlobStoreError, OSError: As `rewrite`.
    """
    start = time.perf_counter()
    if target is not None:
        refuse_inputs(files_of(target), files_of(path))
    with nullcontext(opened) if opened else BlobReader(path, access="read") as reader:
        index = _index_of(reader, edits)
        refuse_packed(reader, index)
        place = _new_place(index, edits)
        manifest = manifest_of(reader, index)
        if place != "none" and manifest.entries is None:
            describe(manifest, reader)
        files = manifest.files
        dropped = _drop(manifest, edits.drop)
        if FILES in edits.unset_metadata:
            dropped += _drop_files(manifest)
        renamed = _rename(manifest, edits.rename)
        notes = [] if edits.index == "none" else lost_index(reader)
        notes += _change_metadata(manifest, edits, changed=bool(set(dropped) - set(files) or renamed))
        _change_config(manifest, edits.config, reader)
        if edits.sort:
            manifest.keep(_sorted(manifest))
        if place == "none":
            manifest.entries = None
        version = edits.version or reader.version
        if target is not None:
            nbytes = write_manifest(manifest, target, version=version, index=place, progress=progress)
        elif place == "external" and _only_index_changes(reader, manifest, version):
            write_index(external_index(reader, manifest), reader)
            nbytes = reader.file_size
        else:
            nbytes = write_manifest(manifest, path, version=version, index=place, replaced=reader, progress=progress)
    return Rewriting(
        without_secrets(os.fspath(path)),
        path_of(path if target is None else target),
        nbytes,
        len(manifest.blobs),
        len(manifest.entries or ()),
        tuple(dropped),
        renamed,
        (*notes, *readers_notes(len(manifest.blobs) + (place == "embedded"))),
        time.perf_counter() - start,
    )


def _index_of(reader: BlobReader, edits: Edits) -> NameIndex | None:
    """Return a file's index. It has the digests and the names, also if the new file is to have none."""
    try:
        return find_index(reader)
    except FormatError:
        if edits.index == "none":
            return None
        raise


def _new_place(index: NameIndex | None, edits: Edits) -> IndexPlace:
    """Return where the index goes: metadata needs one."""
    place = place_of(index) if edits.index is None else edits.index
    if place == "none" and (edits.set_metadata or edits.unset_metadata):
        if edits.index == "none":
            raise UsageError("needs-index", "metadata is kept in the index: leave out --index none")
        return "embedded"
    return place


def _drop(manifest: Manifest, patterns: tuple[str, ...]) -> list[str]:
    """Leave out the tensors and blobs that match → their names and keys."""
    names: set[str] = set()
    keys: set[str] = set()
    files = manifest.files
    for pattern in patterns:
        matching_names = {entry.name for entry in manifest.entries or () if fnmatch.fnmatchcase(entry.name, pattern)}
        matching_keys = {blob.key for blob in manifest.blobs if _key_matches(blob.key, pattern)}
        if pattern in files and not matching_names:
            matching_keys.add(files[pattern])
        if not matching_names and not matching_keys:
            raise UsageError("no-match", f"no tensor, no blob and no file matches {pattern!r}")
        names |= matching_names
        keys |= matching_keys
    # A short name is the key of its blob as well: then the name is meant, unless the runtime's toc lists the key, and
    # the blob stays as long as it has other names.
    if names & keys:
        keys -= names - manifest.toc_keys()
    if patterns:
        _drop_these(manifest, names, keys)
    file_names = {key: name for name, key in files.items()}
    return sorted(names | {file_names.get(key, key) for key in keys})


def _drop_files(manifest: Manifest) -> list[str]:
    """Leave out the files that are listed → their names: without the list nothing would tell what these blobs are."""
    names = {key: name for name, key in manifest.files.items()}
    dropped = sorted(names[blob.key] for blob in manifest.blobs if blob.key in names)
    manifest.keep(place for place, blob in enumerate(manifest.blobs) if blob.key not in names)
    return dropped


def _key_matches(key: str, pattern: str) -> bool:
    """Whether a pattern matches a blob's key.

    The keys of the runtime's own blobs match only literally. A key that was made from a name begins with ``~``: only
    patterns that begin so match it.
    """
    if key in RESERVED_KEYS:
        return key == pattern
    return fnmatch.fnmatchcase(key, pattern) and pattern.startswith("~") == key.startswith("~")


def _drop_these(manifest: Manifest, names: set[str], keys: set[str]) -> None:
    entries = manifest.entries or []
    had_names = {entry.blob for entry in entries}
    staying = [entry for entry in entries if entry.name not in names]
    used = {entry.blob for entry in staying}
    if manifest.entries is not None:
        manifest.entries = staying
    manifest.keep(
        place
        for place, blob in enumerate(manifest.blobs)
        if blob.key not in keys and (place in used or place not in had_names)
    )


def _rename(manifest: Manifest, new_names: Mapping[str, str]) -> int:
    """Rename tensors, or blobs by their keys → how many."""
    entries = list(manifest.entries or ())
    places = {entry.name: place for place, entry in enumerate(entries)}
    blobs = {blob.key: blob for blob in manifest.blobs}
    new_keys: dict[str, str] = {}
    reserved = RESERVED_KEYS | OWN_KEYS | {*manifest.files.values()}
    for old, new in new_names.items():
        if old in places:
            entry = entries[places[old]]
            entries[places[old]] = replace(entry, name=new)
            # The blob follows if its key was made from the name: readers find it by the new name's key.
            key, new_key = key_for(old), key_for(new)
            if entry.blob is None or manifest.blobs[entry.blob].key != key:
                continue
        elif old in blobs:
            key, new_key = old, new
        else:
            raise UsageError("no-match", f"no tensor and no blob is called {old!r}")
        if {key, new_key} & reserved:
            raise UsageError("reserved-key", f"{old!r} → {new!r}: that key belongs to the runtime or to blobstore")
        new_keys[key] = new_key
    if manifest.entries is not None:
        manifest.entries = entries
    for key, new_key in new_keys.items():
        blobs[key].key = new_key
    if new_keys:
        manifest.edit_toc(new_keys)
    return len(new_names)


def _change_metadata(manifest: Manifest, edits: Edits, *, changed: bool) -> list[str]:
    """Set and unset metadata → notes. ``changed`` says whether tensors were dropped or renamed."""
    notes = []
    for key in edits.unset_metadata:
        if key not in manifest.metadata:
            raise UsageError("no-match", f"the metadata has no {key!r}")
        del manifest.metadata[key]
    manifest.metadata |= edits.set_metadata
    if changed and manifest.forget_source():
        what = "its notes about the checkpoint that it was made from are no longer true, and are left out"
        notes.append(f"{what}: export gives tensors as they are stored, verify --against is not possible")
    return notes


def _change_config(manifest: Manifest, config: bytes | None, reader: BlobReader) -> None:
    if config is None:
        return
    blob = manifest.find(CONFIG_KEY)
    if blob is None:
        raise UsageError("no-match", f"{reader.path!r} has no {CONFIG_KEY!r} to replace")
    blob.check_digest(hashlib.sha256(reader[CONFIG_KEY]).digest())
    blob.data, blob.sha256 = config, None


def _sorted(manifest: Manifest) -> list[int]:
    """Return the places of the blobs in the order of their first names."""
    names: dict[int, str] = {}
    for entry in manifest.entries or ():
        if entry.blob is not None:
            names[entry.blob] = min(entry.name, names.get(entry.blob, entry.name))

    def order(place: int) -> tuple[bool, bytes]:
        key = manifest.blobs[place].key
        return key in RESERVED_KEYS, names.get(place, key).encode("utf-8", "surrogateescape")

    return sorted(range(len(manifest.blobs)), key=order)


def _only_index_changes(reader: BlobReader, manifest: Manifest, version: int) -> bool:
    """Whether a new file would have the blobs of the old one."""
    if version != reader.version:
        return False
    ranges = [(key, reader.file_range(key)) for key in reader]
    digests_known = not manifest.digests or all(blob.sha256 for blob in manifest.blobs)
    return digests_known and [(blob.key, blob.data) for blob in manifest.blobs] == ranges
