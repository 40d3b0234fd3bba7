"""A .gguf file: its tensors and metadata; values of quantised tensors are decoded by the package gguf."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.checkpoint.gguf.finding import MAGIC
from blobstore.checkpoint.gguf.header import GgufEntry, GgufHeader, LongList, parse_header
from blobstore.container.foreign import HEAD_NBYTES, foreign_format
from blobstore.errors import FormatError, MissingExtraError, in_file
from blobstore.fileio.closing import Closing
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.streamed import open_one_of_many, tell_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from os import PathLike

    from blobstore.checkpoint.gguf.types import GgufType
    from blobstore.fileio.types import Array, ByteSource

_CHUNK = 1 << 20  # elements


@dataclass(frozen=True)
class GgufFile(Closing):
    """An open .gguf file; a context manager.

    Attributes:
        path: As given.
        version: Of the format.
        entries: Its tensors, by name, in the file's order.
        fields: The metadata as `GgufHeader` has it.
        source: The file's bytes.
    """

    path: str
    version: int
    entries: Mapping[str, GgufEntry]
    fields: Mapping[str, Any]
    source: ByteSource

    @property
    def metadata(self) -> dict[str, Any]:
        """Key → a text, number, truth value, or a list of such, as JSON has them; a long list as words."""
        return {key: _plain(value) for key, value in self.fields.items()}

    def range(self, name: str) -> FileRange:
        """Return where a tensor's bytes lie."""
        entry = self.entries[name]
        return FileRange(self.source, entry.offset, entry.nbytes)

    def long_list(self, key: str) -> list[Any] | None:
        """Return the elements of an array of the metadata; None without it, or when it is something else."""
        value = self.fields.get(key)
        if isinstance(value, LongList):
            with in_file(self.path):
                return value.read(self.source.view)
        return value if isinstance(value, list) else None

    def chunks(self, name: str) -> Iterator[Array] | None:
        """Return a tensor's values in pieces of about a million; None where the package gguf can't decode them.

        Raises:
            MissingExtraError: ``missing-extra``: they are quantised, and the package gguf isn't installed.
        """
        read = self.reader(name)
        size = math.prod(self.entries[name].shape)
        step = _CHUNK  # a multiple of every block
        return read and (read(start, min(step, size - start)) for start in range(0, size, step))

    def reader(self, name: str) -> Callable[[int, int], Array] | None:
        """Return what reads a tensor's values: (first, count) → a flat array; any thread may call it.

        Quantised values come as float32, the same ones whatever run of them is asked for.

        Returns:
            None where the package gguf can't decode the type.

        Raises:
            MissingExtraError: As `chunks`.
        """
        stored = self.entries[name].stored
        if stored.plain is None:
            decode = decoder(stored, self.path)
            return decode and partial(_decoded, self.range(name), stored, decode)
        return partial(_read, self.range(name), stored)

    def close(self) -> None:
        """Close the file."""
        self.source.close()


def open_gguf(path: str | PathLike[str]) -> GgufFile:
    """Open a .gguf file and check its header.

    Raises:
        FormatError, TruncatedError: ``gguf``: the file is wrong, or of a version that isn't read.
        UsageError, OSError: The file can't be read.
    """
    path = os.fspath(path)
    source = open_one_of_many(path)  # plain reads: a map of a large file would count as this process's memory
    try:
        with in_file(path):
            header = _parse(source)
    except BaseException:
        source.close()
        raise
    entries = {entry.name: entry for entry in header.entries}
    tell_ranges(source, (entry.offset + entry.nbytes for entry in header.entries))
    return GgufFile(path, header.version, entries, header.metadata, source)


def _parse(source: ByteSource) -> GgufHeader:
    head = bytes(source.view(0, min(HEAD_NBYTES, source.size)))
    known = "" if head.startswith(MAGIC) else foreign_format(head)
    if known:
        raise FormatError("gguf", f"this is not a GGUF file, but {known}", 0)
    return parse_header(source.view, source.size)


def decoder(stored: GgufType, path: str) -> Callable[[Array], Array] | None:
    """Return what decodes whole blocks of a quantised type, an array of uint8, to float32; None if nothing does.

    Raises:
        MissingExtraError: ``missing-extra``: the package gguf isn't installed.
    """
    try:
        from gguf.constants import GGMLQuantizationType  # noqa: PLC0415 (an extra)
        from gguf.quants import dequantize  # noqa: PLC0415
    except ImportError as error:
        if error.name not in ("gguf", "gguf.constants", "gguf.quants"):
            raise
        what = f"{path!r} has quantised tensors ({stored.name}), which the package gguf decodes: pip install gguf"
        raise MissingExtraError("missing-extra", what) from error
    try:
        number = GGMLQuantizationType(stored.number)
        dequantize(np.zeros(stored.nbytes, np.uint8), number)
    except (ValueError, NotImplementedError):  # an older version doesn't know the number
        return None
    return partial(dequantize, qtype=number)


def _read(source: FileRange, stored: GgufType, first: int, count: int) -> Array:
    raw = source.part(first * stored.nbytes, count * stored.nbytes).read()
    return raw.view(stored.plain.dtype if stored.plain and stored.plain.dtype else np.uint8)


def _decoded(source: FileRange, stored: GgufType, decode: Callable[[Array], Array], first: int, count: int) -> Array:
    """Read the whole blocks that have these values, and decode them."""
    if not count:
        return np.empty(0, np.float32)
    begin, end = first // stored.count, -(-(first + count) // stored.count)
    # One row: the package decodes 16 rows at a time, which is slow where a row is one block.
    blocks = source.part(begin * stored.nbytes, (end - begin) * stored.nbytes).read()
    with np.errstate(all="ignore"):  # scales may be infinite or NaN: so are the values then
        values = decode(blocks)
    start = first - begin * stored.count
    return values[start : start + count]


def _plain(value: Any) -> Any:  # noqa: ANN401 (metadata is anything)
    """Return a value that JSON can hold: text for long lists, infinities and NaN."""
    if isinstance(value, LongList) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return [_plain(one) for one in value] if isinstance(value, list) else value
