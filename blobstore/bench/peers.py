"""Other formats: the same tensors, written and read by the library that most people use for them.

None is compressed: weights hardly shrink, and reading is what is compared. Types that a format lacks are stored as
unsigned integers of the same width.
"""

from __future__ import annotations

import json
import struct
import zipfile
from importlib import metadata, util
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from blobstore.bench.cases import CASES, Format
from blobstore.bench.names import GGUF, HDF5, LMDB, NPZ, SAFETENSORS, ZARR
from blobstore.checkpoint.safetensors import dump_header
from blobstore.codecs.element_types import type_of
from blobstore.fileio.atomic import AtomicFile
from blobstore.fileio.ranges import flat_bytes
from blobstore.fileio.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blobstore.bench.cases import Entry, Wanted
    from blobstore.fileio.types import Array

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_COPIES = tuple(case for case in CASES if case != "map")


def _as_bits(array: Array) -> Array:
    """View an array as unsigned integers of the same width, for formats that lack its type."""
    return array.view(np.dtype(f"<u{array.dtype.itemsize}"))


def _is_numpys_own(dtype: np.dtype[Any]) -> bool:
    """Whether a type is numpy's own, not one that ml_dtypes registers."""
    return dtype.type.__module__ == "numpy"


class Peer(Format):
    """Another project's format.

    Attributes:
        distribution: Distribution of its library, whose version is reported.
        module: Module to import.
        suffix: Of its files.
        own: Bytes that it takes for each tensor besides the values, at most; for estimating the disk space.
    """

    distribution: str
    module: str
    suffix: str
    own: int = 4096

    @property
    def installed(self) -> bool:
        """Whether its library is installed."""
        return util.find_spec(self.module) is not None

    @property
    def version(self) -> str:
        """Version of its library."""
        return metadata.version(self.distribution)

    def held(self, array: Array) -> Array:
        """Return an array in a type of the format, with the same bytes."""
        return array if _is_numpys_own(array.dtype) else _as_bits(array)


class Safetensors(Peer):
    """safetensors by ``safe_open``, for numpy; it doesn't return mapped arrays."""

    name = SAFETENSORS
    distribution = module = "safetensors"
    suffix = ".safetensors"
    cases = _COPIES
    mapped = False

    def held(self, array: Array) -> Array:
        """Return an array; its numpy side has bfloat16, but not the 8-bit floats."""
        return array if array.dtype == _BFLOAT16 else super().held(array)

    def write(self, path: str, tensors: Iterable[tuple[str, Array]]) -> None:
        """Write a file ourselves, because the library needs all tensors in memory."""
        held = [(name, self.held(array)) for name, array in tensors]
        with AtomicFile(path) as target:
            sink = Sink(target.fileno())
            sink.write(memoryview(dump_header((name, type_of(array.dtype), array.shape) for name, array in held)))
            for _, array in held:
                sink.write(flat_bytes(array))
            sink.flush()

    def save(self, path: str, tensors: Mapping[str, Array]) -> None:
        """Write a file with the library."""
        from safetensors.numpy import save_file

        save_file({name: self.held(array) for name, array in tensors.items()}, path)

    def open(self, path: str) -> Any:  # noqa: ANN401
        """Open it."""
        from safetensors import safe_open

        return safe_open(path, "np")

    def names(self, opened: Any) -> list[str]:  # noqa: ANN401
        """Return all names."""
        return list(opened.keys())

    def entries(self, opened: Any) -> list[Entry]:  # noqa: ANN401
        """Return each tensor's entry."""
        return [self.entry(opened, name) for name in opened.keys()]  # noqa: SIM118 (it isn't a mapping)

    def entry(self, opened: Any, name: str) -> Entry:  # noqa: ANN401
        """Return one tensor's entry."""
        part = opened.get_slice(name)
        return name, part.get_dtype(), tuple(part.get_shape())

    def view(self, opened: Any, name: str) -> Array:  # noqa: ANN401
        """Return a copy."""
        array: Array = opened.get_tensor(name)
        return array

    def load_all(self, opened: Any, wanted: Wanted) -> object:  # noqa: ANN401
        """Return all tensors like ``load_file``, which has a call of its own since version 0.8."""
        return opened.get_tensors() if hasattr(opened, "get_tensors") else super().load_all(opened, wanted)


