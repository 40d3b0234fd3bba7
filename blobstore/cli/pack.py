"""``blobstore pack``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.cluster import add_cluster, cluster_of, refuse_flags
from blobstore.cli.formatting import rate, shown, size
from blobstore.cli.output import add_command, add_json, note, output_of, print_json
from blobstore.cli.progress import progress
from blobstore.cli.tables import print_table
from blobstore.fileio.places import file_size

if TYPE_CHECKING:
    import argparse

    from blobstore.packing.pack import PackedBlob

TEXT = (
    "Compress a file's tensors without loss: each can still be read by its name, and unpack restores the file exactly."
)
EXAMPLE = """example:
  blobstore pack model.sbs -o model.packed.sbs
  blobstore pack tuned.sbs -o tuned.packed.sbs --base model.sbs

bf16 weights get a third smaller. Keys and names stay the same; blobstore.open, get, export, verify and diff read packed
files directly. gemma.cpp doesn't: it needs the unpacked file. config, tokenizer and toc are not packed, and neither is
a blob that would shrink by less than 1 %. With --base only the difference to another file is stored, for a fine-tune of
it for instance; that file is then needed to read this one. Higher levels rarely pay off for weights, but do for
differences."""
_LEVELS = 22


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "pack", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the packed .sbs file to write")
    parser.add_argument(
        "--level", type=int, choices=range(_LEVELS + 1), default=0, metavar="N", help="0 (default, fastest) to 22"
    )
    parser.add_argument(
        "--only", metavar="GLOB", action="append", default=[], help="pack only names or keys that match"
    )
    parser.add_argument("--base", metavar="OTHER", help="store only the difference to this .sbs file")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")
    add_cluster(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    output_of(options, options.output, streams=False)
    with cluster_of(options) as client, progress(file_size(options.file), "packing") as advance:
        choices = {"level": options.level, "only": options.only, "base": options.base, "progress": advance}
        if client is None:
            done = blobstore.pack(options.file, options.output, workers=options.workers, **choices)
        else:
            refuse_flags(options, "workers")
            from blobstore import distributed  # noqa: PLC0415 (only with a cluster)

            done = distributed.pack(options.file, options.output, client=client, **choices)
    for text in done.notes:
        note(text)
    if options.json:
        print_json(done)
        return 0
    columns = ("tensor", "type", "size", "packed", "ratio", "how")
    rows, sizes = (_row(blob) for blob in done.blobs), ("size", "packed")
    print_table(columns, rows, names=("tensor",), right=(*sizes, "ratio"), sizes=sizes, spare=("type",))
    packed = sum(blob.packed for blob in done.blobs)
    speed = rate(done.unpacked_nbytes, done.seconds)
    print(
        f"{shown(done.output)}: {packed} of {len(done.blobs)} blobs packed, {size(done.unpacked_nbytes)} in "
        f"{size(done.nbytes)}, ratio {done.ratio:.3f}, {done.seconds:.2f} s ({speed})"
    )
    return 0


def _row(blob: PackedBlob) -> tuple[object, ...]:
    name = blob.names[0] if blob.names else blob.key
    more = f" (+{len(blob.names) - 1})" if len(blob.names) > 1 else ""
    how = "as it is" if not blob.packed else "difference" if blob.delta else "planes"
    return name + more, blob.type, blob.unpacked_nbytes, blob.nbytes, f"{blob.unpacked_nbytes / blob.nbytes:.3f}", how
