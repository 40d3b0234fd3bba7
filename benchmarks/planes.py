"""Measure lossless compression of weights: ours, its levels, zstd and gzip on whole elements, ZipNN, OpenZL, Blosc2.

python benchmarks/planes.py [--json OUT.json] [--quick] [--model MODEL.safetensors] [--elements N] [--threads]

One thread on one core, all sides in turns; medians. Rates are 10⁶ bytes of weights per second, from memory to existing
memory if the peer can do that. ZipNN, OpenZL and Blosc2 are left out if they are not installed. The limit is the ratio
of an entropy code for each plane's (bf16, f16: each element's) overall frequencies. With --threads ours is also
measured with two.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import zstandard

from blobstore import codecs
from blobstore.codecs.element_types import BY_NAME
from blobstore.compression.planes import Splitter, layout_of
from blobstore.compression.reader import PackedReader
from blobstore.compression.writer import compress
from blobstore.fileio.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Way = tuple[Callable[[], int], Callable[[], object]]

BF16 = np.dtype(ml_dtypes.bfloat16)
ROWS = 2048
SLOW = {"zstd -19", "gzip -6", "ours, level 9", "ours, level 19"}  # on a part of the bytes
PART = 1 << 23


def weights(count: int) -> npt.NDArray[np.float32]:
    """Return normal values, each row with a scale of its own, about 0.02."""
    random = np.random.default_rng(1)
    scales = (0.02 * random.uniform(0.5, 1.5, (ROWS, 1))).astype(np.float32)
    return random.standard_normal((ROWS, count // ROWS), dtype=np.float32) * scales


def scaled(count: int, spread: float = 0.0) -> npt.NDArray[np.float32]:
    """Return normal values, each row with the scale 0.02 times e to the power of a normal value times ``spread``."""
    random = np.random.default_rng(3)
    values = random.standard_normal((ROWS, count // ROWS), dtype=np.float32)
    return values * (0.02 * np.exp(spread * random.standard_normal((ROWS, 1)))).astype(np.float32)


def cases(count: int, model: str | None) -> Iterator[tuple[str, str, Bytes, Bytes | None]]:
    """Yield name, element type, the bytes, and those of a base."""
    values = weights(count)
    bf16 = raw(values.astype(BF16))
    yield "normal", "bf16", bf16, None
    yield "one scale", "bf16", raw(scaled(count).astype(BF16)), None
    yield "own scales", "bf16", raw(scaled(count, 0.35).astype(BF16)), None
    # Other libraries' new memory of more than 32 MiB is cleared by the kernel for each call, smaller one is reused.
    yield "own scales, half as much", "bf16", raw(scaled(count // 2, 0.35).astype(BF16)), None
    yield "normal", "f16", raw(values.astype(np.float16)), None
    yield "normal", "f32", raw(values), None
    yield "bf16 widened", "f32", raw(values.astype(BF16).astype(np.float32)), None
    yield "normal", "sfp", raw(codecs.encode("sfp", values)[0]), None
    yield "normal", "f8_e4m3", raw(values.astype(ml_dtypes.float8_e4m3fn)), None
    yield "normal", "i8", raw(codecs.encode("i8", values)[0]), None
    random = np.random.default_rng(2)
    for name, step in (("tuned, steps 1e-4", 1e-4), ("tuned, steps 1e-5", 1e-5)):
        steps = random.standard_normal(values.shape, dtype=np.float32) * np.float32(step)
        yield name, "bf16", raw((values.astype(BF16).astype(np.float32) + steps).astype(BF16)), bf16
    yield "identical", "bf16", bf16, bf16
    if model:
        real = checkpoint(model)
        yield "MiniLM", "f32", raw(real), None
        yield "MiniLM", "bf16", raw(real.astype(BF16)), None


def raw(values: npt.NDArray[Any]) -> Bytes:
    """View values as bytes."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def checkpoint(path: str) -> npt.NDArray[np.float32]:
    """Return all f32 tensors of a safetensors file, concatenated."""
    data = np.fromfile(path, dtype=np.uint8)
    nbytes = int(data[:8].view("<u8")[0])
    header = json.loads(data[8 : 8 + nbytes].tobytes())
    ranges = [entry["data_offsets"] for entry in header.values() if entry.get("dtype") == "F32"]
    return np.concatenate([data[8 + nbytes + start : 8 + nbytes + stop] for start, stop in ranges]).view(np.float32)