class Npz(Peer):
    """numpy's own archive, as ``numpy.savez`` writes it."""

    name = NPZ
    distribution = module = "numpy"
    suffix = ".npz"
    cases = _COPIES
    mapped = False

    def write(self, path: str, tensors: Iterable[tuple[str, Array]]) -> None:
        """Write a file member by member, because ``savez`` takes names as keywords, which excludes some."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, array in tensors:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, self.held(array), allow_pickle=False)

    def open(self, path: str) -> Any:  # noqa: ANN401
        """Open it."""
        return np.load(path)

    def names(self, opened: Any) -> list[str]:  # noqa: ANN401
        """Return all names."""
        return list(opened.files)

    def entries(self, opened: Any) -> list[Entry]:  # noqa: ANN401
        """Return each tensor's entry."""
        return [self.entry(opened, name) for name in opened.files]

    def entry(self, opened: Any, name: str) -> Entry:  # noqa: ANN401
        """Return one tensor's entry: the archive only has names, type and shape precede the values."""
        with opened.zip.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(member)
        return name, str(dtype), shape

    def view(self, opened: Any, name: str) -> Array:  # noqa: ANN401
        """Return a copy."""
        array: Array = opened[name]
        return array


class Gguf(Peer):
    """GGUF by the gguf package, whose reader maps."""

    name = GGUF
    distribution = module = "gguf"
    suffix = ".gguf"

    # It has no unsigned integers; signed ones store the same bytes.
    _TYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64")

    def held(self, array: Array) -> Array:
        """Return an array; the format has bfloat16, floats, and signed integers."""
        if array.dtype == _BFLOAT16 or array.dtype.name in self._TYPES:
            return array
        return array.view(np.dtype(f"<i{array.dtype.itemsize}"))

    def write(self, path: str, tensors: Iterable[tuple[str, Array]]) -> None:
        """Write a file."""
        from gguf import GGMLQuantizationType, GGUFWriter

        writer = GGUFWriter(path, "blobstore")
        try:
            for name, array in tensors:
                held = self.held(array)
                # bfloat16 is passed as bits, with its type.
                quantization = GGMLQuantizationType.BF16 if held.dtype == _BFLOAT16 else None
                writer.add_tensor(name, _as_bits(held) if quantization else held, raw_dtype=quantization)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    def open(self, path: str) -> Any:  # noqa: ANN401
        """Open it; the reader only has a list of tensors, so put the names into a dict."""
        from gguf import GGUFReader

        return {tensor.name: tensor for tensor in GGUFReader(path).tensors}

    def names(self, opened: Any) -> list[str]:  # noqa: ANN401
        """Return all names."""
        return list(opened)

    def entries(self, opened: Any) -> list[Entry]:  # noqa: ANN401
        """Return each tensor's entry."""
        return [self.entry(opened, name) for name in opened]

    def entry(self, opened: Any, name: str) -> Entry:  # noqa: ANN401
        """Return one tensor's entry."""
        tensor = opened[name]
        return name, tensor.tensor_type.name, tuple(reversed(tensor.shape.tolist()))

    def view(self, opened: Any, name: str) -> Array:  # noqa: ANN401
        """Return a view into the map."""
        array: Array = opened[name].data
        return array


class Hdf5(Peer):
    """HDF5 by h5py, each tensor in one piece (contiguous)."""

    name = HDF5
    distribution = module = "h5py"
    suffix = ".h5"
    cases = _COPIES
    mapped = False

    def write(self, path: str, tensors: Iterable[tuple[str, Array]]) -> None:
        """Write a file."""
        import h5py

        with h5py.File(path, "w") as file:
            for name, array in tensors:
                file.create_dataset(name, data=self.held(array))

    def open(self, path: str) -> Any:  # noqa: ANN401
        """Open it."""
        import h5py

        return h5py.File(path, "r")

    def entries(self, opened: Any) -> list[Entry]:  # noqa: ANN401
        """Return what is known of each tensor; a slash in a name makes a group."""
        entries: list[Entry] = []
        opened.visititems(
            lambda name, item: entries.append((name, str(item.dtype), item.shape)) if hasattr(item, "dtype") else None
        )
        return entries

    def entry(self, opened: Any, name: str) -> Entry:  # noqa: ANN401
        """Return one tensor's entry."""
        item = opened[name]
        return name, str(item.dtype), item.shape

    def view(self, opened: Any, name: str) -> Array:  # noqa: ANN401
        """Return a copy."""
        return np.asarray(opened[name][()])


