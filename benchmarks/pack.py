"""Packing: the codec on one core, in turns with other compressors of weights, and whole files.

ZipNN needs torch and isn't in an extra: ``pip install zipnn torch`` to measure it. Rates are of the weights' bytes;
slow ways get a part of the bytes, and their times are scaled up to all of them.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import files, planes
from benchmarks.measurement import OURS, Aim, Measured, Side, here, run
from blobstore.bench import page_cache
from blobstore.bench.cases import Ours
from blobstore.bench.measure import Sample
from blobstore.fileio.threads import in_order
from blobstore.packing.pack import pack
from blobstore.packing.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.measurement import Result, Setting
    from benchmarks.planes import Bytes, Way

_ELEMENTS, _QUICK_ELEMENTS, _LARGE = 1 << 24, 1 << 17, 8
_PART, _QUICK_PART = 1 << 21, 1 << 16  # bytes for slow ways
_FILE_NBYTES, _QUICK_FILE_NBYTES = 1 << 30, 1 << 20
_TWO = "blobstore, 2 threads"
_NEW = "blobstore, new memory"  # as the other libraries always do
_WANTED = (
    *(
        "normal bf16",
        "one scale bf16",
        "own scales bf16",
        "own scales, half as much bf16",
        "normal f16",
        "normal f32",
        "normal sfp",
        "MiniLM f32",
        "MiniLM bf16",
    ),
    *("tuned, steps 1e-5 bf16", "identical bf16"),
)
_AIMS = {"packed": [Aim("zipnn", 2)], "unpacked": [Aim("zipnn", 1.2)]}
_OPENZL_AIMS = {"packed": [Aim("openzl Huffman", 1.3)], "unpacked": [Aim("openzl Huffman", 1.2)]}
_MOST = 1e4  # ratio; an infinite limit can't be written as JSON


def measure(setting: Setting) -> Iterator[Result]:
    """Measure all types of bytes, both ways, and a file."""
    count = _QUICK_ELEMENTS if setting.quick else _ELEMENTS
    for name, type_name, data, base in planes.cases(count, files.real_checkpoint(setting)):
        if f"{name} {type_name}" in _WANTED:
            for case in _codec(f"{name}, {type_name}", type_name, data, base, setting):
                yield run(case, setting)
    # As large as an embedding: other libraries make all of it at once, in new memory.
    name, type_name, data, base = next(planes.cases(_LARGE * count, None))
    for case in _codec(f"{name}, {type_name}, {_LARGE} times as much", type_name, data, base, setting):
        yield run(case, setting)
    yield from _file(setting)


def _codec(title: str, type_name: str, data: Bytes, base: Bytes | None, setting: Setting) -> Iterator[Measured]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    ways = {name: (part, way) for name, part, way in _ways(type_name, data, base, setting) if way}
    smaller = {"limit": min(planes.limit(type_name, data, base), _MOST)}
    for name, (part, (compress, _)) in ways.items():
        getattr(compress, "prepare", lambda: None)()
        smaller[name] = part.nbytes / compress()
    for at, way in enumerate(("packed", "unpacked")):
        sides = [
            _side(name, both[at], data.nbytes / part.nbytes, cores[: 2 if name == _TWO else 1], cores)
            for name, (part, both) in ways.items()
            if name != _NEW or way == "unpacked"
        ]
        aims = _AIMS[way] if title.startswith("normal, bf16") else []
        if title.startswith(("one scale", "own scales")) and "openzl Huffman" in ways:
            aims = _OPENZL_AIMS[way]
        key = f"pack-{title.replace(', ', '-').replace(' ', '-')}-{way}"
        what = "bytes in memory; zstd and gzip get whole elements"
        shown_ratios = {
            name: ratio for name, ratio in smaller.items() if name in {"limit", *(side.name for side in sides)}
        }
        yield Measured(key, f"{title}, {way}", what, sides, data.nbytes, aims, smaller=shown_ratios)


def _ways(type_name: str, data: Bytes, base: Bytes | None, setting: Setting) -> Iterator[tuple[str, Bytes, Way | None]]:
    """Yield each way with the bytes that it gets."""
    # From all over the data: a checkpoint's first bytes are not typical.
    count = 4 if setting.quick else 32
    step, nbytes = data.nbytes // count // 8 * 8, (_QUICK_PART if setting.quick else _PART) // count
    part = np.concatenate([data[at * step : at * step + nbytes] for at in range(count)])
    yield OURS, data, planes.ours(type_name, data, base)
    yield _TWO, data, planes.ours(type_name, data, base, run=partial(in_order, workers=2))
    yield _NEW, data, planes.ours(type_name, data, base, new=True)
    if base is None:
        yield "zipnn", data, planes.zipnn(type_name, data)
        yield "openzl Huffman", data, planes.openzl(type_name, data, "Huffman")
        yield "openzl FSE", data, planes.openzl(type_name, data, "Fse")
        yield "blosc2", part, planes.blosc2(type_name, part)
        yield "zstd -1", data, planes.zstd(data, 1)
        yield "zstd -3", data, planes.zstd(data, 3)
        yield "zstd -19", part, planes.zstd(part, 19)
        yield "gzip -6", part, planes.gzipped(part)


def _side(name: str, work: Callable[[], object], times: float, cores: list[int], all_cores: list[int]) -> Side:
    """Return a side that runs on some cores, with its time scaled up to all bytes."""

    def take() -> Sample:
        getattr(work, "prepare", lambda: None)()
        if cores:
            os.sched_setaffinity(0, cores)
        try:
            taken = here(name, work).take()
        finally:
            if cores:
                os.sched_setaffinity(0, all_cores)
        return Sample(**{**vars(taken), "seconds": taken.seconds * times})

    return Side(name, take)


def _file(setting: Setting) -> Iterator[Result]:
    """Pack and unpack a whole file on all cores, compared with copying it."""
    nbytes = _QUICK_FILE_NBYTES if setting.quick else _FILE_NBYTES
    source, packed, back = (os.path.join(setting.folder, name) for name in ("plain.sbs", "packed.sbs", "back.sbs"))
    values = planes.weights(nbytes // 16).astype(planes.BF16)
    Ours().write(source, [(f"layers.{i}.weight", np.roll(values, i)) for i in range(8)])

    def copy() -> None:
        shutil.copyfile(source, back)
        page_cache.prepare(back)

    try:
        size = os.path.getsize(source)
        sides = [here(OURS, lambda: pack(source, packed)), here("copy and sync", copy)]
        what = "one file to another until it is on the disk, with all digests, all cores"
        yield run(Measured("pack-file", "a file, packed", what, sides, size, trial=True), setting)
        sides = [here(OURS, lambda: unpack(packed, back)), here("copy and sync", copy)]
        yield run(Measured("unpack-file", "a file, unpacked", what, sides, size, trial=True), setting)
    finally:
        for path in (source, packed, back):
            page_cache.remove(path)
