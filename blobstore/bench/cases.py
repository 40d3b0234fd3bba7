"""The cases to measure, and blobstore's own format. A case is the same for every format: a few operations of it."""

from __future__ import annotations

import mmap
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import blobstore
from blobstore.bench import page_cache
from blobstore.errors import UsageError
from blobstore.fileio.ranges import flat_bytes
from blobstore.store.info import outermost
from blobstore.store.reader import Store
from blobstore.store.values import elements, stored_infos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from blobstore.fileio.types import Access, Array
    from blobstore.store.info import TensorInfo
    from blobstore.store.vocabulary import By

    Entry = tuple[str, str, tuple[int, ...]]  # name, type, shape

_LOOKED_UP = 1000


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        key: Short, stable.
        title: For people.
        what: Everything that is timed.
        everything: Whether it covers every byte of the tensors, so that bytes per second are meaningful.
    """

    key: str
    title: str
    what: str
    everything: bool = False


_MAP = "open, and touch one byte of each page of every mapped tensor"
CASES = {
    case.key: case
    for case in (
        Case("open", "open", "open the file, including its checks"),
        Case("list", "list", "open, list name, type and shape of every tensor"),
        Case("lookup", "look up", f"open, look up type and shape of {_LOOKED_UP} names (or all)"),
        Case("first", "first tensor", "open, touch one byte of each page of one tensor of middle size"),
        Case("map", "map and touch", _MAP, everything=True),
        Case("read", "read everything", "open, bring every tensor into private memory", everything=True),
    )
}


@dataclass(frozen=True)
class Wanted:
    """The tensors to measure.

    Attributes:
        names: All names.
        looked_up: The names to look up.
        first: The name of the tensor that "first tensor" uses.
        nbytes: Size of all tensors.
        whole: Whether an .sbs file has no others, all of them in numpy's types, so that `Store.load_all` returns
            exactly these.
        by: The vocabulary of an .sbs file that has these names.
    """

    names: Sequence[str]
    looked_up: Sequence[str]
    first: str
    nbytes: int
    whole: bool = True
    by: By = "names"


class Format(ABC):
    """A file format: how its library writes, opens and reads.

    Attributes:
        name: For people and the command line.
        cases: Keys of the cases that it can do.
        mapped: Whether `view` returns a view into the mapped file; otherwise it is a copy.
    """

    name: str
    cases: tuple[str, ...] = tuple(CASES)
    mapped: bool = True

    @abstractmethod
    def write(self, path: str, tensors: Iterable[tuple[str, Array]]) -> None:
        """Write a file."""

    @abstractmethod
    def open(self, path: str) -> Any:  # noqa: ANN401 (each library's own)
        """Open it."""

    @abstractmethod
    def entries(self, opened: Any) -> list[Entry]:  # noqa: ANN401 (as above)
        """Return each tensor's entry."""

    def names(self, opened: Any) -> list[str]:  # noqa: ANN401 (as above)
        """Return all names."""
        return [name for name, _, _ in self.entries(opened)]

    @abstractmethod
    def entry(self, opened: Any, name: str) -> Entry:  # noqa: ANN401 (as above)
        """Return one tensor's entry, without its values."""

    @abstractmethod
    def view(self, opened: Any, name: str) -> Array:  # noqa: ANN401 (as above)
        """Return a tensor as cheaply as the library can."""

    def item(self, opened: Any, name: str) -> Array:  # noqa: ANN401 (as above)
        """Return a tensor as a program asks for it: ``store[name]``."""
        return self.view(opened, name)

    def load(self, opened: Any, name: str) -> Array:  # noqa: ANN401 (as above)
        """Return a tensor in private memory."""
        view = self.view(opened, name)
        return np.array(view) if self.mapped else view

    def load_all(self, opened: Any, wanted: Wanted) -> object:  # noqa: ANN401 (as above)
        """Return all tensors in private memory, with the library's way to load all at once."""
        return [self.load(opened, name) for name in wanted.names]

    def save(self, path: str, tensors: Mapping[str, Array]) -> None:
        """Write tensors from memory, with the library's way to do that."""
        self.write(path, tensors.items())