def ours(type_name: str, data: Bytes, base: Bytes | None, level: int = 0, *, new: bool = False, **run: Any) -> Way:  # noqa: ANN401
    """Return our way: pack, and read into existing or new memory."""
    layout, buffer = layout_of(BY_NAME[type_name]), None if new else np.zeros_like(data)
    base_reader: dict[str, Any] = {} if base is None else {"base": lambda start, stop: base[start:stop]}
    digest: dict[str, Any] = {} if base is None else {"base_sha256": hashlib.sha256(base.data).digest()}
    reader = PackedReader(b"".join(map(bytes, compress(data, layout, level=level, **base_reader, **digest))))
    if not np.array_equal(reader.read(**base_reader), data):
        raise AssertionError("unpacked bytes differ from the original")
    return (
        lambda: sum(len(frame) for frame in compress(data, layout, level=level, **base_reader, **digest, **run)),
        lambda: reader.read(out=buffer, **base_reader, **run),
    )


def zstd(data: Bytes, level: int) -> Way:
    """Return zstd's way: whole elements, one frame."""
    packer, reader = zstandard.ZstdCompressor(level=level, write_checksum=True), zstandard.ZstdDecompressor()
    stored = packer.compress(data.data)
    return lambda: len(packer.compress(data.data)), lambda: reader.decompress(stored)


def gzipped(data: Bytes) -> Way:
    """Return gzip's way: whole elements, at its default level."""
    stored = gzip.compress(data.data, 6)
    return lambda: len(gzip.compress(data.data, 6)), lambda: gzip.decompress(stored)


def zipnn(type_name: str, data: Bytes) -> Way | None:
    """Return ZipNN's way, with one thread. It changes its input, so it gets copies made in advance."""
    names = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
    try:
        from zipnn import ZipNN  # noqa: PLC0415
    except ImportError:
        return None
    if type_name not in names:
        return None
    packer = ZipNN(input_format="byte", bytearray_dtype=names[type_name], threads=1)
    stored = packer.compress(bytearray(data.data))
    if bytes(packer.decompress(stored)) != data.tobytes():
        raise AssertionError("ZipNN's bytes differ from the original")
    copies: list[bytearray] = []

    def pack() -> int:
        return len(packer.compress(copies.pop()))

    pack.prepare = lambda: copies.append(bytearray(data.data))  # type: ignore[attr-defined]
    return pack, lambda: packer.decompress(stored)


def openzl(type_name: str, data: Bytes, coder: str) -> Way | None:
    """Return OpenZL's way for bf16: sign and fraction stored, exponents coded by ``coder``, Huffman or Fse."""
    if type_name != "bf16":
        return None
    try:
        import openzl.ext as zl  # noqa: PLC0415
    except ImportError:
        return None
    graph = zl.Compressor()
    graph.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
    exponents = getattr(zl.graphs, coder)()
    split = zl.nodes.BFloat16Deconstruct()
    graph.select_starting_graph(split(graph, sign_frac=zl.graphs.Store(), exponent=exponents))
    packer, reader = zl.CCtx(), zl.DCtx()
    elements = data.view(np.uint16)

    def pack() -> bytes:
        packer.ref_compressor(graph)  # forgotten after each call
        stored: bytes = packer.compress([zl.Input(zl.Type.Numeric, elements)])
        return stored

    stored = pack()
    if reader.decompress(stored)[0].content.as_bytes() != data.tobytes():
        raise AssertionError("OpenZL's bytes differ from the original")
    return lambda: len(pack()), lambda: reader.decompress(stored)


def blosc2(type_name: str, data: Bytes) -> Way | None:
    """Return Blosc2's way: bitshuffle and zstd, level 5, one thread."""
    try:
        import blosc2 as blosc  # noqa: PLC0415
    except ImportError:
        return None
    blosc.set_nthreads(1)
    options = {"typesize": layout_of(BY_NAME[type_name]).width, "clevel": 5, "filter": blosc.Filter.BITSHUFFLE}
    options["codec"] = blosc.Codec.ZSTD
    stored = blosc.compress(data, **options)
    return lambda: len(blosc.compress(data, **options)), lambda: blosc.decompress(stored)


