"""``blobstore convert``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.checkpoint.told import read_lines
from blobstore.cli.cluster import add_cluster, cluster_of
from blobstore.cli.formatting import rate, shape, shown
from blobstore.cli.output import add_adapters, add_command, add_json, note, output_of, print_json, tell_dry_run
from blobstore.cli.progress import progress
from blobstore.cli.tables import print_table
from blobstore.converting.choices import KINDS, LAYOUTS, WEIGHTS
from blobstore.errors import UsageError
from blobstore.gemma.versions import NAMES

if TYPE_CHECKING:
    import argparse
    from typing import BinaryIO

    from distributed import Client

    from blobstore.conversion import Conversion, ConversionPreview
    from blobstore.fileio.types import Progress

EXAMPLE = """example:
  blobstore convert gemma-3-270m-it/ -o gemma3-270m-sfp-it.sbs          (a Gemma or Qwen3: a file that gemma.cpp runs)
  blobstore convert gemma-3-270m-it/ -o out.sbs --weights bf16 --dry-run
  blobstore convert Llama-3.2-1B/ -o llama.sbs                          (any other: every tensor by name, unchanged)
  blobstore convert gemma-3-270m-it-Q8_0.gguf -o gemma3-270m-sfp-it.sbs
  blobstore convert gemma-3-4b-text/ -o text.sbs --runtime latest       (a file for the newest gemma.cpp known here)
  blobstore convert gemma-3-270m-it/ --adapter lora/ -o tuned.sbs       (with a LoRA adapter of peft or unsloth merged)
  blobstore convert DeepSeek-V3/ -o dsv3.sbs --max-shard-size 5GB       (a set of files, opened by dsv3.sbs as one)
  blobstore convert DeepSeek-V3/ -o dsv3.sbs --max-shard-size 5GB --scheduler tcp://10.0.0.1:8786