class Ours(Format):
    """An .sbs file by `blobstore.open`."""

    name = "blobstore"
    access: Access = "mmap"

    def __init__(self, **options: bool) -> None:
        """Take options of `blobstore.save_file` for `save`."""
        self.options: dict[str, Any] = options

    def unsynced(self) -> Ours:
        """Return the format that doesn't wait for the disk when it saves."""
        return type(self)(**self.options, durable=False)

    def save(self, path: str, tensors: Mapping[str, Array]) -> None:
        """Write tensors from memory."""
        blobstore.save_file(tensors, path, **self.options)

    def write(self, path: str, tensors: Iterable[tuple[str, Array]]) -> None:
        """Write a file."""
        blobstore.save_file(dict(tensors), path)

    def open(self, path: str, by: By = "names") -> Store:
        """Open it."""
        return Store(path, access=self.access, by=by)

    def entries(self, opened: Store) -> list[Entry]:
        """Return each tensor's entry."""
        return [_entry(info) for info in opened.infos()]

    def names(self, opened: Store) -> list[str]:
        """Return all names."""
        return list(opened)

    def entry(self, opened: Store, name: str) -> Entry:
        """Return one tensor's entry."""
        return _entry(opened.info(name))

    def view(self, opened: Store, name: str) -> Array:
        """Return a tensor without copying it."""
        return stored(opened, opened.info(name))

    def item(self, opened: Store, name: str) -> Array:
        """Return a tensor as a program asks for it; encoded ones are decoded, unlike by `view`."""
        return opened[name]

    def load_all(self, opened: Store, wanted: Wanted) -> object:
        """Return all tensors in private memory: by `Store.load_all` if it returns exactly these, not decoded."""
        return opened.load_all() if wanted.whole else super().load_all(opened, wanted)


class OursByReads(Ours):
    """The same without mapping: ``access="read"`` returns private memory."""

    name = "blobstore, plain reads"
    cases: tuple[str, ...] = ("read",)
    access: Access = "read"
    mapped = False


class OursUndigested(Ours):
    """The same without the SHA-256 of each tensor, which no other format has. It only saves."""

    name = "blobstore, no digests"
    cases: tuple[str, ...] = ()

    def __init__(self, **options: bool) -> None:
        """Take further options."""
        super().__init__(**{"digests": False, **options})


def _entry(info: TensorInfo) -> Entry:
    return info.name, info.type.name, info.shape


def stored(store: Store, info: TensorInfo) -> Array:
    """Return a tensor's values if numpy has their type; else the stored bytes, not decoded."""
    if _is_encoded(info):
        return np.frombuffer(store.reader.view(info.offset, info.nbytes), np.uint8)
    return elements(store, info, 0, info.size).reshape(info.shape)


def _is_encoded(info: TensorInfo) -> bool:
    return info.encoded or info.dtype is None


def touch(array: Array) -> int:
    """Read one byte of each page of an array."""
    data = np.frombuffer(flat_bytes(array), np.uint8)
    return max(int(data[:: mmap.PAGESIZE].max()), int(data[-1])) if len(data) else 0


def work(file_format: Format, case: str, path: str, wanted: Wanted) -> Callable[[], object]:
    """Return the function to time. It returns everything that it opened and read, to be held while memory is measured.

    Args:
        file_format: The format.
        case: Key of one of `CASES`; or one that only the project's own benchmarks measure: ``names`` (all names,
            without types), ``views`` (an array of every tensor, not touched), ``one`` (as "first tensor", but as a
            program asks for it), ``walk`` (every tensor by name, one after the other, none kept), or of `PREPARED`.
        path: The format's file; for `PREPARED` see there.
        wanted: The tensors.
    """
    if case in PREPARED:
        return PREPARED[case](file_format, path, wanted)

    def run() -> object:
        opened = file_format.open(path, wanted.by) if isinstance(file_format, Ours) else file_format.open(path)
        return opened, steps[case](opened)

    steps: dict[str, Callable[[Any], object]] = {
        "open": lambda _: None,
        "list": file_format.entries,
        "lookup": lambda opened: [file_format.entry(opened, name) for name in wanted.looked_up],
        "first": lambda opened: touch(file_format.view(opened, wanted.first)),
        "map": lambda opened: [touch(file_format.view(opened, name)) for name in wanted.names],
        "read": lambda opened: file_format.load_all(opened, wanted),
        "names": file_format.names,
        "views": lambda opened: [file_format.view(opened, name) for name in wanted.names],
        "one": lambda opened: touch(file_format.item(opened, wanted.first)),
        "walk": lambda opened: _walk(file_format, opened, file_format.names(opened)),
    }
    return run


