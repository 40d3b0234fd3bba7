"""``blobstore ls``."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.formatting import shape
from blobstore.cli.newer import tell_newer
from blobstore.cli.output import add_command, add_json, note, print_json
from blobstore.cli.tables import print_table
from blobstore.index.locate import lost_index

if TYPE_CHECKING:
    import argparse

EXAMPLE = """example:
  blobstore ls model.sbs
  blobstore ls model.sbs '*.layers.0.*'
  blobstore ls model.sbs --keys

On a terminal this is a table; elsewhere each tensor is a tab-separated line, without a heading:
name, key, type, shape, bytes, offset (with --keys: key, bytes, offset)."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        commands, "ls", run, "List the tensors of a file: name, key, type, shape, bytes, offset.", EXAMPLE
    )
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument(
        "pattern", metavar="GLOB", nargs="?", default="*", help="only names (with --keys: keys) that match"
    )
    parser.add_argument("--keys", action="store_true", help="list all blobs by key, as a runtime sees them")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    return _list_keys(options) if options.keys else _list_names(options)


def _list_names(options: argparse.Namespace) -> int:
    with blobstore.open(options.file) as store:
        infos = [info for info in store.infos() if fnmatch.fnmatchcase(info.name, options.pattern)]
        tell_newer(store.reader)
        for text in lost_index(store.reader) if store.index is None else ():
            note(text)
    if options.json:
        print_json(
            [
                {
                    "name": info.name,
                    "key": info.key,
                    "type": info.type.name,
                    "shape": list(info.shape),
                    "scale": info.scale,
                    "nbytes": info.nbytes,
                    "offset": info.offset,
                    "codec": info.codec,
                }
                for info in infos
            ]
        )
        return 0
    rows = ((info.name, info.key, info.type, shape(info.shape), info.nbytes, info.offset) for info in infos)
    print_table(("name", "key", "type", "shape", "bytes", "offset"), rows, right=("bytes", "offset"))
    _tell_empty(options, len(infos))
    return 0


def _list_keys(options: argparse.Namespace) -> int:
    with blobstore.BlobReader(options.file) as reader:
        rows = [
            (key, nbytes, offset)
            for place, key in enumerate(reader)
            if fnmatch.fnmatchcase(key, options.pattern)
            for offset, nbytes in (reader.directory.range(place),)
        ]
        tell_newer(reader)
    if options.json:
        print_json([{"key": key, "nbytes": nbytes, "offset": offset} for key, nbytes, offset in rows])
        return 0
    print_table(("key", "bytes", "offset"), rows, right=("bytes", "offset"))
    _tell_empty(options, len(rows))
    return 0


def _tell_empty(options: argparse.Namespace, count: int) -> None:
    if not count:
        note(f"nothing in {options.file} matches {options.pattern!r}" if options.pattern != "*" else "no tensors")
