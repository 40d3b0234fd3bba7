"""`Store`: a file's tensors as a mapping from name to array."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from blobstore.catalog import Catalog, TensorInfo
from blobstore.errors import CodecError, NameNotFoundError, in_file
from blobstore.index import NameIndex, parse_index
from blobstore.keys import INDEX_KEY
from blobstore.mapping import open_source
from blobstore.reader import BlobReader
from blobstore.suggest import close_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike
    from types import TracebackType

    import numpy.typing as npt

    from blobstore.mapping import Access

    Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FoundIndex:
    """A file's name index, and the path of the file that it stands in."""

    content: NameIndex
    path: str


class Store(Mapping[str, "Array"]):
    """The tensors of a file, by name. `blobstore.open` makes one.

    Arrays are read-only views into the map (or copies of their own with ``access="read"``), in the dtype they are
    stored in, and stay valid after `close`.

    Attributes:
        reader: The blobs below the names.
        index: The file's name index with the path it was found in, or None.
    """

    def __init__(self, path: str | PathLike[str], *, access: Access = "mmap", use_index: bool = True) -> None:
        """Open a file; see `blobstore.open`."""
        self.reader = BlobReader(path, access=access)
        try:
            self.index = find_index(self.reader) if use_index else None
            with in_file(self.index.path if self.index else self.reader.path):
                self._catalog = Catalog(self.reader.directory, self.index.content if self.index else None)
        except BaseException:
            self.reader.close()
            raise

    @property
    def path(self) -> str:
        """As given."""
        return self.reader.path

    @property
    def metadata(self) -> dict[str, str]:
        """What the writer noted about the file; empty without an index. A copy."""
        return dict(self.index.content.metadata) if self.index else {}

    def info(self, name: str) -> TensorInfo:
        """Return a tensor's key, type, shape and place, without touching its data.

        Raises:
            NameNotFoundError: ``name-not-found``; the message says which names come close.
        """
        info = self._catalog.find(name) if isinstance(name, str) else None
        if info is None:
            raise NameNotFoundError("name-not-found", f"no tensor has the name {name!r}{self._hint(str(name))}")
        return info

    def infos(self) -> Iterator[TensorInfo]:
        """Yield what is known of each tensor, in the order of the names."""
        return iter(self._catalog)

    def raw(self, name: str) -> memoryview:
        """Return the stored bytes of a tensor, by name, or of any blob, by key. A read-only view.

        Raises:
            NameNotFoundError: ``name-not-found``: neither a name nor a key.
        """
        info = self._catalog.find(name)
        if info is None and name in self.reader:
            return self.reader[name]
        info = info or self.info(name)
        return self.reader.view(info.offset, info.nbytes)

    def array(self, info: TensorInfo) -> Array:
        """Return the values of a tensor that `info` or `infos` has described, as ``store[name]`` does.

        Raises:
            CodecError: ``unknown-type``, ``unknown-codec``, ``packed-type``: this version can't decode it.
        """
        if info.dtype is None:
            raise _undecodable(info)
        if 0 in info.shape:
            empty = np.empty(info.shape, dtype=info.dtype)
            empty.flags.writeable = False
            return empty
        return np.frombuffer(self.reader.view(info.offset, info.nbytes), dtype=info.dtype).reshape(info.shape)

    def load_all(self) -> dict[str, Array]:
        """Return every tensor, copied into memory of its own; writable."""
        return {info.name: np.array(self.array(info)) for info in self.infos()}

    def prefix(self, prefix: str) -> PrefixView:
        """Return a view of the names below a prefix: ``store.prefix("model.layers.0")["mlp.up_proj.weight"]``."""
        return PrefixView(self, prefix)

    def close(self) -> None:
        """Let go of the file; arrays stay valid until the last of them is gone."""
        self.reader.close()

    def _hint(self, name: str) -> str:
        names = self._catalog.names
        # Hugging Face leaves the head out when it is the embedding; readers look for it all the same.
        tied = next((one for one in names if one.endswith("embed_tokens.weight")), None)
        if tied and name.endswith("lm_head.weight"):
            return f": in a model with tied weights it is the embedding, {tied!r}"
        return close_to(name, names)

    def __getitem__(self, name: str) -> Array:
        return self.array(self.info(name))

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 (as a mapping's)
        """Return a tensor's values, or ``default``; what is not there is not searched for near misses."""
        info = self._catalog.find(name)
        return default if info is None else self.array(info)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._catalog.find(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._catalog.names)

    def __len__(self) -> int:
        return len(self._catalog.names)

    def __repr__(self) -> str:
        return f"<Store {self.path!r}: {len(self)} tensors, {self.reader.file_size} bytes>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PrefixView(Mapping[str, "Array"]):
    """The tensors of a store whose names begin with a prefix and a dot, by the rest of the name."""

    def __init__(self, store: Store, prefix: str) -> None:
        """View ``store``; nothing is copied."""
        self._store = store
        self._prefix = prefix.rstrip(".") + "." if prefix else ""

    def info(self, name: str) -> TensorInfo:
        """As `Store.info`."""
        return self._store.info(self._prefix + name)

    def raw(self, name: str) -> memoryview:
        """As `Store.raw`, for names only."""
        info = self.info(name)
        return self._store.reader.view(info.offset, info.nbytes)

    def prefix(self, prefix: str) -> PrefixView:
        """As `Store.prefix`."""
        return PrefixView(self._store, self._prefix + prefix)

    def __getitem__(self, name: str) -> Array:
        return self._store[self._prefix + name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._prefix + name in self._store

    def __iter__(self) -> Iterator[str]:
        cut = len(self._prefix)
        return (name[cut:] for name in self._store if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<{len(self)} tensors below {self._prefix!r} in {self._store.path!r}>"


def find_index(reader: BlobReader) -> FoundIndex | None:
    """Return the index inside a file or, when there is none inside, the one beside it, checked.

    Raises:
        FormatError: It is wrong, or was made for another file (``index-stale``); ``path`` names the file at fault.
    """
    if INDEX_KEY in reader:
        with in_file(reader.path):
            return FoundIndex(parse_index(reader[INDEX_KEY], external=False), reader.path)
    path = external_path(reader.path)
    if not os.path.isfile(path):
        return None
    with in_file(path):
        source = open_source(path, "read")
        try:
            index = parse_index(source.view(0, source.size), external=True)
        finally:
            source.close()
        index.check_binding(reader.directory)
    return FoundIndex(index, path)


def external_path(path: str | PathLike[str]) -> str:
    """Return where the external index of a store lies."""
    return f"{os.fspath(path)}.idx"


def _undecodable(info: TensorInfo) -> CodecError:
    way_out = f"store.raw({info.name!r}) gives its stored bytes"
    if info.codec:
        return CodecError("unknown-codec", f"{info.name!r} is stored with codec {info.codec}, unknown here: {way_out}")
    if not info.type.bits:
        return CodecError("unknown-type", f"{info.name!r} has element {info.type}, unknown here: {way_out}")
    if info.type.safetensors:
        return CodecError(
            "packed-type", f"{info.name!r} is {info.type}, smaller than a byte, which numpy can't view: {way_out}"
        )
    return CodecError("encoded-type", f"{info.name!r} is {info.type}, which can't be decoded yet: {way_out}")


def load_file(path: str | PathLike[str]) -> dict[str, Array]:
    """Return every tensor of a file in memory of its own, writable, as ``safetensors.numpy.load_file`` does.

    For views without copies use `blobstore.open`.
    """
    with Store(path) as store:
        return store.load_all()
