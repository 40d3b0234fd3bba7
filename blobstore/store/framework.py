"""What bridges to other libraries share: a store of their arrays, and the import of one that may be missing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from blobstore.errors import MissingExtraError, in_file
from blobstore.fileio.closing import Closing
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike
    from types import ModuleType

    import numpy.typing as npt

    from blobstore.fileio.types import Access, Array
    from blobstore.store.info import TensorInfo

T = TypeVar("T")


def import_extra(name: str) -> ModuleType:
    """Import a library that is an extra of the same name.

    Raises:
        MissingExtraError: ``missing-extra``: it isn't installed. Other faults of its import are its own.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        fix = f"pip install 'gemma-blobstore[{name}]'"
        raise MissingExtraError("missing-extra", f"blobstore.{name} needs {name}: {fix}") from error


class FrameworkStore(Mapping[str, T], Closing):
    """The tensors of a file, by name, as arrays of another library.

    Attributes:
        store: The same tensors as numpy arrays, with all that is known of them: ``store.info(name)``,
            ``store.raw(name)``, ``store.config``.
    """

    def __init__(
        self, filename: str | PathLike[str], *, access: Access = "auto", use_index: bool = True, writable: bool = False
    ) -> None:
        """Open a file; see `blobstore.open`. ``writable`` as `blobstore.BlobReader` has it."""
        self.store = Store(filename, access=access, use_index=use_index, writable=writable)

    @abstractmethod
    def _convert(self, info: TensorInfo, values: Array) -> T:
        """Make a numpy array the library's own: C order, aligned, and without a copy where that is possible."""

    def get_tensor(self, name: str) -> T:
        """Return a tensor, as ``self[name]`` does: a view where that is possible.

        Raises:
            NameNotFoundError: ``name-not-found``; the message says which names come close.
            CodecError: As `blobstore.Store.array`.
            UsageError: ``unsupported-dtype``: the library has no such type.
        """
        return self[name]

    def load(self, name: str, *, dtype: npt.DTypeLike | None = None, rows: slice | None = None) -> T:
        """Return a tensor, or some of its rows, in memory of its own; as `blobstore.Store.load`.

        Args:
            name: Its name.
            dtype: To convert to; by default the one that ``self[name]`` has.
            rows: Of the first dimension. Only what is asked for is read and decoded.

        Raises:
            NameNotFoundError, CodecError, UsageError: As `get_tensor`; ``no-rows``.
        """
        values = self.store.load(name, dtype=dtype, rows=rows)
        with in_file(self.store.path):
            return self._convert(self.store.info(name), values)

    def load_all(self) -> dict[str, T]:
        """Return every tensor in memory of its own. Names of one tensor get one array."""
        done: dict[object, T] = {}
        out = {}
        for info in self.store.infos():
            if info.place not in done:
                done[info.place] = self.load(info.name)
            out[info.name] = done[info.place]
        return out

    def metadata(self) -> dict[str, str]:
        """Return what the writer noted about the file; empty without an index. A copy."""
        return self.store.metadata

    def close(self) -> None:
        """Let go of the file; arrays stay valid until the last of them is gone."""
        self.store.close()

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 (as a mapping's)
        """Return a tensor, or ``default``; what is not there is not searched for near misses."""
        return self[name] if name in self else default  # noqa: SIM401 (it is what this is)

    def __getitem__(self, name: str) -> T:
        info = self.store.info(name)
        # Libraries expect elements at multiples of their size. Only a part of a tensor can begin elsewhere.
        values = np.require(self.store.elements(info, 0, info.count), requirements="A")
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
