"""What `blobstore.torch` and `blobstore.jax` share: a store of the library's arrays, and its import."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from blobstore.errors import MissingExtraError, in_file
from blobstore.fileio.closing import Closing
from blobstore.store.by_identity import MappingByIdentity
from blobstore.store.load_all import load_all
from blobstore.store.plain import Listed
from blobstore.store.reader import Store
from blobstore.store.slices import load_rows, slice_of
from blobstore.store.values import elements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    import numpy.typing as npt

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Access, Array, Prefetch, Readable
    from blobstore.store.info import TensorInfo
    from blobstore.store.plain import View
    from blobstore.store.slices import Rows, TensorSlice
    from blobstore.store.vocabulary import By

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


class FrameworkStore(MappingByIdentity[T], Closing):
    """The tensors of a file, by name, as arrays of another library.

    A copy, or what is unpickled in another process, opens the file again with the same options. Two stores are equal
    only if they are the same object.

    Attributes:
        store: The same file as a `blobstore.Store`: ``store.info(name)``, ``store.raw(name)``, ``store.config``.
    """

    def __init__(
        self,
        path: Readable,
        *,
        access: Access = "auto",
        use_index: bool = True,
        base: Readable | None = None,
        prefetch: Prefetch = "none",
        by: By = "names",
        writable: bool = False,
    ) -> None:
        """Open a file; see `blobstore.open`. ``writable`` as `blobstore.BlobReader` has it."""
        self.store: Store = Store(
            path, access=access, use_index=use_index, base=base, writable=writable, prefetch=prefetch, by=by
        )

    @abstractmethod
    def _convert(self, name: str, kind: ElementType | None, values: Array) -> T:
        """Convert an array to one of the library; without a copy where that is possible.

        Args:
            name: Of the tensor.
            kind: How it is stored; None for the type of the values.
            values: In C order, aligned.
        """

    def _viewed(self, info: TensorInfo) -> TensorInfo:
        """Return a tensor as what numpy can read of it, for `_convert`: another type of a type that numpy hasn't."""
        return info

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that the writer added, text → text; empty without an index. A copy."""
        return self.store.metadata

    def get_tensor(self, name: str) -> T:
        """Return a tensor, as ``self[name]`` does: a view where that is possible.

        Raises:
            NameNotFoundError: ``name-not-found``; the message says which names come close.
            CodecError: As ``store[name]`` of `blobstore.Store`.
            UsageError: ``unsupported-dtype``: the library has no such type.
        """
        return self[name]

    def get_tensors(self, names: Iterable[str] | None = None) -> dict[str, T]:
        """Return tensors by name, as `get_tensor` does. All names of one tensor get the same object.

        Args:
            names: Which, in any order; by default all.

        Raises:
            NameNotFoundError, CodecError, UsageError: As `get_tensor`.
        """
        listed = self.store.views.listed() if names is None else Listed.of(map(self.store.info, names))
        return self._converted(listed, lambda _, view: self.store.views.at(view), self._values)

    def get_slice(self, name: str) -> FrameworkSlice[T]:
        """Return a tensor to be read in part: ``store.get_slice(name)[:, 8:16]``; see `blobstore.Store.get_slice`.

        Raises:
            NameNotFoundError: ``name-not-found``.
        """
        info = self.store.info(name)
        return FrameworkSlice(slice_of(self.store, info), partial(self._named, info))

    def load(self, name: str, *, dtype: npt.DTypeLike | None = None, rows: Rows | None = None) -> T:
        """Return a tensor, or some of its rows, in a new array; as `blobstore.Store.load`.

        Args:
            name: Its name.
            dtype: To convert to; by default the one that ``self[name]`` has.
            rows: Which rows of the first dimension: one, a slice, or a list. Only these are read and decoded.

        Raises:
            NameNotFoundError, CodecError, UsageError: As `get_tensor`; ``no-rows``.
        """
        info = self.store.info(name)
        # Octets of two values each can't be converted: that refuses them.
        viewed = self._viewed(info) if dtype is None else info
        return self._named(info, load_rows(self.store, viewed, rows, dtype))

    def load_all(self) -> dict[str, T]:
        """Return every tensor in new memory, read in large pieces on several threads.

        All names of one tensor get the same array. Names for some of its bytes share its memory, as they do in the
        file, and small tensors that lie near each other share one allocation of up to 4 MiB.

        Raises:
            CodecError, UsageError: As `get_tensor`.
        """
        listed = self.store.views.listed()
        others = [*map(self._viewed, listed.others)]
        arrays = load_all(self.store, Listed(listed.names, listed.plain, others))
        return self._converted(listed, lambda name, _: arrays[name], lambda info: arrays[info.name])

    def _converted(
        self,
        listed: Listed,
        plain: Callable[[str, View], Array],
        other: Callable[[TensorInfo], Array],
    ) -> dict[str, T]:
        """Convert tensors. All names of one get the same object: tied weights stay tied.

        Args:
            listed: The tensors.
            plain: Returns the values of a plain one.
            other: Returns those of any other.
        """
        made: dict[str, Any] = dict.fromkeys(listed.names)
        by_place: dict[object, T] = {}
        with in_file(self.store.path):
            for name, view in listed.plain.views().items():
                tensor = by_place.get(view)
                if tensor is None:
                    tensor = by_place[view] = self._own(name, None, plain(name, view))
                made[name] = tensor
            for info in listed.others:
                if info.place not in by_place:
                    by_place[info.place] = self._own(info.name, info.type, other(info))
                made[info.name] = by_place[info.place]
        return made

    def close(self) -> None:
        """Let go of the file; arrays stay valid until the last of them is gone."""
        self.store.close()

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 (as a mapping's)
        """Return a tensor, or ``default``. Near misses are not searched for."""
        return self[name] if name in self else default  # noqa: SIM401 (this is get)

    def _values(self, info: TensorInfo) -> Array:
        viewed = self._viewed(info)
        return elements(self.store, viewed, 0, viewed.size).reshape(viewed.shape)

    def _named(self, info: TensorInfo, values: Array) -> T:
        with in_file(self.store.path):
            return self._own(info.name, info.type, values)

    def _own(self, name: str, kind: ElementType | None, values: Array) -> T:
        """Convert values of a tensor, any of them."""
        flags = values.flags
        if not (flags.aligned and flags.c_contiguous):
            # Libraries expect elements at multiples of their size. Only parts of tensors can begin elsewhere.
            values = np.require(values, requirements=["C", "A"]).reshape(values.shape)
        return self._convert(name, kind, values)

    def __getitem__(self, name: str) -> T:
        with in_file(self.store.path):
            values = self.store.views.get(name)
            if values is not None:
                return self._own(name, None, values)
            info = self.store.info(name)
            return self._own(name, info.type, self._values(info))

    def __contains__(self, name: object) -> bool:
        return name in self.store

    def __iter__(self) -> Iterator[str]:
        return iter(self.store)

    def __len__(self) -> int:
        return len(self.store)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), self.store.__reduce__(), {**self.__dict__, "store": None})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.store.path!r}: {len(self)} tensors>"


class FrameworkSlice(Generic[T]):
    """A tensor to be read in part: ``store.get_slice(name)[:, 8:16]`` reads only what it returns.

    `FrameworkStore.get_slice` makes one.
    """

    def __init__(self, part: TensorSlice, convert: Callable[[Array], T]) -> None:
        """Convert what is read of ``part``."""
        self._part = part
        self._convert = convert

    def get_shape(self) -> list[int]:
        """Return the tensor's shape; nothing is read."""
        return self._part.get_shape()

    def get_dtype(self) -> str:
        """Return the tensor's type by its name in safetensors, ``"BF16"`` for instance; nothing is read."""
        return self._part.get_dtype()

    def __getitem__(self, where: Any) -> T:  # noqa: ANN401 (whatever numpy indexes with)
        return self._convert(self._part[where])


def _reopened(
    store_class: type[FrameworkStore[Any]], reduced: tuple[Any, ...], state: dict[str, Any]
) -> FrameworkStore[Any]:
    """Open the file of a copied or pickled store again."""
    opening, arguments = reduced
    again = store_class.__new__(store_class)
    again.__dict__.update(state, store=opening(*arguments))
    return again
