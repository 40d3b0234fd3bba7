"""A file behind a server that answers after 20 ms: requests, seconds and memory; ``python -m benchmarks.remote``.

Each case runs in a process of its own. The server is another process, which sends files by ``sendfile``. Peers are a
download into memory on one connection, and fsspec's download to the disk with safetensors' mapped file after it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

import blobstore

if TYPE_CHECKING:
    from collections.abc import Callable

_DELAY = 0.02  # seconds
_RUNS = 3
_TENSOR_NBYTES = 32 << 20
_NAME = "layer.1.weight"


class _Handler(BaseHTTPRequestHandler):
    """Files of a folder, whole or in ranges, each answer after a while; ``/requests`` counts and forgets them."""

    protocol_version = "HTTP/1.1"
    folder = ""
    seen = 0

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.path == "/requests":
            self._head(200, len(f"{_Handler.seen}"))
            self.wfile.write(f"{_Handler.seen}".encode())
            _Handler.seen = 0
            return
        _Handler.seen += 1
        time.sleep(_DELAY)
        path = os.path.join(self.folder, os.path.basename(self.path))
        if not os.path.exists(path):
            self._head(404, 0)
            return
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start = int(asked[1]) if asked else 0
            end = min(int(asked[2]) + 1, size) if asked and asked[2] else size
            ranges = f"bytes {start}-{end - 1}/{size}" if asked else ""
            self._head(206 if asked else 200, end - start, ranges)
            self.wfile.flush()
            while body and start < end:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, end - start)

    def _head(self, status: int, nbytes: int, ranges: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(nbytes))
        self.send_header("ETag", '"1"')
        if ranges:
            self.send_header("Content-Range", ranges)
        self.end_headers()


def _serve(folder: str) -> None:
    _Handler.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


def _write(folder: str, nbytes: int) -> None:
    from safetensors.numpy import save_file  # noqa: PLC0415 (an extra)

    rng = np.random.default_rng(0)
    shape = (_TENSOR_NBYTES // 2048 // 2, 2048)
    tensors = {
        f"layer.{i}.weight": rng.integers(0, 1 << 15, shape, dtype=np.int16) for i in range(nbytes // _TENSOR_NBYTES)
    }
    blobstore.save_file(tensors, os.path.join(folder, "model.sbs"))
    save_file(tensors, os.path.join(folder, "model.safetensors"))


def _stream(url: str) -> int:
    """Download into memory, as fast as one connection gives it."""
    with urllib.request.urlopen(f"{url}/model.sbs") as answer:  # noqa: S310 (http)
        buffer = np.empty(int(answer.headers["Content-Length"]), np.uint8).data
        done = 0
        while done < len(buffer):
            done += answer.readinto(buffer[done : done + (1 << 20)])
    return done


def _download(url: str) -> int:
    import fsspec  # noqa: PLC0415 (an extra)
    from safetensors.numpy import load_file  # noqa: PLC0415 (an extra)

    with tempfile.TemporaryDirectory(dir=os.environ["BLOBSTORE_BENCH_TMP"]) as folder:
        path = os.path.join(folder, "model.safetensors")
        fsspec.filesystem("http").get_file(f"{url}/model.safetensors", path)
        return sum(tensor.nbytes for tensor in load_file(path).values())


def _tensor(url: str) -> int:
    with blobstore.open(f"{url}/model.sbs") as store:
        _requests(url)
        return store[_NAME].nbytes


_CASES: dict[str, Callable[[str], int]] = {
    "stream into memory": _stream,
    "open": lambda url: len(blobstore.open(f"{url}/model.sbs")) * 0,
    "open, one tensor": _tensor,
    "load_all": lambda url: sum(one.nbytes for one in blobstore.load_file(f"{url}/model.sbs").values()),
    "fsspec download, safetensors": _download,
}


def _requests(url: str) -> int:
    with urllib.request.urlopen(f"{url}/requests") as answer:  # noqa: S310 (http)
        return int(answer.read())


def _memory(field: str) -> int:
    """Return a field of this process's memory in bytes: now, or the most so far."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))


def _run(case: str, url: str) -> None:
    """Run one case, and print what it took. What isn't the way there, such as imports, is done before."""
    if "stream" not in case:
        import fsspec  # noqa: PLC0415 (an extra)

        fsspec.filesystem("http").info(f"{url}/model.sbs")  # starts its thread
    _requests(url)
    before = _memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the most memory so far
    begin = time.perf_counter()
    nbytes = _CASES[case](url)
    seconds = time.perf_counter() - begin
    held = _memory("VmHWM") - before - nbytes
    print(json.dumps({"seconds": seconds, "requests": _requests(url), "held": held}))


def main() -> int:
    """Measure all cases in turns."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote", description=__doc__)
    parser.add_argument("--mb", type=int, default=2048, help="size of the file")
    parser.add_argument("--tmp", help="a folder with space for three such files")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve(options.serve)
        return 0
    if options.case:
        _run(*options.case)
        return 0
    with tempfile.TemporaryDirectory(prefix="blobstore-remote-", dir=options.tmp) as folder:
        _write(folder, options.mb << 20)
        this = [sys.executable, "-m", "benchmarks.remote"]
        server = subprocess.Popen([*this, "--serve", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            url = f"http://127.0.0.1:{server.stdout.readline().strip() if server.stdout else ''}"
            environment = {**os.environ, "BLOBSTORE_BENCH_TMP": folder}
            results: dict[str, list[dict[str, Any]]] = {case: [] for case in _CASES}
            for _ in range(_RUNS):
                for case, taken in results.items():
                    done = subprocess.run(
                        [*this, "--case", case, url], env=environment, check=True, capture_output=True, text=True
                    )
                    taken.append(json.loads(done.stdout))
        finally:
            server.communicate()
    whole = median(one["seconds"] for one in results["stream into memory"])
    print(f"{options.mb} MiB, each answer after {_DELAY * 1000:.0f} ms; median of {_RUNS} runs")
    for case, taken in results.items():
        seconds = median(one["seconds"] for one in taken)
        held, requests = (max(one[name] for one in taken) for name in ("held", "requests"))
        print(f"{case:30} {seconds:7.3f} s {seconds / whole:6.2f} × {requests:5} requests {held / 2**20:7.0f} MiB held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
