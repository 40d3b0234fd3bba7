"""Checkpoints on disk, written by the peer `safetensors`, with our own header, or by hand; and what the peer reads."""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors
from hypothesis import strategies as st
from safetensors.numpy import save_file

from blobstore.checkpoint.safetensors import dump_header, parse_header
from blobstore.codecs.element_types import type_of
from tests.tensor_strategies import arrays, names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.checkpoint.safetensors import SafetensorsHeader
    from blobstore.codecs.element_types import ElementType

    Array = npt.NDArray[Any]
    Tensors = Mapping[str, Array]
    Said = dict[str, tuple[str, tuple[int, ...], bytes]]  # name → type in safetensors' words, shape, bytes

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"  # in the place of a file

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")


def plain(array: Array) -> Array:
    """Return the values in C order, little-endian, as safetensors takes them (ascontiguousarray would make 0-d 1-d)."""
    return np.array(array, dtype=array.dtype.newbyteorder("<"), order="C")


# A checkpoint's tensors: any names and dtypes. Some may have no elements, one has.
tensor_maps = st.dictionaries(names, arrays().map(plain), max_size=5).map(
    lambda drawn: drawn | {"first": np.arange(3, dtype=np.int32)}
)


def small(*names_: str) -> dict[str, Array]:
    """Return a tensor of four bytes under each name, no two of them the same."""
    return {name: np.array([place], dtype=np.int32) for place, name in enumerate(names_, 1)}


def write_peer(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """Write a file with safetensors itself, and return its path."""
    save_file(dict(tensors), path, metadata)
    return path


def write_own(
    path: Path,
    tensors: Mapping[str, tuple[ElementType, tuple[int, ...], bytes]],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a file with `dump_header`, which takes types that numpy has no dtype for, and return its path."""
    header = dump_header(((name, element_type, shape) for name, (element_type, shape, _) in tensors.items()), metadata)
    path.write_bytes(header + b"".join(data for _, _, data in tensors.values()))
    return path


def own(tensors: Tensors) -> dict[str, tuple[ElementType, tuple[int, ...], bytes]]:
    """Return arrays as `write_own` takes them."""
    return {name: (type_of(array.dtype), array.shape, array.tobytes()) for name, array in tensors.items()}


def write_shards(folder: Path, shards: Sequence[Tensors], metadata: dict[str, str] | None = None) -> Path:
    """Write a file for each map and the index that lists them all, and return the index's path."""
    folder.mkdir(exist_ok=True)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_peer(folder / file, tensors, metadata)
        weight_map |= dict.fromkeys(tensors, file)
    return write_index(folder, weight_map)


def write_index(folder: Path, weight_map: object) -> Path:
    """Write an index of shards, and return its path."""
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return path


def write_config(folder: Path, config: object) -> None:
    """Write the config.json of a checkpoint."""
    (folder / "config.json").write_text(json.dumps(config))


def sparse_checkpoint(path: Path, nbytes: int, count: int = 1) -> Path:
    """Write a checkpoint of zeros that takes no space on the disk, and return its path."""
    element_type = type_of(np.dtype(np.uint8))
    header = dump_header((f"model.layers.{i}.weight", element_type, (nbytes // count,)) for i in range(count))
    path.write_bytes(header)
    os.truncate(path, len(header) + nbytes // count * count)
    return path


def raw_file(header: str | bytes, data: bytes = b"") -> bytes:
    """Return a file with this header, right or wrong."""
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + data


def reader_of(raw: bytes) -> Callable[[int, int], bytes]:
    """Return what reads so many of the bytes at an offset; it fails when asked for a byte outside them."""

    def read(offset: int, nbytes: int) -> bytes:
        assert offset >= 0
        assert nbytes >= 0
        assert offset + nbytes <= len(raw)
        return raw[offset : offset + nbytes]

    return read


def parse(raw: bytes) -> SafetensorsHeader:
    """Parse a file with our reader; fails when it asks for a byte outside the file."""
    return parse_header(reader_of(raw), len(raw))


def said_by_us(raw: bytes) -> tuple[Said, dict[str, str]]:
    """Return tensors and metadata of a file, read by us."""
    header = parse(raw)
    tensors = {
        entry.name: (str(entry.type.safetensors), entry.shape, raw[entry.offset : entry.offset + entry.nbytes])
        for entry in header.entries
    }
    assert len(tensors) == len(header.entries)
    return tensors, header.metadata


def said_by_peer(raw: bytes, path: Path) -> tuple[Said, dict[str, str]]:
    """Return the same, read by safetensors; ``path`` is written, since its ``safe_open`` takes no bytes.

    Raises:
        SafetensorError: It refuses the file.
    """
    path.write_bytes(raw)
    with safetensors.safe_open(path, "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is not a mapping)
        types = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
        metadata = file.metadata() or {}
    data = {name: bytes(part["data"]) for name, part in safetensors.deserialize(raw)}  # type: ignore[no-untyped-call]
    assert set(data) == set(types)
    return {name: (*types[name], data[name]) for name in types}, metadata


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its bytes, hidden ones as well; pipes and folders without."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else b""
        for path in sorted(folder.rglob("*"))
    }
