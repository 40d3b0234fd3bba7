"""``blobstore get``."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

import blobstore
from blobstore.cli.newer import tell_newer
from blobstore.cli.output import add_base, add_command, note, output_of, refuse_needless_base
from blobstore.errors import UsageError
from blobstore.fileio.atomic import AtomicFile
from blobstore.fileio.ranges import flat_bytes
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

A name that ends in .npy gets a numpy file: bfloat16 and 8-bit floats, which numpy alone can't read back, become float32
there, exactly. Any other name, and standard output, get the stored bytes."""

_PIECE, _PIECE_NBYTES = 1 << 20, 4 << 20  # elements, bytes: handled at once


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        commands, "get", run, "Write one tensor, or one blob by its key, to a file or standard output.", EXAMPLE
    )
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument("name", metavar="NAME", help="a tensor's name, or a blob's key")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="a .npy file, or any other for the stored bytes; - is standard output"
    )
    add_base(parser)
    parser.add_argument("--raw", action="store_true", help="the stored bytes, whatever OUT is called")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    output = "-" if options.output is None else options.output
    target = output_of(options, output)
    refuse_inputs([target], files_of(options.file, options.base))
    with blobstore.open(options.file, base=options.base) as store:
        _refuse_needless_base(store, options.name)
        tell_newer(store.reader)
        if output.endswith(".npy") and not options.raw:
            _write_npy(store, options.name, output)
        elif isinstance(target, str):
            with AtomicFile(target) as file:
                _write(_stored(store, options.name), Sink(file.fileno(), file.path))
        else:
            _write(_stored(store, options.name), Sink(target))
    return 0


def _refuse_needless_base(store: Store, name: str) -> None:
    """Refuse ``--base`` where the tensor, or the blob, isn't stored as a difference."""
    refuse_needless_base(store)
    if store.base_path is None or (name not in store and name not in store.reader):
        return
    if name not in store or not store.unpacked.needs_base(store.info(name).key):
        raise UsageError("needless-base", f"{name!r} is not stored as a difference: leave out --base")


def _write(pieces: Iterable[Buffer], sink: Sink) -> None:
    for piece in pieces:
        sink.write(flat_bytes(piece))
    sink.flush()


def _stored(store: Store, name: str) -> Iterator[memoryview]:
    """Yield the bytes of a tensor as its type stores them, or of a blob, piece by piece."""
    if name not in store:
        yield store.raw(name)  # a blob, or a hint
        return
    info = store.info(name)
    for start in range(0, info.element_nbytes, _PIECE_NBYTES):
        yield store.stored(info, start, min(_PIECE_NBYTES, info.element_nbytes - start))


def _write_npy(store: Store, name: str, path: str) -> None:
    info = store.info(name)
    first = store.elements(info, 0, 0).dtype  # or what keeps it from being decoded
    # numpy's file format knows only numpy's own dtypes.
    foreign = not _numpy_knows(first)
    dtype: np.dtype[Any] = np.dtype(np.float32) if foreign else first
    with AtomicFile(path) as target:
        sink = Sink(target.fileno(), target.path)
        sink.write(memoryview(_npy_header(dtype, info.shape)))
        starts = range(0, info.count, _PIECE)
        values = (store.elements(info, start, min(_PIECE, info.count - start)) for start in starts)
        _write((one.astype(dtype, copy=False) for one in values), sink)
    if foreign:
        note(f"{name} is {first}: written as float32, which holds each value exactly")


def _numpy_knows(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype comes back from the text by which a numpy file names it."""
    try:
        return np.dtype(dtype.str) == dtype
    except TypeError:
        return False


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()
