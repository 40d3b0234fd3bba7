"""How every writer completes a file: with an index inside it, with one beside it, or without one.

Two files can't be replaced at once. So the file and its external index are complete and durable before the first of
them gets its name. A reader that comes between the two renames, or after a crash there, finds a stale index and says
so: it never finds an index that describes another file, nor a file without its names.

A link to a file is followed, and the index is put beside the file itself. A link in the index's place is replaced, not
followed: it may lead to another file's index.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from blobstore.container.keys import INDEX_KEY
from blobstore.container.reader import BlobReader
from blobstore.errors import FormatError, UsageError, without_secrets
from blobstore.fileio import system
from blobstore.fileio.atomic import AtomicFile, write_file
from blobstore.fileio.locking import turn_at
from blobstore.fileio.places import exists
from blobstore.fileio.source import read_beginning
from blobstore.fileio.together import move_together
from blobstore.fileio.urls import is_url
from blobstore.index.build import unbind_index
from blobstore.index.inputs import refuse_inputs
from blobstore.index.locate import beside, external_path, read_external
from blobstore.index.records import MAGIC as INDEX_MAGIC
from blobstore.index.sets import refuse_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

    from blobstore.container.directory import Directory
    from blobstore.container.writer import ContainerWriter
    from blobstore.fileio.types import Writable
    from blobstore.fileio.uploads import Upload
    from blobstore.index.locate import IndexPlace

    MakeIndex = Callable[[Directory | None], bytes]  # given the store that an external index is bound to, its bytes


def refuse_target(target: Writable, place: IndexPlace) -> None:
    """Refuse an external index for a store that is written to a stream, or elsewhere; and to replace a set's index.

    Raises:
        UsageError: ``needs-path``; ``set-not-file``.
    """
    if isinstance(target, (str, os.PathLike)):
        refuse_set(target, "choose another output, or remove it and its files: one file would leave them behind")
    if place == "external" and is_url(target):
        what = "a store and an index beside it appear at once, which two objects elsewhere can't"
        raise UsageError("needs-path", f"{what}: put the index into the store, --index embedded")
    if place == "external" and not isinstance(target, (str, bytes, os.PathLike)):
        raise UsageError("needs-path", "an external index is a file beside its store, a stream has none: name a path")


def close_with_index(
    writer: ContainerWriter, place: IndexPlace, make_index: MakeIndex, *, replaced: BlobReader | None = None
) -> None:
    """Complete a store, at its path or in its stream, with its name index.

    Args:
        writer: Has written all blobs but the index.
        place: Where the index goes; not ``external`` in a stream.
        make_index: Returns the index: of the store that it is given, or the embedded one for None.
        replaced: The file that was edited; it must still be the one at the path.

    Raises:
        UsageError: ``no-blobs``, ``incomplete``, ``too-many-blobs``: as `ContainerWriter`; as `complete_file`.
        OSError: As `complete_file`.
    """
    if writer.broken:
        writer.prepare()  # which says so
    if place == "external" and not writer.keys:
        raise UsageError("no-blobs", "a container has at least one blob, and an external index is not in it")
    if place == "embedded":
        writer.add(INDEX_KEY, make_index(None))
    if writer.target is None:
        writer.close()
        return
    raw = make_index(writer.directory()) if place == "external" else b""
    complete_file(writer, writer.target, place, writer.directory, raw, replaced=replaced)


def complete_file(
    file: ContainerWriter | AtomicFile | Upload,
    path: str | PathLike[str],
    place: IndexPlace,
    directory: Callable[[], Directory],
    raw: bytes = b"",
    *,
    replaced: BlobReader | None = None,
) -> None:
    """Give a file its name. Afterwards an external index is beside it if it has one, and none otherwise.

    Args:
        file: Has everything in it, also an embedded index.
        path: Of the file.
        place: Where its index is.
        directory: Returns the directory of the file.
        raw: The external index, bound to the file.
        replaced: The file that was edited; it must still be the one at the path.

    Raises:
        UsageError: ``same-file`` when the external index would replace the file itself; ``replaced`` when another
            writer came first.
        OSError: Writing failed. The file and the index beside it are as they were; or the index is stale, or is
            beside a file that has one inside; or the file is the new one, and the message says where its index is.
    """
    refuse_target(path, place)
    if is_url(path):
        _complete_elsewhere(file, os.fspath(path), place, replaced)
        return
    if place == "external":
        _complete_with_external(file, path, directory(), raw, replaced)
        return
    file.prepare()
    with _turn_at(path, replaced):
        if place == "embedded":
            file.move()
            for index_path in beside(path):
                remove_index(index_path)
        else:
            _move_without_index(file, path, directory)


def _complete_elsewhere(
    file: ContainerWriter | AtomicFile | Upload, path: str, place: IndexPlace, replaced: BlobReader | None
) -> None:
    """Let a file appear at a URL, where nothing can be locked, and no other object changed at the same moment."""
    old = external_path(path)
    if place == "none" and exists(old):
        what = f"{without_secrets(old)!r} would give names to other data: remove it first, or choose another output"
        raise UsageError("index-beside", what)
    file.prepare()
    _refuse_replaced(path, replaced)
    file.move()


def _complete_with_external(
    file: ContainerWriter | AtomicFile | Upload,
    path: str | PathLike[str],
    directory: Directory,
    raw: bytes,
    replaced: BlobReader | None,
) -> None:
    index_path = external_path(path)
    refuse_inputs([index_path], [path])
    with AtomicFile(index_path, like=path, follow=False) as index_file:
        index_file.write(memoryview(raw))
        file.prepare()
        index_file.prepare()
        with _turn_at(path, replaced):
            with ExitStack() as stack:
                for place in _other_places(path):
                    stack.enter_context(_stale(place, directory, file))
                if _has_index_inside(path):
                    # As long as it is there, readers don't look beside the file: the new index can come first.
                    index_file.move()
                    file.move()
                else:
                    stack.enter_context(_stale(index_path, directory, file))
                    if not os.path.isfile(index_path):
                        write_file(index_path, unbind_index(raw), like=path, follow=False)
                    move_together(file, index_file)
            for place in _other_places(path):
                remove_index(place)


def _move_without_index(
    file: ContainerWriter | AtomicFile | Upload, path: str | PathLike[str], directory: Callable[[], Directory]
) -> None:
    with ExitStack() as stack:
        for place in beside(path):
            if os.path.isfile(place):
                stack.enter_context(_stale(place, directory(), file))
        file.move()
    for place in beside(path):
        remove_index(place)


def _other_places(path: str | PathLike[str]) -> list[str]:
    """Return where an index is looked for before the one beside the file: beside a link to it."""
    return [place for place in beside(path) if place != external_path(path)]


def write_index(raw: bytes, reader: BlobReader) -> None:
    """Write an index beside a file that stays as it is.

    Args:
        raw: The index, bound to the file.
        reader: The file, open.

    Raises:
        UsageError: ``same-file``, ``replaced``: as `complete_file`.
        OSError: Writing failed; the index is as it was.
    """
    refuse_target(reader.path, "external")
    index_path = external_path(reader.path)
    refuse_inputs([index_path], [reader.path])
    with AtomicFile(index_path, like=reader.path, follow=False) as index_file:
        index_file.write(memoryview(raw))
        index_file.prepare()
        with _turn_at(reader.path, reader):
            index_file.move()
            for place in _other_places(reader.path):
                remove_index(place)


@contextmanager
def _turn_at(path: str | PathLike[str], replaced: BlobReader | None) -> Iterator[None]:
    """Wait for our turn to replace a file. It must be the one that was read."""
    with turn_at(path):
        _refuse_replaced(path, replaced)
        if replaced is not None and system.OPEN_FILES_STAY:
            replaced.close()  # all that is needed of it was read
        yield


def _refuse_replaced(path: str | PathLike[str], replaced: BlobReader | None) -> None:
    """Refuse to replace another file than the one that was read."""
    if replaced is not None and not replaced.is_at(path):
        what = f"{os.fspath(path)!r} was replaced by another writer meanwhile: run this again"
        raise UsageError("replaced", what)


def remove_index(path: str) -> None:
    """Remove an index that no longer belongs to any file; a file of that name that isn't an index stays."""
    with suppress(FileNotFoundError):  # another one may have removed it
        if os.path.isfile(path) and read_beginning(path, len(INDEX_MAGIC)) == INDEX_MAGIC:
            os.unlink(path)


