"""Measure the element codecs on one core, in turns with ml_dtypes' plain astype and with a copy: medians, spread.

python benchmarks/element_codecs.py [--json OUT.json] [--quick]

Rates are bytes of the side that is bf16 or f32, in 10⁶ a second. The peer of sfp, i8 and nuq is float8_e4m3fn, as they
have about as many bits; of bf16 it is bf16 itself. The copy goes to memory that is there already.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from blobstore import codecs, elements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

ELEMENTS = 1 << 24
BF16, F8 = np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)
SIDES = ("ours", "astype", "copy")


@dataclass(frozen=True)
class Case:
    """One direction of one codec.

    Attributes:
        name: What is timed.
        nbytes: Of the side that is bf16 or f32.
        ours: The codec.
        astype: What numpy does between that side and the peer's dtype.
        copy: Copying so many bytes.
    """

    name: str
    nbytes: int
    ours: Callable[[], object]
    astype: Callable[[], object]
    copy: Callable[[], object]


def main() -> int:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="OUT", help="keep the numbers")
    parser.add_argument("--quick", action="store_true", help="few runs of small cases, to see that it works")
    options = parser.parse_args()
    runs, count = (3, 1 << 18) if options.quick else (15, ELEMENTS)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results = []
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, ml_dtypes {ml_dtypes.__version__}"
    print(f"{versions}, {count} elements, {runs} runs, MB/s")
    print(f"{'case':<22}{'median':>8}{'min':>8}{'max':>8}{'astype':>10}{'copy':>9}  ours/astype  ours/copy")
    for case in cases(count):
        result = measure(case, runs)
        results.append(result)
        ours = f"{_rate(result, 'ours', statistics.median)}{_rate(result, 'ours', max)}{_rate(result, 'ours', min)}"
        peers = f"{_rate(result, 'astype', statistics.median):>10}{_rate(result, 'copy', statistics.median):>9}"
        print(f"{case.name:<22}{ours}{peers}{_ratio(result, 'astype'):13.2f}{_ratio(result, 'copy'):11.2f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": platform.platform(), "runs": runs, "results": results}, file, indent=1)
    return 0


def cases(count: int) -> Iterator[Case]:
    """Make the values and yield the cases."""
    random = np.random.default_rng(1)
    wide = random.standard_normal(count, dtype=np.float32)
    small = wide / np.float32(8)
    if np.abs(small).max() > codecs.sfp.LARGEST or np.abs(wide).max() <= codecs.sfp.LARGEST:
        raise AssertionError("one of the two is to be scaled")
    narrow = small.astype(BF16)
    yield _encode("sfp", "bf16", narrow, F8)
    yield _encode("sfp", "f32", small, F8)
    yield _encode("sfp", "f32, scaled", wide, F8)
    yield _decode("sfp", "bf16", BF16, codecs.encode("sfp", small)[0], count)
    yield _decode("sfp", "f32", np.float32, codecs.encode("sfp", small)[0], count)
    yield _encode("bf16", "f32", wide, BF16)
    yield _decode("bf16", "f32", np.float32, codecs.encode("bf16", wide)[0], count, peer=BF16)
    yield _encode("i8", "f32", wide, F8)
    yield _decode("i8", "f32", np.float32, codecs.encode("i8", wide)[0], count)
    packed = random.integers(0, 0x80, elements.BY_NAME["nuq"].nbytes(count), dtype=np.uint8)
    yield _decode("nuq", "f32", np.float32, packed, count)


def _encode(kind: str, said: str, values: npt.NDArray[Any], peer: np.dtype[Any]) -> Case:
    return Case(
        f"{kind} from {said}",
        values.nbytes,
        lambda: codecs.encode(kind, values),
        lambda: values.astype(peer),
        _copy(values),
    )


def _decode(
    kind: str,
    said: str,
    dtype: npt.DTypeLike,
    stored: npt.NDArray[np.uint8],
    count: int,
    *,
    peer: np.dtype[Any] = F8,
) -> Case:
    values = codecs.decode(kind, stored, count, dtype=dtype)
    other = values.astype(peer)
    return Case(
        f"{kind} to {said}",
        values.nbytes,
        lambda: codecs.decode(kind, stored, count, dtype=dtype),
        lambda: other.astype(dtype),
        _copy(values),
    )


def _copy(values: npt.NDArray[Any]) -> Callable[[], object]:
    source = values.view(np.uint8)
    target = np.zeros_like(source)
    return lambda: np.copyto(target, source)


def measure(case: Case, runs: int) -> dict[str, Any]:
    """Time all sides in turns, after one run each that doesn't count."""
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for run in range(runs + 1):
        for side, taken in times.items():
            start = time.perf_counter()
            getattr(case, side)()
            if run:
                taken.append(time.perf_counter() - start)
    return {"case": case.name, "nbytes": case.nbytes} | times


def _rate(result: dict[str, Any], side: str, of: Callable[[list[float]], float]) -> str:
    return f"{result['nbytes'] / of(result[side]) / 1e6:8.0f}"


def _ratio(result: dict[str, Any], side: str) -> float:
    """How much faster ours is than another side of the same run."""
    pairs: zip[tuple[float, float]] = zip(result["ours"], result[side], strict=True)
    return statistics.median(theirs / own for own, theirs in pairs)


if __name__ == "__main__":
    sys.exit(main())
