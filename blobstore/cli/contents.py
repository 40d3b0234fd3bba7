"""The tensors of a file, whatever its format: .sbs, safetensors (one file or a checkpoint), GGUF."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import blobstore
from blobstore.checkpoint.formats import Format, format_of
from blobstore.store.reader import Store
from blobstore.store.values import elements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from blobstore.checkpoint.gguf.file import GgufFile
    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.fileio.types import Array

_CHUNK = 1 << 20  # elements


class Entry(NamedTuple):
    """One tensor.

    Attributes:
        name: Its name.
        key: Of the blob that holds it; None in other formats.
        type: How its elements are stored.
        shape: In C order.
        scale: Decoded values are multiplied by it.
        nbytes: How many bytes are stored.
        offset: Of its first byte, from the beginning of the file; None where values are made as they are read.
        codec: As `TensorInfo`; None in other formats.
        file: The path of the file that it is in.
    """

    name: str
    key: str | None
    type: str
    shape: tuple[int, ...]
    scale: float
    nbytes: int
    offset: int | None
    codec: int | None
    file: str


class Contents(NamedTuple):
    """An open file, or a checkpoint of several.

    Attributes:
        path: As given.
        format: Of its tensors' file.
        entries: Its tensors, in the order of the names for .sbs, else in the file's.
        chunks: Given a tensor's name, returns its values in pieces; None where they can't be decoded.
        source: What is open; of GGUF the files.
        notes: What was left out, and why; for the user.
    """

    path: str
    format: Format
    entries: Sequence[Entry]
    chunks: Callable[[str], Iterator[Array] | None]
    source: Store | Checkpoint | list[GgufFile]
    notes: Sequence[str] = ()


@contextmanager
def open_contents(path: str, base: str | None = None) -> Iterator[Contents]:
    """Open a file of any format for the duration of a ``with`` block.

    Args:
        path: Of a file or a folder.
        base: Of an .sbs file that is packed: the file that it is the difference to.

    Raises:
        FormatError, TruncatedError, CheckpointError: The file is wrong.
        OSError: A file can't be read.
    """
    what = format_of(path)
    if what == "sbs":
        with blobstore.open(path, base=base) as store:
            yield _of_store(store)
    elif what != "gguf":
        from blobstore.checkpoint.reader import open_checkpoint  # noqa: PLC0415 (most files are .sbs)

        with open_checkpoint(path, whole=False) as checkpoint:
            yield _of_checkpoint(checkpoint)
    else:
        from blobstore.checkpoint.gguf.file import open_gguf  # noqa: PLC0415 (the same)

        with ExitStack() as stack:
            yield _of_gguf(path, [stack.enter_context(open_gguf(part)) for part in _gguf_paths(path)])


def _of_store(store: Store) -> Contents:
    infos = {info.name: info for info in store.infos()}
    entries = [
        Entry(
            info.name,
            info.key,
            info.type.name,
            info.shape,
            info.scale,
            info.nbytes,
            offset,
            info.codec,
            file,
        )
        for info in infos.values()
        for file, offset in (store.reader.file_at(info.offset),)
    ]

    def chunks(name: str) -> Iterator[Array] | None:
        info = infos[name]
        if info.dtype is None or info.dtype.kind == "c":
            return None
        starts = range(0, info.size, _CHUNK)
        return (elements(store, info, start, min(_CHUNK, info.size - start)) for start in starts)

    return Contents(store.path, "sbs", entries, chunks, store)


def _of_checkpoint(checkpoint: Checkpoint) -> Contents:
    entries = [
        Entry(
            tensor.name,
            None,
            tensor.type.name,
            tensor.shape,
            1.0,
            tensor.nbytes,
            tensor.stored.offset if tensor.stored else None,
            None,
            tensor.path,
        )
        for tensor in checkpoint.tensors.values()
    ]

    def chunks(name: str) -> Iterator[Array] | None:
        tensor = checkpoint.tensors[name]
        dtype = tensor.type.dtype
        if dtype is None or dtype.kind == "c":
            return None
        return (np.frombuffer(piece, dtype=dtype) for piece in tensor.chunks())

    return Contents(checkpoint.path, checkpoint.format, entries, chunks, checkpoint, checkpoint.lines)


def _gguf_paths(path: str) -> list[str]:
    """Return the files to list: of a folder all parts of its model, else the one file."""
    from blobstore.checkpoint.gguf.finding import gguf_at, parts_of  # noqa: PLC0415 (most files are .sbs)

    model = gguf_at(path) if os.path.isdir(path) else None
    return parts_of(model) if model else [path]


def _of_gguf(path: str, files: list[GgufFile]) -> Contents:
    entries = [
        Entry(entry.name, None, entry.type, entry.shape, 1.0, entry.nbytes, entry.offset, None, file.path)
        for file in files
        for entry in file.entries.values()
    ]

    def chunks(name: str) -> Iterator[Array] | None:
        return next(file for file in files if name in file.entries).chunks(name)

    return Contents(path, "gguf", entries, chunks, files)


def stored_nbytes(listed: Iterable[tuple[Contents, Entry]]) -> int:
    """Return how many bytes of files some tensors take: those that several share count once."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    total = 0
    for contents, entry in listed:
        source = contents.source
        if entry.offset is None:
            total += entry.nbytes
            continue
        spans = source.info(entry.name).stored_ranges() if isinstance(source, Store) else [(entry.offset, entry.nbytes)]
        ranges.setdefault(entry.file, []).extend(spans)
    for spans_of_file in ranges.values():
        reached = 0
        for offset, nbytes in sorted(spans_of_file):
            total += max(0, offset + nbytes - max(offset, reached))
            reached = max(reached, offset + nbytes)
    return total
