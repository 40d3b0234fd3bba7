"""`StoreWriter`: names and arrays → a file with a name index."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.codecs import element_types
from blobstore.codecs.element_types import as_element_type
from blobstore.container.keys import OWN_KEYS
from blobstore.container.layout import MAX_BLOBS
from blobstore.container.writer import ContainerWriter, one_too_many
from blobstore.errors import UsageError
from blobstore.fileio.closing import Completing
from blobstore.fileio.ranges import CHUNK_NBYTES
from blobstore.index import Entry, blob_table, build_index, shape_fault
from blobstore.index.carried import file_key, list_files
from blobstore.index.file_names import file_clash
from blobstore.index.locate import check_place
from blobstore.index.names import encode_name, key_for
from blobstore.index.sidecar import close_with_index, refuse_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from blobstore.codecs.element_types import ElementType
    from blobstore.container.directory import Directory
    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Array, Buffer, Writable
    from blobstore.index.locate import IndexPlace


_LARGEST_F32 = float(np.finfo(np.float32).max)


class StoreWriter(Completing):
    """Write tensors under their names, one after another. `blobstore.create` makes one.

    A context manager: the file appears at its path when the ``with`` block ends without an error. An array can change
    or go once it is added, unless it was added as ``immutable``. ``name in store``, ``len(store)`` and ``list(store)``
    are about the names so far, aliases and parts included.

    Attributes:
        metadata: Text → text, written at the end.

    Example:
        >>> with blobstore.create("small.sbs") as store:
        ...     store["embed.weight"] = np.ones((4, 2), dtype=np.float32)
        ...     store.alias("head.weight", "embed.weight")
        ...     list(store)
        ['embed.weight', 'head.weight']
    """

    def __init__(
        self,
        target: Writable,
        *,
        version: int = 2,
        index: IndexPlace = "embedded",
        digests: bool = True,
        durable: bool = True,
        metadata: Mapping[str, str] | None = None,
        max_blobs: int = MAX_BLOBS,
    ) -> None:
        """Begin a file; see `blobstore.create`, and `blobstore.BlobWriter` for ``max_blobs``."""
        check_place(index)
        refuse_target(target, index)
        hashing = digests and index != "none"
        self._writer = ContainerWriter(target, version=version, digests=hashing, max_blobs=max_blobs, durable=durable)
        self._max_blobs = max_blobs
        self._index = index
        self._has_digests = digests
        self._entries: dict[str, Entry] = {}
        self._owners: dict[str, str] = {}  # key → name of its tensor, or of its file
        self._sound_shapes: set[tuple[int, ...]] = set()  # most tensors have the shape of another
        self._files: dict[str, str] = {}  # name → key
        self.metadata: dict[str, str] = dict(metadata or {})

    def add(self, name: str, array: npt.ArrayLike, *, immutable: bool = False) -> str:
        """Write a tensor.

        Args:
            name: Its full name, not used before.
            array: Of any shape, order and byte order, with a dtype that an element type stores as it is. Written in
                C order, little-endian; other arrays are converted piece by piece, not copied whole.
            immutable: The array does not change until the file is complete: it is hashed while later ones are written,
                which is faster. By default it may change, or go, once it is added.

        Returns:
            Its key; empty for a tensor without elements, which has no blob.

        Raises:
            UsageError: ``bad-name``, ``duplicate-name``, ``key-collision``, ``unsupported-dtype``, ``bad-shape``,
                ``too-many-blobs``, ``needs-index``, ``closed``; then nothing was written, and you can go on adding.

        Example:
            >>> with blobstore.create("small.sbs") as store:
            ...     store.add("w", np.ones(3)), store.add("model.layers.0.mlp.up_proj.weight", np.ones((2, 2)))
            ('w', '~v4uglmlgbajydnt')
        """
        values = as_array(name, array)
        try:
            element_type = element_types.type_of(values.dtype)
        except UsageError as error:
            raise UsageError(error.reason, f"{name!r}: {error.message}") from None
        stored = values.dtype.newbyteorder("<")
        if values.flags.c_contiguous and values.dtype == stored:
            return self.add_stored(name, (values,), element_type, values.shape, immutable=immutable)
        return self.add_stored(name, _pieces(values, stored), element_type, values.shape)

    def __setitem__(self, name: str, array: npt.ArrayLike) -> None:
        """Write a tensor, as `add` does; a name has one.

        Raises:
            UsageError: As `add`: ``duplicate-name`` for the second assignment.
        """
        self.add(name, array)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return True  # also without tensors: it is a writer

    def add_stored(
        self,
        name: str,
        data: Iterable[Buffer | FileRange],
        type: ElementType | str,  # noqa: A002 (the field's word)
        shape: tuple[int, ...],
        *,
        scale: float = 1.0,
        key: str | None = None,
        immutable: bool = False,
    ) -> str:
        """Write a tensor whose bytes are already as they are stored.

        Args:
            name: Its full name, not used before.
            data: Its bytes, in pieces.
            type: Their element type, or its name: ``"bf16"``.
            shape: In C order.
            scale: Decoded values are multiplied by it.
            key: Its key; by default `key_for` of the name.
            immutable: As in `add`, for all pieces.

        Returns:
            Its key; empty for a tensor without elements.

        Raises:
            UsageError: As `add`; ``unknown-type``; ``bad-scale``; for a key of yours as `blobstore.BlobWriter.add`, and
                ``reserved-key``; ``wrong-size`` when type and shape need another number of bytes: the file can't be
                completed after that.

        Example:
            >>> with blobstore.create("small.sbs") as store:
            ...     store.add_stored("w", [bytes(4), bytes(8)], "bf16", (2, 3))
            'w'
        """
        element_type = as_element_type(type)
        self._check_new(name, shape, scale)
        count = math.prod(shape)
        if count == 0:
            self._require_index(name)
            self._entries[name] = Entry(name, None, 0, 0, element_type.number, shape, scale)
            return ""
        key = key or key_for(name)
        self._check_new_key(key, name)
        try:
            nbytes = element_type.nbytes(count) if element_type.bits else None
            written = self._writer.add_chunks(key, data, nbytes=nbytes, immutable=immutable)
        except UsageError as error:
            if error.reason == "wrong-size":
                what = f"{name!r}, {element_type} of shape {list(shape)}"
                raise UsageError("wrong-size", f"{what}: {error.message}") from None
            raise
        self._owners[key] = name
        self._entries[name] = Entry(name, len(self._writer.keys) - 1, 0, written, element_type.number, shape, scale)
        return key

    def add_adjacent(self, tensors: Sequence[tuple[str, str, ElementType, tuple[int, ...], int]], data: Buffer) -> None:
        """Write small tensors whose bytes follow each other in memory: as `add_stored` for each, several times as fast.

        Args:
            tensors: Name, key, type, shape and size in bytes of each; all with elements, and a scale of 1.
            data: The bytes of all of them, as they are stored, or an array in C order; not kept.

        Raises:
            UsageError: As `add_stored`; nothing was written.

        Example:
            >>> info = blobstore.open("model.sbs").info("layer.bias")
            >>> with blobstore.create("small.sbs") as store:
            ...     tensor = (info.name, info.key, info.type, info.shape, info.nbytes)
            ...     store.add_adjacent([tensor], memoryview(bytes(info.nbytes)))
            ...     list(store)
            ['layer.bias']
        """
        place = len(self._writer.keys)
        added: dict[str, Entry] = {}
        owners: dict[str, str] = {}
        for name, key, element_type, shape, nbytes in tensors:
            self._check_new(name, shape, 1.0)
            self._check_new_key(key, name, more=len(added))
            if not nbytes or (element_type.bits and element_type.nbytes(math.prod(shape)) != nbytes):
                what = f"{name!r}, {element_type} of shape {list(shape)}: {nbytes} bytes were given"
                raise UsageError("wrong-size", what)
            if name in added or key in owners:
                raise UsageError("duplicate-name", f"{name!r} or its key is given twice")
            added[name] = Entry(name, place + len(added), 0, nbytes, element_type.number, shape)
            owners[key] = name
        self._writer.add_adjacent([*owners], data, [entry.nbytes for entry in added.values()])
        self._entries |= added
        self._owners |= owners

    def add_blob(self, key: str, data: Buffer | FileRange) -> None:
        """Write a blob that is not a tensor, such as the runtime's ``config``, under its key.

        Raises:
            UsageError: As `blobstore.BlobWriter.add`; ``reserved-key`` for the keys of the index and of packed files.

        Example:
            >>> with blobstore.create("small.sbs") as store:
            ...     store["w"] = np.ones(3)
            ...     store.add_blob("notes", b"not a tensor")
        """
        _check_not_reserved(key)
        self._writer.add(key, data)
        self._owners[key] = key

    def add_file(self, name: str, data: Buffer | FileRange) -> None:
        """Write a file of the model's that isn't a tensor, such as ``config.json``, so that it stays with the tensors.

        Args:
            name: Of the file, in the model's folder or in a folder of it: ``1_Pooling/config.json``. Letters, digits,
                ``.``, ``_``, ``-`` and ``+``.
            data: Its bytes; not empty.

        Raises:
            UsageError: ``bad-file-name``; ``duplicate-file``, also when only case differs; ``needs-index``; as
                `blobstore.BlobWriter.add`.

        Example:
            >>> with blobstore.create("small.sbs") as store:
            ...     store["w"] = np.ones(3)
            ...     store.add_file("config.json", b'{"model_type": "llama"}')
            >>> bytes(blobstore.open("small.sbs").files["config.json"])
            b'{"model_type": "llama"}'
        """
        key = file_key(name)
        clash = file_clash([*self._files, name])
        if clash:
            raise UsageError("duplicate-file", f"these files can't be carried together: {clash}")
        self._check_new_key(key, name)
        self._writer.add(key, data)
        self._owners[key] = name
        self._files[name] = key

    def alias(self, name: str, target: str) -> None:
        """Give a tensor that has been added another name.

        Raises:
            UsageError: ``bad-name``, ``duplicate-name``, ``needs-index``, ``closed``; ``no-target`` when no tensor has
                the name ``target``.

        Example:
            >>> with blobstore.create("small.sbs") as store:
            ...     store["embed.weight"] = np.ones((4, 2))
            ...     store.alias("head.weight", "embed.weight")
            >>> blobstore.open("small.sbs")["head.weight"].shape
            (4, 2)
        """
        entry = self._target(name, target)
        self._check_new(name, entry.shape, entry.scale)
        self._require_index(name)
        self._entries[name] = replace(entry, name=name)

    def part(
        self,
        name: str,
        target: str,
        type: ElementType | str,  # noqa: A002 (the field's word)
        shape: tuple[int, ...],
        *,
        offset: int = 0,
        scale: float = 1.0,
    ) -> None:
        """Name a range of the bytes of a tensor that has been added.

        Args:
            name: The part's name, not used before.
            target: The tensor that holds it.
            type: Element type of the part, or its name.
            shape: Its shape, in C order; it has elements.
            offset: Of its first byte, from the target's first byte.
            scale: Decoded values are multiplied by it.

        Raises:
            UsageError: As `alias`; ``unknown-type``, ``bad-shape``, ``bad-scale``; ``outside`` when the part is not
                inside the target.

        Example:
            >>> with blobstore.create("small.sbs") as store:
            ...     store["qkv.weight"] = np.arange(12, dtype=np.float32).reshape(6, 2)
            ...     store.part("k.weight", "qkv.weight", "f32", (2, 2), offset=16)
            >>> blobstore.open("small.sbs")["k.weight"].tolist()
            [[4.0, 5.0], [6.0, 7.0]]
        """
        element_type = as_element_type(type)
        entry = self._target(name, target)
        self._check_new(name, shape, scale)
        self._require_index(name)
        nbytes = element_type.nbytes(math.prod(shape))
        if not nbytes:
            raise UsageError("bad-shape", f"{name!r} has no elements: a part needs at least one")
        if offset < 0 or offset + nbytes > entry.nbytes:
            what = f"{name!r}: bytes {offset} to {offset + nbytes} are not inside {target!r}, which has {entry.nbytes}"
            raise UsageError("outside", what)
        self._entries[name] = Entry(name, entry.blob, entry.offset + offset, nbytes, element_type.number, shape, scale)

    def scale_of(self, name: str) -> float:
        """Return the scale that a tensor was added with.

        Raises:
            UsageError: ``no-target`` when no tensor has the name.

        Example:
            >>> with blobstore.create("small.sbs") as store:
            ...     key = store.add_stored("w", [bytes(4)], "sfp", (4,), scale=0.5)
            ...     store.scale_of("w")
            0.5
        """
        return self._target(name, name).scale

    def close(self) -> None:
        """Write the index and complete the file. The ``with`` block calls this.

        Raises:
            UsageError: ``no-blobs``, ``bad-metadata``, ``needs-index``; ``incomplete`` after a tensor whose data broke
                off. The file is then discarded.
            OSError: Writing failed; the file is then discarded.

        Example:
            >>> store = blobstore.create("small.sbs")
            >>> store["w"] = np.ones(3)
            >>> store.close()
            >>> list(blobstore.open("small.sbs"))
            ['w']
        """
        try:
            self._close()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Discard the file: nothing appears, nothing is left behind.

        Example:
            >>> store = blobstore.create("small.sbs")
            >>> store["w"] = np.ones(3)
            >>> store.discard()
            >>> import os
            >>> os.path.exists("small.sbs")
            False
        """
        self._writer.discard()

    def _close(self) -> None:
        writer = self._writer
        if writer.closed:
            return
        if self._index == "none" and self.metadata and not writer.broken:
            raise UsageError("needs-index", "metadata is kept in the index, and there is none")
        close_with_index(writer, self._index, self._make_index)

    def _make_index(self, store: Directory | None) -> bytes:
        table = blob_table(self._writer, digests=self._has_digests)
        # Metadata of another file may list the files of that one.
        metadata = list_files(self.metadata, self._files)
        return build_index(list(self._entries.values()), table, metadata, store=store)

    def _target(self, name: str, target: str) -> Entry:
        entry = self._entries.get(target)
        if entry is None:
            raise UsageError("no-target", f"{name!r} refers to {target!r}, which has not been added: add it first")
        return entry

    def _check_new(self, name: str, shape: tuple[int, ...], scale: float) -> None:
        if self._writer.closed:
            raise UsageError("closed", f"{name!r} can't be added: the file is complete, or was discarded")
        encode_name(name)
        if name in self._entries:
            raise UsageError("duplicate-name", f"{name!r} is already used")
        if shape not in self._sound_shapes:
            fault = shape_fault(shape)
            if fault:
                raise UsageError("bad-shape", f"{name!r} {fault}")
            self._sound_shapes.add(shape)
        if not abs(scale) <= _LARGEST_F32:  # a NaN isn't either
            raise UsageError("bad-scale", f"{name!r} has the scale {scale}, which is not a finite 32-bit float")

    def _check_new_key(self, key: str, name: str, *, more: int = 0) -> None:
        if key != name:
            self._require_index(name)
        if key in self._owners:
            raise UsageError(
                "key-collision", f"{name!r} and {self._owners[key]!r} both have the key {key!r}: rename one"
            )
        _check_not_reserved(key)
        if len(self._writer.keys) + more >= self._max_blobs - (self._index == "embedded"):
            raise one_too_many(name, self._max_blobs)

    def _require_index(self, name: str) -> None:
        if self._index == "none":
            raise UsageError("needs-index", f"{name!r} needs a name index, and this file is written without one")


