"""Real servers on this machine: an S3 server (moto's), nginx, and a folder that answers the hub's API."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_RANGE = re.compile(r"bytes=(\d+)-(\d*)").fullmatch
_TREE = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/tree/([^/]+)/?(.*)").fullmatch
_INFO = re.compile(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/([^/]+))?").fullmatch
_PATHS = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/paths-info/([^/]+)").fullmatch
_RESOLVE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)").fullmatch
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Requests:
    """What a server was asked for: method, path, and the bytes that it sent as a body."""

    seen: list[tuple[str, str, int]] = field(default_factory=list)

    def nbytes(self, suffix: str) -> int:
        """Return how many bytes were sent of files whose path ends so."""
        return sum(nbytes for method, path, nbytes in self.seen if method == "GET" and path.endswith(suffix))


class _Hub(BaseHTTPRequestHandler):
    """The hub's API over a folder ``org/name/…``: what huggingface_hub's client asks for."""

    protocol_version = "HTTP/1.1"
    root: Path
    requests: Requests

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        asked = self.rfile.read(length)
        paths = _PATHS(unquote(urlsplit(self.path).path))
        if not paths:
            self._send(404, b"")
            return
        wanted = json.loads(asked)["paths"]
        infos = [self._info(self.root / paths[1], one) for one in wanted if (self.root / paths[1] / one).exists()]
        self._send(200, json.dumps(infos).encode())

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        tree, info, file = _TREE(path), _INFO(path), _RESOLVE(path)
        repository = self.root / next((match[1] for match in (tree, info, file) if match), "-")
        if not repository.is_dir():
            self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, body=body)
        elif tree and (repository / tree[3]).is_dir():
            inner = sorted(os.listdir(repository / tree[3]))
            infos = [self._info(repository, f"{tree[3]}/{one}".lstrip("/")) for one in inner]
            self._send(200, json.dumps(infos).encode(), body=body)
        elif info:
            about: dict[str, Any] = {
                "id": info[1],
                "sha": REVISION,
                "private": False,
                "tags": [],
                "siblings": [],
                "downloads": 0,
            }
            self._send(200, json.dumps({**about, "likes": 0}).encode(), body=body)
        elif file and (repository / file[3]).is_file():
            self._send_file(repository / file[3], body=body)
        else:
            self._send(404, b'{"error": "Entry not found"}', {"X-Error-Code": "EntryNotFound"}, body=body)

    @staticmethod
    def _info(repository: Path, path: str) -> dict[str, Any]:
        place = repository / path
        if place.is_dir():
            return {"type": "directory", "oid": "0" * 40, "path": path, "size": 0}
        status = place.stat()
        return {"type": "file", "oid": f"{status.st_mtime_ns:040x}", "path": path, "size": status.st_size}

    def _send_file(self, path: Path, *, body: bool) -> None:
        data = path.read_bytes()
        headers = {"ETag": f'"{path.stat().st_mtime_ns:x}"', "Accept-Ranges": "bytes", "X-Repo-Commit": REVISION}
        asked = _RANGE(self.headers.get("Range", ""))
        if asked is None:
            self._send(200, data, headers, body=body)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self._send(206, data[start : end + 1], headers, body=body)

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, *, body: bool = True) -> None:
        self.requests.seen.append((self.command, urlsplit(self.path).path, len(data) if body else 0))
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            with suppress(OSError):  # the client is gone
                self.wfile.write(data)


@contextmanager
def hub_server(root: Path) -> Iterator[tuple[str, Requests]]:
    """Serve a folder of models as the hub does → the endpoint, and what was asked for."""
    requests = Requests()
    handler = type("Hub", (_Hub,), {"root": root, "requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's S3 server → its endpoint."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 (an extra)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def s3_environment(endpoint: str) -> dict[str, str]:
    """Return what tells clients of S3 to use a server of ours."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextmanager
def nginx_server(root: Path, work: Path) -> Iterator[str]:
    """Serve a folder by nginx, without listings → its address.

    Raises:
        FileNotFoundError: There is no nginx.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise FileNotFoundError("nginx")
    user = "user root; " * (os.geteuid() == 0)  # it would read as another user, which may not look into the folder
    for port in range(18080, 18180):
        config = work / "nginx.conf"
        config.write_text(
            f"{user}daemon off; worker_processes 1; error_log {work}/error.log; pid {work}/nginx.pid;\n"
            f"events {{ worker_connections 64; }}\n"
            f"http {{ access_log off; client_body_temp_path {work}/a; proxy_temp_path {work}/b;\n"
            f"fastcgi_temp_path {work}/c; uwsgi_temp_path {work}/d; scgi_temp_path {work}/e;\n"
            f"server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
        )
        process = subprocess.Popen([program, "-c", str(config), "-p", str(work)], stderr=subprocess.DEVNULL)
        try:
            if _answers(f"http://127.0.0.1:{port}/", process):
                yield f"http://127.0.0.1:{port}"
                return
        finally:
            process.terminate()
            process.wait()
    raise OSError("no free port for nginx")


def _answers(address: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether a server answers before its process ends."""
    while process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()  # noqa: S310 (http)
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False
