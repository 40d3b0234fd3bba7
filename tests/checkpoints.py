"""Checkpoints on disk: written by the peer `safetensors`, with our own header, or by hand; and what the peer says."""

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
    from collections.abc import Mapping, Sequence
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

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def plain(array: Array) -> Array:
    """The same values in C order, little-endian, as safetensors takes them (ascontiguousarray would lose 0-d)."""
    return np.array(array, dtype=array.dtype.newbyteorder("<"), order="C")


# A checkpoint's tensors: any names and dtypes, some without elements, at least one with.
tensor_maps = st.dictionaries(names, arrays().map(plain), max_size=5).map(
    lambda drawn: drawn | {"first": np.arange(3, dtype=np.int32)}
)


def small(*names_: str) -> dict[str, Array]:
    """A tensor of four bytes, different from the others, under each name."""
    return {name: np.array([place], dtype=np.int32) for place, name in enumerate(names_, 1)}


def write_peer(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """Write a file with safetensors itself."""
    save_file(dict(tensors), path, metadata)
    return path


def write_own(
    path: Path,
    tensors: Mapping[str, tuple[ElementType, tuple[int, ...], bytes]],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a file with `dump_header`: also what numpy has no dtype for."""
    header = dump_header(((name, kind, shape) for name, (kind, shape, _) in tensors.items()), metadata)
    path.write_bytes(header + b"".join(data for _, _, data in tensors.values()))
    return path


def own(tensors: Tensors) -> dict[str, tuple[ElementType, tuple[int, ...], bytes]]:
    """Arrays as `write_own` takes them."""
    return {name: (type_of(one.dtype), one.shape, one.tobytes()) for name, one in tensors.items()}


def write_shards(folder: Path, shards: Sequence[Tensors], metadata: dict[str, str] | None = None) -> Path:
    """Write one file for each map and the index that lists them all → the index."""
    folder.mkdir(exist_ok=True)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_peer(folder / file, tensors, metadata)
        weight_map |= dict.fromkeys(tensors, file)
    return write_index(folder, weight_map)


def write_index(folder: Path, weight_map: object) -> Path:
    """Write an index of shards."""
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return path


def write_config(folder: Path, config: object) -> None:
    """Write the config.json of a checkpoint."""
    (folder / "config.json").write_text(json.dumps(config))


def sparse_checkpoint(path: Path, nbytes: int, count: int = 1) -> Path:
    """Write a checkpoint of tensors of zeros that takes no room on the disk."""
    kind = type_of(np.dtype(np.uint8))
    header = dump_header((f"model.layers.{i}.weight", kind, (nbytes // count,)) for i in range(count))
    path.write_bytes(header)
    os.truncate(path, len(header) + nbytes // count * count)
    return path


def raw_file(header: str | bytes, data: bytes = b"") -> bytes:
    """A file with this header, right or wrong."""
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + data


def parse(raw: bytes) -> SafetensorsHeader:
    """What we say of a file; fails when a byte outside it is asked for."""

    def read(offset: int, nbytes: int) -> bytes:
        assert offset >= 0
        assert nbytes >= 0
        assert offset + nbytes <= len(raw)
        return raw[offset : offset + nbytes]

    return parse_header(read, len(raw))


def said_by_us(raw: bytes) -> tuple[Said, dict[str, str]]:
    """Tensors and metadata of a file."""
    header = parse(raw)
    said = {
        one.name: (str(one.type.safetensors), one.shape, raw[one.offset : one.offset + one.nbytes])
        for one in header.entries
    }
    assert len(said) == len(header.entries)
    return said, header.metadata


def said_by_peer(raw: bytes, path: Path) -> tuple[Said, dict[str, str]]:
    """The same by safetensors; ``path`` is written, since its ``safe_open`` takes no bytes.

    Raises:
        SafetensorError: It refuses the file.
    """
    path.write_bytes(raw)
    with safetensors.safe_open(path, "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        kinds = {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
        metadata = file.metadata() or {}
    data = {name: bytes(one["data"]) for name, one in safetensors.deserialize(raw)}  # type: ignore[no-untyped-call]
    assert set(data) == set(kinds)
    return {name: (*kinds[name], data[name]) for name in kinds}, metadata


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes, hidden ones as well; pipes and folders by name."""
    found = sorted(folder.rglob("*"))
    return {
        str(one.relative_to(folder)): one.read_bytes() if stat.S_ISREG(one.lstat().st_mode) else b"" for one in found
    }