def _check_not_reserved(key: str) -> None:
    if key in OWN_KEYS:
        raise UsageError("reserved-key", f"{key!r} is reserved for blobstore's own data: use another key")


def as_array(name: str, array: npt.ArrayLike) -> Array:
    """Return a tensor as a numpy array; a view where numpy can make one.

    Raises:
        UsageError: ``unsupported-dtype``; the message names the tensor.
    """
    # numpy imports its masked arrays when they are first asked for: 6 ms.
    if type(array) is not np.ndarray and isinstance(array, np.ma.MaskedArray):
        raise UsageError("unsupported-dtype", f"{name!r} is a masked array: fill it first, array.filled(value)")
    try:
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:  # torch.bfloat16, ragged lists
        raise UsageError("unsupported-dtype", f"{name!r} can't be converted to a numpy array: {error}") from None


def _pieces(array: Array, stored: np.dtype[np.generic]) -> Iterator[Array]:
    """Yield an array's elements in C order and in the stored byte order, through one small buffer."""
    contiguous: Any = "contig"  # missing from numpy's own type hints
    pieces = np.nditer(
        [array.reshape(1) if array.ndim == 0 else array],  # numpy before 2.3 never fills the buffer of a 0-d array
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["readonly", contiguous]],
        op_dtypes=[stored],
        order="C",
        casting="equiv",
        buffersize=max(1, CHUNK_NBYTES // 4 // array.itemsize),
    )
    for piece in pieces:
        yield np.ascontiguousarray(piece)
