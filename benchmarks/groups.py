"""The cases, in groups. A group makes its files, measures, and names the chart that shows it; `GROUPS` lists all.

To add a group, write a function that takes a `Setting` and yields results, and add a line to `GROUPS`. A chart of its
own is a function from results to a figure (`charts`).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import charts, codecs, files, memory, pack, programs, scaling
from benchmarks.measurement import OURS, Aim, Measured, Setting, Side, Within, here, process, run
from blobstore.bench import page_cache
from blobstore.bench.cases import Ours
from blobstore.bench.peers import PEERS, Safetensors
from blobstore.bench.yardsticks import WRITE
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.converting.plan import plan_by_name
from blobstore.converting.run import run_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.charts import Figure
    from benchmarks.measurement import Result
    from blobstore.bench.measure import Sample

_PLAIN = "safetensors"


@dataclass(frozen=True)
class Group:
    """Cases that share files, or a chart.

    Attributes:
        key: For ``--only``, and the chart's file.
        title: Of its section.
        measure: Measures the cases, one after the other.
        draw: Makes its chart; None if the table is enough.
    """

    key: str
    title: str
    measure: Callable[[Setting], Iterator[Result]]
    draw: Callable[[Sequence[Result]], Figure] | None = None


# ------------------------------------------------------------------------------------------------- many small tensors

# What a user writes to get one tensor: in a new process, given path and name.
_ONE_TENSOR = {
    OURS: "import blobstore; a = blobstore.open(p)[n]",
    "safetensors": "from safetensors import safe_open; a = safe_open(p, 'np').get_tensor(n)",
    "npz": "import numpy; a = numpy.load(p)[n]",
    "gguf": "from gguf import GGUFReader; a = next(one.data for one in GGUFReader(p).tensors if one.name == n)",
    "hdf5": "import h5py; a = h5py.File(p)[n][()]",
    "zarr": "import zarr; a = zarr.open_group(p, mode='r')[n][...]",
    "lmdb": "import lmdb, numpy; t = lmdb.open(p, subdir=False, lock=False, readonly=True).begin(buffers=True); "
    "v = t.get(n.encode()); a = numpy.frombuffer(v[int.from_bytes(v[:4], 'little'):], 'f4')",
}
# The same to list all names.
_LIST = {
    OURS: "import blobstore; a = list(blobstore.open(p))",
    "safetensors": "from safetensors import safe_open; a = list(safe_open(p, 'np').keys())",
    "npz": "import numpy; a = numpy.load(p).files",
    "lmdb": "import lmdb; t = lmdb.open(p, subdir=False, lock=False, readonly=True).begin(buffers=True); "
    "a = [bytes(n).decode() for n in t.cursor().iternext(values=False)]",
}
_NUMPY_ONLY = process("python, numpy only", "-c", "import numpy")
_FEW = ("safetensors", "npz", "lmdb")  # the others take a second to open a file of 16,000


def many(setting: Setting) -> Iterator[Result]:
    """16,000 tensors of 16 bytes, with long names."""
    count = 50 if setting.quick else 16_000
    with files.written(setting, files.many(count)) as made:
        read = made.machine("sequential-1")
        yield run(
            Measured(
                "many-names",
                f"open, list {count:,} names",
                "open the file, check what is checked then, list all names",
                [*made.sides("names"), read],
                aims=[Aim(_PLAIN, 10)],
            ),
            setting,
        )
        yield run(
            Measured(
                "many-first",
                f"one tensor of {count:,}",
                "open the file, use one tensor, in a process that has read another file before",
                made.sides("one"),
                aims=[Aim(_PLAIN, 20), Aim("lmdb", 0.5)],
                runs=15,
            ),
            setting,
        )
        yield run(
            Measured(
                "many-first-cold",
                f"one tensor of {count:,}, cold file",
                "the same, with the file not in the page cache",
                made.sides("one", cold=True),
                cold=True,
            ),
            setting,
        )
        code = "import sys; p, n = sys.argv[1:]; {}; print({})"
        for key, title, what, programs_of, result, says in (
            ("many-names-process", "open, list", "list all names", _LIST, "len(a)", count),
            ("many-process", "one of", "use one tensor", _ONE_TENSOR, "int(a[0])", count // 2),
        ):
            sides = [
                process(name, "-c", code.format(programs_of[name], result), path, made.wanted.first, says=str(says))
                for name, path in made.paths.items()
                if name in programs_of
            ]
            what = f"start Python, import the library, open the file, {what}, end"  # noqa: PLW2901
            yield run(Measured(key, f"{title} {count:,}, new process", what, [*sides, _NUMPY_ONLY]), setting)
        yield run(
            Measured(
                "many-infos",
                f"names, types, shapes of {count:,}",
                "open the file, list name, type and shape of every tensor",
                made.sides("list", only=_FEW),
                aims=[Aim(_PLAIN, 1)],
            ),
            setting,
        )
        yield run(
            Measured(
                "many-lookup",
                f"look up {len(made.wanted.looked_up):,} of {count:,}",
                "open the file, look up type and shape of some names, one by one",
                made.sides("lookup", only=_FEW),
            ),
            setting,
        )
        yield run(
            Measured(
                "many-load",
                f"load all {count:,}",
                "open the file, bring every tensor into memory of its own",
                [*made.sides("read"), read],
                aims=[Aim(_PLAIN, 1.5), Aim("lmdb", 1)],
            ),
            setting,
        )


# -------------------------------------------------------------------------------------------------- few large tensors


def large(setting: Setting) -> Iterator[Result]:
    """2 GB of bfloat16 in 128 tensors."""
    nbytes = 1 << 20 if setting.quick else 2 << 30
    with files.written(setting, files.few(nbytes, 128)) as made:
        size = f"{nbytes >> 30} GB" if nbytes >> 30 else f"{nbytes >> 20} MB"
        total = made.wanted.nbytes
        load = "formats that can't map load"
        yield run(
            Measured(
                "large-views",
                f"{size} usable, not touched",
                f"open, make an array of every tensor; {load}",
                made.sides("views", otherwise="read"),
                total,
                [Aim(_PLAIN, 100)],
            ),
            setting,
        )
        yield run(
            Measured(
                "large-map",
                f"{size} usable, every page used",
                f"open, use one value of every page of every tensor; {load}",
                [*made.sides("map", otherwise="read"), made.machine("mmap")],
                total,
                [Aim(_PLAIN, 50)],
            ),
            setting,
        )
        yield run(
            Measured(
                "large-load",
                f"{size} into own memory",
                "open, bring every tensor into memory of its own; out=: into arrays that exist",
                [
                    *made.sides("read"),
                    replace(made.side(OURS, "into"), name="blobstore, out="),
                    *(made.machine(yardstick) for yardstick in ("copy", "copy-new", "sequential-1")),
                ],
                total,
                [Aim(_PLAIN, 2), Aim("copy to new memory", 0.8, best=True)],
            ),
            setting,
        )
        disk = [made.machine(yardstick, cold=True) for yardstick in ("sequential-1", "sequential-2")]
        sequential = [Aim(yardstick.name, 0.9) for yardstick in disk]
        yield run(
            Measured(
                "large-load-cold",
                f"{size} into own memory, cold",
                "the same, with the file not in the page cache",
                [*made.sides("read", cold=True), *disk],
                total,
                sequential,
                cold=True,
            ),
            setting,
        )
        yield run(
            Measured(
                "large-map-cold",
                f"{size}, every page used, cold",
                f"open, use one value of every page of every tensor, file not in the page cache; {load}",
                [*made.sides("map", otherwise="read", cold=True), made.machine("mmap", cold=True), *disk],
                total,
                sequential,
                cold=True,
            ),
            setting,
        )
        yield run(
            Measured(
                "large-write",
                f"write {size}",
                "from arrays in memory until it is on the disk (all sync); ours with a SHA-256 of each tensor",
                [*made.writing(), made.machine(WRITE.key)],
                total,
                [Aim(WRITE.title, 0.9), Aim(_PLAIN, 1)],
            ),
            setting,
        )


# ------------------------------------------------------------------------------------------------------------- convert


def convert(setting: Setting) -> Iterator[Result]:
    """A checkpoint, from a safetensors file into each format."""
    source, which = files.checkpoint(setting)
    target = os.path.join(setting.folder, "converted")
    try:
        yield run(
            Measured(
                "convert",
                f"convert {which}",
                "from a safetensors file until the new one is on the disk; ours with a SHA-256 of each tensor",
                list(_converting(source, target)),
                os.path.getsize(source),
                trial=True,
            ),
            setting,
        )
    finally:
        page_cache.remove(target)
        if files.is_made_up(setting, source):
            page_cache.remove(source)


def _converting(source: str, target: str) -> Iterator[Side]:
    def ours() -> None:
        with open_checkpoint(source) as checkpoint:
            run_plan(plan_by_name(checkpoint), checkpoint, target)

    def copy() -> None:
        shutil.copyfile(source, target)
        page_cache.prepare(target)

    def into(name: str) -> Callable[[], None]:
        def work() -> None:
            reader = Safetensors()
            opened = reader.open(source)
            PEERS[name].save(target, {tensor: reader.view(opened, tensor) for tensor in reader.names(opened)})
            page_cache.prepare(target)

        return work

    def cleared(name: str, work: Callable[[], None]) -> Side:
        side = here(name, work)

        def take() -> Sample:
            page_cache.remove(target)
            return side.take()

        return Side(name, take)

    yield cleared(OURS, ours)
    yield from (cleared(name, into(name)) for name, peer in PEERS.items() if peer.installed)
    yield cleared("copy and sync", copy)


# ------------------------------------------------------------------------------------------------------------- startup


def startup(setting: Setting) -> Iterator[Result]:
    """The command line and the import, compared with numpy's own import."""
    small = os.path.join(setting.folder, "small.sbs")
    Ours().write(small, [("model.norm.weight", np.ones(8, np.float32))])
    numpy_only = process("import numpy", "-c", "import numpy")
    python_only = process("python alone", "-c", "pass")
    use = "import sys, blobstore; store = blobstore.open(sys.argv[1])"
    try:
        for key, title, what, arguments, aim in (
            ("version", "blobstore --version", "a new process", ("-m", "blobstore", "--version"), Within(0.06)),
            ("help", "blobstore --help", "a new process", ("-m", "blobstore", "--help"), Within(0.06)),
            (
                "ls",
                "blobstore ls",
                "a new process, a file of one tensor",
                ("-m", "blobstore", "ls", small),
                Within(0.03, numpy_only.name),
            ),
            (
                "open",
                "import, open",
                "a new process that imports blobstore and opens a file of one tensor",
                ("-c", use, small),
                Within(0.015, numpy_only.name),
            ),
            (
                "import",
                "import",
                "a new process that imports what reads and writes (import blobstore alone imports next to nothing)",
                ("-c", "from blobstore import Store, StoreWriter"),
                None,
            ),
        ):
            sides = [process(OURS, *arguments), numpy_only, python_only]
            yield run(
                Measured(f"startup-{key}", title, what, sides, aims=[aim] if aim else [], runs=15),
                setting,
            )
    finally:
        page_cache.remove(small)


GROUPS = (
    Group("many", "Many small tensors", many, charts.bars),
    Group("walk", "Walking", programs.walk, charts.bars),
    Group("load", "Loading many for torch and jax", programs.load, charts.bars),
    Group("minilm", "A small real model", programs.minilm, charts.bars),
    Group("large", "Few large tensors", large, charts.bars),
    Group("convert", "Converting", convert, charts.bars),
    Group("memory", "Memory of converting", memory.measure),
    Group("startup", "Startup", startup, charts.bars),
    Group("codecs", "Element codecs, one core", codecs.measure, charts.rates),
    Group("pack", "Packing, one core", pack.measure, charts.scatter),
    Group("tensors", "Scaling with the number of tensors", scaling.tensors, charts.lines),
    Group("size", "Scaling with the file's size", scaling.sizes, charts.lines),
)
