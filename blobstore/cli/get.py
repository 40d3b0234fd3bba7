"""``blobstore get``."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

import blobstore
from blobstore.cli.newer import tell_newer
from blobstore.cli.output import add_base, add_command, note, output_of, refuse_needless_base
from blobstore.fileio.atomic import AtomicFile
from blobstore.fileio.ranges import CHUNK_NBYTES, flat_bytes
from blobstore.fileio.sink import Sink
from blobstore.index.inputs import files_of, refuse_inputs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from blobstore.fileio.types import Buffer
    from blobstore.store.reader import Store

EXAMPLE = """example:
  blobstore get model.sbs model.norm.weight -o norm.npy
  blobstore get model.sbs tokenizer -o tokenizer.model
  blobstore get model.sbs model.norm.weight | xxd | head

If OUT ends in .npy, a numpy file is written; bfloat16 and 8-bit floats, which plain numpy can't read back, are written
as float32, exactly. Any other OUT, and standard output, gets the stored bytes."""

_CHUNK = 1 << 20  # elements decoded at once


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        commands, "get", run, "Write one tensor, or one blob by its key, to a file or standard output.", EXAMPLE
    )
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument("name", metavar="NAME", help="a tensor's name, or a blob's key")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="a .npy file, or any other for stored bytes; default: standard output (-)"
    )
    add_base(parser)
    parser.add_argument("--raw", action="store_true", help="write the stored bytes, whatever OUT's name")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    output = "-" if options.output is None else options.output
    target = output_of(options, output)
    refuse_inputs([target], files_of(options.file, options.base))
    with blobstore.open(options.file, base=options.base) as store:
        refuse_needless_base(store)
        tell_newer(store.reader)
        if output.endswith(".npy") and not options.raw:
            write_npy(store, options.name, output)
        elif isinstance(target, str):
            with AtomicFile(target) as file:
                _write(_stored(store, options.name), Sink(file.fileno(), file.path))
        else:
            _write(_stored(store, options.name), Sink(target))
    return 0


def _write(pieces: Iterable[Buffer], sink: Sink) -> None:
    for piece in pieces:
        sink.write(flat_bytes(piece))
    sink.flush()


def _stored(store: Store, name: str) -> Iterator[memoryview]:
    """Yield the stored bytes of a tensor, or of a blob, in chunks."""
    if name not in store:
        yield store.raw(name)  # a blob, or an error with a hint
        return
    info = store.info(name)
    for start in range(0, info.element_nbytes, CHUNK_NBYTES):
        yield store.stored(info, start, min(CHUNK_NBYTES, info.element_nbytes - start))


def write_npy(store: Store, name: str, path: str, *, chunk: int = _CHUNK) -> None:
    """Write a tensor as a numpy file.

    Args:
        store: Open.
        name: Of the tensor.
        path: Of the file to write.
        chunk: Elements decoded at once.
    """
    info = store.info(name)
    stored = store.elements(info, 0, 0).dtype  # or an error that says why it can't be decoded
    # numpy's file format has only numpy's own dtypes.
    foreign = not _numpy_knows(stored)
    dtype: np.dtype[Any] = np.dtype(np.float32) if foreign else stored
    with AtomicFile(path) as file:
        sink = Sink(file.fileno(), file.path)
        sink.write(memoryview(_npy_header(dtype, info.shape)))
        starts = range(0, info.count, chunk)
        values = (store.elements(info, start, min(chunk, info.count - start)) for start in starts)
        _write((array.astype(dtype, copy=False) for array in values), sink)
    if foreign:
        note(f"{name} is {stored}: written as float32, which holds every value exactly")


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
