"""Whole files: every array of one at once, read or written."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from blobstore.errors import UsageError
from blobstore.fileio.ranges import flat_bytes
from blobstore.index.metadata import refuse_own
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    from blobstore.fileio.types import Array, Buffer, Readable, Writable

T = TypeVar("T")


class Stored(NamedTuple):
    """A tensor as the file is to store it, for types that numpy hasn't."""

    data: Array
    type: str
    shape: tuple[int, ...]


def pairs_of(tensors: Mapping[str, T]) -> Iterable[tuple[str, T]]:
    """Return the names and tensors of a mapping.

    Raises:
        UsageError: ``not-a-mapping``.
    """
    if isinstance(tensors, Mapping):
        return tensors.items()
    raise UsageError("not-a-mapping", f"expected a mapping from name to tensor, found {type(tensors).__name__}")


def load_file(path: Readable) -> dict[str, Array]:
    """Return every tensor of a file in memory of its own, writable, as ``safetensors.numpy.load_file`` does.

    For views without copies use `blobstore.open`.

    Args:
        path: A path, a binary file object or a file's bytes, as for `blobstore.open`.

    Raises:
        UsageError, FormatError, TruncatedError, OSError: As `blobstore.open`.
        CodecError: As ``store[name]``.

    Example:
        >>> blobstore.save_file({"a": np.arange(3)}, "a.sbs")
        >>> blobstore.load_file("a.sbs")
        {'a': array([0, 1, 2])}
    """
    with Store(path) as store:
        return store.load_all()


def load(data: Buffer) -> dict[str, Array]:
    """Return every tensor of a file whose bytes are in memory, as ``safetensors.numpy.load`` does.

    For views of the bytes without copies use ``blobstore.open(data)``.

    Args:
        data: All bytes of the file; read, not kept.

    Raises:
        UsageError: ``not-bytes``, ``not-contiguous``.
        FormatError, TruncatedError, CodecError: As `load_file`.

    Example:
        >>> blobstore.load(blobstore.save({"a": np.arange(3)}))
        {'a': array([0, 1, 2])}
    """
    return load_file(contents(data))


def contents(data: Buffer) -> memoryview:
    """Return a file's bytes as what `blobstore.open` never takes for a path.

    Raises:
        UsageError: ``not-bytes`` for a path or a file object, ``not-contiguous``.
    """
    try:
        return flat_bytes(data)
    except UsageError as error:
        if error.reason != "not-bytes":
            raise
        found = type(data).__name__
        what = f"expected a file's bytes, found {found}: load_file takes paths and file objects"
        raise UsageError("not-bytes", what) from None


def save_file(
    tensors: Mapping[str, npt.ArrayLike],
    path: Writable,
    metadata: Mapping[str, str] | None = None,
    *,
    digests: bool = True,
    durable: bool = True,
) -> None:
    """Write tensors to a file, as ``safetensors.numpy.save_file`` does.

    Two names for one array are stored once, as an alias.

    Args:
        tensors: Name → array; none may change before this returns.
        path: Replaced only by a complete file; or a binary stream, as for `blobstore.create`.
        metadata: Text → text.
        digests: As for `blobstore.create`.
        durable: As for `blobstore.create`.

    Raises:
        UsageError: As `blobstore.StoreWriter.add`; ``bad-metadata``, ``reserved-key``; for a stream as
            `blobstore.create`.
        OSError: The file can't be written.

    Example:
        >>> weight = np.ones((4, 2), dtype=np.float32)
        >>> blobstore.save_file({"embed": weight, "head": weight}, "tied.sbs", metadata={"license": "apache-2.0"})
        >>> store = blobstore.open("tied.sbs")
        >>> store.info("embed").key == store.info("head").key
        True
    """
    save_each(
        _arrays(tensors), path, metadata, place=_place, values=lambda array: array, digests=digests, durable=durable
    )


def save(
    tensors: Mapping[str, npt.ArrayLike], metadata: Mapping[str, str] | None = None, *, digests: bool = True
) -> bytes:
    """Return the bytes of the file that `save_file` writes, as ``safetensors.numpy.save`` does.

    Args:
        tensors: Name → array.
        metadata: Text → text.
        digests: As for `blobstore.create`.

    Raises:
        UsageError: As `save_file`.

    Example:
        >>> data = blobstore.save({"a": np.arange(3)})
        >>> data[:3], len(data) % 65536
        (b'SBS', 0)
    """
    return bytes_of_each(_arrays(tensors), metadata, place=_place, values=lambda array: array, digests=digests)


def bytes_of_each(
    tensors: Iterable[tuple[str, T]],
    metadata: Mapping[str, str] | None,
    *,
    place: Callable[[T], object],
    values: Callable[[T], Array | Stored],
    digests: bool = True,
) -> bytes:
    """Return the bytes of the file that `save_each` writes; the arguments are the same."""
    stream = io.BytesIO()
    save_each(tensors, stream, metadata, place=place, values=values, digests=digests)
    return stream.getvalue()


def save_each(
    tensors: Iterable[tuple[str, T]],
    path: Writable,
    metadata: Mapping[str, str] | None,
    *,
    place: Callable[[T], object],
    values: Callable[[T], Array | Stored],
    digests: bool = True,
    durable: bool = True,
) -> None:
    """Write tensors of any library to a file; two that are the same are stored once, as an alias.

    Args:
        tensors: Name and tensor.
        path: Replaced only by a complete file; or a binary stream.
        metadata: Text → text.
        place: Tensor → a key that is equal for two views of the same memory with the same shape and dtype; None for a
            tensor that is never an alias.
        values: Tensor → its values, in memory that nothing else writes to.
        digests: As for `blobstore.create`.
        durable: As for `blobstore.create`.
    """
    from blobstore.store.writer import StoreWriter  # noqa: PLC0415 (reading does not import what writes)

    # Keep the tensors: the address of one that is gone may become another's.
    seen: dict[object, tuple[str, T]] = {}
    refuse_own(metadata or ())
    with StoreWriter(path, metadata=metadata, digests=digests, durable=durable) as store:
        for name, tensor in tensors:
            key = place(tensor)
            if key in seen:
                store.alias(name, seen[key][0])
                continue
            found = values(tensor)
            if isinstance(found, Stored):
                store.add_stored(name, [found.data], found.type, found.shape, immutable=True)
            else:
                store.add(name, found, immutable=True)
            if key is not None:
                seen[key] = (name, tensor)


def _arrays(tensors: Mapping[str, npt.ArrayLike]) -> Iterator[tuple[str, Array]]:
    from blobstore.store.writer import as_array  # noqa: PLC0415 (as above)

    return ((name, as_array(name, tensor)) for name, tensor in pairs_of(tensors))


def _place(array: Array) -> object:
    return (array.__array_interface__["data"], array.shape, array.strides, array.dtype) if array.size else None
