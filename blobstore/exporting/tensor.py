"""Export one tensor, or one blob: as stored bytes, or as a numpy file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.fileio.ranges import CHUNK_NBYTES, flat_bytes
from blobstore.fileio.sink import Sink
from blobstore.fileio.uploads import new_file
from blobstore.store.values import dtype_of, elements, stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from blobstore.fileio.types import Buffer
    from blobstore.store.reader import Store

_CHUNK = 1 << 20  # elements decoded at once


def write_stored(store: Store, name: str, target: str | BinaryIO) -> None:
    """Write the stored bytes of a tensor, or of a blob, in chunks.

    Args:
        store: Open.
        name: The tensor's name, or the blob's key.
        target: Path of the file to write, or a binary stream.

    Raises:
        NameNotFoundError: The file has neither.
        OSError: Reading or writing failed.
    """
    if isinstance(target, str):
        with new_file(target) as file:
            _write(_stored(store, name), Sink(file.output(), file.path))
    else:
        _write(_stored(store, name), Sink(target))


def write_npy(store: Store, name: str, path: str, *, chunk: int = _CHUNK) -> np.dtype[Any] | None:
    """Write a tensor as a numpy file.

    Args:
        store: Open.
        name: The tensor's name.
        path: Of the file to write.
        chunk: Elements decoded at once.

    Returns:
        The tensor's dtype if plain numpy can't read it back (bfloat16, 8-bit floats): then the file has float32, which
        holds every value exactly. Otherwise None.

    Raises:
        NameNotFoundError: There is no such tensor.
        UsageError, CodecError: It can't be decoded.
        OSError: Reading or writing failed.
    """
    info = store.info(name)
    own = dtype_of(info)  # or an error that says why it can't be decoded
    # numpy's file format has only numpy's own dtypes.
    foreign = not _numpy_knows(own)
    dtype: np.dtype[Any] = np.dtype(np.float32) if foreign else own
    with new_file(path) as file:
        sink = Sink(file.output(), file.path)
        sink.write(memoryview(_npy_header(dtype, info.shape)))
        starts = range(0, info.size, chunk)
        values = (elements(store, info, start, min(chunk, info.size - start)) for start in starts)
        _write((array.astype(dtype, copy=False) for array in values), sink)
    return own if foreign else None


def _write(chunks: Iterable[Buffer], sink: Sink) -> None:
    for chunk in chunks:
        sink.write(flat_bytes(chunk))
    sink.flush()


def _stored(store: Store, name: str) -> Iterator[memoryview]:
    """Yield the stored bytes of a tensor, or of a blob, in chunks."""
    if name not in store:
        yield store.raw(name)  # a blob, or an error with a hint
        return
    info = store.info(name)
    if info.blocks:  # it has no stored bytes of its own: raw says so
        yield store.raw(name)
    for start in range(0, info.element_nbytes, CHUNK_NBYTES):
        yield stored(store, info, start, min(CHUNK_NBYTES, info.element_nbytes - start))


def _numpy_knows(dtype: np.dtype[Any]) -> bool:
    """Whether a numpy file can name a dtype, so that it reads back the same."""
    try:
        return np.dtype(dtype.str) == dtype
    except TypeError:
        return False


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()
