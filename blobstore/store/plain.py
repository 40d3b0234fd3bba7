"""The tensors that numpy can view as they are stored, by columns: without an object for each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from blobstore.codecs import element_types

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from blobstore.container.directory import Directory
    from blobstore.fileio.types import Array, Buffer
    from blobstore.index import NameIndex
    from blobstore.store.info import TensorInfo

    View = tuple[tuple[int, ...], np.dtype[np.generic], int]  # shape, dtype, offset in the file


T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PlainTensors:
    """Tensors that are not packed, encoded, scaled or empty, a column for each field.

    Attributes:
        names: Of all.
        shapes: In C order.
        dtypes: As they are stored.
        offsets: Of the first byte in the file, shape (count,).
        sizes: In bytes, shape (count,).
    """

    names: Sequence[str]
    shapes: Sequence[tuple[int, ...]]
    dtypes: Sequence[np.dtype[np.generic]]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, infos: Iterable[TensorInfo]) -> PlainTensors:
        """Return plain tensors as columns."""
        rows = [(info.name, info.shape, info.type.dtype, info.offset, info.nbytes) for info in infos]
        names, shapes, dtypes, offsets, sizes = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        return cls(names, shapes, dtypes, np.array(offsets, np.int64), np.array(sizes, np.int64))

    def views(self) -> dict[str, View]:
        """Return where each lies, and how numpy sees it, by name."""
        return dict(zip(self.names, zip(self.shapes, self.dtypes, self.offsets.tolist(), strict=True), strict=True))

    def take(self, places: npt.NDArray[np.intp]) -> PlainTensors:
        """Return some of them, in the order of their places."""
        numbers = places.tolist()

        def chosen(column: Sequence[T]) -> list[T]:
            return list(map(column.__getitem__, numbers))

        columns = chosen(self.names), chosen(self.shapes), chosen(self.dtypes)
        return PlainTensors(*columns, self.offsets[places], self.sizes[places])

    def arrays(self, buffer: Buffer, start: int) -> Iterable[Array]:
        """Return each as an array over a buffer, which holds the file's bytes from ``start`` on."""
        return map(np.ndarray, self.shapes, self.dtypes, repeat(buffer), (self.offsets - start).tolist())


@dataclass(frozen=True, eq=False)
class Listed:
    """Tensors of a file, those that are plain by columns.

    Attributes:
        names: Of all, in their order.
        plain: Those that numpy can view as they are stored.
        others: All others.
    """

    names: Sequence[str]
    plain: PlainTensors
    others: Sequence[TensorInfo]

    @classmethod
    def of(cls, infos: Iterable[TensorInfo]) -> Listed:
        """Sort tensors."""
        infos = list(infos)
        plain = PlainTensors.of(filter(is_plain, infos))
        return cls([info.name for info in infos], plain, [info for info in infos if not is_plain(info)])


def is_plain(info: TensorInfo) -> bool:
    """Whether the file holds a tensor as numpy does."""
    return bool(info.nbytes) and not info.codec and not info.encoded  # not size: it multiplies the shape each time


def plain_tensors(index: NameIndex, directory: Directory, places: npt.NDArray[np.int64]) -> PlainTensors:
    """Return the tensors of an index that are plain, in the order of their names.

    Args:
        index: All of it was checked.
        directory: Of the file.
        places: Of each blob of the index's table in the directory.
    """
    entries, names, shapes = index.entries, index.names, index.shapes
    plain = (entries.codec == 0) & (entries.scale == 1) & (entries.nbytes > 0) & element_types.are_plain(entries.type)
    columns: tuple[Array, ...] = (entries.blob, entries.offset, entries.nbytes, entries.type, entries.shape)
    if np.count_nonzero(plain) < len(plain):
        chosen = np.flatnonzero(plain)
        names = list(map(names.__getitem__, chosen.tolist()))
        columns = tuple(column[chosen] for column in columns)
    blob, offset, nbytes, types, shape = columns
    numbers = types.tolist()
    dtypes: dict[int, Any] = {number: element_types.BY_NUMBER[number].dtype for number in set(numbers)}
    return PlainTensors(
        names,
        list(map(shapes.__getitem__, shape.tolist())),
        list(map(dtypes.__getitem__, numbers)),
        directory.offsets[places][blob] + offset.astype(np.int64),
        nbytes.astype(np.int64),
    )
