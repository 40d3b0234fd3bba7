"""The files of a set, and the index that makes a set of them, which is written last."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from blobstore.container.layout import MAX_BLOBS
from blobstore.container.reader import BlobReader
from blobstore.errors import FormatError, UsageError, in_file
from blobstore.fileio.locking import turn_at
from blobstore.fileio.places import absolute, exists, folder_of, join, name_in, remove
from blobstore.fileio.uploads import new_file
from blobstore.fileio.urls import is_url
from blobstore.fileio.work import do_here, results
from blobstore.index.joining import JoinedStore, build_set_index
from blobstore.index.locate import find_index
from blobstore.index.sets import SetReader, refuse_set
from blobstore.index.stores import store_name_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from blobstore.fileio.types import Progress
    from blobstore.fileio.work import Engine

Made = TypeVar("Made")

_NUMBERS = 5  # digits, as checkpoints have them
_FEW = 5


def store_paths(path: str, count: int) -> list[str]:
    """Return where the files of a set are: ``model-00001-of-00008.sbs`` and so on for ``model.sbs``.

    Raises:
        UsageError: ``bad-store-name``: the path makes a name that not every system has.
    """
    folder, name = folder_of(path), name_in(path)
    stem, suffix = os.path.splitext(name)
    names = [f"{stem}-{number:0{_NUMBERS}}-of-{count:0{_NUMBERS}}{suffix or '.sbs'}" for number in range(1, count + 1)]
    fault = store_name_fault(names[-1])
    if fault:
        raise UsageError("bad-store-name", f"{names[-1]!r}, a file of the set, {fault}: choose another name")
    return [join(folder, name) for name in names]


def told_missing(paths: Sequence[str]) -> tuple[str, ...]:
    """Say which files of a set are not among those given, if their names say how many there are."""
    named = [re.search(r"-(\d+)-of-(\d+)\.[^.]+$", name_in(path)) for path in paths]
    given = {int(match[1]) for match in named if match}
    counts = {int(match[2]) for match in named if match}
    if None in named or len(counts) != 1 or max(counts) > MAX_BLOBS:
        return ()
    missing = [str(number) for number in range(1, max(counts) + 1) if number not in given]
    if not missing:
        return ()
    few = ", ".join(missing[:_FEW]) + ", …" * (len(missing) > _FEW)
    return (f"the names of the files say that there are {max(counts)}: without number {few} the set lacks tensors",)


def refuse_existing(path: str, paths: Sequence[str]) -> None:
    """Refuse to write the files of a set where there are some: a set that points to them would be lost.

    Raises:
        UsageError: ``set-exists``.
    """
    existing = [one for one in paths if exists(one)]
    if existing:
        more = f" and other files of the set ({len(existing) - 1}) exist" if existing[1:] else " exists"
        what = f"{existing[0]!r}{more}: files of a set are not overwritten, as the set would be lost before"
        raise UsageError("set-exists", f"{what} {path!r} is complete: remove them all, or choose another output")


@contextmanager
def alone_at(path: str) -> Iterator[None]:
    """Wait until no other process or thread writes the files of a set here, and keep others out; not so elsewhere.

    Raises:
        OSError: The folder can't be written to.
    """
    with ExitStack() as stack:
        if not is_url(path):
            try:
                stack.enter_context(turn_at(f"{path}.files"))
            except OSError as error:
                error.filename = path
                raise
        yield


def write_set_index(path: str, paths: Sequence[str], metadata: Mapping[str, str] | None = None) -> int:
    """Write the index of a set of complete files, which are in its folder → its size in bytes.

    Args:
        path: Of the index; replaced only by a complete one.
        paths: Of the files, in the order of the set. Each has an index inside, which is checked.
        metadata: Of the set; by default that of the first file.

    Raises:
        FormatError: A file, or its index, is wrong.
        UsageError: ``no-index``; ``other-folder``; ``set-not-file``; as `build_set_index`.
        OSError: A file can't be read, or the index not be written.
    """
    with new_file(path) as file:
        stores = [_joined(store, path) for store in paths]
        if metadata is None:
            metadata = stores[0].index.metadata if stores else {}
        raw = build_set_index(stores, metadata)
        file.write(memoryview(raw))
    return len(raw)


def _joined(store: str, path: str) -> JoinedStore:
    """Open a file that becomes one of a set, and check it."""
    if folder_of(absolute(store)) != folder_of(absolute(path)):
        raise UsageError("other-folder", f"{store!r} is not in the folder of {path!r}, where the set's files are")
    refuse_set(store, "a set of sets is none: name its files")
    with BlobReader(store, access="read") as reader:
        index = find_index(reader)
        if index is None or index.external:
            what = "has no index inside, as the files of a set have: blobstore index build --embed, or index attach"
            raise UsageError("no-index", f"{store!r} {what}")
        with in_file(store):
            _check_listed(reader, index.places(reader.directory).tolist())
        return JoinedStore(name_in(store), reader.directory, index)


def _check_listed(reader: BlobReader, places: Sequence[int]) -> None:
    if list(places) != list(range(len(reader) - 1)):
        what = "its index doesn't list all of its blobs in their order: blobstore rewrite FILE -o OUT writes it anew"
        raise FormatError("set-store", what)


@dataclass(frozen=True, repr=False)  # a URL may have secrets
class EachFile(Generic[Made]):
    """Makes a file of each file of a set.

    Attributes:
        make: Given the path of a file, that of the new one to write, and what takes its progress.
        sources: The files of the set.
        targets: The new ones.
    """

    make: Callable[[str, str, Progress], Made]
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def open(self) -> AbstractContextManager[None]:
        """Open nothing."""
        return nullcontext()

    def do(self, opened: None, number: int, progress: Progress) -> Made:  # noqa: ARG002 (a `Work`)
        """Make one of the files."""
        return self.make(self.sources[number], self.targets[number], progress)


def make_each(
    path: str,
    output: str,
    make: Callable[[str, str, Progress], Made],
    *,
    metadata_of: Callable[[dict[str, str], list[Made]], dict[str, str]] = lambda metadata, _: metadata,
    engine: Engine = do_here,
    progress: Progress = lambda _: None,
) -> list[Made]:
    """Make a set of each file of another → what each call returned.

    Args:
        path: Of the set that is read.
        output: Of the index of the new set.
        make: As for `EachFile`.
        metadata_of: Makes the metadata of the new set from that of the old one, and from what each call returned; by
            default it is the same.
        engine: Makes the files.
        progress: What `make` is given.

    Raises:
        FormatError: ``set-…``: a file of the set that is read is missing, or another one.
        UsageError: ``set-exists``, ``bad-store-name``; whatever `make` raises. Then nothing is left of the new set.
    """
    with SetReader(path, access="read") as reader:
        sources, metadata = reader.paths, reader.index.metadata
        for number in range(len(sources)):
            fault = reader.fault_of(number)
            if fault:
                raise fault
    targets = store_paths(output, len(sources))
    with alone_at(output):
        refuse_existing(output, [output, *targets])
        try:
            done = results(engine, EachFile(make, sources, tuple(targets)), range(len(targets)), progress)
            write_set_index(output, targets, metadata_of(metadata, done))
        except BaseException:
            for target in targets:
                with suppress(FileNotFoundError):
                    remove(target)
            raise
    return done