SRC is a .safetensors file, a model.safetensors.index.json, or a folder with either, or with shards; or the same of
PyTorch's pickled files (.bin, .pt, .pth, .ckpt), which torch reads; or a .gguf file, all of whose parts are read.
config.json, the tokenizer's files and the chat template are found beside it; in a .gguf file, the metadata says what
they do. Quantised tensors of .gguf files need the package gguf, and are converted as the values that it decodes. The
files that were read, and what of the folder was left out, are told. Tied weights (lm_head.weight) get their name
back. A file by name carries config.json, the tokenizer and the model's other files, and blobstore export writes them
back.
SRC and OUT may be URLs, such as hf://google/gemma-3-270m-it or s3://bucket/out.sbs: tensors are streamed, and OUT
appears only when it is complete. That needs fsspec and a package for the URL's scheme (docs/hub-and-buckets.md)."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "convert", run, "Convert a checkpoint into an .sbs file.", EXAMPLE)
    parser.add_argument(
        "source", metavar="SRC", help="a checkpoint: a folder, a file of tensors, or the index of several; see below"
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="the .sbs file to write; - is standard output")
    parser.add_argument(
        "--as",
        dest="kind",
        choices=KINDS,
        default="auto",
        help="gemma: a file that gemma.cpp runs; names: a container of all tensors; auto (default): depends on SRC",
    )
    gemma = parser.add_argument_group("for gemma.cpp")
    gemma.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="type of the weights (default: sfp, 8 bits); q4_0, 4 bits, is read by the latest gemma.cpp only",
    )
    gemma.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="split: loads faster, almost the checkpoint's order; stock: as in published files; default: split, "
        "but for T5Gemma, which has stock only",
    )
    gemma.add_argument("--wrapping", choices=("it", "pt"), help="instruction-tuned or pre-trained (default: as SRC)")
    gemma.add_argument(
        "--runtime",
        choices=NAMES,
        help="the version of gemma.cpp that has to run the file (default: the oldest that can, and those since)",
    )
    gemma.add_argument(
        "--no-pad",
        action="store_true",
        help="refuse a vocabulary that is not a multiple of 32, rather than pad it with copies of the <pad> row",
    )
    gemma.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="a tokenizer.model, taken as it is, or a tokenizer.json (default: beside SRC)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse a checkpoint that check has a warning for, such as a NaN"
    )
    add_adapters(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, write nothing")
    parser.add_argument(
        "--container", type=int, choices=(1, 2), default=2, help="version of the container (default: 2)"
    )
    parser.add_argument(
        "--index",
        choices=("embedded", "external"),
        default="embedded",
        help="put the name index into OUT (default), or into OUT.idx",
    )
    parser.add_argument(
        "--no-files", action="store_true", help="by name: don't carry config.json, the tokenizer and such files"
    )
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        help="by name: write files of up to 5GB, 512MiB, …: OUT is their index, which opens them as one",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a set that an earlier run didn't complete; keeps whole files"
    )
    parser.add_argument("--no-digests", action="store_true", help="leave out the SHA-256 of each blob")
    add_cluster(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if not options.dry_run and not options.output:
        raise UsageError("no-output", "choose where to write with -o OUT.sbs, or look first with --dry-run")
    choices = {
        "as_": options.kind,
        "weights": options.weights,
        "layout": options.layout,
        "wrapping": options.wrapping,
        "runtime": options.runtime,
        "tokenizer": options.tokenizer,
        "pad": not options.no_pad,
        "strict": options.strict,
        "adapters": options.adapters,
        "files": not options.no_files,
        "index": options.index,
        "max_shard_size": options.max_shard_size,
    }
    if options.dry_run:
        _show(options, blobstore.preview_conversion(options.source, **choices))
        return 0
    target = output_of(options, options.output)
    with cluster_of(options) as client, progress(None, "converting") as advance:
        if client is not None:
            done = _convert_with(client, options, target, advance)
        else:
            done = blobstore.convert(
                options.source,
                target,
                container=options.container,
                digests=not options.no_digests,
                resume=options.resume,
                progress=advance,
                **choices,
            )
    for text in (*read_lines(done.read), *done.notes):
        note(text)
    if options.json:
        print_json(done)
    elif done.output is not None:
        _tell(done)
    return 0


def _convert_with(client: Client, options: argparse.Namespace, target: str | BinaryIO, advance: Progress) -> Conversion:
    """Convert on a cluster. A set has none of the options that are for gemma.cpp."""
    of_one_file = {
        "--weights": options.weights,
        "--layout": options.layout,
        "--wrapping": options.wrapping,
        "--tokenizer": options.tokenizer,
        "--no-pad": options.no_pad,
        "--container 1": options.container == 1,
        "--index external": options.index == "external",
        "-o -": not isinstance(target, str),
    }
    given = [flag for flag, value in of_one_file.items() if value]
    if given or not isinstance(target, str):
        what = f"{given[0]} is for a single file, which one machine writes"
        raise UsageError("needless-flag", f"{what}: leave it out, or --processes and --scheduler")
    from blobstore import distributed  # noqa: PLC0415 (only with a cluster)

    return distributed.convert(
        options.source,
        target,
        client=client,
        as_=options.kind,
        max_shard_size=options.max_shard_size,
        resume=options.resume,
        runtime=options.runtime,
        strict=options.strict,
        adapters=options.adapters,
        files=not options.no_files,
        digests=not options.no_digests,
        progress=advance,
    )


def _show(options: argparse.Namespace, preview: ConversionPreview) -> None:
    for text in (*read_lines(preview.read), *preview.notes):
        note(text)
    if options.json:
        print_json(preview)
    else:
        rows = [
            (tensor.name, tensor.key, tensor.type, shape(tensor.shape), tensor.nbytes) for tensor in preview.tensors
        ]
        print_table(("name", "key", "type", "shape", "size"), rows, right=("size",), sizes=("size",), spare=("key",))
        for place, store in enumerate(preview.stores, 1):
            note(f"file {place} of {len(preview.stores)}: {store.tensors} tensors, {store.nbytes} bytes")
        for alias in preview.aliases:
            note(f"{alias.name} is another name for {alias.target}: {alias.why}")
    tell_dry_run(options.output)


def _tell(done: Conversion) -> None:
    speed = rate(done.nbytes, done.seconds)
    what = f"{done.model}, " if done.model else "by name, not for gemma.cpp, "
    print(f"{shown(str(done.output))}: {what}{done.names} names, {done.nbytes} bytes, {done.seconds:.2f} s ({speed})")
    for alias in done.aliases:
        print(f"  {shown(alias.name)} = {shown(alias.target)}: {alias.why}")
