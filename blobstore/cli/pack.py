"""``blobstore pack``."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from blobstore.cli.formatting import shown, size
from blobstore.cli.output import add_command, add_json, note, output_of, print_json
from blobstore.cli.progress import Stopwatch, progress
from blobstore.cli.tables import print_table
from blobstore.packing.pack import pack

if TYPE_CHECKING:
    import argparse

    from blobstore.packing.pack import PackedBlob, Packing

TEXT = "Compress a file's tensors without loss: each is still there by its name, and unpack gives the very same file."
EXAMPLE = """example:
  blobstore pack model.sbs -o model.packed.sbs
  blobstore pack tuned.sbs -o tuned.packed.sbs --base model.sbs

bf16 weights get a third smaller. Keys and names stay; blobstore.open, get, export, verify and diff read a packed file
as it is. gemma.cpp does not: it needs the unpacked one. config, tokenizer and toc stay as they are, and so does a blob
that doesn't get smaller by 1 %. With --base only the difference to another file is kept, for a fine-tune of it for
instance; that file is needed to read it. Higher levels rarely pay on weights; they do on differences."""
_LEVELS = 22


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "pack", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the packed .sbs file to write")
    parser.add_argument(
        "--level", type=int, choices=range(_LEVELS + 1), default=0, metavar="N", help="0 (default, fastest) to 22"
    )
    parser.add_argument("--only", metavar="GLOB", action="append", default=[], help="only names or keys that match")
    parser.add_argument("--base", metavar="OTHER", help="keep only the difference to this .sbs file")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    watch = Stopwatch()
    output_of(options, options.output, streams=False)
    with progress(os.stat(options.file).st_size, "packing") as advance:
        done = pack(
            options.file,
            options.output,
            level=options.level,
            only=options.only,
            base=options.base,
            workers=options.workers,
            progress=advance,
        )
    if options.json:
        facts = {"output": options.output, "nbytes": done.nbytes, "packed_nbytes": done.packed_nbytes}
        blobs = [{**asdict(one), "packed": one.packed} for one in done.blobs]
        print_json({**facts, "ratio": round(done.ratio, 4), "blobs": blobs, "seconds": round(watch.seconds, 3)})
        return 0
    _tell(options.output, done, watch.seconds)
    return 0


def _tell(output: str, done: Packing, seconds: float) -> None:
    columns = ("tensor", "type", "bytes", "packed", "ratio", "how")
    print_table(columns, (_row(one) for one in done.blobs), right=("bytes", "packed", "ratio"))
    packed = sum(one.packed for one in done.blobs)
    rate = size(done.nbytes / max(seconds, 1e-9))
    print(
        f"{shown(output)}: {packed} of {len(done.blobs)} blobs packed, {size(done.nbytes)} in "
        f"{size(done.packed_nbytes)}, ratio {done.ratio:.3f}, {seconds:.2f} s ({rate}/s)"
    )
    if done.packed_nbytes >= done.nbytes:
        note("the packed file is not smaller: nothing is gained by it")


def _row(one: PackedBlob) -> tuple[object, ...]:
    name = one.names[0] if one.names else one.key
    more = f" (+{len(one.names) - 1})" if len(one.names) > 1 else ""
    how = "as it is" if not one.packed else "difference" if one.delta else "planes"
    return name + more, one.type, one.nbytes, one.packed_nbytes, f"{one.nbytes / one.packed_nbytes:.3f}", how
