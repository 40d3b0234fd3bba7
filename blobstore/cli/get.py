"""``blobstore get``."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

import blobstore
from blobstore.atomic import AtomicFile, write_file
from blobstore.cli.newer import tell_newer
from blobstore.cli.output import add_base, add_command, note
from blobstore.errors import UsageError
from blobstore.transfer import Sink, flat_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import numpy.typing as npt

    from blobstore.store import Store

EXAMPLE = """example:
  blobstore get model.sbs model.norm.weight -o norm.npy
  blobstore get model.sbs tokenizer -o tokenizer.model
  blobstore get model.sbs model.norm.weight | xxd | head

A name that ends in .npy gets a numpy file: bfloat16 and 8-bit floats, which numpy alone can't read back, become float32
there, exactly. Any other name, and standard output, get the stored bytes."""

_PIECE = 1 << 20  # elements


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
    with blobstore.open(options.file, base=options.base) as store:
        tell_newer(store.reader)
        if options.output in (None, "-"):
            if sys.stdout.isatty():
                raise UsageError("terminal", "bytes are not for a terminal: add -o OUT, or pipe them on")
            sys.stdout.buffer.write(store.raw(options.name))
            return 0
        if os.path.exists(options.output) and os.path.samefile(options.output, options.file):
            raise UsageError("same-file", f"{options.output!r} is the file itself: choose another name")
        if options.output.endswith(".npy") and not options.raw:
            _write_npy(store, options.name, options.output)
        else:
            write_file(options.output, store.raw(options.name))
    return 0


def _write_npy(store: Store, name: str, path: str) -> None:
    array = store[name]
    # numpy's file format knows only numpy's own dtypes.
    foreign = not _numpy_knows(array.dtype)
    dtype: np.dtype[Any] = np.dtype(np.float32) if foreign else array.dtype
    with AtomicFile(path) as target:
        sink = Sink(target.fileno())
        sink.write(memoryview(_npy_header(dtype, array.shape)))
        for piece in _pieces(array, dtype):
            sink.write(flat_bytes(piece))
        sink.flush()
    if foreign:
        note(f"{name} is {array.dtype}: written as float32, which holds each value exactly")


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


def _pieces(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the values in C order, converted in pieces when they have to be."""
    flat = array.reshape(-1)
    step = len(flat) if dtype == array.dtype else _PIECE
    for start in range(0, len(flat), max(1, step)):
        yield flat[start : start + step].astype(dtype, copy=False)
