"""Whole files: every array of one at once, read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from os import PathLike

    import numpy.typing as npt

    from blobstore.fileio.types import Array

T = TypeVar("T")


def load_file(path: str | PathLike[str]) -> dict[str, Array]:
    """Return every tensor of a file in memory of its own, writable, as ``safetensors.numpy.load_file`` does.

    For views without copies use `blobstore.open`.

    Raises:
        FormatError, TruncatedError, OSError: As `blobstore.open`.
        CodecError: As `blobstore.Store.array`.
    """
    with Store(path) as store:
        return store.load_all()


def save_file(
    tensors: Mapping[str, npt.ArrayLike], path: str | PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a file, as ``safetensors.numpy.save_file`` does.

    Two names for one array are stored once, as an alias.

    Args:
        tensors: Name → array; none may change before this returns.
        path: Replaced only by a complete file.
        metadata: Text → text.

    Raises:
        UsageError: As `blobstore.StoreWriter.add`; ``bad-metadata``.
        OSError: The file can't be written.
    """
    from blobstore.store.writer import as_array  # noqa: PLC0415 (reading does not import what writes)

    arrays = ((name, as_array(name, tensor)) for name, tensor in tensors.items())
    save_each(arrays, path, metadata, place=_place, values=lambda array: array)


def save_each(
    tensors: Iterable[tuple[str, T]],
    path: str | PathLike[str],
    metadata: Mapping[str, str] | None,
    *,
    place: Callable[[T], object],
    values: Callable[[T], Array],
) -> None:
    """Write tensors of any library to a file; two that are the same are stored once, as an alias.

    Args:
        tensors: Name and tensor.
        path: Replaced only by a complete file.
        metadata: Text → text.
        place: Tensor → a key that is equal for two views of the same memory with the same shape and dtype; None for a
            tensor that is never an alias.
        values: Tensor → its values, in memory that nothing else writes to.
    """
    from blobstore.store.writer import StoreWriter  # noqa: PLC0415 (as above)

    # Keep the tensors: the address of one that is gone may become another's.
    seen: dict[object, tuple[str, T]] = {}
    with StoreWriter(path, metadata=metadata) as store:
        for name, tensor in tensors:
            key = place(tensor)
            if key in seen:
                store.alias(name, seen[key][0])
                continue
            store.add(name, values(tensor), immutable=True)
            if key is not None:
                seen[key] = (name, tensor)


def _place(array: Array) -> object:
    return (array.__array_interface__["data"], array.shape, array.strides, array.dtype) if array.size else None