def _walk(file_format: Format, opened: Any, names: Iterable[str]) -> None:  # noqa: ANN401 (each library's own)
    for name in names:
        file_format.item(opened, name)


def written(path: str) -> str:
    """Return the path that ``write`` writes a file's tensors to; anything there is removed first."""
    return f"{path}.written"


def _saving(file_format: Format, path: str, _: Wanted, way: str) -> Callable[[], object]:
    """Load all tensors; return a function that saves them.

    Args:
        file_format: The format.
        path: An .sbs file of plain tensors, all of which are written to `written`.
        way: ``synced`` waits for the disk, ``unsynced`` doesn't, ``default`` is what the library does by itself.
    """
    tensors, path_written = blobstore.load_file(path), written(path)
    page_cache.remove(path_written)
    if way == "unsynced" and isinstance(file_format, Ours):
        file_format = file_format.unsynced()

    def run() -> object:
        file_format.save(path_written, tensors)
        if way == "synced":
            page_cache.prepare(path_written)
        return tensors

    return run


def _again(file_format: Format, path: str, _: Wanted) -> Callable[[], object]:
    """Walk a file; return a function that walks it a second time."""
    opened = file_format.open(path)
    names = file_format.names(opened)
    _walk(file_format, opened, names)
    return lambda: _walk(file_format, opened, names)


def _into(_: Format, path: str, wanted: Wanted) -> Callable[[], object]:
    """Make an array of every tensor; return a function that opens an .sbs file and reads into them."""
    with blobstore.open(path) as store:
        arrays = {name: np.ones_like(store[name]) for name in wanted.names}  # ones: zeros have no memory yet

    def run() -> object:
        opened = blobstore.open(path)
        for name, array in arrays.items():
            opened.load(name, out=array)
        return opened, arrays

    return run


def _convert(_: Format, path: str, __: Wanted) -> Callable[[], object]:
    """Return a function that converts a safetensors file by name, to `written`."""
    page_cache.remove(written(path))
    return lambda: blobstore.convert(path, written(path), as_="names", files=False)


# Cases that have something to prepare, which isn't timed.
PREPARED: dict[str, Callable[[Format, str, Wanted], Callable[[], object]]] = {
    "write": partial(_saving, way="synced"),
    "write-unsynced": partial(_saving, way="unsynced"),
    "write-default": partial(_saving, way="default"),
    "again": _again,
    "into": _into,
    "convert": _convert,
}


def open_by_blobs(path: str) -> Store:
    """Open a file in the vocabulary in which each tensor is one run of a blob: a converted Gemma file by its keys."""
    store = Store(path)
    if all(info.name in store for info in outermost(stored_infos(store))):
        return store
    store.close()
    return Store(path, by="keys")


def choose(store: Store, limit: int | None = None) -> list[TensorInfo]:
    """Return the tensors to measure: all that have bytes, in the file's order; aliases once.

    Args:
        store: As `open_by_blobs` opens it.
        limit: Bytes to measure at most: tensors that don't fit into the rest are skipped.

    Raises:
        UsageError: ``no-tensors``.
    """
    infos = list(outermost(store.infos()))
    if not infos:
        raise UsageError("no-tensors", "the file has no tensors with values, so there is nothing to measure")
    return infos if limit is None else list(_fitting(infos, limit)) or [min(infos, key=lambda info: info.nbytes)]


def _fitting(infos: Iterable[TensorInfo], left: int) -> Iterator[TensorInfo]:
    for info in infos:
        if info.nbytes <= left:
            left -= info.nbytes
            yield info


def wanted_of(infos: Sequence[TensorInfo], store: Store) -> Wanted:
    """Return these tensors as what to measure; the same in every run."""
    all_infos = list(store.infos())
    places = {info.place for info in all_infos if info.nbytes}
    whole = len(infos) >= len(places) and not any(_is_encoded(info) for info in all_infos)
    names = [info.name for info in infos]
    middle = sorted(infos, key=lambda info: (info.nbytes, info.offset))[len(infos) // 2]
    return Wanted(names, some_of(names), middle.name, sum(info.nbytes for info in infos), whole, store.by)


def some_of(names: Sequence[str]) -> list[str]:
    """Return names to look up, in no order; the same in every run."""
    return random.Random(0).sample(names, min(len(names), _LOOKED_UP))  # noqa: S311 (not a secret)
