"""A .gguf file: its tensors and metadata, read by the package gguf; for listing."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from blobstore.errors import BlobStoreError, FormatError, MissingExtraError, TruncatedError, in_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from os import PathLike

    from blobstore.fileio.types import Array

_CHUNK = 1 << 20  # elements
_MOST_LISTED = 64  # of an array in the metadata: vocabularies have 256,000
_INT8 = {"i8": "int8"}  # blobstore's i8 is an encoding of gemma.cpp


@dataclass(frozen=True)
class GgufEntry:
    """One tensor of a .gguf file.

    Attributes:
        name: Its name.
        type: Of GGUF, in small letters: ``f32``, ``q4_k``; ``int8`` for its I8.
        shape: In C order, which is the reverse of GGUF's.
        offset: Of its first byte, from the beginning of the file.
        nbytes: Its size.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    """A .gguf file.

    Attributes:
        path: As given.
        version: Of the format.
        entries: Its tensors, by name, in the file's order.
        metadata: Key → a text, number, truth value, or a list of such; a long list as words.
    """

    path: str
    version: int
    entries: Mapping[str, GgufEntry]
    metadata: Mapping[str, Any]
    _tensors: Mapping[str, Any]

    def chunks(self, name: str) -> Iterator[Array] | None:
        """Return a tensor's values in pieces of about a million; None where the package gguf can't decode them."""
        from gguf import GGML_QUANT_SIZES  # noqa: PLC0415 (an extra)
        from gguf.quants import dequantize  # noqa: PLC0415

        tensor = self._tensors[name]
        if self.entries[name].type == "bf16":
            flat = tensor.data.reshape(-1).view(ml_dtypes.bfloat16)
            return (flat[start : start + _CHUNK] for start in range(0, len(flat), _CHUNK))
        count, nbytes = GGML_QUANT_SIZES[tensor.tensor_type]
        if count == 1:
            flat = tensor.data.reshape(-1)
            return (flat[start : start + _CHUNK] for start in range(0, len(flat), _CHUNK))
        blocks, step = tensor.data.reshape(-1, nbytes), max(1, _CHUNK // count)
        try:
            dequantize(blocks[:1], tensor.tensor_type)
        except NotImplementedError:
            return None
        return (
            dequantize(blocks[start : start + step], tensor.tensor_type).reshape(-1)
            for start in range(0, len(blocks), step)
        )


def open_gguf(path: str | PathLike[str]) -> GgufFile:
    """Read the header of a .gguf file. The file stays mapped as long as the result lives.

    Raises:
        MissingExtraError: ``missing-extra``: the package gguf isn't installed.
        FormatError, TruncatedError: ``gguf``: the file is wrong, or of a version that the package doesn't read.
        OSError: The file can't be read.
    """
    path = os.fspath(path)
    with open(path, "rb"):  # the system's own error, before the package's
        pass
    reader = _reader(path)
    with in_file(path), np.errstate(all="ignore"):
        try:
            entries = [_entry(tensor) for tensor in reader.tensors]
            metadata = {name: _plain(field) for name, field in reader.fields.items() if not name.startswith("GGUF.")}
            version = int(reader.fields["GGUF.version"].contents())
        except (ValueError, TypeError, IndexError) as error:
            raise FormatError("gguf", f"its metadata is wrong: {error}") from None
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    by_name = {entry.name: entry for entry in entries}
    return GgufFile(path, version, by_name, metadata, tensors)


def _reader(path: str) -> Any:  # noqa: ANN401 (the package has no types)
    try:
        from gguf import GGUFReader  # noqa: PLC0415 (an extra)
    except ImportError as error:
        if error.name != "gguf":
            raise
        what = f"{path!r} is a GGUF file, which the package gguf reads: pip install gguf"
        raise MissingExtraError("missing-extra", what) from error

    class Reader(GGUFReader):
        """The package's, but it stops at the end of the file: a count from the file may be 2⁶⁰."""

        def _get(self, offset: int, dtype: Any, count: Any = 1, *more: Any, **options: Any) -> Any:  # noqa: ANN401
            part = super()._get(offset, dtype, count, *more, **options)
            if part.size != int(count):
                what = f"the file ends at {len(self.data)}, inside what its header lists: truncated download?"
                raise TruncatedError("gguf", what, len(self.data))
            return part

    with in_file(path), np.errstate(all="ignore"):
        try:
            return Reader(path)
        except (BlobStoreError, OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 (another's parser: whatever it raises, the file is wrong)
            raise FormatError("gguf", f"the package gguf can't read it: {error}") from None


def _entry(tensor: Any) -> GgufEntry:  # noqa: ANN401
    name = tensor.tensor_type.name.lower()
    shape = tuple(reversed([int(size) for size in tensor.shape]))
    return GgufEntry(tensor.name, _INT8.get(name, name), shape, int(tensor.data_offset), int(tensor.n_bytes))


def _plain(field: Any) -> Any:  # noqa: ANN401
    """Return a field of the metadata as plain values."""
    if len(field.types) > 1 and len(field.data) > _MOST_LISTED:
        return f"{len(field.data)} values of type {field.types[-1].name.lower()}"
    value = field.contents()
    return [_number(one) for one in value] if isinstance(value, list) else _number(value)


def _number(value: Any) -> Any:  # noqa: ANN401
    """Return a value that JSON can hold: text for infinities and NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
