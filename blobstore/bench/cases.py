"""What is measured of a format, and ours. A case is the same for every format: made of the few things a format does."""

from __future__ import annotations

import mmap
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import blobstore
from blobstore.bench import page_cache
from blobstore.errors import UsageError
from blobstore.fileio.ranges import flat_bytes
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from blobstore.fileio.types import Access, Array
    from blobstore.store.info import TensorInfo

    Entry = tuple[str, str, tuple[int, ...]]  # name, type, shape

_LOOKED_UP = 1000


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        key: Short, stable.
        title: For people.
        what: All that is timed.
        everything: Whether it takes every byte of the tensors, so that bytes per second say something.
    """

    key: str
    title: str
    what: str
    everything: bool = False


_MAP = "open, and touch one byte of each page of every tensor where it is mapped"
CASES = {
    one.key: one
    for one in (
        Case("open", "open", "open the file, and check what is checked then"),
        Case("list", "list", "open, list name, type and shape of every tensor"),
        Case("lookup", "look up", f"open, ask {_LOOKED_UP} names (or all) for type and shape"),
        Case("first", "first tensor", "open, touch one byte of each page of one tensor, of middle size"),
        Case("map", "map and touch", _MAP, everything=True),
        Case("read", "read everything", "open, bring every tensor into memory of its own", everything=True),
    )
}


# What the project's own benchmarks (benchmarks/) measure beside these: names without types, views without touching
# them, writing. `work` knows them all.
FURTHER = {
    one.key: one
    for one in (
        Case("names", "names", "open, list all names"),
        Case("views", "all usable", "open, make an array of every tensor where it is mapped", everything=True),
        Case("write", "write", "write every tensor from memory, until it is on the disk", everything=True),
    )
}


@dataclass(frozen=True)
class Wanted:
    """The tensors that a measurement is about.

    Attributes:
        names: All of them.
        some: Those that are looked up.
        one: The one that is used first.
        nbytes: Of all of them.
        whole: Whether an .sbs file has no others, and all as numpy has them: so that `Store.load_all` gives these.
    """

    names: Sequence[str]
    some: Sequence[str]
    one: str
    nbytes: int
    whole: bool = True


class Format(ABC):
    """A file format: how its library writes, opens and reads.

    Attributes:
        name: For people and the command line.
        cases: Keys of what it can do.
        mapped: Whether `view` is a view into the mapped file; else it is a copy.
    """

    name: str
    cases: tuple[str, ...] = tuple(CASES)
    mapped: bool = True

    @abstractmethod
    def write(self, path: str, tensors: Iterable[tuple[str, Array]]) -> None:
        """Write a file."""

    @abstractmethod
    def open(self, path: str) -> Any:  # noqa: ANN401 (what each library has)
        """Open it."""

    @abstractmethod
    def entries(self, opened: Any) -> list[Entry]:  # noqa: ANN401 (as above)
        """Return what is known of each tensor."""

    def names(self, opened: Any) -> list[str]:  # noqa: ANN401 (as above)
        """Return all names."""
        return [name for name, _, _ in self.entries(opened)]

    @abstractmethod
    def entry(self, opened: Any, name: str) -> Entry:  # noqa: ANN401 (as above)
        """Return what is known of one, without its values."""

    @abstractmethod
    def view(self, opened: Any, name: str) -> Array:  # noqa: ANN401 (as above)
        """Return a tensor as cheaply as the library can."""

    def load(self, opened: Any, name: str) -> Array:  # noqa: ANN401 (as above)
        """Return a tensor in memory of its own."""
        view = self.view(opened, name)
        return np.array(view) if self.mapped else view

    def load_all(self, opened: Any, wanted: Wanted) -> object:  # noqa: ANN401 (as above)
        """Return all tensors in memory of their own, in the way that the library has for all at once."""
        return [self.load(opened, name) for name in wanted.names]

    def save(self, path: str, tensors: Mapping[str, Array]) -> None:
        """Write tensors that are in memory, in the way that the library has for that."""
        self.write(path, tensors.items())


class Ours(Format):
    """An .sbs file by `blobstore.open`."""

    name = "blobstore"
    access: Access = "mmap"

    def write(self, path: str, tensors: Iterable[tuple[str, Array]]) -> None:
        """Write a file."""
        blobstore.save_file(dict(tensors), path)

    def open(self, path: str) -> Store:
        """Open it."""
        return Store(path, access=self.access)

    def entries(self, opened: Store) -> list[Entry]:
        """Return what is known of each tensor."""
        return [_entry(one) for one in opened.infos()]

    def names(self, opened: Store) -> list[str]:
        """Return all names."""
        return list(opened)

    def entry(self, opened: Store, name: str) -> Entry:
        """Return what is known of one."""
        return _entry(opened.info(name))

    def view(self, opened: Store, name: str) -> Array:
        """Return a tensor where it lies."""
        return stored(opened, opened.info(name))

    def load_all(self, opened: Store, wanted: Wanted) -> object:
        """Return all tensors in memory of their own: by `Store.load_all` where it returns these, not decoded."""
        return opened.load_all() if wanted.whole else super().load_all(opened, wanted)


class OursByReads(Ours):
    """The same without a map: what ``access="read"`` returns is in memory of its own."""

    name = "blobstore, plain reads"
    cases = ("read",)
    access: Access = "read"
    mapped = False


def _entry(info: TensorInfo) -> Entry:
    return info.name, info.type.name, info.shape


def stored(store: Store, info: TensorInfo) -> Array:
    """Return a tensor's values where numpy has their type; the stored bytes of one that would have to be decoded."""
    if _is_encoded(info):
        return np.frombuffer(store.reader.view(info.offset, info.nbytes), np.uint8)
    return store.array(info)


