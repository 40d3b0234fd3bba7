"""Many tensors: one file and a set of 8 files with 100,000 of them, against safetensors and a copy.

    python -m benchmarks.scale [--tensors N] [--runs N] [--json OUT]

Medians of several runs in one process, each with files opened anew from the page cache, the sides in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

import blobstore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Work = Callable[[], object]

SHARDS = 8
NBYTES = 1024  # of a tensor
AIMS = {"open and list": 8.0, "one tensor": 20.0, "convert": 0.5}


def names(count: int) -> list[str]:
    """Names as those of a mixture of experts."""
    return [f"model.layers.{i % 61}.mlp.experts.{i // 61}.down_proj.weight" for i in range(count)]


def write_source(folder: str, count: int) -> None:
    """Write a checkpoint of 8 files and their index, and all of its tensors in one file."""
    rng = np.random.default_rng(1)
    tensors = {name: rng.integers(0, 255, NBYTES // 2, np.uint16).reshape(16, -1) for name in names(count)}
    weight_map: dict[str, str] = {}
    for number in range(SHARDS):
        file = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        held = list(tensors)[number * count // SHARDS : (number + 1) * count // SHARDS]
        save_file({name: tensors[name] for name in held}, os.path.join(folder, file))
        weight_map |= dict.fromkeys(held, file)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as index:
        json.dump({"metadata": {}, "weight_map": weight_map}, index)
    os.mkdir(os.path.join(folder, "one"))
    save_file(tensors, os.path.join(folder, "one", "model.safetensors"))


def sides(folder: str, count: int) -> Iterator[tuple[str, str, Work, Work, str]]:
    """Yield what is measured: case, of what, ours, the peer's, and the peer's name."""
    one, of_set, last = os.path.join(folder, "one.sbs"), os.path.join(folder, "set.sbs"), names(count)[count // 3]
    single = os.path.join(folder, "one", "model.safetensors")
    index = os.path.join(folder, "model.safetensors.index.json")

    def sharded() -> dict[str, str]:
        with open(index, encoding="utf-8") as file:
            weight_map: dict[str, str] = json.load(file)["weight_map"]
        return weight_map

    def opened() -> list[str]:
        """Read the index, and open all files: without that no shape is known, and no tensor can be read."""
        found = list(sharded())
        for number in range(SHARDS):
            with safe_open(os.path.join(folder, f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"), "np") as file:
                file.keys()
        return found

    def peer_list(path: str) -> list[str]:
        with safe_open(path, "np") as file:
            return list(file.keys())

    def peer_tensor(path: str) -> object:
        with safe_open(path, "np") as file:
            return file.get_tensor(last)

    yield "open and list", "one file", lambda: list(blobstore.open(one)), lambda: peer_list(single), "safetensors"
    yield "open and list", "set of 8", lambda: list(blobstore.open(of_set)), opened, "safetensors, index and 8 files"
    yield "names alone", "set of 8", lambda: list(blobstore.open(of_set)), sharded, "json.load of the index"
    yield "one tensor", "one file", lambda: blobstore.open(one)[last], lambda: peer_tensor(single), "safetensors"
    yield (
        "one tensor",
        "set of 8",
        lambda: blobstore.open(of_set)[last],
        lambda: peer_tensor(os.path.join(folder, sharded()[last])),
        "safetensors, index and 8 files",
    )
    yield "convert", "one file", lambda: convert(folder, None), lambda: copy(folder), "cp of the same files"
    yield "convert", "set of 8", lambda: convert(folder, count), lambda: copy(folder), "cp of the same files"


def convert(folder: str, count: int | None) -> None:
    """Convert the checkpoint to one file, or to a set of about 8."""
    out = os.path.join(folder, "converted")
    shutil.rmtree(out, ignore_errors=True)
    os.mkdir(out)
    size = None if count is None else count * 1250 // SHARDS
    blobstore.convert(folder, os.path.join(out, "m.sbs"), max_shard_size=size)


def copy(folder: str) -> None:
    """Copy the checkpoint's files."""
    out = os.path.join(folder, "copied")
    shutil.rmtree(out, ignore_errors=True)
    os.mkdir(out)
    for file in os.listdir(folder):
        if file.endswith(".safetensors"):
            shutil.copy(os.path.join(folder, file), out)


def median(work: Work, other: Work, runs: int) -> tuple[float, float]:
    """Return the median seconds of two sides, measured in turns after one warm-up each."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs + 1):
        for side, taken in zip((work, other), times, strict=True):
            start = time.perf_counter()
            side()
            if run:
                taken.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--tensors", type=int, default=100_000, metavar="N")
    parser.add_argument("--runs", type=int, default=7, metavar="N")
    parser.add_argument("--json", metavar="OUT")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="blobstore-scale-") as folder:
        write_source(folder, options.tensors)
        blobstore.convert(folder, os.path.join(folder, "one.sbs"))
        size = options.tensors * 1400 // SHARDS
        done = blobstore.convert(folder, os.path.join(folder, "set.sbs"), max_shard_size=size)
        print(f"{options.tensors} tensors of {NBYTES} bytes; the set has {len(done.stores)} files\n")
        print("| case | of | blobstore | peer | | times as fast | aim |\n|---|---|---|---|---|---|---|")
        for case, what, ours, theirs, peer in sides(folder, options.tensors):
            runs = options.runs if case != "convert" else min(3, options.runs)
            seconds, others = median(ours, theirs, runs)
            rows.append({"case": case, "of": what, "seconds": seconds, "peer": peer, "peer_seconds": others})
            cells = (case, what, f"{seconds * 1e3:.2f} ms", f"{others * 1e3:.2f} ms", peer, f"{others / seconds:.2f}")
            print(f"| {' | '.join(cells)} | {AIMS.get(case, '')} |")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
