"""``python -m benchmarks.distributed``: what sharing the files of a set out costs, and what it gains.

Needs the extra ``distributed``. Prints a table for each of three questions: one process or two, for real work; what a
shard costs when nothing is done in it; and how a plan of many names and files behaves that has almost no payload.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import blobstore
from blobstore.distributed import convert, pack, verify
from blobstore.distributed.cluster import cluster
from blobstore.distributed.engine import ClusterEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from distributed import Client

    from blobstore.fileio.types import Progress

_TENSOR_NBYTES = 4 << 20
_SHARDS = 64
_SOURCES = 16  # files of the checkpoint with many names


@dataclass(frozen=True)
class Nothing:
    """Work in which nothing is done."""

    def open(self) -> AbstractContextManager[None]:
        """Open nothing."""
        return nullcontext()

    def do(self, opened: None, number: int, progress: Progress) -> int:  # noqa: ARG002 (a `Work`)
        """Do nothing."""
        return number


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__)
    parser.add_argument("--nbytes", type=int, default=1 << 30, help="of the checkpoint for real work (1 GiB)")
    parser.add_argument("--names", type=int, default=1_000_000, help="of the checkpoint without payload")
    parser.add_argument("--files", type=int, default=1000, help="of the set that it becomes")
    parser.add_argument("--tmp", metavar="DIR", help="a folder on the disk to measure")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="blobstore-benchmarks-", dir=options.tmp) as folder:
        if options.nbytes:
            _processes(folder, options.nbytes)
            _overhead()
        if options.names:
            _many_names(folder, options.names, options.files)
    return 0


def _processes(folder: str, nbytes: int) -> None:
    """Convert, pack and verify with the plain functions, and with clusters of one and two processes."""
    source, count = os.path.join(folder, "ck"), max(nbytes // _TENSOR_NBYTES, _SHARDS)
    os.mkdir(source)
    rng = np.random.default_rng(0)
    values = (rng.normal(0, 0.02, _TENSOR_NBYTES // 4).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    row = np.concatenate([values, values[::-1]])  # bf16
    tensors = [(f"layer.{place}.weight", "BF16", [_TENSOR_NBYTES // 2]) for place in range(count)]
    _write_safetensors(os.path.join(source, "model.safetensors"), tensors, lambda place: np.roll(row, place).tobytes())
    limit = count // _SHARDS * (_TENSOR_NBYTES + 4096) + (1 << 17)
    print(f"\n{count} tensors, {count * _TENSOR_NBYTES / 1e9:.2f} GB of bf16, {_SHARDS} files or so; seconds\n")
    print("| | convert | verify | pack | cluster starts |\n|---|---|---|---|---|")
    for processes in (0, 1, 2):
        target, packed = os.path.join(folder, f"m{processes}.sbs"), os.path.join(folder, f"p{processes}.sbs")
        if not processes:
            seconds = [
                _timed(lambda: blobstore.convert(source, target, max_shard_size=limit)),  # noqa: B023 (called here)
                _timed(lambda: blobstore.verify(target)),  # noqa: B023
                _timed(lambda: blobstore.pack(target, packed)),  # noqa: B023
            ]
            print(f"| plain functions | {_cells(seconds)} | |", flush=True)
        else:
            start = time.perf_counter()
            with cluster(processes=processes) as client:
                up = time.perf_counter() - start
                seconds = [
                    _timed(lambda: convert(source, target, client=client, max_shard_size=limit)),  # noqa: B023
                    _timed(lambda: verify(target, client=client)),  # noqa: B023
                    _timed(lambda: pack(target, packed, client=client)),  # noqa: B023
                ]
            print(f"| {processes} of one thread each | {_cells(seconds)} | {up:.1f} |", flush=True)
        for name in os.listdir(folder):
            if name.endswith(".sbs"):
                os.remove(os.path.join(folder, name))
    shutil.rmtree(source)


def _overhead() -> None:
    """Measure what shards cost in which nothing is done."""
    print("\n| shards of nothing, two processes | seconds | ms for each |\n|---|---|---|")
    with cluster(processes=2) as client:
        for count in (_SHARDS, _SHARDS, 1000, 10_000):  # the first also imports this package in the workers
            engine = ClusterEngine(client, what="nothing")
            seconds = _timed(lambda: list(engine(Nothing(), range(count), lambda _: None)))  # noqa: B023
            print(f"| {count} | {seconds:.2f} | {seconds / count * 1000:.2f} |", flush=True)


def _many_names(folder: str, names: int, files: int) -> None:
    """Convert and verify a checkpoint of many names with four bytes each."""
    source, target = os.path.join(folder, "names"), os.path.join(folder, "n.sbs")
    weight_map: dict[str, str] = {}
    os.mkdir(source)
    each = names // _SOURCES
    for number in range(_SOURCES):
        file = f"model-{number + 1:05}-of-{_SOURCES:05}.safetensors"
        texts = [f"model.layers.{number}.mlp.experts.{place}.down_proj.weight" for place in range(each)]
        weight_map |= dict.fromkeys(texts, file)
        _write_safetensors(os.path.join(source, file), [(text, "F32", [1]) for text in texts], lambda _: bytes(4))
    with open(os.path.join(source, "model.safetensors.index.json"), "w", encoding="utf-8") as index:
        json.dump({"metadata": {}, "weight_map": weight_map}, index)
    limit = names // files * 480  # a blob of 256 bytes, its entry, its name
    print(f"\n{names:,} names, 4 bytes each; two processes\n")
    print("| | files | seconds | peak memory here | of a worker |\n|---|---|---|---|---|")
    with cluster(processes=2) as client:
        start = time.perf_counter()
        made = convert(source, target, client=client, max_shard_size=limit)
        _tell("convert", len(made.stores), time.perf_counter() - start, client)
        seconds = _timed(lambda: verify(target, client=client))
        _tell("verify", len(made.stores), seconds, client)
    print(f"\nthe set's index has {os.path.getsize(target) / 1e6:.0f} MB")


def _tell(what: str, files: int, seconds: float, client: Client) -> None:
    worker = max(client.run(_peak).values())
    print(f"| {what} | {files} | {seconds:.1f} | {_peak() / 1e6:.0f} MB | {worker / 1e6:.0f} MB |", flush=True)


def _peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _write_safetensors(path: str, tensors: list[tuple[str, str, list[int]]], data: Callable[[int], bytes]) -> None:
    """Write a file of safetensors tensor by tensor; each has as many bytes as the first."""
    nbytes = len(data(0))
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [place * nbytes, (place + 1) * nbytes]}
        for place, (name, dtype, shape) in enumerate(tensors)
    }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.writelines(data(place) for place in range(len(tensors)))


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cells(values: list[float]) -> str:
    return " | ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