def ways(type_name: str, data: Bytes, base: Bytes | None, *, threads: bool) -> Iterator[tuple[str, Bytes, Way | None]]:
    """Yield each way with the bytes that it gets."""
    part = data[:PART]
    yield "ours", data, ours(type_name, data, base)
    if threads:
        yield "ours, two threads", data, ours(type_name, data, base, run=in_order)
    if base is None:
        yield "zipnn", data, zipnn(type_name, data)
        yield "openzl Huffman", data, openzl(type_name, data, "Huffman")
        yield "openzl FSE", data, openzl(type_name, data, "Fse")
        yield "blosc2 bitshuffle", part, blosc2(type_name, part)
        yield "zstd -1", data, zstd(data, 1)
        yield "zstd -3", data, zstd(data, 3)
        yield "zstd -19", part, zstd(part, 19)
        yield "gzip -6", part, gzipped(part)
    for level in (1, 3, 9, 19):
        few = part if level > 3 else data
        yield f"ours, level {level}", few, ours(type_name, few, None if base is None else base[: len(few)], level)


def limit(type_name: str, data: Bytes, base: Bytes | None) -> float:
    """Return the ratio that frequencies alone allow."""
    layout = layout_of(BY_NAME[type_name])
    elements = data.view(layout.dtype)
    if base is not None:
        elements = elements ^ base.view(layout.dtype)
    if layout.width == 2:
        bits = entropy(np.bincount(elements, minlength=1 << 16))
    else:
        splitter = Splitter(layout, np.empty(2 * data.nbytes, dtype=np.uint8), bytearray(len(elements)))
        bits = sum(entropy(np.bincount(plane, minlength=256)) for plane in splitter.split(elements))
    return 8 * layout.width / bits if bits else float("inf")


def entropy(counts: npt.NDArray[np.int64]) -> float:
    """Return the bits per symbol."""
    share = counts[counts > 0] / counts.sum()
    return max(float(-(share * np.log2(share)).sum()), 0.0)


def main() -> int:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="OUT", help="write the numbers as JSON")
    parser.add_argument("--quick", action="store_true", help="few runs of small cases, to check that it works")
    parser.add_argument("--model", help="a safetensors file with f32")
    parser.add_argument("--elements", type=int, default=1 << 25, help="number of synthetic weights")
    parser.add_argument("--threads", action="store_true", help="also measure ours on two threads; needs two cores")
    parser.add_argument("--only", help="only the cases with this in their name or type")
    options = parser.parse_args()
    count, runs = (1 << 19, 1) if options.quick else (options.elements, 5)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: 2 if options.threads else 1])
    print(f"Python {platform.python_version()}, numpy {np.__version__}, zstd {zstandard.ZSTD_VERSION}, {runs} runs")
    results = []
    for name, type_name, data, base in cases(count, options.model):
        if options.only and options.only not in f"{name} {type_name}":
            continue
        most = limit(type_name, data, base)
        print(f"\n{name}, {type_name}, {data.nbytes / 1e6:.0f} MB, limit {most:.4f}")
        print(f"{'':22}{'ratio':>10}{'in':>8}{'out':>8}")
        all_ways = {
            way: (part, functions)
            for way, part, functions in ways(type_name, data, base, threads=options.threads)
            if functions
        }
        for way, (nbytes, packed, taken) in measure(all_ways, runs).items():
            rates = [nbytes / statistics.median(seconds) / 1e6 for seconds in taken]
            print(f"{way:22}{nbytes / packed:10.4f}{rates[0]:8.0f}{rates[1]:8.0f}", flush=True)
            results.append(
                {"case": name, "type": type_name, "limit": most, "way": way, "nbytes": nbytes, "packed_nbytes": packed}
                | {"seconds_in": taken[0], "seconds_out": taken[1]}
            )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": platform.platform(), "runs": runs, "results": results}, file, indent=1)
    return 0


def measure(made: dict[str, tuple[Bytes, Way]], runs: int) -> dict[str, tuple[int, int, tuple[list[float], ...]]]:
    """Time all ways in turns, slow ones once → way → bytes, packed bytes, seconds in and out."""
    results: dict[str, tuple[int, int, tuple[list[float], ...]]] = {}
    for run in range(runs):
        for way, (part, (pack, unpack)) in made.items():
            if run and way in SLOW:
                continue
            getattr(pack, "prepare", lambda: None)()
            start = time.perf_counter()
            packed = pack()
            middle = time.perf_counter()
            unpack()
            end = time.perf_counter()
            taken = results.setdefault(way, (part.nbytes, packed, ([], [])))[2]
            taken[0].append(middle - start)
            taken[1].append(end - middle)
    return results


if __name__ == "__main__":
    sys.exit(main())
