"""`StoreWriter`: names and arrays → a file with a name index."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from blobstore.codecs import element_types
from blobstore.container.keys import INDEX_KEY, OWN_KEYS
from blobstore.container.layout import MAX_PORTABLE_BLOBS
from blobstore.container.writer import ContainerWriter
from blobstore.errors import UsageError
from blobstore.fileio.closing import Completing
from blobstore.fileio.ranges import CHUNK_NBYTES
from blobstore.index import Entry, IndexedBlob, build_index, shape_fault
from blobstore.index.names import encode_name, key_for
from blobstore.index.sidecar import close_with_index, close_with_index_inside, close_without_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike
    from typing import BinaryIO

    import numpy.typing as npt

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Array, Buffer


_LARGEST_F32 = float(np.finfo(np.float32).max)

IndexPlace = Literal["embedded", "external", "none"]


class StoreWriter(Completing):
    """Write tensors under their names, one after another. `blobstore.create` makes one.

    A context manager: the file appears under its name when the ``with`` block ends without an error. Nothing is kept
    of an array once it is added, unless it is said to last.

    Attributes:
        metadata: Text → text, written at the end.
    """

    def __init__(
        self,
        target: str | PathLike[str] | BinaryIO,
        *,
        version: int = 2,
        index: IndexPlace = "embedded",
        digests: bool = True,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Begin a file; see `blobstore.create`."""
        if index not in get_args(IndexPlace):
            raise UsageError("bad-index", f"expected one of {', '.join(get_args(IndexPlace))}, found {index!r}")
        if index == "external" and not isinstance(target, (str, os.PathLike)):
            raise UsageError("needs-path", "an external index stands beside its file: a stream has no such place")
        self._writer = ContainerWriter(target, version=version, digests=digests and index != "none")
        self._path = target if isinstance(target, (str, os.PathLike)) else None
        self._index = index
        self._has_digests = digests
        self._entries: dict[str, Entry] = {}
        self._owners: dict[str, str] = {}  # key → the name that it was given to
        self.metadata = dict(metadata or {})

    def add(self, name: str, array: npt.ArrayLike, *, immutable: bool = False) -> str:
        """Write a tensor.

        Args:
            name: Its full name, not used before.
            array: Of any shape, order and byte order, with a dtype that an element type stores as it is. Written in
                C order, little-endian; other arrays are turned piece by piece, not copied whole.
            immutable: It does not change until the file is complete: it is hashed while later ones are written, which
                is faster. Else it may change, or go, once it is added.

        Returns:
            The key it got; empty for a tensor without elements, which has no blob.

        Raises:
            UsageError: ``bad-name``, ``duplicate-name``, ``key-collision``, ``unsupported-dtype``, ``bad-shape``,
                ``too-many-blobs``, ``needs-index``, ``closed``; nothing was written then, and the writer goes on.
        """
        values = as_array(name, array)
        try:
            kind = element_types.type_of(values.dtype)
        except UsageError as error:
            raise UsageError(error.reason, f"{name!r}: {error.message}") from None
        stored = values.dtype.newbyteorder("<")
        if values.flags.c_contiguous and values.dtype == stored:
            return self.add_stored(name, (values,), kind, values.shape, immutable=immutable)
        return self.add_stored(name, _pieces(values, stored), kind, values.shape)

    def add_stored(
        self,
        name: str,
        data: Iterable[Buffer | FileRange],
        kind: ElementType,
        shape: tuple[int, ...],
        *,
        scale: float = 1.0,
        key: str | None = None,
        immutable: bool = False,
    ) -> str:
        """Write a tensor whose bytes are in their stored form already.

        Args:
            name: Its full name, not used before.
            data: Its bytes, in pieces.
            kind: The element type that they have.
            shape: In C order.
            scale: Decoded values are multiplied by it.
            key: To store it under, when it isn't `key_for` of the name.
            immutable: As `ContainerWriter.add_chunks` has it.

        Returns:
            The key it got; empty for a tensor without elements.

        Raises:
            UsageError: As `add`; ``bad-scale``; ``wrong-size`` when the bytes are not what type and shape say: then
                the file can't be completed any more.
        """
        self._check_new(name, shape, scale)
        count = math.prod(shape)
        if count == 0:
            self._needs_index(name)
            self._entries[name] = Entry(name, None, 0, 0, kind.number, shape, scale)
            return ""
        key = key or key_for(name)
        if key != name:
            self._needs_index(name)
        if key in self._owners:
            raise UsageError(
                "key-collision", f"{name!r} and {self._owners[key]!r} both have the key {key!r}: rename one"
            )
        if key in OWN_KEYS:
            raise UsageError("reserved-key", f"{key!r} is a key of blobstore's own: it is never a tensor's")
        if len(self._writer.keys) >= MAX_PORTABLE_BLOBS - (self._index == "embedded"):
            what = f"one more than the {MAX_PORTABLE_BLOBS} blobs that every gemma.cpp takes"
            raise UsageError("too-many-blobs", f"{name!r} would be {what}")
        try:
            nbytes = kind.nbytes(count) if kind.bits else None
            written = self._writer.add_chunks(key, data, nbytes=nbytes, immutable=immutable)
        except UsageError as error:
            if error.reason == "wrong-size":
                raise UsageError("wrong-size", f"{name!r}, {kind} of shape {list(shape)}: {error.message}") from None
            raise
        self._owners[key] = name
        self._entries[name] = Entry(name, len(self._writer.keys) - 1, 0, written, kind.number, shape, scale)
        return key

    def add_blob(self, key: str, data: Buffer | FileRange) -> None:
        """Write a blob that is no tensor, such as the runtime's ``config``, under its key.

        Raises:
            UsageError: As `ContainerWriter.add`; ``reserved-key`` for the index's own, and those of a packed file.
        """
        if key in OWN_KEYS:
            raise UsageError("reserved-key", f"{key!r} is a key of blobstore's own: it is never a tensor's")
        self._writer.add(key, data)
        self._owners[key] = key

    def alias(self, name: str, target: str) -> None:
        """Give a tensor that is written already one more name.

        Raises:
            UsageError: ``bad-name``, ``duplicate-name``; ``no-target`` when no tensor has the name ``target``.
        """
        entry = self._target(name, target)
        self._check_new(name, entry.shape, entry.scale)
        self._needs_index(name)
        self._entries[name] = Entry(
            name, entry.blob, entry.offset, entry.nbytes, entry.type, entry.shape, entry.scale, entry.codec
        )

    def part(
        self, name: str, target: str, kind: ElementType, shape: tuple[int, ...], *, offset: int = 0, scale: float = 1.0
    ) -> None:
        """Give a range of a written tensor's bytes a name of its own.

        Args:
            name: The part's name, not used before.
            target: The tensor that holds it.
            kind: Element type of the part.
            shape: Its shape, in C order; with elements.
            offset: Of its first byte, from the target's first byte.
            scale: Decoded values are multiplied by it.

        Raises:
            UsageError: As `alias`; ``outside`` when the part leaves the target.
        """
        entry = self._target(name, target)
        self._check_new(name, shape, scale)
        self._needs_index(name)
        nbytes = kind.nbytes(math.prod(shape))
        if not nbytes:
            raise UsageError("bad-shape", f"{name!r} has no elements: a part has some")
        if offset < 0 or offset + nbytes > entry.nbytes:
            what = f"{name!r}: bytes {offset} to {offset + nbytes} are not inside {target!r}, which has {entry.nbytes}"
            raise UsageError("outside", what)
        self._entries[name] = Entry(name, entry.blob, entry.offset + offset, nbytes, kind.number, shape, scale)

    def scale_of(self, name: str) -> float:
        """Return the scale that a tensor was added with.

        Raises:
            UsageError: ``no-target`` when no tensor has the name.
        """
        return self._target(name, name).scale

    def close(self) -> None:
        """Write the index, complete the file and give it its name. Called by the ``with`` block.

        Raises:
            UsageError: ``no-blobs``, ``bad-metadata``, ``needs-index``; ``incomplete`` after a tensor broke off. The
                file is given up then.
        """
        try:
            self._close()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Give the file up: nothing appears, nothing is left behind."""
        self._writer.discard()

    def _close(self) -> None:
        writer = self._writer
        if writer.closed:
            return
        if writer.broken:
            writer.close()  # says so
        if self._index == "none":
            if self.metadata:
                raise UsageError("needs-index", "metadata is kept in the index, and there is none")
            if self._path is None:
                writer.close()
            else:
                close_without_index(writer, self._path, writer.directory)
            return
        digests = writer.digests() if self._has_digests else [None] * len(writer.keys)
        keys = writer.encoded_keys
        table = [IndexedBlob(*row) for row in zip(keys, writer.sizes, digests, strict=True)]
        entries = list(self._entries.values())
        if self._index == "embedded" or self._path is None:
            writer.add(INDEX_KEY, build_index(entries, table, self.metadata))
            if self._path is None:
                writer.close()
            else:
                close_with_index_inside(writer, self._path)
            return
        if not keys:
            raise UsageError("no-blobs", "a container has at least one blob, and the index is to stand beside it")
        directory = writer.directory()
        raw = build_index(entries, table, self.metadata, store=directory)
        close_with_index(writer, self._path, raw, directory)

    def _target(self, name: str, target: str) -> Entry:
        entry = self._entries.get(target)
        if entry is None:
            raise UsageError("no-target", f"{name!r} can't stand for {target!r}, which was not added: add it first")
        return entry

    def _check_new(self, name: str, shape: tuple[int, ...], scale: float) -> None:
        if self._writer.closed:
            raise UsageError("closed", f"{name!r} comes too late: this file is written already, or was given up")
        encode_name(name)
        if name in self._entries:
            raise UsageError("duplicate-name", f"{name!r} is used already")
        fault = shape_fault(shape)
        if fault:
            raise UsageError("bad-shape", f"{name!r} {fault}")
        if not abs(scale) <= _LARGEST_F32:  # NaN isn't, either
            raise UsageError("bad-scale", f"{name!r} has the scale {scale}, which is no finite 32-bit float")

    def _needs_index(self, name: str) -> None:
        if self._index == "none":
            raise UsageError("needs-index", f"{name!r} can only be kept by an index, and there is none")


def as_array(name: str, array: npt.ArrayLike) -> Array:
    """View a tensor as numpy sees it.

    Raises:
        UsageError: ``unsupported-dtype``; the message names the tensor.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise UsageError("unsupported-dtype", f"{name!r} is a masked array: fill it first, array.filled(value)")
    try:
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:  # torch.bfloat16, ragged lists
        raise UsageError("unsupported-dtype", f"{name!r} can't be seen as a numpy array: {error}") from None


def _pieces(array: Array, stored: np.dtype[np.generic]) -> Iterator[Array]:
    """Yield an array's elements in C order, in another byte order, through one small buffer."""
    contiguous: Any = "contig"  # numpy's own types don't have it
    pieces = np.nditer(
        [array.reshape(1) if array.ndim == 0 else array],  # before 2.3 numpy's buffer of a single value is never filled
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["readonly", contiguous]],
        op_dtypes=[stored],
        order="C",
        casting="equiv",
        buffersize=max(1, CHUNK_NBYTES // 4 // array.itemsize),
    )
    for piece in pieces:
        yield np.ascontiguousarray(piece)