class Zarr(Peer):
    """zarr, version 3 of the format: a folder with a file for each chunk, whose size zarr chooses."""

    name = ZARR
    distribution = module = "zarr"
    suffix = ".zarr"
    cases = _COPIES
    mapped = False
    own = 16384  # two small files and two folders, in blocks

    def write(self, path: str, tensors: Iterable[tuple[str, Array]]) -> None:
        """Write a folder."""
        import zarr

        group = zarr.create_group(path)
        for name, array in tensors:
            group.create_array(name, data=self.held(array), compressors=None)

    def open(self, path: str) -> Any:  # noqa: ANN401
        """Open it."""
        import zarr

        return zarr.open_group(path, mode="r")

    def entries(self, opened: Any) -> list[Entry]:  # noqa: ANN401
        """Return each tensor's entry."""
        members = opened.members(max_depth=None)
        return [(name, str(member.dtype), member.shape) for name, member in members if hasattr(member, "dtype")]

    def entry(self, opened: Any, name: str) -> Entry:  # noqa: ANN401
        """Return one tensor's entry."""
        item = opened[name]
        return name, str(item.dtype), item.shape

    def view(self, opened: Any, name: str) -> Array:  # noqa: ANN401
        """Return a copy."""
        return np.asarray(opened[name][...])


class Lmdb(Peer):
    """LMDB by the lmdb package, mapped: a name's value is a header with type and shape, then the values.

    Headers are multiples of 64 bytes. The database only stores bytes; names have at most 511.
    """

    name = LMDB
    distribution = module = "lmdb"
    suffix = ".lmdb"

    _MAP_NBYTES = 1 << 40  # of address space, which a 64-bit system has; the file only takes what is written
    _SIZE = struct.Struct("<I")

    def write(self, path: str, tensors: Iterable[tuple[str, Array]]) -> None:
        """Write a file, in one transaction."""
        import lmdb

        with (
            lmdb.open(path, subdir=False, lock=False, map_size=self._MAP_NBYTES) as database,
            database.begin(write=True) as transaction,
        ):
            for name, array in tensors:
                held = self.held(array)
                transaction.put(name.encode(), self._header(held) + flat_bytes(held))

    def _header(self, array: Array) -> bytes:
        text = json.dumps([array.dtype.str, array.shape]).encode()
        nbytes = -(-(self._SIZE.size + len(text)) // 64) * 64
        return (self._SIZE.pack(nbytes) + text).ljust(nbytes)

    def open(self, path: str) -> Any:  # noqa: ANN401
        """Open it, and begin the transaction that views belong to."""
        import lmdb

        database = lmdb.open(path, subdir=False, lock=False, readonly=True)
        return database, database.begin(buffers=True)

    def names(self, opened: Any) -> list[str]:  # noqa: ANN401
        """Return all names."""
        return [bytes(name).decode() for name in opened[1].cursor().iternext(values=False)]

    def entries(self, opened: Any) -> list[Entry]:  # noqa: ANN401
        """Return each tensor's entry."""
        return [self.entry(opened, name) for name in self.names(opened)]

    def entry(self, opened: Any, name: str) -> Entry:  # noqa: ANN401
        """Return one tensor's entry."""
        dtype, shape, _ = self._value(opened, name)
        return name, str(dtype), shape

    def view(self, opened: Any, name: str) -> Array:  # noqa: ANN401
        """Return a view into the map."""
        dtype, shape, values = self._value(opened, name)
        return np.frombuffer(values, dtype).reshape(shape)

    def _value(self, opened: Any, name: str) -> tuple[np.dtype[Any], tuple[int, ...], memoryview]:  # noqa: ANN401
        value: memoryview = opened[1].get(name.encode())
        (nbytes,) = self._SIZE.unpack_from(value)
        dtype, shape = json.loads(bytes(value[self._SIZE.size : nbytes]))
        return np.dtype(dtype), tuple(shape), value[nbytes:]


PEERS = {peer.name: peer for peer in (Safetensors(), Npz(), Gguf(), Hdf5(), Zarr(), Lmdb())}


def differing(peer: Format, path: str, tensors: Iterable[tuple[str, Array]]) -> str | None:
    """Return the first name whose bytes differ in a format's file; None if all are the same."""
    opened = peer.open(path)
    names = {entry[0] for entry in peer.entries(opened)}
    for name, array in tensors:
        if name not in names:
            return name
        data = flat_bytes(np.ascontiguousarray(peer.view(opened, name)))
        # As arrays: Python compares memory byte by byte.
        if not np.array_equal(np.frombuffer(data, np.uint8), np.frombuffer(flat_bytes(array), np.uint8)):
            return name
    return None