def _is_encoded(info: TensorInfo) -> bool:
    return info.encoded or info.dtype is None


def touch(array: Array) -> int:
    """Use one byte of each page of an array."""
    data = np.frombuffer(flat_bytes(array), np.uint8)
    return max(int(data[:: mmap.PAGESIZE].max()), int(data[-1])) if len(data) else 0


def work(one: Format, case: str, path: str, wanted: Wanted) -> Callable[[], object]:
    """Return what is to be timed. It returns all that it has opened and read, to be kept while memory is measured.

    Args:
        one: The format.
        case: Key of a case.
        path: The format's file; of ``write`` an .sbs file of plain tensors, all of which are written to `written`.
        wanted: The tensors.
    """
    if case == "write":
        return _writing(one, path)

    def run() -> object:
        opened = one.open(path)
        return opened, steps[case](opened)

    steps: dict[str, Callable[[Any], object]] = {
        "open": lambda _: None,
        "list": one.entries,
        "lookup": lambda opened: [one.entry(opened, name) for name in wanted.some],
        "first": lambda opened: touch(one.view(opened, wanted.one)),
        "map": lambda opened: [touch(one.view(opened, name)) for name in wanted.names],
        "read": lambda opened: one.load_all(opened, wanted),
        "names": one.names,
        "views": lambda opened: [one.view(opened, name) for name in wanted.names],
    }
    return run


def written(path: str) -> str:
    """Return where ``write`` puts the tensors of a file: what was there before is removed."""
    return f"{path}.written"


def _writing(one: Format, path: str) -> Callable[[], object]:
    """Take all tensors into memory; return what writes them and waits for the disk."""
    tensors, target = blobstore.load_file(path), written(path)
    page_cache.remove(target)

    def run() -> object:
        one.save(target, tensors)
        page_cache.prepare(target)
        return tensors

    return run


def choose(store: Store, limit: int | None = None) -> list[TensorInfo]:
    """Return the tensors to measure: each that has bytes of its own, in the file's order; aliases once.

    Args:
        store: The file.
        limit: Of bytes: what doesn't fit into what is left of it is passed over.

    Raises:
        UsageError: ``no-tensors``.
    """
    ranges = {(one.offset, one.nbytes): one for one in reversed(list(store.infos())) if one.nbytes}
    infos = sorted(ranges.values(), key=lambda one: one.offset)
    if not infos:
        raise UsageError("no-tensors", "the file has no tensors with values: there is nothing to measure")
    return infos if limit is None else list(_fitting(infos, limit)) or [min(infos, key=lambda one: one.nbytes)]


def _fitting(infos: Iterable[TensorInfo], left: int) -> Iterator[TensorInfo]:
    for one in infos:
        if one.nbytes <= left:
            left -= one.nbytes
            yield one


def wanted_of(infos: Sequence[TensorInfo], store: Store) -> Wanted:
    """Return what is measured of these tensors of a file; the same in every run."""
    all_infos = list(store.infos())
    places = {one.place for one in all_infos if one.nbytes}
    whole = len(infos) >= len(places) and not any(_is_encoded(one) for one in all_infos)
    names = [one.name for one in infos]
    middle = sorted(infos, key=lambda one: (one.nbytes, one.offset))[len(infos) // 2]
    some = random.Random(0).sample(names, min(len(names), _LOOKED_UP))  # noqa: S311 (no secret)
    return Wanted(names, some, middle.name, sum(one.nbytes for one in infos), whole)
