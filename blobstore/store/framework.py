"""What `blobstore.torch` and `blobstore.jax` share: a store of the library's arrays, and its import."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from blobstore.errors import MissingExtraError, in_file
from blobstore.fileio.closing import Closing
from blobstore.store.reader import Store
from blobstore.store.values import elements

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike
    from types import ModuleType

    import numpy.typing as npt

    from blobstore.fileio.types import Access, Array
    from blobstore.store.info import TensorInfo

T = TypeVar("T")


def import_extra(name: str) -> ModuleType:
    """Import a library that an extra of the same name installs.

    Raises:
        MissingExtraError: ``missing-extra``: it isn't installed. Other errors of its import pass through.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        fix = f"pip install {name}"
        raise MissingExtraError("missing-extra", f"blobstore.{name} needs {name}: {fix}") from error


class FrameworkStore(Mapping[str, T], Closing):
    """The tensors of a file, by name, as arrays of another library.

    Attributes:
        store: The same file as a `blobstore.Store`: ``store.info(name)``, ``store.raw(name)``, ``store.config``.
    """

    def __init__(
        self, path: str | PathLike[str], *, access: Access = "auto", use_index: bool = True, writable: bool = False
    ) -> None:
        """Open a file; see `blobstore.open`. ``writable`` as `blobstore.BlobReader` has it."""
        self.store = Store(path, access=access, use_index=use_index, writable=writable)

    @abstractmethod
    def _convert(self, info: TensorInfo, values: Array) -> T:
        """Convert a numpy array in C order, aligned, to one of the library; without a copy where that is possible."""

    def get_tensor(self, name: str) -> T:
        """Return a tensor, as ``self[name]`` does: a view where that is possible.

        Raises:
            NameNotFoundError: ``name-not-found``; the message says which names come close.
            CodecError: As `blobstore.Store.array`.
            UsageError: ``unsupported-dtype``: the library has no such type.
        """
        return self[name]

    def load(self, name: str, *, dtype: npt.DTypeLike | None = None, rows: slice | None = None) -> T:
        """Return a tensor, or some of its rows, in a new array; as `blobstore.Store.load`.

        Args:
            name: Its name.
            dtype: To convert to; by default the one that ``self[name]`` has.
            rows: Which rows of the first dimension. Only these are read and decoded.

        Raises:
            NameNotFoundError, CodecError, UsageError: As `get_tensor`; ``no-rows``.
        """
        values = self.store.load(name, dtype=dtype, rows=rows)
        with in_file(self.store.path):
            return self._convert(self.store.info(name), values)

    def load_all(self) -> dict[str, T]:
        """Return every tensor in a new array. All names of one tensor get the same array."""
        by_place: dict[object, T] = {}
        by_name = {}
        for info in self.store.infos():
            if info.place not in by_place:
                by_place[info.place] = self.load(info.name)
            by_name[info.name] = by_place[info.place]
        return by_name

    def metadata(self) -> dict[str, str]:
        """Return the metadata that the writer added; empty without an index. A copy."""
        return self.store.metadata

    def close(self) -> None:
        """Let go of the file; arrays stay valid until the last of them is gone."""
        self.store.close()

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 (as a mapping's)
        """Return a tensor, or ``default``. Near misses are not searched for."""
        return self[name] if name in self else default  # noqa: SIM401 (this is get)

    def __getitem__(self, name: str) -> T:
        info = self.store.info(name)
        # Libraries expect elements at multiples of their size. Only parts of tensors can begin elsewhere.
        values = np.require(elements(self.store, info, 0, info.size), requirements="A")
        with in_file(self.store.path):
            return self._convert(info, values.reshape(info.shape))

    def __contains__(self, name: object) -> bool:
        return name in self.store

    def __iter__(self) -> Iterator[str]:
        return iter(self.store)

    def __len__(self) -> int:
        return len(self.store)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.store.path!r}: {len(self)} tensors>"