@contextmanager
def _stale(path: str, directory: Directory, file: ContainerWriter | AtomicFile | Upload) -> Iterator[None]:
    """Make an old index stale before a file takes its new place; leave all as it was if the file fails to.

    The old index may fit the new file as well: its tensors may be different ones in blobs of the same sizes.
    """
    is_there = os.path.lexists(path)
    link = os.readlink(path) if os.path.islink(path) else None
    old = _unbind(path, directory) if os.path.isfile(path) else None
    try:
        yield
    except BaseException:
        if not file.committed:
            with suppress(OSError):
                if not is_there:
                    remove_index(path)
                elif old is not None and link is not None:
                    os.unlink(path)
                    os.symlink(link, path)
                elif old is not None:
                    write_file(path, old, follow=False)
        raise


def _unbind(path: str, directory: Directory) -> memoryview | None:
    """Make an old index stale if it fits a new file → its bytes before; None if it didn't fit."""
    try:
        index = read_external(path, directory)
    except FormatError:
        return None
    write_file(path, unbind_index(index.raw), follow=False)
    return index.raw


def _has_index_inside(path: str | PathLike[str]) -> bool:
    try:
        with BlobReader(path, access="read") as reader:
            return INDEX_KEY in reader
    except (FormatError, UsageError, FileNotFoundError, PermissionError):
        return False
